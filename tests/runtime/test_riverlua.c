/* The public interface, as a host uses it. */
#include "riverlua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
/* libuv closes descriptors by a bare system call, so their numbers seem to be in use when another thread gets them. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
  return "race:uv__epoll_init\nrace:uv_pipe\nrace:uv_async_init\n" "called_from_lib:libcurl.so\n";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "history_size=7"; }   /* or the names above are not found */
#endif

static riverlua *open_runtime(void) {
  riverlua *rt = riverlua_new(NULL);
  assert_non_null(rt);
  return rt;
}

/* Runs a piece of Lua that must succeed. */
static void run(riverlua *rt, const char *source) {
  riverlua_status status = riverlua_run_string(rt, source, "test");
  if (status != RIVERLUA_OK) fail_msg("%s\n%s", riverlua_error_message(rt), riverlua_error_traceback(rt));
}

/* ---- making and closing --------------------------------------------------------------------------- */

static void test_version(void **state) {
  (void)state;
  assert_int_equal(riverlua_version_number(), RIVERLUA_VERSION_NUMBER);
  assert_string_equal(riverlua_version(), RIVERLUA_VERSION);
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", RIVERLUA_VERSION_MAJOR, RIVERLUA_VERSION_MINOR, RIVERLUA_VERSION_PATCH);
  assert_string_equal(text, RIVERLUA_VERSION);
}

static void test_new_and_close(void **state) {
  (void)state;
  riverlua_close(NULL);
  riverlua *rt = open_runtime();
  assert_string_equal(riverlua_error_message(rt), "");
  assert_string_equal(riverlua_error_kind(rt), "");
  assert_string_equal(riverlua_error_traceback(rt), "");
  assert_null(riverlua_user_data(rt));
  assert_int_equal(riverlua_interrupt_pending(rt), 0);
  assert_non_null(riverlua_state(rt));
  assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  riverlua_close(rt);
}

static void test_config(void **state) {
  (void)state;
  int mine = 0;
  riverlua_config config;
  memset(&config, 0xff, sizeof config);
  riverlua_config_init(&config);
  assert_int_equal(config.size, sizeof config);
  assert_int_equal(config.ignore_environment, 0);
  assert_int_equal(config.memory_limit, 0);
  assert_null(config.user_data);
  config.user_data = &mine;
  riverlua *rt = riverlua_new(&config);
  assert_non_null(rt);
  memset(&config, 0xff, sizeof config);   /* was copied */
  assert_ptr_equal(riverlua_user_data(rt), &mine);
  riverlua_close(rt);
}

/* A host compiled when the struct was shorter: what it does not know keeps its default. */
static void test_config_of_an_older_host(void **state) {
  (void)state;
  riverlua_config config;
  memset(&config, 0xff, sizeof config);
  config.size = offsetof(riverlua_config, memory_limit);
  config.ignore_environment = 1;
  riverlua *rt = riverlua_new(&config);
  assert_non_null(rt);
  assert_null(riverlua_user_data(rt));
  run(rt, "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(100) .. i end");
  riverlua_close(rt);
}

/* And one compiled later: what this library does not know is left alone. */
static void test_config_of_a_newer_host(void **state) {
  (void)state;
  struct {
    riverlua_config config;
    unsigned char more[64];
  } newer;
  memset(&newer, 0xff, sizeof newer);
  riverlua_config_init(&newer.config);
  newer.config.size = sizeof newer;
  riverlua *rt = riverlua_new(&newer.config);
  assert_non_null(rt);
  run(rt, "assert(1 + 1 == 2)");
  riverlua_close(rt);
}

static void test_ignore_environment(void **state) {
  (void)state;
  setenv("LUA_PATH", "/from/the/environment/?.lua", 1);
  riverlua_config config;
  riverlua_config_init(&config);
  riverlua *rt = riverlua_new(&config);
  run(rt, "assert(package.path:find('/from/the/environment', 1, true))");
  riverlua_close(rt);
  config.ignore_environment = 1;
  rt = riverlua_new(&config);
  run(rt, "assert(not package.path:find('/from/the/environment', 1, true))");
  riverlua_close(rt);
  unsetenv("LUA_PATH");
}

