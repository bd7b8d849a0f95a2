/* riverlua.core.grpc_server: listening gRPC servers and their calls for lua/riverlua/grpc_server.lua. */
#include "grpc_server.h"
#include "lua_listen.h"
#include "lua_metadata.h"
#include "runtime.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define SERVER "riverlua.GrpcServer"
#define CALL "riverlua.GrpcServed"

/* user values of a call: its server, and the message that is being sent */
enum { KEEP_SERVER = 1, KEEP_MESSAGE, CALL_KEPT = KEEP_MESSAGE };

typedef struct server_box {
  rvl_grpc_server server;   /* first: notify gets only this */
  rvl_signal changed;
  rvl_wait_count waiting;
} server_box;

typedef struct call_box {
  rvl_grpc_served *served;  /* NULL: released */
  rvl_grpc_message *message;
  rvl_signal changed;
  rvl_wait_count waiting;
} call_box;

static server_box *check_server(lua_State *L) { return luaL_checkudata(L, 1, SERVER); }
static call_box *check_call(lua_State *L) { return luaL_checkudata(L, 1, CALL); }

/* ---- the server --------------------------------------------------------------------------------------- */

static void on_server(rvl_grpc_server *s) { rvl_signal_fire(&((server_box *)s)->changed); }

static uint64_t ns_field(lua_State *L, const char *name) {
  lua_Number seconds = rvl_listen_seconds(L, name);
  return seconds > 0 && seconds < 9e9 ? (uint64_t)(seconds * 1e9) : 0;
}

static uint32_t count_field(lua_State *L, const char *name) {
  size_t n = rvl_listen_size(L, name);
  return n < INT32_MAX ? (uint32_t)n : INT32_MAX;
}

/*
** listen{host=, port=, backlog=, max_connections=, max_streams=, max_calls=, max_headers=, max_message=,
** max_requests=, handshake_timeout=, head_timeout=, request_timeout=, idle_timeout=, write_timeout=}; all sizes
** are wanted, seconds may be left out: no limit
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
  const rvl_grpc_server_options options = {
      .max_message = rvl_listen_size(L, "max_message"),
      .max_requests = rvl_listen_size(L, "max_requests"),
      .max_streams = count_field(L, "max_streams"),
      .max_headers = count_field(L, "max_headers"),
      .max_calls = count_field(L, "max_calls"),
      .handshake = ns_field(L, "handshake_timeout"),
      .head = ns_field(L, "head_timeout"),
      .request = ns_field(L, "request_timeout"),
      .idle = ns_field(L, "idle_timeout"),
      .write = ns_field(L, "write_timeout"),
  };
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  server_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  memset(box, 0, sizeof *box);
  box->waiting.rt = rt;
  box->server.notify = on_server;
  box->server.listener.max_open = count_field(L, "max_connections");
  luaL_setmetatable(L, SERVER);
  int err = rvl_grpc_server_open(&box->server, loop, &options, host, (unsigned)port,
                                 backlog < 4096 ? (int)backlog : 4096);
  return err == 0 ? 1 : rvl_listen_raise(L, host, (unsigned)port, err);
}

static int server_port(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_server(L)->server.listener.port);
  return 1;
}

/* stats() → connections and calls so far, connections that are open, calls under way, bytes of requests */
static int server_stats(lua_State *L) {
  const rvl_grpc_server *s = &check_server(L)->server;
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, (lua_Integer)s->stats.connections);
  lua_setfield(L, -2, "connections");
  lua_pushinteger(L, (lua_Integer)s->stats.calls);
  lua_setfield(L, -2, "calls");
  lua_pushinteger(L, s->stats.open);
  lua_setfield(L, -2, "open");
  lua_pushinteger(L, s->stats.in_flight);
  lua_setfield(L, -2, "in_flight");
  lua_pushinteger(L, (lua_Integer)s->budget.used);
  lua_setfield(L, -2, "bytes");
  return 1;
}

/* stop(): takes no new connections and calls; those under way go on */
static int server_stop(lua_State *L) {
  rvl_grpc_server_stop(&check_server(L)->server);
  return 0;
}

static int server_close(lua_State *L) {
  rvl_grpc_server_close(&check_server(L)->server);
  return 0;
}

