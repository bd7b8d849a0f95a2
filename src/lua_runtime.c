/* riverlua.core.runtime: the interpreter itself, for the command line. */
#include "riverlua.h"
#include "runtime.h"

/* interrupt_handled(): the script that was told to stop has stopped; the next interrupt is a first one again */
static int runtime_interrupt_handled(lua_State *L) {
  atomic_store(&rvl_upvalue_runtime(L)->stopping, false);
  return 0;
}

int rvl_open_runtime(lua_State *L) {
  static const luaL_Reg functions[] = {{"interrupt_handled", runtime_interrupt_handled}, {NULL, NULL}};
  rvl_new_functions(L, functions);
  lua_pushliteral(L, RIVERLUA_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushliteral(L, LUA_COPYRIGHT);
  lua_setfield(L, -2, "lua_copyright");
  lua_pushcfunction(L, rvl_is_embedded);
  lua_setfield(L, -2, "is_embedded");
  return 1;
}
