/* Lua values to JSON text. The text grows in a small buffer on the C stack, then in memory of Lua's allocator owned by
 * a userdata, so that an error on the way leaks nothing. */
#include <lauxlib.h>
#include <math.h>

#include "array.h"
#include "decimal.h"
#include "json.h"
#include "utf8.h"

enum { SORT_ON_STACK = 24, INSERTION_SORT = 16 };

typedef struct {
  lua_State *L;
  char *text;
  size_t length, room;
  const rvl_json_options *options;
  const rvl_json_frame *frame;
  const void *array_tag, *object_tag; /* identities of the metatables */
  int buffer_slot;
  int depth; /* of the containers open now */
  char local[4096];
} encoder;

typedef struct {
  char *data;
  size_t room;
} buffer;

typedef struct {
  const char *text;
  size_t length;
  lua_Integer at; /* where the member is: a stack index, or an index into the table of names */
} member;

static void encode_value(encoder *e);

/* ------------------------------------------------------------------------------------------------ errors */

/* `$.path <what>`, with what formatted from one string or integer by the caller on top of the stack. */
static void fail(encoder *e, const char *hint) {
  lua_State *L = e->L;
  int what = lua_gettop(L);
  rvl_json_push_path(L, e->frame);
  lua_pushfstring(L, "%s %s", lua_tostring(L, -1), lua_tostring(L, what));
  rvl_json_raise(L, what + 2, what + 1, hint, 0, 0, 0);
}

static void fail_text(encoder *e, const char *what, const char *hint) {
  luaL_checkstack(e->L, 8, "JSON error");
  lua_pushstring(e->L, what);
  fail(e, hint);
}

/* ------------------------------------------------------------------------------------------------ buffer */

static void release(lua_State *L, buffer *b) {
  if (!b->data) return;
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  allocate(context, b->data, b->room, 0);
  b->data = NULL;
  b->room = 0;
}

int rvl_json_free_buffer(lua_State *L) {
  buffer *b = lua_touserdata(L, 1);
  if (b) release(L, b);
  return 0;
}

static void check_length(encoder *e, size_t length) {
  if (length > e->options->max_bytes) {
    e->frame = NULL;
    fail_text(e, "needs more bytes than max_bytes allows", NULL);
  }
}

/* The userdata that owns the text once it has outgrown `local`. */
static buffer *own_buffer(encoder *e) {
  lua_State *L = e->L;
  buffer *b = lua_touserdata(L, e->buffer_slot);
  if (b) return b;
  luaL_checkstack(L, 4, "JSON");
  b = lua_newuserdatauv(L, sizeof *b, 0);
  b->data = NULL;
  b->room = 0;
  lua_pushvalue(L, lua_upvalueindex(RVL_JSON_BUFFER));
  lua_setmetatable(L, -2);
  lua_replace(L, e->buffer_slot);
  return b;
}

static void grow(encoder *e, size_t extra) {
  lua_State *L = e->L;
  if (extra > (SIZE_MAX >> 2) - e->length) luaL_error(L, "not enough memory");
  check_length(e, extra > 64 ? e->length + (extra - 8) : e->length); /* callers ask for up to 8 bytes to spare */
  size_t room = e->length + extra;
  room = room < 2 * e->room ? 2 * e->room : room + 32;
  buffer *b = own_buffer(e);
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  char *data = allocate(context, b->data, b->room, room);
  if (!data) { /* Lua itself would do the same before it gave up */
    lua_gc(L, LUA_GCCOLLECT);
    data = allocate(context, b->data, b->room, room);
  }
  if (!data) {
    lua_pushliteral(L, "not enough memory");
    lua_error(L);
  }
  if (!b->data) memcpy(data, e->local, e->length);
  b->data = data;
  b->room = room;
  e->text = data;
  e->room = room;
}

static inline void need(encoder *e, size_t extra) {
  if (e->room - e->length < extra) grow(e, extra);
}

static inline void put_char(encoder *e, char c) {
  need(e, 1);
  e->text[e->length++] = c;
}

static void put(encoder *e, const char *bytes, size_t n) {
  need(e, n);
  memcpy(e->text + e->length, bytes, n);
  e->length += n;
}

static void new_line(encoder *e) {
  if (!e->options->pretty) return;
  size_t indent = e->options->indent_length;
  need(e, 1 + (size_t)e->depth * indent);
  char *o = e->text + e->length;
  *o++ = '\n';
  for (int i = 0; i < e->depth; i++, o += indent) memcpy(o, e->options->indent, indent);
  e->length = (size_t)(o - e->text);
}

