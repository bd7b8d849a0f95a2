/* riverlua.core.task: tasks, signals and sleeping. lua/riverlua/task.lua builds the rest on these. */
#include "runtime.h"
#include "scheduler.h"

#include <string.h>

typedef enum task_state { TASK_NEW, TASK_RUNNING, TASK_DONE, TASK_FAILED, TASK_CANCELLED } task_state;

typedef struct task {
  rvl_context context;    /* first: the scheduler knows only this */
  lua_State *co;
  rvl_signal done;
  task_state state;
  bool observed;          /* somebody has seen how it ended */
  lua_Integer id;
} task;

/* user values of a task */
enum { TASK_THREAD = 1, TASK_ERROR, TASK_TRACEBACK, TASK_CANCEL_ERROR, TASK_VALUES = TASK_CANCEL_ERROR };

/* Failed tasks that nobody awaited are kept for the report at the end, but not without bound. */
#define MAX_KEPT_FAILURES 64

/* registry: light pointer → task userdata, for tasks that have not ended */
static const char live_key = 0;
/* registry: list of failed tasks that nobody has awaited; field n counts all */
static const char failures_key = 0;
/* registry: {error, traceback} of the failure last handed to somebody who awaited */
static const char last_failure_key = 0;

static task *check_task(lua_State *L, int arg) { return luaL_checkudata(L, arg, RVL_TASK); }

static void push_registry_table(lua_State *L, const char *key) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
  }
}

static void push_live_task(lua_State *L, task *t) {
  push_registry_table(L, &live_key);
  lua_rawgetp(L, -1, t);
  lua_remove(L, -2);
}

/* ---- the body of a task ---------------------------------------------------------------------------- */

static int keep_traceback(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  if (rt->current != &rt->script) {
    push_live_task(L, (task *)rt->current);
    luaL_traceback(L, L, NULL, 1);
    lua_setiuservalue(L, -2, TASK_TRACEBACK);
    lua_pop(L, 1);
  }
  return 1;
}

/* Leaves `true, results…` or `false, error` on the coroutine's stack. */
static int task_body_k(lua_State *L, int status, lua_KContext ctx) {
  (void)ctx;
  lua_pushboolean(L, status == LUA_OK || status == LUA_YIELD);
  lua_replace(L, 1);
  return lua_gettop(L);
}

static int task_body(lua_State *L) {
  lua_pushlightuserdata(L, rvl_runtime_of(L));
  lua_pushcclosure(L, keep_traceback, 1);
  lua_insert(L, 1);
  return task_body_k(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, task_body_k), 0);
}

static void keep_failure(lua_State *L, int index) {
  push_registry_table(L, &failures_key);
  lua_Integer n = (lua_getfield(L, -1, "n"), lua_tointeger(L, -1)) + 1;
  lua_pop(L, 1);
  lua_pushinteger(L, n);
  lua_setfield(L, -2, "n");
  if (n <= MAX_KEPT_FAILURES) {
    lua_pushvalue(L, index);
    lua_rawseti(L, -2, n);
  }
  lua_pop(L, 1);
}

/* Raw: the error may be anything, also a table whose __index fails. */
static bool is_cancellation(lua_State *L, int index) {
  if (!lua_istable(L, index)) return false;
  lua_pushliteral(L, "kind");
  const char *kind = lua_rawget(L, index) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  lua_pop(L, 1);
  return strcmp(kind, "cancelled") == 0 || strcmp(kind, "interrupted") == 0;
}

/* (task, its error) → whether it was cancelled; a failure that nobody waits for is kept */
static int judge_error(lua_State *L) {
  const task *t = lua_touserdata(L, 1);
  bool cancelled = is_cancellation(L, 2);
  if (!cancelled && t->done.first == NULL && !t->observed) keep_failure(L, 1);
  lua_pushboolean(L, cancelled);
  return 1;
}

/* Wakes those who wait for the end of a task and lets go of it. */
static void conclude(lua_State *L, task *t, task_state state) {
  rvl_runtime *rt = t->context.rt;
  t->state = state;
  rvl_signal_fire(&t->done);
  push_registry_table(L, &live_key);
  lua_pushnil(L);
  lua_rawsetp(L, -2, t);
  lua_pop(L, 1);
  if (--rt->live_tasks <= 1) rvl_signal_fire(&rt->all_done);   /* drain may be called by the last one */
}

