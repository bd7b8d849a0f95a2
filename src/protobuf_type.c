/* Message types: what encoding and decoding need of protobuf-c's descriptors, worked out once. */
#include "protobuf.h"
#include "protobuf_wire.h"
#include "runtime.h"
#include "utf8.h"

#include <string.h>

static const char type_mark = 0;   /* its address is a key in the metatables of types */

/* The message type (what schema:message gives) at a stack index; NULL: the value is none. */
static const rvl_protobuf_type *test_type(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index)) return NULL;
  bool is = lua_rawgetp(L, -1, &type_mark) != LUA_TNIL;
  lua_pop(L, 2);
  return is ? lua_touserdata(L, index) : NULL;
}

const rvl_protobuf_type *rvl_protobuf_check(lua_State *L, int index) {
  const rvl_protobuf_type *type = test_type(L, index);
  if (type == NULL)
    rvl_raise(L, "argument", "call it with a colon: T:encode(table), T:decode(bytes)",
              "a message type of riverlua.protobuf is wanted, got %s",
              lua_isnoneornil(L, index) ? "nothing" : luaL_typename(L, index));
  return type;
}

/* ---- fields ------------------------------------------------------------------------------------------ */

typedef struct scalar {
  rvl_protobuf_kind kind;
  rvl_wire wire;
  bool zigzag;
} scalar;

static const scalar scalars[] = {
    [PROTOBUF_C_TYPE_INT32] = {RVL_PB_INT32, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_SINT32] = {RVL_PB_INT32, RVL_WIRE_VARINT, true},
    [PROTOBUF_C_TYPE_SFIXED32] = {RVL_PB_INT32, RVL_WIRE_32, false},
    [PROTOBUF_C_TYPE_INT64] = {RVL_PB_INT64, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_SINT64] = {RVL_PB_INT64, RVL_WIRE_VARINT, true},
    [PROTOBUF_C_TYPE_SFIXED64] = {RVL_PB_INT64, RVL_WIRE_64, false},
    [PROTOBUF_C_TYPE_UINT32] = {RVL_PB_UINT32, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_FIXED32] = {RVL_PB_UINT32, RVL_WIRE_32, false},
    [PROTOBUF_C_TYPE_UINT64] = {RVL_PB_UINT64, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_FIXED64] = {RVL_PB_UINT64, RVL_WIRE_64, false},
    [PROTOBUF_C_TYPE_FLOAT] = {RVL_PB_FLOAT, RVL_WIRE_32, false},
    [PROTOBUF_C_TYPE_DOUBLE] = {RVL_PB_DOUBLE, RVL_WIRE_64, false},
    [PROTOBUF_C_TYPE_BOOL] = {RVL_PB_BOOL, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_ENUM] = {RVL_PB_ENUM, RVL_WIRE_VARINT, false},
    [PROTOBUF_C_TYPE_STRING] = {RVL_PB_STRING, RVL_WIRE_BYTES, false},
    [PROTOBUF_C_TYPE_BYTES] = {RVL_PB_BYTES, RVL_WIRE_BYTES, false},
    [PROTOBUF_C_TYPE_MESSAGE] = {RVL_PB_MESSAGE, RVL_WIRE_BYTES, false},
};

/* Whether `entry` is how the compiler names the entries of a map: "loss_fn" → "LossFnEntry". */
static bool is_entry_name(const char *entry, const char *field) {
  bool upper = true;
  for (; *field != '\0'; field++) {
    if (*field == '_') {
      upper = true;
      continue;
    }
    char c = upper && *field >= 'a' && *field <= 'z' ? (char)(*field - 'a' + 'A') : *field;
    if (*entry++ != c) return false;
    upper = false;
  }
  return strcmp(entry, "Entry") == 0;
}

/* Whether the message `inner` is nested right inside `outer`. */
static bool is_inside(const char *inner, const char *outer, const char *short_name) {
  size_t length = strlen(outer);
  return strncmp(inner, outer, length) == 0 && inner[length] == '.' && strcmp(inner + length + 1, short_name) == 0;
}

