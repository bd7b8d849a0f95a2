#include "model.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 };           /* floats of one cache line */

static const struct { const char *name; bool of_layer; } parts[RVL_PARTS] = {
    [RVL_PART_TOKEN] = {"token.weight", false},
    [RVL_PART_POSITION] = {"position.weight", false},
    [RVL_PART_NORM1_WEIGHT] = {"norm1.weight", true},
    [RVL_PART_NORM1_BIAS] = {"norm1.bias", true},
    [RVL_PART_QKV] = {"attn.qkv.weight", true},
    [RVL_PART_OUT] = {"attn.out.weight", true},
    [RVL_PART_NORM2_WEIGHT] = {"norm2.weight", true},
    [RVL_PART_NORM2_BIAS] = {"norm2.bias", true},
    [RVL_PART_UP] = {"mlp.up.weight", true},
    [RVL_PART_DOWN] = {"mlp.down.weight", true},
    [RVL_PART_NORM_WEIGHT] = {"norm.weight", false},
    [RVL_PART_NORM_BIAS] = {"norm.bias", false},
    [RVL_PART_HEAD] = {"head.weight", false},
};

const char *rvl_model_check(const rvl_model_config *c) {
  if (c->vocabulary < 2 || c->vocabulary > RVL_MODEL_VOCABULARY) return "'vocabulary' is not between 2 and 262144";
  if (c->width < 2 || c->width > RVL_MODEL_WIDTH) return "'width' is not between 2 and 4096";
  if (c->layers < 1 || c->layers > RVL_MODEL_LAYERS) return "'layers' is not between 1 and 64";
  if (c->heads < 1 || c->width % c->heads != 0) return "'width' is not a multiple of 'heads'";
  if (c->hidden < 1 || c->hidden > 4 * RVL_MODEL_WIDTH) return "'hidden' is not between 1 and 16384";
  if (c->context < 2 || c->context > RVL_MODEL_CONTEXT) return "'context' is not between 2 and 65536";
  if (c->positions == RVL_POSITIONS_ROTARY && c->width / c->heads % 2 != 0) {
    return "rotary positions need heads of an even width";
  }
  if (!(c->rotary_base > 1 && c->rotary_base <= 1e9f)) return "'rotary_base' is not between 1 and 1e9";
  if (!(c->norm_epsilon > 0 && c->norm_epsilon <= 1)) return "'norm_epsilon' is not between 0 and 1";
  return NULL;
}

static size_t add(rvl_model_layout *layout, rvl_part part, uint32_t layer, uint32_t rows, uint32_t columns) {
  rvl_tensor *t = &layout->tensors[layout->count++];
  *t = (rvl_tensor){.part = part, .layer = layer, .rows = rows, .columns = columns, .offset = layout->floats,
                    .count = (size_t)rows * (columns == 0 ? 1 : columns)};
  if (parts[part].of_layer) snprintf(t->name, sizeof t->name, "layers.%u.%s", layer, parts[part].name);
  else snprintf(t->name, sizeof t->name, "%s", parts[part].name);
  layout->parameters += t->count;
  layout->floats += (t->count + ALIGN - 1) / ALIGN * ALIGN;
  return t->offset;
}

bool rvl_model_layout_init(rvl_model_layout *layout, const rvl_model_config *c) {
  *layout = (rvl_model_layout){.config = *c};
  layout->tensors = calloc((size_t)c->layers * RVL_PARTS + RVL_PARTS, sizeof *layout->tensors);
  layout->layers = calloc(c->layers, sizeof *layout->layers);
  if (layout->tensors == NULL || layout->layers == NULL) {
    rvl_model_layout_free(layout);
    return false;
  }
  layout->token = add(layout, RVL_PART_TOKEN, 0, c->vocabulary, c->width);
  if (c->positions == RVL_POSITIONS_LEARNED)
    layout->position = add(layout, RVL_PART_POSITION, 0, c->context, c->width);
  for (uint32_t i = 0; i < c->layers; i++) {
    rvl_layer_offsets *l = &layout->layers[i];
    l->norm1_weight = add(layout, RVL_PART_NORM1_WEIGHT, i, c->width, 0);
    l->norm1_bias = add(layout, RVL_PART_NORM1_BIAS, i, c->width, 0);
    l->qkv = add(layout, RVL_PART_QKV, i, 3 * c->width, c->width);
    l->out = add(layout, RVL_PART_OUT, i, c->width, c->width);
    l->norm2_weight = add(layout, RVL_PART_NORM2_WEIGHT, i, c->width, 0);
    l->norm2_bias = add(layout, RVL_PART_NORM2_BIAS, i, c->width, 0);
    l->up = add(layout, RVL_PART_UP, i, c->hidden, c->width);
    l->down = add(layout, RVL_PART_DOWN, i, c->width, c->hidden);
  }
  layout->norm_weight = add(layout, RVL_PART_NORM_WEIGHT, 0, c->width, 0);
  layout->norm_bias = add(layout, RVL_PART_NORM_BIAS, 0, c->width, 0);
  layout->head = c->tied ? layout->token : add(layout, RVL_PART_HEAD, 0, c->vocabulary, c->width);
  return true;
}

void rvl_model_layout_free(rvl_model_layout *layout) {
  free(layout->tensors);
  free(layout->layers);
  *layout = (rvl_model_layout){0};
}

float *rvl_model_floats(size_t count) {
  if (count > (SIZE_MAX - 64) / sizeof(float)) return NULL;
  size_t size = (count * sizeof(float) + 63) / 64 * 64;
  float *floats = aligned_alloc(64, size == 0 ? 64 : size);
  if (floats != NULL) memset(floats, 0, size);
  return floats;
}

void rvl_model_free(float *floats) { free(floats); }

void rvl_model_initialise(const rvl_model_layout *layout, uint64_t seed, float *weights) {
  rvl_random random = rvl_random_of(seed);
  double residual = 0.02 / sqrt(2.0 * layout->config.layers);
  memset(weights, 0, layout->floats * sizeof *weights);
  for (size_t i = 0; i < layout->count; i++) {
    const rvl_tensor *t = &layout->tensors[i];
    float *w = weights + t->offset;
    bool weight = t->part == RVL_PART_NORM1_WEIGHT || t->part == RVL_PART_NORM2_WEIGHT ||
                  t->part == RVL_PART_NORM_WEIGHT;
    double deviation = t->part == RVL_PART_OUT || t->part == RVL_PART_DOWN ? residual : 0.02;
    for (size_t k = 0; k < t->count; k++) {
      w[k] = t->columns == 0 ? (weight ? 1.0f : 0.0f) : (float)(deviation * rvl_random_normal(&random));
    }
  }
}
