#include "engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

typedef struct queue { rvl_job *first, *last; } queue;

struct rvl_engine {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  rvl_pool *pool;
  queue waiting, ended;
  rvl_job *running;
  bool stopping, stopped;
  void (*notify)(void *argument);
  void *argument;
};

static void put(queue *q, rvl_job *job) {
  job->next = NULL;
  if (q->last != NULL) q->last->next = job;
  else q->first = job;
  q->last = job;
}

static rvl_job *get(queue *q) {
  rvl_job *job = q->first;
  if (job != NULL) {
    q->first = job->next;
    if (q->first == NULL) q->last = NULL;
  }
  return job;
}

static void *work(void *argument) {
  rvl_engine *e = argument;
  pthread_mutex_lock(&e->lock);
  for (;;) {
    while (e->waiting.first == NULL && !e->stopping) pthread_cond_wait(&e->changed, &e->lock);
    if (e->stopping) break;
    rvl_job *job = e->running = get(&e->waiting);
    pthread_mutex_unlock(&e->lock);
    if (!atomic_load(&job->cancelled)) job->run(job, e->pool);
    pthread_mutex_lock(&e->lock);
    e->running = NULL;
    put(&e->ended, job);
    pthread_mutex_unlock(&e->lock);
    e->notify(e->argument);
    pthread_mutex_lock(&e->lock);
  }
  pthread_mutex_unlock(&e->lock);
  return NULL;
}

/* Signals are the business of the threads that were there before. */
static bool start(rvl_engine *e) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = pthread_create(&e->thread, NULL, work, e) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

rvl_engine *rvl_engine_new(unsigned threads, void (*notify)(void *argument), void *argument) {
  rvl_engine *e = calloc(1, sizeof *e);
  if (e == NULL) return NULL;
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->changed, NULL);
  e->notify = notify;
  e->argument = argument;
  e->pool = rvl_pool_new(threads);
  e->stopped = e->pool == NULL || !start(e);
  if (e->stopped) {
    rvl_engine_free(e);
    return NULL;
  }
  return e;
}

unsigned rvl_engine_threads(const rvl_engine *e) { return rvl_pool_threads(e->pool); }

void rvl_engine_submit(rvl_engine *e, rvl_job *job) {
  pthread_mutex_lock(&e->lock);
  put(&e->waiting, job);
  pthread_cond_signal(&e->changed);
  pthread_mutex_unlock(&e->lock);
}

rvl_job *rvl_engine_take(rvl_engine *e) {
  pthread_mutex_lock(&e->lock);
  rvl_job *job = get(&e->ended);
  pthread_mutex_unlock(&e->lock);
  return job;
}

void rvl_engine_stop(rvl_engine *e) {
  if (e->stopped) return;
  pthread_mutex_lock(&e->lock);
  e->stopping = true;
  if (e->running != NULL) atomic_store(&e->running->cancelled, true);
  pthread_cond_signal(&e->changed);
  pthread_mutex_unlock(&e->lock);
  pthread_join(e->thread, NULL);
  e->stopped = true;
  for (rvl_job *job; (job = get(&e->waiting)) != NULL; put(&e->ended, job)) atomic_store(&job->cancelled, true);
}

void rvl_engine_free(rvl_engine *e) {
  if (e == NULL) return;
  rvl_engine_stop(e);
  rvl_pool_free(e->pool);
  pthread_cond_destroy(&e->changed);
  pthread_mutex_destroy(&e->lock);
  free(e);
}
