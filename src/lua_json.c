/* riverlua.core.json: the module, its options and its errors. The work is done in json_decode.c and json_encode.c. */
#include <lauxlib.h>
#include <lua.h>

#include "json.h"

int rvl_open_json(lua_State *L);

/* ------------------------------------------------------------------------------------------------ errors */

/* Pushes the function `name` of riverlua.errors; false (and nothing pushed) where that module cannot be had, as in a
 * host that opened this one alone. */
static bool push_errors_function(lua_State *L, const char *name) {
  int top = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_istable(L, -1)) {
    lua_pushliteral(L, "riverlua.errors");
    lua_rawget(L, -2);
  }
  if (!lua_istable(L, -1) || lua_gettop(L) == top + 1) {
    lua_settop(L, top);
    lua_pushglobaltable(L);
    lua_pushliteral(L, "require");
    lua_rawget(L, -2);
    lua_pushliteral(L, "riverlua.errors");
    if (!lua_isfunction(L, -2) || lua_pcall(L, 1, 1, 0) != LUA_OK || !lua_istable(L, -1)) {
      lua_settop(L, top);
      return false;
    }
  }
  lua_pushstring(L, name);
  lua_rawget(L, -2);
  if (!lua_isfunction(L, -1)) {
    lua_settop(L, top);
    return false;
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
  return true;
}

/* Raises the table of fields on top of the stack as an error, or its message where there is no riverlua.errors. */
static int raise_fields(lua_State *L) {
  int fields = lua_gettop(L);
  if (push_errors_function(L, "new")) {
    lua_pushvalue(L, fields);
    lua_call(L, 1, 1);
  } else {
    lua_getfield(L, fields, "kind");
    lua_getfield(L, fields, "message");
    lua_pushfstring(L, "%s: %s", lua_tostring(L, -2), lua_tostring(L, -1));
  }
  return lua_error(L);
}

static void set_integer(lua_State *L, const char *name, size_t value) {
  if (value == 0) return;
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

int rvl_json_raise(lua_State *L, int message, int path, const char *hint, size_t offset, size_t line, size_t column) {
  luaL_checkstack(L, 12, "JSON error");
  lua_createtable(L, 0, 7);
  lua_pushliteral(L, "json");
  lua_setfield(L, -2, "kind");
  lua_pushvalue(L, message);
  lua_setfield(L, -2, "message");
  if (path) {
    lua_pushvalue(L, path);
    lua_setfield(L, -2, "path");
  }
  if (hint) {
    lua_pushstring(L, hint);
    lua_setfield(L, -2, "hint");
  }
  set_integer(L, "offset", offset);
  set_integer(L, "line", line);
  set_integer(L, "column", column);
  return raise_fields(L);
}

/* Raises kind "argument" with the message on top of the stack. */
static int raise_argument(lua_State *L) {
  luaL_checkstack(L, 12, "JSON error");
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, "argument");
  lua_setfield(L, -2, "kind");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "message");
  return raise_fields(L);
}

static bool is_name(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    char c = text[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && (i == 0 || c < '0' || c > '9')) return false;
  }
  return length > 0;
}

enum { LONGEST_NAME = 60 }; /* bytes of a name that a message shows */

/* The name in quotes, on one line and of bearable length. */
static void add_quoted(luaL_Buffer *b, const char *name, size_t length) {
  size_t shown = length <= LONGEST_NAME ? length : LONGEST_NAME;
  while (shown < length && shown > 0 && ((unsigned char)name[shown] & 0xc0) == 0x80) shown--; /* no half character */
  luaL_addchar(b, '"');
  for (size_t i = 0; i < shown; i++) {
    if (name[i] == '"' || name[i] == '\\') luaL_addchar(b, '\\');
    luaL_addchar(b, (unsigned char)name[i] < 0x20 ? '?' : name[i]);
  }
  if (shown < length) luaL_addstring(b, "...");
  luaL_addchar(b, '"');
}

static void add_step(luaL_Buffer *b, lua_State *L, const rvl_json_frame *frame) {
  if (frame->key == 0) {
    if (frame->index == 0) return;
    lua_pushfstring(L, "[%I]", (LUAI_UACINT)frame->index);
    luaL_addvalue(b);
    return;
  }
  size_t length;
  const char *name = lua_tolstring(L, frame->key, &length);
  if (is_name(name, length) && length <= LONGEST_NAME) {
    luaL_addchar(b, '.');
    luaL_addlstring(b, name, length);
  } else {
    luaL_addchar(b, '[');
    add_quoted(b, name, length);
    luaL_addchar(b, ']');
  }
}

