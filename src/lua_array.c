/* riverlua.core.array: compact arrays of numbers that behave like tables. */
#include "array.h"

#include <lauxlib.h>

static const struct {
  const char *name;
  size_t size;
} dtypes[RVL_DTYPES] = {
    [RVL_BOOL] = {"bool", 1},       [RVL_INT8] = {"int8", 1},     [RVL_INT16] = {"int16", 2},
    [RVL_INT32] = {"int32", 4},     [RVL_INT64] = {"int64", 8},   [RVL_UINT8] = {"uint8", 1},
    [RVL_UINT16] = {"uint16", 2},   [RVL_UINT32] = {"uint32", 4}, [RVL_UINT64] = {"uint64", 8},
    [RVL_FLOAT32] = {"float32", 4}, [RVL_FLOAT64] = {"float64", 8},
};

size_t rvl_dtype_size(rvl_dtype dtype) { return dtypes[dtype].size; }

const char *rvl_dtype_name(rvl_dtype dtype) { return dtypes[dtype].name; }

rvl_array *rvl_array_test(lua_State *L, int index) { return luaL_testudata(L, index, RVL_ARRAY); }

/* ---- access ------------------------------------------------------------------------------------------ */

static void push_element(lua_State *L, const rvl_array *a, size_t i) {
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
    default: lua_pushinteger(L, ((const int64_t *)a->data)[i]); break;
  }
}

static int array_index(lua_State *L) {
  const rvl_array *a = luaL_checkudata(L, 1, RVL_ARRAY);
  if (!lua_isinteger(L, 2)) return 0;
  size_t i = (size_t)lua_tointeger(L, 2) - 1;
  if (a->columns != 0 || i >= a->length) return 0;
  push_element(L, a, i);
  return 1;
}

static int array_length(lua_State *L) {
  const rvl_array *a = luaL_checkudata(L, 1, RVL_ARRAY);
  lua_pushinteger(L, (lua_Integer)(a->columns != 0 ? a->length / a->columns : a->length));
  return 1;
}

/* ---- making one -------------------------------------------------------------------------------------- */

static void push_metatable(lua_State *L) {
  static const luaL_Reg meta[] = {{"__index", array_index}, {"__len", array_length}, {NULL, NULL}};
  if (luaL_newmetatable(L, RVL_ARRAY)) luaL_setfuncs(L, meta, 0);
}

rvl_array *rvl_array_push(lua_State *L, rvl_dtype dtype, size_t length) {
  size_t size = dtypes[dtype].size;
  luaL_checkstack(L, 3, NULL);
  if (length > (SIZE_MAX / 2 - sizeof(rvl_array)) / size) luaL_error(L, "not enough memory");
  rvl_array *a = lua_newuserdatauv(L, sizeof *a + length * size, 0);
  *a = (rvl_array){.dtype = dtype, .length = length, .data = a + 1};
  push_metatable(L);
  lua_setmetatable(L, -2);
  return a;
}
