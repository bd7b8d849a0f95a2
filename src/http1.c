#include "http1.h"

#include <string.h>
#include <strings.h>

#define MAX_CHUNK_LINE 1024
#define MAX_CHUNK_DIGITS 15
#define INCOMPLETE SIZE_MAX

static void bad(rvl_http1 *a, const char *error) {
  a->state = RVL_HTTP1_BAD;
  a->error = error;
}

static void head_too_large(rvl_http1 *a) {
  bad(a, "the headers of the answer are too large");
  a->limit = a->max_head;
}

static void body_too_large(rvl_http1 *a) {
  bad(a, "the answer is too large");
  a->limit = a->max_body;
}

void rvl_http1_begin(rvl_http1 *a, bool no_body, size_t max_head, size_t max_body) {
  a->state = RVL_HTTP1_HEAD;
  a->error = NULL;
  a->chunked = a->keep_alive = a->closes = false;
  a->limit = 0;
  a->no_body = no_body;
  a->upgrades = false;
  a->minor = a->status = 0;
  a->remaining = 0;
  a->chunk_line = a->digits = 0;
  a->last = '\0';
  a->line = a->trailers = 0;
  a->max_head = max_head;
  a->max_body = max_body;
  a->head.length = a->body.length = 0;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* "HTTP/1.1 200 OK": only three digits of it mean anything. */
static bool read_status_line(rvl_http1 *a, const char *line, size_t length) {
  if (length < 12 || memcmp(line, "HTTP/1.", 7) != 0 || !is_digit(line[7]) || line[8] != ' ') return false;
  if (!is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11])) return false;
  if (length > 12 && line[12] != ' ') return false;
  a->minor = line[7] - '0';
  a->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  return a->status >= 100;
}

/* Whether a comma-separated list contains a word, in any case. */
static bool lists(const char *value, size_t length, const char *word) {
  size_t wanted = strlen(word), i = 0;
  while (i < length) {
    while (i < length && (value[i] == ' ' || value[i] == '\t' || value[i] == ',')) i++;
    size_t start = i;
    while (i < length && value[i] != ',' && value[i] != ';') i++;
    size_t end = i;
    while (end > start && (value[end - 1] == ' ' || value[end - 1] == '\t')) end--;
    if (end - start == wanted && strncasecmp(value + start, word, wanted) == 0) return true;
    while (i < length && value[i] != ',') i++;
  }
  return false;
}

typedef struct framing {
  bool has_length, bad_length, chunked, other_coding, close, keep_alive;
  bool folded;    /* one of these went on in the next line: what it says is not known */
  enum { OTHER, LENGTH_OR_CODING, CONNECTION } last;   /* the header that was read last */
  uint64_t length;
} framing;

static void read_length(framing *f, const char *value, size_t length) {
  uint64_t n = 0;
  if (length == 0 || length > 18) f->bad_length = true;
  for (size_t i = 0; i < length && !f->bad_length; i++) {
    if (!is_digit(value[i])) f->bad_length = true;
    else n = n * 10 + (uint64_t)(value[i] - '0');
  }
  if (f->has_length && n != f->length) f->bad_length = true;
  f->has_length = true;
  f->length = n;
}

/* The three headers that say where the answer ends; false: not a header. */
static bool read_header(framing *f, const char *line, size_t length) {
  const char *colon = memchr(line, ':', length);
  if (colon == NULL) return false;
  size_t name = (size_t)(colon - line);
  while (name > 0 && (line[name - 1] == ' ' || line[name - 1] == '\t')) name--;
  if (name == 0) return false;
  const char *value = colon + 1;
  size_t rest = length - (size_t)(value - line);
  while (rest > 0 && (*value == ' ' || *value == '\t')) value++, rest--;
  while (rest > 0 && (value[rest - 1] == ' ' || value[rest - 1] == '\t')) rest--;
  f->last = LENGTH_OR_CODING;
  if (name == 14 && strncasecmp(line, "content-length", name) == 0) {
    read_length(f, value, rest);
  } else if (name == 17 && strncasecmp(line, "transfer-encoding", name) == 0) {
    if (rest == 7 && strncasecmp(value, "chunked", rest) == 0) f->chunked = true;
    else f->other_coding = true;
  } else if (name == 10 && strncasecmp(line, "connection", name) == 0) {
    f->last = CONNECTION;
    f->close = f->close || lists(value, rest, "close");
    f->keep_alive = f->keep_alive || lists(value, rest, "keep-alive");
  } else {
    f->last = OTHER;
  }
  return true;
}

