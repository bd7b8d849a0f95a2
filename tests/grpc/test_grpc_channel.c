/* grpc_channel.c: what a channel makes of its connection, to a server that accepts and says nothing by itself. */
#include "http2.c"   /* for its session; first: cmocka has a fail() too */

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "curl_api.h"
#include "grpc_call.h"

static const char settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};   /* a frame without any */

typedef struct fixture {
  rvl_loop loop;
  rvl_curl_api *curl;
  rvl_net *net;
  rvl_grpc_channel *channel;
  rvl_grpc_call call, other;
  char url[64];
  int listener, server;
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  const char *why;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  assert_non_null(f);
  f->listener = socket(AF_INET, SOCK_STREAM, 0);
  f->server = -1;
  assert_int_equal(bind(f->listener, (struct sockaddr *)&address, length), 0);
  assert_int_equal(listen(f->listener, 8), 0);
  assert_int_equal(getsockname(f->listener, (struct sockaddr *)&address, &length), 0);
  snprintf(f->url, sizeof f->url, "http://127.0.0.1:%d/", ntohs(address.sin_port));
  assert_int_equal(rvl_loop_init(&f->loop), 0);
  f->curl = rvl_curl_open(&why);
  assert_non_null(f->curl);
  static const rvl_profile profile = {.proxy = ""};
  f->net = rvl_net_new(&f->loop, f->curl, &profile);
  assert_non_null(f->net);
  rvl_grpc_options options = {.url = f->url, .authority = "x", .user_agent = "y"};
  f->channel = rvl_grpc_channel_new(f->net, &options);
  assert_non_null(f->channel);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  rvl_grpc_call_free(&f->call);
  rvl_grpc_call_free(&f->other);
  rvl_grpc_channel_free(f->channel);
  rvl_net_free(f->net);
  rvl_curl_close(f->curl);
  rvl_loop_close(&f->loop);
  if (f->server >= 0) close(f->server);
  close(f->listener);
  free(f);
  return 0;
}

static void on_nothing(rvl_grpc_call *call) { (void)call; }

static void start_call(fixture *f, rvl_grpc_call *call) {
  static const rvl_grpc_request request = {.method = "/a/b", .data = ""};
  rvl_grpc_call_start(f->channel, call, &request, on_nothing);
}

/* A call under way, on a connection whose server has greeted. */
static rvl_grpc_connection *connect_call(fixture *f) {
  start_call(f, &f->call);
  f->server = accept(f->listener, NULL, NULL);
  assert_true(f->server >= 0);
  assert_int_equal(send(f->server, settings, sizeof settings, 0), sizeof settings);
  while (f->call.connection == NULL || !rvl_http2_state_of(f->call.connection->http2)->settings)
    rvl_loop_step(&f->loop, true);
  return f->call.connection;
}

static void (*real_notify)(rvl_duplex *duplex);

/* What the server says comes before the channel has looked at the connection. */
static void on_early(rvl_duplex *d) {
  bool now_open = d->open && d->notify != real_notify;
  if (now_open) d->notify = real_notify;
  real_notify(d);
  if (now_open) d->take(d, settings, sizeof settings);
}

static void test_early_bytes(void **state) {
  fixture *f = *state;
  start_call(f, &f->call);
  rvl_grpc_connection *c = f->channel->current;
  assert_non_null(c);
  if (c->duplex.open) skip();   /* at once, and the channel has looked */
  real_notify = c->duplex.notify;
  c->duplex.notify = on_early;
  while (f->call.connection == NULL) rvl_loop_step(&f->loop, true);
  assert_true(rvl_http2_state_of(c->http2)->settings);
  assert_int_equal(rvl_grpc_channel_stats(f->channel)->connections, 1);
}

/* Nothing can be sent any more, and the server has not ended it: it is kept for the answers that may come, no longer. */
static void test_half_broken(void **state) {
  fixture *f = *state;
  rvl_grpc_connection *c = connect_call(f);
  c->duplex.broken = true;
  c->duplex.notify(&c->duplex);
  rvl_loop_step(&f->loop, false);
  assert_ptr_equal(f->channel->connections, c);
  assert_null(f->channel->current);
  rvl_grpc_call_cancel(&f->call);
  rvl_loop_step(&f->loop, false);
  assert_null(f->channel->connections);
}

/* A connection has ids for 2^30 streams; the next call gets a new one, and the old one stays for those it has. */
static void test_ids_used_up(void **state) {
  fixture *f = *state;
  static const char reset[] = {0, 0, 4, 3, 0, 0x7f, '\xff', '\xff', '\xff', 0, 0, 0, RVL_HTTP2_CANCEL};
  const rvl_grpc_connection *c = connect_call(f);
  rvl_grpc_call_cancel(&f->call);
  rvl_grpc_call_free(&f->call);
  f->call = (rvl_grpc_call){0};
  assert_int_equal(nghttp2_session_set_next_stream_id(c->http2->session, INT32_MAX), 0);
  start_call(f, &f->call);
  assert_int_equal(f->call.stream.id, INT32_MAX);
  start_call(f, &f->other);
  while (!f->other.done && f->other.connection == NULL) rvl_loop_step(&f->loop, true);
  assert_false(f->other.done);
  assert_ptr_not_equal(f->other.connection, c);
  assert_ptr_equal(f->call.connection, c);
  assert_int_equal(rvl_grpc_channel_stats(f->channel)->connections, 2);
  assert_int_equal(send(f->server, reset, sizeof reset, 0), sizeof reset);
  while (!f->call.done) rvl_loop_step(&f->loop, true);
  assert_int_equal(f->call.status, RVL_GRPC_CANCELLED);   /* and is not sent again, as one that was not looked at is */
  rvl_loop_step(&f->loop, false);
  assert_ptr_equal(f->channel->connections, f->other.connection);
  assert_null(f->channel->connections->next);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_early_bytes, set_up, tear_down),
                                     cmocka_unit_test_setup_teardown(test_half_broken, set_up, tear_down),
                                     cmocka_unit_test_setup_teardown(test_ids_used_up, set_up, tear_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
