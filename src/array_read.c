/* Lua lists, and arrays of another type, into columns of one type; and what is wrong with them, in words. */
#include "array.h"

#include <float.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, DEEPEST = 8 };

/* What is still a float32 when it has been rounded lies below this. */
static const double FLOAT32_LIMIT = 3.4028235677973366e38;

static const struct {
  int64_t least, most;
} ranges[RVL_DTYPES] = {
    [RVL_BOOL] = {0, 1},
    [RVL_INT8] = {INT8_MIN, INT8_MAX},
    [RVL_INT16] = {INT16_MIN, INT16_MAX},
    [RVL_INT32] = {INT32_MIN, INT32_MAX},
    [RVL_INT64] = {INT64_MIN, INT64_MAX},
    [RVL_UINT8] = {0, UINT8_MAX},
    [RVL_UINT16] = {0, UINT16_MAX},
    [RVL_UINT32] = {0, UINT32_MAX},
    [RVL_UINT64] = {0, INT64_MAX},
};

/* ---- numbers into a column ---------------------------------------------------------------------------- */

/* `out` may lie at any address. */
#define NARROW(type) \
  for (size_t i = 0; i < count; i++) { \
    type narrow = (type)in[i]; \
    memcpy((char *)out + i * sizeof narrow, &narrow, sizeof narrow); \
  }

/* Returns the position of the first one that is out of range, from 1, or 0. */
static size_t put_integers(const int64_t *restrict in, size_t count, rvl_dtype dtype, unsigned rules, void *restrict out) {
  int64_t least = ranges[dtype].least, most = ranges[dtype].most;
  if ((rules & RVL_READ_NATURAL) && least < 0) least = 0;
  if (least != INT64_MIN)
    for (size_t i = 0; i < count; i++)
      if (in[i] < least || in[i] > most) return i + 1;
  switch (dtype) {
    case RVL_BOOL: case RVL_UINT8: NARROW(uint8_t) break;
    case RVL_INT8: NARROW(int8_t) break;
    case RVL_INT16: NARROW(int16_t) break;
    case RVL_UINT16: NARROW(uint16_t) break;
    case RVL_INT32: NARROW(int32_t) break;
    case RVL_UINT32: NARROW(uint32_t) break;
    default: memcpy(out, in, count * sizeof *in); break;
  }
  return 0;
}

static bool is_refused(double value, double limit, unsigned rules) {
  if (isfinite(value)) return fabs(value) >= limit || ((rules & RVL_READ_NATURAL) && value < 0);
  return (rules & RVL_READ_FINITE) || ((rules & RVL_READ_NATURAL) && value < 0);
}

static size_t put_floats(const double *restrict in, size_t count, rvl_dtype dtype, unsigned rules, void *restrict out) {
  double limit = dtype == RVL_FLOAT32 ? FLOAT32_LIMIT : HUGE_VAL, least = rules & RVL_READ_NATURAL ? 0 : -HUGE_VAL;
  for (size_t i = 0; i < count; i++)
    if (!(fabs(in[i]) < limit && in[i] >= least) && is_refused(in[i], limit, rules)) return i + 1;
  if (dtype == RVL_FLOAT32) {
    NARROW(float)
  } else {
    memcpy(out, in, count * sizeof *in);
  }
  return 0;
}

/* Whether an integer is that number, and which. */
static bool to_integer(double value, int64_t *out) {
  if (!(value >= -0x1p63 && value < 0x1p63) || floor(value) != value) return false;
  *out = (int64_t)value;
  return true;
}

/* ---- out of arrays ------------------------------------------------------------------------------------ */

#define WIDEN(type, wide) for (size_t i = 0; i < count; i++) out[i] = (wide)((const type *)a->data)[first + i]