static void test_memory_limit(void **state) {
  (void)state;
  riverlua_config config;
  riverlua_config_init(&config);
  config.memory_limit = 2u << 20;
  riverlua *rt = riverlua_new(&config);
  assert_non_null(rt);
  assert_int_equal(riverlua_run_string(rt, "local s = 'x' while true do s = s .. s end", "bomb"),
                   RIVERLUA_OUT_OF_MEMORY);
  assert_string_equal(riverlua_error_kind(rt), "memory");
  assert_string_equal(riverlua_error_message(rt), "not enough memory");
  run(rt, "collectgarbage() assert(collectgarbage 'count' < 1024)");
  riverlua_close(rt);
}

/* A script that keeps all memory there is must not take the host down in the next call. */
static void test_memory_limit_reached_and_kept(void **state) {
  (void)state;
  riverlua_config config;
  riverlua_config_init(&config);
  config.memory_limit = 1u << 20;
  riverlua *rt = riverlua_new(&config);
  assert_non_null(rt);
  assert_int_equal(riverlua_run_string(rt,
                                       "kept = {} local function fill(size) local s = '' while true do "
                                       "kept = {kept, size} end end fill(1)",
                                       "hoarder"),
                   RIVERLUA_OUT_OF_MEMORY);
  for (int i = 0; i < 1000; i++) {
    riverlua_status status = riverlua_run_string(rt, "more = {more, {}, {}, {}}", "more");
    if (status != RIVERLUA_OK) assert_int_equal(status, RIVERLUA_OUT_OF_MEMORY);
    const char *result;
    status = riverlua_call_json(rt, "function(x) return x end", "[1]", &result);
    if (status != RIVERLUA_OK) assert_int_equal(status, RIVERLUA_OUT_OF_MEMORY);
    assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  }
  riverlua_close(rt);
}

static void test_too_little_memory_to_start(void **state) {
  (void)state;
  riverlua_config config;
  riverlua_config_init(&config);
  for (size_t limit = 1; limit < 64u << 10; limit += 509) {
    config.memory_limit = limit;
    riverlua *rt = riverlua_new(&config);
    if (rt == NULL) continue;
    (void)riverlua_run_string(rt, "return 1", NULL);
    riverlua_close(rt);
  }
  config.memory_limit = 1024;
  assert_null(riverlua_new(&config));
}

/* ---- running and failing --------------------------------------------------------------------------- */

static void test_run_string(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  run(rt, "x = 41");
  run(rt, "x = x + 1");
  run(rt, "assert(x == 42)");
  assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  riverlua_close(rt);
}

static void test_error_of_a_script(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  assert_int_equal(riverlua_run_string(rt, "local function inner()\nerror 'boom'\nend\ninner()", "chunk"),
                   RIVERLUA_ERROR);
  assert_string_equal(riverlua_error_message(rt), "chunk:2: boom");
  assert_string_equal(riverlua_error_kind(rt), "lua");
  assert_non_null(strstr(riverlua_error_traceback(rt), "stack traceback:"));
  assert_non_null(strstr(riverlua_error_traceback(rt), "inner"));
  assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  run(rt, "");   /* a success forgets the error */
  assert_string_equal(riverlua_error_message(rt), "");
  assert_string_equal(riverlua_error_kind(rt), "");
  assert_string_equal(riverlua_error_traceback(rt), "");
  riverlua_close(rt);
}

