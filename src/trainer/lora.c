#include "lora.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 };           /* floats of one cache line */

const char *rvl_lora_check(const rvl_lora_config *c) {
  if (c->rank < 1 || c->rank > RVL_LORA_RANK) return "'rank' is not between 1 and 1024";
  if (!isfinite(c->scale)) return "'scale' is not a finite number";
  if (!c->attention && !c->mlp && !c->unembed) return "there is nothing to train: not attn, mlp nor unembed";
  return NULL;
}

static bool is_adapted(const rvl_lora_config *c, rvl_part part) {
  switch (part) {
    case RVL_PART_QKV:
    case RVL_PART_OUT: return c->attention;
    case RVL_PART_UP:
    case RVL_PART_DOWN: return c->mlp;
    case RVL_PART_HEAD: return c->unembed;
    default: return false;
  }
}

static void add(rvl_lora *lora, size_t tensor, char letter, uint32_t rows, uint32_t columns) {
  static const char weight[] = "weight";
  const char *adapted = lora->effective.tensors[tensor].name;
  int prefix = (int)(strlen(adapted) - strlen(weight));
  rvl_lora_tensor *t = &lora->tensors[lora->count++];
  *t = (rvl_lora_tensor){.tensor = tensor, .rows = rows, .columns = columns, .offset = lora->floats,
                         .count = (size_t)rows * columns};
  snprintf(t->name, sizeof t->name, "%.*slora_%c.weight", prefix, adapted, letter);
  lora->parameters += t->count;
  lora->floats += (t->count + ALIGN - 1) / ALIGN * ALIGN;
}

bool rvl_lora_init(rvl_lora *lora, const rvl_model_layout *base, const rvl_lora_config *config) {
  *lora = (rvl_lora){.config = *config, .base = base};
  rvl_model_config effective = base->config;
  if (config->unembed) effective.tied = false;
  if (!rvl_model_layout_init(&lora->effective, &effective)) return false;
  size_t count = lora->effective.count;
  lora->wanted = calloc(count, sizeof *lora->wanted);
  lora->tensors = calloc(count * 2, sizeof *lora->tensors);
  if (lora->wanted == NULL || lora->tensors == NULL) {
    rvl_lora_free(lora);
    return false;
  }
  for (size_t i = 0; i < count; i++) {
    const rvl_tensor *t = &lora->effective.tensors[i];
    if (!is_adapted(config, t->part)) continue;
    lora->wanted[i] = true;
    add(lora, i, 'A', config->rank, t->columns);
    add(lora, i, 'B', t->rows, config->rank);
  }
  return true;
}

void rvl_lora_free(rvl_lora *lora) {
  rvl_model_layout_free(&lora->effective);
  free(lora->wanted);
  free(lora->tensors);
  *lora = (rvl_lora){0};
}

void rvl_lora_initialise(const rvl_lora *lora, uint64_t seed, float *adapters) {
  rvl_random random = rvl_random_of(seed);
  memset(adapters, 0, lora->floats * sizeof *adapters);
  for (size_t i = 0; i < lora->count; i += 2) {
    const rvl_lora_tensor *a = &lora->tensors[i];
    double bound = 1 / sqrt(a->columns);
    for (size_t k = 0; k < a->count; k++) {
      adapters[a->offset + k] = (float)(bound * (2 * rvl_random_uniform(&random) - 1));
    }
  }
}

/* Tensors of the merged weights are the base's in the same order, but for the head of a base that is tied. */
static const rvl_tensor *base_tensor(const rvl_lora *lora, size_t i) {
  return i < lora->base->count ? &lora->base->tensors[i] : &lora->base->tensors[0];
}

void rvl_lora_merge(const rvl_lora *lora, const rvl_blas *blas, const float *base, const float *adapters,
                    float *merged) {
  for (size_t i = 0; i < lora->effective.count; i++) {
    const rvl_tensor *to = &lora->effective.tensors[i], *from = base_tensor(lora, i);
    memcpy(merged + to->offset, base + from->offset, to->count * sizeof *merged);
  }
  for (size_t i = 0; i < lora->count; i += 2) {
    const rvl_lora_tensor *a = &lora->tensors[i], *b = &lora->tensors[i + 1];
    int out = (int)b->rows, rank = (int)a->rows, in = (int)a->columns;
    blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_AS_IS, RVL_BLAS_AS_IS, out, in, rank, (float)lora->config.scale,
                adapters + b->offset, rank, adapters + a->offset, in, 1.0f,
                merged + lora->effective.tensors[a->tensor].offset, in);
  }
}

void rvl_lora_project(const rvl_lora *lora, const rvl_blas *blas, const float *adapters, const float *gradient,
                      float *adapters_gradient) {
  for (size_t i = 0; i < lora->count; i += 2) {
    const rvl_lora_tensor *a = &lora->tensors[i], *b = &lora->tensors[i + 1];
    const float *whole = gradient + lora->effective.tensors[a->tensor].offset;
    int out = (int)b->rows, rank = (int)a->rows, in = (int)a->columns;
    float scale = (float)lora->config.scale;
    blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_AS_IS, RVL_BLAS_TRANSPOSED, out, rank, in, scale, whole, in,
                adapters + a->offset, in, 1.0f, adapters_gradient + b->offset, rank);
    blas->sgemm(RVL_BLAS_ROWS, RVL_BLAS_TRANSPOSED, RVL_BLAS_AS_IS, rank, in, out, scale, adapters + b->offset,
                rank, whole, in, 1.0f, adapters_gradient + a->offset, in);
  }
}
