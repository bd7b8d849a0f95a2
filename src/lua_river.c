/* riverlua.core.river: how samples are read, and pipelines of numeric steps in one call. See lua_river_stage.c. */
#include "lua_river.h"
#include "river_power.h"
#include "runtime.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------------------------------------- reader */

/*
** A reader turns maps of features into rows: values in the order of the sorted names. Maps come out of a script in the
** order of their hash table, which is the same for most samples of a stream: `seen` remembers the name that came k-th
** last time, as the address of its text, and `place` where its value belongs. Addresses are compared only with those
** of names that are kept alive.
*/
typedef struct name_set {
  const void *keys;        /* identity of the table of the names */
  uint64_t signature;      /* of the names' addresses in any order */
  size_t n;
  const void **seen, **anchored;
  uint32_t *place;
} name_set;

enum { MAX_SETS = 64, NEAR = 12 };

/* A userdata. User values: 1 a list of keys and row of each set, 2 the function that makes keys for a new set. */
typedef struct reader {
  name_set sets[MAX_SETS];
  size_t count, current;   /* current == count: none yet */
  double *x;               /* the values of the last sample, if all were numbers */
  size_t capacity;
  lua_Integer serial;      /* changes whenever a row is read that is not equal to the one before */
  uint64_t kinds;          /* of the values of the last row: which were booleans, which integers */
} reader;

#define READER "riverlua.river.Reader"

typedef enum read_result { READ_DONE, READ_OTHER_NAMES, READ_REFUSED } read_result;

static void free_sets(reader *self) {
  for (size_t i = 0; i < self->count; i++) {
    free(self->sets[i].seen);
    free(self->sets[i].anchored);
    free(self->sets[i].place);
  }
  self->count = self->current = 0;
}

static int reader_gc(lua_State *L) {
  reader *self = luaL_checkudata(L, 1, READER);
  free_sets(self);
  free(self->x);
  self->x = NULL;
  self->capacity = 0;
  return 0;
}

/* Place of the name at index `name`, which comes k-th; -1 when it is none of the set's. */
static int64_t search_place(lua_State *L, int self_index, name_set *set, size_t k, int name) {
  reader *self = lua_touserdata(L, self_index);
  const void *text = lua_tostring(L, name);
  for (size_t i = 0; i < NEAR && i < set->n; i++) {
    size_t place = (k + i) % set->n;
    if (set->anchored[place] != text) continue;
    if (k < set->n) {
      set->seen[k] = text;
      set->place[k] = (uint32_t)place;
    }
    return (int64_t)place;
  }
  int top = lua_gettop(L);
  lua_getiuservalue(L, self_index, 1);
  lua_rawgeti(L, -1, 2 * (lua_Integer)self->current + 1);
  lua_getfield(L, -1, "index");
  lua_pushvalue(L, name);
  int64_t place = lua_istable(L, -2) && lua_rawget(L, -2) == LUA_TNUMBER ? lua_tointeger(L, -1) - 1 : -1;
  lua_settop(L, top);
  if (place >= (int64_t)set->n) place = -1;
  if (place >= 0 && k < set->n && set->anchored[place] == text) {
    set->seen[k] = text;
    set->place[k] = (uint32_t)place;
  }
  return place;
}

static inline int64_t place_of(lua_State *L, int self_index, name_set *set, size_t k, int name) {
  if (k < set->n && set->seen[k] == lua_tostring(L, name)) return set->place[k];
  return search_place(L, self_index, set, k, name);
}

/* Reads numbers and booleans into x; refuses anything else, NaN and infinities included. */
static read_result read_numbers(lua_State *L, int self_index, int features) {
  reader *self = lua_touserdata(L, self_index);
  if (self->current == self->count) return READ_OTHER_NAMES;
  name_set *set = &self->sets[self->current];
  size_t k = 0;
  int top = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, features)) {
    double value;
    int type = lua_type(L, -1);
    if (type == LUA_TNUMBER) value = lua_tonumber(L, -1);
    else if (type == LUA_TBOOLEAN) value = lua_toboolean(L, -1);
    else return READ_REFUSED;
    if (!(value - value == 0) || lua_type(L, -2) != LUA_TSTRING) return READ_REFUSED;
    int64_t place = place_of(L, self_index, set, k, top + 1);
    if (place < 0) return READ_OTHER_NAMES;
    self->x[place] = value;
    k++;
    lua_settop(L, top + 1);
  }
  return k == set->n ? READ_DONE : READ_OTHER_NAMES;
}