static void test_error_values(void **state) {
  (void)state;
  static const struct {
    const char *source, *kind, *message;
  } cases[] = {
      {"error(42)", "lua", "42"},
      {"error(nil)", "lua", "nil"},
      {"error(true)", "lua", "true"},
      {"error(setmetatable({}, {__tostring = function() return 'mine' end}))", "lua", "mine"},
      {"error(setmetatable({}, {__tostring = function() return 1 end}))", NULL, NULL},
      {"error(setmetatable({}, {__tostring = function() error 'again' end}))", NULL, NULL},
      {"require('riverlua.errors').raise{kind = 'http', message = 'no', hint = 'try'}", "http",
       "http: no (hint: try)"},
      {"error({kind = 7})", "lua", NULL},
      {"local function f() return 1 + f() end f()", "lua", NULL},
      {"coroutine.wrap(function() error('inside', 0) end)()", "lua", NULL},
      {"local t = require 'riverlua.task' t.spawn(error, 'in a task', 0):await()", "lua", "in a task"},
      {"local t = require 'riverlua.task' t.queue():get()", "deadlock", NULL},
      {"local t <close> = setmetatable({}, {__close = function() error('closing', 0) end})", "lua", "closing"},
  };
  riverlua *rt = open_runtime();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(riverlua_run_string(rt, cases[i].source, "case"), RIVERLUA_ERROR);
    if (cases[i].kind != NULL) assert_string_equal(riverlua_error_kind(rt), cases[i].kind);
    if (cases[i].message != NULL) assert_string_equal(riverlua_error_message(rt), cases[i].message);
    assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  }
  riverlua_close(rt);
}

static void test_syntax_errors_and_names(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  assert_int_equal(riverlua_run_string(rt, "x = = 1", "named"), RIVERLUA_ERROR);
  assert_non_null(strstr(riverlua_error_message(rt), "named:1:"));
  assert_int_equal(riverlua_run_string(rt, "x = = 1", NULL), RIVERLUA_ERROR);
  assert_non_null(strstr(riverlua_error_message(rt), "[string \"x = = 1\"]:1:"));
  /* precompiled code is not a script */
  assert_int_equal(riverlua_run_string(rt, "\x1bLua", "binary"), RIVERLUA_ERROR);
  riverlua_close(rt);
}

static void test_run_file(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  char path[] = "/tmp/riverlua_test_XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  FILE *file = fdopen(fd, "w");
  assert_non_null(file);
  fputs("#!/usr/bin/env riverlua\nran = (ran or 0) + 1\nif ran == 2 then error 'second' end\n", file);
  fclose(file);
  assert_int_equal(riverlua_run_file(rt, path), RIVERLUA_OK);
  run(rt, "assert(ran == 1)");
  assert_int_equal(riverlua_run_file(rt, path), RIVERLUA_ERROR);
  assert_non_null(strstr(riverlua_error_message(rt), ":3: second"));
  unlink(path);
  assert_int_equal(riverlua_run_file(rt, path), RIVERLUA_ERROR);
  assert_non_null(strstr(riverlua_error_message(rt), path));
  assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  riverlua_close(rt);
}

/* ---- JSON in, JSON out ------------------------------------------------------------------------------ */

