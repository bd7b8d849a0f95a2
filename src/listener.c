#include "listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define READ_SIZE 16384u
#define READS_AT_ONCE 16             /* so that one fast client does not starve the others */
#define READ_AHEAD (256u * 1024u)
#define HOLD_AT_MOST (32u * 1024u)
#define KEPT_ROOM (64u * 1024u)      /* larger buffers are given back when they are empty */

/* ---- sockets ------------------------------------------------------------------------------------------ */

static void free_poll(uv_handle_t *handle) { free(handle); }

/* Takes the descriptor over, also when it fails. */
static int watch(rvl_socket *s, rvl_loop *loop, int fd, void *owner) {
  uv_poll_t *poll = malloc(sizeof *poll);
  int err = poll == NULL ? UV_ENOMEM : uv_poll_init_socket(&loop->uv, poll, fd);
  if (err != 0) {
    free(poll);
    close(fd);
    s->fd = -1;
    return err;
  }
  poll->data = owner;
  *s = (rvl_socket){.loop = loop, .poll = poll, .fd = fd};
  return 0;
}

static void watch_for(rvl_socket *s, int events, uv_poll_cb on_event) {
  if (s->fd < 0 || s->events == events) return;
  s->events = events;
  if (events == 0) uv_poll_stop(s->poll);
  else uv_poll_start(s->poll, events, on_event);
}

static void close_socket(rvl_socket *s) {
  if (s->fd < 0) return;
  /* in a forked child libuv's epoll is the parent's too: it must not hear of this */
  if (!rvl_loop_is_forked(s->loop)) uv_close((uv_handle_t *)s->poll, free_poll);
  close(s->fd);
  s->fd = -1;
  s->poll = NULL;
}

/* ---- listening ------------------------------------------------------------------------------------------ */

static void on_acceptable(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  rvl_listener *l = poll->data;
  watch_for(&l->socket, 0, NULL);   /* until somebody has tried */
  l->notify(l);
}

static int bind_and_listen(const struct addrinfo *address, int backlog, int *fd) {
  int one = 1;
  *fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (*fd < 0) return -errno;
  setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(*fd, address->ai_addr, address->ai_addrlen) == 0 && listen(*fd, backlog) == 0) return 0;
  int err = -errno;
  close(*fd);
  return err;
}

static unsigned port_of(int fd) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return 0;
  if (address.ss_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port);
  return ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
}

int rvl_listener_open(rvl_listener *l, rvl_loop *loop, const char *host, unsigned port, int backlog) {
  char service[16];
  snprintf(service, sizeof service, "%u", port);
  struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found = NULL;
  l->socket.fd = -1;
  int err = getaddrinfo(host, service, &hints, &found);
  if (err != 0) return err == EAI_MEMORY ? UV_ENOMEM : UV_EAI_NONAME;
  int fd = -1;
  err = UV_EADDRNOTAVAIL;
  for (const struct addrinfo *a = found; a != NULL && err != 0; a = a->ai_next) err = bind_and_listen(a, backlog, &fd);
  freeaddrinfo(found);
  if (err == 0) err = watch(&l->socket, loop, fd, l);
  if (err == 0) l->port = port_of(fd);
  return err;
}

void rvl_listener_close(rvl_listener *l) { close_socket(&l->socket); }

/* ---- connections ---------------------------------------------------------------------------------------- */

static void on_connection(uv_poll_t *poll, int status, int events);

/* Watches for what is of interest now. */
static void update_watch(rvl_connection *c) {
  int events = 0;
  if (!c->ended && (c->discards || rvl_connection_available(c) < READ_AHEAD)) events |= UV_READABLE;
  if (!c->broken && rvl_connection_unsent(c) > 0) events |= UV_WRITABLE;
  watch_for(&c->socket, events, on_connection);
}

