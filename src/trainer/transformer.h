/*
** Forward and backward of a decoder-only transformer, in one thread: see model.h for what it computes. Sequences
** of any lengths are packed one after another; each sees itself only. All in memory that grows and is used again:
** micro-batches whose activations stay in the processor's cache are the fastest (rvl_transformer_tokens).
*/
#ifndef RVL_TRANSFORMER_H
#define RVL_TRANSFORMER_H

#include "blas.h"
#include "model.h"

typedef struct rvl_batch {
  size_t sequences, tokens;
  const int32_t *ids;          /* [tokens], below the vocabulary */
  const uint32_t *starts;      /* [sequences + 1]: from 0 to `tokens`; no sequence is longer than the context */
  const uint8_t *mask;         /* [tokens]: 0 is a token that no other sees (attention_mask); NULL: ones */
} rvl_batch;

typedef struct rvl_transformer rvl_transformer;

/* The buffers of one thread; layout and blas must outlive them. NULL: no memory. */
rvl_transformer *rvl_transformer_new(const rvl_model_layout *layout, const rvl_blas *blas);
void rvl_transformer_free(rvl_transformer *transformer);

/* How many tokens a micro-batch should have, about: more only when one sequence is longer. */
size_t rvl_transformer_tokens(const rvl_model_config *config);

/* Logits [tokens, vocabulary], in its own memory until the next call; NULL: no memory. A token's position is its
   index in its sequence, masked tokens counted. */
float *rvl_transformer_forward(rvl_transformer *transformer, const float *weights, const rvl_batch *batch);

/* The same when no backward follows: keeps less. */
float *rvl_transformer_infer(rvl_transformer *transformer, const float *weights, const rvl_batch *batch);

/* After rvl_transformer_forward of the same batch, with its logits overwritten by d loss / d logits: adds to
   `gradient` (of the layout). `wanted`: by index of layout->tensors, the others' may be added or not; NULL: all.
   false: no memory. */
bool rvl_transformer_backward(rvl_transformer *transformer, const float *weights, const rvl_batch *batch,
                              const bool *wanted, float *gradient);

#endif