static void test_call_json(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  run(rt,
      "function echo(x) return x end function twice(x) return x * 2, 'dropped' end function nothing() end "
      "my = {module = {score = function(x) return {score = x.a + #x.b, ok = true} end}}");
  static const struct {
    const char *function, *arguments, *result;
  } cases[] = {
      {"echo", "[1,2.5,\"\\u00fc\",null,true,{}]", "[1,2.5,\"\xc3\xbc\",null,true,{}]"},
      {"echo", "[]", "[]"},
      {"echo", "9007199254740993", "9007199254740993"},
      {"twice", "21", "42"},
      {"my.module.score", "{\"a\":1,\"b\":[1,2]}", NULL},
      {"function(x) return x == nil end", NULL, "true"},
      {"nothing", NULL, "null"},
      {"nothing", "1", "null"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *result = NULL;
    riverlua_status status = riverlua_call_json(rt, cases[i].function, cases[i].arguments, &result);
    if (status != RIVERLUA_OK) fail_msg("%s: %s", cases[i].function, riverlua_error_message(rt));
    assert_non_null(result);
    if (cases[i].result != NULL) assert_string_equal(result, cases[i].result);
    assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  }
  assert_int_equal(riverlua_call_json(rt, "echo", "1", NULL), RIVERLUA_OK);
  assert_int_equal(riverlua_call_json(rt, "function() return print end", NULL, NULL), RIVERLUA_OK);
  riverlua_close(rt);
}

static void test_call_json_errors(void **state) {
  (void)state;
  static const struct {
    const char *function, *arguments, *kind;
  } cases[] = {
      {"echo", "{\"a\":", "json"},         {"no_such_function", "1", "lua"},
      {"no.such.module", "1", "lua"},      {"not a name", "1", "lua"},
      {"function() return print end", NULL, "json"}, {"function() error 'x' end", NULL, "lua"},
      {"function() return 0/0 end", NULL, "json"},
  };
  riverlua *rt = open_runtime();
  run(rt, "function echo(x) return x end");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *result = "untouched";
    assert_int_equal(riverlua_call_json(rt, cases[i].function, cases[i].arguments, &result), RIVERLUA_ERROR);
    assert_null(result);
    assert_string_equal(riverlua_error_kind(rt), cases[i].kind);
    assert_true(riverlua_error_message(rt)[0] != '\0');
    assert_int_equal(lua_gettop(riverlua_state(rt)), 0);
  }
  riverlua_close(rt);
}

static void test_call_json_may_block(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  run(rt, "local task = require 'riverlua.task' function slow(x) task.sleep(0.001) return x end");
  const char *result;
  assert_int_equal(riverlua_call_json(rt, "slow", "[7]", &result), RIVERLUA_OK);
  assert_string_equal(result, "[7]");
  riverlua_close(rt);
}

/* ---- interrupts ------------------------------------------------------------------------------------- */

/* Functions for scripts: the moment at which the other side may act. */
typedef struct meeting {
  riverlua *rt;
  atomic_int arrived;
  pthread_t script_thread;
} meeting;

static int arrive(lua_State *L) {
  meeting *m = lua_touserdata(L, lua_upvalueindex(1));
  atomic_store(&m->arrived, 1);
  return 0;
}

static void add_arrive(meeting *m) {
  lua_State *L = riverlua_state(m->rt);
  lua_pushlightuserdata(L, m);
  lua_pushcclosure(L, arrive, 1);
  lua_setglobal(L, "arrive");
}

static void *interrupt_when_arrived(void *argument) {
  meeting *m = argument;
  while (atomic_load(&m->arrived) == 0) sched_yield();
  riverlua_interrupt(m->rt);
  return NULL;
}

static void interrupted_from_a_thread(const char *source) {
  meeting m = {.rt = open_runtime()};
  add_arrive(&m);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, interrupt_when_arrived, &m), 0);
  assert_int_equal(riverlua_run_string(m.rt, source, "waiting"), RIVERLUA_INTERRUPTED);
  pthread_join(thread, NULL);
  assert_string_equal(riverlua_error_kind(m.rt), "interrupted");
  assert_int_equal(riverlua_interrupt_pending(m.rt), 0);
  run(m.rt, "require('riverlua.task').sleep(0)");   /* usable afterwards */
  riverlua_close(m.rt);
}

static void test_interrupt_from_another_thread(void **state) {
  (void)state;
  interrupted_from_a_thread("local task = require 'riverlua.task' arrive() task.sleep(1000)");
  interrupted_from_a_thread("local task = require 'riverlua.task' task.spawn(arrive) task.sleep(1000)");
  interrupted_from_a_thread(
      "local task = require 'riverlua.task' task.spawn(function() arrive() task.sleep(1000) end):await()");
  interrupted_from_a_thread(
      "local task = require 'riverlua.task' table.sort({2, 1}, function() arrive() task.sleep(1000) end)");
  interrupted_from_a_thread(
      "local task = require 'riverlua.task' arrive() while true do task.sleep(0) end");
}

