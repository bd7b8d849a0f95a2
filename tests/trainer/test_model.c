/* model.c, random.h, blas.c: layouts, weights of a seed, products of matrices. */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/blas.h"
#include "trainer/model.h"
#include "trainer/random.h"

static const rvl_model_config usual = {.vocabulary = 256, .width = 64, .layers = 2, .heads = 4, .hidden = 256,
                                       .context = 64, .positions = RVL_POSITIONS_LEARNED, .rotary_base = 10000,
                                       .norm_epsilon = 1e-5f};

static void refused(rvl_model_config config, const char *part) {
  const char *why = rvl_model_check(&config);
  assert_non_null(why);
  assert_non_null(strstr(why, part));
}

static void test_check(void **state) {
  (void)state;
  assert_null(rvl_model_check(&usual));
  rvl_model_config c = usual;
#define REFUSED(field, value) (c = usual, c.field = (value), refused(c, #field))
  REFUSED(vocabulary, 1);
  REFUSED(vocabulary, RVL_MODEL_VOCABULARY + 1);
  REFUSED(width, 0);
  REFUSED(width, RVL_MODEL_WIDTH + 1);
  REFUSED(layers, 0);
  REFUSED(layers, RVL_MODEL_LAYERS + 1);
  REFUSED(heads, 0);
  REFUSED(heads, 3);
  REFUSED(hidden, 0);
  REFUSED(context, 1);
  REFUSED(rotary_base, 1);
  REFUSED(rotary_base, NAN);
  REFUSED(norm_epsilon, 0);
  REFUSED(norm_epsilon, NAN);
  c = usual;
  c.heads = 64;
  assert_null(rvl_model_check(&c));
  c.positions = RVL_POSITIONS_ROTARY;
  refused(c, "rotary");
}

static void check_layout(const rvl_model_config *config, size_t tensors, size_t parameters) {
  rvl_model_layout layout;
  assert_true(rvl_model_layout_init(&layout, config));
  assert_int_equal(layout.count, tensors);
  assert_int_equal(layout.parameters, parameters);
  size_t end = 0;
  for (size_t i = 0; i < layout.count; i++) {
    const rvl_tensor *t = &layout.tensors[i];
    assert_int_equal(t->offset % 16, 0);
    assert_true(t->offset >= end && t->offset < end + 16);
    assert_int_equal(t->count, t->rows * (t->columns == 0 ? 1 : t->columns));
    end = t->offset + t->count;
    for (size_t k = 0; k < i; k++) assert_string_not_equal(t->name, layout.tensors[k].name);
  }
  assert_true(layout.floats >= end && layout.floats < end + 16);
  assert_int_equal(layout.head == layout.token, config->tied);
  assert_string_equal(layout.tensors[0].name, "token.weight");
  rvl_model_layout_free(&layout);
}

static void test_layouts(void **state) {
  (void)state;
  rvl_model_config c = usual;
  size_t layer = 4 * 64 + 64 * (192 + 64 + 256 + 256), whole = 256 * 64 + 2 * layer + 2 * 64;
  check_layout(&c, 1 + 1 + 16 + 2 + 1, whole + 64 * 64 + 256 * 64);
  c.tied = true;
  check_layout(&c, 1 + 1 + 16 + 2, whole + 64 * 64);
  c.positions = RVL_POSITIONS_ROTARY;
  check_layout(&c, 1 + 16 + 2, whole);
  c = (rvl_model_config){.vocabulary = 7, .width = 6, .layers = 3, .heads = 1, .hidden = 5, .context = 9,
                         .positions = RVL_POSITIONS_ROTARY};
  check_layout(&c, 1 + 24 + 2 + 1, 2 * 42 + 3 * (24 + 6 * (18 + 6 + 5 + 5)) + 12);
}

