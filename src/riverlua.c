/* The public interface: runtimes for hosts. See riverlua.h. */
#include "riverlua.h"
#include "runtime.h"

#include <lualib.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct riverlua {
  lua_State *L;
  rvl_runtime *rt;
  riverlua_config config;
  size_t used;              /* bytes that Lua holds */
  _Atomic(pthread_t) thread; /* the one that uses it: where its signals are handled */
  bool interrupted;         /* how the call failed */
  char *message, *kind, *traceback;
  char *result;
};

void riverlua_config_init(riverlua_config *config) {
  memset(config, 0, sizeof *config);
  config->size = sizeof *config;
}

int riverlua_version_number(void) { return RIVERLUA_VERSION_NUMBER; }
const char *riverlua_version(void) { return RIVERLUA_VERSION; }

static void *allocate(void *user, void *block, size_t old_size, size_t size) {
  riverlua *r = user;
  if (block == NULL) old_size = 0;
  if (size == 0) {
    free(block);
    r->used -= old_size;
    return NULL;
  }
  if (r->config.memory_limit != 0 && size > old_size && r->used + (size - old_size) > r->config.memory_limit)
    return NULL;
  void *grown = realloc(block, size);
  if (grown != NULL) r->used = r->used - old_size + size;
  return grown;
}

/* registry: the message handler of calls */
static const char handler_key = 0;

static int keep_error(lua_State *L);

static int open_libraries(lua_State *L) {
  const riverlua *r = lua_touserdata(L, 1);
  if (r->config.ignore_environment) {
    lua_pushboolean(L, 1);   /* the standard library looks for this name */
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  }
  luaL_openlibs(L);
  riverlua_openlibs(L);
  lua_pushlightuserdata(L, (void *)(size_t)r);
  lua_pushcclosure(L, keep_error, 1);   /* now: a call must need no memory before it is protected */
  lua_rawsetp(L, LUA_REGISTRYINDEX, &handler_key);
  return 0;
}

int riverlua_openlibs(struct lua_State *L) {
  luaL_checkversion(L);
  rvl_runtime_of(L);
  rvl_open_searcher(L);
  rvl_open_standard(L);
  return 0;
}

riverlua *riverlua_new(const riverlua_config *config) {
  riverlua *r = calloc(1, sizeof *r);
  if (r == NULL) return NULL;
  riverlua_config_init(&r->config);
  if (config != NULL) {
    size_t known = config->size != 0 && config->size < sizeof r->config ? config->size : sizeof r->config;
    memcpy(&r->config, config, known);
    r->config.size = sizeof r->config;
  }
  atomic_init(&r->thread, pthread_self());
  r->L = lua_newstate(allocate, r);
  if (r->L != NULL) {
    lua_gc(r->L, LUA_GCSTOP);   /* as the standalone interpreter does while the libraries are opened */
    lua_pushcfunction(r->L, open_libraries);
    lua_pushlightuserdata(r->L, r);
    if (lua_pcall(r->L, 1, 0, 0) == LUA_OK) {
      r->rt = rvl_runtime_of(r->L);
      lua_gc(r->L, LUA_GCRESTART);
      lua_gc(r->L, LUA_GCGEN, 0, 0);
      return r;
    }
    lua_close(r->L);
  }
  free(r);
  return NULL;
}

void riverlua_close(riverlua *r) {
  if (r == NULL) return;
  atomic_store(&r->thread, pthread_self());
  atomic_store(&r->rt->interrupted, false);
  lua_settop(r->L, 0);
  lua_pushcfunction(r->L, rvl_end_tasks);
  lua_pcall(r->L, 0, 0, 0);
  r->rt->closing = true;
  lua_close(r->L);
  free(r->message);
  free(r->kind);
  free(r->traceback);
  free(r->result);
  free(r);
}

/* ---- errors ---------------------------------------------------------------------------------------- */

static void keep(char **place, const char *text) {
  free(*place);
  *place = text != NULL ? strdup(text) : NULL;
}

static void forget_error(riverlua *r) {
  keep(&r->message, NULL);
  keep(&r->kind, NULL);
  keep(&r->traceback, NULL);
}

/* message handler: keeps the error where the host can read it */
static int keep_error(lua_State *L) {
  riverlua *r = lua_touserdata(L, lua_upvalueindex(1));
  luaL_traceback(L, L, NULL, 1);
  keep(&r->traceback, lua_tostring(L, -1));
  keep(&r->kind, "lua");
  if (lua_istable(L, 1) && lua_getfield(L, 1, "kind") == LUA_TSTRING) {
    keep(&r->kind, lua_tostring(L, -1));
    r->interrupted = strcmp(lua_tostring(L, -1), "interrupted") == 0;
  }
  keep(&r->message, luaL_tolstring(L, 1, NULL));
  lua_settop(L, 1);
  return 1;
}

