/*
** gRPC calls to one server: a channel keeps a connection (duplex.c, http2.c), opens it when a call needs it and again
** when it is lost, and multiplexes the calls over it. Driven by the loop. No Lua.
*/
#ifndef RVL_GRPC_CHANNEL_H
#define RVL_GRPC_CHANNEL_H

#include "grpc_message.h"
#include "grpc_status.h"
#include "http2.h"
#include "transfer.h"

typedef struct rvl_grpc_channel rvl_grpc_channel;

/* Times in ns. Everything pointed to must outlive the channel. */
typedef struct rvl_grpc_options {
  const char *url;          /* "https://host:port/" (TLS; the net's profile says alpn_h2) or "http://host:port/" */
  const char *authority;    /* "host:port" */
  const char *user_agent;
  const rvl_grpc_metadata *metadata;   /* sent with every call; NULL: none */
  uint64_t connect;         /* a connection must be open within; 0: no limit */
  uint64_t keepalive, keepalive_timeout;   /* a PING after so much silence, and what its answer may take; 0: none */
} rvl_grpc_options;

/* Further attempts of calls that end UNAVAILABLE before anything of an answer has come. */
typedef struct rvl_grpc_retries {
  unsigned attempts;        /* in all; 0 and 1: no further ones */
  uint64_t initial, cap;    /* pauses, ns */
  double factor, jitter;    /* 0.2: up to 20 % more or less */
} rvl_grpc_retries;

typedef struct rvl_grpc_request {
  const char *method;       /* "/package.Service/Method" */
  const char *data;         /* the message, without its prefix; read until the call is done */
  size_t length;
  const rvl_grpc_metadata *metadata;   /* NULL: none */
  uint64_t timeout;         /* ns from now; 0: none */
  size_t max_message;       /* the largest that is accepted; 0: 2^31-1 */
  rvl_grpc_retries retries;
  unsigned previous;        /* attempts that the owner made before this call */
  bool streamed;            /* any number of messages may come; otherwise exactly one */
  bool wait_for_ready;      /* a server that cannot be reached is waited for until the deadline */
} rvl_grpc_request;

typedef struct rvl_grpc_call {
  /* for the owner */
  bool done;
  int status;               /* when done: rvl_grpc_code, or another number that the server sent */
  rvl_bytes details;        /* when done and not OK: the text, UTF-8, not terminated */
  bool from_server;         /* status and text are the server's own */
  bool sent;                /* the server may have acted on it */
  bool local_deadline;      /* the deadline was found to be over here */
  bool closed;              /* the channel was closed under it, or rvl_grpc_call_cancel was called */
  rvl_failure failure;      /* why no connection came about: dns, connect, tls, timeout */
  bool answered;            /* `headers` are there */
  rvl_grpc_metadata headers, trailers;   /* as they came, -bin still encoded */
  rvl_grpc_decoder messages;
  unsigned attempts;
  uint64_t started, ended;
  void (*notify)(struct rvl_grpc_call *call);   /* something above changed; must not call back in */
  /* inside */
  rvl_http2_stream stream;
  rvl_grpc_channel *channel;          /* NULL: it has been freed */
  struct rvl_grpc_connection *connection;
  struct rvl_grpc_list *list;         /* of those that are where it is */
  struct rvl_grpc_call *previous, *next;
  rvl_grpc_request request;
  rvl_timer timer;
  uint64_t due, pause_due;            /* the deadline, the next attempt; 0: none */
  unsigned char prefix[RVL_GRPC_PREFIX];
  char timeout_text[RVL_GRPC_TIMEOUT_SIZE], attempts_text[RVL_GRPC_TIMEOUT_SIZE];
  int http_status, server_status;     /* server_status: of grpc-status; -1: none yet */
  int64_t pushback;                   /* ms until the next attempt as the server wants it; -1: none; -2: no next one */
  size_t held;                        /* bytes that came and whose room has not been given back to the server */
  bool headers_over;                  /* the answer's; what may still come are messages and trailers */
  bool refused, sent_before;
  unsigned restarts;                  /* because the server went away */
  uint64_t refused_at;                /* how many calls of the connection had ended then */
} rvl_grpc_call;

typedef struct rvl_grpc_stats {
  uint64_t connections, calls;
  unsigned in_flight;
} rvl_grpc_stats;

/*
** Nothing is opened yet. The net must outlive the channel, and needs alpn_h2 in its profile for https. NULL: no memory.
*/
rvl_grpc_channel *rvl_grpc_channel_new(rvl_net *net, const rvl_grpc_options *options);
/* Ends the calls under way (`closed`, CANCELLED), closes the connections and frees everything but the calls. */
void rvl_grpc_channel_free(rvl_grpc_channel *channel);
const rvl_grpc_stats *rvl_grpc_channel_stats(const rvl_grpc_channel *channel);

/*
** Starts a call. `call` is zero-initialised memory of the caller's, to be freed with rvl_grpc_call_free before it goes
** (also after it failed at once). It ends in `done`, sooner or later; look at `done` right after the start too, notify
** is not called from inside. The request's data, metadata and method must live until it is done.
*/
void rvl_grpc_call_start(rvl_grpc_channel *channel, rvl_grpc_call *call, const rvl_grpc_request *request,
                         void (*notify)(rvl_grpc_call *));
/* The oldest message that has come, to be freed with free(); NULL: none now. Lets the server send more. */
rvl_grpc_message *rvl_grpc_call_take(rvl_grpc_call *call);
/* Ends it unless it is done: CANCELLED, and `closed`. No notify. */
void rvl_grpc_call_cancel(rvl_grpc_call *call);
/* Cancels and frees what it holds. The channel may be gone. */
void rvl_grpc_call_free(rvl_grpc_call *call);

#endif
