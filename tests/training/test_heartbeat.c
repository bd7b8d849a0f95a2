/*
** The heartbeat's thread, against a server in this process whose answers each test chooses. Made for ThreadSanitizer as
** much as for its assertions.
*/
#include "heartbeat.h"
#include "riverlua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
/* libuv closes descriptors by a bare system call, so their numbers seem to be in use when another thread gets them. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
  return "race:uv__epoll_init\nrace:uv_pipe\nrace:uv_async_init\n" "called_from_lib:libcurl.so\n";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "history_size=7"; }   /* or the names above are not found */
#endif

/* ---- malloc and its family, failing on order --------------------------------------------------------------- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#if defined(__GLIBC__) && !defined(SANITIZED)
#define FAILING_MALLOC 1

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void __libc_free(void *);

/* Allocations of this thread still granted; negative: all. Volatile: compilers think that malloc reads no variable. */
static _Thread_local volatile long granted = -1;
static _Thread_local volatile bool trusted;   /* this thread is the tests' own */
static atomic_uint one_in;                    /* of the allocations of a heartbeat's thread fails; 0: none */
static atomic_uint asked;

extern const char __executable_start, etext;

/* Only what this program asks for itself: see tests/runtime/test_oom.c. */
static bool refused(const void *caller) {
  if ((const char *)caller < &__executable_start || (const char *)caller >= &etext) return false;
  if (!trusted) {
    unsigned n = atomic_load(&one_in);
    return n > 0 && atomic_fetch_add(&asked, 1) % n == n - 1;
  }
  if (granted > 0) granted--;
  else if (granted == 0) {
    granted = -1;
    return true;
  }
  return false;
}

#define REFUSED refused(__builtin_return_address(0))

void *malloc(size_t size) { return REFUSED ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return REFUSED ? NULL : __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return size > 0 && REFUSED ? NULL : __libc_realloc(block, size); }

#define TRUST_THREAD() ((void)(trusted = true))
#else
#define TRUST_THREAD() ((void)0)
#endif

#define MS UINT64_C(1000000)
#define SECRET "rvl-secret-key-1"

/* ---- the server ------------------------------------------------------------------------------------------ */

typedef enum behaviour { GOOD, REJECT, UNAVAILABLE, HOLD, HANG_UP } behaviour;

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  behaviour behaviour;
  unsigned calls, connections, open;   /* open: connections */
  bool metadata_seen, session_seen;
  int fd;
  pthread_t thread;
  char url[64], authority[48];
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

typedef struct peer {
  int fd;
  size_t sent;
  behaviour behaviour;
} peer;

static void note(unsigned *count, unsigned more) {
  pthread_mutex_lock(&server.lock);
  *count += more;
  pthread_cond_broadcast(&server.changed);
  pthread_mutex_unlock(&server.lock);
}

static void set_behaviour(behaviour b) {
  pthread_mutex_lock(&server.lock);
  server.behaviour = b;
  server.calls = server.connections = 0;
  pthread_mutex_unlock(&server.lock);
}

/* Waits until so many have come since the behaviour was set. */
static void await_calls(unsigned count) {
  pthread_mutex_lock(&server.lock);
  while (server.calls < count) pthread_cond_wait(&server.changed, &server.lock);
  pthread_mutex_unlock(&server.lock);
}

static void await_open(unsigned count) {
  pthread_mutex_lock(&server.lock);
  while (server.open != count) pthread_cond_wait(&server.changed, &server.lock);
  pthread_mutex_unlock(&server.lock);
}

#define HEADER(n, v) {(uint8_t *)(size_t)(n), (uint8_t *)(size_t)(v), sizeof(n) - 1, sizeof(v) - 1, 0}

/* The message, then the trailers. */
static ssize_t read_answer(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
                           nghttp2_data_source *source, void *user) {
  (void)source;
  const peer *p = user;
  static const uint8_t good[] = {0, 0, 0, 0, 2, 8, 1}, rejected[] = {0, 0, 0, 0, 0};
  size_t length = p->behaviour == GOOD ? sizeof good : sizeof rejected;
  if (room < length) return NGHTTP2_ERR_CALLBACK_FAILURE;
  memcpy(out, p->behaviour == GOOD ? good : rejected, length);
  *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
  static const nghttp2_nv trailers[] = {HEADER("grpc-status", "0")};
  nghttp2_submit_trailer(session, stream, trailers, 1);
  return (ssize_t)length;
}

