/* What is said of tables that are no messages. From where one of these begins the plan is not looked at. */
#include "protobuf_plan.h"
#include "runtime.h"

#include <stdarg.h>
#include <string.h>

_Noreturn void rvl_pb_fail_memory(rvl_pb_encoder *e) {
  rvl_pb_finish(e);
  lua_pushliteral(e->L, "not enough memory");
  lua_error(e->L);
  __builtin_unreachable();
}

_Noreturn void rvl_pb_fail(rvl_pb_encoder *e, const rvl_protobuf_frame *frame, const char *kind, const char *hint,
                           const char *format, ...) {
  lua_State *L = e->L;
  rvl_pb_finish(e);
  luaL_checkstack(L, 20, NULL);
  rvl_protobuf_push_path(L, e->root, frame);
  va_list args;
  va_start(args, format);
  lua_pushvfstring(L, format, args);
  va_end(args);
  rvl_raise(L, kind, hint, "%s: %s", lua_tostring(L, -2), lua_tostring(L, -1));
  __builtin_unreachable();
}

const char *rvl_pb_push_shown(lua_State *L, int index) {
  index = lua_absindex(L, index);
  switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL: return lua_pushliteral(L, "nothing");
    case LUA_TNUMBER: return luaL_tolstring(L, index, NULL);
    case LUA_TUSERDATA:
      if (rvl_array_test(L, index) != NULL) return lua_pushliteral(L, "a riverlua.Array");
      return lua_pushliteral(L, "a userdata");
    default: return lua_pushfstring(L, "a %s", luaL_typename(L, index));
  }
}

_Noreturn void rvl_pb_fail_type(rvl_pb_encoder *e, const rvl_protobuf_frame *frame, const char *wanted, int index) {
  lua_State *L = e->L;
  index = lua_absindex(L, index);
  if (!lua_checkstack(L, 20)) luaL_error(L, "stack overflow");
  lua_pushvalue(L, index);   /* finish() may take time, and the value's place */
  const char *shown = rvl_pb_push_shown(L, -1);
  rvl_pb_fail(e, frame, "argument", NULL, "%s is wanted, got %s", wanted, shown);
}

/* Pushes errors.suggest(name, candidates), the table on top; nil when there is none. */
static const char *push_suggestion(lua_State *L, const char *name) {
  int candidates = lua_gettop(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "riverlua.errors") == LUA_TTABLE && lua_getfield(L, -1, "suggest") == LUA_TFUNCTION) {
    lua_pushstring(L, name);
    lua_pushvalue(L, candidates);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING) return lua_tostring(L, -1);
  }
  lua_pushnil(L);
  return NULL;
}

static _Noreturn void fail_unnamed(rvl_pb_encoder *e, const rvl_protobuf_frame *frame, const char *name,
                                   const char *what) {
  const char *near = push_suggestion(e->L, name);
  if (near != NULL) rvl_pb_fail(e, frame, "argument", NULL, "%s; did you mean '%s'?", what, near);
  rvl_pb_fail(e, frame, "argument", NULL, "%s", what);
}

_Noreturn void rvl_pb_fail_field(rvl_pb_encoder *e, const rvl_protobuf_type *type, const rvl_protobuf_frame *frame,
                                 int key) {
  lua_State *L = e->L;
  const char *type_name = type->descriptor->name;
  key = lua_absindex(L, key);
  rvl_pb_finish(e);
  luaL_checkstack(L, 20, NULL);
  if (lua_type(L, key) != LUA_TSTRING)
    rvl_pb_fail(e, frame, "argument", NULL, "a message has names of fields as keys, not %s", rvl_pb_push_shown(L, key));
  const char *name = lua_tostring(L, key);
  const char *shown = strlen(name) <= 60 ? lua_pushfstring(L, "no field '%s'", name) : "no field of this long name";
  const char *what = frame == NULL ? lua_pushfstring(L, "there is %s", shown)   /* the path is the type's name */
                                   : lua_pushfstring(L, "%s has %s", type_name, shown);
  lua_newtable(L);
  for (uint32_t i = 0; i < type->count; i++) {
    lua_pushstring(L, type->fields[i].descriptor->name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  fail_unnamed(e, frame, name, what);
}

_Noreturn void rvl_pb_fail_enum(rvl_pb_encoder *e, const ProtobufCEnumDescriptor *d, const rvl_protobuf_frame *frame,
                                const char *name) {
  lua_State *L = e->L;
  rvl_pb_finish(e);
  luaL_checkstack(L, 20, NULL);
  const char *what = strlen(name) <= 60 ? lua_pushfstring(L, "'%s' is no value of %s", name, d->name)
                                        : lua_pushfstring(L, "this is no value of %s", d->name);
  lua_newtable(L);
  for (unsigned i = 0; d->values_by_name != NULL && i < d->n_value_names; i++) {
    lua_pushstring(L, d->values_by_name[i].name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  fail_unnamed(e, frame, name, what);
}
