/* riverlua.core.river: scalers and linear models as userdata, on rows that are Lua tables. */
#include "lua_river.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES = RVL_RIVER_NAMES, KEYS = 2, OPTIMIZER = 3, INITIAL = 4 };

int rvl_river_no_memory(lua_State *L) {
  return luaL_error(L, "not enough memory for a model");
}

bool rvl_river_to_number(lua_State *L, int index, double *value) {
  int type = lua_type(L, index);
  if (type == LUA_TNUMBER) *value = lua_tonumber(L, index);
  else if (type == LUA_TBOOLEAN) *value = lua_toboolean(L, index);
  else return false;
  return true;
}

double rvl_river_number_field(lua_State *L, int table, const char *name) {
  lua_getfield(L, table, name);
  double value = 0;
  if (!rvl_river_to_number(L, -1, &value)) luaL_error(L, "'%s' must be a number", name);
  lua_pop(L, 1);
  return value;
}

double rvl_river_number_at(lua_State *L, int table, size_t i) {
  lua_rawgeti(L, table, (lua_Integer)i);
  if (lua_type(L, -1) != LUA_TNUMBER) luaL_error(L, "a number is expected");
  double value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

/* Pushes a list of numbers. */
void rvl_river_push_column(lua_State *L, const double *values, size_t n) {
  lua_createtable(L, n < 1 << 20 ? (int)n : 0, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushnumber(L, values[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* Reads the list that the table at `table` has at `key`. */
void rvl_river_read_column(lua_State *L, int table, lua_Integer key, double *values, size_t n) {
  lua_rawgeti(L, table, key);
  luaL_checktype(L, -1, LUA_TTABLE);
  for (size_t i = 0; i < n; i++) values[i] = rvl_river_number_at(L, lua_gettop(L), i + 1);
  lua_pop(L, 1);
}

/* ------------------------------------------------------------------------------------------------- names */

/* Pushes a copy of the names as a list; empty where slots have none. */
void rvl_river_push_names(lua_State *L, int stage, size_t slots) {
  lua_getiuservalue(L, stage, NAMES);
  lua_createtable(L, slots < 1 << 20 ? (int)slots : 0, 0);
  for (size_t i = 1; i <= slots; i++) {
    lua_rawgeti(L, -2, (lua_Integer)i);
    lua_rawseti(L, -2, (lua_Integer)i);
  }
  lua_remove(L, -2);
}

/* Gives every name of the list on top of the stack, which is popped, a slot; their number must fit the columns. */
static size_t read_names(lua_State *L, int stage) {
  int list = lua_gettop(L);
  luaL_checktype(L, list, LUA_TTABLE);
  lua_getiuservalue(L, stage, NAMES);
  size_t n = lua_rawlen(L, list);
  if (n > INT32_MAX) luaL_error(L, "too many features");
  for (size_t i = 1; i <= n; i++) {
    lua_rawgeti(L, list, (lua_Integer)i);
    luaL_checktype(L, -1, LUA_TSTRING);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, (lua_Integer)i);
    lua_pushinteger(L, (lua_Integer)i);
    lua_rawset(L, -3);
  }
  lua_settop(L, list - 1);
  return n;
}

/* The slot of the name on top of the stack, which is popped; -1 without one. */
lua_Integer rvl_river_slot_of(lua_State *L, int names, size_t *count, bool learning) {
  luaL_checktype(L, -1, LUA_TSTRING);   /* anything else could be taken for a slot */
  lua_pushvalue(L, -1);
  lua_Integer slot = lua_rawget(L, names) == LUA_TNUMBER ? lua_tointeger(L, -1) - 1 : -1;
  lua_pop(L, 1);
  if (slot < 0 && learning) {
    if (*count >= INT32_MAX) luaL_error(L, "too many features");
    slot = (lua_Integer)(*count)++;
    lua_pushvalue(L, -1);
    lua_rawseti(L, names, slot + 1);
    lua_pushvalue(L, -1);
    lua_pushinteger(L, slot + 1);
    lua_rawset(L, names);
  }
  lua_pop(L, 1);
  return slot;
}

/* ------------------------------------------------------------------------------------------------- plans */

bool rvl_river_plan_reserve(rvl_river_plan *plan, size_t n) {
  if (n <= plan->capacity) return true;
  size_t capacity = n + n / 2 + 8;
  int32_t *slot = realloc(plan->slot, capacity * sizeof *slot);
  if (slot != NULL) plan->slot = slot;
  double *x = realloc(plan->x, capacity * sizeof *x);
  if (x != NULL) plan->x = x;
  double *gradient = realloc(plan->gradient, capacity * sizeof *gradient);
  if (gradient != NULL) plan->gradient = gradient;
  if (slot == NULL || x == NULL || gradient == NULL) return false;
  plan->capacity = capacity;
  return true;
}

void rvl_river_plan_free(rvl_river_plan *plan) {
  free(plan->slot);
  free(plan->x);
  free(plan->gradient);
  *plan = (rvl_river_plan){.keys = NULL};
}

/* Room for `slots` slots in a linear model; first weights that are not constant come from a Lua function. */
static void grow_linear(lua_State *L, rvl_river_stage *self, int stage, size_t slots) {
  rvl_river_glm *glm = &self->u.glm;
  if (!rvl_river_optimizer_grow(glm->optimizer, slots)) rvl_river_no_memory(L);
  if (lua_getiuservalue(L, stage, INITIAL) == LUA_TFUNCTION) {
    while (glm->slots < slots) {
      lua_pushvalue(L, -1);
      lua_call(L, 0, 1);
      double initial = luaL_checknumber(L, -1);
      lua_pop(L, 1);
      if (!rvl_river_glm_grow(glm, glm->slots + 1, initial)) rvl_river_no_memory(L);
    }
  } else if (!rvl_river_glm_grow(glm, slots, self->initial)) {
    rvl_river_no_memory(L);
  }
  lua_pop(L, 1);
}

static void stage_grow(lua_State *L, rvl_river_stage *self, int stage, size_t slots) {
  if (self->kind == RVL_STAGE_GLM) grow_linear(L, self, stage, slots);
  else if (!rvl_river_scaler_grow(&self->u.scaler, slots)) rvl_river_no_memory(L);
}

void rvl_river_stage_plan(lua_State *L, int stage, int keys, bool learning) {
  rvl_river_stage *self = lua_touserdata(L, stage);
  rvl_river_plan *plan = &self->plan;
  size_t known = self->kind == RVL_STAGE_GLM ? self->u.glm.slots : self->u.scaler.slots, n = lua_rawlen(L, keys);
  luaL_checkstack(L, 8, "model");
  plan->keys = NULL;
  if (!rvl_river_plan_reserve(plan, n)) rvl_river_no_memory(L);
  lua_getiuservalue(L, stage, NAMES);
  int names = lua_gettop(L);
  size_t count = lua_rawlen(L, names);
  bool complete = true;
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, keys, (lua_Integer)i + 1);
    lua_Integer slot = rvl_river_slot_of(L, names, &count, learning);
    if (!learning && slot >= (lua_Integer)known) slot = -1;   /* a name of another model with the same optimizer */
    if (slot < 0) complete = false;
    plan->slot[i] = (int32_t)slot;
  }
  lua_pop(L, 1);
  if (learning) stage_grow(L, self, stage, count);
  lua_pushvalue(L, keys);
  lua_setiuservalue(L, stage, KEYS);   /* so that no other table gets this address */
  plan->n = n;
  plan->complete = complete;
  plan->keys = lua_topointer(L, keys);
}

/* Arguments (stage, row, keys): the plan is made to fit and the values are read. */
static rvl_river_stage *begin(lua_State *L, rvl_river_stage_kind kind, bool learning) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  if (self->kind != kind) luaL_argerror(L, 1, "another kind of stage is expected");
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  if (rvl_river_stage_needs_plan(self, lua_topointer(L, 3), learning)) rvl_river_stage_plan(L, 1, 3, learning);
  for (size_t i = 0; i < self->plan.n; i++) self->plan.x[i] = rvl_river_number_at(L, 2, i + 1);
  return self;
}

/* ------------------------------------------------------------------------------------------------ stages */

static rvl_river_stage *new_stage(lua_State *L, rvl_river_stage_kind kind) {
  rvl_river_stage *self = lua_newuserdatauv(L, sizeof *self, 4);
  memset(self, 0, sizeof *self);
  self->kind = kind;
  luaL_setmetatable(L, RVL_RIVER_STAGE);
  return self;
}

static int stage_gc(lua_State *L) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  rvl_river_plan_free(&self->plan);
  if (self->kind == RVL_STAGE_GLM) rvl_river_glm_free(&self->u.glm);
  else rvl_river_scaler_free(&self->u.scaler);
  return 0;
}

