/*
** Lua tables to protobuf messages, in two passes. The first walks the tables and makes a plan: what to write, in order,
** and how long it is. The second writes the plan into memory of the right size. While there is a plan, no code of a
** script's may run, not even a finalizer, since it points into strings of its tables: tables are read raw, and memory
** comes from Lua's allocator without the collector being asked. Large strings are not written at all: the string that
** is made in the end is joined from them.
*/
#include "array.h"
#include "protobuf.h"
#include "protobuf_wire.h"
#include "runtime.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum {
  LARGE = 16384,          /* bytes of a string that is joined rather than written */
  MOST_LARGE = RVL_PB_MOST_ANCHORS,
  KEPT_AT_MOST = 65536    /* bytes of each memory that stay for the next message */
};

typedef enum op_kind {
  OP_SCALAR,              /* bits */
  OP_BYTES,               /* bytes */
  OP_LARGE,               /* bytes that are joined later; `inner` is their place among the anchors */
  OP_MESSAGE,             /* `inner` is its first operation */
  OP_PACKED,              /* bytes at `offset` in the scratch memory */
  OP_RAW,                 /* the same with tags of their own */
  OP_ARRAY                /* a packed riverlua.Array */
} op_kind;

typedef struct op {
  const rvl_protobuf_field *field;
  uint32_t next;          /* in the same message, 0: none */
  uint32_t inner;
  size_t size;            /* without tag and length */
  union {
    uint64_t bits;
    const void *bytes;
    size_t offset;
  } is;
  op_kind kind;
} op;

/* Operations one after the other, and what they take when written. */
typedef struct chain {
  uint32_t first, last;
  size_t size;
} chain;

typedef struct encoder {
  lua_State *L;
  rvl_protobuf_codec *codec;
  const rvl_protobuf_type *root;
  uint32_t count;         /* operations planned */
  size_t scratch_length;
  int type;               /* stack index of the root's type */
  int anchors;            /* stack index of the table of large strings */
  uint32_t anchored;
  int depth;
  bool starved;           /* there was no memory: the plan is worthless */
  op spare;               /* stands for operations that had no room */
} encoder;

/* ---- memory ------------------------------------------------------------------------------------------ */

static bool reserve(encoder *e, rvl_protobuf_memory *m, size_t room) {
  if (room <= m->room) return true;
  if (room > SIZE_MAX / 2) return false;
  if (room < 2 * m->room) room = 2 * m->room;
  void *context;
  lua_Alloc allocate = lua_getallocf(e->L, &context);
  void *data = allocate(context, m->data, m->data != NULL ? m->room : 0, room);
  if (data == NULL) return false;
  *m = (rvl_protobuf_memory){data, room};
  return true;
}

static void trim(lua_State *L, rvl_protobuf_memory *m) {
  if (m->room <= KEPT_AT_MOST) return;
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  allocate(context, m->data, m->room, 0);
  *m = (rvl_protobuf_memory){0};
}

/* Forgets the plan. */
static void finish(encoder *e) {
  for (; e->anchored > 0; e->anchored--) {
    lua_pushboolean(e->L, 0);
    lua_rawseti(e->L, e->anchors, (lua_Integer)e->anchored);
  }
  trim(e->L, &e->codec->plan);
  trim(e->L, &e->codec->scratch);
  trim(e->L, &e->codec->out);
}

static op *at(encoder *e, uint32_t index) {
  return index != 0 ? (op *)e->codec->plan.data + index : &e->spare;
}

/* ---- errors ------------------------------------------------------------------------------------------ */

static _Noreturn void fail_memory(encoder *e) {
  finish(e);
  lua_pushliteral(e->L, "not enough memory");
  lua_error(e->L);
  __builtin_unreachable();
}

/* Raises "path: …"; from here on the plan is not looked at. */
static _Noreturn void fail(encoder *e, const rvl_protobuf_frame *frame, const char *kind, const char *hint,
                           const char *format, ...) {
  lua_State *L = e->L;
  finish(e);
  luaL_checkstack(L, 20, NULL);
  rvl_protobuf_push_path(L, e->root, frame);
  va_list args;
  va_start(args, format);
  lua_pushvfstring(L, format, args);
  va_end(args);
  rvl_raise(L, kind, hint, "%s: %s", lua_tostring(L, -2), lua_tostring(L, -1));
  __builtin_unreachable();
}

/* Pushes what stands in messages for the value at an index. */
static const char *push_shown(lua_State *L, int index) {
  index = lua_absindex(L, index);
  switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL: return lua_pushliteral(L, "nothing");
    case LUA_TNUMBER: return luaL_tolstring(L, index, NULL);
    case LUA_TUSERDATA:
      if (rvl_array_test(L, index) != NULL) return lua_pushliteral(L, "a riverlua.Array");
      return lua_pushliteral(L, "a userdata");
    default: return lua_pushfstring(L, "a %s", luaL_typename(L, index));
  }
}

