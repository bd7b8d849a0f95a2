/* Buffers of a transformer, and how its forward and backward walk over a batch: see transformer_parts.h. */
#include "transformer_parts.h"

#include <limits.h>
#include <stdlib.h>

rvl_transformer *rvl_transformer_new(const rvl_model_layout *layout, const rvl_blas *blas) {
  const rvl_model_config *c = &layout->config;
  rvl_transformer *t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  *t = (rvl_transformer){.layout = layout, .blas = blas, .kernels = rvl_kernels_pick(), .width = c->width,
                         .hidden = c->hidden, .vocabulary = c->vocabulary, .head_width = c->width / c->heads};
  t->layers = calloc(c->layers, sizeof *t->layers);
  if (t->layers == NULL) {
    rvl_transformer_free(t);
    return NULL;
  }
  return t;
}

static void free_rows(rvl_rows *rows) {
  rvl_model_free(rows->floats);
  *rows = (rvl_rows){0};
}

void rvl_transformer_free(rvl_transformer *t) {
  if (t == NULL) return;
  for (uint32_t i = 0; t->layers != NULL && i < t->layout->config.layers; i++) free_rows(&t->layers[i].rows);
  free(t->layers);
  free_rows(&t->shared);
  free_rows(&t->gradients);
  free_rows(&t->scratch);
  free_rows(&t->turns);
  free(t);
}

size_t rvl_transformer_tokens(const rvl_model_config *c) {
  /* A micro-batch reads all weights and writes all gradients once: the larger they are, the more tokens must share
     that; the smaller they are, the more it pays that all activations stay in the second-level cache. */
  return c->width <= 128 ? 128 : 256;
}

bool rvl_rows_reserve(rvl_rows *rows, size_t count) {
  if (count <= rows->capacity) return true;
  free_rows(rows);
  rows->floats = rvl_model_floats(count);
  if (rows->floats == NULL) return false;
  rows->capacity = count;
  return true;
}

/* Takes `count` floats, rounded up to whole cache lines. */
static float *take(float **next, size_t count) {
  float *p = *next;
  *next += rvl_padded(count);
  return p;
}

/* Floats of the attention probabilities that are kept: of sequences that are short. */
static size_t kept_floats(const rvl_transformer *t, const rvl_batch *batch) {
  size_t total = 0;
  for (size_t i = 0; i < batch->sequences; i++) {
    size_t length = batch->starts[i + 1] - batch->starts[i];
    if (length <= RVL_TRANSFORMER_KEPT) total += length * rvl_padded(length) * t->layout->config.heads;
  }
  return total;
}

static bool place_layer(const rvl_transformer *t, rvl_layer *l, size_t n, size_t kept) {
  size_t d = t->width, heads = t->layout->config.heads;
  size_t all = 3 * rvl_padded(n * d) + rvl_padded(3 * n * d) + rvl_padded(n * t->hidden) + 2 * rvl_padded(n) +
               rvl_padded(n * heads) + rvl_padded(kept);
  if (!rvl_rows_reserve(&l->rows, all)) return false;
  float *next = l->rows.floats;
  l->normalized1 = take(&next, n * d);
  l->normalized2 = take(&next, n * d);
  l->qkv = take(&next, 3 * n * d);
  l->attention = take(&next, n * d);
  l->up = take(&next, n * t->hidden);
  l->inverse1 = take(&next, n);
  l->inverse2 = take(&next, n);
  l->logsum = take(&next, n * heads);
  l->kept = kept > 0 ? take(&next, kept) : NULL;
  return true;
}

/* What all layers share, of n tokens. */
static bool place_shared(rvl_transformer *t, size_t n) {
  size_t d = t->width;
  size_t all = 3 * rvl_padded(n * d) + rvl_padded(n * t->hidden) + rvl_padded(n * t->vocabulary) + rvl_padded(n);
  if (!rvl_rows_reserve(&t->shared, all)) return false;
  float *next = t->shared.floats;
  t->x = take(&next, n * d);
  t->y = take(&next, n * d);
  t->normalized = take(&next, n * d);
  t->gelu = take(&next, n * t->hidden);
  t->logits = take(&next, n * t->vocabulary);
  t->inverse = take(&next, n);
  return true;
}

/* Positions are known up to the longest sequence so far. */
static bool place_turns(rvl_transformer *t, size_t longest) {
  const rvl_model_config *c = &t->layout->config;
  if (c->positions != RVL_POSITIONS_ROTARY || longest <= t->positions) return true;
  size_t positions = t->positions * 2 > longest ? t->positions * 2 : longest;
  if (positions > c->context) positions = longest;
  t->positions = 0;
  if (!rvl_rows_reserve(&t->turns, positions * t->head_width)) return false;
  rvl_rotary_table(positions, t->head_width, c->rotary_base, t->turns.floats);
  t->positions = positions;
  return true;
}

