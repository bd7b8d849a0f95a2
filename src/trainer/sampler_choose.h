/* How one token is chosen from a row of logits, and what the row says of tokens. Of sampler.c. */
#ifndef RVL_SAMPLER_CHOOSE_H
#define RVL_SAMPLER_CHOOSE_H

#include "kernels.h"

typedef struct rvl_candidate { float logit; int32_t id; } rvl_candidate;

typedef struct rvl_choice {
  const rvl_kernels *kernels;
  size_t vocabulary;
  float *weights;              /* exp(scale · (logit - greatest)): probabilities times `total` */
  double *sums;                /* of each block of weights */
  rvl_candidate *candidates;
  const float *logits;         /* the row that was read */
  float scale, greatest;       /* 1 / temperature; the greatest logit */
  double total;                /* NaN when a logit is */
} rvl_choice;

/* false: no memory; rvl_choice_free in any case. */
bool rvl_choice_init(rvl_choice *choice, const rvl_kernels *kernels, size_t vocabulary);
void rvl_choice_free(rvl_choice *choice);

/* The row [vocabulary] that what follows is about; it must stay. A temperature of 0 counts as 1. */
void rvl_choice_read(rvl_choice *choice, const float *logits, double temperature);

/* The greatest logit's, the lowest of equal ones. NaN is passed over. */
int32_t rvl_choice_best(const rvl_choice *choice);

/* The token at `uniform`, in [0, 1), of the probabilities laid end to end by id: of all tokens, or of the `top_k`
   (above 0) most probable, and of these of the fewest most probable that have at least `top_p` (below 1) of their
   probability. Of equal ones the lower id is kept. */
int32_t rvl_choice_pick(rvl_choice *choice, int64_t top_k, double top_p, double uniform);

double rvl_choice_logprob(const rvl_choice *choice, int32_t id);

/* The `count` most probable tokens, the lower id first where equal; -1 and -inf where there are no more. */
void rvl_choice_top(rvl_choice *choice, size_t count, int32_t *ids, float *logprobs);

#endif
