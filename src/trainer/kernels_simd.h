/* Vectors as wide as those of the instruction set that a source is compiled for. For kernels*.c only. */
#ifndef RVL_KERNELS_SIMD_H
#define RVL_KERNELS_SIMD_H

#include "kernels.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#ifdef RVL_KERNELS_EXTRA         /* avx2 or avx512, beside the baseline */
#define RVL_SET RVL_KERNELS_EXTRA
#else
#define RVL_SET baseline
#endif

/* One name per instruction set. */
#define RVL_PASTE2(name, set) name##_##set
#define RVL_PASTE(name, set) RVL_PASTE2(name, set)
#define RVL_KERNEL(name) RVL_PASTE(name, RVL_SET)

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE vec splat(float x) { return x - (vec){0}; }   /* - 0: also of -0, and it costs nothing */

INLINE vec load(const float *p) {
  vec v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

/* The first `count` of a vector at most: the others are zero, and nothing is read or written there. */
INLINE vec load_some(const float *p, size_t count) {
  if (count >= LANES) return load(p);
  vec v = {0};
  memcpy(&v, p, count * sizeof *p);
  return v;
}

INLINE void store_some(float *p, vec v, size_t count) {
  if (count >= LANES) store(p, v);
  else memcpy(p, &v, count * sizeof *p);
}

INLINE vec choose(ivec condition, vec yes, vec no) {
  return (vec)(((ivec)yes & condition) | ((ivec)no & ~condition));
}

INLINE ivec numbers(void) {
  ivec v = {0};
  for (int i = 0; i < LANES; i++) v[i] = i;
  return v;
}

/* The lanes from `count` on become `other`. */
INLINE vec first(vec v, size_t count, float other) {
  if (count >= LANES) return v;
  return choose(numbers() < (int32_t)count, v, splat(other));
}

INLINE float sum(vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

/* y where one is NaN. Compilers see no maximum in `choose`. */
INLINE vec greater(vec x, vec y) {
#if !defined(__x86_64__) || !defined(__GNUC__)
  return choose(x > y, x, y);
#elif LANES == 16
  return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#elif LANES == 8
  return (vec)_mm256_max_ps((__m256)x, (__m256)y);
#else
  return (vec)_mm_max_ps((__m128)x, (__m128)y);
#endif
}

INLINE vec smaller(vec x, vec y) {
#if !defined(__x86_64__) || !defined(__GNUC__)
  return choose(x < y, x, y);
#elif LANES == 16
  return (vec)_mm512_min_ps((__m512)x, (__m512)y);
#elif LANES == 8
  return (vec)_mm256_min_ps((__m256)x, (__m256)y);
#else
  return (vec)_mm_min_ps((__m128)x, (__m128)y);
#endif
}

INLINE float greatest(vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
  }
  return lanes[0];
}

/* Within 2 units in the last place; infinity and NaN where they belong, and 0 below 1.7e-38: numbers that are no
   longer normal would cost a hundred times the work. Cephes' polynomial on ±ln 2 / 2. */
INLINE vec exponential(vec x) {
  const float shift = 12582912.0f, least = -87.0f;     /* 1.5 · 2^23: adding it rounds to a whole number */
  vec bounded = smaller(splat(89.0f), greater(splat(least), x));
  vec shifted = bounded * 1.44269504088896341f + shift, k = shifted - shift;
  vec r = bounded - k * 0.693359375f + k * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  /* 2^k in two halves: of 2^128 there is no float */
  ivec whole = (ivec)shifted - 0x4b400000, half = whole >> 1;
  uvec low = (uvec)(half + 127) << 23, high = (uvec)(whole - half + 127) << 23;
  return choose(x < least, (vec){0}, p * (vec)low * (vec)high);
}

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#if LANES == 16
#define LOW(a, b) MIX(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) MIX(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define LOW(a, b) MIX(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) MIX(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOW(a, b) MIX(a, b, 0, 4, 1, 5)
#define HIGH(a, b) MIX(a, b, 2, 6, 3, 7)
#endif
#endif

/* y = xᵀ, squares of LANES × LANES; rows of x from `count` on are taken for zeros. */
INLINE void transpose_square(const float *x, size_t stride, size_t count, float *y, size_t y_stride) {
#ifdef LOW
  vec rows[LANES], mixed[LANES];
  for (size_t i = 0; i < LANES; i++) rows[i] = i < count ? load(x + i * stride) : (vec){0};
  for (size_t step = 1; step < LANES; step *= 2) {     /* each brings together what is half a square apart */
    for (size_t i = 0; i < LANES / 2; i++) {
      mixed[2 * i] = LOW(rows[i], rows[i + LANES / 2]);
      mixed[2 * i + 1] = HIGH(rows[i], rows[i + LANES / 2]);
    }
    for (size_t i = 0; i < LANES; i++) rows[i] = mixed[i];
  }
  for (size_t i = 0; i < LANES; i++) store(y + i * y_stride, rows[i]);
#else
  for (size_t i = 0; i < LANES; i++) {
    for (size_t c = 0; c < LANES; c++) y[c * y_stride + i] = i < count ? x[i * stride + c] : 0.0f;
  }
#endif
}

/* Of kernels_products.c */
void RVL_KERNEL(rvl_linear)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                            float *c, float *scratch);
void RVL_KERNEL(rvl_product)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                             float *c, float *scratch);
void RVL_KERNEL(rvl_outer)(size_t rows, size_t columns, size_t depth, const float *a, const float *b, bool add,
                           float *c, float *scratch);
/* Of kernels_attention.c */
void RVL_KERNEL(rvl_attention)(const rvl_head *head, float *out, size_t out_stride);
void RVL_KERNEL(rvl_attention_backward)(const rvl_head *head, const float *dout, size_t out_stride, float *dquery,
                                        float *dkey, float *dvalue);
void RVL_KERNEL(rvl_attend)(size_t length, size_t width, const float *query, const float *keys, size_t key_stride,
                            const float *values, size_t value_stride, float *scores, float *out);

#endif
