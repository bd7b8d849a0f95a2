/* kernels.c, kernels_attention.c: every instruction set that this processor has, against the same in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/kernels.h"
#include "trainer/random.h"

enum { MOST = 700 };

static const size_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257, MOST};
#define EACH_LENGTH(i, n) for (size_t i = 0, n; i < sizeof lengths / sizeof *lengths && (n = lengths[i]) > 0; i++)
#define EACH_SET(k) for (size_t set_ = 0; (k = rvl_kernels_at(set_)) != NULL; set_++)

static rvl_random generator;

static float *normals(size_t count, double deviation) {
  float *x = malloc((count + 1) * sizeof *x);
  assert_non_null(x);
  for (size_t i = 0; i < count; i++) x[i] = (float)(deviation * rvl_random_normal(&generator));
  x[count] = 12345.0f;         /* nothing may be written there */
  return x;
}

static float *copy_of(const float *x, size_t count) {
  float *y = malloc((count + 1) * sizeof *y);
  assert_non_null(y);
  memcpy(y, x, count * sizeof *y);
  y[count] = 12345.0f;
  return y;
}

static void is_near(const rvl_kernels *k, double found, double wanted, double tolerance) {
  double off = fabs(found - wanted);
  if (off <= tolerance * (1 + fabs(wanted))) return;
  fail_msg("%s: %.9g is not %.9g", k->name, found, wanted);
}

static void untouched(const float *x, size_t count) { assert_true(x[count] == 12345.0f); }

static int set_up(void **state) {
  (void)state;
  generator = rvl_random_of(7);
  return 0;
}

/* ---------------------------------------------------------------------------------------------- vectors */

static void test_choice(void **state) {
  (void)state;
  assert_string_equal(rvl_kernels_at(0)->name, "baseline");
  const rvl_kernels *k, *last = NULL;
  EACH_SET(k) last = k;
  assert_ptr_equal(rvl_kernels_pick(), last);
}

static void test_vectors(void **state) {
  (void)state;
  const rvl_kernels *k;
  EACH_SET(k) EACH_LENGTH(l, n) {
    float *x = normals(n, 1), *y = normals(n, 1), *z = copy_of(y, n);
    double square = 0, most = x[0];
    for (size_t i = 0; i < n; i++) {
      square += (double)x[i] * x[i];
      most = fmax(most, x[i]);
    }
    is_near(k, k->squares(n, x), square, 1e-12);
    assert_true((double)k->largest(n, x) == most);
    k->add(n, x, z);
    for (size_t i = 0; i < n; i++) assert_true(z[i] == x[i] + y[i]);
    for (size_t i = 0; i < n; i++) z[i] = 0.25f * x[i];
    k->scale(n, 0.25f, x);
    for (size_t i = 0; i < n; i++) assert_true(x[i] == z[i]);
    untouched(x, n);
    untouched(y, n);
    free(x);
    free(y);
    free(z);
  }
}

static void test_what_is_no_number(void **state) {
  (void)state;
  const rvl_kernels *k;
  EACH_SET(k) EACH_LENGTH(l, n) {
    for (size_t at = 0; at < n; at += n / 3 + 1) {
      float *x = normals(n, 1), *y = normals(n, 1);
      x[at] = NAN;
      assert_true(isnan(k->largest(n, x)));
      assert_true(isnan(k->squares(n, x)));
      assert_true(isnan(k->log_sum_exp(n, 1, x)));
      assert_true(isnan(k->entropy(n, 1, 0, x)));
      k->gelu(n, x, y);
      assert_true(isnan(y[at]));
      k->softmax_times(n, 1, 0, 1, x, y);
      for (size_t i = 0; i < n; i++) assert_true(isnan(y[i]) == (i == at));
      x[at] = INFINITY;
      assert_true(isinf(k->largest(n, x)));
      assert_true(isinf(k->squares(n, x)));
      free(x);
      free(y);
    }
  }
}

static void test_exp(void **state) {
  (void)state;
  const rvl_kernels *k;
  EACH_SET(k) {
    double worst = 0;
    for (int step = -8700; step <= 8870; step++) {
      float x = (float)step * 0.01f + 0.0017f, y;
      k->softmax_times(1, 1, 0, 1, &x, &y);
      worst = fmax(worst, fabs(y / exp((double)x) - 1));
    }
    if (!(worst < 2.5e-7)) fail_msg("%s: exp is off by %g", k->name, worst);
    float x[6] = {-1e30f, -INFINITY, 1e30f, INFINITY, 0, 88.7f}, y[6];
    k->softmax_times(6, 1, 0, 1, x, y);
    assert_true(y[0] == 0 && y[1] == 0 && isinf(y[2]) && isinf(y[3]) && y[4] == 1 && isfinite(y[5]));
  }
}

