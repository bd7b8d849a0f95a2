/* Part of riverlua.core.trainer: forward and backward passes, and steps of the optimizer. */
#include "lua_trainer.h"

#include "array.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_OPTIONS = 32, REFUSAL_ROOM = 512 };

/* ---- passes ------------------------------------------------------------------------------------------------ */

typedef struct pass_job {
  rvl_lua_job lua;
  rvl_trainable *model;
  rvl_loss loss;
  rvl_graph *graph;            /* of a custom loss */
  char *bytes;                 /* of the datums: a custom loss looks into them */
  rvl_example *examples;
  size_t count, tokens;
  bool gradients, clear;
  bool done;                   /* there is a result */
  rvl_pass_result result;
} pass_job;

static void release_pass(rvl_lua_job *lua) {
  pass_job *job = (pass_job *)lua;
  if (job->done) rvl_pass_result_free(&job->result);
  for (size_t i = 0; i < job->count; i++) rvl_example_free(&job->examples[i]);
  free(job->examples);
  free(job->bytes);
  rvl_graph_release(job->graph);
  rvl_trainable_release(job->model);
}

static void run_pass(rvl_job *base, rvl_pool *pool) {
  pass_job *job = (pass_job *)(void *)base;
  rvl_pass_status status = rvl_trainable_pass(job->model, pool, job->examples, job->count, &job->loss,
                                              job->gradients, job->clear, &base->cancelled, &job->result);
  job->done = status == RVL_PASS_DONE;
  if (status == RVL_PASS_NO_MEMORY) job->lua.failure = "there is not enough memory for this pass";
}

/* {metrics={name=}, logprobs={array, …}, tokens=, datums=} */
static int finish_pass(lua_State *L, rvl_lua_job *lua) {
  pass_job *job = (pass_job *)lua;
  lua_createtable(L, 0, 4);
  rvl_metric metrics[RVL_METRICS];
  size_t count = rvl_loss_metrics(&job->loss, &job->result.sums, metrics);
  lua_createtable(L, 0, (int)count);
  for (size_t i = 0; i < count; i++) {
    lua_pushnumber(L, metrics[i].value);
    lua_setfield(L, -2, metrics[i].name);
  }
  lua_setfield(L, -2, "metrics");
  lua_createtable(L, (int)job->count, 0);
  for (size_t i = 0; i < job->count; i++) {
    size_t start = job->result.starts[i], length = job->result.starts[i + 1] - start;
    rvl_array *array = rvl_array_push(L, RVL_FLOAT32, length);
    if (length > 0) memcpy(array->data, job->result.logprobs + start, length * sizeof(float));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "logprobs");
  lua_pushinteger(L, (lua_Integer)job->tokens);
  lua_setfield(L, -2, "tokens");
  lua_pushinteger(L, (lua_Integer)job->count);
  lua_setfield(L, -2, "datums");
  return 1;
}

/* The loss that the table at `index` names, with its configuration. */
static void read_loss(lua_State *L, int index, rvl_loss *loss) {
  rvl_loss_option options[MOST_OPTIONS];
  size_t count = 0;
  lua_getfield(L, index, "loss");   /* first: the configuration's names are used as long as no Lua runs */
  const char *name = luaL_checkstring(L, -1);
  lua_getfield(L, index, "config");
  if (lua_istable(L, -1)) {
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
      if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TNUMBER || count == MOST_OPTIONS) {
        rvl_raise(L, "refused", NULL, "loss_fn_config is not a map of at most %d names to numbers", MOST_OPTIONS);
      }
      options[count++] = (rvl_loss_option){lua_tostring(L, -2), lua_tonumber(L, -1)};
      lua_pop(L, 1);
    }
  }
  char refusal[REFUSAL_ROOM];
  if (!rvl_loss_parse(name, options, count, loss, refusal, sizeof refusal)) {
    rvl_raise(L, "refused", NULL, "%s", refusal);
  }
  lua_pop(L, 2);
}

/* Bytes of all datums in the list at 2, which are strings. */
static size_t measure(lua_State *L, lua_Integer count) {
  size_t total = 0;
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_rawgeti(L, 2, i) != LUA_TSTRING) luaL_error(L, "datum %d is not a string of bytes", (int)i - 1);
    total += lua_rawlen(L, -1);
    lua_pop(L, 1);
  }
  return total;
}

