/* What kernels_panels.h promises. A tile of rows × outputs stays in registers while the inputs go by. */
#include "kernels_panels.h"

#include "kernels_simd.h"

enum {
  PANEL = 2 * LANES,           /* outputs: two vectors */
  TILE = LANES == 16 ? 12 : 6  /* rows: AVX-512 has twice as many registers */
};

static void pack(size_t outputs, size_t inputs, const float *weights, float *panels) {
  for (size_t first = 0; first < outputs; first += PANEL) {
    size_t there = outputs - first < PANEL ? outputs - first : PANEL;
    const float *w = weights + first * inputs;
    for (size_t i = 0; i < inputs; i++) {
      for (size_t o = 0; o < there; o++) panels[o] = w[o * inputs + i];
      for (size_t o = there; o < PANEL; o++) panels[o] = 0;
      panels += PANEL;
    }
  }
}

/* `outputs` may be fewer than a panel's: y has no more. */
INLINE void keep(const vec sum[2], size_t outputs, bool add, float *y) {
  if (outputs >= PANEL) {
    for (size_t v = 0; v < 2; v++) store(y + v * LANES, add ? load(y + v * LANES) + sum[v] : sum[v]);
    return;
  }
  float sums[PANEL];
  memcpy(sums, sum, sizeof sums);
  for (size_t o = 0; o < outputs; o++) y[o] = add ? y[o] + sums[o] : sums[o];
}

/* `rows` and `count` (of panels) are constants where this is called, so that all sums are registers. */
INLINE void tile(size_t rows, size_t count, size_t outputs, size_t inputs, const float *x, const float *panels,
                 size_t y_stride, bool add, float *y) {
  vec sums[TILE][4];
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < 2 * count; v++) sums[r][v] = (vec){0};
  }
  const float *beside = panels + (count - 1) * inputs * PANEL;
  for (size_t i = 0; i < inputs; i++) {
    const float *p = panels + i * PANEL, *q = beside + i * PANEL;
    vec w[4] = {load(p), load(p + LANES), load(q), load(q + LANES)};
    for (size_t r = 0; r < rows; r++) {
      float value = x[r * inputs + i];
      for (size_t v = 0; v < 2 * count; v++) sums[r][v] += value * w[v];
    }
  }
  for (size_t r = 0; r < rows; r++) {
    for (size_t c = 0; c < count; c++) {
      keep(&sums[r][2 * c], c * PANEL < outputs ? outputs - c * PANEL : 0, add, y + r * y_stride + c * PANEL);
    }
  }
}

#define ROWS(n) case n: tile(n, 1, outputs, inputs, x, panels, y_stride, add, y); break

static void tile_of(size_t rows, size_t outputs, size_t inputs, const float *x, const float *panels,
                    size_t y_stride, bool add, float *y) {
  switch (rows) {
    ROWS(1); ROWS(2); ROWS(3); ROWS(4); ROWS(5); ROWS(6);
#if LANES == 16
    ROWS(7); ROWS(8); ROWS(9); ROWS(10); ROWS(11); ROWS(12);
#endif
    default: break;
  }
}

/* Few rows alone would wait for each sum: two panels at once. */
static void two_panels(size_t rows, size_t outputs, size_t inputs, const float *x, const float *panels,
                       size_t y_stride, bool add, float *y) {
  if (rows == 1) tile(1, 2, outputs, inputs, x, panels, y_stride, add, y);
  else if (rows == 2) tile(2, 2, outputs, inputs, x, panels, y_stride, add, y);
  else tile(3, 2, outputs, inputs, x, panels, y_stride, add, y);
}

static void multiply(size_t rows, size_t outputs, size_t inputs, const float *x, const float *panels, bool add,
                     float *y) {
  if (rows == 0) return;
  size_t step = rows <= 3 ? 2 * PANEL : PANEL;
  for (size_t first = 0; first < outputs; first += step) {
    const float *p = panels + first * inputs;
    size_t left = outputs - first;
    if (rows <= 3 && left > PANEL) {
      two_panels(rows, left, inputs, x, p, outputs, add, y + first);
      continue;
    }
    for (size_t r = 0; r < rows; r += TILE) {
      size_t some = rows - r < TILE ? rows - r : TILE;
      tile_of(some, left, inputs, x + r * inputs, p, outputs, add, y + r * outputs + first);
    }
  }
}

extern const rvl_panels RVL_KERNEL(rvl_panels);
const rvl_panels RVL_KERNEL(rvl_panels) = {.width = PANEL, .pack = pack, .multiply = multiply};

#ifndef RVL_KERNELS_EXTRA        /* the baseline's */

#ifdef RVL_KERNELS_X86
extern const rvl_panels rvl_panels_avx2, rvl_panels_avx512;
#endif

const rvl_panels *rvl_panels_at(size_t index) {
  if (rvl_kernels_at(index) == NULL) return NULL;
#ifdef RVL_KERNELS_X86
  if (index > 0) return index == 1 ? &rvl_panels_avx2 : &rvl_panels_avx512;
#endif
  return &RVL_KERNEL(rvl_panels);
}

const rvl_panels *rvl_panels_pick(void) {
  const rvl_panels *best = NULL;
  for (size_t i = 0; rvl_panels_at(i) != NULL; i++) best = rvl_panels_at(i);
  return best;
}

#endif