/* The number of features that were learned from. */
static int stage_len(lua_State *L) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  lua_pushinteger(L, (lua_Integer)(self->kind == RVL_STAGE_GLM ? self->u.glm.slots : self->u.scaler.slots));
  return 1;
}

/* ----------------------------------------------------------------------------------------------- scalers */

static const char *const scaler_kinds[] = {"standard", "min_max", "max_abs", "adaptive", NULL};

/* scaler(kind, {with_std=, fading_factor=}, window_size or nil) → stage */
static int new_scaler(lua_State *L) {
  rvl_river_scaler_kind kind = (rvl_river_scaler_kind)luaL_checkoption(L, 1, NULL, scaler_kinds);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool windowed = !lua_isnoneornil(L, 3);
  lua_Integer size = windowed ? luaL_checkinteger(L, 3) : 0;
  if (size < 0) luaL_argerror(L, 3, "a window has no negative size");
  rvl_river_scaler *scaler = &new_stage(L, RVL_STAGE_SCALER)->u.scaler;
  scaler->kind = kind;
  scaler->windowed = windowed;
  scaler->window_size = (size_t)size;
  scaler->with_std = kind == RVL_SCALER_STANDARD && rvl_river_number_field(L, 2, "with_std") != 0;
  if (kind == RVL_SCALER_ADAPTIVE) scaler->fading_factor = rvl_river_number_field(L, 2, "fading_factor");
  lua_newtable(L);
  lua_setiuservalue(L, -2, NAMES);
  return 1;
}

