/*
 * Fuzz target: the reader of pickles (lua/river/pickle_reader.lua).
 *
 * Whatever the bytes, it gives inert tables or a structured error, within bounded memory; every value it gives has a
 * kind, and the same bytes give the same values.
 * Run from the top folder: the reader is read from lua/.
 */
#include "fuzz_lua.h"

/* The first byte says whether the rest are the bytes of a pickle or name operations. */
static const char check_source[] =
    "local reader = require 'river.pickle_reader'\n"
    "local errors = require 'riverlua.errors'\n"
    "local KINDS = {protocol = true, unsupported = true, limit = true}\n"
    "local operations = {'(', '.', '0', '1', '2', 'N', '\\x88', 'K\\1', 'K\\2', 'M\\1\\2', 'J\\1\\2\\3\\4',\n"
    "  '\\x8a\\2\\1\\2', 'G\\0\\0\\0\\0\\0\\0\\0\\0', 'G\\x7f\\xf8\\0\\0\\0\\0\\0\\0', '\\x8c\\1a', '\\x8c\\1b',\n"
    "  'C\\1x', ')', '\\x85', '\\x86', '\\x87', 't', ']', 'a', 'e', '}', 's', 'u', '\\x8f', '\\x90', '\\x91',\n"
    "  'ca\\nb\\n', '\\x93', 'R', '\\x81', '\\x92', 'b', 'q\\0', 'q\\1', '\\x94', 'h\\0', 'h\\1',\n"
    "  'cfunctools\\npartial\\n', '\\x8a\\12abcdefghijkl', '\\x8a\\1\\xff'}\n"
    "local function describe(value, seen, out)\n"
    "  local kind = assert(reader.kind(value), 'a value without a kind')\n"
    "  out[#out + 1] = kind\n"
    "  if type(value) ~= 'table' then out[#out + 1] = ('%q'):format(value) return end\n"
    "  if seen[value] then out[#out + 1] = seen[value] return end\n"
    "  seen.count = seen.count + 1\n"
    "  seen[value] = tostring(seen.count)\n"
    "  if kind == 'node' then\n"
    "    assert(type(value.class) == 'string' and reader.kind(value.args) == 'tuple')\n"
    "    out[#out + 1] = value.class .. value.made .. tostring(value)\n"
    "    for _, field in ipairs{'args', 'state', 'items', 'callee'} do\n"
    "      if value[field] ~= nil then describe(value[field], seen, out) end\n"
    "    end\n"
    "  elseif kind == 'dict' then\n"
    "    for _, pair in ipairs(value) do\n"
    "      describe(pair[1], seen, out)\n"
    "      describe(pair[2], seen, out)\n"
    "    end\n"
    "  elseif kind ~= 'reference' and kind ~= 'bytes' and kind ~= 'integer' and kind ~= 'none' then\n"
    "    for _, item in ipairs(value) do describe(item, seen, out) end\n"
    "  end\n"
    "end\n"
    "local function run(bytes)\n"
    "  local ok, value = pcall(reader.read, bytes, {max_values = 100000})\n"
    "  if not ok then\n"
    "    assert(errors.is(value) and KINDS[value.kind], tostring(value))\n"
    "    return value.message\n"
    "  end\n"
    "  local out = {}\n"
    "  describe(value, {count = 0}, out)\n"
    "  return table.concat(out, ' ')\n"
    "end\n"
    "return function(input)\n"
    "  local text = input:sub(2)\n"
    "  if (input:byte(1) or 0) % 2 == 0 then\n"
    "    text = text:gsub('.', function(char) return operations[char:byte() % #operations + 1] end) .. '.'\n"
    "  end\n"
    "  local bytes = '\\x80\\4' .. text\n"
    "  if run(bytes) ~= run(bytes) then error('not the same twice') end\n"
    "end\n";

static const fuzz_lua target = {.name = "fuzz_pickle", .source = check_source, .memory = (size_t)256 << 20};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
