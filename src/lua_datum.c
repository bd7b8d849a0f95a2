/*
** Part of riverlua.core.nest: the columns of a datum. Each has a rule that says of which type and shape it is; a Lua
** list or an array is converted by it, straight into the bytes that are sent, and whatever would be cut off, rounded or
** out of step is refused with a complaint that says where.
*/
#include "lua_nest.h"
#include "block.h"
#include "runtime.h"

#include <lauxlib.h>
#include <string.h>

/* A rule is a type, or one of these, and flags. */
enum {
  BY_VALUE = RVL_DTYPES,   /* integers are int64, with a float among them float32; arrays stay what they are */
  ANY_VALUE,               /* whatever NEST can hold, as it is */
  TEXT,                    /* the bytes of a string, or an array of uint8 */
  ONES,                    /* ones, as many as there are tokens */
  TYPE_MASK = 15,
  TOKENS = 16,             /* as many (rows) as there are tokens */
  MATRIX = 32,             /* may be a matrix */
  ONLY_MATRIX = 64,
  NATURAL = 128,           /* nothing below zero */
  KEEP = 256               /* arrays of int32, int64 and float32 stay what they are */
};

typedef struct column {
  lua_State *L;
  rvl_nest_writer *w;
  unsigned rule;
  size_t tokens;
  int value;               /* stack index */
  const rvl_array *array;  /* NULL: a table */
  rvl_dtype dtype;
  size_t ndim, dims[2];    /* of a table */
} column;

static bool complain(column *c, const char *what) {
  lua_pushstring(c->L, what);
  return false;
}

/* ---- types -------------------------------------------------------------------------------------------- */

static bool has_float(lua_State *L, int list, size_t count) {
  bool has = false;
  for (size_t i = 1; i <= count && !has; i++) {
    has = lua_rawgeti(L, list, (lua_Integer)i) == LUA_TNUMBER && !lua_isinteger(L, -1);
    lua_pop(L, 1);
  }
  return has;
}

static rvl_dtype dtype_by_value(const column *c) {
  lua_State *L = c->L;
  bool floats = false;
  if (c->ndim == 1) {
    floats = has_float(L, c->value, c->dims[0]);
  } else {
    for (size_t i = 1; i <= c->dims[0] && !floats; i++) {
      lua_rawgeti(L, c->value, (lua_Integer)i);
      const rvl_array *row = rvl_array_test(L, -1);
      if (row != NULL) floats = rvl_dtype_is_float(row->dtype);
      else if (lua_istable(L, -1)) floats = has_float(L, lua_gettop(L), c->dims[1]);
      lua_pop(L, 1);
    }
  }
  return floats ? RVL_FLOAT32 : RVL_INT64;
}

static void choose_dtype(column *c) {
  unsigned type = c->rule & TYPE_MASK;
  if (type != BY_VALUE) c->dtype = (rvl_dtype)type;
  else if (c->array != NULL) c->dtype = c->array->dtype;
  else c->dtype = dtype_by_value(c);
  if ((c->rule & KEEP) && c->dtype != RVL_INT32 && c->dtype != RVL_INT64)
    c->dtype = rvl_dtype_is_float(c->dtype) ? RVL_FLOAT32 : RVL_INT64;
}

/* ---- shapes ------------------------------------------------------------------------------------------- */

static size_t length_of(lua_State *L, int index) {
  const rvl_array *a = rvl_array_test(L, index);
  return a != NULL ? rvl_array_rows(a) : (size_t)lua_rawlen(L, index);
}

static bool is_list(lua_State *L, int index) { return lua_istable(L, index) || rvl_array_test(L, index) != NULL; }

