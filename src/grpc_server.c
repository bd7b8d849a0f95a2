#include "grpc_server.h"

#include <stdlib.h>
#include <string.h>

#define NOT_NOW UINT64_MAX
#define SECOND UINT64_C(1000000000)
#define RETRY (SECOND / 10)          /* no descriptor is free: one may be closed by somebody else */
#define FINISH (2 * SECOND)          /* what a client gets to take the last bytes */
#define GOODBYE SECOND               /* and to hear that there will be no new streams */
#define FILL (256u * 1024u)          /* bytes that wait in a connection at most */
#define SLOWEST 65536u               /* bytes per second of a large request */
#define KEPT_ROOM (64u * 1024u)
#define SPARE 10000u                 /* see rvl_http2_server_feed */
#define SPARE_PER_SECOND 1000u
#define ACCEPTS_AT_ONCE 64

struct rvl_grpc_peer {
  rvl_connection connection;   /* first: notify gets only this */
  rvl_grpc_server *server;
  rvl_http2_server *http2;
  rvl_grpc_served *calls;
  unsigned count;              /* of them */
  rvl_timer alarm;
  uint64_t opened;
  uint64_t idle_since;         /* without calls; 0: there are some */
  uint64_t headers_since;      /* 0: none are on their way */
  uint64_t going_since;        /* 0: it is not asked to go */
  uint64_t finishing_since;    /* 0: it goes on */
  uint64_t refilled;
  uint32_t spare;
  bool dirty;                  /* there is something to do */
  bool tended;                 /* which is being done */
  bool heard;                  /* something has come: before that nothing is sent, it might be no HTTP/2 */
  bool dead;
  rvl_grpc_peer *next;
};

/* The timer is always started, so that this needs no memory. */
static void schedule(rvl_grpc_server *s) {
  if (s->work.due == NOT_NOW) rvl_timer_start(s->loop, &s->work, rvl_now());
}

static void touch(rvl_grpc_peer *p) {
  if (p->tended) return;
  p->dirty = true;
  schedule(p->server);
}

/* ---- the queue ---------------------------------------------------------------------------------------- */

static void enqueue(rvl_grpc_served *c) {
  rvl_grpc_server *s = c->server;
  if (c->queued) return;
  c->queued = true;
  c->queue_next = NULL;
  c->queue_previous = s->last;
  if (s->last != NULL) s->last->queue_next = c;
  else s->first = c;
  s->last = c;
  s->notify(s);
}

static void dequeue(rvl_grpc_served *c) {
  rvl_grpc_server *s = c->server;
  if (!c->queued) return;
  c->queued = false;
  if (c->queue_previous != NULL) c->queue_previous->queue_next = c->queue_next;
  else s->first = c->queue_next;
  if (c->queue_next != NULL) c->queue_next->queue_previous = c->queue_previous;
  else s->last = c->queue_previous;
}

rvl_grpc_served *rvl_grpc_server_next(rvl_grpc_server *s) {
  rvl_grpc_served *c = s->first;
  if (c == NULL) return NULL;
  dequeue(c);
  if (c->taken) c->told = true;
  return c;
}

/* ---- calls -------------------------------------------------------------------------------------------- */

static rvl_grpc_served *served_of(rvl_grpc_incoming *call) { return (rvl_grpc_served *)call; }

static void free_call(rvl_grpc_served *c) {
  rvl_grpc_server *s = c->server;
  rvl_grpc_peer *p = c->peer;
  dequeue(c);
  rvl_timer_stop(s->loop, &c->alarm);
  if (p != NULL) {
    if (c->previous != NULL) c->previous->next = c->next;
    else p->calls = c->next;
    if (c->next != NULL) c->next->previous = c->previous;
    if (--p->count == 0) p->idle_since = rvl_now();
    touch(p);
  }
  s->stats.in_flight--;
  rvl_grpc_incoming_free(&c->call);
  free(c);
}

/* Nobody waits for the answer of a call that somebody works on. */
static void tell_gone(rvl_grpc_served *c, const char *why) {
  if (c->why == NULL) c->why = why;
  if (c->notify != NULL) c->notify(c);
  if (c->taken && !c->told && !c->finished) enqueue(c);
}

