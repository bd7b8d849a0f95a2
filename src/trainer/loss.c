#include "loss.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MOST_LOG_RATIO = 40 };  /* e^40: where ratios end */

/* ---- names and options --------------------------------------------------------------------------------- */

static const char *const names[RVL_LOSS_KINDS] = {
    [RVL_LOSS_CROSS_ENTROPY] = "cross_entropy",
    [RVL_LOSS_IMPORTANCE_SAMPLING] = "importance_sampling",
    [RVL_LOSS_PPO] = "ppo",
    [RVL_LOSS_CISPO] = "cispo",
    [RVL_LOSS_ECHO_CISPO] = "echo_cispo",
    [RVL_LOSS_DRO] = "dro",
    [RVL_LOSS_GRAPH] = "loss_graph_v1",
};

#define OF(kind) (1u << RVL_LOSS_##kind)
#define OF_CISPO (OF(CISPO) | OF(ECHO_CISPO))
#define OF_POLICY (OF_CISPO | OF(IMPORTANCE_SAMPLING) | OF(PPO) | OF(DRO))

static const struct {
  const char *name;
  unsigned kinds;              /* that know it */
  bool positive;
  size_t at;                   /* a double of rvl_loss, or */
  bool flag;                   /* a bool */
} options_known[] = {
    {"logprob_temperature", OF_POLICY | OF(CROSS_ENTROPY), true, offsetof(rvl_loss, temperature), false},
    {"clip_low", OF(PPO), false, offsetof(rvl_loss, clip_low), false},
    {"clip_high", OF(PPO), false, offsetof(rvl_loss, clip_high), false},
    {"eps_max", OF_CISPO, true, offsetof(rvl_loss, eps_max), false},
    {"echo_coef", OF(ECHO_CISPO), false, offsetof(rvl_loss, echo_coef), false},
    {"beta", OF(DRO), false, offsetof(rvl_loss, beta), false},
    {"use_perfect_ratio", OF_CISPO, false, offsetof(rvl_loss, use_perfect_ratio), true},
    {"score_centering", OF_CISPO, false, offsetof(rvl_loss, score_centering), true},
};

enum { OPTIONS = sizeof options_known / sizeof *options_known };

const char *rvl_loss_name(rvl_loss_kind kind) { return names[kind]; }

static bool set_option(rvl_loss *loss, const rvl_loss_option *option, char *refusal, size_t room) {
  size_t i = 0;
  while (i < OPTIONS && strcmp(options_known[i].name, option->name) != 0) i++;
  if (i == OPTIONS || !(options_known[i].kinds & 1u << loss->kind)) {
    snprintf(refusal, room, "loss_fn_config: %s knows no %.*s", names[loss->kind],
             rvl_example_shown(option->name, strlen(option->name)), option->name);
    return false;
  }
  bool finite = isfinite(option->value) != 0;
  if (!finite || (options_known[i].positive && option->value <= 0)) {
    snprintf(refusal, room, "loss_fn_config: %s is not %s", option->name, finite ? "positive" : "finite");
    return false;
  }
  void *to = (char *)loss + options_known[i].at;
  if (options_known[i].flag) *(bool *)to = fpclassify(option->value) != FP_ZERO;
  else *(double *)to = option->value;
  return true;
}

bool rvl_loss_parse(const char *name, const rvl_loss_option *options, size_t count, rvl_loss *loss, char *refusal,
                    size_t room) {
  *loss = (rvl_loss){.temperature = 1, .clip_low = 0.2, .clip_high = 0.2, .eps_max = 6, .echo_coef = 0.05,
                     .beta = 0.05};
  size_t kind = 0;
  while (kind < RVL_LOSS_KINDS && strcmp(names[kind], name) != 0) kind++;
  if (kind == RVL_LOSS_KINDS) {
    snprintf(refusal, room, "no loss is called '%.*s'", rvl_example_shown(name, strlen(name)), name);
    return false;
  }
  loss->kind = (rvl_loss_kind)kind;
  for (size_t i = 0; i < count; i++) {
    if (!set_option(loss, &options[i], refusal, room)) return false;
  }
  return true;
}

/* ---- one position -------------------------------------------------------------------------------------- */