/* Returns how many of them are integers that int64 can have. */
static size_t get_integers(const rvl_array *a, size_t first, size_t count, int64_t *out) {
  switch (a->dtype) {
    case RVL_BOOL: for (size_t i = 0; i < count; i++) out[i] = ((const uint8_t *)a->data)[first + i] != 0; break;
    case RVL_INT8: WIDEN(int8_t, int64_t); break;
    case RVL_INT16: WIDEN(int16_t, int64_t); break;
    case RVL_INT32: WIDEN(int32_t, int64_t); break;
    case RVL_UINT8: WIDEN(uint8_t, int64_t); break;
    case RVL_UINT16: WIDEN(uint16_t, int64_t); break;
    case RVL_UINT32: WIDEN(uint32_t, int64_t); break;
    case RVL_FLOAT32:
      for (size_t i = 0; i < count; i++)
        if (!to_integer((double)((const float *)a->data)[first + i], &out[i])) return i;
      break;
    case RVL_FLOAT64:
      for (size_t i = 0; i < count; i++)
        if (!to_integer(((const double *)a->data)[first + i], &out[i])) return i;
      break;
    case RVL_UINT64:
      for (size_t i = 0; i < count; i++) {
        uint64_t value = ((const uint64_t *)a->data)[first + i];
        if (value > INT64_MAX) return i;
        out[i] = (int64_t)value;
      }
      break;
    default: memcpy(out, (const int64_t *)a->data + first, count * sizeof *out); break;
  }
  return count;
}

static void get_floats(const rvl_array *a, size_t first, size_t count, double *out) {
  switch (a->dtype) {
    case RVL_BOOL: for (size_t i = 0; i < count; i++) out[i] = ((const uint8_t *)a->data)[first + i] != 0; break;
    case RVL_INT8: WIDEN(int8_t, double); break;
    case RVL_INT16: WIDEN(int16_t, double); break;
    case RVL_INT32: WIDEN(int32_t, double); break;
    case RVL_INT64: WIDEN(int64_t, double); break;
    case RVL_UINT8: WIDEN(uint8_t, double); break;
    case RVL_UINT16: WIDEN(uint16_t, double); break;
    case RVL_UINT32: WIDEN(uint32_t, double); break;
    case RVL_UINT64: WIDEN(uint64_t, double); break;
    case RVL_FLOAT32: WIDEN(float, double); break;
    default: memcpy(out, (const double *)a->data + first, count * sizeof *out); break;
  }
}

/*
** Whether one of them is NaN or an infinity: all bits of its exponent are set. Two at a time, because adding the lowest
** bit of the exponent carries into the sign then; and in four lanes, which the processor works on side by side.
*/
static bool has_special_floats(const float *in, size_t count) {
  const uint64_t exponents = UINT64_C(0x7f8000007f800000), ones = UINT64_C(0x0080000000800000);
  uint64_t found[4] = {0}, words[4];
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    memcpy(words, in + i, sizeof words);
    for (int k = 0; k < 4; k++) found[k] |= (words[k] & exponents) + ones;
  }
  bool has = ((found[0] | found[1] | found[2] | found[3]) & UINT64_C(0x8000000080000000)) != 0;
  for (; i < count; i++) has |= !isfinite(in[i]);
  return has;
}

static bool has_negatives(const int64_t *in, size_t count) {
  int64_t all[4] = {0};
  size_t i = 0;
  for (; i + 4 <= count; i += 4) for (size_t k = 0; k < 4; k++) all[k] |= in[i + k];
  for (; i < count; i++) all[0] |= in[i];
  return (all[0] | all[1] | all[2] | all[3]) < 0;
}

/* Whether the elements can be copied as they are. */
static bool is_copy(const rvl_array *a, size_t first, size_t count, rvl_dtype dtype, unsigned rules) {
  if (a->dtype != dtype) return false;
  if (dtype == RVL_INT64) return !(rules & RVL_READ_NATURAL) || !has_negatives((const int64_t *)a->data + first, count);
  if (dtype == RVL_FLOAT32 && !(rules & RVL_READ_NATURAL))
    return !(rules & RVL_READ_FINITE) || !has_special_floats((const float *)a->data + first, count);
  unsigned looks = rvl_dtype_is_float(dtype) ? RVL_READ_FINITE | RVL_READ_NATURAL : RVL_READ_NATURAL;
  return !(rules & looks);
}

