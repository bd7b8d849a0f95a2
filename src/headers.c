#include "headers.h"

#include "curl_api.h"

#include <string.h>
#include <strings.h>

static bool says_framing(const char *line, size_t length) {
  static const char *const names[] = {"host", "connection", "content-length", "transfer-encoding", "te", "upgrade"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == length && strncasecmp(line, names[i], length) == 0) return true;
  return false;
}

static bool add_text(rvl_headers *h, const char *line) {
  size_t length = strlen(line), name = strcspn(line, ":;");
  if (name + 1 == length && line[name] == ':') return true;
  h->frames = h->frames || says_framing(line, name);
  if (name + 1 == length) return rvl_bytes_append(&h->text, line, name) && rvl_bytes_append(&h->text, ":\r\n", 3);
  return rvl_bytes_append(&h->text, line, length) && rvl_bytes_append(&h->text, "\r\n", 2);
}

bool rvl_headers_add(rvl_headers *h, const char *line) {
  struct curl_slist *list = h->curl->slist_append(h->list, line);
  if (list == NULL) return false;
  h->list = list;
  return add_text(h, line);
}

void rvl_headers_free(rvl_headers *h) {
  if (h->curl != NULL) h->curl->slist_free_all(h->list);
  h->list = NULL;
  rvl_bytes_free(&h->text);
}