static double gelu_of(double x) { return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))); }

static void test_gelu(void **state) {
  (void)state;
  const rvl_kernels *k;
  EACH_SET(k) EACH_LENGTH(l, n) {
    float *x = normals(n, 3), *y = normals(n, 1), *again = normals(n, 1);
    float *dy = normals(n, 1), *dx = copy_of(dy, n);
    k->gelu(n, x, y);
    k->gelu_backward(n, x, dx, again);
    for (size_t i = 0; i < n; i++) {
      double slope = (gelu_of(x[i] + 1e-5) - gelu_of(x[i] - 1e-5)) / 2e-5;
      is_near(k, y[i], gelu_of(x[i]), 1e-6);
      is_near(k, dx[i], dy[i] * slope, 2e-6);
      assert_true(again[i] == y[i]);
    }
    untouched(y, n);
    untouched(dx, n);
    untouched(again, n);
    float *alone = copy_of(dy, n);
    k->gelu_backward(n, x, alone, NULL);
    assert_memory_equal(alone, dx, n * sizeof *dx);
    free(x), free(y), free(dy), free(dx), free(again), free(alone);
  }
}

/* As PyTorch's documentation has it. */
static void test_adamw(void **state) {
  (void)state;
  const rvl_kernels *k;
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0.1, clip = 0.5;
  EACH_SET(k) EACH_LENGTH(l, n) {
    float *w = normals(n, 1), *m = normals(n, 0), *v = normals(n, 0);
    double *W = calloc(3 * n, sizeof *W);
    for (size_t i = 0; i < n; i++) W[3 * i] = w[i];
    for (int t = 1; t <= 10; t++) {
      float *g = normals(n, 0.1);
      double c1 = 1 - pow(beta1, t), c2 = 1 - pow(beta2, t);
      rvl_adamw step = {.scale = (float)clip, .beta1 = (float)beta1, .beta2 = (float)beta2,
                        .rest1 = (float)(1 - beta1), .rest2 = (float)(1 - beta2), .epsilon = (float)epsilon,
                        .decay = (float)(1 - lr * decay), .rate = (float)(lr / c1), .root = (float)sqrt(c2)};
      k->adamw(n, &step, g, m, v, w);
      for (size_t i = 0; i < n; i++) {
        double *p = W + 3 * i, x = clip * g[i];
        p[0] *= 1 - lr * decay;
        p[1] = beta1 * p[1] + (1 - beta1) * x;
        p[2] = beta2 * p[2] + (1 - beta2) * x * x;
        p[0] -= lr * (p[1] / c1) / (sqrt(p[2] / c2) + epsilon);
      }
      free(g);
    }
    for (size_t i = 0; i < n; i++) {
      is_near(k, w[i], W[3 * i], 1e-5);
      is_near(k, m[i], W[3 * i + 1], 1e-5);
      is_near(k, v[i], W[3 * i + 2], 1e-5);
    }
    untouched(w, n);
    free(w), free(m), free(v), free(W);
  }
}

/* ----------------------------------------------------------------------------------------------- logits */

static void test_logits(void **state) {
  (void)state;
  const rvl_kernels *k;
  const float a = 1 / 0.7f;
  EACH_SET(k) EACH_LENGTH(l, n) {
    float *x = normals(n, 4), *half = normals(n, 1);
    x[n / 2] += 60;                            /* others nearly vanish */
    x[n - 1] = n > 1 ? -INFINITY : x[n - 1];   /* what is not allowed at all */
    double most = -INFINITY, total = 0, entropy = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, (double)a * x[i]);
    for (size_t i = 0; i < n; i++) total += exp((double)a * x[i] - most);
    double logsum = most + log(total);
    is_near(k, k->log_sum_exp(n, a, x), logsum, 1e-6);
    k->softmax_times(n, a, k->log_sum_exp(n, a, x), -0.5f, x, half);
    for (size_t i = 0; i < n; i++) {
      double wanted = (double)a * x[i] - logsum;
      is_near(k, half[i], -0.5 * exp(wanted), 2e-5);
      if (isfinite(wanted)) entropy -= exp(wanted) * wanted;
    }
    is_near(k, k->entropy(n, a, k->log_sum_exp(n, a, x), x), entropy, 1e-4);
    untouched(half, n);
    k->softmax_times(n, a, k->log_sum_exp(n, a, x), -0.5f, x, x);
    assert_memory_equal(x, half, n * sizeof *x);
    free(x), free(half);
  }
}

