/* The Lua files that the build embeds. */
#ifndef RVL_MODULES_H
#define RVL_MODULES_H

#include <stddef.h>

typedef struct rvl_embedded_file {
  const char *module;   /* "river.pickle" */
  const char *path;     /* "river/pickle.lua" */
  const char *text;
  size_t length;
} rvl_embedded_file;

/* sorted by module */
extern const rvl_embedded_file rvl_embedded_files[];
extern const size_t rvl_embedded_count;

#endif
