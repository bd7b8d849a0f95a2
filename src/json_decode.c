/* JSON text straight onto the Lua stack. Members and elements wait there until their container is complete, so that
 * small tables are created once, in their final size. */
#include <lauxlib.h>
#include <math.h>

#include "decimal.h"
#include "json.h"
#include "utf8.h"

enum { OBJECT_BATCH = 32, ARRAY_BATCH = 256, SLOTS_AHEAD = 16 };

typedef struct {
  lua_State *L;
  const char *start, *p, *end; /* the byte at `end` is the string's own NUL: no need to look before reading one byte */
  const rvl_json_options *options;
  const rvl_json_frame *frame;
  int depth;
  int null;         /* stack index of what nulls become */
  int scratch_slot; /* stack index that anchors a scratch too large for `local` */
  char *scratch;
  size_t scratch_room;
  char local[512];
} decoder;

static void decode_value(decoder *d);

/* ------------------------------------------------------------------------------------------------ errors */

/* Raises with the message on top of the stack; line and column (in characters) are found only now. */
static void fail_at(decoder *d, const char *at, const char *hint) {
  lua_State *L = d->L;
  luaL_checkstack(L, 8, "JSON error");
  size_t line = 1, column = 1;
  for (const char *p = d->start; p < at; p++) {
    if (*p == '\n') {
      line++;
      column = 1;
    } else if (!rvl_utf8_continues((unsigned char)*p)) {
      column++;
    }
  }
  int message = lua_gettop(L);
  rvl_json_push_path(L, d->frame);
  bool nested = lua_rawlen(L, -1) > 1;
  lua_pushfstring(L, "%s at line %I, column %I%s%s", lua_tostring(L, message), (LUAI_UACINT)line, (LUAI_UACINT)column,
                  nested ? ", in " : "", nested ? lua_tostring(L, -1) : "");
  rvl_json_raise(L, message + 2, message + 1, hint, (size_t)(at - d->start) + 1, line, column);
}

static void fail(decoder *d, const char *at, const char *what) {
  luaL_checkstack(d->L, 8, "JSON error");
  lua_pushstring(d->L, what);
  fail_at(d, at, NULL);
}

static void fail_expected(decoder *d, const char *at, const char *wanted) {
  lua_State *L = d->L;
  luaL_checkstack(L, 8, "JSON error");
  unsigned char c = (unsigned char)*at;
  if (at >= d->end) {
    lua_pushfstring(L, "expected %s but the text ends", wanted);
  } else if (c > 0x20 && c < 0x7f) {
    lua_pushfstring(L, "expected %s but found '%c'", wanted, c);
  } else {
    static const char hex[] = "0123456789ABCDEF";
    lua_pushfstring(L, "expected %s but found byte 0x%c%c", wanted, hex[c >> 4], hex[c & 15]);
  }
  fail_at(d, at, NULL);
}

/* ------------------------------------------------------------------------------------------------ strings */

static void fail_in_string(decoder *d, const char *p) {
  if (p >= d->end) fail(d, p, "unfinished string");
  if ((unsigned char)*p < 0x20) fail(d, p, "control character in a string (it must be escaped)");
  lua_pushliteral(d->L, "invalid UTF-8 in a string");
  fail_at(d, p, "utf8=\"replace\" reads it as U+FFFD");
}

/* Makes room for `extra` bytes after the `used` ones. */
static void grow_scratch(decoder *d, size_t used, size_t extra) {
  if (extra > (SIZE_MAX >> 2) - used) luaL_error(d->L, "not enough memory");
  size_t room = 2 * (used + extra);
  char *larger = lua_newuserdatauv(d->L, room, 0);
  memcpy(larger, d->scratch, used);
  d->scratch = larger;
  d->scratch_room = room;
  lua_replace(d->L, d->scratch_slot);
}

/* Four hexadecimal digits, or -1. */
static int hex4(const char *p) {
  int code = 0;
  for (int i = 0; i < 4; i++) {
    char c = p[i];
    if (c >= '0' && c <= '9') {
      code = code << 4 | (c - '0');
    } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
      code = code << 4 | ((c & 7) + 9);
    } else {
      return -1; /* at the NUL behind the text at the latest */
    }
  }
  return code;
}

