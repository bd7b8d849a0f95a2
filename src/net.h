/*
** What transfer.c (libcurl's transfers), net_watch.c (sockets), http1_connection.c (plain HTTP/1.1) and duplex.c
** (connections without HTTP) share.
*/
#ifndef RVL_NET_H
#define RVL_NET_H

#include "curl_api.h"
#include "http1.h"
#include "transfer.h"

#include <signal.h>

#define RVL_MAX_HEAD (256u * 1024u)
#define RVL_MAX_POOLED 64
#define RVL_MAX_URLS 16

typedef struct rvl_http1_connection rvl_http1_connection;

/* A socket that libuv watches. */
typedef struct rvl_watch {
  uv_poll_t poll;
  rvl_net *net;
  curl_socket_t fd;
  int events;      /* what libuv watches for; 0: stopped */
  bool wanted;     /* libcurl waits for it; otherwise it belongs to an idle connection */
  bool connected;  /* on_close will tell when it goes; libcurl closes others without a word */
  rvl_transfer *opener;          /* until connected: who it was opened for */
  rvl_http1_connection *http1;   /* not libcurl's any more */
  struct rvl_duplex *duplex;     /* the same */
} rvl_watch;

/*
** A transfer whose owner gave up while its name was being resolved. Removing it would wait for the resolver,
** so it stays until the resolver answers; its socket is then refused.
*/
typedef struct rvl_parked {
  struct rvl_parked *next;
  CURL *easy;
} rvl_parked;

/* A parsed URL: a client asks for the same few addresses again and again. */
typedef struct rvl_parsed_url {
  CURLU *handle;
  char *text;
  unsigned users;           /* transfers under way */
} rvl_parsed_url;

struct rvl_net {
  rvl_loop *loop;
  const rvl_curl_api *curl;
  rvl_profile profile;
  CURLM *multi;
  rvl_timer timer;          /* libcurl's own */
  rvl_watch **watches;          /* by file descriptor */
  size_t watch_room;
  CURL *pool[RVL_MAX_POOLED];   /* handles that are set up and wait for their next transfer */
  size_t pool_count;
  rvl_parsed_url urls[RVL_MAX_URLS];
  unsigned url_hand;        /* where the search for a place starts */
  rvl_transfer *transfers;
  rvl_parked *parked;
  rvl_http1_connection *http1_idle;      /* plain connections that wait for a request, last used first */
  unsigned http1_idle_count;
  struct rvl_duplex *duplexes;           /* those that are open */
  rvl_net_stats stats;
  bool tls;
};

/* in transfer.c */
/* Notes the first thing that goes wrong; `reason`: static text, or NULL when libcurl has said it. */
void rvl_net_fail(rvl_transfer *transfer, rvl_failure failure, const char *reason);
void rvl_net_finish(rvl_transfer *transfer);
void rvl_net_unlink(rvl_transfer *transfer);
void rvl_net_refresh_deadline(rvl_transfer *transfer);
/* Hands finished transfers to their owners. */
void rvl_net_collect(rvl_net *net);
/* How far libcurl is with a body that it has in one piece. */
void rvl_net_look_at_upload(rvl_transfer *transfer);
/* Opens a connection for the transfer through libcurl; ends in rvl_http1_adopt, rvl_duplex_adopt or a failure. */
bool rvl_net_connect(rvl_transfer *transfer);
/* Closes a connection that libcurl opened for us. */
void rvl_net_disconnect(rvl_net *net, CURL *easy);

/* in net_watch.c */
/* Around what may write without MSG_NOSIGNAL. */
typedef struct rvl_pipe_guard {
  sigset_t old;
  bool was_pending, active;
} rvl_pipe_guard;
rvl_pipe_guard rvl_pipe_guard_enter(const rvl_net *net);
void rvl_pipe_guard_leave(const rvl_pipe_guard *guard);
/* Lets libcurl look at a socket, or at its timers. */
void rvl_net_socket_action(rvl_net *net, curl_socket_t fd, int events);
bool rvl_net_watch_for(rvl_watch *watch, int uv_events);
rvl_watch *rvl_net_find_watch(const rvl_net *net, curl_socket_t fd);
void rvl_net_drop_watch(rvl_net *net, rvl_watch *watch);
void rvl_net_acknowledge(curl_socket_t fd);
/* libcurl's callbacks about sockets and its timer. */
int rvl_net_on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_data);
curl_socket_t rvl_net_on_open(void *user, curlsocktype purpose, struct curl_sockaddr *address);
int rvl_net_on_close(void *user, curl_socket_t fd);
int rvl_net_on_curl_timer(CURLM *multi, long timeout_ms, void *user);
void rvl_net_on_curl_due(rvl_timer *timer);

/* in http1_connection.c */
/* Whether the request can go over a plain HTTP/1.1 connection of our own; reads its address. */
bool rvl_http1_suits(rvl_transfer *transfer);
/* Methods that send a length even without a body. */
bool rvl_http1_expects_body(const char *method);
/* Sends the request on an idle connection, or opens one. */
bool rvl_http1_start(rvl_transfer *transfer);
/* Takes over the connection that `easy` opened, and sends the request. */
void rvl_http1_adopt(rvl_transfer *transfer, CURL *easy);
void rvl_http1_event(rvl_http1_connection *connection, int status, int uv_events);
/* The transfer is given up: its connection cannot be used again. */
void rvl_http1_abandon(rvl_transfer *transfer);
void rvl_http1_close_all(rvl_net *net);

/* in duplex.c */
/* Takes over the connection that `easy` opened; the transfer is over. */
void rvl_duplex_adopt(rvl_transfer *transfer, CURL *easy);
void rvl_duplex_event(struct rvl_duplex *duplex, int status, int uv_events);
void rvl_duplex_close_all(rvl_net *net);

#endif
