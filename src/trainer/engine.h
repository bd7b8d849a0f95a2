/*
** The thread that works on jobs, one after another in the order they came, with a pool of threads to share them
** out to. Those who give it jobs go on meanwhile.
*/
#ifndef RVL_ENGINE_H
#define RVL_ENGINE_H

#include "pool.h"

#include <stdatomic.h>
#include <stdbool.h>

typedef struct rvl_engine rvl_engine;
typedef struct rvl_job rvl_job;

/* Lives in its giver's memory, who leaves it alone until it has been taken back. */
struct rvl_job {
  /* On the engine's thread, unless it was cancelled before; looks at `cancelled` now and then. */
  void (*run)(rvl_job *job, rvl_pool *pool);
  rvl_job *next;
  atomic_bool cancelled;       /* set by rvl_engine_stop, or by its giver at any time */
};

/* `notify` is called on the engine's thread when there is something to take. NULL: no memory, or no threads. */
rvl_engine *rvl_engine_new(unsigned threads, void (*notify)(void *argument), void *argument);
unsigned rvl_engine_threads(const rvl_engine *engine);
void rvl_engine_submit(rvl_engine *engine, rvl_job *job);
/* A job that has run, the oldest first; NULL: there is none. */
rvl_job *rvl_engine_take(rvl_engine *engine);
/* Cancels all jobs and ends the threads; then all jobs can be taken, those that were not run included. */
void rvl_engine_stop(rvl_engine *engine);
void rvl_engine_free(rvl_engine *engine);

#endif
