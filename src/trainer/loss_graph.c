/* Custom losses: plans are checked here; loss_graph_apply.c computes. */
#include "loss_graph_inside.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char column_prefix[] = "__river_loss_column_";
static const char position_name[] = "__river_loss_position", graph_name[] = "__river_loss_graph_v1";

static const struct { const char *name; unsigned arguments; } ops[RVL_OPS] = {
    [RVL_OP_LOGITS] = {"logits", 0}, [RVL_OP_INPUT] = {"input", 0}, [RVL_OP_CE] = {"ce", 2},
    [RVL_OP_LOG_SOFTMAX] = {"log_softmax", 1}, [RVL_OP_GATHER] = {"gather", 2}, [RVL_OP_ADD] = {"add", 2},
    [RVL_OP_SUB] = {"sub", 2}, [RVL_OP_MUL] = {"mul", 2}, [RVL_OP_DIV] = {"div", 2},
    [RVL_OP_MINIMUM] = {"minimum", 2}, [RVL_OP_MAXIMUM] = {"maximum", 2},
    [RVL_OP_CLAMP_MIN] = {"clamp_min", 2}, [RVL_OP_CLAMP_MAX] = {"clamp_max", 2},
    [RVL_OP_NEG] = {"neg", 1}, [RVL_OP_EXP] = {"exp", 1}, [RVL_OP_EXPM1] = {"expm1", 1}, [RVL_OP_LOG] = {"log", 1},
    [RVL_OP_SQRT] = {"sqrt", 1}, [RVL_OP_DETACH] = {"detach", 1}, [RVL_OP_FLOAT] = {"float", 1},
    [RVL_OP_SUM] = {"sum", 1}, [RVL_OP_MEAN] = {"mean", 1}, [RVL_OP_AMIN] = {"amin", 1},
    [RVL_OP_AMAX] = {"amax", 1}, [RVL_OP_LOGSUMEXP] = {"logsumexp", 1}, [RVL_OP_VAR] = {"var", 1},
    [RVL_OP_STD] = {"std", 1}, [RVL_OP_SUM_CANDIDATES] = {"sum_candidates", 1},
};

rvl_graph_op rvl_graph_op_named(const char *name) {
  for (unsigned i = 0; i < RVL_OPS; i++) {
    if (strcmp(ops[i].name, name) == 0) return (rvl_graph_op)i;
  }
  return RVL_OPS;
}

unsigned rvl_graph_arguments(rvl_graph_op op) { return ops[op].arguments; }

/* ---- checking plans ----------------------------------------------------------------------------------------- */

typedef struct checker {
  rvl_graph *graph;
  size_t at;                   /* the node that is looked at */
  char *refusal;
} checker;

__attribute__((format(printf, 2, 3)))
static bool refuse(const checker *c, const char *format, ...) {
  int length = snprintf(c->refusal, RVL_GRAPH_REFUSAL, "node %zu (%s): ", c->at,
                        ops[c->graph->nodes[c->at].plan.op].name);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->refusal + length, RVL_GRAPH_REFUSAL - (size_t)length, format, arguments);
  va_end(arguments);
  return false;
}

/* The node that argument i is; NULL: a constant. */
static const node *argument(const checker *c, unsigned i) {
  int index = c->graph->nodes[c->at].plan.arguments[i].node;
  return index < 0 ? NULL : &c->graph->nodes[index];
}

static bool is_value(const node *n) { return n == NULL || n->kind == KIND_VALUE; }

/* An integer column of the graph, as it came. */
static bool is_ids(const checker *c, const node *n, shape wanted) {
  return n != NULL && n->plan.op == RVL_OP_INPUT && n->shape == wanted &&
         c->graph->columns[n->plan.column].dtype != RVL_FLOAT32;
}

static bool check_logits(const checker *c, node *n, const node *of) {
  n->temperature = of->temperature;
  n->detached = of->detached;
  n->kind = of->kind;
  n->shape = SHAPE_TOKEN;      /* what is kept of them: log Σ exp, one a token */
  switch (n->plan.op) {
    case RVL_OP_DIV:
      if (argument(c, 1) != NULL || !(n->plan.arguments[1].constant > 0) || of->kind != KIND_LOGITS) {
        return refuse(c, "logits are divided by a positive number only");
      }
      n->temperature *= n->plan.arguments[1].constant;
      return true;
    case RVL_OP_DETACH:
      n->detached = true;
      return true;
    case RVL_OP_LOG_SOFTMAX:
      if (of->kind != KIND_LOGITS) return refuse(c, "it is taken of logits");
      n->kind = KIND_LOGPROBS;
      return true;
    case RVL_OP_CE:
      if (of->kind != KIND_LOGITS || !is_ids(c, argument(c, 1), SHAPE_TOKEN)) {
        return refuse(c, "it takes logits and a column of one integer a token");
      }
      break;
    case RVL_OP_GATHER:
      if (of->kind != KIND_LOGPROBS || !is_ids(c, argument(c, 1), SHAPE_MATRIX)) {
        return refuse(c, "it takes a log_softmax and a column of several integers a token");
      }
      n->shape = SHAPE_MATRIX;
      n->width = argument(c, 1)->width;
      break;
    default: return refuse(c, "this cannot be done with logits");
  }
  n->kind = KIND_VALUE;
  return true;
}

