/*
 * Answers unary gRPC calls without thinking: grpc_stub [METHOD[?TEXT]=HEX …]
 *
 * The first argument that fits a call is its answer: METHOD is the last part of the call's path and TEXT must be in the
 * first KiB of its message. HEX is the encoded reply; calls that nothing fits get a message of no bytes. Requests of any
 * size are taken as fast as they come and dropped. A thread per connection, TCP_NODELAY, no TLS. Prints {"port": N,
 * "pid": N} and ends when standard input closes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEPT 1024          /* bytes of a request that are looked at */
#define PREFIX 5           /* of a message */
#define MOST_ANSWERS 64
#define RECEIVE_SIZE (512u * 1024u)
#define WINDOW (64 * 1024 * 1024)

typedef struct answer {
  char *method, *text; /* text: NULL, any */
  uint8_t *message;    /* with its prefix */
  size_t length;
} answer;

static answer answers[MOST_ANSWERS + 1]; /* written before the first connection; the last one that is used fits all */
static size_t answer_count;

typedef struct call {
  struct call *next; /* in the connection's list of those that are free */
  const answer *given;
  size_t sent, kept;
  char method[64], request[KEPT + 1];
} call;

typedef struct connection {
  int fd;
  nghttp2_session *session;
  call *unused;
  uint8_t *out;
  size_t used, room;
} connection;

#define NV(name, value) \
  { (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1, sizeof(value) - 1, \
    NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }

static const answer *answer_for(const call *c) {
  for (size_t i = 0; i < answer_count; i++) {
    const answer *a = &answers[i];
    if (strcmp(a->method, c->method) == 0 && (!a->text || memmem(c->request, c->kept, a->text, strlen(a->text))))
      return a;
  }
  return &answers[answer_count];
}

/* ---- calls ------------------------------------------------------------------------------------------- */

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  connection *k = user;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  call *c = k->unused;
  if (c) k->unused = c->next;
  else if (!(c = malloc(sizeof *c))) return NGHTTP2_ERR_CALLBACK_FAILURE;
  c->sent = c->kept = 0;
  c->method[0] = '\0';
  return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, c) == 0 ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t length, uint8_t flags, void *user) {
  (void)flags, (void)user;
  call *c = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!c || name_length != 5 || memcmp(name, ":path", 5) != 0) return 0;
  const uint8_t *slash = memrchr(value, '/', length);
  size_t n = slash ? length - (size_t)(slash + 1 - value) : 0;
  if (n >= sizeof c->method) n = sizeof c->method - 1;
  memcpy(c->method, slash ? slash + 1 : value, n);
  c->method[n] = '\0';
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *user) {
  (void)flags, (void)user;
  call *c = nghttp2_session_get_stream_user_data(session, id);
  if (!c || c->kept == KEPT) return 0;
  size_t n = length < KEPT - c->kept ? length : KEPT - c->kept;
  memcpy(c->request + c->kept, data, n);
  c->kept += n;
  return 0;
}

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
  static const nghttp2_nv trailers[] = {NV("grpc-status", "0")};
  (void)user;
  call *c = source->ptr;
  size_t left = c->given->length - c->sent, n = left < room ? left : room;
  memcpy(to, c->given->message + c->sent, n);
  c->sent += n;
  if (n == left) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    if (nghttp2_submit_trailer(session, id, trailers, 1) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  return (ssize_t)n;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  static const nghttp2_nv headers[] = {NV(":status", "200"), NV("content-type", "application/grpc")};
  (void)user;
  if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  call *c = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!c) return 0;
  c->given = answer_for(c);
  nghttp2_data_provider body = {.source = {.ptr = c}, .read_callback = on_read};
  return nghttp2_submit_response(session, frame->hd.stream_id, headers, 2, &body) == 0 ? 0
                                                                                       : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
  (void)error;
  connection *k = user;
  call *c = nghttp2_session_get_stream_user_data(session, id);
  if (!c) return 0;
  nghttp2_session_set_stream_user_data(session, id, NULL);
  c->next = k->unused;
  k->unused = c;
  return 0;
}

/* ---- connections ------------------------------------------------------------------------------------- */