bool rvl_transformer_place(rvl_transformer *t, const rvl_batch *batch, bool backward) {
  size_t n = batch->tokens, longest = 0, kept = backward ? kept_floats(t, batch) : 0;
  if (n > INT_MAX) return false;
  for (size_t i = 0; i < batch->sequences; i++) {
    size_t length = batch->starts[i + 1] - batch->starts[i];
    if (length > longest) longest = length;
  }
  for (uint32_t i = 0; i < t->layout->config.layers; i++) {
    if (i > 0 && !backward) t->layers[i] = (rvl_layer){.rows = t->layers[i].rows};
    else if (!place_layer(t, &t->layers[i], n, kept)) return false;
  }
  size_t scratch = rvl_head_scratch(longest, t->head_width);
  if (scratch < RVL_PRODUCT_SCRATCH) scratch = RVL_PRODUCT_SCRATCH;
  return place_shared(t, n) && place_turns(t, longest) && rvl_rows_reserve(&t->scratch, scratch);
}

bool rvl_transformer_place_gradients(rvl_transformer *t, size_t n) {
  size_t d = t->width, all = 2 * rvl_padded(n * d) + rvl_padded(3 * n * d) + rvl_padded(n * t->hidden);
  if (!rvl_rows_reserve(&t->gradients, all)) return false;
  float *next = t->gradients.floats;
  t->dx = take(&next, n * d);
  t->dy = take(&next, n * d);
  t->dqkv = take(&next, 3 * n * d);
  t->dhidden = take(&next, n * t->hidden);
  return true;
}

void rvl_transformer_linear(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                            const float *b, bool add, float *c) {
  if (t->kernels->fast_products) t->kernels->linear(rows, columns, depth, a, b, add, c, t->scratch.floats);
  else rvl_blas_linear(t->blas, (int)rows, (int)columns, (int)depth, a, b, add ? 1 : 0, c);
}

void rvl_transformer_product(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                             const float *b, bool add, float *c) {
  if (t->kernels->fast_products) t->kernels->product(rows, columns, depth, a, b, add, c, t->scratch.floats);
  else rvl_blas_product(t->blas, (int)rows, (int)columns, (int)depth, a, b, add ? 1 : 0, c);
}

void rvl_transformer_outer(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                           const float *b, bool add, float *c) {
  if (t->kernels->fast_products) t->kernels->outer(rows, columns, depth, a, b, add, c, t->scratch.floats);
  else rvl_blas_outer(t->blas, (int)rows, (int)columns, (int)depth, a, b, add ? 1 : 0, c);
}

/* Queries and keys lie side by side: together they are twice as many heads. */
void rvl_transformer_turn(const rvl_transformer *t, const rvl_batch *batch, bool back, float *qkv) {
  for (size_t i = 0; i < batch->sequences; i++) {
    for (size_t token = batch->starts[i]; token < batch->starts[i + 1]; token++) {
      const float *by = t->turns.floats + (token - batch->starts[i]) * t->head_width;
      t->kernels->rotary(2 * t->layout->config.heads, t->head_width, by, back, qkv + token * 3 * t->width);
    }
  }
}

bool rvl_heads_next(rvl_heads *h) {
  const rvl_transformer *t = h->t;
  const rvl_layer *l = h->l;
  if (h->next == t->layout->config.heads) {
    h->next = 0;
    h->sequence++;
  }
  if (h->sequence >= h->batch->sequences) return false;
  const uint32_t *starts = h->batch->starts + h->sequence;
  size_t length = starts[1] - starts[0];
  h->begin = starts[0];
  h->column = h->next++ * t->head_width;
  const float *query = l->qkv + h->begin * 3 * t->width + h->column;
  h->head = (rvl_head){.length = length, .width = t->head_width, .stride = 3 * t->width, .query = query,
                       .key = query + t->width, .value = query + 2 * t->width, .logsum = l->logsum + h->logsums,
                       .scratch = t->scratch.floats};
  if (h->batch->mask != NULL) h->head.mask = h->batch->mask + h->begin;
  h->logsums += length;
  if (l->kept != NULL && length <= RVL_TRANSFORMER_KEPT) {
    h->head.kept = l->kept + h->kept;
    h->kept += length * rvl_padded(length);
  }
  return true;
}
