#include "example.h"
#include "loss.h"
#include "nest.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_NAME = 64, SHOWN_DIMS = 4 };

/* An array of the datum, as it was found. */
typedef struct entry {
  const char *name;
  size_t name_length;
  rvl_nest_value value;
} entry;

typedef struct reading {
  const rvl_loss *loss;
  const rvl_model_config *model;
  char *refusal;
  entry entries[RVL_EXAMPLE_COLUMNS];
  size_t count, names;         /* entries; bytes that their names take */
  size_t keys;                 /* of the dict, so far */
  rvl_nest_reader chunks;      /* where the chunks of model_input begin */
  size_t chunk_count;
  bool has_chunks;
  size_t length;               /* tokens */
} reading;

/* ---- refusals ----------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3)))
static bool refuse(reading *r, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(r->refusal, RVL_EXAMPLE_REFUSAL, format, arguments);
  va_end(arguments);
  return false;
}

int rvl_example_shown(const char *name, size_t length) {
  size_t n = length;
  if (n > SHOWN_NAME) {
    n = SHOWN_NAME;
    while (n > 0 && ((unsigned char)name[n] & 0xc0) == 0x80) n--;
  }
  return (int)n;
}

static int shown(const entry *e) { return rvl_example_shown(e->name, e->name_length); }

static bool refuse_entry(reading *r, const entry *e, const char *what) {
  return refuse(r, "%.*s %s", shown(e), e->name, what);
}

static bool refuse_shape(reading *r, const entry *e) {
  char dims[SHOWN_DIMS * 24 + 8] = "";
  size_t at = 0;
  for (size_t i = 0; i < e->value.ndim && i < SHOWN_DIMS; i++) {
    at += (size_t)snprintf(dims + at, sizeof dims - at, "%s%zu", i > 0 ? ", " : "", rvl_nest_dim(&e->value, i));
  }
  if (e->value.ndim > SHOWN_DIMS) snprintf(dims + at, sizeof dims - at, ", …");
  return refuse(r, "%.*s has shape [%s], %zu values are wanted", shown(e), e->name, dims, r->length);
}

/* " is 300, the vocabulary has 256", of the element i. */
__attribute__((format(printf, 4, 5)))
static bool refuse_element(reading *r, const entry *e, size_t i, const char *format, ...) {
  char what[128];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  size_t width = e->value.ndim == 2 ? rvl_nest_dim(&e->value, 1) : 0;
  if (width > 0) return refuse(r, "%.*s[%zu][%zu]%s", shown(e), e->name, i / width, i % width, what);
  return refuse(r, "%.*s[%zu]%s", shown(e), e->name, i, what);
}

/* ---- elements ----------------------------------------------------------------------------------------- */

static bool is_float(const entry *e) { return e->value.dtype == RVL_FLOAT32 || e->value.dtype == RVL_FLOAT64; }

static bool is_integer(const entry *e) { return e->value.dtype != RVL_BOOL && !is_float(e); }

#define LOAD(type, data, i, element) \
  type element;                      \
  memcpy(&element, (const char *)(data) + (i) * sizeof element, sizeof element)

int64_t rvl_column_integer(const rvl_column *c, size_t i) {
  switch (c->dtype) {
    case RVL_BOOL: { LOAD(uint8_t, c->data, i, x); return x != 0; }
    case RVL_INT8: { LOAD(int8_t, c->data, i, x); return x; }
    case RVL_INT16: { LOAD(int16_t, c->data, i, x); return x; }
    case RVL_INT32: { LOAD(int32_t, c->data, i, x); return x; }
    case RVL_INT64: { LOAD(int64_t, c->data, i, x); return x; }
    case RVL_UINT8: { LOAD(uint8_t, c->data, i, x); return x; }
    case RVL_UINT16: { LOAD(uint16_t, c->data, i, x); return x; }
    case RVL_UINT32: { LOAD(uint32_t, c->data, i, x); return x; }
    case RVL_UINT64: { LOAD(uint64_t, c->data, i, x); return x > INT64_MAX ? INT64_MAX : (int64_t)x; }
    default: return 0;
  }
}

