/* pass.c: the same numbers whatever the number of threads, gradients of adapters against differences of the loss,
 * and what is left alone when a request ends early. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/failing_malloc.h"
#include "../support/plain_blas.h"
#include "trainer/lora.h"
#include "trainer/pass.h"
#include "trainer/random.h"
#include "trainer/transformer.h"

enum { EXAMPLES = 60, LONGEST = 300 };

/* ---------------------------------------------------------------------------------------------------- */

static rvl_blas blas;

static int set_up(void **state) {
  (void)state;
  return open_blas(&blas) == NULL ? 0 : -1;
}

static const rvl_model_config small = {.vocabulary = 31, .width = 16, .layers = 2, .heads = 2, .hidden = 24,
                                       .context = LONGEST, .positions = RVL_POSITIONS_ROTARY, .tied = true,
                                       .rotary_base = 1e4f, .norm_epsilon = 1e-5f};

/* Examples of all lengths, some with a mask; memory[i] holds all of example i. */
typedef struct corpus {
  rvl_example examples[EXAMPLES];
  void *memory[EXAMPLES];
  size_t tokens;
} corpus;

static void make_corpus(corpus *c) {
  rvl_random random = rvl_random_of(3);
  memset(c, 0, sizeof *c);
  for (size_t i = 0; i < EXAMPLES; i++) {
    size_t n = i == 7 ? LONGEST : 1 + (size_t)(rvl_random_uniform(&random) * 40);
    double *advantages = calloc(n, 2 * sizeof *advantages + sizeof(int32_t) + 1), *old = advantages + n;
    assert_non_null(advantages);
    int32_t *ids = (int32_t *)(old + n);
    uint8_t *mask = (uint8_t *)(ids + n);
    for (size_t t = 0; t < n; t++) {
      ids[t] = (int32_t)(rvl_random_uniform(&random) * 31);
      advantages[t] = rvl_random_normal(&random);
      old[t] = -3.4 + rvl_random_normal(&random) * .1;
      mask[t] = t == 0 || rvl_random_uniform(&random) < .8;
    }
    c->memory[i] = advantages;
    c->examples[i] = (rvl_example){.length = n, .ids = ids, .mask = i % 4 == 0 ? mask : NULL, .old_logprobs = old,
                                   .advantages = advantages, .weights = advantages};
    c->tokens += n;
  }
}

static void free_corpus(corpus *c) {
  for (size_t i = 0; i < EXAMPLES; i++) free(c->memory[i]);
}

static rvl_loss loss_of(const char *name) {
  rvl_loss loss;
  char refusal[64];
  assert_true(rvl_loss_parse(name, NULL, 0, &loss, refusal, sizeof refusal));
  return loss;
}

static float *floats_like(const float *floats, size_t count) {
  float *copy = rvl_model_floats(count);
  assert_non_null(copy);
  if (floats != NULL) memcpy(copy, floats, count * sizeof *copy);
  return copy;
}

static void threads_change_no_number(void **state) {
  (void)state;
  corpus c;
  rvl_model_layout layout;
  rvl_loss loss = loss_of("importance_sampling");
  make_corpus(&c);
  assert_true(rvl_model_layout_init(&layout, &small));
  float *weights = floats_like(NULL, layout.floats), *first = NULL;
  rvl_pass_result results[8] = {{0}};
  rvl_model_initialise(&layout, 1, weights);
  for (unsigned i = 0; i < 6; i++) {
    rvl_pool *pool = rvl_pool_new(1 + i / 2);
    rvl_pass *pass = pool != NULL ? rvl_pass_new(&layout, &blas, pool) : NULL;
    assert_non_null(pass);
    for (unsigned again = 0; again < 2; again++) {      /* buffers are used again */
      float *gradient = floats_like(NULL, layout.floats);
      rvl_pass_request request = {.weights = weights, .examples = c.examples, .count = EXAMPLES, .loss = &loss,
                                  .gradient = gradient};
      rvl_pass_result result;
      assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_DONE);
      if (first == NULL) {
        first = gradient;
        results[0] = result;
        assert_true(c.tokens > 8 * rvl_transformer_tokens(&small));   /* there is something to share out */
        assert_int_equal(result.sums.tokens, c.tokens);
        assert_int_equal(result.sums.datums, EXAMPLES);
        continue;
      }
      assert_memory_equal(gradient, first, layout.floats * sizeof *gradient);
      assert_memory_equal(result.logprobs, results[0].logprobs, result.starts[EXAMPLES] * sizeof *result.logprobs);
      assert_memory_equal(&result.sums, &results[0].sums, sizeof result.sums);
      rvl_model_free(gradient);
      rvl_pass_result_free(&result);
    }
    rvl_pass_free(pass);
    rvl_pool_free(pool);
  }
  rvl_model_free(first);
  rvl_pass_result_free(&results[0]);
  rvl_model_free(weights);
  rvl_model_layout_free(&layout);
  free_corpus(&c);
}

