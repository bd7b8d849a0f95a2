/*
** The sockets of a client: libuv watches them for libcurl (its multi-socket interface), http1_connection.c and
** duplex.c.
*/
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- SIGPIPE: some TLS libraries write without MSG_NOSIGNAL; a host must survive that ---------- */

rvl_pipe_guard rvl_pipe_guard_enter(const rvl_net *net) {
  rvl_pipe_guard g = {.active = net->tls};
  if (g.active) {
    sigset_t pending, block;
    sigpending(&pending);
    g.was_pending = sigismember(&pending, SIGPIPE) == 1;
    sigemptyset(&block);
    sigaddset(&block, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &block, &g.old);
  }
  return g;
}

void rvl_pipe_guard_leave(const rvl_pipe_guard *g) {
  if (!g->active) return;
  if (!g->was_pending) {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    while (sigtimedwait(&pipe, NULL, &(struct timespec){0, 0}) == -1 && errno == EINTR) {}
  }
  pthread_sigmask(SIG_SETMASK, &g->old, NULL);
}

void rvl_net_socket_action(rvl_net *net, curl_socket_t fd, int events) {
  int running;
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  net->curl->multi_socket_action(net->multi, fd, events, &running);
  rvl_pipe_guard_leave(&g);
}

/* ---- sockets ----------------------------------------------------------------------------------- */

static void free_watch(uv_handle_t *handle) { free(handle->data); }

rvl_watch *rvl_net_find_watch(const rvl_net *net, curl_socket_t fd) {
  return fd >= 0 && (size_t)fd < net->watch_room ? net->watches[fd] : NULL;
}

void rvl_net_drop_watch(rvl_net *net, rvl_watch *w) {
  net->watches[w->fd] = NULL;
  uv_close((uv_handle_t *)&w->poll, free_watch);
}

/*
** Python's own servers send an answer in several small segments with Nagle's algorithm on; each then waits for
** our delayed acknowledgement (40 ms). Acknowledge at once while more is to come: the option is not sticky.
*/
void rvl_net_acknowledge(curl_socket_t fd) {
#ifdef TCP_QUICKACK
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
#else
  (void)fd;
#endif
}

static void on_socket(uv_poll_t *poll, int status, int events) {
  rvl_watch *w = poll->data;
  rvl_net *net = w->net;
  curl_socket_t fd = w->fd;
  if (w->http1 != NULL) {
    rvl_http1_event(w->http1, status, events);
    return;
  }
  if (w->duplex != NULL) {
    rvl_duplex_event(w->duplex, status, events);
    return;
  }
  if (!w->wanted) {   /* the server closed an idle connection, or spoke unasked: libcurl finds out on reuse */
    uv_poll_stop(poll);
    w->events = 0;
    return;
  }
  int what = 0;
  if (status < 0) {
    what = CURL_CSELECT_ERR;
    w->events = 0;   /* libuv has stopped watching */
  } else {
    if (events & UV_READABLE) what |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) what |= CURL_CSELECT_OUT;
  }
  rvl_net_socket_action(net, fd, what);
  w = rvl_net_find_watch(net, fd);
  if (w != NULL && w->wanted && (what & CURL_CSELECT_IN)) rvl_net_acknowledge(fd);
  rvl_net_collect(net);
}

static rvl_watch *add_watch(rvl_net *net, curl_socket_t fd) {
  if ((size_t)fd >= net->watch_room) {
    size_t room = net->watch_room == 0 ? 64 : net->watch_room;
    while (room <= (size_t)fd) room *= 2;
    rvl_watch **grown = realloc(net->watches, room * sizeof *grown);
    if (grown == NULL) return NULL;
    memset(grown + net->watch_room, 0, (room - net->watch_room) * sizeof *grown);
    net->watches = grown;
    net->watch_room = room;
  }
  rvl_watch *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  w->net = net;
  w->fd = fd;
  w->poll.data = w;
  if (uv_poll_init_socket(&net->loop->uv, &w->poll, fd) != 0) {
    free(w);
    return NULL;
  }
  net->watches[fd] = w;
  return w;
}

