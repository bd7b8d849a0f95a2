/* duplex.c: what is left of a connection in a process that was forked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "duplex.h"
#include "net.h"

/* Its owner frees the connection, and other timers go on. */
static void test_forked(void **state) {
  (void)state;
  rvl_loop loop;
  assert_int_equal(rvl_loop_init(&loop), 0);
  rvl_net net = {.loop = &loop};
  rvl_duplex d = {.open = true, .opening = {.net = &net, .phase = RVL_DONE}};
  assert_true(rvl_timer_start(&loop, &d.again, rvl_now()));
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    rvl_duplex_close(&d);
    _exit(loop.heap_count == 0 ? 0 : 1);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  rvl_timer_stop(&loop, &d.again);
  rvl_loop_close(&loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_forked)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
