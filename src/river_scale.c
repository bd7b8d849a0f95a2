/* Scalers: see river_scale.h. */
#include "river_scale.h"
#include "river_power.h"

#include <math.h>
#include <stdlib.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF   /* gcc does not contract in ISO mode */
#endif

/* Compilers make roots of powers that they know, whose last bits are not those of the library. */
size_t rvl_river_scaler_columns(const rvl_river_scaler *scaler) {
  switch (scaler->kind) {
    case RVL_SCALER_STANDARD: return 4;
    case RVL_SCALER_MIN_MAX: return 2;
    case RVL_SCALER_MAX_ABS: return 1;
    case RVL_SCALER_ADAPTIVE: break;
  }
  return 3;
}

static double initial(const rvl_river_scaler *scaler, size_t column) {
  if (scaler->kind != RVL_SCALER_MIN_MAX) return 0.0;
  return column == 0 ? INFINITY : -INFINITY;
}

bool rvl_river_scaler_grow(rvl_river_scaler *scaler, size_t slots) {
  if (slots <= scaler->slots) return true;
  size_t columns = rvl_river_scaler_columns(scaler);
  if (slots > scaler->capacity) {
    size_t capacity = scaler->capacity < 8 ? 8 : scaler->capacity;
    while (capacity < slots) capacity *= 2;
    if (capacity > SIZE_MAX / sizeof(rvl_river_window) / 2) return false;
    for (size_t k = 0; k < columns; k++) {
      double *bigger = realloc(scaler->column[k], capacity * sizeof(double));
      if (bigger == NULL) return false;
      scaler->column[k] = bigger;
    }
    if (scaler->windowed) {
      rvl_river_window *bigger = realloc(scaler->windows, capacity * sizeof(rvl_river_window));
      if (bigger == NULL) return false;
      scaler->windows = bigger;
    }
    scaler->capacity = capacity;
  }
  for (size_t i = scaler->slots; i < slots; i++) {
    for (size_t k = 0; k < columns; k++) scaler->column[k][i] = initial(scaler, k);
    if (scaler->windowed) scaler->windows[i] = (rvl_river_window){.values = NULL};
  }
  scaler->slots = slots;
  return true;
}

void rvl_river_scaler_free(rvl_river_scaler *scaler) {
  for (size_t k = 0; k < RVL_SCALER_COLUMNS; k++) {
    free(scaler->column[k]);
    scaler->column[k] = NULL;
  }
  for (size_t i = 0; scaler->windowed && i < scaler->slots; i++) free(scaler->windows[i].values);
  free(scaler->windows);
  scaler->windows = NULL;
  scaler->slots = scaler->capacity = 0;
}

/* ----------------------------------------------------------------------------------------------- windows */

double rvl_river_window_at(const rvl_river_window *window, size_t i) {
  size_t place = window->first + i;
  return window->values[place < window->capacity ? place : place - window->capacity];
}

/* Room for one more value; the oldest is then at the start. */
static bool make_room(rvl_river_window *window) {
  if (window->count < window->capacity) return true;
  size_t capacity = window->capacity < 8 ? 8 : window->capacity * 2;
  if (capacity > SIZE_MAX / sizeof(double) / 2) return false;
  double *bigger = malloc(capacity * sizeof(double));
  if (bigger == NULL) return false;
  for (size_t i = 0; i < window->count; i++) bigger[i] = rvl_river_window_at(window, i);
  free(window->values);
  window->values = bigger;
  window->first = 0;
  window->capacity = capacity;
  return true;
}

bool rvl_river_window_push(rvl_river_window *window, double value) {
  if (!make_room(window)) return false;
  size_t place = window->first + window->count;
  window->values[place < window->capacity ? place : place - window->capacity] = value;
  window->count++;
  return true;
}

static double pop_oldest(rvl_river_window *window) {
  double oldest = window->values[window->first];
  window->first = window->first + 1 < window->capacity ? window->first + 1 : 0;
  window->count--;
  return oldest;
}

