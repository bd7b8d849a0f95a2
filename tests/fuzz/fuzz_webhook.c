/*
 * Fuzz target: webhooks (lua/modelriver/webhook.lua, webhook_members.lua).
 *
 * Whatever the headers and the body, verifying gives an event or a structured error that shows neither the secret nor
 * a signature; what is signed verifies. Where the body is JSON, the scanner finds the member that the decoder finds:
 * its bytes decode to the same value.
 * Run from the top folder: the modules are read from lua/.
 */
#include "fuzz_lua.h"

int rvl_open_json(lua_State *L);
int rvl_open_digest(lua_State *L);

/* The first byte says whether the rest are bytes, name parts or choose a document; up to a zero byte it is a header. */
static const char check_source[] =
    "local errors = require 'riverlua.errors'\n"
    "local json = require 'riverlua.json'\n"
    "local members = require 'modelriver.webhook_members'\n"
    "local webhook = require 'modelriver.webhook'\n"
    "local SECRET, NOW = 'whsec_fuzz_secret', 1767616496\n"
    "local KINDS = {signature = true, protocol = true}\n"
    "local parts = {'{', '}', '[', ']', ':', ',', '\"', '\\\\', '\"data\"', '\"data\":', '\"a\"', '1', '-2.5e3',\n"
    "  'true', 'null', '\"\\\\u0064ata\"', '\"\\\\\\\\\"', '\"\\\\\"\"', ' ', '\\n', '{\"data\":', '\"x\":',\n"
    "  '\"type\"', '\"event\"', '\"callback_url\"', '\"meta\"', '\"customer_data\"', '{}', '[]',\n"
    "  '\\195\\169', 'data', '\\0'}\n"
    "local texts = {[[\"data\"]], [[\"\\u0064ata\"]], [[\"a\"]], [[\"}\"]], [[\"\\\"\"]],\n"
    "  [[\"\\\\\"]], [[\"]{\\\\\\\"\"]], [[\"\"]]}\n"
    "local plain = {'0', '-1.5e+3', 'true', 'null', '1e2'}\n"
    "local blanks = {'', '', ' ', '\\n\\t'}\n"
    "local function document(text)\n"
    "  local at = 0\n"
    "  local function draw(list)\n"
    "    at = at + 1\n"
    "    return list[(text:byte(at) or 0) % #list + 1]\n"
    "  end\n"
    "  local value\n"
    "  local function object(depth)\n"
    "    local out = {}\n"
    "    for i = 1, draw{0, 1, 2, 3, 4} do\n"
    "      out[i] = draw(blanks) .. draw(texts) .. draw(blanks) .. ':' .. draw(blanks)\n"
    "        .. value(depth + 1) .. draw(blanks)\n"
    "    end\n"
    "    return '{' .. table.concat(out, ',') .. draw(blanks) .. '}'\n"
    "  end\n"
    "  local function array(depth)\n"
    "    local out = {}\n"
    "    for i = 1, draw{0, 1, 2, 3} do out[i] = draw(blanks) .. value(depth + 1) end\n"
    "    return '[' .. table.concat(out, ',') .. draw(blanks) .. ']'\n"
    "  end\n"
    "  function value(depth)\n"
    "    local kind = at < #text and depth < 6 and draw{1, 2, 3, 4} or draw{1, 2}\n"
    "    if kind == 1 then return draw(plain) elseif kind == 2 then return draw(texts) end\n"
    "    return (kind == 3 and object or array)(depth)\n"
    "  end\n"
    "  return draw(blanks) .. object(1) .. draw(blanks)\n"
    "end\n"
    "local function same(a, b)\n"
    "  return json.encode(a, {sort = true}) == json.encode(b, {sort = true})\n"
    "end\n"
    "local function check_scanner(body)\n"
    "  local slice = members.find(body, 'data')\n"
    "  local ok, value = pcall(json.decode, body)\n"
    "  if not ok or type(value) ~= 'table' or json.is_array(value) then return end\n"
    "  if value.data == nil then\n"
    "    assert(slice == nil, 'the scanner finds what is not there')\n"
    "    return\n"
    "  end\n"
    "  assert(slice, 'the scanner does not find what is there')\n"
    "  assert(same(json.decode(slice), value.data), 'the scanner finds something else')\n"
    "end\n"
    "local function verify(headers, body)\n"
    "  local ok, result = pcall(webhook.verify, headers, body, SECRET, {now = NOW})\n"
    "  if ok then\n"
    "    assert(type(result.dedupe_key) == 'string' and type(result.meta) == 'table')\n"
    "    assert(type(result.customer_data) == 'table')\n"
    "    return result.scheme\n"
    "  end\n"
    "  assert(errors.is(result) and KINDS[result.kind], tostring(result))\n"
    "  local shown = tostring(result)\n"
    "  assert(not shown:find(SECRET, 1, true), 'the secret is shown')\n"
    "  assert(not shown:find(('%x'):rep(64)), 'a signature is shown')\n"
    "  return nil\n"
    "end\n"
    "local names = {'mr-signature', 'x-modelriver-signature', 'x-modelriver-timestamp', 'MR-Timestamp', 'other'}\n"
    "return function(input)\n"
    "  local first, text = input:byte(1) or 0, input:sub(2)\n"
    "  local header, body = text:match('^([^\\0]*)\\0(.*)$')\n"
    "  if not header then header, body = '', text end\n"
    "  if first % 2 == 0 then\n"
    "    body = body:gsub('.', function(char) return parts[char:byte() % #parts + 1] end)\n"
    "  end\n"
    "  if first % 3 == 0 then\n"
    "    body = document(body)\n"
    "    json.decode(body)\n"
    "  end\n"
    "  check_scanner(body)\n"
    "  verify({[names[first % #names + 1]] = header, [header] = {header, body}, header, {header, header}}, body)\n"
    "  for _, scheme in ipairs{'A', 'B', 'C'} do\n"
    "    local headers = webhook.sign(body, SECRET, {scheme = scheme, timestamp = NOW})\n"
    "    local ok, value = pcall(json.decode, body)\n"
    "    local found = verify(headers, body)\n"
    "    local is_object = ok and type(value) == 'table' and not json.is_array(value)\n"
    "    assert((found ~= nil) == is_object, 'what is signed does not verify')\n"
    "    assert(not found or found == scheme or found == 'C', 'verified under another scheme')\n"
    "    headers['x-modelriver-callback-url'] = header\n"
    "    verify(headers, body .. header)\n"
    "  end\n"
    "end\n";

static const luaL_Reg modules[] = {
    {"riverlua.core.json", rvl_open_json}, {"riverlua.core.digest", rvl_open_digest}, {NULL, NULL}};

static const fuzz_lua target = {
    .name = "fuzz_webhook", .source = check_source, .memory = (size_t)64 << 20, .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
