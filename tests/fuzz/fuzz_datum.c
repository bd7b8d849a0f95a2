/*
 * Fuzz target: datums of training requests (src/trainer/example.c), and every loss over those that are taken
 * (src/trainer/loss.c).
 *
 * Whatever the bytes, there is an example whose tokens are the model's, or a refusal in UTF-8. The first byte
 * chooses the loss, the second whether checksums are made right first, without which few inputs would get far.
 */
#include "nest.h"
#include "trainer/loss.h"
#include "utf8.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { VOCABULARY = 8, CONTEXT = 64 };

static bool is_utf8(const char *text) {
  const unsigned char *at = (const unsigned char *)text, *end = at + strlen(text);
  while (at < end) {
    size_t bad, n = rvl_utf8_sequence(at, end, &bad);
    if (n == 0) return false;
    at += n;
  }
  return true;
}

static void wanted(bool condition) {
  if (!condition) abort();
}

/* Walks as far as it goes; true: a checksum has been made right, and all has to be walked again. */
static bool repair(rvl_nest_reader *r, uint8_t *data, int depth) {
  rvl_nest_value v;
  if (depth > RVL_NEST_DEPTH) return false;
  if (!rvl_nest_read(r, &v)) {
    if (v.raw == NULL || v.size > r->length) return false;
    uint64_t sum = XXH64(v.raw, v.size, RVL_NEST_SEED);
    bool changed = false;
    for (size_t i = 0; i < 8; i++) {
      changed = changed || data[v.checksum_at + i] != (uint8_t)(sum >> 8 * i);
      data[v.checksum_at + i] = (uint8_t)(sum >> 8 * i);
    }
    return changed;
  }
  if (v.kind != RVL_NEST_DICT && v.kind != RVL_NEST_LIST) return false;
  for (size_t i = 0; i < v.count && r->error == NULL; i++) {
    const char *key;
    size_t length;
    if (v.kind == RVL_NEST_DICT && !rvl_nest_read_key(r, &key, &length)) return false;
    if (repair(r, data, depth + 1)) return true;
  }
  return false;
}

static void use(const rvl_loss *loss, const rvl_example *e) {
  float *logits = calloc(e->length * VOCABULARY, sizeof *logits), *logprobs = calloc(e->length, sizeof *logprobs);
  rvl_loss_sums sums = {{0}, {0}, 0, 0};
  rvl_metric metrics[RVL_METRICS];
  wanted(logits != NULL && logprobs != NULL);
  for (size_t i = 0; i < e->length; i++) wanted(e->ids[i] >= 0 && e->ids[i] < VOCABULARY);
  if (loss->kind != RVL_LOSS_GRAPH) {
    wanted(rvl_loss_apply(loss, rvl_kernels_pick(), e, VOCABULARY, logits, true, logprobs, &sums));
    wanted(rvl_loss_metrics(loss, &sums, metrics) <= RVL_METRICS);
  }
  for (size_t i = 0; i < e->column_count; i++) {
    const rvl_column *c = &e->columns[i];
    wanted(rvl_example_column(e, c->name) == c);
    for (size_t k = 0; k < c->count; k++) {
      int64_t integer = rvl_column_integer(c, k);
      double number = rvl_column_number(c, k);
      wanted(rvl_dtype_is_float(c->dtype) || integer == INT64_MAX || fabs(number - (double)integer) < 1);
    }
  }
  free(logits);
  free(logprobs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const rvl_model_config model = {.vocabulary = VOCABULARY, .width = 8, .layers = 1, .heads = 1,
                                         .hidden = 8, .context = CONTEXT};
  if (size < 2) return 0;
  rvl_loss loss;
  char refusal[RVL_EXAMPLE_REFUSAL] = "";
  rvl_loss_kind kind = (rvl_loss_kind)(data[0] % RVL_LOSS_KINDS);
  bool centred = kind == RVL_LOSS_CISPO || kind == RVL_LOSS_ECHO_CISPO;
  const rvl_loss_option option = {"score_centering", 1};
  wanted(rvl_loss_parse(rvl_loss_name(kind), &option, centred && data[0] & 0x80, &loss, refusal, sizeof refusal));
  bool right = data[1] & 1;
  size_t length = size - 2;
  uint8_t *copy = malloc(length + 1);
  wanted(copy != NULL);
  memcpy(copy, data + 2, length);
  rvl_nest_reader r;
  for (int i = 0; right && i < 200; i++)
    if (!rvl_nest_open(&r, copy, length) || !repair(&r, copy, 0)) break;
  rvl_example e;
  rvl_example_result result = rvl_example_read(copy, length, &loss, &model, &e, refusal);
  if (result == RVL_EXAMPLE_OK) use(&loss, &e);
  else wanted(result == RVL_EXAMPLE_REFUSED && strlen(refusal) > 0 && is_utf8(refusal) && e.memory == NULL);
  rvl_example_free(&e);
  free(copy);
  return 0;
}
