#include "duplex.h"

#include "net.h"

#include <string.h>

#define RECEIVE_SIZE 16384u          /* as much as TLS sends in one piece */
#define RECEIVES_AT_ONCE 16          /* so that one fast sender does not starve the others */
#define SEND_AT_ONCE (256u * 1024u)
#define KEPT_ROOM 4096u              /* larger buffers are given back when they are empty */

/* ---- watching ---------------------------------------------------------------------------------------- */

size_t rvl_duplex_unsent(const rvl_duplex *d) { return d->out.length - d->sent + d->next.length; }

static void look_again(rvl_duplex *d) {
  if (d->again.slot == 0 && !rvl_timer_start(d->opening.net->loop, &d->again, rvl_now())) d->ended = d->broken = true;
}

static void update_watch(rvl_duplex *d) {
  if (!d->open || d->unwatched) return;
  int events = 0;
  if (d->reading && !d->ended) events |= UV_READABLE;
  if (!d->broken && rvl_duplex_unsent(d) > 0) events |= UV_WRITABLE;
  if (!rvl_net_watch_for(d->watch, events)) d->ended = d->broken = true;
}

/* ---- sending ----------------------------------------------------------------------------------------- */

static void break_off(rvl_duplex *d) {
  d->broken = true;
  d->sent = 0;
  rvl_bytes_free(&d->out);
  rvl_bytes_free(&d->next);
}

/* Whether something went out and there may be room for more. */
static bool send_some(rvl_duplex *d) {
  rvl_net *net = d->opening.net;
  size_t left = d->out.length - d->sent, n = 0;
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  CURLcode code = net->curl->easy_send(d->easy, d->out.data + d->sent, left < SEND_AT_ONCE ? left : SEND_AT_ONCE, &n);
  rvl_pipe_guard_leave(&g);
  if (code == CURLE_OK) d->sent += n;
  else if (code != CURLE_AGAIN) break_off(d);
  return code == CURLE_OK && n > 0;
}

static void flush(rvl_duplex *d) {
  while (!d->broken && d->sent < d->out.length && send_some(d)) {
    if (d->sent < d->out.length) continue;
    rvl_bytes done = d->out;
    done.length = d->sent = 0;
    d->out = d->next;
    d->next = done;
    if (done.room > KEPT_ROOM) rvl_bytes_free(&d->next);
  }
}

static bool queue(rvl_duplex *d, const char *data, size_t length) {
  return rvl_bytes_append(d->out.length == 0 ? &d->out : &d->next, data, length);
}

static void send_queued(rvl_duplex *d, bool was_idle) {
  if (was_idle) flush(d);
  update_watch(d);
}

bool rvl_duplex_write(rvl_duplex *d, const char *data, size_t length) {
  if (!d->open || d->broken || length == 0) return true;
  bool idle = rvl_duplex_unsent(d) == 0;
  if (!queue(d, data, length)) return false;
  send_queued(d, idle);
  return true;
}

bool rvl_duplex_give(rvl_duplex *d, rvl_bytes *bytes) {
  if (!d->open || d->broken || bytes->length == 0) {
    rvl_bytes_free(bytes);
    return true;
  }
  if (d->out.length > 0) {
    bool kept = queue(d, bytes->data, bytes->length);
    rvl_bytes_free(bytes);
    update_watch(d);
    return kept;
  }
  rvl_bytes_free(&d->out);
  d->out = *bytes;
  *bytes = (rvl_bytes){0};
  send_queued(d, true);
  return true;
}

/* ---- receiving --------------------------------------------------------------------------------------- */

/* Whether there may be more. */
static bool receive_some(rvl_duplex *d) {
  rvl_net *net = d->opening.net;
  char buffer[RECEIVE_SIZE];
  size_t n = 0;
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  CURLcode code = net->curl->easy_recv(d->easy, buffer, sizeof buffer, &n);
  rvl_pipe_guard_leave(&g);
  if (code == CURLE_AGAIN && !d->unwatched) return false;
  if (code == CURLE_OK && n > 0) {
    d->take(d, buffer, n);
    return n == sizeof buffer || net->tls || d->unwatched;   /* a socket alone that had less has no more now */
  }
  d->ended = true;
  d->reset = code != CURLE_OK;
  if (d->reset) break_off(d);
  return false;
}

