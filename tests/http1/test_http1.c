/* http1.c by RFC 9112: every answer whole, byte by byte and cut in two at every place, with the same outcome. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http1.h"

#define HEAD_LIMIT 8192
#define BODY_LIMIT 100000

static void begin(rvl_http1 *a) { rvl_http1_begin(a, false, HEAD_LIMIT, BODY_LIMIT); }

/* From memory of its own, so that a read past the end is seen; returns what was taken. */
static size_t feed(rvl_http1 *a, const char *data, size_t length) {
  char *copy = malloc(length > 0 ? length : 1);
  assert_non_null(copy);
  memcpy(copy, data, length);
  size_t taken = 0;
  assert_true(rvl_http1_feed(a, copy, length, &taken));
  assert_true(taken <= length);
  if (taken < length) assert_true(a->state >= RVL_HTTP1_DONE);
  free(copy);
  return taken;
}

static size_t feed_text(rvl_http1 *a, const char *text) { return feed(a, text, strlen(text)); }

static size_t feed_in_pieces(rvl_http1 *a, const char *data, size_t length, size_t first, size_t step) {
  size_t at = feed(a, data, first);
  while (at == first && first < length) {
    size_t piece = step < length - first ? step : length - first;
    first += piece;
    at += feed(a, data + first - piece, piece);
  }
  return at;
}

static void same_bytes(const rvl_bytes *a, const rvl_bytes *b) {
  assert_int_equal(a->length, b->length);
  if (a->length > 0) assert_memory_equal(a->data, b->data, a->length);
}

static void same(const rvl_http1 *a, size_t a_taken, const rvl_http1 *b, size_t b_taken) {
  assert_int_equal(a->state, b->state);
  if (a->state == RVL_HTTP1_BAD) {
    assert_string_equal(a->error, b->error);
    assert_int_equal(a->limit, b->limit);
    return;
  }
  assert_int_equal(a_taken, b_taken);
  assert_int_equal(a->status, b->status);
  assert_int_equal(a->minor, b->minor);
  assert_int_equal(a->keep_alive, b->keep_alive);
  assert_int_equal(a->trailers, b->trailers);
  same_bytes(&a->head, &b->head);
  same_bytes(&a->body, &b->body);
}

/* Feeds bytes whole into `a`, then in all the other ways into another one, which must agree. */
static size_t feed_every_way(rvl_http1 *a, const char *data, size_t length) {
  rvl_http1 other = {0};
  bool no_body = a->no_body;
  size_t max_head = a->max_head, max_body = a->max_body;
  size_t taken = feed(a, data, length);
  for (size_t first = 0; first <= length; first++) {
    rvl_http1_begin(&other, no_body, max_head, max_body);
    same(a, taken, &other, feed_in_pieces(&other, data, length, first, length));
  }
  for (size_t step = 1; step <= 3; step++) {
    rvl_http1_begin(&other, no_body, max_head, max_body);
    same(a, taken, &other, feed_in_pieces(&other, data, length, 0, step));
  }
  rvl_http1_free(&other);
  return taken;
}

typedef struct expected {
  const char *text, *body;
  int status;
  bool keep_alive;
} expected;

