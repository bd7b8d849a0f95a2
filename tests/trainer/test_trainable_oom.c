/* Training while memory is short, or no thread can be had: everything that is asked for fails once, and nothing is
 * left over. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../support/plain_blas.h"

static atomic_long granted, in_use;   /* allocations and threads until all fail; what was not given back */

static bool is_granted(void) { return atomic_fetch_sub(&granted, 1) > 0; }

static void *noted(void *memory) {
  if (memory != NULL) atomic_fetch_add(&in_use, 1);
  return memory;
}

static void *metered_malloc(size_t size) { return is_granted() ? noted(malloc(size)) : NULL; }
static void *metered_calloc(size_t count, size_t size) { return is_granted() ? noted(calloc(count, size)) : NULL; }
static void *metered_aligned_alloc(size_t alignment, size_t size) {
  return is_granted() ? noted(aligned_alloc(alignment, size)) : NULL;
}

static void metered_free(void *memory) {
  if (memory != NULL) atomic_fetch_sub(&in_use, 1);
  free(memory);
}

static int metered_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
  return is_granted() ? pthread_create(thread, attributes, run, argument) : 11;
}

#define malloc metered_malloc
#define calloc metered_calloc
#define aligned_alloc metered_aligned_alloc
#define free metered_free
#define pthread_create metered_create
/* Names that two of the files have. */
#define start pool_start
#define work pool_work
#define worker pool_worker
#include "trainer/pool.c"
#undef start
#undef work
#undef worker
#include "trainer/engine.c"
#define ALIGN MODEL_ALIGN
#define add add_tensor
#include "trainer/model.c"
#undef ALIGN
#undef add
#include "trainer/lora.c"
#define take take_floats
#include "trainer/transformer.c"
#undef take
#define memory example_memory
#include "trainer/example.c"
#undef memory
#define argument argument_of
#define check_column check_graph_column
#define refuse refuse_graph
#include "trainer/loss_graph.c"
#undef argument
#undef check_column
#undef refuse
#define run graph_run
#include "trainer/loss_graph_apply.c"
#undef run
#include "trainer/pass.c"
#include "trainer/trainable.c"
#undef malloc
#undef calloc
#undef aligned_alloc
#undef free
#undef pthread_create

enum { COUNT = 12, LENGTH = 40, ROOM = 8192, MOST = 10000 };

static rvl_blas blas;

static int set_up(void **state) {
  (void)state;
  return open_blas(&blas) == NULL ? 0 : -1;
}

static const rvl_model_config config = {.vocabulary = 40, .width = 8, .layers = 2, .heads = 2, .hidden = 16,
                                        .context = LENGTH, .positions = RVL_POSITIONS_ROTARY, .tied = true,
                                        .rotary_base = 10000, .norm_epsilon = 1e-5f};
static const rvl_lora_config adapters = {.rank = 2, .scale = 2, .attention = true, .mlp = true, .unembed = true};
static const rvl_adamw_options options = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .scale = 1};

static const char graph_text[] = "{}";
static uint8_t datum[ROOM];
static size_t datum_size;

/* One datum for the built-in losses and the custom one. */
static void write_datum(void) {
  static const char *const names[] = {"input_ids", "__river_loss_column_0", "__river_loss_position",
                                      "attention_mask"};
  rvl_nest_writer w = {.data = datum, .room = sizeof datum};
  rvl_nest_begin(&w);
  rvl_nest_open_dict(&w, 5);
  for (size_t i = 0; i < 4; i++) {
    size_t dims[1] = {LENGTH};
    rvl_nest_put_key(&w, names[i], strlen(names[i]));
    char *out = rvl_nest_put_array(&w, RVL_INT64, 1, dims, sizeof(int64_t));
    assert_non_null(out);
    for (int64_t t = 0; t < LENGTH; t++) {
      int64_t value = i < 2 ? (t * t + (int64_t)i) % 40 : 1;
      memcpy(out + t * 8, &value, sizeof value);
    }
    rvl_nest_seal(&w);
  }
  size_t dims[1] = {sizeof graph_text - 1};
  rvl_nest_put_key(&w, graph_name, strlen(graph_name));
  char *out = rvl_nest_put_array(&w, RVL_UINT8, 1, dims, 1);
  assert_non_null(out);
  memcpy(out, graph_text, sizeof graph_text - 1);
  rvl_nest_seal(&w);
  assert_false(w.failed);
  datum_size = w.at;
}

static rvl_graph *make_graph(void) {
  rvl_graph_plan plan = {.columns = {{RVL_INT64, 0}}, .column_count = 1, .node_count = 4, .loss = 3};
  char refusal[RVL_GRAPH_REFUSAL];
  plan.nodes[0].op = RVL_OP_LOGITS;
  plan.nodes[1].op = RVL_OP_INPUT;
  plan.nodes[2] = (rvl_graph_node){.op = RVL_OP_CE, .arguments = {{0, 0}, {1, 0}}};
  plan.nodes[3] = (rvl_graph_node){.op = RVL_OP_SUM, .arguments = {{2, 0}}};
  rvl_graph *graph = rvl_graph_new(&plan, graph_text, sizeof graph_text - 1, refusal);
  if (graph == NULL && refusal[0] != '\0') fail_msg("%s", refusal);
  return graph;
}

static rvl_loss graph_loss(const rvl_graph *graph) {
  char refusal[RVL_EXAMPLE_REFUSAL];
  rvl_loss loss;
  assert_true(rvl_loss_parse("loss_graph_v1", NULL, 0, &loss, refusal, sizeof refusal));
  loss.graph = graph;
  return loss;
}