size_t rvl_array_convert(const rvl_array *a, size_t first, size_t count, rvl_dtype dtype, unsigned rules, void *out) {
  size_t size = rvl_dtype_size(dtype);
  if (is_copy(a, first, count, dtype, rules)) {
    if (count > 0) memcpy(out, (const char *)a->data + first * size, count * size);
    return 0;
  }
  for (size_t done = 0; done < count;) {
    size_t batch = count - done < BATCH ? count - done : BATCH, bad;
    if (rvl_dtype_is_float(dtype)) {
      double values[BATCH];
      get_floats(a, first + done, batch, values);
      bad = put_floats(values, batch, dtype, rules, (char *)out + done * size);
    } else if (a->dtype == dtype && dtype == RVL_UINT64) {
      memcpy((char *)out + done * size, (const uint64_t *)a->data + first + done, batch * size);
      bad = 0;
    } else {
      int64_t values[BATCH];
      size_t got = get_integers(a, first + done, batch, values);
      bad = put_integers(values, got, dtype, rules, (char *)out + done * size);
      if (bad == 0 && got < batch) bad = got + 1;
    }
    if (bad != 0) return done + bad;
    done += batch;
  }
  return 0;
}

/* ---- out of tables ------------------------------------------------------------------------------------ */

/* A value that is no number: true and false where they are allowed, decimal digits for uint64. */
static bool get_other(lua_State *L, int index, rvl_dtype dtype, unsigned rules, int64_t *out) {
  if (lua_isboolean(L, index)) {
    *out = lua_toboolean(L, index);
    return dtype == RVL_BOOL || (rules & RVL_READ_BOOLEANS);
  }
  if (dtype != RVL_UINT64 || lua_type(L, index) != LUA_TSTRING) return false;
  size_t length;
  const char *text = lua_tolstring(L, index, &length);
  if (length == 0 || length > 20) return false;
  uint64_t value = 0;
  for (size_t i = 0; i < length; i++) {
    unsigned digit = (unsigned)text[i] - '0';
    if (digit > 9 || value > (UINT64_MAX - digit) / 10) return false;
    value = value * 10 + digit;
  }
  memcpy(out, &value, sizeof value);
  return true;
}

/* Pushes the next elements; whether all are numbers. */
static bool push_batch(lua_State *L, int index, size_t from, size_t batch) {
  bool numbers = true;
  for (size_t i = 0; i < batch; i++) numbers &= lua_rawgeti(L, index, (lua_Integer)(from + i)) == LUA_TNUMBER;
  return numbers;
}

static size_t put_batch_of_integers(lua_State *L, int base, size_t batch, bool numbers, rvl_dtype dtype,
                                    unsigned rules, void *out) {
  int64_t values[BATCH];
  size_t got = 0;
  bool huge = false;
  for (; got < batch; got++) {
    int index = base + (int)got, is_integer = 0;
    if (numbers || lua_type(L, index) == LUA_TNUMBER) {
      values[got] = lua_tointegerx(L, index, &is_integer);
      if (!is_integer || (dtype == RVL_UINT64 && values[got] < 0)) break;
    } else if (!get_other(L, index, dtype, rules, &values[got])) {
      break;
    } else {
      huge |= values[got] < 0;
    }
  }
  size_t bad = huge ? 0 : put_integers(values, got, dtype, rules, out);
  if (huge) memcpy(out, values, got * sizeof *values);   /* above the most of int64: only uint64 has such */
  return bad != 0 ? bad : got < batch ? got + 1 : 0;
}

