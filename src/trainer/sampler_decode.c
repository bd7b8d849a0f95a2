#include "sampler_decode.h"

#include <stdlib.h>
#include <string.h>

enum {
  MAPS = 4,                    /* of a layer: those of linear_maps */
  LOGITS = 1 << 16             /* at a time, about: they stay in the cache until they are used */
};

typedef struct linear_map { size_t weights, outputs, inputs; } linear_map;

static linear_map map_of(const rvl_model_layout *layout, size_t index) {
  const rvl_model_config *c = &layout->config;
  if (index == (size_t)c->layers * MAPS) return (linear_map){layout->head, c->vocabulary, c->width};
  const rvl_layer_offsets *l = &layout->layers[index / MAPS];
  switch (index % MAPS) {
    case 0: return (linear_map){l->qkv, 3 * (size_t)c->width, c->width};
    case 1: return (linear_map){l->out, c->width, c->width};
    case 2: return (linear_map){l->up, c->hidden, c->width};
    default: return (linear_map){l->down, c->width, c->hidden};
  }
}

static void pack(void *argument, size_t index, unsigned thread) {
  (void)thread;
  const rvl_decoder_model *m = argument;
  linear_map map = map_of(m->layout, index);
  m->panels->pack(map.outputs, map.inputs, m->weights + map.weights, m->packed + m->offsets[index]);
}

bool rvl_decoder_model_init(rvl_decoder_model *m, const rvl_model_layout *layout, const float *weights,
                            size_t positions, rvl_pool *pool) {
  *m = (rvl_decoder_model){.layout = layout, .weights = weights, .kernels = rvl_kernels_pick(),
                           .panels = rvl_panels_pick()};
  const rvl_model_config *c = &layout->config;
  size_t maps = (size_t)c->layers * MAPS + 1, floats = 0;
  m->offsets = calloc(maps, sizeof *m->offsets);
  if (m->offsets == NULL) return false;
  for (size_t i = 0; i < maps; i++) {
    linear_map map = map_of(layout, i);
    m->offsets[i] = floats;
    floats += rvl_padded(rvl_panels_floats(m->panels, map.outputs, map.inputs));
  }
  m->packed = rvl_model_floats(floats);
  if (m->packed == NULL) return false;
  rvl_pool_run(pool, maps, pack, m);
  if (c->positions != RVL_POSITIONS_ROTARY) return true;
  size_t width = c->width / c->heads;
  m->turns = rvl_model_floats(positions * width);
  if (m->turns == NULL) return false;
  rvl_rotary_table(positions, width, c->rotary_base, m->turns);
  return true;
}

void rvl_decoder_model_free(rvl_decoder_model *m) {
  free(m->offsets);
  rvl_model_free(m->packed);
  rvl_model_free(m->turns);
  *m = (rvl_decoder_model){0};
}

/* --------------------------------------------------------------------------------------------------- the cache */

static float *keys_of(const rvl_cache *cache, size_t width, size_t layer) {
  return cache->floats + 2 * layer * width * cache->stride;
}

static float *values_of(const rvl_cache *cache, size_t width, size_t layer) {
  return cache->floats + (2 * layer + 1) * width * cache->stride;
}

void rvl_cache_copy(rvl_cache *to, const rvl_cache *from, const rvl_model_config *config, size_t positions) {
  size_t width = config->width, column = positions * sizeof(float);
  for (size_t layer = 0; layer < config->layers; layer++) {
    float *keys = keys_of(to, width, layer);
    const float *old = keys_of(from, width, layer);
    for (size_t i = 0; i < width; i++) memcpy(keys + i * to->stride, old + i * from->stride, column);
    memcpy(values_of(to, width, layer), values_of(from, width, layer), width * column);
  }
}

bool rvl_cache_reserve(rvl_cache *cache, const rvl_model_config *config, size_t positions, size_t used) {
  if (positions <= cache->stride) return true;
  size_t most = rvl_padded(config->context), stride = rvl_padded(positions);
  if (stride < 2 * cache->stride) stride = 2 * cache->stride < most ? 2 * cache->stride : most;
  if (stride % 256 == 0) stride += RVL_KERNELS_PAD;   /* columns a power of two apart push one another out */
  size_t floats = 2 * (size_t)config->layers * config->width * stride;
  rvl_cache bigger = {.floats = rvl_model_floats(floats), .stride = stride};
  if (bigger.floats == NULL) return false;
  if (used > 0) rvl_cache_copy(&bigger, cache, config, used);
  rvl_cache_free(cache);
  *cache = bigger;
  return true;
}

void rvl_cache_free(rvl_cache *cache) {
  rvl_model_free(cache->floats);
  *cache = (rvl_cache){0};
}

/* ------------------------------------------------------------------------------------------------ one thread's */

