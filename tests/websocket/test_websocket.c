/* websocket.c by RFC 6455: every stream of frames whole, byte by byte and cut in two at every place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "websocket.h"
#include "websocket_handshake.h"
#include "wslay_api.h"

#define LIMIT 1000

static rvl_wslay_api *wslay;

static int load(void **state) {
  (void)state;
  const char *why;
  wslay = rvl_wslay_open(&why);
  return wslay != NULL ? 0 : -1;
}

static int unload(void **state) {
  (void)state;
  rvl_wslay_close(wslay);
  return 0;
}

static rvl_websocket *new_end(rvl_websocket_role role) {
  rvl_websocket *w = rvl_websocket_new(wslay, role, LIMIT);
  assert_non_null(w);
  return w;
}

/* From memory of its own, so that a read past the end is seen. */
static void feed(rvl_websocket *w, const char *data, size_t length) {
  char *copy = malloc(length > 0 ? length : 1);
  assert_non_null(copy);
  memcpy(copy, data, length);
  assert_true(rvl_websocket_feed(w, copy, length));
  free(copy);
}

/* What is expected after a stream; messages as "T<text>|" and "B<bytes>|". */
typedef struct expectation {
  const char *messages;
  unsigned failure, close_code;
} expectation;

static void drain(rvl_websocket *w, rvl_bytes *messages) {
  const rvl_websocket_state *s = rvl_websocket_state_of(w);
  while (s->first != NULL) {
    rvl_bytes_append(messages, s->first->kind == RVL_WEBSOCKET_TEXT ? "T" : "B", 1);
    rvl_bytes bytes = rvl_websocket_take(w);
    rvl_bytes_append(messages, bytes.data, bytes.length);
    rvl_bytes_append(messages, "|", 1);
    rvl_bytes_free(&bytes);
  }
}

static void check_end(rvl_websocket *w, const expectation *wanted) {
  const rvl_websocket_state *s = rvl_websocket_state_of(w);
  rvl_bytes messages = {0};
  drain(w, &messages);
  rvl_bytes_append(&messages, "", 1);
  assert_string_equal(messages.data, wanted->messages);
  assert_int_equal(s->failure, wanted->failure);
  assert_int_equal(s->close_code, wanted->close_code);
  assert_int_equal(s->close_received, wanted->close_code != 0);
  rvl_bytes_free(&messages);
}

static void check_cuts(rvl_websocket_role role, const char *data, size_t length, const expectation *wanted) {
  for (size_t cut = 0; cut <= length; cut++) {
    rvl_websocket *w = new_end(role);
    feed(w, data, cut);
    feed(w, data + cut, length - cut);
    check_end(w, wanted);
    rvl_websocket_free(w);
  }
  rvl_websocket *w = new_end(role);
  for (size_t i = 0; i < length; i++) feed(w, data + i, 1);
  check_end(w, wanted);
  rvl_websocket_free(w);
}

#define CLIENT_GETS(stream, ...) \
  check_cuts(RVL_WEBSOCKET_CLIENT, stream, sizeof stream - 1, &(expectation){__VA_ARGS__})
#define SERVER_GETS(stream, ...) \
  check_cuts(RVL_WEBSOCKET_SERVER, stream, sizeof stream - 1, &(expectation){__VA_ARGS__})

static void test_messages(void **state) {
  (void)state;
  CLIENT_GETS("\x81\x05hello", "Thello|", 0, 0);
  CLIENT_GETS("\x82\x03" "abc" "\x81\x00", "Babc|T|", 0, 0);
  CLIENT_GETS("\x01\x02he" "\x00\x01l" "\x00\x00" "\x80\x02lo", "Thello|", 0, 0);
  CLIENT_GETS("\x01\x02he" "\x89\x01x" "\x80\x03llo" "\x8a\x00", "Thello|", 0, 0);
  SERVER_GETS("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", "THello|", 0, 0);   /* RFC 6455, 5.7 */
  SERVER_GETS("\x01\x81\x01\x02\x03\x04\x60" "\x80\x81\x00\x00\x00\x00" "b", "Tab|", 0, 0);
}

