/* Every allocation of encoding and decoding failed once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/oom.h"

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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_encode), cmocka_unit_test(test_encode_maps_and_large_strings),
      cmocka_unit_test(test_decode), cmocka_unit_test(test_errors),
      cmocka_unit_test(test_types),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
