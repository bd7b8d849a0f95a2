/*
** Short requests over plain HTTP/1.1, on connections that libcurl has opened.
**
** On a small request over a kept-alive connection libcurl spends more than the system calls do. So it does
** what is hard (names, addresses, connecting, deadlines for that), and hands the socket over; one request and one
** answer at a time then go over it, or the requests of a pipeline one behind the other, answered in order.
** TLS, proxies, HTTP/2, compression and streaming stay with libcurl.
*/
#include "net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_IDLE 64
#define MAX_IDLE_NS (100 * UINT64_C(1000000000))   /* routers forget connections without a word */
#define RECEIVE_SIZE 16384
#define RECEIVES_AT_ONCE 16   /* so that one fast sender does not starve the others */

struct rvl_http1_connection {
  rvl_net *net;
  CURL *easy;                /* owns the connection */
  rvl_watch *watch;
  curl_socket_t fd;
  rvl_transfer *transfer;    /* whose answer comes next, then its `following`; NULL: idle */
  rvl_pipeline *pipeline;    /* whose requests alone it takes, or NULL */
  bool idle;                 /* in the list of those that wait for a request */
  bool reused;
  rvl_http1 answer;
  rvl_bytes out;             /* the requests that have not been sent whole */
  size_t sent;               /* how much of `out` */
  uint64_t base;             /* bytes sent before those in `out` */
  bool broken;               /* the server reset it: what it said before may still be read, nothing sent */
  bool ended;                /* the server closed it */
  uint64_t last_used;
  rvl_bytes origin;          /* "host:port" */
  struct rvl_http1_connection *previous, *next;
};

/* ---- which requests, and what they look like ------------------------------------------------------- */

static bool is_origin_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c != '\0' && strchr("-._:[]", c));
}

/* Takes a URL apart that needs no cleaning up; false: libcurl shall look at it. */
static bool read_address(const char *url, rvl_plain_address *a) {
  if (strncmp(url, "http://", 7) != 0) return false;
  const char *c = url + 7;
  a->origin = c;
  while (is_origin_char(*c)) c++;
  a->origin_length = (size_t)(c - a->origin);
  a->target = c;
  if (a->origin_length == 0 || (*c != '\0' && *c != '/' && *c != '?')) return false;
  while (*c > ' ' && *c < 0x7f && *c != '#' && !(*c == '/' && c[1] == '.')) c++;
  return *c == '\0';
}

static bool is_method(const char *method) {
  size_t length = strlen(method);
  return length > 0 && strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == length && strcmp(method, "CONNECT") != 0;
}

bool rvl_http1_suits(rvl_transfer *t) {
  const rvl_profile *p = &t->net->profile;
  const rvl_request *r = &t->request;
  return p->plain_http1 && !p->decompress && p->proxy != NULL && p->proxy[0] == '\0' && p->unix_socket == NULL &&
         !r->stream && !r->stream_body && !r->headers->frames && is_method(r->method) && read_address(r->url, &t->address);
}

bool rvl_http1_expects_body(const char *method) {
  return strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
}

static bool put(rvl_bytes *out, const char *text) { return rvl_bytes_append(out, text, strlen(text)); }

static bool write_request(rvl_bytes *out, const rvl_transfer *t) {
  const rvl_request *r = &t->request;
  const rvl_plain_address *a = &t->address;
  bool ok = put(out, r->method) && put(out, a->target[0] == '/' ? " " : " /") && put(out, a->target) &&
            put(out, " HTTP/1.1\r\nHost: ") && rvl_bytes_append(out, a->origin, a->origin_length) && put(out, "\r\n") &&
            rvl_bytes_append(out, r->headers->text.data, r->headers->text.length);
  if (ok && (r->body != NULL || rvl_http1_expects_body(r->method))) {
    char length[48];
    int n = snprintf(length, sizeof length, "Content-Length: %zu\r\n", r->body_length);
    ok = rvl_bytes_append(out, length, (size_t)n);
  }
  return ok && put(out, "\r\n") && rvl_bytes_append(out, r->body, r->body_length);
}

/* ---- idle connections --------------------------------------------------------------------------------------- */

static void add_idle(rvl_http1_connection *c) {
  rvl_net *net = c->net;
  c->previous = NULL;
  c->next = net->http1_idle;
  if (c->next != NULL) c->next->previous = c;
  net->http1_idle = c;
  net->http1_idle_count++;
  c->idle = true;
}