static _Noreturn void fail_type(encoder *e, const rvl_protobuf_frame *frame, const char *wanted, int index) {
  lua_State *L = e->L;
  index = lua_absindex(L, index);
  if (!lua_checkstack(L, 20)) luaL_error(L, "stack overflow");
  lua_pushvalue(L, index);   /* finish() may take time, and the value's place */
  const char *shown = push_shown(L, -1);
  fail(e, frame, "argument", NULL, "%s is wanted, got %s", wanted, shown);
}

/* Pushes errors.suggest(name, candidates), the table on top; nil when there is none. */
static const char *push_suggestion(lua_State *L, const char *name) {
  int candidates = lua_gettop(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "riverlua.errors") == LUA_TTABLE && lua_getfield(L, -1, "suggest") == LUA_TFUNCTION) {
    lua_pushstring(L, name);
    lua_pushvalue(L, candidates);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING) return lua_tostring(L, -1);
  }
  lua_pushnil(L);
  return NULL;
}

static _Noreturn void fail_unnamed(encoder *e, const rvl_protobuf_frame *frame, const char *name, const char *what) {
  const char *near = push_suggestion(e->L, name);
  if (near != NULL) fail(e, frame, "argument", NULL, "%s; did you mean '%s'?", what, near);
  fail(e, frame, "argument", NULL, "%s", what);
}