static riverlua *signalled;

static void on_signal(int number) {
  (void)number;
  riverlua_interrupt(signalled);
}

static void *signal_when_arrived(void *argument) {
  meeting *m = argument;
  while (atomic_load(&m->arrived) == 0) sched_yield();
  pthread_kill(m->script_thread, SIGUSR1);
  return NULL;
}

static void interrupted_by_a_signal(const char *source) {
  meeting m = {.rt = open_runtime(), .script_thread = pthread_self()};
  add_arrive(&m);
  signalled = m.rt;
  struct sigaction action, before;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, &before);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, signal_when_arrived, &m), 0);
  assert_int_equal(riverlua_run_string(m.rt, source, "busy"), RIVERLUA_INTERRUPTED);
  pthread_join(thread, NULL);
  sigaction(SIGUSR1, &before, NULL);
  assert_string_equal(riverlua_error_kind(m.rt), "interrupted");
  assert_int_equal(riverlua_interrupt_pending(m.rt), 0);
  run(m.rt, "local n = 0 for i = 1, 1000 do n = n + i end");
  riverlua_close(m.rt);
}

static void test_interrupt_by_a_signal(void **state) {
  (void)state;
#if defined(__SANITIZE_THREAD__)
  skip();   /* ThreadSanitizer holds signals back while a thread makes no system calls */
#endif
  interrupted_by_a_signal("arrive() while true do end");
  interrupted_by_a_signal("arrive() local s repeat s = ('x'):rep(10) until false");
  interrupted_by_a_signal("coroutine.wrap(function() arrive() while true do end end)()");
  interrupted_by_a_signal(
      "local gen = coroutine.wrap(function() while true do coroutine.yield(1) end end) arrive() "
      "while true do gen() end");
  interrupted_by_a_signal("arrive() while true do coroutine.wrap(function() return 1 end)() end");
  interrupted_by_a_signal("local task = require 'riverlua.task' arrive() task.sleep(1000)");
  interrupted_by_a_signal(
      "local task = require 'riverlua.task' task.spawn(function() arrive() while true do end end):await()");
  interrupted_by_a_signal(
      "local task = require 'riverlua.task' task.spawn(function() arrive() while true do pcall(task.sleep, 0) end end)"
      "task.sleep(1000)");
}

static void test_interrupt_runs_close_handlers(void **state) {
  (void)state;
  meeting m = {.rt = open_runtime()};
  add_arrive(&m);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, interrupt_when_arrived, &m), 0);
  assert_int_equal(riverlua_run_string(m.rt,
                                       "local task = require 'riverlua.task'\n"
                                       "local _ <close> = setmetatable({}, {__close = function(_, e)\n"
                                       "  task.sleep(0.001) closed = e.kind end})\n"
                                       "arrive() task.sleep(1000)",
                                       "closing"),
                   RIVERLUA_INTERRUPTED);
  pthread_join(thread, NULL);
  run(m.rt, "assert(closed == 'interrupted')");
  riverlua_close(m.rt);
}

/* Made on one thread, used on another: the interrupt comes from where it was made. */
static void *run_elsewhere(void *argument) {
  meeting *m = argument;
  riverlua_status status = riverlua_run_string(
      m->rt, "local task = require 'riverlua.task' task.spawn(function() arrive() task.sleep(1000) end):await()",
      "elsewhere");
  return (void *)(uintptr_t)status;
}

static void test_interrupt_of_a_runtime_handed_over(void **state) {
  (void)state;
  meeting m = {.rt = open_runtime()};
  add_arrive(&m);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, run_elsewhere, &m), 0);
  while (atomic_load(&m.arrived) == 0) sched_yield();
  riverlua_interrupt(m.rt);
  void *status;
  pthread_join(thread, &status);
  assert_int_equal((uintptr_t)status, RIVERLUA_INTERRUPTED);
  riverlua_close(m.rt);
}

