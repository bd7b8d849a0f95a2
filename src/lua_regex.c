/*
** riverlua.core.regex: PCRE2 for lua/riverlua/regex.lua, with bounded time and memory.
**
** compile(pattern, flags) makes an object, or gives nil, a message and an offset; find(text, init) searches.
** PCRE2 counts the steps of each place where a match may begin on its own, so a hostile text could multiply its limit by
** its length. Here the places are searched in windows: a window shares one allowance, is halved when that is used up and
** doubled when it was enough; a single place that needs more is beyond the limit, and so is a search that takes more
** than LONGEST_SECONDS of processor time. Memory comes from Lua's allocator.
*/
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime.h"
#include "utf8.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REGEX "riverlua.regex.Regex"
#define LONGEST_SECONDS 1.0

enum {
  LONGEST_PATTERN = 1 << 16,  /* bytes, after translation */
  DEEPEST_GROUPS = 100,
  LONGEST_TEXT = 1 << 20,     /* bytes */
  MOST_STEPS = 2000000,       /* of one window */
  HEAP_KIB = 32 * 1024,       /* what backtracking may take */
  WINDOW_WORK = 1 << 30       /* places of a window × bytes that each may look at */
};
#define RUN_WORK (1ull << 33)   /* steps × bytes that each may look at */

typedef struct regex {
  lua_Alloc alloc;
  void *alloc_data;
  bool anchored;
  pcre2_code *code;
  pcre2_match_data *found;
  pcre2_match_context *limits;
} regex;

/* ------------------------------------------------------------------------------------------------ memory */

/* Lua's allocator wants to know the size of what it frees: it is kept in front of the block. */
typedef union header {
  size_t size;
  max_align_t alignment;
} header;

static void *allocate(size_t size, void *data) {
  regex *r = data;
  if (size > SIZE_MAX - sizeof(header)) return NULL;
  header *h = r->alloc(r->alloc_data, NULL, 0, size + sizeof(header));
  if (h == NULL) return NULL;
  h->size = size + sizeof(header);
  return h + 1;
}

static void release(void *block, void *data) {
  regex *r = data;
  if (block == NULL) return;
  header *h = (header *)block - 1;
  r->alloc(r->alloc_data, h, h->size, 0);
}

static int regex_close(lua_State *L) {
  regex *r = luaL_checkudata(L, 1, REGEX);
  pcre2_match_context_free(r->limits);
  pcre2_match_data_free(r->found);
  pcre2_code_free(r->code);
  r->limits = NULL;
  r->found = NULL;
  r->code = NULL;
  return 0;
}

static int out_of_memory(lua_State *L) {
  return rvl_raise(L, "memory", NULL, "regex: not enough memory");
}

/* ------------------------------------------------------------------------------------------------ compiling */

static uint32_t options_of(const char *flags) {
  uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
  for (; *flags; flags++) {
    switch (*flags) {
      case 'i': options |= PCRE2_CASELESS; break;
      case 'm': options |= PCRE2_MULTILINE; break;
      case 's': options |= PCRE2_DOTALL; break;
      case 'x': options |= PCRE2_EXTENDED; break;
      case 'u': options |= PCRE2_UCP; break;
      case 'e': options |= PCRE2_DOLLAR_ENDONLY | PCRE2_MATCH_UNSET_BACKREF | PCRE2_ALLOW_EMPTY_CLASS; break;
      default: break;
    }
  }
  return options;
}

/* The code, or NULL with the number of the error; *error is 0 where a context could not be made. */
static pcre2_code *build(regex *r, pcre2_general_context *general, const char *pattern, size_t length, const char *flags,
                         int *error, size_t *offset) {
  *error = 0;
  pcre2_compile_context *context = pcre2_compile_context_create(general);
  if (context == NULL) return NULL;
  pcre2_set_parens_nest_limit(context, DEEPEST_GROUPS);
  pcre2_set_newline(context, strchr(flags, 'e') ? PCRE2_NEWLINE_ANYCRLF : PCRE2_NEWLINE_LF);
  r->code = pcre2_compile((PCRE2_SPTR)pattern, length, options_of(flags), error, offset, context);
  pcre2_compile_context_free(context);
  return r->code;
}

