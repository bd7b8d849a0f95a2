/*
** riverlua.core.trainer: transformers on this machine's processors, for lua/training/embedded. An engine has a thread
** of its own that works on jobs in the order they came; the task that gave one waits, others go on.
*/
#include "lua_trainer.h"

#include <stdlib.h>

#define JOB "riverlua.trainer.Job"

enum { MOST_THREADS = 256 };

/* ---- engines --------------------------------------------------------------------------------------------- */

static void free_async(uv_handle_t *handle) { free(handle); }

/* On the engine's thread. */
static void notify(void *argument) { uv_async_send(argument); }

static void release_job(rvl_lua_job *job) {
  job->release(job);
  rvl_signal_detach(&job->changed);
  free(job);
}

static void collect(rvl_engine_box *box) {
  for (rvl_job *ended; (ended = rvl_engine_take(box->engine)) != NULL;) {
    rvl_lua_job *job = (rvl_lua_job *)(void *)ended;
    job->done = true;
    if (job->abandoned) release_job(job);
    else rvl_signal_fire(&job->changed);
  }
}

static void on_ended(uv_async_t *async) {
  rvl_engine_box *box = async->data;
  if (box != NULL && box->engine != NULL) collect(box);
}

static void enlist(rvl_engine_box *box) {
  box->next = box->rt->engines;
  if (box->next != NULL) box->next->previous = box;
  box->rt->engines = box;
}

static void delist(rvl_engine_box *box) {
  if (box->previous != NULL) box->previous->next = box->next;
  else box->rt->engines = box->next;
  if (box->next != NULL) box->next->previous = box->previous;
  box->previous = box->next = NULL;
}

/* In a process that was forked from the one with the threads there is nobody to end. */
static void close_engine(rvl_engine_box *box) {
  if (box->engine == NULL || rvl_loop_is_forked(&box->rt->loop)) return;
  rvl_engine_stop(box->engine);
  collect(box);
  rvl_engine_free(box->engine);
  box->engine = NULL;
  box->async->data = NULL;
  uv_close((uv_handle_t *)box->async, free_async);
  delist(box);
}

static rvl_engine_box *check_box(lua_State *L, int index) { return luaL_checkudata(L, index, RVL_TRAINER_ENGINE); }

static int raise_closed(lua_State *L) { return rvl_raise(L, "closed", NULL, "the trainer is closed"); }

rvl_engine_box *rvl_check_engine(lua_State *L, int index) {
  rvl_engine_box *box = check_box(L, index);
  if (box->engine == NULL) raise_closed(L);
  rvl_runtime_loop(L, box->rt);   /* raises in a forked process */
  return box;
}

/* open{threads=} → an engine */
static int engine_open(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  rvl_runtime_check_open(L, rt);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_getfield(L, 1, "threads");
  unsigned processors = uv_available_parallelism();
  lua_Integer threads = luaL_optinteger(L, -1, processors < MOST_THREADS ? processors : MOST_THREADS);
  if (threads < 1 || threads > MOST_THREADS) {
    return rvl_raise(L, "argument", NULL, "'threads' must be between 1 and %d", MOST_THREADS);
  }
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  rvl_engine_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = (rvl_engine_box){.rt = rt, .waiting = {.rt = rt}};
  luaL_setmetatable(L, RVL_TRAINER_ENGINE);
  const char *wrong = rvl_blas_open(&box->blas, rt->command);
  if (wrong != NULL)
    return rvl_raise(L, "unsupported", "install it: on Debian the package libopenblas0-pthread", "%s", wrong);
  box->async = malloc(sizeof *box->async);
  if (box->async == NULL) return luaL_error(L, "not enough memory");
  if (uv_async_init(&loop->uv, box->async, on_ended) != 0) {
    free(box->async);
    return luaL_error(L, "the trainer has no way to wake the loop");
  }
  box->async->data = box;
  box->engine = rvl_engine_new((unsigned)threads, notify, box->async);
  if (box->engine == NULL) {
    uv_close((uv_handle_t *)box->async, free_async);
    return rvl_raise(L, "limit", NULL, "the trainer's threads cannot be started");
  }
  enlist(box);
  return 1;
}

/* close(): what is under way is given up */
static int engine_close(lua_State *L) {
  close_engine(check_box(L, 1));
  return 0;
}

static int engine_gc(lua_State *L) {
  rvl_engine_box *box = check_box(L, 1);
  close_engine(box);
  rvl_forget_waiting(&box->waiting);
  return 0;
}

void rvl_engines_stop(rvl_runtime *rt) {
  while (rt->engines != NULL && !rvl_loop_is_forked(&rt->loop)) close_engine(rt->engines);
}

