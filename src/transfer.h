/*
** HTTP transfers over libcurl's multi-socket interface, driven by the loop. Bytes and deadlines only:
** no Lua, no policy (redirects, retries and meaning are decided above).
*/
#ifndef RVL_TRANSFER_H
#define RVL_TRANSFER_H

#include "bytes.h"
#include "headers.h"
#include "loop.h"

/* libcurl itself; see curl_api.h, which only transfer.c and its neighbours include. */
typedef struct rvl_curl_api rvl_curl_api;

/* Loads libcurl; NULL: it cannot be used, and the static text `*why` says why not. */
rvl_curl_api *rvl_curl_open(const char **why);
void rvl_curl_close(rvl_curl_api *curl);
const char *rvl_curl_version(const rvl_curl_api *curl);

#define RVL_MESSAGE_SIZE 256

/* What went wrong with a transfer, in the words of riverlua.errors. */
typedef enum rvl_failure {
  RVL_NO_FAILURE,
  RVL_FAIL_DNS,
  RVL_FAIL_CONNECT,
  RVL_FAIL_TLS,
  RVL_FAIL_TIMEOUT,
  RVL_FAIL_PROTOCOL,
  RVL_FAIL_LIMIT,
  RVL_FAIL_ARGUMENT,
  RVL_FAIL_MEMORY,
  RVL_FAIL_UNSUPPORTED,
  RVL_FAIL_CANCELLED
} rvl_failure;

/* The word itself; see lua_transfer.c */
const char *rvl_failure_kind(rvl_failure failure);

typedef enum rvl_http_version { RVL_HTTP_AUTO, RVL_HTTP_1_1, RVL_HTTP_2, RVL_HTTP_2_PRIOR } rvl_http_version;

/* How all transfers of a client are made. */
typedef struct rvl_profile {
  const char *proxy;       /* NULL: from the environment; "": none */
  const char *ca_file;     /* NULL: the system's */
  const char *unix_socket; /* NULL: TCP */
  rvl_http_version http_version;
  bool verify;
  bool decompress;
  bool plain_http1;        /* short requests to http: addresses go over HTTP/1.1 connections of our own */
  bool alpn_h2;            /* TLS connections of duplex.c are for HTTP/2, which the server must agree to */
} rvl_profile;

/*
** Requests over one connection, each sent without waiting for the answers to those before it. Zero-initialised memory
** of the caller's; to be closed before it goes. Works where `plain_http1` does; elsewhere it never gets ready.
*/
typedef struct rvl_pipeline {
  struct rvl_http1_connection *connection;   /* NULL: none yet, or lost */
  bool proven;             /* the server kept it open after an answer */
} rvl_pipeline;

/* One request. Everything pointed to must live until the transfer is freed. Times in ns; 0: no limit. */
typedef struct rvl_request {
  const char *url;
  const char *method;
  const rvl_headers *headers;
  const char *body;        /* NULL: none, unless stream_body */
  size_t body_length;
  bool repeatable;         /* a server that gets it twice does no harm */
  rvl_pipeline *pipeline;  /* to be sent behind its other requests; NULL: for itself */
  struct rvl_duplex *duplex;   /* no request at all: the connection is for this one; NULL: a request */
  bool stream_body;        /* the body comes through rvl_transfer_write */
  int64_t stream_length;   /* its length, or -1 */
  bool stream;             /* the answer is read while it arrives, with back-pressure */
  size_t max_body;         /* largest answer, after decompression */
  size_t high_water;       /* bytes buffered of a streamed answer before the sender must wait */
  uint64_t connect, first_byte, idle, total;
} rvl_request;

typedef enum rvl_phase { RVL_CONNECTING, RVL_SENT, RVL_HEADERS, RVL_DONE } rvl_phase;

/* Parts of an http: URL that needs no cleaning up; the target may be empty or begin with '?'. */
typedef struct rvl_plain_address {
  const char *origin, *target;
  size_t origin_length;
} rvl_plain_address;

typedef struct rvl_net rvl_net;

