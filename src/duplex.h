/*
** Bytes both ways over a connection that libcurl opened: directly, over TLS, a Unix socket or a tunnel through a proxy.
** Driven by the loop. No Lua, no protocol.
*/
#ifndef RVL_DUPLEX_H
#define RVL_DUPLEX_H

#include "transfer.h"

typedef struct rvl_duplex {
  /* for the owner */
  rvl_transfer opening;     /* first: how the connection came about, or what kept it from that */
  bool open;                /* it has, and has not been closed by the owner */
  bool ended;               /* the peer sends nothing more */
  bool broken;              /* nothing can be sent any more */
  bool reset;               /* it did not end as it should */
  bool prompt;              /* set by the owner: the peer does not wait for acknowledgements before it sends more */
  /* Takes bytes that came; may call rvl_duplex_read and rvl_duplex_write, nothing else. */
  void (*take)(struct rvl_duplex *duplex, const char *data, size_t length);
  /* Something above changed, or unsent bytes have gone out; may call the same. */
  void (*notify)(struct rvl_duplex *duplex);
  /* inside */
  void *easy;               /* libcurl's handle, which owns the connection */
  struct rvl_watch *watch;
  bool reading;             /* the owner has room for more */
  bool unwatched;           /* libuv has stopped watching a broken socket: what is left to read is read by `again` */
  rvl_timer again;          /* looks at the connection once more, without waiting for the socket */
  rvl_bytes out, next;      /* being sent, and queued behind: what TLS has begun to send must not move */
  size_t sent;              /* how much of `out` */
  struct rvl_duplex *previous, *following;
} rvl_duplex;

/*
** Opens a connection to where an http: or https: URL leads, within `connect` nanoseconds (0: no limit). `duplex` is
** zero-initialised memory of the caller's, to be closed before it goes, `take` and `notify` are set, and the URL lives
** until then. Ready when `open`; failed when opening.phase is RVL_DONE and it is not. false: failed at once.
*/
bool rvl_duplex_open(rvl_net *net, rvl_duplex *duplex, const char *url, uint64_t connect);

/* Queues bytes, and sends what goes out at once. false: no memory. */
bool rvl_duplex_write(rvl_duplex *duplex, const char *data, size_t length);
/* The same with a whole buffer, which is empty afterwards. */
bool rvl_duplex_give(rvl_duplex *duplex, rvl_bytes *bytes);
size_t rvl_duplex_unsent(const rvl_duplex *duplex);
/* Whether `take` wants more; at first it does. */
void rvl_duplex_read(rvl_duplex *duplex, bool reading);
/* Looks now whether something has come, or the connection has ended, without waiting for the loop; no notify. */
void rvl_duplex_look(rvl_duplex *duplex);
/* Ends it whatever it is doing, and frees everything. */
void rvl_duplex_close(rvl_duplex *duplex);

#endif
