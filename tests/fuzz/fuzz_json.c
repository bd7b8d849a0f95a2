/* Arbitrary bytes through riverlua.json: whatever decodes must encode, and come back equal; nothing may crash, leak or
 * grow without bound. The first byte selects options. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int rvl_open_json(lua_State *L);

static const char judge[] =
    "local json, text, selector = ...\n"
    "local function bit(n) return selector >> n & 1 == 1 end\n"
    "local function same(a, b)\n"
    "  if type(a) ~= 'table' or type(b) ~= 'table' then\n"
    "    return math.type(a) == math.type(b) and (a == b or (a ~= a and b ~= b))\n"
    "  end\n"
    "  if json.is_array(a) ~= json.is_array(b) then return false end\n"
    "  for k, v in next, a do if not same(v, b[k]) then return false end end\n"
    "  for k in next, b do if a[k] == nil then return false end end\n"
    "  return true\n"
    "end\n"
    "local reading = {nan = bit(0), utf8 = bit(1) and 'replace' or nil, bigint = bit(2) and 'string' or nil,\n"
    "  drop_null = bit(3), max_depth = bit(4) and 8 or nil, null = bit(5) and 'nil' or nil}\n"
    "local writing = {nan = bit(0), sort = bit(6), pretty = bit(7) and '\\t' or nil}\n"
    "local ok, value = pcall(json.decode, text, reading)\n"
    "if not ok then\n"
    "  assert(type(value) == 'string' and not value:find('not enough memory'), value)\n"
    "else\n"
    "  local out = json.encode(value, writing)\n"
    "  local back = json.decode(out, {nan = bit(0), drop_null = bit(3)})\n"
    "  if not same(value, back) then error('differs: ' .. out) end\n"
    "  assert(utf8.len(out))\n"
    "end\n"
    "local wrote, out = pcall(json.encode, {[text] = text}, {utf8 = bit(1) and 'replace' or nil})\n"
    "assert(wrote == (bit(1) or utf8.len(text) ~= nil))\n"
    "if wrote then\n"
    "  local k, v = next(json.decode(out))\n"
    "  assert(k == v and (bit(1) or v == text))\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  lua_State *L = luaL_newstate();
  if (!L) return 0;
  luaL_requiref(L, "_G", luaopen_base, 1);
  luaL_requiref(L, "math", luaopen_math, 1);
  luaL_requiref(L, "string", luaopen_string, 1);
  luaL_requiref(L, "utf8", luaopen_utf8, 1);
  if (luaL_loadstring(L, judge) != LUA_OK) abort();
  lua_pushcfunction(L, rvl_open_json);
  lua_call(L, 0, 1);
  lua_pushlstring(L, (const char *)data + 1, size - 1);
  lua_pushinteger(L, data[0]);
  if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  lua_close(L);
  return 0;
}
