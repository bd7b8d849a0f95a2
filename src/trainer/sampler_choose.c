#include "sampler_choose.h"

#include <math.h>
#include <stdlib.h>

enum { BLOCK = 16 };           /* weights of one sum */

/* Colder is as good as the most probable token, and its inverse must be a number. */
static const double coldest = 1e-6;

bool rvl_choice_init(rvl_choice *choice, const rvl_kernels *kernels, size_t vocabulary) {
  *choice = (rvl_choice){.kernels = kernels, .vocabulary = vocabulary};
  choice->weights = calloc(vocabulary, sizeof *choice->weights);
  choice->sums = calloc((vocabulary + BLOCK - 1) / BLOCK, sizeof *choice->sums);
  choice->candidates = calloc(vocabulary, sizeof *choice->candidates);
  return choice->weights != NULL && choice->sums != NULL && choice->candidates != NULL;
}

void rvl_choice_free(rvl_choice *choice) {
  free(choice->weights);
  free(choice->sums);
  free(choice->candidates);
  *choice = (rvl_choice){0};
}

/* Four sums at a time, as one would wait for itself. */
static double sum_of(const float *w, size_t count) {
  float sums[4] = {0};
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (size_t k = 0; k < 4; k++) sums[k] += w[i + k];
  }
  for (; i < count; i++) sums[0] += w[i];
  return (double)((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void rvl_choice_read(rvl_choice *choice, const float *logits, double temperature) {
  size_t n = choice->vocabulary;
  if (!(temperature > 0)) temperature = 1;
  choice->logits = logits;
  choice->scale = (float)(1 / fmax(temperature, coldest));
  choice->greatest = choice->kernels->largest(n, logits);
  /* exponents are never positive, so that nothing overflows */
  for (size_t i = 0; i < n; i++) choice->weights[i] = logits[i] - choice->greatest;
  choice->kernels->softmax_times(n, choice->scale, 0, 1, choice->weights, choice->weights);
  choice->total = 0;
  for (size_t i = 0, block = 0; i < n; i += BLOCK, block++) {
    choice->sums[block] = sum_of(choice->weights + i, n - i < BLOCK ? n - i : BLOCK);
    choice->total += choice->sums[block];
  }
}

double rvl_choice_logprob(const rvl_choice *choice, int32_t id) {
  return (double)choice->scale * ((double)choice->logits[id] - (double)choice->greatest) - log(choice->total);
}

int32_t rvl_choice_best(const rvl_choice *choice) {
  size_t best = 0;
  for (size_t i = 1; i < choice->vocabulary; i++) {
    float logit = choice->logits[i], so_far = choice->logits[best];
    if (logit > so_far || (isnan(so_far) && !isnan(logit))) best = i;
  }
  return (int32_t)best;
}

/* ------------------------------------------------------------------------------------ the most probable tokens */

static bool before(rvl_candidate a, rvl_candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Puts one of candidates[from, to) where it belongs, those before it left of it; `state` picks which. */
static size_t partition(rvl_candidate *c, size_t from, size_t to, uint32_t *state) {
  *state = *state * 1664525 + 1013904223;
  size_t pivot = from + (size_t)((uint64_t)*state * (to - from) >> 32), place = from;
  rvl_candidate at = c[pivot];
  c[pivot] = c[to - 1];
  for (size_t i = from; i + 1 < to; i++) {
    if (!before(c[i], at)) continue;
    rvl_candidate moved = c[i];
    c[i] = c[place];
    c[place++] = moved;
  }
  c[to - 1] = c[place];
  c[place] = at;
  return place;
}

/* The tokens that weigh at least so much; NaN, if there is one, is the least probable. How many. */
static size_t list(rvl_choice *choice, double least) {
  size_t count = 0;
  for (size_t i = 0; i < choice->vocabulary; i++) {
    if ((double)choice->weights[i] < least) continue;
    float logit = choice->logits[i];
    choice->candidates[count++] = (rvl_candidate){isnan(logit) ? -INFINITY : logit, (int32_t)i};
  }
  return count;
}

/* Moves the `count` first ones of `all` to the front, in no order. */
static void select_count(rvl_candidate *c, size_t all, size_t count) {
  uint32_t state = 1;
  size_t from = 0, to = all;
  while (to - from > 1) {
    size_t place = partition(c, from, to, &state);
    if (place == count) return;
    if (place > count) to = place;
    else from = place + 1;
  }
}

/* Moves the fewest first ones that weigh `wanted` together to the front; how many. */
static size_t select_weight(rvl_choice *choice, size_t all, double wanted) {
  uint32_t state = 1;
  size_t from = 0, to = all;
  double weight = 0;             /* of those left of `from` */
  while (from < to) {
    size_t place = partition(choice->candidates, from, to, &state);
    double left = weight;
    for (size_t i = from; i < place; i++) left += (double)choice->weights[choice->candidates[i].id];
    if (place > from && left >= wanted) {
      to = place;
      continue;
    }
    weight = left + (double)choice->weights[choice->candidates[place].id];
    from = place + 1;
    if (weight >= wanted) break;
  }
  return from;
}

static double weight_of(const rvl_choice *choice, size_t count) {
  double weight = 0;
  for (size_t i = 0; i < count; i++) weight += (double)choice->weights[choice->candidates[i].id];
  return weight;
}

/* The last one of the first `count`, and the weight of them all. */
static rvl_candidate last_kept(rvl_choice *choice, int64_t top_k, double top_p, double *weight) {
  rvl_candidate *c = choice->candidates;
  size_t all = choice->vocabulary, count;
  if (top_k > 0 && (uint64_t)top_k < all) {
    select_count(c, list(choice, 0), (size_t)top_k);
    count = (size_t)top_k;
    if (top_p < 1) count = select_weight(choice, count, top_p * weight_of(choice, count));
  } else {
    /* what is less, by half for rounding, is not needed: together these have less than 1 - top_p */
    top_p = fmax(top_p, 0);
    size_t some = list(choice, 0.5 * (1 - top_p) * choice->total / (double)all);
    count = select_weight(choice, some, top_p * choice->total);
  }
  rvl_candidate last = c[0];
  for (size_t i = 1; i < count; i++) {
    if (before(last, c[i])) last = c[i];
  }
  *weight = weight_of(choice, count);
  return last;
}

static int32_t pick_kept(rvl_choice *choice, int64_t top_k, double top_p, double uniform) {
  double weight, passed = 0;
  rvl_candidate last = last_kept(choice, top_k, top_p, &weight);
  int32_t chosen = last.id;
  for (size_t i = 0; i < choice->vocabulary; i++) {
    if (choice->weights[i] <= 0 || before(last, (rvl_candidate){choice->logits[i], (int32_t)i})) continue;
    chosen = (int32_t)i;
    passed += (double)choice->weights[i];
    if (passed > uniform * weight) break;
  }
  return chosen;
}

static int32_t pick_any(const rvl_choice *choice, double uniform) {
  size_t n = choice->vocabulary, block = 0, blocks = (n + BLOCK - 1) / BLOCK;
  double passed = 0, wanted = uniform * choice->total;
  while (block + 1 < blocks && passed + choice->sums[block] <= wanted) passed += choice->sums[block++];
  size_t chosen = n;             /* the sums of a block and of its weights differ in their last bits */
  for (size_t i = block * BLOCK; i < n; i++) {
    if (choice->weights[i] <= 0) continue;
    chosen = i;
    passed += (double)choice->weights[i];
    if (passed > wanted) break;
  }
  return chosen < n ? (int32_t)chosen : rvl_choice_best(choice);
}

int32_t rvl_choice_pick(rvl_choice *choice, int64_t top_k, double top_p, double uniform) {
  if (!isfinite(choice->total)) return rvl_choice_best(choice);
  bool cut = (top_k > 0 && (uint64_t)top_k < choice->vocabulary) || top_p < 1;
  return cut ? pick_kept(choice, top_k, top_p, uniform) : pick_any(choice, uniform);
}

static int compare(const void *a, const void *b) {
  const rvl_candidate *x = a, *y = b;
  return before(*x, *y) ? -1 : before(*y, *x);
}

void rvl_choice_top(rvl_choice *choice, size_t count, int32_t *ids, float *logprobs) {
  size_t there = count < choice->vocabulary ? count : choice->vocabulary;
  select_count(choice->candidates, list(choice, 0), there);
  qsort(choice->candidates, there, sizeof *choice->candidates, compare);
  for (size_t i = 0; i < count; i++) {
    ids[i] = i < there ? choice->candidates[i].id : -1;
    logprobs[i] = i < there ? (float)rvl_choice_logprob(choice, ids[i]) : -INFINITY;
  }
}
