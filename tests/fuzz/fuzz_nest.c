/*
 * Fuzz target: NEST (src/nest.c, src/lua_nest.c, lua/training/nest.lua), compact arrays, and datums made of what came
 * out (src/lua_datum.c, lua/training/datum.lua).
 *
 * Whatever the bytes, there is a value or a structured error. A value is encoded to bytes that give the same bytes
 * again, and can be walked, shown and written as JSON; as a datum it is bytes or a structured error. Memory stays
 * bounded. The first byte chooses whether checksums are made right first, without which few inputs would get far.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"
#include "nest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

int rvl_open_array(lua_State *L);
int rvl_open_json(lua_State *L);
int rvl_open_nest(lua_State *L);

static const char check_source[] =
    "local array, json, errors = require 'riverlua.array', require 'riverlua.json', require 'riverlua.errors'\n"
    "local nest, datum = require 'training.nest', require 'training.datum'\n"
    "local function structured(err, kinds)\n"
    "  assert(errors.is(err) and kinds[err.kind], tostring(err))\n"
    "end\n"
    "local large\n"
    "local function walk(value, depth)\n"
    "  if array.is(value) then\n"
    "    local count, shape = 0, value.shape\n"
    "    assert(#tostring(value) > 0 and #value == (shape[1] or 1))\n"
    "    large = large or #value > 300\n"
    "    if #value > 300 then return end\n"
    "    for i, item in pairs(value) do\n"
    "      count = count + 1\n"
    "      assert(i == count)\n"
    "      if array.is(item) and depth < 8 then walk(item, depth + 1) end\n"
    "    end\n"
    "    assert(count == #value and value[count + 1] == nil)\n"
    "    local joined = array.concat({}, value, {}, value:slice(1, 0))\n"
    "    assert(joined:bytes() == value:bytes() and #value:slice(2) == math.max(0, #value - 1))\n"
    "    assert(array.concat(value, value):bytes() == value:bytes():rep(2))\n"
    "    value:sum() value:min() value:max()\n"
    "  elseif type(value) == 'table' then\n"
    "    for _, item in pairs(value) do walk(item, depth) end\n"
    "  end\n"
    "end\n"
    "return function(input)\n"
    "  local ok, value = pcall(nest.decode, input)\n"
    "  if not ok then return structured(value, {protocol = true}) end\n"
    "  local bytes = nest.encode(value)\n"
    "  assert(nest.encode(nest.decode(bytes)) == bytes, 'not the same twice')\n"
    "  large = false\n"
    "  local fine, err = pcall(walk, value, 1)\n"
    "  if not fine then structured(err, {argument = true}) end\n"
    "  local made, wrong = pcall(datum.encode, value)\n"
    "  if not made then structured(wrong, {argument = true}) else nest.decode(wrong) end\n"
    "  local as_ids\n"
    "  made, as_ids = pcall(datum.encode, {input_ids = {1, 2}, extra = value, weights = value})\n"
    "  if not made then structured(as_ids, {argument = true}) end\n"
    "  if #bytes < 1000 and not large then pcall(json.encode, value, {nan = 'null'}) end\n"
    "end\n";

static const luaL_Reg modules[] = {{"riverlua.core.array", rvl_open_array},
                                   {"riverlua.core.json", rvl_open_json},
                                   {"riverlua.core.nest", rvl_open_nest},
                                   {NULL, NULL}};

/* Walks as far as it goes; true: a checksum has been made right, and all has to be walked again. */
static bool repair(rvl_nest_reader *r, uint8_t *data, int depth) {
  rvl_nest_value v;
  if (depth > RVL_NEST_DEPTH) return false;
  if (!rvl_nest_read(r, &v)) {
    if (v.raw == NULL || v.size > r->length) return false;
    uint64_t sum = XXH64(v.raw, v.size, RVL_NEST_SEED);
    for (size_t i = 0; i < 8; i++) {
      if (data[v.checksum_at + i] != (uint8_t)(sum >> 8 * i)) depth = -1;
      data[v.checksum_at + i] = (uint8_t)(sum >> 8 * i);
    }
    return depth < 0;
  }
  if (v.kind != RVL_NEST_DICT && v.kind != RVL_NEST_LIST) return false;
  for (size_t i = 0; i < v.count && r->error == NULL; i++) {
    const char *key;
    size_t length;
    if (v.kind == RVL_NEST_DICT && !rvl_nest_read_key(r, &key, &length)) return false;
    if (repair(r, data, depth + 1)) return true;
  }
  return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const fuzz_lua target = {"fuzz_nest", check_source, (size_t)64 << 20, modules};
  if (size < 1) return 0;
  uint8_t *copy = malloc(size + 8);
  if (copy == NULL) abort();
  bool right = data[0] & 1;
  size_t length = size - 1;
  if (data[0] & 2) {   /* the header is there already */
    memcpy(copy, "NEST\1\0\0\0", 8);
    memcpy(copy + 8, data + 1, size - 1);
    length += 8;
  } else {
    memcpy(copy, data + 1, size - 1);
  }
  rvl_nest_reader r;
  for (int i = 0; right && i < 200; i++)
    if (!rvl_nest_open(&r, copy, length) || !repair(&r, copy, 0)) break;
  fuzz_lua_input(&target, copy, length);
  free(copy);
  return 0;
}
