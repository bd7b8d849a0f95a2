/*
** libcurl, loaded when the first transfer starts: its 34 shared objects would triple the start-up time
** of a script that never touches the network.
*/
#ifndef RVL_CURL_API_H
#define RVL_CURL_API_H

#include "transfer.h"

#include <curl/curl.h>

/* The functions in use: X(field, symbol). */
#define RVL_CURL_FUNCTIONS(X) \
  X(global_init, curl_global_init) \
  X(version_info, curl_version_info) \
  X(slist_append, curl_slist_append) \
  X(url, curl_url) \
  X(url_set, curl_url_set) \
  X(url_cleanup, curl_url_cleanup) \
  X(slist_free_all, curl_slist_free_all) \
  X(easy_init, curl_easy_init) \
  X(easy_cleanup, curl_easy_cleanup) \
  X(easy_reset, curl_easy_reset) \
  X(easy_setopt, curl_easy_setopt) \
  X(easy_getinfo, curl_easy_getinfo) \
  X(easy_pause, curl_easy_pause) \
  X(easy_send, curl_easy_send) \
  X(easy_recv, curl_easy_recv) \
  X(easy_strerror, curl_easy_strerror) \
  X(multi_init, curl_multi_init) \
  X(multi_cleanup, curl_multi_cleanup) \
  X(multi_setopt, curl_multi_setopt) \
  X(multi_add_handle, curl_multi_add_handle) \
  X(multi_remove_handle, curl_multi_remove_handle) \
  X(multi_socket_action, curl_multi_socket_action) \
  X(multi_info_read, curl_multi_info_read)

/* curl.h hides some functions behind checking macros; a pointer to the function needs the name alone. */
#undef curl_easy_setopt
#undef curl_easy_getinfo
#undef curl_multi_setopt

struct rvl_curl_api {
#define RVL_CURL_FIELD(field, symbol) __typeof__(&symbol) field;
  RVL_CURL_FUNCTIONS(RVL_CURL_FIELD)
#undef RVL_CURL_FIELD
};

#endif
