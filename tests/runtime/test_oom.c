/*
** Every allocation failed once: Lua's through the state's allocator, and (where no sanitizer owns malloc) those of
** the library and libuv. Nothing may crash, the state stays usable and closable, and no byte is left.
*/
#include "modules.h"
#include "riverlua.h"
#include "websocket_handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
** ---- a server in this process: answers every request with a small JSON document, and a request for a WebSocket with a
** message and a close frame
*/

static int server_fd;
static char server_url[64];

static void answer_websocket(int fd, const char *key) {
  char answer[256], accept[RVL_WEBSOCKET_ACCEPT_SIZE];
  rvl_websocket_accept(key, 24, accept);
  int n = snprintf(answer, sizeof answer,
                   "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %.*s\r\n\r\n\x81\x02hi\x88",
                   (int)sizeof accept, accept);
  (void)!send(fd, answer, (size_t)n + 1, MSG_NOSIGNAL);   /* the zero ends the close frame */
  (void)!recv(fd, answer, sizeof answer, 0);
}

/*
** A call of gRPC, or several over one connection: the message "hi" and OK as soon as a request is whole. `have` bytes
** have come already, behind the preface.
*/
static void answer_grpc(int fd, const char *start, size_t have) {
  static const char settings[] = "\0\0\0\4\0\0\0\0\0";
  static const char answer[] =
      "\0\0\x2c\1\4\0\0\0?\0\7:status\003200\0\14content-type\20application/grpc"
      "\0\0\7\0\0\0\0\0?\0\0\0\0\2hi"
      "\0\0\17\1\5\0\0\0?\0\13grpc-status\0010";
  char buffer[65536], out[sizeof answer];
  memcpy(buffer, start, have);
  (void)!send(fd, settings, sizeof settings - 1, MSG_NOSIGNAL);
  for (;;) {
    const unsigned char *head = (const unsigned char *)buffer;
    size_t length = have < 9 ? 0 : ((size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2]) + 9;
    if (have >= 9 && have >= length) {
      char stream = buffer[8];   /* few calls: the lowest byte says it all */
      bool whole = head[3] == 0 && (head[4] & 1) != 0;
      memmove(buffer, buffer + length, have -= length);
      if (!whole) continue;
      memcpy(out, answer, sizeof answer);
      for (size_t i = 0; i < sizeof answer; i++)
        if (out[i] == '?') out[i] = stream;
      (void)!send(fd, out, sizeof answer - 1, MSG_NOSIGNAL);
      continue;
    }
    ssize_t n = recv(fd, buffer + have, sizeof buffer - have, 0);
    if (n <= 0) return;
    have += (size_t)n;
  }
}

static void *serve(void *unused) {
  (void)unused;
  static const char answer[] =
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"ok\":[]}";
  for (;;) {
    int fd = accept(server_fd, NULL, NULL);
    if (fd < 0) return NULL;
    struct timeval patience = {.tv_sec = 5};   /* for a client that ran out of memory half-way */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char request[8192];
    size_t length = 0;
    ssize_t n;
    while (length < sizeof request - 1 && (n = recv(fd, request + length, sizeof request - 1 - length, 0)) > 0) {
      length += (size_t)n;
      request[length] = '\0';
      bool grpc = length >= 4 && memcmp(request, "PRI ", 4) == 0;
      if (grpc && length >= 24) {
        answer_grpc(fd, request + 24, length - 24);
        break;
      }
      if (!grpc && strstr(request, "\r\n\r\n") != NULL) {
        const char *key = strstr(request, "Sec-WebSocket-Key: ");
        if (key != NULL) answer_websocket(fd, key + strlen("Sec-WebSocket-Key: "));
        else (void)!send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
        break;
      }
    }
    close(fd);
  }
}

static int start_server(void **state) {
  (void)state;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  server_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (server_fd < 0 || bind(server_fd, (struct sockaddr *)&address, size) != 0 || listen(server_fd, 64) != 0 ||
      getsockname(server_fd, (struct sockaddr *)&address, &size) != 0)
    return -1;
  snprintf(server_url, sizeof server_url, "http://127.0.0.1:%d", ntohs(address.sin_port));
  pthread_t thread;
  if (pthread_create(&thread, NULL, serve, NULL) != 0) return -1;
  return pthread_detach(thread);
}

/* ---- malloc and its family, failing on order ---------------------------------------------------------------- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#if defined(__GLIBC__) && !defined(SANITIZED)
#define FAILING_MALLOC 1
#endif

#ifdef FAILING_MALLOC
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

/* Allocations of this thread still granted; negative: all. Volatile: compilers think that malloc reads no variable. */
static _Thread_local volatile long granted = -1;
static _Thread_local volatile bool none_later;   /* all later ones fail as well */

extern const char __executable_start, etext;

/*
** Only what this program asks for itself (the library and libuv): libcurl 7.88 divides by zero when a table of its
** own gets no memory, and nothing can be done about that here.
*/
static bool refused(const void *caller) {
  if (granted < 0 || (const char *)caller < &__executable_start || (const char *)caller >= &etext) return false;
  if (granted > 0) {
    granted--;
    return false;
  }
  if (!none_later) granted = -1;
  return true;
}

#define REFUSED refused(__builtin_return_address(0))

void *malloc(size_t size) { return REFUSED ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return REFUSED ? NULL : __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return size > 0 && REFUSED ? NULL : __libc_realloc(block, size); }
#endif

/* ---- Lua's allocator, failing on order -------------------------------------------------------------------------- */

typedef struct meter {
  long granted;    /* as above */
  bool for_ever;
  long count;
  size_t in_use;
} meter;

static void *metered(void *user, void *block, size_t old_size, size_t size) {
  meter *m = user;
  if (block == NULL) old_size = 0;
  if (size == 0) {
    free(block);
    m->in_use -= old_size;
    return NULL;
  }
  if (size > old_size) {
    m->count++;
    if (m->granted == 0) {
      if (!m->for_ever) m->granted = -1;
      return NULL;
    }
    if (m->granted > 0) m->granted--;
  }
  void *moved = realloc(block, size);
  if (moved != NULL) m->in_use = m->in_use - old_size + size;
  return moved;
}

static int open_libraries(lua_State *L) {
  luaL_openlibs(L);
  /* Lua 5.4 leaves the metatable of its string buffers unfinished when memory ends while it is made: have it made. */
  luaL_Buffer buffer;
  luaL_buffinitsize(L, &buffer, 10000);
  luaL_pushresultsize(&buffer, 0);
  lua_pop(L, 1);
  return riverlua_openlibs(L);
}

static lua_State *new_state(meter *m) {
  *m = (meter){.granted = -1};
  lua_State *L = lua_newstate(metered, m);
  assert_non_null(L);
  lua_pushcfunction(L, open_libraries);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) fail_msg("%s", lua_tostring(L, -1));
  lua_pushstring(L, server_url);
  lua_setglobal(L, "SERVER");
  return L;
}

static void close_state(lua_State *L, meter *m) {
  m->granted = -1;
  lua_close(L);
  assert_int_equal(m->in_use, 0);
}

/* What a script does after an error: the tasks that were left are ended. */
static const char *const clean_up =
    "local core = package.loaded['riverlua.core.task']\n"
    "if core then core.cancel_all() core.drain() core.failures() end\n"
    "collectgarbage()";

static void must_run(lua_State *L, const char *source, long n) {
  if (luaL_dostring(L, source) != LUA_OK)
    fail_msg("after failing allocation %ld: %s", n, luaL_tolstring(L, -1, NULL));
  lua_settop(L, 0);
}

/* ---- the sweeps --------------------------------------------------------------------------------------------- */

/* Runs `source` with the Nth allocation failing, for every N until it succeeds, in one state. */
static void sweep(const char *prepare, const char *source, bool for_ever) {
  meter m;
  lua_State *L = new_state(&m);
  must_run(L, prepare, 0);
  must_run(L, source, 0);
  must_run(L, source, 0);
  long n = 0;
  int status;
  do {
    must_run(L, clean_up, n);
    assert_int_equal(luaL_loadstring(L, source), LUA_OK);
    m.for_ever = for_ever;
    m.granted = n++;
    status = lua_pcall(L, 0, 0, 0);
    bool reached = m.granted < 0 || (for_ever && m.granted == 0);
    m.granted = -1;
    m.for_ever = false;
    lua_settop(L, 0);
    must_run(L, clean_up, n);
    if (n % 16 == 0) must_run(L, source, n);   /* nothing is broken for good */
    if (!reached) break;
    assert_true(n < 100000);
  } while (true);
  assert_int_equal(status, LUA_OK);   /* no allocation failed */
  assert_true(n > 2);
  close_state(L, &m);
}

static void sweep_both(const char *prepare, const char *source) {
  sweep(prepare, source, false);
  sweep(prepare, source, true);
}

static int protected_openlibs(lua_State *L) { return riverlua_openlibs(L); }

static void test_openlibs(void **state) {
  (void)state;
  for (int for_ever = 0; for_ever < 2; for_ever++) {
    bool reached;
    long n = 0;
    do {
      meter m = {.granted = -1};
      lua_State *L = lua_newstate(metered, &m);
      assert_non_null(L);
      luaL_openlibs(L);
      m.for_ever = for_ever != 0;
      m.granted = n++;
      lua_pushcfunction(L, protected_openlibs);
      int status = lua_pcall(L, 0, 0, 0);
      reached = m.granted < 0 || (for_ever && m.granted == 0);
      m.granted = -1;
      if (status == LUA_OK) must_run(L, "require('riverlua.task').sleep(0)", n);
      close_state(L, &m);
    } while (reached);
    assert_true(n > 3);
  }
}

/* Loads a module with the Nth allocation failing, in steps that make some hundred tries; then without. */
static void sweep_module(const char *name) {
  char source[256];
  snprintf(source, sizeof source, "assert(require '%s')", name);
  meter m;
  lua_State *L = new_state(&m);
  long before = m.count;
  must_run(L, source, 0);
  long count = m.count - before;
  close_state(L, &m);
  long step = count / 60 + 1;
  for (long n = 0; n < count; n += step) {
    L = new_state(&m);
    m.for_ever = n % 2 == 0;
    m.granted = n;
    if (luaL_dostring(L, source) != LUA_OK) lua_settop(L, 0);
    m.granted = -1;
    m.for_ever = false;
    must_run(L, source, n);
    close_state(L, &m);
  }
}

static void test_modules(void **state) {
  (void)state;
  static const char *const core[] = {"riverlua.core.task", "riverlua.core.transfer", "riverlua.core.json",
                                     "riverlua.core.terminal", "riverlua.core.runtime", "riverlua.core.websocket",
                                     "riverlua.core.grpc"};
  for (size_t i = 0; i < sizeof core / sizeof *core; i++) sweep_module(core[i]);
  for (size_t i = 0; i < rvl_embedded_count; i++) sweep_module(rvl_embedded_files[i].module);
}

static void test_tasks(void **state) {
  (void)state;
  sweep_both("task = require 'riverlua.task'",
             "local t = task.spawn(function(...) task.sleep(0) return ... end, 1, nil, 3)\n"
             "assert(select('#', t:await()) == 3)\n"
             "local ok, e = pcall(task.spawn(error, {1}, 0).await, task.spawn(error, 'x', 0))\n"
             "assert(not ok)\n"
             "local c = task.spawn(task.sleep, 0.01) task.sleep(0) c:cancel() c:join()\n"
             "task.spawn(print):cancel()\n"
             "task.sleep(0)");
}

static void test_task_structures(void **state) {
  (void)state;
  sweep_both("task = require 'riverlua.task'",
             "local a, b = task.gather(function() return 1 end, function() task.sleep(0) return 2 end)\n"
             "assert(a + b == 3)\n"
             "local r = task.map({1, 2, 3}, function(x) task.sleep(0) return x end, {concurrency = 2})\n"
             "assert(r[3] == 3)\n"
             "assert(not pcall(task.timeout, 0, task.sleep, 0.01))\n"
             "assert(not pcall(task.scope, function(s) s:spawn(task.sleep, 0.01) task.sleep(0) error 'x' end))");
}

static void test_queues(void **state) {
  (void)state;
  sweep_both("task = require 'riverlua.task'",
             "local q, sum = task.queue(2), 0\n"
             "local semaphore = task.semaphore(1)\n"
             "local t = task.spawn(function() for x in q:items() do sum = sum + x end end)\n"
             "for i = 1, 5 do semaphore:with(q.put, q, i) end\n"
             "q:close() t:await() assert(sum == 15)");
}

static void test_generators_and_nested_waits(void **state) {
  (void)state;
  sweep_both("task = require 'riverlua.task'",
             "local gen = coroutine.wrap(function() for i = 1, 3 do task.sleep(0) coroutine.yield(i) end end)\n"
             "local sum = 0 for i in gen do sum = sum + i end assert(sum == 6)\n"
             "local t = task.spawn(function()\n"
             "  local list = {2, 1} table.sort(list, function(a, b) task.sleep(0) return a < b end) return list[1]\n"
             "end)\n"
             "assert(t:await() == 1)\n"
             "assert(('x'):gsub('x', function() task.spawn(task.sleep, 0):await() return 'y' end) == 'y')");
}

static void test_failures(void **state) {
  (void)state;
  sweep_both("task = require 'riverlua.task' core = require 'riverlua.core.task'",
             "for i = 1, 3 do task.spawn(error, 'unseen', 0) end\n"
             "task.spawn(function() local function deep() error {kind = 'x'} end deep() end)\n"
             "task.sleep(0)\n"
             "assert(core.failures().n == 4)\n"
             "assert(#core.waiting() == 0)\n"
             "assert(not pcall(function() task.queue():get() end))");
}

static void test_json(void **state) {
  (void)state;
  sweep_both("json = require 'riverlua.json'",
             "local v = json.decode('{\"a\":[1,2.5,null,{\"b\":\"\\\\u00fc\"}]}')\n"
             "assert(json.encode(v, {sort = true, pretty = true}))\n"
             "assert(not pcall(json.decode, '{\"a\":'))");
}

static void test_models(void **state) {
  (void)state;
  sweep_both("river = require 'river' pickle = require 'river.pickle'",
             "local model = river.preprocessing.StandardScaler() |\n"
             "  river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}\n"
             "assert(#pickle.dumps(model) > 0)");
}

static void test_embedded_service(void **state) {
  (void)state;
  sweep_both("river = require 'river'",
             "local cli = river.Client('embedded:')\n"
             "local name = cli:upload_model(river.linear_model.LinearRegression(), 'regression', 'm')\n"
             "cli:learn('m', {a = 1.5, b = 2}, 3) cli:predict('m', {a = 1, b = 2}) cli:metrics('m')\n"
             "cli:close()");
}

static const char *const use_http =
    "local client <close> = http.Client{base_url = SERVER, proxy = false, retries = 0}\n"
    "local res = client:post('/x', {json = {a = {1, 2}}, headers = {['X-A'] = 'b'}})\n"
    "assert(res.status == 200 and res:json().ok)\n"
    "local stream <close> = client:get('/y', {stream = true})\n"
    "assert(stream:text() == '{\"ok\":[]}')\n"
    "assert(stream.headers['content-type'])\n";

static const char *const fail_http =
    "local client <close> = http.Client{proxy = false, retries = 0}\n"
    "local ok, e = pcall(client.get, client, 'http://127.0.0.1:1/')\n"
    "assert(not ok and e.kind == 'connect', tostring(e))\n"
    "local t = task.spawn(client.get, client, SERVER) task.sleep(0) t:cancel() t:join()";

static const char *const use_websocket =
    "local ws = websocket.connect((SERVER:gsub('^http', 'ws')), {proxy = false, timeout = 5})\n"
    "assert(ws:receive(5) == 'hi')\n"
    "assert(ws:receive(5) == nil and ws.close_code == 1005)\n"
    "ws:close()\n"
    "local a, b = endpoint('client', 100), endpoint('server', 100)\n"
    "a:send('there', 'text') a:send('x', 'ping') b:feed(a:output())\n"
    "assert(b:next() == 'there') a:feed(b:output()) a:close(1000, 'done') b:feed(a:output())\n"
    "assert(b:status() == 'closed')";

static const char *const use_grpc =
    "local channel <close> = grpc.Channel{target = SERVER, proxy = false, timeout = 5, metadata = {a = 'b'}}\n"
    "local reply, info = channel:unary('/a.B/C', 'x', {metadata = {['c-bin'] = 'd'}})\n"
    "assert(reply == 'hi' and info.headers['content-type'] and info.trailers['grpc-status'] == '0')\n"
    "local a, b = task.gather(function() return (channel:unary('/a.B/C', ('x'):rep(30000))) end,\n"
    "  function() return (channel:unary('/a.B/C', '', {retries = {attempts = 2, initial = 0.001}})) end)\n"
    "assert(a == 'hi' and b == 'hi')\n"
    "for m in channel:stream('/a.B/C', '') do assert(m == 'hi') end\n"
    "channel:call('/a.B/C', ''):cancel()\n"
    "local nowhere <close> = grpc.Channel{target = 'http://127.0.0.1:1', proxy = false}\n"
    "local ok, e = pcall(nowhere.unary, nowhere, '/a.B/C', '')\n"
    "assert(not ok and e.kind == 'grpc' and e.code == 'UNAVAILABLE')";

static const char *const prepare_http =
    "grpc = require 'riverlua.grpc'\n"
    "http = require 'riverlua.http' task = require 'riverlua.task' websocket = require 'riverlua.websocket'\n"
    "endpoint = require('riverlua.core.websocket').endpoint";

static void test_http(void **state) {
  (void)state;
  sweep_both(prepare_http, use_http);
}

static void test_http_failures(void **state) {
  (void)state;
  sweep_both(prepare_http, fail_http);
}

static void test_websocket(void **state) {
  (void)state;
  sweep_both(prepare_http, use_websocket);
}

static void test_grpc(void **state) {
  (void)state;
  sweep_both(prepare_http, use_grpc);
}

/* ---- malloc ------------------------------------------------------------------------------------------------- */

#ifdef FAILING_MALLOC

/* Not so under valgrind, which brings a malloc of its own. */
static bool malloc_can_fail(void) {
  if (getenv("RIVERLUA_VALGRIND") != NULL) return false;   /* it takes some of the allocator's functions over */
  none_later = false;
  granted = 0;
  void *volatile block = malloc(1);
  granted = -1;
  free(block);
  return block == NULL;
}

/* The first use of libcurl loads 34 libraries, whose beginnings are not ours to test. */
static void warm_up(void) {
  riverlua *rt = riverlua_new(NULL);
  assert_non_null(rt);
  lua_pushstring(riverlua_state(rt), server_url);
  lua_setglobal(riverlua_state(rt), "SERVER");
  assert_int_equal(riverlua_run_string(rt, prepare_http, NULL), RIVERLUA_OK);
  if (riverlua_run_string(rt, use_http, NULL) != RIVERLUA_OK) fail_msg("%s", riverlua_error_message(rt));
  riverlua_close(rt);
}

