/* A growing byte buffer. */
#ifndef RVL_BYTES_H
#define RVL_BYTES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct rvl_bytes {
  char *data;
  size_t length, room;
} rvl_bytes;

/* Makes room for `more` bytes; false: no memory. */
bool rvl_bytes_reserve(rvl_bytes *bytes, size_t more);
bool rvl_bytes_append(rvl_bytes *bytes, const char *data, size_t length);
/* Gives back most of the room that is not in use. */
void rvl_bytes_trim(rvl_bytes *bytes);
void rvl_bytes_free(rvl_bytes *bytes);

#endif