static void test_protocol_errors(void **state) {
  (void)state;
  static const unsigned char reserved[] = {0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f};
  for (size_t i = 0; i < sizeof reserved; i++) {
    char frame[] = {'\x81', 1, 'a', (char)reserved[i], 0};
    check_cuts(RVL_WEBSOCKET_CLIENT, frame, sizeof frame, &(expectation){"Ta|", 1002, 0});
  }
  for (unsigned bit = 0x10; bit <= 0x40; bit *= 2) {
    char frame[] = {'\x81', 1, 'a', (char)(0x81 | bit), 1, 'b'};
    check_cuts(RVL_WEBSOCKET_CLIENT, frame, sizeof frame, &(expectation){"Ta|", 1002, 0});
  }
  CLIENT_GETS("\x81\x81\x00\x00\x00\x00" "a", "", 1002, 0);         /* a masked frame of a server */
  SERVER_GETS("\x81\x01" "a", "", 1002, 0);                         /* an unmasked one of a client */
  CLIENT_GETS("\x80\x01" "a", "", 1002, 0);                         /* nothing to continue */
  CLIENT_GETS("\x00\x01" "a", "", 1002, 0);
  CLIENT_GETS("\x01\x01" "a" "\x81\x01" "b", "", 1002, 0);          /* a message inside another one */
  CLIENT_GETS("\x01\x01" "a" "\x02\x01" "b", "", 1002, 0);
  CLIENT_GETS("\x09\x01" "a", "", 1002, 0);                         /* fragmented control frames */
  CLIENT_GETS("\x08\x00", "", 1002, 0);
  CLIENT_GETS("\x0a\x00", "", 1002, 0);
  CLIENT_GETS("\x89\x7e\x00\x7e", "", 1002, 0);                     /* long control frames */
  CLIENT_GETS("\x88\x7f", "", 1002, 0);
  CLIENT_GETS("\x82\x7e\x00\x7d", "", 1002, 0);                     /* lengths that could be shorter */
  CLIENT_GETS("\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", "", 1002, 0);
  CLIENT_GETS("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", "", 1002, 0);
}

static void test_text(void **state) {
  (void)state;
  CLIENT_GETS("\x81\x0b\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
              "T\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5|", 0, 0);
  CLIENT_GETS("\x01\x01\xf0" "\x00\x01\x9f" "\x89\x00" "\x00\x01\x98" "\x80\x01\x80", "T\xf0\x9f\x98\x80|", 0, 0);
  static const char *const bad[] = {"\xff", "\xc0\xaf", "\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                    "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xc3\x28", "\xe2\x28\xa1", "\xf0\x9f\x98"
                                    "a", "ok\xf8\x88\x80\x80\x80"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char frame[32] = {'\x01', (char)strlen(bad[i])};   /* found before the message ends */
    memcpy(frame + 2, bad[i], strlen(bad[i]));
    check_cuts(RVL_WEBSOCKET_CLIENT, frame, strlen(bad[i]) + 2, &(expectation){"", 1007, 0});
  }
  CLIENT_GETS("\x81\x02" "a\xe2", "", 1007, 0);                     /* ends inside a character */
  CLIENT_GETS("\x01\x01\xe2" "\x80\x01\x82", "", 1007, 0);
  CLIENT_GETS("\x82\x01\xff", "B\xff|", 0, 0);
}