/* Finds out the shape and whether the rule allows it. */
static bool measure(column *c) {
  lua_State *L = c->L;
  size_t rows = length_of(L, c->value), ndim = 1, columns = 1;
  if (c->array != NULL) {
    ndim = c->array->ndim;
    if (ndim == 2) columns = c->array->columns;
  } else {
    lua_rawgeti(L, c->value, 1);
    if (is_list(L, -1)) {
      ndim = 2;
      columns = length_of(L, lua_gettop(L));
    }
    lua_pop(L, 1);
  }
  bool any_shape = (c->rule & TYPE_MASK) == BY_VALUE && !(c->rule & TOKENS);
  if (!any_shape || c->array == NULL) {
    if (rows == 0 || columns == 0) return complain(c, rows == 0 ? " is empty" : "[1] is empty");
    if (ndim == 2 && !any_shape && !(c->rule & (MATRIX | ONLY_MATRIX)))
      return complain(c, " is a list of lists, where one number for each token is wanted");
    if (ndim != 2 && (c->rule & ONLY_MATRIX)) return complain(c, " is not a list of lists, one for each token");
    if (ndim == 0 || ndim > 2) return complain(c, " has a shape that no column has");
  }
  if ((c->rule & TOKENS) && rows != c->tokens) {
    lua_pushfstring(L, " has %I values for %I tokens", (LUAI_UACINT)rows, (LUAI_UACINT)c->tokens);
    return false;
  }
  c->ndim = ndim;
  c->dims[0] = rows;
  c->dims[1] = columns;
  return true;
}

/* ---- values ------------------------------------------------------------------------------------------- */

static unsigned reading_rules(const column *c) {
  unsigned rules = RVL_READ_FINITE;
  if (c->rule & NATURAL) rules |= RVL_READ_NATURAL;
  if (!rvl_dtype_is_float(c->dtype)) rules |= RVL_READ_BOOLEANS;
  return rules;
}

/* The complaint about element `bad` of the list at the index; `row`, from 1, of a matrix or 0. */
static bool refuse(column *c, int list, size_t row, size_t bad) {
  lua_State *L = c->L;
  rvl_array_push_complaint(L, list, bad, c->dtype, reading_rules(c));
  const char *what = lua_tostring(L, -1);
  if (row > 0) lua_pushfstring(L, "[%I][%I] %s", (LUAI_UACINT)row, (LUAI_UACINT)bad, what);
  else lua_pushfstring(L, "[%I] %s", (LUAI_UACINT)bad, what);
  return false;
}

static bool put_rows(column *c, char *out) {
  lua_State *L = c->L;
  size_t columns = c->dims[1], size = columns * rvl_dtype_size(c->dtype);
  int row = lua_gettop(L) + 1;
  for (size_t i = 0; i < c->dims[0]; i++, out += size) {
    lua_rawgeti(L, c->value, (lua_Integer)i + 1);
    const rvl_array *array = rvl_array_test(L, row);
    if (array == NULL && !lua_istable(L, row)) {
      lua_pushfstring(L, "[%I] is a %s, but [1] is a list", (LUAI_UACINT)i + 1, luaL_typename(L, row));
      return false;
    }
    if (length_of(L, row) != columns || (array != NULL && array->ndim != 1)) {
      lua_pushfstring(L, "[%I] has %I values, but [1] has %I", (LUAI_UACINT)i + 1, (LUAI_UACINT)length_of(L, row),
                      (LUAI_UACINT)columns);
      return false;
    }
    size_t bad = rvl_array_read(L, row, columns, c->dtype, reading_rules(c), out);
    if (bad != 0) return refuse(c, row, i + 1, bad);
    lua_settop(L, row - 1);
  }
  return true;
}

static bool put_elements(column *c, void *out) {
  if (c->array != NULL) {
    size_t bad = rvl_array_convert(c->array, 0, c->array->length, c->dtype, reading_rules(c), out);
    if (bad == 0) return true;
    size_t columns = c->array->ndim == 2 ? c->array->columns : 0;
    refuse(c, c->value, 0, bad);
    if (columns > 0) {
      rvl_array_push_complaint(c->L, c->value, bad, c->dtype, reading_rules(c));
      lua_pushfstring(c->L, "[%I][%I] %s", (LUAI_UACINT)((bad - 1) / columns + 1),
                      (LUAI_UACINT)((bad - 1) % columns + 1), lua_tostring(c->L, -1));
    }
    return false;
  }
  if (c->ndim == 2) return put_rows(c, out);
  size_t bad = rvl_array_read(c->L, c->value, c->dims[0], c->dtype, reading_rules(c), out);
  return bad == 0 || refuse(c, c->value, 0, bad);
}

static bool put_list(column *c) {
  if (!measure(c)) return false;
  choose_dtype(c);
  const size_t *dims = c->dims;
  if (c->array != NULL && c->array->shape != NULL) dims = c->array->shape;
  void *out = rvl_nest_put_array(c->w, c->dtype, c->ndim, dims, rvl_dtype_size(c->dtype));
  if (out != NULL && !put_elements(c, out)) return false;
  rvl_nest_seal(c->w);
  return true;
}

