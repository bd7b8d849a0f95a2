/*
** Linear maps of few rows at a time, as decoding has them: a BLAS arranges the weights anew for every call, and
** for 1 to 100 rows that costs up to as much as the product. Here they are arranged once, in panels of as many
** outputs as fit registers. Each output is one sum in the order of the inputs, so that a row's result does not
** depend on the rows beside it.
*/
#ifndef RVL_KERNELS_PANELS_H
#define RVL_KERNELS_PANELS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct rvl_panels {
  size_t width;                /* outputs of one panel */
  /* weights [outputs, inputs] → panels of rvl_panels_floats floats, at a multiple of 64 bytes */
  void (*pack)(size_t outputs, size_t inputs, const float *weights, float *panels);
  /* y [rows, outputs] = (add: y +) x [rows, inputs] · weightsᵀ */
  void (*multiply)(size_t rows, size_t outputs, size_t inputs, const float *x, const float *panels, bool add,
                   float *y);
} rvl_panels;

/* Those for this processor. */
const rvl_panels *rvl_panels_pick(void);
/* That beside rvl_kernels_at(index). For tests. */
const rvl_panels *rvl_panels_at(size_t index);

static inline size_t rvl_panels_floats(const rvl_panels *p, size_t outputs, size_t inputs) {
  return (outputs + p->width - 1) / p->width * p->width * inputs;
}

#endif
