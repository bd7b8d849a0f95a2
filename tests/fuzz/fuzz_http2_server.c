/*
 * Fuzz target: a connection of a gRPC server (src/http2_server.c, src/grpc_incoming.c) whose client sends
 * anything.
 *
 * However the same frames are cut, the same calls arrive with the same messages and get the same statuses. What is
 * kept and what is sent is bounded by what came; nothing is left of it at the end. The first two bytes of an input
 * choose the cuts and what the rest is: raw bytes, or bytes that choose well-formed frames.
 */
#include "fuzz_cuts.h"
#include "grpc_incoming.h"

#define MOST_CALLS 12
#define TURN 64           /* after so many bytes we answer: what the client's frames mean depends on that */
#define MOST_FRAMES 300   /* more would be taken for a flood, which depends on how often we may answer */
#define MAX_MESSAGE 200
#define ANSWER 70000      /* bytes of a long one */
#define SPARE 300

typedef struct served {
  rvl_grpc_incoming call;
  struct connection *connection;
  bool arrived, closed, answered, taken;
} served;

typedef struct connection {
  rvl_http2_server *http2;
  rvl_grpc_budget budget;
  served *calls[MOST_CALLS];
  size_t count;
  rvl_bytes log;          /* what happened, call by call */
} connection;

typedef struct outcome {
  bool failed;
  bool cut_short;         /* nghttp2 counts the pieces in which a CONTINUATION comes, and has enough of them */
  rvl_bytes calls;
} outcome;

static const char long_answer[ANSWER];

static void put(rvl_bytes *out, const void *data, size_t length) {
  check(rvl_bytes_append(out, data, length), "no memory");
}

/* ---- the server ------------------------------------------------------------------------------------------ */

static void on_arrived(rvl_grpc_incoming *call) {
  served *s = (served *)call;
  check(!s->arrived && !s->closed, "a call that arrives twice, or after its end");
  check(call->method.length > 0 && call->method.data[0] == '/', "a method that is none");
  s->arrived = true;
}

static void on_changed(rvl_grpc_incoming *call) {
  check(((served *)call)->arrived || call->exchange.id != 0, "a change of what never came");
}

static void on_closed(rvl_grpc_incoming *call) {
  served *s = (served *)call;
  check(!s->closed, "a call that is closed twice");
  check(call->exchange.id == 0 && call->over, "a closed call that goes on");
  s->closed = true;
}

static rvl_http2_exchange *on_begin(void *owner) {
  connection *c = owner;
  if (c->count == MOST_CALLS) return NULL;
  served *s = calloc(1, sizeof *s);
  check(s != NULL, "no memory");
  s->connection = c;
  s->call.arrived = on_arrived;
  s->call.changed = on_changed;
  s->call.closed = on_closed;
  rvl_grpc_incoming_begin(&s->call, c->http2, &c->budget, MAX_MESSAGE);
  c->calls[c->count++] = s;
  return &s->call.exchange;
}

/* Answers a request that is whole; its first byte says how. */
static void answer(served *s) {
  rvl_grpc_message *m = rvl_grpc_incoming_take(&s->call);
  s->taken = true;
  if (m == NULL) {
    check(s->call.over, "a whole request without a message");
    return;
  }
  check(m->length <= MAX_MESSAGE && !m->compressed, "a message that is too large");
  put(&s->connection->log, m->data, m->length);
  char how = m->length > 0 ? m->data[0] : '\0';
  switch (how % 5) {
    case 0: rvl_grpc_incoming_send(&s->call, m->data, m->length); break;
    case 1: rvl_grpc_incoming_send(&s->call, long_answer, sizeof long_answer); break;
    case 2: rvl_grpc_incoming_answer(&s->call); break;
    case 3: rvl_grpc_incoming_break(&s->call, RVL_GRPC_ABORTED, "broken off"); break;
    default: rvl_grpc_metadata_put(&s->call.trailers, "x-more", 6, "yes", 3); break;
  }
  rvl_grpc_code status = how % 2 == 0 ? RVL_GRPC_OK : RVL_GRPC_NOT_FOUND;
  if (how % 7 != 6) rvl_grpc_incoming_finish(&s->call, status, "w\xc3\xb6rt%", 6);
  free(m);
}