/* ------------------------------------------------------------------------------------------------ scalars */

static void fail_utf8(encoder *e, size_t offset) {
  luaL_checkstack(e->L, 8, "JSON error");
  lua_pushfstring(e->L, "has invalid UTF-8 at byte %I", (LUAI_UACINT)offset);
  fail(e, "utf8=\"replace\" writes U+FFFD instead; JSON has no place for raw bytes");
}

/* What plain copying stopped at: one character that needs an escape, or a run of non-ASCII. Leaves room for the rest
 * of the string and its quote, as put_string expects. */
static const char *put_special(encoder *e, const char *start, const char *s, const char *end) {
  static const char hex[] = "0123456789abcdef";
  unsigned char c = (unsigned char)*s;
  need(e, (size_t)(end - s) + 8);
  char *o = e->text + e->length;
  if (c >= 0x80) {
    size_t bad = 1;
    do {
      size_t n = rvl_utf8_sequence((const unsigned char *)s, (const unsigned char *)end, &bad);
      if (n == 0) {
        if (!e->options->replace_utf8) fail_utf8(e, (size_t)(s - start) + 1);
        memcpy(o, "\xef\xbf\xbd", 3);
        e->length = (size_t)(o + 3 - e->text);
        s += bad;
        need(e, (size_t)(end - s) + 8);
        return s;
      }
      for (size_t i = 0; i < n; i++) *o++ = *s++;
    } while (s < end && (unsigned char)*s >= 0x80);
  } else {
    *o++ = '\\';
    switch (c) {
      case '"': case '\\': *o++ = (char)c; break;
      case '\b': *o++ = 'b'; break;
      case '\f': *o++ = 'f'; break;
      case '\n': *o++ = 'n'; break;
      case '\r': *o++ = 'r'; break;
      case '\t': *o++ = 't'; break;
      default:
        memcpy(o, "u00", 3);
        o[3] = hex[c >> 4];
        o[4] = hex[c & 15];
        o += 5;
    }
    s++;
  }
  e->length = (size_t)(o - e->text);
  return s;
}

static void put_string(encoder *e, const char *start, size_t n) {
  const char *s = start, *end = start + n;
  if (n > SIZE_MAX - 8) luaL_error(e->L, "not enough memory");
  need(e, n + 8);
  e->text[e->length++] = '"';
  for (;;) {
    size_t run = rvl_json_copy(e->text + e->length, s, end);
    e->length += run;
    s += run;
    if (s == end) break;
    s = put_special(e, start, s, end);
  }
  e->text[e->length++] = '"';
}

static void put_integer(encoder *e, lua_Integer value) {
  need(e, RVL_DECIMAL_SIZE);
  e->length += rvl_decimal_from_int64(e->text + e->length, value);
}

static void put_real(encoder *e, double value) {
  if (isfinite(value)) {
    need(e, RVL_DECIMAL_SIZE);
    e->length += rvl_decimal_from_double(e->text + e->length, value);
    return;
  }
  const char *name = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  switch (e->options->nan) {
    case RVL_JSON_NAN_NULL: put(e, "null", 4); break;
    case RVL_JSON_NAN_BARE: put(e, name, strlen(name)); break;
    case RVL_JSON_NAN_ERROR:
      luaL_checkstack(e->L, 8, "JSON error");
      lua_pushfstring(e->L, "is %s", name);
      fail(e, "JSON has no such number; nan=\"null\" writes null");
  }
}

/* ------------------------------------------------------------------------------------------------ arrays */

static void open_container(encoder *e, rvl_json_frame *frame, char bracket) {
  e->depth++;
  frame->up = e->frame;
  frame->index = 0;
  frame->key = 0;
  e->frame = frame;
  put_char(e, bracket);
}

static void close_container(encoder *e, char bracket) {
  bool empty = e->frame->index == 0 && e->frame->key == 0;
  e->depth--;
  e->frame = e->frame->up;
  if (!empty) new_line(e);
  put_char(e, bracket);
}

/* What the keys of a table say it is. */
typedef struct {
  lua_Integer count; /* of integer keys */
  lua_Integer most;  /* the largest of them */
  lua_Integer n;     /* field `n`, as table.pack leaves it; -1 without one */
} shape;

/* Raises `what` with the key at -2 in it. */
static void fail_key(encoder *e, const char *what, const char *hint) {
  lua_State *L = e->L;
  rvl_json_push_key(L, lua_absindex(L, -2));
  lua_pushfstring(L, what, lua_tostring(L, -1));
  fail(e, hint);
}