static size_t put_batch_of_floats(lua_State *L, int base, size_t batch, bool numbers, rvl_dtype dtype,
                                  unsigned rules, void *out) {
  double values[BATCH];
  size_t got = 0;
  for (; got < batch; got++) {
    int index = base + (int)got;
    int64_t other;
    if (numbers || lua_type(L, index) == LUA_TNUMBER) values[got] = lua_tonumberx(L, index, NULL);
    else if (get_other(L, index, dtype, rules, &other)) values[got] = (double)other;
    else break;
  }
  size_t bad = put_floats(values, got, dtype, rules, out);
  return bad != 0 ? bad : got < batch ? got + 1 : 0;
}

size_t rvl_array_read(lua_State *L, int index, size_t count, rvl_dtype dtype, unsigned rules, void *out) {
  const rvl_array *a = rvl_array_test(L, index);
  if (a != NULL) return rvl_array_convert(a, 0, count, dtype, rules, out);
  index = lua_absindex(L, index);
  size_t size = rvl_dtype_size(dtype), bad = 0;
  luaL_checkstack(L, BATCH, NULL);
  int top = lua_gettop(L);
  for (size_t done = 0; done < count && bad == 0; done += BATCH) {
    size_t batch = count - done < BATCH ? count - done : BATCH;
    char *to = (char *)out + done * size;
    bool numbers = push_batch(L, index, done + 1, batch);
    if (rvl_dtype_is_float(dtype)) bad = put_batch_of_floats(L, top + 1, batch, numbers, dtype, rules, to);
    else bad = put_batch_of_integers(L, top + 1, batch, numbers, dtype, rules, to);
    if (bad != 0) bad += done;
    lua_settop(L, top);
  }
  return bad;
}

/* ---- what is wrong ------------------------------------------------------------------------------------ */

/* Replaces the number on top by its text, which Lua writes as "-nan" here and "inf" there. */
static const char *number_text(lua_State *L) {
  double value = lua_tonumber(L, -1);
  if (isnan(value)) return "nan";
  if (isinf(value)) return value < 0 ? "-inf" : "inf";
  return luaL_tolstring(L, -1, NULL);
}

