/*
** Causal attention of one head, see kernels.h. Queries are taken ROWS at a time: their scores with all keys they
** may see are one block of memory, so that sequences of any length cost memory of their own length only, and short
** ones stay in the nearest cache. All products are of a small matrix with rows of whole vectors (multiply).
*/
#include "kernels_simd.h"

#include <math.h>

enum { ROWS = RVL_KERNELS_ROWS };

/* --------------------------------------------------------------------------------------------- products */

/* Matrices: element (row, k) of `a` is a[row · a_row + k · a_step], rows of b and c are whole vectors. */
typedef struct factors {
  const float *a;
  size_t a_row, a_step;
  const float *b;
  size_t b_row;
  float *c;
  size_t c_row;
} factors;

/* c[rows, vectors · LANES] = (adding: +) a · b over k of `from` to `to`. Constant sizes, where it is called. */
INLINE void tile(const factors *f, size_t rows, size_t vectors, size_t from, size_t to, bool adding) {
  vec sums[8][2];
  const float *a = f->a;
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) sums[r][v] = adding ? load(f->c + r * f->c_row + v * LANES) : (vec){0};
  }
  for (size_t k = from; k < to; k++) {
    const float *b = f->b + k * f->b_row;
    vec b0 = load(b), b1 = vectors > 1 ? load(b + LANES) : b0;
    for (size_t r = 0; r < rows; r++) {
      vec x = splat(a[r * f->a_row + k * f->a_step]);
      sums[r][0] += x * b0;
      if (vectors > 1) sums[r][1] += x * b1;
    }
  }
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) store(f->c + r * f->c_row + v * LANES, sums[r][v]);
  }
}

/* As tile, of at most 4 rows. */
INLINE void tile_upto4(const factors *f, size_t rows, size_t vectors, size_t from, size_t to, bool adding) {
  switch (rows) {
    case 1: tile(f, 1, vectors, from, to, adding); break;
    case 2: tile(f, 2, vectors, from, to, adding); break;
    case 3: tile(f, 3, vectors, from, to, adding); break;
    default: tile(f, 4, vectors, from, to, adding); break;
  }
}

INLINE factors moved(const factors *f, size_t row, size_t column) {
  factors g = *f;
  g.a += row * f->a_row;
  g.b += column;
  g.c += row * f->c_row + column;
  return g;
}

INLINE size_t lesser(size_t a, size_t b) { return a < b ? a : b; }

/*
** What is left of a triangle: `a` has nothing beyond k = row + before (LOWER), or nothing before k = row - before
** (UPPER), or of the result no column beyond row + before is wanted (CUT).
*/
typedef enum shape { LOWER, CUT, UPPER } shape;

/* Four rows at a time: their panel of b stays near for the next ones. */
INLINE void panel(const factors *f, size_t rows, size_t column, size_t vectors, size_t depth, shape form,
                  size_t before, bool adding) {
  for (size_t row = 0; row < rows; row += 4) {
    size_t count = lesser(4, rows - row), from = 0, to = depth;
    if (form == CUT && column >= row + count + before) continue;
    if (form == LOWER) to = lesser(depth, row + count + before);
    if (form == UPPER && row > before) from = lesser(depth, row - before);
    factors g = moved(f, row, column);
    tile_upto4(&g, count, vectors, from, to, adding);
  }
}

/* c[rows, columns] = (adding: +) a · b; columns are whole vectors. */
INLINE void multiply(const factors *f, size_t rows, size_t columns, size_t depth, shape form, size_t before,
                     bool adding) {
  size_t column = 0;
  for (; column + 2 * LANES <= columns; column += 2 * LANES) {
    panel(f, rows, column, 2, depth, form, before, adding);
  }
  if (column < columns) panel(f, rows, column, 1, depth, form, before, adding);
}

/* -------------------------------------------------------------------------------------- laying out a head */

/* y[width, padded(length)] = x[length, width]ᵀ, zeros beyond; the width is whole vectors. */
INLINE void transpose(size_t length, size_t width, const float *x, size_t stride, float *y) {
  size_t padded = rvl_padded(length);
  for (size_t t = 0; t < padded; t += LANES) {
    size_t count = t < length ? lesser(LANES, length - t) : 0;
    for (size_t c = 0; c < width; c += LANES) {
      transpose_square(x + t * stride + c, stride, count, y + c * padded + t, padded);
    }
  }
}

