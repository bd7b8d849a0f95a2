/*
** AdamW as PyTorch's torch.optim.AdamW computes it, with the gradient clipped before as
** torch.nn.utils.clip_grad_norm_ does. All vectors have `floats` floats (rvl_model_floats); what are gaps in a
** layout are zeros and stay so.
*/
#ifndef RVL_ADAMW_H
#define RVL_ADAMW_H

#include "kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rvl_adamw_options {
  double lr, beta1, beta2, eps, weight_decay;
  double clip;                 /* largest norm of the scaled gradient; 0: any */
  double scale;                /* of the gradient, before anything else; 1 as a rule */
} rvl_adamw_options;

/* One model's optimizer. */
typedef struct rvl_adamw_state {
  float *mean, *square;        /* exp_avg, exp_avg_sq */
  size_t floats;
  uint64_t step;               /* how many were made */
} rvl_adamw_state;

/* Zeros. false: no memory. */
bool rvl_adamw_init(rvl_adamw_state *state, size_t floats);
void rvl_adamw_reset(rvl_adamw_state *state);
void rvl_adamw_free(rvl_adamw_state *state);

typedef struct rvl_adamw_result {
  double norm;                 /* of the scaled gradient, before clipping; not finite if the gradient is not */
  bool finite;                 /* false: nothing was changed */
} rvl_adamw_result;

/* One step. The options were checked: lr, weight_decay, clip >= 0, eps >= FLT_MIN, betas in [0, 1), scale > 0, all
   finite. The gradient is left as it is: clearing it is the caller's. */
rvl_adamw_result rvl_adamw_step(rvl_adamw_state *state, const rvl_kernels *kernels,
                                const rvl_adamw_options *options, const float *gradient, float *weights);

#endif
