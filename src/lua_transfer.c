/* riverlua.core.transfer: HTTP transfers for lua/riverlua/http.lua, which gives them meaning. */
#include "runtime.h"
#include "transfer.h"

#include <string.h>

#define NET "riverlua.Net"
#define HEADERS "riverlua.Headers"
#define TRANSFER "riverlua.Transfer"
#define PIPELINE "riverlua.Pipeline"

/* A writer of a streamed body waits while this much has not been sent. */
#define UPLOAD_HIGH_WATER (256u * 1024u)
/* A server waits while so much of a streamed answer has not been read: more would not be faster, only larger. */
#define STREAM_HIGH_WATER (64u * 1024u)

typedef struct net_box {
  rvl_net *net;
} net_box;

/* user values keep what a transfer points to */
enum { KEEP_NET = 1, KEEP_BODY, KEEP_HEADERS, KEEP_URL, KEEP_METHOD, KEEP_PIPELINE, KEPT = KEEP_PIPELINE };

typedef struct transfer_box {
  rvl_transfer transfer;   /* first: notify gets only this */
  rvl_signal changed;
  rvl_runtime *rt;
} transfer_box;

rvl_net *rvl_check_net(lua_State *L, int index) {
  net_box *box = luaL_checkudata(L, index, NET);
  if (box->net == NULL) rvl_raise(L, "closed", NULL, "attempt to use a closed client");
  return box->net;
}

static rvl_net *check_net(lua_State *L) { return rvl_check_net(L, 1); }

static transfer_box *check_transfer(lua_State *L) { return luaL_checkudata(L, 1, TRANSFER); }

/* ---- the connections of a client ------------------------------------------------------------------- */

static const char *text_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  const char *text = luaL_optstring(L, -1, NULL);   /* the options table stays with the net */
  lua_pop(L, 1);
  return text;
}

static bool flag_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

/* net{proxy=, ca_file=, unix_socket=, http=, verify=, decompress=, plain_http1=, alpn_h2=} */
static int net_new(lua_State *L) {
  static const char *const versions[] = {"auto", "1.1", "2", "prior", NULL};
  static const rvl_http_version codes[] = {RVL_HTTP_AUTO, RVL_HTTP_1_1, RVL_HTTP_2, RVL_HTTP_2_PRIOR};
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "http");
  rvl_profile profile = {
      .proxy = text_field(L, "proxy"),
      .ca_file = text_field(L, "ca_file"),
      .unix_socket = text_field(L, "unix_socket"),
      .verify = flag_field(L, "verify"),
      .decompress = flag_field(L, "decompress"),
      .plain_http1 = flag_field(L, "plain_http1"),
      .alpn_h2 = flag_field(L, "alpn_h2"),
      .http_version = codes[luaL_checkoption(L, 2, "auto", versions)],
  };
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  const char *why;
  if (rt->curl == NULL) rt->curl = rvl_curl_open(&why);
  if (rt->curl == NULL) return rvl_raise(L, "unsupported", NULL, "%s", why);
  net_box *box = lua_newuserdatauv(L, sizeof *box, 1);
  box->net = NULL;
  luaL_setmetatable(L, NET);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  box->net = rvl_net_new(loop, rt->curl, &profile);
  if (box->net == NULL) return luaL_error(L, "not enough memory");
  return 1;
}

static int net_close(lua_State *L) {
  net_box *box = luaL_checkudata(L, 1, NET);
  rvl_net *net = box->net;
  box->net = NULL;
  if (net != NULL) rvl_net_free(net);
  return 0;
}

static int net_stats(lua_State *L) {
  const rvl_net_stats *s = rvl_net_stats_of(check_net(L));
  lua_createtable(L, 0, 5);
  lua_pushstring(L, rvl_curl_version(rvl_upvalue_runtime(L)->curl));
  lua_setfield(L, -2, "libcurl");
  lua_pushinteger(L, (lua_Integer)s->requests);
  lua_setfield(L, -2, "requests");
  lua_pushinteger(L, (lua_Integer)s->connections);
  lua_setfield(L, -2, "connections");
  lua_pushinteger(L, (lua_Integer)s->reused);
  lua_setfield(L, -2, "reused");
  lua_pushinteger(L, s->in_flight);
  lua_setfield(L, -2, "in_flight");
  return 1;
}