double rvl_column_number(const rvl_column *c, size_t i) {
  switch (c->dtype) {
    case RVL_FLOAT32: { LOAD(float, c->data, i, x); return (double)x; }
    case RVL_FLOAT64: { LOAD(double, c->data, i, x); return x; }
    case RVL_UINT64: { LOAD(uint64_t, c->data, i, x); return (double)x; }
    default: return (double)rvl_column_integer(c, i);
  }
}

static rvl_column column_of(const entry *e) {
  const rvl_nest_value *v = &e->value;
  return (rvl_column){.dtype = (rvl_dtype)v->dtype, .rows = v->ndim > 0 ? rvl_nest_dim(v, 0) : 1,
                      .width = v->ndim == 2 ? rvl_nest_dim(v, 1) : 0, .count = v->count, .data = v->raw};
}

/* ---- the bytes ---------------------------------------------------------------------------------------- */

static bool refuse_bytes(reading *r, const rvl_nest_reader *n) {
  return refuse(r, "not a NEST datum: %s", n->error);
}

static bool is_text(const rvl_nest_value *v, const char *text) {
  return v->kind == RVL_NEST_STRING && v->size == strlen(text) && memcmp(v->raw, text, v->size) == 0;
}

static bool is_key(const char *key, size_t length, const char *text) {
  return length == strlen(text) && memcmp(key, text, length) == 0;
}

/* One chunk of model_input: its tokens. */
static bool read_chunk(reading *r, rvl_nest_reader *n, size_t number, entry *tokens) {
  rvl_nest_value chunk, v;
  bool is_chunk = true, has_tokens = false, text = false, image = false;
  if (!rvl_nest_read(n, &chunk)) return refuse_bytes(r, n);
  size_t count = chunk.kind == RVL_NEST_DICT ? chunk.count : 0;
  for (size_t i = 0; i < count && is_chunk; i++) {
    const char *key;
    size_t length;
    if (!rvl_nest_read_key(n, &key, &length) || !rvl_nest_read(n, &v)) return refuse_bytes(r, n);
    if (v.kind == RVL_NEST_DICT || v.kind == RVL_NEST_LIST) {
      is_chunk = false;
    } else if (is_key(key, length, "type")) {
      text = is_text(&v, "text");
      image = is_text(&v, "image");
    } else if (is_key(key, length, "tokens")) {
      has_tokens = true;
      *tokens = (entry){.name = "tokens", .name_length = 6, .value = v};
    }
  }
  if (is_chunk && image) {
    return refuse(r, "model_input[%zu] is an image: the models of this trainer see text only", number);
  }
  if (!is_chunk || !text || !has_tokens || count != 2) {
    return refuse(r, "model_input[%zu] is neither a text nor an image chunk", number);
  }
  if (tokens->value.kind != RVL_NEST_ARRAY || tokens->value.ndim != 1 || !is_integer(tokens)) {
    return refuse(r, "model_input[%zu]: tokens is not a vector of integers", number);
  }
  return true;
}

static bool read_chunks(reading *r, rvl_nest_reader *n, const rvl_nest_value *list) {
  entry tokens;
  if (r->keys != 1) return refuse(r, "model_input is not the first key");
  if (list->kind != RVL_NEST_LIST || list->count == 0) return refuse(r, "model_input is not a list of chunks");
  r->has_chunks = true;
  r->chunks = *n;
  r->chunk_count = list->count;
  for (size_t i = 0; i < list->count; i++) {
    if (!read_chunk(r, n, i, &tokens)) return false;
    r->length += tokens.value.count;
  }
  return r->length > 0 || refuse(r, "model_input is empty");
}

static entry *find(reading *r, const char *name) {
  for (size_t i = 0; i < r->count; i++) {
    if (is_key(r->entries[i].name, r->entries[i].name_length, name)) return &r->entries[i];
  }
  return NULL;
}

