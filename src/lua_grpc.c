/* riverlua.core.grpc: channels and calls for lua/riverlua/grpc.lua, which gives them meaning. */
#include "block.h"
#include "grpc_channel.h"
#include "lua_metadata.h"
#include "runtime.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#define CHANNEL "riverlua.GrpcChannel"
#define CALL "riverlua.GrpcCall"
#define METADATA "riverlua.GrpcMetadata"

/* user values keep what a channel and a call point to */
enum { KEEP_NET = 1, KEEP_OPTIONS, KEEP_COMMON, CHANNEL_KEPT = KEEP_COMMON };
enum { KEEP_CHANNEL = 1, KEEP_METHOD, KEEP_REQUEST, KEEP_METADATA, CALL_KEPT = KEEP_METADATA };

typedef struct channel_box {
  rvl_grpc_channel *channel;
} channel_box;

typedef struct call_box {
  rvl_grpc_call call;      /* first: notify gets only this */
  rvl_signal changed;
  rvl_wait_count waiting;
  rvl_block *block;        /* the request, while it may be read; NULL: it is none, or the call is done */
} call_box;

static call_box *check_call(lua_State *L) { return luaL_checkudata(L, 1, CALL); }

static uint64_t check_ns(lua_State *L, int arg) {
  lua_Number seconds = luaL_optnumber(L, arg, 0);
  luaL_argcheck(L, seconds >= 0, arg, "a number of seconds, not negative");
  return seconds < 9e9 ? (uint64_t)(seconds * 1e9) : 0;
}

/* ---- metadata ---------------------------------------------------------------------------------------- */

/* metadata{name, value, name, value, …} → metadata that calls may share */
static int metadata_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  rvl_runtime_check_open(L, rvl_upvalue_runtime(L));
  rvl_grpc_metadata *metadata = lua_newuserdatauv(L, sizeof *metadata, 0);
  *metadata = (rvl_grpc_metadata){0};
  luaL_setmetatable(L, METADATA);
  rvl_add_metadata(L, 1, metadata);
  return 1;
}

static int metadata_gc(lua_State *L) {
  rvl_grpc_metadata_free(luaL_checkudata(L, 1, METADATA));
  return 0;
}

/* ---- channels ---------------------------------------------------------------------------------------- */

static rvl_grpc_channel *check_channel(lua_State *L) {
  channel_box *box = luaL_checkudata(L, 1, CHANNEL);
  if (box->channel == NULL) rvl_raise(L, "closed", NULL, "attempt to use a closed channel");
  return box->channel;
}

static const char *text_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  const char *text = luaL_checkstring(L, -1);   /* the table stays with the channel */
  lua_pop(L, 1);
  return text;
}

static uint64_t ns_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  uint64_t ns = check_ns(L, -1);
  lua_pop(L, 1);
  return ns;
}

/* channel(net, {url=, authority=, user_agent=, connect=, keepalive=, keepalive_timeout=}, metadata) */
static int channel_new(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  struct rvl_net *net = rvl_check_net(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  rvl_grpc_options options = {
      .url = text_field(L, 2, "url"),
      .authority = text_field(L, 2, "authority"),
      .user_agent = text_field(L, 2, "user_agent"),
      .connect = ns_field(L, 2, "connect"),
      .keepalive = ns_field(L, 2, "keepalive"),
      .keepalive_timeout = ns_field(L, 2, "keepalive_timeout"),
      .metadata = luaL_checkudata(L, 3, METADATA),
  };
  channel_box *box = lua_newuserdatauv(L, sizeof *box, CHANNEL_KEPT);
  box->channel = NULL;
  luaL_setmetatable(L, CHANNEL);
  for (int i = KEEP_NET; i <= CHANNEL_KEPT; i++) {
    lua_pushvalue(L, i);
    lua_setiuservalue(L, -2, i);
  }
  box->channel = rvl_grpc_channel_new(net, &options);
  return box->channel != NULL ? 1 : luaL_error(L, "not enough memory");
}

static int channel_close(lua_State *L) {
  channel_box *box = luaL_checkudata(L, 1, CHANNEL);
  rvl_grpc_channel *channel = box->channel;
  box->channel = NULL;
  rvl_grpc_channel_free(channel);
  return 0;
}

/* stats() → connections opened, calls begun, calls under way, the version of libcurl's and of nghttp2 */
static int channel_stats(lua_State *L) {
  const rvl_grpc_stats *s = rvl_grpc_channel_stats(check_channel(L));
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, (lua_Integer)s->connections);
  lua_setfield(L, -2, "connections");
  lua_pushinteger(L, (lua_Integer)s->calls);
  lua_setfield(L, -2, "calls");
  lua_pushinteger(L, s->in_flight);
  lua_setfield(L, -2, "in_flight");
  lua_pushstring(L, rvl_curl_version(rvl_upvalue_runtime(L)->curl));
  lua_setfield(L, -2, "libcurl");
  lua_pushstring(L, nghttp2_version(0)->version_str);
  lua_setfield(L, -2, "nghttp2");
  return 1;
}