void rvl_json_push_key(lua_State *L, int key) {
  luaL_checkstack(L, 10, "JSON error");
  if (lua_type(L, key) == LUA_TSTRING) {
    size_t length;
    const char *name = lua_tolstring(L, key, &length);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    add_quoted(&b, name, length);
    luaL_pushresult(&b);
  } else if (lua_type(L, key) == LUA_TNUMBER || lua_type(L, key) == LUA_TBOOLEAN) {
    luaL_tolstring(L, key, NULL);
  } else {
    lua_pushfstring(L, "a %s", luaL_typename(L, key));
  }
}

void rvl_json_push_path(lua_State *L, const rvl_json_frame *frame) {
  enum { HEAD = 12, TAIL = 12 };
  const rvl_json_frame *head[HEAD], *tail[TAIL];
  size_t steps = 0;
  for (const rvl_json_frame *f = frame; f; f = f->up) steps++;
  size_t at = steps;
  for (const rvl_json_frame *f = frame; f; f = f->up) { /* from the innermost out */
    at--;
    if (at < HEAD) head[at] = f;
    if (steps - 1 - at < TAIL) tail[steps - 1 - at] = f;
  }
  luaL_checkstack(L, 10, "JSON path");
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '$');
  for (size_t i = 0; i < steps && i < HEAD; i++) add_step(&b, L, head[i]);
  if (steps > HEAD + TAIL) luaL_addstring(&b, " ... ");
  for (size_t i = steps > HEAD + TAIL ? steps - TAIL : HEAD; i < steps; i++) add_step(&b, L, tail[steps - 1 - i]);
  luaL_pushresult(&b);
}

/* ------------------------------------------------------------------------------------------------ options */

enum { DECODE = 1, ENCODE = 2 };

typedef enum { BIGINT, DROP_NULL, MAX_BYTES, MAX_DEPTH, NAN_, NULL_, PRETTY, SORT, UTF8 } option;

static const struct {
  const char *name;
  option id;
  int where;
} known_options[] = {
    {"bigint", BIGINT, DECODE},       {"drop_null", DROP_NULL, DECODE},     {"max_bytes", MAX_BYTES, DECODE | ENCODE},
    {"max_depth", MAX_DEPTH, DECODE | ENCODE}, {"nan", NAN_, DECODE | ENCODE}, {"null", NULL_, DECODE},
    {"pretty", PRETTY, ENCODE},       {"sort", SORT, ENCODE},               {"utf8", UTF8, DECODE | ENCODE},
};

enum { KNOWN_OPTIONS = sizeof known_options / sizeof *known_options };

static const rvl_json_options default_options = {.max_bytes = SIZE_MAX, .max_depth = RVL_JSON_DEPTH};

static const char *call_name(int where) {
  return where == DECODE ? "json.decode" : "json.encode";
}

/* Raises for the option table at `t` with an unknown key; the text and its suggestion are riverlua.errors' own. */
static void fail_unknown(lua_State *L, int t, int where) {
  if (push_errors_function(L, "check_options")) {
    lua_pushstring(L, call_name(where));
    lua_pushvalue(L, t);
    lua_createtable(L, 0, KNOWN_OPTIONS);
    for (int i = 0; i < KNOWN_OPTIONS; i++) {
      if (!(known_options[i].where & where)) continue;
      lua_pushboolean(L, 1);
      lua_setfield(L, -2, known_options[i].name);
    }
    lua_call(L, 3, 0);
  }
  lua_pushfstring(L, "%s: unknown option", call_name(where));
  raise_argument(L);
}

static void fail_option(lua_State *L, int where, const char *name, const char *wanted) {
  lua_pushfstring(L, "%s: '%s' must be %s", call_name(where), name, wanted);
  raise_argument(L);
}

/* Whether the option's value (on top) is the word that switches it on, `false` being the default. */
static bool read_word(lua_State *L, int where, const char *name, const char *word, const char *other) {
  if (lua_type(L, -1) == LUA_TBOOLEAN && !lua_toboolean(L, -1)) return false;
  if (lua_type(L, -1) == LUA_TSTRING) {
    if (strcmp(lua_tostring(L, -1), word) == 0) return true;
    if (strcmp(lua_tostring(L, -1), other) == 0) return false;
  }
  lua_pushfstring(L, "\"%s\" or \"%s\"", word, other);
  fail_option(L, where, name, lua_tostring(L, -1));
  return false;
}