/* Rows of whole vectors: those that are there, or a copy in *scratch, which moves on. */
INLINE const float *whole_rows(size_t length, size_t width, const float *x, size_t *stride, float **scratch) {
  if (width % LANES == 0) return x;
  size_t padded = rvl_padded(width), given = *stride;
  float *copy = *scratch;
  for (size_t t = 0; t < length; t++) {
    memcpy(copy + t * padded, x + t * given, width * sizeof *x);
    memset(copy + t * padded + width, 0, (padded - width) * sizeof *x);
  }
  *stride = padded;
  *scratch += rvl_padded(length) * padded;
  return copy;
}

/* Where to write rows of whole vectors: at their place, or in *scratch, for copy_back. */
INLINE float *whole_result(size_t length, size_t width, float *x, size_t *stride, float **scratch) {
  if (width % LANES == 0) return x;
  float *there = *scratch;
  *stride = rvl_padded(width);
  *scratch += rvl_padded(length) * *stride;
  return there;
}

INLINE void copy_back(size_t length, size_t width, const float *from, size_t from_stride, float *x,
                      size_t stride) {
  if (from == x) return;
  for (size_t t = 0; t < length; t++) memcpy(x + t * stride, from + t * from_stride, width * sizeof *x);
}

/* What the passes share of a head. */
typedef struct work {
  size_t length, padded, width;          /* width: whole vectors */
  const float *query, *key, *value;
  size_t query_stride, key_stride, value_stride;
  float *key_columns;                    /* [width, padded] */
  float *hidden;                         /* [padded]: -infinity where the mask is 0; NULL: no mask */
  float scale;                           /* of a score */
} work;

INLINE work prepare(const rvl_head *head, bool scores, float **scratch) {
  work w = {.length = head->length, .padded = rvl_padded(head->length), .query_stride = head->stride,
            .key_stride = head->stride, .value_stride = head->stride, .scale = 1.0f / sqrtf((float)head->width)};
  w.query = whole_rows(w.length, head->width, head->query, &w.query_stride, scratch);
  w.key = whole_rows(w.length, head->width, head->key, &w.key_stride, scratch);
  w.value = whole_rows(w.length, head->width, head->value, &w.value_stride, scratch);
  w.width = head->width % LANES == 0 ? head->width : rvl_padded(head->width);
  w.key_columns = *scratch;
  *scratch += w.width * w.padded;
  if (scores) transpose(w.length, w.width, w.key, w.key_stride, w.key_columns);
  if (head->mask == NULL) return w;
  w.hidden = *scratch;
  *scratch += w.padded;
  for (size_t t = 0; t < w.padded; t++) w.hidden[t] = t < w.length && head->mask[t] == 0 ? -INFINITY : 0.0f;
  return w;
}

/* ------------------------------------------------------------------------------------------------ scores */

/* Scores of `rows` queries from `begin` on with all keys up to the last of them: [rows, padded], unscaled. */
INLINE void scores_of(const work *w, size_t begin, size_t rows, float *scores) {
  factors f = {.a = w->query + begin * w->query_stride, .a_row = w->query_stride, .a_step = 1, .b = w->key_columns,
               .b_row = w->padded, .c = scores, .c_row = w->padded};
  multiply(&f, rows, rvl_padded(begin + rows), w->width, CUT, begin, false);
}

INLINE vec visible(const work *w, const float *scores, size_t i, size_t seen) {
  vec v = load(scores + i) * w->scale;
  if (w->hidden != NULL) v += load(w->hidden + i);
  return first(v, seen - i, -INFINITY);
}

/* A token sees itself, whatever the mask says: so there is always something to see. Returns what hide takes. */
INLINE float show(const work *w, size_t token) {
  if (w->hidden == NULL) return 0;
  float before = w->hidden[token];
  w->hidden[token] = 0;
  return before;
}

INLINE void hide(const work *w, size_t token, float before) {
  if (w->hidden != NULL) w->hidden[token] = before;
}

