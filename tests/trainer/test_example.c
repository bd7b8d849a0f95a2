/* example.c: what becomes of a datum's columns, and what is refused with which words. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nest.h"
#include "trainer/loss.h"

enum { MOST = 1 << 16 };

static const rvl_model_config model = {.vocabulary = 256, .width = 8, .layers = 1, .heads = 1, .hidden = 8,
                                       .context = 8};

/* A datum that is being written. */
typedef struct datum {
  uint8_t *data;
  rvl_nest_writer w;
} datum;

static datum begin(size_t columns) {
  datum d = {.data = malloc(MOST)};
  assert_non_null(d.data);
  d.w = (rvl_nest_writer){.data = d.data, .room = MOST};
  rvl_nest_begin(&d.w);
  rvl_nest_open_dict(&d.w, columns);
  return d;
}

/* Values are doubles here, whatever they become; width 0: a vector. */
static void put_values(datum *d, rvl_dtype dtype, size_t rows, size_t width, const double *values) {
  size_t dims[2] = {rows, width}, count = rows * (width > 0 ? width : 1), size = rvl_dtype_size(dtype);
  char *out = rvl_nest_put_array(&d->w, dtype, width > 0 ? 2 : 1, dims, size);
  assert_true(out != NULL || count == 0);
  for (size_t i = 0; i < count; i++, out += size) {
    float f = (float)values[i];
    int64_t n = rvl_dtype_is_float(dtype) ? 0 : (int64_t)values[i];
    if (dtype == RVL_FLOAT32) memcpy(out, &f, size);
    else if (dtype == RVL_FLOAT64) memcpy(out, &values[i], size);
    else memcpy(out, &n, size);
  }
  rvl_nest_seal(&d->w);
}

static void put_column(datum *d, const char *name, rvl_dtype dtype, size_t rows, size_t width,
                       const double *values) {
  rvl_nest_put_key(&d->w, name, strlen(name));
  put_values(d, dtype, rows, width, values);
}

static rvl_loss loss_of(const char *name, const char *option) {
  rvl_loss loss;
  char refusal[64];
  assert_true(rvl_loss_parse(name, &(rvl_loss_option){option, 1}, option != NULL, &loss, refusal, sizeof refusal));
  return loss;
}

/* The bytes are copied to where reading beyond their end is seen by the sanitizer. */
static rvl_example_result read_datum(datum *d, const rvl_loss *loss, rvl_example *example, char *refusal) {
  assert_false(d->w.failed);
  uint8_t *data = malloc(d->w.at);
  assert_non_null(data);
  memcpy(data, d->data, d->w.at);
  free(d->data);
  d->data = data;
  return rvl_example_read(data, d->w.at, loss, &model, example, refusal);
}

static const double ids[] = {1, 255, 3, 0}, ones[] = {1, 1, 1, 1}, half[] = {0, .5, -.5, 0};

static void all_types_are_taken(void **state) {
  (void)state;
  const double masked[] = {1, 1, 1, 0}, many[] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (rvl_dtype dtype = RVL_INT16; dtype <= RVL_UINT64; dtype++) {
    datum d = begin(6);
    rvl_example e;
    char refusal[RVL_EXAMPLE_REFUSAL] = "";
    put_column(&d, "input_ids", dtype, 4, 0, ids);
    put_column(&d, "weights", dtype % 2 ? RVL_FLOAT64 : RVL_FLOAT32, 4, 2, many);
    put_column(&d, "target_tokens", dtype, 4, 2, many);
    put_column(&d, "extra", RVL_BOOL, 4, 0, masked);
    put_column(&d, "attention_mask", RVL_BOOL, 4, 0, ones);
    put_column(&d, "extra", RVL_INT8, 4, 2, many);
    rvl_loss loss = loss_of("cross_entropy", NULL);
    if (read_datum(&d, &loss, &e, refusal) != RVL_EXAMPLE_OK) fail_msg("%s", refusal);
    assert_int_equal(e.length, 4);
    for (size_t i = 0; i < 4; i++) assert_int_equal(e.ids[i], (int)ids[i]);
    for (size_t i = 0; i < 8; i++) assert_true(e.targets[i] == (int)i + 1 && lround(e.weights[i]) == (int)i + 1);
    assert_true(e.targets_width == 2 && e.weights_width == 2 && e.mask == NULL && e.advantages == NULL);
    assert_int_equal(e.column_count, 5);
    const rvl_column *extra = rvl_example_column(&e, "extra");
    assert_true(extra == &e.columns[3] && extra->dtype == RVL_INT8 && extra->rows == 4 && extra->width == 2);
    assert_int_equal(rvl_column_integer(extra, 7), 8);
    assert_true(lround(rvl_column_number(rvl_example_column(&e, "weights"), 3)) == 4);
    assert_null(rvl_example_column(&e, "advantages"));
    rvl_example_free(&e);
    free(d.data);
  }
}