/* The key at `key` names no field of the type. */
static _Noreturn void fail_field(encoder *e, const rvl_protobuf_type *type, const rvl_protobuf_frame *frame, int key) {
  lua_State *L = e->L;
  const char *type_name = type->descriptor->name;
  key = lua_absindex(L, key);
  finish(e);
  luaL_checkstack(L, 20, NULL);
  if (lua_type(L, key) != LUA_TSTRING)
    fail(e, frame, "argument", NULL, "a message has names of fields as keys, not %s", push_shown(L, key));
  const char *name = lua_tostring(L, key);
  const char *shown = strlen(name) <= 60 ? lua_pushfstring(L, "no field '%s'", name) : "no field of this long name";
  const char *what = frame == NULL ? lua_pushfstring(L, "there is %s", shown)   /* the path is the type's name */
                                   : lua_pushfstring(L, "%s has %s", type_name, shown);
  lua_newtable(L);
  for (uint32_t i = 0; i < type->count; i++) {
    lua_pushstring(L, type->fields[i].descriptor->name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  fail_unnamed(e, frame, name, what);
}

static _Noreturn void fail_enum(encoder *e, const ProtobufCEnumDescriptor *d, const rvl_protobuf_frame *frame,
                                const char *name) {
  lua_State *L = e->L;
  finish(e);
  luaL_checkstack(L, 20, NULL);
  const char *what = strlen(name) <= 60 ? lua_pushfstring(L, "'%s' is no value of %s", name, d->name)
                                        : lua_pushfstring(L, "this is no value of %s", d->name);
  lua_newtable(L);
  for (unsigned i = 0; d->values_by_name != NULL && i < d->n_value_names; i++) {
    lua_pushstring(L, d->values_by_name[i].name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  fail_unnamed(e, frame, name, what);
}

/* ---- the plan ---------------------------------------------------------------------------------------- */

/* Adds an operation to the end of a chain. */
static uint32_t add(encoder *e, chain *c, const rvl_protobuf_field *field, op_kind kind, size_t size) {
  size_t whole = size;
  if (kind != OP_RAW) whole += field->tag_length;
  if (kind != OP_RAW && kind != OP_SCALAR) whole += rvl_varint_size(size);
  c->size += whole;
  if (c->size > RVL_PROTOBUF_LARGEST)
    fail(e, NULL, "limit", NULL, "a message of protobuf has less than 2 GiB");
  if (e->starved || e->count == UINT32_MAX || !reserve(e, &e->codec->plan, ((size_t)e->count + 1) * sizeof(op))) {
    e->starved = true;
    return 0;
  }
  uint32_t index = e->count++;
  *at(e, index) = (op){.field = field, .size = size, .kind = kind};
  if (c->last != 0) at(e, c->last)->next = index;
  else c->first = index;
  c->last = index;
  return index;
}

/* Puts the operations of one field where its number belongs. */
static void splice_in(encoder *e, chain *whole, chain part, const rvl_protobuf_field *field) {
  whole->size += part.size;
  if (whole->size > RVL_PROTOBUF_LARGEST) fail(e, NULL, "limit", NULL, "a message of protobuf has less than 2 GiB");
  if (part.first == 0 || e->starved) return;
  if (whole->first == 0 || field < at(e, whole->first)->field) {
    at(e, part.last)->next = whole->first;
    whole->first = part.first;
    if (whole->last == 0) whole->last = part.last;
    return;
  }
  uint32_t before = whole->last;
  if (field < at(e, before)->field) {
    before = whole->first;
    while (at(e, at(e, before)->next)->field < field) before = at(e, before)->next;
  }
  at(e, part.last)->next = at(e, before)->next;
  at(e, before)->next = part.first;
  if (whole->last == before) whole->last = part.last;
}

/* Room for so many bytes at the end of the scratch memory. */
static uint8_t *scratch(encoder *e, size_t room) {
  if (!reserve(e, &e->codec->scratch, e->scratch_length + room)) {
    e->starved = true;
    return NULL;
  }
  return (uint8_t *)e->codec->scratch.data + e->scratch_length;
}

/* ---- scalars ----------------------------------------------------------------------------------------- */

static const char *const kind_names[] = {"int32", "int64", "uint32", "uint64", "float", "double", "bool", "an enum"};

static bool fits(rvl_protobuf_kind kind, lua_Integer n) {
  switch (kind) {
    case RVL_PB_INT32:
    case RVL_PB_ENUM: return n >= INT32_MIN && n <= INT32_MAX;
    case RVL_PB_UINT32: return n >= 0 && n <= UINT32_MAX;
    case RVL_PB_UINT64: return n >= 0;
    default: return true;
  }
}

/* A decimal number up to 2^64 - 1. */
static bool parse_unsigned(const char *text, size_t length, uint64_t *value) {
  uint64_t sum = 0;
  if (length == 0 || length > 20) return false;
  for (size_t i = 0; i < length; i++) {
    unsigned digit = (unsigned char)text[i] - (unsigned)'0';
    if (digit > 9 || sum > (UINT64_MAX - digit) / 10) return false;
    sum = sum * 10 + digit;
  }
  *value = sum;
  return true;
}

static uint64_t integer_bits(encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  int is_integer = 0;
  lua_Integer n = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &is_integer) : 0;
  if (is_integer && fits(f->kind, n)) return f->zigzag ? rvl_zigzag(n) : (uint64_t)n;
  if (f->kind == RVL_PB_UINT64) {   /* what Lua's integers cannot hold */
    uint64_t value;
    lua_Number x = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : 0;
    if (x >= 9223372036854775808.0 && x < 18446744073709551616.0) return (uint64_t)x;
    if (lua_type(L, index) == LUA_TSTRING) {
      size_t length;
      const char *text = lua_tolstring(L, index, &length);
      if (parse_unsigned(text, length, &value)) return value;
      fail(e, frame, "argument", NULL, "an integer or its decimal digits are wanted, got another string");
    }
  }
  if (is_integer)
    fail(e, frame, "argument", NULL, "%I does not fit %s", (LUAI_UACINT)n, kind_names[f->kind]);
  fail_type(e, frame, "an integer", index);
}

static uint64_t float_bits(lua_Number x) {
  float narrow = (float)x;
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  return bits;
}

static uint64_t double_bits(lua_Number x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static bool too_large_for_float(lua_Number x) { return isfinite(x) && !isfinite((float)x); }

static uint64_t enum_bits(encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  const ProtobufCEnumDescriptor *d = f->descriptor->descriptor;
  if (lua_type(L, index) == LUA_TSTRING) {
    size_t length;
    const char *name = lua_tolstring(L, index, &length);
    const ProtobufCEnumValue *value = NULL;
    if (d->values_by_name != NULL && strlen(name) == length)
      value = protobuf_c_enum_descriptor_get_value_by_name(d, name);
    if (value == NULL) fail_enum(e, d, frame, name);
    return (uint64_t)(int64_t)value->value;
  }
  int is_integer = 0;
  lua_Integer n = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &is_integer) : 0;
  if (!is_integer) fail_type(e, frame, "the name or number of an enum's value", index);
  if (!fits(RVL_PB_ENUM, n)) fail(e, frame, "argument", NULL, "%I does not fit an enum", (LUAI_UACINT)n);
  return (uint64_t)n;
}

/* The value at an index as it goes on the wire. */
static uint64_t scalar_bits(encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  switch ((rvl_protobuf_kind)f->kind) {
    case RVL_PB_FLOAT:
    case RVL_PB_DOUBLE: {
      if (lua_type(L, index) != LUA_TNUMBER) fail_type(e, frame, "a number", index);
      lua_Number x = lua_tonumber(L, index);
      if (f->kind == RVL_PB_DOUBLE) return double_bits(x);
      if (too_large_for_float(x)) fail(e, frame, "argument", NULL, "%f does not fit float", (LUAI_UACNUMBER)x);
      return float_bits(x);
    }
    case RVL_PB_BOOL:
      if (lua_type(L, index) != LUA_TBOOLEAN) fail_type(e, frame, "true or false", index);
      return (uint64_t)lua_toboolean(L, index);
    case RVL_PB_ENUM: return enum_bits(e, f, index, frame);
    default: return integer_bits(e, f, index, frame);
  }
}

static size_t scalar_size(const rvl_protobuf_field *f, uint64_t bits) {
  return f->wire == RVL_WIRE_VARINT ? rvl_varint_size(bits) : f->wire == RVL_WIRE_64 ? 8 : 4;
}

static uint8_t *put_scalar(uint8_t *out, const rvl_protobuf_field *f, uint64_t bits) {
  if (f->wire == RVL_WIRE_VARINT) return rvl_put_varint(out, bits);
  return f->wire == RVL_WIRE_64 ? rvl_put_64(out, bits) : rvl_put_32(out, (uint32_t)bits);
}

/* ---- lists of scalars -------------------------------------------------------------------------------- */

/* Element i of an array of integers. */
static int64_t array_integer(const rvl_array *a, size_t i) {
  switch (a->dtype) {
    case RVL_INT8: return ((const int8_t *)a->data)[i];
    case RVL_INT16: return ((const int16_t *)a->data)[i];
    case RVL_INT32: return ((const int32_t *)a->data)[i];
    case RVL_UINT16: return ((const uint16_t *)a->data)[i];
    case RVL_UINT32: return ((const uint32_t *)a->data)[i];
    case RVL_INT64:
    case RVL_UINT64: return ((const int64_t *)a->data)[i];
    default: return ((const uint8_t *)a->data)[i];
  }
}

static lua_Number array_number(const rvl_array *a, size_t i) {
  if (a->dtype == RVL_FLOAT64) return ((const double *)a->data)[i];
  if (a->dtype == RVL_FLOAT32) return (lua_Number)((const float *)a->data)[i];
  if (a->dtype == RVL_UINT64) return (lua_Number)((const uint64_t *)a->data)[i];
  return (lua_Number)array_integer(a, i);
}

static bool is_floating(rvl_dtype dtype) { return dtype == RVL_FLOAT32 || dtype == RVL_FLOAT64; }

/* Element i as it goes on the wire; false: it does not fit. */
static bool array_bits(const rvl_protobuf_field *f, const rvl_array *a, size_t i, uint64_t *bits) {
  if (f->kind == RVL_PB_DOUBLE || f->kind == RVL_PB_FLOAT) {
    lua_Number x = array_number(a, i);
    *bits = f->kind == RVL_PB_DOUBLE ? double_bits(x) : float_bits(x);
    return f->kind == RVL_PB_DOUBLE || !too_large_for_float(x);
  }
  int64_t n;
  if (is_floating(a->dtype)) {
    lua_Number x = array_number(a, i);
    if (!(x >= -9223372036854775808.0 && x < 9223372036854775808.0) || floor(x) != x) return false;
    n = (int64_t)x;
  } else {
    n = array_integer(a, i);
  }
  if (a->dtype == RVL_UINT64 && n < 0) {
    *bits = (uint64_t)n;
    return f->kind == RVL_PB_UINT64;
  }
  *bits = f->zigzag ? rvl_zigzag(n) : (uint64_t)n;
  return f->kind == RVL_PB_BOOL ? (uint64_t)n <= 1 : fits(f->kind, n);
}

/* Whether the elements are on the wire as they are in memory. */
static bool is_same_in_memory(const rvl_protobuf_field *f, const rvl_array *a) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  switch (a->dtype) {
    case RVL_FLOAT32: return f->kind == RVL_PB_FLOAT;
    case RVL_FLOAT64: return f->kind == RVL_PB_DOUBLE;
    case RVL_INT32: return f->kind == RVL_PB_INT32 && f->wire == RVL_WIRE_32;
    case RVL_INT64: return f->kind == RVL_PB_INT64 && f->wire == RVL_WIRE_64;
    case RVL_UINT32: return f->kind == RVL_PB_UINT32 && f->wire == RVL_WIRE_32;
    case RVL_UINT64: return f->kind == RVL_PB_UINT64 && f->wire == RVL_WIRE_64;
    default: return false;
  }
#else
  (void)f, (void)a;
  return false;
#endif
}

static _Noreturn void fail_element(encoder *e, const rvl_protobuf_field *f, const rvl_array *a, size_t i,
                                   const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (is_floating(a->dtype)) lua_pushnumber(L, array_number(a, i));
  else lua_pushinteger(L, (lua_Integer)array_integer(a, i));
  const char *shown = luaL_tolstring(L, -1, NULL);
  fail(e, frame, "argument", NULL, "%s does not fit %s", shown, kind_names[f->kind]);
}

static void plan_array(encoder *e, chain *c, const rvl_protobuf_field *f, const rvl_array *a,
                       const rvl_protobuf_frame *frame) {
  size_t size = 0;
  if (a->length == 0) return;
  if (a->columns != 0) fail(e, frame, "argument", NULL, "a list is wanted, got a matrix");
  if (is_same_in_memory(f, a)) {
    size = a->length * rvl_dtype_size(a->dtype);
  } else {
    for (size_t i = 0; i < a->length; i++) {
      uint64_t bits;
      rvl_protobuf_frame element = {frame->up, f, (lua_Integer)i + 1, 0};
      if (!array_bits(f, a, i, &bits)) fail_element(e, f, a, i, &element);
      size += scalar_size(f, bits);
    }
  }
  if (f->packed) {
    uint32_t index = add(e, c, f, OP_ARRAY, size);
    at(e, index)->is.bytes = a;
    return;
  }
  size += a->length * f->tag_length;
  uint32_t index = add(e, c, f, OP_RAW, size);
  at(e, index)->is.offset = e->scratch_length;
  uint8_t *out = scratch(e, size);
  if (out == NULL) return;
  for (size_t i = 0; i < a->length; i++) {
    uint64_t bits = 0;
    array_bits(f, a, i, &bits);
    memcpy(out, f->tag, f->tag_length);
    out = put_scalar(out + f->tag_length, f, bits);
  }
  e->scratch_length += size;
}

/* Raises unless the table at an index has the keys 1 to `length` and no others. */
static void check_list(encoder *e, int index, lua_Integer length, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (length > 0) lua_pushinteger(L, length);
  else lua_pushnil(L);
  if (lua_next(L, index) == 0) return;   /* the last one in the part that is an array: the rule */
  lua_pop(L, 2);
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    lua_pop(L, 1);
    if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= length) continue;
    const char *shown = lua_type(L, -1) == LUA_TSTRING ? lua_pushfstring(L, "'%s'", lua_tostring(L, -1))
                                                       : push_shown(L, -1);
    fail(e, frame, "argument", NULL, "a list without holes is wanted, got a table with the key %s", shown);
  }
}

