/* fork and wait for Lua: what a host that forks does. */
#include <lauxlib.h>
#include <lua.h>
#include <sys/wait.h>
#include <unistd.h>

static int call_fork(lua_State *L) {
  lua_pushinteger(L, fork());
  return 1;
}

static int call_wait(lua_State *L) {
  int status = 0;
  waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0);
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 1;
}

int luaopen_fork(lua_State *L) {
  static const luaL_Reg functions[] = {{"fork", call_fork}, {"wait", call_wait}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
