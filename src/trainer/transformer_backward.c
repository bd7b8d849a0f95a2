#include "transformer_parts.h"

#include <string.h>

/* Whose gradients are wanted, in one layer or outside of them. */
typedef struct wants {
  bool part[RVL_PARTS];
} wants;

static wants wanted_of(const rvl_model_layout *layout, const bool *wanted, bool of_layer, uint32_t layer) {
  wants w = {{false}};
  for (size_t i = 0; i < layout->count; i++) {
    const rvl_tensor *t = &layout->tensors[i];
    bool inside = t->part >= RVL_PART_NORM1_WEIGHT && t->part <= RVL_PART_DOWN;
    if (inside == of_layer && (!of_layer || t->layer == layer)) w.part[t->part] = wanted == NULL || wanted[i];
  }
  if (!of_layer && layout->config.tied) w.part[RVL_PART_HEAD] = w.part[RVL_PART_TOKEN];
  return w;
}

/* Whether anything before the part of layer `layer` is wanted: else its input's gradient is not. */
static bool wanted_before(const rvl_model_layout *layout, const bool *wanted, uint32_t layer, rvl_part part) {
  for (size_t i = 0; wanted != NULL && i < layout->count; i++) {
    const rvl_tensor *t = &layout->tensors[i];
    bool embedding = t->part == RVL_PART_TOKEN || t->part == RVL_PART_POSITION;
    bool inside = t->part >= RVL_PART_NORM1_WEIGHT && t->part <= RVL_PART_DOWN;
    bool before = embedding || (inside && (t->layer < layer || (t->layer == layer && t->part < part)));
    if (before && wanted[i]) return true;
  }
  return wanted == NULL;
}

static void norm_backward(const rvl_transformer *t, size_t rows, const wants *want, rvl_part weight_part,
                          const float *weight, const float *normalized, const float *inverse, float *dweight,
                          float *dbias) {
  bool any = want->part[weight_part] || want->part[weight_part + 1];
  t->kernels->norm_backward(rows, t->width, t->dy, weight, normalized, inverse, t->dx, any ? dweight : NULL,
                            any ? dbias : NULL);
}

/* From dy, the gradient of all heads' results, to dqkv. */
static void attend_backward(const rvl_transformer *t, const rvl_batch *batch, const rvl_layer *l) {
  size_t d = t->width;
  rvl_heads heads = {.t = t, .batch = batch, .l = l};
  while (rvl_heads_next(&heads)) {
    float *dquery = t->dqkv + heads.begin * 3 * d + heads.column;
    t->kernels->attention_backward(&heads.head, t->dy + heads.begin * d + heads.column, d, dquery, dquery + d,
                                   dquery + 2 * d);
  }
  if (t->layout->config.positions == RVL_POSITIONS_ROTARY) rvl_transformer_turn(t, batch, true, t->dqkv);
}