typedef struct rvl_transfer {
  /* for the owner */
  rvl_phase phase;         /* RVL_SENT: the server may have acted on the request */
  rvl_failure failure;
  const char *timed_out;   /* for RVL_FAIL_TIMEOUT: "connect", "first_byte", "idle", "total" */
  uint64_t limit;          /* the deadline or size that was passed */
  const char *reason;      /* what failed, in our own words (static), or NULL: in libcurl's, in `message` */
  char message[RVL_MESSAGE_SIZE];
  long status;
  long http_version;       /* 10, 11, 20, 30; 0 unknown */
  bool complete_head;      /* `head` and `status` are those of the final answer */
  bool reused;             /* sent on a connection that was already open */
  bool lost;               /* sent on one that was lost, and begun again: the server may have acted on it */
  rvl_bytes head;          /* status line and headers of the final answer, then any trailers */
  size_t trailers;         /* where the trailers start in `head`; 0: none */
  rvl_bytes body;
  size_t body_read;        /* how much of `body` the owner has taken */
  rvl_bytes upload;        /* bytes of a streamed request body still to be sent */
  bool upload_ended;
  uint64_t started, ended;
  uint64_t opening;        /* when its connection began to be opened */
  uint64_t connected;      /* 0: nothing of the request has been sent */
  void (*notify)(struct rvl_transfer *transfer);  /* something above changed; must not call back in */
  /* inside */
  rvl_net *net;
  void *easy;              /* libcurl's handle */
  rvl_request request;
  struct rvl_parsed_url *url;
  struct rvl_http1_connection *http1;
  rvl_plain_address address;   /* when plain */
  struct rvl_transfer *following;   /* the one whose answer comes next on this connection */
  uint64_t request_begin, request_end;   /* where its request stands among all bytes sent on this connection */
  uint64_t turn;           /* when its answer became the next to come, if it had to wait for others; else 0 */
  bool queued;             /* waits for others: no deadline of its own */
  rvl_timer timer;
  uint64_t heard;
  size_t upload_sent, body_total;
  bool plain;              /* over http1_connection.c */
  bool opened, sending, receiving, send_paused, receive_paused;
  struct rvl_transfer *previous, *next;
} rvl_transfer;

typedef struct rvl_net_stats {
  uint64_t requests, connections, reused;
  unsigned in_flight;
} rvl_net_stats;

/*
** One client's connections. The texts of `profile`, the loop and `curl` must outlive it. NULL: no memory.
*/
rvl_net *rvl_net_new(rvl_loop *loop, const rvl_curl_api *curl, const rvl_profile *profile);
/* Cancels what is under way, closes the connections and frees everything. */
void rvl_net_free(rvl_net *net);
const rvl_net_stats *rvl_net_stats_of(const rvl_net *net);

/* `transfer` is zero-initialised memory of the caller's. false: failed at once, see failure and message. */
bool rvl_transfer_start(rvl_net *net, rvl_transfer *transfer, const rvl_request *request,
                        void (*notify)(rvl_transfer *));
/* Whether another request may be sent behind those under way; if not, the next one opens a connection. */
bool rvl_pipeline_is_ready(const rvl_pipeline *pipeline);
void rvl_pipeline_close(rvl_pipeline *pipeline);

/* Appends to a streamed request body; false: no memory. */
bool rvl_transfer_write(rvl_transfer *transfer, const char *data, size_t length);
void rvl_transfer_end_body(rvl_transfer *transfer);
size_t rvl_transfer_unsent(const rvl_transfer *transfer);
/* Marks `length` bytes of `body` as taken; lets a paused sender go on. */
void rvl_transfer_consume(rvl_transfer *transfer, size_t length);
/* Gives the memory of a finished answer back. */
void rvl_transfer_drop_body(rvl_transfer *transfer);
/* Ends it (RVL_FAIL_CANCELLED) unless it is done. Never waits for a name being resolved. */
void rvl_transfer_cancel(rvl_transfer *transfer);
/* Frees the buffers; cancels first when needed. */
void rvl_transfer_free(rvl_transfer *transfer);

#endif