static uint64_t mix(const void *address) {
  uint64_t h = (uint64_t)(uintptr_t)address * UINT64_C(0x9e3779b97f4a7c15);
  return h ^ (h >> 29);
}

/* Puts the value on top of the stack, which is popped, into the row; whether it is another one than there was. */
static bool put_value(lua_State *L, int row, lua_Integer place) {
  lua_rawgeti(L, row, place);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 1);
  if (same && lua_type(L, -1) != LUA_TNUMBER) lua_pop(L, 1);
  else lua_rawseti(L, row, place);
  return !same;
}

/* What was found while a row was read. */
typedef struct found {
  size_t count, other;     /* other: place of the first value that is not a number */
  uint64_t kinds;
  bool changed;
} found;

/* Puts all values into the row; `strict` refuses what cannot be sent to a server. */
static read_result fill_row(lua_State *L, int self_index, int features, int row, bool strict, found *f) {
  reader *self = lua_touserdata(L, self_index);
  name_set *set = &self->sets[self->current];
  int top = lua_gettop(L);
  lua_pushnil(L);
  for (; lua_next(L, features); f->count++) {
    if (lua_type(L, top + 1) != LUA_TSTRING) return strict ? READ_REFUSED : READ_OTHER_NAMES;
    int64_t place = place_of(L, self_index, set, f->count, top + 1);
    if (place < 0) return READ_OTHER_NAMES;
    int type = lua_type(L, top + 2);
    if (type == LUA_TNUMBER) {
      double value = lua_tonumber(L, top + 2);
      if (strict && !(value - value == 0)) return READ_REFUSED;
      if (lua_isinteger(L, top + 2)) f->kinds += (uint64_t)place * 2 + 1;
    } else if (type == LUA_TBOOLEAN) {
      lua_pushinteger(L, lua_toboolean(L, top + 2));
      lua_replace(L, top + 2);
      f->kinds += ((uint64_t)place + 1) << 32;
    } else {
      if (strict && type != LUA_TSTRING) return READ_REFUSED;
      if ((size_t)place < f->other) f->other = (size_t)place;
    }
    if (put_value(L, row, place + 1)) f->changed = true;
  }
  return f->count == set->n ? READ_DONE : READ_OTHER_NAMES;
}

static read_result read_row(lua_State *L, int self_index, int features, int row, bool strict) {
  reader *self = lua_touserdata(L, self_index);
  found f = {.other = SIZE_MAX, .kinds = mix(self->sets[self->current].keys)};
  read_result result = fill_row(L, self_index, features, row, strict, &f);
  if (f.changed || f.kinds != self->kinds) self->serial++;   /* also when a half of the row has changed */
  self->kinds = f.kinds;
  if (result != READ_DONE) return result;
  if (f.other == SIZE_MAX) lua_pushnil(L);
  else lua_pushinteger(L, (lua_Integer)f.other + 1);
  lua_setfield(L, row, "other");
  lua_pushvalue(L, features);
  lua_setfield(L, row, "source");
  return READ_DONE;
}

/* Makes a remembered set with the names of these features the current one; false when there is none. */
static bool switch_set(lua_State *L, int self_index, int features) {
  reader *self = lua_touserdata(L, self_index);
  uint64_t signature = 0;
  size_t n = 0;
  lua_pushnil(L);
  for (; lua_next(L, features); n++) {
    if (lua_type(L, -2) == LUA_TSTRING) signature += mix(lua_tostring(L, -2));
    lua_pop(L, 1);
  }
  for (size_t i = 0; i < self->count; i++) {
    if (i == self->current || self->sets[i].n != n || self->sets[i].signature != signature) continue;
    self->current = i;
    return true;
  }
  return false;
}

static bool fill_set(lua_State *L, name_set *set, size_t n, int keys) {
  size_t room = n > 0 ? n : 1;
  *set = (name_set){.keys = lua_topointer(L, keys), .n = n};
  set->seen = calloc(room, sizeof *set->seen);
  set->anchored = calloc(room, sizeof *set->anchored);
  set->place = calloc(room, sizeof *set->place);
  if (set->seen == NULL || set->anchored == NULL || set->place == NULL) {
    free(set->seen);
    free(set->anchored);
    free(set->place);
    return false;
  }
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, keys, (lua_Integer)i + 1);
    /* Only these very strings are kept alive: an equal long one may live at another address. */
    set->anchored[i] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    set->signature += mix(set->anchored[i]);
    lua_pop(L, 1);
  }
  return true;
}

