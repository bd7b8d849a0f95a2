/*
** Custom losses, loss_graph_v1: an expression over a model's logits and columns of the datums, its value for one
** example and its gradient. Values are single numbers, vectors [T] or matrices [T, K] of doubles; the logits
** themselves are only looked up by `ce` and `gather`. Ties of minima, maxima and clamps divide a gradient as
** PyTorch does.
*/
#ifndef RVL_LOSS_GRAPH_H
#define RVL_LOSS_GRAPH_H

#include "example.h"
#include "kernels.h"

#include <stdbool.h>
#include <stddef.h>

enum {
  RVL_GRAPH_NODES = 128,
  RVL_GRAPH_COLUMNS = 16,
  RVL_GRAPH_METRICS = 16,
  RVL_GRAPH_NAME = 64 * 4 + 8,       /* "custom/" and up to 64 characters */
  RVL_GRAPH_WIDTH = 262144,
  RVL_GRAPH_VALUES = 1 << 25,        /* of all nodes for one example: with their gradients 512 MiB */
  RVL_GRAPH_REFUSAL = 256
};

typedef enum rvl_graph_op {
  RVL_OP_LOGITS, RVL_OP_INPUT, RVL_OP_CE, RVL_OP_LOG_SOFTMAX, RVL_OP_GATHER,
  RVL_OP_ADD, RVL_OP_SUB, RVL_OP_MUL, RVL_OP_DIV, RVL_OP_MINIMUM, RVL_OP_MAXIMUM, RVL_OP_CLAMP_MIN,
  RVL_OP_CLAMP_MAX, RVL_OP_NEG, RVL_OP_EXP, RVL_OP_EXPM1, RVL_OP_LOG, RVL_OP_SQRT, RVL_OP_DETACH,
  RVL_OP_FLOAT, RVL_OP_SUM, RVL_OP_MEAN, RVL_OP_AMIN, RVL_OP_AMAX, RVL_OP_LOGSUMEXP, RVL_OP_VAR, RVL_OP_STD,
  RVL_OP_SUM_CANDIDATES,
  RVL_OPS
} rvl_graph_op;

/* RVL_OPS: there is none of this name. */
rvl_graph_op rvl_graph_op_named(const char *name);
/* How many arguments it takes. */
unsigned rvl_graph_arguments(rvl_graph_op op);

typedef struct rvl_graph_argument {
  int node;                    /* an earlier node; -1: the constant */
  double constant;
} rvl_graph_argument;

typedef struct rvl_graph_node {
  rvl_graph_op op;
  rvl_graph_argument arguments[2];
  unsigned column;             /* of RVL_OP_INPUT */
  double correction;           /* of RVL_OP_VAR and RVL_OP_STD */
} rvl_graph_node;

typedef struct rvl_graph_column {
  rvl_dtype dtype;             /* RVL_INT32, RVL_INT64 or RVL_FLOAT32 */
  size_t width;                /* K of [T, K]; 0: [T] */
} rvl_graph_column;

typedef struct rvl_graph_plan {
  rvl_graph_column columns[RVL_GRAPH_COLUMNS];
  rvl_graph_node nodes[RVL_GRAPH_NODES];
  char metrics[RVL_GRAPH_METRICS][RVL_GRAPH_NAME];   /* "custom/<name>" */
  unsigned metric_nodes[RVL_GRAPH_METRICS];
  size_t column_count, node_count, metric_count;
  unsigned loss;               /* a node */
} rvl_graph_plan;

typedef struct rvl_graph rvl_graph;

/* Copies a plan whose counts and indexes are within bounds, and the JSON that it was read from, which every datum
   must have. NULL: `refusal` says why ("node 5 (mul): …"); an empty one: no memory. */
rvl_graph *rvl_graph_new(const rvl_graph_plan *plan, const char *text, size_t length,
                         char refusal[RVL_GRAPH_REFUSAL]);
rvl_graph *rvl_graph_retain(rvl_graph *graph);   /* references are counted by one thread */
void rvl_graph_release(rvl_graph *graph);

size_t rvl_graph_metrics(const rvl_graph *graph);
/* "custom/<name>", as long as the graph is there. */
const char *rvl_graph_metric(const rvl_graph *graph, size_t i);

/* Whether an example has the columns that the graph looks at and no others, this graph's JSON, and tokens of the
   vocabulary in what is looked up. */
bool rvl_graph_check(const rvl_graph *graph, const rvl_example *example, size_t vocabulary,
                     char refusal[RVL_GRAPH_REFUSAL]);
/*
** An example that was checked: `logits` [length, vocabulary] become the gradient of the loss when `gradient` is
** asked for; *value and custom[i] of the metrics are set, not added. false: no memory.
*/
bool rvl_graph_apply(const rvl_graph *graph, const rvl_kernels *kernels, const rvl_example *example,
                     size_t vocabulary, float *logits, bool gradient, double *value, double *custom);

#endif