static void test_interrupt_before_a_call_is_kept(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  riverlua_interrupt(rt);
  assert_int_not_equal(riverlua_interrupt_pending(rt), 0);
  assert_int_equal(riverlua_run_string(rt, "while true do end", "late"), RIVERLUA_INTERRUPTED);
  assert_int_equal(riverlua_interrupt_pending(rt), 0);
  riverlua_close(rt);
}

static void *wake_until_told(void *argument) {
  meeting *m = argument;
  while (atomic_load(&m->arrived) == 0) riverlua_wake(m->rt);
  return NULL;
}

static void test_wake_disturbs_nothing(void **state) {
  (void)state;
  meeting m = {.rt = open_runtime()};
  add_arrive(&m);
  riverlua_wake(m.rt);   /* before there is a loop */
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, wake_until_told, &m), 0);
  run(m.rt,
      "local task = require 'riverlua.task' local before = task.now() task.sleep(0.01) "
      "assert(task.now() - before >= 0.01) "
      "local q = task.queue() assert(not pcall(q.get, q, 0.001)) arrive()");
  pthread_join(thread, NULL);
  riverlua_close(m.rt);
}

/* ---- several at once --------------------------------------------------------------------------------- */

static void test_several_on_one_thread(void **state) {
  (void)state;
  enum { COUNT = 8 };
  riverlua *all[COUNT];
  for (int i = 0; i < COUNT; i++) {
    all[i] = open_runtime();
    lua_pushinteger(riverlua_state(all[i]), i);
    lua_setglobal(riverlua_state(all[i]), "number");
  }
  for (int round = 0; round < 3; round++)
    for (int i = 0; i < COUNT; i++)
      run(all[i], "local task = require 'riverlua.task' kept = kept or task.queue(100) "
                  "task.spawn(function() kept:put(number) end) task.sleep(0) assert(kept:get() == number)");
  for (int i = COUNT - 1; i >= 0; i--) riverlua_close(all[i]);
}

static void *use_a_runtime(void *argument) {
  (void)argument;
  static const char source[] =
      "local task, json, http = require 'riverlua.task', require 'riverlua.json', require 'riverlua.http'\n"
      "local sum = 0\n"
      "for _, x in ipairs(task.map({1, 2, 3, 4}, function(x) task.sleep(0.001) return x end)) do sum = sum + x end\n"
      "assert(sum == 10)\n"
      "assert(json.decode(json.encode{a = {1, 2.5}}).a[2] == 2.5)\n"
      "local client <close> = http.Client{proxy = false, retries = 0}\n"
      "local ok, err = pcall(client.get, client, 'http://127.0.0.1:1/')\n"
      "assert(not ok and err.kind == 'connect', tostring(err))\n";
  for (int i = 0; i < 5; i++) {
    riverlua *rt = riverlua_new(NULL);
    if (rt == NULL) return (void *)1;
    riverlua_status status = riverlua_run_string(rt, source, "threads");
    if (status != RIVERLUA_OK) fprintf(stderr, "%s\n", riverlua_error_message(rt));
    riverlua_close(rt);
    if (status != RIVERLUA_OK) return (void *)1;
  }
  return NULL;
}

static void test_several_threads(void **state) {
  (void)state;
  enum { COUNT = 6 };
  pthread_t threads[COUNT];
  for (int i = 0; i < COUNT; i++) assert_int_equal(pthread_create(&threads[i], NULL, use_a_runtime, NULL), 0);
  for (int i = 0; i < COUNT; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    assert_null(failed);
  }
}

/* ---- hosts with a state of their own ------------------------------------------------------------------ */

static int open_libraries(lua_State *L) { return riverlua_openlibs(L); }