/* ------------------------------------------------------------------------------------------------- rows */

typedef struct norm_case {
  size_t rows, width;
  const float *dy, *weight;
} norm_case;

static void norm_in_double(size_t width, const double *x, double epsilon, double *normalized, double *inverse) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < width; i++) mean += x[i] / (double)width;
  for (size_t i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)width;
  *inverse = 1 / sqrt(variance + epsilon);
  for (size_t i = 0; i < width; i++) normalized[i] = (x[i] - mean) * *inverse;
}

/* Σ dy · (normalized · weight + bias) of one row, as far as it depends on x. */
static double norm_loss(const norm_case *c, size_t row, const double *x) {
  double normalized[MOST], inverse, total = 0;
  norm_in_double(c->width, x, 1e-5, normalized, &inverse);
  for (size_t i = 0; i < c->width; i++) total += (double)c->dy[row * c->width + i] * c->weight[i] * normalized[i];
  return total;
}

static void check_norm_backward(const rvl_kernels *k, const norm_case *c, const float *x, const float *dx,
                                const float *before) {
  double row[MOST];
  for (size_t r = 0; r < c->rows; r++) {
    for (size_t i = 0; i < c->width; i++) row[i] = x[r * c->width + i];
    for (size_t i = 0; i < c->width; i += c->width / 5 + 1) {
      double there = row[i];
      row[i] = there + 1e-4;
      double up = norm_loss(c, r, row);
      row[i] = there - 1e-4;
      double slope = (up - norm_loss(c, r, row)) / 2e-4;
      row[i] = there;
      is_near(k, dx[r * c->width + i], slope + before[r * c->width + i], 1e-4);
    }
  }
}

static void test_norm(void **state) {
  (void)state;
  const rvl_kernels *k;
  enum { ROWS = 3 };
  EACH_SET(k) EACH_LENGTH(l, width) {
    if (width == 1) continue;                  /* no variance */
    size_t n = ROWS * width;
    float *x = normals(n, 2), *weight = normals(width, 1), *bias = normals(width, 1), *y = normals(n, 1);
    float *normalized = normals(n, 1), *again = normals(n, 1), inverse[ROWS];
    k->norm(ROWS, width, 1e-5f, x, weight, bias, y, normalized, inverse);
    k->norm_again(ROWS, width, normalized, weight, bias, again);
    for (size_t r = 0; r < ROWS; r++) {
      double row[MOST], wanted[MOST], root;
      for (size_t i = 0; i < width; i++) row[i] = x[r * width + i];
      norm_in_double(width, row, 1e-5, wanted, &root);
      is_near(k, inverse[r] / root, 1, 1e-5);
      for (size_t i = 0; i < width; i++) {
        is_near(k, normalized[r * width + i], wanted[i], 1e-5);
        is_near(k, y[r * width + i], wanted[i] * weight[i] + bias[i], 1e-5);
      }
    }
    assert_memory_equal(again, y, n * sizeof *y);
    float *dy = normals(n, 1), *before = normals(n, 1), *dx = copy_of(before, n);
    float *dweight = normals(width, 0), *dbias = normals(width, 0);
    k->norm_backward(ROWS, width, dy, weight, normalized, inverse, dx, dweight, dbias);
    norm_case c = {ROWS, width, dy, weight};
    if (width > 3) check_norm_backward(k, &c, x, dx, before);
    for (size_t i = 0; i < width; i++) {
      double sum_weight = 0, sum_bias = 0;
      for (size_t r = 0; r < ROWS; r++) {
        sum_weight += (double)dy[r * width + i] * normalized[r * width + i];
        sum_bias += dy[r * width + i];
      }
      is_near(k, dweight[i], sum_weight, 1e-5);
      is_near(k, dbias[i], sum_bias, 1e-5);
    }
    untouched(y, n);
    untouched(normalized, n);
    untouched(dx, n);
    untouched(dweight, width);
    untouched(dbias, width);
    k->norm_backward(ROWS, width, dy, weight, normalized, inverse, before, NULL, NULL);
    assert_memory_equal(before, dx, n * sizeof *dx);
    k->norm(ROWS, width, 1e-5f, x, weight, bias, x, NULL, NULL);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x), free(weight), free(bias), free(y), free(normalized), free(again), free(dy), free(before), free(dx);
    free(dweight), free(dbias);
  }
}

