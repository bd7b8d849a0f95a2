/* pool.c: every task runs once, and what is done in order is done in order. Also run under ThreadSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/pool.h"
#include "trainer/random.h"

enum { MOST = 200, THREADS = 4 };

typedef struct run {
  rvl_pool *pool;
  atomic_int wrong;            /* cmocka's assertions are for its own thread */
  atomic_int times[MOST];      /* of each task */
  unsigned threads;
  size_t order[MOST], passed;  /* not atomic: only what is done in order writes them */
  float total;
  unsigned char busy[THREADS]; /* not atomic: of one thread each */
} run;

static void count_task(void *argument, size_t index, unsigned thread) {
  run *r = argument;
  if (thread >= r->threads || r->busy[thread] != 0) {
    atomic_fetch_add(&r->wrong, 1);
    return;
  }
  r->busy[thread] = 1;
  atomic_fetch_add(&r->times[index], 1);
  r->busy[thread] = 0;
}

static void test_each_task_once(void **state) {
  (void)state;
  for (unsigned threads = 1; threads <= THREADS; threads++) {
    run r = {.pool = rvl_pool_new(threads), .threads = threads};
    assert_non_null(r.pool);
    assert_int_equal(rvl_pool_threads(r.pool), threads);
    for (size_t count = 0; count < MOST; count = count * 2 + 1) {
      for (size_t i = 0; i < MOST; i++) atomic_store(&r.times[i], 0);
      rvl_pool_run(r.pool, count, count_task, &r);
      for (size_t i = 0; i < MOST; i++) assert_int_equal(atomic_load(&r.times[i]), i < count ? 1 : 0);
    }
    assert_int_equal(atomic_load(&r.wrong), 0);
    rvl_pool_free(r.pool);
  }
}

typedef struct share {
  run *of;
  size_t index;
  float value;
} share;

static void add_share(void *argument) {
  share *s = argument;
  s->of->order[s->of->passed++] = s->index;
  s->of->total += s->value;
}

static void ordered_task(void *argument, size_t index, unsigned thread) {
  (void)thread;
  rvl_random random = rvl_random_of(index);
  share s = {.of = argument, .index = index};
  size_t work = rvl_random_next(&random) % 20000;      /* some are done long before those in front of them */
  for (size_t i = 0; i < work; i++) s.value += (float)rvl_random_uniform(&random);
  rvl_pool_in_order(s.of->pool, index, add_share, &s);
}

static void test_sums_do_not_depend_on_threads(void **state) {
  (void)state;
  float first = 0;
  for (unsigned threads = 1; threads <= THREADS; threads++) {
    for (int again = 0; again < 3; again++) {
      run r = {.pool = rvl_pool_new(threads), .threads = threads};
      assert_non_null(r.pool);
      rvl_pool_run(r.pool, MOST, ordered_task, &r);
      rvl_pool_free(r.pool);
      assert_int_equal(r.passed, MOST);
      for (size_t i = 0; i < MOST; i++) assert_int_equal(r.order[i], i);
      if (first == 0) first = r.total;
      assert_true(r.total == first && first > 0);
    }
  }
}

/* Runs follow one another at once: what one wrote the next may read, whichever thread does. */
typedef struct chain {
  size_t cells[MOST];
  size_t round;
  atomic_int wrong;
} chain;

static void chain_task(void *argument, size_t index, unsigned thread) {
  (void)thread;
  chain *c = argument;
  size_t *cell = &c->cells[(index * 7 + c->round) % MOST];
  if ((*cell)++ != c->round) atomic_fetch_add(&c->wrong, 1);
}

static void test_many_runs(void **state) {
  (void)state;
  rvl_pool *pool = rvl_pool_new(THREADS);
  chain c = {.round = 0};
  assert_non_null(pool);
  for (; c.round < 500; c.round++) rvl_pool_run(pool, MOST, chain_task, &c);
  for (size_t i = 0; i < MOST; i++) assert_int_equal(c.cells[i], 500);
  assert_int_equal(atomic_load(&c.wrong), 0);
  rvl_pool_free(pool);
}

static void test_unused(void **state) {
  (void)state;
  for (int i = 0; i < 50; i++) rvl_pool_free(rvl_pool_new(THREADS));
  rvl_pool_free(NULL);
  rvl_pool *pool = rvl_pool_new(0);
  assert_int_equal(rvl_pool_threads(pool), 1);
  rvl_pool_free(pool);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_task_once),
      cmocka_unit_test(test_sums_do_not_depend_on_threads),
      cmocka_unit_test(test_many_runs),
      cmocka_unit_test(test_unused),
  };
  return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
