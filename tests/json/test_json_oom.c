/* Every allocation of decode and encode failed once: the call must fail with Lua's memory error, leave the state usable
 * and, once the state is closed, no byte behind. */
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

int rvl_open_json(lua_State *L);

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

static int open_all(lua_State *L) {
  luaL_openlibs(L);
  luaL_requiref(L, "json", rvl_open_json, 1);
  /* Lua 5.4 leaves the metatable of its own string buffers unfinished if memory ends while it is made: have it made. */
  luaL_Buffer b;
  luaL_buffinitsize(L, &b, 10000);
  luaL_pushresultsize(&b, 0);
  lua_pop(L, 1);
  return 0;
}

/* Runs `code`, which must return a function, and then that function with the Nth allocation failing, for all N. */
static void sweep(const char *code) {
  meter m = {-1, 0};
  lua_State *L = lua_newstate(metered, &m);
  assert_non_null(L);
  lua_pushcfunction(L, open_all);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
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
    if (status == LUA_OK) {
      assert_true(lua_toboolean(L, -1));
    } else if (!strstr(lua_tostring(L, -1), "not enough memory")) {
      fail_msg("allocation %ld: %s", n, lua_tostring(L, -1));
    }
    lua_pop(L, 1);
    lua_gc(L, LUA_GCCOLLECT);
  } while (status != LUA_OK);
  assert_true(n > 1);
  lua_close(L);
  assert_int_equal(m.in_use, 0);
}

static void test_decode(void **state) {
  (void)state;
  sweep("local text = '{\"a\":[1,2.5,\"x\\\\ny\",null,{\"b\":[]}],\"long\":\"' .. ('\\\\u00e9 '):rep(300) .. '\"}'\n"
        "return function() return json.decode(text) end");
}

static void test_decode_wide(void **state) {
  (void)state;
  sweep("local parts = {}\n"
        "for i = 1, 3000 do parts[i] = i end\n"
        "local text = '[' .. table.concat(parts, ',') .. ',{'\n"
        "for i = 1, 100 do parts[i] = '\"k' .. i .. '\":[{}]' end\n"
        "text = text .. table.concat(parts, ',', 1, 100) .. '}]'\n"
        "return function() return json.decode(text, {drop_null = true}) end");
}

static void test_encode(void **state) {
  (void)state;
  sweep("local t = {a = {1, 2.5, 'x\\ny', json.null, {b = json.array{}}}, long = ('\\u{e9}\\n'):rep(3000), n = 1}\n"
        "for i = 1, 40 do t['k' .. i] = i end\n"
        "return function() return json.encode(t, {sort = true}) end");
}

static void test_encode_growing(void **state) {
  (void)state;
  sweep("local t = {}\n"
        "for i = 1, 300 do t[i] = {name = ('y'):rep(i), pair = table.pack(nil, i)} end\n"
        "return function() return json.encode(t, {pretty = true}) end");
}

static void test_codec_objects(void **state) {
  (void)state;
  sweep("return function()\n"
        "  local encode, decode = json.encoder{sort = true}, json.decoder{null = false}\n"
        "  return encode(json.array{decode('[null,{}]')})\n"
        "end");
}

static void test_errors(void **state) {
  (void)state;
  sweep("local function again(ok, err)\n"
        "  if not ok and tostring(err):find('not enough memory') then error(err, 0) end\n"
        "  return not ok\n"
        "end\n"
        "return function()\n"
        "  return again(pcall(json.decode, '{\"a\":[1,{\"b c\":?}]}')) and again(pcall(json.encode, {x = {0/0}}))\n"
        "    and again(pcall(json.encode, {('z'):rep(5000), print}))\n"
        "    and again(pcall(json.encode, 1, {nonsense = 1}))\n"
        "end");
}

static void test_open(void **state) {
  (void)state;
  sweep("return function() package.loaded.json = nil; return json.array() end");
  for (long n = 0;; n++) {
    meter m = {-1, 0};
    lua_State *L = lua_newstate(metered, &m);
    assert_non_null(L);
    lua_pushcfunction(L, open_all);
    m.until_failure = n;
    int status = lua_pcall(L, 0, 0, 0);
    m.until_failure = -1;
    lua_close(L);
    assert_int_equal(m.in_use, 0);
    if (status == LUA_OK) break;
    assert_int_equal(status, LUA_ERRMEM);
  }
}

/* A limit on memory holds for the encoder too, since it has no memory of its own. */
static void test_limit_holds(void **state) {
  (void)state;
  meter m = {-1, 0};
  lua_State *L = lua_newstate(metered, &m);
  lua_pushcfunction(L, open_all);
  assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
  size_t before = m.in_use;
  assert_int_equal(luaL_dostring(L, "local text = json.encode(('x'):rep(1000000)); return #text"), LUA_OK);
  assert_int_equal(lua_tointeger(L, -1), 1000002);
  assert_true(m.in_use >= before);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT);
  assert_true(m.in_use < before + 10000);
  lua_close(L);
  assert_int_equal(m.in_use, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decode),        cmocka_unit_test(test_decode_wide), cmocka_unit_test(test_encode),
      cmocka_unit_test(test_encode_growing), cmocka_unit_test(test_codec_objects), cmocka_unit_test(test_errors),
      cmocka_unit_test(test_open),          cmocka_unit_test(test_limit_holds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
