/*
 * Fuzz target: messages of protobuf (src/protobuf_decode.c, src/protobuf_encode.c and their parts).
 *
 * Whatever the bytes, there is a table or a structured error, within bounded memory; a table is encoded again, into
 * bytes that give an equal table and, encoded once more, the same bytes. The first byte of an input chooses the type:
 * some of the training service, and one made here that has all kinds of fields.
 * Run from the top folder: riverlua.errors is read from lua/.
 */
#include "fuzz_lua.h"
#include "protobuf.h"

int rvl_open_protobuf(lua_State *L);

/* ---- a message type with all kinds of fields ----------------------------------------------------------------- */

extern const ProtobufCMessageDescriptor all_descriptor, entry_descriptor;

static const ProtobufCEnumValue colours[] = {{"BELOW", "BELOW", -7}, {"NONE", "NONE", 0}, {"FAR", "FAR", 2147483647}};
static const ProtobufCEnumValueIndex colour_names[] = {{"BELOW", 0}, {"FAR", 2}, {"NONE", 1}};
static const ProtobufCEnumDescriptor colour_descriptor = {
    .magic = PROTOBUF_C__ENUM_DESCRIPTOR_MAGIC, .name = "Colour", .short_name = "Colour", .n_values = 3,
    .values = colours, .n_value_names = 3, .values_by_name = colour_names};

static const int64_t default_number = -5;

#define FIELD(field_name, number, field_label, field_type, ...)                                                 \
  {.name = field_name, .id = number, .label = PROTOBUF_C_LABEL_##field_label,                                   \
   .type = PROTOBUF_C_TYPE_##field_type, __VA_ARGS__}
#define MEMBER .flags = PROTOBUF_C_FIELD_FLAG_ONEOF, .quantifier_offset = 8
#define PACKED .flags = PROTOBUF_C_FIELD_FLAG_PACKED
#define NOTHING .flags = 0

static const ProtobufCFieldDescriptor entry_fields[] = {
    FIELD("key", 1, NONE, SINT64, NOTHING),
    FIELD("value", 2, NONE, MESSAGE, .descriptor = &all_descriptor),
};

static const ProtobufCFieldDescriptor all_fields[] = {
    FIELD("a", 1, NONE, INT32, NOTHING),
    FIELD("b", 2, NONE, SINT32, NOTHING),
    FIELD("c", 3, NONE, SFIXED32, NOTHING),
    FIELD("d", 4, OPTIONAL, INT64, .default_value = &default_number),
    FIELD("e", 5, NONE, SINT64, NOTHING),
    FIELD("f", 6, NONE, UINT64, NOTHING),
    FIELD("g", 7, NONE, FIXED64, NOTHING),
    FIELD("h", 8, NONE, FLOAT, MEMBER),
    FIELD("i", 9, NONE, BOOL, MEMBER),
    FIELD("j", 10, NONE, MESSAGE, MEMBER, .descriptor = &all_descriptor),
    FIELD("k", 11, OPTIONAL, STRING, NOTHING),
    FIELD("l", 12, REPEATED, SINT32, PACKED),
    FIELD("m", 13, REPEATED, UINT64, NOTHING),
    FIELD("n", 14, REPEATED, FLOAT, PACKED),
    FIELD("o", 15, REPEATED, ENUM, PACKED, .descriptor = &colour_descriptor),
    FIELD("p", 16, REPEATED, BYTES, NOTHING),
    FIELD("q", 17, REPEATED, MESSAGE, .descriptor = &entry_descriptor),
    FIELD("r", 18, NONE, MESSAGE, .descriptor = &all_descriptor),
    FIELD("s", 19, REPEATED, BOOL, NOTHING),
    FIELD("t", 20, REPEATED, MESSAGE, .descriptor = &all_descriptor),
};

static const unsigned entry_order[] = {0, 1};
static const unsigned all_order[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};

const ProtobufCMessageDescriptor entry_descriptor = {
    .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC, .name = "All.QEntry", .short_name = "QEntry", .n_fields = 2,
    .fields = entry_fields, .fields_sorted_by_name = entry_order};
const ProtobufCMessageDescriptor all_descriptor = {
    .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC, .name = "All", .short_name = "All",
    .n_fields = sizeof all_fields / sizeof *all_fields, .fields = all_fields, .fields_sorted_by_name = all_order};

static int open_all(lua_State *L) {
  rvl_protobuf_push_codec(L);
  rvl_protobuf_push_type(L, -1, &all_descriptor);
  return 1;
}

/* ---- the judge ----------------------------------------------------------------------------------------------- */

static const char check_source[] =
    "local core = require 'core'\n"
    "local errors = require 'riverlua.errors'\n"
    "local library = core.training()\n"
    "local types = {require 'all'}\n"
    "for _, name in ipairs{'Struct', 'InferenceGenerateRequest', 'ForwardBackwardRequest', 'RetrieveFutureResponse',\n"
    "  'SubmitSamplingBatchRequest', 'GetInfoResponse'} do\n"
    "  types[#types + 1] = core.message(library, 'river.api.v1.' .. name)\n"
    "end\n"
    "local KINDS = {protocol = true, limit = true}\n"
    "local function same(a, b)\n"
    "  if type(a) == 'userdata' and type(b) == 'userdata' then\n"
    "    if #a ~= #b then return false end\n"
    "    for i = 1, #a do if not same(a[i], b[i]) then return false end end\n"
    "    return true\n"
    "  end\n"
    "  if type(a) ~= 'table' or type(b) ~= 'table' then\n"
    "    return math.type(a) == math.type(b) and (a == b or a ~= a and b ~= b)\n"
    "  end\n"
    "  for k, v in next, a do if not same(v, b[k]) then return false end end\n"
    "  for k in next, b do if a[k] == nil then return false end end\n"
    "  return true\n"
    "end\n"
    "return function(input)\n"
    "  local T = types[(input:byte(1) or 0) % #types + 1]\n"
    "  local ok, message = pcall(T.decode, T, input:sub(2))\n"
    "  if not ok then\n"
    "    assert(errors.is(message) and KINDS[message.kind], tostring(message))\n"
    "    return\n"
    "  end\n"
    "  local bytes = T:encode(message)\n"
    "  local again = T:decode(bytes)\n"
    "  assert(same(message, again), 'a message that changes')\n"
    "  assert(T:encode(again) == bytes, 'bytes that change')\n"
    "end\n";

static const luaL_Reg modules[] = {{"core", rvl_open_protobuf}, {"all", open_all}, {NULL, NULL}};

static const fuzz_lua target = {
    .name = "fuzz_protobuf", .source = check_source, .memory = (size_t)128 << 20, .modules = modules};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(&target, data, size); }
