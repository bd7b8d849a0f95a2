/* sampler_choose.c against the same by sorting, and frequencies against probabilities. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/random.h"
#include "trainer/sampler_choose.h"

enum { MOST = 300 };

/* ---------------------------------------------------------------------------------------------- by sorting */

static const float *sorted_logits;

static int by_logit(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  if (sorted_logits[x] != sorted_logits[y]) return sorted_logits[x] > sorted_logits[y] ? -1 : 1;
  return x < y ? -1 : x > y;
}

/* What tokens should be chosen with; and of each its log probability before any cut. */
static void expect(size_t n, const float *logits, double temperature, int64_t top_k, double top_p, double *p,
                   double *all) {
  int32_t order[MOST];
  double most = -INFINITY, total = 0, kept = 0, passed = 0;
  for (size_t i = 0; i < n; i++) {
    order[i] = (int32_t)i;
    most = fmax(most, (double)logits[i]);
  }
  for (size_t i = 0; i < n; i++) total += exp(((double)logits[i] - most) / temperature);
  for (size_t i = 0; i < n; i++) {
    all[i] = ((double)logits[i] - most) / temperature - log(total);
    p[i] = 0;
  }
  sorted_logits = logits;
  qsort(order, n, sizeof *order, by_logit);
  size_t left = top_k > 0 && (uint64_t)top_k < n ? (size_t)top_k : n, count = 0;
  for (size_t i = 0; i < left; i++) kept += exp(all[order[i]]);
  while (count < left && (count == 0 || top_p >= 1 || passed < top_p * kept)) passed += exp(all[order[count++]]);
  for (size_t i = 0; i < count; i++) p[order[i]] = exp(all[order[i]]) / passed;
}

/* Walks through the uniform numbers: what is chosen, and how often, is what should be. */
static void check(size_t n, const float *logits, double temperature, int64_t top_k, double top_p) {
  enum { STEPS = 4000 };
  rvl_choice choice;
  double p[MOST], all[MOST], seen[MOST] = {0};
  expect(n, logits, temperature, top_k, top_p, p, all);
  assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), n));
  rvl_choice_read(&choice, logits, temperature);
  int32_t last = 0;
  for (int i = 0; i < STEPS; i++) {
    int32_t id = rvl_choice_pick(&choice, top_k, top_p, (i + 0.5) / STEPS);
    assert_in_range(id, last, n - 1);
    assert_true(p[id] > 0);
    seen[id] += 1.0 / STEPS;
    last = id;
  }
  for (size_t i = 0; i < n; i++) {
    assert_true(fabs(seen[i] - p[i]) <= 1.01 / STEPS);
    double logprob = rvl_choice_logprob(&choice, (int32_t)i);
    if (isinf(all[i])) assert_true(isinf(logprob) && logprob < 0);
    else assert_true(fabs(logprob - all[i]) <= 1e-6 * (1 + fabs(all[i])));
  }
  int32_t end = rvl_choice_pick(&choice, top_k, top_p, nextafter(1, 0));
  assert_in_range(end, last, n - 1);
  assert_true(p[end] > 0);
  rvl_choice_free(&choice);
}

static void test_cuts(void **state) {
  (void)state;
  static const size_t sizes[] = {2, 3, 15, 16, 17, 64, 255, 256, 300};
  static const int64_t ks[] = {-1, 0, 1, 2, 5, 63, 64, 65, 299, 1000, INT64_MAX};
  static const double ps[] = {1, 0.999, 0.9, 0.5, 0.1, 1e-9, 0, -1, 2};
  static const double temperatures[] = {1, 0.3, 3};
  rvl_random random = rvl_random_of(1);
  float logits[MOST];
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (size_t k = 0; k < sizeof ks / sizeof *ks; k++) {
      for (size_t p = 0; p < sizeof ps / sizeof *ps; p++) {
        for (size_t i = 0; i < sizes[s]; i++) logits[i] = (float)(2 * rvl_random_normal(&random));
        check(sizes[s], logits, temperatures[(s + k + p) % 3], ks[k], ps[p]);
      }
    }
  }
}

