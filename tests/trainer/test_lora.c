/* lora.c: merged weights and projected gradients against the formulas, in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/lora.h"
#include "trainer/random.h"

static rvl_blas blas;

static int set_up(void **state) {
  (void)state;
  return rvl_blas_open(&blas, true) == NULL ? 0 : -1;
}

static const rvl_model_config untied = {.vocabulary = 11, .width = 8, .layers = 2, .heads = 2, .hidden = 12,
                                        .context = 16, .positions = RVL_POSITIONS_LEARNED, .rotary_base = 1e4f,
                                        .norm_epsilon = 1e-5f};

static float *random_floats(size_t count, uint64_t seed) {
  float *floats = rvl_model_floats(count);
  rvl_random random = rvl_random_of(seed);
  assert_non_null(floats);
  for (size_t i = 0; i < count; i++) floats[i] = (float)rvl_random_normal(&random);
  return floats;
}

static void is_near(double got, double want) {
  if (!(fabs(got - want) <= 1e-5 * fmax(1, fabs(want)))) fail_msg("%.9g, not %.9g", got, want);
}

static void names_and_shapes(void **state) {
  (void)state;
  rvl_model_layout base;
  rvl_lora lora;
  const rvl_lora_config all = {.rank = 4, .scale = 2, .attention = true, .mlp = true, .unembed = true};
  const rvl_lora_config head = {.rank = 4, .scale = 2, .unembed = true};
  assert_true(rvl_model_layout_init(&base, &untied));
  assert_true(rvl_lora_init(&lora, &base, &all));
  assert_int_equal(lora.count, 2 * (4 * 2 + 1));
  assert_string_equal(lora.tensors[0].name, "layers.0.attn.qkv.lora_A.weight");
  assert_true(lora.tensors[0].rows == 4 && lora.tensors[0].columns == 8);
  assert_string_equal(lora.tensors[7].name, "layers.0.mlp.down.lora_B.weight");
  assert_true(lora.tensors[7].rows == 8 && lora.tensors[7].columns == 4);
  assert_string_equal(lora.tensors[17].name, "head.lora_B.weight");
  size_t parameters = 0;
  for (size_t i = 0; i < lora.count; i++) parameters += lora.tensors[i].count;
  assert_int_equal(lora.parameters, parameters);
  assert_int_equal(lora.parameters, 4 * (2 * (8 + 24 + 8 + 8 + 8 + 12 + 12 + 8) + 8 + 11));
  for (size_t i = 0; i < lora.effective.count; i++) {
    rvl_part part = lora.effective.tensors[i].part;
    bool matrix = part == RVL_PART_QKV || part == RVL_PART_OUT || part == RVL_PART_UP || part == RVL_PART_DOWN ||
                  part == RVL_PART_HEAD;
    assert_true(lora.wanted[i] == matrix);
  }
  rvl_lora_free(&lora);
  assert_true(rvl_lora_init(&lora, &base, &head));
  assert_int_equal(lora.count, 2);
  rvl_lora_free(&lora);
  rvl_model_layout_free(&base);
  assert_null(rvl_lora_check(&all));
  assert_non_null(rvl_lora_check(&(rvl_lora_config){.rank = 4, .scale = 2}));
  assert_non_null(rvl_lora_check(&(rvl_lora_config){.rank = 0, .scale = 2, .mlp = true}));
  assert_non_null(rvl_lora_check(&(rvl_lora_config){.rank = 1, .scale = (double)NAN, .mlp = true}));
}

static void merged_weights_begin_as_the_base_s(void **state) {
  (void)state;
  rvl_model_config tied = untied;
  tied.tied = true;
  rvl_model_layout base;
  rvl_lora lora;
  const rvl_lora_config config = {.rank = 3, .scale = 50, .attention = true, .unembed = true};
  assert_true(rvl_model_layout_init(&base, &tied) && rvl_lora_init(&lora, &base, &config));
  assert_false(lora.effective.config.tied);
  assert_int_equal(lora.effective.count, base.count + 1);
  float *weights = random_floats(base.floats, 1), *adapters = rvl_model_floats(lora.floats);
  float *merged = rvl_model_floats(lora.effective.floats);
  assert_true(adapters != NULL && merged != NULL);
  rvl_lora_initialise(&lora, 5, adapters);
  rvl_lora_merge(&lora, &blas, weights, adapters, merged);
  for (size_t i = 0; i < base.count; i++) {
    const rvl_tensor *t = &base.tensors[i];
    assert_memory_equal(merged + t->offset, weights + t->offset, t->count * sizeof *weights);
  }
  assert_memory_equal(merged + lora.effective.head, weights + base.token, 11 * 8 * sizeof *weights);
  double most = 0, sum = 0;
  const rvl_lora_tensor *a = &lora.tensors[0], *b = &lora.tensors[1];
  for (size_t i = 0; i < a->count; i++) {
    most = fmax(most, fabs((double)adapters[a->offset + i]));
    sum += (double)adapters[a->offset + i];
  }
  for (size_t i = 0; i < b->count; i++) assert_true(fabsf(adapters[b->offset + i]) <= 0);
  assert_true(most <= 1 / sqrt(8) && most > .8 / sqrt(8) && fabs(sum) < 3);
  rvl_model_free(weights), rvl_model_free(adapters), rvl_model_free(merged);
  rvl_lora_free(&lora);
  rvl_model_layout_free(&base);
}

static void merging_and_projecting_follow_the_formulas(void **state) {
  (void)state;
  rvl_model_layout base;
  rvl_lora lora;
  const rvl_lora_config config = {.rank = 5, .scale = .75, .attention = true, .mlp = true, .unembed = true};
  assert_true(rvl_model_layout_init(&base, &untied) && rvl_lora_init(&lora, &base, &config));
  float *weights = random_floats(base.floats, 1), *adapters = random_floats(lora.floats, 2);
  float *gradient = random_floats(lora.effective.floats, 3), *projected = random_floats(lora.floats, 4);
  float *before = random_floats(lora.floats, 4), *merged = rvl_model_floats(lora.effective.floats);
  assert_non_null(merged);
  rvl_lora_merge(&lora, &blas, weights, adapters, merged);
  rvl_lora_project(&lora, &blas, adapters, gradient, projected);
  for (size_t i = 0; i < lora.count; i += 2) {
    const rvl_lora_tensor *a = &lora.tensors[i], *b = &lora.tensors[i + 1];
    const rvl_tensor *t = &lora.effective.tensors[a->tensor];
    size_t out = t->rows, in = t->columns, rank = config.rank;
    for (size_t o = 0; o < out; o++) {
      for (size_t k = 0; k < in; k++) {
        double w = (double)weights[base.tensors[a->tensor].offset + o * in + k];
        for (size_t r = 0; r < rank; r++) {
          double factor = (double)adapters[a->offset + r * in + k];
          w += config.scale * (double)adapters[b->offset + o * rank + r] * factor;
        }
        is_near((double)merged[t->offset + o * in + k], w);
      }
      for (size_t r = 0; r < rank; r++) {
        double db = (double)before[b->offset + o * rank + r];
        for (size_t k = 0; k < in; k++) {
          db += config.scale * (double)gradient[t->offset + o * in + k] * (double)adapters[a->offset + r * in + k];
        }
        is_near((double)projected[b->offset + o * rank + r], db);
      }
    }
    for (size_t r = 0; r < rank; r++) {
      for (size_t k = 0; k < in; k++) {
        double da = (double)before[a->offset + r * in + k];
        for (size_t o = 0; o < out; o++) {
          double factor = (double)adapters[b->offset + o * rank + r];
          da += config.scale * (double)gradient[t->offset + o * in + k] * factor;
        }
        is_near((double)projected[a->offset + r * in + k], da);
      }
    }
  }
  rvl_model_free(weights), rvl_model_free(adapters), rvl_model_free(gradient), rvl_model_free(projected);
  rvl_model_free(before), rvl_model_free(merged);
  rvl_lora_free(&lora);
  rvl_model_layout_free(&base);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_and_shapes),
      cmocka_unit_test(merged_weights_begin_as_the_base_s),
      cmocka_unit_test(merging_and_projecting_follow_the_formulas),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
