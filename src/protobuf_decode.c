/* Protobuf messages to Lua tables. What is being made is on Lua's stack only: an error on the way leaks nothing. */
#include "array.h"
#include "protobuf.h"
#include "protobuf_wire.h"
#include "runtime.h"

#include <stdarg.h>
#include <string.h>

/* Fields whose presence is kept in bits; of others the table is asked. */
enum { BITS = 256 };
/* Empty messages are two bytes on the wire and a table with all their fields in Lua: what these may take in all. */
#define EMPTY_BASE ((size_t)32 << 20)
enum { EMPTY_PER_BYTE = 128 };

typedef struct decoder {
  lua_State *L;
  const rvl_protobuf_type *root;
  const uint8_t *start;
  size_t empty_left;   /* bytes that the fields of messages may still take */
  int names;           /* stack index of the list of fields' names */
  int depth;
} decoder;

/* One message on its way in. Its table is at `table`, and its list that elements are added to above it. */
typedef struct message {
  const rvl_protobuf_type *type;
  const rvl_protobuf_frame *up;
  int table;
  bool merging;                      /* the table was there before */
  const rvl_protobuf_field *open;    /* the field of that list; NULL: none */
  lua_Integer length;                /* of a list that is a table */
  uint64_t seen[BITS / 64];
} message;

/* ---- errors ------------------------------------------------------------------------------------------ */

/* Raises "pkg.Name: byte 17: … (in path)". */
static _Noreturn void fail(decoder *d, const uint8_t *at, const rvl_protobuf_frame *frame, const char *kind,
                           const char *format, ...) {
  lua_State *L = d->L;
  luaL_checkstack(L, 20, NULL);
  va_list args;
  va_start(args, format);
  const char *what = lua_pushvfstring(L, format, args);
  va_end(args);
  const char *where = "";
  if (frame != NULL) {
    rvl_protobuf_push_path(L, d->root, frame);
    where = lua_pushfstring(L, " (in %s)", lua_tostring(L, -1));
  }
  rvl_raise(L, kind, NULL, "%s: byte %I: %s%s", d->root->descriptor->name, (LUAI_UACINT)(at - d->start) + 1, what,
            where);
  __builtin_unreachable();
}

static _Noreturn void fail_malformed(decoder *d, const uint8_t *at, const rvl_protobuf_frame *frame, rvl_wire wire) {
  if (wire == RVL_WIRE_GROUP || wire == RVL_WIRE_GROUP_END)
    fail(d, at, frame, "protocol", "a group, which is not supported");
  if (wire > RVL_WIRE_32) fail(d, at, frame, "protocol", "malformed: the wire type %d", (int)wire);
  fail(d, at, frame, "protocol", "malformed: a value is cut short");
}

/* ---- presence ---------------------------------------------------------------------------------------- */

static bool is_seen(const message *m, uint32_t field) {
  if (m->merging || field >= BITS) return true;
  return (m->seen[field / 64] >> field % 64 & 1) != 0;
}

static void set_seen(message *m, uint32_t field) {
  if (field < BITS) m->seen[field / 64] |= UINT64_C(1) << field % 64;
}

static uint32_t index_of(const message *m, const rvl_protobuf_field *f) { return (uint32_t)(f - m->type->fields); }

static void push_name(decoder *d, const message *m, uint32_t field) {
  lua_rawgeti(d->L, d->names, m->type->names + (lua_Integer)field);
}

/* Sets the field to the value on top, which is popped. */
static void set_field(decoder *d, message *m, const rvl_protobuf_field *f) {
  push_name(d, m, index_of(m, f));
  lua_insert(d->L, -2);
  lua_rawset(d->L, m->table);
}

/* Pushes what the table has of a field that may have come before. */
static int push_earlier(decoder *d, message *m, const rvl_protobuf_field *f) {
  if (!is_seen(m, index_of(m, f))) {
    lua_pushnil(d->L);
    return LUA_TNIL;
  }
  push_name(d, m, index_of(m, f));
  return lua_rawget(d->L, m->table);
}

/* The last member of a oneof that comes is the one that counts. */
static void forget_rest_of_oneof(decoder *d, message *m, const rvl_protobuf_field *f) {
  for (uint32_t i = f->oneof_next; &m->type->fields[i] != f; i = m->type->fields[i].oneof_next) {
    if (!is_seen(m, i)) continue;
    push_name(d, m, i);
    lua_pushnil(d->L);
    lua_rawset(d->L, m->table);
    if (i < BITS) m->seen[i / 64] &= ~(UINT64_C(1) << i % 64);
  }
}

