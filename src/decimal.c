#include "decimal.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pow10.h"

typedef struct {
  uint64_t high, low;
} u128;

static u128 multiply(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
  __extension__ typedef unsigned __int128 wide;
  wide product = (wide)a * b;
  return (u128){(uint64_t)(product >> 64), (uint64_t)product};
#else
  uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
  uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  uint64_t cross = a0 * b1 + (uint32_t)middle;
  return (u128){a1 * b1 + (middle >> 32) + (cross >> 32), a * b};
#endif
}

/* floor(log2(10^e)), right for every exponent of the table. */
static int log2_of_pow10(int e) {
  return (int)((int64_t)e * 1741647 >> 19);
}

static double from_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* ------------------------------------------------------------------------------------------------ writing */

static const char digit_pairs[] =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849505152535455"
    "5657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

static void put_pair(char *out, uint32_t below_100) {
  memcpy(out, digit_pairs + 2 * below_100, 2);
}

/* Exactly eight digits, with leading zeros. */
static void put_eight(char *out, uint32_t n) {
  uint32_t high = n / 10000, low = n % 10000;
  put_pair(out, high / 100);
  put_pair(out + 2, high % 100);
  put_pair(out + 4, low / 100);
  put_pair(out + 6, low % 100);
}

/* Up to eight digits without leading zeros. */
static size_t put_short(char *out, uint32_t n) {
  size_t length = n < 10 ? 1 : n < 100 ? 2 : n < 1000 ? 3 : n < 10000 ? 4 : n < 100000 ? 5 : n < 1000000 ? 6
                  : n < 10000000 ? 7 : 8;
  size_t at = length;
  while (at >= 2) {
    at -= 2;
    put_pair(out + at, n % 100);
    n /= 100;
  }
  if (at) out[0] = (char)('0' + n);
  return length;
}

static size_t put_digits(char *out, uint64_t n) {
  if (n < 100000000) return put_short(out, (uint32_t)n);
  uint64_t high = n / 100000000;
  size_t length = put_digits(out, high);
  put_eight(out + length, (uint32_t)(n % 100000000));
  return length + 8;
}

size_t rvl_decimal_from_int64(char *out, int64_t value) {
  if (value >= 0) return put_digits(out, (uint64_t)value);
  out[0] = '-';
  return 1 + put_digits(out + 1, 0 - (uint64_t)value);
}

/* g times n, over 2^128, as an integer whose lowest bit also records whether anything was cut off. The bits below the
 * lowest two cannot be told from rounding of the table, and never matter (Giulietti's proof). */
static uint64_t scaled(u128 g, uint64_t n) {
  u128 low = multiply(g.low, n), high = multiply(g.high, n);
  uint64_t middle = high.low + low.high;
  uint64_t top = high.high + (middle < low.high);
  return top | (middle > 1);
}

/* 10^e rounded up to 128 bits; from 10^56 on (and below one) the table's entry is never exact. */
static u128 pow10_above(int e) {
  u128 g = {pow10_table[e - POW10_FIRST].high, pow10_table[e - POW10_FIRST].low};
  if (e < 0 || e > 55) {
    g.low++;
    g.high += g.low == 0;
  }
  return g;
}

/* The shortest decimal inside the rounding interval of a positive finite double, the closest one where there are
 * several, by Raffaello Giulietti's Schubfach: scale value and interval by the power of ten that leaves one or two
 * candidates, all times four so that the ends of the interval are integers too. */
static uint64_t shortest(uint64_t bits, int *exponent) {
  uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
  int biased = (int)(bits >> 52);
  uint64_t c = biased ? fraction | UINT64_C(1) << 52 : fraction;
  int q = (biased ? biased : 1) - 1075;
  bool closer_below = fraction == 0 && biased > 1; /* the next smaller double is only half as far away */
  int k = (q * 1262611 - (closer_below ? 524031 : 0)) >> 22; /* floor(log10(2^q)), or of 3/4 of it */
  int shift = q + log2_of_pow10(-k) + 1;
  u128 g = pow10_above(-k);
  uint64_t low = scaled(g, (4 * c - 2 + closer_below) << shift);
  uint64_t value = scaled(g, 4 * c << shift);
  uint64_t high = scaled(g, (4 * c + 2) << shift);
  low += c & 1; /* the ends belong to the interval only of an even number */
  high -= c & 1;

  uint64_t s = value / 4;
  if (s >= 10) {
    uint64_t tens = s / 10;
    bool below = low <= 40 * tens, above = 40 * tens + 40 <= high;
    if (below != above) {
      *exponent = k + 1;
      return tens + above;
    }
  }
  *exponent = k;
  bool below = low <= 4 * s, above = 4 * s + 4 <= high;
  if (below != above) return s + above;
  uint64_t middle = 4 * s + 2;
  return s + (value > middle || (value == middle && (s & 1)));
}