static void plan_scalars(encoder *e, chain *c, const rvl_protobuf_field *f, int index, lua_Integer length,
                         const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  size_t start = e->scratch_length;
  size_t prefix = f->packed ? 0 : f->tag_length;
  rvl_protobuf_frame element = {frame->up, f, 0, 0};
  for (lua_Integer i = 1; i <= length; i++) {
    element.index = i;
    lua_rawgeti(L, index, i);
    uint64_t bits = scalar_bits(e, f, lua_gettop(L), &element);
    lua_pop(L, 1);
    uint8_t *out = scratch(e, RVL_TAG_MAX + RVL_VARINT_MAX);
    if (out == NULL) return;
    memcpy(out, f->tag, prefix);
    e->scratch_length += (size_t)(put_scalar(out + prefix, f, bits) - out);
  }
  uint32_t added = add(e, c, f, f->packed ? OP_PACKED : OP_RAW, e->scratch_length - start);
  at(e, added)->is.offset = start;
}

/* ---- everything else --------------------------------------------------------------------------------- */

static chain plan_message(encoder *e, const rvl_protobuf_type *type, int index, const rvl_protobuf_frame *up);

static void plan_bytes(encoder *e, chain *c, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (lua_type(L, index) != LUA_TSTRING) fail_type(e, frame, "a string", index);
  size_t length;
  const char *bytes = lua_tolstring(L, index, &length);
  if (f->kind == RVL_PB_STRING) {
    size_t end = rvl_protobuf_text_end(bytes, length);
    if (end < length)
      fail(e, frame, "argument", "only fields of the type bytes take any bytes",
           "a text in UTF-8 is wanted; byte %I is none", (LUAI_UACINT)end + 1);
  }
  bool large = length >= LARGE && e->anchored < MOST_LARGE;
  uint32_t added = add(e, c, f, large ? OP_LARGE : OP_BYTES, length);
  at(e, added)->is.bytes = bytes;
  if (!large) return;
  lua_pushvalue(L, index);
  lua_rawseti(L, e->anchors, (lua_Integer)++e->anchored);   /* there is room */
  at(e, added)->inner = e->anchored;
}