/* Until there is nothing more, also inside TLS, whose rest the socket would not tell of. */
static void receive(rvl_duplex *d) {
  bool more = true;
  for (int i = 0; more && i < RECEIVES_AT_ONCE && d->reading && !d->ended; i++) more = receive_some(d);
  if (more && d->reading && !d->ended) look_again(d);
  if (!d->ended && !d->unwatched && !d->prompt) rvl_net_acknowledge(d->watch->fd);
}

void rvl_duplex_look(rvl_duplex *d) {
  if (!d->open || d->ended) return;
  receive(d);
  update_watch(d);
}

static void on_again(rvl_timer *timer) {
  rvl_duplex *d = (rvl_duplex *)(void *)((char *)timer - offsetof(rvl_duplex, again));
  if (!d->open || d->ended) return;
  rvl_duplex_look(d);
  d->notify(d);
}

void rvl_duplex_read(rvl_duplex *d, bool reading) {
  if (d->reading == reading) return;
  d->reading = reading;
  if (!d->open || d->ended) return;
  if (reading) look_again(d);   /* TLS may have bytes that the socket has given out */
  update_watch(d);
}

void rvl_duplex_event(rvl_duplex *d, int status, int uv_events) {
  if (status < 0) {   /* what had come before can still be read */
    d->watch->events = 0;
    d->unwatched = true;
    break_off(d);
    if (d->reading) look_again(d);
  } else {
    if (uv_events & UV_WRITABLE) flush(d);
    if (uv_events & UV_READABLE) receive(d);
  }
  update_watch(d);
  d->notify(d);
}

/* ---- opening and closing ----------------------------------------------------------------------------- */

static void unlink_duplex(rvl_duplex *d) {
  if (d->previous != NULL) d->previous->following = d->following;
  else d->opening.net->duplexes = d->following;
  if (d->following != NULL) d->following->previous = d->previous;
  d->previous = d->following = NULL;
}

void rvl_duplex_adopt(rvl_transfer *t, CURL *easy) {
  rvl_net *net = t->net;
  rvl_duplex *d = t->request.duplex;
  curl_socket_t fd = CURL_SOCKET_BAD;
  net->curl->easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd);
  rvl_watch *w = rvl_net_find_watch(net, fd);
  rvl_timer_stop(net->loop, &t->timer);
  rvl_net_unlink(t);
  if (w == NULL) {
    rvl_net_disconnect(net, easy);
    rvl_net_fail(t, RVL_FAIL_CONNECT, "the connection was closed at once");
  } else {
    w->duplex = d;
    w->connected = true;
    w->opener = NULL;
    d->easy = easy;
    d->watch = w;
    d->open = true;
    d->following = net->duplexes;
    if (d->following != NULL) d->following->previous = d;
    net->duplexes = d;
    t->connected = rvl_now();
    /* nothing will be read into the buffer that this was the size of: now it only bounds a piece */
    net->curl->easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_SIZE);
    update_watch(d);
  }
  rvl_net_finish(t);
}

static void on_opened(rvl_transfer *t) {
  if (t->phase == RVL_DONE) t->request.duplex->notify(t->request.duplex);
}

bool rvl_duplex_open(rvl_net *net, rvl_duplex *d, const char *url, uint64_t connect) {
  d->reading = true;
  d->again.fire = on_again;
  rvl_request request = {.url = url, .method = "GET", .duplex = d, .connect = connect};
  return rvl_transfer_start(net, &d->opening, &request, on_opened);
}

void rvl_duplex_close(rvl_duplex *d) {
  rvl_net *net = d->opening.net;
  if (net == NULL) return;
  if (d->opening.phase != RVL_DONE) rvl_transfer_cancel(&d->opening);
  rvl_transfer_free(&d->opening);
  rvl_bytes_free(&d->out);
  rvl_bytes_free(&d->next);
  d->sent = 0;
  d->ended = d->broken = true;
  if (!d->open) return;
  d->open = false;
  rvl_timer_stop(net->loop, &d->again);
  if (rvl_loop_is_forked(net->loop)) return;   /* the connection is the parent's */
  unlink_duplex(d);
  d->watch->duplex = NULL;
  rvl_pipe_guard g = rvl_pipe_guard_enter(net);
  rvl_net_disconnect(net, d->easy);
  rvl_pipe_guard_leave(&g);
  d->easy = NULL;
}

void rvl_duplex_close_all(rvl_net *net) {
  while (net->duplexes != NULL) {
    rvl_duplex *d = net->duplexes;
    rvl_duplex_close(d);
    d->notify(d);
  }
}
