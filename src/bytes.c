#include "bytes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool rvl_bytes_reserve(rvl_bytes *b, size_t more) {
  if (more <= b->room - b->length) return true;
  if (more > SIZE_MAX / 2 - b->length) return false;
  size_t room = b->room < 512 ? 512 : b->room;
  while (room < b->length + more) room *= 2;
  char *grown = realloc(b->data, room);
  if (grown == NULL) return false;
  b->data = grown;
  b->room = room;
  return true;
}

bool rvl_bytes_append(rvl_bytes *b, const char *data, size_t length) {
  if (!rvl_bytes_reserve(b, length)) return false;
  if (length > 0) memcpy(b->data + b->length, data, length);
  b->length += length;
  return true;
}

void rvl_bytes_trim(rvl_bytes *b) {
  if (b->length == 0) {
    rvl_bytes_free(b);
  } else if (b->length < b->room / 2) {
    char *smaller = realloc(b->data, b->length);
    if (smaller == NULL) return;
    b->data = smaller;
    b->room = b->length;
  }
}

void rvl_bytes_free(rvl_bytes *b) {
  free(b->data);
  *b = (rvl_bytes){0};
}