bool rvl_net_watch_for(rvl_watch *w, int uv_events) {
  if (w->events == uv_events) return true;
  if (uv_poll_start(&w->poll, uv_events, on_socket) != 0) return false;
  w->events = uv_events;
  return true;
}

/*
** Whether the socket belongs to a connection that has been made: rvl_net_on_close will then tell when it goes. Sockets of
** attempts that were beaten to it are closed by libcurl without a word, before it asks to have them removed.
*/
static bool is_connected(rvl_watch *w, CURL *easy) {
  rvl_transfer *t = NULL;
  w->net->curl->easy_getinfo(easy, CURLINFO_PRIVATE, &t);
  if (t == NULL || t->connected == 0 || fcntl(w->fd, F_GETFD) == -1) return false;
  w->connected = true;
  w->opener = NULL;
  return true;
}

/* libcurl only waits to read: it may have sent a body that it had in one piece, and the next deadline is nearer. */
static void note_sent(const rvl_net *net, CURL *easy) {
  rvl_transfer *t = NULL;
  net->curl->easy_getinfo(easy, CURLINFO_PRIVATE, &t);
  if (t == NULL || !t->sending || t->connected == 0) return;
  rvl_net_look_at_upload(t);
  if (!t->sending) rvl_net_refresh_deadline(t);
}

/* libcurl wants a socket watched. Sockets of idle connections stay watched: two system calls less a request. */
int rvl_net_on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_data) {
  (void)socket_data;
  rvl_net *net = user;
  rvl_watch *w = rvl_net_find_watch(net, fd);
  if (what == CURL_POLL_REMOVE) {
    if (w != NULL && (w->connected || is_connected(w, easy))) w->wanted = false;
    else if (w != NULL) rvl_net_drop_watch(net, w);
    return 0;
  }
  if (w == NULL && (w = add_watch(net, fd)) == NULL) return -1;
  w->wanted = true;
  if (!(what & CURL_POLL_OUT)) note_sent(net, easy);
  int events = ((what & CURL_POLL_IN) ? UV_READABLE : 0) | ((what & CURL_POLL_OUT) ? UV_WRITABLE : 0);
  return rvl_net_watch_for(w, events) ? 0 : -1;
}

curl_socket_t rvl_net_on_open(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)purpose;
  rvl_transfer *t = user;
  if (t == NULL) return CURL_SOCKET_BAD;   /* parked: nobody wants the connection any more */
  rvl_net *net = t->net;
  t->opened = true;
  curl_socket_t fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (fd < 0) return CURL_SOCKET_BAD;
  rvl_watch *w = rvl_net_find_watch(net, fd);
  if (w != NULL) rvl_net_drop_watch(net, w);   /* of a socket that has been closed without a word */
  w = add_watch(net, fd);
  if (w == NULL) {
    close(fd);
    return CURL_SOCKET_BAD;
  }
  w->opener = t;
  return fd;
}

int rvl_net_on_close(void *user, curl_socket_t fd) {
  rvl_net *net = user;
  rvl_watch *w = rvl_net_find_watch(net, fd);
  if (w != NULL) rvl_net_drop_watch(net, w);
  return close(fd);
}

void rvl_net_on_curl_due(rvl_timer *timer) {
  rvl_net *net = (rvl_net *)(void *)((char *)timer - offsetof(rvl_net, timer));
  rvl_net_socket_action(net, CURL_SOCKET_TIMEOUT, 0);
  rvl_net_collect(net);
}

int rvl_net_on_curl_timer(CURLM *multi, long timeout_ms, void *user) {
  (void)multi;
  rvl_net *net = user;
  if (timeout_ms < 0) {
    rvl_timer_stop(net->loop, &net->timer);
    return 0;
  }
  return rvl_timer_start(net->loop, &net->timer, rvl_now() + (uint64_t)timeout_ms * 1000000u) ? 0 : -1;
}