static void reserve_values(lua_State *L, reader *self, size_t n) {
  if (n <= self->capacity) return;
  double *x = n < SIZE_MAX / sizeof *x ? realloc(self->x, n * sizeof *x) : NULL;
  if (x == NULL) {
    rvl_river_no_memory(L);
    return;
  }
  self->x = x;
  self->capacity = n;
}

/* Asks for the keys of a set of names that is not remembered, and makes it the current one; false when the names are
 * no strings and that is no error. */
static bool adopt(lua_State *L, int self_index, int features, bool strict) {
  reader *self = lua_touserdata(L, self_index);
  luaL_checkstack(L, 8, "sample");
  lua_getiuservalue(L, self_index, 2);
  lua_pushvalue(L, features);
  lua_pushboolean(L, strict);
  lua_call(L, 2, 1);
  if (!lua_istable(L, -1)) return false;
  int keys = lua_gettop(L);
  const void *identity = lua_topointer(L, keys);
  for (size_t i = 0; i < self->count; i++) {   /* long names have no address to know them by */
    if (self->sets[i].keys != identity) continue;
    self->current = i;
    return true;
  }
  size_t n = lua_rawlen(L, keys);
  if (n > INT32_MAX) luaL_error(L, "too many features");
  reserve_values(L, self, n);
  if (self->count == MAX_SETS) free_sets(self);
  lua_getiuservalue(L, self_index, 1);
  lua_pushvalue(L, keys);
  lua_rawseti(L, -2, 2 * (lua_Integer)self->count + 1);
  lua_createtable(L, n < 1 << 20 ? (int)n : 0, 3);
  lua_pushvalue(L, keys);
  lua_setfield(L, -2, "keys");
  lua_rawseti(L, -2, 2 * (lua_Integer)self->count + 2);
  if (!fill_set(L, &self->sets[self->count], n, keys)) rvl_river_no_memory(L);
  self->current = self->count++;
  return true;
}

/* Reads into x, or with `row` into the current set's row, which is pushed. */
static read_result read_current(lua_State *L, int self_index, int features, bool row, bool strict) {
  const reader *self = lua_touserdata(L, self_index);
  if (self->current == self->count) return READ_OTHER_NAMES;
  int top = lua_gettop(L);
  read_result result;
  if (row) {
    lua_getiuservalue(L, self_index, 1);
    lua_rawgeti(L, -1, 2 * (lua_Integer)self->current + 2);
    lua_replace(L, top + 1);
    result = read_row(L, self_index, features, top + 1, strict);
  } else {
    result = read_numbers(L, self_index, features);
  }
  if (result == READ_DONE && strict && self->sets[self->current].n == 0) result = READ_REFUSED;
  lua_settop(L, row && result == READ_DONE ? top + 1 : top);
  return result;
}

/* The same whatever the names are; false when they or the values are refused. */
static bool read_sample(lua_State *L, int self_index, int features, bool row, bool strict) {
  luaL_checkstack(L, 8, "sample");
  read_result result = read_current(L, self_index, features, row, strict);
  if (result == READ_OTHER_NAMES && switch_set(L, self_index, features)) {
    result = read_current(L, self_index, features, row, strict);
  }
  if (result != READ_OTHER_NAMES) return result == READ_DONE;
  int top = lua_gettop(L);
  bool known = adopt(L, self_index, features, strict);
  lua_settop(L, top);
  return known && read_current(L, self_index, features, row, strict) == READ_DONE;
}

/* reader(adopt) → reader. `adopt(features, strict)` → the keys for the names of these features; for names that are no
 * strings it raises, or with `strict` returns nil. */
static int new_reader(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  reader *self = lua_newuserdatauv(L, sizeof *self, 2);
  memset(self, 0, sizeof *self);
  luaL_setmetatable(L, READER);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 2);
  return 1;
}

/* #reader: sets of names that it remembers */
static int reader_len(lua_State *L) {
  const reader *self = luaL_checkudata(L, 1, READER);
  lua_pushinteger(L, (lua_Integer)self->count);
  return 1;
}

