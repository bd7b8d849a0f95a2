/*
 * Fuzz target: the event-stream parser (lua/riverlua/sse.lua).
 *
 * However the same bytes are cut, the events, the last id, the retry time and the failure (if any) must be the same,
 * no error but "limit" may be raised, and memory stays within a small multiple of the input.
 * Run from the top folder: the parser is read from lua/.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_LIMIT ((size_t)64 << 20)

/* The first three bytes of an input choose the limit and the cuts; the rest is the stream, or names its pieces. */
static const char check_source[] =
    "local sse = require 'riverlua.sse'\n"
    "local errors = require 'riverlua.errors'\n"
    "local function run(text, limit, next_size)\n"
    "  local parser = sse.parser{max_event = limit}\n"
    "  local out, at = {}, 1\n"
    "  local ok, err = pcall(function()\n"
    "    while at <= #text do\n"
    "      local size = next_size()\n"
    "      for event in parser:feed(text:sub(at, at + size - 1)) do\n"
    "        assert(#event.data <= limit and #event.event > 0)\n"
    "        out[#out + 1] = ('%q %q %q'):format(event.event, event.data, event.id)\n"
    "      end\n"
    "      at = at + size\n"
    "    end\n"
    "  end)\n"
    "  if not ok then\n"
    "    assert(errors.is(err, 'limit'), tostring(err))\n"
    "    out[#out + 1] = 'limit'\n"
    "  end\n"
    "  out[#out + 1] = ('%q %q'):format(parser.last_id, ok and parser.retry or nil)\n"
    "  return table.concat(out, '\\n')\n"
    "end\n"
    "local bits = {'data', 'data: ', 'data:', 'event: ', 'id: ', 'id:', 'retry: ', ':', ' ', 'x', '12', '\\0', '\\n',\n"
    "  '\\r', '\\r\\n', '\\n\\n', '\\r\\r', '\\r\\n\\r\\n', '\\239\\187\\191', '\\239\\187', 'event:', ('y'):rep(50)}\n"
    "return function(input)\n"
    "  local a, b, c = input:byte(1, 3)\n"
    "  if not c then return end\n"
    "  local text = input:sub(4)\n"
    "  if a % 2 == 0 then\n"
    "    text = text:gsub('.', function(char) return bits[char:byte() % #bits + 1] end)\n"
    "  end\n"
    "  local limit = a < 128 and a + 1 or 1 << 20\n"
    "  local whole = run(text, limit, function() return #text end)\n"
    "  local seed = b * 256 + c\n"
    "  local function cut()\n"
    "    seed = (seed * 1103515245 + 12345) & 0x7fffffff\n"
    "    return (seed >> 16) % 9 + 1\n"
    "  end\n"
    "  if run(text, limit, cut) ~= whole then error('cuts change the events') end\n"
    "  if #text < 4096 and run(text, limit, function() return 1 end) ~= whole then\n"
    "    error('single bytes change the events')\n"
    "  end\n"
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
  fprintf(stderr, "fuzz_sse: %s: %s\n", what, lua_tostring(L, -1));
  abort();
}

static int prepare(lua_State *L) {
  luaL_openlibs(L);
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
