/*
** LoRA as another way to write weights: W + scale · B · A, with A [rank, in] and B [out, rank] of each adapted
** matrix W [out, in]. The adapters lie in one flat vector, as weights do. The transformer knows merged weights
** only; the gradient of these becomes the adapters' afterwards.
*/
#ifndef RVL_LORA_H
#define RVL_LORA_H

#include "blas.h"
#include "model.h"

typedef struct rvl_lora_config {
  uint32_t rank;
  double scale;                /* PEFT's alpha / rank */
  bool attention, mlp, unembed;   /* qkv and out; up and down; the head */
} rvl_lora_config;

enum { RVL_LORA_RANK = 1024 };

/* One trainable matrix; A and B of a matrix follow one another. */
typedef struct rvl_lora_tensor {
  char name[RVL_MODEL_NAME];   /* "layers.0.attn.qkv.lora_A.weight" */
  size_t tensor;               /* index in effective.tensors of what it adapts */
  uint32_t rows, columns;      /* A: [rank, in], B: [out, rank] */
  size_t offset, count;        /* floats */
} rvl_lora_tensor;

typedef struct rvl_lora {
  rvl_lora_config config;
  const rvl_model_layout *base;
  rvl_model_layout effective;  /* of the merged weights: the base's, untied when a tied head is adapted */
  bool *wanted;                /* by index of effective.tensors: its gradient is needed */
  rvl_lora_tensor *tensors;
  size_t count;                /* of tensors: even */
  size_t floats, parameters;   /* of the vector of adapters, with and without gaps */
} rvl_lora;

/* NULL, or what is wrong (static): no rank, nothing to adapt. */
const char *rvl_lora_check(const rvl_lora_config *config);
/* A configuration that was checked; `base` must outlive it. false: no memory. */
bool rvl_lora_init(rvl_lora *lora, const rvl_model_layout *base, const rvl_lora_config *config);
void rvl_lora_free(rvl_lora *lora);

/* Vectors: `adapters` and their gradient have lora->floats (rvl_model_floats), `merged` and its gradient
   lora->effective.floats. */

/* A uniform in ±1 / √in (PEFT's kaiming_uniform with a = √5), B zero: merged weights are the base's. */
void rvl_lora_initialise(const rvl_lora *lora, uint64_t seed, float *adapters);
/* merged = W + scale · B · A, and copies of what is not adapted. */
void rvl_lora_merge(const rvl_lora *lora, const rvl_blas *blas, const float *base, const float *adapters,
                    float *merged);
/* The adapters' gradient gets scale · dW · Aᵀ (B) and scale · Bᵀ · dW (A) added. */
void rvl_lora_project(const rvl_lora *lora, const rvl_blas *blas, const float *adapters, const float *gradient,
                      float *adapters_gradient);

#endif
