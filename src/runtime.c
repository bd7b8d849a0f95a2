#include "runtime.h"
#include "transfer.h"
#include "wslay_api.h"

#include <stdarg.h>
#include <string.h>

/* address used as a registry key */
static const char runtime_key = 0;

static int runtime_gc(lua_State *L) {
  rvl_runtime *rt = lua_touserdata(L, 1);
  if (rt->loop_open && !rvl_loop_is_forked(&rt->loop)) rvl_loop_close(&rt->loop);
  rt->loop_open = false;
  rvl_curl_close(rt->curl);
  rt->curl = NULL;
  rvl_wslay_close(rt->wslay);
  rt->wslay = NULL;
  return 0;
}

rvl_runtime *rvl_runtime_of(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key) == LUA_TUSERDATA) {
    rvl_runtime *rt = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return rt;
  }
  lua_pop(L, 1);
  rvl_runtime *rt = lua_newuserdatauv(L, sizeof *rt, 0);
  memset(rt, 0, sizeof *rt);
  atomic_init(&rt->interrupted, false);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  rt->L = lua_tothread(L, -1);
  lua_pop(L, 1);
  rt->script.rt = rt;
  rt->current = &rt->script;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, runtime_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  return rt;
}

void rvl_new_functions(lua_State *L, const luaL_Reg *functions) {
  rvl_runtime *rt = rvl_runtime_of(L);
  lua_newtable(L);
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, functions, 1);
}

/* Registered when it is whole: memory may run out on the way, and the next attempt shall find nothing. */
void rvl_new_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods) {
  rvl_runtime *rt = rvl_runtime_of(L);
  if (luaL_getmetatable(L, name) == LUA_TNIL) {
    lua_newtable(L);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    lua_pushlightuserdata(L, rt);
    luaL_setfuncs(L, metamethods, 1);
    rvl_new_functions(L, methods);
    lua_setfield(L, -2, "__index");
    lua_setfield(L, LUA_REGISTRYINDEX, name);
  }
  lua_pop(L, 1);
}

rvl_loop *rvl_runtime_loop(lua_State *L, rvl_runtime *rt) {
  if (rt->loop_open && rvl_loop_is_forked(&rt->loop))
    rvl_raise(L, "closed", "start a new process (not a fork) for each runtime",
              "this process was forked from the one that made the runtime");
  if (!rt->loop_open) {
    int err = rvl_loop_init(&rt->loop);
    if (err != 0) rvl_raise(L, "limit", NULL, "the event loop cannot be opened: %s", uv_strerror(err));
    rt->loop_open = true;
  }
  return &rt->loop;
}

void rvl_runtime_check_open(lua_State *L, const rvl_runtime *rt) {
  if (rt->closing) rvl_raise(L, "closed", NULL, "the runtime is being closed");
}

/* ---- errors -------------------------------------------------------------------------------------- */

/* Pushes riverlua.errors.new, or fails: a host may have taken `require` away. */
static bool push_constructor(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "riverlua.errors") != LUA_TTABLE) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "riverlua.errors");
    if (lua_pcall(L, 1, 1, 0) != LUA_OK || !lua_istable(L, -1)) return false;
  }
  return lua_getfield(L, -1, "new") == LUA_TFUNCTION;
}

void rvl_push_error(lua_State *L, const char *kind, const char *hint, const char *message) {
  luaL_checkstack(L, 10, "no room for an error");
  lua_createtable(L, 0, 4);
  int fields = lua_gettop(L);
  lua_pushstring(L, kind);
  lua_setfield(L, fields, "kind");
  lua_pushstring(L, message);
  lua_setfield(L, fields, "message");
  if (hint != NULL) {
    lua_pushstring(L, hint);
    lua_setfield(L, fields, "hint");
  }
  if (push_constructor(L)) {
    lua_pushvalue(L, fields);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) lua_replace(L, fields);
  }
  lua_settop(L, fields);
}

int rvl_raise(lua_State *L, const char *kind, const char *hint, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const char *message = lua_pushvfstring(L, format, args);
  va_end(args);
  rvl_push_error(L, kind, hint, message);
  return lua_error(L);
}

/* ---- interrupts ---------------------------------------------------------------------------------- */

/* The script itself must hear of an interrupt: what a task is told only ends that task. */
bool rvl_runtime_take_interrupt(rvl_runtime *rt) {
  if (!atomic_load(&rt->interrupted)) return false;
  if (rt->current == &rt->script) {
    atomic_store(&rt->stopping, true);
    atomic_store(&rt->interrupted, false);
  }
  return true;
}

static void interrupt_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  rvl_runtime *rt = rvl_runtime_of(L);
  lua_sethook(L, NULL, 0, 0);
  if (!rt->hooked) return;   /* another coroutine's hook was first */
  rt->hooked = 0;
  if (rvl_runtime_take_interrupt(rt)) rvl_raise(L, "interrupted", NULL, "interrupted");
}

void rvl_runtime_set_hook(rvl_runtime *rt) {
  rt->hooked = 1;
  lua_sethook(rt->frame != NULL ? rt->frame->L : rt->L, interrupt_hook,
              LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/*
** Asynchronous: called by signal handlers. lua_sethook is made for that; the hook goes to the coroutine that
** runs now, because hooks belong to coroutines.
*/
void rvl_runtime_interrupt(rvl_runtime *rt, bool same_thread) {
  atomic_store(&rt->interrupted, true);
  if (same_thread) rvl_runtime_set_hook(rt);
  if (rt->loop_open) rvl_loop_wake(&rt->loop);
}