/* reader:read(features, strict) → row, valid until the next call, and a number that is the same when the next row is;
 * with `strict` nil for what is no sample: no features, NaN, infinities, nested values, names that are no strings */
static int reader_read(lua_State *L) {
  luaL_checkudata(L, 1, READER);
  bool strict = lua_toboolean(L, 3);
  if (strict && !lua_istable(L, 2)) return 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (!read_sample(L, 1, 2, true, strict)) return 0;
  lua_pushinteger(L, ((const reader *)lua_touserdata(L, 1))->serial);
  return 2;
}

/* ----------------------------------------------------------------------------------------------- pipelines */

enum { MAX_SCALERS = 15 };

enum { MAX_TIMED = 32 };

/* Calls of one kind: how many there were, and how long some of them took. */
typedef struct tally {
  lua_Integer n;
  size_t timed;
  double seconds[MAX_TIMED];
} tally;

/* Scalers and a linear model at the end, with the reader of the samples: all in one call. User values: the stages.
 * While it is lent the metrics and counts of a model of the embedded service, it keeps them up to date. */
typedef struct pipeline {
  size_t scalers;
  rvl_river_stage *stage[MAX_SCALERS + 1];
  lua_Integer first, each; /* the first calls are timed, then one in so many */
  double n, mae, mse, smape;
  tally learned, predicted;
} pipeline;

#define PIPELINE "riverlua.river.Pipeline"
#define PIPELINE_INDEX lua_upvalueindex(1)
#define READER_INDEX lua_upvalueindex(2)

static rvl_river_stage *planned(lua_State *L, const pipeline *self, const reader *sample, size_t i, bool learning) {
  const void *keys = sample->sets[sample->current].keys;
  if (rvl_river_stage_needs_plan(self->stage[i], keys, learning)) {
    int top = lua_gettop(L);
    lua_getiuservalue(L, PIPELINE_INDEX, (int)i + 1);
    lua_getiuservalue(L, READER_INDEX, 1);
    lua_rawgeti(L, -1, 2 * (lua_Integer)sample->current + 1);
    rvl_river_stage_plan(L, top + 1, top + 3, learning);
    lua_settop(L, top);
  }
  return self->stage[i];
}

/* What reaches the model. Scalers without windows can neither learn nor scale in vain. */
static const double *scaled(lua_State *L, const pipeline *self, const reader *sample, bool learning) {
  const double *x = sample->x;
  for (size_t i = 0; i < self->scalers; i++) {
    rvl_river_stage *stage = planned(L, self, sample, i, learning);
    rvl_river_plan *plan = &stage->plan;
    if (learning) rvl_river_scaler_learn(&stage->u.scaler, plan->slot, x, plan->n);
    rvl_river_scaler_transform(&stage->u.scaler, plan->slot, x, plan->x, plan->n);
    x = plan->x;
  }
  return x;
}

static double predict(lua_State *L, const pipeline *self, const reader *sample) {
  const double *x = scaled(L, self, sample, false);
  const rvl_river_stage *last = planned(L, self, sample, self->scalers, false);
  return rvl_river_glm_raw(&last->u.glm, last->plan.slot, x, last->plan.n);
}

/* Learns from the sample that was read; the raw prediction before that. */
static double learn(lua_State *L, const pipeline *self, const reader *sample, double y) {
  double raw = predict(L, self, sample);
  /* Places for new features in all stages first: memory that is missing then leaves the model as it was. */
  for (size_t i = 0; i <= self->scalers; i++) planned(L, self, sample, i, true);
  const double *x = scaled(L, self, sample, true);
  rvl_river_stage *last = self->stage[self->scalers];
  rvl_river_plan *plan = &last->plan;
  rvl_river_glm_learn(&last->u.glm, plan->slot, x, plan->gradient, plan->n, y, 1.0);
  return raw;
}

/* learn(features, y) → the prediction before learning; nothing, and nothing was done, when this is no plain sample */
static int pipeline_learn(lua_State *L) {
  const pipeline *self = lua_touserdata(L, PIPELINE_INDEX);
  double y = 0;
  if (!lua_istable(L, 1) || !rvl_river_to_number(L, 2, &y) || !(y - y == 0)) return 0;
  if (!read_sample(L, READER_INDEX, 1, false, true)) return 0;
  double raw = learn(L, self, lua_touserdata(L, READER_INDEX), y);
  rvl_river_push_mean(L, &self->stage[self->scalers]->u.glm.loss, raw);
  return 1;
}