/* `status` and `nresults` as lua_resume gave them; the values are on top of the coroutine's stack. */
static void end_task(lua_State *L, task *t, int status, int nresults) {
  if (status == LUA_OK && nresults > 0 && lua_toboolean(t->co, -nresults)) {
    lua_settop(t->co, nresults);   /* results stay where they are, after `true` */
    conclude(L, t, TASK_DONE);
    return;
  }
  push_live_task(L, t);
  lua_xmove(t->co, L, 1);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, TASK_ERROR);
  /* an error must not get away from here (there may be no memory): it would hit whoever runs the loop */
  lua_pushcfunction(L, judge_error);
  lua_insert(L, -3);
  bool cancelled = lua_pcall(L, 2, 1, 0) == LUA_OK && lua_toboolean(L, -1);
  lua_pop(L, 1);
  conclude(L, t, cancelled ? TASK_CANCELLED : TASK_FAILED);
}

void rvl_task_run(lua_State *L, rvl_context *context) {
  task *t = (task *)context;
  rvl_runtime *rt = context->rt;
  if (t->state != TASK_NEW && t->state != TASK_RUNNING) return;
  int nargs = 0;
  if (t->state == TASK_NEW) {
    nargs = lua_gettop(t->co) - 1;
    t->state = TASK_RUNNING;
  }
  rvl_context *before = rt->current;
  rt->current = context;
  int nresults = 0;
  int status = rvl_resume(rt, t->co, L, nargs, &nresults);
  if (status != LUA_YIELD) {
    end_task(L, t, status, nresults);   /* still as this task: a finalizer that waits must not wait for another */
  } else if (!rvl_is_blocked(t->co, rt, nresults)) {
    lua_pop(t->co, nresults);   /* coroutine.yield in a task: others take their turn */
    rvl_context_make_ready(context);
  }
  rt->current = before;
}

/* ---- spawn, await, cancel --------------------------------------------------------------------------- */

static int task_spawn(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  luaL_checkany(L, 1);
  int nargs = lua_gettop(L) - 1;
  rvl_runtime_check_open(L, rt);
  rvl_runtime_loop(L, rt);
  task *t = lua_newuserdatauv(L, sizeof *t, TASK_VALUES);
  memset(t, 0, sizeof *t);
  t->context.rt = rt;
  luaL_setmetatable(L, RVL_TASK);
  t->co = lua_newthread(L);
  lua_setiuservalue(L, -2, TASK_THREAD);
  t->id = ++rt->spawned;
  if (!lua_checkstack(t->co, nargs + 2)) return luaL_error(L, "too many arguments to spawn");
  push_registry_table(L, &live_key);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, t);
  lua_pop(L, 1);
  lua_pushcfunction(t->co, task_body);
  for (int i = 1; i <= nargs + 1; i++) {
    lua_pushvalue(L, i);
    lua_xmove(L, t->co, 1);
  }
  rt->live_tasks++;
  rvl_context_make_ready(&t->context);
  return 1;
}

static int push_results(lua_State *L, task *t) {
  int n = lua_gettop(t->co) - 1;
  luaL_checkstack(L, n, "too many results");
  if (!lua_checkstack(t->co, n)) return luaL_error(L, "too many results");
  for (int i = 2; i <= n + 1; i++) lua_pushvalue(t->co, i);
  lua_xmove(t->co, L, n);
  return n;
}

static int raise_failure(lua_State *L) {
  lua_createtable(L, 2, 0);
  lua_getiuservalue(L, 1, TASK_ERROR);
  lua_pushvalue(L, -1);
  lua_rawseti(L, -3, 1);
  lua_getiuservalue(L, 1, TASK_TRACEBACK);
  lua_rawseti(L, -3, 2);
  lua_insert(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &last_failure_key);
  return lua_error(L);
}