static bool read_flag(lua_State *L, int where, const char *name) {
  if (!lua_isboolean(L, -1)) fail_option(L, where, name, "true or false");
  return lua_toboolean(L, -1);
}

static rvl_json_nan read_nan(lua_State *L, int where) {
  if (lua_isboolean(L, -1)) return lua_toboolean(L, -1) ? RVL_JSON_NAN_BARE : RVL_JSON_NAN_ERROR;
  if (where == DECODE) fail_option(L, where, "nan", "true or false");
  return read_word(L, where, "nan", "null", "error") ? RVL_JSON_NAN_NULL : RVL_JSON_NAN_ERROR;
}

static void read_pretty(lua_State *L, int where, rvl_json_options *o) {
  static const char wanted[] = "true, a number of spaces up to 8, or a string of up to 8 spaces and tabs";
  o->pretty = true;
  o->indent_length = 2;
  memset(o->indent, ' ', sizeof o->indent);
  if (lua_isboolean(L, -1)) {
    o->pretty = lua_toboolean(L, -1);
  } else if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 0 && lua_tointeger(L, -1) <= RVL_JSON_INDENT) {
    o->indent_length = (size_t)lua_tointeger(L, -1);
  } else if (lua_type(L, -1) == LUA_TSTRING && lua_rawlen(L, -1) <= RVL_JSON_INDENT) {
    const char *text = lua_tolstring(L, -1, &o->indent_length);
    if (strspn(text, " \t") != o->indent_length) fail_option(L, where, "pretty", wanted);
    memcpy(o->indent, text, o->indent_length);
  } else {
    fail_option(L, where, "pretty", wanted);
  }
}

static void read_limit(lua_State *L, int where, option id, rvl_json_options *o) {
  lua_Integer n = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : -1;
  if (id == MAX_DEPTH) {
    if (n < 1 || n > RVL_JSON_DEPTH_LIMIT) fail_option(L, where, "max_depth", "an integer from 1 to 2048");
    o->max_depth = (int)n;
  } else {
    if (n < 0) fail_option(L, where, "max_bytes", "an integer, zero or more");
    o->max_bytes = (size_t)n;
  }
}

/* Takes in one option, its value on top of the stack. */
static void read_option(lua_State *L, int where, option id, rvl_json_options *o) {
  switch (id) {
    case BIGINT: o->bigint_string = read_word(L, where, "bigint", "string", "float"); break;
    case DROP_NULL: o->drop_null = read_flag(L, where, "drop_null"); break;
    case MAX_BYTES: case MAX_DEPTH: read_limit(L, where, id, o); break;
    case NAN_: o->nan = read_nan(L, where); break;
    case NULL_: break; /* any value; the caller fetches it */
    case PRETTY: read_pretty(L, where, o); break;
    case SORT: o->sort = read_flag(L, where, "sort"); break;
    case UTF8: o->replace_utf8 = read_word(L, where, "utf8", "replace", "error"); break;
  }
}

/* Reads the option table at stack index `t`, over the defaults. */
static void read_options(lua_State *L, int t, int where, rvl_json_options *o) {
  *o = default_options;
  if (lua_isnoneornil(L, t)) return;
  if (!lua_istable(L, t)) {
    lua_pushfstring(L, "%s: options must be a table, got a %s", call_name(where), luaL_typename(L, t));
    raise_argument(L);
  }
  lua_pushnil(L);
  while (lua_next(L, t)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    int i = 0;
    while (i < KNOWN_OPTIONS && (!(known_options[i].where & where) || strcmp(name, known_options[i].name) != 0)) i++;
    if (i == KNOWN_OPTIONS) {
      fail_unknown(L, t, where);
      return;
    }
    read_option(L, where, known_options[i].id, o);
    lua_pop(L, 1);
  }
}

/* ------------------------------------------------------------------------------------------------ functions */

static int json_decode(lua_State *L) {
  if (lua_type(L, 1) != LUA_TSTRING) {
    lua_pushfstring(L, "json.decode: text must be a string, got a %s", luaL_typename(L, 1));
    return raise_argument(L);
  }
  const rvl_json_options *ready = lua_touserdata(L, lua_upvalueindex(RVL_JSON_OPTIONS));
  if (ready) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(RVL_JSON_NULL));
    rvl_json_decode(L, ready, 2);
  } else if (lua_isnoneornil(L, 2)) {
    lua_settop(L, 1);
    lua_pushnil(L);
    rvl_json_decode(L, &default_options, 2);
  } else {
    rvl_json_options options;
    lua_settop(L, 2);
    read_options(L, 2, DECODE, &options);
    lua_pushliteral(L, "null");
    lua_rawget(L, 2);
    rvl_json_decode(L, &options, 3);
  }
  return 1;
}