static bool put_text(column *c) {
  size_t length;
  if (lua_type(c->L, c->value) != LUA_TSTRING) {
    if (c->array == NULL || c->array->dtype != RVL_UINT8) return complain(c, " is not a string");
    if (c->array->length == 0) return complain(c, " is empty");
    rvl_nest_put_value(c->L, c->w, c->value, 0);
    return true;
  }
  const char *text = lua_tolstring(c->L, c->value, &length);
  if (length == 0) return complain(c, " is empty");
  void *out = rvl_nest_put_array(c->w, RVL_UINT8, 1, &length, 1);
  if (out != NULL) memcpy(out, text, length);
  rvl_nest_seal(c->w);
  return true;
}

static void put_ones(column *c) {
  const int64_t one = 1;
  char *out = rvl_nest_put_array(c->w, RVL_INT64, 1, &c->tokens, sizeof one);
  for (size_t i = 0; out != NULL && i < c->tokens; i++) memcpy(out + i * sizeof one, &one, sizeof one);
  rvl_nest_seal(c->w);
}

static bool put_column(column *c) {
  switch (c->rule & TYPE_MASK) {
    case ANY_VALUE: rvl_nest_put_value(c->L, c->w, c->value, 0); return true;
    case TEXT: return put_text(c);
    case ONES: put_ones(c); return true;
    case BY_VALUE:
      if (lua_type(c->L, c->value) != LUA_TNUMBER && !lua_isboolean(c->L, c->value)) break;
      rvl_nest_put_value(c->L, c->w, c->value, 0);
      return true;
  }
  if (is_list(c->L, c->value)) return put_list(c);
  lua_pushfstring(c->L, " is a %s, not a list of numbers", luaL_typename(c->L, c->value));
  return false;
}

/* ---- the datum ---------------------------------------------------------------------------------------- */

typedef struct datum {
  int list;                /* stack index of key, value, rule, key, value, rule, … */
  size_t tokens, entries;
  size_t bad;              /* the entry that is refused, from 1 */
} datum;

static bool put_datum(lua_State *L, rvl_nest_writer *w, void *context) {
  datum *d = context;
  rvl_nest_open_dict(w, d->entries);
  int top = lua_gettop(L);
  for (size_t i = 0; i < d->entries; i++) {
    for (int k = 1; k <= 3; k++) lua_rawgeti(L, d->list, (lua_Integer)(3 * i) + k);
    size_t length;
    const char *key = luaL_checklstring(L, top + 1, &length);
    column c = {.L = L, .w = w, .tokens = d->tokens, .value = top + 2};
    c.rule = (unsigned)luaL_checkinteger(L, top + 3);
    c.array = rvl_array_test(L, top + 2);
    d->bad = i + 1;
    rvl_nest_put_key(w, key, length);
    if (length > RVL_NEST_KEY || w->failed) return complain(&c, ": the name is not UTF-8, or too long");
    if (!put_column(&c)) return false;
    lua_settop(L, top);
  }
  return true;
}

static datum check_datum(lua_State *L, int list, int tokens) {
  luaL_checktype(L, list, LUA_TTABLE);
  lua_Integer count = luaL_checkinteger(L, tokens);
  luaL_argcheck(L, count >= 0, tokens, "not below zero");
  return (datum){.list = list, .tokens = (size_t)count, .entries = (size_t)lua_rawlen(L, list) / 3};
}

/* Metamethods are called now, while nothing has begun. */
static void flatten(lua_State *L, const datum *d) {
  int top = lua_gettop(L);
  for (size_t i = 0; i < d->entries; i++) {
    lua_rawgeti(L, d->list, (lua_Integer)(3 * i) + 3);
    bool any = (lua_tointeger(L, -1) & TYPE_MASK) == ANY_VALUE;
    if (lua_rawgeti(L, d->list, (lua_Integer)(3 * i) + 2) == LUA_TTABLE && !any) {
      rvl_array_flatten(L, -1);
      lua_rawseti(L, d->list, (lua_Integer)(3 * i) + 2);
    }
    lua_settop(L, top);
  }
}

