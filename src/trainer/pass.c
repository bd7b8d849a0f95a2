#include "pass.h"
#include "transformer.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of a chunk: enough that adding its gradient costs little beside computing it, few enough that there are
 * some for every thread. */
enum { LEAST_CHUNK = 256, MOST_CHUNK = 1024, CHUNKS_WANTED = 8 };

/* Examples first … first + count - 1, or micro-batches. */
typedef struct piece { size_t first, count, tokens; } piece;

typedef struct worker {
  rvl_transformer *transformer;
  float *gradient;             /* of a chunk */
  int32_t *ids;
  uint8_t *mask;
  uint32_t *starts;
  size_t tokens, sequences;    /* room for */
} worker;

struct rvl_pass {
  const rvl_model_layout *layout;
  const rvl_blas *blas;
  rvl_pool *pool;
  const rvl_kernels *kernels;
  float *total;                /* gradient of a request */
  piece *micros, *chunks;
  size_t micro_room;           /* of both */
  unsigned threads;
  worker workers[];
};

/* One request. */
typedef struct run {
  rvl_pass *pass;
  const rvl_pass_request *request;
  rvl_pass_result *result;
  size_t chunks;
  atomic_int status;           /* rvl_pass_status */
} run;

/* A chunk that is to be added when those before are. */
typedef struct chunk_sums {
  run *run;
  const float *gradient;
  rvl_loss_sums sums;
} chunk_sums;

rvl_pass *rvl_pass_new(const rvl_model_layout *layout, const rvl_blas *blas, rvl_pool *pool) {
  unsigned threads = rvl_pool_threads(pool);
  rvl_pass *pass = calloc(1, sizeof *pass + threads * sizeof pass->workers[0]);
  if (pass == NULL) return NULL;
  pass->layout = layout;
  pass->blas = blas;
  pass->pool = pool;
  pass->kernels = rvl_kernels_pick();
  pass->threads = threads;
  return pass;
}

void rvl_pass_free(rvl_pass *pass) {
  if (pass == NULL) return;
  for (unsigned i = 0; i < pass->threads; i++) {
    worker *w = &pass->workers[i];
    rvl_transformer_free(w->transformer);
    rvl_model_free(w->gradient);
    free(w->ids);
    free(w->mask);
    free(w->starts);
  }
  rvl_model_free(pass->total);
  free(pass->micros);
  free(pass->chunks);
  free(pass);
}

void rvl_pass_result_free(rvl_pass_result *result) {
  free(result->logprobs);
  free(result->starts);
  *result = (rvl_pass_result){0};
}

/* ---- pieces -------------------------------------------------------------------------------------------- */

/* Packs pieces in their order, up to `most` tokens in each or one that is larger alone; returns how many. */
static size_t pack(const piece *sizes, size_t count, size_t most, piece *packed) {
  size_t n = 0;
  for (size_t i = 0; i < count; i++) {
    if (n > 0 && packed[n - 1].tokens + sizes[i].tokens <= most) {
      packed[n - 1].count++;
      packed[n - 1].tokens += sizes[i].tokens;
    } else {
      packed[n++] = (piece){.first = i, .count = 1, .tokens = sizes[i].tokens};
    }
  }
  return n;
}

static bool grow_plan(rvl_pass *pass, size_t count) {
  if (count <= pass->micro_room) return true;
  free(pass->micros);
  free(pass->chunks);
  pass->micros = calloc(count, sizeof *pass->micros);
  pass->chunks = calloc(count, sizeof *pass->chunks);
  pass->micro_room = pass->micros != NULL && pass->chunks != NULL ? count : 0;
  return pass->micro_room > 0;
}

/* Micro-batches and chunks depend on nothing but the lengths of the examples. */
static bool plan(run *r) {
  rvl_pass *pass = r->pass;
  const rvl_pass_request *request = r->request;
  size_t tokens = 0;
  if (!grow_plan(pass, request->count)) return false;
  for (size_t i = 0; i < request->count; i++) {
    pass->chunks[i] = (piece){.first = i, .count = 1, .tokens = request->examples[i].length};
    tokens += request->examples[i].length;
  }
  size_t micros = pack(pass->chunks, request->count, rvl_transformer_tokens(&pass->layout->config), pass->micros);
  size_t most = tokens / CHUNKS_WANTED;
  if (most < LEAST_CHUNK) most = LEAST_CHUNK;
  if (most > MOST_CHUNK) most = MOST_CHUNK;
  r->chunks = pack(pass->micros, micros, most, pass->chunks);
  return true;
}

/* ---- one thread's work --------------------------------------------------------------------------------- */

static bool grow_worker(run *r, worker *w, const piece *micro) {
  rvl_pass *pass = r->pass;
  if (w->transformer == NULL) w->transformer = rvl_transformer_new(pass->layout, pass->blas);
  if (w->gradient == NULL && r->request->gradient != NULL) w->gradient = rvl_model_floats(pass->layout->floats);
  if (w->transformer == NULL || (w->gradient == NULL && r->request->gradient != NULL)) return false;
  if (micro->tokens > w->tokens) {
    free(w->ids);
    free(w->mask);
    w->ids = calloc(micro->tokens, sizeof *w->ids);
    w->mask = calloc(micro->tokens, sizeof *w->mask);
    w->tokens = w->ids != NULL && w->mask != NULL ? micro->tokens : 0;
    if (w->tokens == 0) return false;
  }
  if (micro->count >= w->sequences) {
    free(w->starts);
    w->starts = calloc(micro->count + 1, sizeof *w->starts);
    w->sequences = w->starts != NULL ? micro->count + 1 : 0;
  }
  return w->sequences > 0;
}

