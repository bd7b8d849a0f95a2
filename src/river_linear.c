/* Losses, schedules, optimizers and generalized linear models: see river_linear.h. */
#include "river_linear.h"
#include "river_power.h"

#include <math.h>
#include <stdlib.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF   /* gcc does not contract in ISO mode */
#endif

/* ------------------------------------------------------------------------------------------------ losses */

double rvl_river_sigmoid(double x) {
  if (x < -30) return 0;
  if (x > 30) return 1;
  return 1 / (1 + exp(-x));
}

static double log_gradient(const rvl_river_loss *loss, double y, double prediction) {
  double weight = loss->a, sign = trunc(y);
  if (y == 0) {
    weight = loss->b;
    sign = -1;
  }
  double z = prediction * sign;
  if (z > 18.0) return weight * exp(-z) * -sign;
  if (z < -18.0) return weight * -sign;
  return weight * -sign / (exp(z) + 1.0);
}

static double huber_gradient(double epsilon, double difference) {
  if (fabs(difference) <= epsilon) return difference;
  return difference > 0.0 ? epsilon : -epsilon;
}

static double insensitive_gradient(double eps, double y, double prediction) {
  if (prediction > y + eps) return 1;
  return prediction + eps < y ? -1 : 0;
}

double rvl_river_loss_gradient(const rvl_river_loss *loss, double y, double prediction) {
  double signed_y = y * 2 - 1;   /* 0 and 1 become -1 and 1 */
  switch (loss->kind) {
    case RVL_LOSS_ABSOLUTE: return prediction > y ? 1 : -1;
    case RVL_LOSS_FOCAL: return signed_y * (rvl_river_sigmoid(loss->a * (signed_y * prediction) + loss->b) - 1);
    case RVL_LOSS_CAUCHY: return (prediction - y) / (rvl_river_power((prediction - y) / loss->a, 2.0) + 1);
    case RVL_LOSS_INSENSITIVE: return insensitive_gradient(loss->a, signed_y, prediction);
    case RVL_LOSS_HINGE: return signed_y * prediction <= loss->a ? -signed_y : 0;
    case RVL_LOSS_HUBER: return huber_gradient(loss->a, prediction - y);
    case RVL_LOSS_LOG: return log_gradient(loss, y, prediction);
    case RVL_LOSS_POISSON: return exp(prediction) - y;
    case RVL_LOSS_QUANTILE: return (y < prediction) - loss->a;
    case RVL_LOSS_SQUARED: break;
  }
  return 2 * (prediction - y);
}

bool rvl_river_loss_is_logistic(const rvl_river_loss *loss) {
  return loss->kind == RVL_LOSS_FOCAL || loss->kind == RVL_LOSS_HINGE || loss->kind == RVL_LOSS_LOG;
}

double rvl_river_loss_mean(const rvl_river_loss *loss, double raw) {
  if (rvl_river_loss_is_logistic(loss)) return rvl_river_sigmoid(raw);
  return loss->kind == RVL_LOSS_POISSON ? exp(raw) : raw;
}

/* --------------------------------------------------------------------------------------------- schedules */

double rvl_river_schedule_get(const rvl_river_schedule *schedule, int64_t t) {
  switch (schedule->kind) {
    case RVL_SCHEDULE_INVERSE: return schedule->a / pow((double)(t + 1), schedule->b);
    case RVL_SCHEDULE_OPTIMAL: return 1.0 / (schedule->a * (schedule->b + (double)t));
    case RVL_SCHEDULE_CONSTANT: break;
  }
  return schedule->a;
}

/* --------------------------------------------------------------------------------------------- optimizers */

size_t rvl_river_optimizer_columns(const rvl_river_optimizer *optimizer) {
  switch (optimizer->kind) {
    case RVL_OPTIMIZER_SGD: return 0;
    case RVL_OPTIMIZER_ADAGRAD:
    case RVL_OPTIMIZER_MOMENTUM:
    case RVL_OPTIMIZER_NESTEROV:
    case RVL_OPTIMIZER_RMSPROP: return 1;
    case RVL_OPTIMIZER_AMSGRAD: return 3;
    case RVL_OPTIMIZER_ADABOUND:
    case RVL_OPTIMIZER_ADADELTA:
    case RVL_OPTIMIZER_ADAMAX:
    case RVL_OPTIMIZER_ADAM:
    case RVL_OPTIMIZER_FTRL:
    case RVL_OPTIMIZER_NADAM: break;
  }
  return 2;
}

