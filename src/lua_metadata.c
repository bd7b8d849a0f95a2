#include "lua_metadata.h"
#include "runtime.h"

#include <string.h>

/* The bytes of one or several values in base64, joined as texts are; what is none stays as it is. */
static void push_bytes(lua_State *L, const char *text, size_t length) {
  luaL_Buffer out;
  char *at = luaL_buffinitsize(L, &out, length * 2 + 1);
  size_t used = 0, n;
  for (const char *end = text + length, *next; text <= end; text = next + 1) {
    next = memchr(text, ',', (size_t)(end - text));
    if (next == NULL) next = end;
    if (used > 0) used += (size_t)(stpcpy(at + used, ", ") - (at + used));
    size_t given = (size_t)(next - text);
    if (!rvl_grpc_from_base64(at + used, text, given, &n)) memcpy(at + used, text, n = given);
    used += n;
  }
  luaL_pushresultsize(&out, used);
}

/* Adds a value to what its name has so far. */
static void add_to_table(lua_State *L, int table, const rvl_grpc_header *h) {
  lua_pushlstring(L, h->name, h->name_length);
  if (rvl_grpc_is_binary(h->name, h->name_length)) push_bytes(L, h->value, h->value_length);
  else lua_pushlstring(L, h->value, h->value_length);
  lua_pushvalue(L, -2);
  if (lua_rawget(L, table) == LUA_TSTRING) {
    lua_pushliteral(L, ", ");
    lua_rotate(L, -3, 2);   /* value, before, ", " → before, ", ", value */
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
  }
  lua_rawset(L, table);
}

int rvl_push_metadata(lua_State *L, const rvl_grpc_metadata *metadata) {
  rvl_grpc_header h;
  size_t at = 0;
  luaL_checkstack(L, 8, "no room for headers");
  lua_createtable(L, 0, (int)metadata->count);
  int table = lua_gettop(L);
  while (rvl_grpc_metadata_next(metadata, &at, &h)) add_to_table(L, table, &h);
  return 1;
}

int rvl_add_metadata(lua_State *L, int index, rvl_grpc_metadata *to) {
  lua_Integer n = luaL_len(L, index);
  for (lua_Integer i = 1; i < n; i += 2) {
    size_t name_length, value_length;
    lua_rawgeti(L, index, i);
    lua_rawgeti(L, index, i + 1);
    const char *name = luaL_checklstring(L, -2, &name_length);
    const char *value = luaL_checklstring(L, -1, &value_length);
    const char *why = rvl_grpc_metadata_add(to, name, name_length, value, value_length);
    if (why != NULL) return rvl_raise(L, "argument", NULL, "metadata '%s': %s", name, why);
    lua_pop(L, 2);
  }
  return 0;
}