static void test_rotary(void **state) {
  (void)state;
  static const size_t widths[] = {2, 4, 6, 8, 16, 32, 34, 64, 128};
  enum { POSITIONS = 50, HEADS = 3 };
  const rvl_kernels *k;
  EACH_SET(k) for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
    size_t width = widths[w], half = width / 2;
    float *table = malloc(POSITIONS * width * sizeof *table), *x = normals(HEADS * width, 1);
    rvl_rotary_table(POSITIONS, width, 10000, table);
    for (size_t position = 0; position < POSITIONS; position += 7) {
      float *y = copy_of(x, HEADS * width);
      k->rotary(HEADS, width, table + position * width, false, y);
      for (size_t i = 0; i < HEADS * width; i++) {
        size_t c = i % width, pair = c < half ? i + half : i - half;
        double angle = (double)position * pow(10000, -2.0 * (double)(c % half) / (double)width);
        double wanted = x[i] * cos(angle) + (c < half ? -1 : 1) * x[pair] * sin(angle);
        is_near(k, y[i], wanted, 1e-6);
      }
      k->rotary(HEADS, width, table + position * width, true, y);
      for (size_t i = 0; i < HEADS * width; i++) is_near(k, y[i], x[i], 1e-6);
      untouched(y, HEADS * width);
      free(y);
    }
    free(table);
    free(x);
  }
}

/* --------------------------------------------------------------------------------------------- products */

/* Of a[rows, depth] (or its transpose) and b[depth, columns] (or its): the three forms of one product. */
static void check_products(const rvl_kernels *k, size_t rows, size_t columns, size_t depth, bool add) {
  float *a = normals(rows * depth, 1), *b = normals(depth * columns, 1), *before = normals(rows * columns, 1);
  float *at = normals(rows * depth, 1), *bt = normals(depth * columns, 1), *c[3];
  float *scratch = malloc(RVL_PRODUCT_SCRATCH * sizeof *scratch);
  memset(scratch, 0xff, RVL_PRODUCT_SCRATCH * sizeof *scratch);
  for (size_t i = 0; i < rows * depth; i++) at[i % depth * rows + i / depth] = a[i];
  for (size_t i = 0; i < depth * columns; i++) bt[i % columns * depth + i / columns] = b[i];
  for (size_t form = 0; form < 3; form++) c[form] = copy_of(before, rows * columns);
  k->linear(rows, columns, depth, a, bt, add, c[0], scratch);
  k->product(rows, columns, depth, a, b, add, c[1], scratch);
  k->outer(rows, columns, depth, at, b, add, c[2], scratch);
  for (size_t i = 0; i < rows * columns; i++) {
    double sum = add ? before[i] : 0;
    for (size_t x = 0; x < depth; x++) sum += (double)a[i / columns * depth + x] * b[x * columns + i % columns];
    for (size_t form = 0; form < 3; form++) is_near(k, c[form][i], sum, 2e-5 + 4e-8 * (double)depth);
    assert_true(c[0][i] == c[1][i]);           /* in the same order */
  }
  for (size_t form = 0; form < 3; form++) {
    untouched(c[form], rows * columns);
    free(c[form]);
  }
  free(a), free(b), free(before), free(at), free(bt), free(scratch);
}

static void test_products(void **state) {
  (void)state;
  const rvl_kernels *k;
  EACH_SET(k) {
    for (size_t rows = 1; rows <= 26; rows++) check_products(k, rows, 37, 19, rows % 2 == 1);
    for (size_t columns = 1; columns <= 66; columns++) check_products(k, 5, columns, 16, columns % 2 == 1);
    for (size_t depth = 1; depth <= 40; depth++) check_products(k, 13, 33, depth, depth % 2 == 1);
    check_products(k, 7, 35, 2500, false);     /* several depths at a time */
    check_products(k, 7, 35, 2500, true);
    check_products(k, 0, 4, 4, true);
  }
}

/* -------------------------------------------------------------------------------------------- attention */

typedef struct head_case {
  size_t length, width, stride;
  float *qkv;
  uint8_t *mask;               /* or NULL */
  double *p, *out;             /* in double: [length, length] and [length, width] */
} head_case;

