/*
** HTTP/1.1 answers, read piece by piece: bytes in, head and body out. Knows no sockets.
** Follows RFC 9112: status line, headers, then a body whose end is told by chunks, a length or the end of input.
*/
#ifndef RVL_HTTP1_H
#define RVL_HTTP1_H

#include "bytes.h"

#include <stdint.h>

typedef enum rvl_http1_state {
  RVL_HTTP1_HEAD,
  RVL_HTTP1_BODY,         /* `remaining` bytes of body, or of this chunk */
  RVL_HTTP1_BODY_TO_END,  /* until the connection closes */
  RVL_HTTP1_CHUNK_SIZE,
  RVL_HTTP1_CHUNK_END,
  RVL_HTTP1_TRAILERS,
  RVL_HTTP1_DONE,
  RVL_HTTP1_BAD           /* see `error` */
} rvl_http1_state;

typedef struct rvl_http1 {
  rvl_http1_state state;
  const char *error;      /* static text */
  size_t limit;           /* when BAD because a limit was passed: that limit; else 0 */
  bool no_body;           /* the answer to HEAD */
  bool upgrades;          /* 101 was asked for: it ends with its head. Off until it is set after rvl_http1_begin */
  bool keep_alive;        /* the connection can be used again */
  bool closes;            /* the server has said that this is its last answer */
  bool chunked;
  int minor;              /* HTTP/1.minor */
  int status;
  uint64_t remaining;
  size_t chunk_line;      /* bytes of the line with a chunk's size */
  unsigned digits;        /* of that size */
  char last;              /* the byte before, where that matters */
  size_t line;            /* where the line being read starts in `head` */
  size_t trailers;        /* where the trailers start in `head`; 0: none */
  size_t max_head, max_body;
  rvl_bytes head;         /* status line, headers and empty line, then trailers */
  rvl_bytes body;
} rvl_http1;

/* Gets ready for the next answer; the buffers keep their memory. */
void rvl_http1_begin(rvl_http1 *answer, bool no_body, size_t max_head, size_t max_body);

/* Takes bytes up to the end of the answer and says how many. false: no memory. */
bool rvl_http1_feed(rvl_http1 *answer, const char *data, size_t length, size_t *taken);

/* The connection has closed: DONE if that ends the body, else BAD. */
void rvl_http1_end(rvl_http1 *answer);

void rvl_http1_free(rvl_http1 *answer);

#endif
