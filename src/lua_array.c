/* riverlua.core.array: compact arrays of numbers that behave like tables. */
#include "array.h"
#include "runtime.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 8, SHOWN_ROWS = 4 };

static bool is_unsigned(rvl_dtype dtype) { return dtype >= RVL_UINT8 && dtype <= RVL_UINT64; }

rvl_array *rvl_array_test(lua_State *L, int index) { return luaL_testudata(L, index, RVL_ARRAY); }

size_t rvl_array_rows(const rvl_array *a) { return a->shape != NULL && a->ndim > 0 ? a->shape[0] : a->length; }

/* Metamethods and methods have the metatable as upvalue 1, which is quicker to compare than to look up. */
static rvl_array *self(lua_State *L) {
  rvl_array *a = lua_touserdata(L, 1);
  if (a != NULL && lua_getmetatable(L, 1)) {
    bool is = lua_rawequal(L, -1, lua_upvalueindex(1));
    lua_pop(L, 1);
    if (is) return a;
  }
  rvl_raise(L, "argument", "methods are called with a colon: a:sum()", "this is a method of arrays, and what it was "
            "called for is a %s", luaL_typename(L, 1));
  return NULL;
}

/* ---- access ------------------------------------------------------------------------------------------ */

void rvl_array_push_element(lua_State *L, const rvl_array *a, size_t i) {
  switch (a->dtype) {
    case RVL_BOOL: lua_pushboolean(L, ((const uint8_t *)a->data)[i]); break;
    case RVL_INT8: lua_pushinteger(L, ((const int8_t *)a->data)[i]); break;
    case RVL_INT16: lua_pushinteger(L, ((const int16_t *)a->data)[i]); break;
    case RVL_INT32: lua_pushinteger(L, ((const int32_t *)a->data)[i]); break;
    case RVL_UINT8: lua_pushinteger(L, ((const uint8_t *)a->data)[i]); break;
    case RVL_UINT16: lua_pushinteger(L, ((const uint16_t *)a->data)[i]); break;
    case RVL_UINT32: lua_pushinteger(L, ((const uint32_t *)a->data)[i]); break;
    case RVL_FLOAT32: lua_pushnumber(L, (lua_Number)((const float *)a->data)[i]); break;
    case RVL_FLOAT64: lua_pushnumber(L, ((const double *)a->data)[i]); break;
    case RVL_UINT64: {
      uint64_t value = ((const uint64_t *)a->data)[i];
      char digits[24];
      if (value <= INT64_MAX) {
        lua_pushinteger(L, (lua_Integer)value);
      } else {   /* more than Lua's integers can be: its digits */
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
        lua_pushstring(L, digits);
      }
      break;
    }
    default: lua_pushinteger(L, ((const int64_t *)a->data)[i]); break;
  }
}

static rvl_array *push_block(lua_State *L, rvl_dtype dtype, size_t length, size_t ndim, size_t room, int owners);

/* Pushes the row of the array at stack index 1: a part of it, not a copy. */
static void push_row(lua_State *L, const rvl_array *a, size_t i) {
  rvl_array *row = push_block(L, a->dtype, a->columns, a->ndim - 1, 0, 1);
  row->data = (char *)a->data + i * a->columns * rvl_dtype_size(a->dtype);
  if (a->ndim > 2) {
    row->shape = a->shape + 1;
    row->columns = a->shape[1] > 0 ? a->columns / a->shape[1] : 0;
  }
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
}

static void push_item(lua_State *L, const rvl_array *a, size_t i) {
  if (i >= rvl_array_rows(a)) lua_pushnil(L);
  else if (a->ndim > 1) push_row(L, a, i);
  else rvl_array_push_element(L, a, i);
}

