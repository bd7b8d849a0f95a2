/* riverlua.core.websocket: sockets and endpoints for lua/riverlua/websocket.lua, which gives them meaning. */
#include "runtime.h"
#include "websocket_client.h"
#include "wslay_api.h"

#include <string.h>

#define SOCKET "riverlua.Socket"
#define ENDPOINT "riverlua.Endpoint"

/* A sender waits while this much has not gone out. */
#define UNSENT_AT_MOST (256u * 1024u)

/* user values keep what a socket points to */
enum { KEEP_NET = 1, KEEP_URL, KEPT = KEEP_URL };

typedef struct socket_box {
  rvl_websocket_client client;   /* first: notify gets only this */
  rvl_signal changed;
  rvl_wait_count waiting;
  uint64_t limit;                /* of what is waited for while it opens, ns; 0: none */
  uint64_t due;
} socket_box;

typedef struct endpoint_box {
  rvl_websocket *endpoint;
} endpoint_box;

/* ---- what both share --------------------------------------------------------------------------------- */

static const rvl_wslay_api *open_wslay(lua_State *L, rvl_runtime *rt) {
  const char *why;
  if (rt->wslay == NULL) rt->wslay = rvl_wslay_open(&why);
  if (rt->wslay == NULL)
    rvl_raise(L, "unsupported", "install the package libwslay1", "WebSockets need libwslay: %s", why);
  return rt->wslay;
}

static rvl_websocket_kind check_kind(lua_State *L, int arg) {
  static const char *const names[] = {"text", "binary", "ping", "pong", NULL};
  static const rvl_websocket_kind kinds[] = {RVL_WEBSOCKET_TEXT, RVL_WEBSOCKET_BINARY, RVL_WEBSOCKET_PING,
                                             RVL_WEBSOCKET_PONG};
  return kinds[luaL_checkoption(L, arg, "text", names)];
}

/* Pushes the oldest message and its kind, and forgets it. */
static int push_message(lua_State *L, rvl_websocket *w) {
  const rvl_websocket_message *m = rvl_websocket_state_of(w)->first;
  lua_pushlstring(L, m->bytes.data, m->bytes.length);   /* first: there may be no memory */
  lua_pushstring(L, m->kind == RVL_WEBSOCKET_TEXT ? "text" : "binary");
  rvl_bytes bytes = rvl_websocket_take(w);
  rvl_bytes_free(&bytes);
  return 2;
}

/* "closed", code, reason; "failed", code, why; or "open" */
static int push_state(lua_State *L, const rvl_websocket_state *s) {
  if (s->close_received) {
    lua_pushliteral(L, "closed");
    lua_pushinteger(L, (lua_Integer)s->close_code);
    lua_pushlstring(L, s->reason, s->reason_length);
    return 3;
  }
  if (s->failure != 0) {
    lua_pushliteral(L, "failed");
    lua_pushinteger(L, (lua_Integer)s->failure);
    lua_pushstring(L, s->why);
    return 3;
  }
  lua_pushliteral(L, "open");
  return 1;
}

static size_t check_max_message(lua_State *L, int arg) {
  lua_Integer size = luaL_checkinteger(L, arg);
  luaL_argcheck(L, size >= 0, arg, "a size, not negative");
  return (size_t)size;
}

static uint64_t check_nanoseconds(lua_State *L, int arg) {
  lua_Number seconds = luaL_optnumber(L, arg, 0);
  luaL_argcheck(L, seconds >= 0, arg, "a number of seconds, not negative");
  return seconds < 9e9 ? (uint64_t)(seconds * 1e9) : 0;
}

/* ---- opening a socket -------------------------------------------------------------------------------- */

static socket_box *check_socket(lua_State *L) { return luaL_checkudata(L, 1, SOCKET); }

static void on_change(rvl_websocket_client *c) { rvl_signal_fire(&((socket_box *)c)->changed); }

static void set_limit(socket_box *box, uint64_t limit) {
  box->limit = limit;
  box->due = limit != 0 ? rvl_now() + limit : 0;
}