static void on_changed(rvl_grpc_incoming *call) {
  rvl_grpc_served *c = served_of(call);
  if (call->whole && c->due == 0) rvl_timer_stop(c->server->loop, &c->alarm);
  touch(c->peer);
  if (call->over && c->taken) tell_gone(c, "the call has been ended");
  else if (c->notify != NULL) c->notify(c);
  if (call->over && !c->taken) dequeue(c);
}

static void on_closed(rvl_grpc_incoming *call) {
  rvl_grpc_served *c = served_of(call);
  rvl_timer_stop(c->server->loop, &c->alarm);
  touch(c->peer);   /* which frees it, if nobody has it */
  if (c->taken) tell_gone(c, "the client has gone");
  else dequeue(c);
}

/* The deadline that the client gave, or the time for sending the request. */
static uint64_t next_due(const rvl_grpc_served *c) {
  const rvl_grpc_incoming *call = &c->call;
  uint64_t limit = c->server->options.request;
  if (call->whole || limit == 0) return c->due;
  uint64_t due = c->begun + limit + call->received / SLOWEST * SECOND;
  return c->due != 0 && c->due < due ? c->due : due;
}

static void set_alarm(rvl_grpc_served *c) {
  uint64_t due = next_due(c);
  if (due == 0) rvl_timer_stop(c->server->loop, &c->alarm);
  else if (!rvl_timer_start(c->server->loop, &c->alarm, due))
    rvl_grpc_incoming_break(&c->call, RVL_GRPC_RESOURCE_EXHAUSTED, "out of memory");
}

/* An answer that is to be sent after its handler has ended must not wait for ever. */
static void watch_answer(rvl_grpc_served *c) {
  uint64_t limit = c->server->options.write;
  if (limit == 0 || c->call.exchange.id == 0 || !c->call.ending) return;
  uint64_t due = rvl_now() + limit;
  if (c->due != 0 && c->due < due) due = c->due;
  if (!rvl_timer_start(c->server->loop, &c->alarm, due)) rvl_grpc_incoming_break(&c->call, RVL_GRPC_CANCELLED, "");
}

void rvl_grpc_served_finish(rvl_grpc_served *c, rvl_grpc_code status, const char *text, size_t length) {
  c->finished = true;
  if (c->call.over) return;
  rvl_grpc_incoming_finish(&c->call, status, text, length);
  c->sent = c->call.exchange.payload.sent;
  watch_answer(c);
  if (c->peer != NULL) touch(c->peer);
}

static void on_alarm(rvl_timer *timer) {
  rvl_grpc_served *c = (rvl_grpc_served *)(void *)((char *)timer - offsetof(rvl_grpc_served, alarm));
  uint64_t now = rvl_now();
  if (c->due != 0 && now >= c->due) {
    if (c->why == NULL) c->why = "the deadline of the call has passed";
    rvl_grpc_incoming_break(&c->call, RVL_GRPC_DEADLINE_EXCEEDED, "the deadline of the call has passed");
  } else if (c->finished) {
    if (c->call.exchange.payload.sent == c->sent) {
      rvl_grpc_incoming_break(&c->call, RVL_GRPC_CANCELLED, "");
    } else {
      c->sent = c->call.exchange.payload.sent;
      watch_answer(c);
    }
  } else if (now >= next_due(c) && !c->call.whole) {
    rvl_grpc_incoming_break(&c->call, RVL_GRPC_DEADLINE_EXCEEDED, "the request did not come in time");
  } else {
    set_alarm(c);
  }
}

static void on_arrived(rvl_grpc_incoming *call) {
  rvl_grpc_served *c = served_of(call);
  c->begun = rvl_now();
  if (call->timeout != 0) c->due = call->timeout < NOT_NOW - 1 - c->begun ? c->begun + call->timeout : NOT_NOW - 1;
  if (c->due != 0 || c->server->options.request != 0) set_alarm(c);
  if (!call->over) enqueue(c);
}

static rvl_http2_exchange *on_begin(void *owner) {
  rvl_grpc_peer *p = owner;
  rvl_grpc_server *s = p->server;
  /* also those whose stream is gone, but whose handler has not ended: resetting them must not give more */
  if (s->stats.in_flight >= s->options.max_calls || p->count >= 2 * s->options.max_streams) return NULL;
  rvl_grpc_served *c = calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->server = s;
  c->peer = p;
  c->id = ++s->ids;
  c->alarm.fire = on_alarm;
  c->call.arrived = on_arrived;
  c->call.changed = on_changed;
  c->call.closed = on_closed;
  rvl_grpc_incoming_begin(&c->call, p->http2, &s->budget, s->options.max_message);
  c->next = p->calls;
  if (p->calls != NULL) p->calls->previous = c;
  p->calls = c;
  p->count++;
  p->idle_since = 0;
  s->stats.in_flight++;
  s->stats.calls++;
  return &c->call.exchange;
}