/* ---- scalars ----------------------------------------------------------------------------------------- */

static bool read_scalar(rvl_wire_reader *r, rvl_wire wire, uint64_t *bits) {
  if (wire == RVL_WIRE_VARINT) return rvl_read_varint(r, bits);
  return wire == RVL_WIRE_64 ? rvl_read_64(r, bits) : rvl_read_32(r, bits);
}

static int64_t signed_of(const rvl_protobuf_field *f, uint64_t bits) {
  if (f->kind == RVL_PB_INT64) return f->zigzag ? rvl_unzigzag(bits) : (int64_t)bits;
  if (f->zigzag) return (int32_t)rvl_unzigzag((uint32_t)bits);
  return (int32_t)(uint32_t)bits;
}

static void push_unsigned(lua_State *L, uint64_t n) {
  char digits[20];
  size_t at = sizeof digits;
  if (n <= INT64_MAX) {
    lua_pushinteger(L, (lua_Integer)n);
    return;
  }
  for (; n > 0; n /= 10) digits[--at] = (char)('0' + n % 10);
  lua_pushlstring(L, digits + at, sizeof digits - at);
}

/* protobuf-c's own search does not find 2147483647: it adds 1 to it. */
static const ProtobufCEnumValue *find_value(const ProtobufCEnumDescriptor *d, int number) {
  unsigned low = 0, high = d->n_values;
  while (low < high) {
    unsigned middle = low + (high - low) / 2;
    if (d->values[middle].value == number) return &d->values[middle];
    if (d->values[middle].value < number) low = middle + 1;
    else high = middle;
  }
  return NULL;
}

static void push_enum(lua_State *L, const rvl_protobuf_field *f, int number) {
  const ProtobufCEnumValue *value = find_value(f->descriptor->descriptor, number);
  if (value != NULL && value->name != NULL) lua_pushstring(L, value->name);
  else lua_pushinteger(L, number);
}

static void push_scalar(lua_State *L, const rvl_protobuf_field *f, uint64_t bits) {
  switch ((rvl_protobuf_kind)f->kind) {
    case RVL_PB_UINT32: lua_pushinteger(L, (lua_Integer)(uint32_t)bits); break;
    case RVL_PB_UINT64: push_unsigned(L, bits); break;
    case RVL_PB_FLOAT: lua_pushnumber(L, (lua_Number)rvl_float_of(bits)); break;
    case RVL_PB_DOUBLE: lua_pushnumber(L, rvl_double_of(bits)); break;
    case RVL_PB_BOOL: lua_pushboolean(L, bits != 0); break;
    case RVL_PB_ENUM: push_enum(L, f, (int)(int32_t)(uint32_t)bits); break;
    default: lua_pushinteger(L, signed_of(f, bits)); break;
  }
}

/* A text or bytes. */
static void push_bytes(decoder *d, const rvl_protobuf_field *f, rvl_wire_reader r, const rvl_protobuf_frame *frame) {
  const char *bytes = (const char *)r.at;
  size_t length = rvl_wire_left(&r);
  if (f->kind == RVL_PB_STRING) {
    size_t end = rvl_protobuf_text_end(bytes, length);
    if (end < length) fail(d, r.at + end, frame, "protocol", "a text that is not UTF-8");
  }
  lua_pushlstring(d->L, bytes, length);
}

/* What an absent field has: zero, nothing, or its default in proto2. */
static void push_default(lua_State *L, const rvl_protobuf_field *f) {
  const void *value = f->implicit ? NULL : f->descriptor->default_value;
  switch ((rvl_protobuf_kind)f->kind) {
    case RVL_PB_INT32: lua_pushinteger(L, value != NULL ? *(const int32_t *)value : 0); break;
    case RVL_PB_INT64: lua_pushinteger(L, value != NULL ? *(const int64_t *)value : 0); break;
    case RVL_PB_UINT32: lua_pushinteger(L, value != NULL ? *(const uint32_t *)value : 0); break;
    case RVL_PB_UINT64: push_unsigned(L, value != NULL ? *(const uint64_t *)value : 0); break;
    case RVL_PB_FLOAT: lua_pushnumber(L, value != NULL ? (lua_Number)*(const float *)value : 0); break;
    case RVL_PB_DOUBLE: lua_pushnumber(L, value != NULL ? *(const double *)value : 0); break;
    case RVL_PB_BOOL: lua_pushboolean(L, value != NULL && *(const protobuf_c_boolean *)value); break;
    case RVL_PB_ENUM: push_enum(L, f, value != NULL ? *(const int *)value : 0); break;
    case RVL_PB_BYTES:
      if (value != NULL) {
        const ProtobufCBinaryData *data = value;
        lua_pushlstring(L, (const char *)data->data, data->len);
        break;
      }
      lua_pushliteral(L, "");
      break;
    default: lua_pushstring(L, value != NULL ? value : ""); break;
  }
}