static void push_shape(lua_State *L, const rvl_array *a) {
  lua_createtable(L, (int)a->ndim, 0);
  for (size_t i = 0; i < a->ndim; i++) {
    lua_pushinteger(L, (lua_Integer)(a->shape != NULL ? a->shape[i] : a->length));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* Upvalue 2: the methods. */
static int array_index(lua_State *L) {
  const rvl_array *a = self(L);
  int type = lua_type(L, 2), is_integer;
  if (type == LUA_TNUMBER) {
    lua_Integer i = lua_tointegerx(L, 2, &is_integer);
    if (!is_integer) return 0;
    push_item(L, a, (size_t)i - 1);
    return 1;
  }
  if (type != LUA_TSTRING) return 0;
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(2)) != LUA_TNIL) return 1;
  const char *name = lua_tostring(L, 2);
  if (strcmp(name, "dtype") == 0) lua_pushstring(L, rvl_dtype_name(a->dtype));
  else if (strcmp(name, "shape") == 0) push_shape(L, a);
  else return 0;
  return 1;
}

static int array_newindex(lua_State *L) {
  rvl_array *a = self(L);
  const char *name = rvl_dtype_name(a->dtype);
  int is_integer = 0;
  lua_Integer i = lua_type(L, 2) == LUA_TNUMBER ? lua_tointegerx(L, 2, &is_integer) : 0;
  if (!is_integer)
    return rvl_raise(L, "argument", "its elements are numbered from 1", "an array has elements, no field '%s'",
                     luaL_tolstring(L, 2, NULL));
  size_t at = (size_t)i - 1, rows = rvl_array_rows(a);
  if (at >= rows)
    return rvl_raise(L, "argument", "arrays do not grow: array.concat(a, {value}) makes a longer one",
                     "there is no element %I in an array of %I", (LUAI_UACINT)i, (LUAI_UACINT)rows);
  size_t bad;
  if (a->ndim > 1) {
    const rvl_array *row = rvl_array_test(L, 3);
    size_t have = row != NULL ? row->length : lua_istable(L, 3) ? lua_rawlen(L, 3) : 0;
    if ((row == NULL && !lua_istable(L, 3)) || have != a->columns)
      return rvl_raise(L, "argument", NULL, "row [%I] of a %s matrix is a list of %I", (LUAI_UACINT)i, name,
                       (LUAI_UACINT)a->columns);
    lua_pushvalue(L, 3);
  } else {
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 3);
    lua_rawseti(L, -2, 1);
  }
  size_t columns = a->ndim > 1 ? a->columns : 1;
  char *out = (char *)a->data + at * columns * rvl_dtype_size(a->dtype);
  int list = lua_gettop(L);
  if (a->ndim > 1 && rvl_array_test(L, list) != NULL && rvl_array_test(L, list)->dtype == a->dtype) {
    memmove(out, rvl_array_test(L, list)->data, columns * rvl_dtype_size(a->dtype));   /* perhaps this row */
    return 0;
  }
  bad = rvl_array_read(L, list, columns, a->dtype, 0, out);
  if (bad == 0) return 0;
  rvl_array_push_complaint(L, list, bad, a->dtype, 0);
  const char *complaint = lua_tostring(L, -1);
  if (a->ndim > 1)
    return rvl_raise(L, "argument", NULL, "%s array: [%I][%I] %s", name, (LUAI_UACINT)i, (LUAI_UACINT)bad, complaint);
  return rvl_raise(L, "argument", NULL, "%s array: [%I] %s", name, (LUAI_UACINT)i, complaint);
}

static int array_length(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)rvl_array_rows(self(L)));
  return 1;
}

/* (a, i) → i + 1, its element; nothing after the last */
static int next_item(lua_State *L) {
  const rvl_array *a = self(L);
  size_t i = (size_t)lua_tointeger(L, 2);
  if (i >= rvl_array_rows(a)) return 0;
  lua_pushinteger(L, (lua_Integer)i + 1);
  push_item(L, a, i);
  return 2;
}

static int array_pairs(lua_State *L) {
  self(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, next_item, 1);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  return 3;
}

/* ---- two arrays -------------------------------------------------------------------------------------- */

static size_t dimension(const rvl_array *a, size_t i) { return a->shape != NULL ? a->shape[i] : a->length; }

