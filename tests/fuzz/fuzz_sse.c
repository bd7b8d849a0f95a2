/*
 * Fuzz target: the event-stream parser (lua/riverlua/sse.lua).
 *
 * However the same bytes are cut, the events, the last id, the retry time and the failure (if any) must be the same,
 * no error but "limit" may be raised, and memory stays within a small multiple of the input.
 * Run from the top folder: the parser is read from lua/.
 */
#include "fuzz_lua.h"

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

static const fuzz_lua target = {.name = "fuzz_sse", .source = check_source, .memory = (size_t)64 << 20};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
