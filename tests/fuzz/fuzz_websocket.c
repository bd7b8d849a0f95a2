/*
 * Fuzz target: one end of a WebSocket (src/websocket.c) and the answer to its handshake (src/websocket_handshake.c).
 *
 * However the same bytes are cut, the same messages come out, the same bytes go back and the outcome is the same; what
 * is kept is bounded by what came and by the limit. What one end writes the other one reads. The first four bytes of an
 * input choose the role, the limit, the cuts and what the rest is: raw bytes, well-formed frames, or an answer.
 */
#include "fuzz_cuts.h"
#include "websocket.h"
#include "websocket_handshake.h"
#include "wslay_api.h"

static const rvl_wslay_api *wslay(void) {
  static const rvl_wslay_api *api;
  const char *why;
  if (api == NULL) api = rvl_wslay_open(&why);
  check(api != NULL, "libwslay is not there");
  return api;
}

/* ---- what came out --------------------------------------------------------------------------------------- */

typedef struct outcome {
  rvl_bytes messages;      /* kind, length and bytes of each */
  rvl_bytes sent;          /* what went back, unmasked */
  unsigned failure, close_code;
  bool close_received;
  uint64_t pongs;
} outcome;

static void put_number(rvl_bytes *out, size_t number) {
  check(rvl_bytes_append(out, (const char *)&number, sizeof number), "no memory");
}

/* Appends the frames in `bytes`, which are well-formed, without their masks. */
static void put_unmasked(rvl_bytes *out, const rvl_bytes *bytes) {
  size_t at = 0;
  while (at < bytes->length) {
    const unsigned char *frame = (const unsigned char *)bytes->data + at;
    size_t length = frame[1] & 0x7f, header = 2;
    bool masked = (frame[1] & 0x80) != 0;
    check(length <= 125, "a control frame that is too long");
    if (masked) header += 4;
    check(rvl_bytes_append(out, (const char *)frame, 1), "no memory");
    put_number(out, length);
    for (size_t i = 0; i < length; i++) {
      char byte = (char)(frame[header + i] ^ (masked ? frame[2 + i % 4] : 0));
      check(rvl_bytes_append(out, &byte, 1), "no memory");
    }
    at += header + length;
  }
  check(at == bytes->length, "half a frame was written");
}

static void collect(rvl_websocket *w, outcome *o) {
  const rvl_websocket_state *s = rvl_websocket_state_of(w);
  while (s->first != NULL) {
    put_number(&o->messages, s->first->kind);
    put_number(&o->messages, s->first->bytes.length);
    if (s->first->kind == RVL_WEBSOCKET_TEXT)
      check(rvl_websocket_is_text(s->first->bytes.data, s->first->bytes.length), "a text that is none");
    rvl_bytes bytes = rvl_websocket_take(w);
    check(rvl_bytes_append(&o->messages, bytes.data, bytes.length), "no memory");
    rvl_bytes_free(&bytes);
  }
  check(s->queued == 0, "the count of what is queued is wrong");
  put_unmasked(&o->sent, rvl_websocket_output(w));
  rvl_bytes_free(rvl_websocket_output(w));
}

typedef struct input {
  rvl_websocket_role role;
  size_t max_message, close_after;   /* our own close frame goes out after so many bytes */
  const char *data;
  size_t size;
} input;

