/*
** The value of a custom loss for one example, forwards through its nodes, and its gradient, backwards. What is
** kept of logits is log Σ exp of each token; their gradient is a weight of each token's whole distribution, and
** of the tokens that were looked up.
*/
#include "loss_graph_inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
  const rvl_graph *graph;
  const rvl_kernels *kernels;
  const rvl_example *example;
  size_t vocabulary;
  const float *logits;
  double *value[RVL_GRAPH_NODES];
  double *slope[RVL_GRAPH_NODES];    /* d loss / d value; of logits: the weight of a token's distribution */
} run;

static size_t size_of(const run *r, const node *n) { return rvl_graph_node_size(n, r->example->length); }

/* An argument's elements; those of a single number are the same everywhere. */
typedef struct operand {
  const double *value;
  double *slope;               /* NULL: a constant */
  size_t step, count;
  const node *node;
} operand;

static operand argument(const run *r, const node *n, unsigned i) {
  const rvl_graph_argument *a = &n->plan.arguments[i];
  if (a->node < 0) return (operand){.value = &a->constant, .count = 1};
  const node *of = &r->graph->nodes[a->node];
  size_t count = size_of(r, of);
  return (operand){r->value[a->node], r->slope[a->node], of->shape == SHAPE_NUMBER ? 0 : 1, count, of};
}

/* ---- forwards ----------------------------------------------------------------------------------------------- */

static void read_column(const run *r, const node *n, double *out) {
  const rvl_column *column = rvl_graph_column_of(r->example, n->plan.column);
  for (size_t i = 0; i < column->count; i++) out[i] = rvl_column_number(column, i);
}

static void log_sums(const run *r, const node *n, double *out) {
  float a = (float)(1 / n->temperature);
  for (size_t t = 0; t < r->example->length; t++) {
    out[t] = (double)r->kernels->log_sum_exp(r->vocabulary, a, r->logits + t * r->vocabulary);
  }
}

/* log p of the ids that the second argument has. */
static void look_up(const run *r, const node *n, double sign, double *out) {
  operand logits = argument(r, n, 0), ids = argument(r, n, 1);
  size_t width = n->width;
  for (size_t i = 0; i < ids.count; i++) {
    size_t t = i / width, id = (size_t)ids.value[i];
    out[i] = sign * ((double)r->logits[t * r->vocabulary + id] / logits.node->temperature - logits.value[t]);
  }
}

static double unary(rvl_graph_op op, double x) {
  switch (op) {
    case RVL_OP_NEG: return -x;
    case RVL_OP_EXP: return exp(x);
    case RVL_OP_EXPM1: return expm1(x);
    case RVL_OP_LOG: return log(x);
    case RVL_OP_SQRT: return sqrt(x);
    default: return x;         /* detach, float */
  }
}

static double binary(rvl_graph_op op, double x, double y) {
  switch (op) {
    case RVL_OP_ADD: return x + y;
    case RVL_OP_SUB: return x - y;
    case RVL_OP_MUL: return x * y;
    case RVL_OP_DIV: return x / y;
    case RVL_OP_MINIMUM: case RVL_OP_CLAMP_MAX: return isnan(x) || x < y ? x : y;
    default: return isnan(x) || x > y ? x : y;
  }
}

static double mean(const operand *a) {
  double sum = 0;
  for (size_t i = 0; i < a->count; i++) sum += a->value[i];
  return sum / (double)a->count;
}

static double variance(const operand *a, double correction) {
  double centre = mean(a), sum = 0;
  for (size_t i = 0; i < a->count; i++) sum += (a->value[i] - centre) * (a->value[i] - centre);
  double below = (double)a->count - correction;
  return sum / (below > 0 ? below : 0);
}

static double reduce(const node *n, const operand *a) {
  double extreme = a->value[0], sum = 0;
  for (size_t i = 1; i < a->count; i++) {
    bool better = n->plan.op == RVL_OP_AMIN ? a->value[i] < extreme : a->value[i] > extreme;
    if (better || isnan(a->value[i])) extreme = a->value[i];
  }
  switch (n->plan.op) {
    case RVL_OP_AMIN: case RVL_OP_AMAX: return extreme;
    case RVL_OP_MEAN: return mean(a);
    case RVL_OP_VAR: return variance(a, n->plan.correction);
    case RVL_OP_STD: return sqrt(variance(a, n->plan.correction));
    case RVL_OP_LOGSUMEXP:
      if (isinf(extreme)) return extreme;
      for (size_t i = 0; i < a->count; i++) sum += exp(a->value[i] - extreme);
      return extreme + log(sum);
    default:
      for (size_t i = 0; i < a->count; i++) sum += a->value[i];
      return sum;
  }
}