static void is_near(double got, double want, double tolerance) {
  if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want)))) fail_msg("%.9g, not %.9g", got, want);
}

/* One request is the sum of requests of one example each; without gradients it says the same. */
static void requests_add_up(void **state) {
  (void)state;
  corpus c;
  rvl_model_layout layout;
  rvl_loss loss = loss_of("cross_entropy");
  make_corpus(&c);
  assert_true(rvl_model_layout_init(&layout, &small));
  rvl_pool *pool = rvl_pool_new(2);
  rvl_pass *pass = pool != NULL ? rvl_pass_new(&layout, &blas, pool) : NULL;
  assert_non_null(pass);
  float *weights = floats_like(NULL, layout.floats), *whole = floats_like(NULL, layout.floats);
  float *parts = floats_like(NULL, layout.floats);
  rvl_model_initialise(&layout, 1, weights);
  rvl_pass_request request = {.weights = weights, .examples = c.examples, .count = EXAMPLES, .loss = &loss,
                              .gradient = whole};
  rvl_pass_result all, forward, one;
  assert_int_equal(rvl_pass_run(pass, &request, &all), RVL_PASS_DONE);
  request.gradient = NULL;
  assert_int_equal(rvl_pass_run(pass, &request, &forward), RVL_PASS_DONE);
  is_near(forward.sums.sum[RVL_SUM_LOSS], all.sums.sum[RVL_SUM_LOSS], 1e-6);
  for (size_t k = 0; k < all.starts[EXAMPLES]; k++) {
    is_near((double)forward.logprobs[k], (double)all.logprobs[k], 1e-5);
  }
  rvl_loss_sums sums = {.tokens = 0};
  for (size_t i = 0; i < EXAMPLES; i++) {
    request = (rvl_pass_request){.weights = weights, .examples = &c.examples[i], .count = 1, .loss = &loss,
                                 .gradient = parts};
    assert_int_equal(rvl_pass_run(pass, &request, &one), RVL_PASS_DONE);
    assert_int_equal(one.starts[1], c.examples[i].length - 1);
    for (size_t t = 0; t + 1 < c.examples[i].length; t++) {
      is_near((double)one.logprobs[t], (double)all.logprobs[all.starts[i] + t], 1e-5);
    }
    rvl_loss_sums_add(&sums, &one.sums);
    rvl_pass_result_free(&one);
  }
  for (size_t i = 0; i < RVL_SUMS; i++) is_near(sums.sum[i], all.sums.sum[i], 1e-6);
  for (size_t i = 0; i < layout.floats; i++) is_near((double)parts[i], (double)whole[i], 1e-4);
  request.count = 0;
  assert_int_equal(rvl_pass_run(pass, &request, &one), RVL_PASS_DONE);
  assert_int_equal(one.sums.datums, 0);
  rvl_pass_result_free(&one), rvl_pass_result_free(&all), rvl_pass_result_free(&forward);
  rvl_model_free(weights), rvl_model_free(whole), rvl_model_free(parts);
  rvl_pass_free(pass);
  rvl_pool_free(pool);
  rvl_model_layout_free(&layout);
  free_corpus(&c);
}

