/*
 * What the fuzz targets of Lua code share: one Lua state with bounded memory, and in it a function that is called with
 * each input and raises an error when something does not hold. Modules are read from lua/ (run from the top folder).
 */
#ifndef RVL_FUZZ_LUA_H
#define RVL_FUZZ_LUA_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_lua {
  const char *name;
  const char *source;        /* a chunk that returns the function */
  size_t memory;             /* bytes that Lua may have */
  const luaL_Reg *modules;   /* modules in C that the chunk requires, up to a NULL name; may be NULL */
} fuzz_lua;

typedef struct fuzz_budget {
  size_t used, limit;
} fuzz_budget;

static void *fuzz_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  fuzz_budget *b = ud;
  size_t before = ptr ? osize : 0;
  if (nsize == 0) {
    free(ptr);
    b->used -= before;
    return NULL;
  }
  if (nsize > before && b->used + (nsize - before) > b->limit) return NULL;
  void *fresh = realloc(ptr, nsize);
  if (fresh) b->used = b->used - before + nsize;
  return fresh;
}

static void fuzz_stop(lua_State *L, const char *name, const char *what) {
  fprintf(stderr, "%s: %s: %s\n", name, what, lua_tostring(L, -1));
  abort();
}

static int fuzz_prepare(lua_State *L) {
  const fuzz_lua *target = lua_touserdata(L, 1);
  luaL_openlibs(L);
  for (const luaL_Reg *module = target->modules; module && module->name; module++)
    luaL_requiref(L, module->name, module->func, 0);
  lua_getglobal(L, "package");
  lua_pushliteral(L, "lua/?.lua;lua/?/init.lua");
  lua_setfield(L, -2, "path");
  if (luaL_loadbuffer(L, target->source, strlen(target->source), "=check") != LUA_OK) return lua_error(L);
  lua_call(L, 0, 1);
  return 1;
}

static int fuzz_lua_input(const fuzz_lua *target, const uint8_t *data, size_t size) {
  static fuzz_budget memory;
  static lua_State *L; /* one state for the whole run: leaks from one input to the next would show */
  if (!L) {
    memory.limit = target->memory;
    L = lua_newstate(fuzz_alloc, &memory);
    if (!L) abort();
    lua_pushcfunction(L, fuzz_prepare);
    lua_pushlightuserdata(L, (void *)(uintptr_t)target);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) fuzz_stop(L, target->name, "cannot start");
  }
  lua_pushvalue(L, 1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) fuzz_stop(L, target->name, "failed");
  return 0;
}

#endif
