/*
** "h2" for TLS connections that libcurl opens but does not speak HTTP on: it would offer what it speaks itself. Works
** on the OpenSSL that libcurl has loaded.
*/
#ifndef RVL_ALPN_H
#define RVL_ALPN_H

#include <stdbool.h>

/*
** Whether h2 can be had from a libcurl whose TLS is `ssl_version`, as it says itself: "OpenSSL/3.0.17". Of several the
** one that it uses is the one without parentheses: "(GnuTLS/3.7.9) OpenSSL/3.0.17". NULL: it can; else a static text.
** What follows is only for such a libcurl.
*/
const char *rvl_alpn_check(const char *ssl_version);
/* Lets the connections of an SSL_CTX offer h2 alone. NULL: done; else a static text that says why not. */
const char *rvl_alpn_offer_h2(void *context);
/* Whether the server has agreed to it; `ssl`: an SSL, after the handshake. */
bool rvl_alpn_is_h2(void *ssl);

#endif
