/* trainable.c: what is shared and what is a model's own; passes and steps against the formulas, in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/plain_blas.h"
#include "trainer/random.h"
#include "trainer/trainable.h"

enum { VOCABULARY = 29, COUNT = 9, LONGEST = 24, STEPS = 3 };

static rvl_blas blas;
static rvl_pool *pool;

static int set_up(void **state) {
  (void)state;
  pool = rvl_pool_new(2);
  return pool != NULL && open_blas(&blas) == NULL ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  rvl_pool_free(pool);
  return 0;
}

static const rvl_model_config untied = {.vocabulary = VOCABULARY, .width = 12, .layers = 2, .heads = 2,
                                        .hidden = 20, .context = LONGEST, .positions = RVL_POSITIONS_LEARNED,
                                        .rotary_base = 1e4f, .norm_epsilon = 1e-5f};
static const rvl_lora_config all = {.rank = 3, .scale = 2, .attention = true, .mlp = true, .unembed = true};
static const rvl_adamw_options options = {.lr = 0.01, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6,
                                          .weight_decay = 0.1, .clip = 0.5, .scale = 0.25};

/* Examples of cross entropy. */
typedef struct corpus {
  rvl_example examples[COUNT];
  int32_t ids[COUNT][LONGEST];
  double weights[COUNT][LONGEST];
} corpus;

static corpus *new_corpus(uint64_t seed) {
  rvl_random random = rvl_random_of(seed);
  corpus *c = calloc(1, sizeof *c);
  assert_non_null(c);
  for (size_t i = 0; i < COUNT; i++) {
    for (size_t t = 0; t < LONGEST; t++) {
      c->ids[i][t] = (int32_t)(rvl_random_uniform(&random) * VOCABULARY);
      c->weights[i][t] = rvl_random_normal(&random);
    }
    c->examples[i] = (rvl_example){.length = 1 + i * 23 / 8, .ids = c->ids[i], .weights = c->weights[i]};
  }
  return c;
}

static rvl_loss cross_entropy(void) {
  rvl_loss loss;
  char refusal[64];
  assert_true(rvl_loss_parse("cross_entropy", NULL, 0, &loss, refusal, sizeof refusal));
  return loss;
}

static rvl_base *new_base(bool tied) {
  rvl_model_config config = untied;
  config.tied = tied;
  rvl_base *base = rvl_base_new(&config);
  assert_non_null(base);
  rvl_model_initialise(&base->layout, 7, base->weights);
  return base;
}

static rvl_trainable *new_model(rvl_base *base, const rvl_lora_config *lora) {
  rvl_trainable *model = rvl_trainable_new(base, &blas, lora, 11);
  assert_non_null(model);
  return model;
}

/* Adapters that do something from the beginning: B is zero as a rule. */
static void stir(rvl_trainable *model) {
  rvl_random random = rvl_random_of(13);
  for (size_t i = 0; i < rvl_trainable_count(model); i++) {
    rvl_trained_tensor t = rvl_trainable_tensor(model, i);
    for (size_t k = 0; k < t.count; k++) model->trained[t.offset + k] += (float)(0.1 * rvl_random_normal(&random));
  }
  rvl_trainable_merge(model);
}

static double pass(rvl_trainable *model, const corpus *c, bool gradients, bool clear) {
  rvl_pass_result result;
  rvl_loss loss = cross_entropy();
  assert_int_equal(rvl_trainable_pass(model, pool, c->examples, COUNT, &loss, gradients, clear, NULL, &result),
                   RVL_PASS_DONE);
  double value = result.sums.sum[RVL_SUM_LOSS];
  rvl_pass_result_free(&result);
  return value;
}

static double *doubles_of(const float *floats, size_t count) {
  double *copy = calloc(count + 1, sizeof *copy);
  assert_non_null(copy);
  for (size_t i = 0; floats != NULL && i < count; i++) copy[i] = (double)floats[i];
  return copy;
}

static float *copy_of(const float *floats, size_t count) {
  float *copy = rvl_model_floats(count);
  assert_non_null(copy);
  memcpy(copy, floats, count * sizeof *copy);
  return copy;
}

static void are_near(const char *what, const float *got, const double *want, size_t count, double most) {
  double largest = 0;
  for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(want[i]));
  for (size_t i = 0; i < count; i++) {
    double found = (double)got[i];
    if (!(fabs(found - want[i]) <= most * largest)) fail_msg("%s[%zu] is %.9g, not %.9g", what, i, found, want[i]);
  }
}

