/* A transformer that takes a few tokens at a time and keeps the keys and values of those before. Of sampler.c. */
#ifndef RVL_SAMPLER_DECODE_H
#define RVL_SAMPLER_DECODE_H

#include "kernels.h"
#include "model.h"
#include "kernels_panels.h"
#include "pool.h"

/* What all threads read. */
typedef struct rvl_decoder_model {
  const rvl_model_layout *layout;
  const float *weights;
  const rvl_kernels *kernels;
  const rvl_panels *panels;
  float *packed;               /* the linear maps, in panels; */
  size_t *offsets;             /* where each lies there: four of each layer, then the head */
  float *turns;                /* rotary positions; NULL: learned ones */
} rvl_decoder_model;

/* `positions`: as many as any sequence will have. false: no memory; rvl_decoder_model_free in any case. */
bool rvl_decoder_model_init(rvl_decoder_model *model, const rvl_model_layout *layout, const float *weights,
                            size_t positions, rvl_pool *pool);
void rvl_decoder_model_free(rvl_decoder_model *model);

/* Keys and values of one sequence, of all layers: keys by columns, values by rows. */
typedef struct rvl_cache {
  float *floats;
  size_t stride;               /* positions that there is room for */
} rvl_cache;

/* Room for `positions` at least; those before `used` are kept. false: no memory. */
bool rvl_cache_reserve(rvl_cache *cache, const rvl_model_config *config, size_t positions, size_t used);
void rvl_cache_copy(rvl_cache *to, const rvl_cache *from, const rvl_model_config *config, size_t positions);
void rvl_cache_free(rvl_cache *cache);

/* One token of one sequence. */
typedef struct rvl_decoder_row {
  int32_t id;
  size_t position;
  rvl_cache *cache;            /* holds the tokens before; has room for this one */
} rvl_decoder_row;

/* One thread's memory. */
typedef struct rvl_decoder {
  const rvl_decoder_model *model;
  size_t rows, logit_rows;     /* as many at a time */
  float *x, *normed, *qkv, *hidden, *scores, *logits;
} rvl_decoder;

/* false: no memory; rvl_decoder_free in any case. */
bool rvl_decoder_init(rvl_decoder *decoder, const rvl_decoder_model *model, size_t rows, size_t positions);
void rvl_decoder_free(rvl_decoder *decoder);

/* Up to `rows` tokens; those of one sequence in their order. */
void rvl_decoder_advance(rvl_decoder *decoder, const rvl_decoder_row *rows, size_t count);

/* Of up to `logit_rows` of the rows that went last, by their numbers: [count, vocabulary], until the next call. */
const float *rvl_decoder_logits(rvl_decoder *decoder, const size_t *which, size_t count);

#endif