static void enter(encoder *e, const rvl_protobuf_frame *frame) {
  if (++e->depth > RVL_PROTOBUF_DEPTH)
    fail(e, frame, "argument", "does a table contain itself?", "messages are nested more than %d deep",
         RVL_PROTOBUF_DEPTH);
  if (!lua_checkstack(e->L, 24)) fail(e, frame, "memory", NULL, "no room for more levels");
}

/* One value that is no list, whatever it is: zero too. */
static void plan_value(encoder *e, chain *c, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  if (f->kind == RVL_PB_MESSAGE) {
    if (lua_type(e->L, index) != LUA_TTABLE) fail_type(e, frame, "a table", index);
    enter(e, frame);
    chain inner = plan_message(e, f->message, index, frame);
    e->depth--;
    uint32_t added = add(e, c, f, OP_MESSAGE, inner.size);
    at(e, added)->inner = inner.first;
  } else if (f->wire == RVL_WIRE_BYTES) {
    plan_bytes(e, c, f, index, frame);
  } else {
    uint64_t bits = scalar_bits(e, f, index, frame);
    uint32_t added = add(e, c, f, OP_SCALAR, scalar_size(f, bits));
    at(e, added)->is.bits = bits;
  }
}

static void plan_list(encoder *e, chain *c, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (lua_type(L, index) == LUA_TUSERDATA && f->wire != RVL_WIRE_BYTES) {
    const rvl_array *a = rvl_array_test(L, index);
    if (a != NULL) {
      plan_array(e, c, f, a, frame);
      return;
    }
  }
  if (lua_type(L, index) != LUA_TTABLE) fail_type(e, frame, "a list", index);
  lua_Integer length = (lua_Integer)lua_rawlen(L, index);
  check_list(e, index, length, frame);
  if (length == 0) return;
  if (f->wire != RVL_WIRE_BYTES) {
    plan_scalars(e, c, f, index, length, frame);
    return;
  }
  rvl_protobuf_frame element = {frame->up, f, 0, 0};
  for (lua_Integer i = 1; i <= length; i++) {
    element.index = i;
    lua_rawgeti(L, index, i);
    plan_value(e, c, f, lua_gettop(L), &element);
    lua_pop(L, 1);
  }
}

