/*
** Samples of a transformer: many requests at once, with the keys and values of past tokens kept. What a request
** yields depends on its own prompt, options and seed alone, to the last bit: not on the other requests, nor on the
** number of threads. No Lua.
*/
#ifndef RVL_SAMPLER_H
#define RVL_SAMPLER_H

#include "model.h"
#include "pool.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rvl_sample_request {
  const int32_t *prompt;       /* 1 … context ids below the vocabulary */
  size_t prompt_length;
  size_t max_tokens;           /* prompt and sample are at most as long as the context */
  double temperature;          /* 0: the most probable token, the lowest of equal ones */
  double top_p;                /* 1: all */
  int64_t top_k;               /* below 1: all */
  uint64_t seed;
  const char *const *stops;    /* bytes, searched in the text of the sample; empty ones are passed over */
  const size_t *stop_lengths;
  size_t stop_count;
  size_t top_logprobs;         /* K: so many of the most probable tokens are told for each position */
  bool prompt_logprobs;
} rvl_sample_request;

/* Text is the bytes of ids below 256; other ids are no text. Log probabilities are those before top-k and top-p,
** at the request's temperature (0: at 1). A row of the K most probable tokens descends, the lower id first where
** equal; what a small vocabulary leaves over is id -1, -inf. */
typedef struct rvl_sample_result {
  int32_t *ids;                /* the stop string's too; NULL: none */
  double *logprobs;
  size_t count;
  bool stopped;                /* at a stop string; where several end, at the longest */
  size_t text_length;          /* bytes before the stop string, or all */
  int32_t *top_ids;            /* count × K; NULL: K is 0 */
  float *top_logprobs;
  double *prompt_logprobs;     /* of its tokens, at temperature 1; the first is 0 */
  int32_t *prompt_top_ids;     /* prompt_length × K, the first row empty; NULL: not asked for both */
  float *prompt_top_logprobs;
} rvl_sample_result;

/* All or none: false when memory is short or `*cancel` (NULL: never) became true; then there are no results to
** free. A request that is wrong (an id, or the length of its prompt) has an empty sample: who calls refuses it
** before. */
bool rvl_sampler_run(const rvl_model_layout *layout, rvl_pool *pool, const float *weights,
                     const rvl_sample_request *requests, size_t count, rvl_sample_result *results,
                     atomic_bool *cancel);

void rvl_sampler_free_result(rvl_sample_result *result);

#endif