void rvl_grpc_served_flush(rvl_grpc_served *c) {
  if (c->peer != NULL) touch(c->peer);
}

void rvl_grpc_served_release(rvl_grpc_served *c) {
  c->taken = false;
  c->notify = NULL;
  dequeue(c);
  if (!c->call.over) rvl_grpc_incoming_break(&c->call, RVL_GRPC_INTERNAL, "the call was given up");
  rvl_grpc_incoming_keep(&c->call);   /* its owner has lent it, who goes */
  if (c->peer != NULL && c->call.exchange.id != 0) touch(c->peer);
  else free_call(c);
}

bool rvl_grpc_served_address(const rvl_grpc_served *c, char *text, size_t size) {
  return c->peer != NULL && rvl_connection_address(&c->peer->connection, text, size);
}

/* ---- connections -------------------------------------------------------------------------------------- */

static void on_connection(rvl_connection *c) { touch((rvl_grpc_peer *)(void *)c); }

/* Calls whose stream is closed, and that nobody has any more. */
static void sweep(rvl_grpc_peer *p) {
  for (rvl_grpc_served *c = p->calls, *next; c != NULL; c = next) {
    next = c->next;
    if (c->call.exchange.id == 0 && !c->taken) free_call(c);
  }
}

static void forget_calls(rvl_grpc_peer *p) {
  for (rvl_grpc_served *c = p->calls, *next; c != NULL; c = next) {
    next = c->next;
    if (c->call.exchange.id != 0) {
      rvl_http2_server_forget(p->http2, &c->call.exchange);
      rvl_grpc_incoming_lose(&c->call);
    }
    if (c->taken) {
      c->peer = NULL;   /* its owner frees it */
      c->next = c->previous = NULL;
    } else {
      c->next = c->previous = NULL;
      c->peer = NULL;
      free_call(c);
    }
  }
  p->calls = NULL;
  p->count = 0;
}

static void bury(rvl_grpc_peer *p) {
  if (p->dead) return;
  p->dead = true;
  forget_calls(p);
  rvl_timer_stop(p->server->loop, &p->alarm);
  rvl_connection_close(&p->connection);
  p->server->stats.open--;
  schedule(p->server);
}

static void take_in(rvl_grpc_peer *p, uint64_t now) {
  rvl_connection *c = &p->connection;
  size_t available = rvl_connection_available(c);
  if (available == 0) return;
  p->heard = true;
  uint64_t gained = (now - p->refilled) / (SECOND / SPARE_PER_SECOND);
  if (gained > 0) p->refilled = now;
  p->spare = p->spare + gained < SPARE ? p->spare + (uint32_t)gained : SPARE;
  rvl_http2_server_feed(p->http2, c->in.data + c->taken, available, &p->spare);
  rvl_connection_take(c, available);
  const rvl_http2_server_state *state = rvl_http2_server_state_of(p->http2);
  if (!state->in_headers) p->headers_since = 0;
  else if (p->headers_since == 0) p->headers_since = now;
}

static bool put_out(rvl_grpc_peer *p) {
  rvl_connection *c = &p->connection;
  rvl_bytes *out = rvl_http2_server_output(p->http2);
  bool more = p->heard;
  while (more && !c->broken && rvl_connection_unsent(c) < FILL) {
    rvl_http2_server_fill(p->http2, FILL);
    more = out->length > 0;
    if (rvl_connection_unsent(c) == 0) c->progress = rvl_now();
    if (more && !rvl_connection_send(c, out->data, out->length, NULL, 0)) return false;
    out->length = 0;
  }
  if (p->count == 0 && out->room > KEPT_ROOM) rvl_bytes_free(out);
  return true;
}

static void finish(rvl_grpc_peer *p, uint64_t now) {
  if (p->finishing_since != 0) return;
  p->finishing_since = now;
  forget_calls(p);
  rvl_connection_finish(&p->connection);
}

