/* grpc_status.c and grpc_message.c: what comes out where it is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_message.h"
#include "grpc_status.h"

#define MS UINT64_C(1000000)
#define S UINT64_C(1000000000)

static void test_timeouts(void **state) {
  (void)state;
  static const struct { uint64_t ns; const char *text; } cases[] = {
      {1, "1u"}, {999, "1u"}, {1500, "2u"}, {9999999, "10000u"}, {10 * MS, "10m"}, {10 * MS + 1, "11m"},
      {500 * MS, "500m"}, {S, "1S"}, {S + 1, "1001m"}, {5 * S + 500 * MS, "5500m"}, {60 * S - 30000, "60S"},
      {60 * S, "60S"}, {20 * S + 500 * MS, "20500m"}, {120 * S, "120S"}, {120 * S + 1, "120100m"},
      {86400 * S, "86400S"},
      {3600 * S - 1, "3600S"}, {89999999 * S, "89999999S"}, {90000000 * S, "25000H"}, {UINT64_MAX, "5124096H"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[RVL_GRPC_TIMEOUT_SIZE];
    assert_int_equal(rvl_grpc_write_timeout(text, cases[i].ns), strlen(cases[i].text));
    assert_string_equal(text, cases[i].text);
  }
}

static void test_statuses(void **state) {
  (void)state;
  assert_int_equal(rvl_grpc_read_status("0", 1), 0);
  assert_int_equal(rvl_grpc_read_status("14", 2), 14);
  assert_int_equal(rvl_grpc_read_status("16", 2), 16);
  assert_int_equal(rvl_grpc_read_status("17", 2), RVL_GRPC_UNKNOWN);
  assert_int_equal(rvl_grpc_read_status("999999999", 9), RVL_GRPC_UNKNOWN);
  static const char *const none[] = {"", "-1", "1x", " 0", "0x0", "9999999999"};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++)
    assert_int_equal(rvl_grpc_read_status(none[i], strlen(none[i])), -1);
  assert_string_equal(rvl_grpc_code_name(0), "OK");
  assert_string_equal(rvl_grpc_code_name(16), "UNAUTHENTICATED");
  assert_string_equal(rvl_grpc_code_name(17), "UNKNOWN");
  assert_string_equal(rvl_grpc_code_name(-1), "UNKNOWN");
  assert_int_equal(rvl_grpc_code_of_http(404), RVL_GRPC_UNIMPLEMENTED);
  assert_int_equal(rvl_grpc_code_of_http(418), RVL_GRPC_UNKNOWN);
  assert_int_equal(rvl_grpc_code_of_reset(7), RVL_GRPC_UNAVAILABLE);
  assert_int_equal(rvl_grpc_code_of_reset(8), RVL_GRPC_CANCELLED);
  assert_int_equal(rvl_grpc_code_of_reset(11), RVL_GRPC_RESOURCE_EXHAUSTED);
  assert_int_equal(rvl_grpc_code_of_reset(2), RVL_GRPC_INTERNAL);
}

static void test_percent(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"", ""}, {"plain", "plain"}, {"%41%62", "Ab"}, {"100%", "100%"}, {"%4", "%4"},
                                         {"%zz%e4%BD%a0", "%zz\xe4\xbd\xa0"}, {"%%41", "%A"}, {"a+b", "a+b"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rvl_bytes out = {0};
    assert_true(rvl_grpc_append_decoded(&out, cases[i][0], strlen(cases[i][0])));
    assert_int_equal(out.length, strlen(cases[i][1]));
    if (out.length > 0) assert_memory_equal(out.data, cases[i][1], out.length);
    rvl_bytes_free(&out);
  }
}

static void test_base64(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"", ""}, {"f", "Zg"}, {"fo", "Zm8"}, {"foo", "Zm9v"}, {"foob", "Zm9vYg"},
                                         {"\xfb\xff", "+/8"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rvl_grpc_metadata m = {0};
    rvl_grpc_header h;
    char out[16];
    size_t n;
    assert_null(rvl_grpc_metadata_add(&m, "a-bin", 5, cases[i][0], strlen(cases[i][0])));
    assert_true(rvl_grpc_metadata_find(&m, "a-bin", &h));
    assert_int_equal(h.value_length, strlen(cases[i][1]));
    if (h.value_length > 0) assert_memory_equal(h.value, cases[i][1], h.value_length);
    assert_true(rvl_grpc_from_base64(out, h.value, h.value_length, &n));
    assert_int_equal(n, strlen(cases[i][0]));
    rvl_grpc_metadata_free(&m);
  }
  char out[16];
  size_t n;
  assert_true(rvl_grpc_from_base64(out, "Zg==", 4, &n));   /* padded */
  assert_int_equal(n, 1);
  assert_true(rvl_grpc_from_base64(out, "-_8", 3, &n));    /* for URLs */
  assert_memory_equal(out, "\xfb\xff", 2);
  assert_false(rvl_grpc_from_base64(out, "Zg=x", 4, &n));
  assert_false(rvl_grpc_from_base64(out, "Z", 1, &n));
}

