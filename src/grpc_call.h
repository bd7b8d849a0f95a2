/* What grpc_channel.c (connections) and grpc_call.c (what happens to one call) share. */
#ifndef RVL_GRPC_CALL_H
#define RVL_GRPC_CALL_H

#include "duplex.h"
#include "grpc_channel.h"

#define RVL_GRPC_TEXT_SIZE 400

typedef struct rvl_grpc_list {
  rvl_grpc_call *first, *last;
} rvl_grpc_list;

typedef struct rvl_grpc_connection {
  rvl_duplex duplex;        /* first */
  rvl_grpc_channel *channel;
  rvl_http2 *http2;         /* NULL: not open yet */
  rvl_grpc_list calls;      /* that have a stream */
  rvl_timer alive;          /* the next PING, or the end of waiting for its answer */
  bool spoken;              /* something has come */
  uint64_t heard;           /* when something came last, or it was opened */
  uint64_t pinged;          /* when a PING was sent that nothing has come after; 0: none */
  uint64_t ended;           /* calls that have */
  bool holding;             /* a call was refused: no new ones until one ends */
  bool dead;                /* closed, to be freed */
  const char *why;          /* it is of no use: it is no HTTP/2, or there is no memory; NULL: it may be */
  struct rvl_grpc_connection *next;
} rvl_grpc_connection;

struct rvl_grpc_channel {
  rvl_net *net;
  rvl_loop *loop;
  rvl_grpc_options options;
  rvl_grpc_stats stats;
  bool tls;
  rvl_grpc_connection *current;       /* takes new calls, as soon as it is open; NULL: none */
  rvl_grpc_connection *connections;
  rvl_grpc_list waiting, paused;      /* for a connection or its room; for their next attempt */
  rvl_timer work;           /* there is something to do before the loop waits */
  rvl_timer reopen;         /* the next attempt to connect */
  unsigned failures;        /* attempts to connect in a row */
  uint64_t reopen_due;      /* not before */
  rvl_failure failure;      /* of the last attempt, and what is said about it */
  char text[RVL_GRPC_TEXT_SIZE];
  uint64_t random;
};

/* in grpc_channel.c */
/* Lets the channel look at everything before the loop waits again. */
void rvl_grpc_schedule(rvl_grpc_channel *channel);
/* Sends what has been put out, at once. */
void rvl_grpc_flush(rvl_grpc_channel *channel);
/* A number in [0, 1). */
double rvl_grpc_random(rvl_grpc_channel *channel);

/* in grpc_call.c */
extern const rvl_http2_events rvl_grpc_events;
void rvl_grpc_call_begin(rvl_grpc_channel *channel, rvl_grpc_call *call, const rvl_grpc_request *request);
/* Opens a stream for it and takes it over to the connection. false: that cannot be. */
bool rvl_grpc_call_send(rvl_grpc_call *call, rvl_grpc_connection *connection);
/* Ends it with a status of our own, or lets it try again. */
void rvl_grpc_call_fail(rvl_grpc_call *call, rvl_grpc_code status, const char *text);

#endif
