/*
** What the two sides of HTTP/2 have in common: how bodies and headers are put out.
*/
#ifndef RVL_HTTP2_PAYLOAD_H
#define RVL_HTTP2_PAYLOAD_H

#include "http2.h"

#include <nghttp2/nghttp2.h>

/* For nghttp2: how much of a payload comes next, in at most `length` bytes, and whether that is its end. */
ssize_t rvl_http2_payload_next(const rvl_http2_payload *payload, size_t length, uint32_t *flags);
/* Puts so much of it behind `out`. false: no memory. */
bool rvl_http2_payload_append(rvl_http2_payload *payload, size_t length, rvl_bytes *out);
bool rvl_http2_payload_is_sent(const rvl_http2_payload *payload);

/* The longest frame of data that is sent: a callback of nghttp2. */
ssize_t rvl_http2_read_length(nghttp2_session *session, uint8_t type, int32_t id, int32_t connection_window,
                              int32_t stream_window, uint32_t max_frame, void *user);

/* Headers as nghttp2 wants them: `few` if they fit, or memory that is to be freed; NULL: there is none. */
nghttp2_nv *rvl_http2_values(const rvl_http2_header *headers, size_t count, nghttp2_nv *few, size_t room,
                             uint8_t flags);

#endif
