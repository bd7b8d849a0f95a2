#include "http2_payload.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_WINDOW (4u * 1024u * 1024u)
#define CONNECTION_WINDOW (16u * 1024u * 1024u)   /* more: one reader who takes nothing must not stop the others */
#define MAX_FRAME (1024u * 1024u)
#define MAX_HEADERS (256u * 1024u)        /* of one block, as HTTP/2 counts them */
#define HOSTILE_HEADERS (1024u * 1024u)   /* not worth going on with the connection */
#define HEADER_COST 32u
#define MAX_WAITING 4096u                 /* frames that we owe to a server that does not read them */
#define MAX_SENT_HEADERS (2u * 1024u * 1024u)
#define STREAMS_AT_FIRST 1                /* until the server says how many it takes: some are angry about more */
#define MAX_COUNT 96                      /* headers of a request that need no memory of their own */

static const char flooded[] = "the server floods the connection with frames";

struct rvl_http2 {
  rvl_http2_state state;
  const rvl_http2_events *events;
  nghttp2_session *session;
  rvl_bytes out;
  size_t room;              /* what `out` may hold before it stops */
  size_t block;             /* size of the headers that are coming in */
  int32_t last_seen;        /* by the server that is going */
  rvl_http2_stream *opening;
  bool unsent;              /* its headers are not going to be */
};

const rvl_http2_state *rvl_http2_state_of(const rvl_http2 *h) { return &h->state; }

rvl_bytes *rvl_http2_output(rvl_http2 *h) { return &h->out; }

const char *rvl_http2_error_name(uint32_t error) { return nghttp2_http2_strerror(error); }

static bool fail(rvl_http2 *h, const char *why) {
  if (!h->state.failed) h->state.why = why;
  h->state.failed = true;
  return false;
}

/* ---- what comes in ----------------------------------------------------------------------------------- */

static rvl_http2_stream *stream_of(nghttp2_session *session, int32_t id) {
  return nghttp2_session_get_stream_user_data(session, id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)session, (void)frame;
  ((rvl_http2 *)user)->block = 0;
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
  (void)flags;
  rvl_http2 *h = user;
  size_t before = h->block;
  h->block += name_length + value_length + HEADER_COST;
  if (h->block > HOSTILE_HEADERS) return NGHTTP2_ERR_CALLBACK_FAILURE;
  rvl_http2_stream *s = stream_of(session, frame->hd.stream_id);
  if (s == NULL) return 0;
  if (h->block > MAX_HEADERS) {
    if (before <= MAX_HEADERS) h->events->overflow(s);
    return 0;
  }
  /* as everybody does, those that must not be are passed over */
  if (nghttp2_check_header_name(name, name_length) && nghttp2_check_header_value(value, value_length))
    h->events->header(s, (const char *)name, name_length, (const char *)value, value_length);
  return 0;
}

static bool says(const nghttp2_goaway *frame, const char *text) {
  size_t length = strlen(text);
  return frame->opaque_data_len == length && memcmp(frame->opaque_data, text, length) == 0;
}

static void note_goaway(rvl_http2 *h, const nghttp2_goaway *frame) {
  h->state.going = true;
  h->state.going_error = frame->error_code;
  h->state.too_many_pings = frame->error_code == NGHTTP2_ENHANCE_YOUR_CALM && says(frame, "too_many_pings");
  h->last_seen = frame->last_stream_id;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  rvl_http2 *h = user;
  bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  rvl_http2_stream *s;
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
      s = stream_of(session, frame->hd.stream_id);
      if (s == NULL) break;
      s->answered = ended;
      h->events->headers(s, ended);
      break;
    case NGHTTP2_DATA:
      s = ended ? stream_of(session, frame->hd.stream_id) : NULL;
      if (s == NULL) break;
      s->answered = true;
      h->events->ended(s);
      break;
    case NGHTTP2_SETTINGS: h->state.settings = true; break;
    case NGHTTP2_GOAWAY: note_goaway(h, &frame->goaway); break;
    default: break;
  }
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length,
                   void *user) {
  (void)flags;
  rvl_http2 *h = user;
  rvl_http2_stream *s = stream_of(session, id);
  nghttp2_session_consume_connection(session, length);
  if (s != NULL) h->events->data(s, (const char *)data, length);
  return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
  rvl_http2 *h = user;
  rvl_http2_stream *s = stream_of(session, id);
  if (id % 2 == 0 || (s != NULL && s == h->opening)) return 0;   /* not one that has been opened */
  h->state.streams--;
  if (s == NULL) return 0;
  s->id = 0;
  bool unseen = h->state.going && id > h->last_seen;
  rvl_http2_end end = unseen                             ? RVL_HTTP2_UNSEEN
                      : error == NGHTTP2_REFUSED_STREAM ? RVL_HTTP2_REFUSED
                                                        : RVL_HTTP2_RESET;
  h->events->closed(s, end, error);
  return 0;
}

