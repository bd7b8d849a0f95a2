/*
** What all products of kernels*.c are made of: a tile of rows × panel whose sums stay in registers while the depth
** goes by. A panel is as wide as two vectors: [depth, PANEL], zeros where there are fewer columns.
*/
#ifndef RVL_KERNELS_TILE_H
#define RVL_KERNELS_TILE_H

#include "kernels_simd.h"

enum {
  PANEL = 2 * LANES,
  TILE = LANES == 16 ? 12 : 6  /* rows: AVX-512 has twice as many registers */
};

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

/* `columns` of c, of which there may be fewer than a panel has. */
INLINE void keep(const vec sums[2], size_t columns, bool adding, float *c) {
  if (columns >= PANEL) {
    store(c, adding ? load(c) + sums[0] : sums[0]);
    store(c + LANES, adding ? load(c + LANES) + sums[1] : sums[1]);
    return;
  }
  size_t second = columns > LANES ? columns - LANES : 0;
  store_some(c, adding ? sums[0] + load_some(c, columns) : sums[0], columns);
  if (second > 0) store_some(c + LANES, adding ? sums[1] + load_some(c + LANES, second) : sums[1], second);
}

/* `rows` and `panels`, 1 or 2, are constants where this is called, so that all sums are registers. `step`: a_step, a
   constant where it can be. */
INLINE void tile(const factors *f, size_t rows, size_t panels, size_t step) {
  vec sums[TILE][4];           /* of c: what is there is added last, when the sum is whole */
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < 2 * panels; v++) sums[r][v] = (vec){0};
  }
  const float *beside = f->panel + (panels - 1) * f->depth * PANEL;
  for (size_t i = 0; i < f->depth; i++) {
    const float *p = f->panel + i * PANEL, *q = beside + i * PANEL;
    vec b[4] = {load(p), load(p + LANES), load(q), load(q + LANES)};
    for (size_t r = 0; r < rows; r++) {
      float x = f->a[r * f->a_row + i * step];
      for (size_t v = 0; v < 2 * panels; v++) sums[r][v] += x * b[v];
    }
  }
  for (size_t r = 0; r < rows; r++) {
    float *c = f->c + r * f->c_row;
    keep(sums[r], f->columns, f->adding, c);
    if (panels > 1) keep(sums[r] + 2, f->columns - PANEL, f->adding, c + PANEL);
  }
}

#define ROWS(n) case n: tile(f, n, 1, step); break

/* All rows with one panel. */
INLINE void tiles(const factors *given, size_t rows, size_t step) {
  factors own = *given;
  const factors *f = &own;
  for (size_t r = 0; r < rows; r += TILE) {
    switch (rows - r < TILE ? rows - r : TILE) {
      ROWS(1); ROWS(2); ROWS(3); ROWS(4); ROWS(5); ROWS(6);
#if LANES == 16
      ROWS(7); ROWS(8); ROWS(9); ROWS(10); ROWS(11); ROWS(12);
#endif
      default: break;
    }
    own.a += TILE * own.a_row;
    own.c += TILE * own.c_row;
  }
}

#undef ROWS

#endif
