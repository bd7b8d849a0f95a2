/*
** riverlua.core.listener: listening sockets for lua/riverlua/server.lua, and requests read from their connections.
** Accepting, reading and writing wait as all blocking calls do: other tasks go on, a cancelled task stops waiting.
*/
#include "http1_request.h"
#include "listener.h"
#include "lua_listen.h"
#include "runtime.h"

#include <netinet/in.h>
#include <string.h>

#define LISTENER "riverlua.Listener"
#define CONNECTION "riverlua.Connection"

#define RETRY_SECONDS 0.1     /* no descriptor is free: one may be closed by somebody else */
#define FINISH_SECONDS 2      /* what a client gets to take the last answer */
#define KEPT_ROOM (64u * 1024u)
#define SMALL_BODY (64u * 1024u)   /* bodies up to this are read without asking, and not counted */

/* Seconds; 0: no limit. */
typedef struct limits {
  lua_Number idle, head, body, write;
  rvl_http1_limits sizes;
} limits;

typedef struct listener_box {
  rvl_listener listener;   /* first: notify gets only this */
  rvl_signal changed;
  rvl_wait_count waiting;
  limits limits;
  size_t bodies, max_bodies;   /* bytes of large bodies that are in memory, or with a handler */
  bool announces;              /* whether requests with a large body are handed over before it is read */
} listener_box;

typedef enum phase { PHASE_IDLE, PHASE_HEAD, PHASE_BODY } phase;

typedef struct connection_box {
  rvl_connection connection;   /* first: notify gets only this */
  rvl_signal changed;
  rvl_wait_count waiting;
  listener_box *owner;         /* the user value keeps it */
  rvl_http1_request request;
  phase phase;
  bool reading;                /* a request has been begun and not been handed over */
  bool announced;              /* its head has been handed over */
  size_t counted;              /* its part of the listener's `bodies` */
  uint64_t due;                /* when the phase must be over; 0: never */
} connection_box;

static listener_box *check_listener(lua_State *L) { return luaL_checkudata(L, 1, LISTENER); }
static connection_box *check_connection(lua_State *L) { return luaL_checkudata(L, 1, CONNECTION); }

/* ---- waiting -------------------------------------------------------------------------------------------- */

static uint64_t due_in(lua_Number seconds) {
  return seconds > 0 && seconds < 9e9 ? rvl_now() + (uint64_t)(seconds * 1e9) : 0;
}

/* ---- the listener ---------------------------------------------------------------------------------------- */

static void on_listener(rvl_listener *l) { rvl_signal_fire(&((listener_box *)l)->changed); }

/*
** listen{host=, port=, backlog=, max_connections=, idle_timeout=, head_timeout=, body_timeout=, write_timeout=,
** max_target=, max_head=, max_headers=, max_body=, max_bodies=, announces=}; all sizes are wanted, seconds may be left
** out: no limit
*/
static int listen_new(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "host");
  const char *host = luaL_checkstring(L, 2);
  size_t port = rvl_listen_size(L, "port"), backlog = rvl_listen_size(L, "backlog");
  luaL_argcheck(L, port <= 65535, 1, "a port is at most 65535");
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  listener_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  memset(box, 0, sizeof *box);
  box->waiting.rt = rt;
  box->listener.socket.fd = -1;
  box->listener.notify = on_listener;
  box->listener.max_open = (unsigned)rvl_listen_size(L, "max_connections");
  box->limits = (limits){
      .idle = rvl_listen_seconds(L, "idle_timeout"),
      .head = rvl_listen_seconds(L, "head_timeout"),
      .body = rvl_listen_seconds(L, "body_timeout"),
      .write = rvl_listen_seconds(L, "write_timeout"),
      .sizes = {.target = rvl_listen_size(L, "max_target"), .head = rvl_listen_size(L, "max_head"),
                .headers = rvl_listen_size(L, "max_headers"), .body = rvl_listen_size(L, "max_body")},
  };
  box->max_bodies = rvl_listen_size(L, "max_bodies");
  lua_getfield(L, 1, "announces");
  box->announces = lua_toboolean(L, -1);
  lua_pop(L, 1);
  luaL_setmetatable(L, LISTENER);
  int err = rvl_listener_open(&box->listener, loop, host, (unsigned)port, backlog < 4096 ? (int)backlog : 4096);
  return err == 0 ? 1 : rvl_listen_raise(L, host, (unsigned)port, err);
}

static int listener_port(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_listener(L)->listener.port);
  return 1;
}