static double number_at(const rvl_array *a, size_t i) {
  double value = 0;
  rvl_array_convert(a, i, 1, RVL_FLOAT64, 0, &value);
  return value;
}

static bool equal_at(const rvl_array *a, const rvl_array *b, size_t i) {
  int64_t x, y;
  if (rvl_dtype_is_float(a->dtype) || rvl_dtype_is_float(b->dtype)) return number_at(a, i) == number_at(b, i);
  bool fits = rvl_array_convert(a, i, 1, RVL_INT64, 0, &x) == 0;
  if (rvl_array_convert(b, i, 1, RVL_INT64, 0, &y) != 0) return !fits && number_at(a, i) == number_at(b, i);
  return fits && x == y;
}

/* Equal shapes and equal numbers, whatever the types; NaN is not equal to itself, as everywhere. */
static int array_eq(lua_State *L) {
  const rvl_array *a = rvl_array_test(L, 1), *b = rvl_array_test(L, 2);
  bool equal = a != NULL && b != NULL && a->ndim == b->ndim && a->length == b->length;
  for (size_t i = 0; equal && i < a->ndim; i++) equal = dimension(a, i) == dimension(b, i);
  if (equal && a->length > 0 && a->dtype == b->dtype && !rvl_dtype_is_float(a->dtype) && a->dtype != RVL_BOOL)
    equal = memcmp(a->data, b->data, a->length * rvl_dtype_size(a->dtype)) == 0;
  else
    for (size_t i = 0; equal && i < a->length; i++) equal = equal_at(a, b, i);
  lua_pushboolean(L, equal);
  return 1;
}

/* ---- methods ----------------------------------------------------------------------------------------- */

/* Like string.sub: the elements (rows) from i to j, both counted from the end when negative. */
static int array_slice(lua_State *L) {
  const rvl_array *a = self(L);
  lua_Integer rows = (lua_Integer)rvl_array_rows(a);
  lua_Integer from = luaL_optinteger(L, 2, 1), to = luaL_optinteger(L, 3, -1);
  if (from < 0) from = from < -rows ? 1 : rows + from + 1;
  if (to < 0) to = to < -rows ? 0 : rows + to + 1;
  if (from < 1) from = 1;
  if (to > rows) to = rows;
  size_t count = from <= to ? (size_t)(to - from + 1) : 0, row = a->ndim > 1 ? a->columns : 1;
  size_t size = rvl_dtype_size(a->dtype) * row;
  rvl_array *part;
  if (a->ndim > 1) {
    part = push_block(L, a->dtype, count * row, a->ndim, count * size, 0);
    size_t *shape = (size_t *)(part + 1);
    shape[0] = count;
    part->columns = a->columns;
    for (size_t i = 1; i < a->ndim; i++) shape[i] = a->shape[i];
  } else {
    part = rvl_array_push(L, a->dtype, count);
  }
  if (count * size > 0) memcpy(part->data, (const char *)a->data + (size_t)(from - 1) * size, count * size);
  return 1;
}