static void remove_idle(rvl_http1_connection *c) {
  if (c->previous != NULL) c->previous->next = c->next;
  else c->net->http1_idle = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  c->net->http1_idle_count--;
  c->idle = false;
}

/* A transfer that gets no answer because of another one's. */
static void give_up(rvl_transfer *t, bool untouched, uint64_t sent) {
  t->http1 = NULL;
  t->following = NULL;
  if (t->queued) t->connected = sent > t->request_begin && !untouched ? rvl_now() : 0;
  rvl_net_fail(t, t->receiving ? RVL_FAIL_PROTOCOL : RVL_FAIL_CONNECT,
               "the connection was closed before the answer came to this request");
  rvl_transfer_cancel(t);
}

/* `untouched`: the server has said that it will not look at the requests that wait for their answers. */
static void close_after(rvl_http1_connection *c, bool untouched) {
  rvl_net *net = c->net;
  rvl_transfer *waiting = c->transfer;
  uint64_t sent = c->base + c->sent;
  if (c->idle) remove_idle(c);
  if (c->pipeline != NULL) *c->pipeline = (rvl_pipeline){0};
  c->watch->http1 = NULL;
  rvl_net_disconnect(net, c->easy);
  rvl_http1_free(&c->answer);
  rvl_bytes_free(&c->out);
  rvl_bytes_free(&c->origin);
  free(c);
  while (waiting != NULL) {
    rvl_transfer *next = waiting->following;
    give_up(waiting, untouched, sent);
    waiting = next;
  }
}

static void close_connection(rvl_http1_connection *c) { close_after(c, false); }

/* Takes a transfer out of those that wait for their answers. */
static void leave(rvl_http1_connection *c, rvl_transfer *t) {
  rvl_transfer **place = &c->transfer;
  while (*place != t) place = &(*place)->following;
  *place = t->following;
  t->following = NULL;
  t->http1 = NULL;
}

static void make_idle(rvl_http1_connection *c) {
  add_idle(c);
  if (c->net->http1_idle_count > MAX_IDLE) {
    rvl_http1_connection *oldest = c;
    while (oldest->next != NULL) oldest = oldest->next;
    close_connection(oldest);
  }
}