/* ---- by hand ------------------------------------------------------------------------------------------- */

/* The gradient of the weights that the transformer works with, by a pass of its own. */
static double *whole_gradient(const rvl_trainable *model, const corpus *c) {
  rvl_pass *own = rvl_pass_new(model->layout, &blas, pool);
  float *gradient = rvl_model_floats(model->layout->floats);
  rvl_pass_result result;
  rvl_loss loss = cross_entropy();
  assert_true(own != NULL && gradient != NULL);
  rvl_pass_request request = {.weights = model->weights, .examples = c->examples, .count = COUNT, .loss = &loss,
                              .gradient = gradient};
  assert_int_equal(rvl_pass_run(own, &request, &result), RVL_PASS_DONE);
  double *whole = doubles_of(gradient, model->layout->floats);
  rvl_pass_result_free(&result);
  rvl_pass_free(own);
  rvl_model_free(gradient);
  return whole;
}

/* That of what is trained: adds scale · dW · Aᵀ and scale · Bᵀ · dW. */
static void add_trained(const rvl_trainable *model, const double *whole, double *trained) {
  if (!model->adapted) {
    for (size_t i = 0; i < model->floats; i++) trained[i] += whole[i];
    return;
  }
  double scale = model->lora.config.scale;
  for (size_t i = 0; i < model->lora.count; i += 2) {
    const rvl_lora_tensor *a = &model->lora.tensors[i], *b = &model->lora.tensors[i + 1];
    const double *dw = whole + model->layout->tensors[a->tensor].offset;
    for (size_t o = 0; o < b->rows; o++) {
      for (size_t k = 0; k < a->columns; k++) {
        for (size_t r = 0; r < a->rows; r++) {
          double va = (double)model->trained[a->offset + r * a->columns + k];
          double vb = (double)model->trained[b->offset + o * b->columns + r];
          trained[b->offset + o * b->columns + r] += scale * dw[o * a->columns + k] * va;
          trained[a->offset + r * a->columns + k] += scale * dw[o * a->columns + k] * vb;
        }
      }
    }
  }
}

/* AdamW as PyTorch writes it down, after clip_grad_norm_. */
typedef struct by_hand {
  double *trained, *mean, *square;
  size_t floats, step;
} by_hand;

static void step_by_hand(by_hand *h, const double *gradient) {
  double squares = 0;
  for (size_t i = 0; i < h->floats; i++) squares += gradient[i] * gradient[i];
  double factor = options.scale * fmin(1, options.clip / (sqrt(squares) * options.scale + 1e-6));
  h->step++;
  for (size_t i = 0; i < h->floats; i++) {
    double g = gradient[i] * factor;
    h->trained[i] *= 1 - options.lr * options.weight_decay;
    h->mean[i] = options.beta1 * h->mean[i] + (1 - options.beta1) * g;
    h->square[i] = options.beta2 * h->square[i] + (1 - options.beta2) * g * g;
    double mean = h->mean[i] / (1 - pow(options.beta1, (double)h->step));
    double square = h->square[i] / (1 - pow(options.beta2, (double)h->step));
    h->trained[i] -= options.lr * mean / (sqrt(square) + options.eps);
  }
}

/* W + scale · B · A of all tensors; of a tied base the head is the embedding. */
static double *merge_by_hand(const rvl_trainable *model, const double *trained) {
  const rvl_model_layout *base = &model->base->layout, *own = model->layout;
  if (!model->adapted) return memcpy(doubles_of(NULL, own->floats), trained, own->floats * sizeof *trained);
  double *merged = doubles_of(NULL, own->floats);
  for (size_t i = 0; i < own->count; i++) {
    size_t from = own->tensors[i].part == RVL_PART_HEAD ? base->head : base->tensors[i].offset;
    for (size_t k = 0; k < own->tensors[i].count; k++) {
      merged[own->tensors[i].offset + k] = (double)model->base->weights[from + k];
    }
  }
  for (size_t i = 0; i < model->lora.count; i += 2) {
    const rvl_lora_tensor *a = &model->lora.tensors[i], *b = &model->lora.tensors[i + 1];
    double *w = merged + own->tensors[a->tensor].offset;
    for (size_t o = 0; o < b->rows; o++) {
      for (size_t k = 0; k < a->columns; k++) {
        for (size_t r = 0; r < a->rows; r++) {
          w[o * a->columns + k] += model->lora.config.scale * trained[b->offset + o * b->columns + r] *
                                   trained[a->offset + r * a->columns + k];
        }
      }
    }
  }
  return merged;
}