/* ---- calls ------------------------------------------------------------------------------------------- */

/* A block that the call is done with may be changed again. */
static void release_block(call_box *box) {
  if (box->block == NULL || !box->call.done) return;
  box->block->readers--;
  box->block = NULL;
}

static void on_change(rvl_grpc_call *call) {
  call_box *box = (call_box *)call;
  release_block(box);
  rvl_signal_fire(&box->changed);
}

static void cancel(call_box *box) {
  rvl_grpc_call_cancel(&box->call);
  release_block(box);
  rvl_signal_fire(&box->changed);
}

/* The request at an index; a block is the call's until that is done. */
static void set_body(lua_State *L, int index, call_box *box, rvl_grpc_request *request) {
  rvl_block *block = rvl_block_test(L, index);
  if (block == NULL || block->data == NULL) {
    request->data = luaL_checklstring(L, index, &request->length);
    return;
  }
  request->data = block->data + block->start;
  request->length = block->length;
  box->block = block;
  block->readers++;
}

static lua_Number number_item(lua_State *L, int table, lua_Integer i) {
  lua_rawgeti(L, table, i);
  lua_Number number = luaL_checknumber(L, -1);
  lua_pop(L, 1);
  return number;
}

/* {attempts, initial, factor, cap, jitter}, seconds */
static rvl_grpc_retries check_retries(lua_State *L, int arg) {
  rvl_grpc_retries none = {0};
  if (lua_isnoneornil(L, arg)) return none;
  luaL_checktype(L, arg, LUA_TTABLE);
  return (rvl_grpc_retries){
      .attempts = (unsigned)number_item(L, arg, 1),
      .initial = (uint64_t)(number_item(L, arg, 2) * 1e9),
      .factor = number_item(L, arg, 3),
      .cap = (uint64_t)(number_item(L, arg, 4) * 1e9),
      .jitter = number_item(L, arg, 5),
  };
}

/*
** (channel, method, request, metadata, timeout, max_message, retries, wait_for_ready, previous); leaves the call alone
*/
static call_box *start(lua_State *L, bool streamed) {
  rvl_grpc_channel *channel = check_channel(L);
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  rvl_runtime_loop(L, rt);
  rvl_grpc_request request = {
      .method = luaL_checkstring(L, 2),
      .metadata = lua_isnoneornil(L, 4) ? NULL : luaL_checkudata(L, 4, METADATA),
      .timeout = check_ns(L, 5),
      .max_message = (size_t)luaL_checkinteger(L, 6),
      .retries = check_retries(L, 7),
      .streamed = streamed,
      .wait_for_ready = lua_toboolean(L, 8),
      .previous = (unsigned)luaL_optinteger(L, 9, 0),
  };
  lua_settop(L, 4);
  call_box *box = lua_newuserdatauv(L, sizeof *box, CALL_KEPT);
  memset(box, 0, sizeof *box);
  box->waiting.rt = rt;
  luaL_setmetatable(L, CALL);
  set_body(L, 3, box, &request);   /* not before: memory for the call may run a finalizer, which frees the block */
  for (int i = KEEP_CHANNEL; i <= CALL_KEPT; i++) {
    lua_pushvalue(L, i);
    lua_setiuservalue(L, -2, i);
  }
  lua_replace(L, 1);
  lua_settop(L, 1);
  rvl_grpc_call_start(channel, &box->call, &request, on_change);
  release_block(box);
  return box;
}

/* One whose wait is cancelled ends the call. */
static void woken(lua_State *L, call_box *box) {
  if (box->waiting.rt->current->woken != RVL_WOKEN_SIGNAL) cancel(box);
  rvl_waited(L, &box->waiting);
}

/* Pushes the oldest message, if there is one. */
static bool push_message(lua_State *L, call_box *box) {
  const rvl_grpc_message *m = box->call.messages.first;
  if (m == NULL) return false;
  lua_pushlstring(L, m->data, m->length);   /* first: there may be no memory */
  free(rvl_grpc_call_take(&box->call));
  return true;
}

/* call → message, call; nil, call when it failed */
static int unary_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  if (!box->call.done) return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, unary_k);
  lua_settop(L, 1);
  if (box->call.status != RVL_GRPC_OK || !push_message(L, box)) lua_pushnil(L);
  lua_insert(L, 1);
  return 2;
}

/* unary(method, request, metadata, timeout, max_message, retries, wait_for_ready, previous) → see unary_k */
static int channel_unary(lua_State *L) { return unary_k(L, LUA_OK, (lua_KContext)start(L, false)); }

