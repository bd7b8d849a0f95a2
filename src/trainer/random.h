/*
** Random numbers that depend on a seed and a count alone: SplitMix64 over a key. The same on every machine, but
** for the last bit of normal ones, which is that of the C library's logarithms and cosines.
*/
#ifndef RVL_RANDOM_H
#define RVL_RANDOM_H

#include <math.h>
#include <stdint.h>

typedef struct rvl_random { uint64_t state; } rvl_random;

static inline uint64_t rvl_random_mix(uint64_t x) {
  x ^= x >> 30;
  x *= UINT64_C(0xbf58476d1ce4e5b9);
  x ^= x >> 27;
  x *= UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static inline uint64_t rvl_random_next(rvl_random *r) {
  r->state += UINT64_C(0x9e3779b97f4a7c15);
  return rvl_random_mix(r->state);
}

/* A stream of its own for each seed, also for seeds that follow one another. */
static inline rvl_random rvl_random_of(uint64_t seed) {
  return (rvl_random){rvl_random_mix(seed ^ UINT64_C(0x6a09e667f3bcc909))};
}

/* In [0, 1), 53 bits. */
static inline double rvl_random_uniform(rvl_random *r) { return (double)(rvl_random_next(r) >> 11) * 0x1p-53; }

/* Standard normal (Box and Muller). */
static inline double rvl_random_normal(rvl_random *r) {
  double u = 1.0 - rvl_random_uniform(r), v = rvl_random_uniform(r);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif
