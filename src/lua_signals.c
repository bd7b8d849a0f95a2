/*
** Signals of the process as something to wait for, for programs that serve: Ctrl-C and SIGTERM then end them in order
** instead of in the middle of an answer. Only for the riverlua command: the signals of a host are the host's. The first
** one is told, a second one has its usual effect, so that a program that hangs can be stopped.
*/
#include "runtime.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SIGNALS "riverlua.Signals"
#define MAX_SIGNALS 2

typedef struct signals_box {
  uv_signal_t *handles[MAX_SIGNALS];     /* freed by libuv's close callback; NULL: closed */
  struct sigaction before[MAX_SIGNALS];
  int numbers[MAX_SIGNALS];
  int came;                              /* 0: none yet */
  rvl_signal changed;
  rvl_runtime *rt;
  size_t waiting;
} signals_box;

static void free_handle(uv_handle_t *handle) { free(handle); }

static void on_signal(uv_signal_t *handle, int number) {
  signals_box *box = handle->data;
  box->came = number;
  rvl_signal_fire(&box->changed);
}

/* libuv leaves the default action behind; what was there before comes back. */
static void close_handle(signals_box *box, int i) {
  uv_signal_t *handle = box->handles[i];
  if (handle == NULL) return;
  box->handles[i] = NULL;
  if (rvl_loop_is_forked(&box->rt->loop)) return;
  uv_close((uv_handle_t *)handle, free_handle);
  sigaction(box->numbers[i], &box->before[i], NULL);
}

static bool open_handle(signals_box *box, rvl_loop *loop, int i, int number) {
  uv_signal_t *handle = malloc(sizeof *handle);
  if (handle == NULL) return false;
  if (uv_signal_init(&loop->uv, handle) != 0) {
    free(handle);
    return false;
  }
  handle->data = box;
  box->numbers[i] = number;
  sigaction(number, NULL, &box->before[i]);
  box->handles[i] = handle;
  return uv_signal_start_oneshot(handle, on_signal, number) == 0;
}

/* signals() → an object that waits for SIGINT or SIGTERM until it is closed */
int rvl_signals_new(lua_State *L) {
  static const int numbers[MAX_SIGNALS] = {SIGINT, SIGTERM};
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  if (!rt->command)
    return rvl_raise(L, "unsupported", "the host stops the server: server:stop()",
                     "a runtime inside another program does not take its signals");
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  signals_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  memset(box, 0, sizeof *box);
  box->rt = rt;
  luaL_setmetatable(L, SIGNALS);
  for (int i = 0; i < MAX_SIGNALS; i++) {
    if (!open_handle(box, loop, i, numbers[i]))
      return rvl_raise(L, "limit", NULL, "signals of the process cannot be watched");
  }
  return 1;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx) {
  signals_box *box = (signals_box *)ctx;
  if (status == LUA_YIELD) {
    box->waiting--;
    box->rt->pending--;
    rvl_woken(L, box->rt);
  }
  if (box->came != 0) {
    lua_pushstring(L, box->came == SIGTERM ? "SIGTERM" : "SIGINT");
    return 1;
  }
  if (box->handles[0] == NULL) return 0;
  box->waiting++;
  box->rt->pending++;
  return rvl_wait(L, box->rt, &box->changed, -1, ctx, wait_k);
}

/* wait() → "SIGINT" or "SIGTERM"; nothing when it is closed */
static int signals_wait(lua_State *L) {
  signals_box *box = luaL_checkudata(L, 1, SIGNALS);
  return wait_k(L, LUA_OK, (lua_KContext)box);
}

static int signals_close(lua_State *L) {
  signals_box *box = luaL_checkudata(L, 1, SIGNALS);
  for (int i = 0; i < MAX_SIGNALS; i++) close_handle(box, i);
  rvl_signal_fire(&box->changed);
  return 0;
}

static int signals_gc(lua_State *L) {
  signals_box *box = luaL_checkudata(L, 1, SIGNALS);
  for (int i = 0; i < MAX_SIGNALS; i++) close_handle(box, i);
  rvl_signal_detach(&box->changed);
  box->rt->pending -= box->waiting;
  box->waiting = 0;
  return 0;
}

void rvl_open_signals(lua_State *L) {
  static const luaL_Reg methods[] = {{"wait", signals_wait}, {"close", signals_close}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", signals_gc}, {"__close", signals_close}, {NULL, NULL}};
  rvl_new_class(L, SIGNALS, methods, meta);
}
