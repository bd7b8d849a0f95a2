#include "http2_server.h"

#include "http2_payload.h"

#include <stdlib.h>
#include <string.h>

#define NARROW_WINDOW 65535u               /* of a request that nobody has looked at yet */
#define WIDE_WINDOW (4u * 1024u * 1024u)
#define CONNECTION_WINDOW (16u * 1024u * 1024u)
#define MAX_FRAME (1024u * 1024u)
#define HEADER_COST 32u
#define HOSTILE_TIMES 4                    /* headers so much larger than allowed end the connection */
#define MAX_WAITING 4096u                  /* frames that we owe to a client that does not read them */
#define MAX_SENT_HEADERS (2u * 1024u * 1024u)
#define SETTINGS_AT_A_TIME 32
#define FEW_HEADERS 32
#define FRAME_HEAD 9

#define RESET_COST 10u
#define FRAME_COST 1u
#define SENT_CREDIT 3u                     /* a frame of data may be answered by updates of two windows */

static const char flooded[] = "the client floods the connection with frames";
static const char no_memory[] = "out of memory";

typedef struct frames {
  size_t magic;             /* how much is to come before the first one */
  size_t left;              /* of this one's payload */
  unsigned char head[FRAME_HEAD];
  unsigned had;             /* of the head of the next one */
} frames;

struct rvl_http2_server {
  rvl_http2_server_state state;
  const rvl_http2_server_events *events;
  rvl_http2_server_begin *begin;
  void *owner;
  rvl_http2_server_limits limits;
  nghttp2_session *session;
  rvl_bytes out;
  size_t room;              /* what `out` may hold before it stops */
  size_t block;             /* size of the headers that are coming in */
  frames frames;            /* that are coming in */
  unsigned credit;          /* frames of data that were sent since */
  bool going_asked;         /* the first of two goodbyes has been said */
};

const rvl_http2_server_state *rvl_http2_server_state_of(const rvl_http2_server *h) { return &h->state; }

rvl_bytes *rvl_http2_server_output(rvl_http2_server *h) { return &h->out; }

static bool fail(rvl_http2_server *h, const char *why) {
  if (!h->state.failed) h->state.why = why;
  h->state.failed = true;
  return false;
}

static bool is_fatal(int error) { return error == NGHTTP2_ERR_NOMEM; }

static rvl_http2_exchange *exchange_of(nghttp2_session *session, int32_t id) {
  return nghttp2_session_get_stream_user_data(session, id);
}

/* ---- what comes in ----------------------------------------------------------------------------------- */

/* Frames that cost the client nothing are counted: they are paid for by time, and by what is sent. */
static uint32_t cost_of(uint8_t type, size_t length) {
  if (type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION || (type == NGHTTP2_DATA && length > 0)) return 0;
  return type == NGHTTP2_RST_STREAM ? RESET_COST : FRAME_COST;
}

static bool is_of_headers(uint8_t type) { return type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION; }

static void end_frame(rvl_http2_server *h) {
  const frames *f = &h->frames;
  if (is_of_headers(f->head[3]) && (f->head[4] & NGHTTP2_FLAG_END_HEADERS) != 0) h->state.in_headers = false;
}

/* The nine bytes before a frame are there. */
static bool begin_frame(rvl_http2_server *h, uint32_t *spare) {
  frames *f = &h->frames;
  f->had = 0;
  f->left = (size_t)f->head[0] << 16 | (size_t)f->head[1] << 8 | (size_t)f->head[2];
  h->state.greeted = true;
  if (is_of_headers(f->head[3])) h->state.in_headers = true;
  uint32_t cost = cost_of(f->head[3], f->left);
  if (*spare < cost) return fail(h, flooded);
  *spare -= cost;
  if (f->left == 0) end_frame(h);
  return true;
}