/* A client that vanishes without a word is found out; answers do not wait for acknowledgements. */
static void set_options(int fd) {
  int one = 1, idle = 60, interval = 15, count = 4;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static bool is_passing(int error) {   /* errors of the connection, not of the listener: accept(2) */
  return error == EINTR || error == ECONNABORTED || error == EPROTO || error == ENETDOWN || error == EHOSTDOWN ||
         error == EHOSTUNREACH || error == ENETUNREACH || error == EPERM;
}

int rvl_listener_accept(rvl_listener *l, rvl_connection *c, void (*notify)(rvl_connection *)) {
  c->socket.fd = -1;
  if (l->socket.fd < 0) return UV_EBADF;
  if (l->max_open != 0 && l->open >= l->max_open) return UV_EAGAIN;
  int fd;
  do fd = accept4(l->socket.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  while (fd < 0 && is_passing(errno));
  if (fd < 0) {
    int err = -errno;
    if (err == UV_EAGAIN) watch_for(&l->socket, UV_READABLE, on_acceptable);
    return err;
  }
  set_options(fd);
  int err = watch(&c->socket, l->socket.loop, fd, c);
  if (err != 0) return err;
  c->listener = l;
  c->notify = notify;
  c->progress = rvl_now();
  l->open++;
  update_watch(c);
  return 0;
}

static void break_off(rvl_connection *c) {
  c->broken = true;
  c->held = false;
  c->sent = 0;
  rvl_bytes_free(&c->out);
}

bool rvl_connection_address(const rvl_connection *c, char *text, size_t size) {
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  if (c->socket.fd < 0 || getpeername(c->socket.fd, (struct sockaddr *)&address, &length) != 0) return false;
  return getnameinfo((struct sockaddr *)&address, length, text, (socklen_t)size, NULL, 0, NI_NUMERICHOST) == 0;
}

void rvl_connection_close(rvl_connection *c) {
  if (c->socket.fd >= 0) {
    rvl_listener *l = c->listener;
    bool was_full = l->open == l->max_open;
    close_socket(&c->socket);
    l->open--;
    if (was_full && l->socket.fd >= 0) l->notify(l);
  }
  c->ended = true;
  c->taken = 0;
  rvl_bytes_free(&c->in);
  break_off(c);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

size_t rvl_connection_available(const rvl_connection *c) { return c->in.length - c->taken; }

static void make_room(rvl_connection *c) {
  if (c->taken == 0) return;
  memmove(c->in.data, c->in.data + c->taken, c->in.length - c->taken);
  c->in.length -= c->taken;
  c->taken = 0;
}

/* Whether there may be more to read now. */
static bool read_some(rvl_connection *c) {
  make_room(c);
  if (!rvl_bytes_reserve(&c->in, READ_SIZE)) {
    c->ended = c->broken = true;
    return false;
  }
  size_t room = c->in.room - c->in.length;
  ssize_t n = recv(c->socket.fd, c->in.data + c->in.length, room, 0);
  if (n > 0) {
    if (!c->discards) c->in.length += (size_t)n;
    return (size_t)n == room && rvl_connection_available(c) < READ_AHEAD;
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  c->ended = true;
  if (n < 0) c->broken = true;
  return false;
}

static void receive(rvl_connection *c) {
  for (int i = 0; i < READS_AT_ONCE && read_some(c); i++) continue;
}

void rvl_connection_take(rvl_connection *c, size_t length) {
  c->taken += length;
  if (c->taken < c->in.length) {
    update_watch(c);
    return;
  }
  c->in.length = c->taken = 0;
  if (c->in.room > KEPT_ROOM) rvl_bytes_free(&c->in);
  update_watch(c);
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

size_t rvl_connection_unsent(const rvl_connection *c) { return c->out.length - c->sent; }

/* How much went out at once. */
static size_t send_now(rvl_connection *c, struct iovec *pieces, size_t count) {
  struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
  ssize_t n;
  do n = sendmsg(c->socket.fd, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n >= 0) {
    c->progress = rvl_now();
    return (size_t)n;
  }
  if (errno != EAGAIN) break_off(c);
  return 0;
}

static void end_sending(rvl_connection *c) {
  if (c->closing && rvl_connection_unsent(c) == 0 && c->socket.fd >= 0) shutdown(c->socket.fd, SHUT_WR);
}

static void send_rest(rvl_connection *c) {
  c->held = false;
  struct iovec piece = {c->out.data + c->sent, rvl_connection_unsent(c)};
  c->sent += send_now(c, &piece, 1);
  if (c->broken || c->sent < c->out.length) return;
  c->sent = c->out.length = 0;
  if (c->out.room > KEPT_ROOM) rvl_bytes_free(&c->out);
  end_sending(c);
}

/* Appends both pieces without their first `skip` bytes. */
static bool keep(rvl_connection *c, const struct iovec *pieces, size_t skip) {
  for (size_t i = 0; i < 2; i++) {
    size_t length = pieces[i].iov_len, gone = skip < length ? skip : length;
    skip -= gone;
    if (gone == length) continue;
    if (!rvl_bytes_append(&c->out, (const char *)pieces[i].iov_base + gone, length - gone)) return false;
  }
  return true;
}

bool rvl_connection_send(rvl_connection *c, const char *first, size_t first_length, const char *second,
                         size_t second_length) {
  if (c->broken) return true;
  struct iovec pieces[2] = {{(void *)(size_t)first, first_length}, {(void *)(size_t)second, second_length}};
  size_t now = 0;
  if (rvl_connection_unsent(c) == 0) {
    now = send_now(c, pieces, second_length > 0 ? 2 : 1);
    if (c->broken || now == first_length + second_length) return true;
  }
  bool kept = keep(c, pieces, now);
  rvl_connection_flush(c);
  update_watch(c);
  return kept;
}

bool rvl_connection_hold(rvl_connection *c, const char *first, size_t first_length, const char *second,
                         size_t second_length) {
  size_t unsent = rvl_connection_unsent(c);
  bool holds = unsent == 0 || c->held;
  if (!holds || c->broken || first_length + second_length > HOLD_AT_MOST || unsent > HOLD_AT_MOST)
    return rvl_connection_send(c, first, first_length, second, second_length);
  struct iovec pieces[2] = {{(void *)(size_t)first, first_length}, {(void *)(size_t)second, second_length}};
  if (!keep(c, pieces, 0)) return false;
  c->held = true;
  update_watch(c);   /* the next step of the loop finds it writable */
  return true;
}

void rvl_connection_flush(rvl_connection *c) {
  if (!c->held || c->broken) return;
  send_rest(c);
  update_watch(c);
}

void rvl_connection_finish(rvl_connection *c) {
  if (c->socket.fd < 0 || c->closing) return;
  c->closing = c->discards = true;
  c->in.length = c->taken = 0;
  if (c->held) rvl_connection_flush(c);
  else end_sending(c);
  update_watch(c);
}

static void on_connection(uv_poll_t *poll, int status, int events) {
  rvl_connection *c = poll->data;
  if (status != 0) {   /* the client broke it off; what it had sent before can still be read */
    if (!c->ended) receive(c);
    c->ended = true;
    break_off(c);
  } else {
    if ((events & UV_WRITABLE) != 0) send_rest(c);
    if ((events & UV_READABLE) != 0 && !c->ended) receive(c);
  }
  update_watch(c);
  c->notify(c);
}
