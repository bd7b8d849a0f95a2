/*
 * Fuzz target: the parser of HTTP/1.1 answers (src/http1.c).
 *
 * However the same bytes are cut, the outcome must be the same; what is kept stays within the limits, and bytes are
 * left over only when the answer has ended or is bad. The first four bytes of an input choose the cuts, the limits,
 * whether it answers HEAD, and whether the rest is the answer or names pieces of one.
 */
#include "fuzz_cuts.h"
#include "http1.h"

static const char *const bits[] = {
    "HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 ", "100", "204", "304 x", "HTTP/1.1 103 x\r\n\r\n",
    "Content-Length: ", "Content-Length:5\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: ", "chunked",
    "Connection: ", "close", "keep-alive", ", ", ";", " ", "\t", "\r", "\n", "\r\n", "\r\n\r\n", "0\r\n", "0\r\n\r\n",
    "5\r\nhello\r\n", "a;x=y\r\n", "1", "f", "F", "00000000", "X: y\r\n", "X:", "\0", "hello", " folded\r\n",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};

static bool feed_piece(void *parser, const char *piece, size_t size, size_t *taken) {
  rvl_http1 *a = parser;
  check(rvl_http1_feed(a, piece, size, taken), "no memory");
  return a->state < RVL_HTTP1_DONE;
}

static size_t run(rvl_http1 *a, const char *data, size_t size, size_t step, uint32_t seed) {
  size_t at = feed_all(feed_piece, a, data, size, step, seed);
  check(a->head.length <= a->max_head && a->body.length <= a->max_body, "a limit was passed");
  check(a->head.room <= 2 * a->max_head + 1024 && a->body.room <= 2 * a->max_body + 1024, "memory is not bounded");
  check((a->error != NULL) == (a->state == RVL_HTTP1_BAD), "an error without a state");
  check(a->trailers <= a->head.length, "trailers past the end");
  if (a->state == RVL_HTTP1_DONE) {
    check(a->status >= 200 && a->status <= 999, "a status out of range");
    check(!a->no_body || a->body.length == 0, "a body that cannot be");
  }
  return at;
}

static void check_same(const rvl_http1 *a, size_t a_taken, const rvl_http1 *b, size_t b_taken) {
  check(a->state == b->state, "cuts change the state");
  if (a->state == RVL_HTTP1_BAD) {
    check(strcmp(a->error, b->error) == 0 && a->limit == b->limit, "cuts change the error");
    return;
  }
  check(a_taken == b_taken && a->status == b->status && a->minor == b->minor && a->keep_alive == b->keep_alive &&
            a->trailers == b->trailers &&
            same_bytes(a->head.data, a->head.length, b->head.data, b->head.length) &&
            same_bytes(a->body.data, a->body.length, b->body.data, b->body.length),
        "cuts change the answer");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 4) return 0;
  bool no_body = data[0] & 1, named = data[0] & 2, again = data[0] & 4;
  size_t max_head = data[1] < 128 ? data[1] * 4u : 1u << 16, max_body = data[2] < 128 ? data[2] : 1u << 16;
  uint32_t seed = data[3];
  rvl_bytes text = {0};
  append_text(&text, data + 4, size - 4, bits, named ? sizeof bits / sizeof *bits : 0);
  rvl_http1 whole = {0}, cut = {0};
  rvl_http1_begin(&whole, no_body, max_head, max_body);
  size_t taken = run(&whole, text.data, text.length, text.length + 1, 0);
  if (again) {   /* what is left of another answer must not matter */
    rvl_http1_begin(&cut, !no_body, max_head, max_body);
    run(&cut, text.data, text.length / 2, 7, 0);
  }
  for (size_t step = 0; step <= 1; step++) {
    rvl_http1_begin(&cut, no_body, max_head, max_body);
    check_same(&whole, taken, &cut, run(&cut, text.data, text.length, step, seed));
  }
  rvl_http1_state before = whole.state;
  rvl_http1_end(&whole);
  check(whole.state == RVL_HTTP1_DONE || whole.state == RVL_HTTP1_BAD, "no end");
  check(whole.state != RVL_HTTP1_DONE || before == RVL_HTTP1_DONE || before == RVL_HTTP1_BODY_TO_END,
        "an answer that is cut off is taken for a whole one");
  rvl_http1_free(&whole);
  rvl_http1_free(&cut);
  rvl_bytes_free(&text);
  return 0;
}
