#include "grpc_incoming.h"

#include "grpc_headers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_MESSAGE (32u * 1024u)   /* is copied: nobody has to wait until it is out */
#define WIDE_REQUEST (32u * 1024u)    /* the windows of smaller ones need not be widened */
#define MAX_DETAILS 4096u             /* as sent: clients refuse headers of more than 8 or 16 KiB */
#define FEW_HEADERS 24
#define FIXED_HEADERS 5

static const char accepted_encodings[] = "identity,deflate,gzip";

static rvl_grpc_incoming *call_of(rvl_http2_exchange *x) { return (rvl_grpc_incoming *)x; }

/* ---- answers ------------------------------------------------------------------------------------------ */

/* What was kept of the request is not wanted any more. */
static void drop_request(rvl_grpc_incoming *c) {
  rvl_grpc_decoder_free(&c->request);
  c->budget->used -= c->counted;
  c->counted = 0;
}

static void cut_off(rvl_grpc_incoming *c, uint32_t error) {
  rvl_http2_server_reset(c->http2, &c->exchange, error);
  c->over = true;
  c->ending = false;
  drop_request(c);
  c->closed(c);
}

/* Without memory for an answer the client is told nothing but that it has failed. */
static void give_up(rvl_grpc_incoming *c) { cut_off(c, RVL_HTTP2_INTERNAL_ERROR); }

static void end_now(rvl_grpc_incoming *c) {
  rvl_http2_header few[FEW_HEADERS], *headers = few;
  size_t most = FIXED_HEADERS + c->headers.count + c->trailers.count;
  char status[12];
  c->ending = false;
  if (c->exchange.id == 0 || c->exchange.ended) return;
  if (most > FEW_HEADERS && (headers = malloc(most * sizeof *headers)) == NULL) {
    give_up(c);
    return;
  }
  rvl_http2_header *h = headers;
  bool alone = !c->exchange.answering;
  if (alone) {
    h = rvl_grpc_write_text(h, ":status", "200");
    h = rvl_grpc_write_text(h, "content-type", "application/grpc");
    h = rvl_grpc_write_metadata(h, &c->headers);
  }
  int n = snprintf(status, sizeof status, "%d", c->status);
  h = rvl_grpc_write_header(h, "grpc-status", status, (size_t)n, false);
  if (c->details.length > 0)
    h = rvl_grpc_write_header(h, "grpc-message", c->details.data, c->details.length, true);
  if (c->status == RVL_GRPC_UNIMPLEMENTED && c->encoding == RVL_GRPC_UNKNOWN_ENCODING)
    h = rvl_grpc_write_text(h, "grpc-accept-encoding", accepted_encodings);
  h = rvl_grpc_write_metadata(h, &c->trailers);
  size_t count = (size_t)(h - headers);
  bool said = alone ? rvl_http2_server_answer(c->http2, &c->exchange, headers, count, true)
                    : rvl_http2_server_end(c->http2, &c->exchange, headers, count);
  if (headers != few) free(headers);
  if (!said) give_up(c);
}

static void decide(rvl_grpc_incoming *c, rvl_grpc_code status, const char *text, size_t length) {
  c->over = true;
  c->status = (int)status;
  rvl_grpc_append_encoded(&c->details, text, length, MAX_DETAILS);
}

void rvl_grpc_incoming_finish(rvl_grpc_incoming *c, rvl_grpc_code status, const char *text, size_t length) {
  if (c->over) return;
  decide(c, status, text, length);
  if (c->exchange.payload.head != NULL) c->ending = true;
  else end_now(c);
}

/* A message that has been cut off cannot be followed by trailers. */
void rvl_grpc_incoming_break(rvl_grpc_incoming *c, rvl_grpc_code status, const char *text) {
  if (c->over && !c->ending) return;
  if (!c->over) decide(c, status, text, strlen(text));
  if (c->exchange.payload.head != NULL) {
    cut_off(c, RVL_HTTP2_CANCEL);
    return;
  }
  end_now(c);
  drop_request(c);
  if (c->has_arrived && c->exchange.id != 0) c->changed(c);
}

static void refuse(rvl_grpc_incoming *c, rvl_grpc_code status, const char *text) {
  rvl_grpc_incoming_break(c, status, text);
}