/* How many of the examples there was memory for. */
static size_t read_all(const rvl_loss *loss, rvl_example *examples) {
  char refusal[RVL_EXAMPLE_REFUSAL];
  for (size_t i = 0; i < COUNT; i++) {
    rvl_example_result result = rvl_example_read(datum, datum_size, loss, &config, &examples[i], refusal);
    if (result == RVL_EXAMPLE_NO_MEMORY) return i;
    if (result != RVL_EXAMPLE_OK) fail_msg("%s", refusal);
  }
  return COUNT;
}

/* A job of the engine's: two passes, one of them without gradients, and a step. */
typedef struct training {
  rvl_job job;
  rvl_trainable *model;
  const rvl_example *examples;
  const rvl_loss *loss;
  bool done;
} training;

static bool pass_over(training *t, rvl_pool *pool, bool gradients) {
  rvl_pass_result result;
  rvl_pass_status status = rvl_trainable_pass(t->model, pool, t->examples, COUNT, t->loss, gradients, false,
                                              &t->job.cancelled, &result);
  if (status == RVL_PASS_DONE) rvl_pass_result_free(&result);
  return status == RVL_PASS_DONE;
}

static void train(rvl_job *job, rvl_pool *pool) {
  training *t = (training *)(void *)job;
  if (!pass_over(t, pool, false) || !pass_over(t, pool, true)) return;
  t->done = rvl_trainable_step(t->model, &options).finite;
}

static void tell(void *argument) { atomic_store((atomic_bool *)argument, true); }

static bool run_on(rvl_engine *engine, rvl_base *base, const rvl_lora_config *lora, const rvl_loss *loss,
                   const rvl_example *examples) {
  training t = {.job = {.run = train}, .examples = examples, .loss = loss};
  t.model = rvl_trainable_new(base, &blas, lora, 1);
  if (t.model == NULL) return false;
  rvl_engine_submit(engine, &t.job);
  while (rvl_engine_take(engine) == NULL) sched_yield();
  rvl_trainable_release(t.model);
  return t.done;
}

/* All that training needs, from nothing. */
static bool everything(const rvl_lora_config *lora) {
  rvl_example examples[COUNT] = {0};
  atomic_bool told;
  atomic_init(&told, false);
  rvl_engine *engine = rvl_engine_new(2, tell, &told);
  rvl_base *base = engine != NULL ? rvl_base_new(&config) : NULL;
  rvl_graph *graph = base != NULL ? make_graph() : NULL;
  bool done = false;
  if (graph != NULL) {
    rvl_loss loss = graph_loss(graph);
    rvl_model_initialise(&base->layout, 1, base->weights);
    size_t read = read_all(&loss, examples);
    done = read == COUNT && run_on(engine, base, lora, &loss, examples);
    for (size_t i = 0; i < read; i++) rvl_example_free(&examples[i]);
  }
  rvl_graph_release(graph);
  rvl_base_release(base);
  rvl_engine_free(engine);
  return done;
}

static void sweep(const rvl_lora_config *lora) {
  bool done = false;
  long n = 0;
  for (; !done; n++) {
    assert_true(n < MOST);
    atomic_store(&granted, n);
    done = everything(lora);
    assert_int_equal(atomic_load(&in_use), 0);
  }
  assert_true(n > 40);
}

static void nothing_is_left_over(void **state) {
  (void)state;
  sweep(&adapters);
  sweep(NULL);
}

/* What failed for want of memory changes no number, and can be done again. */
static void goes_on_when_there_is_memory_again(void **state) {
  (void)state;
  float *expected = NULL;
  for (long n = 0, failures = -1; failures != 0; n++) {
    assert_true(n < MOST);
    failures = 0;
    atomic_store(&granted, MOST);
    rvl_example examples[COUNT];
    rvl_base *base = rvl_base_new(&config);
    rvl_graph *graph = make_graph();
    rvl_pool *pool = rvl_pool_new(2);
    rvl_trainable *model = rvl_trainable_new(base, &blas, &adapters, 1);
    assert_true(base != NULL && graph != NULL && pool != NULL && model != NULL);
    rvl_model_initialise(&base->layout, 1, base->weights);
    rvl_trainable_merge(model);
    rvl_loss loss = graph_loss(graph);
    assert_int_equal(read_all(&loss, examples), COUNT);
    training t = {.model = model, .examples = examples, .loss = &loss};
    for (int step = 0; step < 2; step++) {
      atomic_store(&granted, n);
      for (int pass = 0; pass < 2; pass++) {
        while (!pass_over(&t, pool, true)) {
          failures++;
          atomic_store(&granted, MOST);
        }
      }
      assert_true(rvl_trainable_step(model, &options).finite);
    }
    if (expected == NULL) {
      expected = rvl_model_floats(model->floats);
      memcpy(expected, model->trained, model->floats * sizeof *expected);
    }
    assert_memory_equal(model->trained, expected, model->floats * sizeof *expected);
    for (size_t i = 0; i < COUNT; i++) rvl_example_free(&examples[i]);
    rvl_trainable_release(model);
    rvl_pool_free(pool);
    rvl_graph_release(graph);
    rvl_base_release(base);
  }
  metered_free(expected);
  assert_int_equal(atomic_load(&in_use), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_is_left_over),
      cmocka_unit_test(goes_on_when_there_is_memory_again),
  };
  write_datum();
  return cmocka_run_group_tests_name("trainable_oom", tests, set_up, NULL);
}
