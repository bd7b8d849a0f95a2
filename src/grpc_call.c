#include "grpc_call.h"

#include "grpc_headers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MESSAGE ((size_t)INT32_MAX)
#define QUEUED_AT_MOST (1024u * 1024u)   /* of messages that nobody takes, before the server has to wait */
#define NO_STATUS (-1)
#define NO_PUSHBACK (-1)
#define NEVER_AGAIN (-2)
#define FIXED_HEADERS 9
#define MOST_RESTARTS 5
#define FEW_HEADERS 64

static rvl_grpc_call *call_of(rvl_http2_stream *s) {
  return (rvl_grpc_call *)(void *)((char *)s - offsetof(rvl_grpc_call, stream));
}

/* ---- lists ------------------------------------------------------------------------------------------- */

static void enlist(rvl_grpc_list *list, rvl_grpc_call *c) {
  c->list = list;
  c->next = NULL;
  c->previous = list->last;
  if (list->last != NULL) list->last->next = c;
  else list->first = c;
  list->last = c;
}

static void enlist_first(rvl_grpc_list *list, rvl_grpc_call *c) {
  c->list = list;
  c->previous = NULL;
  c->next = list->first;
  if (list->first != NULL) list->first->previous = c;
  else list->last = c;
  list->first = c;
}

static void delist(rvl_grpc_call *c) {
  rvl_grpc_list *list = c->list;
  if (list == NULL) return;
  if (c->previous != NULL) c->previous->next = c->next;
  else list->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  else list->last = c->previous;
  c->list = NULL;
  c->previous = c->next = NULL;
}

/* ---- attempts ---------------------------------------------------------------------------------------- */

static void forget_answer(rvl_grpc_call *c) {
  c->headers.text.length = c->headers.count = 0;
  c->trailers.text.length = c->trailers.count = 0;
  c->details.length = 0;
  rvl_grpc_decoder_free(&c->messages);
  c->http_status = 0;
  c->server_status = NO_STATUS;
  c->pushback = NO_PUSHBACK;
  c->held = 0;
  c->from_server = c->answered = c->headers_over = false;
  c->failure = RVL_NO_FAILURE;
}

/* false: no memory. */
static bool set_timer(rvl_grpc_call *c) {
  uint64_t due = c->due;
  if (c->pause_due != 0 && (due == 0 || c->pause_due < due)) due = c->pause_due;
  if (due != 0) return rvl_timer_start(c->channel->loop, &c->timer, due);
  rvl_timer_stop(c->channel->loop, &c->timer);
  return true;
}

/* Takes it away from where it is; its stream ends. */
static void leave(rvl_grpc_call *c, uint32_t error) {
  delist(c);
  if (c->connection != NULL && c->stream.id != 0) {
    rvl_http2_reset(c->connection->http2, &c->stream, error);
    rvl_grpc_schedule(c->channel);
  }
  c->connection = NULL;
}

static void finish(rvl_grpc_call *c) {
  c->channel->stats.in_flight--;
  rvl_timer_stop(c->channel->loop, &c->timer);
  rvl_grpc_decoder_cut(&c->messages);   /* who has the call may keep it for long, and does not know how large it is */
  c->channel = NULL;
  c->done = true;
  c->ended = rvl_now();
  if (c->notify != NULL) c->notify(c);
}

static uint64_t pause_of(rvl_grpc_call *c) {
  const rvl_grpc_retries *r = &c->request.retries;
  if (c->pushback >= 0) return (uint64_t)c->pushback * 1000000u;
  double pause = (double)r->initial;
  for (unsigned i = 1; i < c->attempts && pause < (double)r->cap; i++) pause *= r->factor;
  if (r->cap != 0 && pause > (double)r->cap) pause = (double)r->cap;
  return (uint64_t)(pause * (1 + r->jitter * (2 * rvl_grpc_random(c->channel) - 1)));
}

/* Whether it pauses for a further attempt. */
static bool try_again(rvl_grpc_call *c) {
  if (c->attempts >= c->request.retries.attempts || c->answered || c->pushback == NEVER_AGAIN) return false;
  if (c->failure == RVL_FAIL_UNSUPPORTED || c->failure == RVL_FAIL_TLS) return false;
  uint64_t at = rvl_now() + pause_of(c);
  if (c->due != 0 && at >= c->due) return false;
  c->pause_due = at;
  if (!set_timer(c)) return false;
  enlist(&c->channel->paused, c);
  return true;
}

