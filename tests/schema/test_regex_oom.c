/* Every allocation of riverlua.core.regex failed once: PCRE2's too, which come from the same allocator. The call fails
 * with an error of kind "memory" or Lua's own, the state stays usable, and no byte is left behind. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

int rvl_open_regex(lua_State *L);

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
  if (new_size > old_size && m->until_failure >= 0) {
    if (m->until_failure == 0) return NULL;
    m->until_failure--;
  }
  void *moved = realloc(block, new_size);
  if (moved) m->in_use += new_size - old_size;
  return moved;
}

static int open_all(lua_State *L) {
  luaL_openlibs(L);
  luaL_requiref(L, "regex", rvl_open_regex, 1);
  lua_pop(L, 1);
  return 0;
}

static int is_memory_error(lua_State *L) {
  if (lua_type(L, -1) == LUA_TSTRING) return strstr(lua_tostring(L, -1), "not enough memory") != NULL;
  if (lua_type(L, -1) != LUA_TTABLE) return 0;
  lua_getfield(L, -1, "kind");
  int is = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "memory") == 0;
  lua_pop(L, 1);
  return is;
}

/* Runs `code`, which must return a function, and then that function with all allocations from the Nth on failing. */
static void sweep(const char *code) {
  meter m = {-1, 0};
  lua_State *L = lua_newstate(metered, &m);
  assert_non_null(L);
  lua_pushcfunction(L, open_all);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
  assert_int_equal(luaL_dostring(L, code), LUA_OK);
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
    else assert_true(is_memory_error(L));
    lua_pop(L, 1);
  } while (status != LUA_OK);
  assert_true(n > 3);
  lua_close(L);
  assert_int_equal(m.in_use, 0);
}

static void test_compile(void **state) {
  (void)state;
  sweep("return function() return regex.compile('^(a+)[b-y]{2,5}(?<n>x|\\\\p{L})*$', 'e') end");
}

static void test_wrong_pattern(void **state) {
  (void)state;
  sweep("return function()\n"
        "  local object, message, offset = regex.compile('(a', 'e')\n"
        "  return object == nil and offset == 2 and message\n"
        "end");
}

static void test_find(void **state) {
  (void)state;
  sweep("local pattern = regex.compile('(a|b)*c', 'e')\n"
        "return function() return pattern:find('ab' .. 'abc') == 1 end");
}

/* The frames of backtracking outgrow what is there from the beginning. */
static void test_backtracking(void **state) {
  (void)state;
  sweep("local text = ('ab'):rep(5000) .. 'c'\n"
        "return function() return regex.compile('(?:(a)|(b))*c', 'e'):find(text) == 1 end");
}

static void test_closed(void **state) {
  (void)state;
  meter m = {-1, 0};
  lua_State *L = lua_newstate(metered, &m);
  lua_pushcfunction(L, open_all);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
  assert_int_equal(luaL_dostring(L, "local pattern = regex.compile('a', 'e')\n"
                                    "pattern:close()\n"
                                    "pattern:close()\n"
                                    "local ok, err = pcall(pattern.find, pattern, 'a')\n"
                                    "assert(not ok and err.kind == 'closed')"), LUA_OK);
  lua_close(L);
  assert_int_equal(m.in_use, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_compile),      cmocka_unit_test(test_wrong_pattern), cmocka_unit_test(test_find),
      cmocka_unit_test(test_backtracking), cmocka_unit_test(test_closed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
