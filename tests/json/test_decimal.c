/* decimal.c against the C library, which is exact but slow: shortest means that no shorter decimal reads back. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "decimal.h"

static uint64_t random_bits(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static double as_double(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint64_t as_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static void check_read(const char *text) {
  rvl_decimal got;
  double expected = strtod(text, NULL);
  rvl_decimal_scan(&got, text, text + strlen(text));
  if (got.kind == RVL_DECIMAL_INTEGER) got.real = (double)got.integer;
  if (got.kind == RVL_DECIMAL_BAD || *got.end || as_bits(got.real) != as_bits(expected)) {
    if (!(got.real <= 0 && got.real >= 0 && expected <= 0 && expected >= 0)) { /* -0 is the integer 0 */
      fail_msg("reading %s: got %a, want %a", text, got.real, expected);
    }
  }
}

/* Any decimal of `digits` digits that reads back as `value`? Only the three around it can. */
static int fits_in(double value, int digits) {
  char text[64];
  if (digits < 1) return 0;
  snprintf(text, sizeof text, "%.*e", digits - 1, value);
  char *e = strchr(text, 'e');
  int exponent = atoi(e + 1) - (digits - 1);
  uint64_t number = 0;
  for (char *p = text; p < e; p++) {
    if (*p >= '0' && *p <= '9') number = number * 10 + (uint64_t)(*p - '0');
  }
  for (int d = -1; d <= 1; d++) {
    snprintf(text, sizeof text, "%llue%d", (unsigned long long)(number + (uint64_t)d), exponent);
    if (as_bits(strtod(text, NULL)) == as_bits(value)) return 1;
  }
  return 0;
}

/* The next digit in a number's text; leading zeros do not count. */
static const char *next_digit(const char *p, int leading) {
  while (*p < (leading ? '1' : '0') || *p > '9') p++;
  return p;
}

static void check_double(double value) {
  if (!isfinite(value)) return;
  char text[RVL_DECIMAL_SIZE + 1], nearest[64];
  size_t length = rvl_decimal_from_double(text, value);
  assert_true(length < RVL_DECIMAL_SIZE);
  text[length] = '\0';
  if (as_bits(strtod(text, NULL)) != as_bits(value)) fail_msg("%a was written as %s", value, text);
  if (!strpbrk(text, ".e")) fail_msg("%s looks like an integer", text);
  rvl_decimal back;
  rvl_decimal_scan(&back, text, text + length);
  if (back.kind != RVL_DECIMAL_REAL || back.end != text + length || as_bits(back.real) != as_bits(value)) {
    fail_msg("%s read back as %a", text, back.real);
  }
  if (value <= 0 && value >= 0) return;
  int digits = 0, zeros = 0;
  for (const char *p = text; *p && *p != 'e'; p++) {
    if (*p < '0' || *p > '9' || (*p == '0' && digits == 0)) continue;
    digits++;
    zeros = *p == '0' ? zeros + 1 : 0;
  }
  digits -= zeros;
  if (fits_in(fabs(value), digits - 1)) fail_msg("%s is not the shortest", text);
  snprintf(nearest, sizeof nearest, "%.*e", digits - 1, value); /* of that many digits: must be ours if it is right */
  if (as_bits(strtod(nearest, NULL)) != as_bits(value)) return;
  const char *p = text, *q = nearest;
  for (int seen = 0; seen < digits; seen++) {
    p = next_digit(p, seen == 0);
    q = next_digit(q, seen == 0);
    if (*p++ != *q++) fail_msg("%s is not the nearest (%s)", text, nearest);
  }
}

static void around(double value) {
  uint64_t bits = as_bits(value);
  for (uint64_t d = 0; d < 4; d++) {
    check_double(as_double(bits + d));
    check_double(-as_double(bits + d));
    if (bits >= d) check_double(as_double(bits - d));
  }
}

static void test_powers(void **state) {
  (void)state;
  for (int e = -1074; e <= 1023; e++) around(ldexp(1.0, e));
  for (int e = -323; e <= 308; e++) {
    char text[16];
    snprintf(text, sizeof text, "1e%d", e);
    around(strtod(text, NULL));
    text[0] = '9';
    around(strtod(text, NULL));
  }
  around(DBL_MIN);
  around(DBL_TRUE_MIN);
  around(DBL_MAX);
  around(0.0);
}

