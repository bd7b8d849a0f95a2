/* sampler.c: samples and their log probabilities against a transformer that reads each sequence as a whole. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/blas.h"
#include "trainer/random.h"
#include "trainer/sampler.h"
#include "trainer/transformer.h"

enum { MOST = 600, LONGEST = 400 };

typedef struct fixture {
  rvl_blas blas;
  rvl_pool *pools[3];
  rvl_model_layout layout;
  float *weights;
  size_t count;
  rvl_sample_request requests[MOST];
  rvl_sample_result results[MOST];
  int32_t prompts[MOST][LONGEST];
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (f == NULL || rvl_blas_open(&f->blas, true) != NULL) return -1;
  for (unsigned i = 0; i < 3; i++) {
    f->pools[i] = rvl_pool_new(i + 1);
    if (f->pools[i] == NULL) return -1;
  }
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  for (unsigned i = 0; i < 3; i++) rvl_pool_free(f->pools[i]);
  free(f);
  return 0;
}

static const rvl_model_config tiny = {.vocabulary = 260, .width = 32, .layers = 2, .heads = 4, .hidden = 96,
                                      .context = 48, .positions = RVL_POSITIONS_LEARNED, .rotary_base = 10000,
                                      .norm_epsilon = 1e-5f};

/* Weights that are greater than those of a new model, so that logits differ. */
static void make_model(fixture *f, const rvl_model_config *config) {
  rvl_random random = rvl_random_of(7);
  assert_null(rvl_model_check(config));
  assert_true(rvl_model_layout_init(&f->layout, config));
  f->weights = rvl_model_floats(f->layout.floats);
  assert_non_null(f->weights);
  rvl_model_initialise(&f->layout, 1, f->weights);
  for (size_t i = 0; i < f->layout.floats; i++) f->weights[i] += (float)(0.15 * rvl_random_normal(&random));
  f->count = 0;
}

static void free_results(fixture *f) {
  for (size_t i = 0; i < f->count; i++) rvl_sampler_free_result(&f->results[i]);
}

static void free_model(fixture *f) {
  rvl_model_free(f->weights);
  rvl_model_layout_free(&f->layout);
}

static rvl_sample_request *add(fixture *f, size_t length, size_t max_tokens, double temperature) {
  size_t i = f->count++;
  rvl_random random = rvl_random_of(i / 3);   /* three of a prompt in a row */
  assert_true(i < MOST && length <= LONGEST);
  for (size_t k = 0; k < length; k++) {
    f->prompts[i][k] = (int32_t)(rvl_random_next(&random) % f->layout.config.vocabulary);
  }
  f->requests[i] = (rvl_sample_request){.prompt = f->prompts[i], .prompt_length = length, .max_tokens = max_tokens,
                                        .temperature = temperature, .top_p = 1, .top_k = -1, .seed = i};
  return &f->requests[i];
}

static void sample(fixture *f, unsigned threads) {
  rvl_pool *pool = f->pools[threads - 1];
  assert_true(rvl_sampler_run(&f->layout, pool, f->weights, f->requests, f->count, f->results, NULL));
}

/* ------------------------------------------------------------------------------------- against the transformer */

static void log_softmax(size_t n, const float *logits, double temperature, double *y) {
  double most = -INFINITY, total = 0;
  for (size_t i = 0; i < n; i++) most = fmax(most, (double)logits[i]);
  for (size_t i = 0; i < n; i++) total += exp(((double)logits[i] - most) / temperature);
  for (size_t i = 0; i < n; i++) y[i] = ((double)logits[i] - most) / temperature - log(total);
}

