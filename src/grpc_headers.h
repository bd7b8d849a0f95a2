/* Headers of gRPC as they are given to HTTP/2; each function returns where the next one goes. */
#ifndef RVL_GRPC_HEADERS_H
#define RVL_GRPC_HEADERS_H

#include "grpc_status.h"
#include "http2.h"

rvl_http2_header *rvl_grpc_write_header(rvl_http2_header *to, const char *name, const char *value, size_t length,
                                        bool varies);
rvl_http2_header *rvl_grpc_write_text(rvl_http2_header *to, const char *name, const char *value);
/* `metadata` may be NULL: none. */
rvl_http2_header *rvl_grpc_write_metadata(rvl_http2_header *to, const rvl_grpc_metadata *metadata);

#endif
