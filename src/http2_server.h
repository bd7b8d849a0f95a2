/*
** One HTTP/2 connection as its server sees it: bytes in, bytes out; nghttp2 does the framing. No sockets, no Lua,
** no clock. What a client may cost is bounded: see the limits, and `spare`.
*/
#ifndef RVL_HTTP2_SERVER_H
#define RVL_HTTP2_SERVER_H

#include "http2.h"

typedef struct rvl_http2_server rvl_http2_server;

/* A request and its answer; lives in its owner's memory. */
typedef struct rvl_http2_exchange {
  int32_t id;               /* 0: closed; nothing more is heard of it, nothing can be said */
  bool heard;               /* the client has said all */
  bool answering;           /* the headers of the answer are on their way */
  bool ended;               /* and its end is, too */
  rvl_http2_payload payload;   /* what is being sent; head NULL: nothing is */
} rvl_http2_exchange;

/* A request begins; its exchange, or NULL: it is refused, and the client may try it elsewhere. */
typedef rvl_http2_exchange *rvl_http2_server_begin(void *owner);

typedef struct rvl_http2_server_events {
  void (*header)(rvl_http2_exchange *x, const char *name, size_t name_length, const char *value,
                 size_t value_length);
  void (*headers)(rvl_http2_exchange *x);    /* they are over; trailers are not told */
  void (*overflow)(rvl_http2_exchange *x);   /* instead: they are too large */
  void (*data)(rvl_http2_exchange *x, const char *data, size_t length);
  void (*heard)(rvl_http2_exchange *x);      /* all, behind the headers and data */
  void (*sent)(rvl_http2_exchange *x);       /* what was to be sent has been put out */
  void (*closed)(rvl_http2_exchange *x);     /* id is 0: by the client, by its end, or by a breach of rules */
} rvl_http2_server_events;

typedef struct rvl_http2_server_limits {
  uint32_t streams;         /* at a time */
  uint32_t headers;         /* bytes of one request's, as HTTP/2 counts them */
} rvl_http2_server_limits;

typedef struct rvl_http2_server_state {
  bool greeted;             /* the client has shown that it speaks HTTP/2 */
  bool in_headers;          /* a block of headers has begun and is not over */
  bool going;               /* the client has been told that no new streams are taken */
  unsigned streams;         /* open ones */
  bool over;                /* everything has been said and heard */
  bool failed;              /* nothing more can be done but send what is in the output */
  const char *why;          /* static */
} rvl_http2_server_state;

/* NULL: no memory. `events` must outlive it. */
rvl_http2_server *rvl_http2_server_new(const rvl_http2_server_events *events, rvl_http2_server_begin *begin,
                                       void *owner, const rvl_http2_server_limits *limits);
/* Exchanges that are open hear nothing: see rvl_http2_server_forget. */
void rvl_http2_server_free(rvl_http2_server *server);
const rvl_http2_server_state *rvl_http2_server_state_of(const rvl_http2_server *server);

/*
** Takes what the client sent. `spare`: what is left of a budget for frames that cost us and not the client
** (resets, pings, settings …); it is lowered, and refilled by the owner as time goes by. false: see `failed`.
*/
bool rvl_http2_server_feed(rvl_http2_server *server, const char *data, size_t length, uint32_t *spare);
/* Puts what is to be sent behind the output, until that holds about `room` bytes; false: see `failed`. */
bool rvl_http2_server_fill(rvl_http2_server *server, size_t room);
rvl_bytes *rvl_http2_server_output(rvl_http2_server *server);
/* Whether something waits for the next fill, and its window is open. */
bool rvl_http2_server_wants(const rvl_http2_server *server);

/* The headers of an answer, or with `end` all of it. false: no memory. */
bool rvl_http2_server_answer(rvl_http2_server *server, rvl_http2_exchange *x, const rvl_http2_header *headers,
                             size_t count, bool end);
/* Sends two pieces of memory that stay as they are until `sent` or `closed` (or a reset). false: no memory. */
bool rvl_http2_server_send(rvl_http2_server *server, rvl_http2_exchange *x, const char *head, size_t head_length,
                           const char *body, size_t body_length);
/* Ends an answer of which nothing is being sent. false: no memory. */
bool rvl_http2_server_end(rvl_http2_server *server, rvl_http2_exchange *x, const rvl_http2_header *trailers,
                          size_t count);
/* Breaks an exchange off; it is closed without a word. */
void rvl_http2_server_reset(rvl_http2_server *server, rvl_http2_exchange *x, uint32_t error);
/* Lets the client send so much more of its request. */
void rvl_http2_server_consume(rvl_http2_server *server, const rvl_http2_exchange *x, size_t length);
/* Lets the client send much at once: for large requests. */
void rvl_http2_server_widen(rvl_http2_server *server, const rvl_http2_exchange *x);

/* Tells the client to go: first that there will be no new streams, then, when it has had the time to hear of that
** (it answered, or the owner calls again), which ones are the last. */
void rvl_http2_server_go(rvl_http2_server *server);
/* Ends the connection: what is open is broken off. */
void rvl_http2_server_quit(rvl_http2_server *server, uint32_t error);
/* Takes an exchange away from an owner that goes. */
void rvl_http2_server_forget(rvl_http2_server *server, rvl_http2_exchange *x);

#endif