static void train_by_hand(bool tied, const rvl_lora_config *lora) {
  rvl_base *base = new_base(tied);
  float *before = copy_of(base->weights, base->layout.floats);
  rvl_trainable *model = new_model(base, lora);
  corpus *first = new_corpus(1), *second = new_corpus(2);
  stir(model);
  by_hand h = {.trained = doubles_of(model->trained, model->floats), .floats = model->floats,
               .mean = doubles_of(NULL, model->floats), .square = doubles_of(NULL, model->floats)};
  for (int i = 0; i < STEPS; i++) {
    double *gradient = doubles_of(NULL, model->floats);
    double *one = whole_gradient(model, first), *other = whole_gradient(model, second);
    pass(model, second, true, false);                /* is replaced by the next */
    pass(model, first, true, true);
    pass(model, second, true, false);
    pass(model, first, false, true);                 /* asks for no gradients: changes none */
    add_trained(model, one, gradient);
    add_trained(model, other, gradient);
    are_near("gradient", model->gradient, gradient, model->floats, 1e-4);
    step_by_hand(&h, gradient);
    rvl_adamw_result result = rvl_trainable_step(model, &options);
    assert_true(result.finite);
    are_near("trained", model->trained, h.trained, model->floats, 2e-4);
    double *merged = merge_by_hand(model, h.trained);
    are_near("merged", model->weights, merged, model->layout->floats, 2e-4);
    for (size_t k = 0; k < model->floats; k++) assert_true(fabsf(model->gradient[k]) <= 0);
    free(gradient), free(one), free(other), free(merged);
  }
  assert_int_equal(model->optimizer.step, STEPS);
  assert_memory_equal(base->weights, before, base->layout.floats * sizeof *before);
  free(h.trained), free(h.mean), free(h.square), free(first), free(second);
  rvl_model_free(before);
  rvl_trainable_release(model);
  rvl_base_release(base);
}

static void full_weights_by_hand(void **state) {
  (void)state;
  train_by_hand(false, NULL);
  train_by_hand(true, NULL);
}

static void adapters_by_hand(void **state) {
  (void)state;
  train_by_hand(false, &all);
  train_by_hand(false, &(rvl_lora_config){.rank = 2, .scale = 50, .attention = true});
  train_by_hand(false, &(rvl_lora_config){.rank = 5, .scale = 0.5, .unembed = true});
}

static void a_tied_head_that_is_adapted_by_hand(void **state) {
  (void)state;
  train_by_hand(true, &all);
  train_by_hand(true, &(rvl_lora_config){.rank = 4, .scale = 3, .unembed = true});
  train_by_hand(true, &(rvl_lora_config){.rank = 4, .scale = 3, .mlp = true});   /* stays tied */
}

/* ---- what is whose ------------------------------------------------------------------------------------- */

static void names(void **state) {
  (void)state;
  rvl_base *base = new_base(true);
  rvl_trainable *adapted = new_model(base, &all), *full = new_model(base, NULL);
  assert_int_equal(rvl_trainable_count(adapted), 2 * (4 * 2 + 1));
  rvl_trained_tensor a = rvl_trainable_tensor(adapted, 16), b = rvl_trainable_tensor(adapted, 17);
  assert_string_equal(a.name, "head.lora_A.weight");
  assert_string_equal(b.name, "head.lora_B.weight");
  assert_true(a.rows == 3 && a.columns == 12 && b.rows == VOCABULARY && b.columns == 3);
  assert_true(b.offset >= a.offset + a.count);
  assert_int_equal(rvl_trainable_count(full), base->layout.count);
  assert_string_equal(rvl_trainable_tensor(full, 0).name, "token.weight");
  rvl_trained_tensor norm = rvl_trainable_tensor(full, base->layout.count - 1);
  assert_string_equal(norm.name, "norm.bias");
  assert_true(norm.rows == 12 && norm.columns == 0 && norm.count == 12);
  assert_true(full->trained == full->weights && adapted->trained != adapted->weights);
  rvl_trainable_release(adapted);
  rvl_trainable_release(full);
  rvl_base_release(base);
}

