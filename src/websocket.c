#include "websocket.h"

#include "utf8.h"
#include "wslay_api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MOST_HEADER 14
#define ALLOCATION 16          /* what the allocator takes for each block, about */
#define RANDOM_ROOM 64         /* masks that are drawn at a time: 16 */

enum { OP_CONTINUATION = 0, OP_CLOSE = 8 };

struct rvl_websocket {
  rvl_websocket_state state;   /* first: rvl_websocket_state_of */
  const rvl_wslay_api *wslay;
  wslay_frame_context_ptr frames;
  rvl_websocket_role role;
  size_t max_message;
  rvl_websocket_message *last;
  /* the frame that is coming in */
  unsigned char header[MOST_HEADER];
  unsigned header_length, header_wanted;
  bool in_payload;
  unsigned opcode;
  bool final;
  uint64_t payload_left;
  const char *input;           /* what wslay may read now */
  size_t input_length;
  /* the message it belongs to */
  unsigned message_opcode;     /* 0: none has begun */
  rvl_bytes message;
  unsigned char partial[4];    /* a character that has begun */
  unsigned partial_length;
  size_t control_length;
  char control[RVL_WEBSOCKET_CONTROL];
  /* the other direction */
  rvl_bytes out;
  bool congested, pong_waits;
  size_t waiting_pong_length;
  char waiting_pong[RVL_WEBSOCKET_CONTROL];
  unsigned char random[RANDOM_ROOM];
  size_t random_left;
};

/* ---- wslay's callbacks ------------------------------------------------------------------------------- */

static ssize_t on_read(uint8_t *buffer, size_t room, int flags, void *user) {
  (void)flags;
  rvl_websocket *w = user;
  size_t length = room < w->input_length ? room : w->input_length;
  if (length == 0) return -1;
  memcpy(buffer, w->input, length);
  w->input += length;
  w->input_length -= length;
  return (ssize_t)length;
}

/* The room has been reserved: a frame that was begun is always written whole. */
static ssize_t on_write(const uint8_t *data, size_t length, int flags, void *user) {
  (void)flags;
  rvl_websocket *w = user;
  return rvl_bytes_append(&w->out, (const char *)data, length) ? (ssize_t)length : -1;
}

static bool draw_random(rvl_websocket *w) {
  size_t had = 0;
  while (had < sizeof w->random) {
    ssize_t n = getrandom(w->random + had, sizeof w->random - had, 0);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) had += (size_t)n;
  }
  w->random_left = sizeof w->random;
  return true;
}

static int on_mask(uint8_t *buffer, size_t length, void *user) {
  rvl_websocket *w = user;
  if (w->random_left < length && !draw_random(w)) return -1;
  w->random_left -= length;
  memcpy(buffer, w->random + w->random_left, length);
  return 0;
}

/* ---- making and freeing ------------------------------------------------------------------------------ */

rvl_websocket *rvl_websocket_new(const rvl_wslay_api *wslay, rvl_websocket_role role, size_t max_message) {
  static const struct wslay_frame_callbacks callbacks = {on_write, on_read, on_mask};
  rvl_websocket *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  w->wslay = wslay;
  w->role = role;
  w->max_message = max_message;
  w->header_wanted = 2;
  if (wslay->frame_context_init(&w->frames, &callbacks, w) == 0) return w;
  free(w);
  return NULL;
}

void rvl_websocket_drop(rvl_websocket *w) {
  while (w->state.first != NULL) {
    rvl_bytes bytes = rvl_websocket_take(w);
    rvl_bytes_free(&bytes);
  }
}

void rvl_websocket_free(rvl_websocket *w) {
  if (w == NULL) return;
  rvl_websocket_drop(w);
  rvl_bytes_free(&w->message);
  rvl_bytes_free(&w->out);
  w->wslay->frame_context_free(w->frames);
  free(w);
}

const rvl_websocket_state *rvl_websocket_state_of(const rvl_websocket *w) { return &w->state; }

/* ---- sending ----------------------------------------------------------------------------------------- */