void rvl_grpc_incoming_answer(rvl_grpc_incoming *c) {
  rvl_http2_header few[FEW_HEADERS], *headers = few;
  size_t most = FIXED_HEADERS + c->headers.count;
  if (c->exchange.id == 0 || c->exchange.answering) return;
  if (most > FEW_HEADERS && (headers = malloc(most * sizeof *headers)) == NULL) {
    give_up(c);
    return;
  }
  rvl_http2_header *h = rvl_grpc_write_text(headers, ":status", "200");
  h = rvl_grpc_write_text(h, "content-type", "application/grpc");
  h = rvl_grpc_write_metadata(h, &c->headers);
  bool said = rvl_http2_server_answer(c->http2, &c->exchange, headers, (size_t)(h - headers), false);
  if (headers != few) free(headers);
  if (!said) give_up(c);
}

bool rvl_grpc_incoming_is_short(size_t length) { return length <= SHORT_MESSAGE; }

bool rvl_grpc_incoming_is_sent(const rvl_grpc_incoming *c) {
  return c->exchange.payload.head == NULL;
}

void rvl_grpc_incoming_send(rvl_grpc_incoming *c, const char *data, size_t length) {
  if (c->over || c->exchange.id == 0) return;
  rvl_grpc_incoming_answer(c);
  if (c->over) return;
  rvl_grpc_write_prefix(c->prefix, length);
  if (rvl_grpc_incoming_is_short(length)) {
    c->copy.length = 0;
    if (!rvl_bytes_append(&c->copy, data, length)) {
      give_up(c);
      return;
    }
    data = c->copy.data;
  }
  if (!rvl_http2_server_send(c->http2, &c->exchange, (const char *)c->prefix, sizeof c->prefix, data, length))
    give_up(c);
}

void rvl_grpc_incoming_keep(rvl_grpc_incoming *c) {
  rvl_http2_exchange *x = &c->exchange;
  if (x->payload.head == NULL || x->payload.body == c->copy.data) return;
  c->copy.length = 0;
  if (rvl_bytes_append(&c->copy, x->payload.body, x->payload.body_length)) x->payload.body = c->copy.data;
  else give_up(c);
}

/* ---- headers ------------------------------------------------------------------------------------------ */

static bool is_named(const char *name, size_t length, const char *wanted) {
  return strlen(wanted) == length && memcmp(name, wanted, length) == 0;
}

static bool is_grpc_type(const char *value, size_t length) {
  static const char wanted[] = "application/grpc";
  size_t n = sizeof wanted - 1;
  if (length < n || memcmp(value, wanted, n) != 0) return false;
  return length == n || value[n] == '+' || value[n] == ';';
}

static rvl_grpc_encoding encoding_of(const char *value, size_t length) {
  if (is_named(value, length, "identity")) return RVL_GRPC_IDENTITY;
  bool known = is_named(value, length, "gzip") || is_named(value, length, "deflate");
  return known ? RVL_GRPC_INFLATED : RVL_GRPC_UNKNOWN_ENCODING;
}

static bool is_http2s(const char *name, size_t length) {
  return is_named(name, length, "te") || is_named(name, length, "host") ||
         is_named(name, length, "content-length");
}