/* Scores of a query who sees the first `seen` keys become probabilities, zeros up to `end`. Returns log Σ exp. */
INLINE float probabilities_of(const work *w, size_t seen, size_t end, float *scores) {
  float before = show(w, seen - 1);
  vec most = splat(-INFINITY), total = {0};
  size_t i;
  for (i = 0; i < seen; i += LANES) most = greater(visible(w, scores, i, seen), most);
  float top = greatest(most);
  for (i = 0; i < seen; i += LANES) {
    vec e = exponential(visible(w, scores, i, seen) - top);
    total += e;
    store(scores + i, e);
  }
  float all = sum(total), share = 1.0f / all;
  for (size_t k = 0; k < i; k += LANES) store(scores + k, load(scores + k) * share);
  for (; i < end; i += LANES) store(scores + i, (vec){0});
  hide(w, seen - 1, before);
  return top + logf(all);
}

/* The same when log Σ exp is known. */
INLINE void probabilities_again(const work *w, size_t seen, size_t end, float logsum, float *scores) {
  float before = show(w, seen - 1);
  size_t i = 0;
  for (; i < seen; i += LANES) store(scores + i, exponential(visible(w, scores, i, seen) - logsum));
  for (; i < end; i += LANES) store(scores + i, (vec){0});
  hide(w, seen - 1, before);
}

/* ----------------------------------------------------------------------------------------------- forward */

void RVL_KERNEL(rvl_attention)(const rvl_head *head, float *out, size_t out_stride) {
  float *scratch = head->scratch;
  work w = prepare(head, true, &scratch);
  size_t stride = out_stride;
  float *block = scratch, *result = whole_result(ROWS, head->width, out, &stride, &block);
  for (size_t begin = 0; begin < w.length; begin += ROWS) {
    size_t rows = lesser(ROWS, w.length - begin), end = rvl_padded(begin + rows);
    float *scores = head->kept != NULL ? head->kept + begin * w.padded : block;
    scores_of(&w, begin, rows, scores);
    for (size_t r = 0; r < rows; r++) {
      head->logsum[begin + r] = probabilities_of(&w, begin + r + 1, end, scores + r * w.padded);
    }
    bool in_place = result == out;
    factors f = {.a = scores, .a_row = w.padded, .a_step = 1, .b = w.value, .b_row = w.value_stride,
                 .c = in_place ? out + begin * out_stride : result, .c_row = stride};
    multiply(&f, rows, w.width, begin + rows, LOWER, begin, false);
    if (!in_place) copy_back(rows, head->width, result, stride, out + begin * out_stride, out_stride);
  }
}

/* ---------------------------------------------------------------------------------------------- backward */

/* dp becomes the gradient of the scores: p (dp - Σ p dp). What nobody set is not read: 0 · NaN is no zero. */
INLINE void scores_backward(const work *w, size_t seen, size_t end, const float *p, float *dp) {
  vec total = {0};
  size_t i = 0;
  for (; i < seen; i += LANES) total += load(p + i) * load(dp + i);
  float mean = sum(total);
  for (i = 0; i < seen; i += LANES) store(dp + i, load(p + i) * (load(dp + i) - mean) * w->scale);
  for (; i < end; i += LANES) store(dp + i, (vec){0});
}

