/*
** Runs the command line, which is written in Lua, without it being in the way of the script: tracebacks, levels of
** error() and debug functions must be those of the plain interpreter.
**
** So riverlua.cli runs in a coroutine of its own. Whatever it wants to call for the user it yields, with the message
** handler in front; the call is made here, on the main thread, and its outcome is handed back.
*/
#include "runtime.h"

#include <stdio.h>
#include <string.h>

/* ---- warnings ------------------------------------------------------------------------------------------
** As the plain interpreter treats them: off until "@on", on the standard error stream. A message may come in pieces.
** Which function is installed says what state the warnings are in; its data is the lua_State.
*/

static void warning_off(void *data, const char *piece, int to_be_continued);
static void warning_on(void *data, const char *piece, int to_be_continued);

/* A piece that is a message of its own and begins with '@' switches the warnings. */
static bool is_control(void *data, const char *piece, int to_be_continued) {
  if (to_be_continued || piece[0] != '@') return false;
  if (strcmp(piece, "@on") == 0) lua_setwarnf(data, warning_on, data);
  else if (strcmp(piece, "@off") == 0) lua_setwarnf(data, warning_off, data);
  return true;
}

static void warning_rest(void *data, const char *piece, int to_be_continued) {
  fputs(piece, stderr);
  if (!to_be_continued) fputc('\n', stderr);
  fflush(stderr);
  lua_setwarnf(data, to_be_continued ? warning_rest : warning_on, data);
}

static void warning_on(void *data, const char *piece, int to_be_continued) {
  if (is_control(data, piece, to_be_continued)) return;
  fputs("Lua warning: ", stderr);
  warning_rest(data, piece, to_be_continued);
}

static void warning_off(void *data, const char *piece, int to_be_continued) {
  (void)is_control(data, piece, to_be_continued);
}

/* ---- calls --------------------------------------------------------------------------------------------- */

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
  lua_setwarnf(L, warning_off, L);
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