/* ---- lists of numbers -------------------------------------------------------------------------------- */

static rvl_dtype dtype_of(const rvl_protobuf_field *f) {
  static const rvl_dtype dtypes[] = {RVL_INT32,   RVL_INT64,   RVL_UINT32, RVL_UINT64,
                                     RVL_FLOAT32, RVL_FLOAT64, RVL_BOOL};
  return dtypes[f->kind];
}

static void set_element(rvl_array *a, size_t i, const rvl_protobuf_field *f, uint64_t bits) {
  switch (a->dtype) {
    case RVL_BOOL: ((uint8_t *)a->data)[i] = bits != 0; break;
    case RVL_INT32: ((int32_t *)a->data)[i] = (int32_t)signed_of(f, bits); break;
    case RVL_INT64: ((int64_t *)a->data)[i] = signed_of(f, bits); break;
    case RVL_UINT64: ((uint64_t *)a->data)[i] = bits; break;
    case RVL_FLOAT64: ((double *)a->data)[i] = rvl_double_of(bits); break;
    case RVL_FLOAT32: ((float *)a->data)[i] = rvl_float_of(bits); break;
    default: ((uint32_t *)a->data)[i] = (uint32_t)bits; break;
  }
}

/* Makes room for `more` elements in the open array; what is there twice grows by doubling, so that elements that come
 * one by one, or in the pieces of messages to be merged, are not copied over and over. */
static rvl_array *grow_array(decoder *d, message *m, const rvl_protobuf_field *f, size_t more) {
  lua_State *L = d->L;
  rvl_array *a = rvl_array_test(L, m->table + 1);
  size_t length = a != NULL ? a->length : 0, size = rvl_dtype_size(dtype_of(f));
  if (a != NULL) {
    size_t before = (size_t)((const char *)a->data - (const char *)a);   /* the numbers are the rest of its memory */
    if ((lua_rawlen(L, m->table + 1) - before) / size - length >= more) return a;
  }
  size_t room = length + more;
  if (a != NULL && room < 2 * length) room = 2 * length;
  if (a != NULL && room < 8) room = 8;
  rvl_array *fresh = rvl_array_push(L, dtype_of(f), room);
  fresh->length = length;
  if (a != NULL && length > 0) memcpy(fresh->data, a->data, length * size);
  lua_copy(L, -1, m->table + 1);
  set_field(d, m, f);
  return fresh;
}

static void read_packed(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire_reader r) {
  size_t width = f->wire == RVL_WIRE_64 ? 8 : 4;
  size_t count = f->wire == RVL_WIRE_VARINT ? rvl_count_varints(r.at, r.end) : rvl_wire_left(&r) / width;
  rvl_array *a = grow_array(d, m, f, count);
  size_t i = a->length;
  const uint8_t *at = r.at;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  if (f->wire != RVL_WIRE_VARINT && rvl_wire_left(&r) == count * width && count > 0) {
    memcpy((char *)a->data + i * width, r.at, count * width);
    a->length += count;
    return;
  }
#endif
  for (size_t end = i + count; i < end; i++) {
    uint64_t bits;
    at = r.at;
    if (!read_scalar(&r, (rvl_wire)f->wire, &bits)) break;
    set_element(a, i, f, bits);
  }
  a->length = i;
  rvl_protobuf_frame frame = {m->up, f, 0, 0};
  if (r.at != r.end) fail_malformed(d, at, &frame, RVL_WIRE_VARINT);
}

/* ---- messages ---------------------------------------------------------------------------------------- */