static void test_runtime_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  for (int all = 0; all < 2; all++) {
    long n = 0;
    bool reached;
    do {
      none_later = all != 0;
      granted = n++;
      riverlua *rt = riverlua_new(NULL);
      if (rt != NULL) {
        (void)riverlua_run_string(rt, "error(setmetatable({}, {__tostring = function() return 'x' end}))", "a");
        const char *result;
        if (riverlua_call_json(rt, "function(x) return {x} end", "[1]", &result) == RIVERLUA_OK)
          assert_string_equal(result, "[[1]]");
        (void)riverlua_error_message(rt);
      }
      reached = granted < 0 || (none_later && granted == 0);
      granted = -1;
      if (rt != NULL) {
        assert_int_equal(riverlua_run_string(rt, "require('riverlua.task').sleep(0)", "again"), RIVERLUA_OK);
        riverlua_close(rt);
      }
      if (n > 400) n += 13;   /* by then it is Lua reading its modules */
    } while (reached);
    assert_true(n > 20);
  }
}

/* Transfers while the library and libuv get no memory; Lua does, so that the error is seen. */
static void sweep_malloc(const char *source, bool all) {
  riverlua *rt = riverlua_new(NULL);
  assert_non_null(rt);
  lua_pushstring(riverlua_state(rt), server_url);
  lua_setglobal(riverlua_state(rt), "SERVER");
  assert_int_equal(riverlua_run_string(rt, prepare_http, NULL), RIVERLUA_OK);
  long n = 0;
  bool reached;
  do {
    none_later = all;
    granted = n++;
    riverlua_status status = riverlua_run_string(rt, source, "without malloc");
    reached = granted < 0 || (none_later && granted == 0);
    granted = -1;
    if (!reached && status != RIVERLUA_OK) fail_msg("%ld: %s", n, riverlua_error_message(rt));
    if (riverlua_run_string(rt, clean_up, "clean up") != RIVERLUA_OK) fail_msg("%s", riverlua_error_message(rt));
    if (n % 16 == 0 && riverlua_run_string(rt, source, "with malloc") != RIVERLUA_OK)
      fail_msg("after failing allocation %ld: %s", n, riverlua_error_message(rt));
    if (n > 1000) n += 7;
  } while (reached);
  riverlua_close(rt);
}

static void test_http_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  warm_up();
  sweep_malloc(use_http, false);
  sweep_malloc(use_http, true);
}

static void test_websocket_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  warm_up();
  sweep_malloc(use_websocket, false);
  sweep_malloc(use_websocket, true);
}

static void test_grpc_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  warm_up();
  sweep_malloc(use_grpc, false);
  sweep_malloc(use_grpc, true);
}

static void test_http_failures_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  warm_up();
  sweep_malloc(fail_http, false);
  sweep_malloc(fail_http, true);
}

#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_openlibs),
      cmocka_unit_test(test_tasks),
      cmocka_unit_test(test_task_structures),
      cmocka_unit_test(test_queues),
      cmocka_unit_test(test_generators_and_nested_waits),
      cmocka_unit_test(test_failures),
      cmocka_unit_test(test_json),
      cmocka_unit_test(test_models),
      cmocka_unit_test(test_embedded_service),
      cmocka_unit_test(test_http),
      cmocka_unit_test(test_http_failures),
      cmocka_unit_test(test_websocket),
      cmocka_unit_test(test_grpc),
      cmocka_unit_test(test_modules),
#ifdef FAILING_MALLOC
      cmocka_unit_test(test_runtime_without_malloc),
      cmocka_unit_test(test_http_without_malloc),
      cmocka_unit_test(test_websocket_without_malloc),
      cmocka_unit_test(test_grpc_without_malloc),
      cmocka_unit_test(test_http_failures_without_malloc),
#endif
  };
  return cmocka_run_group_tests(tests, start_server, NULL);
}