/* The library's rolling mean and variance: the oldest value is reverted, then the new one is taken in. */
static void slide_standard(rvl_river_scaler *scaler, int32_t slot, double x, bool full, double oldest) {
  rvl_river_window *window = &scaler->windows[slot];
  double *mean = &scaler->column[1][slot];
  if (full) {
    double before = *mean;
    window->n -= 1.0;
    *mean = window->n == 0 ? 0.0 : *mean - (1.0 / window->n) * (oldest - *mean);
    window->s -= (oldest - before) * (oldest - *mean);
  }
  double before = *mean;
  window->n += 1.0;
  *mean += (1.0 / window->n) * (x - *mean);
  window->s += (x - before) * (x - *mean);
}

static void slide_extremes(rvl_river_scaler *scaler, int32_t slot) {
  const rvl_river_window *window = &scaler->windows[slot];
  double low = rvl_river_window_at(window, 0), high = low;
  for (size_t i = 1; i < window->count; i++) {
    double value = rvl_river_window_at(window, i);
    if (value < low) low = value;
    if (value > high) high = value;
  }
  scaler->column[0][slot] = scaler->kind == RVL_SCALER_MAX_ABS ? high : low;
  if (scaler->kind == RVL_SCALER_MIN_MAX) scaler->column[1][slot] = high;
}

static void refresh_slot(rvl_river_scaler *scaler, size_t slot) {
  if (scaler->kind != RVL_SCALER_STANDARD) return;
  if (scaler->windowed) {
    const rvl_river_window *window = &scaler->windows[slot];
    scaler->column[2][slot] = window->n > 0 ? window->s / window->n : 0.0;
  }
  scaler->column[3][slot] = rvl_river_power(scaler->column[2][slot], 0.5);
}

void rvl_river_scaler_refresh(rvl_river_scaler *scaler) {
  for (size_t i = 0; i < scaler->slots; i++) refresh_slot(scaler, i);
}

static rvl_river_scale_result slide(rvl_river_scaler *scaler, int32_t slot, double x) {
  rvl_river_window *window = &scaler->windows[slot];
  bool full = window->count >= scaler->window_size;
  double oldest = 0.0;
  if (full) {
    if (window->count == 0) return RVL_SCALE_EMPTY_WINDOW;
    oldest = pop_oldest(window);
  }
  if (scaler->kind == RVL_SCALER_MAX_ABS) x = fabs(x);
  if (!rvl_river_window_push(window, x)) return RVL_SCALE_NO_MEMORY;
  if (scaler->kind == RVL_SCALER_STANDARD) {
    scaler->column[0][slot] += 1;
    slide_standard(scaler, slot, x, full, oldest);
    refresh_slot(scaler, (size_t)slot);
  } else {
    slide_extremes(scaler, slot);
  }
  return RVL_SCALE_DONE;
}

/* ------------------------------------------------------------------------------------- learn and transform */

static void learn_standard(rvl_river_scaler *scaler, const int32_t *plan, const double *x, size_t n) {
  double *counts = scaler->column[0], *means = scaler->column[1];
  double *vars = scaler->column[2], *stds = scaler->column[3];
  for (size_t i = 0; i < n; i++) {
    int32_t slot = plan[i];
    double count = counts[slot] += 1, delta = x[i] - means[slot];
    means[slot] += delta / count;
    if (!scaler->with_std) continue;
    vars[slot] += (delta * (x[i] - means[slot]) - vars[slot]) / count;
    /* Taken once here instead of at every transformation; a power, not sqrt, for the library's last bit. */
    stds[slot] = rvl_river_power(vars[slot], 0.5);
  }
}

/* Exponentially weighted means of the value and of its square; the first one counts in full. */
static void learn_adaptive(rvl_river_scaler *scaler, int32_t slot, double x) {
  double *mean = &scaler->column[1][slot], *squares = &scaler->column[2][slot], f = scaler->fading_factor;
  if (scaler->column[0][slot] == 0) {
    *mean = x;
    *squares = x * x;
  } else {
    *mean = f * x + (1.0 - f) * *mean;
    *squares = f * (x * x) + (1.0 - f) * *squares;
  }
  scaler->column[0][slot] += 1;
}