static void read_message(decoder *d, const rvl_protobuf_type *type, rvl_wire_reader r, const rvl_protobuf_frame *up,
                         bool merging);

/* Pushes a table for a message of the type. */
static void push_table(decoder *d, const rvl_protobuf_type *type, const uint8_t *at, const rvl_protobuf_frame *frame) {
  if (type->empty_cost > d->empty_left)
    fail(d, at, frame, "limit", "too many messages that are almost empty");
  d->empty_left -= type->empty_cost;
  lua_createtable(d->L, 0, (int)type->keys);
}

static void enter(decoder *d, const uint8_t *at, const rvl_protobuf_frame *frame) {
  if (++d->depth > RVL_PROTOBUF_DEPTH)
    fail(d, at, frame, "protocol", "messages are nested more than %d deep", RVL_PROTOBUF_DEPTH);
  luaL_checkstack(d->L, 16, "a message of protobuf");
}

/* Makes the list of a field the open one, which elements are added to. */
static void open_list(decoder *d, message *m, const rvl_protobuf_field *f) {
  lua_State *L = d->L;
  if (m->open == f) return;
  m->open = f;
  m->length = 0;
  push_earlier(d, m, f);
  lua_replace(L, m->table + 1);
  set_seen(m, index_of(m, f));
  if (lua_isnil(L, m->table + 1)) {
    if (f->numbers) return;   /* grow_array makes one of the right size */
    lua_newtable(L);
    lua_copy(L, -1, m->table + 1);
    set_field(d, m, f);
  } else if (!f->numbers) {
    m->length = (lua_Integer)lua_rawlen(L, m->table + 1);
  }
}

/* One entry of a map: the last key and the last value in it count, and zero where there is none. */
static void read_entry(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire_reader r) {
  lua_State *L = d->L;
  const rvl_protobuf_field *fields = f->message->fields;
  rvl_protobuf_frame frame = {m->up, f, 0, 0};
  enter(d, r.at, &frame);
  int key = lua_gettop(L) + 1, value = key + 1;
  lua_pushnil(L);
  lua_pushnil(L);
  while (r.at < r.end) {
    const uint8_t *at = r.at;
    uint32_t number;
    rvl_wire wire;
    rvl_wire_reader inner;
    uint64_t bits;
    if (!rvl_read_tag(&r, &number, &wire)) fail(d, at, &frame, "protocol", "malformed: no field begins here");
    if (number > 2 || wire != (rvl_wire)fields[number - 1].wire) {
      if (!rvl_skip_value(&r, wire)) fail_malformed(d, at, &frame, wire);
      continue;
    }
    const rvl_protobuf_field *part = &fields[number - 1];
    if (wire != RVL_WIRE_BYTES) {
      if (!read_scalar(&r, wire, &bits)) fail_malformed(d, at, &frame, wire);
      push_scalar(L, part, bits);
    } else if (!rvl_read_bytes(&r, &inner)) {
      fail_malformed(d, at, &frame, wire);
    } else if (part->kind != RVL_PB_MESSAGE) {
      push_bytes(d, part, inner, &frame);
    } else {
      bool merging = !lua_isnil(L, value);
      enter(d, at, &frame);
      if (merging) lua_pushvalue(L, value);
      else push_table(d, part->message, at, &frame);
      read_message(d, part->message, inner, &frame, merging);
      d->depth--;
    }
    lua_replace(L, number == 1 ? key : value);
  }
  if (lua_isnil(L, key)) {
    push_default(L, &fields[0]);
    lua_replace(L, key);
  }
  if (lua_isnil(L, value)) {
    if (fields[1].kind == RVL_PB_MESSAGE) {
      push_table(d, fields[1].message, r.at, &frame);
      read_message(d, fields[1].message, (rvl_wire_reader){r.end, r.end}, &frame, false);
    } else {
      push_default(L, &fields[1]);
    }
    lua_replace(L, value);
  }
  d->depth--;
  lua_rawset(L, m->table + 1);
}

/* An element or a value of a field whose wire type is as declared, or packed numbers. */
static void read_repeated(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire_reader r, const uint8_t *at) {
  lua_State *L = d->L;
  open_list(d, m, f);
  if (f->map) {
    read_entry(d, m, f, r);
    return;
  }
  rvl_protobuf_frame frame = {m->up, f, m->length + 1, 0};
  if (f->kind == RVL_PB_MESSAGE) {
    enter(d, at, &frame);
    push_table(d, f->message, at, &frame);
    read_message(d, f->message, r, &frame, false);
    d->depth--;
  } else {
    push_bytes(d, f, r, &frame);
  }
  lua_rawseti(L, m->table + 1, ++m->length);
}