static void check_top(size_t n, const double *expected, size_t width, const int32_t *ids, const float *logprobs) {
  for (size_t k = 0; k < width; k++) {
    if (k >= n) {
      assert_int_equal(ids[k], -1);
      assert_true(isinf(logprobs[k]) && logprobs[k] < 0);
      continue;
    }
    assert_in_range(ids[k], 0, n - 1);
    assert_true(fabs((double)logprobs[k] - expected[ids[k]]) < 2e-5);
    size_t better = 0;
    for (size_t i = 0; i < n; i++) better += expected[i] > expected[ids[k]] + 4e-5;
    assert_true(better <= k);
    if (k == 0) continue;
    assert_true(logprobs[k] < logprobs[k - 1] || (logprobs[k] == logprobs[k - 1] && ids[k] > ids[k - 1]));
  }
}

static const float *logits_of(const fixture *f, rvl_transformer *transformer, const int32_t *ids, size_t length) {
  uint32_t starts[2] = {0, (uint32_t)length};
  const float *logits = rvl_transformer_infer(transformer, f->weights, &(rvl_batch){1, length, ids, starts, NULL});
  assert_non_null(logits);
  return logits;
}

/* Everything that was told of one sample, from logits of the whole sequence; the greatest difference. */
static double check_one(const fixture *f, rvl_transformer *transformer, size_t index) {
  const rvl_sample_request *q = &f->requests[index];
  const rvl_sample_result *r = &f->results[index];
  size_t length = q->prompt_length, n = f->layout.config.vocabulary, width = q->top_logprobs;
  int32_t ids[2 * LONGEST];
  double *p = malloc(n * sizeof *p), worst = 0;
  assert_non_null(p);
  assert_true(length + r->count <= f->layout.config.context);
  memcpy(ids, q->prompt, length * sizeof *ids);
  if (r->count > 0) memcpy(ids + length, r->ids, r->count * sizeof *ids);
  const float *logits = logits_of(f, transformer, ids, length + r->count);
  for (size_t i = 0; i < r->count; i++) {
    log_softmax(n, logits + (length + i - 1) * n, q->temperature > 0 ? q->temperature : 1, p);
    worst = fmax(worst, fabs(r->logprobs[i] - p[r->ids[i]]));
    for (size_t k = 0; q->temperature == 0 && k < n; k++) assert_true(p[k] < p[r->ids[i]] + 4e-5);
    if (width > 0) check_top(n, p, width, r->top_ids + i * width, r->top_logprobs + i * width);
  }
  for (size_t i = 1; q->prompt_logprobs && i < length; i++) {
    log_softmax(n, logits + (i - 1) * n, 1, p);
    worst = fmax(worst, fabs(r->prompt_logprobs[i] - p[q->prompt[i]]));
    if (width > 0) check_top(n, p, width, r->prompt_top_ids + i * width, r->prompt_top_logprobs + i * width);
  }
  if (q->prompt_logprobs) assert_true(r->prompt_logprobs[0] == 0);
  for (size_t k = 0; q->prompt_logprobs && k < width; k++) assert_int_equal(r->prompt_top_ids[k], -1);
  assert_true((r->top_ids != NULL) == (width > 0 && r->count > 0));
  assert_true((r->prompt_top_ids != NULL) == (q->prompt_logprobs && width > 0));
  assert_true((r->prompt_logprobs != NULL) == q->prompt_logprobs);
  free(p);
  return worst;
}

static void check_all(const fixture *f) {
  rvl_transformer *transformer = rvl_transformer_new(&f->layout, &f->blas);
  assert_non_null(transformer);
  for (size_t i = 0; i < f->count; i++) {
    double worst = check_one(f, transformer, i);
    if (!(worst < 1e-5)) fail_msg("sample %zu: a log probability is %g off", i, worst);
  }
  rvl_transformer_free(transformer);
}

