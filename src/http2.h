/*
** One HTTP/2 connection as its client sees it: bytes in, bytes out; nghttp2 does the framing. No sockets, no Lua.
*/
#ifndef RVL_HTTP2_H
#define RVL_HTTP2_H

#include "bytes.h"

#include <stdint.h>

#define RVL_HTTP2_NO_ERROR 0u
#define RVL_HTTP2_PROTOCOL_ERROR 1u
#define RVL_HTTP2_INTERNAL_ERROR 2u
#define RVL_HTTP2_CANCEL 8u
#define RVL_HTTP2_ENHANCE_YOUR_CALM 11u

typedef struct rvl_http2 rvl_http2;

/* A body to be sent, in two pieces of its owner's. */
typedef struct rvl_http2_payload {
  const char *head, *body;
  size_t head_length, body_length, sent;
} rvl_http2_payload;

/* A request and its answer; lives in its owner's memory. */
typedef struct rvl_http2_stream {
  int32_t id;               /* 0: not open */
  bool body_sent;           /* all of it */
  bool answered;            /* the server has said all */
  rvl_http2_payload payload;
} rvl_http2_stream;

typedef enum rvl_http2_end {
  RVL_HTTP2_RESET,          /* by the server, with an error code */
  RVL_HTTP2_REFUSED,        /* by the server: nothing has been done about it */
  RVL_HTTP2_UNSEEN          /* the server goes away and has not looked at it */
} rvl_http2_end;

/*
** What happens to a stream. They may call rvl_http2_reset, rvl_http2_consume and rvl_http2_ping, nothing else. A stream
** that was reset hears nothing more; a stream that ended is open until its body is sent, and then gone without a word.
*/
typedef struct rvl_http2_events {
  void (*header)(rvl_http2_stream *stream, const char *name, size_t name_length, const char *value,
                 size_t value_length);
  void (*headers)(rvl_http2_stream *stream, bool ended);   /* a block of them is over */
  void (*data)(rvl_http2_stream *stream, const char *data, size_t length);
  void (*ended)(rvl_http2_stream *stream);                 /* behind data, without trailers */
  void (*overflow)(rvl_http2_stream *stream);              /* headers that are too large; the stream is still there */
  void (*closed)(rvl_http2_stream *stream, rvl_http2_end end, uint32_t error);
} rvl_http2_events;

typedef struct rvl_http2_state {
  bool settings;            /* the server's have come */
  bool going;               /* the server takes no new streams, or there are no ids left for them */
  uint32_t going_error;
  bool too_many_pings;      /* that is why */
  unsigned streams;         /* open ones */
  bool failed;              /* nothing more can be done with the connection */
  const char *why;          /* static */
} rvl_http2_state;

typedef struct rvl_http2_header {
  const char *name, *value;
  size_t name_length, value_length;
  bool varies;              /* not worth to be remembered by the compression */
} rvl_http2_header;

/* NULL: no memory. `events` must outlive it. */
rvl_http2 *rvl_http2_new(const rvl_http2_events *events);
/* Streams that are open hear nothing. */
void rvl_http2_free(rvl_http2 *http2);
const rvl_http2_state *rvl_http2_state_of(const rvl_http2 *http2);

/* Takes what the server sent; false: see `failed`. */
bool rvl_http2_feed(rvl_http2 *http2, const char *data, size_t length);
/* Puts what is to be sent behind `output`, until that holds about `room` bytes; false: see `failed`. */
bool rvl_http2_fill(rvl_http2 *http2, size_t room);
rvl_bytes *rvl_http2_output(rvl_http2 *http2);

/* Whether the server takes one more stream now. */
bool rvl_http2_has_room(const rvl_http2 *http2);
/* Opens a stream; its headers are in `output` afterwards, the body follows with rvl_http2_fill. false: it could not. */
bool rvl_http2_open(rvl_http2 *http2, rvl_http2_stream *stream, const rvl_http2_header *headers, size_t count);
/* Ends a stream: nothing more is sent but the reset, nothing more is heard. */
void rvl_http2_reset(rvl_http2 *http2, rvl_http2_stream *stream, uint32_t error);
/* Lets the server send so much more on the stream. */
void rvl_http2_consume(rvl_http2 *http2, const rvl_http2_stream *stream, size_t length);
bool rvl_http2_ping(rvl_http2 *http2);
/* Says goodbye, for the next fill. */
void rvl_http2_go(rvl_http2 *http2);
const char *rvl_http2_error_name(uint32_t error);

#endif