static void read_single(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire_reader r, const uint8_t *at) {
  lua_State *L = d->L;
  rvl_protobuf_frame frame = {m->up, f, 0, 0};
  push_name(d, m, index_of(m, f));
  if (f->kind == RVL_PB_MESSAGE) {
    enter(d, at, &frame);
    bool merging = push_earlier(d, m, f) == LUA_TTABLE;
    if (!merging) {
      lua_pop(L, 1);
      push_table(d, f->message, at, &frame);
    }
    read_message(d, f->message, r, &frame, merging);
    d->depth--;
  } else {
    push_bytes(d, f, r, &frame);
  }
  lua_rawset(L, m->table);
}

/* Numbers that come one by one, or the names of an enum, packed or not. */
static void read_number(decoder *d, message *m, const rvl_protobuf_field *f, uint64_t bits) {
  open_list(d, m, f);
  if (f->numbers) {
    rvl_array *a = grow_array(d, m, f, 1);
    set_element(a, a->length++, f, bits);
  } else {
    push_scalar(d->L, f, bits);
    lua_rawseti(d->L, m->table + 1, ++m->length);
  }
}

static void read_packed_enums(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire_reader r) {
  open_list(d, m, f);
  while (r.at < r.end) {
    uint64_t bits;
    rvl_protobuf_frame frame = {m->up, f, m->length + 1, 0};
    if (!rvl_read_varint(&r, &bits)) fail_malformed(d, r.at, &frame, RVL_WIRE_VARINT);
    read_number(d, m, f, bits);
  }
}

/* Reads the value of field `f` (NULL: unknown), whose tag is read; false: it is malformed. */
static bool read_field(decoder *d, message *m, const rvl_protobuf_field *f, rvl_wire wire, rvl_wire_reader *r,
                       const uint8_t *at) {
  rvl_wire_reader inner;
  uint64_t bits;
  bool scalar = f != NULL && f->wire != RVL_WIRE_BYTES;
  if (scalar && wire == (rvl_wire)f->wire) {
    if (!read_scalar(r, wire, &bits)) return false;
    if (f->repeated) {
      read_number(d, m, f, bits);
      return true;
    }
    if (&m->type->fields[f->oneof_next] != f) forget_rest_of_oneof(d, m, f);
    push_name(d, m, index_of(m, f));
    push_scalar(d->L, f, bits);
    lua_rawset(d->L, m->table);
    set_seen(m, index_of(m, f));
    return true;
  }
  if (f == NULL || wire != RVL_WIRE_BYTES || (scalar && !f->repeated)) return rvl_skip_value(r, wire);
  if (!rvl_read_bytes(r, &inner)) return false;
  if (scalar && f->numbers) {
    open_list(d, m, f);
    read_packed(d, m, f, inner);
  } else if (scalar) {
    read_packed_enums(d, m, f, inner);
  } else if (f->repeated) {
    read_repeated(d, m, f, inner, at);
  } else {
    if (&m->type->fields[f->oneof_next] != f) forget_rest_of_oneof(d, m, f);
    read_single(d, m, f, inner, at);
    set_seen(m, index_of(m, f));
  }
  return true;
}

/* Gives absent fields of a new message what absence means. */
static void fill(decoder *d, message *m) {
  lua_State *L = d->L;
  for (uint32_t i = 0; i < m->type->count; i++) {
    const rvl_protobuf_field *f = &m->type->fields[i];
    if (!f->filled) continue;
    if (is_seen(m, i)) {
      if (i < BITS) continue;
      int type = push_earlier(d, m, f);
      lua_pop(L, 1);
      if (type != LUA_TNIL) continue;
    }
    push_name(d, m, i);
    if (f->numbers) rvl_array_push(L, dtype_of(f), 0);
    else if (f->repeated) lua_newtable(L);
    else push_default(L, f);
    lua_rawset(L, m->table);
  }
}