static outcome run(const input *in, size_t step, uint32_t seed) {
  outcome o = {0};
  rvl_websocket *w = rvl_websocket_new(wslay(), in->role, in->max_message);
  check(w != NULL, "no memory");
  size_t at = 0;
  while (at < in->size) {
    size_t piece = step > 0 ? step : next_cut(&seed);
    if (piece > in->size - at) piece = in->size - at;
    if (at < in->close_after && in->close_after < at + piece) piece = in->close_after - at;
    char *copy = malloc(piece);
    check(copy != NULL, "no memory");
    memcpy(copy, in->data + at, piece);
    check(rvl_websocket_feed(w, copy, piece), "no memory");
    free(copy);
    at += piece;
    collect(w, &o);
    if (at == in->close_after) check(rvl_websocket_close(w, 1000, "bye", 3) != RVL_WEBSOCKET_NO_MEMORY, "no memory");
  }
  collect(w, &o);
  const rvl_websocket_state *s = rvl_websocket_state_of(w);
  check(!(s->failure != 0 && s->close_received), "two ends");
  check((s->failure != 0) == (s->why != NULL), "a failure without a reason");
  check(s->failure == 0 || s->close_sent, "a failure that is not told");
  check(!s->close_received || s->close_sent, "a close frame that is not answered");
  check(!s->close_received || s->close_code == RVL_CLOSE_NONE || rvl_websocket_is_close_code(s->close_code),
        "a close code that must not be");
  check(rvl_websocket_is_text(s->reason, s->reason_length), "a reason that is no text");
  o.failure = s->failure;
  o.close_code = s->close_code;
  o.close_received = s->close_received;
  o.pongs = s->pongs;
  if (s->close_sent)
    check(rvl_websocket_send(w, RVL_WEBSOCKET_TEXT, "x", 1) == RVL_WEBSOCKET_CLOSED, "sent after a close frame");
  rvl_websocket_free(w);
  return o;
}

static void free_outcome(outcome *o) {
  rvl_bytes_free(&o->messages);
  rvl_bytes_free(&o->sent);
}

static void check_same(const outcome *a, const outcome *b) {
  check(a->failure == b->failure && a->close_code == b->close_code && a->close_received == b->close_received &&
            a->pongs == b->pongs,
        "cuts change the outcome");
  check(same_bytes(a->messages.data, a->messages.length, b->messages.data, b->messages.length),
        "cuts change the messages");
  check(same_bytes(a->sent.data, a->sent.length, b->sent.data, b->sent.length), "cuts change what is sent");
}

/* ---- frames ---------------------------------------------------------------------------------------------- */

/* Turns the input into frames that are well-formed but for what its bytes choose to spoil. */
static void append_frames(rvl_bytes *out, const uint8_t *data, size_t size, bool masked) {
  static const unsigned char openings[] = {0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8a, 0x80, 0x80, 0x81};
  size_t i = 0;
  while (i + 2 < size) {
    unsigned choice = data[i] % 16;
    unsigned char opening = choice < sizeof openings ? openings[choice] : data[i];
    size_t length = data[i + 1] % 128 < 126 ? data[i + 1] % 128 : (size_t)data[i + 1] * 3;
    i += 2;
    if (length > size - i) length = size - i;
    unsigned char header[14] = {opening, masked ? 0x80 : 0};
    size_t n = 2;
    if (length < 126) {
      header[1] |= (unsigned char)length;
    } else {
      header[1] |= 126;
      header[2] = (unsigned char)(length >> 8);
      header[3] = (unsigned char)length;
      n = 4;
    }
    if (masked) n += 4;   /* a mask of zeros */
    check(rvl_bytes_append(out, (const char *)header, n), "no memory");
    check(rvl_bytes_append(out, (const char *)data + i, length), "no memory");
    i += length;
  }
}

/* What one end sends the other one reads. */
static void check_both_ends(rvl_websocket_role role, const uint8_t *data, size_t size) {
  rvl_websocket *from = rvl_websocket_new(wslay(), role, size);
  rvl_websocket *to = rvl_websocket_new(wslay(), role == RVL_WEBSOCKET_CLIENT ? RVL_WEBSOCKET_SERVER
                                                                             : RVL_WEBSOCKET_CLIENT, size);
  check(from != NULL && to != NULL, "no memory");
  check(rvl_websocket_send(from, RVL_WEBSOCKET_BINARY, (const char *)data, size) == RVL_WEBSOCKET_OK, "not sent");
  const rvl_bytes *out = rvl_websocket_output(from);
  check(rvl_websocket_feed(to, out->data, out->length), "no memory");
  const rvl_websocket_state *s = rvl_websocket_state_of(to);
  check(s->failure == 0 && s->first != NULL && s->first->kind == RVL_WEBSOCKET_BINARY, "not received");
  check(same_bytes(s->first->bytes.data, s->first->bytes.length, (const char *)data, size), "changed on the way");
  rvl_websocket_free(from);
  rvl_websocket_free(to);
}

