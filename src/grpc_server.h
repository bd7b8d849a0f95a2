/*
** A gRPC server on a socket: connections, deadlines and limits around grpc_incoming.c. Driven by the loop; no Lua.
** Calls wait in a queue until their owner takes them; what is sent goes out in the same turn of the loop.
*/
#ifndef RVL_GRPC_SERVER_H
#define RVL_GRPC_SERVER_H

#include "grpc_incoming.h"
#include "listener.h"

/* Times in nanoseconds; 0: no limit. */
typedef struct rvl_grpc_server_options {
  size_t max_message, max_requests;   /* bytes: of one, of all that are under way */
  uint32_t max_streams, max_headers;  /* of one connection, bytes of one call's */
  unsigned max_calls;                 /* under way, in all */
  uint64_t handshake;   /* until a client has shown that it speaks HTTP/2 */
  uint64_t head;        /* for the headers of a call */
  uint64_t request;     /* for its message, and more for a large one */
  uint64_t idle;        /* without calls */
  uint64_t write;       /* without progress of what is sent */
} rvl_grpc_server_options;

typedef struct rvl_grpc_server rvl_grpc_server;
typedef struct rvl_grpc_peer rvl_grpc_peer;
typedef struct rvl_grpc_served rvl_grpc_served;

/* A call under way. */
struct rvl_grpc_served {
  rvl_grpc_incoming call;   /* first */
  rvl_grpc_server *server;
  rvl_grpc_peer *peer;      /* NULL: the connection is gone */
  uint64_t id;
  uint64_t begun, due;      /* when its deadline is; 0: never */
  bool taken;               /* somebody works on it */
  bool told;                /* and has been told that nobody waits for the answer any more */
  const char *why;          /* nobody does */
  void (*notify)(rvl_grpc_served *served);   /* to be set by who takes it: whole, sent or over */
  void *user;               /* its own */
  /* inside */
  rvl_timer alarm;
  bool queued, finished;
  size_t sent;              /* of the answer, when somebody looked */
  rvl_grpc_served *next, *previous;                 /* of the peer's */
  rvl_grpc_served *queue_next, *queue_previous;
};

typedef struct rvl_grpc_server_stats {
  uint64_t connections, calls;   /* ever */
  unsigned open, in_flight;      /* connections, calls */
} rvl_grpc_server_stats;

struct rvl_grpc_server {
  rvl_listener listener;
  rvl_loop *loop;
  rvl_grpc_server_options options;
  rvl_grpc_server_stats stats;
  rvl_grpc_budget budget;
  void (*notify)(rvl_grpc_server *server);   /* there is something in the queue, or it is over */
  bool serving, stopping;
  /* inside */
  bool acceptable;                 /* somebody may want to connect */
  rvl_timer work, retry;
  rvl_grpc_peer *peers;
  rvl_grpc_served *first, *last;   /* the queue */
  uint64_t ids;
};

/* Zero-initialise before, and set `notify` and the listener's `max_open`. 0, or a libuv error. */
int rvl_grpc_server_open(rvl_grpc_server *server, rvl_loop *loop, const rvl_grpc_server_options *options,
                         const char *host, unsigned port, int backlog);
/* Takes connections from now on. */
void rvl_grpc_server_start(rvl_grpc_server *server);
/* No new connections and no new calls; connections end with their last calls. */
void rvl_grpc_server_stop(rvl_grpc_server *server);
/* Ends all connections. Calls that are taken are still their owner's. */
void rvl_grpc_server_close(rvl_grpc_server *server);
/* Whether it has been stopped and all connections are gone. */
bool rvl_grpc_server_is_over(const rvl_grpc_server *server);

/*
** The oldest of the queue: a new call (`taken` is false), which is the caller's to release now, or one of the
** caller's whose client does not wait for an answer any more. NULL: nothing is there.
*/
rvl_grpc_served *rvl_grpc_server_next(rvl_grpc_server *server);
/* rvl_grpc_incoming_finish, from its owner; the client gets only so much time to take the answer. */
void rvl_grpc_served_finish(rvl_grpc_served *served, rvl_grpc_code status, const char *text, size_t length);
/* To be called after anything has been said about a call. */
void rvl_grpc_served_flush(rvl_grpc_served *served);
/* Its owner is done with it; what has been said goes out. */
void rvl_grpc_served_release(rvl_grpc_served *served);
bool rvl_grpc_served_address(const rvl_grpc_served *served, char *text, size_t size);

#endif