static bool write_frame(rvl_websocket *w, unsigned opcode, const char *data, size_t length) {
  if (!rvl_bytes_reserve(&w->out, length + MOST_HEADER)) return false;
  struct wslay_frame_iocb frame = {
      .fin = 1,
      .opcode = (uint8_t)opcode,
      .payload_length = length,
      .mask = w->role == RVL_WEBSOCKET_CLIENT,
      .data = (const uint8_t *)data,
      .data_length = length,
  };
  return w->wslay->frame_send(w->frames, &frame) == (ssize_t)length;
}

rvl_websocket_result rvl_websocket_send(rvl_websocket *w, rvl_websocket_kind kind, const char *data, size_t length) {
  if (w->state.close_sent || w->state.failure != 0) return RVL_WEBSOCKET_CLOSED;
  return write_frame(w, kind, data, length) ? RVL_WEBSOCKET_OK : RVL_WEBSOCKET_NO_MEMORY;
}

rvl_websocket_result rvl_websocket_close(rvl_websocket *w, unsigned code, const char *reason, size_t length) {
  char payload[RVL_WEBSOCKET_CONTROL];
  if (w->state.close_sent) return RVL_WEBSOCKET_CLOSED;
  if (code == 0) length = 0;
  if (length > sizeof payload - 2) length = sizeof payload - 2;
  payload[0] = (char)(code >> 8);
  payload[1] = (char)code;
  if (length > 0) memcpy(payload + 2, reason, length);
  if (!write_frame(w, OP_CLOSE, payload, code == 0 ? 0 : length + 2)) return RVL_WEBSOCKET_NO_MEMORY;
  w->state.close_sent = true;
  return RVL_WEBSOCKET_OK;
}

rvl_bytes *rvl_websocket_output(rvl_websocket *w) { return &w->out; }

static bool answer_ping(rvl_websocket *w) {
  if (w->state.close_sent) return true;
  if (!w->congested) return write_frame(w, RVL_WEBSOCKET_PONG, w->control, w->control_length);
  memcpy(w->waiting_pong, w->control, w->control_length);
  w->waiting_pong_length = w->control_length;
  w->pong_waits = true;
  return true;
}

bool rvl_websocket_set_congested(rvl_websocket *w, bool congested) {
  w->congested = congested;
  if (congested || !w->pong_waits) return true;
  w->pong_waits = false;
  return w->state.close_sent || write_frame(w, RVL_WEBSOCKET_PONG, w->waiting_pong, w->waiting_pong_length);
}

/* ---- what must not be -------------------------------------------------------------------------------- */

/* The peer broke a rule. false: no memory to tell it. */
static bool fail(rvl_websocket *w, unsigned code, const char *why) {
  w->state.failure = code;
  w->state.why = why;
  rvl_bytes_free(&w->message);
  return rvl_websocket_close(w, code, why, strlen(why)) != RVL_WEBSOCKET_NO_MEMORY;
}

bool rvl_websocket_is_close_code(unsigned code) {
  bool defined = code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006;
  return defined || (code >= 3000 && code <= 4999);
}

bool rvl_websocket_is_text(const char *data, size_t length) {
  const unsigned char *at = (const unsigned char *)data, *end = at + length;
  size_t bad;
  while (at < end) {
    size_t step = rvl_utf8_sequence(at, end, &bad);
    if (step == 0) return false;
    at += step;
  }
  return true;
}

/* Adds a byte to the character that has begun; false: it cannot go on so. */
static bool add_to_character(rvl_websocket *w, unsigned char byte) {
  size_t bad = 0;
  w->partial[w->partial_length++] = byte;
  if (rvl_utf8_sequence(w->partial, w->partial + w->partial_length, &bad) != 0) {
    w->partial_length = 0;
    return true;
  }
  return bad == w->partial_length && w->partial_length < sizeof w->partial &&
         (w->partial_length > 1 || (byte >= 0xc2 && byte <= 0xf4));
}

/* Whether the piece can be the next one of a text. */
static bool check_text(rvl_websocket *w, const unsigned char *at, size_t length) {
  const unsigned char *end = at + length;
  size_t bad;
  while (at < end && w->partial_length > 0)
    if (!add_to_character(w, *at++)) return false;
  while (at < end) {
    size_t step = rvl_utf8_sequence(at, end, &bad);
    if (step > 0) {
      at += step;
      continue;
    }
    if (end - at > 3) return false;
    while (at < end)
      if (!add_to_character(w, *at++)) return false;
  }
  return true;
}

