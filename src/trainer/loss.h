/*
** The losses of the training service: of one example, from its logits to their gradient, and the sums that become
** metrics. All are sums over tokens, in double; what they mean is in docs/training_losses.md.
**
** With lp[t] the log-probability of the token after t (or of target_tokens[t]) at logprob_temperature, r = exp(lp
** - old), and the last position and those with attention_mask 0 left out of everything:
**
**     cross_entropy         -Σ w·lp, of target_tokens [T, K] too
**     importance_sampling   -Σ A·r
**     ppo                   -Σ min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A)
**     cispo                 -Σ sg(min(r, eps_max))·A·lp; use_perfect_ratio: 1 in the place of the minimum
**     echo_cispo            cispo - echo_coef·Σ e·lp
**     dro                   -Σ A·lp + ½·beta·Σ (lp - old)²
**     loss_graph_v1         a custom loss: loss_graph.h
**
** score_centering (of cispo): where weights are cut off, or taken as 1, the expected score is not zero, so that
** even equal advantages would move the model. What the sampler's policy μ expects of it is taken off, over its K
** most likely tokens and one bucket for all others:
**
**     -Σ A·(sg(w)·lp - Σ_b sg(μ_b·w_b)·lp_b),   w_b = min(π_b / μ_b, eps_max), use_perfect_ratio: 1
**
** b: each token of sampler_topk_ids, and the bucket with μ = 1 - Σ μ_k, π = 1 - Σ π_k. Where π is μ, or nothing
** is cut off, it changes no gradient.
*/
#ifndef RVL_LOSS_H
#define RVL_LOSS_H

#include "example.h"
#include "kernels.h"
#include "loss_graph.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum rvl_loss_kind {
  RVL_LOSS_CROSS_ENTROPY,
  RVL_LOSS_IMPORTANCE_SAMPLING,
  RVL_LOSS_PPO,
  RVL_LOSS_CISPO,
  RVL_LOSS_ECHO_CISPO,
  RVL_LOSS_DRO,
  RVL_LOSS_GRAPH,
  RVL_LOSS_KINDS
} rvl_loss_kind;

struct rvl_loss {              /* rvl_loss of example.h */
  rvl_loss_kind kind;
  double temperature;          /* logprob_temperature */
  double clip_low, clip_high, eps_max, echo_coef, beta;
  bool use_perfect_ratio, score_centering;
  const rvl_graph *graph;      /* of RVL_LOSS_GRAPH: the caller sets it after rvl_loss_parse, and owns it */
};

typedef struct rvl_loss_option {
  const char *name;
  double value;
} rvl_loss_option;

/* loss_fn and loss_fn_config. false: they are refused, `refusal` says why (cut to `room`). */
bool rvl_loss_parse(const char *name, const rvl_loss_option *options, size_t count, rvl_loss *loss, char *refusal,
                    size_t room);
/* "ppo" */
const char *rvl_loss_name(rvl_loss_kind kind);

/* What adds up; named as the service's metrics are. */
typedef enum rvl_sum {
  RVL_SUM_LOSS,
  RVL_SUM_CE_LOSS,
  RVL_SUM_NUM_TOKENS,
  RVL_SUM_WEIGHT,
  RVL_SUM_NUM_CE_TOKENS,
  RVL_SUM_RATIO,
  RVL_SUM_LOG_RATIO,
  RVL_SUM_NUM_RESPONSE,
  RVL_SUM_ENTROPY,
  RVL_SUM_CLIP_COUNT,
  RVL_SUM_TRUNC_COUNT,
  RVL_SUM_ECHO_LOSS,
  RVL_SUM_ECHO_PENALTY,
  RVL_SUM_ECHO_WEIGHT,
  RVL_SUM_NUM_ECHO_TOKENS,
  RVL_SUM_ECHO_POLICY_OVERLAP,
  RVL_SUM_QUAD_PENALTY,
  RVL_SUM_POLICY_LOSS,
  RVL_SUMS
} rvl_sum;

typedef struct rvl_loss_sums {
  double sum[RVL_SUMS];
  double custom[RVL_GRAPH_METRICS];   /* of a graph, in the order of its metrics */
  size_t tokens, datums;
} rvl_loss_sums;

void rvl_loss_sums_add(rvl_loss_sums *to, const rvl_loss_sums *from);

typedef struct rvl_metric {
  const char *name;            /* static, or the graph's */
  double value;
} rvl_metric;

enum { RVL_METRICS = RVL_SUMS + RVL_GRAPH_METRICS + 10 };

/* The metrics of a whole request, derived ones as well; returns how many. micro_batches is 1: as one request. */
size_t rvl_loss_metrics(const rvl_loss *loss, const rvl_loss_sums *sums, rvl_metric metrics[RVL_METRICS]);

/*
** One example (which rvl_example_read took for this loss, or that is as good) of a model with `vocabulary` tokens:
** `logits` [length, vocabulary] become d loss / d logits when `gradient` is asked for, else they are worth nothing
** afterwards. `logprobs` [length - 1] (NULL: not wanted) are those of the tokens after each position, at
** logprob_temperature. Adds to `sums`. false: no memory (graphs only).
*/
bool rvl_loss_apply(const rvl_loss *loss, const rvl_kernels *kernels, const rvl_example *example,
                    size_t vocabulary, float *logits, bool gradient, float *logprobs, rvl_loss_sums *sums);

#endif
