#include "curl_api.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#ifndef RVL_CURL_SONAME
#define RVL_CURL_SONAME "libcurl.so.4"
#endif

/* Never unloaded: its resolver threads may outlive the runtime that started them. */
static const char *load(rvl_curl_api *api) {
  void *library = dlopen(RVL_CURL_SONAME, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == NULL) return RVL_CURL_SONAME " cannot be loaded; install the package libcurl4";
  void *symbol;
/* memcpy: ISO C has no cast from an object pointer to a function pointer */
#define RVL_CURL_LOOKUP(field, name) \
  symbol = dlsym(library, #name); \
  if (symbol == NULL) return RVL_CURL_SONAME " is too old: it lacks " #name; \
  memcpy(&api->field, &symbol, sizeof symbol);
  RVL_CURL_FUNCTIONS(RVL_CURL_LOOKUP)
#undef RVL_CURL_LOOKUP
  return api->global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? NULL : "libcurl cannot be initialised";
}

rvl_curl_api *rvl_curl_open(const char **why) {
  rvl_curl_api *api = calloc(1, sizeof *api);
  *why = api == NULL ? "not enough memory" : load(api);
  if (*why == NULL) return api;
  free(api);
  return NULL;
}

void rvl_curl_close(rvl_curl_api *api) { free(api); }

const char *rvl_curl_version(const rvl_curl_api *api) { return api->version_info(CURLVERSION_NOW)->version; }
