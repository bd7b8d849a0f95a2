/* Every allocation of encoding and decoding failed once, and what callers in C have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/oom.h"
#include "protobuf.h"

int rvl_open_protobuf(lua_State *L);

static int open_protobuf(lua_State *L) {
  luaL_requiref(L, "core", rvl_open_protobuf, 1);
  return 0;
}

static void sweep(const char *code) { sweep_module(open_protobuf, code); }

#define TYPES                                                                                                   \
  "local library = core.training()\n"                                                                           \
  "local function T(name) return core.message(library, 'river.api.v1.' .. name) end\n"

static void test_encode(void **state) {
  (void)state;
  sweep(TYPES "local Request = T 'InferenceGenerateRequest'\n"
              "local prompts = {}\n"
              "for i = 1, 40 do\n"
              "  prompts[i] = {prompt = 'p' .. i, input_ids = {i, 2, 3}, stop = {'a', 'b'}, seed = 0}\n"
              "end\n"
              "local message = {base_model = 'm', prompts = prompts}\n"
              "local want = Request:encode(message)\n"
              "return function() return Request:encode(message) == want end");
}

static void test_encode_maps_and_large_strings(void **state) {
  (void)state;
  sweep(TYPES "local Input = T 'ForwardBackwardInput'\n"
              "local big = ('x'):rep(20000)\n"
              "local message = {data = {}, loss_fn_config = {}, resolved_images = {a = big, b = '', c = big .. 'c'}}\n"
              "for i = 1, 30 do\n"
              "  message.data[i] = {data = i % 2 == 0 and big .. i or 'small'}\n"
              "  message.loss_fn_config['k' .. i] = i\n"
              "end\n"
              "local want = Input:encode(message)\n"
              "return function() return Input:encode(message) == want end");
}

static void test_decode(void **state) {
  (void)state;
  sweep(TYPES "local Result = T 'InferenceResponse'\n"
              "local result = {text = 'abc', token_logprobs = {-1, -2}, tokens = {'a', 'b'}, token_ids = {1, 2},\n"
              "  metrics = {a = 1, b = 2}, policy_version = {id = 'v', step = 3}, policy_spans = {{['end'] = 1}, {}}}\n"
              "local bytes = Result:encode{results = {result, result, {}}, usage = {prompt_tokens = 5}}\n"
              "return function() return #Result:decode(bytes .. bytes).results == 6 end");
}

static void test_errors(void **state) {
  (void)state;
  sweep(TYPES "local Request = T 'InferenceGenerateRequest'\n"
              "local function again(ok, err)\n"
              "  if not ok and tostring(err):find('not enough memory') then error(err, 0) end\n"
              "  return not ok and (err.kind == 'argument' or err.kind == 'protocol')\n"
              "end\n"
              "return function()\n"
              "  return again(pcall(Request.encode, Request, {prompts = {{}, {max_tokens = 'x'}}}))\n"
              "    and again(pcall(Request.encode, Request, {prompts = {{max_token = 1}}}))\n"
              "    and again(pcall(Request.decode, Request, '\\x12\\3\\x0a\\1'))\n"
              "    and again(pcall(Request.decode, Request, '\\x12\\3\\x0a\\1\\xff'))\n"
              "end");
}

static void test_types(void **state) {
  (void)state;
  sweep("return function()\n"
        "  local library = core.training()\n"
        "  local service = core.service(library, 'river.api.v1.RiverService')\n"
        "  return #service.methods.OptimStep.request:encode{model_id = 'm'} == 3\n"
        "    and #core.names(library, 'message') > 80\n"
        "end");
  sweep_opening(open_protobuf,
                "assert(core.message(core.training(), 'river.api.v1.Usage'):decode('\\8\\5').prompt_tokens == 5)");
}

static void push_type(lua_State *L, const char *name) {
  lua_pushfstring(L, "return core.message(core.training(), 'river.api.v1.%s')", name);
  assert_int_equal(luaL_loadstring(L, lua_tostring(L, -1)), LUA_OK);
  lua_remove(L, -2);
  assert_int_equal(lua_pcall(L, 0, 1, 0), LUA_OK);
}

static void test_callers_in_c(void **state) {
  (void)state;
  meter m;
  lua_State *L = metered_state(&m);
  open_in(L, open_protobuf);
  push_type(L, "UploadChunkRequest");
  int type = lua_gettop(L);
  assert_string_equal(rvl_protobuf_name(rvl_protobuf_test(L, type)), "river.api.v1.UploadChunkRequest");
  lua_pushinteger(L, 1);
  assert_null(rvl_protobuf_test(L, -1));
  assert_null(rvl_protobuf_test(L, 50));
  assert_int_equal(luaL_dostring(L, "return {upload_id = 'u', data = ('x'):rep(1000000)}"), LUA_OK);
  size_t length, before = m.in_use;
  char *bytes = rvl_protobuf_encode(L, type, -1, 5, &length);
  assert_int_equal(length, 3 + 1 + 3 + 1000000);
  assert_memory_equal(bytes + 5, "\x0a\1u\x1a\xc0\x84\x3d" "xxx", 10);
  memcpy(bytes, "head:", 5);
  assert_true(m.in_use < before + 1010000);   /* one copy */
  rvl_protobuf_decode(L, type, bytes + 5, length);
  lua_getfield(L, -1, "data");
  assert_int_equal(lua_rawlen(L, -1), 1000000);
  lua_pop(L, 2);
  rvl_protobuf_free(L, -1);
  lua_gc(L, LUA_GCCOLLECT);
  assert_true(m.in_use < before + 20000);
  rvl_protobuf_free(L, -1);
  lua_pop(L, 1);
  lua_newtable(L);
  bytes = rvl_protobuf_encode(L, type, -1, 0, &length);
  assert_int_equal(length, 0);
  assert_non_null(bytes);
  end_metered(L, &m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_encode), cmocka_unit_test(test_encode_maps_and_large_strings),
      cmocka_unit_test(test_decode), cmocka_unit_test(test_errors),
      cmocka_unit_test(test_types),  cmocka_unit_test(test_callers_in_c),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