/* The reason for the end of a wait; one who is cancelled while it opens takes the connection along. */
static rvl_wake_reason opening_woken(lua_State *L, socket_box *box) {
  if (box->waiting.rt->current->woken == RVL_WOKEN_CANCEL || box->waiting.rt->current->woken == RVL_WOKEN_STUCK)
    rvl_websocket_client_drop(&box->client);
  return rvl_waited(L, &box->waiting);
}

/* nil, kind, message, phase of a timeout, its limit in seconds */
static int push_failure(lua_State *L, const rvl_transfer *t) {
  lua_pushnil(L);
  lua_pushstring(L, rvl_failure_kind(t->failure));
  lua_pushstring(L, t->reason != NULL ? t->reason : t->message);
  lua_pushstring(L, t->timed_out);
  lua_pushnumber(L, (lua_Number)t->limit / 1e9);
  return 5;
}

static int open_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  const rvl_duplex *d = &box->client.duplex;
  if (status == LUA_YIELD) opening_woken(L, box);
  if (d->open) return 1;
  if (d->opening.phase == RVL_DONE) return push_failure(L, &d->opening);
  return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, open_k);
}

/* open(net, url, seconds) → a connected socket, or the failure (see push_failure) */
static int socket_open(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  struct rvl_net *net = rvl_check_net(L, 1);
  const char *url = luaL_checkstring(L, 2);
  uint64_t connect = check_nanoseconds(L, 3);
  rvl_runtime_loop(L, rt);
  open_wslay(L, rt);
  socket_box *box = lua_newuserdatauv(L, sizeof *box, KEPT);
  memset(box, 0, sizeof *box);
  box->waiting.rt = rt;
  box->client.notify = on_change;
  luaL_setmetatable(L, SOCKET);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, KEEP_NET);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, KEEP_URL);
  lua_replace(L, 1);
  lua_settop(L, 1);
  rvl_websocket_client_open(net, &box->client, url, connect);
  return open_k(L, LUA_OK, (lua_KContext)box);
}

/* nil, status, head, body of an answer that is not the one wanted */
static int push_refusal(lua_State *L, socket_box *box) {
  const rvl_http1 *a = &box->client.answer;
  lua_pushnil(L);
  lua_pushinteger(L, a->status);
  lua_pushlstring(L, a->head.data, a->head.length);
  lua_pushlstring(L, a->body.data, a->body.length < RVL_WEBSOCKET_BODY ? a->body.length : RVL_WEBSOCKET_BODY);
  rvl_websocket_client_drop(&box->client);
  return 4;
}

/* nil, "timeout", seconds; nil, "protocol", what is wrong */
static int push_no_answer(lua_State *L, socket_box *box, const char *kind, const char *why) {
  rvl_websocket_client_drop(&box->client);
  lua_pushnil(L);
  lua_pushstring(L, kind);
  if (why != NULL) lua_pushstring(L, why);
  else lua_pushnumber(L, (lua_Number)box->limit / 1e9);
  return 3;
}

static bool has_refused(const rvl_http1 *a) {
  return a->status != 101 && (a->state == RVL_HTTP1_DONE || a->state > RVL_HTTP1_HEAD) && a->status >= 200 &&
         a->head.length > 0 && (a->state != RVL_HTTP1_BAD || a->limit == 0);
}

/* Stack: socket, request, key, protocols, max_message, seconds. */
static int accept_answer(lua_State *L, socket_box *box) {
  rvl_websocket_client *c = &box->client;
  rvl_websocket_offer offer = {lua_tostring(L, 3), lua_tostring(L, 4)};
  const char *protocol;
  size_t length;
  const char *why = rvl_websocket_judge_answer(&c->answer, &offer, &protocol, &length);
  if (why != NULL) return push_no_answer(L, box, "protocol", why);
  lua_pushboolean(L, 1);
  lua_pushlstring(L, c->answer.head.data, c->answer.head.length);
  if (protocol != NULL) lua_pushlstring(L, protocol, length);
  else lua_pushnil(L);
  if (!rvl_websocket_client_begin(c, open_wslay(L, box->waiting.rt), check_max_message(L, 5))) {
    rvl_websocket_client_drop(c);
    return luaL_error(L, "not enough memory");
  }
  return 3;
}