static bool read_headers(const rvl_http1 *a, framing *f) {
  const char *at = memchr(a->head.data, '\n', a->head.length);
  const char *end = a->head.data + a->head.length;
  for (at++; at < end;) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    size_t length = (size_t)(newline - at);
    if (length > 0 && at[length - 1] == '\r') length--;
    if (length == 0) return true;
    bool continues = *at == ' ' || *at == '\t';   /* an old form */
    if (!continues && !read_header(f, at, length)) return false;
    if (continues && f->last == LENGTH_OR_CODING) f->folded = true;
    if (continues && f->last == CONNECTION) f->close = true;
    at = newline + 1;
  }
  return true;
}

/* The head is complete: finds out how the body ends. */
static void begin_body(rvl_http1 *a) {
  framing f = {0};
  if (!read_headers(a, &f)) {
    bad(a, "a header of the answer has no colon");
    return;
  }
  if (a->status < 200 && a->status != 101) {   /* an interim answer: the real one follows */
    a->head.length = a->line = 0;
    return;
  }
  bool doubtful = f.bad_length || f.other_coding || f.folded;
  bool two_framings = f.chunked && (f.has_length || a->minor == 0);   /* RFC 9112, 6.1: not to be trusted */
  a->closes = f.close || (a->minor == 0 && !f.keep_alive);
  a->keep_alive = !a->closes && !doubtful && !two_framings;
  if (a->status == 101 && a->upgrades) {
    a->keep_alive = false;
    a->state = RVL_HTTP1_DONE;
  } else if (a->status == 101) {
    bad(a, "the server switched to a protocol that was not asked for");
  } else if (a->no_body || a->status == 204 || a->status == 304) {
    a->state = RVL_HTTP1_DONE;
  } else if (f.other_coding) {
    bad(a, "the answer has a transfer coding that was not asked for");
  } else if (f.folded) {
    bad(a, "a header of the answer that says where it ends goes on in a second line");
  } else if (f.bad_length) {
    bad(a, "the answer's Content-Length is not one number");
  } else if (f.chunked) {
    a->chunked = true;
    a->state = RVL_HTTP1_CHUNK_SIZE;
  } else if (f.has_length) {
    if (f.length > a->max_body) {
      body_too_large(a);
      return;
    }
    a->remaining = f.length;
    a->state = f.length == 0 ? RVL_HTTP1_DONE : RVL_HTTP1_BODY;
  } else {
    a->keep_alive = false;
    a->state = RVL_HTTP1_BODY_TO_END;
  }
}

/* Length of the line that starts at `line` in the head, without its end. */
static size_t line_length(const rvl_http1 *a) {
  size_t length = a->head.length - a->line;
  if (length == 0 || a->head.data[a->head.length - 1] != '\n') return INCOMPLETE;
  length--;
  return length > 0 && a->head.data[a->line + length - 1] == '\r' ? length - 1 : length;
}

/* Appends to the head up to the end of a line, but not past the limit; false: no memory. */
static bool take_line(rvl_http1 *a, const char *data, size_t length, size_t *taken) {
  const char *newline = memchr(data, '\n', length);
  size_t room = a->max_head - a->head.length;
  *taken = newline != NULL ? (size_t)(newline - data) + 1 : length;
  if (*taken > room) *taken = room;
  return rvl_bytes_append(&a->head, data, *taken);
}

/* RFC 9110, 5.5 and RFC 9112, 2.2: some readers take these for the end of a line. */
static bool has_hidden_end(const rvl_http1 *a, size_t length) {
  const char *line = a->head.data + a->line;
  return memchr(line, '\r', length) != NULL || memchr(line, '\0', length) != NULL;
}

/* Reads the line at `line` of head or trailers as far as it has come; INCOMPLETE also when it is bad. */
static bool next_line(rvl_http1 *a, const char *data, size_t length, size_t *taken, size_t *line) {
  *line = INCOMPLETE;
  if (!take_line(a, data, length, taken)) return false;
  size_t got = line_length(a);
  if (a->state == RVL_HTTP1_HEAD && a->line == 0) {
    /* tell garbage early: it may never send a line end */
    size_t known = a->head.length < 7 ? a->head.length : 7;
    if (known > 0 && memcmp(a->head.data, "HTTP/1.", known) != 0) bad(a, "the server does not speak HTTP/1");
    else if (got != INCOMPLETE && !read_status_line(a, a->head.data, got)) bad(a, "the status line is malformed");
  }
  if (a->state == RVL_HTTP1_BAD) return true;
  if (got == INCOMPLETE) {
    if (*taken < length) head_too_large(a);
  } else if (has_hidden_end(a, got)) {
    bad(a, "a header of the answer contains a control character");
  } else {
    *line = got;
  }
  return true;
}

