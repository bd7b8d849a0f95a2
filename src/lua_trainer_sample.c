/* Part of riverlua.core.trainer: samples. */
#include "lua_trainer.h"

#include "array.h"
#include "bytes.h"
#include "trainer/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STOPS = 256, MOST_TOP = 1024 };

typedef struct sample_job {
  rvl_lua_job lua;
  rvl_base *base;              /* one of the two */
  rvl_trainable *model;
  rvl_sample_request *requests;
  rvl_sample_result *results;
  size_t count;
  bool done;                   /* there are results */
  /* What the requests point into: ids of prompts, and bytes, places and lengths of stop strings. */
  rvl_bytes ids, stops, stop_places, stop_lengths;
} sample_job;

static void release_samples(rvl_lua_job *lua) {
  sample_job *job = (sample_job *)lua;
  if (job->done) {
    for (size_t i = 0; i < job->count; i++) rvl_sampler_free_result(&job->results[i]);
  }
  free(job->requests);
  free(job->results);
  rvl_bytes_free(&job->ids);
  rvl_bytes_free(&job->stops);
  rvl_bytes_free(&job->stop_places);
  rvl_bytes_free(&job->stop_lengths);
  rvl_base_release(job->base);
  rvl_trainable_release(job->model);
}

static const rvl_model_layout *layout_of(const sample_job *job) {
  return job->model != NULL ? job->model->layout : &job->base->layout;
}

static void run_samples(rvl_job *base, rvl_pool *pool) {
  sample_job *job = (sample_job *)(void *)base;
  const float *weights = job->model != NULL ? job->model->weights : job->base->weights;
  job->done = rvl_sampler_run(layout_of(job), pool, weights, job->requests, job->count, job->results,
                              &base->cancelled);
  if (!job->done && !atomic_load(&base->cancelled))
    job->lua.failure = "there is not enough memory for these samples";
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

static void append(lua_State *L, rvl_bytes *bytes, const void *data, size_t length) {
  if (!rvl_bytes_append(bytes, data, length)) luaL_error(L, "not enough memory");
}

static lua_Number number_field(lua_State *L, const char *name, lua_Number otherwise) {
  lua_getfield(L, -1, name);
  lua_Number value = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return value;
}

static lua_Integer integer_field(lua_State *L, const char *name, lua_Integer otherwise) {
  lua_getfield(L, -1, name);
  lua_Integer value = luaL_optinteger(L, -1, otherwise);
  lua_pop(L, 1);
  return value;
}

/* The prompt of the request on top. */
static void read_ids(lua_State *L, sample_job *job, rvl_sample_request *request, int number) {
  const rvl_model_config *config = &layout_of(job)->config;
  lua_getfield(L, -1, "ids");
  const rvl_array *array = rvl_array_test(L, -1);
  size_t count = array != NULL ? array->length : lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
  if (count < 1) rvl_raise(L, "refused", NULL, "prompt %d is empty", number);
  if (count > config->context) {
    rvl_raise(L, "refused", "shorten it", "prompt %d has %I tokens, the model's context holds %d", number,
              (LUAI_UACINT)count, (int)config->context);
  }
  if (!rvl_bytes_reserve(&job->ids, count * sizeof(int32_t))) luaL_error(L, "not enough memory");
  int32_t *ids = (int32_t *)(void *)(job->ids.data + job->ids.length);
  size_t wrong = rvl_array_read(L, lua_gettop(L), count, RVL_INT32, RVL_READ_NATURAL, ids);
  if (wrong != 0) {
    rvl_array_push_complaint(L, lua_gettop(L), wrong, RVL_INT32, RVL_READ_NATURAL);
    rvl_raise(L, "refused", NULL, "prompt %d: token %d %s", number, (int)wrong - 1, lua_tostring(L, -1));
  }
  for (size_t i = 0; i < count; i++) {
    if ((uint32_t)ids[i] >= config->vocabulary) {
      rvl_raise(L, "refused", NULL, "prompt %d: token %d is %d, the vocabulary has %d", number, (int)i,
                (int)ids[i], (int)config->vocabulary);
    }
  }
  job->ids.length += count * sizeof(int32_t);
  request->prompt_length = count;
  lua_pop(L, 1);
}

static void read_stops(lua_State *L, sample_job *job, rvl_sample_request *request, int number) {
  if (lua_getfield(L, -1, "stop") == LUA_TTABLE) {
    size_t count = lua_rawlen(L, -1);
    if (count > MOST_STOPS)
      rvl_raise(L, "refused", NULL, "prompt %d has more than %d stop strings", number, MOST_STOPS);
    for (size_t i = 1; i <= count; i++) {
      size_t length;
      lua_rawgeti(L, -1, (lua_Integer)i);
      const char *text = lua_tolstring(L, -1, &length);
      if (text == NULL || length == 0) rvl_raise(L, "refused", NULL, "prompt %d: a stop string is empty", number);
      append(L, &job->stops, text, length);
      append(L, &job->stop_lengths, &length, sizeof length);
      lua_pop(L, 1);
    }
    request->stop_count = count;
  }
  lua_pop(L, 1);
}

/* The request on top. */
static void read_request(lua_State *L, sample_job *job, rvl_sample_request *request, int number) {
  lua_Integer most = integer_field(L, "max_tokens", 16), top = integer_field(L, "top_logprobs", 0);
  request->temperature = number_field(L, "temperature", 1);
  request->top_p = number_field(L, "top_p", 1);
  request->top_k = integer_field(L, "top_k", -1);
  request->seed = (uint64_t)integer_field(L, "seed", 0);
  if (most < 0) rvl_raise(L, "refused", NULL, "prompt %d: max_tokens is below 0", number);
  if (!(request->temperature >= 0 && isfinite(request->temperature))) {
    rvl_raise(L, "refused", NULL, "prompt %d: temperature must be a number from 0", number);
  }
  if (!(request->top_p > 0 && request->top_p <= 1)) {
    rvl_raise(L, "refused", NULL, "prompt %d: top_p must be above 0 and at most 1", number);
  }
  if (top < 0 || top > MOST_TOP)
    rvl_raise(L, "refused", NULL, "prompt %d: logprobs is not between 0 and %d", number, MOST_TOP);
  request->max_tokens = (size_t)most;
  request->top_logprobs = (size_t)top;
  request->prompt_logprobs = rvl_trainer_flag(L, -1, "prompt_logprobs");
  read_ids(L, job, request, number);
  read_stops(L, job, request, number);
}

/* Now that nothing moves any more. */
static void point(lua_State *L, sample_job *job) {
  size_t stops = job->stop_lengths.length / sizeof(size_t);
  if (!rvl_bytes_reserve(&job->stop_places, (stops + 1) * sizeof(const char *)))
    luaL_error(L, "not enough memory");
  const char **places = (const char **)(void *)job->stop_places.data;
  const size_t *lengths = (const size_t *)(void *)job->stop_lengths.data;
  const char *text = job->stops.data;
  for (size_t i = 0; i < stops; text += lengths[i++]) places[i] = text;
  const int32_t *ids = (const int32_t *)(void *)job->ids.data;
  for (size_t i = 0; i < job->count; i++) {
    rvl_sample_request *request = &job->requests[i];
    request->prompt = ids;
    ids += request->prompt_length;
    request->stops = places;
    request->stop_lengths = lengths;
    places += request->stop_count;
    if (lengths != NULL) lengths += request->stop_count;
  }
}

/* ---- results ----------------------------------------------------------------------------------------------- */

/* {rows=, width=, ids=, logprobs=}: bytes of int32 and float32, row by row */
static void set_top(lua_State *L, const char *name, const int32_t *ids, const float *logprobs, size_t rows,
                    size_t width) {
  if (ids == NULL) return;
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, (lua_Integer)rows);
  lua_setfield(L, -2, "rows");
  lua_pushinteger(L, (lua_Integer)width);
  lua_setfield(L, -2, "width");
  lua_pushlstring(L, (const char *)ids, rows * width * sizeof *ids);
  lua_setfield(L, -2, "ids");
  lua_pushlstring(L, (const char *)logprobs, rows * width * sizeof *logprobs);
  lua_setfield(L, -2, "logprobs");
  lua_setfield(L, -2, name);
}

