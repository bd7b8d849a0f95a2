/*
** The messages in the body of a gRPC request or answer: each with five bytes before it. Pure.
*/
#ifndef RVL_GRPC_MESSAGE_H
#define RVL_GRPC_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RVL_GRPC_PREFIX 5

typedef struct rvl_grpc_message {
  struct rvl_grpc_message *next;
  size_t length;
  bool compressed;
  char data[];
} rvl_grpc_message;

typedef enum rvl_grpc_verdict {
  RVL_GRPC_GOOD,
  RVL_GRPC_TOO_LARGE,
  RVL_GRPC_COMPRESSED,    /* or otherwise not as it was agreed */
  RVL_GRPC_NO_MEMORY,
  RVL_GRPC_DAMAGED        /* what is compressed cannot be inflated */
} rvl_grpc_verdict;

/* Zero-initialise but for the first two. */
typedef struct rvl_grpc_decoder {
  size_t max_message;
  bool takes_compressed;
  rvl_grpc_message *first, **last;   /* the whole messages, oldest first */
  size_t queued;            /* what it takes to keep them, in bytes */
  size_t count;             /* how many there have been */
  /* inside */
  unsigned char prefix[RVL_GRPC_PREFIX];
  unsigned prefix_length;
  size_t wanted, room;      /* of the message that is coming in */
  rvl_grpc_message *partial;
} rvl_grpc_decoder;

/* Takes bytes. After a verdict that is not good nothing more may be fed. */
rvl_grpc_verdict rvl_grpc_decoder_feed(rvl_grpc_decoder *decoder, const char *data, size_t length);
/* Whether it ended between messages. */
bool rvl_grpc_decoder_is_clean(const rvl_grpc_decoder *decoder);
/* The oldest message, which the caller frees with free(); NULL: none. */
rvl_grpc_message *rvl_grpc_decoder_take(rvl_grpc_decoder *decoder);
/* Frees what has come of a message that is not whole; nothing more may be fed. */
void rvl_grpc_decoder_cut(rvl_grpc_decoder *decoder);
void rvl_grpc_decoder_free(rvl_grpc_decoder *decoder);
/* Replaces a compressed message (gzip or zlib) by what it unfolds to, which is at most so long. */
rvl_grpc_verdict rvl_grpc_message_inflate(rvl_grpc_message **message, size_t most);
/* Writes what goes before a message. */
void rvl_grpc_write_prefix(unsigned char out[RVL_GRPC_PREFIX], size_t length);

#endif