void RVL_KERNEL(rvl_attention_backward)(const rvl_head *head, const float *dout, size_t out_stride, float *dquery,
                                        float *dkey, float *dvalue) {
  float *scratch = head->scratch;
  work w = prepare(head, head->kept == NULL, &scratch);
  size_t length = w.length, width = head->width, dout_stride = out_stride;
  dout = whole_rows(length, width, dout, &dout_stride, &scratch);
  size_t stride = head->stride;
  float *dq = whole_result(length, width, dquery, &stride, &scratch);
  float *dk = whole_result(length, width, dkey, &stride, &scratch);
  float *dv = whole_result(length, width, dvalue, &stride, &scratch);
  float *value_columns = scratch, *dscores = scratch + w.width * w.padded, *block = dscores + ROWS * w.padded;
  transpose(length, w.width, w.value, w.value_stride, value_columns);
  for (size_t begin = 0; begin < length; begin += ROWS) {
    size_t rows = lesser(ROWS, length - begin), last = begin + rows, end = rvl_padded(last);
    float *p = block;
    if (head->kept != NULL) p = head->kept + begin * w.padded;
    else scores_of(&w, begin, rows, p);
    factors f = {.a = dout + begin * dout_stride, .a_row = dout_stride, .a_step = 1, .b = value_columns,
                 .b_row = w.padded, .c = dscores, .c_row = w.padded};
    multiply(&f, rows, end, w.width, CUT, begin, false);
    for (size_t r = 0; r < rows; r++) {
      size_t seen = begin + r + 1;
      if (head->kept == NULL) probabilities_again(&w, seen, end, head->logsum[begin + r], p + r * w.padded);
      scores_backward(&w, seen, end, p + r * w.padded, dscores + r * w.padded);
    }
    f = (factors){.a = dscores, .a_row = w.padded, .a_step = 1, .b = w.key, .b_row = w.key_stride,
                  .c = dq + begin * stride, .c_row = stride};
    multiply(&f, rows, w.width, last, LOWER, begin, false);
    /* Keys and values of this block get their first share, those before one more. */
    f = (factors){.a = dscores, .a_row = 1, .a_step = w.padded, .b = w.query + begin * w.query_stride,
                  .b_row = w.query_stride, .c = dk, .c_row = stride};
    factors g = moved(&f, begin, 0);
    multiply(&f, begin, w.width, rows, UPPER, begin, true);
    multiply(&g, rows, w.width, rows, UPPER, 0, false);
    f = (factors){.a = p, .a_row = 1, .a_step = w.padded, .b = dout + begin * dout_stride, .b_row = dout_stride,
                  .c = dv, .c_row = stride};
    g = moved(&f, begin, 0);
    multiply(&f, begin, w.width, rows, UPPER, begin, true);
    multiply(&g, rows, w.width, rows, UPPER, 0, false);
  }
  copy_back(length, width, dq, stride, dquery, head->stride);
  copy_back(length, width, dk, stride, dkey, head->stride);
  copy_back(length, width, dv, stride, dvalue, head->stride);
}

/* ----------------------------------------------------------------------------------------- one more token */

/* scores[t] = query · key t, for all of a whole number of vectors. */
INLINE void cached_scores(size_t end, size_t width, const float *query, const float *keys, size_t key_stride,
                          float *scores) {
  size_t t = 0;
  for (; t + 4 * LANES <= end; t += 4 * LANES) {
    vec sums[4] = {{0}};
    for (size_t c = 0; c < width; c++) {
      for (size_t k = 0; k < 4; k++) sums[k] += query[c] * load(keys + c * key_stride + t + k * LANES);
    }
    for (size_t k = 0; k < 4; k++) store(scores + t + k * LANES, sums[k]);
  }
  for (; t < end; t += LANES) {
    vec even = {0}, odd = {0};
    size_t c = 0;
    for (; c + 2 <= width; c += 2) {
      even += query[c] * load(keys + c * key_stride + t);
      odd += query[c + 1] * load(keys + (c + 1) * key_stride + t);
    }
    if (c < width) even += query[c] * load(keys + c * key_stride + t);
    store(scores + t, even + odd);
  }
}

void RVL_KERNEL(rvl_attend)(size_t length, size_t width, const float *query, const float *keys, size_t key_stride,
                            const float *values, size_t value_stride, float *scores, float *out) {
  work w = {.scale = 1.0f / sqrtf((float)width)};
  size_t end = (length + LANES - 1) / LANES * LANES;
  cached_scores(end, width, query, keys, key_stride, scores);
  probabilities_of(&w, length, end, scores);
  for (size_t c = 0; c < width; c += LANES) {
    vec sums[4] = {{0}};
    size_t t = 0, rest = width - c;
    const float *v = values + c;
    for (; t + 4 <= length; t += 4) {
      for (size_t k = 0; k < 4; k++) sums[k] += scores[t + k] * load_some(v + (t + k) * value_stride, rest);
    }
    for (; t < length; t++) sums[0] += scores[t] * load_some(v + t * value_stride, rest);
    store_some(out + c, (sums[0] + sums[1]) + (sums[2] + sums[3]), rest);
  }
}