bool rvl_decoder_init(rvl_decoder *d, const rvl_decoder_model *model, size_t rows, size_t positions) {
  const rvl_model_config *c = &model->layout->config;
  *d = (rvl_decoder){.model = model, .rows = rows, .logit_rows = LOGITS / c->vocabulary};
  if (d->logit_rows < 1) d->logit_rows = 1;
  if (d->logit_rows > rows) d->logit_rows = rows;
  d->x = rvl_model_floats(rows * c->width);
  d->normed = rvl_model_floats(rows * c->width);
  d->qkv = rvl_model_floats(rows * 3 * c->width);
  d->hidden = rvl_model_floats(rows * c->hidden);
  d->scores = rvl_model_floats(rvl_padded(positions));
  d->logits = rvl_model_floats(d->logit_rows * c->vocabulary);
  return d->x != NULL && d->normed != NULL && d->qkv != NULL && d->hidden != NULL && d->scores != NULL &&
         d->logits != NULL;
}

void rvl_decoder_free(rvl_decoder *d) {
  rvl_model_free(d->x);
  rvl_model_free(d->normed);
  rvl_model_free(d->qkv);
  rvl_model_free(d->hidden);
  rvl_model_free(d->scores);
  rvl_model_free(d->logits);
  *d = (rvl_decoder){0};
}

static void embed(rvl_decoder *d, const rvl_decoder_row *rows, size_t count) {
  const rvl_decoder_model *m = d->model;
  size_t width = m->layout->config.width;
  for (size_t r = 0; r < count; r++) {
    float *x = d->x + r * width;
    memcpy(x, m->weights + m->layout->token + (size_t)rows[r].id * width, width * sizeof *x);
    if (m->turns == NULL) m->kernels->add(width, m->weights + m->layout->position + rows[r].position * width, x);
  }
}

static void norm(rvl_decoder *d, size_t count, const float *x, size_t weight, size_t bias) {
  const rvl_decoder_model *m = d->model;
  const rvl_model_config *c = &m->layout->config;
  m->kernels->norm(count, c->width, c->norm_epsilon, x, m->weights + weight, m->weights + bias, d->normed, NULL,
                   NULL);
}

static void linear(rvl_decoder *d, size_t index, size_t count, const float *x, bool add, float *y) {
  const rvl_decoder_model *m = d->model;
  linear_map map = map_of(m->layout, index);
  m->panels->multiply(count, map.outputs, map.inputs, x, m->packed + m->offsets[index], add, y);
}

/* Keeps a row's key and value, and puts what its query sees where the normed row was. */
static void attend(rvl_decoder *d, const rvl_decoder_row *row, size_t r, size_t layer) {
  const rvl_decoder_model *m = d->model;
  const rvl_model_config *c = &m->layout->config;
  size_t width = c->width, head = width / c->heads, stride = row->cache->stride, position = row->position;
  float *query = d->qkv + r * 3 * width, *key = query + width, *out = d->normed + r * width;
  float *keys = keys_of(row->cache, width, layer), *values = values_of(row->cache, width, layer);
  if (m->turns != NULL) m->kernels->rotary(2 * c->heads, head, m->turns + position * head, false, query);
  for (size_t i = 0; i < width; i++) keys[i * stride + position] = key[i];
  memcpy(values + position * width, key + width, width * sizeof *values);
  for (size_t i = 0; i < width; i += head) {
    m->kernels->attend(position + 1, head, query + i, keys + i * stride, stride, values + i, width, d->scores,
                       out + i);
  }
}

void rvl_decoder_advance(rvl_decoder *d, const rvl_decoder_row *rows, size_t count) {
  const rvl_model_layout *layout = d->model->layout;
  embed(d, rows, count);
  for (size_t layer = 0; layer < layout->config.layers; layer++) {
    const rvl_layer_offsets *l = &layout->layers[layer];
    size_t maps = layer * MAPS;
    norm(d, count, d->x, l->norm1_weight, l->norm1_bias);
    linear(d, maps, count, d->normed, false, d->qkv);
    for (size_t r = 0; r < count; r++) attend(d, &rows[r], r, layer);
    linear(d, maps + 1, count, d->normed, true, d->x);
    norm(d, count, d->x, l->norm2_weight, l->norm2_bias);
    linear(d, maps + 2, count, d->normed, false, d->hidden);
    d->model->kernels->gelu(count * layout->config.hidden, d->hidden, d->hidden);
    linear(d, maps + 3, count, d->hidden, true, d->x);
  }
}

const float *rvl_decoder_logits(rvl_decoder *d, const size_t *which, size_t count) {
  const rvl_model_layout *layout = d->model->layout;
  size_t width = layout->config.width;
  /* the hidden rows are free, but may be narrower: queries, keys and values are not */
  for (size_t i = 0; i < count; i++) memcpy(d->qkv + i * width, d->x + which[i] * width, width * sizeof *d->qkv);
  norm(d, count, d->qkv, layout->norm_weight, layout->norm_bias);
  linear(d, (size_t)layout->config.layers * MAPS, count, d->normed, false, d->logits);
  return d->logits;
}
