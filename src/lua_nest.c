/* riverlua.core.nest: Lua values to NEST and back (nest.c), for lua/training/nest.lua and datum.lua. */
#include "lua_nest.h"
#include "runtime.h"

#include <string.h>

#define SCRATCH "riverlua.nest.Scratch"

enum { KEPT = 1 << 20 };   /* bytes of a block that waits for the next call */

/* ---- the block that is written into ------------------------------------------------------------------- */

typedef struct scratch {
  uint8_t *data;
  size_t room;
} scratch;

static void resize(lua_State *L, scratch *s, size_t room) {
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  if (s->data != NULL) allocate(context, s->data, s->room, 0);   /* the old bytes need not move */
  s->data = NULL;
  s->room = 0;
  if (room == 0) return;
  uint8_t *data = allocate(context, NULL, 0, room);
  if (data == NULL) {   /* Lua itself would do the same before it gave up */
    lua_gc(L, LUA_GCCOLLECT);
    data = s->data == NULL ? allocate(context, NULL, 0, room) : NULL;
  }
  if (data == NULL) {
    lua_pushliteral(L, "not enough memory");
    lua_error(L);
  }
  s->data = data;
  s->room = room;
}

static int free_scratch(lua_State *L) {
  scratch *s = luaL_checkudata(L, 1, SCRATCH);
  resize(L, s, 0);
  return 0;
}

bool rvl_nest_make(lua_State *L, rvl_nest_put *put, void *context) {
  scratch *s = lua_touserdata(L, lua_upvalueindex(1));
  rvl_nest_writer w = {0};
  rvl_nest_begin(&w);
  if (!put(L, &w, context)) return false;
  if (w.failed) rvl_raise(L, "limit", NULL, "nest: the value is larger than the format can say");
  size_t size = w.at;
  if (size > s->room) resize(L, s, size);
  /* From here to the copy nothing runs that could use the block: no metamethod, and no finalizer, because nothing is
   * allocated with a step of the collector. */
  w = (rvl_nest_writer){.data = s->data, .room = size};
  rvl_nest_begin(&w);
  if (!put(L, &w, context)) return false;
  if (w.failed || w.at != size) rvl_raise(L, "argument", NULL, "nest: the value has changed while it was encoded");
  lua_pushlstring(L, (const char *)s->data, size);
  if (s->room > KEPT) resize(L, s, 0);
  return true;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

/* A vector of one element, as the official codec writes them. */
static void put_scalar(rvl_nest_writer *w, rvl_dtype dtype, const void *value) {
  size_t size = rvl_dtype_size(dtype), one = 1;
  void *to = rvl_nest_put_array(w, dtype, 1, &one, size);
  if (to != NULL) memcpy(to, value, size);
  rvl_nest_seal(w);
}

static void put_array(rvl_nest_writer *w, const rvl_array *a) {
  size_t size = rvl_dtype_size(a->dtype);
  const size_t *shape = a->shape != NULL ? a->shape : &a->length;
  void *to = rvl_nest_put_array(w, a->dtype, a->ndim, shape, size);
  if (to != NULL && a->length > 0) memcpy(to, a->data, a->length * size);
  rvl_nest_seal(w);
}

static void put_dict(lua_State *L, rvl_nest_writer *w, int index, int depth) {
  int keys = lua_gettop(L);
  lua_Unsigned count = lua_rawlen(L, keys);
  rvl_nest_open_dict(w, (size_t)count);
  for (lua_Unsigned i = 1; i <= count; i++) {
    if (lua_rawgeti(L, keys, (lua_Integer)i) != LUA_TSTRING)
      rvl_raise(L, "argument", NULL, "nest: a key of a dict is a %s", luaL_typename(L, -1));
    size_t length;
    const char *key = lua_tolstring(L, -1, &length);
    if (length > RVL_NEST_KEY) rvl_raise(L, "limit", NULL, "nest: a key has more than 65535 bytes");
    rvl_nest_put_key(w, key, length);
    if (w->failed) rvl_raise(L, "argument", NULL, "nest: a key is not UTF-8, or all is too large");
    lua_rawget(L, index);
    rvl_nest_put_value(L, w, keys + 1, depth + 1);
    lua_settop(L, keys);
  }
}

static void put_list(lua_State *L, rvl_nest_writer *w, int index, int depth) {
  lua_Unsigned count = lua_rawlen(L, index);
  rvl_nest_open_list(w, (size_t)count);
  for (lua_Unsigned i = 1; i <= count; i++) {
    lua_rawgeti(L, index, (lua_Integer)i);
    rvl_nest_put_value(L, w, lua_gettop(L), depth + 1);
    lua_pop(L, 1);
  }
}

static void put_table(lua_State *L, rvl_nest_writer *w, int index, int depth) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 8, "nested too deeply");
  if (depth >= RVL_NEST_DEPTH)
    rvl_raise(L, "argument", NULL, "nest: nested deeper than %d levels: a cycle, or too deep", RVL_NEST_DEPTH);
  bool dict = false;
  if (lua_getmetatable(L, index)) {
    lua_pushvalue(L, lua_upvalueindex(2));
    dict = lua_rawget(L, -2) == LUA_TTABLE;
  }
  if (dict) put_dict(L, w, index, depth);
  else put_list(L, w, index, depth);
  lua_settop(L, top);
}