static void set_array(lua_State *L, const char *name, rvl_dtype dtype, const void *values, size_t count) {
  rvl_array *array = rvl_array_push(L, dtype, count);
  if (count > 0) memcpy(array->data, values, count * rvl_dtype_size(dtype));
  lua_setfield(L, -2, name);
}

static void set_text(lua_State *L, const rvl_sample_result *result) {
  luaL_Buffer buffer;
  char *text = luaL_buffinitsize(L, &buffer, result->count + 1);
  size_t length = 0;
  for (size_t i = 0; i < result->count && length < result->text_length; i++) {
    if (result->ids[i] < 256) text[length++] = (char)result->ids[i];
  }
  luaL_pushresultsize(&buffer, length);
  lua_setfield(L, -2, "text");
}

static int finish_samples(lua_State *L, rvl_lua_job *lua) {
  sample_job *job = (sample_job *)lua;
  lua_createtable(L, (int)job->count, 0);
  for (size_t i = 0; i < job->count; i++) {
    const rvl_sample_result *r = &job->results[i];
    const rvl_sample_request *request = &job->requests[i];
    lua_createtable(L, 0, 8);
    set_array(L, "ids", RVL_INT32, r->ids, r->count);
    set_array(L, "logprobs", RVL_FLOAT64, r->logprobs, r->count);
    lua_pushboolean(L, r->stopped);
    lua_setfield(L, -2, "stopped");
    set_text(L, r);
    if (r->prompt_logprobs != NULL)
      set_array(L, "prompt_logprobs", RVL_FLOAT64, r->prompt_logprobs, request->prompt_length);
    set_top(L, "top", r->top_ids, r->top_logprobs, r->count, request->top_logprobs);
    set_top(L, "prompt_top", r->prompt_top_ids, r->prompt_top_logprobs, request->prompt_length,
            request->top_logprobs);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* ---- the method -------------------------------------------------------------------------------------------- */

/*
** sample{{ids=, max_tokens=, temperature=, top_p=, top_k=, seed=, stop={}, top_logprobs=, prompt_logprobs=}, …}
** → {{ids=, logprobs=, stopped=, text=, prompt_logprobs=, top=, prompt_top=}, …}; raises "refused" before
** anything is done
*/
int rvl_trainer_sample(lua_State *L) {
  bool trained = luaL_testudata(L, 1, RVL_TRAINER_MODEL) != NULL;
  rvl_engine_box *engine = rvl_trainer_engine_of(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  size_t count = lua_rawlen(L, 2);
  sample_job *job = rvl_trainer_job(L, engine, sizeof *job, run_samples, finish_samples, release_samples);
  if (trained) job->model = rvl_trainable_retain(rvl_check_trainable(L, 1));
  else job->base = rvl_base_retain(rvl_check_base(L, 1));
  job->requests = calloc(count + 1, sizeof *job->requests);
  job->results = calloc(count + 1, sizeof *job->results);
  if (job->requests == NULL || job->results == NULL) return luaL_error(L, "not enough memory");
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    luaL_checktype(L, -1, LUA_TTABLE);
    read_request(L, job, &job->requests[i], (int)i);
    job->count++;
    lua_pop(L, 1);
  }
  point(L, job);
  return rvl_trainer_wait(L);
}