static void models_share_a_base_and_nothing_else(void **state) {
  (void)state;
  corpus *c = new_corpus(1);
  rvl_base *base = new_base(false);
  rvl_trainable *one = new_model(base, &all), *other = new_model(base, &all), *full = new_model(base, NULL);
  assert_int_equal(base->references, 4);
  double before = pass(other, c, false, false);
  stir(one);
  pass(one, c, true, true);
  rvl_trainable_step(one, &options);
  pass(full, c, true, true);
  rvl_trainable_step(full, &options);
  assert_true(fabs(pass(other, c, false, false) - before) <= 0);
  assert_true(fabs(pass(one, c, false, false) - before) > 1e-3);
  for (size_t i = 0; i < other->floats; i++) assert_true(fabsf(other->gradient[i]) <= 0);
  /* a base goes when its last model does; a model when nobody holds it */
  assert_ptr_equal(rvl_trainable_retain(one), one);
  rvl_trainable_release(one);
  rvl_base_release(base);
  assert_int_equal(base->references, 3);
  rvl_trainable_release(other);
  pass(one, c, true, true);
  rvl_trainable_release(one);
  assert_int_equal(base->references, 1);
  pass(full, c, true, true);
  rvl_trainable_release(full);
  rvl_trainable_release(NULL);
  rvl_base_release(NULL);
  free(c);
}

/* Adapters begin without an effect: the merged model is the base, bit for bit. */
static void adapters_begin_as_the_base(void **state) {
  (void)state;
  corpus *c = new_corpus(1);
  rvl_base *base = new_base(true);
  rvl_trainable *adapted = new_model(base, &all), *full = new_model(base, NULL);
  assert_true(fabs(pass(adapted, c, false, false) - pass(full, c, false, false)) <= 0);
  rvl_trainable_release(adapted);
  rvl_trainable_release(full);
  rvl_base_release(base);
  free(c);
}

/* ---- what ends early ------------------------------------------------------------------------------------ */

static void a_cancelled_pass_changes_nothing(const rvl_lora_config *lora) {
  corpus *c = new_corpus(1);
  rvl_base *base = new_base(false);
  rvl_trainable *model = new_model(base, lora);
  pass(model, c, true, true);
  float *gradient = copy_of(model->gradient, model->floats);
  atomic_bool cancel;
  rvl_pass_result result;
  rvl_loss loss = cross_entropy();
  atomic_init(&cancel, true);
  for (int clear = 0; clear < 2; clear++) {
    assert_int_equal(rvl_trainable_pass(model, pool, c->examples, COUNT, &loss, true, clear, &cancel, &result),
                     RVL_PASS_CANCELLED);
    assert_memory_equal(model->gradient, gradient, model->floats * sizeof *gradient);
  }
  rvl_model_free(gradient);
  rvl_trainable_release(model);
  rvl_base_release(base);
  free(c);
}

static void cancelled_passes(void **state) {
  (void)state;
  a_cancelled_pass_changes_nothing(NULL);
  a_cancelled_pass_changes_nothing(&all);
}

static void steps_that_are_not_finite(void **state) {
  (void)state;
  corpus *c = new_corpus(1);
  rvl_base *base = new_base(false);
  rvl_trainable *model = new_model(base, &all);
  pass(model, c, true, true);
  rvl_trainable_step(model, &options);
  float *trained = copy_of(model->trained, model->floats);
  float *weights = copy_of(model->weights, model->layout->floats);
  static const float wrong[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    pass(model, c, true, true);
    model->gradient[i * 7] = wrong[i];
    rvl_adamw_result result = rvl_trainable_step(model, &options);
    assert_false(result.finite);
    assert_true(!(fabs(result.norm) <= 1e30));
    assert_int_equal(model->optimizer.step, 1);
    assert_memory_equal(model->trained, trained, model->floats * sizeof *trained);
    assert_memory_equal(model->weights, weights, model->layout->floats * sizeof *weights);
    for (size_t k = 0; k < model->floats; k++) assert_true(fabsf(model->gradient[k]) <= 0);
  }
  pass(model, c, true, false);                       /* and it goes on */
  assert_true(rvl_trainable_step(model, &options).finite);
  rvl_model_free(trained), rvl_model_free(weights);
  rvl_trainable_release(model);
  rvl_base_release(base);
  free(c);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(full_weights_by_hand),
      cmocka_unit_test(adapters_by_hand),
      cmocka_unit_test(a_tied_head_that_is_adapted_by_hand),
      cmocka_unit_test(names),
      cmocka_unit_test(models_share_a_base_and_nothing_else),
      cmocka_unit_test(adapters_begin_as_the_base),
      cmocka_unit_test(cancelled_passes),
      cmocka_unit_test(steps_that_are_not_finite),
  };
  return cmocka_run_group_tests_name("trainable", tests, set_up, tear_down);
}