static int handshake_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  rvl_websocket_client *c = &box->client;
  bool late = status == LUA_YIELD && opening_woken(L, box) == RVL_WOKEN_TIMER;
  if (c->starved) {
    rvl_websocket_client_drop(c);
    return luaL_error(L, "not enough memory");
  }
  const rvl_http1 *a = &c->answer;
  if (!c->duplex.open) return push_no_answer(L, box, "closed", "it was closed before it was open");
  if (c->answered && a->state == RVL_HTTP1_DONE && a->status == 101) return accept_answer(L, box);
  if (c->answered && has_refused(a)) return push_refusal(L, box);
  if (c->answered) return push_no_answer(L, box, "protocol", a->error != NULL ? a->error : "that is no answer");
  if (late) return push_no_answer(L, box, "timeout", NULL);
  return rvl_wait_counted(L, &box->waiting, &box->changed, rvl_seconds_until(box->due), ctx, handshake_k);
}

/*
** handshake(request, key, protocols, max_message, seconds) → true, head of the answer, subprotocol;
** nil, status, head, body: the server wants something else; nil, kind, message: there is no proper answer
*/
static int socket_handshake(lua_State *L) {
  socket_box *box = check_socket(L);
  size_t length;
  const char *request = luaL_checklstring(L, 2, &length);
  luaL_checkstring(L, 3);
  luaL_optstring(L, 4, NULL);
  check_max_message(L, 5);
  set_limit(box, check_nanoseconds(L, 6));
  rvl_runtime_loop(L, box->waiting.rt);
  if (box->client.asked) return luaL_error(L, "the handshake has been made");
  if (!rvl_websocket_client_ask(&box->client, request, length)) return luaL_error(L, "not enough memory");
  return handshake_k(L, LUA_OK, (lua_KContext)box);
}

/* ---- an open socket ---------------------------------------------------------------------------------- */

static socket_box *check_open_socket(lua_State *L) {
  socket_box *box = check_socket(L);
  if (box->client.endpoint == NULL) luaL_error(L, "the socket is not open");
  rvl_runtime_loop(L, box->waiting.rt);
  return box;
}

/* nil and how it ended: as push_state, or "dropped" */
static int push_end(lua_State *L, const socket_box *box) {
  const rvl_websocket_state *s = rvl_websocket_state_of(box->client.endpoint);
  lua_pushnil(L);
  if (box->client.starved) return luaL_error(L, "not enough memory");
  if (s->close_received || s->failure != 0) return 1 + push_state(L, s);
  lua_pushstring(L, s->close_sent ? "gone" : "dropped");
  return 2;
}

/* Stack: socket, due (ns; 0: never). */
static int receive_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  rvl_websocket_client *c = &box->client;
  bool late = status == LUA_YIELD && rvl_waited(L, &box->waiting) == RVL_WOKEN_TIMER;
  const rvl_websocket_state *s = rvl_websocket_state_of(c->endpoint);
  if (s->first != NULL) {
    int n = push_message(L, c->endpoint);
    if (!rvl_websocket_client_update(c)) return luaL_error(L, "not enough memory");
    return n;
  }
  if (rvl_websocket_client_is_over(c) || s->close_sent) return push_end(L, box);
  if (late) {
    lua_pushnil(L);
    lua_pushliteral(L, "timeout");
    return 2;
  }
  lua_Number seconds = rvl_seconds_until((uint64_t)lua_tointeger(L, 2));
  return rvl_wait_counted(L, &box->waiting, &box->changed, seconds, ctx, receive_k);
}

static void push_due(lua_State *L, int arg) {
  lua_Number seconds = luaL_optnumber(L, arg, -1);
  lua_settop(L, arg - 1);
  lua_pushinteger(L, seconds >= 0 && seconds < 9e9 ? (lua_Integer)(rvl_now() + (uint64_t)(seconds * 1e9)) : 0);
}

/* receive([seconds]) → message, its kind; nil, "timeout"; nil and how it ended */
static int socket_receive(lua_State *L) {
  socket_box *box = check_open_socket(L);
  push_due(L, 2);
  return receive_k(L, LUA_OK, (lua_KContext)box);
}

