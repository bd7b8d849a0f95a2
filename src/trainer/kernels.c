/* See kernels.h. Compiled once per instruction set (see the Makefile): the baseline's is the one that chooses. */
#include "kernels_simd.h"

#include <math.h>

#define EACH(i, n) for (size_t i = 0; i < (n); i += LANES)

/* ---------------------------------------------------------------------------------------------- vectors */

static void add(size_t n, const float *x, float *y) {
  EACH(i, n) store_some(y + i, load_some(y + i, n - i) + load_some(x + i, n - i), n - i);
}

static void scale(size_t n, float a, float *x) {
  EACH(i, n) store_some(x + i, a * load_some(x + i, n - i), n - i);
}

static double squares(size_t n, const float *x) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (size_t i = 0; i < n; i++) total += (double)x[i] * (double)x[i];
  return total;
}

static float largest(size_t n, const float *x) {
  vec most = splat(x[0]), nan = {0};
  EACH(i, n) {
    vec v = first(load_some(x + i, n - i), n - i, x[0]);
    most = greater(v, most);
    nan += choose(v != v, v, (vec){0});        /* comparisons lose a NaN */
  }
  return greatest(most) + sum(nan);
}

/* gelu(x) = x / 2 · (1 + tanh u) = x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³). */
INLINE vec gelu_sigmoid(vec x) {
  const float c = 1.5957691216057308f;         /* 2 √(2/π) */
  return 1.0f / (1.0f + exponential(x * (-c - c * 0.044715f * (x * x))));
}

static void gelu(size_t n, const float *x, float *y) {
  EACH(i, n) {
    vec v = load_some(x + i, n - i);
    store_some(y + i, v * gelu_sigmoid(v), n - i);
  }
}

static void gelu_backward(size_t n, const float *x, float *dy, float *y) {
  const float c = 1.5957691216057308f;
  EACH(i, n) {
    vec v = load_some(x + i, n - i), s = gelu_sigmoid(v), value = v * s;
    vec slope = s + value * (1.0f - s) * (c + 3.0f * c * 0.044715f * (v * v));
    store_some(dy + i, load_some(dy + i, n - i) * slope, n - i);
    if (y != NULL) store_some(y + i, value, n - i);
  }
}

static void adamw(size_t n, const rvl_adamw *step, const float *gradient, float *m, float *v, float *weights) {
  const rvl_adamw s = *step;
#pragma omp simd
  for (size_t i = 0; i < n; i++) {
    float g = gradient[i] * s.scale;
    m[i] += s.rest1 * (g - m[i]);
    v[i] = s.beta2 * v[i] + s.rest2 * (g * g);
    weights[i] = weights[i] * s.decay - s.rate * (m[i] / (sqrtf(v[i]) / s.root + s.epsilon));
  }
}

/* ----------------------------------------------------------------------------------------------- logits */

/* Σ exp(a · x - most) */
INLINE float exponentials_sum(size_t n, float a, float most, const float *x) {
  vec total = {0};
  EACH(i, n) total += first(exponential(a * load_some(x + i, n - i) - most), n - i, 0.0f);
  return sum(total);
}

/* The greatest of a · x: any number near it would do, so NaN need not be heeded. */
INLINE float greatest_logit(size_t n, float a, const float *x) {
  vec most = splat(-INFINITY);
  EACH(i, n) most = greater(first(a * load_some(x + i, n - i), n - i, -INFINITY), most);
  return greatest(most);
}

static float log_sum_exp(size_t n, float a, const float *x) {
  float most = greatest_logit(n, a, x);
  return most + logf(exponentials_sum(n, a, most, x));
}

static void softmax_times(size_t n, float a, float logsum, float c, const float *x, float *y) {
  EACH(i, n) store_some(y + i, c * exponential(a * load_some(x + i, n - i) - logsum), n - i);
}

static float entropy(size_t n, float a, float logsum, const float *x) {
  vec total = {0};
  EACH(i, n) {
    vec logp = a * load_some(x + i, n - i) - logsum, p = exponential(logp);
    /* a probability of 0 adds 0, also when its logarithm is -∞ */
    total += first(choose(p == 0.0f, (vec){0}, p * logp), n - i, 0.0f);
  }
  return -sum(total);
}

/* ------------------------------------------------------------------------------------------------- rows */

INLINE float row_mean(size_t width, const float *x) {
  vec total = {0};
  EACH(i, width) total += load_some(x + i, width - i);
  return sum(total) / (float)width;
}

INLINE float row_variance(size_t width, const float *x, float mean) {
  vec total = {0};
  EACH(i, width) {
    vec d = first(load_some(x + i, width - i) - mean, width - i, 0.0f);
    total += d * d;
  }
  return sum(total) / (float)width;
}

