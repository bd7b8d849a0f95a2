/*
** Requests are cut into groups by their order and lengths. A group is one thread's: it reads all prompts, many
** tokens at a time, then takes a step for each sequence that goes on, until none does. Rows of a step do not know
** one another (see kernels_panels.h), so that neither groups nor threads change a sample.
*/
#include "sampler.h"

#include "random.h"
#include "sampler_choose.h"
#include "sampler_decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  FEWEST = 4, MOST = 48,       /* sequences of a group */
  GROUPS = 8,                  /* of a run, about: no thread waits long for the last one */
  ROWS = 96,                   /* tokens of prompts that are read at a time: their activations stay in the cache */
  BESIDE = 8 << 20,            /* bytes of keys and values at which a group is large enough, */
  ALONE = 64 << 20,            /* also when it has fewer than FEWEST sequences */
  ROOM = 64                    /* tokens that there is room for at first */
};

typedef struct sequence {
  const rvl_sample_request *request;
  rvl_sample_result *result;
  rvl_random random;
  size_t most;                 /* tokens of the sample */
  size_t room;                 /* tokens that the result has memory for */
  size_t bytes;                /* of text */
  size_t twins;                /* this one and those after it that have the same prompt; 0: one of these */
  rvl_cache *cache;
} sequence;

_Static_assert(MOST <= ROWS, "a step has a row of each sequence");

/* One thread's memory. */
typedef struct worker {
  bool ready;
  rvl_decoder decoder;
  rvl_choice choice;
  sequence sequences[MOST];
  rvl_cache caches[MOST];
  rvl_decoder_row rows[ROWS];
  size_t wanted[ROWS];         /* rows whose logits are */
  sequence *owners[ROWS];      /* of rows: the first of twins */
} worker;

typedef struct run {
  rvl_decoder_model model;
  const rvl_sample_request *requests;
  rvl_sample_result *results;
  size_t *starts;              /* of groups, and the end of the last */
  size_t groups;
  size_t longest, rows;        /* positions of a sequence; rows that a group has for one step */
  worker *workers;
  atomic_bool *cancel;
  atomic_bool failed;
} run;

static bool stopped(run *r) {
  return atomic_load_explicit(&r->failed, memory_order_relaxed) ||
         (r->cancel != NULL && atomic_load_explicit(r->cancel, memory_order_relaxed));
}

/* ------------------------------------------------------------------------------------------------ one sequence */

static bool is_right(const rvl_model_config *config, const rvl_sample_request *request) {
  if (request->prompt_length < 1 || request->prompt_length > config->context) return false;
  for (size_t i = 0; i < request->prompt_length; i++) {
    if (request->prompt[i] < 0 || (uint32_t)request->prompt[i] >= config->vocabulary) return false;
  }
  return true;
}

static size_t most_of(const rvl_model_config *config, const rvl_sample_request *request) {
  size_t left = config->context - request->prompt_length;
  return request->max_tokens < left ? request->max_tokens : left;
}

/* NULL: no memory, and the old one stays. */
static void *resized(void *memory, size_t count, size_t width, size_t size) {
  if (count > SIZE_MAX / size / width) return NULL;
  return realloc(memory, count * width * size);
}

static bool resize_top(int32_t **ids, float **logprobs, size_t count, size_t width) {
  int32_t *new_ids = resized(*ids, count, width, sizeof *new_ids);
  if (new_ids != NULL) *ids = new_ids;
  float *new_logprobs = resized(*logprobs, count, width, sizeof *new_logprobs);
  if (new_logprobs != NULL) *logprobs = new_logprobs;
  return new_ids != NULL && new_logprobs != NULL;
}

static bool grow_sample(sequence *s) {
  rvl_sample_result *result = s->result;
  size_t room = s->room == 0 ? ROOM : 2 * s->room, width = s->request->top_logprobs;
  if (room > s->most) room = s->most;
  int32_t *ids = resized(result->ids, room, 1, sizeof *ids);
  if (ids != NULL) result->ids = ids;
  double *logprobs = resized(result->logprobs, room, 1, sizeof *logprobs);
  if (logprobs != NULL) result->logprobs = logprobs;
  if (ids == NULL || logprobs == NULL) return false;
  if (width > 0 && !resize_top(&result->top_ids, &result->top_logprobs, room, width)) return false;
  s->room = room;
  return true;
}