static void learn_extremes(rvl_river_scaler *scaler, int32_t slot, double x) {
  double *first = &scaler->column[0][slot];
  if (scaler->kind == RVL_SCALER_MAX_ABS) {
    if (fabs(x) > *first) *first = fabs(x);
    return;
  }
  if (x < *first) *first = x;
  if (x > scaler->column[1][slot]) scaler->column[1][slot] = x;
}

rvl_river_scale_result rvl_river_scaler_learn(rvl_river_scaler *scaler, const int32_t *plan, const double *x, size_t n) {
  if (scaler->windowed) {
    for (size_t i = 0; i < n; i++) {
      rvl_river_scale_result result = slide(scaler, plan[i], x[i]);
      if (result != RVL_SCALE_DONE) return result;
    }
  } else if (scaler->kind == RVL_SCALER_STANDARD) {
    learn_standard(scaler, plan, x, n);
  } else if (scaler->kind == RVL_SCALER_ADAPTIVE) {
    for (size_t i = 0; i < n; i++) learn_adaptive(scaler, plan[i], x[i]);
  } else {
    for (size_t i = 0; i < n; i++) learn_extremes(scaler, plan[i], x[i]);
  }
  return RVL_SCALE_DONE;
}

static rvl_river_scale_result transform_standard(const rvl_river_scaler *scaler, const int32_t *plan, const double *x,
                                                 double *out, size_t n) {
  const double *means = scaler->column[1], *vars = scaler->column[2], *stds = scaler->column[3];
  for (size_t i = 0; i < n; i++) {
    int32_t slot = plan[i];
    if (!scaler->with_std) {
      out[i] = x[i] - (slot >= 0 ? means[slot] : 0.0);
    } else if (slot < 0 || vars[slot] == 0) {
      out[i] = 0.0;
    } else if (vars[slot] < 0) {
      return RVL_SCALE_COMPLEX;
    } else {
      out[i] = (x[i] - means[slot]) / stds[slot];
    }
  }
  return RVL_SCALE_DONE;
}

static double scale_between(const rvl_river_scaler *scaler, int32_t slot, double x) {
  double low = slot >= 0 ? scaler->column[0][slot] : INFINITY, high = slot >= 0 ? scaler->column[1][slot] : -INFINITY;
  double span = high - low;
  return span != 0 ? (x - low) / span : 0.0;
}

static double scale_adaptive(const rvl_river_scaler *scaler, int32_t slot, double x) {
  if (slot < 0) return 0.0;
  double mean = scaler->column[1][slot], variance = scaler->column[2][slot] - mean * mean;
  double deviation = variance > 0 ? rvl_river_power(variance, 0.5) : 0.0;
  return deviation != 0 ? (x - mean) / deviation : 0.0;
}

rvl_river_scale_result rvl_river_scaler_transform(const rvl_river_scaler *scaler, const int32_t *plan, const double *x,
                                                  double *out, size_t n) {
  switch (scaler->kind) {
    case RVL_SCALER_STANDARD: return transform_standard(scaler, plan, x, out, n);
    case RVL_SCALER_MIN_MAX:
      for (size_t i = 0; i < n; i++) {
        if (scaler->windowed && plan[i] < 0) return RVL_SCALE_NEVER_SEEN;
        out[i] = scale_between(scaler, plan[i], x[i]);
      }
      break;
    case RVL_SCALER_MAX_ABS:
      for (size_t i = 0; i < n; i++) {
        double largest = plan[i] >= 0 ? scaler->column[0][plan[i]] : 0.0;
        out[i] = largest != 0 ? x[i] / largest : 0.0;
      }
      break;
    case RVL_SCALER_ADAPTIVE:
      for (size_t i = 0; i < n; i++) out[i] = scale_adaptive(scaler, plan[i], x[i]);
      break;
  }
  return RVL_SCALE_DONE;
}
