#include "grpc_call.h"
#include "net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEND_AHEAD (256u * 1024u)
#define SENDS_AT_ONCE 32
#define COPIED_AT_MOST 16384u         /* what is sent without giving the buffer away */
#define FRESH UINT64_C(2000000)       /* ns: a connection that was heard from so lately is there */
#define NOT_NOW UINT64_MAX
#define FIRST_PAUSE 0.25
#define LONGEST_PAUSE 10.0
#define PAUSE_FACTOR 1.6
#define PAUSE_JITTER 0.2

static rvl_grpc_connection *connection_of(rvl_duplex *d) { return (rvl_grpc_connection *)d; }

double rvl_grpc_random(rvl_grpc_channel *ch) {
  uint64_t x = ch->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  ch->random = x;
  return (double)(x >> 11) / 9007199254740992.0;
}

/* The timer is always started, so that this needs no memory. */
void rvl_grpc_schedule(rvl_grpc_channel *ch) {
  if (ch->work.due == NOT_NOW) rvl_timer_start(ch->loop, &ch->work, rvl_now());
}

/* ---- signs of life ----------------------------------------------------------------------------------- */

/* Nobody waits for these timers: a script that has nothing else to do ends. */
static bool set_alive(rvl_grpc_connection *c, uint64_t due) {
  rvl_loop *loop = c->channel->loop;
  bool new = c->alive.slot == 0;
  if (!rvl_timer_start(loop, &c->alive, due)) return false;
  if (new) loop->background++;
  return true;
}

static void stop_alive(rvl_grpc_connection *c) {
  if (c->alive.slot == 0) return;
  rvl_timer_stop(c->channel->loop, &c->alive);
  c->channel->loop->background--;
}

static void lose(rvl_grpc_connection *c, const char *why);

static void on_alive(rvl_timer *timer) {
  rvl_grpc_connection *c = (rvl_grpc_connection *)(void *)((char *)timer - offsetof(rvl_grpc_connection, alive));
  rvl_grpc_channel *ch = c->channel;
  uint64_t now = rvl_now();
  ch->loop->background--;
  if (c->pinged != 0) {
    char text[RVL_GRPC_TEXT_SIZE];
    snprintf(text, sizeof text, "the connection is dead: no answer to a PING within %g s",
             (double)ch->options.keepalive_timeout / 1e9);
    lose(c, text);
    rvl_grpc_schedule(ch);
    return;
  }
  if (now - c->heard < ch->options.keepalive) {
    set_alive(c, c->heard + ch->options.keepalive);
    return;
  }
  set_alive(c, now + ch->options.keepalive_timeout);
  c->pinged = now;
  rvl_http2_ping(c->http2);
  rvl_grpc_flush(ch);   /* at once: the time for the answer runs, whether the loop does or not */
}

/* ---- the ends of a connection ------------------------------------------------------------------------ */

/* Gives it up; its calls have left it. */
static void close_connection(rvl_grpc_connection *c) {
  if (c->channel->current == c) c->channel->current = NULL;
  stop_alive(c);
  rvl_duplex_close(&c->duplex);
  c->dead = true;
}

static void end_calls(rvl_grpc_list *list, const char *text) {
  while (list->first != NULL) rvl_grpc_call_fail(list->first, RVL_GRPC_UNAVAILABLE, text);
}

/* No connection came about, or one that was of no use: the next attempt has to wait. */
static void back_off(rvl_grpc_channel *ch) {
  double pause = FIRST_PAUSE;
  for (unsigned i = 0; i < ch->failures && pause < LONGEST_PAUSE; i++) pause *= PAUSE_FACTOR;
  if (pause > LONGEST_PAUSE) pause = LONGEST_PAUSE;
  pause *= 1 + PAUSE_JITTER * (2 * rvl_grpc_random(ch) - 1);
  ch->failures++;
  ch->reopen_due = rvl_now() + (uint64_t)(pause * 1e9);
}

static void fail_waiting(rvl_grpc_channel *ch) {
  rvl_grpc_call *next;
  for (rvl_grpc_call *c = ch->waiting.first; c != NULL; c = next) {
    next = c->next;
    if (c->request.wait_for_ready && ch->failure != RVL_FAIL_UNSUPPORTED) continue;
    c->failure = ch->failure;
    rvl_grpc_call_fail(c, RVL_GRPC_UNAVAILABLE, ch->text);
  }
}

