#include "dtype.h"

static const struct {
  const char *name;
  size_t size;
} dtypes[RVL_DTYPES] = {
    [RVL_BOOL] = {"bool", 1},       [RVL_INT8] = {"int8", 1},     [RVL_INT16] = {"int16", 2},
    [RVL_INT32] = {"int32", 4},     [RVL_INT64] = {"int64", 8},   [RVL_UINT8] = {"uint8", 1},
    [RVL_UINT16] = {"uint16", 2},   [RVL_UINT32] = {"uint32", 4}, [RVL_UINT64] = {"uint64", 8},
    [RVL_FLOAT32] = {"float32", 4}, [RVL_FLOAT64] = {"float64", 8},
};

size_t rvl_dtype_size(rvl_dtype dtype) { return dtypes[dtype].size; }

const char *rvl_dtype_name(rvl_dtype dtype) { return dtypes[dtype].name; }

bool rvl_dtype_is_float(rvl_dtype dtype) { return dtype >= RVL_FLOAT32; }
