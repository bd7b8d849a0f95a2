/* Numbers, booleans and enums of Lua, and elements of arrays, as they go on the wire. */
#include "protobuf_plan.h"
#include "runtime.h"

#include <math.h>
#include <string.h>

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

static uint64_t integer_bits(rvl_pb_encoder *e, const rvl_protobuf_field *f, int index,
                             const rvl_protobuf_frame *frame) {
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
      rvl_pb_fail(e, frame, "argument", NULL, "an integer or its decimal digits are wanted, got another string");
    }
  }
  if (is_integer)
    rvl_pb_fail(e, frame, "argument", NULL, "%I does not fit %s", (LUAI_UACINT)n, kind_names[f->kind]);
  rvl_pb_fail_type(e, frame, "an integer", index);
}

static bool too_large_for_float(lua_Number x) { return isfinite(x) && !isfinite((float)x); }

static uint64_t enum_bits(rvl_pb_encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  const ProtobufCEnumDescriptor *d = f->descriptor->descriptor;
  if (lua_type(L, index) == LUA_TSTRING) {
    size_t length;
    const char *name = lua_tolstring(L, index, &length);
    const ProtobufCEnumValue *value = NULL;
    if (d->values_by_name != NULL && strlen(name) == length)
      value = protobuf_c_enum_descriptor_get_value_by_name(d, name);
    if (value == NULL) rvl_pb_fail_enum(e, d, frame, name);
    return (uint64_t)(int64_t)value->value;
  }
  int is_integer = 0;
  lua_Integer n = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &is_integer) : 0;
  if (!is_integer) rvl_pb_fail_type(e, frame, "the name or number of an enum's value", index);
  if (!fits(RVL_PB_ENUM, n)) rvl_pb_fail(e, frame, "argument", NULL, "%I does not fit an enum", (LUAI_UACINT)n);
  return (uint64_t)n;
}

uint64_t rvl_pb_scalar_bits(rvl_pb_encoder *e, const rvl_protobuf_field *f, int index,
                            const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  switch ((rvl_protobuf_kind)f->kind) {
    case RVL_PB_FLOAT:
    case RVL_PB_DOUBLE: {
      if (lua_type(L, index) != LUA_TNUMBER) rvl_pb_fail_type(e, frame, "a number", index);
      lua_Number x = lua_tonumber(L, index);
      if (f->kind == RVL_PB_DOUBLE) return rvl_double_bits(x);
      if (too_large_for_float(x)) rvl_pb_fail(e, frame, "argument", NULL, "%f does not fit float", (LUAI_UACNUMBER)x);
      return rvl_float_bits((float)x);
    }
    case RVL_PB_BOOL:
      if (lua_type(L, index) != LUA_TBOOLEAN) rvl_pb_fail_type(e, frame, "true or false", index);
      return (uint64_t)lua_toboolean(L, index);
    case RVL_PB_ENUM: return enum_bits(e, f, index, frame);
    default: return integer_bits(e, f, index, frame);
  }
}

/* ---- elements of arrays ------------------------------------------------------------------------------ */

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

bool rvl_pb_array_bits(const rvl_protobuf_field *f, const rvl_array *a, size_t i, uint64_t *bits) {
  if (f->kind == RVL_PB_DOUBLE || f->kind == RVL_PB_FLOAT) {
    lua_Number x = array_number(a, i);
    *bits = f->kind == RVL_PB_DOUBLE ? rvl_double_bits(x) : rvl_float_bits((float)x);
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

bool rvl_pb_is_same_in_memory(const rvl_protobuf_field *f, const rvl_array *a) {
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

_Noreturn void rvl_pb_fail_element(rvl_pb_encoder *e, const rvl_protobuf_field *f, const rvl_array *a, size_t i,
                                   const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  rvl_array_push_element(L, a, i);
  const char *shown = luaL_tolstring(L, -1, NULL);
  rvl_pb_fail(e, frame, "argument", NULL, "%s does not fit %s", shown, kind_names[f->kind]);
}