static void end(rvl_grpc_call *c, int status, uint32_t reset) {
  if (c->connection != NULL) {
    c->connection->ended++;
    c->connection->holding = false;
  }
  leave(c, reset);
  if (status == RVL_GRPC_UNAVAILABLE && try_again(c)) return;
  c->status = status;
  finish(c);
}

static void end_with(rvl_grpc_call *c, rvl_grpc_code status, uint32_t reset, const char *text) {
  c->details.length = 0;
  rvl_bytes_append(&c->details, text, strlen(text));
  end(c, (int)status, reset);
}

void rvl_grpc_call_fail(rvl_grpc_call *c, rvl_grpc_code status, const char *text) {
  end_with(c, status, RVL_HTTP2_CANCEL, text);
}

/* As if nothing had been sent: the server has not looked at it. */
static void restart(rvl_grpc_call *c) {
  leave(c, RVL_HTTP2_NO_ERROR);
  forget_answer(c);
  enlist_first(&c->channel->waiting, c);
  rvl_grpc_schedule(c->channel);
}

static void begin_attempt(rvl_grpc_call *c) {
  c->attempts++;
  c->refused = false;
  c->restarts = 0;
  enlist(&c->channel->waiting, c);
}

static void pass_deadline(rvl_grpc_call *c) {
  char text[RVL_GRPC_TEXT_SIZE + 100];
  double seconds = (double)c->request.timeout / 1e9;
  const rvl_grpc_channel *channel = c->channel;
  if (c->list == &channel->waiting && channel->failures > 0)
    snprintf(text, sizeof text, "the deadline of %g s passed before there was a connection (%s)", seconds,
             channel->text);
  else snprintf(text, sizeof text, "the deadline of %g s passed", seconds);
  c->local_deadline = true;
  rvl_grpc_call_fail(c, RVL_GRPC_DEADLINE_EXCEEDED, text);
}

static void on_timer(rvl_timer *timer) {
  rvl_grpc_call *c = (rvl_grpc_call *)(void *)((char *)timer - offsetof(rvl_grpc_call, timer));
  uint64_t now = rvl_now();
  if (c->due != 0 && now >= c->due) {
    pass_deadline(c);
    return;
  }
  bool again = c->pause_due != 0 && now >= c->pause_due;
  if (again) c->pause_due = 0;
  set_timer(c);   /* there is the place that it has just had */
  if (!again) return;
  delist(c);
  forget_answer(c);
  begin_attempt(c);
  rvl_grpc_schedule(c->channel);
}

/* ---- what is sent ------------------------------------------------------------------------------------ */

static size_t write_headers(rvl_grpc_call *c, rvl_http2_header *headers) {
  const rvl_grpc_channel *channel = c->channel;
  rvl_http2_header *h = headers;
  h = rvl_grpc_write_text(h, ":path", c->request.method);
  h = rvl_grpc_write_text(h, ":authority", channel->options.authority);
  h = rvl_grpc_write_text(h, ":method", "POST");
  h = rvl_grpc_write_text(h, ":scheme", channel->tls ? "https" : "http");
  h = rvl_grpc_write_text(h, "content-type", "application/grpc");
  h = rvl_grpc_write_text(h, "te", "trailers");
  if (c->due != 0) {
    uint64_t now = rvl_now();
    size_t n = rvl_grpc_write_timeout(c->timeout_text, c->due > now ? c->due - now : 1);
    h = rvl_grpc_write_header(h, "grpc-timeout", c->timeout_text, n, true);
  }
  unsigned previous = c->request.previous + c->attempts - 1;
  if (previous > 0) {
    int n = snprintf(c->attempts_text, sizeof c->attempts_text, "%u", previous);
    h = rvl_grpc_write_header(h, "grpc-previous-rpc-attempts", c->attempts_text, (size_t)n, false);
  }
  h = rvl_grpc_write_text(h, "user-agent", channel->options.user_agent);
  h = rvl_grpc_write_metadata(h, channel->options.metadata);
  h = rvl_grpc_write_metadata(h, c->request.metadata);
  return (size_t)(h - headers);
}