static void answer(nghttp2_session *session, int32_t stream, peer *p) {
  static const nghttp2_nv head[] = {HEADER(":status", "200"), HEADER("content-type", "application/grpc")};
  static const nghttp2_nv unavailable[] = {HEADER(":status", "200"), HEADER("content-type", "application/grpc"),
                                           HEADER("grpc-status", "14"), HEADER("grpc-message", "not%20now")};
  if (p->behaviour == UNAVAILABLE) {
    nghttp2_submit_response(session, stream, unavailable, 4, NULL);
  } else if (p->behaviour == GOOD || p->behaviour == REJECT) {
    nghttp2_data_provider provider = {.read_callback = read_answer};
    nghttp2_submit_response(session, stream, head, 2, &provider);
  }
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t length, uint8_t flags, void *user) {
  (void)session, (void)frame, (void)flags, (void)user;
  if (name_length == 9 && memcmp(name, "x-api-key", 9) == 0 && length == strlen(SECRET) &&
      memcmp(value, SECRET, length) == 0) {
    pthread_mutex_lock(&server.lock);
    server.metadata_seen = true;
    pthread_mutex_unlock(&server.lock);
  }
  return 0;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t length,
                    void *user) {
  (void)session, (void)flags, (void)stream, (void)user;
  static const char wanted[] = "\0\0\0\0\5\12\3s-1";
  pthread_mutex_lock(&server.lock);
  if (length == 10 && memcmp(data, wanted, 10) == 0) server.session_seen = true;
  pthread_mutex_unlock(&server.lock);
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  peer *p = user;
  if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ||
      (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS))
    return 0;
  pthread_mutex_lock(&server.lock);
  p->behaviour = server.behaviour;
  server.calls++;
  pthread_cond_broadcast(&server.changed);
  pthread_mutex_unlock(&server.lock);
  answer(session, frame->hd.stream_id, p);
  return 0;
}

static bool send_all(nghttp2_session *session, int fd) {
  const uint8_t *data;
  ssize_t n;
  while ((n = nghttp2_session_mem_send(session, &data)) > 0)
    if (send(fd, data, (size_t)n, MSG_NOSIGNAL) != n) return false;
  return n == 0;
}

static void *serve_peer(void *argument) {
  TRUST_THREAD();
  peer *p = argument;
  nghttp2_session_callbacks *callbacks;
  nghttp2_session *session;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_server_new(&session, callbacks, p);
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, NULL, 0);
  uint8_t buffer[4096];
  ssize_t n;
  while (send_all(session, p->fd) && (n = recv(p->fd, buffer, sizeof buffer, 0)) > 0) {
    if (nghttp2_session_mem_recv(session, buffer, (size_t)n) < 0) break;
    if (p->behaviour == HANG_UP) break;
  }
  nghttp2_session_del(session);
  nghttp2_session_callbacks_del(callbacks);
  close(p->fd);
  free(p);
  note(&server.open, -1U);
  return NULL;
}

static void *serve(void *unused) {
  TRUST_THREAD();
  (void)unused;
  int fd;
  while ((fd = accept(server.fd, NULL, NULL)) >= 0) {
    peer *p = calloc(1, sizeof *p);
    p->fd = fd;
    note(&server.connections, 1);
    note(&server.open, 1);
    pthread_t thread;
    pthread_create(&thread, NULL, serve_peer, p);
    pthread_detach(thread);
  }
  return NULL;
}

static int start_server(void **state) {
  TRUST_THREAD();
  (void)state;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (server.fd < 0 || bind(server.fd, (struct sockaddr *)&address, size) != 0 || listen(server.fd, 64) != 0 ||
      getsockname(server.fd, (struct sockaddr *)&address, &size) != 0)
    return -1;
  snprintf(server.authority, sizeof server.authority, "127.0.0.1:%d", ntohs(address.sin_port));
  snprintf(server.url, sizeof server.url, "http://%s/", server.authority);
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);   /* signals are for the thread of the tests */
  int err = pthread_create(&server.thread, NULL, serve, NULL);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return err;
}

static int stop_server(void **state) {
  (void)state;
  await_open(0);
  shutdown(server.fd, SHUT_RDWR);
  pthread_join(server.thread, NULL);
  close(server.fd);
  return 0;
}

/* ---- heartbeats ------------------------------------------------------------------------------------------ */