/* The capacity to ask for; 0 when there is no such size. */
static size_t next_capacity(size_t capacity, size_t slots) {
  size_t wanted = capacity < 8 ? 8 : capacity;
  while (wanted < slots) {
    if (wanted > SIZE_MAX / sizeof(double) / 2) return 0;
    wanted *= 2;
  }
  return wanted;
}

static bool enlarge(double **column, size_t capacity) {
  double *bigger = realloc(*column, capacity * sizeof(double));
  if (bigger == NULL) return false;
  *column = bigger;
  return true;
}

bool rvl_river_optimizer_grow(rvl_river_optimizer *optimizer, size_t slots) {
  if (slots <= optimizer->slots) return true;
  size_t columns = rvl_river_optimizer_columns(optimizer);
  if (slots > optimizer->capacity) {
    size_t capacity = next_capacity(optimizer->capacity, slots);
    if (capacity == 0) return false;
    for (size_t k = 0; k < columns; k++) {
      if (!enlarge(&optimizer->column[k], capacity)) return false;
    }
    optimizer->capacity = capacity;
  }
  for (size_t k = 0; k < columns; k++) {
    for (size_t i = optimizer->slots; i < slots; i++) optimizer->column[k][i] = 0.0;
  }
  optimizer->slots = slots;
  return true;
}

void rvl_river_optimizer_free(rvl_river_optimizer *optimizer) {
  for (size_t k = 0; k < RVL_OPTIMIZER_COLUMNS; k++) {
    free(optimizer->column[k]);
    optimizer->column[k] = NULL;
  }
  optimizer->slots = optimizer->capacity = 0;
}

void rvl_river_optimizer_look_ahead(const rvl_river_optimizer *optimizer, double *weights, const int32_t *plan,
                                    size_t n) {
  if (optimizer->kind != RVL_OPTIMIZER_NESTEROV) return;
  for (size_t i = 0; i < n; i++) weights[plan[i]] -= optimizer->p[0] * optimizer->column[0][plan[i]];
}

/* What a step works on. */
typedef struct step {
  double rate;             /* the schedule's */
  double t;                /* iterations, this one included */
  double *w;
  const int32_t *plan;
  const double *g;
  size_t n;
  bool vector;
} step;

static double square(const step *s, double value) {
  return s->vector ? value * value : rvl_river_power(value, 2.0);
}

static double larger(double a, double b) {
  return b > a ? b : a;
}

/* m and v of one feature: the running means of gradients and of their squares. */
static void moments(rvl_river_optimizer *o, int32_t slot, double g, double squared) {
  double *m = o->column[0], *v = o->column[1], beta_1 = o->p[0], beta_2 = o->p[1];
  m[slot] = beta_1 * m[slot] + (1 - beta_1) * g;
  v[slot] = beta_2 * v[slot] + (1 - beta_2) * squared;
}

static void step_adabound(rvl_river_optimizer *o, const step *s) {
  double bias_1 = 1 - pow(o->p[0], s->t), bias_2 = 1 - pow(o->p[1], s->t);
  double size = s->rate * sqrt(bias_2) / bias_1;
  o->p[4] *= s->rate / o->p[5];
  double lower = o->p[4] * (1 - 1 / (o->p[3] * s->t + 1)), upper = o->p[4] * (1 + 1 / (o->p[3] * s->t));
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    moments(o, slot, s->g[i], rvl_river_power(s->g[i], 2.0));
    double bound = size / (sqrt(o->column[1][slot]) + o->p[2]);
    if (upper < bound) bound = upper;
    if (lower > bound) bound = lower;
    s->w[slot] -= bound * o->column[0][slot];
  }
}

static void step_adadelta(rvl_river_optimizer *o, const step *s) {
  double *g2 = o->column[0], *s2 = o->column[1], rho = o->p[0], eps = o->p[1];
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    g2[slot] = rho * g2[slot] + (1 - rho) * rvl_river_power(s->g[i], 2.0);
    double change = -rvl_river_power(s2[slot] + eps, 0.5) / rvl_river_power(g2[slot] + eps, 0.5) * s->g[i];
    s2[slot] = rho * s2[slot] + (1 - rho) * rvl_river_power(change, 2.0);
    s->w[slot] += change;
  }
}

static void step_adagrad(rvl_river_optimizer *o, const step *s) {
  double *g2 = o->column[0];
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    g2[slot] += rvl_river_power(s->g[i], 2.0);
    s->w[slot] -= s->rate / rvl_river_power(g2[slot] + o->p[0], 0.5) * s->g[i];
  }
}