/* Everything a search needs; false with the error as above. */
static bool prepare(regex *r, const char *pattern, size_t length, const char *flags, int *error, size_t *offset) {
  *error = 0;
  pcre2_general_context *general = pcre2_general_context_create(allocate, release, r);
  if (general == NULL) return false;
  if (build(r, general, pattern, length, flags, error, offset)) {
    *error = 0;
    uint32_t options = 0;
    pcre2_pattern_info(r->code, PCRE2_INFO_ALLOPTIONS, &options);
    r->anchored = (options & PCRE2_ANCHORED) != 0;
    r->limits = pcre2_match_context_create(general);
    r->found = pcre2_match_data_create_from_pattern(r->code, general);
    if (r->limits) pcre2_set_heap_limit(r->limits, HEAP_KIB);
  }
  pcre2_general_context_free(general);
  return r->limits && r->found;
}

static bool lacks_memory(int error) {
  return error == 0 || error == PCRE2_ERROR_HEAP_FAILED;
}

/* compile(pattern, flags) → object, or nil, what is wrong and after how many bytes */
static int regex_compile(lua_State *L) {
  size_t length, offset = 0;
  const char *pattern = luaL_checklstring(L, 1, &length);
  const char *flags = luaL_checkstring(L, 2);
  int error = 0;
  if (length > LONGEST_PATTERN)
    return rvl_raise(L, "limit", NULL, "regex: a pattern may have %d bytes, this one has more", LONGEST_PATTERN);
  regex *r = lua_newuserdatauv(L, sizeof *r, 0);
  *r = (regex){.code = NULL};
  r->alloc = lua_getallocf(L, &r->alloc_data);
  luaL_setmetatable(L, REGEX);
  if (!prepare(r, pattern, length, flags, &error, &offset) && lacks_memory(error)) {
    lua_pushcfunction(L, regex_close);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
    lua_gc(L, LUA_GCCOLLECT);   /* as Lua does before it gives up */
    prepare(r, pattern, length, flags, &error, &offset);
  }
  if (r->limits && r->found) return 1;
  if (lacks_memory(error)) return out_of_memory(L);
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(error, message, sizeof message);
  lua_pushnil(L);
  lua_pushstring(L, (const char *)message);
  lua_pushinteger(L, (lua_Integer)offset);
  return 3;
}

/* ------------------------------------------------------------------------------------------------ searching */

/* The number of bytes before the first ill-formed sequence. */
static size_t valid_prefix(const char *text, size_t length) {
  const unsigned char *p = (const unsigned char *)text, *end = p + length;
  size_t bad;
  while (p < end) {
    size_t step = rvl_utf8_sequence(p, end, &bad);
    if (step == 0) break;
    p += step;
  }
  return (size_t)(p - (const unsigned char *)text);
}

static size_t align(const char *text, size_t length, size_t at) {
  while (at < length && rvl_utf8_continues((unsigned char)text[at])) at++;
  return at;
}

