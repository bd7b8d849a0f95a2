/* riverlua.core.river: optimizers as userdata. */
#include "lua_river.h"

#include <string.h>

enum { NAMES = RVL_RIVER_NAMES };

/* A userdata; what a linear model needs of it comes first. User value: the names of its slots. */
typedef struct optimizer {
  rvl_river_optimizer o;
  rvl_river_plan scratch;
} optimizer;

static const char *const optimizer_kinds[] = {"AdaBound", "AdaDelta", "AdaGrad", "AdaMax", "Adam", "AMSGrad",
  "FTRLProximal", "Momentum", "Nadam", "NesterovMomentum", "RMSProp", "SGD", NULL};

/* optimizer(kind, list of parameters, kind of schedule, its numbers a and b) → optimizer */
static int new_optimizer(lua_State *L) {
  int kind = luaL_checkoption(L, 1, NULL, optimizer_kinds);
  luaL_checktype(L, 2, LUA_TTABLE);
  rvl_river_schedule lr = rvl_river_check_schedule(L, 3);
  optimizer *self = lua_newuserdatauv(L, sizeof *self, 1);
  memset(self, 0, sizeof *self);
  luaL_setmetatable(L, RVL_RIVER_OPTIMIZER);
  self->o.kind = (rvl_river_optimizer_kind)kind;
  self->o.lr = lr;
  size_t n = lua_rawlen(L, 2);
  for (size_t i = 0; i < n && i < RVL_OPTIMIZER_PARAMETERS; i++) self->o.p[i] = rvl_river_number_at(L, 2, i + 1);
  lua_newtable(L);
  lua_setiuservalue(L, -2, NAMES);
  return 1;
}

static optimizer *check_optimizer(lua_State *L, int index) {
  return luaL_checkudata(L, index, RVL_RIVER_OPTIMIZER);
}

static int optimizer_gc(lua_State *L) {
  optimizer *self = check_optimizer(L, 1);
  rvl_river_optimizer_free(&self->o);
  rvl_river_plan_free(&self->scratch);
  return 0;
}

/* Arguments (optimizer, weights, plan or nil, …): reads n weights and their slots. */
static optimizer *read_weights(lua_State *L, lua_Integer n) {
  optimizer *self = check_optimizer(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  if (n < 0 || n > INT32_MAX) luaL_error(L, "too many weights");
  if (!rvl_river_plan_reserve(&self->scratch, (size_t)n)) rvl_river_no_memory(L);
  size_t largest = 0;
  for (size_t i = 0; i < (size_t)n; i++) {
    size_t slot = i;
    if (lua_istable(L, 3)) {
      lua_rawgeti(L, 3, (lua_Integer)i + 1);
      lua_Integer place = lua_tointeger(L, -1);
      if (place < 1 || place > INT32_MAX) luaL_error(L, "a plan holds places from 1");
      slot = (size_t)place - 1;
      lua_pop(L, 1);
    }
    self->scratch.slot[i] = (int32_t)slot;
    if (slot >= largest) largest = slot + 1;
  }
  if (!rvl_river_optimizer_grow(&self->o, largest)) rvl_river_no_memory(L);
  return self;
}

/* Pushes memory with the weights at their slots, to work on. */
static double *push_weights(lua_State *L, const optimizer *self, size_t n) {
  double *weights = lua_newuserdatauv(L, (self->o.slots > 0 ? self->o.slots : 1) * sizeof *weights, 0);
  for (size_t i = 0; i < n; i++) weights[self->scratch.slot[i]] = rvl_river_number_at(L, 2, (size_t)self->scratch.slot[i] + 1);
  return weights;
}

static void return_weights(lua_State *L, const optimizer *self, const double *weights, size_t n) {
  for (size_t i = 0; i < n; i++) {
    lua_pushnumber(L, weights[self->scratch.slot[i]]);
    lua_rawseti(L, 2, (lua_Integer)self->scratch.slot[i] + 1);
  }
}

/* optimizer:step(weights, plan, gradient, n): changes weights[plan[i]] by gradient[i], all of them Lua lists, as the
 * library does with dictionaries */
static int optimizer_step(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 5);
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TTABLE);
  optimizer *self = read_weights(L, n);
  for (size_t i = 0; i < (size_t)n; i++) self->scratch.gradient[i] = rvl_river_number_at(L, 4, i + 1);
  double *weights = push_weights(L, self, (size_t)n);
  rvl_river_optimizer_step(&self->o, weights, self->scratch.slot, self->scratch.gradient, (size_t)n, false);
  return_weights(L, self, weights, (size_t)n);
  return 0;
}