/* ---- answers --------------------------------------------------------------------------------------------- */

static const char *const bits[] = {
    "HTTP/1.1 101 Switching Protocols\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 ", "Upgrade: websocket\r\n", "Upgrade: ",
    "Connection: Upgrade\r\n", "Connection: ", "keep-alive, ", "upgrade", "websocket", "h2c",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Sec-WebSocket-Accept: ", "Sec-WebSocket-Protocol: ",
    "Sec-WebSocket-Protocol: a\r\n", "Sec-WebSocket-Extensions: ", "permessage-deflate", "a", "b", ", ", ";", ":", " ",
    "\t", "\r", "\n", "\r\n", "\r\n\r\n", "\0", "Content-Length: 5\r\n", " folded\r\n", "\x81\x02hi"};

static bool feed_answer(void *parser, const char *piece, size_t size, size_t *taken) {
  rvl_http1 *a = parser;
  check(rvl_http1_feed(a, piece, size, taken), "no memory");
  return a->state < RVL_HTTP1_DONE;
}

static const char *judge(rvl_http1 *a, const rvl_bytes *text, size_t step, uint32_t seed, size_t *taken) {
  static const rvl_websocket_offer offer = {"dGhlIHNhbXBsZSBub25jZQ==", "a, b"};
  rvl_http1_begin(a, false, 4096, 4096);
  a->upgrades = true;
  *taken = feed_all(feed_answer, a, text->data, text->length, step, seed);
  if (a->state != RVL_HTTP1_DONE || a->status != 101) return "no answer";
  const char *protocol;
  size_t length;
  const char *why = rvl_websocket_judge_answer(a, &offer, &protocol, &length);
  check(why == NULL || protocol == NULL, "a subprotocol of a bad answer");
  check(protocol == NULL || (length == 1 && (*protocol == 'a' || *protocol == 'b')), "a subprotocol out of thin air");
  return why;
}

static void check_answers(const uint8_t *data, size_t size, bool named, uint32_t seed) {
  rvl_bytes text = {0};
  append_text(&text, data, size, bits, named ? sizeof bits / sizeof *bits : 0);
  rvl_http1 whole = {0}, cut = {0};
  size_t taken, other;
  const char *why = judge(&whole, &text, text.length + 1, 0, &taken);
  for (size_t step = 0; step <= 1; step++) {
    const char *again = judge(&cut, &text, step, seed, &other);
    check((why == NULL) == (again == NULL) && (why == NULL || strcmp(why, again) == 0), "cuts change the verdict");
    check(taken == other || whole.state == RVL_HTTP1_BAD, "cuts change where the answer ends");
  }
  rvl_http1_free(&whole);
  rvl_http1_free(&cut);
  rvl_bytes_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 4) return 0;
  rvl_websocket_role role = data[0] & 1 ? RVL_WEBSOCKET_SERVER : RVL_WEBSOCKET_CLIENT;
  bool framed = data[0] & 2, answer = (data[0] & 12) == 12;
  uint32_t seed = data[3];
  if (answer) {
    check_answers(data + 4, size - 4, framed, seed);
    return 0;
  }
  check_both_ends(role, data + 4, size - 4);
  rvl_bytes bytes = {0};
  if (framed) append_frames(&bytes, data + 4, size - 4, role == RVL_WEBSOCKET_SERVER);
  else check(rvl_bytes_append(&bytes, (const char *)data + 4, size - 4), "no memory");
  input in = {role, data[1] < 200 ? data[1] * 4u : 1u << 20, data[2] < 128 ? SIZE_MAX : data[2] - 128u, bytes.data,
              bytes.length};
  outcome whole = run(&in, in.size + 1, 0);
  for (size_t step = 0; step <= 1; step++) {
    outcome cut = run(&in, step, seed);
    check_same(&whole, &cut);
    free_outcome(&cut);
  }
  free_outcome(&whole);
  rvl_bytes_free(&bytes);
  return 0;
}