/* Python's own words for what cannot be done; nil when all went well. */
static int push_problem(lua_State *L, rvl_river_scale_result result) {
  switch (result) {
    case RVL_SCALE_DONE: return 0;
    case RVL_SCALE_NO_MEMORY: return rvl_river_no_memory(L);
    case RVL_SCALE_EMPTY_WINDOW:
      lua_pushliteral(L, "IndexError");
      lua_pushliteral(L, "deque index out of range");
      break;
    case RVL_SCALE_NEVER_SEEN:
      lua_pushliteral(L, "TypeError");
      lua_pushliteral(L, "unsupported operand type(s) for -: 'NoneType' and 'NoneType'");
      break;
    case RVL_SCALE_COMPLEX:
      lua_pushliteral(L, "TypeError");
      lua_pushliteral(L, "VectorDict values must be real numbers");
      break;
  }
  return 2;
}

/* scaler:learn(row, keys) → nothing, or the kind and text of Python's error */
static int scaler_learn(lua_State *L) {
  rvl_river_stage *self = begin(L, RVL_STAGE_SCALER, true);
  return push_problem(L, rvl_river_scaler_learn(&self->u.scaler, self->plan.slot, self->plan.x, self->plan.n));
}

/* scaler:transform(row, keys, out): the same; `out` receives the values */
static int scaler_transform(lua_State *L) {
  rvl_river_stage *self = begin(L, RVL_STAGE_SCALER, false);
  rvl_river_plan *plan = &self->plan;
  luaL_checktype(L, 4, LUA_TTABLE);
  rvl_river_scale_result result = rvl_river_scaler_transform(&self->u.scaler, plan->slot, plan->x, plan->x, plan->n);
  if (result != RVL_SCALE_DONE) return push_problem(L, result);
  for (size_t i = 0; i < plan->n; i++) {
    lua_pushnumber(L, plan->x[i]);
    lua_rawseti(L, 4, (lua_Integer)i + 1);
  }
  return 0;
}

