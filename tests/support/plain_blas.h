/*
** Products of matrices in plain C. ThreadSanitizer sees what is compiled with it, and OpenBLAS is not: under it
** tests of threads use these, so that no access to what the threads share goes unseen.
*/
#ifndef RVL_TESTS_PLAIN_BLAS_H
#define RVL_TESTS_PLAIN_BLAS_H

#include <stddef.h>

#include "trainer/blas.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RVL_TESTS_TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define RVL_TESTS_TSAN 1
#endif

#ifdef RVL_TESTS_TSAN
static void plain_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                        const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  (void)order;
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < n; j++) {
      float sum = 0;
      for (int l = 0; l < k; l++) {
        sum += (transpose_a == RVL_BLAS_AS_IS ? a[(ptrdiff_t)i * lda + l] : a[(ptrdiff_t)l * lda + i]) *
               (transpose_b == RVL_BLAS_AS_IS ? b[(ptrdiff_t)l * ldb + j] : b[(ptrdiff_t)j * ldb + l]);
      }
      float *to = &c[(ptrdiff_t)i * ldc + j];
      *to = alpha * sum + (beta < 0 || beta > 0 ? beta * *to : 0);   /* what is there may be no number */
    }
  }
}
#endif

/* As rvl_blas_open. */
static inline const char *open_blas(rvl_blas *blas) {
#ifdef RVL_TESTS_TSAN
  *blas = (rvl_blas){.sgemm = plain_sgemm};
  return NULL;
#else
  return rvl_blas_open(blas, true);
#endif
}

#endif