static void test_sizes(void **state) {
  (void)state;
  CLIENT_GETS("\x82\x7e\x03\xe9", "", 1009, 0);                     /* as soon as it is announced */
  CLIENT_GETS("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "", 1009, 0);
  char frames[2 * 504];
  memset(frames, 'x', sizeof frames);
  memcpy(frames, "\x02\x7e\x01\xf4", 4);
  memcpy(frames + 504, "\x80\x7e\x01\xf5", 4);                      /* 500 and 501 bytes: over all fragments */
  check_cuts(RVL_WEBSOCKET_CLIENT, frames, sizeof frames, &(expectation){"", 1009, 0});
  frames[504 + 3] = '\xf4';
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  feed(w, frames, sizeof frames);
  assert_int_equal(rvl_websocket_state_of(w)->first->bytes.length, LIMIT);
  rvl_websocket_free(w);
}

static void test_close_codes(void **state) {
  (void)state;
  for (unsigned code = 0; code <= 5100; code++) {
    char frame[] = {'\x88', 5, (char)(code >> 8), (char)code, 'b', 'y', 'e', '\x81', 1, 'a'};
    bool good = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
    rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
    feed(w, frame, sizeof frame);
    check_end(w, &(expectation){"", good ? 0 : 1002, good ? code : 0});
    assert_int_equal(rvl_websocket_state_of(w)->reason_length, good ? 3 : 0);
    assert_true(rvl_websocket_state_of(w)->close_sent);
    rvl_websocket_free(w);
  }
  CLIENT_GETS("\x88\x00", "", 0, 1005);
  CLIENT_GETS("\x88\x01\x03", "", 1002, 0);
  CLIENT_GETS("\x88\x04\x03\xe8\xc3\x28", "", 1007, 0);
  CLIENT_GETS("\x88\x03\x03\xe8\xc3", "", 1007, 0);
}

/* The unmasked payload of the only frame in the output, which is emptied. */
static size_t take_frame(rvl_websocket *w, unsigned char *first, char *payload) {
  rvl_bytes *out = rvl_websocket_output(w);
  const unsigned char *frame = (const unsigned char *)out->data;
  assert_true(out->length >= 6);
  size_t length = frame[1] & 0x7f;
  assert_int_equal(frame[1] & 0x80, 0x80);
  assert_int_equal(out->length, length + 6);
  *first = frame[0];
  for (size_t i = 0; i < length; i++) payload[i] = (char)(frame[6 + i] ^ frame[2 + i % 4]);
  rvl_bytes_free(out);
  return length;
}

static void test_answers(void **state) {
  (void)state;
  unsigned char first;
  char payload[128];
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  feed(w, "\x89\x04ping", 6);
  assert_int_equal(take_frame(w, &first, payload), 4);
  assert_int_equal(first, 0x8a);
  assert_memory_equal(payload, "ping", 4);
  feed(w, "\x8a\x03yes", 5);
  assert_int_equal(rvl_websocket_state_of(w)->pongs, 1);
  assert_memory_equal(rvl_websocket_state_of(w)->pong, "yes", 3);
  feed(w, "\x88\x04\x0f\xa1ok", 6);
  assert_int_equal(take_frame(w, &first, payload), 2);   /* the code comes back */
  assert_int_equal(first, 0x88);
  assert_memory_equal(payload, "\x0f\xa1", 2);
  assert_int_equal(rvl_websocket_send(w, RVL_WEBSOCKET_TEXT, "x", 1), RVL_WEBSOCKET_CLOSED);
  assert_int_equal(rvl_websocket_close(w, 1000, "", 0), RVL_WEBSOCKET_CLOSED);
  assert_int_equal(rvl_websocket_output(w)->length, 0);
  rvl_websocket_free(w);
}

static void test_congestion(void **state) {
  (void)state;
  unsigned char first;
  char payload[128];
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  rvl_websocket_set_congested(w, true);
  for (int i = 0; i < 10000; i++) feed(w, "\x89\x03one", 5);
  feed(w, "\x89\x04last", 6);
  assert_int_equal(rvl_websocket_output(w)->length, 0);
  rvl_websocket_set_congested(w, false);
  assert_int_equal(take_frame(w, &first, payload), 4);
  assert_memory_equal(payload, "last", 4);
  rvl_websocket_free(w);
}

/* What is said to be kept is what is kept, also of messages that are hardly more than their headers. */
static void test_small_messages(void **state) {
  (void)state;
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  const rvl_websocket_state *s = rvl_websocket_state_of(w);
  for (int i = 0; i < 1000; i++) feed(w, "\x82\x01x" "\x82\x00", 5);
  size_t room = 0, count = 0;
  for (const rvl_websocket_message *m = s->first; m != NULL; m = m->next, count++) room += sizeof *m + m->bytes.room;
  assert_int_equal(count, 2000);
  assert_true(room <= s->queued);
  assert_true(s->queued <= 2000 * 128);
  rvl_websocket_drop(w);
  assert_int_equal(s->queued, 0);
  rvl_websocket_free(w);
}

static void test_after_our_close(void **state) {
  (void)state;
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  assert_int_equal(rvl_websocket_close(w, 1000, "bye", 3), RVL_WEBSOCKET_OK);
  for (int i = 0; i < 1000; i++) feed(w, "\x81\x05hello", 7);
  assert_null(rvl_websocket_state_of(w)->first);
  assert_int_equal(rvl_websocket_state_of(w)->queued, 0);
  feed(w, "\x88\x02\x03\xe8", 4);
  assert_int_equal(rvl_websocket_state_of(w)->close_code, 1000);
  rvl_websocket_free(w);
}

static void test_masks_differ(void **state) {
  (void)state;
  rvl_websocket *w = new_end(RVL_WEBSOCKET_CLIENT);
  char seen[100][4];
  for (int i = 0; i < 100; i++) {
    assert_int_equal(rvl_websocket_send(w, RVL_WEBSOCKET_TEXT, "x", 1), RVL_WEBSOCKET_OK);
    memcpy(seen[i], rvl_websocket_output(w)->data + 2, 4);
    for (int j = 0; j < i; j++) assert_memory_not_equal(seen[i], seen[j], 4);
    rvl_bytes_free(rvl_websocket_output(w));
  }
  rvl_websocket_free(w);
}

static void test_lengths_sent(void **state) {
  (void)state;
  static const size_t lengths[] = {0, 1, 125, 126, 4095, 4096, 4097, 65535, 65536, 200000};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    char *data = malloc(lengths[i] + 1);
    assert_non_null(data);
    for (size_t j = 0; j < lengths[i]; j++) data[j] = (char)(j * 7);
    rvl_websocket *from = rvl_websocket_new(wslay, RVL_WEBSOCKET_CLIENT, 0);
    rvl_websocket *to = rvl_websocket_new(wslay, RVL_WEBSOCKET_SERVER, lengths[i]);
    assert_int_equal(rvl_websocket_send(from, RVL_WEBSOCKET_BINARY, data, lengths[i]), RVL_WEBSOCKET_OK);
    feed(to, rvl_websocket_output(from)->data, rvl_websocket_output(from)->length);
    const rvl_websocket_message *m = rvl_websocket_state_of(to)->first;
    assert_non_null(m);
    assert_int_equal(m->bytes.length, lengths[i]);
    if (lengths[i] > 0) assert_memory_equal(m->bytes.data, data, lengths[i]);
    rvl_websocket_free(from);
    rvl_websocket_free(to);
    free(data);
  }
}

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
#define SWITCH "HTTP/1.1 101 Switching Protocols\r\n"
#define UPGRADE "Upgrade: websocket\r\nConnection: Upgrade\r\n"