/* Answers that end by themselves; bytes that follow are left alone. */
static void check_done(const expected *e, bool no_body) {
  rvl_http1 a = {0};
  rvl_http1_begin(&a, no_body, HEAD_LIMIT, BODY_LIMIT);
  size_t length = strlen(e->text);
  size_t taken = feed_every_way(&a, e->text, length);
  if (a.state != RVL_HTTP1_DONE) fail_msg("%s: state %d, %s", e->text, (int)a.state, a.error ? a.error : "");
  assert_int_equal(taken, length);
  assert_int_equal(a.status, e->status);
  assert_int_equal(a.body.length, strlen(e->body));
  assert_memory_equal(a.body.data != NULL ? a.body.data : "", e->body, a.body.length);
  if (a.keep_alive != e->keep_alive) fail_msg("%s: keep_alive %d", e->text, a.keep_alive);
  rvl_http1_end(&a);
  assert_int_equal(a.state, RVL_HTTP1_DONE);

  char *more = malloc(length + 10);
  assert_non_null(more);
  memcpy(more, e->text, length);
  memcpy(more + length, "HTTP/1.1 2", 10);
  rvl_http1_begin(&a, no_body, HEAD_LIMIT, BODY_LIMIT);
  assert_int_equal(feed_every_way(&a, more, length + 10), length);
  assert_int_equal(a.state, RVL_HTTP1_DONE);
  assert_int_equal(feed(&a, "x", 1), 0);
  free(more);

  for (size_t cut = 0; cut < length; cut++) {
    rvl_http1_begin(&a, no_body, HEAD_LIMIT, BODY_LIMIT);
    assert_int_equal(feed(&a, e->text, cut), cut);
    assert_true(a.state < RVL_HTTP1_DONE);
    rvl_http1_end(&a);
    if (a.state != RVL_HTTP1_BAD) fail_msg("%s: complete after %zu bytes", e->text, cut);
    assert_non_null(a.error);
    assert_int_equal(a.limit, 0);
  }
  rvl_http1_free(&a);
}

static void check_all_done(const expected *list, size_t count) {
  for (size_t i = 0; i < count; i++) check_done(&list[i], false);
}
#define CHECK_ALL_DONE(list) check_all_done(list, sizeof list / sizeof *list)

static void check_bad_bytes(const char *text, size_t length, const char *error) {
  rvl_http1 a = {0};
  begin(&a);
  feed_every_way(&a, text, length);
  if (a.state != RVL_HTTP1_BAD) fail_msg("%s: state %d", text, (int)a.state);
  if (strstr(a.error, error) == NULL) fail_msg("%s: %s", text, a.error);
  assert_int_equal(a.limit, 0);
  assert_int_equal(feed(&a, "HTTP/1.1 200 OK\r\n\r\n", 19), 0);
  rvl_http1_end(&a);
  assert_int_equal(a.state, RVL_HTTP1_BAD);
  rvl_http1_free(&a);
}

static void check_bad(const char *text, const char *error) { check_bad_bytes(text, strlen(text), error); }

#define OK "HTTP/1.1 200 OK\r\n"
#define EMPTY "Content-Length: 0\r\n\r\n"
#define CHUNKS OK "Transfer-Encoding: chunked\r\n\r\n"

/* ---- status line ----------------------------------------------------------------------------------------------- */

static void test_status_lines(void **state) {
  (void)state;
  static const expected good[] = {
      {OK EMPTY, "", 200, true},
      {"HTTP/1.1 200\r\n" EMPTY, "", 200, true},
      {"HTTP/1.1 200 \r\n" EMPTY, "", 200, true},
      {"HTTP/1.1 404 Not Found: really, \xc3\xa4\r\n" EMPTY, "", 404, true},
      {"HTTP/1.1 599 x\r\n" EMPTY, "", 599, true},
      {"HTTP/1.1 999 x\r\n" EMPTY, "", 999, true},
      {"HTTP/1.7 200 OK\r\n" EMPTY, "", 200, true},
      {"HTTP/1.0 200 OK\r\n" EMPTY, "", 200, false},
  };
  CHECK_ALL_DONE(good);
  static const char *const malformed[] = {
      "HTTP/1.1\r\n",       "HTTP/1.1 \r\n",       "HTTP/1.1 20\r\n",   "HTTP/1.1 2000 OK\r\n", "HTTP/1.1 2x0 OK\r\n",
      "HTTP/1.1  200 OK\r\n", "HTTP/1.1\t200 OK\r\n", "HTTP/1.1200 OK\r\n", "HTTP/1.x 200 OK\r\n", "HTTP/1.10 200 OK\r\n",
      "HTTP/1.1 099 OK\r\n", "HTTP/1.1 000 OK\r\n", "HTTP/1.1 -20 OK\r\n", "HTTP/1.1 200OK\r\n",    "HTTP/1. 200 OK\r\n",
      "HTTP/1.\n"};
  for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) check_bad(malformed[i], "status line");
}