void rvl_array_push_complaint(lua_State *L, int index, size_t position, rvl_dtype dtype, unsigned rules) {
  luaL_checkstack(L, 8, NULL);
  int top = lua_gettop(L);
  const rvl_array *a = rvl_array_test(L, index);
  index = lua_absindex(L, index);
  if (a != NULL) rvl_array_push_element(L, a, position - 1);
  else lua_rawgeti(L, index, (lua_Integer)position);
  int type = lua_type(L, -1), is_integer;
  const char *name = rvl_dtype_name(dtype);
  if (type == LUA_TNIL) {
    lua_pushliteral(L, "is missing");
  } else if (a != NULL && type == LUA_TSTRING) {   /* a uint64 that is more than Lua's integers can be */
    lua_pushfstring(L, "is %s, which %s cannot hold", lua_tostring(L, -1), name);
  } else if (dtype == RVL_UINT64 && type == LUA_TSTRING) {
    lua_pushliteral(L, "is a string that is no uint64 in decimal digits");
  } else if (type != LUA_TNUMBER) {
    const char *type_name = luaL_typename(L, -1);
    lua_pushfstring(L, "is a %s, not a number", rvl_array_test(L, -1) != NULL ? "list" : type_name);
  } else {
    lua_tointegerx(L, -1, &is_integer);
    double value = lua_tonumber(L, -1);
    const char *text = number_text(L);
    if (!isfinite(value)) lua_pushfstring(L, "is %s", text);
    else if ((rules & RVL_READ_NATURAL) && value < 0) lua_pushfstring(L, "is %s, below zero", text);
    else if (!rvl_dtype_is_float(dtype) && floor(value) != value)
      lua_pushfstring(L, "is %s, which is not an integer", text);
    else if (dtype == RVL_BOOL) lua_pushfstring(L, "is %s, neither true nor false", text);
    else lua_pushfstring(L, "is %s, which %s cannot hold", text, name);
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* ---- lists of lists ----------------------------------------------------------------------------------- */

/* Whether a list that is no plain table is at the index. */
static bool has_list_metamethods(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return false;
  bool has = false;
  static const char *const names[] = {"__index", "__len"};
  for (int i = 0; i < 2 && !has; i++) {
    lua_pushstring(L, names[i]);
    has = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return has;
}

static void flatten(lua_State *L, int index, int depth) {
  if (!lua_istable(L, index)) return;
  luaL_checkstack(L, 8, NULL);
  if (has_list_metamethods(L, index)) {
    lua_Integer count = luaL_len(L, index);
    lua_createtable(L, count > 0 && count < 1 << 20 ? (int)count : 0, 0);
    for (lua_Integer i = 1; i <= count; i++) {
      if (lua_geti(L, index, i) == LUA_TNIL) {   /* what is missing is seen later */
        lua_pop(L, 1);
        break;
      }
      lua_rawseti(L, -2, i);
    }
    lua_replace(L, index);
  }
  if (depth == DEEPEST) return;
  lua_Unsigned count = lua_rawlen(L, index);
  bool copied = false;
  for (lua_Unsigned i = 1; i <= count; i++) {
    if (lua_rawgeti(L, index, (lua_Integer)i) != LUA_TTABLE) {
      lua_pop(L, 1);
      if (i == 1) break;   /* a list of numbers: a list among them is refused anyway */
      continue;
    }
    int row = lua_gettop(L);
    lua_pushvalue(L, row);
    flatten(L, row, depth + 1);
    if (lua_rawequal(L, row, row + 1)) {
      lua_settop(L, row - 1);
      continue;
    }
    if (!copied) {   /* the caller's table stays as it is */
      lua_createtable(L, 0, 0);
      for (lua_Integer k = 1; k <= (lua_Integer)count; k++) {
        lua_rawgeti(L, index, k);
        lua_rawseti(L, -2, k);
      }
      lua_replace(L, index);
      copied = true;
    }
    lua_pushvalue(L, row);
    lua_rawseti(L, index, (lua_Integer)i);
    lua_settop(L, row - 1);
  }
}

void rvl_array_flatten(lua_State *L, int index) { flatten(L, lua_absindex(L, index), 1); }

typedef struct filling {
  rvl_array *a;
  unsigned rules;
  size_t position[DEEPEST];   /* where something is wrong; the rest is 0 */
} filling;

/* "[3][17] " before the complaint on top. */
static void put_position(lua_State *L, const filling *f, size_t depth) {
  lua_pushliteral(L, "");
  for (size_t i = 0; i < depth; i++) {
    lua_pushfstring(L, "%s[%I]", lua_tostring(L, -1), (LUAI_UACINT)f->position[i]);
    lua_remove(L, -2);
  }
  lua_pushfstring(L, "%s %s", lua_tostring(L, -1), lua_tostring(L, -2));
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* Whether an array has the shape of what is to be filled, from dimension `depth` on. */
static bool has_shape(const rvl_array *source, const rvl_array *a, size_t depth) {
  if (source->ndim <= 1 || a->ndim <= 1) return (source->ndim <= 1) == (depth + 1 >= a->ndim);
  if (source->ndim != a->ndim - depth) return false;
  for (size_t i = 0; i < source->ndim; i++) if (source->shape[i] != a->shape[depth + i]) return false;
  return true;
}

/* Puts the list on top, which has to have the shape of the array from dimension `depth` on, at element `at`. False:
 * a complaint has been pushed. */
static bool fill(lua_State *L, filling *f, size_t depth, size_t at, size_t size) {
  rvl_array *a = f->a;
  int list = lua_gettop(L);
  const rvl_array *source = rvl_array_test(L, list);
  size_t want = a->ndim == 1 ? a->length : a->shape[depth];
  luaL_checkstack(L, 8, NULL);
  if (source == NULL && !lua_istable(L, list)) {
    lua_pushfstring(L, "is a %s where a list of %I is wanted", luaL_typename(L, list), (LUAI_UACINT)want);
    put_position(L, f, depth);
    return false;
  }
  size_t have = source != NULL ? rvl_array_rows(source) : lua_rawlen(L, list);
  if (have != want) {
    lua_pushfstring(L, "has %I values where the first has %I", (LUAI_UACINT)have, (LUAI_UACINT)want);
    put_position(L, f, depth);
    return false;
  }
  if (source != NULL && (source->length != size || !has_shape(source, a, depth))) {
    lua_pushliteral(L, "has another shape than the first");
    put_position(L, f, depth);
    return false;
  }
  if (source != NULL || depth + 1 == a->ndim) {
    void *out = (char *)a->data + at * rvl_dtype_size(a->dtype);
    size_t bad = rvl_array_read(L, list, size, a->dtype, f->rules, out);
    if (bad == 0) return true;
    f->position[depth] = bad;
    rvl_array_push_complaint(L, list, bad, a->dtype, f->rules);
    put_position(L, f, depth + 1);
    return false;
  }
  size_t row = want > 0 ? size / want : 0;
  for (size_t i = 0; i < want; i++) {
    f->position[depth] = i + 1;
    lua_rawgeti(L, list, (lua_Integer)i + 1);
    if (!fill(L, f, depth + 1, at + i * row, row)) return false;
    lua_settop(L, list);
  }
  return true;
}

/* The shape of the list at the index by its first elements; the number of dimensions, 0: nested too deeply. */
static size_t shape_of(lua_State *L, int index, size_t *shape) {
  int top = lua_gettop(L);
  size_t ndim = 0;
  luaL_checkstack(L, DEEPEST + 4, NULL);
  lua_pushvalue(L, index);
  for (;;) {
    const rvl_array *a = rvl_array_test(L, -1);
    size_t more = a == NULL ? 1 : a->ndim == 0 ? 1 : a->ndim;
    if (ndim + more > DEEPEST) {
      ndim = 0;
      break;
    }
    if (a != NULL) {
      for (size_t i = 0; i < more; i++) shape[ndim++] = a->shape != NULL && a->ndim > 0 ? a->shape[i] : a->length;
      break;
    }
    shape[ndim++] = lua_rawlen(L, -1);
    int type = lua_rawgeti(L, -1, 1);
    if (type != LUA_TTABLE && rvl_array_test(L, -1) == NULL) break;
  }
  lua_settop(L, top);
  return ndim;
}

bool rvl_array_from(lua_State *L, int index, rvl_dtype dtype, unsigned rules) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  lua_pushvalue(L, index);
  if (!lua_istable(L, top + 1) && rvl_array_test(L, top + 1) == NULL) {
    lua_pushfstring(L, " is a %s, not a list", luaL_typename(L, top + 1));
    lua_replace(L, top + 1);
    return false;
  }
  rvl_array_flatten(L, top + 1);
  size_t shape[DEEPEST], ndim = shape_of(L, top + 1, shape), size = 1;
  if (ndim == 0) {
    lua_pushliteral(L, " is nested too deeply");
    lua_replace(L, top + 1);
    return false;
  }
  for (size_t i = 0; i < ndim; i++) {
    if (shape[i] > 0 && size > SIZE_MAX / 16 / shape[i]) luaL_error(L, "not enough memory");
    size *= shape[i];
  }
  filling f = {.a = rvl_array_push_shape(L, dtype, ndim, shape), .rules = rules};
  lua_pushvalue(L, top + 1);
  bool fine = fill(L, &f, 0, 0, size);
  if (fine) lua_settop(L, top + 2);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
  return fine;
}
