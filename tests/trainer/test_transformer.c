/* transformer*.c against the same in double, straight from the formulas, and gradients against its differences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/failing_malloc.h"
#include "trainer/random.h"
#include "trainer/transformer.h"

static rvl_blas blas;

static int set_up(void **state) {
  (void)state;
  return rvl_blas_open(&blas, true) == NULL ? 0 : -1;
}

/* ------------------------------------------------------------------------------------------- in double */

enum { WIDEST = 128, LONGEST = 320 };

static void norm_of(size_t n, const double *x, const double *weight, const double *bias, double epsilon,
                    double *y) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < n; i++) mean += x[i] / (double)n;
  for (size_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)n;
  for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) / sqrt(variance + epsilon) * weight[i] + bias[i];
}

/* y = (adding: +) w[rows, columns] · x */
static void linear(const double *w, size_t rows, size_t columns, const double *x, bool adding, double *y) {
  for (size_t r = 0; r < rows; r++) {
    double sum = adding ? y[r] : 0;
    for (size_t c = 0; c < columns; c++) sum += w[r * columns + c] * x[c];
    y[r] = sum;
  }
}

static void rotate(size_t width, size_t position, double base, double *x) {
  for (size_t i = 0; i < width / 2; i++) {
    double angle = (double)position * pow(base, -2.0 * (double)i / (double)width), a = x[i], b = x[i + width / 2];
    x[i] = a * cos(angle) - b * sin(angle);
    x[i + width / 2] = b * cos(angle) + a * sin(angle);
  }
}

/* One head's result for the last of `count` tokens; q, k, v of token t at qkv + t · 3d. */
static void attend(const rvl_model_config *c, size_t count, size_t head, const double *qkv, const uint8_t *mask,
                   double *y) {
  size_t d = c->width, width = d / c->heads;
  double p[LONGEST], most = -INFINITY, total = 0;
  const double *query = qkv + (count - 1) * 3 * d + head * width;
  for (size_t t = 0; t < count; t++) {
    const double *key = qkv + t * 3 * d + d + head * width;
    p[t] = 0;
    for (size_t i = 0; i < width; i++) p[t] += query[i] * key[i] / sqrt((double)width);
    if (mask != NULL && mask[t] == 0 && t + 1 < count) p[t] = -INFINITY;
    most = fmax(most, p[t]);
  }
  for (size_t i = 0; i < width; i++) y[head * width + i] = 0;
  for (size_t t = 0; t < count; t++) total += p[t] = exp(p[t] - most);
  for (size_t t = 0; t < count; t++) {
    const double *value = qkv + t * 3 * d + 2 * d + head * width;
    for (size_t i = 0; i < width; i++) y[head * width + i] += p[t] / total * value[i];
  }
}

static void run_layer(const rvl_model_layout *l, uint32_t layer, const double *w, size_t length,
                      const uint8_t *mask, double *x) {
  const rvl_model_config *c = &l->config;
  const rvl_layer_offsets *at = &l->layers[layer];
  size_t d = c->width;
  double y[WIDEST], hidden[4 * WIDEST], *qkv = malloc(length * 3 * d * sizeof *qkv);
  assert_non_null(qkv);
  for (size_t t = 0; t < length; t++) {
    norm_of(d, x + t * d, w + at->norm1_weight, w + at->norm1_bias, c->norm_epsilon, y);
    linear(w + at->qkv, 3 * d, d, y, false, qkv + t * 3 * d);
    for (size_t h = 0; c->positions == RVL_POSITIONS_ROTARY && h < 2 * c->heads; h++) {
      rotate(d / c->heads, t, c->rotary_base, qkv + t * 3 * d + h * (d / c->heads));
    }
  }
  for (size_t t = 0; t < length; t++) {
    for (size_t h = 0; h < c->heads; h++) attend(c, t + 1, h, qkv, mask, y);
    linear(w + at->out, d, d, y, true, x + t * d);
    norm_of(d, x + t * d, w + at->norm2_weight, w + at->norm2_bias, c->norm_epsilon, y);
    linear(w + at->up, c->hidden, d, y, false, hidden);
    for (size_t i = 0; i < c->hidden; i++) {
      double v = hidden[i];
      hidden[i] = v / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (v + 0.044715 * v * v * v)));
    }
    linear(w + at->down, d, c->hidden, hidden, true, x + t * d);
  }
  free(qkv);
}

