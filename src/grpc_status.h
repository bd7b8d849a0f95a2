/*
** The small rules of gRPC over HTTP/2: status codes, metadata, texts in headers. Pure; no Lua, no sockets.
*/
#ifndef RVL_GRPC_STATUS_H
#define RVL_GRPC_STATUS_H

#include "bytes.h"

#include <stdint.h>

typedef enum rvl_grpc_code {
  RVL_GRPC_OK,
  RVL_GRPC_CANCELLED,
  RVL_GRPC_UNKNOWN,
  RVL_GRPC_INVALID_ARGUMENT,
  RVL_GRPC_DEADLINE_EXCEEDED,
  RVL_GRPC_NOT_FOUND,
  RVL_GRPC_ALREADY_EXISTS,
  RVL_GRPC_PERMISSION_DENIED,
  RVL_GRPC_RESOURCE_EXHAUSTED,
  RVL_GRPC_FAILED_PRECONDITION,
  RVL_GRPC_ABORTED,
  RVL_GRPC_OUT_OF_RANGE,
  RVL_GRPC_UNIMPLEMENTED,
  RVL_GRPC_INTERNAL,
  RVL_GRPC_UNAVAILABLE,
  RVL_GRPC_DATA_LOSS,
  RVL_GRPC_UNAUTHENTICATED
} rvl_grpc_code;

/* "UNAVAILABLE"; "UNKNOWN" for a number that is none. */
const char *rvl_grpc_code_name(int code);
/* The value of grpc-status; -1: it is none. Numbers without a meaning are UNKNOWN, as gRPC wants it. */
int rvl_grpc_read_status(const char *value, size_t length);
/* What stands for an HTTP status that came without a grpc-status. */
rvl_grpc_code rvl_grpc_code_of_http(int status);
/* What stands for the error code of a RST_STREAM. */
rvl_grpc_code rvl_grpc_code_of_reset(uint32_t error);

#define RVL_GRPC_TIMEOUT_SIZE 12
/* Writes the value of grpc-timeout, never less than `ns`; returns its length. */
size_t rvl_grpc_write_timeout(char out[RVL_GRPC_TIMEOUT_SIZE], uint64_t ns);
/* The value of grpc-timeout in nanoseconds (of centuries as many as fit); false: it is none. */
bool rvl_grpc_read_timeout(const char *value, size_t length, uint64_t *ns);

/* Appends what a percent-encoded text means; what is not encoded rightly stays as it is. false: no memory. */
bool rvl_grpc_append_decoded(rvl_bytes *out, const char *text, size_t length);
/* Appends a text as it is written into grpc-message, at most so many bytes of it: whole characters of UTF-8. */
bool rvl_grpc_append_encoded(rvl_bytes *out, const char *text, size_t length, size_t most);

bool rvl_grpc_is_binary(const char *name, size_t length);   /* ends in -bin */
/* Base64 with or without padding → `*written` bytes; `out` has room for `length`. false: it is none. */
bool rvl_grpc_from_base64(char *out, const char *text, size_t length, size_t *written);

/*
** Metadata and headers: names and values one behind the other. Zero-initialised: none.
*/
typedef struct rvl_grpc_metadata {
  rvl_bytes text;
  size_t count;
} rvl_grpc_metadata;

typedef struct rvl_grpc_header {
  const char *name, *value;
  size_t name_length, value_length;
} rvl_grpc_header;

/*
** Adds metadata to be sent: checks it, and encodes the bytes of a name that ends in -bin.
** NULL: done; else a static text that says what is wrong with it.
*/
const char *rvl_grpc_metadata_add(rvl_grpc_metadata *metadata, const char *name, size_t name_length,
                                  const char *value, size_t value_length);
/* Adds as it is. false: no memory. */
bool rvl_grpc_metadata_put(rvl_grpc_metadata *metadata, const char *name, size_t name_length, const char *value,
                           size_t value_length);
/* The next one (at first *at is 0); false: there is none. */
bool rvl_grpc_metadata_next(const rvl_grpc_metadata *metadata, size_t *at, rvl_grpc_header *header);
bool rvl_grpc_metadata_find(const rvl_grpc_metadata *metadata, const char *name, rvl_grpc_header *header);
void rvl_grpc_metadata_free(rvl_grpc_metadata *metadata);

#endif
