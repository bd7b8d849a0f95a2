/* riverlua.core.heartbeat: the thread that keeps a session alive, for lua/training/heartbeat.lua. */
#include "heartbeat.h"
#include "runtime.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEARTBEAT "riverlua.Heartbeat"

#define LONGEST_SECONDS 1e9

typedef struct rvl_heartbeat_box {
  rvl_runtime *rt;
  rvl_heartbeat *heartbeat;          /* NULL: stopped */
  rvl_heartbeat_state last;          /* as it was then */
  rvl_grpc_metadata metadata;        /* until it is started */
  rvl_grpc_message *message;         /* on its way to Lua, where there may be no memory */
  struct rvl_heartbeat_box *previous, *next;
} box;

static box *check_box(lua_State *L) { return luaL_checkudata(L, 1, HEARTBEAT); }

/* ---- starting -------------------------------------------------------------------------------------------- */

/* The options table stays on the stack: so do the texts. */
static const char *text_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  const char *text = luaL_optstring(L, -1, NULL);
  lua_pop(L, 1);
  return text;
}

static const char *needed_text(lua_State *L, const char *name) {
  const char *text = text_field(L, name);
  if (text == NULL) luaL_error(L, "'%s' is missing", name);
  return text;
}

static bool flag_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

/* Seconds → ns; 0 when missing. */
static uint64_t time_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  lua_Number seconds = luaL_optnumber(L, -1, 0);
  lua_pop(L, 1);
  if (!(seconds >= 0 && seconds <= LONGEST_SECONDS)) luaL_error(L, "'%s' is not a number of seconds", name);
  return (uint64_t)(seconds * 1e9);
}

static unsigned attempts_field(lua_State *L) {
  lua_getfield(L, 1, "attempts");
  lua_Integer attempts = luaL_optinteger(L, -1, 1);
  lua_pop(L, 1);
  if (attempts < 1 || attempts > 100) luaL_error(L, "'attempts' is between 1 and 100");
  return (unsigned)attempts;
}

/* Values are secrets: what is wrong with one is said without it. */
static void read_metadata(lua_State *L, box *b) {
  if (lua_getfield(L, 1, "metadata") == LUA_TTABLE) {
    lua_Integer n = luaL_len(L, -1);
    for (lua_Integer i = 1; i + 1 <= n; i += 2) {
      lua_geti(L, -1, i);
      lua_geti(L, -2, i + 1);
      size_t name_length, value_length;
      const char *name = luaL_checklstring(L, -2, &name_length);
      const char *value = luaL_checklstring(L, -1, &value_length);
      const char *wrong = rvl_grpc_metadata_add(&b->metadata, name, name_length, value, value_length);
      if (wrong != NULL) rvl_raise(L, "argument", NULL, "the metadata '%s': %s", name, wrong);
      lua_pop(L, 2);
    }
  }
  lua_pop(L, 1);
}

static void enlist(box *b) {
  b->next = b->rt->heartbeats;
  if (b->next != NULL) b->next->previous = b;
  b->rt->heartbeats = b;
}

static void delist(box *b) {
  if (b->previous != NULL) b->previous->next = b->next;
  else b->rt->heartbeats = b->next;
  if (b->next != NULL) b->next->previous = b->previous;
  b->previous = b->next = NULL;
}

/*
** start{url=, authority=, user_agent=, metadata={name, value, …}, session_id=, interval=, deadline=, pause=, attempts=,
**       connect=, keepalive=, keepalive_timeout=, proxy=, ca_file=, unix_socket=, verify=, tls=}; times in seconds
*/
static int start(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  rvl_runtime_loop(L, rt);   /* raises in a forked process */
  const char *why;
  if (rt->curl == NULL) rt->curl = rvl_curl_open(&why);
  if (rt->curl == NULL) return rvl_raise(L, "unsupported", NULL, "%s", why);
  box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (box){.rt = rt};
  luaL_setmetatable(L, HEARTBEAT);
  rvl_heartbeat_options options = {
      .curl = rt->curl,
      .profile = {.proxy = text_field(L, "proxy"),
                  .ca_file = text_field(L, "ca_file"),
                  .unix_socket = text_field(L, "unix_socket"),
                  .verify = flag_field(L, "verify"),
                  .alpn_h2 = flag_field(L, "tls"),
                  .http_version = RVL_HTTP_1_1},
      .channel = {.url = needed_text(L, "url"),
                  .authority = needed_text(L, "authority"),
                  .user_agent = needed_text(L, "user_agent"),
                  .connect = time_field(L, "connect"),
                  .keepalive = time_field(L, "keepalive"),
                  .keepalive_timeout = time_field(L, "keepalive_timeout")},
      .session_id = needed_text(L, "session_id"),
      .interval = time_field(L, "interval"),
      .deadline = time_field(L, "deadline"),
      .pause = time_field(L, "pause"),
      .attempts = attempts_field(L),
  };
  read_metadata(L, b);
  options.metadata = b->metadata;
  b->metadata = (rvl_grpc_metadata){0};
  b->heartbeat = rvl_heartbeat_start(&options, &why);
  if (b->heartbeat == NULL) return rvl_raise(L, "limit", NULL, "the heartbeat cannot be started: %s", why);
  enlist(b);
  return 1;
}

