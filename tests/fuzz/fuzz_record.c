/*
 * Fuzz target: recordings (lua/riverlua/recording).
 *
 * The reader of a file ends in entries or a structured error, however the bytes are cut; every entry can be looked for
 * and written again; texts without secrets keep their length in pieces; nothing known survives the scrubber.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"

int rvl_open_digest(lua_State *L);
int rvl_open_folder(lua_State *L);
int rvl_open_json(lua_State *L);

/* The first byte chooses what is tried, the second the cuts; the rest is the text, or names its pieces. */
static const char check_source[] =
    "local errors = require 'riverlua.errors'\n"
    "local recording, secrets = require 'riverlua.recording', require 'riverlua.recording.secrets'\n"
    "local tapes = require 'riverlua.recording.tape'\n"
    "local head = '{\"type\":\"recording\",\"version\":1}\\n'\n"
    "local good = '{\"type\":\"http\",\"request\":{\"method\":\"GET\",\"url\":\"http://h/a?b=c\",\"headers\":[[\"a\",\"b\"]],'\n"
    "local socket = '{\"type\":\"websocket\",\"request\":{\"method\":\"GET\",\"url\":\"ws://h/a\",\"headers\":[]},'\n"
    "local bits = {head, good, '\"answer\":{\"status\":200,\"headers\":[],', '\"body\":\"abc\"}}\\n', '\\n', '}', '{', '[', ']',\n"
    "  '\"pieces\":[1,2],', '\"failure\":{\"kind\":\"timeout\",\"phase\":\"idle\",\"limit\":1}}\\n', '\"n\":3,', '\"left\":true}\\n',\n"
    "  '\"body_base64\":\"AAEC\",', '\"token\"', ':', '\"', '\\\\\"', 'data: ', '\"secret\":', '?api_key=', '&', '://u:p@h/',\n"
    "  '{\\\\\"password\\\\\":\\\\\"', 'sk-live-0123456789', ' ', '1', 'null', '\"body\":\"{\\\\\"a\\\\\":1}\",', ',', socket,\n"
    "  '\"frames\":[{\"sent\":\"a\"},{\"received_base64\":\"AA==\"},{\"timeouts\":2}],', '\"unanswered\":[1],',\n"
    "  '\"end\":{\"how\":\"closed\",\"code\":1000},', '{\"cancelled\":true}', '{\"sent\":\"b\",\"lost\":true}'}\n"
    "local function reader(text, next_size)\n"
    "  local at = 1\n"
    "  return function()\n"
    "    if at > #text then return nil end\n"
    "    local size = next_size()\n"
    "    at = at + size\n"
    "    return text:sub(at - size, at - 1)\n"
    "  end\n"
    "end\n"
    "local function parse(text, next_size)\n"
    "  local ok, result = pcall(recording.parse, reader(text, next_size), 'fuzz')\n"
    "  if not ok then\n"
    "    assert(errors.is(result, 'storage') and result.line >= 1, tostring(result))\n"
    "    return tostring(result), {}\n"
    "  end\n"
    "  local lines = {}\n"
    "  for i, entry in ipairs(result) do lines[i] = recording.encode_entry(entry) end\n"
    "  return table.concat(lines, '\\n'), result\n"
    "end\n"
    "local function look_for(entries)\n"
    "  local tape = tapes.new('fuzz', entries)\n"
    "  for _, entry in ipairs(entries) do assert(tape:take(entry.request, entry.type)) end\n"
    "  local request = {method = 'GET', url = 'http://h/none', headers = {}, body = '{\"a\":[1]}'}\n"
    "  local ok, err = pcall(tape.take, tape, request, 'http')\n"
    "  assert(ok or errors.is(err, 'replay'), tostring(err))\n"
    "end\n"
    "local function scrub(text, cuts)\n"
    "  local scrubber = secrets.scrubber()\n"
    "  scrubber:headers{{'Authorization', 'Bearer sk-live-0123456789'}}\n"
    "  local pieces, left = {}, #text\n"
    "  while left > 0 do\n"
    "    pieces[#pieces + 1] = math.min(left, cuts())\n"
    "    left = left - pieces[#pieces]\n"
    "  end\n"
    "  local clean, moved = scrubber:text(text, {pieces = pieces})\n"
    "  local sum = 0\n"
    "  for _, length in ipairs(moved) do sum = sum + length end\n"
    "  assert(sum == #clean, 'the pieces do not add up')\n"
    "  assert(not clean:find('sk-live-0123456789', 1, true), 'a secret is left')\n"
    "  assert(#scrubber:bytes(text) == #text)\n"
    "  scrubber:url(text)\n"
    "  scrubber:text(text, {form = true})\n"
    "end\n"
    "return function(input)\n"
    "  local how, seed = input:byte(1, 2)\n"
    "  if not seed then return end\n"
    "  local text = input:sub(3)\n"
    "  if how % 2 == 0 then text = text:gsub('.', function(char) return bits[char:byte() % #bits + 1] end) end\n"
    "  local function cut()\n"
    "    seed = (seed * 1103515245 + 12345) & 0x7fffffff\n"
    "    return (seed >> 16) % 9 + 1\n"
    "  end\n"
    "  if how % 4 < 2 then return scrub(text, cut) end\n"
    "  if how % 8 < 4 then text = head .. text end\n"
    "  local whole, entries = parse(text, function() return #text + 1 end)\n"
    "  if parse(text, cut) ~= whole then error('cuts change the entries') end\n"
    "  look_for(entries)\n"
    "end\n";

static const luaL_Reg modules[] = {{"riverlua.core.digest", rvl_open_digest},
                                   {"riverlua.core.folder", rvl_open_folder},
                                   {"riverlua.core.json", rvl_open_json},
                                   {NULL, NULL}};

static const fuzz_lua target = {.name = "fuzz_record", .source = check_source, .memory = (size_t)64 << 20,
                                .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