static void test_openlibs(void **state) {
  (void)state;
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  lua_pushcfunction(L, open_libraries);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
  if (luaL_dostring(L, "local task = require 'riverlua.task'\n"
                       "local t = task.spawn(function(x) task.sleep(0.001) return x end, 'own state')\n"
                       "assert(t:await() == 'own state')\n"
                       "task.spawn(task.sleep, 1000) task.sleep(0)\n"
                       "assert(require('river.model'))\n") != LUA_OK)
    fail_msg("%s", lua_tostring(L, -1));
  lua_close(L);
}

/* A coroutine that the host resumes itself cannot hand its waits to anybody: it waits by running the loop. */
static void test_coroutine_of_the_host(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  lua_State *L = riverlua_state(rt);
  lua_State *co = lua_newthread(L);
  assert_int_equal(luaL_loadstring(co, "local task = require 'riverlua.task'\n"
                                       "local other = task.spawn(function() return 'other' end)\n"
                                       "task.sleep(0.001)\n"
                                       "local x = coroutine.yield('first')\n"
                                       "return x, other:await()"),
                   LUA_OK);
  int nresults;
  assert_int_equal(lua_resume(co, L, 0, &nresults), LUA_YIELD);
  assert_int_equal(nresults, 1);
  assert_string_equal(lua_tostring(co, -1), "first");
  lua_settop(co, 0);
  lua_pushliteral(co, "back");
  assert_int_equal(lua_resume(co, L, 1, &nresults), LUA_OK);
  assert_int_equal(nresults, 2);
  assert_string_equal(lua_tostring(co, -2), "back");
  assert_string_equal(lua_tostring(co, -1), "other");
  lua_pop(L, 1);
  riverlua_close(rt);
}

/* ---- closing with something alive ----------------------------------------------------------------------- */

static void test_close_runs_close_handlers_of_tasks(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  int closed = 0;
  lua_pushlightuserdata(riverlua_state(rt), &closed);
  lua_setglobal(riverlua_state(rt), "counter");
  meeting m = {.rt = rt};
  add_arrive(&m);
  run(rt,
      "local task = require 'riverlua.task'\n"
      "for i = 1, 3 do task.spawn(function()\n"
      "  local _ <close> = setmetatable({}, {__close = function() task.sleep(0) arrive() end})\n"
      "  task.sleep(1000)\n"
      "end) end\n"
      "task.sleep(0)");
  assert_int_equal(atomic_load(&m.arrived), 0);
  riverlua_close(rt);
  assert_int_equal(atomic_load(&m.arrived), 1);
}

static void test_close_with_live_things(void **state) {
  (void)state;
  static const char *const sources[] = {
      "local task = require 'riverlua.task' task.spawn(function() end)",
      "local task = require 'riverlua.task' kept = task.spawn(function() task.sleep(1000) end) task.sleep(0)",
      "local task = require 'riverlua.task' local q = task.queue() task.spawn(function() q:get() end) task.sleep(0)",
      "local task = require 'riverlua.task' gen = coroutine.wrap(function() task.sleep(0) coroutine.yield() end) gen()",
      "local task = require 'riverlua.task' for i = 1, 100 do task.spawn(print):cancel() end",
      "local task = require 'riverlua.task' task.spawn(function() pcall(task.sleep, 1000) end) task.sleep(0)",
      "setmetatable({}, {__gc = function() require('riverlua.task').sleep(0) error 'in a finalizer' end})",
      "client = require('riverlua.http').Client{}",
      "c = require('riverlua.http').Client{} require('riverlua.task').spawn(c.get, c, 'http://127.0.0.1:1/')",
      "error 'at the end'",
  };
  for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
    riverlua *rt = open_runtime();
    (void)riverlua_run_string(rt, sources[i], "live");
    riverlua_close(rt);
  }
}

