/* engine.c: jobs run once and in order, cancelled and stopped ones come back. Also run under ThreadSanitizer. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "trainer/engine.h"

enum { MANY = 500, GIVERS = 3, THREADS = 3 };

/* What the jobs of one engine share. */
typedef struct bench {
  rvl_engine *engine;
  sem_t told;                  /* once for each notification */
  size_t ran;                  /* not atomic: only the engine's thread writes it, before a job comes back */
} bench;

typedef struct job {
  rvl_job job;
  bench *of;
  size_t number, place;        /* place: it was the so-manieth to run; 0: it was not */
  sem_t *begun;                /* told when it runs; then it goes on until it is cancelled */
  atomic_size_t shares;        /* tasks of the pool that it had */
} job;

static void tell(void *argument) { sem_post(&((bench *)argument)->told); }

static void do_share(void *argument, size_t index, unsigned thread) {
  (void)index;
  (void)thread;
  atomic_fetch_add(&((job *)argument)->shares, 1);
}

static void run_job(rvl_job *base, rvl_pool *pool) {
  job *j = (job *)(void *)base;
  j->place = ++j->of->ran;
  if (j->begun != NULL) {
    sem_post(j->begun);
    while (!atomic_load(&base->cancelled)) rvl_pool_run(pool, 1, do_share, j);
  } else {
    rvl_pool_run(pool, 2 * THREADS, do_share, j);
  }
}

static job *new_job(bench *b, size_t number) {
  job *j = calloc(1, sizeof *j);
  assert_non_null(j);
  j->job.run = run_job;
  j->of = b;
  j->number = number;
  return j;
}

static void open_bench(bench *b, unsigned threads) {
  *b = (bench){0};
  assert_int_equal(sem_init(&b->told, 0, 0), 0);
  b->engine = rvl_engine_new(threads, tell, b);
  assert_non_null(b->engine);
}

static void close_bench(bench *b) {
  rvl_engine_free(b->engine);
  sem_destroy(&b->told);
}

/* The next job that comes back, waiting for the notification: one is there for each. */
static job *next_job(bench *b) {
  rvl_job *taken;
  while ((taken = rvl_engine_take(b->engine)) == NULL) sem_wait(&b->told);
  return (job *)(void *)taken;
}

static void test_order(void **state) {
  (void)state;
  for (unsigned threads = 1; threads <= THREADS; threads++) {
    bench b;
    open_bench(&b, threads);
    assert_int_equal(rvl_engine_threads(b.engine), threads);
    assert_null(rvl_engine_take(b.engine));
    for (size_t i = 0; i < MANY; i++) rvl_engine_submit(b.engine, &new_job(&b, i)->job);
    for (size_t i = 0; i < MANY; i++) {
      job *j = next_job(&b);
      assert_int_equal(j->number, i);
      assert_int_equal(j->place, i + 1);
      assert_int_equal(atomic_load(&j->shares), 2 * THREADS);
      assert_false(atomic_load(&j->job.cancelled));
      free(j);                 /* at once: the engine has let go of it */
    }
    assert_null(rvl_engine_take(b.engine));
    close_bench(&b);
  }
}

/* Every notification is one, whatever has been taken before. */
static void test_each_job_is_told(void **state) {
  (void)state;
  bench b;
  open_bench(&b, 1);
  for (size_t i = 0; i < MANY; i++) rvl_engine_submit(b.engine, &new_job(&b, i)->job);
  for (size_t i = 0; i < MANY; i++) sem_wait(&b.told);
  for (size_t i = 0; i < MANY; i++) {
    job *j = (job *)(void *)rvl_engine_take(b.engine);
    assert_non_null(j);
    free(j);
  }
  assert_null(rvl_engine_take(b.engine));
  close_bench(&b);
}

typedef struct giver { bench *of; size_t number; } giver;

static void *give(void *argument) {
  giver *g = argument;
  for (size_t i = 0; i < MANY; i++) {
    job *j = calloc(1, sizeof *j);
    if (j == NULL) return NULL;
    j->job.run = run_job;
    j->of = g->of;
    j->number = g->number * MANY + i;
    rvl_engine_submit(g->of->engine, &j->job);
  }
  return NULL;
}

