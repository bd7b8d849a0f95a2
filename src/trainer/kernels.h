/*
** The loops that must be vectorised. Their sources are compiled once per instruction set; the fitting ones are
** chosen when the program runs. Sums have the same order on every call: one processor always gives the same
** result. NaN and infinity go through. No pointer needs to be aligned, none may overlap unless said.
*/
#ifndef RVL_KERNELS_H
#define RVL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One head of one sequence. Token t has its query at query + t · stride, and so on: all in rows of [q; k; v]. */
typedef struct rvl_head {
  size_t length, width;        /* tokens; floats of a query */
  const float *query, *key, *value;
  size_t stride;               /* of query, key and value */
  const uint8_t *mask;         /* of the tokens: 0 is one that no other sees; NULL: all are seen */
  float *kept;                 /* [length, rvl_padded(length)]: probabilities for backward; NULL: made again */
  float *logsum;               /* [length], for backward */
  float *scratch;              /* rvl_head_scratch floats */
} rvl_head;

enum {
  RVL_KERNELS_PAD = 16,
  RVL_KERNELS_ROWS = 32,       /* queries that attention takes at a time */
  RVL_KERNELS_DEPTH = 1024,    /* of a product, at a time */
  RVL_PRODUCT_SCRATCH = 32 * RVL_KERNELS_DEPTH
};

static inline size_t rvl_padded(size_t count) {
  return (count + RVL_KERNELS_PAD - 1) / RVL_KERNELS_PAD * RVL_KERNELS_PAD;
}

/* Floats of rvl_head.scratch: copies of what has no whole vectors, two transposed ones, two blocks of scores. */
static inline size_t rvl_head_scratch(size_t length, size_t width) {
  size_t rows = width % RVL_KERNELS_PAD == 0 ? 2 : 9;
  return rvl_padded(length) * (rows * rvl_padded(width) + 2 * RVL_KERNELS_ROWS + 1);
}

/* What PyTorch's AdamW does in one step. */
typedef struct rvl_adamw {
  float scale;                 /* of the gradient: clipping */
  float beta1, beta2, rest1, rest2;   /* rest: 1 - beta of the doubles, which floats would round off */
  float epsilon;
  float decay;                 /* 1 - lr · weight_decay */
  float rate;                  /* lr / (1 - beta1^step) */
  float root;                  /* √(1 - beta2^step) */
} rvl_adamw;

typedef struct rvl_kernels {
  const char *name;            /* "avx512", "avx2" or "baseline" */

  /* ---- vectors of n floats */
  void (*add)(size_t n, const float *x, float *y);                      /* y += x */
  void (*scale)(size_t n, float a, float *x);                           /* x *= a */
  double (*squares)(size_t n, const float *x);                          /* Σ x²; not finite if an x is not */
  float (*largest)(size_t n, const float *x);                           /* n > 0; NaN if one is NaN */
  void (*gelu)(size_t n, const float *x, float *y);                     /* the tanh form; y may be x */
  /* dy becomes dx; y (NULL: not wanted) the value of gelu(x) again. */
  void (*gelu_backward)(size_t n, const float *x, float *dy, float *y);
  void (*adamw)(size_t n, const rvl_adamw *step, const float *gradient, float *m, float *v, float *weights);

  /* ---- a row of n logits; z = a · x (a: 1 / temperature) */
  float (*log_sum_exp)(size_t n, float a, const float *x);              /* log Σ exp z */
  /* y = c · exp(z - logsum): probabilities times c, when log Σ exp z is known; y may be x. */
  void (*softmax_times)(size_t n, float a, float logsum, float c, const float *x, float *y);
  float (*entropy)(size_t n, float a, float logsum, const float *x);    /* -Σ p log p, p = exp(z - logsum) */

  /* ---- rows [rows, width] */
  /* y = normalized · weight + bias, normalized = (x - mean) · inverse, inverse[row] = 1 / √(variance + epsilon).
     y may be x. NULL for normalized and inverse: not kept. */
  void (*norm)(size_t rows, size_t width, float epsilon, const float *x, const float *weight, const float *bias,
               float *y, float *normalized, float *inverse);
  /* y = normalized · weight + bias again. */
  void (*norm_again)(size_t rows, size_t width, const float *normalized, const float *weight, const float *bias,
                     float *y);
  /* dx += what dy makes of it; dweight and dbias (both NULL: not wanted) get their sums added. */
  void (*norm_backward)(size_t rows, size_t width, const float *dy, const float *weight, const float *normalized,
                        const float *inverse, float *dx, float *dweight, float *dbias);
  /* Turns one token's `heads` queries (or keys) [heads, width] by its position: `turn` is that position's row of
     rvl_rotary_table. `back`: the other way (gradients). */
  void (*rotary)(size_t heads, size_t width, const float *turn, bool back, float *x);

  /* ---- products of packed rows, as those of blas.h; `add`: to c. Each sum is in the order of the depth,
     whatever is beside it. scratch: RVL_PRODUCT_SCRATCH floats. */
  bool fast_products;          /* faster than a BLAS for a micro-batch */
  void (*linear)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add, float *c,
                 float *scratch);
  void (*product)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add, float *c,
                  float *scratch);
  void (*outer)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add, float *c,
                float *scratch);

  /* ---- attention */
  /* out[t · out_stride] = Σ probabilities · values of the token itself and those before it. */
  void (*attention)(const rvl_head *head, float *out, size_t out_stride);
  /* Sets the gradients of query, key and value, which have the same stride as these. */
  void (*attention_backward)(const rvl_head *head, const float *dout, size_t out_stride, float *dquery,
                             float *dkey, float *dvalue);
  /* One query [width] (turned) against a cache of `length` > 0 tokens, whose keys lie by columns: component c of
     token t is keys[c · key_stride + t], and values[t · value_stride + c]. rvl_padded(length) of a column are
     read, whatever is there, and `scores` has as many floats. out [width] is set. */
  void (*attend)(size_t length, size_t width, const float *query, const float *keys, size_t key_stride,
                 const float *values, size_t value_stride, float *scores, float *out);
} rvl_kernels;

/* Those for this processor. */
const rvl_kernels *rvl_kernels_pick(void);
/* All that this processor can run, the plainest first; NULL after the last. For tests. */
const rvl_kernels *rvl_kernels_at(size_t index);

/* table[positions, width]: cosines of width / 2 angles, then their sines. Angle i at position p is
   p · base^(-2i / width); component i is turned with component i + width / 2 (GPT-NeoX's halves). */
void rvl_rotary_table(size_t positions, size_t width, float base, float *table);

#endif