static rvl_batch batch_of(const worker *w, const rvl_example *examples, size_t count) {
  size_t at = 0;
  bool masked = false;
  for (size_t i = 0; i < count; i++) {
    const rvl_example *e = &examples[i];
    w->starts[i] = (uint32_t)at;
    memcpy(w->ids + at, e->ids, e->length * sizeof *w->ids);
    if (e->mask != NULL) memcpy(w->mask + at, e->mask, e->length);
    else memset(w->mask + at, 1, e->length);
    masked = masked || e->mask != NULL;
    at += e->length;
  }
  w->starts[count] = (uint32_t)at;
  return (rvl_batch){.sequences = count, .tokens = at, .ids = w->ids, .starts = w->starts,
                     .mask = masked ? w->mask : NULL};
}

/* false: no memory. */
static bool do_micro(run *r, worker *w, const piece *micro, rvl_loss_sums *sums) {
  const rvl_pass_request *request = r->request;
  size_t vocabulary = r->pass->layout->config.vocabulary;
  bool gradient = request->gradient != NULL;
  if (!grow_worker(r, w, micro)) return false;
  rvl_batch batch = batch_of(w, request->examples + micro->first, micro->count);
  float *logits = gradient ? rvl_transformer_forward(w->transformer, request->weights, &batch)
                           : rvl_transformer_infer(w->transformer, request->weights, &batch);
  if (logits == NULL) return false;
  for (size_t i = 0; i < micro->count; i++) {
    size_t index = micro->first + i;
    float *logprobs = r->result->logprobs + r->result->starts[index];
    if (!rvl_loss_apply(request->loss, r->pass->kernels, &request->examples[index], vocabulary,
                        logits + batch.starts[i] * vocabulary, gradient, logprobs, sums)) {
      return false;
    }
  }
  return !gradient ||
         rvl_transformer_backward(w->transformer, request->weights, &batch, request->wanted, w->gradient);
}

/* Adds a gradient where it is wanted; all of it has the layout. */
static void add_gradient(const rvl_pass *pass, const bool *wanted, const float *from, float *to) {
  for (size_t i = 0; i < pass->layout->count; i++) {
    const rvl_tensor *t = &pass->layout->tensors[i];
    if (wanted == NULL || wanted[i]) pass->kernels->add(t->count, from + t->offset, to + t->offset);
  }
}

static bool goes_on(run *r) {
  if (r->request->cancel != NULL && atomic_load(r->request->cancel)) {
    int done = RVL_PASS_DONE;
    atomic_compare_exchange_strong(&r->status, &done, RVL_PASS_CANCELLED);
  }
  return atomic_load(&r->status) == RVL_PASS_DONE;
}

static void add_chunk(void *argument) {
  chunk_sums *chunk = argument;
  run *r = chunk->run;
  if (atomic_load(&r->status) != RVL_PASS_DONE) return;
  rvl_loss_sums_add(&r->result->sums, &chunk->sums);
  if (chunk->gradient != NULL) add_gradient(r->pass, r->request->wanted, chunk->gradient, r->pass->total);
}

static void do_chunk(void *argument, size_t index, unsigned thread) {
  run *r = argument;
  rvl_pass *pass = r->pass;
  worker *w = &pass->workers[thread];
  const piece *chunk = &pass->chunks[index];
  chunk_sums done = {.run = r};
  if (w->gradient != NULL && r->request->gradient != NULL) {
    memset(w->gradient, 0, pass->layout->floats * sizeof *w->gradient);
  }
  for (size_t i = 0; i < chunk->count && goes_on(r); i++) {
    if (!do_micro(r, w, &pass->micros[chunk->first + i], &done.sums)) atomic_store(&r->status, RVL_PASS_NO_MEMORY);
  }
  if (r->request->gradient != NULL) done.gradient = w->gradient;
  rvl_pool_in_order(pass->pool, index, add_chunk, &done);
}

/* ---- the request --------------------------------------------------------------------------------------- */

static bool make_result(const rvl_pass_request *request, rvl_pass_result *result) {
  size_t count = request->count, at = 0;
  *result = (rvl_pass_result){.starts = calloc(count + 1, sizeof *result->starts)};
  if (result->starts == NULL) return false;
  for (size_t i = 0; i < count; i++) {
    result->starts[i] = at;
    at += request->examples[i].length - 1;
  }
  result->starts[count] = at;
  result->logprobs = calloc(at + 1, sizeof *result->logprobs);
  return result->logprobs != NULL;
}

static bool prepare(run *r) {
  rvl_pass *pass = r->pass;
  if (!make_result(r->request, r->result) || !plan(r)) return false;
  if (r->request->gradient == NULL) return true;
  if (pass->total == NULL) pass->total = rvl_model_floats(pass->layout->floats);
  if (pass->total == NULL) return false;
  memset(pass->total, 0, pass->layout->floats * sizeof *pass->total);
  return true;
}

rvl_pass_status rvl_pass_run(rvl_pass *pass, const rvl_pass_request *request, rvl_pass_result *result) {
  run r = {.pass = pass, .request = request, .result = result};
  atomic_init(&r.status, RVL_PASS_DONE);
  if (prepare(&r)) {
    if (goes_on(&r)) rvl_pool_run(pass->pool, r.chunks, do_chunk, &r);
  } else {
    atomic_store(&r.status, RVL_PASS_NO_MEMORY);
  }
  rvl_pass_status status = (rvl_pass_status)atomic_load(&r.status);
  if (status != RVL_PASS_DONE) {
    rvl_pass_result_free(result);
  } else if (request->gradient != NULL) {
    if (request->clear) memset(request->gradient, 0, pass->layout->floats * sizeof *request->gradient);
    add_gradient(pass, request->wanted, pass->total, request->gradient);
  }
  return status;
}
