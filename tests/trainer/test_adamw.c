/* adamw.c against the formulas of PyTorch's AdamW and clip_grad_norm_, in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/adamw.h"
#include "trainer/random.h"

enum { N = 77 };

static void is_near(double got, double want, double tolerance) {
  if (!(fabs(got - want) <= tolerance * fmax(1e-3, fabs(want)))) fail_msg("%.9g, not %.9g", got, want);
}

static void a_hundred_steps_are_pytorch_s(void **state) {
  (void)state;
  const rvl_adamw_options cases[] = {
      {.lr = 1e-2, .beta1 = .9, .beta2 = .999, .eps = 1e-8, .weight_decay = .1, .clip = 0, .scale = 1},
      {.lr = 3e-3, .beta1 = .9, .beta2 = .95, .eps = 1e-5, .weight_decay = 0, .clip = 1, .scale = .25},
      {.lr = 1e-2, .beta1 = 0, .beta2 = .999, .eps = 1e-2, .weight_decay = .01, .clip = 100, .scale = 1},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    const rvl_adamw_options *o = &cases[c];
    rvl_adamw_state adam;
    rvl_random random = rvl_random_of(c);
    float weights[N], gradient[N];
    double w[N], m[N] = {0}, v[N] = {0};
    assert_true(rvl_adamw_init(&adam, N));
    for (size_t i = 0; i < N; i++) w[i] = (double)(weights[i] = (float)rvl_random_normal(&random));
    for (int step = 1; step <= 100; step++) {
      double squares = 0;
      for (size_t i = 0; i < N; i++) {
        gradient[i] = (float)(rvl_random_normal(&random) * exp(rvl_random_normal(&random)));
        squares += (double)gradient[i] * (double)gradient[i] * o->scale * o->scale;
      }
      double norm = sqrt(squares), factor = o->clip > 0 ? fmin(1, o->clip / (norm + 1e-6)) : 1;
      rvl_adamw_result result = rvl_adamw_step(&adam, rvl_kernels_pick(), o, gradient, weights);
      assert_true(result.finite && adam.step == (uint64_t)step);
      is_near(result.norm, norm, 1e-6);
      for (size_t i = 0; i < N; i++) {
        double g = (double)gradient[i] * o->scale * factor;
        w[i] *= 1 - o->lr * o->weight_decay;
        m[i] += (1 - o->beta1) * (g - m[i]);
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * g * g;
        double root = sqrt(v[i]) / sqrt(1 - pow(o->beta2, step)) + o->eps;
        w[i] -= o->lr / (1 - pow(o->beta1, step)) * m[i] / root;
      }
    }
    for (size_t i = 0; i < N; i++) {
      is_near((double)weights[i], w[i], 2e-5);
      is_near((double)adam.mean[i], m[i], 2e-5);
      is_near((double)adam.square[i], v[i], 2e-5);
    }
    rvl_adamw_reset(&adam);
    assert_true(adam.step == 0 && fabsf(adam.mean[3]) <= 0 && fabsf(adam.square[N - 1]) <= 0);
    rvl_adamw_free(&adam);
  }
}

static void what_is_not_finite_changes_nothing(void **state) {
  (void)state;
  const rvl_adamw_options o = {.lr = 1, .beta1 = .9, .beta2 = .9, .eps = 1e-8, .weight_decay = 1, .scale = 1};
  const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
  for (size_t k = 0; k < 4; k++) {
    rvl_adamw_state adam;
    float weights[N], before[N], gradient[N] = {1, 2, 3};
    assert_true(rvl_adamw_init(&adam, N));
    for (size_t i = 0; i < N; i++) weights[i] = before[i] = 1;
    gradient[70] = bad[k];
    rvl_adamw_result result = rvl_adamw_step(&adam, rvl_kernels_pick(), &o, gradient, weights);
    assert_true(!result.finite && adam.step == 0 && (k == 3 || !isfinite(result.norm)));
    assert_memory_equal(weights, before, sizeof before);
    for (size_t i = 0; i < N; i++) assert_true(fabsf(adam.mean[i]) + fabsf(adam.square[i]) <= 0);
    rvl_adamw_free(&adam);
  }
  rvl_adamw_state adam;        /* but clipping makes a huge one small */
  rvl_adamw_options clipped = o;
  float weights[N] = {0}, gradient[N] = {3e38f};
  clipped.clip = 1;
  assert_true(rvl_adamw_init(&adam, N));
  assert_true(rvl_adamw_step(&adam, rvl_kernels_pick(), &clipped, gradient, weights).finite);
  is_near((double)weights[0], -1, 1e-5);
  rvl_adamw_free(&adam);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_hundred_steps_are_pytorch_s),
      cmocka_unit_test(what_is_not_finite_changes_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
