/*
** Runs the command line, which is written in Lua, without it being in the way of the script: tracebacks, levels of
** error() and debug functions must be those of the plain interpreter.
**
** So riverlua.cli runs in a coroutine of its own. Whatever it wants to call for the user it yields, with the message
** handler in front; the call is made here, on the main thread, and its outcome is handed back.
*/
#include "runtime.h"

/* Calls (handler, function, arguments…), all that is above `base`; leaves success and results in `co`. */
static int call_for(lua_State *L, lua_State *co, int base) {
  int handler = base + 1;
  bool ok = lua_pcall(L, lua_gettop(L) - handler - 1, LUA_MULTRET, handler) == LUA_OK;
  int nresults = lua_gettop(L) - handler;
  if (!lua_checkstack(co, nresults + 1)) {
    lua_settop(L, handler);
    lua_pushliteral(L, "too many results");
    nresults = 1;
    ok = false;
  }
  lua_pushboolean(co, ok);
  lua_xmove(L, co, nresults);
  lua_settop(L, base);
  return nresults + 1;
}

/* (main function, arguments) → what it returns */
int rvl_command_run(lua_State *L) {
  rvl_runtime *rt = rvl_runtime_of(L);
  lua_State *co = lua_newthread(L);
  lua_insert(L, 1);
  lua_xmove(L, co, 2);
  lua_settop(L, 1);
  int status, nargs = 1, nresults;
  while ((status = rvl_resume(rt, co, L, nargs, &nresults)) == LUA_YIELD) {
    luaL_checkstack(L, nresults + LUA_MINSTACK, "too many arguments");
    lua_xmove(co, L, nresults);
    nargs = call_for(L, co, 1);
  }
  lua_xmove(co, L, 1);
  return status == LUA_OK ? 1 : lua_error(L);
}
