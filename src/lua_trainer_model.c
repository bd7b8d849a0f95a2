/* Part of riverlua.core.trainer: bases, models, and their tensors on the way from and to Lua. */
#include "lua_trainer.h"

#include "array.h"

#include <math.h>
#include <string.h>

typedef struct base_box { rvl_base *base; } base_box;
typedef struct model_box { rvl_trainable *model; } model_box;

/* ---- configurations ---------------------------------------------------------------------------------------- */

static uint32_t size_field(lua_State *L, int index, const char *name) {
  lua_getfield(L, index, name);
  int ok;
  lua_Integer value = lua_tointegerx(L, -1, &ok);
  lua_pop(L, 1);
  if (!ok || value < 0 || value > UINT32_MAX) rvl_raise(L, "argument", NULL, "'%s' must be a whole number", name);
  return (uint32_t)value;
}

static float number_field(lua_State *L, int index, const char *name, lua_Number otherwise) {
  lua_getfield(L, index, name);
  lua_Number value = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return (float)value;
}

static rvl_positions positions_field(lua_State *L, int index) {
  static const char *const names[] = {"rotary", "learned", NULL};
  lua_getfield(L, index, "positions");
  const char *name = luaL_optstring(L, -1, "rotary");
  int i = 0;
  while (names[i] != NULL && strcmp(names[i], name) != 0) i++;
  if (names[i] == NULL)
    rvl_raise(L, "argument", NULL, "'positions' must be \"rotary\" or \"learned\", not \"%s\"", name);
  lua_pop(L, 1);
  return i == 0 ? RVL_POSITIONS_ROTARY : RVL_POSITIONS_LEARNED;
}

static rvl_model_config read_config(lua_State *L, int index) {
  luaL_checktype(L, index, LUA_TTABLE);
  rvl_model_config config = {
      .vocabulary = size_field(L, index, "vocabulary"), .width = size_field(L, index, "width"),
      .layers = size_field(L, index, "layers"), .heads = size_field(L, index, "heads"),
      .hidden = size_field(L, index, "hidden"), .context = size_field(L, index, "context"),
      .positions = positions_field(L, index), .tied = rvl_trainer_flag(L, index, "tied"),
      .rotary_base = number_field(L, index, "rotary_base", 10000),
      .norm_epsilon = number_field(L, index, "norm_epsilon", 1e-5)};
  const char *wrong = rvl_model_check(&config);
  if (wrong != NULL) rvl_raise(L, "argument", NULL, "%s", wrong);
  return config;
}

static void set_size(lua_State *L, const char *name, uint32_t value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void push_config(lua_State *L, const rvl_model_config *c) {
  lua_createtable(L, 0, 10);
  set_size(L, "vocabulary", c->vocabulary);
  set_size(L, "width", c->width);
  set_size(L, "layers", c->layers);
  set_size(L, "heads", c->heads);
  set_size(L, "hidden", c->hidden);
  set_size(L, "context", c->context);
  lua_pushstring(L, c->positions == RVL_POSITIONS_ROTARY ? "rotary" : "learned");
  lua_setfield(L, -2, "positions");
  lua_pushboolean(L, c->tied);
  lua_setfield(L, -2, "tied");
  lua_pushnumber(L, (lua_Number)c->rotary_base);
  lua_setfield(L, -2, "rotary_base");
  lua_pushnumber(L, (lua_Number)c->norm_epsilon);
  lua_setfield(L, -2, "norm_epsilon");
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

/* Pushes {name=, array=}. */
static void push_tensor(lua_State *L, const char *prefix, const rvl_trained_tensor *t, const float *values) {
  lua_createtable(L, 0, 2);
  lua_pushfstring(L, "%s%s", prefix, t->name);
  lua_setfield(L, -2, "name");
  size_t shape[] = {t->rows, t->columns};
  rvl_array *array = t->columns == 0 ? rvl_array_push(L, RVL_FLOAT32, t->rows)
                                     : rvl_array_push_shape(L, RVL_FLOAT32, 2, shape);
  memcpy(array->data, values + t->offset, t->count * sizeof(float));
  lua_setfield(L, -2, "array");
}

static const char mean_prefix[] = "exp_avg.", square_prefix[] = "exp_avg_sq.";

/* Weights that are no numbers would spread to all others, a mean of squares below zero as well. */
static void check_values(lua_State *L, const char *name, const float *values, size_t count) {
  bool square = strncmp(name, square_prefix, sizeof square_prefix - 1) == 0;
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(values[i]) || (square && values[i] < 0)) {
      rvl_raise(L, "refused", NULL, "the tensor '%s' has %s among its values", name,
                isfinite(values[i]) ? "a negative number" : "one that is not finite");
    }
  }
}

