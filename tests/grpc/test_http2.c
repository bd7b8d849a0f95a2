/* http2.c against servers that mean harm, frame by frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http2.h"

#define BODY (8u * 1024u * 1024u)

enum { SETTINGS = 4, PUSH_PROMISE, WINDOW_UPDATE = 8 };
enum { END_HEADERS = 4 };

static const rvl_http2_header request[] = {
    {":method", "POST", 7, 4, false}, {":scheme", "http", 7, 4, false}, {":path", "/a/b", 5, 4, false},
    {":authority", "x", 10, 1, false}};
enum { REQUEST = sizeof request / sizeof *request };

/* ---- the client's owner -------------------------------------------------------------------------------- */

static void on_header(rvl_http2_stream *s, const char *name, size_t n, const char *value, size_t m) {
  (void)s, (void)name, (void)n, (void)value, (void)m;
}

static void on_headers(rvl_http2_stream *s, bool ended) { (void)s, (void)ended; }
static void on_data(rvl_http2_stream *s, const char *data, size_t length) { (void)s, (void)data, (void)length; }
static void on_end(rvl_http2_stream *s) { (void)s; }
static void on_closed(rvl_http2_stream *s, rvl_http2_end end, uint32_t error) { (void)s, (void)end, (void)error; }

static const rvl_http2_events events = {on_header, on_headers, on_data, on_end, on_end, on_closed};

/* ---- the server ---------------------------------------------------------------------------------------- */

static bool feed_frame(rvl_http2 *h, unsigned type, unsigned flags, uint32_t stream, const char *data, size_t length) {
  char frame[9 + 64] = {0, 0, (char)length, (char)type, (char)flags};
  for (int i = 0; i < 4; i++) frame[5 + i] = (char)(stream >> (24 - 8 * i));
  if (length > 0) memcpy(frame + 9, data, length);
  return rvl_http2_feed(h, frame, 9 + length);
}

static rvl_http2 *new_client(void) {
  rvl_http2 *h = rvl_http2_new(&events);
  assert_non_null(h);
  assert_true(feed_frame(h, SETTINGS, 0, 0, NULL, 0));
  return h;
}

/* ---- tests --------------------------------------------------------------------------------------------- */

/* A server that does not read makes us wait with what it asks for, but not without bound. */
static void test_flood_of_resets(void **state) {
  (void)state;
  rvl_http2 *h = new_client();
  rvl_http2_stream s = {.payload = {.head = "", .body = ""}};
  assert_true(rvl_http2_open(h, &s, request, REQUEST));
  bool good = true;
  uint32_t frames = 0;
  for (; good && frames < 1000000; frames++) {
    char promised[4];
    for (int i = 0; i < 4; i++) promised[i] = (char)((2 * frames + 2) >> (24 - 8 * i));
    good = feed_frame(h, PUSH_PROMISE, END_HEADERS, 1, promised, 4);
  }
  assert_false(good);
  assert_true(frames < 100000);
  assert_string_equal(rvl_http2_state_of(h)->why, "the server floods the connection with frames");
  rvl_http2_free(h);
}

/* Headers that nghttp2 does not send leave the bodies of others where they are. */
static void test_headers_too_large(void **state) {
  (void)state;
  rvl_http2 *h = new_client();
  char *body = calloc(1, BODY), *value = malloc(BODY);
  assert_non_null(body);
  assert_non_null(value);
  memset(value, 'x', BODY);
  assert_true(feed_frame(h, SETTINGS, 0, 0, "\0\4\x7f\xff\xff\xff", 6));   /* windows as large as can be */
  assert_true(feed_frame(h, WINDOW_UPDATE, 0, 0, "\x7f\xff\0\0", 4));
  rvl_http2_stream s = {.payload = {.head = "", .body = body, .body_length = BODY}};
  assert_true(rvl_http2_open(h, &s, request, REQUEST));
  rvl_http2_header headers[REQUEST + 1];
  memcpy(headers, request, sizeof request);
  headers[REQUEST] = (rvl_http2_header){"large", value, 5, BODY, false};
  rvl_http2_stream large = {.payload = {.head = "", .body = ""}};
  assert_false(rvl_http2_open(h, &large, headers, REQUEST + 1));
  assert_false(rvl_http2_state_of(h)->failed);
  assert_int_equal(rvl_http2_state_of(h)->streams, 1);
  assert_true(rvl_http2_output(h)->length < BODY / 8);
  rvl_http2_free(h);
  free(body);
  free(value);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_flood_of_resets), cmocka_unit_test(test_headers_too_large)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