/* dx: of the layer's output, becomes that of its input, unless nobody before needs it. */
static void layer_backward(const rvl_transformer *t, const float *weights, const rvl_batch *batch,
                           const bool *wanted, uint32_t index, float *gradient) {
  const rvl_kernels *k = t->kernels;
  const rvl_layer_offsets *at = &t->layout->layers[index];
  const rvl_layer *l = &t->layers[index];
  wants want = wanted_of(t->layout, wanted, true, index);
  size_t rows = batch->tokens;
  size_t d = t->width, h = t->hidden;

  if (wanted_before(t->layout, wanted, index, RVL_PART_DOWN)) {
    rvl_transformer_product(t, rows, h, d, t->dx, weights + at->down, false, t->dhidden);
    k->gelu_backward(rows * t->hidden, l->up, t->dhidden, want.part[RVL_PART_DOWN] ? t->gelu : NULL);
  } else {
    k->gelu(rows * t->hidden, l->up, t->gelu);
  }
  if (want.part[RVL_PART_DOWN]) {
    rvl_transformer_outer(t, d, h, rows, t->dx, t->gelu, true, gradient + at->down);
  }
  if (want.part[RVL_PART_UP]) {
    k->norm_again(rows, t->width, l->normalized2, weights + at->norm2_weight, weights + at->norm2_bias, t->y);
    rvl_transformer_outer(t, h, d, rows, t->dhidden, t->y, true, gradient + at->up);
  }
  if (!wanted_before(t->layout, wanted, index, RVL_PART_UP)) return;
  rvl_transformer_product(t, rows, d, h, t->dhidden, weights + at->up, false, t->dy);
  norm_backward(t, rows, &want, RVL_PART_NORM2_WEIGHT, weights + at->norm2_weight, l->normalized2, l->inverse2,
                gradient + at->norm2_weight, gradient + at->norm2_bias);

  if (want.part[RVL_PART_OUT]) {
    rvl_transformer_outer(t, d, d, rows, t->dx, l->attention, true, gradient + at->out);
  }
  if (!wanted_before(t->layout, wanted, index, RVL_PART_OUT)) return;
  rvl_transformer_product(t, rows, d, d, t->dx, weights + at->out, false, t->dy);
  attend_backward(t, batch, l);
  if (want.part[RVL_PART_QKV]) {
    k->norm_again(rows, t->width, l->normalized1, weights + at->norm1_weight, weights + at->norm1_bias, t->y);
    rvl_transformer_outer(t, 3 * d, d, rows, t->dqkv, t->y, true, gradient + at->qkv);
  }
  if (!wanted_before(t->layout, wanted, index, RVL_PART_QKV)) return;
  rvl_transformer_product(t, rows, d, 3 * d, t->dqkv, weights + at->qkv, false, t->dy);
  norm_backward(t, rows, &want, RVL_PART_NORM1_WEIGHT, weights + at->norm1_weight, l->normalized1, l->inverse1,
                gradient + at->norm1_weight, gradient + at->norm1_bias);
}

static void embed_backward(const rvl_transformer *t, const rvl_batch *batch, const wants *want, float *gradient) {
  size_t d = t->width;
  for (size_t i = 0; i < batch->sequences; i++) {
    for (size_t token = batch->starts[i]; token < batch->starts[i + 1]; token++) {
      const float *dx = t->dx + token * d;
      if (want->part[RVL_PART_TOKEN]) {
        t->kernels->add(d, dx, gradient + t->layout->token + (size_t)batch->ids[token] * d);
      }
      if (want->part[RVL_PART_POSITION]) {
        t->kernels->add(d, dx, gradient + t->layout->position + (token - batch->starts[i]) * d);
      }
    }
  }
}

bool rvl_transformer_backward(rvl_transformer *t, const float *weights, const rvl_batch *batch, const bool *wanted,
                              float *gradient) {
  const rvl_model_layout *layout = t->layout;
  wants want = wanted_of(layout, wanted, false, 0);
  size_t rows = batch->tokens;
  size_t d = t->width, v = t->vocabulary;
  uint32_t layers = layout->config.layers;
  if (rows == 0) return true;
  if (!rvl_transformer_place_gradients(t, rows)) return false;
  /* y is what forward has left there: the head's input. */
  if (want.part[RVL_PART_HEAD]) {
    rvl_transformer_outer(t, v, d, rows, t->logits, t->y, true, gradient + layout->head);
  }
  bool norm_wanted = want.part[RVL_PART_NORM_WEIGHT] || want.part[RVL_PART_NORM_BIAS];
  if (!norm_wanted && !wanted_before(layout, wanted, layers, RVL_PART_TOKEN)) return true;
  rvl_transformer_product(t, rows, d, v, t->logits, weights + layout->head, false, t->dy);
  memset(t->dx, 0, rows * t->width * sizeof *t->dx);
  norm_backward(t, rows, &want, RVL_PART_NORM_WEIGHT, weights + layout->norm_weight, t->normalized, t->inverse,
                gradient + layout->norm_weight, gradient + layout->norm_bias);
  for (uint32_t i = layers; i-- > 0;) {
    if (!wanted_before(layout, wanted, i + 1, RVL_PART_TOKEN)) return true;
    layer_backward(t, weights, batch, wanted, i, gradient);
  }
  embed_backward(t, batch, &want, gradient);
  return true;
}