/* \uXXXX, or two of them that make a surrogate pair; `p` is at the backslash. */
static const char *decode_unicode(decoder *d, const char *p, char **out) {
  int code = hex4(p + 2);
  if (code < 0) fail(d, p, "invalid \\u escape (four hexadecimal digits belong to it)");
  const char *next = p + 6;
  if (code >= 0xd800 && code < 0xe000) {
    int low = code < 0xdc00 && next[0] == '\\' && next[1] == 'u' ? hex4(next + 2) : -1;
    if (low >= 0xdc00 && low < 0xe000) {
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      next += 6;
    } else if (d->options->replace_utf8) {
      code = 0xfffd;
    } else {
      lua_pushliteral(d->L, "lone surrogate in a \\u escape");
      fail_at(d, p, "utf8=\"replace\" reads it as U+FFFD");
    }
  }
  *out += rvl_utf8_put(*out, (unsigned)code);
  return next;
}

static const char *decode_escape(decoder *d, const char *p, char **out) {
  char c;
  switch (p[1]) {
    case '"': case '\\': case '/': c = p[1]; break;
    case 'b': c = '\b'; break;
    case 'f': c = '\f'; break;
    case 'n': c = '\n'; break;
    case 'r': c = '\r'; break;
    case 't': c = '\t'; break;
    case 'u': return decode_unicode(d, p, out);
    case '\0':
      if (d->end - p < 2) fail_in_string(d, d->end); /* fall through */
    default: fail(d, p, "invalid escape in a string"); return p;
  }
  *(*out)++ = c;
  return p + 2;
}

/* Copies the non-ASCII character at `p`. */
static const char *copy_sequence(decoder *d, const char *p, char **out) {
  size_t bad = 1, n = rvl_utf8_sequence((const unsigned char *)p, (const unsigned char *)d->end, &bad);
  if (n == 0) {
    if (!d->options->replace_utf8) fail_in_string(d, p);
    *out += rvl_utf8_put(*out, 0xfffd);
    return p + bad;
  }
  for (size_t i = 0; i < n; i++) *(*out)++ = p[i];
  return p + n;
}

/* Pushes a string that does not stand in the text as it is: `p` is its first byte that needs work. It is put together
 * in the scratch, `CHUNK` bytes of text at a time. */
static void decode_by_copy(decoder *d, const char *first, const char *p) {
  enum { CHUNK = 64, STEP = 16 }; /* one special character takes less than a step */
  size_t used = (size_t)(p - first);
  if (d->scratch_room < used) grow_scratch(d, 0, used);
  memcpy(d->scratch, first, used);
  for (;;) {
    if (d->scratch_room - used < CHUNK + STEP) grow_scratch(d, used, CHUNK + STEP);
    const char *chunk_end = d->end - p > CHUNK ? p + CHUNK : d->end;
    size_t run = rvl_json_copy(d->scratch + used, p, chunk_end);
    used += run;
    p += run;
    if (run == CHUNK) continue;
    char *out = d->scratch + used;
    unsigned char c = (unsigned char)*p;
    if (c == '"') break;
    if (c == '\\') {
      p = decode_escape(d, p, &out);
    } else if (c >= 0x80) {
      p = copy_sequence(d, p, &out);
    } else {
      fail_in_string(d, p);
    }
    used = (size_t)(out - d->scratch);
  }
  d->p = p + 1;
  lua_pushlstring(d->L, d->scratch, used);
}

/* Pushes the string whose opening quote is at d->p; from the text itself if nothing in it is escaped. */
static void decode_string(decoder *d) {
  const char *first = d->p + 1, *p = first;
  for (;;) {
    p = rvl_json_skip(p, d->end);
    unsigned char c = (unsigned char)*p;
    if (c == '"') break;
    if (c < 0x80 && c != '\\') fail_in_string(d, p);
    do {
      size_t bad, n = c == '\\' ? 0 : rvl_utf8_sequence((const unsigned char *)p, (const unsigned char *)d->end, &bad);
      if (n == 0) {
        decode_by_copy(d, first, p);
        return;
      }
      p += n;
      c = (unsigned char)*p;
    } while (c >= 0x80);
  }
  d->p = p + 1;
  lua_pushlstring(d->L, first, (size_t)(p - first));
}

/* ------------------------------------------------------------------------------------------------ scalars */

static void push_real(decoder *d, double value, const char *text) {
  if (isinf(value) && d->options->nan != RVL_JSON_NAN_BARE) {
    lua_pushliteral(d->L, "number too large for a double");
    fail_at(d, text, "nan=true reads it as infinity");
  }
  lua_pushnumber(d->L, value);
}

