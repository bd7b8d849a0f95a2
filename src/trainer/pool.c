#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct worker {
  rvl_pool *pool;
  pthread_t thread;
  unsigned number;
} worker;

struct rvl_pool {
  pthread_mutex_t lock;
  pthread_cond_t begun, ended, passed;
  rvl_pool_task *task;
  void *argument;
  size_t count, next;          /* tasks; the next one to be taken */
  size_t turn;                 /* the task that may pass */
  unsigned running;            /* threads inside of tasks, the caller's not counted */
  bool stopping;
  unsigned threads;            /* the caller's counted */
  worker workers[];
};

/* Takes tasks until none is left; the lock is held before and after. */
static void work(rvl_pool *pool, unsigned thread) {
  while (pool->next < pool->count) {
    size_t index = pool->next++;
    pthread_mutex_unlock(&pool->lock);
    pool->task(pool->argument, index, thread);
    pthread_mutex_lock(&pool->lock);
  }
}

static void *run_worker(void *argument) {
  worker *self = argument;
  rvl_pool *pool = self->pool;
  pthread_mutex_lock(&pool->lock);
  while (!pool->stopping) {
    if (pool->next < pool->count) {
      pool->running++;
      work(pool, self->number);
      if (--pool->running == 0) pthread_cond_signal(&pool->ended);
    } else {
      pthread_cond_wait(&pool->begun, &pool->lock);
    }
  }
  pthread_mutex_unlock(&pool->lock);
  return NULL;
}

/* Signals are the business of the threads that were there before. */
static bool start(worker *w) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = pthread_create(&w->thread, NULL, run_worker, w) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

rvl_pool *rvl_pool_new(unsigned threads) {
  if (threads < 1) threads = 1;
  rvl_pool *pool = calloc(1, sizeof *pool + (threads - 1) * sizeof pool->workers[0]);
  if (pool == NULL) return NULL;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->begun, NULL);
  pthread_cond_init(&pool->ended, NULL);
  pthread_cond_init(&pool->passed, NULL);
  pool->threads = 1;
  for (unsigned i = 0; i + 1 < threads; i++) {
    pool->workers[i] = (worker){.pool = pool, .number = i + 1};
    if (!start(&pool->workers[i])) {
      rvl_pool_free(pool);
      return NULL;
    }
    pool->threads++;
  }
  return pool;
}

void rvl_pool_free(rvl_pool *pool) {
  if (pool == NULL) return;
  pthread_mutex_lock(&pool->lock);
  pool->stopping = true;
  pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->lock);
  for (unsigned i = 0; i + 1 < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->begun);
  pthread_cond_destroy(&pool->ended);
  pthread_cond_destroy(&pool->passed);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

unsigned rvl_pool_threads(const rvl_pool *pool) { return pool->threads; }

void rvl_pool_run(rvl_pool *pool, size_t count, rvl_pool_task *task, void *argument) {
  pthread_mutex_lock(&pool->lock);
  pool->task = task;
  pool->argument = argument;
  pool->turn = pool->next = 0;
  pool->count = count;
  if (count > 1) pthread_cond_broadcast(&pool->begun);
  work(pool, 0);
  while (pool->running > 0) pthread_cond_wait(&pool->ended, &pool->lock);
  pool->count = pool->next = 0;
  pthread_mutex_unlock(&pool->lock);
}

void rvl_pool_in_order(rvl_pool *pool, size_t index, void (*step)(void *argument), void *argument) {
  pthread_mutex_lock(&pool->lock);
  while (pool->turn != index) pthread_cond_wait(&pool->passed, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
  step(argument);
  pthread_mutex_lock(&pool->lock);
  pool->turn++;
  pthread_cond_broadcast(&pool->passed);
  pthread_mutex_unlock(&pool->lock);
}