static void push_window(lua_State *L, const rvl_river_window *window) {
  lua_newtable(L);
  for (size_t i = 0; i < window->count; i++) {
    lua_pushnumber(L, rvl_river_window_at(window, i));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_pushnumber(L, window->n);
  lua_setfield(L, -2, "n");
  lua_pushnumber(L, window->s);
  lua_setfield(L, -2, "s");
}

/* Reads the window on top of the stack. */
static void read_window(lua_State *L, const rvl_river_scaler *scaler, rvl_river_window *window) {
  luaL_checktype(L, -1, LUA_TTABLE);
  int table = lua_gettop(L);
  size_t n = lua_rawlen(L, table);
  if (n > scaler->window_size) luaL_error(L, "a window holds too much");
  window->count = 0;
  for (size_t i = 1; i <= n; i++) {
    if (!rvl_river_window_push(window, rvl_river_number_at(L, table, i))) rvl_river_no_memory(L);
  }
  window->n = rvl_river_number_field(L, table, "n");
  window->s = rvl_river_number_field(L, table, "s");
}

/* scaler:get() → {names = list, [1] = first column …, windows = list or nil}: all that was learned */
static int scaler_get(lua_State *L) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  const rvl_river_scaler *scaler = &self->u.scaler;
  if (self->kind != RVL_STAGE_SCALER) return luaL_argerror(L, 1, "a scaler is expected");
  lua_newtable(L);
  rvl_river_push_names(L, 1, scaler->slots);
  lua_setfield(L, -2, "names");
  for (size_t k = 0; k < rvl_river_scaler_columns(scaler); k++) {
    rvl_river_push_column(L, scaler->column[k], scaler->slots);
    lua_rawseti(L, -2, (lua_Integer)k + 1);
  }
  if (!scaler->windowed) return 1;
  lua_newtable(L);
  for (size_t i = 0; i < scaler->slots; i++) {
    push_window(L, &scaler->windows[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "windows");
  return 1;
}

/* scaler:set(table): goes on from what `get` gave; only for a new scaler. What follows from the rest may be any
 * number. */
static int scaler_set(lua_State *L) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  rvl_river_scaler *scaler = &self->u.scaler;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (self->kind != RVL_STAGE_SCALER || scaler->slots > 0) return luaL_argerror(L, 1, "a new scaler is expected");
  lua_getfield(L, 2, "names");
  size_t n = read_names(L, 1);
  if (!rvl_river_scaler_grow(scaler, n)) return rvl_river_no_memory(L);
  for (size_t k = 0; k < rvl_river_scaler_columns(scaler); k++) {
    rvl_river_read_column(L, 2, (lua_Integer)k + 1, scaler->column[k], n);
  }
  if (scaler->windowed) {
    lua_getfield(L, 2, "windows");
    luaL_checktype(L, -1, LUA_TTABLE);
    for (size_t i = 0; i < n; i++) {
      lua_rawgeti(L, -1, (lua_Integer)i + 1);
      read_window(L, scaler, &scaler->windows[i]);
      lua_pop(L, 1);
    }
  }
  rvl_river_scaler_refresh(scaler);
  self->plan.keys = NULL;
  return 0;
}

/* ----------------------------------------------------------------------------------------- linear models */

static const char *const schedule_kinds[] = {"constant", "inverse", "optimal", NULL};

/* The schedule that three arguments from `index` describe: its kind and two numbers. */
rvl_river_schedule rvl_river_check_schedule(lua_State *L, int index) {
  rvl_river_schedule schedule = {.kind = (rvl_river_schedule_kind)luaL_checkoption(L, index, NULL, schedule_kinds)};
  schedule.a = luaL_checknumber(L, index + 1);
  schedule.b = luaL_optnumber(L, index + 2, 0);
  return schedule;
}

static const char *const loss_kinds[] = {"Absolute", "BinaryFocalLoss", "Cauchy", "EpsilonInsensitiveHinge", "Hinge",
  "Huber", "Log", "Poisson", "Quantile", "Squared", NULL};

static rvl_river_loss check_loss(lua_State *L, int index) {
  rvl_river_loss loss = {.kind = (rvl_river_loss_kind)luaL_checkoption(L, index, NULL, loss_kinds)};
  loss.a = luaL_optnumber(L, index + 1, 0);
  loss.b = luaL_optnumber(L, index + 2, 0);
  return loss;
}

/* loss_gradient(y, prediction, kind, a, b) → slope */
static int loss_gradient(lua_State *L) {
  rvl_river_loss loss = check_loss(L, 3);
  double y = 0;
  if (!rvl_river_to_number(L, 1, &y)) return luaL_argerror(L, 1, "a number or boolean is expected");
  lua_pushnumber(L, rvl_river_loss_gradient(&loss, y, luaL_checknumber(L, 2)));
  return 1;
}

void rvl_river_push_mean(lua_State *L, const rvl_river_loss *loss, double raw) {
  if (rvl_river_loss_is_logistic(loss) && (raw < -30 || raw > 30)) lua_pushinteger(L, raw > 0);
  else lua_pushnumber(L, rvl_river_loss_mean(loss, raw));
}

/* loss_mean(raw, kind, a, b) → prediction */
static int loss_mean(lua_State *L) {
  rvl_river_loss loss = check_loss(L, 2);
  rvl_river_push_mean(L, &loss, luaL_checknumber(L, 1));
  return 1;
}

/* linear({l1=, l2=, clip_gradient=, intercept=, initial= number or function}, optimizer, loss kind, a, b,
 * schedule kind of the intercept, a, b) → stage */
static int new_linear(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  rvl_river_optimizer *o = luaL_checkudata(L, 2, RVL_RIVER_OPTIMIZER);
  rvl_river_loss loss = check_loss(L, 3);
  rvl_river_schedule intercept_lr = rvl_river_check_schedule(L, 6);
  rvl_river_stage *self = new_stage(L, RVL_STAGE_GLM);
  int stage = lua_gettop(L);
  rvl_river_glm *glm = &self->u.glm;
  glm->loss = loss;
  glm->intercept_lr = intercept_lr;
  glm->optimizer = o;
  glm->l1 = rvl_river_number_field(L, 1, "l1");
  glm->l2 = rvl_river_number_field(L, 1, "l2");
  glm->clip_gradient = rvl_river_number_field(L, 1, "clip_gradient");
  glm->intercept = rvl_river_number_field(L, 1, "intercept");
  if (lua_getfield(L, 1, "initial") == LUA_TNUMBER) self->initial = lua_tonumber(L, -1);
  lua_setiuservalue(L, stage, INITIAL);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, stage, OPTIMIZER);
  lua_getiuservalue(L, 2, NAMES);   /* one set of slots for both, and for models that share an optimizer */
  lua_setiuservalue(L, stage, NAMES);
  return 1;
}