/* Looks at the frames before nghttp2 does, which does not tell of all of them. */
static bool look_at_frames(rvl_http2_server *h, const char *data, size_t length, uint32_t *spare) {
  frames *f = &h->frames;
  while (length > 0) {
    size_t *skipped = f->magic > 0 ? &f->magic : &f->left;
    if (*skipped > 0) {
      size_t n = *skipped < length ? *skipped : length;
      *skipped -= n;
      data += n;
      length -= n;
      if (skipped == &f->left && f->left == 0) end_frame(h);
      continue;
    }
    f->head[f->had++] = (unsigned char)*data++;
    length--;
    if (f->had == FRAME_HEAD && !begin_frame(h, spare)) return false;
  }
  return true;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  rvl_http2_server *h = user;
  h->block = 0;
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  int32_t id = frame->hd.stream_id;
  rvl_http2_exchange *x = h->state.going ? NULL : h->begin(h->owner);
  if (x == NULL) {
    int error = nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
    return is_fatal(error) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
  }
  x->id = id;
  h->state.streams++;
  nghttp2_session_set_stream_user_data(session, id, x);
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
  (void)flags;
  rvl_http2_server *h = user;
  size_t before = h->block;
  h->block += name_length + value_length + HEADER_COST;
  if (h->block > (size_t)h->limits.headers * HOSTILE_TIMES) {
    fail(h, "the client sends headers without end");
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  rvl_http2_exchange *x = exchange_of(session, frame->hd.stream_id);
  if (x == NULL || frame->headers.cat != NGHTTP2_HCAT_REQUEST || x->answering) return 0;
  if (h->block > h->limits.headers) {
    if (before <= h->limits.headers) h->events->overflow(x);
    return 0;
  }
  h->events->header(x, (const char *)name, name_length, (const char *)value, value_length);
  return 0;
}

static void hear_all(rvl_http2_server *h, rvl_http2_exchange *x) {
  x->heard = true;
  h->events->heard(x);
}

static void say_which(rvl_http2_server *h);

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  rvl_http2_server *h = user;
  bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  rvl_http2_exchange *x;
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
      x = exchange_of(session, frame->hd.stream_id);
      if (x == NULL) break;
      if (ended) x->heard = true;
      if (frame->headers.cat == NGHTTP2_HCAT_REQUEST && !x->answering) h->events->headers(x);
      if (ended && x->id != 0) hear_all(h, x);
      break;
    case NGHTTP2_DATA:
      x = ended ? exchange_of(session, frame->hd.stream_id) : NULL;
      if (x != NULL) hear_all(h, x);
      break;
    case NGHTTP2_PING:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 && h->going_asked) say_which(h);
      break;
    default: break;
  }
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length,
                   void *user) {
  (void)flags;
  rvl_http2_server *h = user;
  rvl_http2_exchange *x = exchange_of(session, id);
  if (is_fatal(nghttp2_session_consume_connection(session, length))) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (x != NULL) h->events->data(x, (const char *)data, length);
  return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
  (void)error;
  rvl_http2_server *h = user;
  rvl_http2_exchange *x = exchange_of(session, id);
  if (x == NULL) return 0;
  nghttp2_session_set_stream_user_data(session, id, NULL);
  h->state.streams--;
  x->id = 0;
  x->payload.head = x->payload.body = NULL;
  h->events->closed(x);
  return 0;
}

/* A client of HTTP/1 is told so in its own words; nothing has been sent yet. */
static bool refuse_magic(rvl_http2_server *h) {
  static const char text[] = "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\n"
                             "Connection: close\r\nContent-Length: 44\r\n\r\n"
                             "this server speaks gRPC: HTTP/2 without TLS\n";
  if (h->out.length == 0) rvl_bytes_append(&h->out, text, sizeof text - 1);
  return fail(h, "the client does not speak HTTP/2");
}

bool rvl_http2_server_feed(rvl_http2_server *h, const char *data, size_t length, uint32_t *spare) {
  if (h->state.failed) return false;
  *spare += h->credit * SENT_CREDIT;
  h->credit = 0;
  if (!look_at_frames(h, data, length, spare)) return false;
  ssize_t n = nghttp2_session_mem_recv(h->session, (const uint8_t *)data, length);
  if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC) return refuse_magic(h);
  if (n == NGHTTP2_ERR_NOMEM) return fail(h, no_memory);
  if (n == NGHTTP2_ERR_FLOODED || n == NGHTTP2_ERR_CALLBACK_FAILURE) return fail(h, flooded);
  if (n < 0) return fail(h, nghttp2_strerror((int)n));
  size_t honest = MAX_WAITING + 4 * (size_t)h->state.streams;
  if (nghttp2_session_get_outbound_queue_size(h->session) > honest) return fail(h, flooded);
  return true;
}

