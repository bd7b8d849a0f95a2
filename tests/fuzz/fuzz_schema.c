/*
 * Fuzz target: JSON Schema and its regular expressions (lua/riverlua/schema*.lua, lua/riverlua/regex*.lua,
 * src/lua_regex.c).
 *
 * Whatever the schema and the value, there is a verdict or a structured error, the same twice; problems come with a
 * refusal and only then; a sample fits. Memory stays bounded.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"

int rvl_open_json(lua_State *L);
int rvl_open_regex(lua_State *L);

/* The first byte chooses: bytes as they are, bytes that name pieces of JSON, or a pattern and a text. A zero byte is
 * between the schema and the value. */
static const char check_source[] =
    "local json, schema, errors = require 'riverlua.json', require 'riverlua.schema', require 'riverlua.errors'\n"
    "local regex = require 'riverlua.regex'\n"
    "local KINDS = {argument = true, limit = true, unsupported = true}\n"
    "local pieces = {'{', '}', '[', ']', ',', ':', '1', '0', '-2.5', '1e9', 'true', 'false', 'null', '\"\"', '\"a\"',\n"
    "  '\"b\"', '\"#\"', '\"#/$defs/a\"', '\"type\":', '\"string\"', '\"number\"', '\"integer\"', '\"object\"', '\"array\"',\n"
    "  '\"enum\":', '\"const\":', '\"minimum\":', '\"multipleOf\":', '\"minLength\":', '\"maxLength\":', '\"pattern\":',\n"
    "  '\"^(a|b)*$\"', '\"[^a]+\"', '\"(a+)+b\"', '\"items\":', '\"prefixItems\":', '\"contains\":', '\"minContains\":',\n"
    "  '\"uniqueItems\":true', '\"minItems\":', '\"properties\":{', '\"patternProperties\":{',\n"
    "  '\"additionalProperties\":', '\"propertyNames\":', '\"required\":[', '\"dependentRequired\":{',\n"
    "  '\"dependentSchemas\":{', '\"minProperties\":', '\"allOf\":[', '\"anyOf\":[', '\"oneOf\":[', '\"not\":', '\"if\":',\n"
    "  '\"then\":', '\"else\":', '\"$ref\":', '\"$dynamicRef\":', '\"$anchor\":', '\"$dynamicAnchor\":', '\"$id\":',\n"
    "  '\"$defs\":{', '\"unevaluatedItems\":', '\"unevaluatedProperties\":', '\"format\":', '\"date-time\"', '\"uri\"',\n"
    "  '\"idn-hostname\"', '\"idn-email\"', '\"regex\"', '\"duration\"', '\"xn--a-9b\"', '\"l\xc2\xb7l.\xe3\x83\xbb\"',\n"
    "  '\"a\":', '\"b\":', '{\"a\":[1,\"b\"]}', '[[],{}]', '\"$schema\":', '\"http://json-schema.org/draft-07/schema\"',\n"
    "  '\"default\":', '\"$ref\":\"#\"', '\"dependencies\":{'}\n"
    "local function structured(err)\n"
    "  assert(errors.is(err) and KINDS[err.kind], tostring(err))\n"
    "  return tostring(err)\n"
    "end\n"
    "local function verdict(validator, value)\n"
    "  local ok, fits, problems = pcall(validator.validate, validator, value)\n"
    "  if not ok then return structured(fits) end\n"
    "  assert(fits == (#problems == 0) and #problems <= 100, 'problems without a refusal, or none with it')\n"
    "  for _, problem in ipairs(problems) do\n"
    "    assert(problem.path and problem.keyword and problem.schema_path and problem.message, 'a field is missing')\n"
    "  end\n"
    "  return schema.describe(problems)\n"
    "end\n"
    "local function check_sample(document, validator, options)\n"
    "  local ok, value = pcall(schema.sample, document, options)\n"
    "  if not ok then return structured(value) end\n"
    "  local fine, fits = pcall(validator.validate, validator, value)\n"
    "  assert(not fine and structured(fits) or fits, 'the sample does not fit')\n"
    "end\n"
    "local function check_schema(document, value, how)\n"
    "  local options = {formats = how % 4 < 2 and 'assertion' or nil, decoded = how % 8 < 4, max_work = 20000}\n"
    "  local ok, validator = pcall(schema.compile, document, options)\n"
    "  if not ok then return structured(validator) end\n"
    "  if verdict(validator, value) ~= verdict(validator, value) then error('not the same twice') end\n"
    "  verdict(validator, document)\n"
    "  check_sample(document, validator, options)\n"
    "end\n"
    "local function check_regex(pattern, text, how)\n"
    "  local ok, compiled = pcall(regex.compile, pattern, {syntax = how % 2 == 0 and 'perl' or nil,\n"
    "    flags = how % 8 < 4 and 'is' or nil})\n"
    "  if not ok then return structured(compiled) end\n"
    "  local fine, err = pcall(function()\n"
    "    local count, found = 0, {compiled:find(text)}\n"
    "    for _ in compiled:gmatch(text) do count = count + 1 end\n"
    "    local replaced, times = compiled:gsub(text, '%0')\n"
    "    assert(replaced == text and times == count and (found[1] ~= nil) == (count > 0), 'matches differ')\n"
    "  end)\n"
    "  if not fine then structured(err) end\n"
    "end\n"
    "return function(input)\n"
    "  local how = input:byte(1) or 0\n"
    "  local first, second = input:sub(2):match('^([^\\0]*)\\0?(.*)$')\n"
    "  if how % 16 == 0 then return check_regex(first, second, how // 16) end\n"
    "  local function spell(text)\n"
    "    if how % 2 == 0 then return text end\n"
    "    return (text:gsub('.', function(char) return pieces[char:byte() % #pieces + 1] end))\n"
    "  end\n"
    "  local ok, document = pcall(json.decode, spell(first))\n"
    "  if not ok then return end\n"
    "  local has_value, value = pcall(json.decode, spell(second))\n"
    "  check_schema(document, has_value and value or document, how // 16)\n"
    "end\n";

static const luaL_Reg modules[] = {
    {"riverlua.core.json", rvl_open_json}, {"riverlua.core.regex", rvl_open_regex}, {NULL, NULL}};

static const fuzz_lua target = {.name = "fuzz_schema", .source = check_source, .memory = (size_t)256 << 20,
                                .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
