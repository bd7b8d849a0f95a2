/* What forward and backward share. For transformer*.c only. */
#ifndef RVL_TRANSFORMER_PARTS_H
#define RVL_TRANSFORMER_PARTS_H

#include "kernels.h"
#include "transformer.h"

/* Attention's probabilities of longer sequences are computed again in backward: memory grows with tokens alone. */
enum { RVL_TRANSFORMER_KEPT = 256 };

typedef struct rvl_rows {
  float *floats;
  size_t capacity;
} rvl_rows;

/*
** What a layer keeps from forward to backward. As little as can be: the inputs of the qkv and up products are made
** again from the normalized rows, gelu's value when its slope is computed; the residual stream is not needed.
*/
typedef struct rvl_layer {
  rvl_rows rows;
  float *normalized1, *normalized2;    /* [tokens, width] */
  float *qkv;                          /* [tokens, 3 width], turned by position */
  float *attention;                    /* [tokens, width]: heads' results, before the out product */
  float *up;                           /* [tokens, hidden]: before gelu */
  float *inverse1, *inverse2;          /* [tokens] */
  float *logsum;                       /* per sequence [heads, length] */
  float *kept;                         /* per short sequence [heads, length, padded(length)] */
} rvl_layer;

struct rvl_transformer {
  const rvl_model_layout *layout;
  const rvl_blas *blas;
  const rvl_kernels *kernels;
  size_t width, hidden, vocabulary, head_width;
  rvl_layer *layers;
  rvl_rows shared, gradients, scratch, turns;
  float *x, *y;                        /* [tokens, width]: the residual stream; what a product is fed with */
  float *normalized, *inverse;         /* of the last norm */
  float *gelu;                         /* [tokens, hidden] */
  float *logits;                       /* [tokens, vocabulary] */
  float *dx, *dy, *dqkv, *dhidden;     /* gradients of the residual stream and of what has the shape */
  size_t positions;                    /* rows of `turns` (rotary) */
};

/* The products of blas.h, by whoever is the fastest. */
void rvl_transformer_linear(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                            const float *b, bool add, float *c);
void rvl_transformer_product(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                             const float *b, bool add, float *c);
void rvl_transformer_outer(const rvl_transformer *t, size_t rows, size_t columns, size_t depth, const float *a,
                           const float *b, bool add, float *c);

/* Queries and keys of qkv are turned by their positions, or back. */
void rvl_transformer_turn(const rvl_transformer *t, const rvl_batch *batch, bool back, float *qkv);

/* The heads of a layer, one after the other: from {.t, .batch, .l}. */
typedef struct rvl_heads {
  const rvl_transformer *t;
  const rvl_batch *batch;
  const rvl_layer *l;
  size_t sequence, next;               /* which head comes next */
  size_t logsums, kept;                /* how much of the layer's belongs to those before */
  size_t begin, column;                /* of this one's queries: first token, and column of `width` */
  rvl_head head;
} rvl_heads;

bool rvl_heads_next(rvl_heads *heads);

bool rvl_rows_reserve(rvl_rows *rows, size_t count);
/* Memory for a batch; without backward one layer's serves all. false: there is none. */
bool rvl_transformer_place(rvl_transformer *transformer, const rvl_batch *batch, bool backward);
bool rvl_transformer_place_gradients(rvl_transformer *transformer, size_t tokens);

#endif