static void earlier(uint64_t *due, uint64_t since, uint64_t limit) {
  if (since != 0 && limit != 0 && since + limit < *due) *due = since + limit;
}

/* When somebody has to look at the connection again at the latest. */
static uint64_t due_of(const rvl_grpc_peer *p) {
  const rvl_grpc_server_options *o = &p->server->options;
  const rvl_http2_server_state *state = rvl_http2_server_state_of(p->http2);
  uint64_t due = NOT_NOW;
  if (p->finishing_since != 0) return p->finishing_since + FINISH;
  if (!state->greeted) earlier(&due, p->opened, o->handshake);
  earlier(&due, p->headers_since, o->head);
  if (p->going_since == 0) earlier(&due, p->idle_since, o->idle);
  else if (!state->going) earlier(&due, p->going_since, GOODBYE);
  if (rvl_connection_unsent(&p->connection) > 0) earlier(&due, p->connection.progress, o->write);
  return due;
}

static void go(rvl_grpc_peer *p, uint64_t now) {
  if (p->going_since == 0) p->going_since = now;
  rvl_http2_server_go(p->http2);
}

/* What was to be done by now. */
static void pass_limits(rvl_grpc_peer *p, uint64_t now) {
  const rvl_grpc_server_options *o = &p->server->options;
  const rvl_http2_server_state *state = rvl_http2_server_state_of(p->http2);
  uint64_t due = NOT_NOW;
  if (p->finishing_since != 0) {
    if (now >= p->finishing_since + FINISH) bury(p);
    return;
  }
  if (!state->greeted) earlier(&due, p->opened, o->handshake);
  earlier(&due, p->headers_since, o->head);
  if (rvl_connection_unsent(&p->connection) > 0) earlier(&due, p->connection.progress, o->write);
  if (now >= due) {
    bury(p);
    return;
  }
  due = NOT_NOW;
  if (p->going_since == 0) earlier(&due, p->idle_since, o->idle);
  else if (!state->going) earlier(&due, p->going_since, GOODBYE);
  if (now >= due) go(p, now);
}

static void set_peer_alarm(rvl_grpc_peer *p) {
  uint64_t due = due_of(p);
  if (due == NOT_NOW || (p->alarm.slot != 0 && p->alarm.due <= due)) return;   /* an early one costs a look */
  if (!rvl_timer_start(p->server->loop, &p->alarm, due)) bury(p);
}

static void tend_now(rvl_grpc_peer *p) {
  rvl_connection *c = &p->connection;
  uint64_t now = rvl_now();
  const rvl_http2_server_state *state = rvl_http2_server_state_of(p->http2);
  if (p->finishing_since == 0) {
    pass_limits(p, now);
    if (p->dead) return;
    take_in(p, now);
    if (!put_out(p)) {
      bury(p);
      return;
    }
    sweep(p);
    if (state->failed || state->over) finish(p, now);
  }
  pass_limits(p, now);
  if (p->dead) return;
  bool done = c->broken || (c->ended && rvl_connection_available(c) == 0 &&
                            (p->finishing_since == 0 || rvl_connection_unsent(c) == 0));
  if (done) bury(p);
  else set_peer_alarm(p);
}

static void tend(rvl_grpc_peer *p) {
  p->dirty = false;
  p->tended = true;
  tend_now(p);
  p->tended = false;
}

static void on_peer_alarm(rvl_timer *timer) {
  touch((rvl_grpc_peer *)(void *)((char *)timer - offsetof(rvl_grpc_peer, alarm)));
}

/* ---- the server --------------------------------------------------------------------------------------- */

static void free_peer(rvl_grpc_peer *p) {
  rvl_http2_server_free(p->http2);
  free(p);
}

static void reap(rvl_grpc_server *s) {
  rvl_grpc_peer **place = &s->peers;
  while (*place != NULL) {
    rvl_grpc_peer *p = *place;
    if (p->dead) {
      *place = p->next;
      free_peer(p);
    } else {
      place = &p->next;
    }
  }
  if (rvl_grpc_server_is_over(s)) s->notify(s);
}

static rvl_http2_server *new_http2(rvl_grpc_peer *p) {
  const rvl_grpc_server_options *o = &p->server->options;
  const rvl_http2_server_limits limits = {.streams = o->max_streams, .headers = o->max_headers};
  return rvl_http2_server_new(&rvl_grpc_incoming_events, on_begin, p, &limits);
}

