#include "http2_payload.h"

#include <stdlib.h>

#define MAX_SENT_FRAME (128u * 1024u)

ssize_t rvl_http2_payload_next(const rvl_http2_payload *p, size_t length, uint32_t *flags) {
  size_t left = p->head_length + p->body_length - p->sent;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (left <= length) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)(left < length ? left : length);
}

bool rvl_http2_payload_append(rvl_http2_payload *p, size_t length, rvl_bytes *out) {
  if (p->sent < p->head_length) {
    size_t left = p->head_length - p->sent, n = left < length ? left : length;
    if (!rvl_bytes_append(out, p->head + p->sent, n)) return false;
    p->sent += n;
    length -= n;
  }
  if (length == 0) return true;
  if (!rvl_bytes_append(out, p->body + (p->sent - p->head_length), length)) return false;
  p->sent += length;
  return true;
}

bool rvl_http2_payload_is_sent(const rvl_http2_payload *p) { return p->sent == p->head_length + p->body_length; }

ssize_t rvl_http2_read_length(nghttp2_session *session, uint8_t type, int32_t id, int32_t connection_window,
                              int32_t stream_window, uint32_t max_frame, void *user) {
  (void)session, (void)type, (void)id, (void)user;
  uint32_t n = max_frame < MAX_SENT_FRAME ? max_frame : MAX_SENT_FRAME;
  if (connection_window < (int32_t)n) n = (uint32_t)connection_window;
  if (stream_window < (int32_t)n) n = (uint32_t)stream_window;
  return (ssize_t)n;
}

nghttp2_nv *rvl_http2_values(const rvl_http2_header *headers, size_t count, nghttp2_nv *few, size_t room,
                             uint8_t flags) {
  nghttp2_nv *values = count <= room ? few : malloc(count * sizeof *values);
  for (size_t i = 0; values != NULL && i < count; i++) {
    const rvl_http2_header *from = &headers[i];
    uint8_t own = from->varies ? flags | NGHTTP2_NV_FLAG_NO_INDEX : flags;
    values[i] = (nghttp2_nv){(uint8_t *)(uintptr_t)from->name, (uint8_t *)(uintptr_t)from->value,
                             from->name_length, from->value_length, own};
  }
  return values;
}
