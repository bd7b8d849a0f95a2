/* The opening handshake of a WebSocket (RFC 6455, 4): what the answer must say. */
#ifndef RVL_WEBSOCKET_HANDSHAKE_H
#define RVL_WEBSOCKET_HANDSHAKE_H

#include "http1.h"

#define RVL_WEBSOCKET_ACCEPT_SIZE 28

/* What a server answers to Sec-WebSocket-Key; not terminated. */
void rvl_websocket_accept(const char *key, size_t length, char accept[RVL_WEBSOCKET_ACCEPT_SIZE]);

typedef struct rvl_websocket_offer {
  const char *key;          /* Sec-WebSocket-Key as it was sent */
  const char *protocols;    /* the subprotocols that were offered, separated by ", "; or NULL */
} rvl_websocket_offer;

/*
** What is wrong with a complete answer of status 101 to an offer without extensions (static text), or NULL. `protocol`:
** the subprotocol that was chosen (a part of the answer's head), or NULL.
*/
const char *rvl_websocket_judge_answer(const rvl_http1 *answer, const rvl_websocket_offer *offer, const char **protocol,
                                       size_t *protocol_length);

#endif