/* info() → {threads=, blas=, core=, kernels=} */
static int engine_info(lua_State *L) {
  rvl_engine_box *box = rvl_check_engine(L, 1);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, rvl_engine_threads(box->engine));
  lua_setfield(L, -2, "threads");
  lua_pushstring(L, box->blas.version);
  lua_setfield(L, -2, "blas");
  lua_pushstring(L, box->blas.core);
  lua_setfield(L, -2, "core");
  lua_pushstring(L, rvl_kernels_pick()->name);
  lua_setfield(L, -2, "kernels");
  return 1;
}

/* ---- jobs ------------------------------------------------------------------------------------------------ */

typedef struct job_box { rvl_lua_job *job; } job_box;

/* One whose task is gone may be in the engine's hands still. */
static int job_gc(lua_State *L) {
  job_box *box = luaL_checkudata(L, 1, JOB);
  rvl_lua_job *job = box->job;
  box->job = NULL;
  if (job == NULL) return 0;
  if (!job->submitted || job->done) {
    release_job(job);
  } else if (job->owner->engine != NULL) {
    atomic_store(&job->job.cancelled, true);
    rvl_signal_detach(&job->changed);
    job->abandoned = true;
  }
  return 0;
}

void *rvl_trainer_job(lua_State *L, rvl_engine_box *owner, size_t size, void (*run)(rvl_job *job, rvl_pool *pool),
                      int (*finish)(lua_State *L, rvl_lua_job *job), void (*release)(rvl_lua_job *job)) {
  job_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->job = NULL;
  luaL_setmetatable(L, JOB);
  rvl_lua_job *job = calloc(1, size);
  if (job == NULL) luaL_error(L, "not enough memory");
  job->job.run = run;
  job->owner = owner;
  job->finish = finish;
  job->release = release;
  box->job = job;
  return job;
}

bool rvl_trainer_flag(lua_State *L, int index, const char *name) {
  lua_getfield(L, index, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

static int finish(lua_State *L, rvl_lua_job *job) {
  if (job->failure != NULL) return rvl_raise(L, "limit", "make the request smaller", "%s", job->failure);
  return job->finish(L, job);
}

/* The job's box lies on top. */
static int wait_k(lua_State *L, int status, lua_KContext ctx) {
  rvl_lua_job *job = (rvl_lua_job *)ctx;
  rvl_engine_box *owner = job->owner;
  if (status == LUA_YIELD) {
    if (owner->rt->current->woken != RVL_WOKEN_SIGNAL) atomic_store(&job->job.cancelled, true);
    rvl_waited(L, &owner->waiting);
  }
  if (!job->done) return rvl_wait_counted(L, &owner->waiting, &job->changed, -1, ctx, wait_k);
  if (atomic_load(&job->job.cancelled))
    return rvl_raise(L, "closed", NULL, "the trainer was closed before it was done");
  int count = finish(L, job);
  job_box *box = luaL_checkudata(L, -1 - count, JOB);
  box->job = NULL;                /* what it was for is used up: its memory goes now, not at some collection */
  release_job(job);
  return count;
}

/* Reading arguments may have run Lua, which may have closed the engine. */
int rvl_trainer_wait(lua_State *L) {
  job_box *box = luaL_checkudata(L, -1, JOB);
  rvl_lua_job *job = box->job;
  if (job->owner->engine == NULL) return raise_closed(L);
  job->submitted = true;
  rvl_engine_submit(job->owner->engine, &job->job);
  return wait_k(L, LUA_OK, (lua_KContext)job);
}

/* ---- the module ------------------------------------------------------------------------------------------ */

int rvl_open_trainer(lua_State *L) {
  static const luaL_Reg engine_methods[] = {{"info", engine_info}, {"close", engine_close}, {"base", rvl_trainer_base},
                                            {"model", rvl_trainer_model}, {NULL, NULL}};
  static const luaL_Reg engine_meta[] = {{"__gc", engine_gc}, {"__close", engine_close}, {NULL, NULL}};
  static const luaL_Reg job_methods[] = {{NULL, NULL}};
  static const luaL_Reg job_meta[] = {{"__gc", job_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open", engine_open}, {"graph", rvl_trainer_graph}, {NULL, NULL}};
  rvl_new_class(L, RVL_TRAINER_ENGINE, engine_methods, engine_meta);
  rvl_new_class(L, JOB, job_methods, job_meta);
  rvl_trainer_add_models(L);
  rvl_trainer_add_graphs(L);
  rvl_new_functions(L, functions);
  return 1;
}
