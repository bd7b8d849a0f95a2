/* Types of the elements of arrays: Lua's compact ones, and those in the training service's data. */
#ifndef RVL_DTYPE_H
#define RVL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

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

/* Bytes of one element. */
size_t rvl_dtype_size(rvl_dtype dtype);
/* "float32" */
const char *rvl_dtype_name(rvl_dtype dtype);
bool rvl_dtype_is_float(rvl_dtype dtype);

#endif