/* Looks at all keys of the table at `t`, which has an integer key or must be an array, and raises unless it can be an
 * array: integer keys from 1, and perhaps an integer `n`. */
static shape measure(encoder *e, int t) {
  lua_State *L = e->L;
  shape s = {0, 0, -1};
  lua_pushnil(L);
  while (lua_next(L, t)) {
    if (lua_isinteger(L, -2)) {
      lua_Integer k = lua_tointeger(L, -2);
      if (k < 1) fail_key(e, "has the index %s, but arrays begin at 1", "make the keys strings for an object");
      s.count++;
      if (k > s.most) s.most = k;
    } else if (lua_type(L, -2) == LUA_TSTRING) {
      size_t length;
      const char *name = lua_tolstring(L, -2, &length);
      if (length != 1 || *name != 'n' || !lua_isinteger(L, -1) || lua_tointeger(L, -1) < 0) {
        fail_key(e, "mixes array elements with the key %s", "make all keys strings, or move the elements to a field");
      }
      s.n = lua_tointeger(L, -1);
    } else {
      fail_key(e, "has %s as a key; JSON knows only strings", NULL);
    }
    lua_pop(L, 1);
  }
  return s;
}

/* How long the array is, nulls included. A few holes are fine; an index far beyond the number of values is a mistake
 * that would fill memory with nulls. The `n` of table.pack may be as large as a call can have arguments. */
static lua_Integer array_length(encoder *e, const shape *s) {
  lua_State *L = e->L;
  luaL_checkstack(L, 8, "JSON error");
  if (s->n >= 0 && s->n < s->most) {
    lua_pushfstring(L, "has n = %I but a value at index %I", (LUAI_UACINT)s->n, (LUAI_UACINT)s->most);
    fail(e, NULL);
  }
  lua_Integer length = s->n >= 0 ? s->n : s->most;
  lua_Integer allowed = s->n >= 0 ? 1000000 : 10;
  if (length > allowed && length / 2 > s->count) {
    lua_pushfstring(L, "is too sparse for an array: largest index %I, number of values %I", (LUAI_UACINT)length,
                    (LUAI_UACINT)s->count);
    fail(e, "make the keys strings for an object");
  }
  return length;
}

/* Elements from `from` to `to`, missing ones as null. */
static void put_elements(encoder *e, int t, rvl_json_frame *frame, lua_Integer from, lua_Integer to) {
  lua_State *L = e->L;
  for (lua_Integer i = from; i <= to; i++) {
    if (i > 1) put_char(e, ',');
    frame->index = i;
    new_line(e);
    lua_rawgeti(L, t, i);
    encode_value(e);
    lua_pop(L, 1);
  }
}

/* The table at `t` with its first key and value on the stack. Walks while the keys are 1, 2, 3, as they nearly always
 * are; from the first other key on, the rest is written by index. */
static void encode_array(encoder *e, int t) {
  lua_State *L = e->L;
  rvl_json_frame frame;
  open_container(e, &frame, '[');
  lua_Integer i = 0;
  do {
    if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) != i + 1) {
      lua_settop(L, t);
      frame.index = 0; /* what is wrong now is the table, not an element */
      shape s = measure(e, t);
      put_elements(e, t, &frame, i + 1, array_length(e, &s));
      break;
    }
    if (i++) put_char(e, ',');
    frame.index = i;
    new_line(e);
    encode_value(e);
    lua_pop(L, 1);
  } while (lua_next(L, t));
  close_container(e, ']');
}

/* ------------------------------------------------------------------------------------------------ objects */

/* `"name":` with the key at stack index `key`. */
static void put_name(encoder *e, rvl_json_frame *frame, int key, bool first) {
  size_t length;
  const char *name = lua_tolstring(e->L, key, &length);
  if (!first) put_char(e, ',');
  new_line(e);
  frame->key = key;
  put_string(e, name, length);
  need(e, 2);
  e->text[e->length++] = ':';
  if (e->options->pretty) e->text[e->length++] = ' ';
}

/* A table whose first key was a string has an integer key as well: only table.pack's result is allowed that. `start`
 * is where its text began; all that has been written of such a table is one integer. */
static void reconsider(encoder *e, int t, bool forced, size_t start) {
  lua_State *L = e->L;
  e->frame = e->frame->up;
  e->depth--;
  if (forced || !lua_isinteger(L, -2)) {
    fail_key(e, "is an object and has %s as a key; JSON knows only strings", "tostring(key) makes one");
  }
  lua_settop(L, t);
  shape s = measure(e, t);
  lua_Integer length = array_length(e, &s);
  rvl_json_frame frame;
  e->length = start;
  open_container(e, &frame, '[');
  put_elements(e, t, &frame, 1, length);
  close_container(e, ']');
}