static void lose(rvl_grpc_connection *c, const char *why) {
  rvl_grpc_channel *ch = c->channel;
  bool useless = c->http2 == NULL || !rvl_http2_state_of(c->http2)->settings;
  char text[RVL_GRPC_TEXT_SIZE];
  snprintf(text, sizeof text, "%s", why);
  close_connection(c);
  if (useless) {
    ch->failure = RVL_FAIL_CONNECT;
    memcpy(ch->text, text, sizeof ch->text);
    back_off(ch);
  }
  end_calls(&c->calls, text);
}

static void fail_to_connect(rvl_grpc_connection *c) {
  rvl_grpc_channel *ch = c->channel;
  const rvl_transfer *t = &c->duplex.opening;
  const char *reason = t->reason != NULL ? t->reason : t->message;
  ch->failure = t->failure;
  if (t->failure == RVL_FAIL_TIMEOUT)
    snprintf(ch->text, sizeof ch->text, "no connection to %s within %g s", ch->options.authority,
             (double)t->limit / 1e9);
  else snprintf(ch->text, sizeof ch->text, "no connection to %s: %s", ch->options.authority, reason);
  close_connection(c);
  back_off(ch);
}

static void free_connection(rvl_grpc_connection *c) {
  stop_alive(c);
  rvl_duplex_close(&c->duplex);
  rvl_http2_free(c->http2);
  free(c);
}

static void reap(rvl_grpc_channel *ch) {
  for (rvl_grpc_connection **p = &ch->connections; *p != NULL;) {
    rvl_grpc_connection *c = *p;
    if (c->dead) {
      *p = c->next;
      free_connection(c);
    } else {
      p = &c->next;
    }
  }
}

/* ---- bytes ------------------------------------------------------------------------------------------- */

static void on_bytes(rvl_duplex *d, const char *data, size_t length) {
  rvl_grpc_connection *c = connection_of(d);
  if (c->dead || c->why != NULL) return;
  bool first = !c->spoken;
  c->spoken = true;
  c->heard = rvl_now();
  if (c->pinged != 0) set_alive(c, c->heard + c->channel->options.keepalive);
  c->pinged = 0;
  if (first && length >= 5 && memcmp(data, "HTTP/", 5) == 0) c->why = "the server speaks HTTP/1, not HTTP/2";
  else rvl_http2_feed(c->http2, data, length);
}

static void begin_http2(rvl_grpc_connection *c) {
  rvl_grpc_channel *ch = c->channel;
  c->http2 = rvl_http2_new(&rvl_grpc_events);
  c->heard = rvl_now();
  bool ready = c->http2 != NULL && (ch->options.keepalive == 0 || set_alive(c, c->heard + ch->options.keepalive));
  if (ready) ch->stats.connections++;
  else c->why = "out of memory";
}

static void on_change(rvl_duplex *d) {
  rvl_grpc_connection *c = connection_of(d);
  if (c->dead) return;
  if (d->open && c->http2 == NULL && c->why == NULL) begin_http2(c);   /* now: bytes may come at once */
  rvl_grpc_schedule(c->channel);
}

/* false: no memory. */
static bool send_output(rvl_grpc_connection *c) {
  rvl_bytes *out = rvl_http2_output(c->http2);
  if (out->length > COPIED_AT_MOST) return rvl_duplex_give(&c->duplex, out);
  bool ok = rvl_duplex_write(&c->duplex, out->data, out->length);
  out->length = 0;
  return ok;
}

/* Puts out no more than the connection takes: the rest of a body stays with its owner. */
static void write_out(rvl_grpc_connection *c) {
  rvl_duplex *d = &c->duplex;
  if (c->dead || c->http2 == NULL || d->broken) return;
  for (int i = 0; i < SENDS_AT_ONCE; i++) {
    if (rvl_duplex_unsent(d) >= SEND_AHEAD / 2) return;
    bool ok = rvl_http2_fill(c->http2, SEND_AHEAD);
    bool empty = rvl_http2_output(c->http2)->length == 0;
    if (!empty && !send_output(c)) {
      lose(c, "out of memory");
      return;
    }
    if (!ok || d->broken) rvl_grpc_schedule(c->channel);
    if (!ok || empty || d->broken) return;
  }
  rvl_grpc_schedule(c->channel);
}

