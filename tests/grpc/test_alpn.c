/* alpn.c: h2 is had from OpenSSL alone; what another library has at the same place must not be taken for its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alpn.h"
#include "curl_api.h"
#include "duplex.h"
#include "net.h"

static void test_versions(void **state) {
  (void)state;
  static const char *const good[] = {"OpenSSL/3.0.19", "(GnuTLS/3.7.9) OpenSSL/3.0.19", "OpenSSL/3.5.1 (wolfSSL/5.6)",
                                     "(GnuTLS/3.7.9) (mbedTLS/2.28) OpenSSL/1.1.1"};
  static const char *const bad[] = {"", "GnuTLS/3.7.9", "(OpenSSL/3.0.19) GnuTLS/3.7.9", "(OpenSSL/3.0.19)",
                                    "wolfSSL/5.6 (OpenSSL/3.0.19)", "LibreSSL/3.8", "Schannel"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_null(rvl_alpn_check(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_non_null(rvl_alpn_check(bad[i]));
  assert_non_null(rvl_alpn_check(NULL));
}

static curl_version_info_data *other_version(CURLversion now) {
  (void)now;
  static curl_version_info_data data = {.age = CURLVERSION_FIRST, .version = "8.0.0", .version_num = 0x080000,
                                        .ssl_version = "wolfSSL/5.6.6"};
  return &data;
}

static void on_nothing(rvl_duplex *d) { (void)d; }
static void on_bytes(rvl_duplex *d, const char *data, size_t length) { (void)d, (void)data, (void)length; }

static void test_other_library(void **state) {
  (void)state;
  const char *why;
  rvl_loop loop;
  rvl_profile profile = {.alpn_h2 = true, .proxy = ""};
  rvl_duplex d = {.take = on_bytes, .notify = on_nothing};
  rvl_curl_api *curl = rvl_curl_open(&why);
  assert_non_null(curl);
  curl->version_info = other_version;
  assert_int_equal(rvl_loop_init(&loop), 0);
  rvl_net *net = rvl_net_new(&loop, curl, &profile);
  assert_non_null(net);
  assert_false(rvl_duplex_open(net, &d, "https://127.0.0.1:1/", 0));
  assert_int_equal(d.opening.failure, RVL_FAIL_UNSUPPORTED);
  assert_non_null(strstr(d.opening.reason, "OpenSSL"));
  rvl_duplex_close(&d);
  rvl_net_free(net);
  rvl_loop_close(&loop);
  rvl_curl_close(curl);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_versions), cmocka_unit_test(test_other_library)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