/* Equal logits: the lower ids are kept, and sums of probabilities are exact. */
static void test_ties(void **state) {
  (void)state;
  float logits[64] = {0};
  check(64, logits, 1, 5, 1);
  check(64, logits, 1, -1, 0.5);
  check(64, logits, 0.5, 8, 0.5);
  check(64, logits, 1, 1, 0.5);
  for (int i = 0; i < 64; i++) logits[i] = (float)(i % 4);
  check(64, logits, 1, 20, 1);
  check(64, logits, 1, 20, 0.25);
  for (int i = 0; i < 64; i++) logits[i] = (float)(-i / 8) * 0.5f;
  check(64, logits, 1, 10, 1);
  rvl_choice choice;
  assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), 64));
  memset(logits, 0, sizeof logits);
  rvl_choice_read(&choice, logits, 1);
  assert_int_equal(rvl_choice_best(&choice), 0);
  assert_int_equal(rvl_choice_pick(&choice, -1, 0.25, 0.999), 15);   /* 16 of 64 are a quarter: the 17th is none */
  assert_int_equal(rvl_choice_pick(&choice, 32, 0.25, 0.999), 7);    /* a quarter of what top-k left */
  assert_int_equal(rvl_choice_pick(&choice, 3, 1, 0.999), 2);
  rvl_choice_free(&choice);
}

static void test_impossible_tokens(void **state) {
  (void)state;
  float logits[40];
  for (int i = 0; i < 40; i++) logits[i] = i % 3 == 0 ? -INFINITY : (float)i * 0.1f;
  check(40, logits, 1, -1, 1);
  check(40, logits, 1, 30, 1);
  check(40, logits, 1, -1, 0.99);
  for (int i = 0; i < 40; i++) logits[i] = i == 39 ? -3.0f : -INFINITY;
  check(40, logits, 1, -1, 1);
  check(40, logits, 1, 2, 0.9);
  logits[0] = -2;
  logits[39] = -200;             /* too little to be a float */
  check(40, logits, 1, 5, 1);
}

static void test_great_and_small_numbers(void **state) {
  (void)state;
  rvl_choice choice;
  float logits[20];
  for (int i = 0; i < 20; i++) logits[i] = 1e4f + (float)i;
  check(20, logits, 1, -1, 1);
  check(20, logits, 10, 3, 0.9);
  assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), 20));
  rvl_choice_read(&choice, logits, 1e-300);
  assert_int_equal(rvl_choice_pick(&choice, -1, 1, 0), 19);
  assert_true(fabs(rvl_choice_logprob(&choice, 19)) < 1e-3);
  rvl_choice_read(&choice, logits, 1e30);   /* all the same */
  assert_int_equal(rvl_choice_pick(&choice, -1, 1, 0.501), 10);
  rvl_choice_free(&choice);
}

/* A model that training has broken: some token, and the log probability says so. */
static void test_nan(void **state) {
  (void)state;
  rvl_choice choice;
  int32_t ids[3];
  float logits[20], logprobs[3];
  assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), 20));
  for (int kind = 0; kind < 4; kind++) {
    for (int i = 0; i < 20; i++) logits[i] = kind == 1 ? NAN : kind == 2 ? -INFINITY : (float)i;
    if (kind == 0) logits[19] = NAN;
    if (kind == 3) logits[7] = INFINITY;
    rvl_choice_read(&choice, logits, 1);
    int32_t best = kind == 0 ? 18 : kind == 3 ? 7 : 0;
    assert_int_equal(rvl_choice_pick(&choice, -1, 1, 0.5), best);
    assert_int_equal(rvl_choice_pick(&choice, 3, 0.5, 0.5), best);
    assert_true(isnan(rvl_choice_logprob(&choice, best)));
    rvl_choice_top(&choice, 3, ids, logprobs);
    assert_int_equal(ids[0], best);
  }
  rvl_choice_free(&choice);
}

