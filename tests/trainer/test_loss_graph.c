/* Custom losses: gradients of every operation against differences, and what is refused. */
#include "trainer/loss_graph.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { T = 5, V = 7, K = 3 };

static const int64_t ids[T] = {3, 0, 6, 2, 2};
static const float advantages[T] = {0.5f, -1.0f, 2.0f, 0.25f, -0.75f};
static const int32_t candidates[T * K] = {0, 1, 2, 6, 5, 4, 3, 3, 1, 2, 0, 6, 4, 4, 4};
static const float weights[T * K] = {.1f, .7f, .2f, .3f, .3f, .4f, .9f, .05f, .05f, .2f, .5f, .3f, .6f, .1f, .3f};
static const int64_t ones[T] = {1, 1, 1, 1, 1};
static const uint8_t text[2] = {'{', '}'};

static const rvl_column columns[] = {
    {.name = "__river_loss_column_0", .dtype = RVL_INT64, .rows = T, .count = T, .data = ids},
    {.name = "__river_loss_column_1", .dtype = RVL_FLOAT32, .rows = T, .count = T, .data = advantages},
    {.name = "__river_loss_column_2", .dtype = RVL_INT32, .rows = T, .width = K, .count = T * K,
     .data = candidates},
    {.name = "__river_loss_column_3", .dtype = RVL_FLOAT32, .rows = T, .width = K, .count = T * K,
     .data = weights},
    {.name = "__river_loss_position", .dtype = RVL_INT64, .rows = T, .count = T, .data = ones},
    {.name = "__river_loss_graph_v1", .dtype = RVL_UINT8, .rows = 2, .count = 2, .data = text},
};
static const rvl_example example = {.length = T, .columns = columns,
                                    .column_count = sizeof columns / sizeof *columns};

/* Node numbers that every plan begins with. */
enum { LOGITS, IDS, ADVANTAGES, CANDIDATES, WEIGHTS, FIRST };

static rvl_graph_plan base_plan(void) {
  rvl_graph_plan plan = {.columns = {{RVL_INT64, 0}, {RVL_FLOAT32, 0}, {RVL_INT32, K}, {RVL_FLOAT32, K}},
                         .column_count = 4, .node_count = FIRST};
  plan.nodes[LOGITS].op = RVL_OP_LOGITS;
  for (unsigned i = 0; i < 4; i++) plan.nodes[1 + i] = (rvl_graph_node){.op = RVL_OP_INPUT, .column = i};
  return plan;
}

static int put(rvl_graph_plan *plan, rvl_graph_op op, int a, int b) {
  plan->nodes[plan->node_count] = (rvl_graph_node){.op = op, .arguments = {{a, 0}, {b, 0}}, .correction = 1};
  plan->loss = (unsigned)plan->node_count;
  return (int)plan->node_count++;
}

static int put_constant(rvl_graph_plan *plan, rvl_graph_op op, int a, double constant) {
  int at = put(plan, op, a, -1);
  plan->nodes[at].arguments[1].constant = constant;
  return at;
}

static rvl_graph *make(const rvl_graph_plan *plan) {
  char refusal[RVL_GRAPH_REFUSAL];
  rvl_graph *graph = rvl_graph_new(plan, "{}", 2, refusal);
  if (graph == NULL) fail_msg("%s", refusal);
  if (!rvl_graph_check(graph, &example, V, refusal)) fail_msg("%s", refusal);
  return graph;
}

static double evaluate(const rvl_graph *graph, const float *logits, float *gradient) {
  float copy[T * V];
  double value, custom[RVL_GRAPH_METRICS];
  memcpy(copy, logits, sizeof copy);
  assert_true(rvl_graph_apply(graph, rvl_kernels_pick(), &example, V, copy, gradient != NULL, &value, custom));
  if (gradient != NULL) memcpy(gradient, copy, sizeof copy);
  return value;
}

/* The gradient against differences of values. */
static void check_gradient(const rvl_graph_plan *plan, const char *what) {
  rvl_graph *graph = make(plan);
  float logits[T * V], gradient[T * V];
  for (int i = 0; i < T * V; i++) logits[i] = sinf((float)(3 * i + 1)) * 1.5f;
  evaluate(graph, logits, gradient);
  for (int i = 0; i < T * V; i++) {
    float kept = logits[i], step = 1.0f / 64;
    logits[i] = kept + step;
    double above = evaluate(graph, logits, NULL);
    logits[i] = kept - step;
    double below = evaluate(graph, logits, NULL), slope = (above - below) / (2 * (double)step);
    logits[i] = kept;
    if (fabs(slope - (double)gradient[i]) > 2e-3 * (1 + fabs(slope))) {
      fail_msg("%s: logit %d has the slope %g, not %g", what, i, slope, (double)gradient[i]);
    }
  }
  rvl_graph_release(graph);
}

