/* UTF-8, checked by the table of well-formed sequences in the Unicode standard (no overlong forms, no surrogates). */
#ifndef RVL_UTF8_H
#define RVL_UTF8_H

#include <stddef.h>

static inline int rvl_utf8_continues(unsigned char c) {
  return (c & 0xc0) == 0x80;
}

/* How many bytes the sequence at `p` has: 1 to 4, or 0 if it is ill-formed or cut off at `end`; then *bad is the
 * length of the longest piece that could have begun a sequence (at least 1), which one U+FFFD replaces. */
static inline size_t rvl_utf8_sequence(const unsigned char *p, const unsigned char *end, size_t *bad) {
  unsigned char c = *p, low = 0x80, high = 0xbf;
  size_t length = 2;
  if (c < 0x80) return 1;
  *bad = 1;
  if (c < 0xc2 || c > 0xf4) return 0;
  if (c >= 0xf0) {
    length = 4;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
  } else if (c >= 0xe0) {
    length = 3;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
  }
  if (end - p < 2 || p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < length; i++) {
    *bad = i;
    if ((size_t)(end - p) <= i || !rvl_utf8_continues(p[i])) return 0;
  }
  return length;
}

/* Writes `code`, which must be a scalar value, and returns the length. */
static inline size_t rvl_utf8_put(char *out, unsigned code) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = (char)(0xe0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 0x3f));
    out[2] = (char)(0x80 | (code & 0x3f));
    return 3;
  }
  out[0] = (char)(0xf0 | code >> 18);
  out[1] = (char)(0x80 | (code >> 12 & 0x3f));
  out[2] = (char)(0x80 | (code >> 6 & 0x3f));
  out[3] = (char)(0x80 | (code & 0x3f));
  return 4;
}

#endif