/* What is told of a prompt; at first that nothing is known. */
static bool prepare_prompt(const rvl_sample_request *request, rvl_sample_result *result) {
  size_t length = request->prompt_length, width = request->top_logprobs;
  if (!request->prompt_logprobs || length == 0) return true;
  result->prompt_logprobs = calloc(length, sizeof *result->prompt_logprobs);
  if (result->prompt_logprobs == NULL) return false;
  if (width == 0) return true;
  if (!resize_top(&result->prompt_top_ids, &result->prompt_top_logprobs, length, width)) return false;
  for (size_t i = 0; i < length * width; i++) {
    result->prompt_top_ids[i] = -1;
    result->prompt_top_logprobs[i] = -INFINITY;
  }
  return true;
}

/* Does the text, whose last byte is that of the last id, end with `stop`? Other ids are no text. */
static bool ends_with(const rvl_sample_result *result, const char *stop, size_t length) {
  size_t at = result->count;
  while (length > 0) {
    while (at > 0 && result->ids[at - 1] >= 256) at--;
    if (at == 0 || result->ids[at - 1] != (unsigned char)stop[length - 1]) return false;
    at--;
    length--;
  }
  return true;
}

static void look_for_stops(sequence *s) {
  const rvl_sample_request *request = s->request;
  size_t longest = 0;
  for (size_t i = 0; i < request->stop_count; i++) {
    size_t length = request->stop_lengths[i];
    if (length <= longest || length > s->bytes) continue;
    if (ends_with(s->result, request->stops[i], length)) longest = length;
  }
  s->result->stopped = longest > 0;
  s->result->text_length = s->bytes - longest;
}

static bool goes_on(const sequence *s) { return s->result->count < s->most && !s->result->stopped; }

/* The next token of a sequence, whose logits these are. false: no memory. */
static bool take_token(worker *w, sequence *s, const float *logits) {
  const rvl_sample_request *request = s->request;
  rvl_sample_result *result = s->result;
  if (result->count == s->room && !grow_sample(s)) return false;
  double uniform = rvl_random_uniform(&s->random);
  rvl_choice_read(&w->choice, logits, request->temperature);
  int32_t id = request->temperature > 0 ? rvl_choice_pick(&w->choice, request->top_k, request->top_p, uniform)
                                        : rvl_choice_best(&w->choice);
  size_t at = result->count++, width = request->top_logprobs;
  result->ids[at] = id;
  result->logprobs[at] = rvl_choice_logprob(&w->choice, id);
  if (width > 0) {
    rvl_choice_top(&w->choice, width, result->top_ids + at * width, result->top_logprobs + at * width);
  }
  if (id >= 256) return true;
  s->bytes++;
  look_for_stops(s);
  return true;
}

static void tell_of_prompt(worker *w, sequence *s, size_t position, const float *logits) {
  const rvl_sample_request *request = s->request;
  rvl_sample_result *result = s->result;
  size_t width = request->top_logprobs, at = (position + 1) * width;
  if (!request->prompt_logprobs) return;
  rvl_choice_read(&w->choice, logits, 1);
  result->prompt_logprobs[position + 1] = rvl_choice_logprob(&w->choice, request->prompt[position + 1]);
  if (width > 0) rvl_choice_top(&w->choice, width, result->prompt_top_ids + at, result->prompt_top_logprobs + at);
}

/* ------------------------------------------------------------------------------------------------- the prompts */

/* The logits of one token of a prompt, for all that have this prompt. */
static bool use_prompt_row(worker *w, const rvl_decoder_row *row, sequence *first, const float *logits) {
  size_t length = first->request->prompt_length;
  for (sequence *s = first; s < first + first->twins; s++) {
    if (row->position + 1 < length) tell_of_prompt(w, s, row->position, logits);
    else if (s->most > 0 && !take_token(w, s, logits)) return false;
  }
  return true;
}

static bool read_rows(worker *w, size_t count, size_t wanted) {
  rvl_decoder *d = &w->decoder;
  size_t vocabulary = d->model->layout->config.vocabulary;
  rvl_decoder_advance(d, w->rows, count);
  for (size_t from = 0; from < wanted; from += d->logit_rows) {
    size_t some = wanted - from < d->logit_rows ? wanted - from : d->logit_rows;
    const float *logits = rvl_decoder_logits(d, w->wanted + from, some);
    for (size_t i = 0; i < some; i++) {
      size_t r = w->wanted[from + i];
      if (!use_prompt_row(w, &w->rows[r], w->owners[r], logits + i * vocabulary)) return false;
    }
  }
  return true;
}