static void push_table(lua_State *L, const rvl_array *a, size_t dim, size_t at, size_t size) {
  size_t rows = a->ndim > 0 ? dimension(a, dim) : a->length;
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, rows < INT32_MAX ? (int)rows : 0, 0);
  for (size_t i = 0; i < rows; i++) {
    if (dim + 1 < a->ndim) push_table(L, a, dim + 1, at + i * (size / rows), size / rows);
    else rvl_array_push_element(L, a, at + i);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* A plain table with the same elements, of a matrix a table of tables. */
static int array_table(lua_State *L) {
  const rvl_array *a = self(L);
  push_table(L, a, 0, 0, a->length);
  return 1;
}

static int array_bytes(lua_State *L) {
  const rvl_array *a = self(L);
  lua_pushlstring(L, a->data, a->length * rvl_dtype_size(a->dtype));
  return 1;
}

/* Integers add up to an integer (that wraps around, as Lua's do), floats to a float. */
static int array_sum(lua_State *L) {
  const rvl_array *a = self(L);
  if (rvl_dtype_is_float(a->dtype)) {
    double sum = 0;
    for (size_t i = 0; i < a->length; i++)
      sum += a->dtype == RVL_FLOAT32 ? (double)((const float *)a->data)[i] : ((const double *)a->data)[i];
    lua_pushnumber(L, sum);
  } else {
    uint64_t sum = 0;
    int64_t value;
    for (size_t i = 0; i < a->length; i++) {
      if (rvl_array_convert(a, i, 1, RVL_INT64, 0, &value) == 0) sum += (uint64_t)value;
      else sum += ((const uint64_t *)a->data)[i];
    }
    lua_pushinteger(L, (lua_Integer)sum);
  }
  return 1;
}

static int array_mean(lua_State *L) {
  const rvl_array *a = self(L);
  if (a->length == 0) return 0;
  double sum = 0;
  for (size_t i = 0; i < a->length; i++) sum += number_at(a, i);
  lua_pushnumber(L, sum / (double)a->length);
  return 1;
}

/* The element that is smallest (sign 1) or largest (-1), and where; NaN only when there is nothing else. */
static int extreme(lua_State *L, double sign) {
  const rvl_array *a = self(L);
  if (a->length == 0) return 0;
  size_t best = 0;
  for (size_t i = 1; i < a->length; i++) {
    int64_t x, y;
    double here = number_at(a, i), there = number_at(a, best);
    bool better = here * sign < there * sign || (isnan(there) && !isnan(here));
    if (here == there && a->dtype == RVL_INT64) {   /* large integers that are one double */
      memcpy(&x, (const int64_t *)a->data + i, sizeof x);
      memcpy(&y, (const int64_t *)a->data + best, sizeof y);
      better = sign > 0 ? x < y : x > y;
    }
    if (better) best = i;
  }
  rvl_array_push_element(L, a, best);
  lua_pushinteger(L, (lua_Integer)best + 1);
  return 2;
}

static int array_min(lua_State *L) { return extreme(L, 1); }

static int array_max(lua_State *L) { return extreme(L, -1); }

/* ---- as text ----------------------------------------------------------------------------------------- */

static void add_element(lua_State *L, luaL_Buffer *text, const rvl_array *a, size_t i) {
  char digits[40];
  switch (a->dtype) {
    case RVL_BOOL: luaL_addstring(text, ((const uint8_t *)a->data)[i] != 0 ? "true" : "false"); return;
    case RVL_FLOAT32: case RVL_FLOAT64: {
      double value = number_at(a, i);   /* a NaN has a sign that says nothing */
      snprintf(digits, sizeof digits, a->dtype == RVL_FLOAT32 ? "%.7g" : "%.14g", isnan(value) ? fabs(value) : value);
      break;
    }
    default:
      rvl_array_push_element(L, a, i);
      luaL_addvalue(text);
      return;
  }
  luaL_addstring(text, digits);
}

static void add_items(lua_State *L, luaL_Buffer *text, const rvl_array *a, size_t dim, size_t at, size_t size) {
  size_t rows = a->ndim > 0 ? dimension(a, dim) : a->length;
  bool inner = dim + 1 < a->ndim;
  size_t shown = inner ? SHOWN_ROWS : SHOWN;
  luaL_addchar(text, '{');
  if (dim == 4) {   /* deeper shapes are not for reading */
    luaL_addstring(text, "…");
    rows = 0;
  }
  for (size_t i = 0; i < rows && i < shown; i++) {
    if (i > 0) luaL_addstring(text, ", ");
    if (inner) add_items(L, text, a, dim + 1, at + i * (size / rows), size / rows);
    else add_element(L, text, a, at + i);
  }
  if (rows > shown) luaL_addstring(text, ", …");
  luaL_addchar(text, '}');
}

/* "int64[128]" */
static void add_type(lua_State *L, luaL_Buffer *text, const rvl_array *a) {
  luaL_addstring(text, rvl_dtype_name(a->dtype));
  luaL_addchar(text, '[');
  for (size_t i = 0; i < a->ndim; i++) {
    if (i > 0) luaL_addchar(text, ',');
    lua_pushinteger(L, (lua_Integer)dimension(a, i));
    luaL_addvalue(text);
  }
  luaL_addchar(text, ']');
}

/* "int64[128]{1, 2, 3, …}" */
static int array_tostring(lua_State *L) {
  const rvl_array *a = self(L);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  add_type(L, &text, a);
  add_items(L, &text, a, 0, 0, a->length);
  luaL_pushresult(&text);
  return 1;
}

/* ---- making one -------------------------------------------------------------------------------------- */

/* Pushes the metatable, and makes it unless it is there: whole or not at all, even when memory ends. */
static void push_metatable(lua_State *L) {
  static const luaL_Reg meta[] = {{"__newindex", array_newindex}, {"__len", array_length},  {"__pairs", array_pairs},
                                  {"__eq", array_eq},             {"__tostring", array_tostring},
                                  {NULL, NULL}};
  static const luaL_Reg methods[] = {{"slice", array_slice}, {"table", array_table}, {"bytes", array_bytes},
                                     {"sum", array_sum},     {"mean", array_mean},   {"min", array_min},
                                     {"max", array_max},     {NULL, NULL}};
  luaL_checkstack(L, 6, NULL);
  if (luaL_getmetatable(L, RVL_ARRAY) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_createtable(L, 0, 12);
  lua_pushliteral(L, RVL_ARRAY);
  lua_setfield(L, -2, "__name");
  lua_pushliteral(L, RVL_ARRAY);
  lua_setfield(L, -2, "__metatable");
  lua_pushvalue(L, -1);
  luaL_setfuncs(L, meta, 1);
  lua_pushvalue(L, -1);
  luaL_newlibtable(L, methods);
  lua_pushvalue(L, -3);
  luaL_setfuncs(L, methods, 1);
  lua_pushcclosure(L, array_index, 2);
  lua_setfield(L, -2, "__index");
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, RVL_ARRAY);
}

/* Header, shape (of all but vectors that own their elements), elements. */
static rvl_array *push_block(lua_State *L, rvl_dtype dtype, size_t length, size_t ndim, size_t room, int owners) {
  size_t shape = ndim == 1 || owners > 0 ? 0 : ndim * sizeof(size_t);
  push_metatable(L);
  if (room > PTRDIFF_MAX - sizeof(rvl_array) - shape) luaL_error(L, "not enough memory");
  rvl_array *a = lua_newuserdatauv(L, sizeof *a + shape + room, owners);
  *a = (rvl_array){.dtype = dtype, .length = length, .data = (char *)(a + 1) + shape, .ndim = ndim};
  if (shape > 0) a->shape = (size_t *)(a + 1);
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  return a;
}

rvl_array *rvl_array_push(lua_State *L, rvl_dtype dtype, size_t length) {
  size_t size = rvl_dtype_size(dtype);
  if (length > PTRDIFF_MAX / size) luaL_error(L, "not enough memory");
  return push_block(L, dtype, length, 1, length * size, 0);
}

rvl_array *rvl_array_push_shape(lua_State *L, rvl_dtype dtype, size_t ndim, const size_t *shape) {
  if (ndim == 1) return rvl_array_push(L, dtype, shape[0]);
  size_t length = 1;
  for (size_t i = 0; i < ndim; i++) length *= shape[i];
  if (length > PTRDIFF_MAX / rvl_dtype_size(dtype)) luaL_error(L, "not enough memory");
  rvl_array *a = push_block(L, dtype, length, ndim, length * rvl_dtype_size(dtype), 0);
  if (ndim > 0) {
    memcpy(a + 1, shape, ndim * sizeof *shape);
    a->columns = shape[0] > 0 ? length / shape[0] : 0;
  }
  return a;
}

static rvl_dtype check_dtype(lua_State *L, int index) {
  const char *name = luaL_checkstring(L, index);
  for (int i = 0; i < RVL_DTYPES; i++) if (strcmp(name, rvl_dtype_name((rvl_dtype)i)) == 0) return (rvl_dtype)i;
  rvl_raise(L, "argument", "bool, int8 to int64, uint8 to uint64, float32, float64", "there is no array of '%s'", name);
  return RVL_DTYPES;
}

/* convert(dtype, values, finite) → array; or nil and what is wrong: "[17] is nan" */
static int convert(lua_State *L) {
  rvl_dtype dtype = check_dtype(L, 1);
  luaL_checkany(L, 2);
  unsigned rules = lua_toboolean(L, 3) ? RVL_READ_FINITE : 0;
  lua_settop(L, 2);
  if (rvl_array_from(L, 2, dtype, rules)) return 1;
  lua_pushnil(L);
  lua_insert(L, -2);
  return 2;
}

static size_t check_count(lua_State *L, int index) {
  lua_Integer n = luaL_checkinteger(L, index);
  luaL_argcheck(L, n >= 0, index, "not below zero");
  return (size_t)n;
}

/* Copies the first of `count` elements over the others. */
static void repeat(char *out, size_t count, size_t size) {
  for (size_t done = 1; done < count; done *= 2)
    memcpy(out + done * size, out, (count - done < done ? count - done : done) * size);
}

/* fill(dtype, n, value = 0) */
static int fill(lua_State *L) {
  rvl_dtype dtype = check_dtype(L, 1);
  size_t n = check_count(L, 2), size = rvl_dtype_size(dtype);
  lua_settop(L, 3);
  rvl_array *a = rvl_array_push(L, dtype, n);
  if (n == 0) return 1;
  if (lua_isnil(L, 3)) {
    memset(a->data, 0, n * size);
    return 1;
  }
  lua_createtable(L, 1, 0);
  lua_pushvalue(L, 3);
  lua_rawseti(L, -2, 1);
  if (rvl_array_read(L, 5, 1, dtype, 0, a->data) != 0) {
    rvl_array_push_complaint(L, 5, 1, dtype, 0);
    return rvl_raise(L, "argument", NULL, "array.fill: the value %s", lua_tostring(L, -1));
  }
  repeat(a->data, n, size);
  lua_settop(L, 4);
  return 1;
}

/* reshape(a, columns) → a matrix with the same elements, in rows of so many */
static int reshape(lua_State *L) {
  const rvl_array *a = luaL_checkudata(L, 1, RVL_ARRAY);
  size_t columns = check_count(L, 2);
  if (columns == 0 || a->length % columns != 0)
    return rvl_raise(L, "argument", NULL, "%I elements do not fill rows of %I", (LUAI_UACINT)a->length,
                     (LUAI_UACINT)columns);
  rvl_array *matrix = rvl_array_push_shape(L, a->dtype, 2, (size_t[]){a->length / columns, columns});
  if (a->length > 0) memcpy(matrix->data, a->data, a->length * rvl_dtype_size(a->dtype));
  return 1;
}

/* from_bytes(dtype, bytes) */
static int from_bytes(lua_State *L) {
  rvl_dtype dtype = check_dtype(L, 1);
  size_t length, size = rvl_dtype_size(dtype);
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (length % size != 0)
    return rvl_raise(L, "argument", NULL, "%I bytes are no whole number of %s, which have %I each",
                     (LUAI_UACINT)length, rvl_dtype_name(dtype), (LUAI_UACINT)size);
  rvl_array *a = rvl_array_push(L, dtype, length / size);
  if (length > 0) memcpy(a->data, bytes, length);
  return 1;
}

/*
** join(dtype, value, count, value, count, …) → an array of all these: the first `count` elements of a list, or a number
** so many times. Or nil, which of them is wrong, and how: "[17] is nan". NaN and infinities are wrong.
*/
static int join(lua_State *L) {
  rvl_dtype dtype = check_dtype(L, 1);
  int top = lua_gettop(L);
  size_t size = rvl_dtype_size(dtype), length = 0, at = 0;
  for (int i = 2; i < top; i += 2) {
    size_t count = check_count(L, i + 1);
    if (count > PTRDIFF_MAX / 64 - length) return luaL_error(L, "not enough memory");
    length += count;
    if (lua_type(L, i) == LUA_TNUMBER) continue;
    rvl_array_flatten(L, i);
    const rvl_array *source = rvl_array_test(L, i);
    if (source == NULL) luaL_checktype(L, i, LUA_TTABLE);
    luaL_argcheck(L, source == NULL || (source->ndim == 1 && source->length >= count), i, "another number of values");
  }
  rvl_array *a = rvl_array_push(L, dtype, length);
  for (int i = 2; i < top; i += 2) {
    size_t count = (size_t)lua_tointeger(L, i + 1), bad;
    char *out = (char *)a->data + at * size;
    at += count;
    bool one = lua_type(L, i) == LUA_TNUMBER;
    if (one) {
      if (count == 0) continue;
      lua_createtable(L, 1, 0);
      lua_pushvalue(L, i);
      lua_rawseti(L, -2, 1);
      lua_replace(L, i);
    }
    bad = rvl_array_read(L, i, one ? 1 : count, dtype, RVL_READ_FINITE, out);
    if (bad != 0) {
      lua_pushnil(L);
      lua_pushinteger(L, i / 2);
      rvl_array_push_complaint(L, i, bad, dtype, RVL_READ_FINITE);
      if (one) lua_pushfstring(L, " %s", lua_tostring(L, -1));
      else lua_pushfstring(L, "[%I] %s", (LUAI_UACINT)bad, lua_tostring(L, -1));
      lua_remove(L, -2);
      return 3;
    }
    if (one) repeat(out, count, size);
  }
  return 1;
}

/* ---- joining ----------------------------------------------------------------------------------------- */

/* The type that can hold the elements of both; RVL_DTYPES: there is none. */
static rvl_dtype common_dtype(rvl_dtype a, rvl_dtype b) {
  if (a == b) return a;
  if (a == RVL_BOOL || b == RVL_BOOL) return RVL_DTYPES;
  if (rvl_dtype_is_float(a) || rvl_dtype_is_float(b)) return RVL_FLOAT64;
  if (is_unsigned(a) == is_unsigned(b)) return a > b ? a : b;
  return RVL_INT64;
}

/* The type of what the arguments make together. */
static rvl_dtype dtype_of_arguments(lua_State *L, int count) {
  rvl_dtype dtype = RVL_DTYPES;
  for (int i = 1; i <= count; i++) {
    const rvl_array *a = rvl_array_test(L, i);
    if (a == NULL && !lua_istable(L, i))
      rvl_raise(L, "argument", "{value} joins a single value", "array.concat: argument %d must be an array or a list, "
                "got %s", i, luaL_typename(L, i));
    if (a == NULL) continue;
    rvl_dtype both = dtype == RVL_DTYPES ? a->dtype : common_dtype(dtype, a->dtype);
    if (both == RVL_DTYPES)
      rvl_raise(L, "argument", "array.int8(flags) makes 0 and 1 of false and true", "array.concat: argument %d is an "
                "array of %s, which cannot be joined with one of %s", i, rvl_dtype_name(a->dtype), rvl_dtype_name(dtype));
    dtype = both;
  }
  if (dtype == RVL_DTYPES)
    rvl_raise(L, "argument", "array.int64{…} makes an array of a list", "array.concat: one of the arguments must be an "
              "array, which says of what type the elements are");
  return dtype;
}

/* What is wrong with an argument is on top: "[17] is nan". */
static int raise_element(lua_State *L, int index) {
  const char *wrong = lua_tostring(L, -1);
  return rvl_raise(L, "argument", "array.float64(a) and its like make an array of another type first",
                   "array.concat: argument %d%s%s", index, wrong[0] == '[' ? "'s " : "", wrong);
}

/* Pushes where an element is: "[2][3]". */
static void push_place(lua_State *L, const rvl_array *a, size_t at) {
  size_t part = a->length;
  lua_pushliteral(L, "");
  for (size_t k = 0; k == 0 || k < a->ndim; k++) {
    part /= dimension(a, k);
    lua_pushfstring(L, "%s[%I]", lua_tostring(L, -1), (LUAI_UACINT)(at / part + 1));
    lua_remove(L, -2);
    at %= part;
  }
}

/* Vectors go together, and so do arrays whose rows have one shape; a single element is a vector here. */
static bool goes_with(const rvl_array *a, const rvl_array *b) {
  if (a->ndim <= 1 || b->ndim <= 1) return a->ndim <= 1 && b->ndim <= 1;
  bool same = a->ndim == b->ndim;
  for (size_t k = 1; same && k < a->ndim; k++) same = a->shape[k] == b->shape[k];
  return same;
}

static const char *push_type(lua_State *L, const rvl_array *a) {
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  add_type(L, &text, a);
  luaL_pushresult(&text);
  return lua_tostring(L, -1);
}

/* Pushes an array for all that the arguments have, which are arrays now. */
static rvl_array *push_sum(lua_State *L, int count, rvl_dtype dtype) {
  const rvl_array *like = NULL;
  size_t length = 0, rows = 0, most = PTRDIFF_MAX / rvl_dtype_size(dtype);
  int first = 0;
  for (int i = 1; i <= count; i++) {
    const rvl_array *a = rvl_array_test(L, i);
    if (a->ndim <= 1 && a->length == 0) continue;   /* an empty list may be one of rows, too */
    if (like == NULL) {
      like = a;
      first = i;
    } else if (!goes_with(like, a)) {
      const char *one = push_type(L, a), *other = push_type(L, like);
      rvl_raise(L, "argument", "rows have one length; array.concat(matrix, {row}) adds a row", "array.concat: argument "
                "%d, %s, does not go with argument %d, %s", i, one, first, other);
    }
    if (a->length > most - length || rvl_array_rows(a) > PTRDIFF_MAX - rows) luaL_error(L, "not enough memory");
    length += a->length;
    rows += rvl_array_rows(a);
  }
  if (like == NULL || like->ndim <= 1) return rvl_array_push(L, dtype, length);
  rvl_array *sum = push_block(L, dtype, length, like->ndim, length * rvl_dtype_size(dtype), 0);
  size_t *shape = (size_t *)(sum + 1);
  shape[0] = rows;
  for (size_t k = 1; k < like->ndim; k++) shape[k] = like->shape[k];
  sum->columns = rows > 0 ? length / rows : 0;
  return sum;
}

/* concat(first, …) → one array of all their elements (rows) */
static int concat(lua_State *L) {
  int count = lua_gettop(L);
  rvl_dtype dtype = dtype_of_arguments(L, count);
  for (int i = 1; i <= count; i++) {
    if (rvl_array_test(L, i) != NULL) continue;
    if (!rvl_array_from(L, i, dtype, 0)) return raise_element(L, i);
    lua_replace(L, i);
  }
  rvl_array *sum = push_sum(L, count, dtype);
  char *out = sum->data;
  for (int i = 1; i <= count; i++) {
    const rvl_array *a = rvl_array_test(L, i);
    size_t bad = rvl_array_convert(a, 0, a->length, dtype, 0, out);
    if (bad != 0) {
      push_place(L, a, bad - 1);
      rvl_array_push_complaint(L, i, bad, dtype, 0);
      lua_pushfstring(L, "%s %s", lua_tostring(L, -2), lua_tostring(L, -1));
      return raise_element(L, i);
    }
    out += a->length * rvl_dtype_size(dtype);
  }
  return 1;
}

static int is_array(lua_State *L) {
  lua_pushboolean(L, rvl_array_test(L, 1) != NULL);
  return 1;
}

int rvl_open_array(lua_State *L) {
  static const luaL_Reg functions[] = {{"convert", convert},       {"fill", fill},       {"reshape", reshape},
                                       {"from_bytes", from_bytes}, {"join", join},       {"concat", concat},
                                       {"is", is_array},           {NULL, NULL}};
  push_metatable(L);   /* so that it is there whatever memory does later */
  luaL_newlib(L, functions);
  return 1;
}