static void forward_in_double(const rvl_model_layout *l, const double *w, const rvl_batch *batch, double *logits) {
  size_t d = l->config.width, v = l->config.vocabulary;
  double x[LONGEST * WIDEST / 8], y[WIDEST];
  for (size_t s = 0; s < batch->sequences; s++) {
    size_t begin = batch->starts[s], length = batch->starts[s + 1] - begin;
    assert_true(length * d <= sizeof x / sizeof *x && length <= LONGEST && d <= WIDEST &&
                l->config.hidden <= 4 * WIDEST);
    for (size_t t = 0; t < length; t++) {
      for (size_t i = 0; i < d; i++) {
        x[t * d + i] = w[l->token + (size_t)batch->ids[begin + t] * d + i];
        if (l->config.positions == RVL_POSITIONS_LEARNED) x[t * d + i] += w[l->position + t * d + i];
      }
    }
    for (uint32_t k = 0; k < l->config.layers; k++) {
      run_layer(l, k, w, length, batch->mask != NULL ? batch->mask + begin : NULL, x);
    }
    for (size_t t = 0; t < length; t++) {
      norm_of(d, x + t * d, w + l->norm_weight, w + l->norm_bias, l->config.norm_epsilon, y);
      linear(w + l->head, v, d, y, false, logits + (begin + t) * v);
    }
  }
}

/* ------------------------------------------------------------------------------------------- a situation */

typedef struct situation {
  rvl_model_layout layout;
  rvl_transformer *transformer;
  rvl_random random;
  float *weights, *gradient, *slopes;    /* slopes: d loss / d logits; the loss is Σ slopes · logits */
  rvl_batch batch;
  int32_t ids[LONGEST];
  uint32_t starts[40];
  uint8_t mask[LONGEST];
} situation;

static float *floats(size_t count) {
  float *x = rvl_model_floats(count);
  assert_non_null(x);
  return x;
}

static situation *begin(const rvl_model_config *config, const uint32_t *lengths, size_t sequences, double masked) {
  situation *s = calloc(1, sizeof *s);
  assert_non_null(s);
  assert_null(rvl_model_check(config));
  assert_true(rvl_model_layout_init(&s->layout, config));
  s->transformer = rvl_transformer_new(&s->layout, &blas);
  assert_non_null(s->transformer);
  s->random = rvl_random_of(11);
  s->batch = (rvl_batch){.sequences = sequences, .ids = s->ids, .starts = s->starts,
                         .mask = masked > 0 ? s->mask : NULL};
  for (size_t i = 0; i < sequences; i++) s->starts[i + 1] = s->starts[i] + lengths[i];
  s->batch.tokens = s->starts[sequences];
  for (size_t i = 0; i < s->batch.tokens; i++) {
    s->ids[i] = (int32_t)(rvl_random_next(&s->random) % config->vocabulary);
    s->mask[i] = rvl_random_uniform(&s->random) >= masked;
  }
  s->weights = floats(s->layout.floats);
  s->gradient = floats(s->layout.floats);
  s->slopes = floats(s->batch.tokens * config->vocabulary);
  for (size_t i = 0; i < s->layout.count; i++) {
    const rvl_tensor *t = &s->layout.tensors[i];
    double centre = t->columns == 0 && strstr(t->name, "weight") != NULL ? 1 : 0;
    for (size_t k = 0; k < t->count; k++) {
      s->weights[t->offset + k] = (float)(centre + 0.3 * rvl_random_normal(&s->random));
    }
  }
  size_t logits = s->batch.tokens * config->vocabulary;
  for (size_t i = 0; i < logits; i++) s->slopes[i] = (float)rvl_random_normal(&s->random);
  return s;
}

static void end(situation *s) {
  rvl_transformer_free(s->transformer);
  rvl_model_layout_free(&s->layout);
  rvl_model_free(s->weights);
  rvl_model_free(s->gradient);
  rvl_model_free(s->slopes);
  free(s);
}