static void take_turn(connection *c, size_t *sent) {
  for (size_t i = 0; i < c->count; i++) {
    served *s = c->calls[i];
    if (s->arrived && i % 3 != 2) rvl_grpc_incoming_accept(&s->call);   /* some are never wanted */
    if (s->call.whole && !s->call.over && !s->taken) answer(s);
  }
  rvl_http2_server_fill(c->http2, 1u << 20);
  *sent += rvl_http2_server_output(c->http2)->length;
  rvl_http2_server_output(c->http2)->length = 0;
}

static void note_end(connection *c, served *s) {
  char end[3] = {(char)s->call.status, (char)s->arrived, (char)s->call.over};
  rvl_grpc_header h;
  size_t at = 0, count = 0;
  while (rvl_grpc_metadata_next(&s->call.metadata, &at, &h)) {
    put(&c->log, h.name, h.name_length);
    put(&c->log, h.value, h.value_length);
    count++;
  }
  check(count == s->call.metadata.count && at == s->call.metadata.text.length, "metadata that are not whole");
  put(&c->log, s->call.method.data, s->call.method.length);
  put(&c->log, end, sizeof end);
  put(&c->log, s->call.details.data, s->call.details.length);
}

static outcome run(const char *data, size_t size, size_t step, uint32_t seed) {
  const rvl_http2_server_limits limits = {.streams = 5, .headers = 400};
  outcome o = {0};
  connection c = {.budget = {.most = 1000}};
  uint32_t spare = SPARE;
  size_t at = 0, sent = 0;
  c.http2 = rvl_http2_server_new(&rvl_grpc_incoming_events, on_begin, &c, &limits);
  check(c.http2 != NULL, "no memory");
  while (at < size) {
    size_t piece = step > 0 ? step : next_cut(&seed);
    if (piece > size - at) piece = size - at;
    if (piece > TURN - at % TURN) piece = TURN - at % TURN;
    char *copy = malloc(piece);
    check(copy != NULL, "no memory");
    memcpy(copy, data + at, piece);
    rvl_http2_server_feed(c.http2, copy, piece, &spare);
    free(copy);
    check(c.budget.used <= c.budget.most && c.budget.used <= size + MOST_CALLS * MAX_MESSAGE, "more than came");
    at += piece;
    if (at % TURN == 0 || at == size) take_turn(&c, &sent);
  }
  const rvl_http2_server_state *state = rvl_http2_server_state_of(c.http2);
  check(sent <= 64 * size + MOST_CALLS * (ANSWER + 1000) + 100000, "much ado about nothing");
  check(state->failed == (state->why != NULL), "a failure without a reason");
  check(state->streams <= MOST_CALLS, "streams that nobody opened");
  o.failed = state->failed;
  o.cut_short = state->why != NULL && strstr(state->why, "CONTINUATION") != NULL;
  for (size_t i = 0; i < c.count; i++) {
    served *s = c.calls[i];
    note_end(&c, s);
    if (i % 2 == 0 && s->call.exchange.id != 0) {
      rvl_http2_server_forget(c.http2, &s->call.exchange);
      rvl_grpc_incoming_lose(&s->call);
    }
    rvl_grpc_incoming_free(&s->call);
    free(s);
  }
  check(c.budget.used == 0, "requests that have been freed and still count");
  check(state->streams == 0, "streams that have been freed and still count");
  rvl_http2_server_free(c.http2);
  o.calls = c.log;
  return o;
}

static void check_same(const outcome *a, const outcome *b) {
  check(a->failed == b->failed, "cuts change whether the connection fails");
  if (a->failed) return;   /* how much came before that depends on them */
  check(same_bytes(a->calls.data, a->calls.length, b->calls.data, b->calls.length), "cuts change the calls");
}

/* ---- frames ---------------------------------------------------------------------------------------------- */

static void put_field(rvl_bytes *out, const char *name, const char *value) {
  char lengths[2] = {(char)strlen(name), (char)strlen(value)};
  put(out, "\0", 1);
  put(out, &lengths[0], 1);
  put(out, name, strlen(name));
  put(out, &lengths[1], 1);
  put(out, value, strlen(value));
}