static void attention_in_double(head_case *c) {
  for (size_t i = 0; i < c->length; i++) {
    double most = -INFINITY, total = 0, *p = c->p + i * c->length;
    for (size_t j = 0; j < c->length; j++) {
      double score = 0;
      for (size_t x = 0; x < c->width; x++) {
        score += (double)c->qkv[i * c->stride + x] * c->qkv[j * c->stride + c->width + x];
      }
      p[j] = j > i || (j < i && c->mask != NULL && c->mask[j] == 0) ? -INFINITY : score / sqrt((double)c->width);
      most = fmax(most, p[j]);
    }
    for (size_t j = 0; j < c->length; j++) total += p[j] = isinf(p[j]) ? 0 : exp(p[j] - most);
    for (size_t x = 0; x < c->width; x++) c->out[i * c->width + x] = 0;
    for (size_t j = 0; j < c->length; j++) {
      p[j] /= total;
      for (size_t x = 0; x < c->width; x++) {
        c->out[i * c->width + x] += p[j] * c->qkv[j * c->stride + 2 * c->width + x];
      }
    }
  }
}

/* dqkv in double, of rows as qkv. */
static double *backward_in_double(const head_case *c, const float *dout) {
  double *d = calloc(c->length * c->stride, sizeof *d), scale = 1 / sqrt((double)c->width);
  for (size_t i = 0; i < c->length; i++) {
    const double *p = c->p + i * c->length;
    double along = 0;
    for (size_t x = 0; x < c->width; x++) along += dout[i * c->width + x] * c->out[i * c->width + x];
    for (size_t j = 0; j <= i; j++) {
      double dp = 0;
      const float *query = c->qkv + i * c->stride, *key = c->qkv + j * c->stride + c->width;
      for (size_t x = 0; x < c->width; x++) dp += (double)dout[i * c->width + x] * key[c->width + x];
      double ds = p[j] * (dp - along) * scale;
      for (size_t x = 0; x < c->width; x++) {
        d[i * c->stride + x] += ds * key[x];
        d[j * c->stride + c->width + x] += ds * query[x];
        d[j * c->stride + 2 * c->width + x] += p[j] * dout[i * c->width + x];
      }
    }
  }
  return d;
}

static void check_attention(const rvl_kernels *k, head_case *c, bool keep) {
  size_t n = c->length, width = c->width, qkv_count = n * c->stride;
  float *out = normals(n * width, 1), *dout = normals(n * width, 1), *dqkv = normals(qkv_count, 1);
  float *logsum = malloc(n * sizeof *logsum), *scratch = malloc(rvl_head_scratch(n, width) * sizeof *scratch);
  float *kept = keep ? malloc(n * rvl_padded(n) * sizeof *kept) : NULL;
  float *gaps = copy_of(dqkv, qkv_count);
  memset(scratch, 0xff, rvl_head_scratch(n, width) * sizeof *scratch);     /* NaN: nothing unset is read */
  rvl_head head = {.length = n, .width = width, .query = c->qkv, .key = c->qkv + width,
                   .value = c->qkv + 2 * width, .stride = c->stride, .mask = c->mask, .kept = kept,
                   .logsum = logsum, .scratch = scratch};
  attention_in_double(c);
  k->attention(&head, out, width);
  for (size_t i = 0; i < n * width; i++) is_near(k, out[i], c->out[i], 1e-5);
  memset(scratch, 0xff, rvl_head_scratch(n, width) * sizeof *scratch);
  k->attention_backward(&head, dout, width, dqkv, dqkv + width, dqkv + 2 * width);
  double *wanted = backward_in_double(c, dout);
  for (size_t i = 0; i < qkv_count; i++) {
    if (i % c->stride < 3 * width) is_near(k, dqkv[i], wanted[i], 5e-5);
    else assert_true(dqkv[i] == gaps[i]);
  }
  untouched(out, n * width);
  untouched(dqkv, qkv_count);
  free(out), free(dout), free(dqkv), free(logsum), free(scratch), free(kept), free(gaps), free(wanted);
}

