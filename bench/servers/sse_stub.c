/*
 * Streams chat completions as OpenAI's servers send them, without thinking: sse_stub [MICROSECONDS]
 *
 * Any POST is answered with as many pieces as its "max_tokens" says, each an HTTP chunk of its own, then the chunk with
 * the reason to finish and [DONE]. Without an argument all were written in advance and go out as fast as the client
 * reads. With one, every piece is the time when it was handed to the kernel (CLOCK_MONOTONIC in nanoseconds), and that
 * long passes before the next. A thread per connection, keep-alive, TCP_NODELAY. Prints {"port": N, "pid": N} and ends
 * when standard input closes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECES 64 /* that differ; the stream repeats them */
#define PIECE_SIZE 512
#define LARGEST_REQUEST 65536

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                           "Cache-Control: no-cache\r\nX-Request-Id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char done[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/* What all connections send; written before the first one is accepted. */
typedef struct stream {
  char text[PIECES * PIECE_SIZE];
  size_t ends[PIECES + 1]; /* where the first n pieces end */
  long pause;              /* microseconds; 0: everything at once */
} stream;

typedef struct client {
  int fd;
  const stream *told;
} client;

/* One event in an HTTP chunk; its length, 0 when it does not fit. */
static size_t write_piece(char *to, size_t room, const char *delta, const char *reason) {
  char event[PIECE_SIZE];
  int size = snprintf(event, sizeof event,
                      "data: {\"id\":\"chatcmpl-BenchAbCdEfGhIjKlMnOpQrStUv\",\"object\":\"chat.completion.chunk\","
                      "\"created\":1750000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\","
                      "\"system_fingerprint\":\"fp_0123456789\",\"choices\":[{\"index\":0,\"delta\":{%s},"
                      "\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                      delta, reason);
  if (size < 0 || (size_t)size >= sizeof event) return 0;
  int length = snprintf(to, room, "%x\r\n%s\r\n", (unsigned)size, event);
  return length < 0 || (size_t)length >= room ? 0 : (size_t)length;
}

static int prepare(stream *s) {
  static const char *const words[] = {" the", " river", " model", " answers", ",", " and", " then", " nothing", " else",
                                      "\\n", " of", " what", " it", " said", ".", " While"};
  for (size_t i = 0; i < PIECES; i++) {
    char delta[64];
    snprintf(delta, sizeof delta, "\"content\":\"%s\"", words[i * 7 % (sizeof words / sizeof *words)]);
    size_t length = write_piece(s->text + s->ends[i], sizeof s->text - s->ends[i], delta, "null");
    if (!length) return 0;
    s->ends[i + 1] = s->ends[i] + length;
  }
  return 1;
}

static int send_all(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return 0;
    data += n;
    size -= (size_t)n;
  }
  return 1;
}

static int send_piece(int fd, const char *delta, const char *reason) {
  char text[PIECE_SIZE + 16];
  size_t length = write_piece(text, sizeof text, delta, reason);
  return length && send_all(fd, text, length);
}

/* One piece: the time. The text around it is written first, so that the time is as late as it can be. */
static int send_stamped(int fd) {
  static const char blank[] = "00000000000000000000";
  char text[PIECE_SIZE + 16], digits[sizeof blank];
  size_t length = write_piece(text, sizeof text, "\"content\":\"00000000000000000000\"", "null");
  char *at = length ? memmem(text, length, blank, sizeof blank - 1) : NULL;
  if (!at) return 0;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  snprintf(digits, sizeof digits, "%020llu",
           (unsigned long long)now.tv_sec * 1000000000u + (unsigned long long)now.tv_nsec);
  memcpy(at, digits, sizeof digits - 1);
  return send_all(fd, text, length);
}

static int send_pieces(int fd, const stream *s, size_t count) {
  const struct timespec pause = {.tv_sec = s->pause / 1000000, .tv_nsec = s->pause % 1000000 * 1000};
  while (s->pause && count) {
    nanosleep(&pause, NULL);
    if (!send_stamped(fd)) return 0;
    count--;
  }
  while (count) {
    size_t some = count < PIECES ? count : PIECES;
    if (!send_all(fd, s->text, s->ends[some])) return 0;
    count -= some;
  }
  return 1;
}

static int answer(int fd, const stream *s, size_t count) {
  return send_all(fd, head, sizeof head - 1) && send_piece(fd, "\"role\":\"assistant\",\"content\":\"\"", "null") &&
         send_pieces(fd, s, count) && send_piece(fd, "", "\"stop\"") && send_all(fd, done, sizeof done - 1);
}

/* The number behind a name, good enough for the benchmarks' own requests. */
static size_t number_after(const char *text, const char *name) {
  const char *at = strcasestr(text, name);
  if (!at) return 0;
  at += strlen(name);
  at += strspn(at, "\": ");
  return (size_t)strtoull(at, NULL, 10);
}

/* Reads a request with its body; how many pieces it asks for, -1 when the client has gone. */
static long long read_request(int fd, char *text) {
  size_t used = 0;
  for (;;) {
    ssize_t n = recv(fd, text + used, LARGEST_REQUEST - used, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    used += (size_t)n;
    text[used] = '\0';
    const char *body = strstr(text, "\r\n\r\n");
    if (!body) continue;
    body += 4;
    if (used - (size_t)(body - text) >= number_after(text, "content-length")) {
      return (long long)number_after(body, "\"max_tokens");
    }
  }
}

static void *serve(void *given) {
  client *c = given;
  char *text = malloc(LARGEST_REQUEST + 1);
  long long count = 0;
  while (text && (count = read_request(c->fd, text)) >= 0 && answer(c->fd, c->told, (size_t)count)) {
  }
  free(text);
  close(c->fd);
  free(c);
  return NULL;
}

static void accept_one(int listener, const stream *s) {
  int on = 1, fd = accept(listener, NULL, NULL);
  if (fd < 0) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  client *c = malloc(sizeof *c);
  pthread_t thread;
  if (c) *c = (client){.fd = fd, .told = s};
  if (c && pthread_create(&thread, NULL, serve, c) == 0) {
    pthread_detach(thread);
  } else {
    free(c);
    close(fd);
  }
}

static int listen_anywhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
    return -1;
  }
  *port = ntohs(address.sin_port);
  return fd;
}

int main(int argc, char **argv) {
  static stream told;
  int port = 0, listener = listen_anywhere(&port);
  told.pause = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
  if (listener < 0 || told.pause < 0 || !prepare(&told)) {
    perror("sse_stub");
    return 1;
  }
  printf("{\"port\": %d, \"pid\": %ld}\n", port, (long)getpid());
  fflush(stdout);
  struct pollfd watched[] = {{.fd = listener, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
  for (;;) {
    if (poll(watched, 2, -1) < 0) {
      if (errno != EINTR) return 1;
      continue;
    }
    char ignored[256];
    if (watched[1].revents && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) return 0;
    if (watched[0].revents & POLLIN) accept_one(listener, &told);
  }
}