/* Copies the array that the table at `index` has under the name; it must be there and fit. */
static void read_tensor(lua_State *L, int index, const char *prefix, const rvl_trained_tensor *t, float *values) {
  const char *name = lua_pushfstring(L, "%s%s", prefix, t->name);
  lua_getfield(L, index, name);
  const rvl_array *array = rvl_array_test(L, -1);
  if (array == NULL || array->dtype != RVL_FLOAT32) {
    rvl_raise(L, "refused", NULL, "the tensor '%s' is %s", name, array == NULL ? "missing" : "not of float32");
  }
  bool fits = t->columns == 0 ? array->ndim == 1 && array->length == t->rows
                              : array->ndim == 2 && array->shape[0] == t->rows && array->shape[1] == t->columns;
  if (!fits) {
    if (t->columns == 0)
      rvl_raise(L, "refused", NULL, "the tensor '%s' is not a vector of %d", name, (int)t->rows);
    rvl_raise(L, "refused", NULL, "the tensor '%s' is not a matrix of %d × %d", name, (int)t->rows,
              (int)t->columns);
  }
  memcpy(values + t->offset, array->data, t->count * sizeof(float));
  check_values(L, name, values + t->offset, t->count);
  lua_pop(L, 2);
}

static rvl_trained_tensor layout_tensor(const rvl_model_layout *layout, size_t i) {
  const rvl_tensor *t = &layout->tensors[i];
  return (rvl_trained_tensor){t->name, t->rows, t->columns, t->offset, t->count};
}

