/*
 * The floor that the benchmarks compare with: libcurl's easy interface in a loop, the same two requests as
 * river_sequential.lua, bodies fixed in advance, answers thrown away.
 *
 *     bare_curl BASE PAIRS [quickack]
 *
 * Prints "start" and "end CPU" lines for bench/run.py; CPU is user and system time of the loop.
 */
#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

static const char learn_body[] =
    "{\"features\":{\"ordinal_date\":736389,\"gallup\":43.843213,\"ipsos\":46.19925042857143,"
    "\"morning_consult\":48.318749,\"rasmussen\":44.104692,\"you_gov\":43.636914000000004},"
    "\"ground_truth\":43.75505,\"model\":\"bench\"}";
static const char predict_body[] =
    "{\"features\":{\"ordinal_date\":736389,\"gallup\":43.843213,\"ipsos\":46.19925042857143,"
    "\"morning_consult\":48.318749,\"rasmussen\":44.104692,\"you_gov\":43.636914000000004},\"model\":\"bench\"}";

static size_t throw_away(char *data, size_t size, size_t count, void *user) {
  (void)data;
  *(size_t *)user += size * count;
  return size * count;
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)purpose;
  return *(int *)user = socket(address->family, address->socktype, address->protocol);
}

static size_t acknowledge(char *data, size_t size, size_t count, void *user) {
  (void)data;
  int on = 1;
  setsockopt(*(int *)user, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
  return size * count;
}

static double cpu_seconds(void) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
         (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

static void post(CURL *curl, const char *url, const char *body, size_t length) {
  long status = 0;
  curl_easy_setopt(curl, CURLOPT_URL, url);
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)length);
  CURLcode code = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (code != CURLE_OK || status != 201) {
    fprintf(stderr, "bare_curl: %s: %s, status %ld\n", url, curl_easy_strerror(code), status);
    exit(1);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: bare_curl BASE PAIRS [quickack]\n");
    return 2;
  }
  char learn[512], predict[512];
  long pairs = strtol(argv[2], NULL, 10);
  size_t received = 0;
  int fd = -1;
  snprintf(learn, sizeof learn, "%s/api/learn/", argv[1]);
  snprintf(predict, sizeof predict, "%s/api/predict/", argv[1]);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  CURL *curl = curl_easy_init();
  struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
  headers = curl_slist_append(headers, "Accept: application/json");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, throw_away);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &received);
  if (argc > 3 && strcmp(argv[3], "quickack") == 0) {
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, &fd);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, acknowledge);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &fd);
  }
  post(curl, predict, predict_body, sizeof predict_body - 1); /* connects: not counted */
  puts("start");
  fflush(stdout);
  double cpu = cpu_seconds();
  for (long i = 0; i < pairs; i++) {
    post(curl, learn, learn_body, sizeof learn_body - 1);
    post(curl, predict, predict_body, sizeof predict_body - 1);
  }
  cpu = cpu_seconds() - cpu;
  printf("end %.6f\n", cpu);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  curl_global_cleanup();
  return 0;
}
