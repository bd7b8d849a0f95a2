#include "grpc_headers.h"

#include <string.h>

rvl_http2_header *rvl_grpc_write_header(rvl_http2_header *to, const char *name, const char *value, size_t length,
                                        bool varies) {
  *to = (rvl_http2_header){name, value, strlen(name), length, varies};
  return to + 1;
}

rvl_http2_header *rvl_grpc_write_text(rvl_http2_header *to, const char *name, const char *value) {
  return rvl_grpc_write_header(to, name, value, strlen(value), false);
}

rvl_http2_header *rvl_grpc_write_metadata(rvl_http2_header *to, const rvl_grpc_metadata *metadata) {
  rvl_grpc_header from;
  size_t at = 0;
  while (metadata != NULL && rvl_grpc_metadata_next(metadata, &at, &from))
    *to++ = (rvl_http2_header){from.name, from.value, from.name_length, from.value_length, false};
  return to;
}
