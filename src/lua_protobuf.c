/* riverlua.core.protobuf: descriptors of protobuf-c for lua/riverlua/protobuf.lua. */
#include "array.h"
#include "protobuf.h"
#include "protobuf_library.h"
#include "runtime.h"

#define LIBRARY "riverlua.protobuf.Library"

/* of training.proto; the Makefile gives it this name */
extern const ProtobufCServiceDescriptor rvl_training_service;

/* user values of a library: the codec, and its descriptors by name */
enum { CODEC = 1, MESSAGES, SERVICES, VALUES = SERVICES };

typedef struct library {
  bool nameless;   /* there are descriptors without names */
} library;

/* ---- libraries --------------------------------------------------------------------------------------- */

static void check_library(lua_State *L) { luaL_checkudata(L, 1, LIBRARY); }

/* Pushes the descriptor of this name that the library at 1 has; NULL and nothing pushed when there is none. */
static const void *find_descriptor(lua_State *L, int where, const char *name) {
  lua_getiuservalue(L, 1, where);
  const void *descriptor = lua_getfield(L, -1, name) != LUA_TNIL ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 2);
  return descriptor;
}

/* Adds a message type and those that it has fields of, so far as they are new. */
static void add_messages(lua_State *L, const ProtobufCMessageDescriptor *descriptor) {
  lua_getiuservalue(L, 1, MESSAGES);
  lua_newtable(L);   /* those whose fields are still to be looked at */
  lua_pushlightuserdata(L, (void *)(uintptr_t)descriptor);
  lua_rawseti(L, -2, 1);
  for (lua_Integer left = 1; left > 0;) {
    lua_rawgeti(L, -1, left--);
    const ProtobufCMessageDescriptor *d = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (d->name == NULL || lua_getfield(L, -2, d->name) != LUA_TNIL) {
      if (d->name != NULL) lua_pop(L, 1);
      continue;
    }
    lua_pop(L, 1);
    lua_pushlightuserdata(L, (void *)(uintptr_t)d);
    lua_setfield(L, -3, d->name);
    for (unsigned i = 0; i < d->n_fields; i++) {
      if (d->fields[i].type != PROTOBUF_C_TYPE_MESSAGE) continue;
      lua_pushlightuserdata(L, (void *)(uintptr_t)d->fields[i].descriptor);
      lua_rawseti(L, -2, ++left);
    }
  }
  lua_pop(L, 2);
}

static void add(void *context, const ProtobufCMessageDescriptor *message, const ProtobufCServiceDescriptor *service) {
  lua_State *L = context;
  if ((message != NULL ? message->name : service->name) == NULL) {
    ((library *)lua_touserdata(L, 1))->nameless = true;
    return;
  }
  if (message != NULL) {
    add_messages(L, message);
    return;
  }
  for (unsigned i = 0; i < service->n_methods; i++) {
    add_messages(L, service->methods[i].input);
    add_messages(L, service->methods[i].output);
  }
  lua_getiuservalue(L, 1, SERVICES);
  lua_pushlightuserdata(L, (void *)(uintptr_t)service);
  lua_setfield(L, -2, service->name);
  lua_pop(L, 1);
}

/* Makes a library, puts it under the argument. */
static void push_library(lua_State *L) {
  lua_settop(L, 1);
  library *l = lua_newuserdatauv(L, sizeof *l, VALUES);
  l->nameless = false;
  luaL_setmetatable(L, LIBRARY);
  lua_insert(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_setiuservalue(L, 1, CODEC);
  for (int value = MESSAGES; value <= SERVICES; value++) {
    lua_newtable(L);
    lua_setiuservalue(L, 1, value);
  }
}

/* load(path) → library, whether some of it has no names; nil, why */
static int load_library(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  push_library(L);
  const char *why = rvl_protobuf_library_visit(path, add, L);
  if (why != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  lua_pushvalue(L, 1);
  lua_pushboolean(L, ((library *)lua_touserdata(L, 1))->nameless);
  return 2;
}

/* training() → the library of the messages that are linked in: those that the service's methods lead to */
static int training(lua_State *L) {
  lua_settop(L, 0);
  lua_pushnil(L);
  push_library(L);
  add(L, NULL, &rvl_training_service);
  lua_pushvalue(L, 1);
  return 1;
}

/* names(library, "message" or "service") → list of names, not sorted */
static int names(lua_State *L) {
  static const char *const kinds[] = {"message", "service", NULL};
  check_library(L);
  int where = luaL_checkoption(L, 2, NULL, kinds) == 0 ? MESSAGES : SERVICES;
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, where);
  lua_newtable(L);
  lua_Integer count = 0;
  lua_pushnil(L);
  while (lua_next(L, 3) != 0) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, 4, ++count);
  }
  return 1;
}

/* ---- what is in them --------------------------------------------------------------------------------- */

/* message(library, name) → message type, or nil */
static int message(lua_State *L) {
  check_library(L);
  const ProtobufCMessageDescriptor *d = find_descriptor(L, MESSAGES, luaL_checkstring(L, 2));
  if (d == NULL) return 0;
  lua_getiuservalue(L, 1, CODEC);
  rvl_protobuf_push_type(L, -1, d);
  return 1;
}

/* service(library, name) → {name =, methods = {Name = {name =, path =, request =, response =}}}, or nil */
static int service(lua_State *L) {
  check_library(L);
  const ProtobufCServiceDescriptor *d = find_descriptor(L, SERVICES, luaL_checkstring(L, 2));
  if (d == NULL) return 0;
  if (d->n_methods > 0 && (d->methods[0].name == NULL || d->methods[0].name[0] == '\0'))
    return rvl_raise(L, "argument", "compile its .proto without 'option optimize_for = CODE_SIZE'",
                     "%s: its methods have no names in protobuf-c's descriptor", d->name);
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, CODEC);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, d->name);
  lua_setfield(L, 4, "name");
  lua_createtable(L, 0, (int)d->n_methods);
  for (unsigned i = 0; i < d->n_methods; i++) {
    const ProtobufCMethodDescriptor *m = &d->methods[i];
    lua_createtable(L, 0, 4);
    lua_pushstring(L, m->name);
    lua_setfield(L, -2, "name");
    lua_pushfstring(L, "/%s/%s", d->name, m->name);
    lua_setfield(L, -2, "path");
    rvl_protobuf_push_type(L, 3, m->input);
    lua_setfield(L, -2, "request");
    rvl_protobuf_push_type(L, 3, m->output);
    lua_setfield(L, -2, "response");
    lua_setfield(L, -2, m->name);
  }
  lua_setfield(L, 4, "methods");
  return 1;
}

/* is_array(value) → whether it is a riverlua.Array */
static int is_array(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, rvl_array_test(L, 1) != NULL);
  return 1;
}

int rvl_open_protobuf(lua_State *L) {
  static const luaL_Reg functions[] = {{"load", load_library}, {"training", training}, {"names", names},
                                       {"message", message},   {"service", service},   {"is_array", is_array},
                                       {NULL, NULL}};
  luaL_newmetatable(L, LIBRARY);
  lua_pop(L, 1);
  luaL_newlibtable(L, functions);
  rvl_protobuf_push_codec(L);
  luaL_setfuncs(L, functions, 1);
  return 1;
}