static bool add_entry(reading *r, const entry *e) {
  if (memchr(e->name, 0, e->name_length) != NULL) return refuse(r, "the name of a column has a zero byte");
  if (e->value.kind != RVL_NEST_ARRAY) return refuse_entry(r, e, "is not an array");
  for (size_t i = 0; i < r->count; i++) {
    entry *before = &r->entries[i];
    if (before->name_length == e->name_length && memcmp(before->name, e->name, e->name_length) == 0) {
      *before = *e;
      return true;
    }
  }
  if (r->count == RVL_EXAMPLE_COLUMNS) return refuse(r, "there are more than %d columns", RVL_EXAMPLE_COLUMNS);
  r->entries[r->count++] = *e;
  r->names += e->name_length + 1;
  return true;
}

static bool read_entries(reading *r, const uint8_t *nest, size_t length) {
  rvl_nest_reader n;
  rvl_nest_value dict;
  if (!rvl_nest_open(&n, nest, length) || !rvl_nest_read(&n, &dict)) return refuse_bytes(r, &n);
  if (dict.kind != RVL_NEST_DICT) return refuse(r, "a dict of columns is wanted");
  for (size_t i = 0; i < dict.count; i++) {
    entry e;
    if (!rvl_nest_read_key(&n, &e.name, &e.name_length)) return refuse_bytes(r, &n);
    if (!rvl_nest_read(&n, &e.value)) return refuse_bytes(r, &n);
    r->keys++;
    if (is_key(e.name, e.name_length, "model_input")) {
      if (!read_chunks(r, &n, &e.value)) return false;
    } else if (!add_entry(r, &e)) {
      return false;
    }
  }
  return rvl_nest_end(&n) || refuse_bytes(r, &n);
}

/* ---- checks ------------------------------------------------------------------------------------------- */

static bool one_of(const entry *e, const char *const *names) {
  for (; *names != NULL; names++) {
    if (is_key(e->name, e->name_length, *names)) return true;
  }
  return false;
}

static bool check_input(reading *r) {
  const entry *ids = find(r, "input_ids");
  if ((ids != NULL) == r->has_chunks) return refuse(r, "exactly one of input_ids and model_input is wanted");
  if (ids != NULL) {
    if (ids->value.ndim != 1 || !is_integer(ids)) return refuse_entry(r, ids, "is not a vector of integers");
    if (ids->value.count == 0) return refuse_entry(r, ids, "is empty");
    r->length = ids->value.count;
  }
  return r->length <= r->model->context ||
         refuse(r, "%s has %zu tokens, the model's context is %" PRIu32, ids != NULL ? "input_ids" : "model_input",
                r->length, r->model->context);
}