static void compute(const run *r, const node *n, double *out) {
  if (n->plan.op == RVL_OP_INPUT) { read_column(r, n, out); return; }
  if (n->kind != KIND_VALUE) { log_sums(r, n, out); return; }
  if (n->plan.op == RVL_OP_CE) { look_up(r, n, -1, out); return; }
  if (n->plan.op == RVL_OP_GATHER) { look_up(r, n, 1, out); return; }
  operand a = argument(r, n, 0);
  if (rvl_graph_arguments(n->plan.op) == 2) {
    operand b = argument(r, n, 1);
    for (size_t i = 0; i < size_of(r, n); i++)
      out[i] = binary(n->plan.op, a.value[i * a.step], b.value[i * b.step]);
  } else if (n->plan.op == RVL_OP_SUM_CANDIDATES) {
    for (size_t i = 0; i < a.count; i++) out[i / a.node->width] += a.value[i];
  } else if (n->plan.op >= RVL_OP_SUM) {
    out[0] = reduce(n, &a);
  } else {
    for (size_t i = 0; i < size_of(r, n); i++) out[i] = unary(n->plan.op, a.value[i * a.step]);
  }
}

/* ---- backwards ---------------------------------------------------------------------------------------------- */

/* d unary / d x, where y is its value. */
static double unary_slope(rvl_graph_op op, double x, double y) {
  switch (op) {
    case RVL_OP_NEG: return -1;
    case RVL_OP_EXP: return y;
    case RVL_OP_EXPM1: return y + 1;
    case RVL_OP_LOG: return 1 / x;
    case RVL_OP_SQRT: return 0.5 / y;
    case RVL_OP_DETACH: return 0;
    default: return 1;
  }
}

/* By the first and the second argument. */
static void binary_slopes(rvl_graph_op op, double x, double y, double slopes[2]) {
  double first = x < y ? 1 : x > y ? 0 : 0.5;      /* of a minimum */
  switch (op) {
    case RVL_OP_ADD: slopes[0] = 1; slopes[1] = 1; break;
    case RVL_OP_SUB: slopes[0] = 1; slopes[1] = -1; break;
    case RVL_OP_MUL: slopes[0] = y; slopes[1] = x; break;
    case RVL_OP_DIV: slopes[0] = 1 / y; slopes[1] = -x / (y * y); break;
    case RVL_OP_MINIMUM: slopes[0] = first; slopes[1] = 1 - first; break;
    case RVL_OP_MAXIMUM: slopes[0] = 1 - first; slopes[1] = first; break;
    case RVL_OP_CLAMP_MAX: slopes[0] = x <= y; slopes[1] = x > y; break;
    default: slopes[0] = x >= y; slopes[1] = x < y; break;
  }
}

static void reduce_back(const node *n, const operand *a, double y, double slope) {
  double count = (double)a->count, centre = 0, ties = 0, below = count - n->plan.correction;
  if (n->plan.op == RVL_OP_VAR || n->plan.op == RVL_OP_STD) centre = mean(a);
  for (size_t i = 0; i < a->count; i++) ties += a->value[i] == y;
  for (size_t i = 0; i < a->count; i++) {
    double x = a->value[i], by;
    switch (n->plan.op) {
      case RVL_OP_MEAN: by = 1 / count; break;
      case RVL_OP_AMIN: case RVL_OP_AMAX: by = x == y ? 1 / ties : 0; break;
      case RVL_OP_LOGSUMEXP: by = exp(x - y); break;
      case RVL_OP_VAR: by = 2 * (x - centre) / below; break;
      case RVL_OP_STD: by = y == 0 ? 0 : (x - centre) / (below * y); break;
      default: by = 1; break;
    }
    a->slope[i] += slope * by;
  }
}