static void a_request_that_is_cancelled_leaves_the_gradient_alone(void **state) {
  (void)state;
  corpus c;
  rvl_model_layout layout;
  rvl_loss loss = loss_of("ppo");
  make_corpus(&c);
  assert_true(rvl_model_layout_init(&layout, &small));
  rvl_pool *pool = rvl_pool_new(3);
  rvl_pass *pass = pool != NULL ? rvl_pass_new(&layout, &blas, pool) : NULL;
  assert_non_null(pass);
  float *weights = floats_like(NULL, layout.floats), *gradient = floats_like(NULL, layout.floats);
  atomic_bool cancel;
  atomic_init(&cancel, true);
  rvl_pass_request request = {.weights = weights, .examples = c.examples, .count = EXAMPLES, .loss = &loss,
                              .gradient = gradient, .cancel = &cancel};
  rvl_pass_result result;
  assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_CANCELLED);
  assert_true(result.logprobs == NULL && result.starts == NULL);
  assert_memory_equal(gradient, weights, layout.floats * sizeof *gradient);      /* zeros */
  atomic_store(&cancel, false);
  rvl_model_initialise(&layout, 1, weights);
  assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_DONE);
  rvl_pass_result_free(&result);
  rvl_model_free(weights), rvl_model_free(gradient);
  rvl_pass_free(pass);
  rvl_pool_free(pool);
  rvl_model_layout_free(&layout);
  free_corpus(&c);
}

static double loss_at(rvl_pass *pass, const rvl_lora *lora, const corpus *c, const rvl_loss *loss,
                      const float *base, const float *adapters, float *merged) {
  rvl_lora_merge(lora, &blas, base, adapters, merged);
  rvl_pass_request request = {.weights = merged, .examples = c->examples, .count = EXAMPLES, .loss = loss};
  rvl_pass_result result;
  assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_DONE);
  double value = result.sums.sum[RVL_SUM_LOSS];
  rvl_pass_result_free(&result);
  return value;
}

/* Along random directions, one for each adapter. */
static void adapters_get_the_gradient_of_the_loss(void **state) {
  (void)state;
  corpus c;
  rvl_model_layout layout;
  rvl_lora lora;
  const rvl_lora_config config = {.rank = 4, .scale = 2, .attention = true, .mlp = true, .unembed = true};
  rvl_loss loss = loss_of("cross_entropy");
  make_corpus(&c);
  for (size_t i = 0; i < EXAMPLES; i++) {      /* positive weights: a loss that is large beside its rounding */
    for (size_t t = 0; t < c.examples[i].length; t++) ((double *)c.memory[i])[t] = .2 + (double)(t % 3);
  }
  assert_true(rvl_model_layout_init(&layout, &small) && rvl_lora_init(&lora, &layout, &config));
  rvl_pool *pool = rvl_pool_new(2);
  rvl_pass *pass = pool != NULL ? rvl_pass_new(&lora.effective, &blas, pool) : NULL;
  assert_non_null(pass);
  float *base = floats_like(NULL, layout.floats), *adapters = floats_like(NULL, lora.floats);
  float *merged = floats_like(NULL, lora.effective.floats), *whole = floats_like(NULL, lora.effective.floats);
  float *gradient = floats_like(NULL, lora.floats);
  rvl_random random = rvl_random_of(9);
  rvl_model_initialise(&layout, 1, base);
  for (size_t i = 0; i < lora.floats; i++) adapters[i] = (float)(.2 * rvl_random_normal(&random));
  rvl_lora_merge(&lora, &blas, base, adapters, merged);
  rvl_pass_request request = {.weights = merged, .examples = c.examples, .count = EXAMPLES, .loss = &loss,
                              .gradient = whole, .wanted = lora.wanted};
  rvl_pass_result result;
  assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_DONE);
  rvl_pass_result_free(&result);
  for (size_t i = 0; i < lora.effective.count; i++) {
    const rvl_tensor *t = &lora.effective.tensors[i];
    for (size_t k = 0; k < t->count && !lora.wanted[i]; k++) assert_true(fabsf(whole[t->offset + k]) <= 0);
  }
  rvl_lora_project(&lora, &blas, adapters, whole, gradient);
  for (size_t i = 0; i < lora.count; i++) {
    const rvl_lora_tensor *t = &lora.tensors[i];
    float *moved = floats_like(adapters, lora.floats), direction[4 * 48];
    double slope = 0, values[2];
    const double h = 2e-4;
    assert_true(t->count <= sizeof direction / sizeof *direction);
    for (size_t k = 0; k < t->count; k++) {    /* mostly along the gradient */
      double g = (double)gradient[t->offset + k];
      direction[k] = (float)(g < 0 ? -1 : 1) + .5f * (float)rvl_random_normal(&random);
      slope += g * (double)direction[k];
    }
    for (size_t side = 0; side < 2; side++) {
      float step = (float)(side == 0 ? h : -h);
      for (size_t k = 0; k < t->count; k++) moved[t->offset + k] = adapters[t->offset + k] + step * direction[k];
      values[side] = loss_at(pass, &lora, &c, &loss, base, moved, merged);
    }
    double got = (values[0] - values[1]) / (2 * h);
    if (!(fabs(got - slope) <= 5e-3 * fabs(slope) + .02)) fail_msg("%s: %.6g, not %.6g", t->name, got, slope);
    rvl_model_free(moved);
  }
  rvl_model_free(base), rvl_model_free(adapters), rvl_model_free(merged), rvl_model_free(whole);
  rvl_model_free(gradient);
  rvl_pass_free(pass);
  rvl_pool_free(pool);
  rvl_lora_free(&lora);
  rvl_model_layout_free(&layout);
  free_corpus(&c);
}