static bool feed_head(rvl_http1 *a, const char *data, size_t length, size_t *taken) {
  size_t line;
  if (!next_line(a, data, length, taken, &line)) return false;
  if (line == INCOMPLETE) return true;
  bool ends = line == 0 && a->line > 0;
  a->line = a->head.length;
  if (ends) begin_body(a);
  return true;
}

static bool take_body(rvl_http1 *a, const char *data, size_t length) {
  if (length > a->max_body - a->body.length) {
    body_too_large(a);
    return true;
  }
  return rvl_bytes_append(&a->body, data, length);
}

static int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void end_chunk_line(rvl_http1 *a) {
  if (a->digits == 0) {
    bad(a, "a chunk of the answer has no size");
  } else if (a->remaining == 0) {
    a->trailers = a->line = a->head.length;
    a->state = RVL_HTTP1_TRAILERS;
  } else if (a->remaining > a->max_body - a->body.length) {
    body_too_large(a);
  } else {
    a->last = '\0';
    a->state = RVL_HTTP1_BODY;
  }
}

/* One byte of a line like "1a;name=value", of which only the number counts. */
static void feed_chunk_size(rvl_http1 *a, char c, size_t *taken) {
  *taken = 1;
  if (c == '\n') {
    end_chunk_line(a);
    return;
  }
  int digit = hex_digit(c);
  bool in_number = a->chunk_line == a->digits;
  bool delimiter = c == ';' || c == ' ' || c == '\t' || c == '\r';
  if (in_number && digit >= 0 && a->digits < MAX_CHUNK_DIGITS) {
    a->remaining = a->remaining * 16 + (uint64_t)digit;
    a->digits++;
  } else if ((in_number && !delimiter) || a->last == '\r' || a->chunk_line == MAX_CHUNK_LINE) {
    bad(a, "a chunk of the answer has no size");
  }
  a->chunk_line++;
  a->last = c;
}

/* The line end after a chunk's bytes. */
static void feed_chunk_end(rvl_http1 *a, char c, size_t *taken) {
  *taken = 1;
  if (c == '\n') {
    a->chunk_line = a->digits = 0;
    a->last = '\0';
    a->state = RVL_HTTP1_CHUNK_SIZE;
  } else if (c == '\r' && a->last != '\r') {
    a->last = c;
  } else {
    bad(a, "a chunk of the answer is longer than its size");
  }
}

static bool feed_trailers(rvl_http1 *a, const char *data, size_t length, size_t *taken) {
  size_t line;
  if (!next_line(a, data, length, taken, &line)) return false;
  if (line == INCOMPLETE) return true;
  if (line == 0) {
    a->head.length = a->line;
    if (a->head.length == a->trailers) a->trailers = 0;
    a->state = RVL_HTTP1_DONE;
  }
  a->line = a->head.length;
  return true;
}

static bool feed_body(rvl_http1 *a, const char *data, size_t length, size_t *taken) {
  *taken = length < a->remaining ? length : (size_t)a->remaining;
  if (!take_body(a, data, *taken)) return false;
  a->remaining -= *taken;
  if (a->remaining == 0 && a->state == RVL_HTTP1_BODY)
    a->state = a->chunked ? RVL_HTTP1_CHUNK_END : RVL_HTTP1_DONE;
  return true;
}

bool rvl_http1_feed(rvl_http1 *a, const char *data, size_t length, size_t *taken) {
  size_t at = 0;
  bool ok = true;
  while (ok && at < length && a->state < RVL_HTTP1_DONE) {
    size_t step = 0;
    const char *rest = data + at;
    size_t left = length - at;
    switch (a->state) {
      case RVL_HTTP1_HEAD: ok = feed_head(a, rest, left, &step); break;
      case RVL_HTTP1_BODY: ok = feed_body(a, rest, left, &step); break;
      case RVL_HTTP1_BODY_TO_END:
        step = left;
        ok = take_body(a, rest, left);
        break;
      case RVL_HTTP1_CHUNK_SIZE: feed_chunk_size(a, *rest, &step); break;
      case RVL_HTTP1_CHUNK_END: feed_chunk_end(a, *rest, &step); break;
      default: ok = feed_trailers(a, rest, left, &step); break;
    }
    at += step;
  }
  *taken = at;
  return ok;
}

void rvl_http1_end(rvl_http1 *a) {
  if (a->state == RVL_HTTP1_BODY_TO_END) a->state = RVL_HTTP1_DONE;
  else if (a->state == RVL_HTTP1_HEAD) bad(a, "the server closed the connection before its answer was complete");
  else if (a->state < RVL_HTTP1_DONE) bad(a, "the answer was cut off: the server closed the connection in the middle");
}

void rvl_http1_free(rvl_http1 *a) {
  rvl_bytes_free(&a->head);
  rvl_bytes_free(&a->body);
}
