/* What kernels_panels.h promises. */
#include "kernels_panels.h"

#include "kernels_tile.h"

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

/* Few rows alone would wait for each sum: two panels at once. */
static void two_panels(const factors *f, size_t rows) {
  if (rows == 1) tile(f, 1, 2, 1);
  else if (rows == 2) tile(f, 2, 2, 1);
  else tile(f, 3, 2, 1);
}

static void multiply(size_t rows, size_t outputs, size_t inputs, const float *x, const float *panels, bool add,
                     float *y) {
  if (rows == 0) return;
  factors f = {.depth = inputs, .a = x, .a_row = inputs, .c_row = outputs, .adding = add};
  size_t step = rows <= 3 ? 2 * PANEL : PANEL;
  for (size_t first = 0; first < outputs; first += step) {
    f.panel = panels + first * inputs;
    f.columns = outputs - first;
    f.c = y + first;
    if (rows <= 3 && f.columns > PANEL) two_panels(&f, rows);
    else tiles(&f, rows, 1);
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
