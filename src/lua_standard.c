/*
** The standard functions that must know of tasks. Otherwise they behave as the plain interpreter's.
**
** coroutine.resume and coroutine.wrap let blocked calls through: a generator made with coroutine.wrap may make a
** blocking call; the task around it then waits, and the generator's own caller never notices.
** os.exit ends the tasks first, so that their <close> handlers run, and the threads of heartbeats and trainers: libraries
** that they use are torn down while the process exits.
*/
#include "runtime.h"

#include <lualib.h>

#define RESUME_FAILED (-1)

/* Resumes `co`; returns the number of results moved to L, RESUME_FAILED with the error moved, or hands over to `k`
** (through *waits) while a call inside is blocked. */
static int resume(lua_State *L, rvl_runtime *rt, lua_State *co, int nargs, bool *waits) {
  *waits = false;
  if (!lua_checkstack(co, nargs)) {
    lua_pushliteral(L, "too many arguments to resume");
    return RESUME_FAILED;
  }
  lua_xmove(L, co, nargs);
  int nresults;
  int status = rvl_resume(rt, co, L, nargs, &nresults);
  if (status == LUA_OK || status == LUA_YIELD) {
    if (status == LUA_YIELD && rvl_is_blocked(co, rt, nresults)) {
      *waits = true;
      return 0;
    }
    if (!lua_checkstack(L, nresults + 1)) {
      lua_pop(co, nresults);
      lua_pushliteral(L, "too many results to resume");
      return RESUME_FAILED;
    }
    lua_xmove(co, L, nresults);
    return nresults;
  }
  lua_xmove(co, L, 1);
  return RESUME_FAILED;
}

static int resume_k(lua_State *L, int status, lua_KContext nargs) {
  (void)status;
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  bool waits;
  int n = resume(L, rt, lua_tothread(L, 1), (int)nargs, &waits);
  if (waits) return rvl_wait_on(L, rt, 0, resume_k);
  if (n == RESUME_FAILED) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushboolean(L, 1);
  lua_insert(L, -(n + 1));
  return n + 1;
}

static int coroutine_resume(lua_State *L) {
  luaL_argexpected(L, lua_isthread(L, 1), 1, "coroutine");
  return resume_k(L, LUA_OK, lua_gettop(L) - 1);
}

/* The standard wrap closes a failed coroutine and puts the position of the caller before a string message. */
static int wrap_failed(lua_State *L, lua_State *co) {
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    status = lua_resetthread(co);
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int wrapped_k(lua_State *L, int status, lua_KContext nargs) {
  (void)status;
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  bool waits;
  int n = resume(L, rt, co, (int)nargs, &waits);
  if (waits) return rvl_wait_on(L, rt, 0, wrapped_k);
  return n == RESUME_FAILED ? wrap_failed(L, co) : n;
}

static int wrapped(lua_State *L) { return wrapped_k(L, LUA_OK, lua_gettop(L)); }

static int coroutine_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, wrapped, 2);
  return 1;
}

/* upvalues: runtime, the standard os.exit */
static int os_exit(lua_State *L) {
  if (rvl_upvalue_runtime(L)->live_tasks > 0) {
    lua_pushcfunction(L, rvl_end_tasks);
    lua_pcall(L, 0, 0, 0);
  }
  rvl_heartbeats_stop(rvl_upvalue_runtime(L));
  rvl_engines_stop(rvl_upvalue_runtime(L));
  rvl_upvalue_runtime(L)->closing = lua_toboolean(L, 2);
  int nargs = lua_gettop(L) < 2 ? lua_gettop(L) : 2;
  lua_settop(L, nargs);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, nargs, 0);
  return 0;
}

void rvl_open_standard(lua_State *L) {
  static const luaL_Reg functions[] = {{"resume", coroutine_resume}, {"wrap", coroutine_wrap}, {NULL, NULL}};
  rvl_runtime *rt = rvl_runtime_of(L);
  if (lua_getglobal(L, LUA_COLIBNAME) == LUA_TTABLE) {
    lua_pushlightuserdata(L, rt);
    luaL_setfuncs(L, functions, 1);
  }
  if (lua_getglobal(L, LUA_OSLIBNAME) == LUA_TTABLE) {
    lua_pushlightuserdata(L, rt);
    lua_getfield(L, -2, "exit");
    lua_pushcclosure(L, os_exit, 2);
    lua_setfield(L, -2, "exit");
  }
  lua_pop(L, 2);
}
