/*
** Preloaded into a child: counts reads that follow another on the same socket, and those of them before which the
** socket had not been told to acknowledge at once. Written to the file that RIVERLUA_QUICK_ACK names: "reads missed".
*/
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_FD 1024

enum { FRESH, READ, ARMED };
static unsigned char state[MAX_FD];
static unsigned reads, missed;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

ssize_t recv(int fd, void *buffer, size_t length, int flags) {
  static ssize_t (*next)(int, void *, size_t, int);
  if (next == NULL) {
    void *symbol = real("recv");
    memcpy(&next, &symbol, sizeof next);
  }
  ssize_t n = next(fd, buffer, length, flags);
  if (n > 0 && !(flags & MSG_PEEK) && fd >= 0 && fd < MAX_FD) {
    if (state[fd] != FRESH) reads++;
    if (state[fd] == READ) missed++;
    state[fd] = READ;
  }
  return n;
}

/* What is sent carries an acknowledgement. */
ssize_t send(int fd, const void *buffer, size_t length, int flags) {
  static ssize_t (*next)(int, const void *, size_t, int);
  if (next == NULL) {
    void *symbol = real("send");
    memcpy(&next, &symbol, sizeof next);
  }
  if (fd >= 0 && fd < MAX_FD) state[fd] = FRESH;
  return next(fd, buffer, length, flags);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
  static int (*next)(int, int, int, const void *, socklen_t);
  if (next == NULL) {
    void *symbol = real("setsockopt");
    memcpy(&next, &symbol, sizeof next);
  }
  if (level == IPPROTO_TCP && option == TCP_QUICKACK && fd >= 0 && fd < MAX_FD) state[fd] = ARMED;
  return next(fd, level, option, value, length);
}

__attribute__((destructor)) static void report(void) {
  const char *path = getenv("RIVERLUA_QUICK_ACK");
  FILE *file = path != NULL && reads > 0 ? fopen(path, "w") : NULL;   /* `timeout` reads nothing */
  if (file == NULL) return;
  fprintf(file, "%u %u\n", reads, missed);
  fclose(file);
}
