/* Every allocation of riverlua.core.regex failed once: PCRE2's too, which come from the same allocator. The call fails
 * with an error of kind "memory" or Lua's own, the state stays usable, and no byte is left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/oom.h"

int rvl_open_regex(lua_State *L);

static int open_regex(lua_State *L) {
  luaL_requiref(L, "regex", rvl_open_regex, 1);
  return 0;
}

static void sweep(const char *code) { sweep_module(open_regex, code); }

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

static void test_open(void **state) {
  (void)state;
  sweep_opening(open_regex, "local pattern <close> = regex.compile('a', 'e') assert(pattern:find('ba') == 2)");
}

static void test_closed(void **state) {
  (void)state;
  meter m;
  lua_State *L = metered_state(&m);
  open_in(L, open_regex);
  assert_int_equal(luaL_dostring(L, "local pattern = regex.compile('a', 'e')\n"
                                    "pattern:close()\n"
                                    "pattern:close()\n"
                                    "local ok, err = pcall(pattern.find, pattern, 'a')\n"
                                    "assert(not ok and err.kind == 'closed')"), LUA_OK);
  end_metered(L, &m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_compile),      cmocka_unit_test(test_wrong_pattern), cmocka_unit_test(test_find),
      cmocka_unit_test(test_backtracking), cmocka_unit_test(test_closed),        cmocka_unit_test(test_open),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