static size_t count_of(const rvl_grpc_metadata *metadata) { return metadata != NULL ? metadata->count : 0; }

bool rvl_grpc_call_send(rvl_grpc_call *c, rvl_grpc_connection *connection) {
  rvl_http2_header few[FEW_HEADERS], *headers = few;
  size_t most = FIXED_HEADERS + count_of(c->channel->options.metadata) + count_of(c->request.metadata);
  if (most > FEW_HEADERS && (headers = malloc(most * sizeof *headers)) == NULL) return false;
  size_t count = write_headers(c, headers);
  c->stream.payload.head = (const char *)c->prefix;
  c->stream.payload.head_length = sizeof c->prefix;
  c->stream.payload.body = c->request.data;
  c->stream.payload.body_length = c->request.length;
  bool opened = rvl_http2_open(connection->http2, &c->stream, headers, count);
  if (headers != few) free(headers);
  if (!opened) return false;
  delist(c);
  enlist(&connection->calls, c);
  c->connection = connection;
  c->sent_before = c->sent;
  c->sent = true;
  return true;
}

/* ---- what comes -------------------------------------------------------------------------------------- */

static bool is_named(const char *name, size_t length, const char *wanted) {
  return strlen(wanted) == length && memcmp(name, wanted, length) == 0;
}

static int read_http_status(const char *value, size_t length) {
  if (length != 3) return 0;
  int status = 0;
  for (size_t i = 0; i < 3; i++) {
    if (value[i] < '0' || value[i] > '9') return 0;
    status = status * 10 + (value[i] - '0');
  }
  return status;
}

static int64_t read_pushback(const char *value, size_t length) {
  int64_t ms = 0;
  if (length == 0 || length > 9) return NEVER_AGAIN;
  for (size_t i = 0; i < length; i++) {
    if (value[i] < '0' || value[i] > '9') return NEVER_AGAIN;
    ms = ms * 10 + (value[i] - '0');
  }
  return ms;
}

static void on_header(rvl_http2_stream *s, const char *name, size_t name_length, const char *value,
                      size_t value_length) {
  rvl_grpc_call *c = call_of(s);
  if (name[0] == ':') {
    if (!c->headers_over && is_named(name, name_length, ":status"))
      c->http_status = read_http_status(value, value_length);
    return;
  }
  if (is_named(name, name_length, "grpc-status")) c->server_status = rvl_grpc_read_status(value, value_length);
  if (is_named(name, name_length, "grpc-retry-pushback-ms")) c->pushback = read_pushback(value, value_length);
  rvl_grpc_metadata *to = c->headers_over ? &c->trailers : &c->headers;
  if (!rvl_grpc_metadata_put(to, name, name_length, value, value_length))
    end_with(c, RVL_GRPC_RESOURCE_EXHAUSTED, RVL_HTTP2_CANCEL, "out of memory");
}

static bool is_grpc(const rvl_grpc_header *type) {
  static const char wanted[] = "application/grpc";
  size_t length = sizeof wanted - 1;
  if (type->value_length < length || memcmp(type->value, wanted, length) != 0) return false;
  return type->value_length == length || type->value[length] == '+' || type->value[length] == ';';
}

/* The answer does not come from a gRPC server. */
static void end_foreign(rvl_grpc_call *c, const rvl_grpc_metadata *headers) {
  char text[RVL_GRPC_TEXT_SIZE];
  rvl_grpc_header type;
  if (c->http_status != 200) {
    snprintf(text, sizeof text, "the answer is not gRPC: HTTP status %d", c->http_status);
  } else if (rvl_grpc_metadata_find(headers, "content-type", &type)) {
    int shown = type.value_length < 100 ? (int)type.value_length : 100;
    snprintf(text, sizeof text, "the answer is not gRPC: content-type '%.*s'", shown, type.value);
  } else {
    snprintf(text, sizeof text, "the answer is not gRPC: it has no content-type");
  }
  end_with(c, rvl_grpc_code_of_http(c->http_status), RVL_HTTP2_CANCEL, text);
}

/* Here it is over too, and only the timer has not fired yet: the server's clock told it so first. */
static bool is_overdue(const rvl_grpc_call *c) { return c->due != 0 && rvl_now() >= c->due; }

