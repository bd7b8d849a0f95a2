/*
** Products of matrices of rows, see kernels.h. Of b a panel, as wide as two vectors, is laid out in scratch
** memory; a tile of rows × panel stays in registers while the depth goes by. A BLAS lays out the other factor as
** well, and clears the result beforehand: where all is near, as in micro-batches, that is a seventh of its time.
*/
#include "kernels_tile.h"

_Static_assert(PANEL * RVL_KERNELS_DEPTH <= RVL_PRODUCT_SCRATCH, "a panel fits");

static void multiply(const factors *f, size_t rows) { tiles(f, rows, f->a_step); }

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

/* c [rows, columns] = (adding: c +) a [rows, depth] · b [depth, columns], or `transposed` [columns, depth]. */
INLINE void by_panels(bool transposed, size_t rows, size_t columns, size_t depth, const float *a, const float *b,
                      bool add, float *c, float *scratch) {
  for (size_t first = 0; first < columns; first += PANEL) {
    for (size_t from = 0; from < depth; from += RVL_KERNELS_DEPTH) {
      factors f = {.depth = least(depth - from, RVL_KERNELS_DEPTH), .columns = least(columns - first, PANEL),
                   .a = a + from, .a_row = depth, .a_step = 1, .panel = scratch, .c = c + first, .c_row = columns,
                   .adding = add || from > 0};
      if (transposed) lay_out_transposed(f.columns, f.depth, b + first * depth + from, depth, scratch);
      else lay_out(f.columns, f.depth, b + from * columns + first, columns, scratch);
      multiply(&f, rows);
    }
  }
}

void RVL_KERNEL(rvl_linear)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                            float *c, float *scratch) {
  by_panels(true, rows, columns, depth, a, b, add, c, scratch);
}

void RVL_KERNEL(rvl_product)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                             float *c, float *scratch) {
  by_panels(false, rows, columns, depth, a, b, add, c, scratch);
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
      multiply(&f, rows);
    }
  }
}
