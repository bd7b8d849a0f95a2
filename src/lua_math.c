/* riverlua.core.math: functions of the C library that Lua's math lacks, to the bit what a Python program gets. */
#include "runtime.h"

#include <math.h>

/* pow(x, y): unlike x^y also for the square, which Lua multiplies out */
static int math_pow(lua_State *L) {
  lua_pushnumber(L, pow(luaL_checknumber(L, 1), luaL_checknumber(L, 2)));
  return 1;
}

/* erf(x) */
static int math_erf(lua_State *L) {
  lua_pushnumber(L, erf(luaL_checknumber(L, 1)));
  return 1;
}

int rvl_open_math(lua_State *L) {
  static const luaL_Reg functions[] = {{"pow", math_pow}, {"erf", math_erf}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