/* open() → how many connections there are */
static int listener_open(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_listener(L)->listener.open);
  return 1;
}

static int listener_close(lua_State *L) {
  listener_box *box = check_listener(L);
  rvl_listener_close(&box->listener);
  rvl_signal_fire(&box->changed);
  return 0;
}

static int listener_gc(lua_State *L) {
  listener_box *box = check_listener(L);
  rvl_listener_close(&box->listener);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

static void on_connection(rvl_connection *c) { rvl_signal_fire(&((connection_box *)c)->changed); }

/* Stack: listener, [the connection to be]. */
static int accept_k(lua_State *L, int status, lua_KContext ctx) {
  listener_box *box = (listener_box *)ctx;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  connection_box *c = lua_touserdata(L, 2);
  if (c == NULL) {   /* memory first: a connection that was accepted must not be lost */
    c = lua_newuserdatauv(L, sizeof *c, 1);
    memset(c, 0, sizeof *c);
    c->connection.socket.fd = -1;
    c->waiting.rt = box->waiting.rt;
    c->owner = box;
    luaL_setmetatable(L, CONNECTION);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, 2, 1);
  }
  lua_settop(L, 2);
  if (box->listener.socket.fd < 0) {
    lua_pushnil(L);
    return 1;
  }
  rvl_runtime_loop(L, box->waiting.rt);
  int err = rvl_listener_accept(&box->listener, &c->connection, on_connection);
  if (err == 0) return 1;
  return rvl_wait_counted(L, &box->waiting, &box->changed, err == UV_EAGAIN ? -1 : RETRY_SECONDS, ctx, accept_k);
}

/* accept() → the next connection; nil once the listener is closed */
static int listener_accept(lua_State *L) {
  listener_box *box = check_listener(L);
  lua_settop(L, 1);
  return accept_k(L, LUA_OK, (lua_KContext)box);
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

/* A large body counts until the next request: a handler may still have it. */
static void count_body(connection_box *box, size_t length) {
  size_t counts = length > SMALL_BODY ? length : 0;
  box->owner->bodies += counts - box->counted;
  box->counted = counts;
}

static void free_request(connection_box *box) {
  rvl_http1_request_free(&box->request);
  count_body(box, 0);
}

static void begin_request(connection_box *box) {
  count_body(box, 0);
  rvl_http1_request_begin(&box->request, &box->owner->limits.sizes);
  box->reading = true;
  box->announced = false;
  box->phase = PHASE_IDLE;
  box->due = 0;
}

/* A phase has its own deadline, however many bytes come meanwhile. */
static void update_phase(connection_box *box) {
  const rvl_http1_request *r = &box->request;
  phase now = rvl_http1_request_is_fresh(r) ? PHASE_IDLE : r->state < RVL_HTTP1_REQUEST_BODY ? PHASE_HEAD : PHASE_BODY;
  if (now == box->phase && box->due != 0) return;
  const limits *l = &box->owner->limits;
  box->phase = now;
  box->due = due_in(now == PHASE_IDLE ? l->idle : now == PHASE_HEAD ? l->head : l->body);
}

static int push_refusal(lua_State *L, connection_box *box, int status, const char *error) {
  box->reading = false;
  free_request(box);
  lua_pushnil(L);
  if (status == 0) return 1;
  lua_pushinteger(L, status);
  lua_pushstring(L, error);
  return 3;
}

/* The request, or its head when the body is still to come. */
static int push_request(lua_State *L, connection_box *box) {
  rvl_http1_request *r = &box->request;
  const char *head = r->head.data;
  bool whole = r->state == RVL_HTTP1_REQUEST_DONE;
  lua_pushlstring(L, head, r->method_length);
  lua_pushlstring(L, head + r->target, r->target_length);
  if (whole && r->has_body) lua_pushlstring(L, r->body.data, r->body.length);
  else lua_pushnil(L);
  lua_pushlstring(L, head + r->headers, r->headers_length);
  lua_pushboolean(L, r->keep_alive);
  lua_pushinteger(L, r->minor);
  lua_pushboolean(L, rvl_connection_available(&box->connection) > 0);
  lua_pushboolean(L, whole);
  box->reading = !whole;
  box->announced = true;
  if (whole && r->body.room > KEPT_ROOM) rvl_bytes_free(&r->body);
  return 8;
}

static bool feed(connection_box *box) {
  rvl_connection *c = &box->connection;
  size_t available = rvl_connection_available(c), taken = 0;
  if (available == 0) return true;
  bool ok = rvl_http1_request_feed(&box->request, c->in.data + c->taken, available, &taken);
  rvl_connection_take(c, taken);
  count_body(box, box->request.body.length);
  return ok;
}

/* Whether somebody wants to see the head before the rest of a large body is read. */
static bool is_to_be_announced(const connection_box *box) {
  const rvl_http1_request *r = &box->request;
  if (!box->owner->announces || box->announced || r->state < RVL_HTTP1_REQUEST_BODY) return false;
  bool counts = r->state == RVL_HTTP1_REQUEST_BODY || r->state == RVL_HTTP1_REQUEST_CHUNK;
  return r->body.length + (counts ? r->remaining : 0) > SMALL_BODY;
}

static int request_k(lua_State *L, int status, lua_KContext ctx) {
  connection_box *box = (connection_box *)ctx;
  rvl_connection *c = &box->connection;
  rvl_http1_request *r = &box->request;
  bool late = status == LUA_YIELD && rvl_waited(L, &box->waiting) == RVL_WOKEN_TIMER;
  if (!feed(box)) return luaL_error(L, "not enough memory");
  if (r->state == RVL_HTTP1_REQUEST_BAD) return push_refusal(L, box, r->status, r->error);
  if (box->counted > 0 && box->owner->bodies > box->owner->max_bodies)
    return push_refusal(L, box, 503, "too many large requests at once");
  if (r->state == RVL_HTTP1_REQUEST_DONE || is_to_be_announced(box)) return push_request(L, box);
  if (c->ended) return push_refusal(L, box, 0, NULL);
  if (late && box->due != 0 && rvl_now() >= box->due)
    return push_refusal(L, box, box->phase == PHASE_IDLE ? 0 : 408, "the request did not come in time");
  update_phase(box);
  if (r->expects_continue && rvl_connection_available(c) == 0) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    r->expects_continue = false;
    if (r->body.length == 0 && !rvl_connection_send(c, go_on, sizeof go_on - 1, NULL, 0))
      return luaL_error(L, "not enough memory");
  }
  rvl_connection_flush(c);
  return rvl_wait_counted(L, &box->waiting, &box->changed, rvl_seconds_until(box->due), ctx, request_k);
}