/* Digits and decimal point in Python's layout: fixed from 1e-4 up to below 1e16, an exponent elsewhere. */
static size_t lay_out(char *out, uint64_t number, int exponent) {
  char digits[24];
  while (number % 100000000 == 0) {
    number /= 100000000;
    exponent += 8;
  }
  int length = (int)put_digits(digits, number);
  int point = length + exponent; /* the value is 0.digits times 10^point */
  while (digits[length - 1] == '0') length--;
  char *o = out;
  if (point > 16 || point < -3) {
    *o++ = digits[0];
    if (length > 1) {
      *o++ = '.';
      memcpy(o, digits + 1, (size_t)length - 1);
      o += length - 1;
    }
    int e = point - 1;
    *o++ = 'e';
    *o++ = e < 0 ? '-' : '+';
    uint32_t magnitude = (uint32_t)(e < 0 ? -e : e);
    if (magnitude < 10) *o++ = '0';
    o += put_short(o, magnitude);
  } else if (point <= 0) {
    memcpy(o, "0.000", 5);
    o += 2 - point;
    memcpy(o, digits, (size_t)length);
    o += length;
  } else if (point >= length) {
    memcpy(o, digits, (size_t)length);
    memset(o + length, '0', (size_t)(point - length));
    o += point;
    memcpy(o, ".0", 2);
    o += 2;
  } else {
    memcpy(o, digits, (size_t)point);
    o[point] = '.';
    memcpy(o + point + 1, digits + point, (size_t)(length - point));
    o += length + 1;
  }
  return (size_t)(o - out);
}

size_t rvl_decimal_from_double(char *out, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  size_t sign = bits >> 63;
  if (sign) out[0] = '-';
  out += sign;
  bits &= ~(UINT64_C(1) << 63);
  double magnitude = from_bits(bits);
  if (magnitude < 9007199254740992.0) { /* below 2^53 an integral value has just its own digits */
    int64_t whole = (int64_t)magnitude;
    if ((double)whole >= magnitude) {
      size_t length = put_digits(out, (uint64_t)whole);
      memcpy(out + length, ".0", 2);
      return sign + length + 2;
    }
  }
  int exponent;
  uint64_t digits = shortest(bits, &exponent);
  return sign + lay_out(out, digits, exponent);
}

/* ------------------------------------------------------------------------------------------------ reading */

static const double exact_pow10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                     1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static int leading_zeros(uint64_t n) {
#if defined(__GNUC__)
  return __builtin_clzll(n);
#else
  int count = 0;
  for (; !(n >> 63); n <<= 1) count++;
  return count;
#endif
}

/* Eisel and Lemire: the product of the digits and 128 bits of the power of ten nearly always decides the rounding.
 * False where it does not, or where the result is not a normal number. */
static bool product_decides(uint64_t digits, int exponent, double *out) {
  int zeros = leading_zeros(digits);
  digits <<= zeros;
  uint64_t ten_high = pow10_table[exponent - POW10_FIRST].high, ten_low = pow10_table[exponent - POW10_FIRST].low;
  u128 x = multiply(digits, ten_high);
  if ((x.high & 0x1ff) == 0x1ff && x.low + digits < digits) { /* the cut-off bits could carry into the result */
    u128 y = multiply(digits, ten_low);
    uint64_t low = x.low + y.high;
    x.high += low < x.low;
    x.low = low;
    if ((x.high & 0x1ff) == 0x1ff && low == UINT64_MAX && y.low + digits < digits) return false;
  }
  int top = (int)(x.high >> 63);
  uint64_t mantissa = x.high >> (top + 9);
  if (x.low == 0 && (x.high & 0x1ff) == 0 && (mantissa & 3) == 1) return false; /* perhaps exactly half way */
  int biased = log2_of_pow10(exponent) + 63 + 1 - zeros + 1023 - 1 + top;
  mantissa = (mantissa + (mantissa & 1)) >> 1;
  if (mantissa >> 53) {
    mantissa >>= 1;
    biased++;
  }
  if (biased < 1 || biased > 2046) return false;
  *out = from_bits((uint64_t)biased << 52 | (mantissa & ((UINT64_C(1) << 52) - 1)));
  return true;
}

