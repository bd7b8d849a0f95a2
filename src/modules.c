/* Where `require` finds the modules of riverlua: C modules and the Lua files embedded by the build. */
#include "modules.h"
#include "runtime.h"

#include <lua-cjson.h>   /* declares luaopen_cjson only */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int luaopen_cjson_safe(lua_State *L);

static const luaL_Reg core_modules[] = {
    {"riverlua.core.task", rvl_open_task},
    {"riverlua.core.transfer", rvl_open_transfer},
    {"riverlua.core.json", rvl_open_json},
    {"riverlua.core.terminal", rvl_open_terminal},
    {"riverlua.core.runtime", rvl_open_runtime},
    {"riverlua.core.folder", rvl_open_folder},
    {"riverlua.core.math", rvl_open_math},
    {"riverlua.core.gzip", rvl_open_gzip},
    {"riverlua.core.listener", rvl_open_listener},
    {"riverlua.core.river", rvl_open_river},
    {"riverlua.core.digest", rvl_open_digest},
    {"riverlua.core.websocket", rvl_open_websocket},
    {"riverlua.core.heartbeat", rvl_open_heartbeat},
    {"riverlua.core.regex", rvl_open_regex},
    {"riverlua.core.grpc", rvl_open_grpc},
    {"riverlua.core.grpc_server", rvl_open_grpc_server},
    {"riverlua.core.protobuf", rvl_open_protobuf},
    {"riverlua.core.array", rvl_open_array},
    {"riverlua.core.nest", rvl_open_nest},
    {"riverlua.core.block", rvl_open_block},
    {"riverlua.core.trainer", rvl_open_trainer},
    {"cjson", luaopen_cjson},
    {"cjson.safe", luaopen_cjson_safe},
    {NULL, NULL}};

static const rvl_embedded_file *find_embedded(const char *name) {
  size_t low = 0, high = rvl_embedded_count;   /* sorted by the build */
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(name, rvl_embedded_files[middle].module);
    if (order == 0) return &rvl_embedded_files[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}

/* RIVERLUA_PATH_DEV names a folder whose files replace the embedded ones; pushes the chunk and where it is from. */
static bool load_from_folder(lua_State *L, const char *folder, const char *name, const char *ending) {
  const char *path = lua_pushfstring(L, "%s/%s%s", folder, luaL_gsub(L, name, ".", "/"), ending);
  FILE *probe = fopen(path, "r");
  if (probe == NULL) return false;
  fclose(probe);
  if (luaL_loadfilex(L, path, "t") != LUA_OK) return lua_error(L) != 0;
  lua_insert(L, -2);
  return true;
}

/* (name) → loader, where it came from; nothing when the name is not ours */
static int search(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  for (const luaL_Reg *m = core_modules; m->name != NULL; m++) {
    if (strcmp(m->name, name) != 0) continue;
    lua_pushcfunction(L, m->func);
    lua_pushliteral(L, ":riverlua:");
    return 2;
  }
  const char *folder = getenv("RIVERLUA_PATH_DEV");
  if (folder != NULL && (load_from_folder(L, folder, name, ".lua") || load_from_folder(L, folder, name, "/init.lua")))
    return 2;
  const rvl_embedded_file *file = find_embedded(name);
  if (file == NULL) return 0;
  const char *chunk_name = lua_pushfstring(L, "@lua/%s", file->path);
  if (luaL_loadbufferx(L, file->text, file->length, chunk_name, "t") != LUA_OK) return lua_error(L);
  lua_pushvalue(L, -2);
  return 2;
}

/* embedded(path) → whether a Lua file of riverlua's own has this path, such as "river/client.lua" */
int rvl_is_embedded(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  bool found = false;
  for (size_t i = 0; i < rvl_embedded_count && !found; i++) found = strcmp(rvl_embedded_files[i].path, path) == 0;
  lua_pushboolean(L, found);
  return 1;
}

/* After package.preload, so that a host may put its own in place, and before the file system. */
void rvl_open_searcher(lua_State *L) {
  lua_getglobal(L, "package");
  if (lua_getfield(L, -1, "searchers") == LUA_TTABLE) {
    for (lua_Integer i = luaL_len(L, -1); i >= 2; i--) {
      lua_rawgeti(L, -1, i);
      lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, search);
    lua_rawseti(L, -2, 2);
  }
  lua_pop(L, 2);
}