static int send_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  rvl_websocket_client *c = &box->client;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  const rvl_websocket_state *s = rvl_websocket_state_of(c->endpoint);
  if (rvl_websocket_client_is_over(c) || s->close_sent) return push_end(L, box);
  if (rvl_duplex_unsent(&c->duplex) > UNSENT_AT_MOST)
    return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, send_k);
  lua_pushboolean(L, 1);
  return 1;
}

/* send(bytes, kind) → true; nil and how it ended. Waits while much has not gone out. */
static int socket_send(lua_State *L) {
  socket_box *box = check_open_socket(L);
  size_t length;
  const char *data = luaL_checklstring(L, 2, &length);
  rvl_websocket_kind kind = check_kind(L, 3);
  luaL_argcheck(L, kind <= RVL_WEBSOCKET_BINARY || length <= RVL_WEBSOCKET_CONTROL, 2, "at most 125 bytes");
  rvl_websocket_client *c = &box->client;
  if (rvl_websocket_client_is_over(c)) return push_end(L, box);
  rvl_websocket_result result = rvl_websocket_send(c->endpoint, kind, data, length);
  if (result == RVL_WEBSOCKET_NO_MEMORY || !rvl_websocket_client_update(c)) return luaL_error(L, "not enough memory");
  return send_k(L, LUA_OK, (lua_KContext)box);
}

/* Stack: socket, the payload, due. */
static int pong_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  bool late = status == LUA_YIELD && rvl_waited(L, &box->waiting) == RVL_WOKEN_TIMER;
  const rvl_websocket_state *s = rvl_websocket_state_of(box->client.endpoint);
  size_t length;
  const char *wanted = lua_tolstring(L, 2, &length);
  bool came = s->pongs > 0 && s->pong_length == length && memcmp(s->pong, wanted, length) == 0;
  if (came) {
    lua_pushboolean(L, 1);
    return 1;
  }
  if (rvl_websocket_client_is_over(&box->client)) return push_end(L, box);
  if (late) {
    lua_pushnil(L);
    lua_pushliteral(L, "timeout");
    return 2;
  }
  lua_Number seconds = rvl_seconds_until((uint64_t)lua_tointeger(L, 3));
  return rvl_wait_counted(L, &box->waiting, &box->changed, seconds, ctx, pong_k);
}

/* wait_pong(payload, seconds) → true when the last pong said so; nil, "timeout"; nil and how it ended */
static int socket_wait_pong(lua_State *L) {
  socket_box *box = check_open_socket(L);
  luaL_checkstring(L, 2);
  push_due(L, 3);
  return pong_k(L, LUA_OK, (lua_KContext)box);
}

/* Stack: socket, due. */
static int close_k(lua_State *L, int status, lua_KContext ctx) {
  socket_box *box = (socket_box *)ctx;
  rvl_websocket_client *c = &box->client;
  bool given_up = status == LUA_YIELD && box->waiting.rt->current->woken != RVL_WOKEN_SIGNAL;
  if (given_up || !c->duplex.open) rvl_websocket_client_drop(c);
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  if (!c->duplex.open) return push_end(L, box);
  lua_Number seconds = rvl_seconds_until((uint64_t)lua_tointeger(L, 2));
  return rvl_wait_counted(L, &box->waiting, &box->changed, seconds, ctx, close_k);
}

/* close(code, reason, seconds): sends a close frame and waits until the server has closed too → as push_end */
static int socket_close(lua_State *L) {
  socket_box *box = check_open_socket(L);
  rvl_websocket_client *c = &box->client;
  lua_Integer code = luaL_checkinteger(L, 2);
  size_t length;
  const char *reason = luaL_checklstring(L, 3, &length);
  luaL_argcheck(L, code >= 0 && code <= 4999, 2, "a close code");
  lua_Number seconds = luaL_checknumber(L, 4);
  rvl_websocket_drop(c->endpoint);
  if (c->duplex.open) {
    rvl_websocket_result result = rvl_websocket_close(c->endpoint, (unsigned)code, reason, length);
    if (result == RVL_WEBSOCKET_NO_MEMORY || !rvl_websocket_client_update(c)) rvl_websocket_client_drop(c);
  }
  rvl_signal_fire(&box->changed);   /* for those who wait to receive or to send */
  lua_pushnumber(L, seconds);
  lua_replace(L, 2);
  lua_settop(L, 2);
  push_due(L, 2);
  return close_k(L, LUA_OK, (lua_KContext)box);
}