/* Short integers are read on the spot; everything else is decimal.c's. */
static void decode_number(decoder *d) {
  const char *text = d->p, *p = text + (*text == '-');
  const char *first = p;
  uint64_t n = 0;
  while (*p >= '0' && *p <= '9' && p - first < 18) n = n * 10 + (uint64_t)(*p++ - '0');
  if (p > first && (*first != '0' || p == first + 1) && (*p == ',' || *p == ']' || *p == '}' || *p == '\n')) {
    d->p = p;
    lua_pushinteger(d->L, *text == '-' ? -(lua_Integer)n : (lua_Integer)n);
    return;
  }
  rvl_decimal number;
  rvl_decimal_scan(&number, text, d->end);
  switch (number.kind) {
    case RVL_DECIMAL_INTEGER: lua_pushinteger(d->L, number.integer); break;
    case RVL_DECIMAL_REAL: push_real(d, number.real, text); break;
    case RVL_DECIMAL_BIG:
      if (d->options->bigint_string) {
        lua_pushlstring(d->L, text, (size_t)(number.end - text));
      } else {
        push_real(d, number.real, text);
      }
      break;
    case RVL_DECIMAL_BAD:
      if (*number.end >= '0' && *number.end <= '9') fail(d, text, "number with a leading zero");
      fail_expected(d, number.end, "a digit");
  }
  d->p = number.end;
}

static inline bool take_word(decoder *d, const char *word, size_t length) {
  if ((size_t)(d->end - d->p) < length || memcmp(d->p, word, length) != 0) return false;
  d->p += length;
  return true;
}

static void decode_null(decoder *d) {
  lua_State *L = d->L;
  bool element = d->frame && d->frame->index > 0;
  if (d->options->drop_null && !element) {
    lua_pushnil(L); /* setting a member to nil also undoes an earlier one of the same name */
  } else if (lua_isnil(L, d->null)) {
    lua_pushlightuserdata(L, NULL);
  } else {
    lua_pushvalue(L, d->null);
  }
}

/* Words, and everything that is no value. */
static void decode_word(decoder *d) {
  lua_State *L = d->L;
  const char *at = d->p;
  bool bare = d->options->nan == RVL_JSON_NAN_BARE;
  if (take_word(d, "true", 4)) {
    lua_pushboolean(L, 1);
  } else if (take_word(d, "false", 5)) {
    lua_pushboolean(L, 0);
  } else if (take_word(d, "null", 4)) {
    decode_null(d);
  } else if (bare && take_word(d, "NaN", 3)) {
    lua_pushnumber(L, (lua_Number)NAN);
  } else if (bare && take_word(d, "Infinity", 8)) {
    lua_pushnumber(L, (lua_Number)HUGE_VAL);
  } else if (bare && take_word(d, "-Infinity", 9)) {
    lua_pushnumber(L, -(lua_Number)HUGE_VAL);
  } else if (!bare && (take_word(d, "NaN", 3) || take_word(d, "Infinity", 8) || take_word(d, "-Infinity", 9))) {
    lua_pushliteral(L, "NaN and Infinity are not JSON");
    fail_at(d, at, "nan=true reads them");
  } else {
    fail_expected(d, d->p, "a value");
  }
}

/* ------------------------------------------------------------------------------------------------ containers */

static void skip_space(decoder *d) {
  const char *p = d->p;
  while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
  d->p = p;
}

/* Begins a container: one slot on the stack for the table, and slots for what follows. */
static void enter(decoder *d, rvl_json_frame *frame) {
  lua_State *L = d->L;
  if (d->depth == 0) {
    lua_pushfstring(L, "nested deeper than %d levels", d->options->max_depth);
    fail_at(d, d->p, "max_depth= sets another limit");
  }
  luaL_checkstack(L, SLOTS_AHEAD + 8, "JSON nested too deeply");
  d->depth--;
  frame->up = d->frame;
  frame->index = 0;
  frame->key = 0;
  d->frame = frame;
  d->p++;
  lua_pushnil(L);
  skip_space(d);
}

static void leave(decoder *d) {
  d->frame = d->frame->up;
  d->depth++;
}

/* Replaces the slot at `base` by a table of `size` elements and moves the `count` waiting ones into it. */
static void make_array(decoder *d, int base, lua_Integer count, int size) {
  lua_State *L = d->L;
  lua_createtable(L, size, 0);
  lua_pushvalue(L, lua_upvalueindex(RVL_JSON_ARRAY));
  lua_setmetatable(L, -2);
  lua_replace(L, base);
  for (lua_Integer i = count; i > 0; i--) lua_rawseti(L, base, i);
}

/* Moves the waiting members, oldest first (the last of equal names wins), into the table at `base`. */
static void add_members(decoder *d, int base, int count) {
  lua_State *L = d->L;
  if (lua_isnil(L, base)) {
    lua_createtable(L, 0, count < OBJECT_BATCH ? count : 2 * OBJECT_BATCH);
    lua_replace(L, base);
  }
  for (int i = 0; i < count; i++) {
    lua_pushvalue(L, base + 1 + 2 * i);
    lua_pushvalue(L, base + 2 + 2 * i);
    lua_rawset(L, base);
  }
  lua_settop(L, base);
}

