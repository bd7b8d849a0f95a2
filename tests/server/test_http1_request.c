/* http1_request.c by RFC 9112: every request whole, byte by byte and cut in two at every place, the same outcome. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http1_request.h"

static const rvl_http1_limits limits = {.target = 200, .head = 1000, .headers = 12, .body = 100};

/* From memory of its own, so that a read past the end is seen; returns what was taken. */
static size_t feed(rvl_http1_request *r, const char *data, size_t length) {
  char *copy = malloc(length > 0 ? length : 1);
  assert_non_null(copy);
  memcpy(copy, data, length);
  size_t taken = 0;
  assert_true(rvl_http1_request_feed(r, copy, length, &taken));
  assert_true(taken <= length);
  if (taken < length) assert_true(r->state >= RVL_HTTP1_REQUEST_DONE);
  free(copy);
  return taken;
}

static size_t feed_in_pieces(rvl_http1_request *r, const char *data, size_t length, size_t first, size_t step) {
  size_t at = feed(r, data, first);
  while (at == first && first < length) {
    size_t piece = step < length - first ? step : length - first;
    first += piece;
    at += feed(r, data + first - piece, piece);
  }
  return at;
}

static void same(const rvl_http1_request *a, size_t a_taken, const rvl_http1_request *b, size_t b_taken) {
  assert_int_equal(a->state, b->state);
  if (a->state == RVL_HTTP1_REQUEST_BAD) {
    assert_string_equal(a->error, b->error);
    assert_int_equal(a->status, b->status);
    return;
  }
  assert_int_equal(a_taken, b_taken);
  assert_int_equal(a->keep_alive, b->keep_alive);
  assert_int_equal(a->expects_continue, b->expects_continue);
  assert_int_equal(a->target_length, b->target_length);
  assert_int_equal(a->headers_length, b->headers_length);
  assert_int_equal(a->head.length, b->head.length);
  assert_int_equal(a->body.length, b->body.length);
  if (a->body.length > 0) assert_memory_equal(a->body.data, b->body.data, a->body.length);
}

/* Feeds bytes whole into `r`, then in all other ways into another one, which must agree. */
static size_t feed_every_way(rvl_http1_request *r, const char *data, size_t length) {
  rvl_http1_request other = {0};
  rvl_http1_request_begin(r, &limits);
  size_t taken = feed(r, data, length);
  for (size_t first = 0; first <= length; first++) {
    rvl_http1_request_begin(&other, &limits);
    same(r, taken, &other, feed_in_pieces(&other, data, length, first, length));
  }
  for (size_t step = 1; step <= 3; step++) {
    rvl_http1_request_begin(&other, &limits);
    same(r, taken, &other, feed_in_pieces(&other, data, length, 0, step));
  }
  rvl_http1_request_free(&other);
  return taken;
}

typedef struct good {
  const char *text, *target, *body;   /* body NULL: none */
  bool keep_alive;
} good;

#define HOST "Host: h\r\n"
#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

static const good good_requests[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", "/", NULL, true},
    {"GET / HTTP/1.0\r\n\r\n", "/", NULL, false},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "/", NULL, true},
    {"GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n", "/", NULL, false},
    {"GET / HTTP/1.1\r\n" HOST "Connection: closely\r\n\r\n", "/", NULL, true},
    {"GET /a?b=%20c&d HTTP/1.1\r\nhOsT:h\r\n\r\n", "/a?b=%20c&d", NULL, true},
    {"GET http://h/x HTTP/1.1\r\n" HOST "\r\n", "http://h/x", NULL, true},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "*", NULL, true},
    {"\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "/", NULL, true},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "/", "hello", true},
    {"GET / HTTP/1.1\r\n" HOST "content-length:\t5 \r\n\r\nhello", "/", "hello", true},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", "/", "", true},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "/", "hello", true},
    {CHUNKED "2;a=\"b c\"\r\nhe\r\n003\r\nllo\r\n0;x\r\nT: v\r\n\r\n", "/", "hello", true},
    {CHUNKED "A\r\n0123456789\r\n0\r\n\r\n", "/", "0123456789", true},
    {"POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "/", "x", true},
    {"POST / HTTP/1.1\r\n" HOST "Empty:\r\nOdd: a\tb \x80\xff\r\nContent-Length: 1\r\n\r\nx", "/", "x", true},
    {"GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n", "/\xc3\xa4", NULL, true},
    {"GET / HTTP/1.7\r\n" HOST "\r\n", "/", NULL, true},
};

static void test_good(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof good_requests / sizeof *good_requests; i++) {
    const good *g = &good_requests[i];
    rvl_http1_request r = {0};
    size_t length = strlen(g->text);
    size_t taken = feed_every_way(&r, g->text, length);
    if (r.state != RVL_HTTP1_REQUEST_DONE) fail_msg("%s: state %d, %s", g->text, (int)r.state, r.error ? r.error : "");
    assert_int_equal(taken, length);
    assert_int_equal(r.target_length, strlen(g->target));
    assert_memory_equal(r.head.data + r.target, g->target, r.target_length);
    assert_int_equal(r.has_body, g->body != NULL);
    if (g->body != NULL) {
      assert_int_equal(r.body.length, strlen(g->body));
      if (r.body.length > 0) assert_memory_equal(r.body.data, g->body, r.body.length);
    }
    if (r.keep_alive != g->keep_alive) fail_msg("%s: keep_alive %d", g->text, r.keep_alive);
    rvl_http1_request_free(&r);
  }
}