/* ---- maps -------------------------------------------------------------------------------------------- */

/* Whether the key of entry a comes before that of b. */
static bool is_before(encoder *e, uint32_t a, uint32_t b) {
  const op *x = at(e, at(e, a)->inner), *y = at(e, at(e, b)->inner);
  const rvl_protobuf_field *f = x->field;
  if (f->wire == RVL_WIRE_BYTES) {
    int order = memcmp(x->is.bytes, y->is.bytes, x->size < y->size ? x->size : y->size);
    return order != 0 ? order < 0 : x->size < y->size;
  }
  if (f->zigzag) return rvl_unzigzag(x->is.bits) < rvl_unzigzag(y->is.bits);
  if (f->kind == RVL_PB_INT32 || f->kind == RVL_PB_INT64) return (int64_t)x->is.bits < (int64_t)y->is.bits;
  return x->is.bits < y->is.bits;
}

/* Sorts the first `count` entries from `first` on and cuts the rest off. */
static chain sort_entries(encoder *e, uint32_t first, size_t count) {
  if (count == 1) {
    at(e, first)->next = 0;
    return (chain){first, first, 0};
  }
  uint32_t middle = first;
  for (size_t i = 0; i < count / 2; i++) middle = at(e, middle)->next;
  chain left = sort_entries(e, first, count / 2), right = sort_entries(e, middle, count - count / 2);
  chain sorted = {0};
  uint32_t a = left.first, b = right.first;
  while (a != 0 || b != 0) {
    uint32_t *from = b == 0 || (a != 0 && !is_before(e, b, a)) ? &a : &b;
    uint32_t taken = *from;
    *from = at(e, taken)->next;
    if (sorted.last != 0) at(e, sorted.last)->next = taken;
    else sorted.first = taken;
    sorted.last = taken;
  }
  return sorted;
}

/* Entries have both their fields on the wire, zero or not, as other writers of protobuf do it. */
static void plan_map(encoder *e, chain *c, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  const rvl_protobuf_field *fields = f->message->fields;
  if (lua_type(L, index) != LUA_TTABLE) fail_type(e, frame, "a table", index);
  enter(e, frame);
  chain entries = {0};
  size_t count = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    int value = lua_gettop(L);
    rvl_protobuf_frame entry = {frame->up, f, 0, value - 1};
    chain inner = {0};
    plan_value(e, &inner, &fields[0], value - 1, &entry);
    plan_value(e, &inner, &fields[1], value, &entry);
    uint32_t added = add(e, &entries, f, OP_MESSAGE, inner.size);
    at(e, added)->inner = inner.first;
    lua_pop(L, 1);
    count++;
  }
  e->depth--;
  if (count > 0 && !e->starved) {
    chain sorted = sort_entries(e, entries.first, count);
    c->first = sorted.first;
    c->last = sorted.last;
  }
  c->size = entries.size;
}