static void put_block(rvl_bytes *out, const uint8_t *data, size_t size) {
  static const char *const fields[][2] = {
      {"te", "trailers"}, {"grpc-timeout", "1S"}, {"grpc-timeout", "x"}, {"grpc-encoding", "gzip"},
      {"grpc-encoding", "other"}, {"x-bin", "AAEC"}, {"content-length", "3"}, {"Bad Name", "x"}, {"", ""},
      {":path", "/"}, {"x-long", "0123456789012345678901234567890123456789012345678901234567890123456789"},
      {"grpc-previous-rpc-attempts", "2"}, {"connection", "close"}, {"content-type", "text/html"}};
  size_t count = sizeof fields / sizeof *fields, choice = size > 0 ? data[0] : 0;
  put_field(out, ":method", choice % 16 == 15 ? "GET" : "POST");
  put_field(out, ":scheme", "http");
  put_field(out, ":path", choice % 16 == 14 ? "*" : "/a.B/C");
  if (choice % 16 != 13) put_field(out, "content-type", "application/grpc");
  for (size_t i = 1; i < size && i < 8; i++)
    put_field(out, fields[data[i] % count][0], fields[data[i] % count][1]);
}

static void put_frame(rvl_bytes *out, unsigned type, unsigned flags, uint32_t stream, const rvl_bytes *payload) {
  unsigned char head[9] = {(unsigned char)(payload->length >> 16), (unsigned char)(payload->length >> 8),
                           (unsigned char)payload->length, (unsigned char)type, (unsigned char)flags,
                           (unsigned char)(stream >> 24), (unsigned char)(stream >> 16),
                           (unsigned char)(stream >> 8), (unsigned char)stream};
  put(out, head, sizeof head);
  put(out, payload->data, payload->length);
}

static void put_data(rvl_bytes *payload, const uint8_t *data, size_t size, unsigned choice) {
  unsigned char prefix[RVL_GRPC_PREFIX];
  rvl_grpc_write_prefix(prefix, choice % 3 == 0 ? size : size / 2);
  if (choice % 16 == 7) prefix[0] = 1;
  if (choice % 4 != 3) put(payload, prefix, sizeof prefix);
  put(payload, data, size);
}

/*
** Three bytes choose a frame, and how many of those behind it fill it. false: the client says goodbye before its
** end; nghttp2 then looks at what follows, or not.
*/
static bool append_frames(rvl_bytes *out, const uint8_t *data, size_t size) {
  static const unsigned char types[] = {1, 0, 1, 0, 3, 6, 7, 8, 4, 9, 2, 1, 0, 5, 0xfe, 1};
  static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
  rvl_bytes payload = {0};
  bool stays = true;
  put(out, magic, sizeof magic - 1);
  for (size_t i = 0, frames = 0; i + 3 <= size && frames < MOST_FRAMES; frames++) {
    unsigned type = types[data[i] % sizeof types], choice = data[i + 1];
    size_t length = data[i + 2] % 24;
    uint32_t stream = type == 4 || type == 6 || type == 7 ? 0 : (choice / 16) % 16 * 2 + 1;
    i += 3;
    if (length > size - i) length = size - i;
    payload.length = 0;
    if (type == 1) put_block(&payload, data + i, length);
    else if (type == 0) put_data(&payload, data + i, length, choice / 2);
    else put(&payload, data + i, length);
    while (payload.length < 8 && (type == 6 || type == 7)) put(&payload, "\0", 1);
    while (payload.length < 4 && (type == 3 || type == 8)) put(&payload, "\0", 1);
    if (type == 6) payload.length = 8;
    if (type == 3 || type == 8) payload.length = 4;
    if (type == 4) payload.length -= payload.length % 6;
    bool whole = choice % 16 < 14 || payload.length == 0;   /* nghttp2 stumbles over cuts in an empty block */
    unsigned flags = (choice & 1) | ((type == 1 || type == 9) && whole ? 4u : 0);
    if (type == 4 && (flags & 1)) payload.length = 0;
    put_frame(out, type, flags, stream, &payload);
    if (type == 7) stays = false;
    i += length;
  }
  rvl_bytes_free(&payload);
  return stays;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  rvl_bytes bytes = {0};
  uint32_t seed = data[1];
  bool framed = data[0] % 8 != 0, same = framed;
  if (framed) same = append_frames(&bytes, data + 2, size - 2);
  else put(&bytes, data + 2, size - 2);
  outcome whole = run(bytes.data, bytes.length, bytes.length + 1, 0);
  for (size_t step = 0; step <= 1; step++) {
    outcome cut = run(bytes.data, bytes.length, step, seed);
    if (same && !cut.cut_short && !whole.cut_short) check_same(&whole, &cut);
    rvl_bytes_free(&cut.calls);
  }
  rvl_bytes_free(&whole.calls);
  rvl_bytes_free(&bytes);
  return 0;
}