/* A task that swallows every cancellation must not keep the host from closing. */
static void test_close_with_a_task_that_will_not_end(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  run(rt, "local task = require 'riverlua.task'\n"
          "task.spawn(function() while true do pcall(task.sleep, 1000) end end)\n"
          "task.sleep(0)");
  riverlua_close(rt);
}

/* ---- silence ------------------------------------------------------------------------------------------- */

static void test_signals_are_the_hosts(void **state) {
  (void)state;
  riverlua *rt = open_runtime();
  assert_int_equal(riverlua_run_string(rt, "require('riverlua.core.listener').signals()", "test"), RIVERLUA_ERROR);
  assert_string_equal(riverlua_error_kind(rt), "unsupported");
  riverlua_close(rt);
  struct sigaction now;
  assert_int_equal(sigaction(SIGINT, NULL, &now), 0);
  assert_true(now.sa_handler == SIG_DFL);
}

static void test_prints_nothing(void **state) {
  (void)state;
  fflush(NULL);
  FILE *spool = tmpfile();
  assert_non_null(spool);
  int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
  dup2(fileno(spool), STDOUT_FILENO);
  dup2(fileno(spool), STDERR_FILENO);
  riverlua *rt = riverlua_new(NULL);
  if (rt != NULL) {
    (void)riverlua_run_string(rt, "error 'x'", "a");
    (void)riverlua_run_string(rt, "syntax error", "a");
    (void)riverlua_run_file(rt, "/nonexistent/file.lua");
    (void)riverlua_call_json(rt, "nothing", "{", NULL);
    (void)riverlua_run_string(rt, "local t = require 'riverlua.task' t.spawn(error, 'unseen') t.sleep(0)", "a");
    (void)riverlua_run_string(rt, "warn('@on') setmetatable({}, {__gc = function() end})", "a");
    (void)riverlua_run_string(rt, "require('riverlua.http').Client{proxy = false}:get('http://127.0.0.1:1/')", "a");
    riverlua_close(rt);
  }
  fflush(NULL);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  close(out);
  close(err);
  long length = (fseek(spool, 0, SEEK_END), ftell(spool));
  fclose(spool);
  assert_non_null(rt);
  assert_int_equal(length, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_version),
      cmocka_unit_test(test_new_and_close),
      cmocka_unit_test(test_config),
      cmocka_unit_test(test_config_of_an_older_host),
      cmocka_unit_test(test_config_of_a_newer_host),
      cmocka_unit_test(test_ignore_environment),
      cmocka_unit_test(test_memory_limit),
      cmocka_unit_test(test_memory_limit_reached_and_kept),
      cmocka_unit_test(test_too_little_memory_to_start),
      cmocka_unit_test(test_run_string),
      cmocka_unit_test(test_error_of_a_script),
      cmocka_unit_test(test_error_values),
      cmocka_unit_test(test_syntax_errors_and_names),
      cmocka_unit_test(test_run_file),
      cmocka_unit_test(test_call_json),
      cmocka_unit_test(test_call_json_errors),
      cmocka_unit_test(test_call_json_may_block),
      cmocka_unit_test(test_interrupt_from_another_thread),
      cmocka_unit_test(test_interrupt_by_a_signal),
      cmocka_unit_test(test_interrupt_runs_close_handlers),
      cmocka_unit_test(test_interrupt_of_a_runtime_handed_over),
      cmocka_unit_test(test_interrupt_before_a_call_is_kept),
      cmocka_unit_test(test_wake_disturbs_nothing),
      cmocka_unit_test(test_several_on_one_thread),
      cmocka_unit_test(test_several_threads),
      cmocka_unit_test(test_openlibs),
      cmocka_unit_test(test_coroutine_of_the_host),
      cmocka_unit_test(test_close_runs_close_handlers_of_tasks),
      cmocka_unit_test(test_close_with_live_things),
      cmocka_unit_test(test_close_with_a_task_that_will_not_end),
      cmocka_unit_test(test_signals_are_the_hosts),
      cmocka_unit_test(test_prints_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