static bool can_be_key(ProtobufCType type) {
  return type != PROTOBUF_C_TYPE_MESSAGE && type != PROTOBUF_C_TYPE_BYTES && type != PROTOBUF_C_TYPE_ENUM &&
         type != PROTOBUF_C_TYPE_FLOAT && type != PROTOBUF_C_TYPE_DOUBLE;
}

/* A map is a list of entries to protobuf-c, whose descriptors do not tell it from one that was written as such. */
static bool is_map(const ProtobufCMessageDescriptor *outer, const ProtobufCFieldDescriptor *field) {
  if (field->type != PROTOBUF_C_TYPE_MESSAGE || field->label != PROTOBUF_C_LABEL_REPEATED) return false;
  const ProtobufCMessageDescriptor *entry = field->descriptor;
  if (entry->n_fields != 2 || !is_entry_name(entry->short_name, field->name)) return false;
  if (!is_inside(entry->name, outer->name, entry->short_name)) return false;
  const ProtobufCFieldDescriptor *key = &entry->fields[0], *value = &entry->fields[1];
  return key->id == 1 && value->id == 2 && strcmp(key->name, "key") == 0 && strcmp(value->name, "value") == 0 &&
         can_be_key(key->type) && key->label != PROTOBUF_C_LABEL_REPEATED && value->label != PROTOBUF_C_LABEL_REPEATED;
}

/* The empty text is what newer compilers of protobuf-c write for `optional` fields of proto3, which have no default. */
static bool has_default(const ProtobufCFieldDescriptor *d) {
  if (d->default_value == NULL || d->type == PROTOBUF_C_TYPE_MESSAGE) return false;
  return d->type != PROTOBUF_C_TYPE_STRING || *(const char *)d->default_value != '\0';
}

