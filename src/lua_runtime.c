/* riverlua.core.runtime: the interpreter itself, for the command line. */
#include "riverlua.h"
#include "runtime.h"

int rvl_open_runtime(lua_State *L) {
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, RIVERLUA_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushliteral(L, LUA_COPYRIGHT);
  lua_setfield(L, -2, "lua_copyright");
  return 1;
}
