/*
 * Fuzz target: the readers of data sets (lua/river/datasets_csv.lua, lua/river/datasets.lua, src/lua_gzip.c).
 *
 * However the same CSV bytes are cut, the rows or the error must be the same; gzip and JSON Lines end in samples or a
 * structured error; memory stays bounded.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"

int rvl_open_gzip(lua_State *L);
int rvl_open_json(lua_State *L);

/* The first byte chooses the reader, the second the cuts; the rest is the text, or names its pieces. */
static const char check_source[] =
    "local csv, datasets, errors = require 'river.datasets_csv', require 'river.datasets', require 'riverlua.errors'\n"
    "local gzip = require 'riverlua.core.gzip'\n"
    "local pieces = {',', '\"', '\"\"', '\\n', '\\r\\n', '\\r', 'a', '1', '-2.5', '', ' ', 'true', '\\xef\\xbb\\xbf',\n"
    "  '{\"a\":', '1}', 'null', '\\n\\n', '[', 'x,y\\n'}\n"
    "local KINDS = {protocol = true, argument = true}\n"
    "local function structured(err)\n"
    "  assert(errors.is(err) and KINDS[err.kind], tostring(err))\n"
    "  return tostring(err)\n"
    "end\n"
    "local function rows(text, next_size)\n"
    "  local at, out = 1, {}\n"
    "  local ok, err = pcall(function()\n"
    "    local reader = csv.rows(function()\n"
    "      if at > #text then return nil end\n"
    "      local size = next_size()\n"
    "      at = at + size\n"
    "      return text:sub(at - size, at - 1)\n"
    "    end, {name = 'fuzz', delimiter = ',', quote = '\"', max_field = 100})\n"
    "    for fields, count, quoted in reader.next, reader do\n"
    "      out[#out + 1] = reader.line .. ':' .. count\n"
    "      for i = 1, count do out[#out + 1] = ('%q%s'):format(fields[i], quoted and quoted[i] and 'q' or '') end\n"
    "    end\n"
    "  end)\n"
    "  if not ok then out[#out + 1] = structured(err) end\n"
    "  return table.concat(out, ' ')\n"
    "end\n"
    "local function walk(data)\n"
    "  local ok, err = pcall(function()\n"
    "    for x in data:each() do assert(type(x) == 'table') end\n"
    "  end)\n"
    "  if not ok then structured(err) end\n"
    "end\n"
    "local function inflate(text)\n"
    "  local inflater <close> = gzip.inflater()\n"
    "  local ok, err = pcall(function()\n"
    "    for at = 1, #text, 5 do\n"
    "      inflater:feed(text:sub(at, at + 4))\n"
    "      while true do\n"
    "        local piece = inflater:read()\n"
    "        if not piece then break end\n"
    "        assert(#piece <= 65536)\n"
    "      end\n"
    "    end\n"
    "    inflater:finish()\n"
    "  end)\n"
    "  if not ok then structured(err) end\n"
    "end\n"
    "return function(input)\n"
    "  local how, cuts = input:byte(1, 2)\n"
    "  if not cuts then return end\n"
    "  local text = input:sub(3)\n"
    "  if how % 8 == 7 then return inflate(how % 16 < 8 and '\\x1f\\x8b\\8\\0\\0\\0\\0\\0\\0\\3' .. text or text) end\n"
    "  if how % 2 == 0 then\n"
    "    text = text:gsub('.', function(char) return pieces[char:byte() % #pieces + 1] end)\n"
    "  end\n"
    "  local whole = rows(text, function() return #text end)\n"
    "  local seed = cuts\n"
    "  local function cut()\n"
    "    seed = (seed * 1103515245 + 12345) & 0x7fffffff\n"
    "    return (seed >> 16) % 9 + 1\n"
    "  end\n"
    "  if rows(text, cut) ~= whole then error('cuts change the rows') end\n"
    "  if rows(text, function() return 1 end) ~= whole then error('single bytes change the rows') end\n"
    "  walk((datasets.csv({text = text}, {misfit = how % 3 == 0 and 'string' or nil})))\n"
    "  walk((datasets.jsonl{text = text}))\n"
    "end\n";

static const luaL_Reg modules[] = {
    {"riverlua.core.gzip", rvl_open_gzip}, {"riverlua.core.json", rvl_open_json}, {NULL, NULL}};

static const fuzz_lua target = {.name = "fuzz_datasets", .source = check_source, .memory = (size_t)64 << 20,
                                .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