static int server_gc(lua_State *L) {
  server_box *box = check_server(L);
  rvl_grpc_server_close(&box->server);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

static void on_served(rvl_grpc_served *served) { rvl_signal_fire(&((call_box *)served->user)->changed); }

/* Stack: server, a box for the next call. */
static int next_k(lua_State *L, int status, lua_KContext ctx) {
  server_box *box = (server_box *)ctx;
  rvl_grpc_server *s = &box->server;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  rvl_runtime_loop(L, box->waiting.rt);
  if (s->first == NULL) {
    if (rvl_grpc_server_is_over(s)) return 0;
    return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, next_k);
  }
  lua_settop(L, 2);
  rvl_grpc_served *served = s->first;
  if (served->taken) {
    lua_pushnil(L);
    lua_pushinteger(L, (lua_Integer)served->id);
    lua_pushstring(L, served->why != NULL ? served->why : "the client has gone");
    rvl_grpc_server_next(s);
    return 3;
  }
  call_box *call = lua_touserdata(L, 2);
  lua_pushinteger(L, (lua_Integer)served->id);
  lua_pushlstring(L, served->call.method.data, served->call.method.length);   /* memory first */
  rvl_grpc_server_next(s);
  served->taken = true;
  served->notify = on_served;
  served->user = call;
  call->served = served;
  return 3;
}

/*
** next() → call, its id, its method: a new one; nil, id, why: nobody waits any more for the answer of this one,
** which shall be cancelled; nothing: the server has been stopped, and all is done
*/
static int server_next(lua_State *L) {
  server_box *box = check_server(L);
  lua_settop(L, 1);
  call_box *call = lua_newuserdatauv(L, sizeof *call, CALL_KEPT);
  memset(call, 0, sizeof *call);
  call->waiting.rt = box->waiting.rt;
  luaL_setmetatable(L, CALL);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 2, KEEP_SERVER);
  rvl_grpc_server_start(&box->server);
  return next_k(L, LUA_OK, (lua_KContext)box);
}

/* ---- calls --------------------------------------------------------------------------------------------- */

/* metadata() → name → value */
static int call_metadata(lua_State *L) {
  const call_box *box = check_call(L);
  if (box->served == NULL) lua_newtable(L);
  else rvl_push_metadata(L, &box->served->call.metadata);
  return 1;
}

/* address() → the client's, or nil */
static int call_address(lua_State *L) {
  char text[INET6_ADDRSTRLEN + 32];
  const call_box *box = check_call(L);
  if (box->served == NULL || !rvl_grpc_served_address(box->served, text, sizeof text)) return 0;
  lua_pushstring(L, text);
  return 1;
}

/* remaining() → seconds until the client's deadline, or nil */
static int call_remaining(lua_State *L) {
  const call_box *box = check_call(L);
  if (box->served == NULL || box->served->due == 0) return 0;
  lua_pushnumber(L, rvl_seconds_until(box->served->due));
  return 1;
}

/* is_over() → whether nobody waits for an answer any more */
static int call_is_over(lua_State *L) {
  const call_box *box = check_call(L);
  lua_pushboolean(L, box->served == NULL || box->served->call.over);
  return 1;
}

static int receive_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  if (status == LUA_YIELD) rvl_waited(L, &box->waiting);
  rvl_grpc_served *served = box->served;
  if (box->message == NULL && served != NULL && !served->call.over) {
    if (!served->call.whole) return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, receive_k);
    box->message = rvl_grpc_incoming_take(&served->call);
    if (box->message == NULL) rvl_grpc_served_flush(served);
  }
  if (box->message == NULL) return 0;
  lua_pushlstring(L, box->message->data, box->message->length);
  free(box->message);
  box->message = NULL;
  return 1;
}

/* receive() → the request; nil: it has been had, or the call is over */
static int call_receive(lua_State *L) {
  call_box *box = check_call(L);
  rvl_runtime_loop(L, box->waiting.rt);
  lua_settop(L, 1);
  if (box->served != NULL) {
    rvl_grpc_incoming_accept(&box->served->call);
    rvl_grpc_served_flush(box->served);
  }
  return receive_k(L, LUA_OK, (lua_KContext)box);
}

static int add_metadata(lua_State *L, rvl_grpc_metadata *to) {
  luaL_checktype(L, 2, LUA_TTABLE);
  return rvl_add_metadata(L, 2, to);
}

/* headers{name, value, …}: to be sent before the first message */
static int call_headers(lua_State *L) {
  call_box *box = check_call(L);
  return box->served == NULL ? 0 : add_metadata(L, &box->served->call.headers);
}

/* trailers{name, value, …}: to be sent at the end */
static int call_trailers(lua_State *L) {
  call_box *box = check_call(L);
  return box->served == NULL ? 0 : add_metadata(L, &box->served->call.trailers);
}