static void decode_array(decoder *d) {
  lua_State *L = d->L;
  rvl_json_frame frame;
  enter(d, &frame);
  int base = lua_gettop(L);
  lua_Integer n = 0;
  bool waiting = true; /* elements are still on the stack */
  if (*d->p != ']') {
    for (;;) {
      frame.index = ++n;
      decode_value(d);
      if (!waiting) {
        lua_rawseti(L, base, n);
      } else if (n == ARRAY_BATCH) {
        make_array(d, base, n, 4 * ARRAY_BATCH);
        waiting = false;
      } else if (n % SLOTS_AHEAD == 0) {
        luaL_checkstack(L, SLOTS_AHEAD + 8, "JSON array");
      }
      skip_space(d);
      if (*d->p != ',') break;
      d->p++;
      skip_space(d);
    }
    if (*d->p != ']') fail_expected(d, d->p, "',' or ']'");
  }
  d->p++;
  if (waiting) make_array(d, base, n, (int)n);
  leave(d);
}

static void decode_object(decoder *d) {
  lua_State *L = d->L;
  rvl_json_frame frame;
  enter(d, &frame);
  int base = lua_gettop(L), waiting = 0;
  if (*d->p != '}') {
    for (;;) {
      if (*d->p != '"') fail_expected(d, d->p, "a name in double quotes");
      frame.key = 0;
      decode_string(d);
      frame.key = base + 1 + 2 * waiting;
      skip_space(d);
      if (*d->p != ':') fail_expected(d, d->p, "':'");
      d->p++;
      skip_space(d);
      decode_value(d);
      if (++waiting == OBJECT_BATCH) {
        add_members(d, base, waiting);
        waiting = 0;
        frame.key = 0; /* no longer on the stack */
      } else if (waiting % (SLOTS_AHEAD / 2) == 0) {
        luaL_checkstack(L, SLOTS_AHEAD + 8, "JSON object");
      }
      skip_space(d);
      if (*d->p != ',') break;
      d->p++;
      skip_space(d);
    }
    if (*d->p != '}') fail_expected(d, d->p, "',' or '}'");
  }
  d->p++;
  add_members(d, base, waiting);
  leave(d);
}

static void decode_value(decoder *d) {
  switch (*d->p) {
    case '"': decode_string(d); break;
    case '{': decode_object(d); break;
    case '[': decode_array(d); break;
    case '-':
      if (d->p[1] == 'I') {
        decode_word(d);
        break;
      } /* fall through */
    case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
      decode_number(d);
      break;
    default: decode_word(d);
  }
}

/* ------------------------------------------------------------------------------------------------ a document */

/* Text in another encoding would fail as well, but with a riddle for a message. */
static void check_encoding(decoder *d) {
  const unsigned char *p = (const unsigned char *)d->start;
  size_t n = (size_t)(d->end - d->start);
  if (n >= 3 && p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf) {
    lua_pushliteral(d->L, "the text begins with a byte order mark, which JSON forbids");
    fail_at(d, d->start, "drop its first three bytes");
  }
  if (n >= 2 && ((p[0] == 0xff && p[1] == 0xfe) || (p[0] == 0xfe && p[1] == 0xff) || p[0] == 0 || p[1] == 0)) {
    fail(d, d->start, "the text looks like UTF-16 or UTF-32; JSON is UTF-8");
  }
}

void rvl_json_decode(lua_State *L, const rvl_json_options *options, int null) {
  decoder d;
  size_t length;
  d.start = d.p = lua_tolstring(L, 1, &length);
  d.end = d.start + length;
  d.L = L;
  d.options = options;
  d.frame = NULL;
  d.depth = options->max_depth;
  d.null = null;
  d.scratch = d.local;
  d.scratch_room = sizeof d.local;
  luaL_checkstack(L, SLOTS_AHEAD, "JSON");
  lua_pushnil(L);
  d.scratch_slot = lua_gettop(L);
  if (length > options->max_bytes) {
    lua_pushfstring(L, "the text has %I bytes, more than max_bytes allows", (LUAI_UACINT)length);
    fail_at(&d, d.start, NULL);
  }
  check_encoding(&d);
  skip_space(&d);
  decode_value(&d);
  skip_space(&d);
  if (d.p != d.end) fail_expected(&d, d.p, "nothing after the value");
}