/*
** Whether the server neither closed the connection nor said anything since. The loop may not have told yet: what came
** unasked must not be taken for the answer to the next request, and what was not sent need not be sent again.
*/
static bool is_quiet(const rvl_http1_connection *c) {
  char byte;
  return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static bool leads_to(const rvl_http1_connection *c, const rvl_plain_address *a) {
  return c->origin.length == a->origin_length && memcmp(c->origin.data, a->origin, a->origin_length) == 0;
}

static bool is_fresh(const rvl_http1_connection *c, const rvl_transfer *t) {
  return t->started - c->last_used <= MAX_IDLE_NS && is_quiet(c);
}

static rvl_http1_connection *find_idle(const rvl_transfer *t) {
  for (rvl_http1_connection *c = t->net->http1_idle, *next; c != NULL; c = next) {
    next = c->next;
    if (c->pipeline != NULL || !leads_to(c, &t->address)) continue;
    if (is_fresh(c, t)) return c;
    close_connection(c);
  }
  return NULL;
}

/* ---- one request ------------------------------------------------------------------------------------- */

static void receive(rvl_http1_connection *c);

static void end_with(rvl_transfer *t, rvl_failure failure, const char *message) {
  rvl_net_fail(t, failure, message);
  rvl_transfer_cancel(t);
}

/* Nothing came back on a connection that had been idle: the server was about to close it. One fresh one is tried. */
static void start_afresh(rvl_transfer *t) {
  rvl_http1_connection *c = t->http1;
  leave(c, t);
  close_connection(c);
  t->lost = true;
  t->opening = rvl_now();
  t->connected = 0;
  t->receiving = false;
  t->phase = RVL_CONNECTING;
  t->sending = false;
  t->reused = false;
  rvl_net_refresh_deadline(t);
  if (!rvl_net_connect(t)) rvl_transfer_cancel(t);
}

static void lost(rvl_transfer *t, const char *message) {
  rvl_http1_connection *c = t->http1;
  bool unheard = c->reused && !t->receiving;
  if (unheard && (t->request.repeatable || c->base + c->sent == t->request_begin)) start_afresh(t);
  else end_with(t, t->receiving ? RVL_FAIL_PROTOCOL : RVL_FAIL_CONNECT, message);
}

static void flush(rvl_http1_connection *c) {
  rvl_transfer *t = c->transfer;
  while (!c->broken && c->sent < c->out.length) {
    ssize_t n = send(c->fd, c->out.data + c->sent, c->out.length - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      c->broken = true;
      break;
    }
    c->sent += (size_t)n;
    t->heard = rvl_now();
  }
  t->sending = !c->broken && c->base + c->sent < t->request_end;
  rvl_net_refresh_deadline(t);
  bool unsent = !c->broken && c->sent < c->out.length;
  int events = UV_READABLE | (unsent ? UV_WRITABLE : 0);
  if (!rvl_net_watch_for(c->watch, events)) end_with(t, RVL_FAIL_MEMORY, "the socket cannot be watched");
  else if (c->broken) receive(c);   /* it may have answered before it closed */
}

/* The next answer is the one to the first of those that wait. */
static void expect_answer(rvl_http1_connection *c) {
  rvl_transfer *t = c->transfer;
  uint64_t now = rvl_now();
  if (t->queued) t->turn = now;
  t->queued = false;
  if (t->connected == 0) t->connected = now;
  t->phase = RVL_SENT;
  t->sending = c->base + c->sent < t->request_end;
  rvl_http1_begin(&c->answer, strcmp(t->request.method, "HEAD") == 0, RVL_MAX_HEAD, t->request.max_body);
  rvl_net_refresh_deadline(t);
}

/* Puts the request behind those that wait for their answers; false: no memory. */
static bool join(rvl_http1_connection *c, rvl_transfer *t) {
  if (c->sent == c->out.length) {
    c->base += c->sent;
    c->out.length = c->sent = 0;
  }
  size_t before = c->out.length;
  if (!write_request(&c->out, t)) {
    c->out.length = before;
    return false;
  }
  t->request_begin = c->base + before;
  t->request_end = c->base + c->out.length;
  rvl_transfer **place = &c->transfer;
  while (*place != NULL) place = &(*place)->following;
  *place = t;
  t->http1 = c;
  t->reused = c->reused;
  t->queued = c->transfer != t;
  return true;
}

static void send_request(rvl_http1_connection *c, rvl_transfer *t) {
  rvl_pipeline *p = t->request.pipeline;
  if (p != NULL && p->connection == NULL) {
    *p = (rvl_pipeline){.connection = c, .proven = c->reused};
    c->pipeline = p;
  }
  bool first = c->transfer == NULL;
  if (first && t->connected == 0) t->connected = rvl_now();
  if (!join(c, t)) {
    if (first) close_connection(c);
    end_with(t, RVL_FAIL_MEMORY, "out of memory");
    return;
  }
  if (first) expect_answer(c);
  flush(c);
}

/* The connection of the transfer's pipeline, if the request can go over it. */
static rvl_http1_connection *find_reserved(const rvl_transfer *t) {
  rvl_http1_connection *c = t->request.pipeline != NULL ? t->request.pipeline->connection : NULL;
  if (c == NULL || !leads_to(c, &t->address) || c->broken) return NULL;
  if (!c->idle || is_fresh(c, t)) return c;
  close_connection(c);
  return NULL;
}

bool rvl_http1_start(rvl_transfer *t) {
  rvl_http1_connection *c = find_reserved(t);
  if (c == NULL) c = find_idle(t);
  if (c == NULL) return rvl_net_connect(t);
  if (c->idle) remove_idle(c);
  t->net->stats.reused++;
  send_request(c, t);
  return true;
}

bool rvl_pipeline_is_ready(const rvl_pipeline *p) { return p->connection != NULL && p->proven && !p->connection->broken; }

void rvl_pipeline_close(rvl_pipeline *p) {
  if (p->connection != NULL) p->connection->pipeline = NULL;
  *p = (rvl_pipeline){0};
}

void rvl_http1_adopt(rvl_transfer *t, CURL *easy) {
  rvl_net *net = t->net;
  curl_socket_t fd = CURL_SOCKET_BAD;
  net->curl->easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd);
  rvl_watch *w = rvl_net_find_watch(net, fd);
  rvl_http1_connection *c = w != NULL ? calloc(1, sizeof *c) : NULL;
  if (c == NULL || !rvl_bytes_append(&c->origin, t->address.origin, t->address.origin_length)) {
    free(c);
    rvl_net_disconnect(net, easy);
    end_with(t, RVL_FAIL_MEMORY, "out of memory");
    return;
  }
  c->net = net;
  c->easy = easy;
  c->fd = fd;
  c->watch = w;
  w->http1 = c;
  w->connected = true;
  w->opener = NULL;
  send_request(c, t);
}