/* Back to what `n` was computed of; that of logits ends in their weights of whole distributions. */
static void compute_back(const run *r, const node *n, const double *y, const double *slope) {
  operand a = argument(r, n, 0);
  size_t count = size_of(r, n);
  if (n->plan.op == RVL_OP_CE || n->plan.op == RVL_OP_GATHER) {
    double sign = n->plan.op == RVL_OP_CE ? 1 : -1;
    for (size_t i = 0; i < count; i++) a.slope[i / n->width] += sign * slope[i];
  } else if (rvl_graph_arguments(n->plan.op) == 2) {
    operand b = argument(r, n, 1);
    for (size_t i = 0; i < count; i++) {
      double by[2];
      binary_slopes(n->plan.op, a.value[i * a.step], b.value[i * b.step], by);
      if (a.slope != NULL) a.slope[i * a.step] += slope[i] * by[0];
      if (b.slope != NULL) b.slope[i * b.step] += slope[i] * by[1];
    }
  } else if (a.slope == NULL) {
    return;
  } else if (n->plan.op == RVL_OP_SUM_CANDIDATES) {
    for (size_t i = 0; i < a.count; i++) a.slope[i] += slope[i / a.node->width];
  } else if (n->plan.op >= RVL_OP_SUM) {
    reduce_back(n, &a, y[0], slope[0]);
  } else {
    for (size_t i = 0; i < count; i++) {
      if (slope[i] != 0) a.slope[i * a.step] += slope[i] * unary_slope(n->plan.op, a.value[i * a.step], y[i]);
    }
  }
}

/* The row of one token's gradient: weights of its distributions, less those of the ids that were looked up. */
static void logits_row(const run *r, size_t t, float *scratch, float *row) {
  const float *logits = r->logits + t * r->vocabulary;
  memset(row, 0, r->vocabulary * sizeof *row);
  for (size_t i = 0; i < r->graph->node_count; i++) {
    const node *n = &r->graph->nodes[i];
    if (n->kind != KIND_VALUE && !n->detached && r->slope[i][t] != 0) {
      double a = 1 / n->temperature;
      r->kernels->softmax_times(r->vocabulary, (float)a, (float)r->value[i][t], (float)(a * r->slope[i][t]),
                                logits, scratch);
      r->kernels->add(r->vocabulary, scratch, row);
    } else if (n->plan.op == RVL_OP_CE || n->plan.op == RVL_OP_GATHER) {
      operand of = argument(r, n, 0), ids = argument(r, n, 1);
      if (of.node->detached) continue;
      double sign = n->plan.op == RVL_OP_CE ? -1 : 1;
      for (size_t k = t * n->width; k < (t + 1) * n->width; k++) {
        row[(size_t)ids.value[k]] += (float)(sign * r->slope[i][k] / of.node->temperature);
      }
    }
  }
}

static bool gradient_of(const run *r, float *logits) {
  size_t count = r->graph->node_count;
  r->slope[r->graph->loss][0] = 1;
  for (size_t i = count; i-- > 1;) {
    const node *n = &r->graph->nodes[i];
    if (n->kind == KIND_VALUE && n->plan.op != RVL_OP_INPUT) compute_back(r, n, r->value[i], r->slope[i]);
  }
  float *scratch = malloc(2 * r->vocabulary * sizeof *scratch);
  if (scratch == NULL) return false;
  for (size_t t = 0; t < r->example->length; t++) {
    logits_row(r, t, scratch, scratch + r->vocabulary);
    memcpy(logits + t * r->vocabulary, scratch + r->vocabulary, r->vocabulary * sizeof *logits);
  }
  free(scratch);
  return true;
}

bool rvl_graph_apply(const rvl_graph *graph, const rvl_kernels *kernels, const rvl_example *example,
                     size_t vocabulary, float *logits, bool gradient, double *value, double *custom) {
  run r = {.graph = graph, .kernels = kernels, .example = example, .vocabulary = vocabulary, .logits = logits};
  size_t total = 0;
  for (size_t i = 0; i < graph->node_count; i++) total += size_of(&r, &graph->nodes[i]);
  double *memory = calloc(total, 2 * sizeof *memory);
  if (memory == NULL) return false;
  double *at = memory;
  for (size_t i = 0; i < graph->node_count; i++) {
    size_t size = size_of(&r, &graph->nodes[i]);
    r.value[i] = at;
    r.slope[i] = at + total;
    at += size;
    compute(&r, &graph->nodes[i], r.value[i]);
  }
  *value = r.value[graph->loss][0];
  for (size_t i = 0; i < graph->metric_count; i++) custom[i] = r.value[graph->metric_nodes[i]][0];
  bool ok = !gradient || gradient_of(&r, logits);
  free(memory);
  return ok;
}
