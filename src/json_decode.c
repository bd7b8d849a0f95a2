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

static void need_scratch(decoder *d, size_t size) {
  if (size <= d->scratch_room) return;
  if (size < 2 * d->scratch_room) size = 2 * d->scratch_room;
  d->scratch = lua_newuserdatauv(d->L, size, 0);
  d->scratch_room = size;
  lua_replace(d->L, d->scratch_slot);
}

/* Four hexadecimal digits, or -1. */
static int hex4(const char *p) {
  int code = 0;
  for (int i = 0; i < 4; i++) {
    char c = p[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1; /* stops at the NUL behind the text at the latest */
    code = code << 4 | digit;
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
    default: fail(d, p, "invalid escape in a string"); return p;
  }
  *(*out)++ = c;
  return p + 2;
}

/* Pushes the string between `p` and `quote`, where there is something to unescape or to replace. */
static void unescape(decoder *d, const char *p, const char *quote) {
  size_t raw = (size_t)(quote - p);
  need_scratch(d, d->options->replace_utf8 ? 3 * raw : raw); /* no escape grows; a bad byte becomes three */
  char *out = d->scratch;
  while (p < quote) {
    const char *stop = rvl_json_plain(p, quote);
    memcpy(out, p, (size_t)(stop - p));
    out += stop - p;
    p = stop;
    if (p == quote) break;
    if (*p == '\\') {
      p = decode_escape(d, p, &out);
    } else {
      size_t bad = 1, n = rvl_utf8_sequence((const unsigned char *)p, (const unsigned char *)quote, &bad);
      if (n) {
        memcpy(out, p, n);
        out += n;
        p += n;
      } else { /* the first pass let it through, so it is to be replaced */
        out += rvl_utf8_put(out, 0xfffd);
        p += bad;
      }
    }
  }
  lua_pushlstring(d->L, d->scratch, (size_t)(out - d->scratch));
}

static void fail_in_string(decoder *d, const char *p) {
  if (p >= d->end) fail(d, p, "unfinished string");
  if ((unsigned char)*p < 0x20) fail(d, p, "control character in a string (it must be escaped)");
  lua_pushliteral(d->L, "invalid UTF-8 in a string");
  fail_at(d, p, "utf8=\"replace\" reads it as U+FFFD");
}

/* Pushes the string whose opening quote is at d->p. A first pass finds its end and checks it. */
static void decode_string(decoder *d) {
  const char *first = d->p + 1, *p = first;
  bool verbatim = true;
  for (;;) {
    p = rvl_json_plain(p, d->end);
    unsigned char c = (unsigned char)*p;
    if (c == '"') break;
    if (c == '\\' && d->end - p >= 2) {
      verbatim = false;
      p += 2;
      if ((unsigned char)p[-1] >= 0x80) p--; /* no escape at all; its bytes are looked at like others */
    } else if (c >= 0x80) {
      size_t bad = 1;
      do {
        size_t n = rvl_utf8_sequence((const unsigned char *)p, (const unsigned char *)d->end, &bad);
        if (n == 0) {
          if (!d->options->replace_utf8) fail_in_string(d, p);
          verbatim = false;
          n = bad;
        }
        p += n;
      } while ((unsigned char)*p >= 0x80);
    } else {
      fail_in_string(d, c == '\\' ? d->end : p);
    }
  }
  d->p = p + 1;
  if (verbatim) {
    lua_pushlstring(d->L, first, (size_t)(p - first));
  } else {
    unescape(d, first, p);
  }
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

static bool take_word(decoder *d, const char *word, size_t length) {
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
    lua_createtable(L, 0, count);
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