static void on_header(rvl_http2_exchange *x, const char *name, size_t name_length, const char *value,
                      size_t value_length) {
  rvl_grpc_incoming *c = call_of(x);
  bool kept = true;
  if (c->over) return;
  if (name_length > 0 && name[0] == ':') {
    if (is_named(name, name_length, ":method")) c->is_post = is_named(value, value_length, "POST");
    if (is_named(name, name_length, ":path")) kept = rvl_bytes_append(&c->method, value, value_length);
  } else if (is_named(name, name_length, "content-type")) {
    c->is_grpc = is_grpc_type(value, value_length);
  } else if (name_length > 5 && memcmp(name, "grpc-", 5) == 0) {
    if (is_named(name, name_length, "grpc-timeout"))
      c->bad_timeout = !rvl_grpc_read_timeout(value, value_length, &c->timeout);
    else if (is_named(name, name_length, "grpc-encoding")) c->encoding = encoding_of(value, value_length);
    if (c->timeout == 0 && is_named(name, name_length, "grpc-timeout")) c->timeout = 1;
    if (is_named(name, name_length, "grpc-previous-rpc-attempts"))
      kept = rvl_grpc_metadata_put(&c->metadata, name, name_length, value, value_length);
  } else if (!is_http2s(name, name_length)) {
    kept = rvl_grpc_metadata_put(&c->metadata, name, name_length, value, value_length);
  }
  if (!kept) refuse(c, RVL_GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

/* What is not gRPC at all gets an answer of HTTP's. */
static void refuse_http(rvl_grpc_incoming *c, const char *status, const char *name, const char *value) {
  rvl_http2_header headers[2], *h = rvl_grpc_write_text(headers, ":status", status);
  h = rvl_grpc_write_text(h, name, value);
  c->over = true;
  if (!rvl_http2_server_answer(c->http2, &c->exchange, headers, (size_t)(h - headers), true)) give_up(c);
}

static void on_headers(rvl_http2_exchange *x) {
  rvl_grpc_incoming *c = call_of(x);
  if (c->over) return;
  if (!c->is_post) {
    refuse_http(c, "405", "allow", "POST");
  } else if (!c->is_grpc) {
    refuse_http(c, "415", "accept", "application/grpc");
  } else if (c->bad_timeout) {
    refuse(c, RVL_GRPC_INTERNAL, "the value of grpc-timeout cannot be read");
  } else if (c->method.length == 0 || c->method.data[0] != '/') {
    refuse(c, RVL_GRPC_UNIMPLEMENTED, "the path is not a method");
  } else {
    c->has_arrived = true;
    c->arrived(c);
  }
}

static void on_overflow(rvl_http2_exchange *x) {
  refuse(call_of(x), RVL_GRPC_RESOURCE_EXHAUSTED, "the headers of the request are too large");
}

/* ---- the request --------------------------------------------------------------------------------------- */

static void give_back(rvl_grpc_incoming *c) {
  if (!c->accepted || c->held == 0) return;
  rvl_http2_server_consume(c->http2, &c->exchange, c->held);
  c->held = 0;
}

void rvl_grpc_incoming_accept(rvl_grpc_incoming *c) {
  if (c->accepted || c->over) return;
  c->accepted = true;
  if (c->exchange.heard) return;
  if (c->request.wanted > WIDE_REQUEST) rvl_http2_server_widen(c->http2, &c->exchange);
  give_back(c);
}

static bool count(rvl_grpc_incoming *c, size_t length) {
  if (length > c->budget->most - c->budget->used) {
    refuse(c, RVL_GRPC_RESOURCE_EXHAUSTED, "the server has too many large requests at once");
    return false;
  }
  c->budget->used += length;
  c->counted += length;
  return true;
}

/* Whether a message has begun that is compressed in a way that we do not know; or in none. */
static bool refuse_compressed(rvl_grpc_incoming *c) {
  bool compressed = c->request.prefix_length == RVL_GRPC_PREFIX && c->request.prefix[0] != 0;
  const rvl_grpc_message *m = c->request.first;
  if (!compressed && (m == NULL || !m->compressed)) return false;
  if (c->encoding == RVL_GRPC_INFLATED) return false;
  if (c->encoding == RVL_GRPC_UNKNOWN_ENCODING)
    refuse(c, RVL_GRPC_UNIMPLEMENTED, "the message is compressed in a way that the server does not know");
  else refuse(c, RVL_GRPC_INTERNAL, "the message is compressed, but grpc-encoding does not say how");
  return true;
}

static void judge_data(rvl_grpc_incoming *c, rvl_grpc_verdict verdict) {
  char text[100];
  switch (verdict) {
    case RVL_GRPC_GOOD: break;
    case RVL_GRPC_TOO_LARGE:
      snprintf(text, sizeof text, "the message is larger than max_message (%zu bytes)", c->request.max_message);
      refuse(c, RVL_GRPC_RESOURCE_EXHAUSTED, text);
      return;
    case RVL_GRPC_NO_MEMORY: refuse(c, RVL_GRPC_RESOURCE_EXHAUSTED, "out of memory"); return;
    case RVL_GRPC_COMPRESSED:
    case RVL_GRPC_DAMAGED: refuse(c, RVL_GRPC_INTERNAL, "the body of the request is no gRPC message"); return;
  }
  if (refuse_compressed(c)) return;
  if (c->request.count > 1 || (c->request.count == 1 && !rvl_grpc_decoder_is_clean(&c->request)))
    refuse(c, RVL_GRPC_INTERNAL, "a request is one message; the client sent several");
}

static void on_data(rvl_http2_exchange *x, const char *data, size_t length) {
  rvl_grpc_incoming *c = call_of(x);
  c->held += length;
  if (c->over || !c->has_arrived) {   /* of no interest: the client may go on, or not */
    rvl_http2_server_consume(c->http2, &c->exchange, c->held);
    c->held = 0;
    return;
  }
  if (!count(c, length)) return;
  c->received += length;
  bool begun = c->request.wanted > 0;
  judge_data(c, rvl_grpc_decoder_feed(&c->request, data, length));
  if (c->over) return;
  if (c->accepted && !begun && c->request.wanted > WIDE_REQUEST) rvl_http2_server_widen(c->http2, &c->exchange);
  give_back(c);
}

static void on_heard(rvl_http2_exchange *x) {
  rvl_grpc_incoming *c = call_of(x);
  if (c->over || !c->has_arrived) return;
  if (!rvl_grpc_decoder_is_clean(&c->request)) {
    refuse(c, RVL_GRPC_INTERNAL, "the request ended in the middle of a message");
  } else if (c->request.count == 0) {
    refuse(c, RVL_GRPC_INTERNAL, "the request ended without a message");
  } else {
    c->whole = true;
    c->changed(c);
  }
}

rvl_grpc_message *rvl_grpc_incoming_take(rvl_grpc_incoming *c) {
  if (!c->whole || c->over) return NULL;
  rvl_grpc_message *m = rvl_grpc_decoder_take(&c->request);
  if (m == NULL || !m->compressed) return m;
  size_t left = c->budget->most - c->budget->used, most = c->request.max_message;
  rvl_grpc_verdict verdict = rvl_grpc_message_inflate(&m, left < most ? left : most);
  if (verdict == RVL_GRPC_GOOD && count(c, m->length)) return m;
  free(m);
  if (!c->over && verdict == RVL_GRPC_DAMAGED) refuse(c, RVL_GRPC_INTERNAL, "the message cannot be decompressed");
  else if (!c->over) judge_data(c, verdict);
  return NULL;
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

static void on_sent(rvl_http2_exchange *x) {
  rvl_grpc_incoming *c = call_of(x);
  if (c->ending) end_now(c);
  if (c->exchange.id != 0) c->changed(c);
}

void rvl_grpc_incoming_lose(rvl_grpc_incoming *c) {
  if (!c->over) c->status = RVL_GRPC_CANCELLED;
  c->over = true;
  c->ending = false;
  drop_request(c);
  c->closed(c);
}

static void on_closed(rvl_http2_exchange *x) { rvl_grpc_incoming_lose(call_of(x)); }

const rvl_http2_server_events rvl_grpc_incoming_events = {
    .header = on_header, .headers = on_headers, .overflow = on_overflow, .data = on_data,
    .heard = on_heard,   .sent = on_sent,       .closed = on_closed,
};

void rvl_grpc_incoming_begin(rvl_grpc_incoming *c, rvl_http2_server *http2, rvl_grpc_budget *budget,
                             size_t max_message) {
  c->http2 = http2;
  c->budget = budget;
  c->request.max_message = max_message;
  c->request.takes_compressed = true;
}

void rvl_grpc_incoming_free(rvl_grpc_incoming *c) {
  if (c->exchange.id != 0) rvl_http2_server_reset(c->http2, &c->exchange, RVL_HTTP2_CANCEL);
  drop_request(c);
  rvl_bytes_free(&c->method);
  rvl_bytes_free(&c->copy);
  rvl_bytes_free(&c->details);
  rvl_grpc_metadata_free(&c->metadata);
  rvl_grpc_metadata_free(&c->headers);
  rvl_grpc_metadata_free(&c->trailers);
}