static void test_attention(void **state) {
  (void)state;
  static const size_t sizes[][2] = {{1, 16}, {2, 2}, {5, 6}, {16, 16}, {17, 16}, {24, 16}, {31, 32}, {32, 48},
                                    {33, 12}, {63, 64}, {64, 32}, {65, 20}, {100, 16}, {130, 8}, {200, 33}};
  const rvl_kernels *k;
  EACH_SET(k) for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) for (int form = 0; form < 6; form++) {
    head_case c = {.length = sizes[s][0], .width = sizes[s][1]};
    c.stride = 3 * c.width + (form % 2 == 0 ? 0 : 5);
    c.qkv = normals(c.length * c.stride, 1);
    c.p = calloc(c.length * c.length, sizeof *c.p);
    c.out = calloc(c.length * c.width, sizeof *c.out);
    uint8_t *mask = malloc(c.length);
    /* none, here and there, all of the first third: these tokens see themselves only */
    for (size_t i = 0; i < c.length; i++) {
      mask[i] = form < 4 ? rvl_random_uniform(&generator) > 0.3 : i >= c.length / 3 + 1;
    }
    if (form >= 2) c.mask = mask;
    check_attention(k, &c, form % 2 == 1);
    free(c.qkv), free(c.p), free(c.out), free(mask);
  }
}

/* The token by token way gives what the whole sequence gives. */
static void test_attend(void **state) {
  (void)state;
  static const size_t sizes[][2] = {{1, 16}, {3, 6}, {24, 16}, {33, 32}, {70, 20}, {130, 64}};
  const rvl_kernels *k;
  EACH_SET(k) for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    head_case c = {.length = sizes[s][0], .width = sizes[s][1], .stride = 3 * sizes[s][1]};
    size_t padded = rvl_padded(c.length);
    c.qkv = normals(c.length * c.stride, 1);
    c.p = calloc(c.length * c.length, sizeof *c.p);
    c.out = calloc(c.length * c.width, sizeof *c.out);
    float *keys = malloc(c.width * padded * sizeof *keys), *scores = malloc(padded * sizeof *scores);
    memset(keys, 0xff, c.width * padded * sizeof *keys);       /* NaN: of no token yet */
    attention_in_double(&c);
    for (size_t t = 0; t < c.length; t++) {
      float *out = normals(c.width, 1);
      for (size_t x = 0; x < c.width; x++) keys[x * padded + t] = c.qkv[t * c.stride + c.width + x];
      k->attend(t + 1, c.width, c.qkv + t * c.stride, keys, padded, c.qkv + 2 * c.width, c.stride, scores, out);
      for (size_t x = 0; x < c.width; x++) is_near(k, out[x], c.out[t * c.width + x], 1e-5);
      untouched(out, c.width);
      free(out);
    }
    free(c.qkv), free(c.p), free(c.out), free(keys), free(scores);
  }
}

static void test_attention_shows_what_is_no_number(void **state) {
  (void)state;
  const rvl_kernels *k;
  enum { LENGTH = 40, WIDTH = 16 };
  EACH_SET(k) for (size_t part = 0; part < 3; part++) {
    float *qkv = normals(LENGTH * 3 * WIDTH, 1), *out = normals(LENGTH * WIDTH, 1), logsum[LENGTH];
    float *scratch = malloc(rvl_head_scratch(LENGTH, WIDTH) * sizeof *scratch);
    for (size_t i = 0; i < WIDTH; i++) qkv[part * WIDTH + i] = NAN;      /* of the first token */
    rvl_head head = {.length = LENGTH, .width = WIDTH, .query = qkv, .key = qkv + WIDTH, .value = qkv + 2 * WIDTH,
                     .stride = 3 * WIDTH, .logsum = logsum, .scratch = scratch};
    k->attention(&head, out, WIDTH);
    assert_true(isnan(out[0]));
    /* all see its key and value, not its query */
    assert_true(isnan(out[(LENGTH - 1) * WIDTH]) == (part > 0));
    free(qkv), free(out), free(scratch);
  }
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_choice),
      cmocka_unit_test(test_vectors),
      cmocka_unit_test(test_what_is_no_number),
      cmocka_unit_test(test_exp),
      cmocka_unit_test(test_gelu),
      cmocka_unit_test(test_adamw),
      cmocka_unit_test(test_logits),
      cmocka_unit_test(test_norm),
      cmocka_unit_test(test_rotary),
      cmocka_unit_test(test_products),
      cmocka_unit_test(test_attention),
      cmocka_unit_test(test_attend),
      cmocka_unit_test(test_attention_shows_what_is_no_number),
  };
  return cmocka_run_group_tests_name("kernels", tests, set_up, NULL);
}