static rvl_river_stage *check_linear(lua_State *L) {
  rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  if (self->kind != RVL_STAGE_GLM) luaL_argerror(L, 1, "a linear model is expected");
  return self;
}

/* linear:learn(row, keys, y, w) */
static int linear_learn(lua_State *L) {
  double y = 0, w = luaL_optnumber(L, 5, 1.0);
  if (!rvl_river_to_number(L, 4, &y)) return luaL_argerror(L, 4, "a number or boolean is expected");
  rvl_river_stage *self = begin(L, RVL_STAGE_GLM, true);
  rvl_river_glm_learn(&self->u.glm, self->plan.slot, self->plan.x, self->plan.gradient, self->plan.n, y, w);
  return 0;
}

/* linear:predict(row, keys) → the prediction, the raw one */
static int linear_predict(lua_State *L) {
  rvl_river_stage *self = begin(L, RVL_STAGE_GLM, false);
  double raw = rvl_river_glm_raw(&self->u.glm, self->plan.slot, self->plan.x, self->plan.n);
  rvl_river_push_mean(L, &self->u.glm.loss, raw);
  lua_pushnumber(L, raw);
  return 2;
}

/* linear:get() → {names = list, weights = list, cum_l1 = list or nil, intercept =, max_cum_l1 =} */
static int linear_get(lua_State *L) {
  const rvl_river_glm *glm = &check_linear(L)->u.glm;
  lua_newtable(L);
  rvl_river_push_names(L, 1, glm->slots);
  lua_setfield(L, -2, "names");
  rvl_river_push_column(L, glm->weights, glm->slots);
  lua_rawseti(L, -2, 1);
  if (glm->l1 != 0) {
    rvl_river_push_column(L, glm->cum_l1, glm->slots);
    lua_rawseti(L, -2, 2);
  }
  lua_pushnumber(L, glm->intercept);
  lua_setfield(L, -2, "intercept");
  lua_pushnumber(L, glm->max_cum_l1);
  lua_setfield(L, -2, "max_cum_l1");
  return 1;
}