bool rvl_http2_feed(rvl_http2 *h, const char *data, size_t length) {
  if (h->state.failed) return false;
  ssize_t n = nghttp2_session_mem_recv(h->session, (const uint8_t *)data, length);
  if (n == NGHTTP2_ERR_NOMEM) return fail(h, "out of memory");
  if (n == NGHTTP2_ERR_FLOODED) return fail(h, flooded);
  if (n == NGHTTP2_ERR_CALLBACK_FAILURE) return fail(h, "the server sends headers without end");
  if (n < 0) return fail(h, nghttp2_strerror((int)n));
  size_t honest = MAX_WAITING + 2 * (size_t)h->state.streams;   /* of each stream a reset and an update of its window */
  if (nghttp2_session_get_outbound_queue_size(h->session) > honest) return fail(h, flooded);
  return true;
}

/* ---- what goes out ----------------------------------------------------------------------------------- */

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
  (void)buffer, (void)source, (void)user;
  const rvl_http2_stream *s = stream_of(session, id);
  if (s == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  return rvl_http2_payload_next(&s->payload, length, flags);
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                        nghttp2_data_source *source, void *user) {
  (void)source;
  rvl_http2 *h = user;
  rvl_http2_stream *s = stream_of(session, frame->hd.stream_id);
  if (s == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (!rvl_bytes_append(&h->out, (const char *)header, 9) ||
      !rvl_http2_payload_append(&s->payload, length, &h->out))
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  s->body_sent = rvl_http2_payload_is_sent(&s->payload);
  return h->out.length >= h->room ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  rvl_http2 *h = user;
  if (frame->hd.type == NGHTTP2_HEADERS) {
    rvl_http2_stream *s = stream_of(session, frame->hd.stream_id);
    h->state.streams++;
    if (s != NULL) s->id = frame->hd.stream_id;
    if (s == h->opening) h->opening = NULL;
  } else if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
    fail(h, nghttp2_http2_strerror(frame->goaway.error_code));
  }
  return 0;
}

/* Headers that are too large, or that nghttp2 finds it may not send. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
  (void)session, (void)error;
  if (frame->hd.type == NGHTTP2_HEADERS) ((rvl_http2 *)user)->unsent = true;
  return 0;
}

/* One frame or, of data, as much as there is room for. Returns its length; 0: nothing is left; -1: failed. */
static ssize_t put_frame(rvl_http2 *h) {
  const uint8_t *data;
  size_t before = h->out.length;
  ssize_t n = nghttp2_session_mem_send(h->session, &data);
  if (n < 0 || (n > 0 && !rvl_bytes_append(&h->out, (const char *)data, (size_t)n))) {
    fail(h, "out of memory");
    return -1;
  }
  return (ssize_t)(h->out.length - before);
}

bool rvl_http2_fill(rvl_http2 *h, size_t room) {
  h->room = room;
  ssize_t n = 1;
  while (!h->state.failed && n > 0 && h->out.length < room) n = put_frame(h);
  return !h->state.failed;
}

/* ---- streams ----------------------------------------------------------------------------------------- */

