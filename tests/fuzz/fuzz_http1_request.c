/*
 * Fuzz target: the parser of HTTP/1.1 requests (src/http1_request.c).
 *
 * However the same bytes are cut, the outcome must be the same; what is kept stays within the limits, and bytes are
 * left over only when the request has ended or is bad. What was taken for a request is then written again in the
 * plainest form, which must be taken for the same request. The first four bytes of an input choose the cuts, the
 * limits, and whether the rest is the request or names pieces of one.
 */
#include "fuzz_cuts.h"
#include "http1_request.h"

static const char *const bits[] = {
    "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.0\r\n", "GET ", "/", " HTTP/1.1\r\n", " HTTP/2.0\r\n", "Host: h\r\n",
    "Content-Length: ", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: ", "chunked",
    "Connection: ", "close", "keep-alive", "Expect: 100-continue\r\n", ", ", ";", " ", "\t", "\r", "\n", "\r\n",
    "\r\n\r\n", "0\r\n", "0\r\n\r\n", "5\r\nhello\r\n", "a;x=y\r\n", "1", "f", "F", "00000000", "X: y\r\n", "X:", "\0",
    "hello", " folded\r\n", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};

static void check_state(const rvl_http1_request *r) {
  check(r->head.length <= r->limits.head && r->body.length <= r->limits.body, "a limit was passed");
  check(r->head.room <= 2 * r->limits.head + 1024 && r->body.room <= 2 * r->limits.body + 1024, "unbounded memory");
  check((r->error != NULL) == (r->state == RVL_HTTP1_REQUEST_BAD), "an error without a state");
  check((r->status >= 400) == (r->state == RVL_HTTP1_REQUEST_BAD), "a bad request without a status");
  if (r->state != RVL_HTTP1_REQUEST_DONE) return;
  check(r->method_length > 0 && r->target == r->method_length + 1 && r->target_length > 0, "no request line");
  check(r->target_length <= r->limits.target && r->header_count <= r->limits.headers, "a limit was passed");
  check(r->headers + r->headers_length <= r->head.length, "headers past the end");
  check(r->has_body || r->body.length == 0, "a body that cannot be");
}

static bool feed_piece(void *parser, const char *piece, size_t size, size_t *taken) {
  rvl_http1_request *r = parser;
  check(rvl_http1_request_feed(r, piece, size, taken), "no memory");
  return r->state < RVL_HTTP1_REQUEST_DONE;
}

static size_t run(rvl_http1_request *r, const char *data, size_t size, size_t step, uint32_t seed) {
  size_t at = feed_all(feed_piece, r, data, size, step, seed);
  check_state(r);
  return at;
}

static void check_same(const rvl_http1_request *a, size_t a_taken, const rvl_http1_request *b, size_t b_taken) {
  check(a->state == b->state, "cuts change the state");
  if (a->state == RVL_HTTP1_REQUEST_BAD) {
    check(strcmp(a->error, b->error) == 0 && a->status == b->status, "cuts change the error");
    return;
  }
  check(a_taken == b_taken && a->keep_alive == b->keep_alive && a->minor == b->minor && a->has_body == b->has_body &&
            a->expects_continue == b->expects_continue && a->target_length == b->target_length &&
            a->headers == b->headers && a->headers_length == b->headers_length &&
            same_bytes(a->head.data, a->head.length, b->head.data, b->head.length) &&
            same_bytes(a->body.data, a->body.length, b->body.data, b->body.length),
        "cuts change the request");
}

static bool put(rvl_bytes *out, const char *text) { return rvl_bytes_append(out, text, strlen(text)); }

/* The same request with a length instead of chunks. */
static void check_rewritten(const rvl_http1_request *r) {
  rvl_bytes text = {0};
  char length[64];
  snprintf(length, sizeof length, " HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", r->body.length);
  check(rvl_bytes_append(&text, r->head.data, r->method_length) && put(&text, " ") &&
            rvl_bytes_append(&text, r->head.data + r->target, r->target_length) && put(&text, length) &&
            rvl_bytes_append(&text, r->body.data, r->body.length),
        "no memory");
  rvl_http1_limits wide = {.target = r->limits.target, .head = 1u << 17, .headers = 2, .body = r->limits.body};
  rvl_http1_request again = {0};
  rvl_http1_request_begin(&again, &wide);
  check(run(&again, text.data, text.length, text.length, 0) == text.length, "not taken whole");
  check(again.state == RVL_HTTP1_REQUEST_DONE, "not taken again");
  check(same_bytes(r->body.data, r->body.length, again.body.data, again.body.length), "another body");
  check(same_bytes(r->head.data + r->target, r->target_length, again.head.data + again.target, again.target_length),
        "another target");
  rvl_http1_request_free(&again);
  rvl_bytes_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 4) return 0;
  bool named = data[0] & 1, again = data[0] & 2;
  rvl_http1_limits limits = {.target = data[0] & 4 ? 20 : 4096, .headers = data[0] & 8 ? 3 : 100,
                             .head = data[1] < 128 ? data[1] * 4u : 1u << 16,
                             .body = data[2] < 128 ? data[2] : 1u << 16};
  uint32_t seed = data[3];
  rvl_bytes text = {0};
  append_text(&text, data + 4, size - 4, bits, named ? sizeof bits / sizeof *bits : 0);
  rvl_http1_request whole = {0}, cut = {0};
  rvl_http1_request_begin(&whole, &limits);
  size_t taken = run(&whole, text.data, text.length, text.length + 1, 0);
  if (again) {   /* what is left of another request must not matter */
    rvl_http1_request_begin(&cut, &limits);
    run(&cut, text.data, text.length / 2, 7, 0);
  }
  for (size_t step = 0; step <= 1; step++) {
    rvl_http1_request_begin(&cut, &limits);
    check_same(&whole, taken, &cut, run(&cut, text.data, text.length, step, seed));
  }
  if (whole.state == RVL_HTTP1_REQUEST_DONE) check_rewritten(&whole);
  rvl_http1_request_free(&whole);
  rvl_http1_request_free(&cut);
  rvl_bytes_free(&text);
  return 0;
}