/* optimizer:look_ahead(weights, nil, n): what is done to all n weights before a prediction to learn from */
static int optimizer_look_ahead(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 4);
  if (check_optimizer(L, 1)->o.kind != RVL_OPTIMIZER_NESTEROV) return 0;
  optimizer *self = read_weights(L, n);
  double *weights = push_weights(L, self, (size_t)n);
  rvl_river_optimizer_look_ahead(&self->o, weights, self->scratch.slot, (size_t)n);
  return_weights(L, self, weights, (size_t)n);
  return 0;
}

/* optimizer:rate() → the current learning rate */
static int optimizer_rate(lua_State *L) {
  const rvl_river_optimizer *o = &check_optimizer(L, 1)->o;
  lua_pushnumber(L, rvl_river_schedule_get(&o->lr, o->n_iterations));
  return 1;
}

/* optimizer:get() → {names = list, n_iterations =, final_lr =, [1] = first column …}: all that was learned */
static int optimizer_get(lua_State *L) {
  const rvl_river_optimizer *o = &check_optimizer(L, 1)->o;
  lua_newtable(L);
  rvl_river_push_names(L, 1, o->slots);
  lua_setfield(L, -2, "names");
  lua_pushinteger(L, o->n_iterations);
  lua_setfield(L, -2, "n_iterations");
  lua_pushnumber(L, o->p[4]);
  lua_setfield(L, -2, "final_lr");
  for (size_t k = 0; k < rvl_river_optimizer_columns(o); k++) {
    rvl_river_push_column(L, o->column[k], o->slots);
    lua_rawseti(L, -2, (lua_Integer)k + 1);
  }
  return 1;
}

/* Gives slots to the names of the list at index `list` and reads the columns of the table at index 2 into them. */
static void set_columns(lua_State *L, rvl_river_optimizer *o, int list) {
  size_t n = lua_rawlen(L, list), columns = rvl_river_optimizer_columns(o);
  lua_getiuservalue(L, 1, NAMES);
  int names = lua_gettop(L);
  size_t count = lua_rawlen(L, names);
  for (size_t i = 1; i <= n; i++) {
    lua_rawgeti(L, list, (lua_Integer)i);
    luaL_checktype(L, -1, LUA_TSTRING);
    size_t slot = (size_t)rvl_river_slot_of(L, names, &count, true);
    if (!rvl_river_optimizer_grow(o, slot + 1)) rvl_river_no_memory(L);
    for (size_t k = 0; k < columns; k++) {
      lua_rawgeti(L, 2, (lua_Integer)k + 1);
      luaL_checktype(L, -1, LUA_TTABLE);
      o->column[k][slot] = rvl_river_number_at(L, lua_gettop(L), i);
      lua_pop(L, 1);
    }
  }
}

/* optimizer:set(table): goes on from what `get` gave. Slots that no names belong to are only for a new optimizer. */
static int optimizer_set(lua_State *L) {
  rvl_river_optimizer *o = &check_optimizer(L, 1)->o;
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_getfield(L, 2, "n_iterations");
  lua_Integer n_iterations = luaL_checkinteger(L, -1);
  if (o->kind == RVL_OPTIMIZER_ADABOUND) o->p[4] = rvl_river_number_field(L, 2, "final_lr");
  lua_getfield(L, 2, "names");
  luaL_checktype(L, -1, LUA_TTABLE);
  int list = lua_gettop(L);
  o->n_iterations = n_iterations;
  if (lua_rawlen(L, list) > 0) {
    set_columns(L, o, list);
  } else if (rvl_river_optimizer_columns(o) > 0 && o->slots == 0) {
    lua_rawgeti(L, 2, 1);
    size_t n = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
    if (n > INT32_MAX || !rvl_river_optimizer_grow(o, n)) return rvl_river_no_memory(L);
    for (size_t k = 0; k < rvl_river_optimizer_columns(o); k++) rvl_river_read_column(L, 2, (lua_Integer)k + 1, o->column[k], n);
  }
  return 0;
}

void rvl_river_open_optimizers(lua_State *L) {
  static const luaL_Reg methods[] = {{"step", optimizer_step}, {"look_ahead", optimizer_look_ahead},
                                     {"rate", optimizer_rate}, {"get", optimizer_get}, {"set", optimizer_set},
                                     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__gc", optimizer_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"optimizer", new_optimizer}, {NULL, NULL}};
  rvl_river_new_class(L, RVL_RIVER_OPTIMIZER, methods, metamethods);
  luaL_setfuncs(L, functions, 0);
}
