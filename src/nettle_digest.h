/* Nettle 4 took the length out of the functions that end a hash: they always give all of it. */
#ifndef RVL_NETTLE_DIGEST_H
#define RVL_NETTLE_DIGEST_H

#include <nettle/version.h>

/* `out` is an array of the size of the digest. */
#if NETTLE_VERSION_MAJOR >= 4
#define RVL_END_DIGEST(function, ctx, out) function(ctx, out)
#else
#define RVL_END_DIGEST(function, ctx, out) function(ctx, sizeof(out), out)
#endif

#endif
