/*
** Preloaded into a child: names are never resolved. Numeric addresses still are, so servers on 127.0.0.1 work.
** RIVERLUA_RESOLVING names a file that is made when somebody waits for a name.
*/
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int resolve_function(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
  void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
  resolve_function *real;
  memcpy(&real, &symbol, sizeof real);
  if (node == NULL || strspn(node, "0123456789.") == strlen(node)) return real(node, service, hints, result);
  const char *path = getenv("RIVERLUA_RESOLVING");
  if (path != NULL) {
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
  }
  for (;;) pause();
}