static void put_chunks(datum *d, const char *type, const char *key, size_t count, const double *tokens) {
  rvl_nest_put_key(&d->w, "model_input", 11);
  rvl_nest_open_list(&d->w, 2);
  for (size_t i = 0; i < 2; i++) {
    rvl_nest_open_dict(&d->w, 2);
    rvl_nest_put_key(&d->w, "type", 4);
    rvl_nest_put_string(&d->w, type, strlen(type));
    rvl_nest_put_key(&d->w, key, strlen(key));
    put_values(d, RVL_INT64, count, 0, tokens);
  }
}

static void chunks_become_tokens(void **state) {
  (void)state;
  const double values[] = {0, -1, .5, 0}, masked[] = {1, 1, 0, 1};
  datum d = begin(4);
  rvl_example e;
  char refusal[RVL_EXAMPLE_REFUSAL] = "";
  put_chunks(&d, "text", "tokens", 2, ids);
  put_column(&d, "old_logprobs", RVL_FLOAT32, 4, 0, values);
  put_column(&d, "advantages", RVL_FLOAT64, 4, 0, values);
  put_column(&d, "attention_mask", RVL_UINT8, 4, 0, masked);
  rvl_loss loss = loss_of("ppo", NULL);
  if (read_datum(&d, &loss, &e, refusal) != RVL_EXAMPLE_OK) fail_msg("%s", refusal);
  const int32_t want[] = {1, 255, 1, 255};
  assert_memory_equal(e.ids, want, sizeof want);
  assert_true(e.length == 4 && e.mask[2] == 0 && e.mask[3] == 1 && e.targets == NULL && e.column_count == 3);
  assert_true(e.old_logprobs[2] < .51 && e.old_logprobs[2] > .49 && e.advantages[1] < -.9);
  rvl_example_free(&e);
  free(d.data);
}

typedef struct column {
  const char *name;
  rvl_dtype dtype;
  size_t rows, width;
  double values[9];
} column;

#define IDS {"input_ids", RVL_INT64, 4, 0, {1, 2, 3, 4}}
#define MASK {"attention_mask", RVL_INT64, 4, 0, {1, 1, 1, 1}}
#define OLD {"old_logprobs", RVL_FLOAT32, 4, 0, {0, -1, -1, 0}}
#define ADVANTAGES {"advantages", RVL_FLOAT32, 4, 0, {0, 1, 1, 0}}
#define WEIGHTS {"weights", RVL_FLOAT32, 4, 0, {0, 1, 1, 0}}
#define TOP {"sampler_topk_ids", RVL_INT32, 4, 2, {0}}