static void test_garbage(void **state) {
  (void)state;
  static const char *const garbage[] = {"\r\nHTTP/1.1 200 OK\r\n", " HTTP/1.1 200 OK\r\n", "http/1.1 200 OK\r\n", "x",
                                        "HTTP/2 200\r\n", "HTTP/0.9 200 OK\r\n", "HTTP 1.1", "HTTPS/1.1", "<html>",
                                        "SSH-2.0-OpenSSH\r\n", "\x16\x03\x01", "\n", "HTTP/\n"};
  for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) check_bad(garbage[i], "does not speak HTTP/1");
  check_bad_bytes("\0", 1, "does not speak HTTP/1");
}

/* ---- headers ---------------------------------------------------------------------------------------------------- */

static void test_headers(void **state) {
  (void)state;
  static const expected good[] = {
      {OK "content-LENGTH:2\r\n\r\nok", "ok", 200, true},
      {OK "Content-Length: \t 2 \t \r\n\r\nok", "ok", 200, true},
      {OK "Content-Length : 2\r\n\r\nok", "ok", 200, true},
      {OK "X:\r\nX-Y: :\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
      {OK "X-Content-Length: 9\r\nContent-Lengths: 9\r\nContent-Lengtg: 9\r\n" EMPTY, "", 200, true},
      {OK "X-Folded: a\r\n b\r\n\tContent-Length: 5\r\n" EMPTY, "", 200, true},
      {OK " Content-Length: 5\r\n" EMPTY, "", 200, true},
      {OK "X: \xff\xfe \x01\x7f\r\n" EMPTY, "", 200, true},
      {"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok", 200, true},
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", "ok", 200, true},
  };
  CHECK_ALL_DONE(good);
  check_bad(OK "no colon here\r\n" EMPTY, "no colon");
  check_bad(OK ": no name\r\n" EMPTY, "no colon");
  check_bad(OK "\t\r\n : no name\r\n:\r\n" EMPTY, "no colon");
  check_bad("HTTP/1.1 100 Continue\r\nno colon\r\n\r\n" OK EMPTY, "no colon");
}

static void test_hidden_line_ends(void **state) {
  (void)state;
  check_bad(OK "X: 1\rContent-Length: 5\r\n" EMPTY, "control character");
  check_bad(OK "X: 1\r\r\n" EMPTY, "control character");
  check_bad(OK "\r\r\n" EMPTY, "control character");
  check_bad("HTTP/1.1 200 OK\rX: 1\r\n" EMPTY, "control character");
  check_bad(CHUNKS "0\r\nX: 1\rY: 2\r\n\r\n", "control character");
  static const char nul[] = OK "X: 1\0002\r\n" EMPTY;
  check_bad_bytes(nul, sizeof nul - 1, "control character");
}

static void test_head_is_kept_as_it_came(void **state) {
  (void)state;
  rvl_http1 a = {0};
  begin(&a);
  static const char head[] = OK "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Folded: a\r\n  b\r\nContent-Length: 1\r\n\r\n";
  feed_text(&a, head);
  assert_int_equal(a.head.length, sizeof head - 1);
  assert_memory_equal(a.head.data, head, sizeof head - 1);
  assert_int_equal(a.trailers, 0);
  assert_int_equal(feed(&a, "\0", 1), 1);
  assert_int_equal(a.state, RVL_HTTP1_DONE);
  assert_memory_equal(a.body.data, "\0", 1);
  rvl_http1_free(&a);
}

/* ---- Content-Length ----------------------------------------------------------------------------------------------- */

static void test_lengths(void **state) {
  (void)state;
  static const expected good[] = {
      {OK "Content-Length: 0\r\n\r\n", "", 200, true},
      {OK "Content-Length: 00005\r\n\r\nhello", "hello", 200, true},
      {OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true},
      {OK "Content-Length: 5\r\nContent-Length: 05\r\n\r\nhello", "hello", 200, true},
      {OK "Content-Length: 4\r\n\r\n\r\n\r\n", "\r\n\r\n", 200, true},
  };
  CHECK_ALL_DONE(good);
  static const char *const bad[] = {
      "", "-5", "+5", "5 5", "5, 5", "5,", "0x5", "5.0", "5e0", "five", "5;", "- 5", "18446744073709551616",
      "18446744073709551621", "99999999999999999999999999999999", "9223372036854775808", "\xd9\xa5"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char text[128];
    snprintf(text, sizeof text, OK "Content-Length: %s\r\n\r\nhello", bad[i]);
    check_bad(text, "Content-Length");
    snprintf(text, sizeof text, OK "Content-Length: 5\r\nContent-Length: %s\r\n\r\nhello", bad[i]);
    check_bad(text, "Content-Length");
  }
  check_bad(OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "Content-Length");
  check_bad(OK "Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", "Content-Length");
  check_bad(OK "Content-Length:\r\n 5\r\n\r\nhello", "second line");
  check_bad(OK "Content-Length: 1\r\n 0\r\n\r\nhello", "second line");
}

/* ---- chunks -------------------------------------------------------------------------------------------------------- */

static void test_chunks(void **state) {
  (void)state;
  static const expected good[] = {
      {CHUNKS "0\r\n\r\n", "", 200, true},
      {CHUNKS "5\r\nhello\r\n0\r\n\r\n", "hello", 200, true},
      {CHUNKS "1\r\nh\r\n4\r\nello\r\n000\r\n\r\n", "hello", 200, true},
      {CHUNKS "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", 200, true},
      {CHUNKS "1F\r\n0123456789012345678901234567890\r\n0\r\n\r\n", "0123456789012345678901234567890", 200, true},
      {CHUNKS "000000000000005\r\nhello\r\n0\r\n\r\n", "hello", 200, true},
      {CHUNKS "5;name=value\r\nhello\r\n0;last\r\n\r\n", "hello", 200, true},
      {CHUNKS "5 \t;a=\"b;c\";d\r\nhello\r\n0 \r\n\r\n", "hello", 200, true},
      {CHUNKS "5;5\r\nhello\r\n0\r\n\r\n", "hello", 200, true},
      {CHUNKS "5\nhello\n0\n\n", "hello", 200, true},
      {CHUNKS "2\r\n\r\n\r\n0\r\n\r\n", "\r\n", 200, true},
      {OK "transfer-encoding:\tChunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 200, true},
  };
  CHECK_ALL_DONE(good);
  static const char *const no_size[] = {
      "\r\n", "\n", "x\r\n", " 5\r\n", ";5\r\n", "-5\r\n", "+5\r\n", "0x5\r\n", "5x\r\n", "5,5\r\n", "5.\r\n", "\r5\r\n",
      "5\r5\r\n", "5\r\r\n", "5;a\rb\r\n", "5;a\r\r\n", "ffffffffffffffff\r\n", "10000000000000000\r\n",
      "0000000000000005\r\n", "fffffffffffffffff5\r\n", "G\r\n", "5\vx\r\n"};
  for (size_t i = 0; i < sizeof no_size / sizeof *no_size; i++) {
    char text[256];
    snprintf(text, sizeof text, CHUNKS "%shello\r\n0\r\n\r\n", no_size[i]);
    check_bad(text, "has no size");
    snprintf(text, sizeof text, CHUNKS "1\r\nx\r\n%shello\r\n0\r\n\r\n", no_size[i]);
    check_bad(text, "has no size");
  }
  check_bad(CHUNKS "5\r\nhello!\r\n0\r\n\r\n", "longer than its size");
  check_bad(CHUNKS "5\r\nhello5\r\n", "longer than its size");
  check_bad(CHUNKS "5\r\nhello\r\r\n0\r\n\r\n", "longer than its size");
  check_bad(CHUNKS "5\r\nhello\rx", "longer than its size");
}

/* A line of exactly `length` bytes before its end. */
static char *chunk_with_extension(size_t length) {
  char *text = malloc(length + 100);
  assert_non_null(text);
  strcpy(text, CHUNKS "1;");
  size_t at = strlen(text);
  memset(text + at, 'e', length - 2);
  strcpy(text + at + length - 2, "\r\nx\r\n0\r\n\r\n");
  return text;
}

static void test_chunk_lines_are_bounded(void **state) {
  (void)state;
  char *text = chunk_with_extension(1023);
  check_done(&(expected){text, "x", 200, true}, false);
  free(text);
  static const size_t lengths[] = {1025, 1026, 2000, 7000};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    text = chunk_with_extension(lengths[i]);
    check_bad(text, "has no size");
    free(text);
  }
}

static void test_trailers(void **state) {
  (void)state;
  rvl_http1 a = {0};
  static const char head[] = CHUNKS;
  static const char text[] = CHUNKS "5\r\nhello\r\n0\r\nX-Sum: 42\r\nContent-Length: 3\r\n\r\n";
  begin(&a);
  assert_int_equal(feed_every_way(&a, text, sizeof text - 1), sizeof text - 1);
  assert_int_equal(a.state, RVL_HTTP1_DONE);
  assert_true(a.keep_alive);
  assert_int_equal(a.trailers, sizeof head - 1);
  static const char trailers[] = "X-Sum: 42\r\nContent-Length: 3\r\n";
  assert_int_equal(a.head.length, sizeof head - 1 + sizeof trailers - 1);
  assert_memory_equal(a.head.data + a.trailers, trailers, sizeof trailers - 1);

  begin(&a);
  feed_text(&a, CHUNKS "5\r\nhello\r\n0\r\n\r\n");
  assert_int_equal(a.state, RVL_HTTP1_DONE);
  assert_int_equal(a.trailers, 0);
  assert_int_equal(a.head.length, sizeof head - 1);
  rvl_http1_free(&a);
}

/* ---- which framing counts ------------------------------------------------------------------------------------------ */

static void test_codings(void **state) {
  (void)state;
  /* chunks win over a length, but such a connection is not used again */
  static const expected good[] = {
      {OK "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 200, false},
      {OK "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 200, false},
      {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n", "", 200, false},
  };
  CHECK_ALL_DONE(good);
  static const char *const others[] = {"gzip", "gzip, chunked", "chunked, gzip", "chunked;q=1", "identity", "", "chunke",
                                       "xchunked", "chunked,", "chunked, chunked", "\"chunked\""};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    char text[128];
    snprintf(text, sizeof text, OK "Transfer-Encoding: %s\r\nContent-Length: 0\r\n\r\n", others[i]);
    check_bad(text, "transfer coding");
  }
  check_bad(OK "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer coding");
  check_bad(OK "Transfer-Encoding: chunked\r\n , gzip\r\n\r\n0\r\n\r\n", "second line");
}

static void test_interim_answers(void **state) {
  (void)state;
  static const expected good[] = {
      {"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 2\r\n\r\nok", "ok", 200, true},
      {"HTTP/1.1 100\r\nContent-Length: 50\r\nConnection: close\r\n\r\n" OK EMPTY, "", 200, true},
      {"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 404 No\r\n" EMPTY, "", 404,
       true},
      {"HTTP/1.1 199 x\r\nTransfer-Encoding: chunked\r\n\r\n" OK EMPTY, "", 200, true},
  };
  CHECK_ALL_DONE(good);
  check_bad("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "switched");
  check_bad("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n", "switched");
  check_bad("HTTP/1.1 100 Continue\r\n\r\ngarbage", "does not speak HTTP/1");

  rvl_http1 a = {0};
  begin(&a);
  static const char interim[] = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
  for (int i = 0; i < 10000; i++) assert_int_equal(feed(&a, interim, sizeof interim - 1), sizeof interim - 1);
  assert_true(a.head.room <= 2 * HEAD_LIMIT);
  feed_text(&a, OK "Content-Length: 2\r\n\r\nok");
  assert_int_equal(a.state, RVL_HTTP1_DONE);
  assert_int_equal(a.status, 200);
  assert_memory_equal(a.head.data, OK "Content-Length: 2\r\n\r\n", a.head.length);
  rvl_http1_free(&a);
}

static void test_answers_without_bodies(void **state) {
  (void)state;
  static const expected no_content[] = {
      {"HTTP/1.1 204 No Content\r\n\r\n", "", 204, true},
      {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", 204, true},
      {"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000000\r\n\r\n", "", 304, true},
      {"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "", 304, true},
      {"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", "", 204, false},
      {"HTTP/1.0 304 Not Modified\r\n\r\n", "", 304, false},
  };
  CHECK_ALL_DONE(no_content);
  static const expected head[] = {
      {OK "Content-Length: 5\r\n\r\n", "", 200, true},
      {OK "Content-Length: 100000000000\r\n\r\n", "", 200, true},
      {OK "Transfer-Encoding: chunked\r\n\r\n", "", 200, true},
      {OK "\r\n", "", 200, true},
      {"HTTP/1.1 404 Not Found\r\n\r\n", "", 404, true},
      {"HTTP/1.0 200 OK\r\n\r\n", "", 200, false},
      {"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 5\r\n\r\n", "", 200, true},
      /* whatever these say, the answer ends here; but what they mean for the next one is doubtful */
      {OK "Content-Length: five\r\n\r\n", "", 200, false},
      {OK "Transfer-Encoding: gzip\r\n\r\n", "", 200, false},
      {OK "Content-Length: 1\r\n 0\r\n\r\n", "", 200, false},
  };
  for (size_t i = 0; i < sizeof head / sizeof *head; i++) check_done(&head[i], true);
}

static void test_keep_alive(void **state) {
  (void)state;
  static const struct {
    const char *version, *connection;
    bool keep_alive;
  } rules[] = {
      {"1.1", NULL, true},
      {"1.1", "keep-alive", true},
      {"1.1", "close", false},
      {"1.1", "Close", false},
      {"1.1", " , ,close ,", false},
      {"1.1", "x, CLOSE\t, y", false},
      {"1.1", "keep-alive, close", false},
      {"1.1", "close, keep-alive", false},
      {"1.1", "closed", true},
      {"1.1", "not close", true},
      {"1.1", "x;close", true},
      {"1.1", "clos", true},
      {"1.1", "close\r\n x", false},
      {"1.1", "x,\r\n close", false},
      {"1.1", "x\r\nConnection: close\r\nConnection: y", false},
      {"1.1", "", true},
      {"1.0", NULL, false},
      {"1.0", "keep-alive", true},
      {"1.0", "x , Keep-Alive", true},
      {"1.0", "keep-alive;timeout=5", true},
      {"1.0", "keep-alive, close", false},
      {"1.0", "keep", false},
      {"1.0", "x", false},
  };
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    char text[256];
    if (rules[i].connection != NULL)
      snprintf(text, sizeof text, "HTTP/%s 200 OK\r\nConnection: %s\r\n" EMPTY, rules[i].version, rules[i].connection);
    else
      snprintf(text, sizeof text, "HTTP/%s 200 OK\r\n" EMPTY, rules[i].version);
    check_done(&(expected){text, "", 200, rules[i].keep_alive}, false);
  }
}

static void test_body_to_the_end(void **state) {
  (void)state;
  static const char *const texts[] = {OK "\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
                                      OK "Connection: close\r\n\r\n", "HTTP/1.1 500 Oops\n\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    size_t head = strlen(texts[i]);
    char text[200];
    int length = snprintf(text, sizeof text, "%suntil HTTP/1.1 200 OK\r\n\r\nthe end", texts[i]);
    rvl_http1 a = {0};
    for (size_t cut = 0; cut <= (size_t)length; cut++) {
      begin(&a);
      assert_int_equal(feed_every_way(&a, text, cut), cut);
      rvl_http1_end(&a);
      if (cut < head) {
        assert_int_equal(a.state, RVL_HTTP1_BAD);
      } else {
        assert_int_equal(a.state, RVL_HTTP1_DONE);
        assert_false(a.keep_alive);
        assert_int_equal(a.body.length, cut - head);
        assert_memory_equal(a.body.data != NULL ? a.body.data : "", text + head, cut - head);
      }
    }
    rvl_http1_free(&a);
  }
}

/* ---- limits ---------------------------------------------------------------------------------------------------------- */

static void check_limit(const char *text, size_t max_head, size_t max_body, size_t limit) {
  rvl_http1 a = {0};
  rvl_http1_begin(&a, false, max_head, max_body);
  feed_every_way(&a, text, strlen(text));
  if (limit == 0) {
    rvl_http1_end(&a);
    if (a.state != RVL_HTTP1_DONE) fail_msg("%s: %s", text, a.error);
  } else {
    if (a.state != RVL_HTTP1_BAD) fail_msg("%s: state %d", text, (int)a.state);
    assert_int_equal(a.limit, limit);
    assert_non_null(strstr(a.error, "too large"));
  }
  assert_true(a.head.length <= max_head);
  assert_true(a.body.length <= max_body);
  rvl_http1_free(&a);
}

static void test_limits(void **state) {
  (void)state;
  static const char fixed[] = OK "Content-Length: 5\r\n\r\nhello";
  size_t head = strlen(fixed) - 5;
  check_limit(fixed, head, 5, 0);
  check_limit(fixed, head - 1, 5, head - 1);
  check_limit(fixed, 20, 5, 20);
  check_limit(fixed, 6, 5, 6);
  check_limit(fixed, head, 4, 4);
  check_limit(OK EMPTY, 1000, 0, 0);
  /* a length alone is reason enough: the body need not come */
  check_limit(OK "Content-Length: 999999999999999999\r\n\r\n", 1000, 5, 5);
  check_limit(OK "\r\nhello", 1000, 5, 0);
  check_limit(OK "\r\nhello!", 1000, 5, 5);

  static const char chunks[] = CHUNKS "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
  static const char chunk_head[] = CHUNKS;
  check_limit(chunks, sizeof chunk_head - 1 + 2, 5, 0);
  check_limit(chunks, 1000, 4, 4);
  check_limit(CHUNKS "6\r\n", 1000, 5, 5);
  check_limit(CHUNKS "7fffffffffffff\r\n", 1000, 5, 5);
  check_limit(CHUNKS "0\r\nX: 1\r\n\r\n", sizeof chunk_head - 1 + 8, 5, 0);
  check_limit(CHUNKS "0\r\nX: 1\r\n\r\n", sizeof chunk_head - 1 + 7, 5, sizeof chunk_head - 1 + 7);
  check_limit(CHUNKS "0\r\nX: 1", sizeof chunk_head - 1 + 3, 5, sizeof chunk_head - 1 + 3);
  /* each interim answer by itself */
  check_limit("HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n" OK EMPTY, 40, 0, 0);

  /* garbage is garbage whatever its length, also in one piece */
  rvl_http1 a = {0};
  rvl_http1_begin(&a, false, 10, 10);
  feed_every_way(&a, "220 mail.example ESMTP ready\r\n", 30);
  assert_string_equal(a.error, "the server does not speak HTTP/1");
  assert_int_equal(a.limit, 0);
  rvl_http1_free(&a);
}

static void test_large_bodies(void **state) {
  (void)state;
  size_t length = 3000000, step = 16384;
  char *body = malloc(length);
  assert_non_null(body);
  for (size_t i = 0; i < length; i++) body[i] = (char)(i * 7 + i / 251);
  rvl_http1 a = {0};
  for (int chunked = 0; chunked < 2; chunked++) {
    rvl_http1_begin(&a, false, HEAD_LIMIT, length);
    feed_text(&a, chunked ? CHUNKS : OK "Content-Length: 3000000\r\n\r\n");
    for (size_t at = 0; at < length; at += step) {
      size_t piece = step < length - at ? step : length - at;
      char size[16];
      snprintf(size, sizeof size, "%zx\r\n", piece);
      if (chunked) feed_text(&a, size);
      assert_int_equal(feed(&a, body + at, piece), piece);
      if (chunked) feed_text(&a, "\r\n");
    }
    if (chunked) feed_text(&a, "0\r\n\r\n");
    assert_int_equal(a.state, RVL_HTTP1_DONE);
    assert_int_equal(a.body.length, length);
    assert_memory_equal(a.body.data, body, length);
  }
  rvl_http1_free(&a);
  free(body);
}

/* ---- again and again --------------------------------------------------------------------------------------------------- */

static void test_nothing_is_left_of_the_answer_before(void **state) {
  (void)state;
  static const char *const before[] = {
      CHUNKS "5\r\nhello\r\n0\r\nX: 1\r\n\r\n", OK "Content-Length: 50\r\nConnection: close\r\n\r\nhalf", CHUNKS "5;ext",
      CHUNKS "5\r\nhello\r", CHUNKS "5\r", CHUNKS "0\r\nX: 1\r\n", "garbage", OK "Content-Len", "HTTP/1.0 200 OK\r\n\r\nto the end",
      OK "Content-Length: 999999999\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP", "HTTP/1.1 101 x\r\n\r\n"};
  static const char *const after[] = {OK "Content-Length: 2\r\n\r\nok", CHUNKS "1\r\no\r\n1\r\nk\r\n0\r\nY: 2\r\n\r\n"};
  rvl_http1 used = {0};
  for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
    for (size_t k = 0; k < sizeof after / sizeof *after; k++) {
      rvl_http1 fresh = {0};
      rvl_http1_begin(&used, true, 50, 50);
      begin(&used);
      feed_text(&used, before[i]);
      begin(&used);
      begin(&fresh);
      same(&used, feed_text(&used, after[k]), &fresh, feed_text(&fresh, after[k]));
      assert_int_equal(used.state, RVL_HTTP1_DONE);
      assert_int_equal(used.body.length, 2);
      rvl_http1_free(&fresh);
    }
  }
  rvl_http1_free(&used);
  assert_null(used.head.data);
  assert_null(used.body.data);
}

static void test_answers_in_a_row(void **state) {
  (void)state;
  static const char row[] = OK "Content-Length: 3\r\n\r\none" CHUNKS "3\r\ntwo\r\n0\r\n\r\n" OK EMPTY OK
                               "Content-Length: 4\r\n\r\nfour";
  static const char *const bodies[] = {"one", "two", "", "four"};
  rvl_http1 a = {0};
  size_t at = 0;
  for (size_t i = 0; i < 4; i++) {
    begin(&a);
    at += feed(&a, row + at, sizeof row - 1 - at);
    assert_int_equal(a.state, RVL_HTTP1_DONE);
    assert_int_equal(a.body.length, strlen(bodies[i]));
    assert_memory_equal(a.body.data, bodies[i], a.body.length);
  }
  assert_int_equal(at, sizeof row - 1);
  rvl_http1_free(&a);
}

static void test_no_bytes(void **state) {
  (void)state;
  rvl_http1 a = {0};
  begin(&a);
  size_t taken = 1;
  assert_true(rvl_http1_feed(&a, NULL, 0, &taken));
  assert_int_equal(taken, 0);
  assert_int_equal(a.state, RVL_HTTP1_HEAD);
  rvl_http1_end(&a);
  assert_int_equal(a.state, RVL_HTTP1_BAD);
  rvl_http1_free(&a);
  rvl_http1_free(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_status_lines),
      cmocka_unit_test(test_garbage),
      cmocka_unit_test(test_headers),
      cmocka_unit_test(test_hidden_line_ends),
      cmocka_unit_test(test_head_is_kept_as_it_came),
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_chunks),
      cmocka_unit_test(test_chunk_lines_are_bounded),
      cmocka_unit_test(test_trailers),
      cmocka_unit_test(test_codings),
      cmocka_unit_test(test_interim_answers),
      cmocka_unit_test(test_answers_without_bodies),
      cmocka_unit_test(test_keep_alive),
      cmocka_unit_test(test_body_to_the_end),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_large_bodies),
      cmocka_unit_test(test_nothing_is_left_of_the_answer_before),
      cmocka_unit_test(test_answers_in_a_row),
      cmocka_unit_test(test_no_bytes),
  };
  return cmocka_run_group_tests_name("http1", tests, NULL, NULL);
}