static bool wants_prompt(const sequence *first) {
  for (const sequence *s = first; s < first + first->twins; s++) {
    if (s->request->prompt_logprobs) return true;
  }
  return false;
}

static bool read_prompts(run *r, worker *w, size_t count) {
  size_t rows = 0, wanted = 0;
  for (size_t i = 0; i < count; i += w->sequences[i].twins) {
    sequence *s = &w->sequences[i];
    size_t length = s->request->prompt_length;
    bool all = wants_prompt(s);
    for (size_t p = 0; p < length; p++) {
      if (all || p + 1 == length) w->wanted[wanted++] = rows;
      w->owners[rows] = s;
      w->rows[rows++] = (rvl_decoder_row){.id = s->request->prompt[p], .position = p, .cache = s->cache};
      if (rows < w->decoder.rows) continue;
      if (stopped(r) || !read_rows(w, rows, wanted)) return false;
      rows = wanted = 0;
    }
  }
  if (rows > 0 && !read_rows(w, rows, wanted)) return false;
  const rvl_model_config *config = &r->model.layout->config;
  for (size_t i = 0; i < count; i++) {
    sequence *s = &w->sequences[i];
    for (size_t k = 1; k < s->twins; k++) rvl_cache_copy(s[k].cache, s->cache, config, s->request->prompt_length);
  }
  return true;
}

/* ------------------------------------------------------------------------------------------------- the samples */

static bool step(run *r, worker *w, sequence *const live[], size_t count) {
  rvl_decoder *d = &w->decoder;
  const rvl_model_config *config = &r->model.layout->config;
  for (size_t i = 0; i < count; i++) {
    const rvl_sample_result *result = live[i]->result;
    size_t position = live[i]->request->prompt_length + result->count - 1;
    if (!rvl_cache_reserve(live[i]->cache, config, position + 1, position)) return false;
    int32_t id = result->ids[result->count - 1];
    w->rows[i] = (rvl_decoder_row){.id = id, .position = position, .cache = live[i]->cache};
    w->wanted[i] = i;
  }
  rvl_decoder_advance(d, w->rows, count);
  for (size_t from = 0; from < count; from += d->logit_rows) {
    size_t some = count - from < d->logit_rows ? count - from : d->logit_rows;
    const float *logits = rvl_decoder_logits(d, w->wanted + from, some);
    for (size_t i = 0; i < some; i++) {
      if (!take_token(w, live[from + i], logits + i * config->vocabulary)) return false;
    }
  }
  return true;
}

static bool sample_on(run *r, worker *w, size_t count) {
  sequence *live[MOST];
  size_t left = 0;
  for (size_t i = 0; i < count; i++) {
    if (goes_on(&w->sequences[i])) live[left++] = &w->sequences[i];
  }
  while (left > 0) {
    if (stopped(r) || !step(r, w, live, left)) return false;
    size_t kept = 0;
    for (size_t i = 0; i < left; i++) {
      if (goes_on(live[i])) live[kept++] = live[i];
    }
    left = kept;
  }
  return true;
}

/* ------------------------------------------------------------------------------------------------------ groups */

static bool same_prompt(const sequence *a, const sequence *b) {
  size_t length = a->request->prompt_length;
  return length == b->request->prompt_length &&
         memcmp(a->request->prompt, b->request->prompt, length * sizeof *a->request->prompt) == 0;
}

/* The group's sequences that have something to do; false: no memory. */
static bool gather(run *r, worker *w, size_t from, size_t to, size_t *count) {
  const rvl_model_config *config = &r->model.layout->config;
  sequence *first = NULL;
  *count = 0;
  for (size_t i = from; i < to; i++) {
    const rvl_sample_request *request = &r->requests[i];
    if (!prepare_prompt(request, &r->results[i])) return false;
    if (!is_right(config, request)) continue;
    size_t most = most_of(config, request);
    if (most == 0 && !request->prompt_logprobs) continue;
    rvl_cache *cache = &w->caches[*count];
    sequence *s = &w->sequences[(*count)++];
    *s = (sequence){.request = request, .result = &r->results[i], .most = most, .cache = cache};
    s->random = rvl_random_of(request->seed);
    size_t room = most < ROOM ? most : ROOM;
    if (!rvl_cache_reserve(cache, config, request->prompt_length + room, 0)) return false;
    if (first == NULL || !same_prompt(first, s)) first = s;
    first->twins++;
  }
  return true;
}