/*
** next_request() → method, target, body (nil: none), header lines, whether another request may follow, minor version,
** whether it has begun to come, true;
** the same with false at the end: a large body is still to come, the next call goes on with it;
** nil: the client has gone, or was idle for too long;
** nil, status, message: what came is no request and shall be refused so
*/
static int connection_next_request(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_runtime_loop(L, box->waiting.rt);
  lua_settop(L, 1);
  if (!box->reading) begin_request(box);
  return request_k(L, LUA_OK, (lua_KContext)box);
}

/* has_begun() → whether part of a request has come that has not been handed over */
static int connection_has_begun(lua_State *L) {
  const connection_box *box = check_connection(L);
  bool inside = box->reading && !rvl_http1_request_is_fresh(&box->request);
  lua_pushboolean(L, inside || rvl_connection_available(&box->connection) > 0);
  return 1;
}

/* ---- bytes -------------------------------------------------------------------------------------------------- */

static int read_k(lua_State *L, int status, lua_KContext ctx) {
  connection_box *box = (connection_box *)ctx;
  rvl_connection *c = &box->connection;
  bool late = status == LUA_YIELD && rvl_waited(L, &box->waiting) == RVL_WOKEN_TIMER;
  size_t available = rvl_connection_available(c);
  if (available > 0) {
    lua_pushlstring(L, c->in.data + c->taken, available);
    rvl_connection_take(c, available);
    return 1;
  }
  if (c->ended) {
    lua_pushnil(L);
    return 1;
  }
  if (late) return rvl_raise(L, "timeout", NULL, "the client sent nothing within %f s", lua_tonumber(L, 2));
  return rvl_wait_counted(L, &box->waiting, &box->changed, luaL_optnumber(L, 2, -1), ctx, read_k);
}

/* read([seconds]) → the next bytes; nil: the client sends nothing more. Raises kind "timeout". */
static int connection_read(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_runtime_loop(L, box->waiting.rt);
  return read_k(L, LUA_OK, (lua_KContext)box);
}

