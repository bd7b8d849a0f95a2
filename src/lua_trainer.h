/* What the files of riverlua.core.trainer share: the engine that Lua sees, and jobs that tasks wait for. */
#ifndef RVL_LUA_TRAINER_H
#define RVL_LUA_TRAINER_H

#include "runtime.h"
#include "trainer/blas.h"
#include "trainer/engine.h"
#include "trainer/trainable.h"

#define RVL_TRAINER_ENGINE "riverlua.trainer.Engine"
#define RVL_TRAINER_BASE "riverlua.trainer.Base"
#define RVL_TRAINER_MODEL "riverlua.trainer.Model"
#define RVL_TRAINER_GRAPH "riverlua.trainer.Graph"

typedef struct rvl_engine_box {
  rvl_runtime *rt;
  rvl_engine *engine;          /* NULL: closed */
  rvl_blas blas;
  rvl_wait_count waiting;
  uv_async_t *async;           /* the engine's thread calls the loop's by it; freed by libuv's close callback */
  struct rvl_engine_box *previous, *next;   /* those whose threads run */
} rvl_engine_box;

/*
** A job that a task waits for. Made of zeroed memory by rvl_trainer_job, whose first member this is; after it has
** run, `finish` pushes what the call returns (or raises), and `release` frees what else it has, on the runtime's
** thread.
*/
typedef struct rvl_lua_job {
  rvl_job job;
  rvl_engine_box *owner;
  rvl_signal changed;
  bool submitted, done, abandoned;
  const char *failure;         /* set by `run`: what went wrong (static); "memory" is said for NULL results */
  int (*finish)(lua_State *L, struct rvl_lua_job *job);
  void (*release)(struct rvl_lua_job *job);
} rvl_lua_job;

/* The open engine at an index. */
rvl_engine_box *rvl_check_engine(lua_State *L, int index);

/* Pushes what keeps a new job: `size` bytes beginning with an rvl_lua_job. Raises when there is no memory. */
void *rvl_trainer_job(lua_State *L, rvl_engine_box *box, size_t size, void (*run)(rvl_job *job, rvl_pool *pool),
                      int (*finish)(lua_State *L, rvl_lua_job *job), void (*release)(rvl_lua_job *job));
/* Whether the table at an index has something true under a name. */
bool rvl_trainer_flag(lua_State *L, int index, const char *name);
/* Hands the job on top of the stack over and waits for it: return rvl_trainer_wait(…). */
int rvl_trainer_wait(lua_State *L);

void rvl_trainer_add_models(lua_State *L);    /* lua_trainer_model.c: base(…), model(…) and their classes */
int rvl_trainer_base(lua_State *L);
int rvl_trainer_model(lua_State *L);

void rvl_trainer_add_graphs(lua_State *L);    /* lua_trainer_graph.c: graph(…) and its class */
int rvl_trainer_graph(lua_State *L);
rvl_graph *rvl_check_graph(lua_State *L, int index);

int rvl_trainer_pass(lua_State *L);           /* lua_trainer_pass.c: methods of models */
int rvl_trainer_step(lua_State *L);
int rvl_trainer_sample(lua_State *L);         /* lua_trainer_sample.c: of bases and models */

/* What bases and models are inside. */
rvl_base *rvl_check_base(lua_State *L, int index);
rvl_trainable *rvl_check_trainable(lua_State *L, int index);
/* The engine of the base or model at an index, which must be open. */
rvl_engine_box *rvl_trainer_engine_of(lua_State *L, int index);

#endif
