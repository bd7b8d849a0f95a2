#include "transformer_parts.h"

#include <string.h>

static void embed(const rvl_transformer *t, const float *weights, const rvl_batch *batch) {
  size_t d = t->width;
  bool learned = t->layout->config.positions == RVL_POSITIONS_LEARNED;
  const float *positions = learned ? weights + t->layout->position : NULL;
  for (size_t i = 0; i < batch->sequences; i++) {
    for (size_t token = batch->starts[i]; token < batch->starts[i + 1]; token++) {
      float *x = t->x + token * d;
      memcpy(x, weights + t->layout->token + (size_t)batch->ids[token] * d, d * sizeof *x);
      if (positions != NULL) t->kernels->add(d, positions + (token - batch->starts[i]) * d, x);
    }
  }
}

static void attend(const rvl_transformer *t, const rvl_batch *batch, const rvl_layer *l) {
  rvl_heads heads = {.t = t, .batch = batch, .l = l};
  while (rvl_heads_next(&heads))
    t->kernels->attention(&heads.head, l->attention + heads.begin * t->width + heads.column, t->width);
}

static void run_layer(const rvl_transformer *t, const float *weights, const rvl_layer_offsets *at,
                      const rvl_batch *batch, const rvl_layer *l) {
  const rvl_kernels *k = t->kernels;
  float epsilon = t->layout->config.norm_epsilon;
  size_t rows = batch->tokens;
  size_t d = t->width, h = t->hidden;
  k->norm(rows, t->width, epsilon, t->x, weights + at->norm1_weight, weights + at->norm1_bias, t->y,
          l->normalized1, l->inverse1);
  rvl_transformer_linear(t, rows, 3 * d, d, t->y, weights + at->qkv, false, l->qkv);
  if (t->layout->config.positions == RVL_POSITIONS_ROTARY) rvl_transformer_turn(t, batch, false, l->qkv);
  attend(t, batch, l);
  rvl_transformer_linear(t, rows, d, d, l->attention, weights + at->out, true, t->x);
  k->norm(rows, t->width, epsilon, t->x, weights + at->norm2_weight, weights + at->norm2_bias, t->y,
          l->normalized2, l->inverse2);
  rvl_transformer_linear(t, rows, h, d, t->y, weights + at->up, false, l->up);
  k->gelu(rows * t->hidden, l->up, t->gelu);
  rvl_transformer_linear(t, rows, d, h, t->gelu, weights + at->down, true, t->x);
}

static float *run(rvl_transformer *t, const float *weights, const rvl_batch *batch, bool backward) {
  const rvl_model_layout *layout = t->layout;
  if (!rvl_transformer_place(t, batch, backward)) return NULL;
  if (batch->tokens == 0) return t->logits;
  embed(t, weights, batch);
  for (uint32_t i = 0; i < layout->config.layers; i++) {
    run_layer(t, weights, &layout->layers[i], batch, &t->layers[backward ? i : 0]);
  }
  t->kernels->norm(batch->tokens, t->width, layout->config.norm_epsilon, t->x, weights + layout->norm_weight,
                   weights + layout->norm_bias, t->y, t->normalized, t->inverse);
  rvl_transformer_linear(t, batch->tokens, t->vocabulary, t->width, t->y, weights + layout->head, false,
                         t->logits);
  return t->logits;
}

float *rvl_transformer_forward(rvl_transformer *t, const float *weights, const rvl_batch *batch) {
  return run(t, weights, batch, true);
}

float *rvl_transformer_infer(rvl_transformer *t, const float *weights, const rvl_batch *batch) {
  return run(t, weights, batch, false);
}
