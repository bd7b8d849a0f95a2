#include "http1_request.h"

#include <string.h>
#include <strings.h>

#define MAX_EMPTY_LINES 4        /* before the request line: some clients end a body with one too many */
#define MAX_METHOD 32
#define VERSION_ROOM 16          /* " HTTP/1.1" and the line end, generously */
#define MAX_CHUNK_DIGITS 15

static void bad(rvl_http1_request *r, int status, const char *error) {
  r->state = RVL_HTTP1_REQUEST_BAD;
  r->status = status;
  r->error = error;
  r->keep_alive = false;
}

void rvl_http1_request_begin(rvl_http1_request *r, const rvl_http1_limits *limits) {
  rvl_bytes head = r->head, body = r->body;
  head.length = body.length = 0;
  *r = (rvl_http1_request){.head = head, .body = body, .limits = *limits};
}

bool rvl_http1_request_is_fresh(const rvl_http1_request *r) {
  return r->state == RVL_HTTP1_REQUEST_LINE && r->head.length == 0;
}

void rvl_http1_request_free(rvl_http1_request *r) {
  rvl_bytes_free(&r->head);
  rvl_bytes_free(&r->body);
}

/* ---- words ------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* RFC 9110, 5.6.2 */
static bool is_token_char(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c)) return true;
  return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_token(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (!is_token_char(text[i])) return false;
  }
  return length > 0;
}

static bool is_word(const char *text, size_t length, const char *word) {
  return length == strlen(word) && strncasecmp(text, word, length) == 0;
}

/* Whether a comma-separated list has the word, in any case. */
static bool has_word(const char *list, size_t length, const char *word) {
  size_t i = 0;
  while (i < length) {
    while (i < length && (is_blank(list[i]) || list[i] == ',')) i++;
    size_t start = i;
    while (i < length && list[i] != ',') i++;
    size_t end = i;
    while (end > start && is_blank(list[end - 1])) end--;
    if (is_word(list + start, end - start, word)) return true;
  }
  return false;
}

/* ---- the head ------------------------------------------------------------------------------------------ */

/* Eight bytes of the form "HTTP/1.1" */
static bool is_version(const char *text) {
  return memcmp(text, "HTTP/", 5) == 0 && is_digit(text[5]) && text[6] == '.' && is_digit(text[7]);
}

