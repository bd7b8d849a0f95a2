/*
 * The machine's rate of sgemm, as the trainer's threads call it: sgemm [threads] prints GFLOPS of one thread and of
 * all. Each thread has its own matrices, of the size of the trainer's largest products, and a single-threaded sgemm.
 */
#include "trainer/blas.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROWS = 1024, OUT = 384, IN = 128, TIMES = 300, MOST = 64 };

static rvl_blas blas;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void *work(void *rate) {
  float *x = calloc(ROWS * IN, sizeof *x), *w = calloc(OUT * IN, sizeof *w), *y = calloc(ROWS * OUT, sizeof *y);
  if (x == NULL || w == NULL || y == NULL) exit(1);
  for (int i = 0; i < ROWS * IN; i++) x[i] = (float)(i % 7) - 3;
  for (int i = 0; i < OUT * IN; i++) w[i] = (float)(i % 5) - 2;
  for (int i = 0; i < TIMES / 10; i++) rvl_blas_linear(&blas, ROWS, OUT, IN, x, w, 0, y);
  double from = seconds();
  for (int i = 0; i < TIMES; i++) rvl_blas_linear(&blas, ROWS, OUT, IN, x, w, 0, y);
  *(double *)rate = 2e-9 * ROWS * OUT * IN * TIMES / (seconds() - from);
  free(x);
  free(w);
  free(y);
  return NULL;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 2;
  const char *wrong = rvl_blas_open(&blas, true);
  if (wrong != NULL || threads < 1 || threads > MOST) {
    fprintf(stderr, "sgemm: %s\n", wrong != NULL ? wrong : "bad number of threads");
    return 1;
  }
  double one, all = 0, rates[MOST] = {0};
  pthread_t ids[MOST];
  work(&one);
  for (int i = 0; i < threads; i++) {
    if (pthread_create(&ids[i], NULL, work, &rates[i]) != 0) return 1;
  }
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  for (int i = 0; i < threads; i++) all += rates[i];
  printf("{\"one\": %.1f, \"all\": %.1f, \"core\": \"%s\"}\n", one, all, blas.core);
  return 0;
}