static void push_layout_tensors(lua_State *L, const rvl_model_layout *layout, const float *values) {
  lua_createtable(L, (int)layout->count, 0);
  for (size_t i = 0; i < layout->count; i++) {
    rvl_trained_tensor t = layout_tensor(layout, i);
    push_tensor(L, "", &t, values);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* ---- bases -------------------------------------------------------------------------------------------------- */

static base_box *check_base_box(lua_State *L, int index) { return luaL_checkudata(L, index, RVL_TRAINER_BASE); }

rvl_base *rvl_check_base(lua_State *L, int index) {
  base_box *box = check_base_box(L, index);
  if (box->base == NULL) rvl_raise(L, "closed", NULL, "the base model is closed");
  return box->base;
}

rvl_engine_box *rvl_trainer_engine_of(lua_State *L, int index) {
  if (luaL_testudata(L, index, RVL_TRAINER_MODEL) != NULL) rvl_check_trainable(L, index);
  else rvl_check_base(L, index);
  lua_getiuservalue(L, index, 1);
  rvl_engine_box *engine = rvl_check_engine(L, -1);
  lua_pop(L, 1);
  return engine;
}

static base_box *push_base(lua_State *L) {
  base_box *box = lua_newuserdatauv(L, sizeof *box, 1);
  box->base = NULL;
  luaL_setmetatable(L, RVL_TRAINER_BASE);
  return box;
}

/* The base at 1, which stays while what is pushed does: a finalizer may close it while memory is taken. */
static rvl_base *hold_base(lua_State *L) {
  base_box *box = push_base(L);
  box->base = rvl_base_retain(rvl_check_base(L, 1));
  return box->base;
}

/* base(config, tensors | nil, seed | nil) → weights that nobody changes; without tensors they are drawn from the
   seed */
int rvl_trainer_base(lua_State *L) {
  rvl_runtime_check_open(L, rvl_check_engine(L, 1)->rt);
  lua_settop(L, 4);
  rvl_model_config config = read_config(L, 2);
  uint64_t seed = (uint64_t)luaL_optinteger(L, 4, 0);
  base_box *box = push_base(L);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  box->base = rvl_base_new(&config);
  if (box->base == NULL) return luaL_error(L, "not enough memory");
  const rvl_model_layout *layout = &box->base->layout;
  if (lua_isnil(L, 3)) {
    rvl_model_initialise(layout, seed, box->base->weights);
    return 1;
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  for (size_t i = 0; i < layout->count; i++) {
    rvl_trained_tensor t = layout_tensor(layout, i);
    read_tensor(L, 3, "", &t, box->base->weights);
  }
  return 1;
}

/* config() → table */
static int base_config(lua_State *L) {
  push_config(L, &rvl_check_base(L, 1)->layout.config);
  return 1;
}

/* tensors() → {{name=, array=}, …} */
static int base_tensors(lua_State *L) {
  rvl_base *base = hold_base(L);
  push_layout_tensors(L, &base->layout, base->weights);
  return 1;
}

/* parameters() → how many */
static int base_parameters(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)rvl_check_base(L, 1)->layout.parameters);
  return 1;
}

static int base_close(lua_State *L) {
  base_box *box = check_base_box(L, 1);
  rvl_base_release(box->base);
  box->base = NULL;
  return 0;
}

/* ---- models ------------------------------------------------------------------------------------------------- */

static model_box *check_model_box(lua_State *L, int index) { return luaL_checkudata(L, index, RVL_TRAINER_MODEL); }

rvl_trainable *rvl_check_trainable(lua_State *L, int index) {
  model_box *box = check_model_box(L, index);
  if (box->model == NULL) rvl_raise(L, "closed", NULL, "the model is closed");
  return box->model;
}

static void read_lora(lua_State *L, int index, rvl_lora_config *config) {
  *config = (rvl_lora_config){.rank = size_field(L, index, "rank"),
                              .attention = rvl_trainer_flag(L, index, "attn"),
                              .mlp = rvl_trainer_flag(L, index, "mlp"),
                              .unembed = rvl_trainer_flag(L, index, "unembed")};
  lua_getfield(L, index, "scale");
  config->scale = luaL_checknumber(L, -1);
  lua_pop(L, 1);
  const char *wrong = rvl_lora_check(config);
  if (wrong != NULL) rvl_raise(L, "refused", NULL, "%s", wrong);
}

/* model(base, {rank=, scale=, attn=, mlp=, unembed=, seed=} | nil) → what is trained; nil: all weights */
int rvl_trainer_model(lua_State *L) {
  rvl_engine_box *engine = rvl_check_engine(L, 1);
  rvl_runtime_check_open(L, engine->rt);
  rvl_check_base(L, 2);
  rvl_lora_config lora;
  lua_Integer seed = 0;
  bool adapted = !lua_isnoneornil(L, 3);
  if (adapted) {
    luaL_checktype(L, 3, LUA_TTABLE);
    read_lora(L, 3, &lora);
    lua_getfield(L, 3, "seed");
    seed = luaL_optinteger(L, -1, 0);
  }
  model_box *box = lua_newuserdatauv(L, sizeof *box, 1);
  box->model = NULL;
  luaL_setmetatable(L, RVL_TRAINER_MODEL);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  box->model = rvl_trainable_new(rvl_check_base(L, 2), &engine->blas, adapted ? &lora : NULL, (uint64_t)seed);
  if (box->model == NULL) return luaL_error(L, "not enough memory");
  return 1;
}

/* parameters() → how many are trained */
static int model_parameters(lua_State *L) {
  const rvl_trainable *model = rvl_check_trainable(L, 1);
  lua_pushinteger(L, (lua_Integer)(model->adapted ? model->lora.parameters : model->layout->parameters));
  return 1;
}

static int model_close(lua_State *L) {
  model_box *box = check_model_box(L, 1);
  rvl_trainable_release(box->model);
  box->model = NULL;
  return 0;
}

/*
** What reads or changes a model is a job too, on copies: the engine may be at work on the model, and this comes
** after what was asked for before.
*/
typedef struct turn_job {
  rvl_lua_job lua;
  rvl_trainable *model;
  float *trained, *mean, *square;      /* copies on the way */
  uint64_t step;
  bool writes, resets;
} turn_job;

static void release_turn(rvl_lua_job *lua) {
  turn_job *job = (turn_job *)lua;
  rvl_model_free(job->trained);
  rvl_model_free(job->mean);
  rvl_model_free(job->square);
  rvl_trainable_release(job->model);
}

static void copy(float *to, const float *from, size_t floats) {
  if (to != NULL && from != NULL) memcpy(to, from, floats * sizeof *to);
}

/* On the engine's thread: reads into the job's vectors, or writes those that it has. */
static void run_turn(rvl_job *base, rvl_pool *pool) {
  (void)pool;
  turn_job *job = (turn_job *)(void *)base;
  rvl_trainable *model = job->model;
  rvl_adamw_state *optimizer = &model->optimizer;
  size_t floats = model->floats;
  if (job->resets) {
    rvl_adamw_reset(optimizer);
  } else if (job->writes) {
    copy(model->trained, job->trained, floats);
    copy(optimizer->mean, job->mean, floats);
    copy(optimizer->square, job->square, floats);
    if (job->mean != NULL) optimizer->step = job->step;
    if (job->trained != NULL) {
      rvl_trainable_merge(model);
      memset(model->gradient, 0, floats * sizeof *model->gradient);
    }
  } else {
    copy(job->trained, model->trained, floats);
    copy(job->mean, optimizer->mean, floats);
    copy(job->square, optimizer->square, floats);
    job->step = optimizer->step;
  }
}

static float *new_vector(lua_State *L, size_t floats) {
  float *vector = rvl_model_floats(floats);
  if (vector == NULL) luaL_error(L, "not enough memory");
  return vector;
}

static turn_job *new_turn(lua_State *L, int (*finish)(lua_State *L, rvl_lua_job *job)) {
  rvl_check_trainable(L, 1);
  rvl_engine_box *engine = rvl_trainer_engine_of(L, 1);
  turn_job *job = rvl_trainer_job(L, engine, sizeof *job, run_turn, finish, release_turn);
  job->model = rvl_trainable_retain(rvl_check_trainable(L, 1));
  return job;
}

static void push_trained(lua_State *L, const rvl_trainable *model, const char *prefix, const float *values) {
  size_t count = rvl_trainable_count(model);
  for (size_t i = 0; i < count; i++) {
    rvl_trained_tensor t = rvl_trainable_tensor(model, i);
    push_tensor(L, prefix, &t, values);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  }
}

static void read_trained(lua_State *L, int index, const rvl_trainable *model, const char *prefix, float *values) {
  size_t count = rvl_trainable_count(model);
  for (size_t i = 0; i < count; i++) {
    rvl_trained_tensor t = rvl_trainable_tensor(model, i);
    read_tensor(L, index, prefix, &t, values);
  }
}

static int finish_tensors(lua_State *L, rvl_lua_job *lua) {
  turn_job *job = (turn_job *)lua;
  lua_newtable(L);
  push_trained(L, job->model, "", job->trained);
  return 1;
}

/* tensors() → {{name=, array=}, …} of what is trained */
static int model_tensors(lua_State *L) {
  turn_job *job = new_turn(L, finish_tensors);
  job->trained = new_vector(L, job->model->floats);
  return rvl_trainer_wait(L);
}

static int finish_merged(lua_State *L, rvl_lua_job *lua) {
  turn_job *job = (turn_job *)lua;
  const rvl_trainable *model = job->model;
  if (!model->adapted) {
    push_layout_tensors(L, model->layout, job->trained);
    return 1;
  }
  float *merged = new_vector(L, model->layout->floats);
  rvl_model_free(job->mean);
  job->mean = merged;               /* freed with the job, whatever happens */
  rvl_lora_merge(&model->lora, model->blas, model->base->weights, job->trained, merged);
  push_layout_tensors(L, model->layout, merged);
  return 1;
}

/* merged() → the tensors of a model without adapters that does the same */
static int model_merged(lua_State *L) {
  turn_job *job = new_turn(L, finish_merged);
  job->trained = new_vector(L, job->model->floats);
  return rvl_trainer_wait(L);
}

static int finish_nothing(lua_State *L, rvl_lua_job *job) {
  (void)L;
  (void)job;
  return 0;
}

/* set_tensors{[name] = array}: all that are trained; the gradient is gone */
static int model_set_tensors(lua_State *L) {
  luaL_checktype(L, 2, LUA_TTABLE);
  turn_job *job = new_turn(L, finish_nothing);
  job->writes = true;
  job->trained = new_vector(L, job->model->floats);
  read_trained(L, 2, job->model, "", job->trained);
  return rvl_trainer_wait(L);
}

static int finish_optimizer(lua_State *L, rvl_lua_job *lua) {
  turn_job *job = (turn_job *)lua;
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, (lua_Integer)job->step);
  lua_setfield(L, -2, "step");
  lua_newtable(L);
  push_trained(L, job->model, mean_prefix, job->mean);
  push_trained(L, job->model, square_prefix, job->square);
  lua_setfield(L, -2, "tensors");
  return 1;
}

