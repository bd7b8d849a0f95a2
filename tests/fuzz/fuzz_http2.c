/*
 * Fuzz target: a gRPC connection (src/http2.c, src/grpc_call.c) whose server sends anything to several open calls.
 *
 * However the same frames are cut, every call ends the same way with the same messages. A call is OK only when the
 * server said so; what is kept is bounded by what came. The first two bytes of an input choose the cuts and what the
 * rest is: raw bytes, or bytes that choose well-formed frames.
 */
#include "fuzz_cuts.h"
#include "grpc_call.h"

#define CALLS 4
#define TURN 64           /* after so many bytes we answer: what the server's frames mean depends on that */
#define MOST_FRAMES 300   /* more would be taken for a flood, which depends on how often we may answer */

typedef struct outcome {
  struct {
    bool done, answered;
    int status;
    rvl_bytes details, messages, headers;
  } calls[CALLS];
  bool failed, going;
  bool cut_short;          /* nghttp2 counts the pieces in which a CONTINUATION comes, and has enough of them */
} outcome;

static rvl_loop *the_loop(void) {
  static rvl_loop loop;
  static bool open;
  if (!open) check(rvl_loop_init(&loop) == 0, "no loop");
  open = true;
  return &loop;
}

static void put(rvl_bytes *out, const void *data, size_t length) {
  check(rvl_bytes_append(out, data, length), "no memory");
}

static void put_metadata(rvl_bytes *out, const rvl_grpc_metadata *metadata) {
  rvl_grpc_header h;
  size_t at = 0, count = 0;
  while (rvl_grpc_metadata_next(metadata, &at, &h)) {
    put(out, h.name, h.name_length);
    put(out, "=", 1);
    put(out, h.value, h.value_length);
    count++;
  }
  check(count == metadata->count && at == metadata->text.length, "headers that are not whole");
}

static void take_messages(rvl_grpc_call *call, rvl_bytes *out) {
  rvl_grpc_message *m;
  while ((m = rvl_grpc_call_take(call)) != NULL) {
    check(m->length <= call->messages.max_message, "a message that is too large");
    put(out, &m->length, sizeof m->length);
    put(out, m->data, m->length);
    free(m);
  }
  check(call->messages.queued == 0, "the count of what is queued is wrong");
}

static void check_end(const rvl_grpc_call *c, size_t sent) {
  rvl_grpc_header status;
  check(c->headers.text.length + c->trailers.text.length <= 64 * sent + 1024, "more headers than came");
  if (!c->done) return;
  check(c->stream.id == 0 && c->list == NULL, "a call that is over and has a stream");
  check(c->status >= 0, "an end without a status");
  if (c->status != RVL_GRPC_OK) return;
  check(c->from_server && rvl_grpc_metadata_find(&c->trailers, "grpc-status", &status), "OK out of thin air");
  check(c->request.streamed || c->messages.count == 1, "OK without a message");
}

static void begin(rvl_grpc_channel *ch, rvl_grpc_connection *connection, rvl_grpc_call *calls) {
  static const char body[20000], settings[9] = {0, 0, 0, 4};
  check(rvl_http2_feed(connection->http2, settings, sizeof settings), "settings that are refused");
  for (int i = 0; i < CALLS; i++) {
    rvl_grpc_request request = {.method = "/a.B/C", .data = body, .length = i == 2 ? sizeof body : 3,
                                .max_message = i == 3 ? 10 : 1u << 20, .streamed = i % 2 == 1};
    rvl_grpc_call_begin(ch, &calls[i], &request);
    check(rvl_grpc_call_send(&calls[i], connection), "a stream that does not open");
  }
}

static outcome run(const char *data, size_t size, size_t step, uint32_t seed) {
  outcome o = {0};
  rvl_grpc_channel ch = {.loop = the_loop(), .options = {.authority = "a:1", .user_agent = "u"}, .random = 1};
  rvl_grpc_connection connection = {.channel = &ch, .http2 = rvl_http2_new(&rvl_grpc_events)};
  rvl_grpc_call calls[CALLS] = {0};
  check(connection.http2 != NULL, "no memory");
  ch.connections = ch.current = &connection;
  begin(&ch, &connection, calls);
  size_t at = 0, out = 0;
  while (at < size) {
    size_t piece = step > 0 ? step : next_cut(&seed);
    if (piece > size - at) piece = size - at;
    if (piece > TURN - at % TURN) piece = TURN - at % TURN;
    char *copy = malloc(piece);
    check(copy != NULL, "no memory");
    memcpy(copy, data + at, piece);
    rvl_http2_feed(connection.http2, copy, piece);
    free(copy);
    at += piece;
    if (at % TURN != 0 && at < size) continue;
    rvl_http2_fill(connection.http2, 1u << 20);
    out += rvl_http2_output(connection.http2)->length;
    rvl_http2_output(connection.http2)->length = 0;
    for (int i = 0; i < CALLS; i++) take_messages(&calls[i], &o.calls[i].messages);
  }
  check(out <= 64 * size + 100000, "much ado about nothing");
  const rvl_http2_state *s = rvl_http2_state_of(connection.http2);
  check(s->failed == (s->why != NULL), "a failure without a reason");
  check(s->streams <= CALLS, "streams that nobody opened");
  o.failed = s->failed;
  o.going = s->going;
  o.cut_short = s->why != NULL && strstr(s->why, "CONTINUATION") != NULL;
  for (int i = 0; i < CALLS; i++) {
    check_end(&calls[i], size);
    o.calls[i].done = calls[i].done;
    o.calls[i].answered = calls[i].answered;
    o.calls[i].status = calls[i].status;
    put(&o.calls[i].details, calls[i].details.data, calls[i].details.length);
    put_metadata(&o.calls[i].headers, &calls[i].headers);
    put_metadata(&o.calls[i].headers, &calls[i].trailers);
    rvl_grpc_call_free(&calls[i]);
  }
  check(ch.stats.in_flight == 0, "calls under way that have been freed");
  rvl_http2_free(connection.http2);
  return o;
}