static void test_metadata(void **state) {
  (void)state;
  static const char *const bad[] = {"", "Upper", "a b", ":path", "te", "content-type", "grpc-timeout",
                                    "user-agent", "a\xe4"};
  rvl_grpc_metadata m = {0};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_non_null(rvl_grpc_metadata_add(&m, bad[i], strlen(bad[i]), "x", 1));
  assert_non_null(rvl_grpc_metadata_add(&m, "a", 1, "x\ny", 3));
  assert_non_null(rvl_grpc_metadata_add(&m, "a", 1, " x", 2));
  assert_non_null(rvl_grpc_metadata_add(&m, "a", 1, "\xc3\xa4", 2));
  assert_int_equal(m.count, 0);
  assert_null(rvl_grpc_metadata_add(&m, "a", 1, "", 0));
  assert_null(rvl_grpc_metadata_add(&m, "a.b-c_1", 7, "x y", 3));
  assert_int_equal(m.count, 2);
  rvl_grpc_metadata_free(&m);
}

static void test_messages(void **state) {
  (void)state;
  static const char body[] = "\0\0\0\0\0" "\0\0\0\0\3abc" "\0\0\0\0\1d";
  for (size_t step = 1; step <= sizeof body; step++) {
    rvl_grpc_decoder d = {.max_message = 3};
    for (size_t at = 0; at < sizeof body - 1; at += step) {
      size_t n = sizeof body - 1 - at < step ? sizeof body - 1 - at : step;
      assert_int_equal(rvl_grpc_decoder_feed(&d, body + at, n), RVL_GRPC_GOOD);
    }
    assert_true(rvl_grpc_decoder_is_clean(&d));
    assert_int_equal(d.count, 3);
    static const size_t lengths[] = {0, 3, 1};
    for (size_t i = 0; i < 3; i++) {
      rvl_grpc_message *m = rvl_grpc_decoder_take(&d);
      assert_non_null(m);
      assert_int_equal(m->length, lengths[i]);
      free(m);
    }
    assert_null(rvl_grpc_decoder_take(&d));
    assert_int_equal(d.queued, 0);
    assert_int_equal(rvl_grpc_decoder_feed(&d, "\0\0\0\0\4", 5), RVL_GRPC_TOO_LARGE);
    rvl_grpc_decoder_free(&d);
    assert_int_equal(rvl_grpc_decoder_feed(&d, "\1\0\0\0\1", 5), RVL_GRPC_COMPRESSED);
    rvl_grpc_decoder_free(&d);
    assert_int_equal(rvl_grpc_decoder_feed(&d, "\0\0\0\0\2x", 6), RVL_GRPC_GOOD);
    assert_false(rvl_grpc_decoder_is_clean(&d));
    rvl_grpc_decoder_free(&d);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_timeouts), cmocka_unit_test(test_statuses), cmocka_unit_test(test_percent),
      cmocka_unit_test(test_base64),   cmocka_unit_test(test_metadata), cmocka_unit_test(test_messages),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