/* What the losses need of one row of logits. z = slope · logits. */
typedef struct row {
  const rvl_kernels *kernels;
  size_t vocabulary;
  float *logits;
  float slope;                 /* 1 / temperature */
  float logsum;
  bool gradient;
} row;

static double logprob(const row *r, int32_t token) {
  return (double)r->slope * (double)r->logits[token] - (double)r->logsum;
}

/* The row becomes the gradient of Σ c_k · lp_k less its parts at the tokens k; `whole`: Σ c_k. */
static void set_gradient(const row *r, double whole) {
  if (whole < 0 || whole > 0 || isnan(whole)) {
    r->kernels->softmax_times(r->vocabulary, r->slope, r->logsum, (float)(-whole * (double)r->slope), r->logits,
                              r->logits);
  } else {
    memset(r->logits, 0, r->vocabulary * sizeof *r->logits);
  }
}

static void add_gradient(const row *r, int32_t token, double c) {
  r->logits[token] += (float)(c * (double)r->slope);
}

/* Targets tokens[k], each with the weight weights[k], in this position's row. */
static void cross_entropy(const row *r, const int32_t *tokens, const double *weights, size_t count,
                          rvl_loss_sums *sums) {
  double loss = 0, whole = 0;
  for (size_t k = 0; k < count; k++) {
    if (weights[k] < 0 || weights[k] > 0) {
      loss -= weights[k] * logprob(r, tokens[k]);
      whole += weights[k];
      sums->sum[RVL_SUM_NUM_CE_TOKENS]++;
    }
  }
  sums->sum[RVL_SUM_LOSS] += loss;
  sums->sum[RVL_SUM_CE_LOSS] += loss;
  sums->sum[RVL_SUM_WEIGHT] += whole;
  if (!r->gradient) return;
  set_gradient(r, -whole);
  for (size_t k = 0; k < count; k++) add_gradient(r, tokens[k], -weights[k]);
}

/* The tokens that the sampler found most likely, and how much of the expected score is taken off for each. */
typedef struct centering {
  size_t count;
  int32_t tokens[RVL_EXAMPLE_TOP_K];
  double c[RVL_EXAMPLE_TOP_K], p[RVL_EXAMPLE_TOP_K];
  double rest, whole;          /* of all other tokens together; of all */
} centering;

static double expected(const rvl_loss *loss, double sampler, double policy) {
  return loss->use_perfect_ratio ? sampler : fmin(policy, loss->eps_max * sampler);
}

/* Those with a place in `ids`, once each; returns the probability that the sampler has left for others. */
static double find_likely(const row *r, const rvl_loss *loss, const int32_t *ids, const double *logprobs,
                          size_t count, double advantage, double *value, centering *found) {
  double left = 1;
  for (size_t k = 0; k < count; k++) {
    bool known = ids[k] < 0;
    for (size_t i = 0; i < found->count && !known; i++) known = found->tokens[i] == ids[k];
    if (known) continue;
    double sampler = exp(fmin(logprobs[k], 0)), lp = logprob(r, ids[k]);
    size_t i = found->count++;
    found->tokens[i] = ids[k];
    found->p[i] = exp(lp);
    found->c[i] = advantage * expected(loss, sampler, found->p[i]);
    found->whole += found->c[i];
    *value += found->c[i] * lp;
    left -= sampler;
  }
  return fmax(left, 0);
}

/*
** The gradient of c · lp[token] + A · Σ_b sg(μ_b · w_b) · lp_b; returns the value of the second part. What the
** bucket of all other tokens has is added up: one less the sum of the others would be mere rounding where it is
** small.
*/
static double centered(const row *r, const rvl_loss *loss, const rvl_example *e, size_t t, int32_t token,
                       double c) {
  centering found = {0};
  double value = 0, rest = 0, slope = (double)r->slope, advantage = e->advantages[t];
  size_t at = t * e->sampler_width;
  double left = find_likely(r, loss, e->sampler_ids + at, e->sampler_logprobs + at, e->sampler_width, advantage,
                            &value, &found);
  r->kernels->softmax_times(r->vocabulary, r->slope, r->logsum, 1, r->logits, r->logits);
  for (size_t i = 0; i < found.count; i++) r->logits[found.tokens[i]] = 0;
  for (size_t i = 0; i < r->vocabulary; i++) rest += (double)r->logits[i];
  if (left > 0 && rest > 0) {
    found.rest = advantage * expected(loss, left, rest);
    found.whole += found.rest;
    value += found.rest * log(rest);
  }
  if (!r->gradient) return value;
  float of_rest = (float)((rest > 0 ? found.rest / rest : 0) * slope - (c + found.whole) * slope);
  r->kernels->scale(r->vocabulary, of_rest, r->logits);
  for (size_t i = 0; i < found.count; i++) {
    r->logits[found.tokens[i]] = (float)((found.c[i] - (c + found.whole) * found.p[i]) * slope);
  }
  add_gradient(r, token, c);
  return value;
}