static void step_adamax(rvl_river_optimizer *o, const step *s) {
  double *m = o->column[0], *u = o->column[1], beta_1 = o->p[0];
  double rate = s->rate / (1 - pow(beta_1, s->t));
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    m[slot] = beta_1 * m[slot] + (1 - beta_1) * s->g[i];
    u[slot] = larger(o->p[1] * u[slot], fabs(s->g[i]));
    s->w[slot] -= rate * m[slot] / (u[slot] + o->p[2]);
  }
}

static double unbiased_rate(const rvl_river_optimizer *o, const step *s) {
  double rate = s->rate * rvl_river_power(1 - pow(o->p[1], s->t), 0.5);
  return rate / (1 - pow(o->p[0], s->t));
}

static void step_adam(rvl_river_optimizer *o, const step *s) {
  double rate = unbiased_rate(o, s);
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    moments(o, slot, s->g[i], square(s, s->g[i]));
    s->w[slot] -= rate * o->column[0][slot] / (rvl_river_power(o->column[1][slot], 0.5) + o->p[2]);
  }
}

static void step_amsgrad(rvl_river_optimizer *o, const step *s) {
  double rate = o->p[3] != 0 ? unbiased_rate(o, s) : s->rate, *v_hat = o->column[2];
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    moments(o, slot, s->g[i], rvl_river_power(s->g[i], 2.0));
    v_hat[slot] = larger(v_hat[slot], o->column[1][slot]);
    s->w[slot] -= rate * o->column[0][slot] / (rvl_river_power(v_hat[slot], 0.5) + o->p[2]);
  }
}

static void step_ftrl(rvl_river_optimizer *o, const step *s) {
  double *z = o->column[0], *n = o->column[1], alpha = o->p[0], beta = o->p[1], l1 = o->p[2], l2 = o->p[3];
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    if (!(fabs(z[slot]) > l1)) continue;
    double sign = z[slot] > 0 ? 1 : -1;
    s->w[slot] = -rvl_river_power((beta + rvl_river_power(n[slot], 0.5)) / alpha + l2, -1.0) * (z[slot] - sign * l1);
  }
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    double squared = rvl_river_power(s->g[i], 2.0);
    double sigma = (rvl_river_power(n[slot] + squared, 0.5) - rvl_river_power(n[slot], 0.5)) / alpha;
    z[slot] += s->g[i] - sigma * s->w[slot];
    n[slot] += squared;
  }
}

static void step_momentum(rvl_river_optimizer *o, const step *s) {
  double *speed = o->column[0], rho = o->p[0];
  if (o->kind == RVL_OPTIMIZER_NESTEROV) {   /* back to where the weights were before the look ahead */
    for (size_t i = 0; i < s->n; i++) s->w[s->plan[i]] += rho * speed[s->plan[i]];
  }
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    speed[slot] = rho * speed[slot] + s->rate * s->g[i];
    s->w[slot] -= speed[slot];
  }
}

static void step_nadam(rvl_river_optimizer *o, const step *s) {
  double beta_1 = o->p[0], bias_1 = 1 - pow(beta_1, s->t), bias_2 = 1 - pow(o->p[1], s->t);
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    moments(o, slot, s->g[i], rvl_river_power(s->g[i], 2.0));
    double m_hat = o->column[0][slot] / bias_1, v_hat = o->column[1][slot] / bias_2;
    s->w[slot] -= s->rate * (beta_1 * m_hat + (1 - beta_1) * s->g[i] / bias_1) / (rvl_river_power(v_hat, 0.5) + o->p[2]);
  }
}

static void step_rmsprop(rvl_river_optimizer *o, const step *s) {
  double *g2 = o->column[0], rho = o->p[0];
  for (size_t i = 0; i < s->n; i++) {
    int32_t slot = s->plan[i];
    g2[slot] = rho * g2[slot] + (1 - rho) * square(s, s->g[i]);
    s->w[slot] -= s->rate / rvl_river_power(g2[slot] + o->p[1], 0.5) * s->g[i];
  }
}

static void step_sgd(const step *s) {
  for (size_t i = 0; i < s->n; i++) s->w[s->plan[i]] -= s->g[i] * s->rate;
}