/* task:await([seconds]) → results; raises what the task raised, or kind "timeout" */
static int task_await_k(lua_State *L, int status, lua_KContext ctx) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  task *t = check_task(L, 1);
  if (status == LUA_YIELD && rvl_woken(L, rt) == RVL_WOKEN_TIMER) {
    lua_pushfstring(L, "the task did not end within %f s", lua_tonumber(L, 2));
    rvl_push_error(L, "timeout", NULL, lua_tostring(L, -1));
    return lua_error(L);
  }
  t->observed = true;
  if (t->state == TASK_NEW || t->state == TASK_RUNNING) {
    if (rt->current == &t->context) return luaL_error(L, "a task cannot await itself");
    return rvl_wait(L, rt, &t->done, luaL_optnumber(L, 2, -1), ctx, task_await_k);
  }
  return t->state == TASK_DONE ? push_results(L, t) : raise_failure(L);
}

static int task_await(lua_State *L) { return task_await_k(L, LUA_OK, 0); }

/* task:join([seconds]) → true when it has ended (however), false when the time was up first */
static int task_join_k(lua_State *L, int status, lua_KContext ctx) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  task *t = check_task(L, 1);
  if (status == LUA_YIELD && rvl_woken(L, rt) == RVL_WOKEN_TIMER) {
    lua_pushboolean(L, 0);
    return 1;
  }
  t->observed = true;
  if (t->state == TASK_NEW || t->state == TASK_RUNNING) {
    if (rt->current == &t->context) return luaL_error(L, "a task cannot join itself");
    return rvl_wait(L, rt, &t->done, luaL_optnumber(L, 2, -1), ctx, task_join_k);
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int task_join(lua_State *L) { return task_join_k(L, LUA_OK, 0); }

/* Ends a task that has never run. */
static void end_unstarted(lua_State *L, task *t, int self) {
  lua_settop(t->co, 0);
  lua_getiuservalue(L, self, TASK_CANCEL_ERROR);
  lua_setiuservalue(L, self, TASK_ERROR);
  conclude(L, t, TASK_CANCELLED);
}

/* Cancels the task at stack index `self` with the error on top of the stack, which it pops. */
static bool cancel(lua_State *L, task *t, int self) {
  if (t->state != TASK_NEW && t->state != TASK_RUNNING) {
    lua_pop(L, 1);
    return false;
  }
  lua_setiuservalue(L, self, TASK_CANCEL_ERROR);
  if (t->state == TASK_NEW) end_unstarted(L, t, self);
  else if (t->context.waiting) rvl_context_wake(&t->context, RVL_WOKEN_CANCEL);
  else t->context.cancel_pending = true;
  return true;
}

static void push_cancel_error(lua_State *L, const char *reason) {
  rvl_push_error(L, "cancelled", NULL, reason);
}

/* task:cancel([reason]) → whether it was still running. Its blocking call raises kind "cancelled". */
static int task_cancel(lua_State *L) {
  task *t = check_task(L, 1);
  push_cancel_error(L, luaL_optstring(L, 2, "the task was cancelled"));
  lua_pushboolean(L, cancel(L, t, 1));
  return 1;
}

int rvl_task_raise_cancelled(lua_State *L, rvl_context *context) {
  if (context != &context->rt->script) {
    push_live_task(L, (task *)context);
    if (lua_getiuservalue(L, -1, TASK_CANCEL_ERROR) == LUA_TTABLE) return lua_error(L);
  }
  push_cancel_error(L, "cancelled");
  return lua_error(L);
}

static const char *state_name(const task *t) {
  switch (t->state) {
    case TASK_NEW: return "new";
    case TASK_RUNNING: return t->context.waiting ? "waiting" : "running";
    case TASK_DONE: return "done";
    case TASK_FAILED: return "failed";
    default: return "cancelled";
  }
}

static int task_status(lua_State *L) {
  lua_pushstring(L, state_name(check_task(L, 1)));
  return 1;
}

static int task_traceback(lua_State *L) {
  check_task(L, 1);
  lua_getiuservalue(L, 1, TASK_TRACEBACK);
  return 1;
}

/* task:failure() → the error it ended with, or nil. Counts as having seen it. */
static int task_failure(lua_State *L) {
  check_task(L, 1)->observed = true;
  lua_getiuservalue(L, 1, TASK_ERROR);
  return 1;
}

static int task_tostring(lua_State *L) {
  task *t = check_task(L, 1);
  lua_pushfstring(L, "task %I (%s)", (LUAI_UACINT)t->id, state_name(t));
  return 1;
}

static int task_gc(lua_State *L) {
  task *t = check_task(L, 1);
  rvl_context_forget(&t->context);
  rvl_signal_detach(&t->done);
  return 0;
}

/* local t <close> = task.spawn(…): leaving the block cancels it and waits for its end */
static int task_close_k(lua_State *L, int status, lua_KContext ctx) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  task *t = check_task(L, 1);
  if (status == LUA_YIELD) rvl_woken(L, rt);
  if (t->state != TASK_NEW && t->state != TASK_RUNNING) return 0;
  return rvl_wait(L, rt, &t->done, -1, ctx, task_close_k);
}

