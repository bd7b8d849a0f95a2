/*
** "h2" for TLS connections that libcurl opens but does not speak HTTP on: it would offer what it speaks itself. Works
** on the OpenSSL that libcurl has loaded.
*/
#ifndef RVL_ALPN_H
#define RVL_ALPN_H

#include <stdbool.h>

/* Lets the connections of an SSL_CTX offer h2 alone. NULL: done; else a static text that says why not. */
const char *rvl_alpn_offer_h2(void *context);
/* Whether the server has agreed to it; `ssl`: an SSL, after the handshake. */
bool rvl_alpn_is_h2(void *ssl);

#endif