/* linear:set(table): goes on from what `get` gave; the optimizer's state has been set before */
static int linear_set(lua_State *L) {
  rvl_river_stage *self = check_linear(L);
  rvl_river_glm *glm = &self->u.glm;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (glm->slots > 0) return luaL_argerror(L, 1, "a new model is expected");
  glm->intercept = rvl_river_number_field(L, 2, "intercept");
  if (glm->l1 != 0) glm->max_cum_l1 = rvl_river_number_field(L, 2, "max_cum_l1");
  lua_getfield(L, 2, "names");
  luaL_checktype(L, -1, LUA_TTABLE);
  int list = lua_gettop(L);
  size_t n = lua_rawlen(L, list), learned = 0;
  lua_getiuservalue(L, 1, NAMES);
  int names = lua_gettop(L);
  size_t count = lua_rawlen(L, names);
  for (int pass = 0; pass < 2; pass++) {   /* slots for all first; the optimizer may know some already */
    for (size_t i = 1; i <= n; i++) {
      lua_rawgeti(L, list, (lua_Integer)i);
      luaL_checktype(L, -1, LUA_TSTRING);
      lua_Integer slot = rvl_river_slot_of(L, names, &count, true);
      if (pass == 0) continue;
      lua_rawgeti(L, 2, 1);
      glm->weights[slot] = rvl_river_number_at(L, lua_gettop(L), i);
      lua_pop(L, 1);
      if (glm->cum_l1 == NULL) continue;
      lua_rawgeti(L, 2, 2);
      glm->cum_l1[slot] = rvl_river_number_at(L, lua_gettop(L), i);
      lua_pop(L, 1);
    }
    learned = count;
    if (pass == 0) grow_linear(L, self, 1, learned);
  }
  self->plan.keys = NULL;
  return 0;
}

/* ------------------------------------------------------------------------------------------------ opening */

static int stage_get(lua_State *L) {
  const rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  return self->kind == RVL_STAGE_GLM ? linear_get(L) : scaler_get(L);
}

static int stage_set(lua_State *L) {
  const rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  return self->kind == RVL_STAGE_GLM ? linear_set(L) : scaler_set(L);
}

static int stage_learn(lua_State *L) {
  const rvl_river_stage *self = luaL_checkudata(L, 1, RVL_RIVER_STAGE);
  return self->kind == RVL_STAGE_GLM ? linear_learn(L) : scaler_learn(L);
}

void rvl_river_open_stages(lua_State *L) {
  static const luaL_Reg methods[] = {{"learn", stage_learn}, {"transform", scaler_transform},
                                     {"predict", linear_predict}, {"get", stage_get}, {"set", stage_set},
                                     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__len", stage_len}, {"__gc", stage_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"scaler", new_scaler}, {"linear", new_linear},
                                       {"loss_gradient", loss_gradient}, {"loss_mean", loss_mean}, {NULL, NULL}};
  rvl_river_new_class(L, RVL_RIVER_STAGE, methods, metamethods);
  luaL_setfuncs(L, functions, 0);
}