static rvl_heartbeat_options fast_options(const rvl_curl_api *curl) {
  rvl_heartbeat_options o = {
      .curl = curl,
      .profile = {.proxy = "", .verify = true},
      .channel = {.url = server.url, .authority = server.authority, .user_agent = "test"},
      .session_id = "s-1",
      .interval = MS,
      .deadline = 60000 * MS,
      .pause = MS,
      .attempts = 3,
  };
  assert_null(rvl_grpc_metadata_add(&o.metadata, "x-api-key", 9, SECRET, strlen(SECRET)));
  return o;
}

static rvl_heartbeat *start_with(rvl_heartbeat_options o) {
  const char *why;
  rvl_heartbeat *h = rvl_heartbeat_start(&o, &why);
  assert_non_null(h);
  assert_null(o.metadata.text.data);
  return h;
}

static rvl_curl_api *open_curl(void) {
  const char *why;
  rvl_curl_api *curl = rvl_curl_open(&why);
  assert_non_null(curl);
  return curl;
}

static rvl_heartbeat_state state_of(rvl_heartbeat *h) {
  rvl_heartbeat_state s;
  rvl_heartbeat_read(h, &s);
  return s;
}

static void test_beats(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(GOOD);
  rvl_heartbeat *h = start_with(fast_options(curl));
  assert_false(rvl_heartbeat_is_forked(h));
  await_calls(20);
  rvl_heartbeat_state s = state_of(h);
  assert_true(s.beats >= 19);
  assert_int_equal(s.failures, 0);
  assert_int_equal(s.connections, 1);
  assert_false(s.failing);
  assert_true(s.last_success > s.started);
  rvl_heartbeat_reply reply = rvl_heartbeat_take(h);
  assert_non_null(reply.message);
  assert_int_equal(reply.message->length, 2);
  assert_true(reply.sequence >= 19);
  free(reply.message);
  rvl_heartbeat_stop(h);
  await_open(0);
  assert_true(server.metadata_seen);
  assert_true(server.session_seen);
  rvl_curl_close(curl);
}

static void test_rejected(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(REJECT);
  rvl_heartbeat *h = start_with(fast_options(curl));
  await_calls(4);   /* the first beat is over */
  assert_true(rvl_heartbeat_is_failing(h));
  rvl_heartbeat_state s = state_of(h);
  assert_true(s.refused);
  assert_true(s.rejections >= 3);
  assert_int_equal(s.last_success, 0);
  assert_int_equal(s.connections, 1);
  assert_null(rvl_heartbeat_take(h).message);
  set_behaviour(GOOD);
  await_calls(2);
  assert_false(rvl_heartbeat_is_failing(h));
  rvl_heartbeat_stop(h);
  rvl_curl_close(curl);
}

static void test_unavailable(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(UNAVAILABLE);
  rvl_heartbeat *h = start_with(fast_options(curl));
  await_calls(4);
  rvl_heartbeat_state s = state_of(h);
  assert_true(s.failing);
  assert_false(s.refused);
  assert_int_equal(s.status, RVL_GRPC_UNAVAILABLE);
  assert_non_null(strstr(s.text, "not now"));
  assert_true(s.connections >= 3);   /* each takes its connection along */
  set_behaviour(HANG_UP);
  await_calls(7);   /* three and three, of one beat or two */
  s = state_of(h);
  assert_true(s.failing);
  assert_int_equal(s.status, RVL_GRPC_UNAVAILABLE);
  rvl_heartbeat_stop(h);
  rvl_curl_close(curl);
}

