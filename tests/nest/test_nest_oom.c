/* Arrays, NEST and datums with every allocation failed once: a memory error, a usable state and no byte left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/oom.h"

int rvl_open_array(lua_State *L);
int rvl_open_json(lua_State *L);
int rvl_open_nest(lua_State *L);

static int open_modules(lua_State *L) {
  luaL_requiref(L, "array", rvl_open_array, 1);
  luaL_requiref(L, "nest", rvl_open_nest, 1);
  luaL_requiref(L, "json", rvl_open_json, 1);
  return 0;
}

static void sweep(const char *code) { sweep_module(open_modules, code); }

#define MAKE "local function new(dtype, list) return (assert(array.convert(dtype, list))) end\n"

static void test_opening(void **state) {
  (void)state;
  sweep_opening(rvl_open_array, "return 1");
  sweep_opening(rvl_open_nest, "return 1");
}

static void test_arrays(void **state) {
  (void)state;
  sweep(MAKE "local lazy = setmetatable({}, {__len = function() return 3 end, __index = function(_, i) return i end})\n"
             "return function()\n"
             "  local a = array.concat({0}, new('int32', {1, 2, 3}), {4})\n"
             "  local m = new('float32', {{1, 2, 3}, lazy})\n"
             "  m[1][2] = 7\n"
             "  m[2] = {4, 5, 6}\n"
             "  local text = tostring(a) .. tostring(m) .. a:slice(2):bytes() .. json.encode{a, m}\n"
             "  local total = 0\n"
             "  for _, x in pairs(a) do total = total + x end\n"
             "  return #text > 0 and total == a:sum() and #m:table() == 2 and a == new('int64', a)\n"
             "    and array.join('float32', 0, 3, {1}, 1)[4] == 1.0 and not array.convert('int8', {1, 300})\n"
             "end");
}

static void test_codec(void **state) {
  (void)state;
  sweep(MAKE "local function make(values, keys) return setmetatable(values, {__nest = keys}) end\n"
             "return function()\n"
             "  local value = make({a = {new('float32', {1, 2}), 'x', 3, true}, b = make({}, {})}, {'b', 'a'})\n"
             "  local bytes = nest.encode(value)\n"
             "  local back = nest.decode(bytes, make)\n"
             "  return nest.encode(back) == bytes and back.a[1][2] == 2.0\n"
             "end");
}

static void test_columns(void **state) {
  (void)state;
  sweep(MAKE
        "local r = nest.rules\n"
        "local lazy = setmetatable({}, {__len = function() return 200 end, __index = function() return 1 end})\n"
        "local ids = {}\n"
        "for i = 1, 200 do ids[i] = i end\n"
        "return function()\n"
        "  local entries = {'input_ids', ids, r.int64 | r.tokens, 'weights', lazy, r.float32 | r.tokens,\n"
        "    'handle', 'abc', r.text, 'mask', false, r.ones, 'k', {{1, 2}}, r.by_value}\n"
        "  local bytes = nest.columns(entries, 200)\n"
        "  local _, bad, complaint = nest.columns({'a', {1, 0.5}, r.int64}, 2)\n"
        "  return #bytes > 4000 and bad == 1 and complaint == '[2] is 0.5, which is not an integer'\n"
        "end");
}

static void test_damaged(void **state) {
  (void)state;
  sweep("local bytes = nest.encode{'a', 'b'}\n"
        "return function()\n"
        "  local ok, err = pcall(nest.decode, bytes:sub(1, -2), print)\n"
        "  if type(err) == 'string' then error(err, 0) end\n"
        "  return not ok and err.kind == 'protocol'\n"
        "end");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_opening), cmocka_unit_test(test_arrays),  cmocka_unit_test(test_codec),
      cmocka_unit_test(test_columns), cmocka_unit_test(test_damaged),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