/* predict(features) → the prediction; nothing when this is no plain sample, or the prediction no finite number */
static int pipeline_predict(lua_State *L) {
  const pipeline *self = lua_touserdata(L, PIPELINE_INDEX);
  if (!lua_istable(L, 1) || !read_sample(L, READER_INDEX, 1, false, true)) return 0;
  double raw = predict(L, self, lua_touserdata(L, READER_INDEX));
  if (!(raw - raw == 0)) return 0;
  rvl_river_push_mean(L, &self->stage[self->scalers]->u.glm.loss, raw);
  return 1;
}

/* --------------------------------------------------------------------------- pipelines that keep the accounts */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* clock() → seconds since some moment; cheaper than the processor's */
static int lua_clock(lua_State *L) {
  lua_pushnumber(L, now());
  return 1;
}

/* When a call began, if it is one to be timed. */
static double begin_call(const pipeline *self, const tally *calls) {
  return calls->n < self->first || (calls->n + 1) % self->each == 0 ? now() : 0.0;
}

static void end_call(tally *calls, double began) {
  calls->n++;
  if (began > 0) calls->seconds[calls->timed++] = now() - began;
}

/* The service's three metrics of regression; the running means of river.embedded.metrics_regression. */
static void measure(pipeline *self, double y, double prediction) {
  if (prediction == 0) return;   /* for a server that is none */
  double difference = fabs(y - prediction), total = fabs(y) + fabs(prediction);
  double share = 1.0 / (self->n += 1.0);
  self->mae += share * (difference - self->mae);
  self->mse += share * (rvl_river_power(y - prediction, 2.0) - self->mse);
  self->smape += share * ((total != 0 ? 2.0 * difference / total : 0.0) - self->smape);
}

/* learn(features, y) → true; nothing when it is not for this short way, or it is time to settle accounts */
static int counted_learn(lua_State *L) {
  pipeline *self = lua_touserdata(L, PIPELINE_INDEX);
  if (self->learned.timed == MAX_TIMED || lua_type(L, 2) != LUA_TNUMBER || !lua_istable(L, 1)) return 0;
  double y = lua_tonumber(L, 2), began = begin_call(self, &self->learned);
  if (!(y - y == 0) || !read_sample(L, READER_INDEX, 1, false, true)) return 0;
  measure(self, y, learn(L, self, lua_touserdata(L, READER_INDEX), y));
  end_call(&self->learned, began);
  lua_pushboolean(L, 1);
  return 1;
}

/* predict(features, name, metatable) → {model = name, prediction =}; or nothing */
static int counted_predict(lua_State *L) {
  pipeline *self = lua_touserdata(L, PIPELINE_INDEX);
  if (self->predicted.timed == MAX_TIMED || !lua_istable(L, 1) || !lua_istable(L, 3)) return 0;
  double began = begin_call(self, &self->predicted);
  if (!read_sample(L, READER_INDEX, 1, false, true)) return 0;
  double prediction = predict(L, self, lua_touserdata(L, READER_INDEX));
  if (!(prediction - prediction == 0)) return 0;
  lua_createtable(L, 0, 2);
  lua_pushvalue(L, lua_upvalueindex(3));
  lua_pushvalue(L, 2);
  lua_rawset(L, -3);
  lua_pushvalue(L, lua_upvalueindex(4));
  lua_pushnumber(L, prediction);
  lua_rawset(L, -3);
  lua_pushvalue(L, 3);
  lua_setmetatable(L, -2);
  end_call(&self->predicted, began);
  return 1;
}

/* accounts:lend(n, mae, mse, smape, calls of learn, calls of predict, first, each): from now on they are kept here */
static int accounts_lend(lua_State *L) {
  pipeline *self = luaL_checkudata(L, 1, PIPELINE);
  self->n = luaL_checknumber(L, 2);
  self->mae = luaL_checknumber(L, 3);
  self->mse = luaL_checknumber(L, 4);
  self->smape = luaL_checknumber(L, 5);
  self->learned.n = luaL_checkinteger(L, 6);
  self->predicted.n = luaL_checkinteger(L, 7);
  self->first = luaL_checkinteger(L, 8);
  self->each = luaL_checkinteger(L, 9);
  luaL_argcheck(L, self->each > 0, 9, "must be positive");
  self->learned.timed = self->predicted.timed = 0;
  return 0;
}