/* An address that neither refuses nor answers; the sockets keep it so. */
static int full_listener(char *url, size_t size, int fillers[4]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
  assert_int_equal(listen(fd, 0), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
  for (int i = 0; i < 4; i++) {
    fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    connect(fillers[i], (struct sockaddr *)&address, length);
  }
  snprintf(url, size, "http://127.0.0.1:%d/", ntohs(address.sin_port));
  return fd;
}

/* Each would last for minutes. */
static void test_stop_while_it_waits(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(HOLD);
  rvl_heartbeat *h = start_with(fast_options(curl));
  await_calls(1);
  rvl_heartbeat_stop(h);
  await_open(0);

  set_behaviour(UNAVAILABLE);
  rvl_heartbeat_options o = fast_options(curl);
  o.pause = 3600000 * MS;
  h = start_with(o);
  await_calls(1);
  rvl_heartbeat_stop(h);

  o = fast_options(curl);
  o.interval = 3600000 * MS;
  rvl_heartbeat_stop(start_with(o));

  char url[64];
  int fillers[4], fd = full_listener(url, sizeof url, fillers);
  for (int i = 0; i < 10; i++) {   /* with luck it is caught before, while and after it begins to connect */
    o = fast_options(curl);
    o.channel.url = url;
    o.interval = (uint64_t)i * MS;
    h = start_with(o);
    usleep(5000);
    rvl_heartbeat_stop(h);
  }
  for (int i = 0; i < 4; i++) close(fillers[i]);
  close(fd);
  rvl_curl_close(curl);
}

static unsigned count_entries(const char *path) {
  DIR *d = opendir(path);
  assert_non_null(d);
  unsigned n = 0;
  while (readdir(d) != NULL) n++;
  closedir(d);
  return n;
}

static void test_many(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(GOOD);
  await_open(0);
  unsigned files = count_entries("/proc/self/fd");
  rvl_heartbeat *all[20];
  for (int i = 0; i < 20; i++) all[i] = start_with(fast_options(curl));
  await_calls(100);
  for (int i = 0; i < 20; i++) rvl_heartbeat_stop(all[i]);
  await_open(0);
  assert_int_equal(count_entries("/proc/self/fd"), files);
  rvl_curl_close(curl);
}

static void test_start_fails(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  rvl_heartbeat_options o = fast_options(curl);
  await_open(0);
  unsigned files = count_entries("/proc/self/fd"), threads = count_entries("/proc/self/task");
  struct rlimit limit, low;
  getrlimit(RLIMIT_NOFILE, &limit);
  low = limit;
  low.rlim_cur = 0;   /* no descriptor is left for a loop */
  setrlimit(RLIMIT_NOFILE, &low);
  const char *why = NULL;
  rvl_heartbeat *h = rvl_heartbeat_start(&o, &why);
  setrlimit(RLIMIT_NOFILE, &limit);
  assert_null(h);
  assert_non_null(why);
  assert_null(o.metadata.text.data);
  assert_int_equal(count_entries("/proc/self/fd"), files);
  assert_true(count_entries("/proc/self/task") <= threads);
  rvl_curl_close(curl);
}

static volatile sig_atomic_t signalled;
static pthread_t host_thread;
static void on_signal(int number) {
  (void)number;
  signalled = pthread_equal(pthread_self(), host_thread) ? 1 : 2;
}

/* The thread takes none of the host's signals: one that all others block stays where it is. */
static void test_signals(void **state) {
  (void)state;
  rvl_curl_api *curl = open_curl();
  set_behaviour(GOOD);
  rvl_heartbeat *h = start_with(fast_options(curl));
  await_calls(1);
  host_thread = pthread_self();
  signal(SIGUSR1, on_signal);
  sigset_t mask, old;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &mask, &old);
  assert_false(sigismember(&old, SIGUSR1));   /* starting has not changed ours */
  kill(getpid(), SIGUSR1);
  set_behaviour(GOOD);
  await_calls(3);
  sigpending(&mask);
  assert_true(sigismember(&mask, SIGUSR1));
  assert_int_equal(signalled, 0);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  assert_int_equal(signalled, 1);
  rvl_heartbeat_stop(h);
  signal(SIGUSR1, SIG_DFL);
  rvl_curl_close(curl);
}