/* The complaint is on top. */
static int push_refusal(lua_State *L, const datum *d) {
  lua_pushnil(L);
  lua_pushinteger(L, (lua_Integer)d->bad);
  lua_pushvalue(L, -3);
  return 3;
}

int rvl_datum_columns(lua_State *L) {
  datum d = check_datum(L, 1, 2);
  lua_settop(L, 2);
  flatten(L, &d);
  return rvl_nest_make(L, put_datum, &d) ? 1 : push_refusal(L, &d);
}

/* ---- many datums in one block -------------------------------------------------------------------------- */

/* A datum in a message is two fields with this tag, one in the other. */
enum { FIELD_1 = 0x0a };

static size_t size_of_varint(size_t value) {
  size_t n = 1;
  for (; value >= 0x80; value >>= 7) n++;
  return n;
}

static size_t size_of_message(size_t size) { return 1 + size_of_varint(size) + size; }

static uint8_t *write_head(uint8_t *out, size_t size) {
  *out++ = FIELD_1;
  for (; size >= 0x80; size >>= 7) *out++ = (uint8_t)(size | 0x80);
  *out++ = (uint8_t)size;
  return out;
}

int rvl_datum_size(lua_State *L) {
  datum d = check_datum(L, 1, 2);
  rvl_nest_writer w = {0};
  lua_settop(L, 2);
  flatten(L, &d);
  rvl_nest_begin(&w);
  if (!put_datum(L, &w, &d)) return push_refusal(L, &d);
  if (w.failed) rvl_raise(L, "limit", NULL, "nest: the value is larger than the format can say");
  lua_pushinteger(L, (lua_Integer)w.at);
  return 1;
}

/* The datum from the list of entries, tokens and size at these places of the table at stack index 1. */
static datum datum_at(lua_State *L, size_t i, size_t *size) {
  lua_settop(L, 2);
  for (int k = 1; k <= 3; k++) lua_rawgeti(L, 1, (lua_Integer)(3 * i) + k);
  lua_Integer told = luaL_checkinteger(L, 5);
  luaL_argcheck(L, told >= 0 && told < PTRDIFF_MAX / 4, 1, "no sizes");
  *size = (size_t)told;
  return check_datum(L, 3, 4);
}

int rvl_datum_block(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  size_t count = (size_t)lua_rawlen(L, 1) / 3, whole = 0, size;
  lua_settop(L, 1);
  for (size_t i = 0; i < count; i++) {
    datum_at(L, i, &size);
    whole += size_of_message(size_of_message(size));
    luaL_argcheck(L, whole < PTRDIFF_MAX / 4, 1, "too large");
  }
  lua_settop(L, 1);
  rvl_block *block = rvl_block_push(L, whole);
  uint8_t *out = (uint8_t *)block->data + block->body;
  for (size_t i = 0; i < count; i++) {   /* as in rvl_nest_make: nothing runs that could reach the block or a list */
    datum d = datum_at(L, i, &size);
    out = write_head(write_head(out, size_of_message(size)), size);
    rvl_nest_writer w = {.data = out, .room = size};
    rvl_nest_begin(&w);
    if (!put_datum(L, &w, &d)) {
      push_refusal(L, &d);
      lua_pushinteger(L, (lua_Integer)i + 1);
      return 4;
    }
    if (w.failed || w.at != size) rvl_raise(L, "argument", NULL, "nest: the value has changed while it was encoded");
    out += size;
  }
  lua_settop(L, 2);
  return 1;
}

void rvl_datum_rules(lua_State *L) {
  static const struct {
    const char *name;
    int rule;
  } rules[] = {{"int32", RVL_INT32}, {"int64", RVL_INT64},        {"float32", RVL_FLOAT32}, {"by_value", BY_VALUE},
               {"any", ANY_VALUE},   {"text", TEXT},              {"ones", ONES},           {"tokens", TOKENS},
               {"matrix", MATRIX},   {"only_matrix", ONLY_MATRIX}, {"natural", NATURAL},     {"keep", KEEP}};
  lua_createtable(L, 0, (int)(sizeof rules / sizeof *rules));
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    lua_pushinteger(L, rules[i].rule);
    lua_setfield(L, -2, rules[i].name);
  }
  lua_setfield(L, -2, "rules");
}