static void test_against_whole_sequences(void **state) {
  fixture *f = *state;
  static const struct {
    uint32_t vocabulary, width, layers, heads, hidden, context;
    bool rotary, tied;
  } models[] = {
      {260, 32, 2, 4, 96, 48, false, false}, {260, 32, 2, 2, 96, 48, true, true},
      {65, 24, 3, 3, 50, 64, true, false},   {2, 2, 1, 1, 1, 40, false, true},
      {300, 6, 1, 1, 7, 90, true, false},    {256, 64, 2, 4, 256, 200, false, false}};
  for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
    rvl_model_config config = {.vocabulary = models[m].vocabulary, .width = models[m].width,
                               .layers = models[m].layers, .heads = models[m].heads,
                               .hidden = models[m].hidden, .context = models[m].context,
                               .positions = models[m].rotary ? RVL_POSITIONS_ROTARY : RVL_POSITIONS_LEARNED,
                               .tied = models[m].tied, .rotary_base = 10000, .norm_epsilon = 1e-5f};
    make_model(f, &config);
    for (size_t i = 0; i < 45; i++) {
      size_t length = 1 + i / 3 * 7 % 37;
      double temperature = i % 4 == 0 ? 0 : 0.5 + 0.25 * (double)(i % 4);
      rvl_sample_request *q = add(f, length, i % 5 == 4 ? 1000 : i % 20, temperature);
      if (i % 6 == 1) q->top_k = 5;
      if (i % 6 == 2) q->top_p = 0.8;
      if (i % 7 < 2) q->prompt_logprobs = true;
      if (i % 5 == 1) q->top_logprobs = i % 3 == 0 ? 1 : 8;
    }
    sample(f, 2);
    for (size_t i = 0; i < f->count; i++) {
      size_t left = config.context - f->requests[i].prompt_length, most = f->requests[i].max_tokens;
      assert_int_equal(f->results[i].count, most < left ? most : left);
      assert_false(f->results[i].stopped);
    }
    check_all(f);
    free_results(f);
    free_model(f);
  }
}

/* Prompts that are read in pieces, groups that memory cuts short, caches that grow while a sample goes on. */
static void test_long_sequences(void **state) {
  fixture *f = *state;
  rvl_model_config config = tiny;
  config.context = 700;
  config.positions = RVL_POSITIONS_ROTARY;
  make_model(f, &config);
  for (size_t i = 0; i < 9; i++) {
    rvl_sample_request *q = add(f, i < 6 ? 150 : 1 + 20 * i, i == 8 ? 1000 : 200, 1);
    q->prompt_logprobs = i % 2 == 0;
  }
  f->requests[7].max_tokens = 700;
  sample(f, 2);
  assert_int_equal(f->results[0].count, 200);
  assert_int_equal(f->results[8].count, 700 - 161);
  free_results(f);
  f->requests[7].max_tokens = f->requests[8].max_tokens = 300;   /* as long as the reference's memory here */
  sample(f, 2);
  check_all(f);
  free_results(f);
  free_model(f);
}

/* ----------------------------------------------------------------------------------------- the same every time */

static void assert_same(const rvl_sample_result *a, const rvl_sample_result *b, size_t width) {
  assert_int_equal(a->count, b->count);
  assert_int_equal(a->stopped, b->stopped);
  assert_int_equal(a->text_length, b->text_length);
  if (a->count == 0) return;
  assert_memory_equal(a->ids, b->ids, a->count * sizeof *a->ids);
  assert_memory_equal(a->logprobs, b->logprobs, a->count * sizeof *a->logprobs);
  if (width > 0) assert_memory_equal(a->top_logprobs, b->top_logprobs, a->count * width * sizeof *a->top_logprobs);
}