/* The policy's part of the loss at one position; *c: its derivative in lp. */
static double policy(const rvl_loss *loss, double advantage, double lp, double log_ratio, double ratio, double *c,
                     rvl_loss_sums *sums) {
  switch (loss->kind) {
    case RVL_LOSS_PPO: {
      double clipped = fmin(fmax(ratio, 1 - loss->clip_low), 1 + loss->clip_high);
      bool taken = !(ratio * advantage > clipped * advantage);
      *c = taken ? -ratio * advantage : 0;
      sums->sum[RVL_SUM_CLIP_COUNT] += !taken;
      return -(taken ? ratio : clipped) * advantage;
    }
    case RVL_LOSS_CISPO:
    case RVL_LOSS_ECHO_CISPO:
      sums->sum[RVL_SUM_TRUNC_COUNT] += ratio > loss->eps_max;
      *c = -advantage * (loss->use_perfect_ratio ? 1 : ratio > loss->eps_max ? loss->eps_max : ratio);
      return *c * lp;
    case RVL_LOSS_DRO: {
      double penalty = 0.5 * loss->beta * log_ratio * log_ratio;
      *c = loss->beta * log_ratio - advantage;
      sums->sum[RVL_SUM_QUAD_PENALTY] += penalty;
      return penalty - advantage * lp;
    }
    default:                   /* importance sampling */
      *c = -advantage * ratio;
      return *c;
  }
}

static bool is_set(double x) { return x < 0 || x > 0; }

/* Index t < length - 1, not masked. */
static void policy_gradient(const row *r, const rvl_loss *loss, const rvl_example *e, size_t t,
                            rvl_loss_sums *sums) {
  int32_t token = e->targets != NULL ? e->targets[t] : e->ids[t + 1];
  double lp = logprob(r, token), advantage = e->advantages[t], c = 0, value = 0;
  bool response = is_set(advantage) || is_set(e->old_logprobs[t]);
  if (response) {
    double log_ratio = lp - e->old_logprobs[t];
    double ratio = exp(log_ratio > MOST_LOG_RATIO ? MOST_LOG_RATIO
                                                  : log_ratio < -MOST_LOG_RATIO ? -MOST_LOG_RATIO : log_ratio);
    sums->sum[RVL_SUM_NUM_RESPONSE]++;
    sums->sum[RVL_SUM_RATIO] += ratio;
    sums->sum[RVL_SUM_LOG_RATIO] += log_ratio;
    sums->sum[RVL_SUM_ENTROPY] += (double)r->kernels->entropy(r->vocabulary, r->slope, r->logsum, r->logits);
    value = policy(loss, advantage, lp, log_ratio, ratio, &c, sums);
  }
  if (loss->kind == RVL_LOSS_ECHO_CISPO && e->echo_weights[t] > 0) {
    double echo = e->echo_weights[t], penalty = -echo * lp;
    sums->sum[RVL_SUM_ECHO_LOSS] += penalty;
    sums->sum[RVL_SUM_ECHO_PENALTY] += loss->echo_coef * penalty;
    sums->sum[RVL_SUM_ECHO_WEIGHT] += echo;
    sums->sum[RVL_SUM_NUM_ECHO_TOKENS]++;
    sums->sum[RVL_SUM_ECHO_POLICY_OVERLAP] += is_set(advantage);
    value += loss->echo_coef * penalty;
    c -= loss->echo_coef * echo;
  }
  if (loss->score_centering && is_set(advantage)) {
    value += centered(r, loss, e, t, token, c);
  } else if (r->gradient) {
    set_gradient(r, c);
    add_gradient(r, token, c);
  }
  sums->sum[RVL_SUM_LOSS] += value;
  sums->sum[RVL_SUM_POLICY_LOSS] += value;
}