/* "GET /path HTTP/1.1" */
static void read_request_line(rvl_http1_request *r, const char *line, size_t length) {
  const char *space = memchr(line, ' ', length);
  size_t method = space != NULL ? (size_t)(space - line) : 0;
  if (method > MAX_METHOD || !is_token(line, method)) {
    bad(r, 400, "the request does not begin with a method");
    return;
  }
  const char *target = space + 1;
  size_t rest = length - method - 1;
  space = memchr(target, ' ', rest);
  size_t target_length = space != NULL ? (size_t)(space - target) : rest;
  if (target_length > r->limits.target) {
    bad(r, 414, "the request target is too long");
    return;
  }
  bool whole = space != NULL && target_length > 0 && rest - target_length - 1 == 8 && is_version(space + 1);
  if (!whole || memchr(target, '\t', target_length) != NULL) {
    bad(r, 400, "the first line is not that of an HTTP/1.1 request");
  } else if (space[6] != '1') {
    bad(r, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  } else {
    r->minor = space[8] == '0' ? 0 : 1;
    r->method_length = method;
    r->target = method + 1;
    r->target_length = target_length;
    r->headers = r->head.length;
    r->state = RVL_HTTP1_REQUEST_HEADERS;
  }
}

static void read_length(rvl_http1_request *r, const char *value, size_t length) {
  r->lengths++;
  r->remaining = 0;
  if (length == 0 || length > 18) r->bad_length = true;
  for (size_t i = 0; i < length && !r->bad_length; i++) {
    if (!is_digit(value[i])) r->bad_length = true;
    else r->remaining = r->remaining * 10 + (uint64_t)(value[i] - '0');
  }
}

/* The headers that say where the request ends and what comes after it. */
static void read_framing(rvl_http1_request *r, const char *name, size_t length, const char *value, size_t size) {
  if (is_word(name, length, "content-length")) {
    read_length(r, value, size);
  } else if (is_word(name, length, "transfer-encoding")) {
    r->codings++;
    if (is_word(value, size, "chunked")) r->chunked = true;
    else r->unknown_coding = true;
  } else if (is_word(name, length, "connection")) {
    r->close = r->close || has_word(value, size, "close");
    r->persist = r->persist || has_word(value, size, "keep-alive");
  } else if (is_word(name, length, "expect")) {
    if (is_word(value, size, "100-continue")) r->expects_continue = true;
    else r->bad_expectation = true;
  } else if (is_word(name, length, "host")) {
    r->hosts++;
  }
}

static void read_header(rvl_http1_request *r, const char *line, size_t length) {
  if (++r->header_count > r->limits.headers) {
    bad(r, 431, "the request has too many headers");
    return;
  }
  if (is_blank(*line)) {
    bad(r, 400, "a header goes on in a second line");
    return;
  }
  const char *colon = memchr(line, ':', length);
  size_t name = colon != NULL ? (size_t)(colon - line) : 0;
  if (!is_token(line, name)) {
    bad(r, 400, "a header has no proper name");
    return;
  }
  if (r->state == RVL_HTTP1_REQUEST_TRAILERS) return;   /* too late to change anything */
  const char *value = colon + 1;
  size_t size = length - name - 1;
  while (size > 0 && is_blank(*value)) value++, size--;
  while (size > 0 && is_blank(value[size - 1])) size--;
  read_framing(r, line, name, value, size);
}

/* All headers are there: finds out whether a body follows and how it ends. */
static void begin_body(rvl_http1_request *r) {
  if (r->hosts > 1 || (r->hosts == 0 && r->minor >= 1)) {
    bad(r, 400, "a request has one Host header");
  } else if (r->codings > 0 && (r->lengths > 0 || r->minor == 0)) {
    bad(r, 400, "the length of the request is told in two ways");
  } else if (r->codings > 1) {
    bad(r, 400, "the request has several Transfer-Encoding headers");
  } else if (r->unknown_coding) {
    bad(r, 501, "the only transfer coding known here is chunked");
  } else if (r->lengths > 1 || r->bad_length) {
    bad(r, 400, "the request's Content-Length is not one number");
  } else if (r->bad_expectation) {
    bad(r, 417, "the only expectation known here is 100-continue");
  } else if (r->lengths > 0 && r->remaining > r->limits.body) {
    bad(r, 413, "the body of the request is too large");
  } else {
    r->keep_alive = !r->close && (r->minor >= 1 || r->persist);
    r->has_body = r->chunked || r->lengths > 0;
    if (r->chunked) r->state = RVL_HTTP1_REQUEST_CHUNK_SIZE;
    else r->state = r->remaining > 0 ? RVL_HTTP1_REQUEST_BODY : RVL_HTTP1_REQUEST_DONE;
    r->expects_continue = r->expects_continue && r->minor >= 1 && r->state != RVL_HTTP1_REQUEST_DONE;
  }
}

/* An empty line: the end of head or trailers, or noise in front of a request. */
static void end_head(rvl_http1_request *r) {
  if (r->state == RVL_HTTP1_REQUEST_LINE) {
    if (++r->empty_lines > MAX_EMPTY_LINES) bad(r, 400, "the request does not begin with a method");
    r->head.length = 0;
  } else if (r->state == RVL_HTTP1_REQUEST_HEADERS) {
    r->headers_length = r->line - r->headers;
    begin_body(r);
  } else {
    r->state = RVL_HTTP1_REQUEST_DONE;
  }
}

static void end_line(rvl_http1_request *r) {
  const char *line = r->head.data + r->line;
  size_t length = r->head.length - r->line - 2;
  if (length == 0) end_head(r);
  else if (r->state == RVL_HTTP1_REQUEST_LINE) read_request_line(r, line, length);
  else read_header(r, line, length);
  r->line = r->head.length;
}

/* What cannot stand in a head is refused as soon as it comes: its sender may never end the line. */
static void check_head_byte(rvl_http1_request *r, char c) {
  bool after_cr = r->head.length > r->line + 1 && r->head.data[r->head.length - 2] == '\r';
  if (c == '\n' && !after_cr) bad(r, 400, "a line ends with LF alone");
  else if (c != '\n' && after_cr) bad(r, 400, "a CR stands alone");
  else if ((unsigned char)c < ' ' ? c != '\t' && c != '\r' && c != '\n' : c == 0x7f)
    bad(r, 400, "the head holds a control character");
}

static size_t feed_head(rvl_http1_request *r, const char *data, size_t length) {
  rvl_http1_request_state before = r->state;
  size_t i = 0;
  while (i < length && r->state != RVL_HTTP1_REQUEST_BAD) {
    if (r->head.length == r->limits.head) {
      bad(r, 431, "the headers of the request are too large");
      break;
    }
    if (before == RVL_HTTP1_REQUEST_LINE && r->head.length >= r->limits.target + MAX_METHOD + VERSION_ROOM) {
      bad(r, 414, "the request target is too long");
      break;
    }
    char c = data[i++];
    r->head.data[r->head.length++] = c;
    check_head_byte(r, c);
    if (c != '\n' || r->state == RVL_HTTP1_REQUEST_BAD) continue;
    end_line(r);
    if (r->state != before) break;
  }
  return i;
}

/* ---- the body ------------------------------------------------------------------------------------------ */

static int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static void end_chunk_size(rvl_http1_request *r) {
  if (r->remaining > r->limits.body - r->body.length) bad(r, 413, "the body of the request is too large");
  else r->state = r->remaining > 0 ? RVL_HTTP1_REQUEST_CHUNK : RVL_HTTP1_REQUEST_TRAILERS;
  r->line = r->head.length;
  r->digits = 0;
  r->last = '\0';
}

/* "1a;extension\r\n": `last` is '\0' among the digits, ';' in the extension, '\r' before the end. */
static size_t feed_chunk_size(rvl_http1_request *r, const char *data, size_t length) {
  size_t i = 0;
  while (i < length && r->state == RVL_HTTP1_REQUEST_CHUNK_SIZE) {
    char c = data[i++];
    int digit = hex_value(c);
    if (r->last == '\r') {
      if (c == '\n') end_chunk_size(r);
      else bad(r, 400, "a CR stands alone");
    } else if (c == '\r' && r->digits > 0) {
      r->last = '\r';
    } else if (r->last == ';') {
      if (((unsigned char)c < ' ' && c != '\t') || c == 0x7f) bad(r, 400, "the extension of a chunk is not text");
      else if (++r->extra > r->limits.head) bad(r, 431, "the extensions of chunks are too large");
    } else if (c == ';' && r->digits > 0) {
      r->last = ';';
    } else if (digit < 0 || r->digits == MAX_CHUNK_DIGITS) {
      bad(r, 400, "the size of a chunk is not a hexadecimal number");
    } else {
      if (r->digits++ == 0) r->remaining = 0;
      r->remaining = r->remaining * 16 + (uint64_t)digit;
    }
  }
  return i;
}

static size_t feed_chunk_end(rvl_http1_request *r, const char *data, size_t length) {
  size_t i = 0;
  while (i < length && r->state == RVL_HTTP1_REQUEST_CHUNK_END) {
    char c = data[i++];
    if (c != (r->last == '\r' ? '\n' : '\r')) bad(r, 400, "a chunk is longer than its size");
    else if (c == '\n') r->state = RVL_HTTP1_REQUEST_CHUNK_SIZE;
    r->last = c == '\r' ? '\r' : '\0';
  }
  return i;
}

/* Body bytes up to the end of body or chunk. false: no memory. */
static bool feed_body(rvl_http1_request *r, const char *data, size_t length, size_t *taken) {
  *taken = r->remaining < length ? (size_t)r->remaining : length;
  if (!rvl_bytes_append(&r->body, data, *taken)) return false;
  r->remaining -= *taken;
  if (r->remaining == 0)
    r->state = r->state == RVL_HTTP1_REQUEST_CHUNK ? RVL_HTTP1_REQUEST_CHUNK_END : RVL_HTTP1_REQUEST_DONE;
  return true;
}

static bool feed_some(rvl_http1_request *r, const char *data, size_t length, size_t *taken) {
  size_t room = r->limits.head - r->head.length;
  switch (r->state) {
    case RVL_HTTP1_REQUEST_LINE:
    case RVL_HTTP1_REQUEST_HEADERS:
    case RVL_HTTP1_REQUEST_TRAILERS:
      if (!rvl_bytes_reserve(&r->head, length < room ? length : room)) return false;
      *taken = feed_head(r, data, length);
      return true;
    case RVL_HTTP1_REQUEST_CHUNK_SIZE:
      *taken = feed_chunk_size(r, data, length);
      return true;
    case RVL_HTTP1_REQUEST_CHUNK_END:
      *taken = feed_chunk_end(r, data, length);
      return true;
    default:
      return feed_body(r, data, length, taken);
  }
}

bool rvl_http1_request_feed(rvl_http1_request *r, const char *data, size_t length, size_t *taken) {
  *taken = 0;
  while (*taken < length && r->state < RVL_HTTP1_REQUEST_DONE) {
    size_t some = 0;
    if (!feed_some(r, data + *taken, length - *taken, &some)) return false;
    *taken += some;
  }
  return true;
}