static void end_with_servers(rvl_grpc_call *c) {
  rvl_grpc_header message;
  if (c->server_status == RVL_GRPC_DEADLINE_EXCEEDED && is_overdue(c)) {
    pass_deadline(c);
    return;
  }
  c->from_server = true;
  if (rvl_grpc_metadata_find(&c->trailers, "grpc-message", &message))
    rvl_grpc_append_decoded(&c->details, message.value, message.value_length);
  end(c, c->server_status, RVL_HTTP2_NO_ERROR);
}

/* The server has said all it has to say. */
static void judge(rvl_grpc_call *c) {
  bool good = c->server_status == RVL_GRPC_OK;
  if (c->server_status == NO_STATUS)
    end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_NO_ERROR, "the answer ended without a grpc-status");
  else if (good && !rvl_grpc_decoder_is_clean(&c->messages))
    end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_NO_ERROR, "the answer ended in the middle of a message");
  else if (good && !c->request.streamed && c->messages.count == 0)
    end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_NO_ERROR, "the server said OK but sent no message");
  else end_with_servers(c);
}

/* The first block: headers, or trailers alone. */
static void take_first_block(rvl_grpc_call *c, bool ended) {
  rvl_grpc_header type;
  if (c->http_status >= 100 && c->http_status < 200 && !ended) {   /* the answer is still to come */
    forget_answer(c);
    return;
  }
  bool has_type = rvl_grpc_metadata_find(&c->headers, "content-type", &type);
  if (c->server_status == NO_STATUS && (c->http_status != 200 || !has_type || !is_grpc(&type))) {
    end_foreign(c, &c->headers);
    return;
  }
  c->headers_over = true;
  if (ended) {
    rvl_grpc_metadata empty = c->trailers;
    c->trailers = c->headers;
    c->headers = empty;
    judge(c);
    return;
  }
  c->server_status = NO_STATUS;   /* it belongs into the trailers */
  c->answered = true;
  if (c->notify != NULL) c->notify(c);
}

static void on_headers(rvl_http2_stream *s, bool ended) {
  rvl_grpc_call *c = call_of(s);
  if (!c->headers_over) take_first_block(c, ended);
  else if (ended) judge(c);
  else end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_PROTOCOL_ERROR, "the server sent headers in the middle of its answer");
}

/* Room for more, unless the reader is behind. */
static void give_back(rvl_grpc_call *c) {
  bool behind = c->request.streamed && c->messages.queued >= QUEUED_AT_MOST;
  if (c->connection == NULL || c->held == 0 || behind) return;
  rvl_http2_consume(c->connection->http2, &c->stream, c->held);
  c->held = 0;
}

static void on_data(rvl_http2_stream *s, const char *data, size_t length) {
  rvl_grpc_call *c = call_of(s);
  size_t count = c->messages.count;
  if (!c->headers_over) {
    end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_PROTOCOL_ERROR, "the server sent a message before its headers");
    return;
  }
  c->held += length;
  rvl_grpc_verdict verdict = rvl_grpc_decoder_feed(&c->messages, data, length);
  if (!c->request.streamed && c->messages.count > 1) {
    rvl_grpc_decoder_free(&c->messages);   /* none of them is the answer, however many came at once */
    end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_CANCEL, "the server sent several messages where one is wanted");
    return;
  }
  switch (verdict) {
    case RVL_GRPC_GOOD: break;
    case RVL_GRPC_TOO_LARGE:
      end_with(c, RVL_GRPC_RESOURCE_EXHAUSTED, RVL_HTTP2_CANCEL, "a message of the answer is larger than max_message");
      return;
    case RVL_GRPC_COMPRESSED:
    case RVL_GRPC_DAMAGED:
      end_with(c, RVL_GRPC_INTERNAL, RVL_HTTP2_CANCEL, "the server sent a compressed message, which was not agreed");
      return;
    case RVL_GRPC_NO_MEMORY:
      end_with(c, RVL_GRPC_RESOURCE_EXHAUSTED, RVL_HTTP2_CANCEL, "out of memory");
      return;
  }
  give_back(c);
  if (c->request.streamed && c->messages.count > count && c->notify != NULL) c->notify(c);
}