/* ---- one example --------------------------------------------------------------------------------------- */

static void apply_at(row *r, const rvl_loss *loss, const rvl_example *e, size_t t, float *logprobs,
                     rvl_loss_sums *sums) {
  r->logsum = r->kernels->log_sum_exp(r->vocabulary, r->slope, r->logits);
  if (logprobs != NULL) logprobs[t] = (float)logprob(r, e->ids[t + 1]);
  if (e->mask != NULL && e->mask[t] == 0) {
    if (r->gradient) memset(r->logits, 0, r->vocabulary * sizeof *r->logits);
  } else if (loss->kind != RVL_LOSS_CROSS_ENTROPY) {
    policy_gradient(r, loss, e, t, sums);
  } else {
    size_t width = e->weights_width > 0 ? e->weights_width : 1;
    const int32_t *targets = e->targets != NULL ? e->targets + t * width : e->ids + t + 1;
    cross_entropy(r, targets, e->weights + t * width, width, sums);
  }
}

static bool apply_graph(row *r, const rvl_loss *loss, const rvl_example *e, float *logits, float *logprobs,
                        rvl_loss_sums *sums) {
  double value = 0, custom[RVL_GRAPH_METRICS] = {0};
  for (size_t t = 0; logprobs != NULL && t + 1 < e->length; t++) {
    r->logits = logits + t * r->vocabulary;
    r->logsum = r->kernels->log_sum_exp(r->vocabulary, r->slope, r->logits);
    logprobs[t] = (float)logprob(r, e->ids[t + 1]);
  }
  if (!rvl_graph_apply(loss->graph, r->kernels, e, r->vocabulary, logits, r->gradient, &value, custom)) {
    return false;
  }
  sums->sum[RVL_SUM_LOSS] += value;
  for (size_t i = 0; i < RVL_GRAPH_METRICS; i++) sums->custom[i] += custom[i];
  return true;
}

