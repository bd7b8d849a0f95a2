/*
** Scalers with the numbers of the Python library river 0.26. Plain arrays, no Lua. Slots and plans are those of
** river_linear.h.
*/
#ifndef RVL_RIVER_SCALE_H
#define RVL_RIVER_SCALE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum rvl_river_scaler_kind {
  RVL_SCALER_STANDARD,     /* columns: count, mean, variance, deviation */
  RVL_SCALER_MIN_MAX,      /* min, max */
  RVL_SCALER_MAX_ABS,      /* the largest magnitude */
  RVL_SCALER_ADAPTIVE      /* count, weighted mean, weighted mean of squares */
} rvl_river_scaler_kind;

enum { RVL_SCALER_COLUMNS = 4 };

/* The last values of a feature, the oldest at `first`, in a ring. */
typedef struct rvl_river_window {
  double *values;
  size_t first, count, capacity;
  double n, s;             /* of a standard scaler: weight and sum of squared deviations */
} rvl_river_window;

typedef struct rvl_river_scaler {
  rvl_river_scaler_kind kind;
  bool with_std;           /* standard: also divide by the deviation */
  bool windowed;
  size_t window_size;      /* values that a window holds */
  double fading_factor;    /* adaptive */
  double *column[RVL_SCALER_COLUMNS];
  rvl_river_window *windows;
  size_t slots, capacity;
} rvl_river_scaler;

typedef enum rvl_river_scale_result {
  RVL_SCALE_DONE,
  RVL_SCALE_NO_MEMORY,
  RVL_SCALE_EMPTY_WINDOW,  /* a window of size 0 has nothing to give up */
  RVL_SCALE_NEVER_SEEN,    /* a window without values */
  RVL_SCALE_COMPLEX        /* rounding left a variance below zero, whose root is no real number */
} rvl_river_scale_result;

size_t rvl_river_scaler_columns(const rvl_river_scaler *scaler);
/* Makes room for `slots` slots; false without memory. */
bool rvl_river_scaler_grow(rvl_river_scaler *scaler, size_t slots);
void rvl_river_scaler_free(rvl_river_scaler *scaler);
/* Adds a value to a window that is not full; false without memory. */
bool rvl_river_window_push(rvl_river_window *window, double value);
/* The i-th oldest value. */
double rvl_river_window_at(const rvl_river_window *window, size_t i);
/* Learns from a sample; the plan is complete. */
rvl_river_scale_result rvl_river_scaler_learn(rvl_river_scaler *scaler, const int32_t *plan, const double *x, size_t n);
/* Scales a sample; `out` may be `x`. */
rvl_river_scale_result rvl_river_scaler_transform(const rvl_river_scaler *scaler, const int32_t *plan, const double *x,
                                                  double *out, size_t n);
/* Computes what follows from the columns after these have been set. */
void rvl_river_scaler_refresh(rvl_river_scaler *scaler);

#endif