static void on_ended(rvl_http2_stream *s) { judge(call_of(s)); }

static void on_overflow(rvl_http2_stream *s) {
  end_with(call_of(s), RVL_GRPC_RESOURCE_EXHAUSTED, RVL_HTTP2_ENHANCE_YOUR_CALM,
           "the headers of the answer are larger than 256 KiB");
}

/*
** Whether a refused call may be sent again: once, and after others have ended. A server at its limit may take the next
** call for one too many, because it forgets those that have ended a little later than we do.
*/
static bool take_refusal(rvl_grpc_call *c) {
  rvl_grpc_connection *connection = c->connection;
  bool again = !c->refused || c->refused_at != connection->ended;
  c->refused = true;
  c->refused_at = connection->ended;
  connection->holding = again && connection->calls.first != connection->calls.last;
  return again;
}

static void on_closed(rvl_http2_stream *s, rvl_http2_end how, uint32_t error) {
  rvl_grpc_call *c = call_of(s);
  char text[RVL_GRPC_TEXT_SIZE];
  if (how != RVL_HTTP2_RESET && !c->headers_over) {
    c->sent = c->sent_before;
    if (how == RVL_HTTP2_UNSEEN ? c->restarts++ < MOST_RESTARTS : take_refusal(c)) {
      restart(c);
      return;
    }
  }
  if (how == RVL_HTTP2_UNSEEN) {
    end_with(c, RVL_GRPC_UNAVAILABLE, RVL_HTTP2_NO_ERROR, "the server went away without looking at the call");
    return;
  }
  if (error == RVL_HTTP2_CANCEL && is_overdue(c)) {
    pass_deadline(c);
    return;
  }
  snprintf(text, sizeof text, "the server reset the stream (%s)", rvl_http2_error_name(error));
  end_with(c, rvl_grpc_code_of_reset(error), RVL_HTTP2_NO_ERROR, text);
}

const rvl_http2_events rvl_grpc_events = {on_header, on_headers, on_data, on_ended, on_overflow, on_closed};

/* ---- the interface ----------------------------------------------------------------------------------- */

void rvl_grpc_call_begin(rvl_grpc_channel *channel, rvl_grpc_call *c, const rvl_grpc_request *request) {
  c->channel = channel;
  c->request = *request;
  c->started = rvl_now();
  c->timer.fire = on_timer;
  c->messages.max_message = request->max_message != 0 ? request->max_message : MAX_MESSAGE;
  rvl_grpc_write_prefix(c->prefix, request->length);
  forget_answer(c);
  channel->stats.calls++;
  channel->stats.in_flight++;
  if (request->length > UINT32_MAX) {
    rvl_grpc_call_fail(c, RVL_GRPC_RESOURCE_EXHAUSTED, "a message of gRPC is smaller than 4 GiB");
    return;
  }
  if (request->timeout != 0) {
    c->due = c->started + request->timeout;
    if (c->due < c->started) c->due = 0;
    if (!set_timer(c)) {
      rvl_grpc_call_fail(c, RVL_GRPC_RESOURCE_EXHAUSTED, "out of memory");
      return;
    }
  }
  begin_attempt(c);
}

rvl_grpc_message *rvl_grpc_call_take(rvl_grpc_call *c) {
  rvl_grpc_message *m = rvl_grpc_decoder_take(&c->messages);
  if (m != NULL && c->held > 0 && c->connection != NULL) {
    give_back(c);
    if (c->held == 0) rvl_grpc_schedule(c->channel);
  }
  return m;
}

void rvl_grpc_call_cancel(rvl_grpc_call *c) {
  if (c->done || c->channel == NULL) return;
  rvl_grpc_channel *channel = c->channel;
  c->closed = true;
  c->notify = NULL;
  rvl_grpc_call_fail(c, RVL_GRPC_CANCELLED, "the call was cancelled");
  rvl_grpc_flush(channel);   /* who cancels may not run the loop for long */
}

void rvl_grpc_call_free(rvl_grpc_call *c) {
  rvl_grpc_call_cancel(c);
  rvl_grpc_metadata_free(&c->headers);
  rvl_grpc_metadata_free(&c->trailers);
  rvl_grpc_decoder_free(&c->messages);
  rvl_bytes_free(&c->details);
}
