/*
** A WebSocket to a server: a connection, the handshake over it, then messages. It reads ahead, answers pings and close
** frames by itself, and stops reading while much has not been taken. No Lua.
*/
#ifndef RVL_WEBSOCKET_CLIENT_H
#define RVL_WEBSOCKET_CLIENT_H

#include "duplex.h"
#include "http1.h"
#include "websocket.h"
#include "websocket_handshake.h"

#define RVL_WEBSOCKET_BODY 4096   /* how much of the answer of a server that refuses is kept, at least */

typedef struct rvl_websocket_client {
  rvl_duplex duplex;         /* first */
  rvl_http1 answer;          /* to the handshake */
  bool asked, answered;      /* `answer` is whole, bad or as long as it matters */
  rvl_websocket *endpoint;   /* NULL: not open yet */
  bool starved;              /* there was no memory for what came in */
  void (*notify)(struct rvl_websocket_client *client);   /* something may have changed; must not call back in */
  /* inside */
  rvl_bytes early;           /* what came right behind the answer */
  rvl_timer closing;         /* when the connection goes, whether the server agrees or not */
} rvl_websocket_client;

/* See rvl_duplex_open. */
bool rvl_websocket_client_open(rvl_net *net, rvl_websocket_client *client, const char *url, uint64_t connect);
/* Sends the request; `answered` tells when the answer is there. false: no memory. */
bool rvl_websocket_client_ask(rvl_websocket_client *client, const char *request, size_t length);
/* Takes the connection for a WebSocket from here on. false: no memory. */
bool rvl_websocket_client_begin(rvl_websocket_client *client, const rvl_wslay_api *wslay, size_t max_message);
/* Sends what the endpoint has put out, and reads on when messages were taken. false: no memory. */
bool rvl_websocket_client_update(rvl_websocket_client *client);
/* Whether nothing more will come: a close frame, a failure, or the end of the connection. */
bool rvl_websocket_client_is_over(const rvl_websocket_client *client);
/* Closes the connection and frees everything but the endpoint's messages and state. */
void rvl_websocket_client_drop(rvl_websocket_client *client);
void rvl_websocket_client_free(rvl_websocket_client *client);

#endif