static void test_top(void **state) {
  (void)state;
  rvl_choice choice;
  rvl_random random = rvl_random_of(3);
  float logits[MOST], logprobs[MOST + 2];
  int32_t ids[MOST + 2], order[MOST];
  double p[MOST], all[MOST];
  for (size_t n = 2; n < MOST; n += 37) {
    assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), n));
    for (size_t i = 0; i < n; i++) {
      logits[i] = floorf((float)(3 * rvl_random_normal(&random)));   /* with equal ones */
      order[i] = (int32_t)i;
    }
    expect(n, logits, 0.7, -1, 1, p, all);
    sorted_logits = logits;
    qsort(order, n, sizeof *order, by_logit);
    rvl_choice_read(&choice, logits, 0.7);
    assert_int_equal(rvl_choice_best(&choice), order[0]);
    static const size_t counts[] = {0, 1, 2, 5, 20, MOST + 2};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
      rvl_choice_top(&choice, counts[c], ids, logprobs);
      for (size_t i = 0; i < counts[c]; i++) {
        assert_int_equal(ids[i], i < n ? order[i] : -1);
        if (i < n) assert_true(fabs((double)logprobs[i] - all[order[i]]) < 1e-5);
        else assert_true(isinf(logprobs[i]) && logprobs[i] < 0);
      }
    }
    rvl_choice_free(&choice);
  }
}

/* χ² of 200 000 choices: above the bound, a millionth of right generators would be. */
static void test_frequencies(void **state) {
  (void)state;
  static const struct { int64_t top_k; double top_p, temperature; } cases[] = {
      {-1, 1, 1}, {10, 1, 1}, {-1, 0.8, 1}, {12, 0.7, 1.5}, {-1, 1, 0.4}};
  enum { N = 40, DRAWS = 200000 };
  rvl_random random = rvl_random_of(4);
  float logits[N];
  double p[N], all[N];
  rvl_choice choice;
  assert_true(rvl_choice_init(&choice, rvl_kernels_pick(), N));
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    double seen[N] = {0}, chi2 = 0, rest = 0, rest_seen = 0;
    int kinds = 0;
    for (int i = 0; i < N; i++) logits[i] = (float)rvl_random_normal(&random);
    expect(N, logits, cases[c].temperature, cases[c].top_k, cases[c].top_p, p, all);
    rvl_choice_read(&choice, logits, cases[c].temperature);
    for (int i = 0; i < DRAWS; i++) {
      rvl_random stream = rvl_random_of((uint64_t)i + 1000000 * c);   /* as the first token of each seed */
      seen[rvl_choice_pick(&choice, cases[c].top_k, cases[c].top_p, rvl_random_uniform(&stream))]++;
    }
    for (int i = 0; i < N; i++) {
      if (p[i] == 0) {
        assert_true(seen[i] == 0);
      } else if (p[i] * DRAWS < 10) {
        rest += p[i] * DRAWS;
        rest_seen += seen[i];
      } else {
        chi2 += (seen[i] - p[i] * DRAWS) * (seen[i] - p[i] * DRAWS) / (p[i] * DRAWS);
        kinds++;
      }
    }
    if (rest > 1) chi2 += (rest_seen - rest) * (rest_seen - rest) / rest;
    double freedom = kinds - (rest > 1 ? 0 : 1), root = 1 - 2 / (9 * freedom) + 4.75 * sqrt(2 / (9 * freedom));
    if (chi2 > freedom * root * root * root) fail_msg("case %zu: %g at %g degrees of freedom", c, chi2, freedom);
  }
  rvl_choice_free(&choice);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cuts),
      cmocka_unit_test(test_ties),
      cmocka_unit_test(test_impossible_tokens),
      cmocka_unit_test(test_great_and_small_numbers),
      cmocka_unit_test(test_nan),
      cmocka_unit_test(test_top),
      cmocka_unit_test(test_frequencies),
  };
  return cmocka_run_group_tests_name("sampler_choose", tests, NULL, NULL);
}
