/*
** libwslay, loaded when the first WebSocket is opened: most scripts never need it.
*/
#ifndef RVL_WSLAY_API_H
#define RVL_WSLAY_API_H

#include <wslay/wslay.h>

/* The functions in use: X(field, symbol). */
#define RVL_WSLAY_FUNCTIONS(X) \
  X(frame_context_init, wslay_frame_context_init) \
  X(frame_context_free, wslay_frame_context_free) \
  X(frame_send, wslay_frame_send) \
  X(frame_recv, wslay_frame_recv)

typedef struct rvl_wslay_api {
#define RVL_WSLAY_FIELD(field, symbol) __typeof__(&symbol) field;
  RVL_WSLAY_FUNCTIONS(RVL_WSLAY_FIELD)
#undef RVL_WSLAY_FIELD
} rvl_wslay_api;

/* Loads libwslay; NULL: it cannot be used, and the static text `*why` says why not. */
rvl_wslay_api *rvl_wslay_open(const char **why);
void rvl_wslay_close(rvl_wslay_api *wslay);

#endif