static void read_examples(lua_State *L, pass_job *job, lua_Integer count) {
  char *at = job->bytes;
  char refusal[RVL_EXAMPLE_REFUSAL];
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, 2, i);
    size_t length;
    const char *datum = lua_tolstring(L, -1, &length);
    if (at != NULL) {
      datum = memcpy(at, datum, length);
      at += length;
    }
    switch (rvl_example_read((const uint8_t *)datum, length, &job->loss, &job->model->layout->config,
                             &job->examples[job->count], refusal)) {
      case RVL_EXAMPLE_OK: break;
      case RVL_EXAMPLE_NO_MEMORY: luaL_error(L, "not enough memory"); break;
      default: rvl_raise(L, "refused", NULL, "datum %d: %s", (int)i - 1, refusal);
    }
    const rvl_example *example = &job->examples[job->count++];
    job->tokens += example->length;
    if (job->graph != NULL && !rvl_graph_check(job->graph, example, job->model->layout->config.vocabulary,
                                               refusal)) {
      rvl_raise(L, "refused", NULL, "datum %d: %s", (int)i - 1, refusal);
    }
    lua_pop(L, 1);
  }
}

static void read_graph(lua_State *L, pass_job *job) {
  lua_getfield(L, 3, "graph");
  job->graph = rvl_graph_retain(rvl_check_graph(L, -1));
  job->loss.graph = job->graph;
  lua_pop(L, 1);
}

/*
** pass(list of datums' bytes, {loss=, config={}, gradients=, clear=, graph=}) → see finish_pass; raises "refused"
** before anything is done
*/
int rvl_trainer_pass(lua_State *L) {
  rvl_engine_box *engine = rvl_trainer_engine_of(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  pass_job *job = rvl_trainer_job(L, engine, sizeof *job, run_pass, finish_pass, release_pass);
  job->model = rvl_trainable_retain(rvl_check_trainable(L, 1));
  read_loss(L, 3, &job->loss);
  job->gradients = rvl_trainer_flag(L, 3, "gradients");
  job->clear = rvl_trainer_flag(L, 3, "clear");
  if (job->loss.kind == RVL_LOSS_GRAPH) read_graph(L, job);
  /* from here on no Lua runs that could change the list */
  lua_Integer count = (lua_Integer)lua_rawlen(L, 2);
  job->examples = calloc(count > 0 ? (size_t)count : 1, sizeof *job->examples);
  if (job->examples == NULL) return luaL_error(L, "not enough memory");
  size_t size = measure(L, count);
  if (job->graph != NULL) job->bytes = malloc(size > 0 ? size : 1);
  if (job->graph != NULL && job->bytes == NULL) return luaL_error(L, "not enough memory");
  read_examples(L, job, count);
  return rvl_trainer_wait(L);
}

/* ---- steps ------------------------------------------------------------------------------------------------- */

typedef struct step_job {
  rvl_lua_job lua;
  rvl_trainable *model;
  rvl_adamw_options options;
  rvl_adamw_result result;
  uint64_t step;
} step_job;

static void release_step(rvl_lua_job *lua) { rvl_trainable_release(((step_job *)lua)->model); }

static void run_step(rvl_job *base, rvl_pool *pool) {
  (void)pool;
  step_job *job = (step_job *)(void *)base;
  job->result = rvl_trainable_step(job->model, &job->options);
  job->step = job->model->optimizer.step;
}

/* {grad_norm=, finite=, step=} */
static int finish_step(lua_State *L, rvl_lua_job *lua) {
  step_job *job = (step_job *)lua;
  lua_createtable(L, 0, 3);
  lua_pushnumber(L, job->result.norm);
  lua_setfield(L, -2, "grad_norm");
  lua_pushboolean(L, job->result.finite);
  lua_setfield(L, -2, "finite");
  lua_pushinteger(L, (lua_Integer)job->step);
  lua_setfield(L, -2, "step");
  return 1;
}

static double option(lua_State *L, const char *name, double otherwise, double low, double high) {
  lua_getfield(L, 2, name);
  double value = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  if (!(value >= low && value <= high)) {
    rvl_raise(L, "refused", NULL, "%s is not between %f and %f", name, low, high);
  }
  return value;
}

/* step{lr=, beta1=, beta2=, eps=, weight_decay=, clip=, scale=} → see finish_step; uses the gradient up */
int rvl_trainer_step(lua_State *L) {
  /* without an eps, weights that have had no gradient would become 0 / 0 */
  static const double below_one = 1 - 1e-12, least = FLT_MIN, most = 1e30;
  rvl_engine_box *engine = rvl_trainer_engine_of(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  rvl_adamw_options options = {.lr = option(L, "lr", 0, 0, most), .beta1 = option(L, "beta1", 0.9, 0, below_one),
                               .beta2 = option(L, "beta2", 0.999, 0, below_one),
                               .eps = option(L, "eps", 1e-8, least, most),
                               .weight_decay = option(L, "weight_decay", 0, 0, most),
                               .clip = option(L, "clip", 0, 0, most), .scale = option(L, "scale", 1, 0, most)};
  step_job *job = rvl_trainer_job(L, engine, sizeof *job, run_step, finish_step, release_step);
  job->model = rvl_trainable_retain(rvl_check_trainable(L, 1));
  job->options = options;
  return rvl_trainer_wait(L);
}