/* Calls the function below `nargs` arguments; its results replace them. */
static riverlua_status call(riverlua *r, int nargs, int nresults) {
  lua_State *L = r->L;
  atomic_store(&r->thread, pthread_self());
  r->interrupted = false;
  int base = lua_gettop(L) - nargs;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handler_key);
  lua_insert(L, base);
  int status = lua_pcall(L, nargs, nresults, base);
  lua_remove(L, base);
  atomic_store(&r->rt->stopping, false);
  if (status == LUA_OK) return RIVERLUA_OK;
  lua_pop(L, 1);
  if (status == LUA_ERRMEM) {
    keep(&r->kind, "memory");
    keep(&r->message, "not enough memory");
    return RIVERLUA_OUT_OF_MEMORY;
  }
  return r->interrupted ? RIVERLUA_INTERRUPTED : RIVERLUA_ERROR;
}

const char *riverlua_error_message(const riverlua *r) { return r->message != NULL ? r->message : ""; }
const char *riverlua_error_kind(const riverlua *r) { return r->kind != NULL ? r->kind : ""; }
const char *riverlua_error_traceback(const riverlua *r) { return r->traceback != NULL ? r->traceback : ""; }

/* ---- running ---------------------------------------------------------------------------------------- */

static int load_file(lua_State *L) {
  if (luaL_loadfile(L, lua_touserdata(L, 1)) != LUA_OK) return lua_error(L);
  lua_call(L, 0, 0);
  return 0;
}

riverlua_status riverlua_run_file(riverlua *r, const char *path) {
  forget_error(r);
  lua_pushcfunction(r->L, load_file);
  lua_pushlightuserdata(r->L, (void *)(size_t)path);
  return call(r, 1, 0);
}

typedef struct source_text {
  const char *source, *name;
} source_text;

static int load_source(lua_State *L) {
  const source_text *s = lua_touserdata(L, 1);
  const char *name = s->name != NULL ? lua_pushfstring(L, "=%s", s->name) : s->source;
  if (luaL_loadbufferx(L, s->source, strlen(s->source), name, "t") != LUA_OK) return lua_error(L);
  lua_call(L, 0, 0);
  return 0;
}

riverlua_status riverlua_run_string(riverlua *r, const char *source, const char *name) {
  forget_error(r);
  source_text text = {source, name};
  lua_pushcfunction(r->L, load_source);
  lua_pushlightuserdata(r->L, &text);
  return call(r, 1, 0);
}

typedef struct json_call {
  riverlua *r;
  const char *function, *arguments;
  bool wants_result;
} json_call;

static int call_json(lua_State *L) {
  const json_call *c = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "riverlua.json");
  lua_call(L, 1, 1);
  int json = lua_gettop(L);
  lua_pushfstring(L, "return %s", c->function);
  if (luaL_loadbufferx(L, lua_tostring(L, -1), lua_rawlen(L, -1), "=function", "t") != LUA_OK) return lua_error(L);
  lua_call(L, 0, 1);
  int nargs = 0;
  if (c->arguments != NULL) {
    lua_getfield(L, json, "decode");
    lua_pushstring(L, c->arguments);
    lua_call(L, 1, 1);
    nargs = 1;
  }
  lua_call(L, nargs, 1);
  if (!c->wants_result) return 0;
  lua_getfield(L, json, "encode");
  lua_insert(L, -2);
  lua_call(L, 1, 1);
  keep(&c->r->result, lua_tostring(L, -1));
  if (c->r->result == NULL) return luaL_error(L, "not enough memory");
  return 0;
}

riverlua_status riverlua_call_json(riverlua *r, const char *function, const char *arguments, const char **result) {
  forget_error(r);
  if (result != NULL) *result = NULL;
  json_call c = {r, function, arguments, result != NULL};
  lua_pushcfunction(r->L, call_json);
  lua_pushlightuserdata(r->L, &c);
  riverlua_status status = call(r, 1, 0);
  if (status == RIVERLUA_OK && result != NULL) *result = r->result;
  return status;
}

typedef struct command_line {
  int argc;
  char **argv;
} command_line;

static int run_command(lua_State *L) {
  const command_line *c = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "riverlua.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_createtable(L, c->argc, 1);
  for (int i = 0; i < c->argc; i++) {
    lua_pushstring(L, c->argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_remove(L, 2);   /* the module */
  lua_remove(L, 1);
  return rvl_command_run(L);
}

int riverlua_command(riverlua *r, int argc, char **argv) {
  forget_error(r);
  r->rt->command = true;
  command_line line = {argc, argv};
  lua_pushcfunction(r->L, run_command);
  lua_pushlightuserdata(r->L, &line);
  if (call(r, 1, 1) != RIVERLUA_OK) return EXIT_FAILURE;
  int code = (int)lua_tointeger(r->L, -1);
  lua_pop(r->L, 1);
  return code;
}

/* ---- the rest ---------------------------------------------------------------------------------------- */

void riverlua_interrupt(riverlua *r) {
  rvl_runtime_interrupt(r->rt, pthread_equal(atomic_load(&r->thread), pthread_self()) != 0);
}

int riverlua_interrupt_pending(const riverlua *r) {
  return atomic_load(&r->rt->interrupted) || atomic_load(&r->rt->stopping);
}

void riverlua_wake(riverlua *r) {
  if (r->rt->loop_open) rvl_loop_wake(&r->rt->loop);
}

struct lua_State *riverlua_state(riverlua *r) { return r->L; }
void *riverlua_user_data(const riverlua *r) { return r->config.user_data; }