static int task_close(lua_State *L) {
  task *t = check_task(L, 1);
  t->observed = true;
  push_cancel_error(L, "the block that owns the task was left");
  cancel(L, t, 1);
  return task_close_k(L, LUA_OK, 0);
}

/* ---- module functions -------------------------------------------------------------------------------- */

static int core_sleep_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  rvl_woken(L, rvl_upvalue_runtime(L));
  return 0;
}

static int core_sleep(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  luaL_argcheck(L, seconds >= 0, 1, "a number of seconds, not negative");
  return rvl_wait(L, rvl_upvalue_runtime(L), NULL, seconds, 0, core_sleep_k);
}

static int core_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)rvl_now() / 1e9);
  return 1;
}

static int core_current(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  if (rt->current == &rt->script) lua_pushnil(L);
  else push_live_task(L, (task *)rt->current);
  return 1;
}

/* drain([seconds]): waits until every other task has ended → false when the time was up first */
static int core_drain_k(lua_State *L, int status, lua_KContext ctx) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  bool late = status == LUA_YIELD && rvl_woken(L, rt) == RVL_WOKEN_TIMER;
  size_t own = rt->current != &rt->script ? 1 : 0;
  if (late || rt->live_tasks <= own) {
    lua_pushboolean(L, rt->live_tasks <= own);
    return 1;
  }
  return rvl_wait(L, rt, &rt->all_done, luaL_optnumber(L, 1, -1), ctx, core_drain_k);
}

static int core_drain(lua_State *L) { return core_drain_k(L, LUA_OK, 0); }

/* cancel_pending() → whether the task that runs is to be cancelled when it waits next */
static int core_cancel_pending(lua_State *L) {
  lua_pushboolean(L, rvl_upvalue_runtime(L)->current->cancel_pending);
  return 1;
}

/* cancel_all(): asks every task to stop → how many */
static int core_cancel_all(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  lua_Integer n = 0;
  push_registry_table(L, &live_key);
  for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) {   /* ending a task changes the table */
    lua_pushvalue(L, 4);
    lua_rawseti(L, 1, ++n);
  }
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, 1, i);
    task *t = check_task(L, -1);
    push_cancel_error(L, "all tasks were cancelled");
    t->observed = true;
    cancel(L, t, lua_gettop(L) - 1);
    lua_pop(L, 1);
  }
  lua_pushinteger(L, n);
  return 1;
}

/* Seconds that <close> handlers may take; tasks that go on after that are cancelled again, then abandoned. */
#define END_SECONDS 5
#define END_ROUNDS 4

int rvl_end_tasks(lua_State *L) {
  lua_settop(L, 0);
  if (!luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) ||
      lua_getfield(L, 1, "riverlua.core.task") != LUA_TTABLE)
    return 0;
  bool ended = false;
  for (int round = 0; round < END_ROUNDS && !ended; round++) {
    lua_getfield(L, 2, "cancel_all");
    lua_call(L, 0, 0);
    lua_getfield(L, 2, "drain");
    lua_pushnumber(L, round == 0 ? END_SECONDS : 0.05);
    lua_call(L, 1, 1);
    ended = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  return 0;
}

/* waiting() → list of {id=, status=, traceback=} of the tasks that have not ended */
static int core_waiting(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  push_registry_table(L, &live_key);
  lua_Integer n = 0;
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    task *t = check_task(L, -1);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, t->id);
    lua_setfield(L, -2, "id");
    lua_pushstring(L, state_name(t));
    lua_setfield(L, -2, "status");
    luaL_traceback(L, t->context.waiting && t->context.blocked != NULL ? t->context.blocked : t->co, NULL, 0);
    lua_setfield(L, -2, "traceback");
    lua_rawseti(L, 1, ++n);
  }
  lua_settop(L, 1);
  return 1;
}