static void test_random_doubles(void **state) {
  (void)state;
  uint64_t seed = 7;
  for (int i = 0; i < 100000; i++) {
    uint64_t bits = random_bits(&seed);
    check_double(as_double(bits));
    check_double(as_double(bits & UINT64_C(0x800fffffffffffff)));      /* subnormal */
    check_double((double)(random_bits(&seed) % 2000000) / 1000.0);      /* short decimals */
    check_double((double)(int64_t)(random_bits(&seed) >> (bits % 64))); /* integral, of every size */
  }
}

static void test_layout_is_that_of_python(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0.0, "0.0"},       {-0.0, "-0.0"},       {1.0, "1.0"},           {-1.5, "-1.5"},
               {1e15, "1000000000000000.0"}, {1e16, "1e+16"}, {1.5e16, "1.5e+16"}, {1e22, "1e+22"},
               {1e-4, "0.0001"},   {1.25e-4, "0.000125"}, {1e-5, "1e-05"},        {1.5e-10, "1.5e-10"},
               {1e100, "1e+100"},  {5e-324, "5e-324"},   {0.1, "0.1"},           {123456.789, "123456.789"},
               {1.7976931348623157e308, "1.7976931348623157e+308"}, {2.5e-7, "2.5e-07"},
               {9007199254740993.0, "9007199254740992.0"}, {1234567890123456.5, "1234567890123456.5"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[RVL_DECIMAL_SIZE + 1];
    text[rvl_decimal_from_double(text, cases[i].value)] = '\0';
    assert_string_equal(text, cases[i].text);
  }
}

static void test_integers(void **state) {
  (void)state;
  uint64_t seed = 11;
  for (int i = 0; i < 200000; i++) {
    uint64_t bits = random_bits(&seed);
    int64_t value = (int64_t)(bits >> (random_bits(&seed) % 64));
    if (i == 0) value = INT64_MIN;
    if (i == 1) value = INT64_MAX;
    if (i == 2) value = 0;
    if (i & 1 && value > 0) value = -value;
    char text[RVL_DECIMAL_SIZE + 1], expected[32];
    size_t length = rvl_decimal_from_int64(text, value);
    text[length] = '\0';
    snprintf(expected, sizeof expected, "%lld", (long long)value);
    assert_string_equal(text, expected);
    rvl_decimal back;
    rvl_decimal_scan(&back, text, text + length);
    assert_int_equal(back.kind, RVL_DECIMAL_INTEGER);
    assert_true(back.integer == value);
  }
  static const char *const beyond[] = {"9223372036854775808", "-9223372036854775809", "18446744073709551616",
                                       "100000000000000000000", "-123456789012345678901234567890"};
  for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
    rvl_decimal got;
    rvl_decimal_scan(&got, beyond[i], beyond[i] + strlen(beyond[i]));
    assert_int_equal(got.kind, RVL_DECIMAL_BIG);
    check_read(beyond[i]);
  }
}

/* Midpoints of neighbouring doubles have up to 768 digits; they and what lies a hair beside them are the hard ones. */
static void check_midpoint(uint64_t bits) {
  char text[1200];
  long double middle = ((long double)as_double(bits) + (long double)as_double(bits + 1)) / 2; /* exact: 64 bits */
  if (!isfinite((double)middle)) return;
  snprintf(text, sizeof text, "%.1100Lf", middle);
  char *last = text + strlen(text) - 1;
  while (*last == '0' && last[-1] != '.') *last-- = '\0';
  check_read(text);
  size_t length = strlen(text);
  memcpy(text + length, "00000000000000000000001", 24);
  check_read(text);
  text[length] = '\0';
  *last = *last == '0' ? '0' : (char)(*last - 1);
  check_read(text);
}

static void test_midpoints(void **state) {
  (void)state;
#if LDBL_MANT_DIG >= 64
  uint64_t seed = 13;
  for (int i = 0; i < 3000; i++) {
    uint64_t bits = random_bits(&seed);
    check_midpoint(bits % (UINT64_C(0x7fe) << 52));
    check_midpoint(UINT64_C(1023) << 52 | (bits & UINT64_C(0x03ffffffffffffff)) >> (bits % 12));
    check_midpoint(bits & UINT64_C(0xfffffffffffff));
  }
  check_midpoint(0);
  check_midpoint(as_bits(DBL_MAX));
#endif
}