/* net:headers(list of "Name: value") → a header set that requests may share */
static int net_headers(lua_State *L) {
  check_net(L);
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer n = luaL_len(L, 2);
  rvl_headers *headers = lua_newuserdatauv(L, sizeof *headers, 0);
  *headers = (rvl_headers){.curl = rt->curl};
  luaL_setmetatable(L, HEADERS);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, 2, i);
    size_t length;
    const char *line = luaL_checklstring(L, -1, &length);
    if (strlen(line) != length || strpbrk(line, "\r\n") != NULL)
      return rvl_raise(L, "argument", NULL, "a header must not contain line breaks or NUL bytes");
    if (!rvl_headers_add(headers, line)) return luaL_error(L, "not enough memory");
    lua_pop(L, 1);
  }
  return 1;
}

static int headers_gc(lua_State *L) {
  rvl_headers_free(luaL_checkudata(L, 1, HEADERS));
  return 0;
}

/* net:pipeline() → requests that go over one connection; see pipeline in net:open */
static int net_pipeline(lua_State *L) {
  check_net(L);
  rvl_runtime_check_open(L, rvl_upvalue_runtime(L));
  rvl_pipeline *pipeline = lua_newuserdatauv(L, sizeof *pipeline, 1);
  *pipeline = (rvl_pipeline){0};
  luaL_setmetatable(L, PIPELINE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

/* pipeline:ready() → whether the next request may be sent before the answers to those under way have come */
static int pipeline_ready(lua_State *L) {
  lua_pushboolean(L, rvl_pipeline_is_ready(luaL_checkudata(L, 1, PIPELINE)));
  return 1;
}

static int pipeline_close(lua_State *L) {
  rvl_pipeline_close(luaL_checkudata(L, 1, PIPELINE));
  return 0;
}

/* ---- a transfer -------------------------------------------------------------------------------------- */

static void on_change(rvl_transfer *t) {
  transfer_box *box = (transfer_box *)t;
  if (t->phase == RVL_DONE) box->rt->pending--;
  rvl_signal_fire(&box->changed);
}

static uint64_t check_seconds(lua_State *L, int arg) {
  lua_Number seconds = luaL_optnumber(L, arg, 0);
  luaL_argcheck(L, seconds >= 0, arg, "a number of seconds, not negative");
  return seconds < 9e9 ? (uint64_t)(seconds * 1e9) : 0;
}

static size_t check_size(lua_State *L, int arg, size_t otherwise) {
  lua_Integer size = luaL_optinteger(L, arg, -1);
  return size < 0 ? otherwise : (size_t)size;
}

/*
** (net, url, method, headers, body, connect, first_byte, idle, total, max_body, stream, high_water, repeatable,
** pipeline)
** body: string, nil, true (written later, length unknown) or an integer (written later, that long).
*/
static transfer_box *start(lua_State *L) {
  rvl_net *net = check_net(L);
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  rvl_request request = {
      .url = luaL_checkstring(L, 2),
      .method = luaL_checkstring(L, 3),
      .headers = luaL_checkudata(L, 4, HEADERS),
      .connect = check_seconds(L, 6),
      .first_byte = check_seconds(L, 7),
      .idle = check_seconds(L, 8),
      .total = check_seconds(L, 9),
      .max_body = check_size(L, 10, SIZE_MAX),
      .stream = lua_toboolean(L, 11),
      .high_water = check_size(L, 12, STREAM_HIGH_WATER),
      .stream_length = -1,
      .repeatable = lua_toboolean(L, 13),
      .pipeline = lua_isnoneornil(L, 14) ? NULL : luaL_checkudata(L, 14, PIPELINE),
  };
  if (lua_type(L, 5) == LUA_TSTRING) {
    request.body = lua_tolstring(L, 5, &request.body_length);
  } else if (!lua_isnoneornil(L, 5)) {
    request.stream_body = true;
    if (lua_isinteger(L, 5)) request.stream_length = lua_tointeger(L, 5);
  }
  transfer_box *box = lua_newuserdatauv(L, sizeof *box, KEPT);
  memset(box, 0, sizeof *box);
  box->rt = rt;
  luaL_setmetatable(L, TRANSFER);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, KEEP_NET);
  lua_pushvalue(L, 4);
  lua_setiuservalue(L, -2, KEEP_HEADERS);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, KEEP_URL);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, -2, KEEP_METHOD);
  if (request.body != NULL) {
    lua_pushvalue(L, 5);
    lua_setiuservalue(L, -2, KEEP_BODY);
  }
  if (request.pipeline != NULL) {
    lua_pushvalue(L, 14);
    lua_setiuservalue(L, -2, KEEP_PIPELINE);
  }
  lua_replace(L, 1);
  lua_settop(L, 1);
  rt->pending++;
  if (!rvl_transfer_start(net, &box->transfer, &request, on_change)) rt->pending--;
  return box;
}

