/* Metadata of gRPC as Lua tables, for clients and servers. */
#ifndef RVL_LUA_METADATA_H
#define RVL_LUA_METADATA_H

#include "grpc_status.h"

#include <lua.h>

/* Pushes a table of name → value; of several values a text. Bytes are decoded. */
int rvl_push_metadata(lua_State *L, const rvl_grpc_metadata *metadata);
/* Adds {name, value, name, value, …} at an index; raises when one cannot be sent. Returns 0. */
int rvl_add_metadata(lua_State *L, int index, rvl_grpc_metadata *to);

#endif
