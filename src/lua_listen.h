/* What the listening servers of Lua have in common: their tables of options, at index 1, and their failures. */
#ifndef RVL_LUA_LISTEN_H
#define RVL_LUA_LISTEN_H

#include <lua.h>

#include <stddef.h>

/* A wanted size; 0 for negative ones. */
size_t rvl_listen_size(lua_State *L, const char *name);
/* Seconds; 0 when they are not there. */
lua_Number rvl_listen_seconds(lua_State *L, const char *name);
/* Raises kind "connect" for an error of libuv. */
int rvl_listen_raise(lua_State *L, const char *host, unsigned port, int err);

#endif