/* drop(): closes the connection at once */
static int socket_drop(lua_State *L) {
  socket_box *box = check_socket(L);
  rvl_websocket_client_drop(&box->client);
  rvl_signal_fire(&box->changed);
  return 0;
}

/* status() → "open", "closed", "failed" with what belongs to it, "gone" (closed here) or "dropped" */
static int socket_status(lua_State *L) {
  const socket_box *box = check_socket(L);
  if (box->client.endpoint == NULL) {
    lua_pushliteral(L, "dropped");
    return 1;
  }
  const rvl_websocket_state *s = rvl_websocket_state_of(box->client.endpoint);
  if (s->close_received || s->failure != 0) return push_state(L, s);
  lua_pushstring(L, s->close_sent ? "gone" : box->client.duplex.open ? "open" : "dropped");
  return 1;
}

static int socket_gc(lua_State *L) {
  socket_box *box = check_socket(L);
  rvl_websocket_client_free(&box->client);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

/* ---- an endpoint alone ------------------------------------------------------------------------------- */

static rvl_websocket *check_endpoint(lua_State *L) {
  const endpoint_box *box = luaL_checkudata(L, 1, ENDPOINT);
  if (box->endpoint == NULL) luaL_error(L, "the endpoint has been freed");
  return box->endpoint;
}

/* endpoint(role, max_message): role "client" or "server" */
static int endpoint_new(lua_State *L) {
  static const char *const roles[] = {"client", "server", NULL};
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  rvl_websocket_role role = luaL_checkoption(L, 1, NULL, roles) == 0 ? RVL_WEBSOCKET_CLIENT : RVL_WEBSOCKET_SERVER;
  size_t max_message = check_max_message(L, 2);
  const rvl_wslay_api *wslay = open_wslay(L, rt);
  endpoint_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->endpoint = NULL;
  luaL_setmetatable(L, ENDPOINT);
  box->endpoint = rvl_websocket_new(wslay, role, max_message);
  return box->endpoint != NULL ? 1 : luaL_error(L, "not enough memory");
}

/* feed(bytes[, congested]): takes what came in; congested: what was put out has still not gone out */
static int endpoint_feed(lua_State *L) {
  rvl_websocket *w = check_endpoint(L);
  size_t length;
  const char *data = luaL_checklstring(L, 2, &length);
  bool ok = rvl_websocket_set_congested(w, lua_toboolean(L, 3)) && rvl_websocket_feed(w, data, length);
  return ok ? 0 : luaL_error(L, "not enough memory");
}

/* output() → the bytes to be sent, which are then forgotten */
static int endpoint_output(lua_State *L) {
  rvl_websocket *w = check_endpoint(L);
  if (!rvl_websocket_set_congested(w, false)) return luaL_error(L, "not enough memory");
  rvl_bytes *out = rvl_websocket_output(w);
  lua_pushlstring(L, out->data, out->length);
  rvl_bytes_free(out);
  return 1;
}

/* next() → the oldest message, its kind; nothing: there is none */
static int endpoint_next(lua_State *L) {
  rvl_websocket *w = check_endpoint(L);
  return rvl_websocket_state_of(w)->first != NULL ? push_message(L, w) : 0;
}

/* queued() → what it takes to keep the messages that have not been taken, in bytes */
static int endpoint_queued(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)rvl_websocket_state_of(check_endpoint(L))->queued);
  return 1;
}

static int push_result(lua_State *L, rvl_websocket_result result) {
  if (result == RVL_WEBSOCKET_NO_MEMORY) return luaL_error(L, "not enough memory");
  lua_pushboolean(L, result == RVL_WEBSOCKET_OK);
  return 1;
}

