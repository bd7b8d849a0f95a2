/* grpc_call.c: what one call makes of an answer, without a connection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_call.h"

enum { DATA, HEADERS, SETTINGS = 4 };
enum { END_STREAM = 1, END_HEADERS = 4 };

#define FINE "\x88\x0f\x10\x10" "application/grpc"   /* ":status: 200", and the type of the content */
#define LATE FINE "\0\x0b" "grpc-status" "\1" "4"
#define INTERIM "\x08\3" "103"

/* A call that has been sent, on a connection that only http2.c knows of. */
typedef struct fixture {
  rvl_grpc_channel channel;
  rvl_grpc_connection connection;
  rvl_grpc_call call;
} fixture;

static void feed_frame(fixture *f, unsigned type, unsigned flags, uint32_t stream, const char *data, size_t length) {
  char frame[9] = {0, (char)(length >> 8), (char)length, (char)type, (char)flags, 0, 0, 0, (char)stream};
  assert_true(rvl_http2_feed(f->connection.http2, frame, sizeof frame));
  if (length > 0) assert_true(rvl_http2_feed(f->connection.http2, data, length));
}

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  f->channel.options = (rvl_grpc_options){.authority = "x", .user_agent = "y"};
  f->connection.channel = &f->channel;
  f->connection.http2 = rvl_http2_new(&rvl_grpc_events);
  assert_non_null(f->connection.http2);
  feed_frame(f, SETTINGS, 0, 0, NULL, 0);
  static const rvl_grpc_request request = {.method = "/a/b", .data = ""};
  rvl_grpc_call_begin(&f->channel, &f->call, &request);
  assert_true(rvl_grpc_call_send(&f->call, &f->connection));
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  rvl_grpc_call_free(&f->call);
  rvl_http2_free(f->connection.http2);
  free(f);
  return 0;
}

static void test_ends_in_a_message(void **state) {
  fixture *f = *state;
  feed_frame(f, HEADERS, END_HEADERS, 1, FINE, sizeof FINE - 1);
  feed_frame(f, DATA, 0, 1, "\0\0\0\0\4abc", 8);
  assert_non_null(f->call.messages.partial);
  rvl_grpc_call_fail(&f->call, RVL_GRPC_INTERNAL, "as a deadline does");
  assert_true(f->call.done);
  assert_null(f->call.messages.partial);
}

/* Otherwise a reader would have it, and have it again when the server refuses the call after all. */
static void test_message_before_headers(void **state) {
  fixture *f = *state;
  feed_frame(f, HEADERS, END_HEADERS, 1, INTERIM, sizeof INTERIM - 1);
  assert_false(f->call.done);
  feed_frame(f, DATA, 0, 1, "\0\0\0\0\1a", 6);
  assert_true(f->call.done);
  assert_int_equal(f->call.status, RVL_GRPC_INTERNAL);
  assert_null(rvl_grpc_call_take(&f->call));
}

/* Whether they come at once or one after the other. */
static void test_several_messages(void **state) {
  fixture *f = *state;
  feed_frame(f, HEADERS, END_HEADERS, 1, FINE, sizeof FINE - 1);
  feed_frame(f, DATA, 0, 1, "\0\0\0\0\1a\0\0\0\0\0\0\0\0\0\0", 16);
  assert_true(f->call.done);
  assert_int_equal(f->call.status, RVL_GRPC_INTERNAL);
  assert_null(rvl_grpc_call_take(&f->call));
}

/* What the server says of the deadline may come before the timer fires. */
static void test_deadline_on_both_sides(void **state) {
  fixture *f = *state;
  f->call.due = 1;
  feed_frame(f, HEADERS, END_HEADERS | END_STREAM, 1, LATE, sizeof LATE - 1);
  assert_true(f->call.done);
  assert_int_equal(f->call.status, RVL_GRPC_DEADLINE_EXCEEDED);
  assert_true(f->call.local_deadline);
  assert_false(f->call.from_server);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_ends_in_a_message, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_message_before_headers, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_several_messages, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_deadline_on_both_sides, set_up, tear_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