void rvl_grpc_flush(rvl_grpc_channel *ch) {
  if (rvl_loop_is_forked(ch->loop)) return;
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next) write_out(c);
}

/* ---- connections ------------------------------------------------------------------------------------- */

static bool open_connection(rvl_grpc_channel *ch) {
  rvl_grpc_connection *c = calloc(1, sizeof *c);
  if (c == NULL) return false;
  c->channel = ch;
  c->alive.fire = on_alive;
  c->duplex.take = on_bytes;
  c->duplex.notify = on_change;
  c->duplex.prompt = true;
  c->next = ch->connections;
  ch->connections = c;
  ch->current = c;
  rvl_duplex_open(ch->net, &c->duplex, ch->options.url, ch->options.connect);
  return true;
}

static void go(rvl_grpc_connection *c) {
  rvl_grpc_channel *ch = c->channel;
  const rvl_http2_state *s = rvl_http2_state_of(c->http2);
  if (ch->current == c) {
    ch->current = NULL;
    if (s->too_many_pings) ch->options.keepalive *= 2;
  }
  if (s->streams == 0 && c->calls.first == NULL) close_connection(c);
}

static void tend(rvl_grpc_connection *c) {
  rvl_duplex *d = &c->duplex;
  if (c->dead) return;
  if (!d->open) {
    if (d->opening.phase != RVL_DONE) return;
    if (c->http2 != NULL) lose(c, "the connection was closed");
    else fail_to_connect(c);
    return;
  }
  if (c->why != NULL) {
    lose(c, c->why);
    return;
  }
  const rvl_http2_state *s = rvl_http2_state_of(c->http2);
  char text[RVL_GRPC_TEXT_SIZE];
  if (s->settings) c->channel->failures = 0;
  if (s->failed) {
    snprintf(text, sizeof text, "the connection broke down: %s", s->why);
    lose(c, text);
  } else if (d->ended) {
    const char *how = d->reset ? "the connection was lost" : "the server closed the connection";
    snprintf(text, sizeof text, "%s (%s)", how,
             s->too_many_pings ? "too_many_pings: see keepalive" : rvl_http2_error_name(s->going_error));
    lose(c, s->going && s->going_error != 0 ? text : how);
  } else if (s->going) {
    go(c);
  } else if (d->broken) {   /* what has been sent may still be answered */
    if (c->channel->current == c) c->channel->current = NULL;
    if (c->calls.first == NULL) close_connection(c);
  }
}

/* ---- the channel ------------------------------------------------------------------------------------- */

/* Whether those that wait may go on. */
static bool is_connected(rvl_grpc_channel *ch) {
  if (ch->current != NULL) return ch->current->http2 != NULL;
  bool pausing = ch->failures > 0 && rvl_now() < ch->reopen_due;
  if (!pausing && !open_connection(ch)) {
    end_calls(&ch->waiting, "out of memory");
    return false;
  }
  if (!pausing) tend(ch->current);   /* it may have failed at once, or be open already */
  if (ch->current != NULL) return ch->current->http2 != NULL;
  fail_waiting(ch);
  if (ch->waiting.first != NULL && !rvl_timer_start(ch->loop, &ch->reopen, ch->reopen_due))
    end_calls(&ch->waiting, "out of memory");
  return false;
}

static void send_waiting(rvl_grpc_channel *ch) {
  while (ch->waiting.first != NULL && is_connected(ch)) {
    rvl_grpc_connection *c = ch->current;
    rvl_grpc_call *call = ch->waiting.first;
    if (call == NULL || c->holding || !rvl_http2_has_room(c->http2)) return;
    if (rvl_grpc_call_send(call, c)) continue;
    const rvl_http2_state *s = rvl_http2_state_of(c->http2);
    if (s->failed) {
      lose(c, s->why);
      rvl_grpc_schedule(ch);
      return;
    }
    if (s->going) {   /* since now: all ids have been had */
      go(c);
      continue;
    }
    rvl_grpc_call_fail(call, RVL_GRPC_INTERNAL, "the headers of the call could not be sent: they are too large");
  }
}