#ifdef FAILING_MALLOC
/* Whatever is not there, it says so and leaves the gradient alone, and does the work when it is there again. */
static void a_request_without_memory(void **state) {
  (void)state;
  if (getenv("RIVERLUA_VALGRIND") != NULL) skip();     /* it brings a malloc of its own */
  corpus c;
  rvl_model_layout layout;
  rvl_loss loss = loss_of("dro");
  make_corpus(&c);
  assert_true(rvl_model_layout_init(&layout, &small));
  rvl_pool *pool = rvl_pool_new(1);
  assert_non_null(pool);
  float *weights = floats_like(NULL, layout.floats), *zeros = floats_like(NULL, layout.floats), *first = NULL;
  rvl_model_initialise(&layout, 1, weights);
  long failures = 0;
  for (long n = -1; failures > n; n++) {
    float *gradient = floats_like(NULL, layout.floats);
    rvl_pass_request request = {.weights = weights, .examples = c.examples, .count = 12, .loss = &loss,
                                .gradient = gradient};
    rvl_pass_result result;
    granted = n;
    rvl_pass *pass = rvl_pass_new(&layout, &blas, pool);
    rvl_pass_status status = pass != NULL ? rvl_pass_run(pass, &request, &result) : RVL_PASS_NO_MEMORY;
    bool failed = n >= 0 && granted < 0;
    granted = -1;
    failures += failed || n < 0;
    assert_int_equal(status, failed ? RVL_PASS_NO_MEMORY : RVL_PASS_DONE);
    if (failed) assert_memory_equal(gradient, zeros, layout.floats * sizeof *gradient);
    if (failed && pass != NULL) assert_int_equal(rvl_pass_run(pass, &request, &result), RVL_PASS_DONE);
    if (first == NULL) first = floats_like(gradient, layout.floats);
    if (pass != NULL) {
      assert_memory_equal(gradient, first, layout.floats * sizeof *gradient);
      rvl_pass_result_free(&result);
    }
    rvl_pass_free(pass);
    rvl_model_free(gradient);
  }
  assert_true(failures > 8);
  rvl_model_free(weights), rvl_model_free(zeros), rvl_model_free(first);
  rvl_pool_free(pool);
  rvl_model_layout_free(&layout);
  free_corpus(&c);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef FAILING_MALLOC
      cmocka_unit_test(a_request_without_memory),
#endif
      cmocka_unit_test(threads_change_no_number),
      cmocka_unit_test(requests_add_up),
      cmocka_unit_test(a_request_that_is_cancelled_leaves_the_gradient_alone),
      cmocka_unit_test(adapters_get_the_gradient_of_the_loss),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