static bool is_sent(const call_box *box) {
  const rvl_grpc_served *served = box->served;
  return served == NULL || served->call.exchange.id == 0 || rvl_grpc_incoming_is_sent(&served->call);
}

/* A message whose sender does not wait any more is cut off: its memory may go away. */
static void woken(lua_State *L, call_box *box) {
  if (box->waiting.rt->current->woken != RVL_WOKEN_SIGNAL && box->served != NULL)
    rvl_grpc_incoming_break(&box->served->call, RVL_GRPC_CANCELLED, "the call was cancelled by the server");
  rvl_waited(L, &box->waiting);
}

/* Stack: call, message, whether it is the last. */
static int sent_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  if (!is_sent(box)) return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, sent_k);
  lua_pushnil(L);
  lua_setiuservalue(L, 1, KEEP_MESSAGE);
  lua_pushboolean(L, box->served != NULL && (box->served->finished || !box->served->call.over));
  return 1;
}

static int send_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  size_t length;
  if (status == LUA_YIELD) woken(L, box);
  rvl_grpc_served *served = box->served;
  if (served == NULL || served->call.over) {
    lua_pushboolean(L, false);
    return 1;
  }
  if (!is_sent(box)) return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, send_k);
  const char *data = lua_tolstring(L, 2, &length);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, KEEP_MESSAGE);
  rvl_grpc_incoming_send(&served->call, data, length);
  if (lua_toboolean(L, 3)) rvl_grpc_served_finish(served, RVL_GRPC_OK, "", 0);
  rvl_grpc_served_flush(served);
  if (rvl_grpc_incoming_is_short(length)) {
    lua_pushboolean(L, true);
    return 1;
  }
  return sent_k(L, LUA_OK, ctx);
}

/*
** send(message[, last]) → whether the client still listens; waits until the message before is out, and with a long
** one until it is out itself. `last`: the call ends with it, and well.
*/
static int call_send(lua_State *L) {
  call_box *box = check_call(L);
  size_t length;
  luaL_checklstring(L, 2, &length);
  luaL_argcheck(L, length <= UINT32_MAX, 2, "a message has at most 4 GiB");
  rvl_runtime_loop(L, box->waiting.rt);
  lua_settop(L, 3);
  return send_k(L, LUA_OK, (lua_KContext)box);
}

/* finish(status, text): ends it behind what is being sent; does nothing when it is over */
static int call_finish(lua_State *L) {
  call_box *box = check_call(L);
  lua_Integer status = luaL_checkinteger(L, 2);
  size_t length;
  const char *text = luaL_optlstring(L, 3, "", &length);
  luaL_argcheck(L, status >= RVL_GRPC_OK && status <= RVL_GRPC_UNAUTHENTICATED, 2, "no status of gRPC");
  if (box->served != NULL) rvl_grpc_served_finish(box->served, (rvl_grpc_code)status, text, length);
  return 0;
}

/* release(): nothing more will be said about it; one that is not finished fails */
static int call_release(lua_State *L) {
  call_box *box = check_call(L);
  rvl_grpc_served *served = box->served;
  box->served = NULL;
  free(box->message);
  box->message = NULL;
  if (served != NULL) rvl_grpc_served_release(served);
  rvl_signal_fire(&box->changed);
  return 0;
}

static int call_gc(lua_State *L) {
  call_box *box = check_call(L);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return call_release(L);
}

int rvl_open_grpc_server(lua_State *L) {
  static const luaL_Reg server_methods[] = {{"next", server_next},   {"port", server_port}, {"stop", server_stop},
                                            {"close", server_close}, {"stats", server_stats}, {NULL, NULL}};
  static const luaL_Reg server_meta[] = {{"__gc", server_gc}, {"__close", server_close}, {NULL, NULL}};
  static const luaL_Reg call_methods[] = {
      {"metadata", call_metadata}, {"address", call_address},   {"remaining", call_remaining},
      {"is_over", call_is_over},   {"receive", call_receive},   {"headers", call_headers},
      {"trailers", call_trailers}, {"send", call_send},         {"finish", call_finish},
      {"release", call_release},   {NULL, NULL}};
  static const luaL_Reg call_meta[] = {{"__gc", call_gc}, {"__close", call_release}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"listen", listen_new}, {NULL, NULL}};
  rvl_new_class(L, SERVER, server_methods, server_meta);
  rvl_new_class(L, CALL, call_methods, call_meta);
  rvl_new_functions(L, functions);
  return 1;
}