static int open_session(connection *k) {
  static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1000},
                                                    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
                                                    {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1024 * 1024}};
  nghttp2_session_callbacks *to = NULL;
  if (nghttp2_session_callbacks_new(&to) != 0) return 0;
  nghttp2_session_callbacks_set_on_begin_headers_callback(to, on_begin);
  nghttp2_session_callbacks_set_on_header_callback(to, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(to, on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(to, on_frame);
  nghttp2_session_callbacks_set_on_stream_close_callback(to, on_close);
  int ok = nghttp2_session_server_new(&k->session, to, k) == 0;
  nghttp2_session_callbacks_del(to);
  return ok && nghttp2_submit_settings(k->session, NGHTTP2_FLAG_NONE, settings, 3) == 0 &&
         nghttp2_session_set_local_window_size(k->session, NGHTTP2_FLAG_NONE, 0, WINDOW) == 0;
}

static int append(connection *k, const uint8_t *data, size_t length) {
  if (k->used + length > k->room) {
    size_t room = 2 * (k->used + length);
    uint8_t *grown = realloc(k->out, room);
    if (!grown) return 0;
    k->out = grown;
    k->room = room;
  }
  memcpy(k->out + k->used, data, length);
  k->used += length;
  return 1;
}

static int send_all(int fd, const uint8_t *data, size_t size) {
  while (size) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return 0;
    data += n;
    size -= (size_t)n;
  }
  return 1;
}

/* All that is to be said, in one piece. */
static int answer_all(connection *k) {
  const uint8_t *data;
  ssize_t n;
  k->used = 0;
  while ((n = nghttp2_session_mem_send(k->session, &data)) > 0)
    if (!append(k, data, (size_t)n)) return 0;
  return n == 0 && send_all(k->fd, k->out, k->used);
}

static void *serve(void *given) {
  connection *k = given;
  uint8_t *text = malloc(RECEIVE_SIZE);
  int good = text && open_session(k) && answer_all(k);
  while (good) {
    ssize_t n = recv(k->fd, text, RECEIVE_SIZE, 0);
    if (n < 0 && errno == EINTR) continue;
    good = n > 0 && nghttp2_session_mem_recv(k->session, text, (size_t)n) == n && answer_all(k);
  }
  nghttp2_session_del(k->session);
  for (call *c = k->unused, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  free(k->out);
  free(text);
  close(k->fd);
  free(k);
  return NULL;
}

static void accept_one(int listener) {
  int on = 1, fd = accept(listener, NULL, NULL);
  if (fd < 0) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  connection *k = calloc(1, sizeof *k);
  pthread_t thread;
  if (k) k->fd = fd;
  if (k && pthread_create(&thread, NULL, serve, k) == 0) {
    pthread_detach(thread);
  } else {
    free(k);
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

/* ---- what is answered -------------------------------------------------------------------------------- */

/* The message of these digits, after its prefix. */
static int read_message(answer *a, const char *hex) {
  size_t length = strlen(hex) / 2;
  a->length = PREFIX + length;
  a->message = calloc(1, a->length);
  if (!a->message) return 0;
  for (size_t i = 0; i < 4; i++) a->message[1 + i] = (uint8_t)(length >> (24 - 8 * i));
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    if (sscanf(hex + 2 * i, "%2x", &byte) != 1) return 0;
    a->message[PREFIX + i] = (uint8_t)byte;
  }
  return 1;
}

static int read_answers(int count, char **words) {
  if (count > MOST_ANSWERS) return 0;
  for (int i = 0; i < count; i++) {
    answer *a = &answers[answer_count++];
    char *hex = strrchr(words[i], '=');
    if (!hex || !read_message(a, hex + 1)) return 0;
    *hex = '\0';
    a->method = words[i];
    a->text = strchr(words[i], '?');
    if (a->text) *a->text++ = '\0';
  }
  return read_message(&answers[answer_count], "");
}

int main(int argc, char **argv) {
  if (!read_answers(argc - 1, argv + 1)) {
    fprintf(stderr, "usage: grpc_stub [METHOD[?TEXT]=HEX ...]\n");
    return 2;
  }
  int port = 0, listener = listen_anywhere(&port);
  if (listener < 0) {
    perror("grpc_stub");
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
    if (watched[0].revents & POLLIN) accept_one(listener);
  }
}