static void check_neighbours(fixture *f, const rvl_model_config *config) {
  static rvl_sample_result first[MOST];
  static const char *const stop = "a";
  static const size_t stop_length = 1;
  make_model(f, config);
  for (size_t i = 0; i < 300; i++) {
    rvl_sample_request *q = add(f, 1 + i / 3 % 13, 1 + i % 30, i % 10 == 0 ? 0 : 1);
    q->stops = &stop;
    q->stop_lengths = &stop_length;
    q->stop_count = i % 2;
    q->top_logprobs = i % 17 == 0 ? 4 : 0;
    if (i % 5 == 0) q->top_p = 0.7;
  }
  sample(f, 1);
  memcpy(first, f->results, sizeof first);
  for (unsigned threads = 1; threads <= 3; threads++) {
    sample(f, threads);
    for (size_t i = 0; i < f->count; i++) assert_same(&f->results[i], &first[i], f->requests[i].top_logprobs);
    free_results(f);
  }
  for (size_t i = 0; i < f->count; i += 11) {   /* alone */
    rvl_sample_result alone;
    assert_true(rvl_sampler_run(&f->layout, f->pools[0], f->weights, &f->requests[i], 1, &alone, NULL));
    assert_same(&alone, &first[i], f->requests[i].top_logprobs);
    rvl_sampler_free_result(&alone);
  }
  size_t all = f->count;
  f->count = 101;                               /* in other groups */
  sample(f, 2);
  for (size_t i = 0; i < f->count; i++) assert_same(&f->results[i], &first[i], f->requests[i].top_logprobs);
  free_results(f);
  for (size_t i = 0; i < all; i++) rvl_sampler_free_result(&first[i]);
  free_model(f);
}

static void test_threads_and_neighbours(void **state) {
  rvl_model_config odd = tiny;   /* no row is a number of whole vectors */
  odd.vocabulary = 261;
  odd.width = 22;
  odd.heads = 2;
  odd.hidden = 37;
  check_neighbours(*state, &tiny);
  check_neighbours(*state, &odd);
}

static void test_seeds(void **state) {
  fixture *f = *state;
  make_model(f, &tiny);
  for (size_t i = 0; i < 8; i++) {
    add(f, 5, 20, 1)->prompt = f->prompts[0];
    f->requests[i].seed = i < 4 ? 42 : UINT64_MAX - i;
  }
  sample(f, 2);
  for (size_t i = 1; i < 8; i++) {
    bool same = memcmp(f->results[0].ids, f->results[i].ids, 20 * sizeof(int32_t)) == 0;
    assert_int_equal(same, i < 4);
  }
  free_results(f);
  free_model(f);
}

static double chi_squared(size_t n, const double *seen, double count, const double *logprobs) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    double expected = count * exp(logprobs[i]);
    sum += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  return sum;
}

/* χ² of the first tokens of 20 000 seeds, and of the second ones after the first. */
static void test_frequencies(void **state) {
  fixture *f = *state;
  rvl_model_config config = tiny;
  config.vocabulary = 12;
  make_model(f, &config);
  double first[12] = {0}, second[12] = {0}, expected[12], after = 0, chi2[2] = {0};
  int32_t likely = 0;
  rvl_transformer *transformer = rvl_transformer_new(&f->layout, &f->blas);
  assert_non_null(transformer);
  for (size_t i = 0; i < 500; i++) add(f, 4, 2, 1.3)->prompt = f->prompts[0];
  int32_t ids[5];
  memcpy(ids, f->prompts[0], sizeof ids);
  log_softmax(12, logits_of(f, transformer, ids, 4) + 36, 1.3, expected);
  for (int32_t i = 0; i < 12; i++) {
    if (expected[i] > expected[likely]) likely = i;
  }
  for (size_t round = 0; round < 40; round++) {
    for (size_t i = 0; i < 500; i++) f->requests[i].seed = round * 500 + i;
    sample(f, 2);
    for (size_t i = 0; i < 500; i++) {
      first[f->results[i].ids[0]]++;
      if (f->results[i].ids[0] != likely) continue;
      second[f->results[i].ids[1]]++;
      after++;
    }
    free_results(f);
  }
  chi2[0] = chi_squared(12, first, 20000, expected);
  ids[4] = likely;
  log_softmax(12, logits_of(f, transformer, ids, 5) + 48, 1.3, expected);
  chi2[1] = chi_squared(12, second, after, expected);
  if (chi2[0] > 48 || chi2[1] > 48) fail_msg("%g and %g at 11 degrees of freedom", chi2[0], chi2[1]);   /* 10^-6 */
  rvl_transformer_free(transformer);
  free_model(f);
}

