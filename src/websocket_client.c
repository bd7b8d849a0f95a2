#include "websocket_client.h"

#include "net.h"

#define CLOSING_NS (2 * UINT64_C(1000000000))   /* what a server gets to end the connection */
#define QUEUED_AT_MOST (1024u * 1024u)          /* of messages that nobody takes */
#define CONGESTED (64u * 1024u)
#define BODY_STEP 4096u

static rvl_websocket_client *client_of(rvl_duplex *d) { return (rvl_websocket_client *)d; }

/* ---- the handshake ----------------------------------------------------------------------------------- */

static bool is_answered(const rvl_http1 *a) {
  return a->state >= RVL_HTTP1_DONE || a->body.length >= RVL_WEBSOCKET_BODY;
}

static void take_answer(rvl_websocket_client *c, const char *data, size_t length) {
  while (length > 0 && !is_answered(&c->answer)) {
    size_t piece = length < BODY_STEP ? length : BODY_STEP, taken = 0;
    if (!rvl_http1_feed(&c->answer, data, piece, &taken)) {
      c->starved = true;
      return;
    }
    data += taken;
    length -= taken;
  }
  c->answered = is_answered(&c->answer);
  if (!c->answered) return;
  rvl_duplex_read(&c->duplex, false);
  if (c->answer.status == 101 && !rvl_bytes_append(&c->early, data, length)) c->starved = true;
}

bool rvl_websocket_client_ask(rvl_websocket_client *c, const char *request, size_t length) {
  c->asked = true;
  return rvl_duplex_write(&c->duplex, request, length);
}

/* ---- messages ---------------------------------------------------------------------------------------- */

bool rvl_websocket_client_is_over(const rvl_websocket_client *c) {
  const rvl_websocket_state *s = rvl_websocket_state_of(c->endpoint);
  return s->close_received || s->failure != 0 || c->starved || !c->duplex.open || c->duplex.ended;
}

/* The server closes the connection first; one that does not want to has had its time. */
static void on_closing(rvl_timer *timer) {
  rvl_websocket_client *c = (rvl_websocket_client *)(void *)((char *)timer - offsetof(rvl_websocket_client, closing));
  rvl_duplex_close(&c->duplex);
  c->notify(c);
}

static void end_connection(rvl_websocket_client *c) {
  rvl_duplex *d = &c->duplex;
  if (!d->open || !rvl_websocket_client_is_over(c)) return;
  bool waits = !d->ended && !c->starved;
  if (waits && c->closing.slot == 0)
    waits = rvl_timer_start(d->opening.net->loop, &c->closing, rvl_now() + CLOSING_NS);
  if (waits) return;
  rvl_timer_stop(d->opening.net->loop, &c->closing);
  rvl_duplex_close(d);
}

bool rvl_websocket_client_update(rvl_websocket_client *c) {
  rvl_duplex *d = &c->duplex;
  if (!d->open) return true;
  bool ok = rvl_websocket_set_congested(c->endpoint, rvl_duplex_unsent(d) > CONGESTED);
  ok = rvl_duplex_give(d, rvl_websocket_output(c->endpoint)) && ok;
  const rvl_websocket_state *s = rvl_websocket_state_of(c->endpoint);
  rvl_duplex_read(d, s->queued < QUEUED_AT_MOST || s->close_sent);
  if (!ok) c->starved = true;
  end_connection(c);
  return ok;
}

static void feed(rvl_websocket_client *c, const char *data, size_t length) {
  if (!rvl_websocket_feed(c->endpoint, data, length)) c->starved = true;
  const rvl_websocket_state *s = rvl_websocket_state_of(c->endpoint);
  if (s->queued >= QUEUED_AT_MOST && !s->close_sent) rvl_duplex_read(&c->duplex, false);
}

bool rvl_websocket_client_begin(rvl_websocket_client *c, const rvl_wslay_api *wslay, size_t max_message) {
  c->endpoint = rvl_websocket_new(wslay, RVL_WEBSOCKET_CLIENT, max_message);
  if (c->endpoint == NULL) return false;
  rvl_http1_free(&c->answer);
  feed(c, c->early.data, c->early.length);
  rvl_bytes_free(&c->early);
  return rvl_websocket_client_update(c) && !c->starved;
}

/* ---- the connection ---------------------------------------------------------------------------------- */

static void on_bytes(rvl_duplex *d, const char *data, size_t length) {
  rvl_websocket_client *c = client_of(d);
  if (c->endpoint != NULL) feed(c, data, length);
  else if (!c->answered) take_answer(c, data, length);
}

static void on_change(rvl_duplex *d) {
  rvl_websocket_client *c = client_of(d);
  if (!d->open && c->closing.slot != 0) rvl_timer_stop(d->opening.net->loop, &c->closing);   /* the client was closed */
  if (c->endpoint != NULL) {
    rvl_websocket_client_update(c);
  } else if (d->ended && !c->answered) {
    rvl_http1_end(&c->answer);
    c->answered = true;
  }
  c->notify(c);
}

bool rvl_websocket_client_open(rvl_net *net, rvl_websocket_client *c, const char *url, uint64_t connect) {
  c->duplex.take = on_bytes;
  c->duplex.notify = on_change;
  c->closing.fire = on_closing;
  rvl_http1_begin(&c->answer, false, RVL_MAX_HEAD, SIZE_MAX);
  c->answer.upgrades = true;
  return rvl_duplex_open(net, &c->duplex, url, connect);
}

void rvl_websocket_client_drop(rvl_websocket_client *c) {
  if (c->closing.slot != 0) rvl_timer_stop(c->duplex.opening.net->loop, &c->closing);
  rvl_duplex_close(&c->duplex);
  rvl_http1_free(&c->answer);
  rvl_bytes_free(&c->early);
}

void rvl_websocket_client_free(rvl_websocket_client *c) {
  rvl_websocket_client_drop(c);
  rvl_websocket_free(c->endpoint);
  c->endpoint = NULL;
}
