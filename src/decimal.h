/* Numbers to text and back, exactly and without the locale. Pure functions; no allocation, no Lua. */
#ifndef RVL_DECIMAL_H
#define RVL_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

/* Room for any text written here; nothing is terminated by a NUL. */
enum { RVL_DECIMAL_SIZE = 32 };

/* Writes `value` and returns the length. */
size_t rvl_decimal_from_int64(char *out, int64_t value);

/* Writes the shortest text that reads back as `value`, which must be finite, in the form of Python's repr: `1.0`,
 * `1e+16`, `1e-05`, `-0.0`. It always has a point or an exponent, so that it never looks like an integer. */
size_t rvl_decimal_from_double(char *out, double value);

typedef enum {
  RVL_DECIMAL_BAD,     /* no number; `end` is the offending byte */
  RVL_DECIMAL_INTEGER, /* `integer` holds it */
  RVL_DECIMAL_BIG,     /* an integer beyond int64; `real` is the nearest double, infinite if too large */
  RVL_DECIMAL_REAL     /* `real` is the nearest double (ties to even), infinite if too large */
} rvl_decimal_kind;

typedef struct {
  rvl_decimal_kind kind;
  int64_t integer;
  double real;
  const char *end; /* first byte after the number */
} rvl_decimal;

/* Reads the longest prefix of `text` that is a number by the grammar of JSON. The byte at `end` must be readable and
 * no part of a number (a Lua string's final NUL will do). */
void rvl_decimal_scan(rvl_decimal *out, const char *text, const char *end);

#endif
