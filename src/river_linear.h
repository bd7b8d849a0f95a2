/*
** Generalized linear models with the numbers of the Python library river 0.26: losses, learning rate schedules,
** optimizers and the model itself. Plain arrays, no Lua. Everything is computed with the library's operations in the
** library's order, so results are equal to the last bit.
**
** A feature has a *slot*, its place in the arrays; a *plan* tells the slots of the features of a sample, -1 for one
** that has never been learned from.
*/
#ifndef RVL_RIVER_LINEAR_H
#define RVL_RIVER_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum rvl_river_loss_kind {
  RVL_LOSS_ABSOLUTE,
  RVL_LOSS_FOCAL,          /* a: gamma, b: beta */
  RVL_LOSS_CAUCHY,         /* a: C */
  RVL_LOSS_INSENSITIVE,    /* a: eps */
  RVL_LOSS_HINGE,          /* a: threshold */
  RVL_LOSS_HUBER,          /* a: epsilon */
  RVL_LOSS_LOG,            /* a: weight_pos, b: weight_neg */
  RVL_LOSS_POISSON,
  RVL_LOSS_QUANTILE,       /* a: alpha */
  RVL_LOSS_SQUARED
} rvl_river_loss_kind;

typedef struct rvl_river_loss {
  rvl_river_loss_kind kind;
  double a, b;
} rvl_river_loss;

/* The slope of the loss at a raw prediction; booleans are 1 and 0. */
double rvl_river_loss_gradient(const rvl_river_loss *loss, double y, double prediction);
/* The prediction that a raw one stands for. Above 709 Poisson's is infinite. */
double rvl_river_loss_mean(const rvl_river_loss *loss, double raw);
/* Whether the mean function is the logistic one. */
bool rvl_river_loss_is_logistic(const rvl_river_loss *loss);
/* 1 / (1 + exp(-x)), exactly 0 and 1 from 30 on. */
double rvl_river_sigmoid(double x);

typedef enum rvl_river_schedule_kind {
  RVL_SCHEDULE_CONSTANT,   /* a: rate */
  RVL_SCHEDULE_INVERSE,    /* a: rate, b: power */
  RVL_SCHEDULE_OPTIMAL     /* a: alpha, b: t0 */
} rvl_river_schedule_kind;

typedef struct rvl_river_schedule {
  rvl_river_schedule_kind kind;
  double a, b;
} rvl_river_schedule;

double rvl_river_schedule_get(const rvl_river_schedule *schedule, int64_t t);

/* The parameters p[] are in the order of the library's constructors, without the learning rate. */
typedef enum rvl_river_optimizer_kind {
  RVL_OPTIMIZER_ADABOUND,  /* beta_1 beta_2 eps gamma final_lr, base rate */
  RVL_OPTIMIZER_ADADELTA,  /* rho eps */
  RVL_OPTIMIZER_ADAGRAD,   /* eps */
  RVL_OPTIMIZER_ADAMAX,    /* beta_1 beta_2 eps */
  RVL_OPTIMIZER_ADAM,      /* beta_1 beta_2 eps */
  RVL_OPTIMIZER_AMSGRAD,   /* beta_1 beta_2 eps correct_bias */
  RVL_OPTIMIZER_FTRL,      /* alpha beta l1 l2 */
  RVL_OPTIMIZER_MOMENTUM,  /* rho */
  RVL_OPTIMIZER_NADAM,     /* beta_1 beta_2 eps */
  RVL_OPTIMIZER_NESTEROV,  /* rho */
  RVL_OPTIMIZER_RMSPROP,   /* rho eps */
  RVL_OPTIMIZER_SGD
} rvl_river_optimizer_kind;

enum { RVL_OPTIMIZER_PARAMETERS = 6, RVL_OPTIMIZER_COLUMNS = 3 };

typedef struct rvl_river_optimizer {
  rvl_river_optimizer_kind kind;
  rvl_river_schedule lr;
  double p[RVL_OPTIMIZER_PARAMETERS];
  int64_t n_iterations;
  double *column[RVL_OPTIMIZER_COLUMNS];   /* what is kept per slot, zero at first */
  size_t slots, capacity;
} rvl_river_optimizer;

/* How many columns this kind keeps: m, v; s; g2 … in the order in which the library names them. */
size_t rvl_river_optimizer_columns(const rvl_river_optimizer *optimizer);
/* Makes room for slots below `slots`; false without memory. */
bool rvl_river_optimizer_grow(rvl_river_optimizer *optimizer, size_t slots);
void rvl_river_optimizer_free(rvl_river_optimizer *optimizer);
/* What is done to the weights before the prediction whose gradient is taken. */
void rvl_river_optimizer_look_ahead(const rvl_river_optimizer *optimizer, double *weights, const int32_t *plan,
                                    size_t n);
/* One step. `vector`: as the library does on its vectors; otherwise as on its dictionaries, which square otherwise. */
void rvl_river_optimizer_step(rvl_river_optimizer *optimizer, double *weights, const int32_t *plan,
                              const double *gradient, size_t n, bool vector);

typedef struct rvl_river_glm {
  rvl_river_loss loss;
  rvl_river_schedule intercept_lr;
  rvl_river_optimizer *optimizer;          /* not owned */
  double l1, l2, clip_gradient;
  double intercept, max_cum_l1;
  double *weights, *cum_l1;                /* cum_l1: NULL unless l1 */
  size_t slots, capacity;
} rvl_river_glm;

/* Makes room for `slots` slots, new ones with the given weight; false without memory. */
bool rvl_river_glm_grow(rvl_river_glm *glm, size_t slots, double initial);
void rvl_river_glm_free(rvl_river_glm *glm);
/* The linear combination; features without weight have weight 0. */
double rvl_river_glm_raw(const rvl_river_glm *glm, const int32_t *plan, const double *x, size_t n);
/* Learns from a sample of weight w. The plan is complete; `gradient` is room for n numbers. */
void rvl_river_glm_learn(rvl_river_glm *glm, const int32_t *plan, const double *x, double *gradient, size_t n,
                         double y, double w);

#endif