static void test_several_givers(void **state) {
  (void)state;
  bench b;
  pthread_t threads[GIVERS];
  giver givers[GIVERS];
  size_t next[GIVERS] = {0};
  open_bench(&b, 2);
  for (size_t i = 0; i < GIVERS; i++) {
    givers[i] = (giver){&b, i};
    assert_int_equal(pthread_create(&threads[i], NULL, give, &givers[i]), 0);
  }
  for (size_t i = 0; i < GIVERS * MANY; i++) {
    job *j = next_job(&b);
    assert_int_equal(j->place, i + 1);
    assert_int_equal(j->number % MANY, next[j->number / MANY]++);   /* each giver's in its order */
    free(j);
  }
  for (size_t i = 0; i < GIVERS; i++) pthread_join(threads[i], NULL);
  close_bench(&b);
}

static void test_cancelling(void **state) {
  (void)state;
  bench b;
  sem_t begun;
  open_bench(&b, 2);
  sem_init(&begun, 0, 0);
  job *first = new_job(&b, 0), *second = new_job(&b, 1);
  first->begun = &begun;
  rvl_engine_submit(b.engine, &first->job);
  rvl_engine_submit(b.engine, &second->job);
  sem_wait(&begun);
  assert_null(rvl_engine_take(b.engine));
  atomic_store(&first->job.cancelled, true);
  assert_ptr_equal(next_job(&b), first);
  assert_ptr_equal(next_job(&b), second);              /* goes on with the next one */
  assert_false(atomic_load(&second->job.cancelled));
  free(first);
  free(second);
  sem_destroy(&begun);
  close_bench(&b);
}

static void test_stopping(void **state) {
  (void)state;
  bench b;
  sem_t begun;
  job *jobs[4];
  open_bench(&b, 2);
  sem_init(&begun, 0, 0);
  for (size_t i = 0; i < 4; i++) {
    jobs[i] = new_job(&b, i);
    if (i == 1) jobs[i]->begun = &begun;
    rvl_engine_submit(b.engine, &jobs[i]->job);
  }
  sem_wait(&begun);
  rvl_engine_stop(b.engine);
  rvl_engine_stop(b.engine);
  for (size_t i = 0; i < 4; i++) {                     /* done, given up, and two that have not begun */
    job *j = (job *)(void *)rvl_engine_take(b.engine);
    assert_ptr_equal(j, jobs[i]);
    assert_int_equal(j->place, i < 2 ? i + 1 : 0);
    assert_int_equal(atomic_load(&j->job.cancelled), i > 0);
    free(j);
  }
  assert_null(rvl_engine_take(b.engine));
  sem_destroy(&begun);
  close_bench(&b);
}

/* At any moment: what was submitted comes back, once. */
static void test_stopping_at_any_moment(void **state) {
  (void)state;
  for (size_t round = 0; round < 200; round++) {
    bench b;
    open_bench(&b, 1 + (unsigned)round % 3);
    size_t count = round % 7, ran = 0;
    for (size_t i = 0; i < count; i++) rvl_engine_submit(b.engine, &new_job(&b, i)->job);
    if (round % 4 == 0 && count > 0) sem_wait(&b.told);
    rvl_engine_stop(b.engine);
    for (size_t i = 0; i < count; i++) {
      job *j = (job *)(void *)rvl_engine_take(b.engine);
      assert_non_null(j);
      assert_int_equal(j->number, i);
      if (j->place > 0) ran++;
      else assert_true(atomic_load(&j->job.cancelled));
      free(j);
    }
    assert_int_equal(ran, b.ran);
    assert_null(rvl_engine_take(b.engine));
    close_bench(&b);
  }
}

static void test_unused(void **state) {
  (void)state;
  rvl_engine_free(NULL);
  for (unsigned i = 0; i < 30; i++) {
    bench b;
    open_bench(&b, i % 3);
    close_bench(&b);
  }
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order),          cmocka_unit_test(test_each_job_is_told),
      cmocka_unit_test(test_several_givers), cmocka_unit_test(test_cancelling),
      cmocka_unit_test(test_stopping),       cmocka_unit_test(test_stopping_at_any_moment),
      cmocka_unit_test(test_unused),
  };
  return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