static void free_outcome(outcome *o) {
  for (int i = 0; i < CALLS; i++) {
    rvl_bytes_free(&o->calls[i].details);
    rvl_bytes_free(&o->calls[i].messages);
    rvl_bytes_free(&o->calls[i].headers);
  }
}

static bool same(const rvl_bytes *a, const rvl_bytes *b) {
  return same_bytes(a->data, a->length, b->data, b->length);
}

/* Behind a GOAWAY that leaves no stream, nobody looks whether the connection fails as well. */
static void check_same(const outcome *a, const outcome *b) {
  check(a->failed == b->failed || (a->going && b->going), "cuts change whether the connection fails");
  for (int i = 0; i < CALLS; i++) {
    check(a->calls[i].done == b->calls[i].done, "cuts change whether a call ends");
    check(a->calls[i].status == b->calls[i].status, "cuts change how a call ends");
    check(a->calls[i].answered == b->calls[i].answered, "cuts change whether there is an answer");
    check(same(&a->calls[i].details, &b->calls[i].details), "cuts change what is said about it");
    check(same(&a->calls[i].messages, &b->calls[i].messages), "cuts change the messages");
    check(same(&a->calls[i].headers, &b->calls[i].headers), "cuts change the headers");
  }
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
      {":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", "0"}, {"grpc-status", "14"},
      {"grpc-message", "%41%"}, {"grpc-status", "x"}, {":status", "503"}, {":status", "100"}, {"x-bin", "AAEC"},
      {"content-type", "text/html"}, {"content-length", "3"}, {"Bad Name", "x"}, {"", ""}, {":path", "/"},
      {"grpc-encoding", "gzip"}, {"grpc-retry-pushback-ms", "10"}};
  size_t count = sizeof fields / sizeof *fields;
  for (size_t i = 0; i < size && i < 8; i++)
    put_field(out, fields[data[i] % count][0], fields[data[i] % count][1]);
}

static void put_frame(rvl_bytes *out, unsigned type, unsigned flags, uint32_t stream, const rvl_bytes *payload) {
  unsigned char head[9] = {(unsigned char)(payload->length >> 16), (unsigned char)(payload->length >> 8),
                           (unsigned char)payload->length, (unsigned char)type, (unsigned char)flags,
                           (unsigned char)(stream >> 24), (unsigned char)(stream >> 16), (unsigned char)(stream >> 8),
                           (unsigned char)stream};
  put(out, head, sizeof head);
  put(out, payload->data, payload->length);
}

static void put_data(rvl_bytes *payload, const uint8_t *data, size_t size, unsigned choice) {
  unsigned char prefix[RVL_GRPC_PREFIX];
  rvl_grpc_write_prefix(prefix, choice % 3 == 0 ? size : size / 2);
  if (choice % 4 != 3) put(payload, prefix, sizeof prefix);
  put(payload, data, size);
}

/* Three bytes choose a frame, and how many of those behind it fill it. */
static void append_frames(rvl_bytes *out, const uint8_t *data, size_t size) {
  static const unsigned char types[] = {1, 0, 1, 0, 3, 6, 7, 8, 4, 9, 2, 1, 0, 5, 0xfe, 1};
  rvl_bytes payload = {0};
  for (size_t i = 0, frames = 0; i + 3 <= size && frames < MOST_FRAMES; frames++) {
    unsigned type = types[data[i] % sizeof types], choice = data[i + 1];
    size_t length = data[i + 2] % 24;
    uint32_t stream = type == 4 || type == 6 || type == 7 ? 0 : (choice / 32) % 5 * 2 + 1;
    i += 3;
    if (length > size - i) length = size - i;
    payload.length = 0;
    if (type == 1 || type == 9) put_block(&payload, data + i, length);
    else if (type == 0) put_data(&payload, data + i, length, choice / 2);
    else put(&payload, data + i, length);
    while (payload.length < 8 && (type == 6 || type == 7)) put(&payload, "\0", 1);
    while (payload.length < 4 && (type == 3 || type == 8)) put(&payload, "\0", 1);
    if (type == 6) payload.length = 8;
    if (type == 3 || type == 8) payload.length = 4;
    if (type == 4) payload.length -= payload.length % 6;
    bool whole = choice % 32 < 28 || payload.length == 0;   /* nghttp2 stumbles over cuts in a block without bytes */
    unsigned flags = (choice & 1) | ((type == 1 || type == 9) && whole ? 4u : 0);
    if (type == 4 && (flags & 1)) payload.length = 0;
    put_frame(out, type, flags, stream, &payload);
    i += length;
  }
  rvl_bytes_free(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  rvl_bytes bytes = {0};
  uint32_t seed = data[1];
  bool framed = data[0] % 8 != 0;
  if (framed) append_frames(&bytes, data + 2, size - 2);
  else put(&bytes, data + 2, size - 2);
  outcome whole = run(bytes.data, bytes.length, bytes.length + 1, 0);
  for (size_t step = 0; step <= 1; step++) {
    outcome cut = run(bytes.data, bytes.length, step, seed);
    if (framed && !cut.cut_short && !whole.cut_short) check_same(&whole, &cut);
    free_outcome(&cut);
  }
  free_outcome(&whole);
  rvl_bytes_free(&bytes);
  return 0;
}
