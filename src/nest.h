/*
** NEST, the format of the training service's data: arrays, strings, dicts and lists in one block of bytes. Pure
** functions; nothing is allocated.
**
**     payload  := "NEST" 01 00 00 00  value
**     value    := 00 array | 00 string | 01 dict | 02 list
**     array    := dtype:u8  ndim:u8  dim:u64 × ndim  checksum:u64  pad  raw
**     string   := 0b  00  length:u32  checksum:u64  pad  UTF-8
**     dict     := count:u32  (keylen:u16  key  value) × count
**     list     := count:u32  value × count
**
** All little-endian; pad is zeros up to a multiple of 8 from the beginning; checksum is XXH64 of raw, seed "NEST".
*/
#ifndef RVL_NEST_H
#define RVL_NEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RVL_NEST_SEED UINT64_C(0x4E455354)

enum {
  RVL_NEST_STRING_DTYPE = 11,   /* below: the numbers of rvl_dtype */
  RVL_NEST_DIMS = 255,
  RVL_NEST_KEY = 65535,
  RVL_NEST_DEPTH = 100          /* of lists and dicts in one another, both ways */
};

/* ---- writing ---- */

/* Without `data` it only measures: the same calls find out how much room is needed. */
typedef struct rvl_nest_writer {
  uint8_t *data;
  size_t room, at;
  size_t checksum_at;           /* of the value whose bytes are being written */
  bool failed;                  /* no room, or a length that the format cannot say */
} rvl_nest_writer;

void rvl_nest_begin(rvl_nest_writer *w);
void rvl_nest_open_dict(rvl_nest_writer *w, size_t count);
void rvl_nest_open_list(rvl_nest_writer *w, size_t count);
void rvl_nest_put_key(rvl_nest_writer *w, const char *key, size_t length);
void rvl_nest_put_string(rvl_nest_writer *w, const char *text, size_t length);
/* Returns where the caller puts the elements before rvl_nest_seal; NULL: only measured, or failed. */
void *rvl_nest_put_array(rvl_nest_writer *w, unsigned dtype, size_t ndim, const size_t *dims, size_t element_size);
void rvl_nest_seal(rvl_nest_writer *w);

/* ---- reading ---- */

typedef enum { RVL_NEST_ARRAY, RVL_NEST_DICT, RVL_NEST_LIST, RVL_NEST_STRING } rvl_nest_kind;

typedef struct rvl_nest_value {
  rvl_nest_kind kind;
  unsigned dtype, ndim;
  const uint8_t *dims;          /* use rvl_nest_dim */
  const uint8_t *raw;           /* bytes of an array or a string */
  size_t size;                  /* how many */
  size_t count;                 /* elements of an array; values that follow of a dict or a list */
  size_t checksum_at;
} rvl_nest_value;

typedef struct rvl_nest_reader {
  const uint8_t *data;
  size_t length, at;
  size_t owed;                  /* bytes that the rest of the open dicts and lists takes at least */
  const char *error;            /* what is wrong, NULL: nothing yet; `at` is near it */
} rvl_nest_reader;

/* All but the last: false when something is wrong. */
bool rvl_nest_open(rvl_nest_reader *r, const void *data, size_t length);
/* Reads a value that is no container whole, of a dict or a list how many there are. */
bool rvl_nest_read(rvl_nest_reader *r, rvl_nest_value *value);
bool rvl_nest_read_key(rvl_nest_reader *r, const char **key, size_t *length);
/* Nothing may be left. */
bool rvl_nest_end(rvl_nest_reader *r);
size_t rvl_nest_dim(const rvl_nest_value *value, size_t i);

#endif