static rvl_protobuf_field make_field(const ProtobufCMessageDescriptor *outer, const ProtobufCFieldDescriptor *d,
                                     uint32_t index) {
  scalar s = scalars[d->type];
  bool in_oneof = (d->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
  rvl_protobuf_field f = {.descriptor = d, .oneof_next = index, .kind = (uint8_t)s.kind, .wire = (uint8_t)s.wire,
                          .zigzag = s.zigzag};
  f.repeated = d->label == PROTOBUF_C_LABEL_REPEATED;
  f.packed = f.repeated && (d->flags & PROTOBUF_C_FIELD_FLAG_PACKED) != 0 && s.wire != RVL_WIRE_BYTES;
  f.numbers = f.repeated && s.kind <= RVL_PB_BOOL;
  f.map = is_map(outer, d);
  f.required = d->label == PROTOBUF_C_LABEL_REQUIRED;
  f.implicit = d->label == PROTOBUF_C_LABEL_NONE && !in_oneof && s.kind != RVL_PB_MESSAGE;
  f.filled = f.repeated || f.implicit ||
             (d->label == PROTOBUF_C_LABEL_OPTIONAL && !in_oneof && has_default(d));
  rvl_wire wire = f.packed ? RVL_WIRE_BYTES : s.wire;
  f.tag_length = (uint8_t)(rvl_put_varint(f.tag, (uint64_t)d->id << 3 | (uint64_t)wire) - f.tag);
  return f;
}

/* The members of a oneof are told by the place of the case that they share in the C structure. */
static void link_oneofs(rvl_protobuf_type *type) {
  for (uint32_t i = 0; i < type->count; i++) {
    const ProtobufCFieldDescriptor *d = type->fields[i].descriptor;
    if ((d->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0) continue;
    for (uint32_t j = i; j-- > 0;) {
      const ProtobufCFieldDescriptor *other = type->fields[j].descriptor;
      if ((other->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0 || other->quantifier_offset != d->quantifier_offset)
        continue;
      type->fields[i].oneof_next = type->fields[j].oneof_next;
      type->fields[j].oneof_next = i;
      break;
    }
  }
}

const rvl_protobuf_field *rvl_protobuf_find(const rvl_protobuf_type *type, uint32_t number, uint32_t near) {
  for (uint32_t i = near; i < type->count && i < near + 2; i++)
    if (type->fields[i].descriptor->id == number) return &type->fields[i];
  uint32_t low = 0, high = type->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    uint32_t id = type->fields[middle].descriptor->id;
    if (id == number) return &type->fields[middle];
    if (id < number) low = middle + 1;
    else high = middle;
  }
  return NULL;
}

/* ---- making types ------------------------------------------------------------------------------------ */

static void add_slot(rvl_protobuf_type *type, const char *name, uint32_t field) {
  size_t at = (size_t)((uintptr_t)name >> 3) & type->mask;
  while (type->slots[at].name != NULL) at = (at + 1) & type->mask;
  type->slots[at] = (rvl_protobuf_slot){name, field};
}

/* The optimisation CODE_SIZE leaves the names out. */
static void check_names(lua_State *L, const ProtobufCMessageDescriptor *d) {
  static const char hint[] = "compile its .proto without 'option optimize_for = CODE_SIZE'";
  if (d->name == NULL || d->name[0] == '\0')
    rvl_raise(L, "argument", hint, "a message type of protobuf-c has no name in its descriptor");
  for (unsigned i = 0; i < d->n_fields; i++) {
    const ProtobufCFieldDescriptor *f = &d->fields[i];
    if (f->name == NULL || f->name[0] == '\0')
      rvl_raise(L, "argument", hint, "%s: its fields have no names in protobuf-c's descriptor", d->name);
    if ((size_t)f->type >= sizeof scalars / sizeof *scalars)
      rvl_raise(L, "unsupported", NULL, "%s.%s has a type that is not known", d->name, f->name);
  }
}

static int type_to_string(lua_State *L) {
  const rvl_protobuf_type *type = rvl_protobuf_check(L, 1);
  lua_pushfstring(L, "riverlua.protobuf.Message(%s)", type->descriptor->name);
  return 1;
}

/* Gives the type on top its metatable. */
static void set_metatable(lua_State *L, const char *name) {
  lua_createtable(L, 0, 4);
  lua_pushboolean(L, 1);
  lua_rawsetp(L, -2, &type_mark);
  lua_pushliteral(L, "riverlua.protobuf.Message");
  lua_setfield(L, -2, "__name");
  lua_pushcfunction(L, type_to_string);
  lua_setfield(L, -2, "__tostring");
  lua_createtable(L, 0, 3);
  lua_pushstring(L, name);
  lua_setfield(L, -2, "name");
  lua_pushcfunction(L, rvl_protobuf_encode_call);
  lua_setfield(L, -2, "encode");
  lua_pushcfunction(L, rvl_protobuf_decode_call);
  lua_setfield(L, -2, "decode");
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

/* What Lua takes for a table with so many keys. */
static size_t table_cost(size_t keys) {
  size_t slots = keys > 0 ? 1 : 0;
  while (slots < keys) slots *= 2;
  return 56 + 40 * slots;
}

/* Pushes the type of one descriptor, not linked to others yet; `made` keeps those that are being made. */
static rvl_protobuf_type *push_unlinked(lua_State *L, int codec, int made, const ProtobufCMessageDescriptor *d) {
  check_names(L, d);
  size_t slots = 4;
  while (slots < 2 * (size_t)d->n_fields) slots *= 2;
  size_t fields_size = sizeof(rvl_protobuf_type) + d->n_fields * sizeof(rvl_protobuf_field);
  rvl_protobuf_type *type = lua_newuserdatauv(L, fields_size + slots * sizeof(rvl_protobuf_slot), RVL_PB_TYPE_VALUES);
  memset(type, 0, fields_size + slots * sizeof(rvl_protobuf_slot));
  type->descriptor = d;
  type->count = d->n_fields;
  type->mask = (uint32_t)(slots - 1);
  type->slots = (rvl_protobuf_slot *)(void *)((char *)type + fields_size);
  lua_pushvalue(L, codec);
  lua_setiuservalue(L, -2, RVL_PB_TYPE_CODEC);
  lua_pushvalue(L, made);
  lua_setiuservalue(L, -2, RVL_PB_TYPE_KIN);
  lua_getiuservalue(L, codec, RVL_PB_NAMES);
  type->names = (lua_Integer)lua_rawlen(L, -1) + 1;
  for (uint32_t i = 0; i < type->count; i++) {
    type->fields[i] = make_field(d, &d->fields[i], i);
    type->required += type->fields[i].required;
    const char *name = lua_pushstring(L, d->fields[i].name);
    lua_rawseti(L, -2, type->names + (lua_Integer)i);
    add_slot(type, name, i);
    if (type->fields[i].repeated) type->empty_cost += type->fields[i].numbers ? 96 : table_cost(0);
  }
  type->checked = type->required > 0;
  link_oneofs(type);
  for (uint32_t i = 0; i < type->count; i++) type->keys += type->fields[i].oneof_next <= i;   /* one of each oneof */
  type->empty_cost += table_cost(type->keys);
  lua_setiuservalue(L, -2, RVL_PB_TYPE_NAMES);
  set_metatable(L, d->name);
  return type;
}

/* The type of a descriptor that is made or being made. */
static rvl_protobuf_type *find_type(lua_State *L, int types, int made, const void *descriptor) {
  rvl_protobuf_type *type = lua_rawgetp(L, types, descriptor) != LUA_TNIL ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 1);
  if (type != NULL) return type;
  if (lua_rawgetp(L, made, descriptor) != LUA_TNIL) type = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return type;
}

/* Makes the types that can be reached from a descriptor: `made` gets them by descriptor, and as a list. */
static lua_Integer make_reachable(lua_State *L, int codec, int types, int made, const ProtobufCMessageDescriptor *d) {
  lua_Integer count = 1;
  push_unlinked(L, codec, made, d);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, made, d);
  lua_rawseti(L, made, 1);
  for (lua_Integer at = 1; at <= count; at++) {
    lua_rawgeti(L, made, at);
    const rvl_protobuf_type *type = lua_touserdata(L, -1);
    lua_pop(L, 1);
    for (uint32_t i = 0; i < type->count; i++) {
      if (type->fields[i].kind != RVL_PB_MESSAGE) continue;
      const ProtobufCMessageDescriptor *inner = type->fields[i].descriptor->descriptor;
      if (find_type(L, types, made, inner) != NULL) continue;
      push_unlinked(L, codec, made, inner);
      lua_pushvalue(L, -1);
      lua_rawsetp(L, made, inner);
      lua_rawseti(L, made, ++count);
    }
  }
  return count;
}

/* Links them, and finds out which have required fields somewhere inside. */
static void link_types(lua_State *L, int types, int made, lua_Integer count) {
  for (bool changed = true; changed;) {
    changed = false;
    for (lua_Integer at = 1; at <= count; at++) {
      lua_rawgeti(L, made, at);
      rvl_protobuf_type *type = lua_touserdata(L, -1);
      lua_pop(L, 1);
      for (uint32_t i = 0; i < type->count; i++) {
        rvl_protobuf_field *f = &type->fields[i];
        if (f->kind != RVL_PB_MESSAGE) continue;
        if (f->message == NULL) f->message = find_type(L, types, made, f->descriptor->descriptor);
        if (!f->message->checked || type->checked) continue;
        type->checked = changed = true;
      }
    }
  }
}

const rvl_protobuf_type *rvl_protobuf_push_type(lua_State *L, int codec, const ProtobufCMessageDescriptor *descriptor) {
  luaL_checkstack(L, 12, NULL);
  codec = lua_absindex(L, codec);
  lua_getiuservalue(L, codec, RVL_PB_TYPES);
  int types = lua_gettop(L);
  if (lua_rawgetp(L, types, descriptor) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    int made = lua_gettop(L);
    lua_Integer count = make_reachable(L, codec, types, made, descriptor);
    link_types(L, types, made, count);
    for (lua_Integer at = count; at >= 1; at--) {   /* every one keeps the others: it may end early */
      lua_rawgeti(L, made, at);
      lua_rawsetp(L, types, ((const rvl_protobuf_type *)lua_touserdata(L, -1))->descriptor);
    }
    lua_rawgeti(L, made, 1);
    lua_remove(L, made);
  }
  lua_remove(L, types);
  return lua_touserdata(L, -1);
}

/* ---- the codec --------------------------------------------------------------------------------------- */

static void free_memory(lua_State *L, rvl_protobuf_memory *m) {
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  if (m->data != NULL) allocate(context, m->data, m->room, 0);
  *m = (rvl_protobuf_memory){0};
}

static int codec_gc(lua_State *L) {
  rvl_protobuf_codec *c = lua_touserdata(L, 1);
  free_memory(L, &c->plan);
  free_memory(L, &c->scratch);
  free_memory(L, &c->out);
  return 0;
}

void rvl_protobuf_push_codec(lua_State *L) {
  luaL_checkstack(L, 4, NULL);
  rvl_protobuf_codec *c = lua_newuserdatauv(L, sizeof *c, RVL_PB_CODEC_VALUES);
  *c = (rvl_protobuf_codec){0};
  for (int value = 1; value <= RVL_PB_CODEC_VALUES; value++) {
    lua_createtable(L, value == RVL_PB_ANCHORS ? RVL_PB_MOST_ANCHORS : 0, 0);
    lua_setiuservalue(L, -2, value);
  }
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, codec_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
}

/* ---- paths and texts --------------------------------------------------------------------------------- */

static void add_key(lua_State *L, luaL_Buffer *b, int key) {
  enum { LONGEST = 60 };
  luaL_addchar(b, '[');
  if (lua_type(L, key) == LUA_TSTRING) {
    size_t length;
    const char *text = lua_tolstring(L, key, &length);
    size_t shown = length <= LONGEST ? length : LONGEST;
    while (shown < length && shown > 0 && rvl_utf8_continues((unsigned char)text[shown])) shown--;
    luaL_addchar(b, '"');
    for (size_t i = 0; i < shown; i++) luaL_addchar(b, (unsigned char)text[i] < 0x20 ? '?' : text[i]);
    luaL_addstring(b, shown < length ? "…\"" : "\"");
  } else {
    luaL_tolstring(L, key, NULL);
    luaL_addvalue(b);
  }
  luaL_addchar(b, ']');
}

static void add_step(lua_State *L, luaL_Buffer *b, const rvl_protobuf_frame *f, bool first) {
  if (!first) luaL_addchar(b, '.');
  luaL_addstring(b, f->field->descriptor->name);
  if (f->key != 0) add_key(L, b, f->key);
  if (f->index == 0) return;
  lua_pushfstring(L, "[%I]", (LUAI_UACINT)f->index);
  luaL_addvalue(b);
}

void rvl_protobuf_push_path(lua_State *L, const rvl_protobuf_type *root, const rvl_protobuf_frame *frame) {
  enum { HEAD = 12, TAIL = 12 };
  const rvl_protobuf_frame *head[HEAD], *tail[TAIL];
  size_t steps = 0;
  for (const rvl_protobuf_frame *f = frame; f != NULL; f = f->up) steps++;
  size_t at = steps;
  for (const rvl_protobuf_frame *f = frame; f != NULL; f = f->up) {   /* from the innermost out */
    at--;
    if (at < HEAD) head[at] = f;
    if (steps - 1 - at < TAIL) tail[steps - 1 - at] = f;
  }
  luaL_checkstack(L, 12, NULL);
  if (steps == 0) {
    lua_pushstring(L, root->descriptor->name);
    return;
  }
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (size_t i = 0; i < steps && i < HEAD; i++) add_step(L, &b, head[i], i == 0);
  if (steps > HEAD + TAIL) luaL_addstring(&b, ".…");
  for (size_t i = steps > HEAD + TAIL ? steps - TAIL : HEAD; i < steps; i++)
    add_step(L, &b, tail[steps - 1 - i], false);
  luaL_pushresult(&b);
}

size_t rvl_protobuf_text_end(const char *text, size_t length) {
  const unsigned char *p = (const unsigned char *)text, *end = p + length;
  size_t bad;
  while (p < end) {
    uint64_t word;
    for (; end - p >= 8; p += 8) {
      memcpy(&word, p, 8);
      if ((word & UINT64_C(0x8080808080808080)) != 0) break;
    }
    if (p == end) break;
    size_t step = rvl_utf8_sequence(p, end, &bad);
    if (step == 0) return (size_t)(p - (const unsigned char *)text);
    p += step;
  }
  return length;
}