/* optimizer() → {step=, tensors = {{name = "exp_avg.…", array=}, …}} */
static int model_optimizer(lua_State *L) {
  turn_job *job = new_turn(L, finish_optimizer);
  job->mean = new_vector(L, job->model->floats);
  job->square = new_vector(L, job->model->floats);
  return rvl_trainer_wait(L);
}

/* set_optimizer{step=, tensors = {[name] = array}}, or set_optimizer(nil): as new */
static int model_set_optimizer(lua_State *L) {
  lua_settop(L, 2);
  turn_job *job = new_turn(L, finish_nothing);
  job->resets = lua_isnil(L, 2);
  job->writes = true;
  if (!job->resets) {
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 2, "step");
    lua_Integer step = lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (step < 0) return rvl_raise(L, "refused", NULL, "the optimizer's step is below 0");
    job->step = (uint64_t)step;
    job->mean = new_vector(L, job->model->floats);
    job->square = new_vector(L, job->model->floats);
    lua_getfield(L, 2, "tensors");
    luaL_checktype(L, -1, LUA_TTABLE);
    read_trained(L, lua_gettop(L), job->model, mean_prefix, job->mean);
    read_trained(L, lua_gettop(L), job->model, square_prefix, job->square);
    lua_pop(L, 1);
  }
  return rvl_trainer_wait(L);
}

void rvl_trainer_add_models(lua_State *L) {
  static const luaL_Reg base_methods[] = {{"config", base_config}, {"tensors", base_tensors},
                                          {"close", base_close}, {"parameters", base_parameters},
                                          {"sample", rvl_trainer_sample}, {NULL, NULL}};
  static const luaL_Reg base_meta[] = {{"__gc", base_close}, {"__close", base_close}, {NULL, NULL}};
  static const luaL_Reg model_methods[] = {
      {"tensors", model_tensors}, {"set_tensors", model_set_tensors}, {"merged", model_merged},
      {"optimizer", model_optimizer}, {"set_optimizer", model_set_optimizer}, {"parameters", model_parameters},
      {"pass", rvl_trainer_pass}, {"step", rvl_trainer_step}, {"sample", rvl_trainer_sample},
      {"close", model_close}, {NULL, NULL}};
  static const luaL_Reg model_meta[] = {{"__gc", model_close}, {"__close", model_close}, {NULL, NULL}};
  rvl_new_class(L, RVL_TRAINER_BASE, base_methods, base_meta);
  rvl_new_class(L, RVL_TRAINER_MODEL, model_methods, model_meta);
}