static void push_seconds(lua_State *L, const tally *calls) {
  lua_createtable(L, (int)calls->timed, 0);
  for (size_t i = 0; i < calls->timed; i++) {
    lua_pushnumber(L, calls->seconds[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* accounts:settle() → n, mae, mse, smape, calls of learn, calls of predict, seconds of learns, of predicts */
static int accounts_settle(lua_State *L) {
  pipeline *self = luaL_checkudata(L, 1, PIPELINE);
  luaL_checkstack(L, 8, "accounts");
  lua_pushnumber(L, self->n);
  lua_pushnumber(L, self->mae);
  lua_pushnumber(L, self->mse);
  lua_pushnumber(L, self->smape);
  lua_pushinteger(L, self->learned.n);
  lua_pushinteger(L, self->predicted.n);
  push_seconds(L, &self->learned);
  push_seconds(L, &self->predicted);
  self->learned.timed = self->predicted.timed = 0;
  return 8;
}

/* Whether the stages in the list at index 2 can be one pipeline: scalers without windows, and a linear model. */
static bool are_stages(lua_State *L, size_t n) {
  if (n < 1 || n > MAX_SCALERS + 1) return false;
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    const rvl_river_stage *stage = luaL_checkudata(L, -1, RVL_RIVER_STAGE);
    lua_pop(L, 1);
    bool last = i == n - 1;
    if ((stage->kind == RVL_STAGE_GLM) != last || (!last && stage->u.scaler.windowed)) return false;
  }
  return true;
}

/* Pushes a function with the pipeline at `index`, the reader and the names of an answer's fields as upvalues. */
static void push_call(lua_State *L, int index, lua_CFunction function) {
  lua_pushvalue(L, index);
  lua_pushvalue(L, 1);
  lua_pushliteral(L, "model");
  lua_pushliteral(L, "prediction");
  lua_pushcclosure(L, function, 4);
}

/* pipeline(reader, list of stages) → learn, predict, and where the predictions are the raw ones accounts, and the learn
 * and predict that keep those; nothing when these stages cannot be one pipeline */
static int new_pipeline(lua_State *L) {
  luaL_checkudata(L, 1, READER);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checkstack(L, 12, "pipeline");
  size_t n = lua_rawlen(L, 2);
  if (!are_stages(L, n)) return 0;
  pipeline *self = lua_newuserdatauv(L, sizeof *self, (int)n);
  int index = lua_gettop(L);
  memset(self, 0, sizeof *self);
  luaL_setmetatable(L, PIPELINE);
  self->scalers = n - 1;
  self->each = 1;
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    self->stage[i] = lua_touserdata(L, -1);
    lua_setiuservalue(L, index, (int)i + 1);
  }
  push_call(L, index, pipeline_learn);
  push_call(L, index, pipeline_predict);
  if (rvl_river_loss_is_logistic(&self->stage[n - 1]->u.glm.loss)) return 2;
  lua_pushvalue(L, index);
  push_call(L, index, counted_learn);
  push_call(L, index, counted_predict);
  return 5;
}

void rvl_river_new_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods) {
  if (luaL_newmetatable(L, name)) {
    luaL_setfuncs(L, metamethods, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
  }
  lua_pop(L, 1);
}

int rvl_open_river(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"reader", new_reader}, {"pipeline", new_pipeline}, {"clock", lua_clock}, {NULL, NULL}};
  static const luaL_Reg reader_methods[] = {{"read", reader_read}, {NULL, NULL}};
  static const luaL_Reg reader_metamethods[] = {{"__len", reader_len}, {"__gc", reader_gc}, {NULL, NULL}};
  static const luaL_Reg accounts_methods[] = {{"lend", accounts_lend}, {"settle", accounts_settle}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  rvl_river_new_class(L, READER, reader_methods, reader_metamethods);
  rvl_river_new_class(L, PIPELINE, accounts_methods, none);
  luaL_newlib(L, functions);
  rvl_river_open_stages(L);
  rvl_river_open_optimizers(L);
  return 1;
}
