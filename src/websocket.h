/*
** One end of a WebSocket (RFC 6455): bytes in, messages out; messages in, bytes out. Knows no sockets, no clock.
**
** libwslay writes and reads the frames. What it does not judge is judged here: its event interface would reserve
** whatever a header announces, takes masked frames for unmasked ones, and cannot tell which close code is due.
*/
#ifndef RVL_WEBSOCKET_H
#define RVL_WEBSOCKET_H

#include "bytes.h"

#include <stdint.h>

typedef struct rvl_wslay_api rvl_wslay_api;

#define RVL_WEBSOCKET_CONTROL 125   /* most bytes in a ping, a pong or a close frame */

typedef enum rvl_websocket_role { RVL_WEBSOCKET_CLIENT, RVL_WEBSOCKET_SERVER } rvl_websocket_role;

/* The opcodes that a user sends. */
typedef enum rvl_websocket_kind {
  RVL_WEBSOCKET_TEXT = 1,
  RVL_WEBSOCKET_BINARY = 2,
  RVL_WEBSOCKET_PING = 9,
  RVL_WEBSOCKET_PONG = 10
} rvl_websocket_kind;

/* Close codes that mean something here. */
enum {
  RVL_CLOSE_NORMAL = 1000,
  RVL_CLOSE_PROTOCOL = 1002,
  RVL_CLOSE_NONE = 1005,        /* never sent: the close frame had no code */
  RVL_CLOSE_DROPPED = 1006,     /* never sent: there was no close frame */
  RVL_CLOSE_TEXT = 1007,
  RVL_CLOSE_TOO_BIG = 1009
};

typedef struct rvl_websocket_message {
  struct rvl_websocket_message *next;
  rvl_websocket_kind kind;      /* text or binary */
  rvl_bytes bytes;
} rvl_websocket_message;

/* What the other side did; for the owner to read. */
typedef struct rvl_websocket_state {
  const rvl_websocket_message *first;   /* the oldest message that has not been taken; NULL: none */
  size_t queued;                        /* what it takes to keep all of them, in bytes */
  bool close_sent, close_received;
  unsigned close_code;                  /* of the peer's close frame */
  size_t reason_length;
  char reason[RVL_WEBSOCKET_CONTROL];
  unsigned failure;                     /* the peer broke a rule: the close code that it was told; 0: it did not */
  const char *why;                      /* which one (static text) */
  uint64_t pongs;                       /* how many came */
  size_t pong_length;
  char pong[RVL_WEBSOCKET_CONTROL];     /* what the last one said */
} rvl_websocket_state;

typedef struct rvl_websocket rvl_websocket;

typedef enum rvl_websocket_result {
  RVL_WEBSOCKET_OK,
  RVL_WEBSOCKET_CLOSED,
  RVL_WEBSOCKET_NO_MEMORY
} rvl_websocket_result;

/* NULL: no memory. Messages longer than `max_message` are refused with 1009. */
rvl_websocket *rvl_websocket_new(const rvl_wslay_api *wslay, rvl_websocket_role role, size_t max_message);
void rvl_websocket_free(rvl_websocket *websocket);
const rvl_websocket_state *rvl_websocket_state_of(const rvl_websocket *websocket);

/*
** Takes what came in; what follows a close frame or a failure is thrown away, messages behind a close frame of our own
** too. Pings are answered. false: no memory.
*/
bool rvl_websocket_feed(rvl_websocket *websocket, const char *data, size_t length);
/* Removes the oldest message; its bytes are the caller's. There must be one. */
rvl_bytes rvl_websocket_take(rvl_websocket *websocket);
/* Throws the messages away that have not been taken. */
void rvl_websocket_drop(rvl_websocket *websocket);

/* Puts a message, or a ping or pong of at most 125 bytes, into `output`. CLOSED: nothing may follow a close frame. */
rvl_websocket_result rvl_websocket_send(rvl_websocket *websocket, rvl_websocket_kind kind, const char *data,
                                        size_t length);
/* Puts a close frame there, the last one; code 0: without one. The reason has at most 123 bytes. */
rvl_websocket_result rvl_websocket_close(rvl_websocket *websocket, unsigned code, const char *reason,
                                         size_t length);
/* The bytes to be sent; whoever sends them takes them out. */
rvl_bytes *rvl_websocket_output(rvl_websocket *websocket);
/*
** Says whether much that was put into `output` has still not gone out. Meanwhile only the last ping is answered, as
** the standard allows: who sends pings and does not read the answers shall not fill the memory. false: no memory.
*/
bool rvl_websocket_set_congested(rvl_websocket *websocket, bool congested);

/* Whether a close frame may carry the code. */
bool rvl_websocket_is_close_code(unsigned code);
/* Whether the bytes are UTF-8 from beginning to end. */
bool rvl_websocket_is_text(const char *data, size_t length);

#endif
