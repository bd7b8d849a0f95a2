/* For tests that have every allocation of a Lua function fail once. Include after cmocka.h. */
#ifndef TESTS_OOM_H
#define TESTS_OOM_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  long until_failure; /* allocations still granted; negative: all of them */
  size_t in_use;
} meter;

static void *metered(void *context, void *block, size_t old_size, size_t new_size) {
  meter *m = context;
  if (!block) old_size = 0; /* there it is a type tag */
  if (new_size == 0) {
    m->in_use -= old_size;
    free(block);
    return NULL;
  }
  if (new_size > old_size && m->until_failure >= 0) { /* shrinking must not fail */
    if (m->until_failure == 0) return NULL;
    m->until_failure--;
  }
  void *moved = realloc(block, new_size);
  if (moved) m->in_use += new_size - old_size;
  return moved;
}

/* Lua's own error, or one of riverlua's of kind "memory". */
static int is_memory_error(lua_State *L) {
  if (lua_type(L, -1) == LUA_TSTRING) return strstr(lua_tostring(L, -1), "not enough memory") != NULL;
  if (lua_type(L, -1) != LUA_TTABLE) return 0;
  lua_getfield(L, -1, "kind");
  int is = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "memory") == 0;
  lua_pop(L, 1);
  return is;
}

static lua_State *metered_state(meter *m) {
  *m = (meter){-1, 0};
  lua_State *L = lua_newstate(metered, m);
  assert_non_null(L);
  luaL_openlibs(L);
  /* Lua 5.4 leaves the metatable of its own string buffers unfinished if memory ends while it is made: have it made. */
  luaL_Buffer b;
  luaL_buffinitsize(L, &b, 10000);
  luaL_pushresultsize(&b, 0);
  lua_pop(L, 1);
  return L;
}

static void open_in(lua_State *L, lua_CFunction open_module) {
  lua_pushcfunction(L, open_module);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
}

static void end_metered(lua_State *L, const meter *m) {
  lua_close(L);
  assert_int_equal(m->in_use, 0);
}

/* Runs `code`, which must return a function, and then that function with all allocations from the Nth on failing, for
 * all N: it fails with a memory error or, once there are enough, gives something true. */
static void sweep_module(lua_CFunction open_module, const char *code) {
  meter m;
  lua_State *L = metered_state(&m);
  open_in(L, open_module);
  assert_int_equal(luaL_dostring(L, code), LUA_OK);
  assert_true(lua_isfunction(L, -1));
  long n = 0;
  int status;
  do {
    assert_true(n < 100000);
    lua_gc(L, LUA_GCCOLLECT);
    lua_pushvalue(L, -1);
    m.until_failure = n++;
    status = lua_pcall(L, 0, 1, 0);
    m.until_failure = -1;
    if (status == LUA_OK) assert_true(lua_toboolean(L, -1));
    else if (!is_memory_error(L)) fail_msg("allocation %ld: %s", n, luaL_tolstring(L, -1, NULL));
    lua_settop(L, 1);
  } while (status != LUA_OK);
  assert_true(n > 1);
  end_metered(L, &m);
}

/* Opens a module while all allocations from the Nth on fail, for all N; opened again, it does what `code` wants. */
static void sweep_opening(lua_CFunction open_module, const char *code) {
  int status = LUA_ERRMEM;
  for (long n = 0; status != LUA_OK; n++) {
    meter m;
    lua_State *L = metered_state(&m);
    lua_pushcfunction(L, open_module);
    m.until_failure = n;
    status = lua_pcall(L, 0, 0, 0);
    m.until_failure = -1;
    if (status != LUA_OK) {
      assert_int_equal(status, LUA_ERRMEM);
      open_in(L, open_module);
    }
    if (luaL_dostring(L, code) != LUA_OK) fail_msg("allocation %ld: %s", n, luaL_tolstring(L, -1, NULL));
    end_metered(L, &m);
  }
}

#endif