/* Σ A · op(log p) and the like, for every operation. */
static void test_operations(void **state) {
  (void)state;
  static const rvl_graph_op unary[] = {RVL_OP_NEG, RVL_OP_EXP, RVL_OP_EXPM1, RVL_OP_FLOAT, RVL_OP_SQRT,
                                       RVL_OP_LOG};
  for (size_t i = 0; i < sizeof unary / sizeof *unary; i++) {
    rvl_graph_plan plan = base_plan();
    int ce = put(&plan, RVL_OP_CE, LOGITS, IDS);
    put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_MUL, put(&plan, unary[i], ce, 0), ADVANTAGES), 0);
    check_gradient(&plan, "unary");
  }
  static const rvl_graph_op binary[] = {RVL_OP_ADD, RVL_OP_SUB, RVL_OP_MUL, RVL_OP_DIV, RVL_OP_MINIMUM,
                                        RVL_OP_MAXIMUM, RVL_OP_CLAMP_MIN, RVL_OP_CLAMP_MAX};
  for (size_t i = 0; i < sizeof binary / sizeof *binary; i++) {
    rvl_graph_plan plan = base_plan();
    int ce = put(&plan, RVL_OP_CE, LOGITS, IDS), gathered = put(&plan, RVL_OP_GATHER,
        put(&plan, RVL_OP_LOG_SOFTMAX, put_constant(&plan, RVL_OP_DIV, LOGITS, 0.7), 0), CANDIDATES);
    int best = put(&plan, RVL_OP_SUM_CANDIDATES, put(&plan, RVL_OP_MUL, gathered, WEIGHTS), 0);
    int both = put(&plan, binary[i], ce, put_constant(&plan, RVL_OP_MUL, best, -0.9));
    put(&plan, RVL_OP_SUM, put_constant(&plan, binary[i], put(&plan, RVL_OP_MUL, both, ADVANTAGES), 0.3), 0);
    check_gradient(&plan, "binary");
  }
  static const rvl_graph_op reductions[] = {RVL_OP_SUM, RVL_OP_MEAN, RVL_OP_AMIN, RVL_OP_AMAX, RVL_OP_LOGSUMEXP,
                                            RVL_OP_VAR, RVL_OP_STD};
  for (size_t i = 0; i < sizeof reductions / sizeof *reductions; i++) {
    rvl_graph_plan plan = base_plan();
    int gathered = put(&plan, RVL_OP_GATHER, put(&plan, RVL_OP_LOG_SOFTMAX, LOGITS, 0), CANDIDATES);
    int reduced = put(&plan, reductions[i], put(&plan, RVL_OP_MUL, gathered, WEIGHTS), 0);
    put(&plan, RVL_OP_MUL, reduced, put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_CE, LOGITS, IDS), 0));
    check_gradient(&plan, "reduction");
  }
}

/* Nothing comes back through what was detached. */
static void test_detached(void **state) {
  (void)state;
  rvl_graph_plan plan = base_plan();
  int ratio = put(&plan, RVL_OP_DETACH, put(&plan, RVL_OP_EXP, put(&plan, RVL_OP_CE, LOGITS, IDS), 0), 0);
  put(&plan, RVL_OP_SUM, ratio, 0);
  rvl_graph *graph = make(&plan);
  float logits[T * V] = {0}, gradient[T * V];
  evaluate(graph, logits, gradient);
  for (int i = 0; i < T * V; i++) assert_true(gradient[i] == 0);
  rvl_graph_release(graph);
  plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_CE, put(&plan, RVL_OP_DETACH, LOGITS, 0), IDS), 0);
  graph = make(&plan);
  assert_true(fabs(evaluate(graph, logits, gradient) - T * log(V)) < 1e-5);
  for (int i = 0; i < T * V; i++) assert_true(gradient[i] == 0);
  rvl_graph_release(graph);
}

/* Where both sides are equal, each gets half, but of a clamp all goes to what is clamped: as in PyTorch. */
static void test_ties(void **state) {
  (void)state;
  static const struct { rvl_graph_op op; float share; } cases[] = {
      {RVL_OP_MINIMUM, 0.5f}, {RVL_OP_MAXIMUM, 0.5f}, {RVL_OP_CLAMP_MIN, 1}, {RVL_OP_CLAMP_MAX, 1}};
  float logits[T * V] = {0}, whole[T * V], gradient[T * V];
  rvl_graph_plan plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_CE, LOGITS, IDS), 0);
  rvl_graph *graph = make(&plan);
  evaluate(graph, logits, whole);
  rvl_graph_release(graph);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    plan = base_plan();
    int ce = put(&plan, RVL_OP_CE, LOGITS, IDS);
    put(&plan, RVL_OP_SUM, put(&plan, cases[i].op, ce, put(&plan, RVL_OP_DETACH, ce, 0)), 0);
    graph = make(&plan);
    evaluate(graph, logits, gradient);
    for (int k = 0; k < T * V; k++) assert_true(fabsf(gradient[k] - cases[i].share * whole[k]) < 1e-6f);
    rvl_graph_release(graph);
  }
}