static void encode_object(encoder *e, int t, bool forced) {
  lua_State *L = e->L;
  rvl_json_frame frame;
  size_t start = e->length;
  bool first = true;
  open_container(e, &frame, '{');
  do {
    if (lua_type(L, -2) != LUA_TSTRING) {
      reconsider(e, t, forced, start);
      return;
    }
    put_name(e, &frame, t + 1, first);
    first = false;
    encode_value(e);
    lua_pop(L, 1);
  } while (lua_next(L, t));
  close_container(e, '}');
}

static bool before(const member *a, const member *b) {
  size_t common = a->length < b->length ? a->length : b->length;
  int order = memcmp(a->text, b->text, common);
  return order < 0 || (order == 0 && a->length < b->length);
}

static void sift_down(member *m, size_t root, size_t count) {
  member moving = m[root];
  for (size_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && before(&m[child], &m[child + 1])) child++;
    if (!before(&moving, &m[child])) break;
    m[root] = m[child];
  }
  m[root] = moving;
}

/* In place: insertion for the few members that objects usually have, a heap for many (qsort may allocate). */
static void sort_members(member *m, size_t count) {
  if (count <= INSERTION_SORT) {
    for (size_t i = 1; i < count; i++) {
      member moving = m[i];
      size_t at = i;
      for (; at > 0 && before(&moving, &m[at - 1]); at--) m[at] = m[at - 1];
      m[at] = moving;
    }
    return;
  }
  for (size_t i = count / 2; i-- > 0;) sift_down(m, i, count);
  for (size_t i = count; --i > 0;) {
    member last = m[i];
    m[i] = m[0];
    m[0] = last;
    sift_down(m, 0, i);
  }
}

/* More members than fit the stack: the names wait in a table, which keeps them alive whatever a finalizer does. */
static void encode_many_sorted(encoder *e, int t, size_t count, rvl_json_frame *frame) {
  lua_State *L = e->L;
  lua_settop(L, t);
  if (count > SIZE_MAX / sizeof(member) || count > INT32_MAX) luaL_error(L, "not enough memory");
  member *m = lua_newuserdatauv(L, count * sizeof *m, 0);
  lua_createtable(L, (int)count, 0);
  int names = t + 2;
  size_t got = 0;
  lua_pushnil(L);
  while (got < count && lua_next(L, t)) {
    lua_pop(L, 1);
    m[got].text = lua_tolstring(L, -1, &m[got].length);
    lua_pushvalue(L, -1);
    lua_rawseti(L, names, m[got].at = (lua_Integer)got + 1);
    got++;
  }
  lua_settop(L, names);
  sort_members(m, got);
  for (size_t i = 0; i < got; i++) {
    lua_rawgeti(L, names, m[i].at);
    put_name(e, frame, names + 1, i == 0);
    lua_pushvalue(L, -1);
    lua_rawget(L, t);
    encode_value(e);
    lua_settop(L, names);
  }
}

/* All names and values go onto the stack; only their places are sorted. */
static void encode_sorted(encoder *e, int t, bool forced) {
  lua_State *L = e->L;
  rvl_json_frame frame;
  member m[SORT_ON_STACK];
  size_t start = e->length, count = 0;
  luaL_checkstack(L, 2 * SORT_ON_STACK + 8, "JSON object");
  open_container(e, &frame, '{');
  do {
    if (lua_type(L, -2) != LUA_TSTRING) {
      reconsider(e, t, forced, start);
      return;
    }
    if (count < SORT_ON_STACK) {
      m[count].text = lua_tolstring(L, -2, &m[count].length);
      m[count].at = t + 1 + 2 * (lua_Integer)count;
      lua_pushvalue(L, -2);
    } else {
      lua_pop(L, 1);
    }
    count++;
  } while (lua_next(L, t));
  if (count > SORT_ON_STACK) {
    encode_many_sorted(e, t, count, &frame);
  } else {
    sort_members(m, count);
    for (size_t i = 0; i < count; i++) {
      put_name(e, &frame, (int)m[i].at, i == 0);
      lua_pushvalue(L, (int)m[i].at + 1);
      encode_value(e);
      lua_pop(L, 1);
    }
  }
  close_container(e, '}');
}

/* ------------------------------------------------------------------------------------------------ values */