static int json_encode(lua_State *L) {
  if (lua_isnone(L, 1)) {
    lua_pushliteral(L, "json.encode: a value is missing");
    return raise_argument(L);
  }
  const rvl_json_options *ready = lua_touserdata(L, lua_upvalueindex(RVL_JSON_OPTIONS));
  if (ready) {
    rvl_json_encode(L, ready);
  } else if (lua_isnoneornil(L, 2)) {
    rvl_json_encode(L, &default_options);
  } else {
    rvl_json_options options;
    read_options(L, 2, ENCODE, &options);
    rvl_json_encode(L, &options);
  }
  return 1;
}

/* A closure of `function` with the options at stack index 1 read once and for all. */
static int make_codec(lua_State *L, int where, lua_CFunction function) {
  lua_settop(L, 1);
  for (int i = RVL_JSON_ARRAY; i <= RVL_JSON_BUFFER; i++) lua_pushvalue(L, lua_upvalueindex(i));
  rvl_json_options *options = lua_newuserdatauv(L, sizeof *options, 0);
  read_options(L, 1, where, options);
  lua_pushnil(L);
  if (lua_istable(L, 1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "null");
    lua_rawget(L, 1);
  }
  lua_pushcclosure(L, function, RVL_JSON_NULL);
  return 1;
}

static int json_decoder(lua_State *L) {
  return make_codec(L, DECODE, json_decode);
}

static int json_encoder(lua_State *L) {
  return make_codec(L, ENCODE, json_encode);
}

/* Tags a table (a new one if none is given) by one of the two metatables. */
static int set_tag(lua_State *L, int tag, int other, const char *name) {
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_newtable(L);
    lua_replace(L, 1);
  }
  if (!lua_istable(L, 1)) {
    lua_pushfstring(L, "json.%s: wants a table, got a %s", name, luaL_typename(L, 1));
    return raise_argument(L);
  }
  if (lua_getmetatable(L, 1)) {
    if (!lua_rawequal(L, -1, lua_upvalueindex(tag)) && !lua_rawequal(L, -1, lua_upvalueindex(other))) {
      lua_pushfstring(L, "json.%s: the table has a metatable of its own", name);
      return raise_argument(L);
    }
    lua_pop(L, 1);
  }
  lua_pushvalue(L, lua_upvalueindex(tag));
  lua_setmetatable(L, 1);
  return 1;
}

static int json_array(lua_State *L) {
  return set_tag(L, RVL_JSON_ARRAY, RVL_JSON_OBJECT, "array");
}

static int json_object(lua_State *L) {
  return set_tag(L, RVL_JSON_OBJECT, RVL_JSON_ARRAY, "object");
}

static int json_is_array(lua_State *L) {
  bool tagged = lua_istable(L, 1) && lua_getmetatable(L, 1) && lua_rawequal(L, -1, lua_upvalueindex(RVL_JSON_ARRAY));
  lua_pushboolean(L, tagged);
  return 1;
}

/* ------------------------------------------------------------------------------------------------ opening */

static int light_tostring(lua_State *L) {
  const void *p = lua_touserdata(L, 1);
  if (p) {
    lua_pushfstring(L, "userdata: %p", p);
  } else {
    lua_pushliteral(L, "null");
  }
  return 1;
}

/* json.null is a light userdata so as to be cjson's too, and all of these share one metatable. It gets a __tostring, so
 * that null prints as null and the others as ever, unless the host has given it a metatable of its own. */
static void name_null(lua_State *L) {
  lua_pushlightuserdata(L, NULL);
  if (!lua_getmetatable(L, -1)) {
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, light_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
  } else {
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void push_tag(lua_State *L, const char *name) {
  lua_createtable(L, 0, 1);
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
}

int rvl_open_json(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"decode", json_decode},   {"encode", json_encode}, {"decoder", json_decoder},   {"encoder", json_encoder},
      {"array", json_array},     {"object", json_object}, {"is_array", json_is_array}, {NULL, NULL}};
  luaL_checkversion(L);
  luaL_newlibtable(L, functions);
  push_tag(L, "json.array");
  push_tag(L, "json.object");
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, rvl_json_free_buffer);
  lua_setfield(L, -2, "__gc");
  lua_pushnil(L);
  lua_pushnil(L);
  luaL_setfuncs(L, functions, RVL_JSON_NULL);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  name_null(L);
  return 1;
}
