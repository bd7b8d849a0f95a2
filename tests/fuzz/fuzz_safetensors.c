/*
 * Fuzz target: the reader of safetensors files (lua/training/embedded/safetensors.lua).
 *
 * Whatever the bytes, it gives tensors or a structured error, within bounded memory; tensors account for every
 * byte of the file, and written again they are read as the same.
 * Run from the top folder: the Lua files are read from lua/.
 */
#include "fuzz_lua.h"

int rvl_open_array(lua_State *L);
int rvl_open_folder(lua_State *L);
int rvl_open_json(lua_State *L);

/*
 * The first byte says whether the rest is a whole file, a header with data behind it (the second byte: how much),
 * or names the pieces of such a header.
 */
static const char check_source[] =
    "local safetensors, errors = require 'training.embedded.safetensors', require 'riverlua.errors'\n"
    "local KINDS = {protocol = true, unsupported = true}\n"
    "local pieces = {'{', '}', '[', ']', ',', ':', '\"', '\"a\"', '\"b\"', '\"\\\\u0061\"',\n"
    "  '\"__metadata__\":{', '\"x\"', '\"dtype\":', '\"shape\":', '\"data_offsets\":', '\"F32\"', '\"F16\"',\n"
    "  '\"BF16\"', '\"I64\"', '\"BOOL\"', '\"F64\"', '[0,0]', '[0,4]', '[0,8]', '[4,8]', '[8,16]', '[1]', '[2]', '[]',\n"
    "  '[2,2]', '[0]', '[2,0]', '[1,1,2]', '0', '1', '-1', '1.0', '9223372036854775807', '4294967296', 'null', ' ',\n"
    "  '\\\\', '{\"dtype\":\"F32\",\"shape\":[1],', '\"data_offsets\":[0,4]}', '\"data_offsets\":[4,8]}',\n"
    "  '{\"dtype\":\"BF16\",\"shape\":[2],'}\n"
    "local function read(bytes)\n"
    "  local ok, file = pcall(safetensors.decode, bytes, 'fuzz')\n"
    "  if ok then return file end\n"
    "  assert(errors.is(file) and KINDS[file.kind], tostring(file))\n"
    "  assert(#file.message < 1000, 'a long message')\n"
    "end\n"
    "local function same(a, b)\n"
    "  if #a.names ~= #b.names then error('another number of tensors') end\n"
    "  for name, values in pairs(a.tensors) do\n"
    "    local other = b.tensors[name]\n"
    "    assert(other.dtype == values.dtype and other:bytes() == values:bytes(), 'another tensor')\n"
    "  end\n"
    "  for name, text in pairs(a.metadata) do assert(b.metadata[name] == text, 'other metadata') end\n"
    "end\n"
    "return function(input)\n"
    "  local how, room = input:byte(1, 2)\n"
    "  if not room then return end\n"
    "  local bytes = input:sub(3)\n"
    "  if how % 4 ~= 0 then\n"
    "    if how % 4 ~= 1 then\n"
    "      bytes = bytes:gsub('.', function(char) return pieces[char:byte() % #pieces + 1] end)\n"
    "      if how % 4 == 2 then bytes = '{' .. bytes .. '}' end\n"
    "    end\n"
    "    bytes = ('<I8'):pack(#bytes) .. bytes .. ('\\7'):rep(room % 40)\n"
    "  end\n"
    "  local file = read(bytes)\n"
    "  if not file then return end\n"
    "  local list, size = {}, 0\n"
    "  for i, name in ipairs(file.names) do\n"
    "    list[i] = {name = name, array = file.tensors[name]}\n"
    "    size = size + #file.tensors[name]:bytes()\n"
    "    local elements = 1\n"
    "    for _, n in ipairs(file.shapes[name]) do elements = elements * n end\n"
    "    local shape, have = file.tensors[name].shape, 1\n"
    "    for _, n in ipairs(shape) do have = have * n end\n"
    "    assert(elements == have, 'a shape that does not fit')\n"
    "  end\n"
    "  assert(size <= 2 * #bytes, 'numbers out of nothing')\n"
    "  same(file, assert(read(safetensors.encode(list, file.metadata)), 'written again it cannot be read'))\n"
    "end\n";

static const luaL_Reg modules[] = {{"riverlua.core.array", rvl_open_array},
                                   {"riverlua.core.folder", rvl_open_folder},
                                   {"riverlua.core.json", rvl_open_json},
                                   {NULL, NULL}};

static const fuzz_lua target = {.name = "fuzz_safetensors", .source = check_source, .memory = (size_t)64 << 20,
                                .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
