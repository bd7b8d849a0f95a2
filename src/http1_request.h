/*
** HTTP/1.1 requests, read piece by piece: bytes in, head and body out. Knows no sockets. The other side of http1.h.
** Follows RFC 9112 strictly: what two readers could take for different requests is refused, not repaired.
*/
#ifndef RVL_HTTP1_REQUEST_H
#define RVL_HTTP1_REQUEST_H

#include "bytes.h"

#include <stdint.h>

typedef enum rvl_http1_request_state {
  RVL_HTTP1_REQUEST_LINE,
  RVL_HTTP1_REQUEST_HEADERS,
  RVL_HTTP1_REQUEST_BODY,        /* `remaining` bytes of it */
  RVL_HTTP1_REQUEST_CHUNK_SIZE,
  RVL_HTTP1_REQUEST_CHUNK,       /* `remaining` bytes of it */
  RVL_HTTP1_REQUEST_CHUNK_END,
  RVL_HTTP1_REQUEST_TRAILERS,
  RVL_HTTP1_REQUEST_DONE,
  RVL_HTTP1_REQUEST_BAD          /* see `status` and `error` */
} rvl_http1_request_state;

typedef struct rvl_http1_limits {
  size_t target;             /* bytes of the request target */
  size_t head;               /* bytes of request line, headers and trailers together */
  size_t headers;            /* how many */
  size_t body;               /* bytes, without the framing of chunks */
} rvl_http1_limits;

typedef struct rvl_http1_request {
  rvl_http1_request_state state;
  int status;                /* what to answer when it is bad */
  const char *error;         /* static */
  int minor;                 /* HTTP/1.<minor>: 0 or 1 */
  bool keep_alive;           /* the client may send another request */
  bool expects_continue;     /* it waits for "100 Continue" before it sends the body */
  bool has_body;
  size_t method_length;      /* from the start of `head` */
  size_t target, target_length;
  size_t headers, headers_length; /* the header lines in `head`, each with its line end */
  rvl_bytes head, body;
  /* inside */
  rvl_http1_limits limits;
  size_t line;               /* where the line being read starts in `head` */
  size_t header_count, empty_lines, extra;
  unsigned digits;
  char last;                 /* of the line with a chunk's size */
  uint64_t remaining;
  unsigned hosts, lengths, codings;
  bool chunked, unknown_coding, bad_length, close, persist, bad_expectation;
} rvl_http1_request;

/* Starts over; keeps the memory. Zero-initialise before the first call. */
void rvl_http1_request_begin(rvl_http1_request *request, const rvl_http1_limits *limits);

/*
** Takes bytes until the request has ended or is bad; `*taken` says how many. However the bytes are cut, the outcome
** is the same. false: no memory.
*/
bool rvl_http1_request_feed(rvl_http1_request *request, const char *data, size_t length, size_t *taken);

/* Whether nothing of it has come yet but empty lines. */
bool rvl_http1_request_is_fresh(const rvl_http1_request *request);

void rvl_http1_request_free(rvl_http1_request *request);

#endif