bool rvl_loss_apply(const rvl_loss *loss, const rvl_kernels *kernels, const rvl_example *example,
                    size_t vocabulary, float *logits, bool gradient, float *logprobs, rvl_loss_sums *sums) {
  row r = {.kernels = kernels, .vocabulary = vocabulary, .gradient = gradient};
  r.slope = (float)(1 / loss->temperature);
  sums->datums++;
  sums->tokens += example->length;
  sums->sum[RVL_SUM_NUM_TOKENS] += (double)example->length;
  if (loss->kind == RVL_LOSS_GRAPH) return apply_graph(&r, loss, example, logits, logprobs, sums);
  for (size_t t = 0; t + 1 < example->length; t++) {
    r.logits = logits + t * vocabulary;
    apply_at(&r, loss, example, t, logprobs, sums);
  }
  if (gradient) memset(logits + (example->length - 1) * vocabulary, 0, vocabulary * sizeof *logits);
  return true;
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

#define OF_ALL (OF_POLICY | OF(CROSS_ENTROPY) | OF(GRAPH))

static const struct {
  const char *name;
  unsigned kinds;
} sums_known[RVL_SUMS] = {
    [RVL_SUM_LOSS] = {"loss_sum", OF_ALL},
    [RVL_SUM_CE_LOSS] = {"ce_loss_sum", OF(CROSS_ENTROPY)},
    [RVL_SUM_NUM_TOKENS] = {"num_tokens", OF_POLICY | OF(CROSS_ENTROPY)},
    [RVL_SUM_WEIGHT] = {"weight_sum", OF(CROSS_ENTROPY)},
    [RVL_SUM_NUM_CE_TOKENS] = {"num_ce_tokens", OF(CROSS_ENTROPY)},
    [RVL_SUM_RATIO] = {"ratio_sum", OF_POLICY},
    [RVL_SUM_LOG_RATIO] = {"log_ratio_sum", OF_POLICY},
    [RVL_SUM_NUM_RESPONSE] = {"num_response", OF_POLICY},
    [RVL_SUM_ENTROPY] = {"entropy_sum", OF_POLICY},
    [RVL_SUM_CLIP_COUNT] = {"clip_count", OF(PPO)},
    [RVL_SUM_TRUNC_COUNT] = {"trunc_count", OF_CISPO},
    [RVL_SUM_ECHO_LOSS] = {"echo_loss_sum", OF(ECHO_CISPO)},
    [RVL_SUM_ECHO_PENALTY] = {"echo_penalty_sum", OF(ECHO_CISPO)},
    [RVL_SUM_ECHO_WEIGHT] = {"echo_weight_sum", OF(ECHO_CISPO)},
    [RVL_SUM_NUM_ECHO_TOKENS] = {"num_echo_tokens", OF(ECHO_CISPO)},
    [RVL_SUM_ECHO_POLICY_OVERLAP] = {"echo_policy_overlap_count", OF(ECHO_CISPO)},
    [RVL_SUM_QUAD_PENALTY] = {"quad_penalty_sum", OF(DRO)},
    [RVL_SUM_POLICY_LOSS] = {"policy_loss_sum", OF_POLICY},
};

/* name = above / below, where there is a below. */
static const struct {
  const char *name;
  rvl_sum above, below;
  unsigned kinds;
} ratios_known[] = {
    {"loss_mean", RVL_SUM_LOSS, RVL_SUM_WEIGHT, OF(CROSS_ENTROPY)},
    {"mean_ratio", RVL_SUM_RATIO, RVL_SUM_NUM_RESPONSE, OF_POLICY},
    {"kl", RVL_SUM_LOG_RATIO, RVL_SUM_NUM_RESPONSE, OF_POLICY},
    {"entropy", RVL_SUM_ENTROPY, RVL_SUM_NUM_RESPONSE, OF_POLICY},
    {"clip_frac", RVL_SUM_CLIP_COUNT, RVL_SUM_NUM_RESPONSE, OF(PPO)},
    {"truncation_frac", RVL_SUM_TRUNC_COUNT, RVL_SUM_NUM_RESPONSE, OF_CISPO},
    {"quad_penalty", RVL_SUM_QUAD_PENALTY, RVL_SUM_NUM_RESPONSE, OF(DRO)},
};

enum { RATIOS = sizeof ratios_known / sizeof *ratios_known };

_Static_assert((int)RVL_METRICS >= (int)RVL_SUMS + (int)RVL_GRAPH_METRICS + (int)RATIOS + 2, "room for all");

void rvl_loss_sums_add(rvl_loss_sums *to, const rvl_loss_sums *from) {
  for (size_t i = 0; i < RVL_SUMS; i++) to->sum[i] += from->sum[i];
  for (size_t i = 0; i < RVL_GRAPH_METRICS; i++) to->custom[i] += from->custom[i];
  to->tokens += from->tokens;
  to->datums += from->datums;
}

size_t rvl_loss_metrics(const rvl_loss *loss, const rvl_loss_sums *sums, rvl_metric metrics[RVL_METRICS]) {
  const unsigned kind = 1u << loss->kind;
  size_t count = 0;
  for (size_t i = 0; i < RVL_SUMS; i++) {
    if (sums_known[i].kinds & kind) metrics[count++] = (rvl_metric){sums_known[i].name, sums->sum[i]};
  }
  for (size_t i = 0; i < RATIOS; i++) {
    double below = sums->sum[ratios_known[i].below];
    if ((ratios_known[i].kinds & kind) && (below < 0 || below > 0)) {
      metrics[count++] = (rvl_metric){ratios_known[i].name, sums->sum[ratios_known[i].above] / below};
    }
  }
  size_t own = loss->kind == RVL_LOSS_GRAPH ? rvl_graph_metrics(loss->graph) : 0;
  for (size_t i = 0; i < own && i < RVL_GRAPH_METRICS; i++) {
    metrics[count++] = (rvl_metric){rvl_graph_metric(loss->graph, i), sums->custom[i]};
  }
  metrics[count++] = (rvl_metric){"loss", sums->sum[RVL_SUM_LOSS] / (double)(sums->datums > 0 ? sums->datums : 1)};
  metrics[count++] = (rvl_metric){"micro_batches", 1};
  return count;
}