static void test_initialise(void **state) {
  (void)state;
  rvl_model_layout layout;
  assert_true(rvl_model_layout_init(&layout, &usual));
  float *one = rvl_model_floats(layout.floats), *two = rvl_model_floats(layout.floats);
  assert_true(one != NULL && two != NULL && (uintptr_t)one % 64 == 0);
  rvl_model_initialise(&layout, 3, one);
  rvl_model_initialise(&layout, 3, two);
  assert_memory_equal(one, two, layout.floats * sizeof *one);
  rvl_model_initialise(&layout, 4, two);
  assert_memory_not_equal(one, two, layout.floats * sizeof *one);
  for (size_t i = 0; i < layout.count; i++) {
    const rvl_tensor *t = &layout.tensors[i];
    double mean = 0, square = 0;
    for (size_t k = 0; k < t->count; k++) {
      mean += one[t->offset + k] / (double)t->count;
      square += (double)one[t->offset + k] * one[t->offset + k] / (double)t->count;
    }
    bool residual = t->part == RVL_PART_OUT || t->part == RVL_PART_DOWN;
    double deviation = residual ? 0.01 : 0.02;
    if (t->columns == 0) assert_true(mean == (strstr(t->name, "weight") != NULL ? 1 : 0) && square == mean);
    else assert_true(fabs(mean) < 0.001 && fabs(sqrt(square) / deviation - 1) < 0.05);
  }
  rvl_model_free(one);
  rvl_model_free(two);
  rvl_model_layout_free(&layout);
  assert_null(rvl_model_floats(SIZE_MAX / 2));
}

/* Known values: whoever changes them changes every base model and every run. */
static void test_random(void **state) {
  (void)state;
  rvl_random r = {0};
  assert_true(rvl_random_next(&r) == UINT64_C(0xe220a8397b1dcdaf));        /* SplitMix64 of 0, as published */
  assert_true(rvl_random_next(&r) == UINT64_C(0x6e789e6aa1b965f4));
  double mean = 0, square = 0;
  r = rvl_random_of(1);
  for (int i = 0; i < 100000; i++) {
    double x = rvl_random_normal(&r), u = rvl_random_uniform(&r);
    assert_true(u >= 0 && u < 1);
    mean += x / 100000;
    square += x * x / 100000;
  }
  assert_true(fabs(mean) < 0.02 && fabs(square - 1) < 0.02);
}

static void test_products(void **state) {
  (void)state;
  enum { M = 5, N = 7, K = 6 };
  rvl_blas blas;
  assert_null(rvl_blas_open(&blas, true));
  assert_non_null(strstr(blas.version, "OpenBLAS"));
  assert_true(blas.core[0] != '\0');
  rvl_random r = rvl_random_of(5);
  float a[M][K], at[K][M], b[K][N], bt[N][K], c[3][M][N], before[M][N];
  for (int i = 0; i < M; i++) for (int k = 0; k < K; k++) a[i][k] = at[k][i] = (float)rvl_random_normal(&r);
  for (int k = 0; k < K; k++) for (int j = 0; j < N; j++) b[k][j] = bt[j][k] = (float)rvl_random_normal(&r);
  for (int i = 0; i < M; i++) for (int j = 0; j < N; j++) {
    before[i][j] = c[0][i][j] = c[1][i][j] = c[2][i][j] = (float)rvl_random_normal(&r);
  }
  for (int beta = 0; beta < 2; beta++) {
    memcpy(c[0], before, sizeof before);
    memcpy(c[1], before, sizeof before);
    memcpy(c[2], before, sizeof before);
    rvl_blas_linear(&blas, M, N, K, &a[0][0], &bt[0][0], (float)beta, &c[0][0][0]);
    rvl_blas_product(&blas, M, N, K, &a[0][0], &b[0][0], (float)beta, &c[1][0][0]);
    rvl_blas_outer(&blas, M, N, K, &at[0][0], &b[0][0], (float)beta, &c[2][0][0]);
    for (int i = 0; i < M; i++) for (int j = 0; j < N; j++) {
      double sum = beta * (double)before[i][j];
      for (int k = 0; k < K; k++) sum += (double)a[i][k] * b[k][j];
      for (int form = 0; form < 3; form++) assert_true(fabs(c[form][i][j] - sum) < 1e-5);
    }
  }
}

static int variables_set;

/* Stands before the one of the C library. */
int setenv(const char *name, const char *value, int overwrite) {
  int (*real)(const char *, const char *, int);
  *(void **)&real = dlsym(RTLD_NEXT, "setenv");
  variables_set++;
  return real(name, value, overwrite);
}

/* A host's threads may read the environment while an engine is opened, the first one or another. */
static void test_environment(void **state) {
  (void)state;
  rvl_blas blas;
  variables_set = 0;
  assert_null(rvl_blas_open(&blas, false));
  assert_null(rvl_blas_open(&blas, true));
  assert_int_equal(variables_set, 0);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_environment),   /* before the library is loaded */
      cmocka_unit_test(test_check),
      cmocka_unit_test(test_layouts),
      cmocka_unit_test(test_initialise),
      cmocka_unit_test(test_random),
      cmocka_unit_test(test_products),
  };
  return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
