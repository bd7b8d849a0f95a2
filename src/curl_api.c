#include "curl_api.h"

#include <dlfcn.h>
#include <string.h>

#ifndef RVL_CURL_SONAME
#define RVL_CURL_SONAME "libcurl.so.4"
#endif

const char *rvl_curl_load(rvl_curl_api *api) {
  if (api->library != NULL) return NULL;
  void *library = dlopen(RVL_CURL_SONAME, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return RVL_CURL_SONAME " cannot be loaded; install the package libcurl4";
  void *symbol;
/* memcpy: ISO C has no cast from an object pointer to a function pointer */
#define RVL_CURL_LOOKUP(field, name) \
  symbol = dlsym(library, #name); \
  if (symbol == NULL) { \
    dlclose(library); \
    return RVL_CURL_SONAME " is too old: it lacks " #name; \
  } \
  memcpy(&api->field, &symbol, sizeof symbol);
  RVL_CURL_FUNCTIONS(RVL_CURL_LOOKUP)
#undef RVL_CURL_LOOKUP
  if (api->global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    dlclose(library);
    return "libcurl cannot be initialised";
  }
  /* never unloaded: its resolver threads may outlive the runtime that started them */
  api->library = library;
  return NULL;
}