static void norm(size_t rows, size_t width, float epsilon, const float *x, const float *weight, const float *bias,
                 float *y, float *normalized, float *inverse) {
  for (size_t row = 0; row < rows; row++, x += width, y += width) {
    float mean = row_mean(width, x), inverted = 1.0f / sqrtf(row_variance(width, x, mean) + epsilon);
    EACH(i, width) {
      size_t rest = width - i;
      vec v = (load_some(x + i, rest) - mean) * inverted;
      if (normalized != NULL) store_some(normalized + row * width + i, v, rest);
      store_some(y + i, v * load_some(weight + i, rest) + load_some(bias + i, rest), rest);
    }
    if (inverse != NULL) inverse[row] = inverted;
  }
}

static void norm_again(size_t rows, size_t width, const float *normalized, const float *weight, const float *bias,
                       float *y) {
  for (size_t row = 0; row < rows; row++, normalized += width, y += width) {
    EACH(i, width) {
      size_t rest = width - i;
      store_some(y + i, load_some(normalized + i, rest) * load_some(weight + i, rest) + load_some(bias + i, rest),
                 rest);
    }
  }
}

static void norm_backward(size_t rows, size_t width, const float *dy, const float *weight, const float *normalized,
                          const float *inverse, float *dx, float *dweight, float *dbias) {
  for (size_t row = 0; row < rows; row++, dy += width, normalized += width, dx += width) {
    vec total = {0}, along = {0};
    EACH(i, width) {
      size_t rest = width - i;
      vec d = load_some(dy + i, rest), v = load_some(normalized + i, rest), g = d * load_some(weight + i, rest);
      total += g;
      along += g * v;
      if (dweight == NULL) continue;
      store_some(dweight + i, load_some(dweight + i, rest) + d * v, rest);
      store_some(dbias + i, load_some(dbias + i, rest) + d, rest);
    }
    float mean = sum(total) / (float)width, slope = sum(along) / (float)width, inverted = inverse[row];
    EACH(i, width) {
      size_t rest = width - i;
      vec g = load_some(dy + i, rest) * load_some(weight + i, rest);
      vec d = (g - mean - load_some(normalized + i, rest) * slope) * inverted;
      store_some(dx + i, load_some(dx + i, rest) + d, rest);
    }
  }
}

static void rotary(size_t heads, size_t width, const float *turn, bool back, float *x) {
  size_t half = width / 2;
  float sign = back ? -1.0f : 1.0f;
  for (size_t head = 0; head < heads; head++, x += width) {
#pragma omp simd
    for (size_t i = 0; i < half; i++) {
      float c = turn[i], s = sign * turn[half + i], a = x[i], b = x[half + i];
      x[i] = a * c - b * s;
      x[half + i] = b * c + a * s;
    }
  }
}

/* -------------------------------------------------------------------------------------------- the choice */

#define RVL_TEXT2(x) #x
#define RVL_TEXT(x) RVL_TEXT2(x)

extern const rvl_kernels RVL_KERNEL(rvl_kernels);
const rvl_kernels RVL_KERNEL(rvl_kernels) = {
    .name = RVL_TEXT(RVL_SET), .add = add, .scale = scale, .squares = squares, .largest = largest,
    .gelu = gelu, .gelu_backward = gelu_backward, .adamw = adamw,
    .log_sum_exp = log_sum_exp, .softmax_times = softmax_times, .entropy = entropy,
    .norm = norm, .norm_again = norm_again, .norm_backward = norm_backward, .rotary = rotary,
    .fast_products = LANES >= 8, .linear = RVL_KERNEL(rvl_linear), .product = RVL_KERNEL(rvl_product),
    .outer = RVL_KERNEL(rvl_outer),
    .attention = RVL_KERNEL(rvl_attention), .attention_backward = RVL_KERNEL(rvl_attention_backward),
    .attend = RVL_KERNEL(rvl_attend)};

#ifndef RVL_KERNELS_EXTRA        /* the baseline's */

#ifdef RVL_KERNELS_X86
extern const rvl_kernels rvl_kernels_avx2, rvl_kernels_avx512;
#endif

const rvl_kernels *rvl_kernels_at(size_t index) {
  const rvl_kernels *all[3] = {&RVL_KERNEL(rvl_kernels)};
  size_t count = 1;
#ifdef RVL_KERNELS_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all[count++] = &rvl_kernels_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      all[count++] = &rvl_kernels_avx512;
    }
  }
#endif
  return index < count ? all[index] : NULL;
}

const rvl_kernels *rvl_kernels_pick(void) {
  const rvl_kernels *best = NULL;
  for (size_t i = 0; rvl_kernels_at(i) != NULL; i++) best = rvl_kernels_at(i);
  return best;
}

void rvl_rotary_table(size_t positions, size_t width, float base, float *table) {
  size_t half = width / 2;
  for (size_t i = 0; i < half; i++) {
    double frequency = pow((double)base, -2.0 * (double)i / (double)width);
    for (size_t p = 0; p < positions; p++) {
      table[p * width + i] = (float)cos((double)p * frequency);
      table[p * width + half + i] = (float)sin((double)p * frequency);
    }
  }
}

#endif