static void test_random_decimals(void **state) {
  (void)state;
  uint64_t seed = 17;
  for (int i = 0; i < 300000; i++) {
    char text[160];
    size_t n = 0;
    uint64_t r = random_bits(&seed);
    size_t whole = 1 + r % 25, fraction = r / 32 % 30;
    if (r & UINT64_C(1) << 40) text[n++] = '-';
    for (size_t d = 0; d < whole; d++) {
      uint64_t digit = random_bits(&seed) % 10;
      text[n++] = (char)('0' + (d == 0 && whole > 1 && digit == 0 ? 1 : digit));
    }
    if (fraction) {
      text[n++] = '.';
      for (size_t d = 0; d < fraction; d++) text[n++] = (char)('0' + random_bits(&seed) % 10);
    }
    if (r & UINT64_C(1) << 41) {
      n += (size_t)snprintf(text + n, 20, "e%+d", (int)(random_bits(&seed) % 700) - 350);
    }
    text[n] = '\0';
    check_read(text);
  }
}

static void test_awkward_decimals(void **state) {
  (void)state;
  static const char *const texts[] = {
      "0", "-0", "0.0", "-0.0", "0e0", "0e999999999999999999999", "1e-999999999999999999999", "1e400", "-1e400",
      "4.9406564584124654e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2.2250738585072011e-308",
      "2.2250738585072014e-308", "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308",
      "179769313486231580793728971405301199e273", "9007199254740993.0", "9007199254740992.99999999999999999999",
      "9007199254740993.00000000000000000000000000000001", "0.000000000000000000000000000000000000001e39",
      "100000000000000000000000000000000000000000e-41", "6.02214076e23", "1e23", "8.5e22", "1e22",
      "123456789012345678901234567890e-10", "0.30000000000000004",
      "1.00000000000000011102230246251565404236316680908203125",
      "1.00000000000000011102230246251565404236316680908203124",
      "1.00000000000000011102230246251565404236316680908203126"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) check_read(texts[i]);

  enum { ZEROS = 100000 }; /* exponents that only make sense together with the length of the digits */
  static char text[ZEROS + 32];
  memcpy(text, "0.", 2);
  memset(text + 2, '0', ZEROS);
  memcpy(text + 2 + ZEROS, "125e100001", 11);
  rvl_decimal got;
  rvl_decimal_scan(&got, text, text + strlen(text));
  assert_true(got.real >= 1.25 && got.real <= 1.25);
  memset(text, '7', ZEROS);
  memcpy(text + ZEROS, "e-99999", 8);
  rvl_decimal_scan(&got, text, text + strlen(text));
  assert_true(got.real > 7.77 && got.real < 7.78);
}

static void test_grammar(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int good, end;
  } cases[] = {{"", 0, 0},    {"-", 0, 1},   {"+1", 0, 0},  {".5", 0, 0},    {"1.", 0, 2},   {"1.e1", 0, 2},
               {"1e", 0, 2},  {"1e+", 0, 3}, {"-a", 0, 1},  {"01", 0, 1},    {"-012", 0, 2}, {"00", 0, 1},
               {"0x10", 1, 1}, {"1,2", 1, 1}, {"1.5]", 1, 3}, {"1e5}", 1, 3}, {"-0", 1, 2},   {"1E-2 ", 1, 4},
               {"0.5.5", 1, 3}, {"1e5e5", 1, 3}, {"1--2", 1, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rvl_decimal got;
    rvl_decimal_scan(&got, cases[i].text, cases[i].text + strlen(cases[i].text));
    assert_int_equal(got.kind != RVL_DECIMAL_BAD, cases[i].good);
    assert_int_equal(got.end - cases[i].text, cases[i].end);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_powers),          cmocka_unit_test(test_random_doubles),
      cmocka_unit_test(test_layout_is_that_of_python), cmocka_unit_test(test_integers),
      cmocka_unit_test(test_midpoints),       cmocka_unit_test(test_random_decimals),
      cmocka_unit_test(test_awkward_decimals), cmocka_unit_test(test_grammar),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
