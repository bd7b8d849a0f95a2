#include "alpn.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef int set_protocols(void *context, const unsigned char *protocols, unsigned length);
typedef void get_selected(const void *ssl, const unsigned char **protocol, unsigned *length);

#define NEEDED "HTTP/2 over TLS needs a libcurl with OpenSSL as a shared library (package libcurl4)"

const char *rvl_alpn_check(const char *ssl_version) {
  const char *at = ssl_version != NULL ? ssl_version : "";
  while (*at == ' ' || *at == '(') at += *at == ' ' ? 1 : strcspn(at, " ");
  return strncmp(at, "OpenSSL", 7) == 0 ? NULL : NEEDED;
}

/* A function of the libssl that is there already; NULL: there is none. */
static void *look_up(const char *name) {
  static const char *const libraries[] = {"libssl.so.3", "libssl.so.1.1", "libssl.so"};
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) continue;
    void *symbol = dlsym(library, name);
    dlclose(library);   /* libcurl keeps it */
    if (symbol != NULL) return symbol;
  }
  return NULL;
}

const char *rvl_alpn_offer_h2(void *context) {
  static const unsigned char h2[] = {2, 'h', '2'};
  void *symbol = look_up("SSL_CTX_set_alpn_protos");
  set_protocols *set;
  if (symbol == NULL) return NEEDED;
  memcpy(&set, &symbol, sizeof symbol);
  return set(context, h2, sizeof h2) == 0 ? NULL : "out of memory";
}

bool rvl_alpn_is_h2(void *ssl) {
  void *symbol = look_up("SSL_get0_alpn_selected");
  get_selected *get;
  const unsigned char *protocol = NULL;
  unsigned length = 0;
  if (symbol == NULL) return false;
  memcpy(&get, &symbol, sizeof symbol);
  get(ssl, &protocol, &length);
  return length == 2 && memcmp(protocol, "h2", 2) == 0;
}