const char *rvl_failure_kind(rvl_failure failure) {
  switch (failure) {
    case RVL_FAIL_DNS: return "dns";
    case RVL_FAIL_CONNECT: return "connect";
    case RVL_FAIL_TLS: return "tls";
    case RVL_FAIL_TIMEOUT: return "timeout";
    case RVL_FAIL_LIMIT: return "limit";
    case RVL_FAIL_ARGUMENT: return "argument";
    case RVL_FAIL_MEMORY: return "memory";
    case RVL_FAIL_UNSUPPORTED: return "unsupported";
    case RVL_FAIL_CANCELLED: return "closed";
    default: return "protocol";
  }
}

/* nil, kind, message, phase of a timeout, limit (seconds or bytes), whether the server may have acted */
static int push_failure(lua_State *L, const rvl_transfer *t) {
  lua_pushnil(L);
  lua_pushstring(L, rvl_failure_kind(t->failure));
  lua_pushstring(L, t->reason != NULL ? t->reason : t->message);
  lua_pushstring(L, t->timed_out);
  if (t->failure == RVL_FAIL_TIMEOUT) lua_pushnumber(L, (lua_Number)t->limit / 1e9);
  else lua_pushinteger(L, (lua_Integer)t->limit);
  lua_pushboolean(L, t->connected != 0 || t->lost);
  return 6;
}

/* Raises for a cancelled or stuck context, after freeing the connection. */
static void woken(lua_State *L, transfer_box *box) {
  rvl_wake_reason why = box->rt->current->woken;
  if (why != RVL_WOKEN_SIGNAL) rvl_transfer_cancel(&box->transfer);
  rvl_woken(L, box->rt);
}

