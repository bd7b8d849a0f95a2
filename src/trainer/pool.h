/*
** Threads that share out numbered tasks. They sleep when there is nothing to do: spinning ones collapse on a busy
** machine. What is done in order (see rvl_pool_in_order) gives the same sums whatever the number of threads.
*/
#ifndef RVL_POOL_H
#define RVL_POOL_H

#include <stddef.h>

typedef struct rvl_pool rvl_pool;

/* `index` counts tasks, `thread` tells whose memory may be used: below rvl_pool_threads. */
typedef void rvl_pool_task(void *argument, size_t index, unsigned thread);

/* The thread that calls rvl_pool_run is one of them. NULL: no memory, or no threads. */
rvl_pool *rvl_pool_new(unsigned threads);
void rvl_pool_free(rvl_pool *pool);
unsigned rvl_pool_threads(const rvl_pool *pool);

/* Runs tasks 0 … count - 1 and returns when all are done. One caller at a time. */
void rvl_pool_run(rvl_pool *pool, size_t count, rvl_pool_task *task, void *argument);

/* For a running task, once each: calls `step` when those with lower numbers have passed here. Every task must. */
void rvl_pool_in_order(rvl_pool *pool, size_t index, void (*step)(void *argument), void *argument);

#endif
