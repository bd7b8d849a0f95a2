#include "wslay_api.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#ifndef RVL_WSLAY_SONAME
#define RVL_WSLAY_SONAME "libwslay.so.1"
#endif

static const char *load(rvl_wslay_api *api) {
  void *library = dlopen(RVL_WSLAY_SONAME, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == NULL) return RVL_WSLAY_SONAME " cannot be loaded";
  void *symbol;
/* memcpy: ISO C has no cast from an object pointer to a function pointer */
#define RVL_WSLAY_LOOKUP(field, name) \
  symbol = dlsym(library, #name); \
  if (symbol == NULL) return RVL_WSLAY_SONAME " is too old: it lacks " #name; \
  memcpy(&api->field, &symbol, sizeof symbol);
  RVL_WSLAY_FUNCTIONS(RVL_WSLAY_LOOKUP)
#undef RVL_WSLAY_LOOKUP
  return NULL;
}

rvl_wslay_api *rvl_wslay_open(const char **why) {
  rvl_wslay_api *api = calloc(1, sizeof *api);
  *why = api == NULL ? "not enough memory" : load(api);
  if (*why == NULL) return api;
  free(api);
  return NULL;
}

void rvl_wslay_close(rvl_wslay_api *wslay) { free(wslay); }