static void check_depth(encoder *e) {
  if (e->depth < e->options->max_depth) return;
  luaL_checkstack(e->L, 8, "JSON error");
  lua_pushfstring(e->L, "is nested deeper than %d levels: a cycle, or too deep", e->options->max_depth);
  fail(e, "max_depth= sets another limit");
}

/* The elements of a compact array from dimension `dim` and element `at` on; a matrix is an array of arrays. */
static void encode_compact(encoder *e, const rvl_array *a, size_t dim, size_t at, size_t size) {
  size_t rows = a->shape != NULL && a->ndim > 0 ? a->shape[dim] : a->length;
  rvl_json_frame frame;
  check_depth(e);
  open_container(e, &frame, '[');
  for (size_t i = 0; i < rows; i++) {
    if (i > 0) put_char(e, ',');
    frame.index = (lua_Integer)i + 1;
    new_line(e);
    if (dim + 1 < a->ndim) {
      encode_compact(e, a, dim + 1, at + i * (size / rows), size / rows);
    } else {
      rvl_array_push_element(e->L, a, at + i);
      size_t length;
      const char *digits = lua_type(e->L, -1) == LUA_TSTRING ? lua_tolstring(e->L, -1, &length) : NULL;
      if (digits != NULL) put(e, digits, length); /* of a uint64 beyond Lua's integers */
      else encode_value(e);
      lua_pop(e->L, 1);
    }
  }
  close_container(e, ']');
}

static void encode_table(encoder *e) {
  lua_State *L = e->L;
  int t = lua_gettop(L);
  bool array = false, object = false;
  check_depth(e);
  luaL_checkstack(L, 8, "JSON nested too deeply");
  if (lua_getmetatable(L, t)) {
    const void *tag = lua_topointer(L, -1);
    array = tag == e->array_tag;
    object = tag == e->object_tag;
    lua_pop(L, 1);
  }
  lua_pushnil(L);
  if (!lua_next(L, t)) {
    put(e, array ? "[]" : "{}", 2);
  } else if (array || (!object && lua_isinteger(L, -2))) {
    encode_array(e, t);
  } else if (e->options->sort) {
    encode_sorted(e, t, object);
  } else {
    encode_object(e, t, object);
  }
  lua_settop(L, t);
}

/* Writes the value on top of the stack, and leaves it there. */
static void encode_value(encoder *e) {
  lua_State *L = e->L;
  int type = lua_type(L, -1);
  switch (type) {
    case LUA_TSTRING: {
      size_t length;
      const char *text = lua_tolstring(L, -1, &length);
      put_string(e, text, length);
      return;
    }
    case LUA_TNUMBER:
      if (lua_isinteger(L, -1)) {
        put_integer(e, lua_tointeger(L, -1));
      } else {
        put_real(e, lua_tonumber(L, -1));
      }
      return;
    case LUA_TTABLE: encode_table(e); return;
    case LUA_TBOOLEAN:
      if (lua_toboolean(L, -1)) {
        put(e, "true", 4);
      } else {
        put(e, "false", 5);
      }
      return;
    case LUA_TNIL: put(e, "null", 4); return;
    case LUA_TLIGHTUSERDATA:
      if (!lua_touserdata(L, -1)) {
        put(e, "null", 4);
        return;
      }
      break;
    case LUA_TUSERDATA: {
      luaL_checkstack(L, 8, "JSON nested too deeply");
      const rvl_array *a = rvl_array_test(L, -1);
      if (a == NULL) break;
      encode_compact(e, a, 0, 0, a->length);
      return;
    }
  } /* fall through to what JSON cannot hold */
  luaL_checkstack(L, 8, "JSON error");
  lua_pushfstring(L, "is a %s, which JSON cannot hold", lua_typename(L, type));
  fail(e, NULL);
}

void rvl_json_encode(lua_State *L, const rvl_json_options *options) {
  encoder e;
  e.L = L;
  e.text = e.local;
  e.length = 0;
  e.room = sizeof e.local;
  e.options = options;
  e.frame = NULL;
  e.depth = 0;
  e.array_tag = lua_topointer(L, lua_upvalueindex(RVL_JSON_ARRAY));
  e.object_tag = lua_topointer(L, lua_upvalueindex(RVL_JSON_OBJECT));
  luaL_checkstack(L, 8, "JSON");
  lua_pushnil(L);
  e.buffer_slot = lua_gettop(L);
  lua_pushvalue(L, 1);
  encode_value(&e);
  check_length(&e, e.length);
  lua_pushlstring(L, e.text, e.length);
  if (e.text != e.local) release(L, lua_touserdata(L, e.buffer_slot)); /* at once, not at some later collection */
}
