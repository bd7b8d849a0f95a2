/*
** Listening sockets and the connections they accept, driven by the loop. Bytes only: no Lua, no protocol.
** Incoming bytes are read ahead up to a limit, so that a client that hangs up is noticed at once; what cannot be sent
** at once is sent when the client has made room.
*/
#ifndef RVL_LISTENER_H
#define RVL_LISTENER_H

#include "bytes.h"
#include "loop.h"

/* A socket that the loop watches. */
typedef struct rvl_socket {
  rvl_loop *loop;
  uv_poll_t *poll;           /* freed by libuv's close callback */
  int fd;                    /* -1: closed */
  int events;                /* what is watched for */
} rvl_socket;

typedef struct rvl_listener {
  rvl_socket socket;
  unsigned port;
  unsigned open, max_open;   /* connections */
  void (*notify)(struct rvl_listener *listener);  /* there may be something to accept; must not call back in */
} rvl_listener;

typedef struct rvl_connection {
  rvl_socket socket;
  rvl_listener *listener;    /* must outlive it */
  rvl_bytes in;              /* what has come and been read ahead */
  size_t taken;              /* how much of `in` its owner has taken */
  rvl_bytes out;             /* what is still to be sent */
  size_t sent;
  bool held;                 /* `out` waits for more to be sent along */
  uint64_t progress;         /* when something was sent last */
  bool ended;                /* the client sends nothing more */
  bool broken;               /* nothing can be sent any more */
  bool discards;             /* what comes in is of no interest */
  bool closing;              /* end the sending side when `out` is empty */
  void (*notify)(struct rvl_connection *connection);  /* something above changed; must not call back in */
} rvl_connection;

/*
** Listens on a numeric address or a name of this machine; port 0 picks a free one. Zero-initialise before; `notify`
** and `max_open` are the owner's to set. 0, or a libuv error.
*/
int rvl_listener_open(rvl_listener *listener, rvl_loop *loop, const char *host, unsigned port, int backlog);
void rvl_listener_close(rvl_listener *listener);

/*
** Takes the next connection into zero-initialised memory of the caller's. 0; UV_EAGAIN: none is there (or `max_open`
** are open) and notify will tell; UV_EMFILE and the like: try again later.
*/
int rvl_listener_accept(rvl_listener *listener, rvl_connection *connection,
                        void (*notify)(rvl_connection *connection));

/* The client's address as text. */
bool rvl_connection_address(const rvl_connection *connection, char *text, size_t size);
/* Bytes that came in and were not taken. */
size_t rvl_connection_available(const rvl_connection *connection);
/* Marks bytes as taken. */
void rvl_connection_take(rvl_connection *connection, size_t length);
/* Sends two pieces one after the other, or keeps what does not go out at once. false: no memory. */
bool rvl_connection_send(rvl_connection *connection, const char *first, size_t first_length, const char *second,
                         size_t second_length);
/* The same, but more is to come at once: it may go out with that, at the latest in the next step of the loop. */
bool rvl_connection_hold(rvl_connection *connection, const char *first, size_t first_length, const char *second,
                         size_t second_length);
/* Sends what is held. */
void rvl_connection_flush(rvl_connection *connection);
size_t rvl_connection_unsent(const rvl_connection *connection);
/* Ends the sending side after what is unsent, and throws away what comes in; `ended` tells when the client agrees. */
void rvl_connection_finish(rvl_connection *connection);
void rvl_connection_close(rvl_connection *connection);

#endif