/* ----------------------------------------------------------------------------------------------- where it ends */

/* A model that always says `text`, over and over: each position is a direction, and the head's rows are the sums
   of those after which their tokens come. */
static void make_parrot(fixture *f, const int32_t *text, size_t length) {
  rvl_model_config config = tiny;
  config.width = 64;
  config.heads = 1;
  config.layers = 1;
  config.context = 64;
  make_model(f, &config);
  memset(f->weights, 0, f->layout.floats * sizeof *f->weights);
  for (size_t i = 0; i < 64; i++) f->weights[f->layout.norm_weight + i] = 1;
  assert_true(length <= 64);
  for (size_t p = 0; p < config.context; p++) {
    f->weights[f->layout.position + p * 64 + p] = 1;
    f->weights[f->layout.head + (size_t)text[p % length] * 64 + p] += 1;
  }
}

static rvl_sample_result speak(fixture *f, const char *const *stops, size_t count, size_t max_tokens) {
  size_t lengths[4];
  rvl_sample_result result;
  int32_t prompt = 0;
  for (size_t i = 0; i < count; i++) lengths[i] = strlen(stops[i]);
  rvl_sample_request q = {.prompt = &prompt, .prompt_length = 1, .max_tokens = max_tokens, .top_p = 1,
                          .stops = stops, .stop_lengths = lengths, .stop_count = count};
  assert_true(rvl_sampler_run(&f->layout, f->pools[0], f->weights, &q, 1, &result, NULL));
  return result;
}

static void check_stop(fixture *f, const char *const *stops, size_t count, size_t tokens, bool stopped,
                       size_t text) {
  rvl_sample_result r = speak(f, stops, count, 30);
  assert_int_equal(r.count, tokens);
  assert_int_equal(r.stopped, stopped);
  assert_int_equal(r.text_length, text);
  rvl_sampler_free_result(&r);
}

static void test_stops(void **state) {
  fixture *f = *state;
  static const int32_t text[] = {'h', 'e', 'l', 'l', 'o', 258, 'w',  'o',  259,
                                 257, 'r', 'l', 'd', 255, 0xc3, 0xa9, '\n'};
  make_parrot(f, text, sizeof text / sizeof *text);
  check_stop(f, NULL, 0, 30, false, 24);                         /* of 30 tokens, 6 are no text */
  check_stop(f, (const char *const[]){"\n"}, 1, 17, true, 13);
  check_stop(f, (const char *const[]){"l"}, 1, 3, true, 2);
  check_stop(f, (const char *const[]){"lo"}, 1, 5, true, 3);
  check_stop(f, (const char *const[]){"hello"}, 1, 5, true, 0);
  check_stop(f, (const char *const[]){"owor"}, 1, 11, true, 4);  /* what is no text lies between */
  check_stop(f, (const char *const[]){"\n", "rl", "xyz"}, 3, 12, true, 7);
  check_stop(f, (const char *const[]){"lo", "llo", "o"}, 3, 5, true, 2);   /* all end there */
  check_stop(f, (const char *const[]){"hellx", "ello wor"}, 2, 30, false, 24);
  check_stop(f, (const char *const[]){"", "d"}, 2, 13, true, 9);
  check_stop(f, (const char *const[]){"\xff"}, 1, 14, true, 10);
  check_stop(f, (const char *const[]){"\xc3\xa9"}, 1, 16, true, 11);
  check_stop(f, (const char *const[]){"\nhel"}, 1, 20, true, 13);
  check_stop(f, (const char *const[]){"xhel"}, 1, 30, false, 24);   /* what is before the sample is not searched */
  rvl_sample_result r = speak(f, (const char *const[]){"e"}, 1, 2);
  assert_true(r.stopped && r.count == 2 && r.text_length == 1);
  rvl_sampler_free_result(&r);
  r = speak(f, NULL, 0, 1000);
  assert_true(!r.stopped && r.count == 63);
  rvl_sampler_free_result(&r);
  free_model(f);
}