static int accept_one(rvl_grpc_server *s) {
  rvl_grpc_peer *p = calloc(1, sizeof *p);
  if (p == NULL) return UV_ENOMEM;
  p->server = s;
  int err = rvl_listener_accept(&s->listener, &p->connection, on_connection);
  if (err == 0 && (p->http2 = new_http2(p)) == NULL) {
    rvl_connection_close(&p->connection);
    err = UV_ENOMEM;
  }
  if (err != 0) {
    free(p);
    return err;
  }
  p->opened = p->idle_since = p->refilled = rvl_now();
  p->spare = SPARE;
  p->alarm.fire = on_peer_alarm;
  p->next = s->peers;
  s->peers = p;
  s->stats.connections++;
  s->stats.open++;
  touch(p);
  return 0;
}

/* Until there is nobody left, of whom the listener tells then. */
static void accept_all(rvl_grpc_server *s) {
  int err = 0;
  for (int i = 0; i < ACCEPTS_AT_ONCE && err == 0; i++) err = accept_one(s);
  s->acceptable = err == 0;
  if (err == 0) schedule(s);
  else if (err != UV_EAGAIN && err != UV_EBADF) rvl_timer_start(s->loop, &s->retry, rvl_now() + RETRY);
}

static void on_work(rvl_timer *timer) {
  rvl_grpc_server *s = (rvl_grpc_server *)(void *)((char *)timer - offsetof(rvl_grpc_server, work));
  rvl_timer_start(s->loop, timer, NOT_NOW);   /* there is the place that it has just had */
  if (s->acceptable && s->serving && !s->stopping) accept_all(s);
  for (rvl_grpc_peer *p = s->peers; p != NULL; p = p->next)
    if (p->dirty && !p->dead) tend(p);
  reap(s);
}

static void on_acceptable(rvl_grpc_server *s) {
  s->acceptable = true;
  schedule(s);
}

static void on_retry(rvl_timer *timer) {
  on_acceptable((rvl_grpc_server *)(void *)((char *)timer - offsetof(rvl_grpc_server, retry)));
}

static void on_listener(rvl_listener *l) { on_acceptable((rvl_grpc_server *)(void *)l); }

int rvl_grpc_server_open(rvl_grpc_server *s, rvl_loop *loop, const rvl_grpc_server_options *options,
                         const char *host, unsigned port, int backlog) {
  s->loop = loop;
  s->options = *options;
  s->budget.most = options->max_requests;
  s->listener.socket.fd = -1;
  s->listener.notify = on_listener;
  s->work.fire = on_work;
  s->retry.fire = on_retry;
  if (!rvl_timer_start(loop, &s->work, NOT_NOW)) return UV_ENOMEM;
  loop->background++;
  int err = rvl_listener_open(&s->listener, loop, host, port, backlog);
  if (err != 0) rvl_grpc_server_close(s);
  return err;
}

void rvl_grpc_server_start(rvl_grpc_server *s) {
  if (s->serving) return;
  s->serving = true;
  on_acceptable(s);
}

void rvl_grpc_server_stop(rvl_grpc_server *s) {
  if (s->stopping || s->loop == NULL) return;
  s->stopping = true;
  rvl_listener_close(&s->listener);
  rvl_timer_stop(s->loop, &s->retry);
  uint64_t now = rvl_now();
  for (rvl_grpc_peer *p = s->peers; p != NULL; p = p->next) {
    if (p->dead || p->finishing_since != 0) continue;
    go(p, now);
    touch(p);
  }
  s->notify(s);
}

void rvl_grpc_server_close(rvl_grpc_server *s) {
  if (s->loop == NULL || s->work.slot == 0) return;
  s->stopping = true;
  rvl_listener_close(&s->listener);
  for (rvl_grpc_peer *p = s->peers; p != NULL; p = p->next) {
    if (p->dead) continue;
    rvl_http2_server_quit(p->http2, RVL_HTTP2_NO_ERROR);
    put_out(p);
    bury(p);
  }
  reap(s);
  rvl_timer_stop(s->loop, &s->work);
  s->loop->background--;
  rvl_timer_stop(s->loop, &s->retry);
}

bool rvl_grpc_server_is_over(const rvl_grpc_server *s) { return s->stopping && s->peers == NULL; }