void rvl_nest_put_value(lua_State *L, rvl_nest_writer *w, int index, int depth) {
  switch (lua_type(L, index)) {
    case LUA_TSTRING: {
      size_t length;
      const char *text = lua_tolstring(L, index, &length);
      rvl_nest_put_string(w, text, length);
      if (w->failed)
        rvl_raise(L, "argument", "riverlua.array.from_bytes(\"uint8\", s) is how bytes are sent",
                  "nest: a string is not UTF-8, or too long");
      return;
    }
    case LUA_TNUMBER:
      if (lua_isinteger(L, index)) {
        int64_t integer = lua_tointeger(L, index);
        put_scalar(w, RVL_INT64, &integer);
      } else {
        double number = lua_tonumber(L, index);
        put_scalar(w, RVL_FLOAT64, &number);
      }
      return;
    case LUA_TBOOLEAN: {
      uint8_t flag = lua_toboolean(L, index) != 0;
      put_scalar(w, RVL_BOOL, &flag);
      return;
    }
    case LUA_TTABLE: put_table(L, w, index, depth); return;
    default: {
      const rvl_array *a = rvl_array_test(L, index);
      if (a == NULL) rvl_raise(L, "argument", NULL, "nest: a %s cannot be encoded", luaL_typename(L, index));
      else put_array(w, a);
    }
  }
}

static bool put_one(lua_State *L, rvl_nest_writer *w, void *context) {
  (void)context;
  rvl_nest_put_value(L, w, 1, 0);
  return true;
}

/* encode(value) → bytes */
static int encode(lua_State *L) {
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  rvl_nest_make(L, put_one, NULL);
  return 1;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static int damaged(lua_State *L, const rvl_nest_reader *r) {
  return rvl_raise(L, "protocol", NULL, "nest: the data are damaged at byte %I of %I: %s", (LUAI_UACINT)r->at,
                   (LUAI_UACINT)r->length, r->error);
}

static void push_value(lua_State *L, rvl_nest_reader *r, int depth);

static void push_array(lua_State *L, const rvl_nest_value *v) {
  size_t shape[RVL_NEST_DIMS + 1];
  for (size_t i = 0; i < v->ndim; i++) shape[i] = rvl_nest_dim(v, i);
  const rvl_array *a = rvl_array_push_shape(L, (rvl_dtype)v->dtype, v->ndim, shape);
  if (v->size > 0) memcpy(a->data, v->raw, v->size);
}

/* make(values, keys), at stack index 2, turns both into a dict. */
static void push_dict(lua_State *L, rvl_nest_reader *r, size_t count, int depth) {
  lua_createtable(L, 0, count < 1024 ? (int)count : 0);
  int values = lua_gettop(L), keys = values + 1;
  lua_newtable(L);
  for (size_t i = 0; i < count; i++) {
    const char *key;
    size_t length;
    if (!rvl_nest_read_key(r, &key, &length)) damaged(L, r);
    lua_pushlstring(L, key, length);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, values) == LUA_TNIL) {   /* of a key that comes twice the first place and the last value count */
      lua_pushvalue(L, keys + 1);
      lua_rawseti(L, keys, (lua_Integer)lua_rawlen(L, keys) + 1);
    }
    lua_pop(L, 1);
    push_value(L, r, depth + 1);
    lua_rawset(L, values);
  }
  lua_pushvalue(L, 2);
  lua_insert(L, values);
  lua_call(L, 2, 1);
}

static void push_value(lua_State *L, rvl_nest_reader *r, int depth) {
  rvl_nest_value v;
  luaL_checkstack(L, 10, "nested too deeply");
  if (!rvl_nest_read(r, &v)) damaged(L, r);
  if (v.kind == RVL_NEST_ARRAY) {
    push_array(L, &v);
  } else if (v.kind == RVL_NEST_STRING) {
    lua_pushlstring(L, (const char *)v.raw, v.size);
  } else if (depth >= RVL_NEST_DEPTH) {
    r->error = "it is nested too deeply";
    damaged(L, r);
  } else if (v.kind == RVL_NEST_DICT) {
    push_dict(L, r, v.count, depth);
  } else {
    lua_createtable(L, v.count < INT32_MAX ? (int)v.count : 0, 0);
    for (size_t i = 0; i < v.count; i++) {
      push_value(L, r, depth + 1);
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
  }
}

/* decode(bytes, make) → value */
static int decode(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  rvl_nest_reader r;
  if (!rvl_nest_open(&r, bytes, length)) return damaged(L, &r);
  push_value(L, &r, 0);
  if (!rvl_nest_end(&r)) return damaged(L, &r);
  return 1;
}

int rvl_open_nest(lua_State *L) {
  static const luaL_Reg functions[] = {{"encode", encode}, {"decode", decode}, {"columns", rvl_datum_columns},
                                       {"size", rvl_datum_size}, {"block", rvl_datum_block}, {NULL, NULL}};
  rvl_open_block(L);   /* blocks are made here */
  lua_pop(L, 1);
  luaL_newlibtable(L, functions);
  scratch *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (scratch){0};
  luaL_newmetatable(L, SCRATCH);
  lua_pushcfunction(L, free_scratch);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_pushliteral(L, "__nest");
  luaL_setfuncs(L, functions, 2);
  rvl_datum_rules(L);
  return 1;
}