/* ---- what goes out ----------------------------------------------------------------------------------- */

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
  (void)buffer, (void)source, (void)user;
  const rvl_http2_exchange *x = exchange_of(session, id);
  if (x == NULL || x->payload.head == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  return rvl_http2_payload_next(&x->payload, length, flags);
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                        nghttp2_data_source *source, void *user) {
  (void)source;
  rvl_http2_server *h = user;
  rvl_http2_exchange *x = exchange_of(session, frame->hd.stream_id);
  if (x == NULL || x->payload.head == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  if (!rvl_bytes_append(&h->out, (const char *)header, FRAME_HEAD) ||
      !rvl_http2_payload_append(&x->payload, length, &h->out))
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  h->credit++;
  return h->out.length >= h->room ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  rvl_http2_server *h = user;
  int32_t id = frame->hd.stream_id;
  if (frame->hd.type == NGHTTP2_DATA) {
    rvl_http2_exchange *x = exchange_of(session, id);
    if (x == NULL || x->payload.head == NULL || !rvl_http2_payload_is_sent(&x->payload)) return 0;
    x->payload.head = x->payload.body = NULL;
    h->events->sent(x);
  } else if (frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
    /* all is said: the client need not go on */
    const rvl_http2_exchange *x = exchange_of(session, id);
    if (x != NULL && !x->heard && is_fatal(nghttp2_submit_rst_stream(session, 0, id, NGHTTP2_NO_ERROR)))
      return NGHTTP2_ERR_CALLBACK_FAILURE;
  } else if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
    fail(h, nghttp2_http2_strerror(frame->goaway.error_code));
  }
  return 0;
}

/* An answer that cannot be sent (its headers are too large): it is broken off. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
  (void)user, (void)error;
  if (frame->hd.type != NGHTTP2_HEADERS || exchange_of(session, frame->hd.stream_id) == NULL) return 0;
  nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_INTERNAL_ERROR);
  return 0;
}

bool rvl_http2_server_fill(rvl_http2_server *h, size_t room) {
  h->room = room;
  size_t before = h->out.length + 1;
  while (!h->state.failed && h->out.length != before && h->out.length < room) {
    const uint8_t *data;
    before = h->out.length;
    ssize_t n = nghttp2_session_mem_send(h->session, &data);
    if (n < 0 || (n > 0 && !rvl_bytes_append(&h->out, (const char *)data, (size_t)n))) return fail(h, no_memory);
  }
  h->state.over = !nghttp2_session_want_read(h->session) && !nghttp2_session_want_write(h->session);
  return !h->state.failed;
}

bool rvl_http2_server_wants(const rvl_http2_server *h) {
  return !h->state.failed && nghttp2_session_want_write(h->session) != 0;
}

/* ---- answers ----------------------------------------------------------------------------------------- */

static bool submit_headers(rvl_http2_server *h, const rvl_http2_exchange *x, const rvl_http2_header *headers,
                           size_t count, bool end) {
  nghttp2_nv few[FEW_HEADERS], *values = rvl_http2_values(headers, count, few, FEW_HEADERS, NGHTTP2_NV_FLAG_NONE);
  if (values == NULL) return false;
  uint8_t flags = end ? NGHTTP2_FLAG_END_STREAM : NGHTTP2_FLAG_NONE;
  int error = nghttp2_submit_headers(h->session, flags, x->id, NULL, values, count, NULL);
  if (values != few) free(values);
  return error == 0;
}

bool rvl_http2_server_answer(rvl_http2_server *h, rvl_http2_exchange *x, const rvl_http2_header *headers,
                             size_t count, bool end) {
  if (x->id == 0 || x->answering) return true;
  x->answering = true;
  x->ended = end;
  return submit_headers(h, x, headers, count, end);
}

bool rvl_http2_server_send(rvl_http2_server *h, rvl_http2_exchange *x, const char *head, size_t head_length,
                           const char *body, size_t body_length) {
  if (x->id == 0 || x->ended) return true;
  x->payload = (rvl_http2_payload){head, body, head_length, body_length, 0};
  nghttp2_data_provider pieces = {.read_callback = on_read};
  return nghttp2_submit_data(h->session, NGHTTP2_FLAG_NONE, x->id, &pieces) == 0;
}

bool rvl_http2_server_end(rvl_http2_server *h, rvl_http2_exchange *x, const rvl_http2_header *trailers,
                          size_t count) {
  if (x->id == 0 || x->ended) return true;
  x->ended = true;
  return submit_headers(h, x, trailers, count, true);
}

