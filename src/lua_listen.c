#include "lua_listen.h"

#include "runtime.h"

#include <lauxlib.h>
#include <uv.h>

size_t rvl_listen_size(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  lua_Integer size = luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  return size > 0 ? (size_t)size : 0;
}

lua_Number rvl_listen_seconds(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  lua_Number seconds = luaL_optnumber(L, -1, 0);
  lua_pop(L, 1);
  return seconds;
}

int rvl_listen_raise(lua_State *L, const char *host, unsigned port, int err) {
  if (err == UV_ENOMEM) return luaL_error(L, "not enough memory");
  const char *hint = err == UV_EADDRINUSE ? "another program has this port; port 0 picks a free one" : NULL;
  return rvl_raise(L, "connect", hint, "cannot listen on %s port %d: %s", host, (int)port, uv_strerror(err));
}
