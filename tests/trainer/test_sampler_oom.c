/* Samples while memory is short: every allocation fails once, and nothing is left over. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/model.h"

static atomic_long granted, in_use;   /* allocations until all fail; what was not given back */

static bool is_granted(void) { return atomic_fetch_sub(&granted, 1) > 0; }

static void *metered_calloc(size_t count, size_t size) {
  if (!is_granted()) return NULL;
  atomic_fetch_add(&in_use, 1);
  return calloc(count, size);
}

static void *metered_realloc(void *memory, size_t size) {
  if (!is_granted()) return NULL;
  if (memory == NULL) atomic_fetch_add(&in_use, 1);
  return realloc(memory, size);
}

static void metered_free(void *memory) {
  if (memory != NULL) atomic_fetch_sub(&in_use, 1);
  free(memory);
}

static float *metered_floats(size_t count) {
  if (!is_granted()) return NULL;
  atomic_fetch_add(&in_use, 1);
  return rvl_model_floats(count);
}

#define calloc metered_calloc
#define realloc metered_realloc
#define free metered_free
#define rvl_model_floats metered_floats
#define rvl_model_free metered_free
#include "trainer/sampler.c"
#include "trainer/sampler_choose.c"
#include "trainer/sampler_decode.c"
#undef calloc
#undef realloc
#undef free
#undef rvl_model_floats
#undef rvl_model_free

enum { COUNT = 12 };

static void test_short_memory(void **state) {
  (void)state;
  static const rvl_model_config config = {.vocabulary = 40, .width = 8, .layers = 2, .heads = 2, .hidden = 16,
                                          .context = 300, .positions = RVL_POSITIONS_ROTARY, .rotary_base = 10000,
                                          .norm_epsilon = 1e-5f};
  static const int32_t prompt[3] = {1, 2, 3};
  rvl_sample_request requests[COUNT];
  rvl_sample_result results[COUNT];
  rvl_model_layout layout;
  assert_true(rvl_model_layout_init(&layout, &config));
  float *weights = rvl_model_floats(layout.floats);
  rvl_pool *pool = rvl_pool_new(2);
  assert_non_null(weights);
  assert_non_null(pool);
  rvl_model_initialise(&layout, 1, weights);
  for (size_t i = 0; i < COUNT; i++) {
    requests[i] = (rvl_sample_request){.prompt = prompt, .prompt_length = 3, .max_tokens = 20 * i,
                                       .temperature = 1, .top_p = 1, .seed = i, .top_logprobs = i % 2 * 3,
                                       .prompt_logprobs = i % 4 > 1};
  }
  bool done = false;
  for (long n = 0; !done; n++) {
    assert_true(n < 10000);
    atomic_store(&granted, n);
    done = rvl_sampler_run(&layout, pool, weights, requests, COUNT, results, NULL);
    if (!done) assert_int_equal(atomic_load(&in_use), 0);
  }
  for (size_t i = 0; i < COUNT; i++) {
    assert_int_equal(results[i].count, 20 * i);
    rvl_sampler_free_result(&results[i]);
  }
  assert_int_equal(atomic_load(&in_use), 0);
  rvl_pool_free(pool);
  rvl_model_free(weights);
  rvl_model_layout_free(&layout);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_short_memory)};
  return cmocka_run_group_tests_name("sampler_oom", tests, NULL, NULL);
}