/* Pushes what wait() returns and says how many values; 0: not there yet. */
static int push_answer(lua_State *L, transfer_box *box) {
  rvl_transfer *t = &box->transfer;
  bool headers_suffice = t->request.stream && t->phase == RVL_HEADERS;
  if (t->phase != RVL_DONE && !headers_suffice) return 0;
  if (t->failure != RVL_NO_FAILURE && !(t->request.stream && t->status >= 200)) return push_failure(L, t);
  lua_pushinteger(L, t->status);
  if (t->request.stream) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, t->body.data, t->body.length);
    rvl_transfer_drop_body(t);
  }
  return 2;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx) {
  transfer_box *box = (transfer_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  int n = push_answer(L, box);
  return n > 0 ? n : rvl_wait(L, box->rt, &box->changed, -1, ctx, wait_k);
}

/*
** wait() until the answer is there (streamed: until its headers are)
** → status, body (nil when streamed), or the failure
*/
static int transfer_wait(lua_State *L) {
  transfer_box *box = check_transfer(L);
  return wait_k(L, LUA_OK, (lua_KContext)box);
}

static int perform_k(lua_State *L, int status, lua_KContext ctx) {
  transfer_box *box = (transfer_box *)ctx;
  if (status == LUA_YIELD) woken(L, box);
  int n = push_answer(L, box);
  return n > 0 ? n + 1 : rvl_wait(L, box->rt, &box->changed, -1, ctx, perform_k);
}

/* net:perform(…) → transfer and what wait returns */
static int net_perform(lua_State *L) {
  transfer_box *box = start(L);
  return perform_k(L, LUA_OK, (lua_KContext)box);
}

/* net:open(…) → transfer, not waited for */
static int net_open(lua_State *L) {
  start(L);
  return 1;
}

/* read() → the next bytes of a streamed answer; nil at its end, or the failure */
static int read_k(lua_State *L, int status, lua_KContext ctx) {
  transfer_box *box = (transfer_box *)ctx;
  rvl_transfer *t = &box->transfer;
  if (status == LUA_YIELD) woken(L, box);
  size_t length = t->body.length - t->body_read;
  if (length > 0) {
    lua_pushlstring(L, t->body.data + t->body_read, length);
    rvl_transfer_consume(t, length);
    return 1;
  }
  if (t->phase != RVL_DONE) return rvl_wait(L, box->rt, &box->changed, -1, ctx, read_k);
  if (t->failure != RVL_NO_FAILURE) return push_failure(L, t);
  lua_pushnil(L);
  return 1;
}

static int transfer_read(lua_State *L) {
  transfer_box *box = check_transfer(L);
  if (!box->transfer.request.stream) return luaL_error(L, "the answer is not streamed");
  return read_k(L, LUA_OK, (lua_KContext)box);
}

/* write(bytes) → whether the server still listens; waits while much is unsent */
static int write_k(lua_State *L, int status, lua_KContext ctx) {
  transfer_box *box = (transfer_box *)ctx;
  rvl_transfer *t = &box->transfer;
  if (status == LUA_YIELD) woken(L, box);
  if (t->phase != RVL_DONE && t->phase != RVL_HEADERS && rvl_transfer_unsent(t) > UPLOAD_HIGH_WATER)
    return rvl_wait(L, box->rt, &box->changed, -1, ctx, write_k);
  lua_pushboolean(L, t->phase != RVL_DONE);
  return 1;
}

static int transfer_write(lua_State *L) {
  transfer_box *box = check_transfer(L);
  size_t length;
  const char *data = luaL_checklstring(L, 2, &length);
  if (box->transfer.phase == RVL_DONE) {
    lua_pushboolean(L, 0);
    return 1;
  }
  if (!rvl_transfer_write(&box->transfer, data, length)) return luaL_error(L, "not enough memory");
  return write_k(L, LUA_OK, (lua_KContext)box);
}

static int transfer_end_body(lua_State *L) {
  rvl_transfer_end_body(&check_transfer(L)->transfer);
  return 0;
}

/* head() → status line and headers as they came, trailers as they came (or nil) */
static int transfer_head(lua_State *L) {
  const rvl_transfer *t = &check_transfer(L)->transfer;
  size_t length = t->trailers != 0 ? t->trailers : t->head.length;
  lua_pushlstring(L, t->head.data, length);
  if (t->trailers == 0) lua_pushnil(L);
  else lua_pushlstring(L, t->head.data + length, t->head.length - length);
  return 2;
}

/* connection() → whether it had been used before, HTTP version (10, 11, 20; 0: unknown) */
static int transfer_connection(lua_State *L) {
  const rvl_transfer *t = &check_transfer(L)->transfer;
  lua_pushboolean(L, t->reused);
  lua_pushinteger(L, t->http_version);
  return 2;
}

/* elapsed() → seconds from the start to the end (or to now) */
static int transfer_elapsed(lua_State *L) {
  const rvl_transfer *t = &check_transfer(L)->transfer;
  uint64_t end = t->ended != 0 ? t->ended : rvl_now();
  lua_pushnumber(L, (lua_Number)(end - t->started) / 1e9);
  return 1;
}

static int transfer_close(lua_State *L) {
  rvl_transfer *t = &check_transfer(L)->transfer;
  rvl_transfer_cancel(t);
  t->body_read = 0;
  rvl_transfer_drop_body(t);
  return 0;
}

static int transfer_gc(lua_State *L) {
  transfer_box *box = check_transfer(L);
  rvl_transfer_free(&box->transfer);
  rvl_signal_detach(&box->changed);
  return 0;
}

int rvl_open_transfer(lua_State *L) {
  static const luaL_Reg net_methods[] = {{"perform", net_perform}, {"open", net_open},   {"headers", net_headers},
                                         {"stats", net_stats},     {"close", net_close}, {"pipeline", net_pipeline},
                                         {NULL, NULL}};
  static const luaL_Reg net_meta[] = {{"__gc", net_close}, {"__close", net_close}, {NULL, NULL}};
  static const luaL_Reg headers_methods[] = {{NULL, NULL}};
  static const luaL_Reg headers_meta[] = {{"__gc", headers_gc}, {NULL, NULL}};
  static const luaL_Reg transfer_methods[] = {
      {"wait", transfer_wait},   {"read", transfer_read},       {"write", transfer_write}, {"end_body", transfer_end_body},
      {"head", transfer_head},   {"elapsed", transfer_elapsed}, {"close", transfer_close}, {"connection", transfer_connection},
      {NULL, NULL}};
  static const luaL_Reg transfer_meta[] = {{"__gc", transfer_gc}, {"__close", transfer_close}, {NULL, NULL}};
  static const luaL_Reg pipeline_methods[] = {{"ready", pipeline_ready}, {"close", pipeline_close}, {NULL, NULL}};
  static const luaL_Reg pipeline_meta[] = {{"__gc", pipeline_close}, {"__close", pipeline_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"net", net_new}, {NULL, NULL}};
  rvl_new_class(L, NET, net_methods, net_meta);
  rvl_new_class(L, HEADERS, headers_methods, headers_meta);
  rvl_new_class(L, TRANSFER, transfer_methods, transfer_meta);
  rvl_new_class(L, PIPELINE, pipeline_methods, pipeline_meta);
  rvl_new_functions(L, functions);
  return 1;
}
