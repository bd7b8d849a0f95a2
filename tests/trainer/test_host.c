/* The trainer in a host's hands: runtimes that are closed, interrupted, short of memory or several at a time while
 * their engines work. Also run under ThreadSanitizer. */
#include "riverlua.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__)
/* libuv closes descriptors by a bare system call: their numbers seem to be in use when another thread
   gets them. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) { return "race:uv__epoll_init\nrace:uv_pipe\nrace:uv_async_init\n"; }

const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "history_size=7"; }   /* or the names above are not found */
#endif

enum { RUNTIMES = 4 };

/* `work(count)`: a pass over so many examples; `sample(count, most)`; `begin(fn, …)`: in a task of its own. */
static const char prelude[] =
    "core, task = require 'riverlua.core.trainer', require 'riverlua.task'\n"
    "local datum, array = require 'training.datum', require 'riverlua.array'\n"
    "config = {vocabulary = 64, width = 16, layers = 1, heads = 2, hidden = 32, context = 64}\n"
    "function open(threads)\n"
    "  engine = core.open{threads = threads or 2}\n"
    "  base = engine:base(config, nil, 1)\n"
    "  model = engine:model(base, {rank = 2, scale = 2, attn = true, mlp = true, seed = 1})\n"
    "end\n"
    "local ids, weights = array.fill('int64', 40, 3), array.fill('float32', 40, 1)\n"
    "local bytes = datum.encode({input_ids = ids, weights = weights})\n"
    "function examples(count)\n"
    "  local list = {}\n"
    "  for i = 1, count do list[i] = bytes end\n"
    "  return list\n"
    "end\n"
    "local loss = {loss = 'cross_entropy', config = {}, gradients = true, clear = true}\n"
    "function work(count) return model:pass(examples(count), loss) end\n"
    "function sample(count, most)\n"
    "  local list = {}\n"
    "  for i = 1, count do list[i] = {ids = {1, 2, 3}, max_tokens = most, seed = i} end\n"
    "  return model:sample(list)\n"
    "end\n"
    "function begin(fn, ...)\n"
    "  local one = task.spawn(fn, ...)\n"
    "  task.sleep(0)\n"
    "  return one\n"
    "end\n";

static void run(riverlua *rt, const char *source) {
  riverlua_status status = riverlua_run_string(rt, source, "test");
  if (status != RIVERLUA_OK) fail_msg("%s\n%s", riverlua_error_message(rt), riverlua_error_traceback(rt));
}

static riverlua *open_runtime(size_t memory_limit) {
  riverlua_config config;
  riverlua_config_init(&config);
  config.memory_limit = memory_limit;
  riverlua *rt = riverlua_new(&config);
  assert_non_null(rt);
  run(rt, prelude);
  return rt;
}

static void test_closed_at_work(void **state) {
  (void)state;
  static const char *const scripts[] = {
      "open() begin(work, 1000)",
      "open() begin(work, 1000) begin(sample, 100, 60) begin(model.step, model, {lr = 1e-3})",
      "open(1) for _ = 1, 20 do begin(work, 200) end",
      "open() for _ = 1, 20 do begin(work, 200):cancel() end",
      "open() begin(work, 1000) model = nil collectgarbage()",
      "open() begin(work, 1000) engine, base, model = nil collectgarbage() collectgarbage()",
      "open() begin(work, 1000) model:close() base:close()",
      "for i = 1, 3 do open(i) keep = {keep, engine} begin(work, 1000) begin(sample, 100, 60) end",
      "open() begin(work, 10) begin(model.merged, model) begin(model.optimizer, model) task.sleep(0)",
      "open() begin(work, 1000) engine:close()",
      "open() local _ <close> = setmetatable({}, {__close = function() work(1) end})\n"
      "  begin(work, 1000) error('mine')",
      "open() begin(function() local _ <close> = setmetatable({}, {__close = function() pcall(work, 1) end})\n"
      "  work(1000) end)",
  };
  size_t step = getenv("RIVERLUA_VALGRIND") != NULL ? 4 : 1;   /* each runtime takes seconds there */
  for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i += step) {
    riverlua *rt = open_runtime(0);
    riverlua_status status = riverlua_run_string(rt, scripts[i], "test");
    if (status == RIVERLUA_ERROR) assert_non_null(strstr(riverlua_error_message(rt), "mine"));
    riverlua_close(rt);
  }
}