typedef struct refused {
  int status;
  const char *text;
} refused;

static const refused refused_requests[] = {
    {400, "GET /\r\n\r\n"},
    {400, "GET  / HTTP/1.1\r\n"},
    {400, "GET / HTTP/1.1 \r\n"},
    {400, "GET / x HTTP/1.1\r\n"},
    {400, "GET\t/ HTTP/1.1\r\n"},
    {400, " GET / HTTP/1.1\r\n"},
    {400, "GET / http/1.1\r\n"},
    {400, "GET / HTTP/1.1x\r\n"},
    {400, "GET /\x01 HTTP/1.1\r\n"},
    {400, "G(T / HTTP/1.1\r\n"},
    {400, "\r\n\r\n\r\n\r\n\r\n"},
    {400, "\x16\x03\x01\x02"},
    {505, "PRI * HTTP/2.0\r\n"},
    {505, "GET / HTTP/0.9\r\n"},
    /* a line end is CR LF, and nothing else is one */
    {400, "GET / HTTP/1.1\nHost: h\n\n"},
    {400, "GET / HTTP/1.1\r\nHost: h\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: h\rX: y\r\n"},
    {400, "GET / HTTP/1.1\r\r\n"},
    /* headers */
    {400, "GET / HTTP/1.1\r\n" HOST "X : y\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST "X\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST ": y\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST " X: y\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST "X: y\r\n z\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST "X: y\r\n\tz\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST "X: a\x7f" "b\r\n"},
    {400, "GET / HTTP/1.1\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\n" HOST HOST "\r\n"},
    {417, "GET / HTTP/1.1\r\n" HOST "Expect: more\r\nContent-Length: 1\r\n\r\n"},
    /* the length, told so that two readers could disagree */
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5 5\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551621\r\n\r\n"},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n"},
    {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n"},
    {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n"},
    {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n"},
    {413, "POST / HTTP/1.1\r\n" HOST "Content-Length: 101\r\n\r\n"},
};

static const refused refused_chunks[] = {
    {400, CHUNKED "g\r\n"},
    {400, CHUNKED "\r\n"},
    {400, CHUNKED ";x\r\n"},
    {400, CHUNKED " 5\r\n"},
    {400, CHUNKED "5 \r\n"},
    {400, CHUNKED "0x5\r\n"},
    {400, CHUNKED "-5\r\n"},
    {400, CHUNKED "5\n"},
    {400, CHUNKED "5\r5\r\n"},
    {400, CHUNKED "5;a\nb\r\n"},
    {400, CHUNKED "5;a\x01\r\n"},
    {400, CHUNKED "0000000000000005\r\n"},
    {413, CHUNKED "fffffffffffffff\r\n"},
    {413, CHUNKED "65\r\n"},
    {413, CHUNKED "2\r\nab\r\n63\r\n"},
    {400, CHUNKED "2\r\nabc\r\n"},
    {400, CHUNKED "2\r\nab0\r\n\r\n"},
    {400, CHUNKED "2\r\nab\n0\r\n\r\n"},
    {400, CHUNKED "2\r\nab\r0\r\n\r\n"},
    {400, CHUNKED "0\r\nT : v\r\n"},
    {400, CHUNKED "0\r\nT: v\r\n w\r\n"},
    {400, CHUNKED "0\r\n\n"},
};

static void check_refused(const refused *list, size_t count) {
  for (size_t i = 0; i < count; i++) {
    rvl_http1_request r = {0};
    feed_every_way(&r, list[i].text, strlen(list[i].text));
    if (r.state != RVL_HTTP1_REQUEST_BAD) fail_msg("%s: taken, state %d", list[i].text, (int)r.state);
    if (r.status != list[i].status) fail_msg("%s: %d %s", list[i].text, r.status, r.error);
    assert_false(r.keep_alive);
    rvl_http1_request_free(&r);
  }
}

static void test_refused(void **state) {
  (void)state;
  check_refused(refused_requests, sizeof refused_requests / sizeof *refused_requests);
  check_refused(refused_chunks, sizeof refused_chunks / sizeof *refused_chunks);
  rvl_http1_request r = {0};
  rvl_http1_request_begin(&r, &limits);
  feed(&r, "GET / HTTP/1.1\r\nHost: h\0i\r\n", 27);
  assert_int_equal(r.status, 400);
  rvl_http1_request_free(&r);
}

/* Text made of a start, a filling and an end. */
static char *filled(const char *start, size_t count, const char *filling, const char *end) {
  size_t room = strlen(start) + count * strlen(filling) + strlen(end) + 1;
  char *text = malloc(room);
  assert_non_null(text);
  size_t length = (size_t)snprintf(text, room, "%s", start);
  for (size_t i = 0; i < count; i++) length += (size_t)snprintf(text + length, room - length, "%s", filling);
  snprintf(text + length, room - length, "%s", end);
  return text;
}

static void check_limit(const char *start, size_t count, const char *filling, const char *end, int status) {
  char *text = filled(start, count, filling, end);
  rvl_http1_request r = {0};
  feed_every_way(&r, text, strlen(text));
  if (status == 0) assert_int_equal(r.state, RVL_HTTP1_REQUEST_DONE);
  else if (r.status != status) fail_msg("%zu times %s: %d %s", count, filling, r.status, r.error ? r.error : "taken");
  assert_true(r.head.length <= limits.head && r.body.length <= limits.body);
  rvl_http1_request_free(&r);
  free(text);
}

static void test_limits(void **state) {
  (void)state;
  const char *host = " HTTP/1.1\r\n" HOST "\r\n", *head = "GET / HTTP/1.1\r\n" HOST;
  check_limit("GET /", 199, "x", host, 0);
  check_limit("GET /", 200, "x", host, 414);
  check_limit("GET /", 5000, "x", "", 414);
  check_limit("", 33, "G", " / HTTP/1.1\r\n", 400);
  check_limit("", 5000, "G", "", 414);
  check_limit(head, 11, "X: y\r\n", "\r\n", 0);
  check_limit(head, 12, "X: y\r\n", "\r\n", 431);
  check_limit("GET / HTTP/1.1\r\n" HOST "X: ", 968, "y", "\r\n\r\n", 0);   /* 1000 bytes */
  check_limit("GET / HTTP/1.1\r\n" HOST "X: ", 969, "y", "\r\n\r\n", 431);
  check_limit("GET / HTTP/1.1\r\n" HOST, 5000, "X", "", 431);
  check_limit(CHUNKED, 50, "2\r\nab\r\n", "0\r\n\r\n", 0);
  check_limit(CHUNKED, 51, "2\r\nab\r\n", "0\r\n\r\n", 413);
  check_limit(CHUNKED "1;", 5000, "x", "", 431);
  check_limit(CHUNKED "0\r\nT: ", 5000, "x", "", 431);
  check_limit(CHUNKED "0\r\n", 50, "T: v\r\n", "", 431);
}

/* What follows a request stays where it is; the memory serves again. */
static void test_one_after_the_other(void **state) {
  (void)state;
  static const char text[] = "POST /1 HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\n" HOST "\r\n"
                             CHUNKED "1\r\nx\r\n0\r\n\r\n" "GET /4 HTTP/1.1\r\n";
  static const char *const targets[] = {"/1", "/2", "/"};
  rvl_http1_request r = {0};
  size_t at = 0;
  for (size_t i = 0; i < 3; i++) {
    rvl_http1_request_begin(&r, &limits);
    assert_true(rvl_http1_request_is_fresh(&r));
    at += feed(&r, text + at, sizeof text - 1 - at);
    assert_int_equal(r.state, RVL_HTTP1_REQUEST_DONE);
    assert_int_equal(r.target_length, strlen(targets[i]));
    assert_memory_equal(r.head.data + r.target, targets[i], r.target_length);
  }
  rvl_http1_request_begin(&r, &limits);
  at += feed(&r, text + at, sizeof text - 1 - at);
  assert_int_equal(r.state, RVL_HTTP1_REQUEST_HEADERS);
  assert_false(rvl_http1_request_is_fresh(&r));
  assert_int_equal(at, sizeof text - 1);
  rvl_http1_request_free(&r);
}

static void test_expectation(void **state) {
  (void)state;
  rvl_http1_request r = {0};
  rvl_http1_request_begin(&r, &limits);
  const char *text = "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n";
  feed(&r, text, strlen(text));
  assert_int_equal(r.state, RVL_HTTP1_REQUEST_BODY);
  assert_true(r.expects_continue);
  /* nobody waits without a body, or below HTTP/1.1 */
  text = "GET / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n\r\n";
  rvl_http1_request_begin(&r, &limits);
  feed(&r, text, strlen(text));
  assert_false(r.expects_continue);
  text = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
  rvl_http1_request_begin(&r, &limits);
  feed(&r, text, strlen(text));
  assert_false(r.expects_continue);
  rvl_http1_request_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),   cmocka_unit_test(test_refused),
      cmocka_unit_test(test_limits), cmocka_unit_test(test_one_after_the_other),
      cmocka_unit_test(test_expectation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
