/*
 * Fuzz target: the readers of data sets (lua/river/datasets_csv.lua, lua/river/datasets.lua, src/lua_gzip.c).
 *
 * However the same CSV bytes are cut, the rows or the error must be the same; gzip and JSON Lines end in samples or a
 * structured error; memory stays bounded.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int rvl_open_gzip(lua_State *L);
int rvl_open_json(lua_State *L);

#define MEMORY_LIMIT ((size_t)64 << 20)

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

typedef struct budget {
  size_t used;
} budget;

static void *bounded_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  budget *b = ud;
  size_t before = ptr ? osize : 0;
  if (nsize == 0) {
    free(ptr);
    b->used -= before;
    return NULL;
  }
  if (nsize > before && b->used + (nsize - before) > MEMORY_LIMIT) return NULL;
  void *fresh = realloc(ptr, nsize);
  if (fresh) b->used = b->used - before + nsize;
  return fresh;
}

static void stop(lua_State *L, const char *what) {
  fprintf(stderr, "fuzz_datasets: %s: %s\n", what, lua_tostring(L, -1));
  abort();
}

static int prepare(lua_State *L) {
  luaL_openlibs(L);
  luaL_requiref(L, "riverlua.core.gzip", rvl_open_gzip, 0);
  luaL_requiref(L, "riverlua.core.json", rvl_open_json, 0);
  lua_settop(L, 0);
  lua_getglobal(L, "package");
  lua_pushliteral(L, "lua/?.lua;lua/?/init.lua");
  lua_setfield(L, -2, "path");
  lua_pop(L, 1);
  if (luaL_loadbuffer(L, check_source, sizeof check_source - 1, "=check") != LUA_OK) return lua_error(L);
  lua_call(L, 0, 1);
  return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static budget memory;
  static lua_State *L; /* one state for the whole run: leaks from one input to the next would show */
  if (!L) {
    L = lua_newstate(bounded_alloc, &memory);
    if (!L) abort();
    lua_pushcfunction(L, prepare);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK) stop(L, "cannot start");
  }
  lua_pushvalue(L, 1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) stop(L, "failed");
  return 0;
}