/* Between two calls of the host tasks stand still; the engine does not: what it has done is there afterwards. */
static void test_between_calls(void **state) {
  (void)state;
  riverlua *rt = open_runtime(0);
  run(rt, "open() one = begin(work, 100) other = begin(work, 2)");
  run(rt, "assert(other:await().datums == 2 and one:await().datums == 100)");
  run(rt, "assert(model:step{lr = 1e-3}.step == 1)");
  riverlua_close(rt);
}

/* Runs a script that goes beyond the limit, and another one that must do nevertheless. */
static void test_memory_limit(void **state) {
  (void)state;
  static const char *const scripts[] = {
      "local kept = {} for i = 1, 100 do begin(work, 20) kept[i] = ('x'):rep(1 << 20) end",
      "local kept = {} begin(sample, 200, 60) for i = 1, 1 << 30 do kept[i] = {i} end",
      "for _ = 1, 20 do begin(sample, 100, 60) end task.sleep(0.01) local x = ('x'):rep(1 << 30)",
      "local results = {} for i = 1, 10000 do results[i] = sample(50, 60) end",
      "local results = {} for i = 1, 10000 do results[i] = model:merged() end",
      "local results = {} for i = 1, 10000 do results[i] = work(50) end",
  };
  if (getenv("RIVERLUA_VALGRIND") != NULL) skip();   /* it would take minutes to fill the memory */
  for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
    riverlua *rt = open_runtime(6 << 20);
    run(rt, "open()");
    riverlua_status status = riverlua_run_string(rt, scripts[i], "test");
    if (status != RIVERLUA_OUT_OF_MEMORY) {
      fail_msg("script %zu: %d, %s (%s)", i, (int)status, riverlua_error_message(rt), riverlua_error_kind(rt));
    }
    run(rt, "collectgarbage() assert(work(3).datums == 3)");
    run(rt, "assert(#sample(3, 4) == 3 and model:step{lr = 1e-3}.finite)");
    if (i % 2 == 0) riverlua_run_string(rt, scripts[i], "test");
    riverlua_close(rt);
  }
}

static void *interrupt(void *argument) {
  usleep(20000);
  riverlua_interrupt(argument);
  return NULL;
}

static void test_interrupted(void **state) {
  (void)state;
  static const char *const scripts[] = {"while true do work(3000) end", "while true do sample(200, 60) end",
                                        "while true do begin(work, 10) end"};
  for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
    riverlua *rt = open_runtime(0);
    pthread_t thread;
    run(rt, "open()");
    assert_int_equal(pthread_create(&thread, NULL, interrupt, rt), 0);
    assert_int_equal(riverlua_run_string(rt, scripts[i], "test"), RIVERLUA_INTERRUPTED);
    pthread_join(thread, NULL);
    run(rt, "assert(work(3).datums == 3)");
    riverlua_close(rt);
  }
}

/* Each thread has a runtime of its own; all begin at once, so that they load the library at once. */
typedef struct host {
  pthread_t thread;
  pthread_barrier_t *begin;
  char said[256];              /* of the runtime, when something went wrong */
} host;

static void *train(void *argument) {
  host *h = argument;
  pthread_barrier_wait(h->begin);
  riverlua *rt = riverlua_new(NULL);
  if (rt == NULL) {
    snprintf(h->said, sizeof h->said, "no runtime");
    return NULL;
  }
  if (riverlua_run_string(rt, prelude, "prelude") != RIVERLUA_OK ||
      riverlua_run_string(rt, "open() for _ = 1, 5 do work(20) model:step{lr = 1e-3} sample(5, 5) end", "test") !=
          RIVERLUA_OK) {
    snprintf(h->said, sizeof h->said, "%s", riverlua_error_message(rt));
  }
  riverlua_close(rt);
  return NULL;
}

static void test_several_runtimes(void **state) {
  (void)state;
  host hosts[RUNTIMES] = {0};
  pthread_barrier_t begin;
  pthread_barrier_init(&begin, NULL, RUNTIMES);
  for (size_t i = 0; i < RUNTIMES; i++) {
    hosts[i].begin = &begin;
    assert_int_equal(pthread_create(&hosts[i].thread, NULL, train, &hosts[i]), 0);
  }
  for (size_t i = 0; i < RUNTIMES; i++) {
    pthread_join(hosts[i].thread, NULL);
    assert_string_equal(hosts[i].said, "");
  }
  pthread_barrier_destroy(&begin);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_several_runtimes), cmocka_unit_test(test_closed_at_work),
      cmocka_unit_test(test_between_calls),    cmocka_unit_test(test_memory_limit),
      cmocka_unit_test(test_interrupted),
  };
  return cmocka_run_group_tests_name("trainer_host", tests, NULL, NULL);
}