static bool check_finite(reading *r, const entry *e) {
  rvl_column c = column_of(e);
  for (size_t i = 0; is_float(e) && i < c.count; i++) {
    double x = rvl_column_number(&c, i);
    if (!isfinite(x)) return refuse_element(r, e, i, " is %s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
  }
  return true;
}

static bool check_range(reading *r, const entry *e, int64_t least) {
  rvl_column c = column_of(e);
  for (size_t i = 0; i < c.count; i++) {
    int64_t x = rvl_column_integer(&c, i);
    if (x < least || x >= (int64_t)r->model->vocabulary) {
      return refuse_element(r, e, i, " is %" PRId64 ", the vocabulary has %" PRIu32, x, r->model->vocabulary);
    }
  }
  return true;
}

static bool check_routing(reading *r, const entry *e) {
  const rvl_nest_value *v = &e->value;
  return (v->dtype == RVL_UINT8 && v->ndim == 1 && v->count >= 1 && v->count <= 4096) ||
         refuse_entry(r, e, "is not 1 to 4096 bytes");
}

static bool check_column(reading *r, const entry *e) {
  static const char *const vectors[] = {"input_ids", "attention_mask", "old_logprobs", "advantages",
                                        "echo_weights", NULL};
  static const char *const integers[] = {"input_ids", "attention_mask", "target_tokens", "sampler_topk_ids",
                                         "policy_age_steps", NULL};
  static const char of_graph[] = "__river_loss_";
  const rvl_nest_value *v = &e->value;
  bool graph = r->loss->kind == RVL_LOSS_GRAPH && e->name_length >= sizeof of_graph - 1 &&
               memcmp(e->name, of_graph, sizeof of_graph - 1) == 0;
  if (is_key(e->name, e->name_length, "expert_routing_handle")) return check_routing(r, e);
  if (v->ndim == 0 || v->ndim > 2) return refuse_shape(r, e);
  if (graph) return true;      /* the graph says what it wants */
  if (rvl_nest_dim(v, 0) != r->length) return refuse_shape(r, e);
  if (v->ndim == 2 && rvl_nest_dim(v, 1) == 0) return refuse_entry(r, e, "has rows without values");
  if (v->ndim == 2 && one_of(e, vectors)) return refuse_entry(r, e, "has two dimensions");
  if (one_of(e, integers) && is_float(e)) {
    return refuse(r, "%.*s is %s, integers are wanted", shown(e), e->name, rvl_dtype_name((rvl_dtype)v->dtype));
  }
  return check_finite(r, e);
}

static bool check_mask(reading *r) {
  const entry *e = find(r, "attention_mask");
  if (e == NULL) return r->has_chunks || refuse(r, "attention_mask is missing");
  rvl_column c = column_of(e);
  size_t ones = 0;
  for (size_t i = 0; i < c.count; i++) {
    int64_t x = rvl_column_integer(&c, i);
    if (x != 0 && x != 1) return refuse_element(r, e, i, " is %" PRId64 ", 0 or 1 is wanted", x);
    ones += x == 1;
  }
  if (r->loss->kind == RVL_LOSS_GRAPH && ones < c.count) {
    return refuse_entry(r, e, "has zeros, loss_graph_v1 takes no padding");
  }
  return ones > 0 || refuse_entry(r, e, "is all zeros");
}

static bool is_same_shape(const entry *a, const entry *b) {
  rvl_column x = column_of(a), y = column_of(b);
  return a->value.ndim == b->value.ndim && x.rows == y.rows && x.width == y.width;
}

static bool check_targets(reading *r, const entry *targets) {
  const entry *weights = find(r, "weights");
  if (r->loss->kind != RVL_LOSS_CROSS_ENTROPY) {
    if (targets != NULL && targets->value.ndim != 1) return refuse_entry(r, targets, "has two dimensions");
  } else if (targets == NULL) {
    if (weights->value.ndim != 1) return refuse(r, "weights has two dimensions and there are no target_tokens");
  } else if (!is_same_shape(weights, targets)) {
    return refuse(r, "target_tokens and weights have different shapes");
  }
  return targets == NULL || check_range(r, targets, 0);
}

static bool check_echo(reading *r) {
  const entry *e = find(r, "echo_weights");
  rvl_column c = column_of(e);
  for (size_t i = 0; i < c.count; i++) {
    double x = rvl_column_number(&c, i);
    if (x < 0) return refuse_element(r, e, i, " is %g, below zero", x);
  }
  return true;
}

static bool check_sampler(reading *r) {
  const entry *ids = find(r, "sampler_topk_ids"), *logprobs = find(r, "sampler_topk_logprobs");
  if (ids == NULL || logprobs == NULL) {
    return refuse(r, "score_centering needs sampler_topk_ids and sampler_topk_logprobs");
  }
  if (ids->value.ndim != 2) return refuse_entry(r, ids, "is not a matrix");
  if (!is_same_shape(ids, logprobs)) {
    return refuse(r, "sampler_topk_ids and sampler_topk_logprobs have different shapes");
  }
  if (rvl_nest_dim(&ids->value, 1) > RVL_EXAMPLE_TOP_K) {
    return refuse(r, "sampler_topk_ids has %zu tokens a position, %d are the most", rvl_nest_dim(&ids->value, 1),
                  RVL_EXAMPLE_TOP_K);
  }
  return check_range(r, ids, INT64_MIN);
}

static bool check_needs(reading *r) {
  static const char *const needs[RVL_LOSS_KINDS][4] = {
      [RVL_LOSS_CROSS_ENTROPY] = {"weights"},
      [RVL_LOSS_IMPORTANCE_SAMPLING] = {"old_logprobs", "advantages"},
      [RVL_LOSS_PPO] = {"old_logprobs", "advantages"},
      [RVL_LOSS_CISPO] = {"old_logprobs", "advantages"},
      [RVL_LOSS_ECHO_CISPO] = {"old_logprobs", "advantages", "echo_weights"},
      [RVL_LOSS_DRO] = {"old_logprobs", "advantages"},
  };
  rvl_loss_kind kind = r->loss->kind;
  for (size_t i = 0; needs[kind][i] != NULL; i++) {
    if (find(r, needs[kind][i]) == NULL) return refuse(r, "%s needs %s", rvl_loss_name(kind), needs[kind][i]);
  }
  if (kind == RVL_LOSS_GRAPH) return true;
  return check_targets(r, find(r, "target_tokens")) && (kind != RVL_LOSS_ECHO_CISPO || check_echo(r)) &&
         (!r->loss->score_centering || check_sampler(r));
}

static bool check(reading *r) {
  if (!check_input(r)) return false;
  for (size_t i = 0; i < r->count; i++) {
    if (!check_column(r, &r->entries[i])) return false;
  }
  const entry *ids = find(r, "input_ids");
  return (ids == NULL || check_range(r, ids, 0)) && check_mask(r) && check_needs(r);
}

/* ---- the example -------------------------------------------------------------------------------------- */

/* Measures while `data` is NULL. */
typedef struct memory {
  char *data;
  size_t at;
} memory;

static void *take(memory *m, size_t size) {
  void *part = m->data != NULL ? m->data + m->at : NULL;
  m->at += (size + 7) / 8 * 8;
  return part;
}

static const double *take_numbers(memory *m, const entry *e, size_t *width) {
  if (e == NULL) return NULL;
  rvl_column c = column_of(e);
  double *numbers = take(m, c.count * sizeof *numbers);
  for (size_t i = 0; numbers != NULL && i < c.count; i++) numbers[i] = rvl_column_number(&c, i);
  if (width != NULL) *width = c.width;
  return numbers;
}

/* Those below `least` become it. */
static const int32_t *take_tokens(memory *m, const entry *e, int32_t least, size_t *width) {
  if (e == NULL) return NULL;
  rvl_column c = column_of(e);
  int32_t *tokens = take(m, c.count * sizeof *tokens);
  for (size_t i = 0; tokens != NULL && i < c.count; i++) {
    int64_t x = rvl_column_integer(&c, i);
    tokens[i] = x < least ? least : (int32_t)x;
  }
  if (width != NULL) *width = c.width;
  return tokens;
}

/* The tokens of the chunks, which are checked only now; false: refused. */
static bool take_chunks(reading *r, memory *m, rvl_example *example) {
  int32_t *ids = take(m, r->length * sizeof *ids);
  rvl_nest_reader n = r->chunks;
  example->ids = ids;
  for (size_t i = 0; ids != NULL && i < r->chunk_count; i++) {
    entry e;
    if (!read_chunk(r, &n, i, &e)) return false;
    rvl_column c = column_of(&e);
    for (size_t k = 0; k < c.count; k++) {
      int64_t x = rvl_column_integer(&c, k);
      if (x < 0 || x >= (int64_t)r->model->vocabulary) {
        return refuse(r, "model_input[%zu]: tokens[%zu] is %" PRId64 ", the vocabulary has %" PRIu32, i, k, x,
                      r->model->vocabulary);
      }
      *ids++ = (int32_t)x;
    }
  }
  return true;
}

static const uint8_t *take_mask(memory *m, const entry *e) {
  if (e == NULL) return NULL;
  rvl_column c = column_of(e);
  uint8_t *mask = take(m, c.count);
  bool all = true;
  for (size_t i = 0; mask != NULL && i < c.count; i++) {
    mask[i] = (uint8_t)rvl_column_integer(&c, i);
    all = all && mask[i] == 1;
  }
  return all ? NULL : mask;
}

static void take_columns(reading *r, memory *m, rvl_example *example) {
  rvl_column *columns = take(m, r->count * sizeof *columns);
  char *names = take(m, r->names);
  for (size_t i = 0; columns != NULL && i < r->count; i++) {
    const entry *e = &r->entries[i];
    columns[i] = column_of(e);
    columns[i].name = names;
    memcpy(names, e->name, e->name_length);
    names[e->name_length] = 0;
    names += e->name_length + 1;
  }
  example->columns = columns;
  example->column_count = r->count;
}

static bool take_all(reading *r, memory *m, rvl_example *example) {
  const rvl_loss *loss = r->loss;
  bool graph = loss->kind == RVL_LOSS_GRAPH, cross = loss->kind == RVL_LOSS_CROSS_ENTROPY;
  *example = (rvl_example){.length = r->length};
  take_columns(r, m, example);
  if (!graph) example->targets = take_tokens(m, find(r, "target_tokens"), 0, &example->targets_width);
  if (cross) example->weights = take_numbers(m, find(r, "weights"), &example->weights_width);
  if (!graph && !cross) {
    example->old_logprobs = take_numbers(m, find(r, "old_logprobs"), NULL);
    example->advantages = take_numbers(m, find(r, "advantages"), NULL);
  }
  if (loss->kind == RVL_LOSS_ECHO_CISPO) example->echo_weights = take_numbers(m, find(r, "echo_weights"), NULL);
  if (loss->score_centering) {
    example->sampler_ids = take_tokens(m, find(r, "sampler_topk_ids"), -1, &example->sampler_width);
    example->sampler_logprobs = take_numbers(m, find(r, "sampler_topk_logprobs"), NULL);
  }
  example->mask = take_mask(m, find(r, "attention_mask"));
  if (r->has_chunks) return take_chunks(r, m, example);
  example->ids = take_tokens(m, find(r, "input_ids"), 0, NULL);
  return true;
}

rvl_example_result rvl_example_read(const uint8_t *nest, size_t length, const rvl_loss *loss,
                                    const rvl_model_config *model, rvl_example *example,
                                    char refusal[RVL_EXAMPLE_REFUSAL]) {
  reading r = {.loss = loss, .model = model, .refusal = refusal};
  *example = (rvl_example){0};
  if (!read_entries(&r, nest, length) || !check(&r)) return RVL_EXAMPLE_REFUSED;
  memory m = {0};              /* an element takes at least one byte of the datum, and at most eight here */
  if (length > PTRDIFF_MAX / 64) return RVL_EXAMPLE_NO_MEMORY;
  take_all(&r, &m, example);
  m = (memory){.data = malloc(m.at)};
  if (m.data == NULL) return RVL_EXAMPLE_NO_MEMORY;
  if (!take_all(&r, &m, example)) {
    free(m.data);
    *example = (rvl_example){0};
    return RVL_EXAMPLE_REFUSED;
  }
  example->memory = m.data;
  return RVL_EXAMPLE_OK;
}

void rvl_example_free(rvl_example *example) {
  free(example->memory);
  *example = (rvl_example){0};
}

const rvl_column *rvl_example_column(const rvl_example *example, const char *name) {
  for (size_t i = 0; i < example->column_count; i++) {
    if (strcmp(example->columns[i].name, name) == 0) return &example->columns[i];
  }
  return NULL;
}