/* failures() → list of {id=, error=, traceback=} of failed tasks that nobody awaited, with n counting all; forgets them */
static int core_failures(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  push_registry_table(L, &failures_key);
  lua_Integer count = 0, kept = 0;
  for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
    task *t = check_task(L, 3);
    if (t->observed) {
      count--;
    } else {
      lua_createtable(L, 0, 3);
      lua_pushinteger(L, t->id);
      lua_setfield(L, -2, "id");
      lua_getiuservalue(L, 3, TASK_ERROR);
      lua_setfield(L, -2, "error");
      lua_getiuservalue(L, 3, TASK_TRACEBACK);
      lua_setfield(L, -2, "traceback");
      lua_rawseti(L, 1, ++kept);
    }
    lua_settop(L, 2);
  }
  lua_settop(L, 2);
  count += (lua_getfield(L, 2, "n"), lua_tointeger(L, -1));
  lua_pushinteger(L, count);
  lua_setfield(L, 1, "n");
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &failures_key);
  lua_settop(L, 1);
  return 1;
}

/* failure_traceback(error) → the traceback of the task that the error came from, when it is the last awaited one */
static int core_failure_traceback(lua_State *L) {
  luaL_checkany(L, 1);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &last_failure_key) != LUA_TTABLE) return 0;
  lua_rawgeti(L, -1, 1);
  if (!lua_rawequal(L, -1, 1)) return 0;
  lua_rawgeti(L, -2, 2);
  return 1;
}

/* ---- Signal: what Lua code waits for ------------------------------------------------------------------ */

static int signal_new(lua_State *L) {
  rvl_signal *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (rvl_signal){0};
  luaL_setmetatable(L, RVL_SIGNAL);
  return 1;
}

/* signal:wait([seconds]) → true when it fired, false when the time was up */
static int signal_wait_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  lua_pushboolean(L, rvl_woken(L, rvl_upvalue_runtime(L)) == RVL_WOKEN_SIGNAL);
  return 1;
}

static int signal_wait(lua_State *L) {
  rvl_signal *s = luaL_checkudata(L, 1, RVL_SIGNAL);
  return rvl_wait(L, rvl_upvalue_runtime(L), s, luaL_optnumber(L, 2, -1), 0, signal_wait_k);
}

static int signal_fire(lua_State *L) {
  rvl_signal_fire(luaL_checkudata(L, 1, RVL_SIGNAL));
  return 0;
}

static int signal_fire_one(lua_State *L) {
  lua_pushboolean(L, rvl_signal_fire_one(luaL_checkudata(L, 1, RVL_SIGNAL)));
  return 1;
}

static int signal_gc(lua_State *L) {
  rvl_signal_detach(luaL_checkudata(L, 1, RVL_SIGNAL));
  return 0;
}

int rvl_open_task(lua_State *L) {
  static const luaL_Reg task_methods[] = {
      {"await", task_await},       {"join", task_join},           {"cancel", task_cancel}, {"status", task_status},
      {"traceback", task_traceback}, {"failure", task_failure}, {NULL, NULL}};
  static const luaL_Reg task_meta[] = {
      {"__gc", task_gc}, {"__close", task_close}, {"__tostring", task_tostring}, {NULL, NULL}};
  static const luaL_Reg signal_methods[] = {
      {"wait", signal_wait}, {"fire", signal_fire}, {"fire_one", signal_fire_one}, {NULL, NULL}};
  static const luaL_Reg signal_meta[] = {{"__gc", signal_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"spawn", task_spawn},
                                       {"sleep", core_sleep},
                                       {"now", core_now},
                                       {"current", core_current},
                                       {"drain", core_drain},
                                       {"cancel_all", core_cancel_all}, {"cancel_pending", core_cancel_pending},
                                       {"waiting", core_waiting},
                                       {"failures", core_failures},
                                       {"failure_traceback", core_failure_traceback},
                                       {"signal", signal_new},
                                       {"wait_readable", rvl_wait_readable},
                                       {NULL, NULL}};
  rvl_new_class(L, RVL_TASK, task_methods, task_meta);
  rvl_new_class(L, RVL_SIGNAL, signal_methods, signal_meta);
  rvl_new_functions(L, functions);
  return 1;
}