static void what_is_wrong_is_said(void **state) {
  (void)state;
  const struct {
    const char *loss, *option;
    column columns[5];
    const char *refusal;
  } cases[] = {
      {"ppo", NULL, {MASK, OLD, ADVANTAGES}, "exactly one of input_ids and model_input is wanted"},
      {"ppo", NULL, {{"input_ids", RVL_FLOAT32, 4, 0, {1, 2, 3, 4}}, MASK},
       "input_ids is not a vector of integers"},
      {"ppo", NULL, {{"input_ids", RVL_INT64, 0, 0, {0}}, MASK}, "input_ids is empty"},
      {"ppo", NULL, {{"input_ids", RVL_INT32, 4, 0, {1, 2, 3, 300}}, MASK},
       "input_ids[3] is 300, the vocabulary has 256"},
      {"ppo", NULL, {{"input_ids", RVL_INT16, 4, 0, {1, -2, 3, 3}}, MASK},
       "input_ids[1] is -2, the vocabulary has 256"},
      {"ppo", NULL, {{"input_ids", RVL_INT64, 9, 0, {1}}, MASK},
       "input_ids has 9 tokens, the model's context is 8"},
      {"ppo", NULL, {IDS, OLD, ADVANTAGES}, "attention_mask is missing"},
      {"ppo", NULL, {IDS, {"attention_mask", RVL_INT64, 4, 0, {1, 2}}, OLD},
       "attention_mask[1] is 2, 0 or 1 is wanted"},
      {"ppo", NULL, {IDS, {"attention_mask", RVL_INT64, 4, 0, {0}}, OLD}, "attention_mask is all zeros"},
      {"loss_graph_v1", NULL, {IDS, {"attention_mask", RVL_INT64, 4, 0, {1}}},
       "attention_mask has zeros, loss_graph_v1 takes no padding"},
      {"ppo", NULL, {IDS, MASK, OLD}, "ppo needs advantages"},
      {"cross_entropy", NULL, {IDS, MASK, OLD}, "cross_entropy needs weights"},
      {"ppo", NULL, {IDS, MASK, OLD, {"advantages", RVL_FLOAT32, 4, 0, {0, 1, NAN}}}, "advantages[2] is nan"},
      {"ppo", NULL, {IDS, MASK, OLD, {"other", RVL_FLOAT64, 4, 2, {0, 1, 2, -INFINITY}}}, "other[1][1] is -inf"},
      {"ppo", NULL, {IDS, MASK, OLD, {"advantages", RVL_FLOAT32, 3, 0, {0}}},
       "advantages has shape [3], 4 values are wanted"},
      {"ppo", NULL, {IDS, MASK, OLD, {"advantages", RVL_FLOAT32, 4, 2, {0}}}, "advantages has two dimensions"},
      {"ppo", NULL, {IDS, MASK, OLD, ADVANTAGES, {"target_tokens", RVL_FLOAT32, 4, 0, {0}}},
       "target_tokens is float32, integers are wanted"},
      {"ppo", NULL, {IDS, MASK, OLD, ADVANTAGES, {"target_tokens", RVL_INT64, 4, 2, {0}}},
       "target_tokens has two dimensions"},
      {"ppo", NULL, {IDS, MASK, OLD, ADVANTAGES, {"target_tokens", RVL_INT64, 4, 0, {0, 0, 256}}},
       "target_tokens[2] is 256, the vocabulary has 256"},
      {"cross_entropy", NULL, {IDS, MASK, {"weights", RVL_FLOAT32, 4, 2, {0}}},
       "weights has two dimensions and there are no target_tokens"},
      {"cross_entropy", NULL, {IDS, MASK, WEIGHTS, {"target_tokens", RVL_INT64, 4, 1, {0}}},
       "target_tokens and weights have different shapes"},
      {"echo_cispo", NULL, {IDS, MASK, OLD, ADVANTAGES, {"echo_weights", RVL_FLOAT32, 4, 0, {0, 1, 0, -.5}}},
       "echo_weights[3] is -0.5, below zero"},
      {"cispo", "score_centering", {IDS, MASK, OLD, ADVANTAGES, TOP},
       "score_centering needs sampler_topk_ids and sampler_topk_logprobs"},
      {"ppo", NULL, {IDS, MASK, {"expert_routing_handle", RVL_UINT8, 0, 0, {0}}},
       "expert_routing_handle is not 1 to 4096 bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t count = 0;
    while (count < 5 && cases[i].columns[count].name != NULL) count++;
    datum d = begin(count);
    for (size_t k = 0; k < count; k++) {
      const column *c = &cases[i].columns[k];
      put_column(&d, c->name, c->dtype, c->rows, c->width, c->values);
    }
    rvl_example e;
    char refusal[RVL_EXAMPLE_REFUSAL] = "";
    rvl_loss loss = loss_of(cases[i].loss, cases[i].option);
    assert_int_equal(read_datum(&d, &loss, &e, refusal), RVL_EXAMPLE_REFUSED);
    assert_string_equal(refusal, cases[i].refusal);
    assert_null(e.memory);
    free(d.data);
  }
}

static void is_refused(datum *d, const char *loss_name, const char *want) {
  rvl_example e;
  char refusal[RVL_EXAMPLE_REFUSAL] = "";
  rvl_loss loss = loss_of(loss_name, NULL);
  assert_int_equal(read_datum(d, &loss, &e, refusal), RVL_EXAMPLE_REFUSED);
  assert_string_equal(refusal, want);
  free(d->data);
}

static void chunks_that_are_none_are_refused(void **state) {
  (void)state;
  datum d = begin(1);
  put_chunks(&d, "image", "data", 2, ids);
  is_refused(&d, "ppo", "model_input[0] is an image: the models of this trainer see text only");
  d = begin(1);
  put_chunks(&d, "text", "words", 2, ids);
  is_refused(&d, "ppo", "model_input[0] is neither a text nor an image chunk");
  d = begin(1);
  put_chunks(&d, "text", "tokens", 0, ids);
  is_refused(&d, "ppo", "model_input is empty");
  d = begin(3);
  put_chunks(&d, "text", "tokens", 2, (const double[]){3, 999});
  put_column(&d, "old_logprobs", RVL_FLOAT32, 4, 0, half);
  put_column(&d, "advantages", RVL_FLOAT32, 4, 0, half);
  is_refused(&d, "ppo", "model_input[0]: tokens[1] is 999, the vocabulary has 256");
  d = begin(2);
  put_column(&d, "attention_mask", RVL_INT64, 4, 0, ones);
  put_chunks(&d, "text", "tokens", 2, ids);
  is_refused(&d, "ppo", "model_input is not the first key");
  d = begin(1);
  rvl_nest_put_key(&d.w, "text", 4);
  rvl_nest_put_string(&d.w, "x", 1);
  is_refused(&d, "ppo", "text is not an array");
  d = begin(1);
  rvl_nest_put_key(&d.w, "weights\0x", 9);
  put_values(&d, RVL_INT8, 4, 0, ones);
  is_refused(&d, "ppo", "the name of a column has a zero byte");
  d = begin(100);
  is_refused(&d, "ppo", "not a NEST datum: it ends too early");
}

/* Names are cut between characters. */
static void long_names_are_cut(void **state) {
  (void)state;
  char name[101], want[160] = "x";
  memset(name, 'x', sizeof name);
  for (size_t i = 0; i < 50; i++) memcpy(name + 1 + 2 * i, "\xc3\xa9", 2);
  memcpy(want, name, 63);
  memcpy(want + 63, " is not an array", 17);
  datum d = begin(1);
  rvl_nest_put_key(&d.w, name, sizeof name);
  rvl_nest_put_string(&d.w, "x", 1);
  is_refused(&d, "ppo", want);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_types_are_taken),      cmocka_unit_test(chunks_become_tokens),
      cmocka_unit_test(what_is_wrong_is_said),    cmocka_unit_test(chunks_that_are_none_are_refused),
      cmocka_unit_test(long_names_are_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