static void work(rvl_grpc_channel *ch) {
  bool connecting = ch->current != NULL && ch->current->http2 == NULL;
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next) tend(c);
  if (connecting && ch->current == NULL) fail_waiting(ch);
  send_waiting(ch);
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next) write_out(c);
  reap(ch);
}

static void on_work(rvl_timer *timer) {
  rvl_grpc_channel *ch = (rvl_grpc_channel *)(void *)((char *)timer - offsetof(rvl_grpc_channel, work));
  rvl_timer_start(ch->loop, timer, NOT_NOW);   /* there is the place that it has just had */
  work(ch);
}

static void on_reopen(rvl_timer *timer) {
  work((rvl_grpc_channel *)(void *)((char *)timer - offsetof(rvl_grpc_channel, reopen)));
}

rvl_grpc_channel *rvl_grpc_channel_new(rvl_net *net, const rvl_grpc_options *options) {
  rvl_grpc_channel *ch = calloc(1, sizeof *ch);
  if (ch == NULL) return NULL;
  ch->net = net;
  ch->loop = net->loop;
  ch->options = *options;
  ch->tls = strncmp(options->url, "https:", 6) == 0;
  ch->work.fire = on_work;
  ch->reopen.fire = on_reopen;
  ch->random = (rvl_now() ^ (uint64_t)(uintptr_t)ch) | 1;
  if (!rvl_timer_start(ch->loop, &ch->work, NOT_NOW)) {
    free(ch);
    return NULL;
  }
  ch->loop->background++;
  return ch;
}

/* The server hears of the end of its calls and of the connection. */
static void say_goodbye(rvl_grpc_channel *ch) {
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next)
    if (!c->dead && c->http2 != NULL) rvl_http2_go(c->http2);
  rvl_grpc_flush(ch);
}

static void close_calls(rvl_grpc_list *list) {
  while (list->first != NULL) {
    list->first->closed = true;
    rvl_grpc_call_fail(list->first, RVL_GRPC_CANCELLED, "the channel was closed");
  }
}

void rvl_grpc_channel_free(rvl_grpc_channel *ch) {
  if (ch == NULL) return;
  close_calls(&ch->waiting);
  close_calls(&ch->paused);
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next) close_calls(&c->calls);
  say_goodbye(ch);
  for (rvl_grpc_connection *c = ch->connections; c != NULL; c = c->next) c->dead = true;
  reap(ch);
  rvl_timer_stop(ch->loop, &ch->work);
  ch->loop->background--;
  rvl_timer_stop(ch->loop, &ch->reopen);
  free(ch);
}

const rvl_grpc_stats *rvl_grpc_channel_stats(const rvl_grpc_channel *ch) { return &ch->stats; }

/* After a silence nobody has looked whether the connection is still there. */
static void look_at_idle(rvl_grpc_channel *ch) {
  rvl_grpc_connection *c = ch->current;
  if (c == NULL || c->http2 == NULL || c->calls.first != NULL || rvl_now() - c->heard < FRESH) return;
  rvl_duplex_look(&c->duplex);
}

void rvl_grpc_call_start(rvl_grpc_channel *ch, rvl_grpc_call *call, const rvl_grpc_request *request,
                         void (*notify)(rvl_grpc_call *)) {
  call->notify = NULL;
  if (rvl_loop_is_forked(ch->loop)) {
    call->done = true;
    call->status = RVL_GRPC_UNAVAILABLE;
    static const char text[] = "this process was forked from the one that opened the connection";
    rvl_bytes_append(&call->details, text, sizeof text - 1);
    return;
  }
  const rvl_grpc_connection *c = ch->current;
  bool alone = ch->waiting.first == NULL && (c == NULL || c->calls.first == NULL);
  if (alone) look_at_idle(ch);
  rvl_grpc_call_begin(ch, call, request);
  /* alone it goes out at once, with others in the same turn of the loop it goes out with them */
  if (alone && !call->done) work(ch);
  else rvl_grpc_schedule(ch);
  call->notify = notify;
}