/* ---- messages ---------------------------------------------------------------------------------------- */

/* The field that the key at an index names; NULL: there is none. */
static const rvl_protobuf_field *field_of(lua_State *L, const rvl_protobuf_type *type, int key) {
  if (lua_type(L, key) != LUA_TSTRING) return NULL;
  size_t length;
  const char *name = lua_tolstring(L, key, &length);
  for (size_t slot = (size_t)((uintptr_t)name >> 3) & type->mask; type->slots[slot].name != NULL;
       slot = (slot + 1) & type->mask)
    if (type->slots[slot].name == name) return &type->fields[type->slots[slot].field];
  if (strlen(name) != length) return NULL;   /* long names are not one string in Lua */
  const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field_by_name(type->descriptor, name);
  return d != NULL ? &type->fields[d - type->descriptor->fields] : NULL;
}

/* Raises when the table has another member of the oneof. */
static void check_oneof(encoder *e, const rvl_protobuf_type *type, const rvl_protobuf_field *f, int index,
                        const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  for (uint32_t i = f->oneof_next; &type->fields[i] != f; i = type->fields[i].oneof_next) {
    lua_getiuservalue(L, e->type, RVL_PB_TYPE_NAMES);   /* the same for all types */
    lua_rawgeti(L, -1, type->names + (lua_Integer)i);
    if (lua_rawget(L, index) != LUA_TNIL) {
      const char *a = f->descriptor->name, *b = type->fields[i].descriptor->name;
      fail(e, up, "argument", NULL, "'%s' and '%s' exclude each other (a oneof)", f < &type->fields[i] ? a : b,
           f < &type->fields[i] ? b : a);
    }
    lua_pop(L, 2);
  }
}

static void check_required(encoder *e, const rvl_protobuf_type *type, int index, const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  for (uint32_t i = 0; i < type->count; i++) {
    if (!type->fields[i].required) continue;
    lua_getiuservalue(L, e->type, RVL_PB_TYPE_NAMES);
    lua_rawgeti(L, -1, type->names + (lua_Integer)i);
    if (lua_rawget(L, index) == LUA_TNIL) {
      rvl_protobuf_frame missing = {up, &type->fields[i], 0, 0};
      fail(e, &missing, "argument", NULL, "is required by %s", type->descriptor->name);
    }
    lua_pop(L, 2);
  }
}

static chain plan_field(encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  chain c = {0};
  if (f->map) {
    plan_map(e, &c, f, index, frame);
  } else if (f->repeated) {
    plan_list(e, &c, f, index, frame);
  } else if (f->implicit && f->wire != RVL_WIRE_BYTES) {
    uint64_t bits = scalar_bits(e, f, index, frame);
    if (bits != 0) {
      uint32_t added = add(e, &c, f, OP_SCALAR, scalar_size(f, bits));
      at(e, added)->is.bits = bits;
    }
  } else if (!f->implicit || lua_type(e->L, index) != LUA_TSTRING || lua_rawlen(e->L, index) > 0) {
    plan_value(e, &c, f, index, frame);
  }
  return c;
}

/* The table at `index`, which is absolute. */
static chain plan_message(encoder *e, const rvl_protobuf_type *type, int index, const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  chain whole = {0};
  uint32_t required = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    int value = lua_gettop(L);
    const rvl_protobuf_field *f = field_of(L, type, value - 1);
    if (f == NULL) fail_field(e, type, up, value - 1);
    if (&type->fields[f->oneof_next] != f) check_oneof(e, type, f, index, up);
    required += f->required;
    rvl_protobuf_frame frame = {up, f, 0, 0};
    splice_in(e, &whole, plan_field(e, f, value, &frame), f);
    lua_pop(L, 1);
  }
  if (required < type->required) check_required(e, type, index, up);
  return whole;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

/* Where a large string belongs in what was written. */
typedef struct cut {
  size_t offset;
  uint32_t anchor;
} cut;

typedef struct writer {
  const op *plan;
  const uint8_t *scratch;
  uint8_t *start, *out;
  cut *cuts;
  uint32_t cut_count;
} writer;

static uint8_t *put_array(uint8_t *out, const op *o) {
  const rvl_array *a = o->is.bytes;
  if (is_same_in_memory(o->field, a)) {
    memcpy(out, a->data, o->size);
    return out + o->size;
  }
  for (size_t i = 0; i < a->length; i++) {
    uint64_t bits = 0;
    array_bits(o->field, a, i, &bits);
    out = put_scalar(out, o->field, bits);
  }
  return out;
}