void rvl_http2_server_forget(rvl_http2_server *h, rvl_http2_exchange *x) {
  if (x->id == 0) return;
  nghttp2_session_set_stream_user_data(h->session, x->id, NULL);
  h->state.streams--;
  x->id = 0;
  x->payload.head = x->payload.body = NULL;
}

void rvl_http2_server_reset(rvl_http2_server *h, rvl_http2_exchange *x, uint32_t error) {
  int32_t id = x->id;
  if (id == 0) return;
  rvl_http2_server_forget(h, x);
  if (is_fatal(nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, id, error))) fail(h, no_memory);
}

void rvl_http2_server_consume(rvl_http2_server *h, const rvl_http2_exchange *x, size_t length) {
  if (x->id == 0 || length == 0) return;
  if (is_fatal(nghttp2_session_consume_stream(h->session, x->id, length))) fail(h, no_memory);
}

void rvl_http2_server_widen(rvl_http2_server *h, const rvl_http2_exchange *x) {
  if (x->id == 0) return;
  if (is_fatal(nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, x->id, (int32_t)WIDE_WINDOW)))
    fail(h, no_memory);
}

/* ---- the connection ---------------------------------------------------------------------------------- */

static void say_which(rvl_http2_server *h) {
  if (h->state.going) return;
  h->state.going = true;
  int32_t last = nghttp2_session_get_last_proc_stream_id(h->session);
  if (is_fatal(nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0)))
    fail(h, no_memory);
}

void rvl_http2_server_go(rvl_http2_server *h) {
  if (h->state.failed) return;
  if (h->going_asked) {
    say_which(h);
    return;
  }
  h->going_asked = true;
  if (nghttp2_submit_shutdown_notice(h->session) != 0 ||
      nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL) != 0)
    fail(h, no_memory);
}

void rvl_http2_server_quit(rvl_http2_server *h, uint32_t error) {
  if (!h->state.failed) nghttp2_session_terminate_session(h->session, error);
}

static bool set_up_callbacks(nghttp2_session_callbacks **callbacks) {
  if (nghttp2_session_callbacks_new(callbacks) != 0) return false;
  nghttp2_session_callbacks_set_on_begin_headers_callback(*callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(*callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(*callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(*callbacks, on_stream_close);
  nghttp2_session_callbacks_set_on_frame_send_callback(*callbacks, on_frame_sent);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(*callbacks, on_frame_not_sent);
  nghttp2_session_callbacks_set_send_data_callback(*callbacks, on_send_data);
  nghttp2_session_callbacks_set_data_source_read_length_callback(*callbacks, rvl_http2_read_length);
  return true;
}

static nghttp2_session *new_session(rvl_http2_server *h) {
  nghttp2_session *session = NULL;
  nghttp2_session_callbacks *callbacks = NULL;
  nghttp2_option *option = NULL;
  if (set_up_callbacks(&callbacks) && nghttp2_option_new(&option) == 0) {
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_settings(option, SETTINGS_AT_A_TIME);
    nghttp2_option_set_max_send_header_block_length(option, MAX_SENT_HEADERS);
    if (nghttp2_session_server_new2(&session, callbacks, h, option) != 0) session = NULL;
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  return session;
}

static bool greet(rvl_http2_server *h) {
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h->limits.streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NARROW_WINDOW},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, MAX_FRAME},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h->limits.headers}};
  nghttp2_session *s = h->session;
  return nghttp2_submit_settings(s, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0 &&
         nghttp2_session_set_local_window_size(s, NGHTTP2_FLAG_NONE, 0, (int32_t)CONNECTION_WINDOW) == 0;
}

rvl_http2_server *rvl_http2_server_new(const rvl_http2_server_events *events, rvl_http2_server_begin *begin,
                                       void *owner, const rvl_http2_server_limits *limits) {
  rvl_http2_server *h = calloc(1, sizeof *h);
  if (h == NULL) return NULL;
  h->events = events;
  h->begin = begin;
  h->owner = owner;
  h->limits = *limits;
  h->frames.magic = NGHTTP2_CLIENT_MAGIC_LEN;
  h->session = new_session(h);
  if (h->session != NULL && greet(h)) return h;
  rvl_http2_server_free(h);
  return NULL;
}

void rvl_http2_server_free(rvl_http2_server *h) {
  if (h == NULL) return;
  nghttp2_session_del(h->session);
  rvl_bytes_free(&h->out);
  free(h);
}