/* ---- receiving --------------------------------------------------------------------------------------- */

/* What it takes to keep a message. */
static size_t cost_of(const rvl_websocket_message *m) { return m->bytes.room + sizeof *m + 2 * ALLOCATION; }

rvl_bytes rvl_websocket_take(rvl_websocket *w) {
  rvl_websocket_message *m = (rvl_websocket_message *)(size_t)w->state.first;
  rvl_bytes bytes = m->bytes;
  w->state.first = m->next;
  if (m->next == NULL) w->last = NULL;
  w->state.queued -= cost_of(m);
  free(m);
  return bytes;
}

static bool end_message(rvl_websocket *w) {
  bool text = w->message_opcode == RVL_WEBSOCKET_TEXT;
  w->message_opcode = 0;
  if (text && w->partial_length > 0) {
    w->partial_length = 0;
    return fail(w, RVL_CLOSE_TEXT, "a text message ends inside a character");
  }
  if (w->state.close_sent) {
    rvl_bytes_free(&w->message);
    return true;
  }
  rvl_websocket_message *m = malloc(sizeof *m);
  if (m == NULL) return false;
  rvl_bytes_trim(&w->message);   /* who sends a million small ones shall not take half a gigabyte */
  *m = (rvl_websocket_message){.kind = text ? RVL_WEBSOCKET_TEXT : RVL_WEBSOCKET_BINARY, .bytes = w->message};
  w->message = (rvl_bytes){0};
  if (w->last != NULL) w->last->next = m;
  else w->state.first = m;
  w->last = m;
  w->state.queued += cost_of(m);
  return true;
}

static bool end_close(rvl_websocket *w) {
  const unsigned char *payload = (const unsigned char *)w->control;
  size_t length = w->control_length;
  if (length == 1) return fail(w, RVL_CLOSE_PROTOCOL, "a close frame has half a code");
  unsigned code = length == 0 ? 0 : (unsigned)payload[0] << 8 | payload[1];
  if (length > 0 && !rvl_websocket_is_close_code(code))
    return fail(w, RVL_CLOSE_PROTOCOL, "a close frame has a code that must not be sent");
  if (length > 2 && !rvl_websocket_is_text(w->control + 2, length - 2))
    return fail(w, RVL_CLOSE_TEXT, "the reason of a close frame is not UTF-8");
  w->state.close_received = true;
  w->state.close_code = length == 0 ? RVL_CLOSE_NONE : code;
  w->state.reason_length = length > 2 ? length - 2 : 0;
  memcpy(w->state.reason, w->control + 2, w->state.reason_length);
  rvl_bytes_free(&w->message);
  return rvl_websocket_close(w, code, NULL, 0) != RVL_WEBSOCKET_NO_MEMORY;
}

static bool end_frame(rvl_websocket *w) {
  w->in_payload = false;
  w->header_length = 0;
  w->header_wanted = 2;
  switch (w->opcode) {
    case OP_CLOSE: return end_close(w);
    case RVL_WEBSOCKET_PING: return answer_ping(w);
    case RVL_WEBSOCKET_PONG:
      w->state.pongs++;
      w->state.pong_length = w->control_length;
      memcpy(w->state.pong, w->control, w->control_length);
      return true;
    default: return w->final ? end_message(w) : true;
  }
}

static bool is_control(unsigned opcode) { return opcode >= OP_CLOSE; }

static bool take_payload(rvl_websocket *w, const uint8_t *data, size_t length) {
  w->payload_left -= length;
  if (is_control(w->opcode)) {
    memcpy(w->control + w->control_length, data, length);
    w->control_length += length;
    return true;
  }
  if (w->message_opcode == RVL_WEBSOCKET_TEXT && !check_text(w, data, length))
    return fail(w, RVL_CLOSE_TEXT, "a text message is not UTF-8");
  return rvl_bytes_append(&w->message, (const char *)data, length);
}

static bool is_over(const rvl_websocket *w) { return w->state.failure != 0 || w->state.close_received; }

/* Lets wslay read, unmasked, what there is of the frame; false: no memory. */
static bool read_frame(rvl_websocket *w) {
  struct wslay_frame_iocb frame;
  ssize_t n;
  while (!is_over(w) && w->in_payload && (n = w->wslay->frame_recv(w->frames, &frame)) >= 0) {
    if (n > 0 && !take_payload(w, frame.data, (size_t)n)) return false;
    if (!is_over(w) && w->payload_left == 0 && !end_frame(w)) return false;
  }
  return true;
}

