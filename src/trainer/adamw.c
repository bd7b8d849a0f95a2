#include "adamw.h"
#include "model.h"

#include <float.h>
#include <math.h>
#include <string.h>

bool rvl_adamw_init(rvl_adamw_state *state, size_t floats) {
  *state = (rvl_adamw_state){.floats = floats};
  state->mean = rvl_model_floats(floats);
  state->square = rvl_model_floats(floats);
  if (state->mean != NULL && state->square != NULL) return true;
  rvl_adamw_free(state);
  return false;
}

void rvl_adamw_reset(rvl_adamw_state *state) {
  memset(state->mean, 0, state->floats * sizeof *state->mean);
  memset(state->square, 0, state->floats * sizeof *state->square);
  state->step = 0;
}

void rvl_adamw_free(rvl_adamw_state *state) {
  rvl_model_free(state->mean);
  rvl_model_free(state->square);
  *state = (rvl_adamw_state){0};
}

rvl_adamw_result rvl_adamw_step(rvl_adamw_state *state, const rvl_kernels *kernels,
                                const rvl_adamw_options *options, const float *gradient, float *weights) {
  double norm = sqrt(kernels->squares(state->floats, gradient)) * options->scale, clipping = 1;
  if (options->clip > 0) clipping = fmin(1, options->clip / (norm + 1e-6));
  /* squares of what is left must be floats: an infinite one would stop its weight for good */
  rvl_adamw_result result = {.norm = norm, .finite = isfinite(norm) && norm * clipping < sqrt((double)FLT_MAX)};
  if (!result.finite) return result;
  double step = (double)++state->step;
  const rvl_adamw once = {
      .scale = (float)(options->scale * clipping),
      .beta1 = (float)options->beta1,
      .beta2 = (float)options->beta2,
      .rest1 = (float)(1 - options->beta1),
      .rest2 = (float)(1 - options->beta2),
      .epsilon = (float)options->eps,
      .decay = (float)(1 - options->lr * options->weight_decay),
      .rate = (float)(options->lr / (1 - pow(options->beta1, step))),
      .root = (float)sqrt(1 - pow(options->beta2, step)),
  };
  kernels->adamw(state->floats, &once, gradient, state->mean, state->square, weights);
  return result;
}