static double cpu_seconds(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return 0;
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Matches that begin at one of `places` bytes from `from` on. */
static int search_window(regex *r, const char *text, size_t length, size_t from, size_t places) {
  uint64_t steps = RUN_WORK / (length + 1) / places, most = MOST_STEPS / places;
  if (steps > most) steps = most;
  pcre2_set_offset_limit(r->limits, from + places - 1);
  pcre2_set_match_limit(r->limits, steps > 0 ? (uint32_t)steps : 1);
  return pcre2_match(r->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, r->found, r->limits);
}

static int search(regex *r, const char *text, size_t length, size_t from) {
  size_t widest = WINDOW_WORK / (length + 1), window = widest;
  double begun = 0;
  while (from <= length) {
    size_t left = length - from + 1;
    size_t places = r->anchored ? 1 : left < window ? left : window;
    int status = search_window(r, text, length, from, places);
    bool exhausted = status == PCRE2_ERROR_MATCHLIMIT;
    if (status != PCRE2_ERROR_NOMATCH && !(exhausted && places > 1)) return status;
    if (!exhausted) {
      if (r->anchored || places == left) return status;
      from = align(text, length, from + places);
    }
    window = exhausted ? places / 2 : window < widest / 2 ? window * 2 : widest;
    if (begun <= 0) begun = cpu_seconds();
    else if (cpu_seconds() - begun > LONGEST_SECONDS) return PCRE2_ERROR_MATCHLIMIT;
  }
  return PCRE2_ERROR_NOMATCH;
}

static int fail(lua_State *L, int status) {
  if (status == PCRE2_ERROR_NOMEMORY) return out_of_memory(L);
  if (status == PCRE2_ERROR_MATCHLIMIT || status == PCRE2_ERROR_HEAPLIMIT || status == PCRE2_ERROR_DEPTHLIMIT)
    return rvl_raise(L, "limit", "nested or neighbouring repetitions of the same characters take long to try",
                     "regex: the search takes too many steps");
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(status, message, sizeof message);
  return rvl_raise(L, "argument", NULL, "regex: %s", (const char *)message);
}

static int push_span(lua_State *L, const regex *r, const char *text, int count) {
  const PCRE2_SIZE *span = pcre2_get_ovector_pointer(r->found);
  uint32_t groups = pcre2_get_ovector_count(r->found);
  luaL_checkstack(L, (int)groups + 2, "too many groups");
  lua_pushinteger(L, (lua_Integer)span[0] + 1);
  lua_pushinteger(L, (lua_Integer)span[1]);
  for (uint32_t i = 1; i < groups; i++) {
    if (i < (uint32_t)count && span[2 * i] != PCRE2_UNSET)
      lua_pushlstring(L, text + span[2 * i], span[2 * i + 1] - span[2 * i]);
    else
      lua_pushnil(L);
  }
  return (int)groups + 1;
}

/* find(text, init, checked) → start, stop, groups (nil: not taken part), or nil; checked: the text is known to be UTF-8 */
static int regex_find(lua_State *L) {
  regex *r = luaL_checkudata(L, 1, REGEX);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  lua_Integer init = luaL_optinteger(L, 3, 1);
  if (r->code == NULL) return rvl_raise(L, "closed", NULL, "regex: the object has been closed");
  if (length > LONGEST_TEXT)
    return rvl_raise(L, "limit", NULL, "regex: a text may have %d bytes, this one has more", LONGEST_TEXT);
  if (!lua_toboolean(L, 4)) {
    size_t valid = valid_prefix(text, length);
    if (valid < length)
      return rvl_raise(L, "argument", NULL, "regex: the text is not UTF-8 (at byte %I)", (LUAI_UACINT)valid + 1);
  }
  if (init < 0) init = init < -(lua_Integer)length ? 1 : (lua_Integer)length + init + 1;
  if (init == 0) init = 1;
  if (init > (lua_Integer)length + 1) {
    lua_pushnil(L);
    return 1;
  }
  size_t from = align(text, length, (size_t)init - 1);
  int status = search(r, text, length, from);
  if (status == PCRE2_ERROR_NOMEMORY) {
    lua_gc(L, LUA_GCCOLLECT);
    status = search(r, text, length, from);
  }
  if (status == PCRE2_ERROR_NOMATCH) {
    lua_pushnil(L);
    return 1;
  }
  return status < 0 ? fail(L, status) : push_span(L, r, text, status);
}

int rvl_open_regex(lua_State *L) {
  static const luaL_Reg methods[] = {{"find", regex_find}, {"close", regex_close}, {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__gc", regex_close}, {"__close", regex_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"compile", regex_compile}, {NULL, NULL}};
  rvl_new_class(L, REGEX, methods, metamethods);
  rvl_new_functions(L, functions);
  return 1;
}