bool rvl_http2_has_room(const rvl_http2 *h) {
  if (h->state.failed || h->state.going) return false;
  return h->state.streams < nghttp2_session_get_remote_settings(h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

/* All 2^30 ids have been had: as if the server had said goodbye, but it looks at every stream that there is. */
static void use_up(rvl_http2 *h) {
  if (h->state.going) return;
  h->state.going = true;
  h->last_seen = INT32_MAX;
}

static bool submit(rvl_http2 *h, rvl_http2_stream *s, const nghttp2_nv *values, size_t count) {
  nghttp2_data_provider body = {.read_callback = on_read};
  int32_t id = nghttp2_submit_request(h->session, NULL, values, count, &body, s);
  if (id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE) use_up(h);
  return id > 0;
}

/* The headers are put out at once, before all data. */
static bool put_headers(rvl_http2 *h, rvl_http2_stream *s) {
  h->opening = s;
  h->unsent = false;
  h->room = 0;
  ssize_t n = 1;
  while (h->opening == s && !h->unsent && n > 0) n = put_frame(h);
  bool opened = h->opening == NULL && s->id != 0;
  h->opening = NULL;
  return opened;
}

bool rvl_http2_open(rvl_http2 *h, rvl_http2_stream *s, const rvl_http2_header *headers, size_t count) {
  if (h->state.failed) return false;
  /* until they are put out nghttp2 points to names and values, which last longer */
  uint8_t flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
  nghttp2_nv few[MAX_COUNT], *values = rvl_http2_values(headers, count, few, MAX_COUNT, flags);
  if (values == NULL) return false;
  s->id = 0;
  s->payload.sent = 0;
  s->body_sent = s->answered = false;
  bool opened = submit(h, s, values, count) && put_headers(h, s);
  if (values != few) free(values);
  return opened;
}

void rvl_http2_reset(rvl_http2 *h, rvl_http2_stream *s, uint32_t error) {
  if (s->id == 0) return;
  nghttp2_session_set_stream_user_data(h->session, s->id, NULL);
  bool over = s->body_sent && s->answered;   /* nghttp2 is about to close it */
  if (!over && nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, error) == NGHTTP2_ERR_NOMEM)
    fail(h, "out of memory");
  s->id = 0;
}

void rvl_http2_consume(rvl_http2 *h, const rvl_http2_stream *s, size_t length) {
  if (s->id != 0 && length > 0) nghttp2_session_consume_stream(h->session, s->id, length);
}

bool rvl_http2_ping(rvl_http2 *h) { return nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL) == 0; }

void rvl_http2_go(rvl_http2 *h) { nghttp2_session_terminate_session(h->session, NGHTTP2_NO_ERROR); }

/* ---- the connection ---------------------------------------------------------------------------------- */

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

/* What gRPC says of messages is checked above: nghttp2's own rules would refuse answers that gRPC takes. */
static nghttp2_session *new_session(rvl_http2 *h) {
  nghttp2_session *session = NULL;
  nghttp2_session_callbacks *callbacks = NULL;
  nghttp2_option *option = NULL;
  if (set_up_callbacks(&callbacks) && nghttp2_option_new(&option) == 0) {
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_http_messaging(option, 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, STREAMS_AT_FIRST);
    nghttp2_option_set_max_send_header_block_length(option, MAX_SENT_HEADERS);
    if (nghttp2_session_client_new2(&session, callbacks, h, option) != 0) session = NULL;
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  return session;
}

static bool greet(nghttp2_session *session) {
  static const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, MAX_FRAME},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, MAX_HEADERS}};
  return nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0 &&
         nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, (int32_t)CONNECTION_WINDOW) == 0;
}

rvl_http2 *rvl_http2_new(const rvl_http2_events *events) {
  rvl_http2 *h = calloc(1, sizeof *h);
  if (h == NULL) return NULL;
  h->events = events;
  h->session = new_session(h);
  if (h->session != NULL && greet(h->session)) return h;
  rvl_http2_free(h);
  return NULL;
}

void rvl_http2_free(rvl_http2 *h) {
  if (h == NULL) return;
  nghttp2_session_del(h->session);
  rvl_bytes_free(&h->out);
  free(h);
}
