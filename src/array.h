/*
** Compact arrays of numbers for Lua: one element takes its own size instead of a table slot. Vectors, or matrices in row
** order. Elements are in the machine's order, which is little-endian wherever riverlua runs.
*/
#ifndef RVL_ARRAY_H
#define RVL_ARRAY_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RVL_ARRAY "riverlua.Array"

/* The numbers are those of the NEST format. */
typedef enum rvl_dtype {
  RVL_BOOL,
  RVL_INT8,
  RVL_INT16,
  RVL_INT32,
  RVL_INT64,
  RVL_UINT8,
  RVL_UINT16,
  RVL_UINT32,
  RVL_UINT64,
  RVL_FLOAT32,
  RVL_FLOAT64,
  RVL_DTYPES
} rvl_dtype;

typedef struct rvl_array {
  rvl_dtype dtype;
  size_t length;      /* elements in all */
  size_t columns;     /* of a matrix, whose rows are length / columns; 0: a vector */
  void *data;         /* in the same block of memory */
} rvl_array;

/* Bytes of one element. */
size_t rvl_dtype_size(rvl_dtype dtype);
/* "float32" */
const char *rvl_dtype_name(rvl_dtype dtype);

/* Pushes a vector whose elements are not set yet. Raises when there is no memory. */
rvl_array *rvl_array_push(lua_State *L, rvl_dtype dtype, size_t length);
/* NULL: the value is no array. */
rvl_array *rvl_array_test(lua_State *L, int index);

#endif