/* start(…): as unary, → a call that is not waited for, with any number of messages */
static int channel_start(lua_State *L) {
  start(L, true);
  return 1;
}

/* wait() until it is done → as unary */
static int call_wait(lua_State *L) {
  call_box *box = check_call(L);
  lua_settop(L, 1);
  return unary_k(L, LUA_OK, (lua_KContext)box);
}

static int next_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  if (push_message(L, box)) return 1;
  if (!box->call.done) return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, next_k);
  lua_pushnil(L);
  return 1;
}

/* next() → the next message; nil: there is none any more, see done */
static int call_next(lua_State *L) {
  call_box *box = check_call(L);
  lua_settop(L, 1);
  return next_k(L, LUA_OK, (lua_KContext)box);
}

static int headers_k(lua_State *L, int status, lua_KContext ctx) {
  call_box *box = (call_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  if (!box->call.answered && !box->call.done)
    return rvl_wait_counted(L, &box->waiting, &box->changed, -1, ctx, headers_k);
  return rvl_push_metadata(L, &box->call.headers);
}

/* headers() → name → value; waits for them */
static int call_headers(lua_State *L) {
  call_box *box = check_call(L);
  lua_settop(L, 1);
  return headers_k(L, LUA_OK, (lua_KContext)box);
}

/* trailers() → name → value; empty before the end */
static int call_trailers(lua_State *L) { return rvl_push_metadata(L, &check_call(L)->call.trailers); }

static void set_flag(lua_State *L, const char *name, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, name);
}

/* status() → whether it is done, status, attempts */
static int call_status(lua_State *L) {
  const rvl_grpc_call *c = &check_call(L)->call;
  lua_pushboolean(L, c->done);
  lua_pushinteger(L, c->status);
  lua_pushinteger(L, c->attempts);
  return 3;
}

/* failure() → what is known of a call that failed */
static int call_failure(lua_State *L) {
  const rvl_grpc_call *c = &check_call(L)->call;
  lua_createtable(L, 0, 12);
  lua_pushinteger(L, c->status);
  lua_setfield(L, -2, "status");
  lua_pushstring(L, rvl_grpc_code_name(c->status));
  lua_setfield(L, -2, "code");
  lua_pushlstring(L, c->details.data != NULL ? c->details.data : "", c->details.length);
  lua_setfield(L, -2, "text");
  lua_pushinteger(L, c->attempts);
  lua_setfield(L, -2, "attempts");
  lua_pushnumber(L, (lua_Number)((c->done ? c->ended : rvl_now()) - c->started) / 1e9);
  lua_setfield(L, -2, "elapsed");
  if (c->failure != RVL_NO_FAILURE) {
    lua_pushstring(L, rvl_failure_kind(c->failure));
    lua_setfield(L, -2, "connect");
  }
  set_flag(L, "from_server", c->from_server);
  set_flag(L, "sent", c->sent);
  set_flag(L, "local_deadline", c->local_deadline);
  set_flag(L, "closed", c->closed);
  rvl_push_metadata(L, &c->trailers);
  lua_setfield(L, -2, "trailers");
  return 1;
}

static int call_cancel(lua_State *L) {
  cancel(check_call(L));
  return 0;
}

static int call_gc(lua_State *L) {
  call_box *box = check_call(L);
  rvl_grpc_call_free(&box->call);
  release_block(box);
  rvl_signal_detach(&box->changed);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

int rvl_open_grpc(lua_State *L) {
  static const luaL_Reg channel_methods[] = {{"unary", channel_unary}, {"start", channel_start},
                                             {"stats", channel_stats}, {"close", channel_close}, {NULL, NULL}};
  static const luaL_Reg channel_meta[] = {{"__gc", channel_close}, {"__close", channel_close}, {NULL, NULL}};
  static const luaL_Reg call_methods[] = {
      {"wait", call_wait},         {"next", call_next},       {"headers", call_headers}, {"trailers", call_trailers},
      {"status", call_status},     {"failure", call_failure}, {"cancel", call_cancel},   {NULL, NULL}};
  static const luaL_Reg call_meta[] = {{"__gc", call_gc}, {NULL, NULL}};
  static const luaL_Reg metadata_methods[] = {{NULL, NULL}};
  static const luaL_Reg metadata_meta[] = {{"__gc", metadata_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"channel", channel_new}, {"metadata", metadata_new}, {NULL, NULL}};
  rvl_new_class(L, CHANNEL, channel_methods, channel_meta);
  rvl_new_class(L, CALL, call_methods, call_meta);
  rvl_new_class(L, METADATA, metadata_methods, metadata_meta);
  rvl_new_functions(L, functions);
  return 1;
}
