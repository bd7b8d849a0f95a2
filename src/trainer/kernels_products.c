/*
** Products of matrices of rows, see kernels.h. Of b a panel, as wide as two vectors, is laid out in scratch
** memory; a tile of rows × panel stays in registers while the depth goes by. A BLAS lays out the other factor as
** well, and clears the result beforehand: where all is near, as in micro-batches, that is a seventh of its time.
*/
#include "kernels_simd.h"

enum {
  PANEL = 2 * LANES,
  TILE = LANES == 16 ? 12 : 6  /* rows: AVX-512 has twice as many registers */
};

_Static_assert(PANEL * RVL_KERNELS_DEPTH <= RVL_PRODUCT_SCRATCH, "a panel fits");

/* Element (row, i) of a is a[row · a_row + i · a_step]; of c only `columns` are there. */
typedef struct factors {
  size_t depth, columns;
  const float *a;
  size_t a_row, a_step;
  const float *panel;
  float *c;
  size_t c_row;
  bool adding;
} factors;

/* `rows` is a constant where this is called, so that all sums are registers. */
INLINE void tile(const factors *f, size_t rows) {
  vec sums[TILE][2];           /* of c: what is there is added last, when the sum is whole */
  size_t second = f->columns > LANES ? f->columns - LANES : 0;
  for (size_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (vec){0};
  for (size_t i = 0; i < f->depth; i++) {
    vec b0 = load(f->panel + i * PANEL), b1 = load(f->panel + i * PANEL + LANES);
    for (size_t r = 0; r < rows; r++) {
      float x = f->a[r * f->a_row + i * f->a_step];
      sums[r][0] += x * b0;
      sums[r][1] += x * b1;
    }
  }
  for (size_t r = 0; r < rows; r++) {
    float *c = f->c + r * f->c_row;
    if (f->adding) {
      sums[r][0] += load_some(c, f->columns);
      if (second > 0) sums[r][1] += load_some(c + LANES, second);
    }
    store_some(c, sums[r][0], f->columns);
    if (second > 0) store_some(c + LANES, sums[r][1], second);
  }
}

#define ROWS(n) case n: tile(f, n); break

static void tile_of(const factors *f, size_t rows) {
  switch (rows) {
    ROWS(1); ROWS(2); ROWS(3); ROWS(4); ROWS(5); ROWS(6);
#if LANES == 16
    ROWS(7); ROWS(8); ROWS(9); ROWS(10); ROWS(11); ROWS(12);
#endif
    default: break;
  }
}

/* All rows with one panel. */
static void tiles(factors f, size_t rows) {
  for (size_t r = 0; r < rows; r += TILE) {
    tile_of(&f, rows - r < TILE ? rows - r : TILE);
    f.a += TILE * f.a_row;
    f.c += TILE * f.c_row;
  }
}

/* panel[depth, PANEL] = b[outputs, depth]ᵀ, rows of b are `stride` apart; zeros where there are fewer outputs. */
static void lay_out_transposed(size_t outputs, size_t depth, const float *b, size_t stride, float *panel) {
  for (size_t o = 0; o < PANEL; o += LANES) {
    size_t count = o < outputs ? outputs - o : 0, i = 0;
    for (; i + LANES <= depth; i += LANES) {
      transpose_square(b + o * stride + i, stride, count, panel + i * PANEL + o, PANEL);
    }
    for (; i < depth; i++) {
      for (size_t k = 0; k < LANES; k++) panel[i * PANEL + o + k] = k < count ? b[(o + k) * stride + i] : 0.0f;
    }
  }
}

/* panel[depth, PANEL] = b[depth, columns]; zeros where there are fewer. */
static void lay_out(size_t columns, size_t depth, const float *b, size_t stride, float *panel) {
  size_t second = columns > LANES ? columns - LANES : 0;
  for (size_t i = 0; i < depth; i++, b += stride, panel += PANEL) {
    store(panel, load_some(b, columns));
    store(panel + LANES, second > 0 ? load_some(b + LANES, second) : (vec){0});
  }
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

void RVL_KERNEL(rvl_linear)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                            float *c, float *scratch) {
  for (size_t first = 0; first < columns; first += PANEL) {
    for (size_t from = 0; from < depth; from += RVL_KERNELS_DEPTH) {
      factors f = {.depth = least(depth - from, RVL_KERNELS_DEPTH), .columns = least(columns - first, PANEL),
                   .a = a + from, .a_row = depth, .a_step = 1, .panel = scratch, .c = c + first, .c_row = columns,
                   .adding = add || from > 0};
      lay_out_transposed(f.columns, f.depth, b + first * depth + from, depth, scratch);
      tiles(f, rows);
    }
  }
}

void RVL_KERNEL(rvl_product)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                             float *c, float *scratch) {
  for (size_t first = 0; first < columns; first += PANEL) {
    for (size_t from = 0; from < depth; from += RVL_KERNELS_DEPTH) {
      factors f = {.depth = least(depth - from, RVL_KERNELS_DEPTH), .columns = least(columns - first, PANEL),
                   .a = a + from, .a_row = depth, .a_step = 1, .panel = scratch, .c = c + first, .c_row = columns,
                   .adding = add || from > 0};
      lay_out(f.columns, f.depth, b + from * columns + first, columns, scratch);
      tiles(f, rows);
    }
  }
}

/* Columns of a are read in place: of fewer tokens at a time they stay in the nearest cache. */
void RVL_KERNEL(rvl_outer)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                           float *c, float *scratch) {
  const size_t most = RVL_KERNELS_DEPTH / 4;
  for (size_t from = 0; from < depth; from += most) {
    for (size_t first = 0; first < columns; first += PANEL) {
      factors f = {.depth = least(depth - from, most), .columns = least(columns - first, PANEL),
                   .a = a + from * rows, .a_row = 1, .a_step = rows, .panel = scratch, .c = c + first,
                   .c_row = columns, .adding = add || from > 0};
      lay_out(f.columns, f.depth, b + from * columns + first, columns, scratch);
      tiles(f, rows);
    }
  }
}