/* ---- a heartbeat ----------------------------------------------------------------------------------------- */

static void check_not_forked(lua_State *L, const box *b) {
  if (b->heartbeat != NULL && rvl_heartbeat_is_forked(b->heartbeat))
    rvl_raise(L, "closed", "start a new process (not a fork) for each runtime",
              "this process was forked from the one that started the heartbeat");
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  lua_pushinteger(L, (lua_Integer)count);
  lua_setfield(L, -2, name);
}

static void set_failure(lua_State *L, const rvl_heartbeat_state *s) {
  lua_pushboolean(L, s->refused ||
                         (s->status != RVL_GRPC_UNAVAILABLE && s->status != RVL_GRPC_DEADLINE_EXCEEDED));
  lua_setfield(L, -2, "rejected");
  lua_pushstring(L, s->text);
  lua_setfield(L, -2, "error");
  if (s->refused) return;
  set_count(L, "status", (uint64_t)s->status);
  lua_pushstring(L, rvl_grpc_code_name(s->status));
  lua_setfield(L, -2, "code");
}

/* state() → what it has done and how its last beat went; see training.HeartbeatStatus */
static int heartbeat_state(lua_State *L) {
  box *b = check_box(L);
  check_not_forked(L, b);
  rvl_heartbeat_state s = b->last;
  if (b->heartbeat != NULL) rvl_heartbeat_read(b->heartbeat, &s);
  lua_createtable(L, 0, 13);
  set_count(L, "beats", s.beats);
  set_count(L, "attempts", s.attempts);
  set_count(L, "failures", s.failures);
  set_count(L, "rejections", s.rejections);
  set_count(L, "connections", s.connections);
  lua_pushboolean(L, s.failing);
  lua_setfield(L, -2, "failing");
  lua_pushboolean(L, b->heartbeat == NULL);
  lua_setfield(L, -2, "stopped");
  uint64_t since = s.last_success != 0 ? s.last_success : s.started;
  lua_pushnumber(L, (lua_Number)(rvl_now() - since) / 1e9);
  lua_setfield(L, -2, "last_success_ago");
  if (s.last_success != 0) {
    lua_pushnumber(L, (lua_Number)s.last_success / 1e9);
    lua_setfield(L, -2, "last_success");
  }
  if (s.failures > 0) set_failure(L, &s);
  return 1;
}

/* failing() → whether the last beat failed; false once it is stopped */
static int heartbeat_failing(lua_State *L) {
  box *b = check_box(L);
  check_not_forked(L, b);
  lua_pushboolean(L, b->heartbeat != NULL && rvl_heartbeat_is_failing(b->heartbeat));
  return 1;
}

static void free_message(box *b) {
  free(b->message);
  b->message = NULL;
}

/* reply() → bytes of the latest good answer, number of its request, seconds since it came; nil: none since last time */
static int heartbeat_reply(lua_State *L) {
  box *b = check_box(L);
  check_not_forked(L, b);
  rvl_heartbeat_reply reply = {0};
  free_message(b);
  if (b->heartbeat != NULL) reply = rvl_heartbeat_take(b->heartbeat);
  if (reply.message == NULL) {
    lua_pushnil(L);
    return 1;
  }
  b->message = reply.message;
  lua_pushlstring(L, reply.message->data, reply.message->length);
  free_message(b);
  lua_pushinteger(L, (lua_Integer)reply.sequence);
  lua_pushnumber(L, (lua_Number)(rvl_now() - reply.arrived) / 1e9);
  return 3;
}

static void stop(box *b) {
  rvl_heartbeat *heartbeat = b->heartbeat;
  b->heartbeat = NULL;
  free_message(b);
  rvl_grpc_metadata_free(&b->metadata);
  if (heartbeat == NULL) return;
  delist(b);
  if (!rvl_heartbeat_is_forked(heartbeat)) rvl_heartbeat_read(heartbeat, &b->last);
  rvl_heartbeat_stop(heartbeat);
}

static int heartbeat_stop(lua_State *L) {
  stop(check_box(L));
  return 0;
}

void rvl_heartbeats_stop(rvl_runtime *rt) {
  while (rt->heartbeats != NULL) stop(rt->heartbeats);
}

/* wall() → seconds since 1970 */
static int wall(lua_State *L) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  lua_pushnumber(L, (lua_Number)t.tv_sec + (lua_Number)t.tv_nsec / 1e9);
  return 1;
}

int rvl_open_heartbeat(lua_State *L) {
  static const luaL_Reg functions[] = {{"start", start}, {"wall", wall}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"state", heartbeat_state}, {"failing", heartbeat_failing},
                                     {"reply", heartbeat_reply}, {"stop", heartbeat_stop}, {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__gc", heartbeat_stop}, {"__close", heartbeat_stop}, {NULL, NULL}};
  rvl_new_class(L, HEARTBEAT, methods, metamethods);
  rvl_new_functions(L, functions);
  return 1;
}
