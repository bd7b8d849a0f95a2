/* Every allocation of decode and encode failed once: the call must fail with Lua's memory error, leave the state usable
 * and, once the state is closed, no byte behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/oom.h"

int rvl_open_json(lua_State *L);

static int open_json(lua_State *L) {
  luaL_requiref(L, "json", rvl_open_json, 1);
  return 0;
}

static void sweep(const char *code) { sweep_module(open_json, code); }

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
  sweep_opening(open_json, "assert(json.decode('[1]')[1] == 1 and json.encode(json.null) == 'null')");
}

/* A limit on memory holds for the encoder too, since it has no memory of its own. */
static void test_limit_holds(void **state) {
  (void)state;
  meter m;
  lua_State *L = metered_state(&m);
  open_in(L, open_json);
  size_t before = m.in_use;
  assert_int_equal(luaL_dostring(L, "local text = json.encode(('x'):rep(1000000)); return #text"), LUA_OK);
  assert_int_equal(lua_tointeger(L, -1), 1000002);
  assert_true(m.in_use >= before);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT);
  assert_true(m.in_use < before + 10000);
  end_metered(L, &m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decode),        cmocka_unit_test(test_decode_wide), cmocka_unit_test(test_encode),
      cmocka_unit_test(test_encode_growing), cmocka_unit_test(test_codec_objects), cmocka_unit_test(test_errors),
      cmocka_unit_test(test_open),          cmocka_unit_test(test_limit_holds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