static void test_nothing_to_do(void **state) {
  fixture *f = *state;
  make_model(f, &tiny);
  assert_true(rvl_sampler_run(&f->layout, f->pools[0], f->weights, NULL, 0, NULL, NULL));
  add(f, 5, 0, 1);
  add(f, 5, 0, 1)->prompt_logprobs = true;
  add(f, 48, 5, 1);                                       /* the context is full */
  add(f, 48, 5, 1)->prompt_logprobs = true;
  add(f, 47, 5, 1);
  sample(f, 2);
  for (size_t i = 0; i < 4; i++) assert_true(f->results[i].count == 0 && f->results[i].ids == NULL);
  assert_int_equal(f->results[4].count, 1);
  check_all(f);
  free_results(f);
  free_model(f);
}

/* Who calls refuses these; still nothing else may be read than what is there. */
static void test_wrong_requests(void **state) {
  fixture *f = *state;
  make_model(f, &tiny);
  add(f, 49, 5, 1)->prompt_logprobs = true;
  add(f, 0, 5, 1)->prompt_logprobs = true;
  f->requests[1].top_logprobs = 3;
  add(f, 3, 5, 1)->prompt_logprobs = true;
  f->prompts[2][1] = -1;
  add(f, 3, 5, 1);
  f->prompts[3][2] = 260;
  add(f, 3, 5, NAN);
  add(f, 3, 5, -1);
  add(f, 3, 5, 1)->top_p = NAN;
  sample(f, 2);
  for (size_t i = 0; i < 4; i++) assert_true(f->results[i].count == 0);
  for (size_t i = 4; i < 7; i++) assert_int_equal(f->results[i].count, 5);
  free_results(f);
  free_model(f);
}

static void test_broken_weights(void **state) {
  fixture *f = *state;
  make_model(f, &tiny);
  for (size_t i = 0; i < f->layout.floats; i++) f->weights[i] = i % 3 == 0 ? NAN : INFINITY;
  add(f, 3, 5, 1)->top_logprobs = 2;
  add(f, 3, 5, 0);
  add(f, 3, 5, 1)->top_p = 0.5;
  sample(f, 2);
  for (size_t i = 0; i < 3; i++) {
    assert_int_equal(f->results[i].count, 5);
    for (size_t k = 0; k < 5; k++) {
      assert_in_range(f->results[i].ids[k], 0, 259);
      assert_true(isnan(f->results[i].logprobs[k]));
    }
  }
  free_results(f);
  free_model(f);
}

static void test_cancel(void **state) {
  fixture *f = *state;
  atomic_bool cancel = true;
  make_model(f, &tiny);
  for (size_t i = 0; i < 40; i++) add(f, 4, 40, 1);
  assert_false(rvl_sampler_run(&f->layout, f->pools[1], f->weights, f->requests, f->count, f->results, &cancel));
  for (size_t i = 0; i < f->count; i++) assert_null(f->results[i].ids);
  cancel = false;
  assert_true(rvl_sampler_run(&f->layout, f->pools[1], f->weights, f->requests, f->count, f->results, &cancel));
  free_results(f);
  free_model(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_against_whole_sequences),
      cmocka_unit_test(test_long_sequences),
      cmocka_unit_test(test_threads_and_neighbours),
      cmocka_unit_test(test_seeds),
      cmocka_unit_test(test_frequencies),
      cmocka_unit_test(test_stops),
      cmocka_unit_test(test_nothing_to_do),
      cmocka_unit_test(test_wrong_requests),
      cmocka_unit_test(test_broken_weights),
      cmocka_unit_test(test_cancel),
  };
  return cmocka_run_group_tests_name("sampler", tests, set_up, tear_down);
}