static int write_k(lua_State *L, int status, lua_KContext ctx) {
  connection_box *box = (connection_box *)ctx;
  rvl_connection *c = &box->connection;
  lua_Number limit = box->owner->limits.write;
  uint64_t due = limit > 0 && limit < 9e9 ? c->progress + (uint64_t)(limit * 1e9) : 0;
  bool late = status == LUA_YIELD && rvl_waited(L, &box->waiting) == RVL_WOKEN_TIMER;
  if (late && due != 0 && rvl_now() >= due) rvl_connection_close(c);   /* the client does not read */
  if (c->broken || c->held || rvl_connection_unsent(c) == 0) {
    lua_pushboolean(L, !c->broken);
    return 1;
  }
  return rvl_wait_counted(L, &box->waiting, &box->changed, rvl_seconds_until(due), ctx, write_k);
}

/*
** write(bytes[, more bytes[, hold]]) → whether the client still listens; waits until it has made room for all.
** hold: the next write follows at once; what is small then goes out with it.
*/
static int connection_write(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_connection *c = &box->connection;
  size_t first_length, second_length = 0;
  const char *first = luaL_checklstring(L, 2, &first_length);
  const char *second = luaL_optlstring(L, 3, NULL, &second_length);
  rvl_runtime_loop(L, box->waiting.rt);
  if (rvl_connection_unsent(c) == 0) c->progress = rvl_now();
  bool ok = lua_toboolean(L, 4) ? rvl_connection_hold(c, first, first_length, second, second_length)
                                : rvl_connection_send(c, first, first_length, second, second_length);
  if (!ok) return luaL_error(L, "not enough memory");
  return write_k(L, LUA_OK, (lua_KContext)box);
}

static int gone_k(lua_State *L, int status, lua_KContext ctx) {
  connection_box *box = (connection_box *)ctx;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  if (box->connection.ended || box->connection.broken) return 0;
  return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, gone_k);
}

/* wait_gone(): waits until the client sends nothing more, or the connection is closed */
static int connection_wait_gone(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_runtime_loop(L, box->waiting.rt);
  return gone_k(L, LUA_OK, (lua_KContext)box);
}

static int finish_k(lua_State *L, int status, lua_KContext ctx) {
  connection_box *box = (connection_box *)ctx;
  rvl_connection *c = &box->connection;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  bool over = c->broken || (c->ended && rvl_connection_unsent(c) == 0) || rvl_now() >= box->due;
  if (!over) return rvl_wait_counted(L, &box->waiting, &box->changed, rvl_seconds_until(box->due), ctx, finish_k);
  rvl_connection_close(c);
  return 0;
}

/*
** finish([seconds]): ends the connection so that the client gets what was written: closing it while the client still
** sends would make its system throw that away. It has so long to take it (default: 2 s).
*/
static int connection_finish(lua_State *L) {
  connection_box *box = check_connection(L);
  if (box->connection.socket.fd < 0) return 0;
  rvl_runtime_loop(L, box->waiting.rt);
  free_request(box);
  box->due = due_in(luaL_optnumber(L, 2, FINISH_SECONDS));
  rvl_connection_finish(&box->connection);
  return finish_k(L, LUA_OK, (lua_KContext)box);
}

/* address() → the client's, or nil */
static int connection_address(lua_State *L) {
  char text[INET6_ADDRSTRLEN + 32];
  if (!rvl_connection_address(&check_connection(L)->connection, text, sizeof text)) return 0;
  lua_pushstring(L, text);
  return 1;
}

static int connection_close(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_connection_close(&box->connection);
  free_request(box);
  rvl_signal_fire(&box->changed);
  return 0;
}

static int connection_gc(lua_State *L) {
  connection_box *box = check_connection(L);
  rvl_connection_close(&box->connection);
  free_request(box);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

int rvl_open_listener(lua_State *L) {
  static const luaL_Reg listener_methods[] = {{"accept", listener_accept}, {"port", listener_port},
                                              {"open", listener_open},     {"close", listener_close},
                                              {NULL, NULL}};
  static const luaL_Reg listener_meta[] = {{"__gc", listener_gc}, {"__close", listener_close}, {NULL, NULL}};
  static const luaL_Reg connection_methods[] = {
      {"next_request", connection_next_request}, {"has_begun", connection_has_begun}, {"read", connection_read},
      {"write", connection_write},               {"wait_gone", connection_wait_gone}, {"finish", connection_finish},
      {"address", connection_address},           {"close", connection_close},         {NULL, NULL}};
  static const luaL_Reg connection_meta[] = {{"__gc", connection_gc}, {"__close", connection_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"listen", listen_new}, {"signals", rvl_signals_new}, {NULL, NULL}};
  rvl_new_class(L, LISTENER, listener_methods, listener_meta);
  rvl_new_class(L, CONNECTION, connection_methods, connection_meta);
  rvl_open_signals(L);
  rvl_new_functions(L, functions);
  return 1;
}
