/*
** One call as a gRPC server sees it: what a request must be, its message, deadline and metadata, and its answer.
** Above http2_server.c, and as pure: no sockets, no Lua, no clock.
*/
#ifndef RVL_GRPC_INCOMING_H
#define RVL_GRPC_INCOMING_H

#include "grpc_message.h"
#include "grpc_status.h"
#include "http2_server.h"

/* What requests take in memory, all together. */
typedef struct rvl_grpc_budget {
  size_t used, most;
} rvl_grpc_budget;

typedef enum rvl_grpc_encoding {
  RVL_GRPC_IDENTITY,
  RVL_GRPC_INFLATED,           /* gzip or deflate */
  RVL_GRPC_UNKNOWN_ENCODING
} rvl_grpc_encoding;

typedef struct rvl_grpc_incoming rvl_grpc_incoming;

struct rvl_grpc_incoming {
  rvl_http2_exchange exchange;  /* first; its id is 0 when there is nobody any more who listens */
  rvl_http2_server *http2;
  rvl_grpc_budget *budget;
  /* what the owner is told; the call must outlive these functions */
  void (*arrived)(rvl_grpc_incoming *call);   /* its headers are as they must be */
  void (*changed)(rvl_grpc_incoming *call);   /* it is whole, what was to be sent is out, or it is over */
  void (*closed)(rvl_grpc_incoming *call);    /* the client is not there any more; the last that is heard of it */
  rvl_bytes method;             /* "/package.Service/Method" */
  rvl_grpc_metadata metadata;   /* what came, but for what HTTP/2 and gRPC keep to themselves */
  uint64_t timeout;             /* nanoseconds; 0: the client gave none */
  bool has_arrived;
  bool whole;                   /* the request is there */
  bool over;                    /* its status has been decided; or nobody wants to know it any more */
  int status;
  size_t received;              /* bytes */
  rvl_grpc_metadata headers, trailers;   /* of the answer, to be filled by the owner before it begins and ends */
  /* inside */
  rvl_grpc_decoder request;
  rvl_grpc_encoding encoding;
  bool accepted, is_post, is_grpc, bad_timeout, ending;
  size_t held;                  /* of what was received, not given back to the window */
  size_t counted;               /* its part of the budget */
  unsigned char prefix[RVL_GRPC_PREFIX];
  rvl_bytes copy;               /* a small message that is being sent */
  rvl_bytes details;            /* the value of grpc-message */
};

/* For a connection whose exchanges are these calls. */
extern const rvl_http2_server_events rvl_grpc_incoming_events;

/* Before its exchange is handed out by `begin`; the memory is zeroed, and the three functions are set. */
void rvl_grpc_incoming_begin(rvl_grpc_incoming *call, rvl_http2_server *http2, rvl_grpc_budget *budget,
                             size_t max_message);
/* The connection is lost, and the exchange has been taken away from it. */
void rvl_grpc_incoming_lose(rvl_grpc_incoming *call);
/* Breaks off what is not over. */
void rvl_grpc_incoming_free(rvl_grpc_incoming *call);

/* Somebody wants the request: only now the client may send more of it than a little. */
void rvl_grpc_incoming_accept(rvl_grpc_incoming *call);
/*
** The message of a request that is whole, for the caller to free; NULL: it has been taken, or it cannot be read (then
** the call is over). It counts until the call is freed.
*/
rvl_grpc_message *rvl_grpc_incoming_take(rvl_grpc_incoming *call);

/* Sends the headers now. */
void rvl_grpc_incoming_answer(rvl_grpc_incoming *call);
/* Sends a message; the one before must be out. `data` stays as it is until it is out, unless it is short. */
void rvl_grpc_incoming_send(rvl_grpc_incoming *call, const char *data, size_t length);
bool rvl_grpc_incoming_is_short(size_t length);
/* What is being sent may go away from now on: a copy is made of it. */
void rvl_grpc_incoming_keep(rvl_grpc_incoming *call);
/* Whether the last message is out. */
bool rvl_grpc_incoming_is_sent(const rvl_grpc_incoming *call);
/* Ends it, after the message that is being sent. Of several ends the first one counts. */
void rvl_grpc_incoming_finish(rvl_grpc_incoming *call, rvl_grpc_code status, const char *text, size_t length);
/* Ends it now, in the middle of a message if need be. */
void rvl_grpc_incoming_break(rvl_grpc_incoming *call, rvl_grpc_code status, const char *text);

#endif
