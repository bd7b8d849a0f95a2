/* What the parts of riverlua.json share: lua_json.c (module, options, errors), json_decode.c, json_encode.c. */
#ifndef RVL_JSON_H
#define RVL_JSON_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Upvalues of every closure of the module. */
enum {
  RVL_JSON_ARRAY = 1,   /* metatable that marks an array */
  RVL_JSON_OBJECT = 2,  /* metatable that marks an object */
  RVL_JSON_BUFFER = 3,  /* metatable of the encoder's buffer */
  RVL_JSON_OPTIONS = 4, /* nil, or the userdata with the options of json.encoder and json.decoder */
  RVL_JSON_NULL = 5     /* what decoded nulls become: nil for json.null, else the option's value */
};

/* The recursion of both directions is bounded by the depth, so it has a ceiling that any thread's C stack can take. */
enum { RVL_JSON_DEPTH = 512, RVL_JSON_DEPTH_LIMIT = 2048, RVL_JSON_INDENT = 8 };

typedef enum { RVL_JSON_NAN_ERROR, RVL_JSON_NAN_NULL, RVL_JSON_NAN_BARE } rvl_json_nan;

typedef struct {
  size_t max_bytes; /* SIZE_MAX: no limit */
  int max_depth;
  rvl_json_nan nan;
  bool replace_utf8;
  bool bigint_string;
  bool drop_null;
  bool sort;
  bool pretty;
  size_t indent_length;
  char indent[RVL_JSON_INDENT];
} rvl_json_options;

/* One step of the way from the root to a value; lives on the C stack while its container is worked on. */
typedef struct rvl_json_frame {
  const struct rvl_json_frame *up;
  lua_Integer index; /* of the element, from 1; 0 if `key` counts, or nothing yet */
  int key;           /* stack index of the member's name; 0 for none */
} rvl_json_frame;

/* `$.rewards[17]["odd key"]`; of a very deep path the middle is left out. Pushes a string. */
void rvl_json_push_path(lua_State *L, const rvl_json_frame *frame);

/* Pushes how a message names the table key at the absolute stack index `key`. */
void rvl_json_push_key(lua_State *L, int key);

/* Raises a riverlua error of kind "json". The message is at stack index `message`; `path` likewise or 0; `hint` may be
 * NULL; `offset`, `line` and `column` are left out if 0. */
int rvl_json_raise(lua_State *L, int message, int path, const char *hint, size_t offset, size_t line, size_t column);

/* Decodes the string at stack index 1 and pushes the value. `null` is the stack index of what nulls become. */
void rvl_json_decode(lua_State *L, const rvl_json_options *options, int null);

/* Encodes the value at stack index 1 and pushes the text. */
void rvl_json_encode(lua_State *L, const rvl_json_options *options);

/* __gc of the encoder's buffer. */
int rvl_json_free_buffer(lua_State *L);

/* A byte that stands for itself in a JSON string: not a quote, backslash, control character or non-ASCII. */
static inline bool rvl_json_is_plain(char c) {
  return (unsigned char)(c - 0x20) < 0x60 && c != '"' && c != '\\';
}

#if defined(__SSE2__)
/* One bit for each of 16 bytes that is not plain. */
static inline unsigned rvl_json_special(__m128i bytes) {
  const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
  __m128i special = _mm_or_si128(_mm_cmplt_epi8(bytes, space), /* signed: non-ASCII is negative */
                                 _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
  return (unsigned)_mm_movemask_epi8(special);
}
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && defined(__GNUC__)
#define RVL_JSON_WORDS 1
/* The top bit of each of 8 bytes that is not plain. The lowest flag is right; others may be off by a borrow. */
static inline uint64_t rvl_json_special_word(uint64_t w) {
  const uint64_t ones = UINT64_C(0x0101010101010101);
  return (w | (w - ones * 0x20) | ((w ^ ones * '"') - ones) | ((w ^ ones * '\\') - ones)) & ones << 7;
}
#endif

/* The first byte from `p` on that is not plain, or `end`. */
static inline const char *rvl_json_skip(const char *p, const char *end) {
#if defined(__SSE2__)
  for (; end - p >= 16; p += 16) {
    unsigned special = rvl_json_special(_mm_loadu_si128((const __m128i *)(const void *)p));
    if (special) return p + __builtin_ctz(special);
  }
#endif
#if defined(RVL_JSON_WORDS)
  for (; end - p >= 8; p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    word = rvl_json_special_word(word);
    if (word) return p + __builtin_ctzll(word) / 8;
  }
#endif
  while (p < end && rvl_json_is_plain(*p)) p++;
  return p;
}

/* Copies what rvl_json_skip would skip and returns how many bytes that is. */
static inline size_t rvl_json_copy(char *out, const char *p, const char *end) {
  const char *start = p;
#if defined(__SSE2__)
  for (; end - p >= 16; p += 16, out += 16) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    unsigned special = rvl_json_special(bytes);
    _mm_storeu_si128((__m128i *)(void *)out, bytes); /* the bytes after a special one are overwritten later */
    if (special) return (size_t)(p - start) + (size_t)__builtin_ctz(special);
  }
#endif
#if defined(RVL_JSON_WORDS)
  for (; end - p >= 8; p += 8, out += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    memcpy(out, &word, 8);
    word = rvl_json_special_word(word);
    if (word) return (size_t)(p - start) + (size_t)__builtin_ctzll(word) / 8;
  }
#endif
  while (p < end && rvl_json_is_plain(*p)) *out++ = *p++;
  return (size_t)(p - start);
}

#endif