static bool check_values(const checker *c, node *n) {
  const node *a = argument(c, 0), *b = rvl_graph_arguments(n->plan.op) > 1 ? argument(c, 1) : NULL;
  if (!is_value(a) || !is_value(b)) return refuse(c, "logits may only be divided, detached, or looked up");
  shape left = a == NULL ? SHAPE_NUMBER : a->shape, right = b == NULL ? SHAPE_NUMBER : b->shape;
  size_t left_width = a == NULL ? 1 : a->width, right_width = b == NULL ? 1 : b->width;
  switch (n->plan.op) {
    case RVL_OP_CE: case RVL_OP_LOG_SOFTMAX: case RVL_OP_GATHER: return refuse(c, "it is taken of logits");
    case RVL_OP_SUM_CANDIDATES:
      if (left != SHAPE_MATRIX) return refuse(c, "it takes several values a token");
      n->shape = SHAPE_TOKEN;
      return true;
    case RVL_OP_SUM: case RVL_OP_MEAN: case RVL_OP_AMIN: case RVL_OP_AMAX: case RVL_OP_LOGSUMEXP: case RVL_OP_VAR:
    case RVL_OP_STD: return true;
    default: break;
  }
  if (left != SHAPE_NUMBER && right != SHAPE_NUMBER && (left != right || left_width != right_width)) {
    return refuse(c, "its arguments have different shapes");
  }
  n->shape = left != SHAPE_NUMBER ? left : right;
  n->width = left != SHAPE_NUMBER ? left_width : right_width;
  return true;
}

static bool check_node(const checker *c) {
  node *n = &c->graph->nodes[c->at];
  n->kind = KIND_VALUE;
  n->shape = SHAPE_NUMBER;
  n->width = 1;
  n->temperature = 1;
  if (n->plan.op == RVL_OP_LOGITS) {
    n->kind = KIND_LOGITS;
    n->shape = SHAPE_TOKEN;
    return c->at == 0 || refuse(c, "it is the first node only");
  }
  if (n->plan.op == RVL_OP_INPUT) {
    size_t width = c->graph->columns[n->plan.column].width;
    n->shape = width == 0 ? SHAPE_TOKEN : SHAPE_MATRIX;
    n->width = width == 0 ? 1 : width;
    return true;
  }
  const node *first = argument(c, 0);
  if (first != NULL && first->kind != KIND_VALUE) return check_logits(c, n, first);
  return check_values(c, n);
}

static bool is_number(const rvl_graph *graph, unsigned index) {
  return graph->nodes[index].kind == KIND_VALUE && graph->nodes[index].shape == SHAPE_NUMBER;
}

static bool check_graph(rvl_graph *graph, char *refusal) {
  checker c = {.graph = graph, .refusal = refusal};
  for (; c.at < graph->node_count; c.at++) {
    if (!check_node(&c)) return false;
  }
  c.at = graph->loss;
  if (!is_number(graph, graph->loss)) return refuse(&c, "the loss is not one number");
  for (size_t i = 0; i < graph->metric_count; i++) {
    c.at = graph->metric_nodes[i];
    const char *name = graph->metrics[i];
    if (!is_number(graph, graph->metric_nodes[i])) {
      return refuse(&c, "the metric %.*s is not one number", rvl_example_shown(name, strlen(name)), name);
    }
  }
  return true;
}

rvl_graph *rvl_graph_new(const rvl_graph_plan *plan, const char *text, size_t length,
                         char refusal[RVL_GRAPH_REFUSAL]) {
  refusal[0] = '\0';
  rvl_graph *graph = calloc(1, sizeof *graph + length);
  if (graph == NULL) return NULL;
  memcpy(graph->text, text, length);
  graph->text_length = length;
  graph->references = 1;
  graph->column_count = plan->column_count;
  graph->node_count = plan->node_count;
  graph->metric_count = plan->metric_count;
  graph->loss = plan->loss;
  memcpy(graph->columns, plan->columns, sizeof graph->columns);
  memcpy(graph->metrics, plan->metrics, sizeof graph->metrics);
  memcpy(graph->metric_nodes, plan->metric_nodes, sizeof graph->metric_nodes);
  for (size_t i = 0; i < plan->node_count; i++) graph->nodes[i].plan = plan->nodes[i];
  if (check_graph(graph, refusal)) return graph;
  free(graph);
  return NULL;
}

rvl_graph *rvl_graph_retain(rvl_graph *graph) {
  graph->references++;
  return graph;
}

void rvl_graph_release(rvl_graph *graph) {
  if (graph != NULL && --graph->references == 0) free(graph);
}

size_t rvl_graph_metrics(const rvl_graph *graph) { return graph->metric_count; }

const char *rvl_graph_metric(const rvl_graph *graph, size_t i) { return graph->metrics[i]; }

/* ---- checking examples -------------------------------------------------------------------------------------- */