static void run_backward(situation *s, const rvl_batch *batch, const float *slopes, const bool *wanted,
                         float *gradient) {
  float *logits = rvl_transformer_forward(s->transformer, s->weights, batch);
  assert_non_null(logits);
  memcpy(logits, slopes, batch->tokens * s->layout.config.vocabulary * sizeof *logits);
  assert_true(rvl_transformer_backward(s->transformer, s->weights, batch, wanted, gradient));
}

static double loss_in_double(const situation *s, const double *w, double *logits) {
  double loss = 0;
  forward_in_double(&s->layout, w, &s->batch, logits);
  for (size_t i = 0; i < s->batch.tokens * s->layout.config.vocabulary; i++) loss += logits[i] * s->slopes[i];
  return loss;
}

/* Every `step`th parameter of each tensor. */
static void check_gradients(situation *s, size_t step) {
  if (getenv("RIVERLUA_VALGRIND") != NULL) step *= 10;
  size_t n = s->batch.tokens * s->layout.config.vocabulary;
  double *w = malloc(s->layout.floats * sizeof *w), *logits = malloc(n * sizeof *logits), most = 0;
  assert_true(w != NULL && logits != NULL);
  for (size_t i = 0; i < s->layout.floats; i++) w[i] = s->weights[i];
  forward_in_double(&s->layout, w, &s->batch, logits);
  const float *found = rvl_transformer_forward(s->transformer, s->weights, &s->batch);
  assert_non_null(found);
  for (size_t i = 0; i < n; i++) most = fmax(most, fabs(logits[i]));
  for (size_t i = 0; i < n; i++) assert_true(fabs(found[i] - logits[i]) < 1e-5 * most);
  run_backward(s, &s->batch, s->slopes, NULL, s->gradient);
  for (size_t k = 0; k < s->layout.count; k++) {
    const rvl_tensor *t = &s->layout.tensors[k];
    double wrong = 0, all = 0, samples = 0;
    for (size_t i = k % (step < t->count ? step : t->count); i < t->count; i += step) {
      double there = w[t->offset + i], by = 1e-5;
      w[t->offset + i] = there + by;
      double up = loss_in_double(s, w, logits);
      w[t->offset + i] = there - by;
      double slope = (up - loss_in_double(s, w, logits)) / (2 * by), off = slope - s->gradient[t->offset + i];
      w[t->offset + i] = there;
      wrong += off * off;
      samples++;
    }
    for (size_t i = 0; i < t->count; i++) all += pow(s->gradient[t->offset + i], 2);
    all *= samples / (double)t->count;         /* of as many as were looked at */
    if (!(wrong <= 1e-5 * 1e-5 * all)) fail_msg("%s: relative error %g", t->name, sqrt(wrong / all));
    for (size_t i = t->count; i % 16 != 0; i++) assert_true(s->gradient[t->offset + i] == 0);     /* the gap */
  }
  free(w);
  free(logits);
}

/* ------------------------------------------------------------------------------------------------- tests */

static const rvl_model_config small = {.vocabulary = 11, .width = 16, .layers = 2, .heads = 2, .hidden = 24,
                                       .context = 64, .positions = RVL_POSITIONS_ROTARY, .rotary_base = 10000,
                                       .norm_epsilon = 1e-5f};

static void test_gradients(void **state) {
  (void)state;
  static const uint32_t lengths[] = {5, 1, 9, 2};
  for (int form = 0; form < 8; form++) {
    rvl_model_config c = small;
    c.positions = form % 2 == 0 ? RVL_POSITIONS_ROTARY : RVL_POSITIONS_LEARNED;
    c.tied = form / 2 % 2 == 1;
    situation *s = begin(&c, lengths, 4, form / 4 == 1 ? 0.3 : 0);
    check_gradients(s, 7);
    end(s);
  }
}

/* Sizes that are no multiples of anything; one layer, one head; more heads. */
static void test_odd_sizes(void **state) {
  (void)state;
  static const uint32_t lengths[] = {3, 4};
  /* width, layers, heads, hidden */
  static const uint32_t sizes[][4] = {{6, 1, 1, 5}, {10, 3, 5, 13}, {12, 1, 3, 1}, {14, 2, 1, 30}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    rvl_model_config c = small;
    c.width = sizes[i][0];
    c.layers = sizes[i][1];
    c.heads = sizes[i][2];
    c.hidden = sizes[i][3];
    c.vocabulary = 3;
    c.rotary_base = 100;
    situation *s = begin(&c, lengths, 2, 0.2);
    check_gradients(s, 3);
    end(s);
  }
}