/* The whole answer is there; true: another one is to come. */
static bool complete(rvl_http1_connection *c, bool more_came) {
  rvl_transfer *t = c->transfer;
  rvl_http1 *a = &c->answer;
  t->status = a->status;
  t->http_version = a->minor == 0 ? 10 : 11;
  t->complete_head = true;
  t->trailers = a->trailers;
  t->head = a->head;
  t->body = a->body;
  a->head = a->body = (rvl_bytes){0};
  bool unsent = c->base + c->sent < t->request_end;   /* the server did not want to hear the rest */
  bool goes_on = false;
  leave(c, t);
  c->last_used = t->heard;
  c->reused = true;
  if (!a->keep_alive || unsent || (c->transfer == NULL && (more_came || c->broken))) {
    /* RFC 9112, 9.6: what came behind a request answered with "close" is not looked at, however the connection ends */
    close_after(c, a->closes);
  } else {
    if (c->pipeline != NULL) c->pipeline->proven = true;
    goes_on = c->transfer != NULL;
    if (goes_on) expect_answer(c);
    else make_idle(c);
  }
  rvl_timer_stop(t->net->loop, &t->timer);
  rvl_net_unlink(t);
  rvl_net_finish(t);
  return goes_on;
}

/* Looks at the answer so far; false: the connection is in other hands now. */
static bool go_on(rvl_http1_connection *c, bool more_came) {
  rvl_transfer *t = c->transfer;
  if (c->answer.state == RVL_HTTP1_DONE) return complete(c, more_came);
  if (c->answer.state != RVL_HTTP1_BAD) return true;
  t->limit = c->answer.limit;
  end_with(t, c->answer.limit != 0 ? RVL_FAIL_LIMIT : RVL_FAIL_PROTOCOL, c->answer.error);
  return false;
}

/* Takes bytes of one answer or several; false: as go_on. */
static bool take(rvl_http1_connection *c, const char *data, size_t length) {
  while (length > 0) {
    rvl_transfer *t = c->transfer;
    t->heard = rvl_now();
    if (!t->receiving) {
      t->receiving = true;
      rvl_net_refresh_deadline(t);
    }
    size_t taken;
    if (!rvl_http1_feed(&c->answer, data, length, &taken)) {
      end_with(t, RVL_FAIL_MEMORY, "out of memory");
      return false;
    }
    data += taken;
    length -= taken;
    if (!go_on(c, length > 0)) return false;
  }
  return true;
}

static void receive(rvl_http1_connection *c) {
  char buffer[RECEIVE_SIZE];
  for (int i = 0; i < RECEIVES_AT_ONCE || c->broken; i++) {
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && !c->broken) break;
    rvl_transfer *t = c->transfer;
    if (n <= 0) {
      c->ended = true;
      if (!t->receiving) {
        lost(t, n == 0 ? "the server closed the connection without an answer" : "the server reset the connection");
      } else if (n < 0 || c->broken) {
        end_with(t, RVL_FAIL_PROTOCOL, "the answer was cut off: the server reset the connection");
      } else {
        rvl_http1_end(&c->answer);
        go_on(c, true);
      }
      return;
    }
    if (!take(c, buffer, (size_t)n)) return;
    if ((size_t)n < sizeof buffer && !c->broken) break;
  }
  rvl_net_acknowledge(c->fd);
}

void rvl_http1_event(rvl_http1_connection *c, int status, int uv_events) {
  if (c->transfer == NULL) {   /* the server closed an idle connection, or spoke unasked */
    close_connection(c);
    return;
  }
  if (status < 0) {   /* libuv has stopped watching: this is the last chance to read */
    c->broken = true;
    receive(c);
    return;
  }
  if (uv_events & UV_WRITABLE) {
    const rvl_transfer *t = c->transfer;
    flush(c);
    if (t->http1 != c) return;   /* it has ended, and with it the connection */
  }
  if (uv_events & UV_READABLE) receive(c);
}

void rvl_http1_abandon(rvl_transfer *t) {
  rvl_http1_connection *c = t->http1;
  leave(c, t);
  close_connection(c);
}

void rvl_http1_close_all(rvl_net *net) {
  while (net->http1_idle != NULL) close_connection(net->http1_idle);
}