/* What is wrong with an answer to a handshake that offers `protocols`, or NULL. */
static const char *judge(const char *text, const char *protocols, char chosen[64]) {
  rvl_http1 answer = {0};
  rvl_http1_begin(&answer, false, 8192, 8192);
  answer.upgrades = true;
  size_t taken;
  assert_true(rvl_http1_feed(&answer, text, strlen(text), &taken));
  assert_int_equal(answer.state, RVL_HTTP1_DONE);
  assert_int_equal(answer.status, 101);
  const char *protocol;
  size_t length;
  const char *why = rvl_websocket_judge_answer(&answer, &(rvl_websocket_offer){KEY, protocols}, &protocol, &length);
  snprintf(chosen, 64, "%.*s", (int)length, protocol != NULL ? protocol : "");
  rvl_http1_free(&answer);
  return why;
}

static void test_handshake(void **state) {
  (void)state;
  char accept[RVL_WEBSOCKET_ACCEPT_SIZE], chosen[64];
  rvl_websocket_accept(KEY, strlen(KEY), accept);   /* RFC 6455, 1.3 */
  assert_memory_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", sizeof accept);
  assert_null(judge(SWITCH UPGRADE ACCEPT "\r\n", NULL, chosen));
  assert_null(judge(SWITCH "uPGRADE:  WebSocket \r\nCONNECTION: keep-alive, upgrade\r\n" ACCEPT "\r\n", NULL, chosen));
  assert_null(judge(SWITCH UPGRADE ACCEPT "Sec-WebSocket-Extensions: \r\n\r\n", NULL, chosen));
  assert_null(judge(SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: b\r\n\r\n", "a, b", chosen));
  assert_string_equal(chosen, "b");
  static const char *const bad[] = {
      SWITCH "Connection: Upgrade\r\n" ACCEPT "\r\n",
      SWITCH "Upgrade: h2c\r\nConnection: Upgrade\r\n" ACCEPT "\r\n",
      SWITCH "Upgrade: websocket\r\nConnection: close\r\n" ACCEPT "\r\n",
      SWITCH UPGRADE "\r\n",
      SWITCH UPGRADE "Sec-WebSocket-Accept: S3PPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
      SWITCH UPGRADE ACCEPT ACCEPT "\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: c\r\n\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: A\r\n\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: \r\n\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: a, b\r\n\r\n",
      SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n\r\n",
      SWITCH UPGRADE ACCEPT "X: y\r\n z\r\n\r\n",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_non_null(judge(bad[i], "a, b", chosen));
  assert_non_null(judge(SWITCH UPGRADE ACCEPT "Sec-WebSocket-Protocol: a\r\n\r\n", NULL, chosen));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_messages),      cmocka_unit_test(test_protocol_errors), cmocka_unit_test(test_text),
      cmocka_unit_test(test_sizes),         cmocka_unit_test(test_close_codes),     cmocka_unit_test(test_answers),
      cmocka_unit_test(test_congestion),    cmocka_unit_test(test_after_our_close), cmocka_unit_test(test_masks_differ),
      cmocka_unit_test(test_lengths_sent),  cmocka_unit_test(test_handshake),       cmocka_unit_test(test_small_messages),
  };
  return cmocka_run_group_tests(tests, load, unload);
}