/* Several blocks of queries; attention computed again in backward, beside one that is kept. */
static void test_long(void **state) {
  (void)state;
  static const uint32_t lengths[] = {270, 40};
  rvl_model_config c = small;
  c.context = 270;
  c.heads = 1;
  c.layers = 1;
  situation *s = begin(&c, lengths, 2, 0.1);
  check_gradients(s, 101);
  end(s);
}

/* Packed sequences do not see each other, nor does it matter where a batch is cut. */
static void test_packing(void **state) {
  (void)state;
  static const uint32_t lengths[] = {7, 12, 1, 20};
  situation *s = begin(&small, lengths, 4, 0.2);
  size_t v = small.vocabulary, n = s->batch.tokens * v;
  float *all = floats(n), *sum = floats(s->layout.floats);
  memcpy(all, rvl_transformer_forward(s->transformer, s->weights, &s->batch), n * sizeof *all);
  assert_memory_equal(rvl_transformer_infer(s->transformer, s->weights, &s->batch), all, n * sizeof *all);
  run_backward(s, &s->batch, s->slopes, NULL, s->gradient);
  for (size_t i = 0; i < 4; i++) {
    uint32_t starts[2] = {0, lengths[i]};
    size_t at = s->starts[i];
    rvl_batch one = {.sequences = 1, .tokens = lengths[i], .ids = s->ids + at, .starts = starts,
                     .mask = s->mask + at};
    const float *logits = rvl_transformer_forward(s->transformer, s->weights, &one);
    assert_non_null(logits);
    for (size_t k = 0; k < lengths[i] * v; k++) assert_true(fabsf(logits[k] - all[at * v + k]) < 1e-5f);
    run_backward(s, &one, s->slopes + at * v, NULL, sum);        /* adds to what is there */
  }
  for (size_t i = 0; i < s->layout.floats; i++) {
    assert_true(fabsf(sum[i] - s->gradient[i]) <= 1e-4f * (1 + fabsf(sum[i])));
  }
  rvl_model_free(all);
  rvl_model_free(sum);
  end(s);
}

/* What is not wanted changes nothing of what is; each tensor alone, and what LoRA wants. */
static void test_wanted(void **state) {
  (void)state;
  static const uint32_t lengths[] = {7, 12};
  for (int tied = 0; tied < 2; tied++) {
    rvl_model_config c = small;
    c.tied = tied == 1;
    c.positions = RVL_POSITIONS_LEARNED;
    situation *s = begin(&c, lengths, 2, 0);
    bool wanted[64];
    assert_true(s->layout.count < 64);
    run_backward(s, &s->batch, s->slopes, NULL, s->gradient);
    for (size_t only = 0; only <= s->layout.count; only++) {
      float *some = floats(s->layout.floats);
      for (size_t i = 0; i < s->layout.count; i++) {
        const rvl_tensor *t = &s->layout.tensors[i];
        bool adapted = t->columns > 0 && t->part != RVL_PART_TOKEN && t->part != RVL_PART_POSITION;
        wanted[i] = only < s->layout.count ? i == only : adapted;
      }
      run_backward(s, &s->batch, s->slopes, wanted, some);
      for (size_t i = 0; i < s->layout.count; i++) {
        const rvl_tensor *t = &s->layout.tensors[i];
        if (wanted[i]) assert_memory_equal(some + t->offset, s->gradient + t->offset, t->count * sizeof *some);
      }
      rvl_model_free(some);
    }
    end(s);
  }
}