void rvl_river_optimizer_step(rvl_river_optimizer *o, double *weights, const int32_t *plan, const double *gradient,
                              size_t n, bool vector) {
  const step s = {.rate = rvl_river_schedule_get(&o->lr, o->n_iterations), .t = (double)(o->n_iterations + 1),
                  .w = weights, .plan = plan, .g = gradient, .n = n, .vector = vector};
  switch (o->kind) {
    case RVL_OPTIMIZER_ADABOUND: step_adabound(o, &s); break;
    case RVL_OPTIMIZER_ADADELTA: step_adadelta(o, &s); break;
    case RVL_OPTIMIZER_ADAGRAD: step_adagrad(o, &s); break;
    case RVL_OPTIMIZER_ADAMAX: step_adamax(o, &s); break;
    case RVL_OPTIMIZER_ADAM: step_adam(o, &s); break;
    case RVL_OPTIMIZER_AMSGRAD: step_amsgrad(o, &s); break;
    case RVL_OPTIMIZER_FTRL: step_ftrl(o, &s); break;
    case RVL_OPTIMIZER_MOMENTUM:
    case RVL_OPTIMIZER_NESTEROV: step_momentum(o, &s); break;
    case RVL_OPTIMIZER_NADAM: step_nadam(o, &s); break;
    case RVL_OPTIMIZER_RMSPROP: step_rmsprop(o, &s); break;
    case RVL_OPTIMIZER_SGD: step_sgd(&s); break;
  }
  o->n_iterations++;
}

/* -------------------------------------------------------------------------------------------------- models */

bool rvl_river_glm_grow(rvl_river_glm *glm, size_t slots, double initial) {
  if (slots <= glm->slots) return true;
  if (slots > glm->capacity) {
    size_t capacity = next_capacity(glm->capacity, slots);
    if (capacity == 0 || !enlarge(&glm->weights, capacity)) return false;
    if (glm->l1 != 0 && !enlarge(&glm->cum_l1, capacity)) return false;
    glm->capacity = capacity;
  }
  for (size_t i = glm->slots; i < slots; i++) {
    glm->weights[i] = initial;
    if (glm->cum_l1 != NULL) glm->cum_l1[i] = 0.0;
  }
  glm->slots = slots;
  return true;
}

void rvl_river_glm_free(rvl_river_glm *glm) {
  free(glm->weights);
  free(glm->cum_l1);
  glm->weights = glm->cum_l1 = NULL;
  glm->slots = glm->capacity = 0;
}

double rvl_river_glm_raw(const rvl_river_glm *glm, const int32_t *plan, const double *x, size_t n) {
  double sum = 0.0;
  for (size_t i = 0; i < n; i++) sum += (plan[i] >= 0 ? glm->weights[plan[i]] : 0.0) * x[i];   /* NaN stays NaN */
  return sum + glm->intercept;
}

/* The cumulative penalty (Tsuruoka, Tsujii and Ananiadou, 2009), feature by feature after the step. */
static void penalize(rvl_river_glm *glm, const int32_t *plan, size_t n) {
  const rvl_river_optimizer *optimizer = glm->optimizer;
  glm->max_cum_l1 += glm->l1 * rvl_river_schedule_get(&optimizer->lr, optimizer->n_iterations);
  for (size_t i = 0; i < n; i++) {
    int32_t slot = plan[i];
    double before = glm->weights[slot], after = before;
    if (before > 0) {
      after = before - (glm->max_cum_l1 + glm->cum_l1[slot]);
      if (after <= 0) after = 0.0;
    } else if (before < 0) {
      after = before + (glm->max_cum_l1 - glm->cum_l1[slot]);
      if (after >= 0) after = 0.0;
    }
    glm->weights[slot] = after;
    glm->cum_l1[slot] += after - before;
  }
}

void rvl_river_glm_learn(rvl_river_glm *glm, const int32_t *plan, const double *x, double *gradient, size_t n,
                         double y, double w) {
  rvl_river_optimizer *optimizer = glm->optimizer;
  rvl_river_optimizer_look_ahead(optimizer, glm->weights, plan, n);
  double slope = rvl_river_loss_gradient(&glm->loss, y, rvl_river_glm_raw(glm, plan, x, n)) * w;
  if (slope > glm->clip_gradient) slope = glm->clip_gradient;
  if (slope < -glm->clip_gradient) slope = -glm->clip_gradient;
  for (size_t i = 0; i < n; i++) gradient[i] = x[i] * slope;
  if (glm->l2 != 0) {
    for (size_t i = 0; i < n; i++) gradient[i] += glm->weights[plan[i]] * glm->l2;
  }
  glm->intercept -= rvl_river_schedule_get(&glm->intercept_lr, optimizer->n_iterations) * slope;
  rvl_river_optimizer_step(optimizer, glm->weights, plan, gradient, n, true);
  if (glm->cum_l1 != NULL) penalize(glm, plan, n);
}
