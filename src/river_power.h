/* C's pow as the Python library river calls it. */
#ifndef RVL_RIVER_POWER_H
#define RVL_RIVER_POWER_H

#include <math.h>

/* Compilers make multiplications and roots of powers that they know, whose last bits are not those of the library. */
static inline double rvl_river_power(double base, double exponent) {
  volatile double hidden = exponent;
  return pow(base, hidden);
}

#endif
