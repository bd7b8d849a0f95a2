/*
 * A River-shaped HTTP/1.1 server that costs next to nothing, so that a benchmark measures the client.
 *
 * One thread, epoll, keep-alive, TCP_NODELAY; pipelined requests are answered in order. It keeps no model: learn and
 * predict answer what a real server would, with the model's name taken from the request. Bodies need a Content-Length.
 * Prints {"port": N, "pid": N} and ends when standard input closes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define FIRST_BUFFER 8192
#define LARGEST_REQUEST ((size_t)64 << 20)

typedef struct buffer {
  char *data;
  size_t used, size;
} buffer;

typedef struct client {
  int fd;
  int writing; /* waits for EPOLLOUT */
  buffer in, out;
  size_t sent;
} client;

static int reserve(buffer *b, size_t more) {
  if (b->used + more <= b->size) return 1;
  size_t size = b->size ? b->size : FIRST_BUFFER;
  while (size < b->used + more) size *= 2;
  char *data = realloc(b->data, size);
  if (!data) return 0;
  b->data = data;
  b->size = size;
  return 1;
}

static int answer(client *c, int status, const char *reason, const char *allow, const char *body, size_t length) {
  buffer *out = &c->out;
  if (!reserve(out, length + 256)) return 0;
  int head = snprintf(out->data + out->used, 256,
                      "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nVary: Accept, Cookie\r\nAllow: %s\r\n"
                      "Content-Length: %zu\r\n\r\n",
                      status, reason, allow, length);
  if (head < 0 || head >= 256) return 0;
  memcpy(out->data + out->used + head, body, length);
  out->used += (size_t)head + length;
  return 1;
}

static int answer_text(client *c, int status, const char *reason, const char *allow, const char *body) {
  return answer(c, status, reason, allow, body, strlen(body));
}

/* The string value of "model" in a JSON body, good enough for the benchmarks' own requests. */
static size_t model_name(const char *body, size_t length, const char **name) {
  static const char key[] = "\"model\"";
  const char *at = memmem(body, length, key, sizeof key - 1);
  *name = "";
  if (!at) return 0;
  const char *end = body + length;
  for (at += sizeof key - 1; at < end && (*at == ':' || *at == ' '); at++) {
  }
  if (at >= end || *at != '"') return 0;
  const char *stop = memchr(at + 1, '"', (size_t)(end - at - 1));
  if (!stop || stop - at > 100) return 0;
  *name = at + 1;
  return (size_t)(stop - at - 1);
}

static int answer_predict(client *c, const char *body, size_t length) {
  const char *name;
  char text[400];
  size_t size = model_name(body, length, &name);
  int n = snprintf(text, sizeof text,
                   "{\"model\":\"%.*s\",\"prediction\":41.27304895167294,"
                   "\"identifier\":\"b3a769d5-0363-440c-a7b1-4b2874ba3a19\"}",
                   (int)size, name);
  return answer(c, 201, "Created", "OPTIONS, POST", text, (size_t)n);
}

static int answer_upload(client *c, const char *path, size_t length) {
  char text[300];
  while (length && path[length - 1] == '/') length--;
  size_t from = length;
  while (from && path[from - 1] != '/') from--;
  size_t size = length - from < 200 ? length - from : 200;
  int n = snprintf(text, sizeof text, "{\"name\":\"%.*s\"}", (int)size, path + from);
  return answer(c, 201, "Created", "OPTIONS, POST", text, (size_t)n);
}

static int is(const char *path, size_t length, const char *wanted) {
  return length == strlen(wanted) && memcmp(path, wanted, length) == 0;
}

static int starts(const char *path, size_t length, const char *wanted) {
  size_t n = strlen(wanted);
  return length >= n && memcmp(path, wanted, n) == 0;
}

/* `path` starts after the prefix ("/api"). */
static int route(client *c, const char *method, const char *path, size_t length, const char *body, size_t size) {
  if (*method == 'P') {
    if (is(path, length, "/learn/")) {
      return answer_text(c, 201, "Created", "OPTIONS, POST", "\"Successful learn.\"");
    }
    if (is(path, length, "/predict/")) return answer_predict(c, body, size);
    if (is(path, length, "/label/")) return answer_text(c, 200, "OK", "OPTIONS, POST", "\"Successful label.\"");
    if (starts(path, length, "/model/")) return answer_upload(c, path, length);
  } else if (*method == 'D') {
    if (is(path, length, "/model/")) return answer_text(c, 200, "OK", "DELETE, OPTIONS", "204");
  } else {
    if (is(path, length, "/")) {
      return answer_text(c, 200, "OK", "GET, HEAD, OPTIONS",
                         "{\"id\":\"django_river_ml\",\"status\":\"running\",\"name\":\"Fast stub\",\"description\":"
                         "\"answers without thinking\",\"documentationUrl\":\"\",\"storage\":\"none\","
                         "\"river_version\":\"0.26.1\",\"version\":\"0.0.21\"}");
    }
    if (is(path, length, "/models/")) {
      return answer_text(c, 200, "OK", "GET, HEAD, OPTIONS", "{\"models\":[\"bench\"]}");
    }
    if (is(path, length, "/metrics/")) {
      return answer_text(c, 200, "OK", "GET, HEAD, OPTIONS",
                         "{\"MAE\":2.9403,\"RMSE\":2.9404499961740553,\"SMAPE\":192.2322704206719}");
    }
    if (is(path, length, "/stats/")) {
      return answer_text(c, 200, "OK", "GET, HEAD, OPTIONS",
                         "{\"predict\":{\"n_calls\":4,\"mean_duration\":1569115,\"mean_duration_human\":\"1ms\","
                         "\"ewm_duration\":1680110,\"ewm_duration_human\":\"1ms\"},\"learn\":{\"n_calls\":4,"
                         "\"mean_duration\":1569115,\"mean_duration_human\":\"1ms\",\"ewm_duration\":1680110,"
                         "\"ewm_duration_human\":\"1ms\"}}");
    }
  }
  return answer_text(c, 404, "Not Found", "GET, HEAD, OPTIONS", "{\"detail\":\"Not found.\"}");
}