/* Used memory is used again, smaller and larger batches in any order give the same numbers. */
static void test_reuse(void **state) {
  (void)state;
  static const uint32_t lengths[] = {30, 2, 17, 60, 1};
  situation *s = begin(&small, lengths, 5, 0);
  float *again = floats(s->layout.floats);
  run_backward(s, &s->batch, s->slopes, NULL, s->gradient);
  rvl_batch less = s->batch;
  less.sequences = 2;
  less.tokens = 32;
  for (int i = 0; i < 3; i++) {
    memset(again, 0, s->layout.floats * sizeof *again);
    run_backward(s, &less, s->slopes, NULL, again);
    assert_non_null(rvl_transformer_infer(s->transformer, s->weights, &s->batch));
  }
  memset(again, 0, s->layout.floats * sizeof *again);
  run_backward(s, &s->batch, s->slopes, NULL, again);
  assert_memory_equal(again, s->gradient, s->layout.floats * sizeof *again);
  rvl_batch none = {.starts = s->starts};
  assert_non_null(rvl_transformer_forward(s->transformer, s->weights, &none));
  assert_true(rvl_transformer_backward(s->transformer, s->weights, &none, NULL, again));
  assert_memory_equal(again, s->gradient, s->layout.floats * sizeof *again);
  rvl_model_free(again);
  end(s);
}

/* A weight that is no number is seen in the logits and in the gradient, not lost. */
static void test_what_is_no_number(void **state) {
  (void)state;
  static const uint32_t lengths[] = {9};
  situation *s = begin(&small, lengths, 1, 0);
  for (size_t i = 0; i < s->layout.count; i++) {
    const rvl_tensor *t = &s->layout.tensors[i];
    float *at = s->weights + t->offset, there = *at;
    if (t->part == RVL_PART_TOKEN) at += (size_t)s->ids[0] * small.width, there = *at;
    *at = NAN;
    const float *logits = rvl_transformer_forward(s->transformer, s->weights, &s->batch);
    assert_non_null(logits);
    bool seen = false;
    for (size_t k = 0; k < 9 * (size_t)small.vocabulary; k++) seen = seen || isnan(logits[k]);
    assert_true(seen);
    *at = there;
  }
  end(s);
}

#ifdef FAILING_MALLOC
/* Whatever is not there, it says so, and does the work when it is there again. */
static void test_without_memory(void **state) {
  (void)state;
  static const uint32_t lengths[] = {7, 12};
  if (getenv("RIVERLUA_VALGRIND") != NULL) skip();     /* it brings a malloc of its own */
  situation *s = begin(&small, lengths, 2, 0);
  float *found = floats(s->layout.floats);
  long failures = 0;
  run_backward(s, &s->batch, s->slopes, NULL, s->gradient);
  for (long n = 0; failures == n; n++) {
    granted = n;
    rvl_transformer *t = rvl_transformer_new(&s->layout, &blas);
    float *logits = t != NULL ? rvl_transformer_forward(t, s->weights, &s->batch) : NULL;
    if (logits != NULL) memcpy(logits, s->slopes, s->batch.tokens * small.vocabulary * sizeof *logits);
    bool done = logits != NULL && rvl_transformer_backward(t, s->weights, &s->batch, NULL, found);
    failures += granted < 0;
    assert_true(done == (granted >= 0));
    granted = -1;
    if (!done && t != NULL) {
      memset(found, 0, s->layout.floats * sizeof *found);
      logits = rvl_transformer_forward(t, s->weights, &s->batch);
      assert_non_null(logits);
      memcpy(logits, s->slopes, s->batch.tokens * small.vocabulary * sizeof *logits);
      assert_true(rvl_transformer_backward(t, s->weights, &s->batch, NULL, found));
    }
    if (t != NULL) assert_memory_equal(found, s->gradient, s->layout.floats * sizeof *found);
    rvl_transformer_free(t);
    memset(found, 0, s->layout.floats * sizeof *found);
  }
  assert_true(failures > 5);
  rvl_model_free(found);
  end(s);
}
#endif

static void test_good_sizes(void **state) {
  (void)state;
  assert_true(rvl_transformer_tokens(&small) >= 64 && rvl_transformer_tokens(&small) <= 512);
  rvl_transformer_free(NULL);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_odd_sizes),
      cmocka_unit_test(test_long),
      cmocka_unit_test(test_packing),
      cmocka_unit_test(test_wanted),
      cmocka_unit_test(test_reuse),
      cmocka_unit_test(test_what_is_no_number),
#ifdef FAILING_MALLOC
      cmocka_unit_test(test_without_memory),
#endif
      cmocka_unit_test(test_good_sizes),
  };
  return cmocka_run_group_tests_name("transformer", tests, set_up, NULL);
}