static bool prepare(run *r, worker *w) {
  if (w->ready) return true;
  w->ready = rvl_decoder_init(&w->decoder, &r->model, r->rows, r->longest) &&
             rvl_choice_init(&w->choice, r->model.kernels, r->model.layout->config.vocabulary);
  return w->ready;
}

static void do_group(void *argument, size_t index, unsigned thread) {
  run *r = argument;
  worker *w = &r->workers[thread];
  size_t from = r->starts[index], to = r->starts[index + 1], count;
  if (stopped(r)) return;
  if (!prepare(r, w) || !gather(r, w, from, to, &count) || !read_prompts(r, w, count) || !sample_on(r, w, count)) {
    atomic_store(&r->failed, true);
  }
}

/* Bytes of keys and values, should it use up its tokens. */
static double cache_of(const rvl_model_config *config, const rvl_sample_request *request) {
  if (!is_right(config, request)) return 0;
  size_t positions = request->prompt_length + most_of(config, request);
  return (double)positions * config->width * config->layers * 2 * sizeof(float);
}

/* Measures a group's requests against what a thread must have memory for. */
static void measure(run *r, size_t from, size_t to) {
  const rvl_model_config *config = &r->model.layout->config;
  size_t tokens = 0;
  for (size_t i = from; i < to; i++) {
    const rvl_sample_request *request = &r->requests[i];
    if (!is_right(config, request)) continue;
    size_t positions = request->prompt_length + most_of(config, request);
    if (positions > r->longest) r->longest = positions;
    tokens += request->prompt_length;
  }
  if (tokens > ROWS) tokens = ROWS;
  if (tokens > r->rows) r->rows = tokens;
}

static bool cut(run *r, size_t count) {
  size_t most = (count + GROUPS - 1) / GROUPS;
  if (most < FEWEST) most = FEWEST;
  if (most > MOST) most = MOST;
  r->starts = calloc(count + 1, sizeof *r->starts);
  if (r->starts == NULL) return false;
  for (size_t i = 0; i < count;) {
    size_t from = i;
    double bytes = 0;
    for (; i < count; i++) {
      bytes += cache_of(&r->model.layout->config, &r->requests[i]);
      size_t size = i - from;
      if (size == most || (size >= FEWEST && bytes > BESIDE) || (size > 0 && bytes > ALONE)) break;
    }
    measure(r, from, i);
    r->starts[++r->groups] = i;
  }
  return true;
}

static void free_workers(run *r, unsigned threads) {
  for (unsigned t = 0; r->workers != NULL && t < threads; t++) {
    rvl_decoder_free(&r->workers[t].decoder);
    rvl_choice_free(&r->workers[t].choice);
    for (size_t i = 0; i < MOST; i++) rvl_cache_free(&r->workers[t].caches[i]);
  }
  free(r->workers);
}

bool rvl_sampler_run(const rvl_model_layout *layout, rvl_pool *pool, const float *weights,
                     const rvl_sample_request *requests, size_t count, rvl_sample_result *results,
                     atomic_bool *cancel) {
  run r = {.model = {.layout = layout}, .requests = requests, .results = results, .cancel = cancel};
  r.longest = r.rows = 1;
  unsigned threads = rvl_pool_threads(pool);
  for (size_t i = 0; i < count; i++) results[i] = (rvl_sample_result){0};
  if (count == 0) return true;
  r.workers = calloc(threads, sizeof *r.workers);
  bool done = r.workers != NULL && cut(&r, count) &&
              rvl_decoder_model_init(&r.model, layout, weights, r.longest, pool);
  if (done) {
    rvl_pool_run(pool, r.groups, do_group, &r);
    done = !stopped(&r);
  }
  free_workers(&r, threads);
  rvl_decoder_model_free(&r.model);
  free(r.starts);
  for (size_t i = 0; i < count && !done; i++) rvl_sampler_free_result(&results[i]);
  return done;
}

void rvl_sampler_free_result(rvl_sample_result *result) {
  free(result->ids);
  free(result->logprobs);
  free(result->top_ids);
  free(result->top_logprobs);
  free(result->prompt_logprobs);
  free(result->prompt_top_ids);
  free(result->prompt_top_logprobs);
  *result = (rvl_sample_result){0};
}