static unsigned header_size(const unsigned char *header) {
  unsigned length = header[1] & 0x7f;
  return 2u + (length == 126 ? 2u : length == 127 ? 8u : 0u) + ((header[1] & 0x80) != 0 ? 4u : 0u);
}

/* What is wrong with the first two bytes of a frame, or NULL. */
static const char *judge_start(const rvl_websocket *w) {
  bool final = (w->header[0] & 0x80) != 0, masked = (w->header[1] & 0x80) != 0;
  unsigned opcode = w->header[0] & 0x0f, length = w->header[1] & 0x7f;
  if ((w->header[0] & 0x70) != 0) return "a frame has a reserved bit set";
  if (opcode > RVL_WEBSOCKET_PONG || (opcode > RVL_WEBSOCKET_BINARY && opcode < OP_CLOSE))
    return "a frame has an unknown opcode";
  if (masked && w->role == RVL_WEBSOCKET_CLIENT) return "a frame of a server is masked";
  if (!masked && w->role == RVL_WEBSOCKET_SERVER) return "a frame of a client is not masked";
  if (is_control(opcode) && !final) return "a control frame is fragmented";
  if (is_control(opcode) && length > RVL_WEBSOCKET_CONTROL) return "a control frame is longer than 125 bytes";
  if (opcode == OP_CONTINUATION && w->message_opcode == 0) return "a frame continues a message that has not begun";
  if (opcode != OP_CONTINUATION && !is_control(opcode) && w->message_opcode != 0)
    return "a message begins inside another one";
  return NULL;
}

static uint64_t payload_length(const unsigned char *header) {
  unsigned length = header[1] & 0x7f, size = length == 126 ? 2 : length == 127 ? 8 : 0;
  uint64_t long_length = 0;
  for (unsigned i = 0; i < size; i++) long_length = long_length << 8 | header[2 + i];
  return size == 0 ? length : long_length;
}

/* What is wrong with the length of a frame, or NULL. */
static const char *judge_length(const unsigned char *header, uint64_t length) {
  unsigned form = header[1] & 0x7f;
  if (length >> 63 != 0) return "the length of a frame is negative";
  if ((form == 126 && length < 126) || (form == 127 && length < 65536)) return "the length of a frame is not short";
  return NULL;
}

/* The header is whole. */
static bool begin_frame(rvl_websocket *w) {
  uint64_t length = payload_length(w->header);
  const char *why = judge_length(w->header, length);
  if (why != NULL) return fail(w, RVL_CLOSE_PROTOCOL, why);
  w->opcode = w->header[0] & 0x0f;
  w->final = (w->header[0] & 0x80) != 0;
  w->payload_left = length;
  w->control_length = is_control(w->opcode) ? 0 : w->control_length;
  if (!is_control(w->opcode)) {
    if (length > w->max_message - w->message.length) return fail(w, RVL_CLOSE_TOO_BIG, "a message is too long");
    if (w->opcode != OP_CONTINUATION) w->message_opcode = w->opcode;
  }
  w->in_payload = true;
  w->input = (const char *)w->header;
  w->input_length = w->header_length;
  return read_frame(w);
}

static bool take_header_byte(rvl_websocket *w, char byte) {
  w->header[w->header_length++] = (unsigned char)byte;
  if (w->header_length == 2) {
    const char *why = judge_start(w);
    if (why != NULL) return fail(w, RVL_CLOSE_PROTOCOL, why);
    w->header_wanted = header_size(w->header);
  }
  return w->header_length < w->header_wanted || begin_frame(w);
}

bool rvl_websocket_feed(rvl_websocket *w, const char *data, size_t length) {
  bool ok = true;
  while (ok && length > 0 && !is_over(w)) {
    size_t step = 1;
    if (!w->in_payload) {
      ok = take_header_byte(w, *data);
    } else {
      step = length < w->payload_left ? length : (size_t)w->payload_left;
      w->input = data;
      w->input_length = step;
      ok = read_frame(w);
    }
    data += step;
    length -= step;
  }
  return ok;
}