/* Reads a message into the table on top. */
static void read_message(decoder *d, const rvl_protobuf_type *type, rvl_wire_reader r, const rvl_protobuf_frame *up,
                         bool merging) {
  lua_State *L = d->L;
  message m = {.type = type, .up = up, .table = lua_gettop(L), .merging = merging};
  uint32_t near = 0;
  lua_pushnil(L);
  while (r.at < r.end) {
    const uint8_t *at = r.at;
    uint32_t number;
    rvl_wire wire;
    if (!rvl_read_tag(&r, &number, &wire)) fail(d, at, up, "protocol", "malformed: no field begins here");
    const rvl_protobuf_field *f = rvl_protobuf_find(type, number, near);
    if (f != NULL) near = index_of(&m, f);
    if (!read_field(d, &m, f, wire, &r, at)) fail_malformed(d, at, up, wire);
  }
  if (!merging) fill(d, &m);
  lua_settop(L, m.table);
}

/* ---- required fields --------------------------------------------------------------------------------- */

/* Raises unless the message in the table on top has its required fields, and so have those inside it. Only when all is
 * read, since a message may come in pieces. */
static void check_required(decoder *d, const rvl_protobuf_type *type, const rvl_protobuf_frame *up);

static void check_inner(decoder *d, const rvl_protobuf_field *f, rvl_protobuf_frame *frame) {
  lua_State *L = d->L;
  if (!f->repeated) {
    check_required(d, f->message, frame);
  } else if (!f->map) {
    lua_Integer length = (lua_Integer)lua_rawlen(L, -1);
    for (frame->index = 1; frame->index <= length; frame->index++) {
      lua_rawgeti(L, -1, frame->index);
      check_required(d, f->message, frame);
      lua_pop(L, 1);
    }
  } else if (f->message->fields[1].kind == RVL_PB_MESSAGE) {
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
      frame->key = lua_gettop(L) - 1;
      check_required(d, f->message->fields[1].message, frame);
      lua_pop(L, 1);
    }
  }
}

static void check_required(decoder *d, const rvl_protobuf_type *type, const rvl_protobuf_frame *up) {
  lua_State *L = d->L;
  if (!type->checked) return;
  luaL_checkstack(L, 16, "a message of protobuf");
  int table = lua_gettop(L);
  for (uint32_t i = 0; i < type->count; i++) {
    const rvl_protobuf_field *f = &type->fields[i];
    if (!f->required && (f->kind != RVL_PB_MESSAGE || !f->message->checked)) continue;
    rvl_protobuf_frame frame = {up, f, 0, 0};
    lua_rawgeti(L, d->names, type->names + (lua_Integer)i);
    if (lua_rawget(L, table) == LUA_TNIL) {
      rvl_protobuf_push_path(L, d->root, &frame);
      if (f->required)
        rvl_raise(L, "protocol", NULL, "%s: the required field %s is missing", d->root->descriptor->name,
                  lua_tostring(L, -1));
    } else if (f->kind == RVL_PB_MESSAGE) {
      check_inner(d, f, &frame);
    }
    lua_settop(L, table);
  }
}

/* ---- decoding ---------------------------------------------------------------------------------------- */

static void decode(lua_State *L, const rvl_protobuf_type *type, int type_index, const char *bytes, size_t length) {
  luaL_checkstack(L, 24, NULL);
  decoder d = {.L = L, .root = type, .start = (const uint8_t *)bytes};
  d.empty_left = length < (SIZE_MAX - EMPTY_BASE) / EMPTY_PER_BYTE ? EMPTY_BASE + length * EMPTY_PER_BYTE : SIZE_MAX;
  lua_getiuservalue(L, type_index, RVL_PB_TYPE_NAMES);
  d.names = lua_gettop(L);
  push_table(&d, type, d.start, NULL);
  read_message(&d, type, (rvl_wire_reader){d.start, d.start + length}, NULL, false);
  check_required(&d, type, NULL);
  lua_remove(L, d.names);
}

/* T:decode(bytes) → table */
int rvl_protobuf_decode_call(lua_State *L) {
  const rvl_protobuf_type *type = rvl_protobuf_check(L, 1);
  size_t length;
  if (lua_type(L, 2) != LUA_TSTRING)
    return rvl_raise(L, "argument", NULL, "%s: bytes are wanted, got %s", type->descriptor->name,
                     lua_isnoneornil(L, 2) ? "nothing" : luaL_typename(L, 2));
  const char *bytes = lua_tolstring(L, 2, &length);
  decode(L, type, 1, bytes, length);
  return 1;
}
