/*
** What a decoder-only transformer is made of: its configuration, and where in one flat vector of floats each of
** its tensors lies. Weights, gradients and the optimizer's moments all have this layout. No Lua.
**
** Pre-norm: x += out(attention(norm1(x))); x += down(gelu(up(norm2(x)))); logits = head(norm(x)). Norms are
** LayerNorms with weight and bias, linear maps have no bias, gelu is the tanh form.
*/
#ifndef RVL_MODEL_H
#define RVL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  RVL_MODEL_NAME = 48,
  RVL_MODEL_LAYERS = 64,
  RVL_MODEL_WIDTH = 4096,
  RVL_MODEL_VOCABULARY = 1 << 18,
  RVL_MODEL_CONTEXT = 1 << 16
};

typedef enum rvl_positions { RVL_POSITIONS_ROTARY, RVL_POSITIONS_LEARNED } rvl_positions;

typedef struct rvl_model_config {
  uint32_t vocabulary, width, layers, heads, hidden, context;
  rvl_positions positions;
  bool tied;                   /* the head is the token embedding */
  float rotary_base;           /* as a rule 10000 */
  float norm_epsilon;          /* as a rule 1e-5 */
} rvl_model_config;

typedef enum rvl_part {
  RVL_PART_TOKEN,              /* [vocabulary, width] */
  RVL_PART_POSITION,           /* [context, width]; learned positions only */
  RVL_PART_NORM1_WEIGHT,       /* [width], as all norms are */
  RVL_PART_NORM1_BIAS,
  RVL_PART_QKV,                /* [3 width, width]: rows of all queries, of keys, of values; head after head */
  RVL_PART_OUT,                /* [width, width] */
  RVL_PART_NORM2_WEIGHT,
  RVL_PART_NORM2_BIAS,
  RVL_PART_UP,                 /* [hidden, width] */
  RVL_PART_DOWN,               /* [width, hidden] */
  RVL_PART_NORM_WEIGHT,
  RVL_PART_NORM_BIAS,
  RVL_PART_HEAD,               /* [vocabulary, width]; not when tied */
  RVL_PARTS
} rvl_part;

typedef struct rvl_tensor {
  char name[RVL_MODEL_NAME];   /* "layers.0.attn.qkv.weight" */
  rvl_part part;
  uint32_t layer;              /* of what a layer has */
  uint32_t rows, columns;      /* as PyTorch's Linear: [out, in]; a vector has 0 columns */
  size_t offset, count;        /* floats; every tensor begins at a multiple of 16 */
} rvl_tensor;

/* Where the tensors of one layer begin. */
typedef struct rvl_layer_offsets {
  size_t norm1_weight, norm1_bias, qkv, out, norm2_weight, norm2_bias, up, down;
} rvl_layer_offsets;

typedef struct rvl_model_layout {
  rvl_model_config config;
  rvl_tensor *tensors;
  size_t count;
  size_t floats;               /* of the whole vector, gaps (which are zeros) included */
  size_t parameters;           /* without gaps */
  size_t token, position, norm_weight, norm_bias, head;   /* offsets; tied: head == token */
  rvl_layer_offsets *layers;
} rvl_model_layout;

/* NULL, or what is wrong with the configuration (static). */
const char *rvl_model_check(const rvl_model_config *config);
/* A configuration that was checked. false: no memory. */
bool rvl_model_layout_init(rvl_model_layout *layout, const rvl_model_config *config);
void rvl_model_layout_free(rvl_model_layout *layout);

/* Zeroed memory of `layout->floats` floats for rvl_model_free, at a multiple of 64 bytes; NULL: none. */
float *rvl_model_floats(size_t count);
void rvl_model_free(float *floats);

/* Normal deviates of 0.02 (0.02 / √(2 layers) where a layer adds to the residual stream), norms 1 and 0. */
void rvl_model_initialise(const rvl_model_layout *layout, uint64_t seed, float *weights);

#endif
