/* Between loss_graph.c, which checks, and loss_graph_apply.c, which computes. */
#ifndef RVL_LOSS_GRAPH_INSIDE_H
#define RVL_LOSS_GRAPH_INSIDE_H

#include "loss_graph.h"

typedef enum kind { KIND_VALUE, KIND_LOGITS, KIND_LOGPROBS } kind;
typedef enum shape { SHAPE_NUMBER, SHAPE_TOKEN, SHAPE_MATRIX } shape;

typedef struct node {
  rvl_graph_node plan;
  kind kind;
  shape shape;
  size_t width;                /* K of a matrix, else 1 */
  double temperature;          /* of logits: what they were divided by */
  bool detached;
} node;

struct rvl_graph {
  unsigned references;
  size_t column_count, node_count, metric_count;
  unsigned loss;
  rvl_graph_column columns[RVL_GRAPH_COLUMNS];
  node nodes[RVL_GRAPH_NODES];
  char metrics[RVL_GRAPH_METRICS][RVL_GRAPH_NAME];
  unsigned metric_nodes[RVL_GRAPH_METRICS];
  size_t text_length;
  char text[];                 /* its JSON */
};

/* How many values a node has for an example of so many tokens. */
size_t rvl_graph_node_size(const node *n, size_t tokens);

/* NULL: the example has none. */
const rvl_column *rvl_graph_column_of(const rvl_example *example, size_t index);

#endif