#if !defined(__SANITIZE_THREAD__)   /* which is not made for forks of processes with threads */
static void test_fork(void **state) {
  (void)state;
  if (getenv("RIVERLUA_VALGRIND") != NULL) skip();   /* it takes what other threads had on their stacks for lost */
  rvl_curl_api *curl = open_curl();
  set_behaviour(GOOD);
  rvl_heartbeat *h = start_with(fast_options(curl));
  await_calls(3);
  pid_t pid = fork();
  if (pid == 0) {
    bool forked = rvl_heartbeat_is_forked(h);
    rvl_heartbeat_stop(h);
    _exit(forked ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  unsigned before = (unsigned)state_of(h).beats;
  set_behaviour(GOOD);
  await_calls(5);
  assert_true(state_of(h).beats > before);
  assert_int_equal(state_of(h).failures, 0);
  rvl_heartbeat_stop(h);
  rvl_curl_close(curl);
}
#endif

#ifdef FAILING_MALLOC
/* Not so under valgrind, which brings a malloc of its own. */
static bool malloc_can_fail(void) {
  if (getenv("RIVERLUA_VALGRIND") != NULL) return false;
  void *(*volatile allocate)(size_t) = malloc;   /* inlined it would have another caller */
  granted = 0;
  void *block = allocate(1);
  granted = -1;
  free(block);
  return block == NULL;
}

static void test_start_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  /* libuv aborts when it cannot note a descriptor: it gets what it wants */
  assert_int_equal(uv_replace_allocator(__libc_malloc, __libc_realloc, __libc_calloc, __libc_free), 0);
  rvl_curl_api *curl = open_curl();
  await_open(0);
  unsigned files = count_entries("/proc/self/fd"), threads = count_entries("/proc/self/task");
  long n = 0;
  for (bool started = false; !started; n++) {
    rvl_heartbeat_options o = fast_options(curl);
    o.interval = 3600000 * MS;
    const char *why = NULL;
    granted = n;
    rvl_heartbeat *h = rvl_heartbeat_start(&o, &why);
    started = granted >= 0;   /* none was refused */
    granted = -1;
    assert_true(started ? h != NULL : h != NULL || why != NULL);
    assert_null(o.metadata.text.data);
    if (h != NULL) rvl_heartbeat_stop(h);
    assert_int_equal(count_entries("/proc/self/fd"), files);
    assert_true(count_entries("/proc/self/task") <= threads);
  }
  assert_true(n > 4);
  rvl_curl_close(curl);
}

static void test_beats_without_malloc(void **state) {
  (void)state;
  if (!malloc_can_fail()) skip();
  rvl_curl_api *curl = open_curl();
  for (unsigned rate = 1; rate < 40; rate++) {
    set_behaviour(GOOD);
    atomic_store(&one_in, rate);
    rvl_heartbeat *h = start_with(fast_options(curl));
    while (state_of(h).beats < 5) usleep(200);
    atomic_store(&one_in, 0);
    set_behaviour(GOOD);
    await_calls(3);   /* the memory is there again, and so are the beats */
    assert_false(rvl_heartbeat_is_failing(h));
    rvl_heartbeat_stop(h);
  }
  await_open(0);
  rvl_curl_close(curl);
}
#endif

/* ---- runtimes -------------------------------------------------------------------------------------------- */

/* Computes while its heart beats; each runtime has its own thread, and so has its heartbeat. */
static const char script[] =
    "local address = ...\n"
    "local heartbeat = require 'training.heartbeat'\n"
    "local beat = heartbeat.start{address = address, session_id = 's-1', proxy = false, interval = 0.001,\n"
    "  metadata = {['x-api-key'] = '" SECRET "'}}\n"
    "while beat:status().beats < 10 do beat:check() end\n"
    "local other = heartbeat.start{address = address, session_id = 's-1', proxy = false, interval = 0.001}\n"
    "while other:status().beats < 3 do end\n"
    "beat:stop()\n"
    "kept = other\n";   /* for the end of the runtime */

static void *run_runtime(void *unused) {
  TRUST_THREAD();
  (void)unused;
  riverlua *rt = riverlua_new(NULL);
  char source[2048];
  snprintf(source, sizeof source, "return (function(...)\n%s\nend)('http://%s')", script, server.authority);
  riverlua_status status = rt != NULL ? riverlua_run_string(rt, source, "test") : RIVERLUA_ERROR;
  if (rt != NULL && status != RIVERLUA_OK) fprintf(stderr, "%s\n", riverlua_error_message(rt));
  riverlua_close(rt);
  return (void *)(size_t)(status == RIVERLUA_OK);
}

static void test_two_runtimes(void **state) {
  (void)state;
  set_behaviour(GOOD);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, run_runtime, NULL), 0);
  for (int i = 0; i < 2; i++) {
    void *good;
    pthread_join(threads[i], &good);
    assert_non_null(good);
  }
  await_open(0);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_beats),
      cmocka_unit_test(test_rejected),
      cmocka_unit_test(test_unavailable),
      cmocka_unit_test(test_stop_while_it_waits),
      cmocka_unit_test(test_many),
      cmocka_unit_test(test_start_fails),
      cmocka_unit_test(test_signals),
#ifdef FAILING_MALLOC
      cmocka_unit_test(test_start_without_malloc),
      cmocka_unit_test(test_beats_without_malloc),
#endif
#if !defined(__SANITIZE_THREAD__)
      cmocka_unit_test(test_fork),
#endif
      cmocka_unit_test(test_two_runtimes),
  };
  return cmocka_run_group_tests_name("heartbeat", tests, start_server, stop_server);
}