/* send(bytes, kind) → whether it could be: not after a close frame */
static int endpoint_send(lua_State *L) {
  rvl_websocket *w = check_endpoint(L);
  size_t length;
  const char *data = luaL_checklstring(L, 2, &length);
  rvl_websocket_kind kind = check_kind(L, 3);
  luaL_argcheck(L, kind <= RVL_WEBSOCKET_BINARY || length <= RVL_WEBSOCKET_CONTROL, 2, "at most 125 bytes");
  return push_result(L, rvl_websocket_send(w, kind, data, length));
}

/* close(code, reason) → whether it was the first */
static int endpoint_close(lua_State *L) {
  rvl_websocket *w = check_endpoint(L);
  lua_Integer code = luaL_checkinteger(L, 2);
  size_t length;
  const char *reason = luaL_checklstring(L, 3, &length);
  luaL_argcheck(L, code >= 0 && code <= 4999, 2, "a close code");
  rvl_websocket_drop(w);
  return push_result(L, rvl_websocket_close(w, (unsigned)code, reason, length));
}

/* status() → "open", "sent" (a close frame), "closed" or "failed" with what belongs to it */
static int endpoint_status(lua_State *L) {
  const rvl_websocket_state *s = rvl_websocket_state_of(check_endpoint(L));
  if (s->close_received || s->failure != 0 || !s->close_sent) return push_state(L, s);
  lua_pushliteral(L, "sent");
  return 1;
}

/* pong() → how many came, what the last one said */
static int endpoint_pong(lua_State *L) {
  const rvl_websocket_state *s = rvl_websocket_state_of(check_endpoint(L));
  lua_pushinteger(L, (lua_Integer)s->pongs);
  lua_pushlstring(L, s->pong, s->pong_length);
  return 2;
}

static int endpoint_gc(lua_State *L) {
  endpoint_box *box = luaL_checkudata(L, 1, ENDPOINT);
  rvl_websocket_free(box->endpoint);
  box->endpoint = NULL;
  return 0;
}

/* ---- the module -------------------------------------------------------------------------------------- */

/* accept(key) → the value of Sec-WebSocket-Accept */
static int accept_value(lua_State *L) {
  size_t length;
  const char *key = luaL_checklstring(L, 1, &length);
  char accept[RVL_WEBSOCKET_ACCEPT_SIZE];
  rvl_websocket_accept(key, length, accept);
  lua_pushlstring(L, accept, sizeof accept);
  return 1;
}

/* is_text(bytes) → whether they are UTF-8 */
static int is_text(lua_State *L) {
  size_t length;
  const char *data = luaL_checklstring(L, 1, &length);
  lua_pushboolean(L, rvl_websocket_is_text(data, length));
  return 1;
}

/* is_close_code(code) → whether a close frame may carry it */
static int is_close_code(lua_State *L) {
  lua_Integer code = luaL_checkinteger(L, 1);
  lua_pushboolean(L, code > 0 && code <= 4999 && rvl_websocket_is_close_code((unsigned)code));
  return 1;
}

int rvl_open_websocket(lua_State *L) {
  static const luaL_Reg socket_methods[] = {
      {"handshake", socket_handshake}, {"receive", socket_receive}, {"send", socket_send},
      {"wait_pong", socket_wait_pong}, {"close", socket_close},     {"drop", socket_drop},
      {"status", socket_status},       {NULL, NULL}};
  static const luaL_Reg socket_meta[] = {{"__gc", socket_gc}, {"__close", socket_drop}, {NULL, NULL}};
  static const luaL_Reg endpoint_methods[] = {
      {"feed", endpoint_feed},   {"output", endpoint_output}, {"next", endpoint_next},     {"queued", endpoint_queued},
      {"send", endpoint_send},   {"close", endpoint_close},   {"status", endpoint_status}, {"pong", endpoint_pong},
      {NULL, NULL}};
  static const luaL_Reg endpoint_meta[] = {{"__gc", endpoint_gc}, {"__close", endpoint_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open", socket_open},           {"endpoint", endpoint_new},
                                       {"accept", accept_value},        {"is_text", is_text},
                                       {"is_close_code", is_close_code}, {NULL, NULL}};
  rvl_new_class(L, SOCKET, socket_methods, socket_meta);
  rvl_new_class(L, ENDPOINT, endpoint_methods, endpoint_meta);
  rvl_new_functions(L, functions);
  return 1;
}