static void refuse(const rvl_graph_plan *plan, const char *wanted) {
  char refusal[RVL_GRAPH_REFUSAL];
  assert_null(rvl_graph_new(plan, "{}", 2, refusal));
  if (strstr(refusal, wanted) == NULL) fail_msg("\"%s\" is not in \"%s\"", wanted, refusal);
}

static void test_refused_plans(void **state) {
  (void)state;
  rvl_graph_plan plan = base_plan();
  put(&plan, RVL_OP_CE, LOGITS, IDS);
  refuse(&plan, "node 5 (ce): the loss is not one number");
  plan = base_plan();
  put(&plan, RVL_OP_SUM, LOGITS, 0);
  refuse(&plan, "cannot be done with logits");
  plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_MUL, ADVANTAGES, LOGITS), 0);
  refuse(&plan, "logits may only be divided");
  plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_CE, LOGITS, ADVANTAGES), 0);
  refuse(&plan, "one integer a token");
  plan = base_plan();
  put_constant(&plan, RVL_OP_DIV, LOGITS, 0);
  refuse(&plan, "positive");
  plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_MUL, ADVANTAGES, WEIGHTS), 0);
  refuse(&plan, "different shapes");
}

static void test_refused_examples(void **state) {
  (void)state;
  rvl_graph_plan plan = base_plan();
  put(&plan, RVL_OP_SUM, put(&plan, RVL_OP_CE, LOGITS, IDS), 0);
  rvl_graph *graph = make(&plan);
  char refusal[RVL_GRAPH_REFUSAL];
  assert_false(rvl_graph_check(graph, &example, 6, refusal));
  assert_string_equal(refusal, "__river_loss_column_0[2] is 6, the vocabulary has 6");
  rvl_column changed[6];
  rvl_example other = example;
  other.columns = changed;
  for (size_t i = 0; i < 6; i++) {
    memcpy(changed, columns, sizeof columns);
    changed[i].name = "another";
    assert_false(rvl_graph_check(graph, &other, V, refusal));
  }
  memcpy(changed, columns, sizeof columns);
  changed[3].width = 0;
  assert_false(rvl_graph_check(graph, &other, V, refusal));
  /* a refusal travels as UTF-8: its names are cut between characters */
  memcpy(changed, columns, sizeof columns);
  char name[70], wanted[RVL_GRAPH_REFUSAL];
  memset(name, 'x', sizeof name);
  memcpy(name + 63, "é", 3);
  changed[3].name = name;
  rvl_column seven[7];
  memcpy(seven, columns, sizeof columns);
  seven[6] = changed[3];
  other = (rvl_example){.length = T, .columns = seven, .column_count = 7};
  assert_false(rvl_graph_check(graph, &other, V, refusal));
  snprintf(wanted, sizeof wanted, "the column %.63s is none of the loss graph's", name);
  assert_string_equal(refusal, wanted);
  rvl_graph_release(graph);
}

/* Many nodes of a wide column would take the memory of hundreds of datums. */
static void test_too_large(void **state) {
  (void)state;
  enum { WIDE = RVL_GRAPH_WIDTH };
  rvl_graph_plan plan = {.columns = {{RVL_FLOAT32, WIDE}}, .column_count = 1, .node_count = 2};
  plan.nodes[0].op = RVL_OP_LOGITS;
  plan.nodes[1] = (rvl_graph_node){.op = RVL_OP_INPUT};
  for (int i = 0; i < 100; i++) put(&plan, RVL_OP_NEG, 1, 0);
  put(&plan, RVL_OP_SUM, 1, 0);
  char refusal[RVL_GRAPH_REFUSAL];
  rvl_graph *graph = rvl_graph_new(&plan, "{}", 2, refusal);
  assert_non_null(graph);
  assert_false(rvl_graph_check(graph, &example, V, refusal));
  assert_non_null(strstr(refusal, "at most 33554432 are computed"));
  rvl_graph_release(graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_operations),    cmocka_unit_test(test_detached),         cmocka_unit_test(test_ties),
      cmocka_unit_test(test_refused_plans), cmocka_unit_test(test_refused_examples),
      cmocka_unit_test(test_too_large),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