static size_t content_length(const char *head, const char *end) {
  static const char name[] = "content-length:";
  for (const char *line = head; line < end;) {
    if ((size_t)(end - line) > sizeof name && strncasecmp(line, name, sizeof name - 1) == 0) {
      return (size_t)strtoull(line + sizeof name - 1, NULL, 10);
    }
    const char *next = memchr(line, '\n', (size_t)(end - line));
    if (!next) break;
    line = next + 1;
  }
  return 0;
}

/* Answers every whole request in the buffer; 0 closes the connection. */
static int take_requests(client *c) {
  size_t at = 0;
  while (at < c->in.used) {
    const char *start = c->in.data + at;
    size_t have = c->in.used - at;
    const char *end = memmem(start, have, "\r\n\r\n", 4);
    if (!end) {
      if (have > FIRST_BUFFER * 8) return 0;
      break;
    }
    size_t head = (size_t)(end - start) + 4;
    size_t length = content_length(start, end + 2);
    if (length > LARGEST_REQUEST) return 0;
    if (have < head + length) break;
    const char *path = memchr(start, ' ', head);
    const char *stop = path ? memchr(path + 1, ' ', head - (size_t)(path + 1 - start)) : NULL;
    if (!stop || path[1] != '/') return 0;
    path++;
    const char *after = memchr(path + 1, '/', (size_t)(stop - path - 1));
    if (!after) after = path;
    if (!route(c, start, after, (size_t)(stop - after), start + head, length)) return 0;
    at += head + length;
  }
  memmove(c->in.data, c->in.data + at, c->in.used - at);
  c->in.used -= at;
  return 1;
}

static int flush(int epoll, client *c) {
  while (c->sent < c->out.used) {
    ssize_t n = send(c->fd, c->out.data + c->sent, c->out.used - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return 0;
    if (n < 0) break;
    c->sent += (size_t)n;
  }
  int writing = c->sent < c->out.used;
  if (!writing) c->sent = c->out.used = 0;
  if (writing != c->writing) {
    struct epoll_event event = {.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->writing = writing;
    return epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event) == 0;
  }
  return 1;
}

static int serve(int epoll, client *c) {
  for (;;) {
    if (!reserve(&c->in, FIRST_BUFFER)) return 0;
    size_t room = c->in.size - c->in.used;
    ssize_t n = recv(c->fd, c->in.data + c->in.used, room, 0);
    if (n == 0) return 0;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return 0;
    if (n < 0) break;
    c->in.used += (size_t)n;
    if ((size_t)n < room) break;
  }
  return take_requests(c) && flush(epoll, c);
}

static void drop(client *c) {
  close(c->fd);
  free(c->in.data);
  free(c->out.data);
  free(c);
}

static void accept_all(int epoll, int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    client *c = calloc(1, sizeof *c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (c) c->fd = fd;
    if (!c || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
      free(c);
      close(fd);
    }
  }
}

static int listen_anywhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
    return -1;
  }
  *port = ntohs(address.sin_port);
  return fd;
}

int main(void) {
  static int listener_tag, stdin_tag; /* their addresses tell these two apart from clients */
  int port = 0;
  int listener = listen_anywhere(&port);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener_tag};
  if (listener < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
    perror("fast_stub");
    return 1;
  }
  event.data.ptr = &stdin_tag;
  int watched = epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0; /* not possible for a file */
  printf("{\"port\": %d, \"pid\": %ld}\n", port, (long)getpid());
  fflush(stdout);
  for (;;) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, -1);
    if (n < 0 && errno != EINTR) return 1;
    for (int i = 0; i < n; i++) {
      void *who = events[i].data.ptr;
      if (who == &listener_tag) {
        accept_all(epoll, listener);
      } else if (who == &stdin_tag) {
        char ignored[256];
        if (watched && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) return 0;
      } else if (events[i].events & EPOLLIN ? !serve(epoll, who) : !flush(epoll, who)) {
        drop(who);
      }
    }
  }
}
