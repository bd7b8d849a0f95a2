/* The headers of requests, as libcurl takes them and as they go over the wire. */
#ifndef RVL_HEADERS_H
#define RVL_HEADERS_H

#include "bytes.h"

struct rvl_curl_api;

/* Zero-initialise but for `curl`, which must outlive it. Several requests may share one. */
typedef struct rvl_headers {
  const struct rvl_curl_api *curl;
  struct curl_slist *list;
  rvl_bytes text;          /* "Name: value\r\n"… */
  bool frames;             /* holds headers that say how the message is sent: only libcurl knows what to do */
} rvl_headers;

/* Adds "Name: value", "Name;" (an empty value) or "Name:" (not to be sent); no line breaks. false: no memory. */
bool rvl_headers_add(rvl_headers *headers, const char *line);
void rvl_headers_free(rvl_headers *headers);

#endif