static uint8_t *put_bytes(uint8_t *out, const void *bytes, size_t length) {
  memcpy(out, bytes, length);
  return out + length;
}

static void write_chain(writer *w, uint32_t first) {
  for (uint32_t i = first; i != 0; i = w->plan[i].next) {
    const op *o = &w->plan[i];
    if (o->kind != OP_RAW) w->out = put_bytes(w->out, o->field->tag, o->field->tag_length);
    if (o->kind != OP_RAW && o->kind != OP_SCALAR) w->out = rvl_put_varint(w->out, o->size);
    switch (o->kind) {
      case OP_SCALAR: w->out = put_scalar(w->out, o->field, o->is.bits); break;
      case OP_BYTES: w->out = put_bytes(w->out, o->is.bytes, o->size); break;
      case OP_MESSAGE: write_chain(w, o->inner); break;
      case OP_ARRAY: w->out = put_array(w->out, o); break;
      case OP_LARGE: w->cuts[w->cut_count++] = (cut){(size_t)(w->out - w->start), o->inner}; break;
      default: w->out = put_bytes(w->out, w->scratch + o->is.offset, o->size); break;
    }
  }
}

static writer start_writing(const encoder *e, uint8_t *out, cut *cuts) {
  return (writer){.plan = e->codec->plan.data, .scratch = e->codec->scratch.data, .start = out, .out = out,
                  .cuts = cuts};
}

/* ---- encoding ---------------------------------------------------------------------------------------- */

/* Plans the table at `index`; a second time after a collection when there was no memory. */
static chain plan(encoder *e, int index) {
  lua_State *L = e->L;
  luaL_checkstack(L, 24, NULL);
  if (lua_type(L, index) != LUA_TTABLE) fail_type(e, NULL, "a table", index);
  for (int attempt = 0; attempt < 2; attempt++) {
    e->starved = false;
    e->count = 1;   /* 0 stands for none */
    e->scratch_length = 0;
    chain whole = plan_message(e, e->root, index, NULL);
    if (!e->starved) return whole;
    finish(e);
    if (attempt == 0) lua_gc(L, LUA_GCCOLLECT);
  }
  fail_memory(e);
}

static size_t large_bytes(const encoder *e) {
  size_t sum = 0;
  for (uint32_t i = 1; i <= e->anchored; i++) {
    lua_rawgeti(e->L, e->anchors, (lua_Integer)i);
    sum += lua_rawlen(e->L, -1);
    lua_pop(e->L, 1);
  }
  return sum;
}

/* Joins what was written and the large strings that belong between. */
static void push_joined(encoder *e, const writer *w) {
  lua_State *L = e->L;
  int count = (int)w->cut_count, base = lua_gettop(L);
  size_t length = (size_t)(w->out - w->start);
  if (!lua_checkstack(L, 3 * count + 20)) fail(e, NULL, "memory", NULL, "no room for the pieces of the message");
  for (int i = 0; i < count; i++) lua_rawgeti(L, e->anchors, (lua_Integer)w->cuts[i].anchor);
  lua_pushlstring(L, (const char *)w->start, length);   /* from here on finalizers may run */
  const char *written = lua_tostring(L, -1);
  size_t done = 0;
  for (int i = 0; i < count; i++) {
    lua_pushlstring(L, written + done, w->cuts[i].offset - done);
    lua_pushvalue(L, base + 1 + i);
    done = w->cuts[i].offset;
  }
  lua_pushlstring(L, written + done, length - done);
  lua_concat(L, 2 * count + 1);
}

/* Plans, and makes room for what is written. */
static chain plan_in_room(encoder *e, int index) {
  for (int attempt = 0; attempt < 2; attempt++) {
    chain whole = plan(e, index);
    if (reserve(e, &e->codec->out, whole.size - large_bytes(e))) return whole;
    finish(e);   /* a plan does not outlive a collection */
    if (attempt == 0) lua_gc(e->L, LUA_GCCOLLECT);
  }
  fail_memory(e);
}

/* T:encode(table) → bytes */
int rvl_protobuf_encode_call(lua_State *L) {
  cut cuts[MOST_LARGE];
  encoder e = {.L = L, .root = rvl_protobuf_check(L, 1), .type = 1, .anchors = 4};
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, RVL_PB_TYPE_CODEC);
  e.codec = lua_touserdata(L, 3);
  lua_getiuservalue(L, 3, RVL_PB_ANCHORS);
  chain whole = plan_in_room(&e, 2);
  writer w = start_writing(&e, e.codec->out.data, cuts);
  write_chain(&w, whole.first);
  if (w.cut_count > 0) push_joined(&e, &w);
  else lua_pushlstring(L, (const char *)w.start, (size_t)(w.out - w.start));
  finish(&e);
  return 1;
}