const rvl_column *rvl_graph_column_of(const rvl_example *example, size_t index) {
  char name[40];
  snprintf(name, sizeof name, "%s%zu", column_prefix, index);
  return rvl_example_column(example, name);
}

/* Whether a node looks the column's values up among the logits. */
static bool is_looked_up(const rvl_graph *graph, size_t column) {
  for (size_t i = 0; i < graph->node_count; i++) {
    const rvl_graph_node *plan = &graph->nodes[i].plan;
    if (plan->op != RVL_OP_CE && plan->op != RVL_OP_GATHER) continue;
    const rvl_graph_node *ids = &graph->nodes[plan->arguments[1].node].plan;
    if (ids->column == column) return true;
  }
  return false;
}

static bool check_column(const rvl_graph *graph, size_t index, const rvl_example *example, size_t vocabulary,
                         char *refusal) {
  const rvl_graph_column *wanted = &graph->columns[index];
  const rvl_column *column = rvl_graph_column_of(example, index);
  if (column == NULL || column->dtype != wanted->dtype || column->rows != example->length ||
      column->width != wanted->width) {
    snprintf(refusal, RVL_GRAPH_REFUSAL, "%s%zu is %s", column_prefix, index,
             column == NULL ? "missing" : "not of the graph's type or shape");
    return false;
  }
  bool looked_up = is_looked_up(graph, index);
  for (size_t i = 0; i < column->count; i++) {
    if (wanted->dtype == RVL_FLOAT32 && !isfinite(rvl_column_number(column, i))) {
      snprintf(refusal, RVL_GRAPH_REFUSAL, "%s%zu is not finite at %zu", column_prefix, index, i);
      return false;
    }
    int64_t id = looked_up ? rvl_column_integer(column, i) : 0;
    if (id < 0 || (uint64_t)id >= vocabulary) {
      snprintf(refusal, RVL_GRAPH_REFUSAL, "%s%zu[%zu] is %lld, the vocabulary has %zu", column_prefix, index, i,
               (long long)id, vocabulary);
      return false;
    }
  }
  return true;
}

/* What a datum of a custom loss has besides the columns of its graph. */
static bool is_known(const rvl_graph *graph, const char *name) {
  static const char *const others[] = {"input_ids", "attention_mask", "expert_routing_handle", position_name,
                                       graph_name};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    if (strcmp(name, others[i]) == 0) return true;
  }
  char *end = NULL;
  if (strncmp(name, column_prefix, sizeof column_prefix - 1) != 0) return false;
  const char *digits = name + sizeof column_prefix - 1;
  return digits[0] >= '0' && digits[0] <= '9' && strtoul(digits, &end, 10) < graph->column_count && *end == '\0';
}

static bool check_rest(const rvl_graph *graph, const rvl_example *example, char *refusal) {
  for (size_t i = 0; i < example->column_count; i++) {
    const char *name = example->columns[i].name;
    if (is_known(graph, name)) continue;
    snprintf(refusal, RVL_GRAPH_REFUSAL, "the column %.*s is none of the loss graph's",
             rvl_example_shown(name, strlen(name)), name);
    return false;
  }
  const rvl_column *position = rvl_example_column(example, position_name);
  const rvl_column *text = rvl_example_column(example, graph_name);
  bool ones = position != NULL && position->rows == example->length && position->width == 0;
  for (size_t i = 0; ones && i < position->count; i++) ones = rvl_column_number(position, i) == 1;
  if (!ones) snprintf(refusal, RVL_GRAPH_REFUSAL, "%s is not ones", position_name);
  bool same = text != NULL && text->dtype == RVL_UINT8 && text->count == graph->text_length &&
              memcmp(text->data, graph->text, text->count) == 0;
  if (ones && !same)
    snprintf(refusal, RVL_GRAPH_REFUSAL, "%s is another graph than the first datum's", graph_name);
  return ones && same;
}

size_t rvl_graph_node_size(const node *n, size_t tokens) {
  return n->shape == SHAPE_NUMBER ? 1 : n->shape == SHAPE_TOKEN ? tokens : tokens * n->width;
}

/* A small datum may ask for much: each node has a value for every element of a column. */
static bool check_size(const rvl_graph *graph, const rvl_example *example, char *refusal) {
  size_t total = 0;
  for (size_t i = 0; i < graph->node_count; i++) total += rvl_graph_node_size(&graph->nodes[i], example->length);
  if (total <= RVL_GRAPH_VALUES) return true;
  snprintf(refusal, RVL_GRAPH_REFUSAL, "the nodes of the loss graph have %zu values, at most %d are computed: "
           "take a shorter datum or fewer candidates", total, RVL_GRAPH_VALUES);
  return false;
}

bool rvl_graph_check(const rvl_graph *graph, const rvl_example *example, size_t vocabulary,
                     char refusal[RVL_GRAPH_REFUSAL]) {
  if (!check_size(graph, example, refusal)) return false;
  for (size_t i = 0; i < graph->column_count; i++) {
    if (!check_column(graph, i, example, vocabulary, refusal)) return false;
  }
  return check_rest(graph, example, refusal);
}