static bool quick_double(uint64_t digits, int64_t exponent, double *out) {
  if (digits == 0) {
    *out = 0.0;
    return true;
  }
#if FLT_EVAL_METHOD == 0
  if (digits <= UINT64_C(1) << 53 && exponent >= -22 && exponent <= 22) { /* both exact, so one rounding */
    double d = (double)digits;
    *out = exponent < 0 ? d / exact_pow10[-exponent] : d * exact_pow10[exponent];
    return true;
  }
#endif
  if (exponent < POW10_FIRST || exponent > 308) return false;
  return product_decides(digits, (int)exponent, out);
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/* The rare rest: strtod is exact. It gets the significant digits and an exponent but no decimal point, the one thing
 * in which locales differ. No double or midpoint of doubles has more than 768 digits, so that a single 1 may stand
 * for whatever follows them. `exponent` is that of the last digit. */
static double slow_double(const char *text, const char *end, int64_t exponent) {
  enum { MOST = 780 };
  char copy[MOST + 32];
  size_t length = 0;
  bool more = false;
  for (; text < end; text++) {
    if (!is_digit(*text)) continue;
    if (length < MOST) {
      if (length || *text != '0') copy[length++] = *text;
    } else {
      more = more || *text != '0';
      exponent++;
    }
  }
  if (length == 0) return 0.0;
  if (more) {
    copy[length++] = '1';
    exponent--;
  }
  int64_t point = exponent + (int64_t)length;
  if (point > 310) return HUGE_VAL;
  if (point < -330) return 0.0;
  copy[length++] = 'e';
  copy[length + rvl_decimal_from_int64(copy + length, exponent)] = '\0';
  return strtod(copy, NULL);
}

/* More than 19 digits: the first 19 and the next number up bracket the value; where both round to the same double it
 * is the answer. `digits_end` is the end of the digits, which may contain a point. */
static double long_double_text(const char *text, const char *digits_end, int64_t exponent) {
  uint64_t digits = 0;
  int taken = 0;
  int64_t dropped = 0;
  for (const char *p = text; p < digits_end; p++) {
    if (!is_digit(*p)) continue;
    if (taken == 19) {
      dropped++;
    } else if (digits || *p != '0') {
      digits = digits * 10 + (uint64_t)(*p - '0');
      taken++;
    }
  }
  double low, high;
  if (quick_double(digits, exponent + dropped, &low) &&
      (dropped == 0 || (quick_double(digits + 1, exponent + dropped, &high) && !(low < high)))) {
    return low;
  }
  return slow_double(text, digits_end, exponent);
}

/* Adds a run of digits to *digits (modulo 2^64), eight at a time where they come in eights. */
static const char *eat_digits(const char *p, const char *end, uint64_t *digits) {
  uint64_t n = *digits;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  while (end - p >= 8) {
    uint64_t w;
    memcpy(&w, p, 8);
    uint64_t v = w - UINT64_C(0x3030303030303030);
    if ((v | (w + UINT64_C(0x4646464646464646))) & UINT64_C(0x8080808080808080)) break;
    v = v * 10 + (v >> 8); /* pairs, then groups of four, then all eight */
    v = ((v & UINT64_C(0x000000ff000000ff)) * UINT64_C(0x000f424000000064) +
         ((v >> 16) & UINT64_C(0x000000ff000000ff)) * UINT64_C(0x0000271000000001)) >> 32;
    n = n * 100000000 + (uint32_t)v;
    p += 8;
  }
#else
  (void)end;
#endif
  while (is_digit(*p)) n = n * 10 + (uint64_t)(*p++ - '0');
  *digits = n;
  return p;
}

/* Adds the exponent after the 'e' at *p. False, with *p at the offending byte, if there is none. */
static bool eat_exponent(const char **p, int64_t *exponent) {
  const char *q = *p + 1;
  bool negative = *q == '-';
  if (*q == '-' || *q == '+') q++;
  *p = q;
  if (!is_digit(*q)) return false;
  int64_t n = 0;
  for (; is_digit(*q); q++) {
    if (n < INT64_C(100000000000000000)) n = n * 10 + (*q - '0'); /* beyond any length of digits in memory */
  }
  *exponent += negative ? -n : n;
  *p = q;
  return true;
}

static void finish_integer(rvl_decimal *out, uint64_t digits, int64_t count, bool negative) {
  if (count < 19 || (count == 19 && digits <= (uint64_t)INT64_MAX + negative)) {
    out->kind = RVL_DECIMAL_INTEGER;
    out->integer = negative ? (int64_t)(0 - digits) : (int64_t)digits;
  } else {
    out->kind = RVL_DECIMAL_BIG;
  }
}

void rvl_decimal_scan(rvl_decimal *out, const char *text, const char *end) {
  const char *p = text;
  bool negative = *p == '-';
  p += negative;
  const char *first = p;
  uint64_t digits = 0;
  out->kind = RVL_DECIMAL_BAD;
  out->end = p;
  if (!is_digit(*p)) return;
  p = eat_digits(p, end, &digits);
  if (*first == '0' && p > first + 1) {
    out->end = first + 1;
    return;
  }
  int64_t count = p - first, exponent = 0;
  const char *digits_end = p;
  bool integral = true;
  if (*p == '.') {
    integral = false;
    const char *fraction = ++p;
    out->end = p;
    if (!is_digit(*p)) return;
    p = digits_end = eat_digits(p, end, &digits);
    exponent = fraction - p;
    count += p - fraction;
  }
  if (*p == 'e' || *p == 'E') {
    integral = false;
    if (!eat_exponent(&p, &exponent)) {
      out->end = p;
      return;
    }
  }
  out->end = p;
  if (integral) {
    finish_integer(out, digits, count, negative);
    if (out->kind == RVL_DECIMAL_INTEGER) return;
  } else {
    out->kind = RVL_DECIMAL_REAL;
  }
  double value;
  if (count > 19) {
    value = long_double_text(first, digits_end, exponent);
  } else if (!quick_double(digits, exponent, &value)) {
    value = slow_double(first, digits_end, exponent);
  }
  out->real = negative ? -value : value;
}
