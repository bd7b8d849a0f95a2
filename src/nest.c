#include "nest.h"
#include "dtype.h"
#include "utf8.h"

#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static const uint8_t header[8] = {'N', 'E', 'S', 'T', 1, 0, 0, 0};

enum { TAG_ARRAY = 0, TAG_DICT = 1, TAG_LIST = 2 };
enum { LEAST_KEY = 2, LEAST_VALUE = 5 };   /* bytes */

/* A payload of a few bytes must not stand for a table of millions of rows that have no elements. */
static const size_t MOST_EMPTY_ROWS = (size_t)1 << 20;

static bool is_utf8(const uint8_t *text, size_t length) {
  const uint8_t *end = text + length;
  while (text < end) {
    size_t bad, n = *text < 0x80 ? 1 : rvl_utf8_sequence(text, end, &bad);
    if (n == 0) return false;
    text += n;
  }
  return true;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

/* The next `length` bytes; NULL: only measured, or failed. */
static uint8_t *take(rvl_nest_writer *w, size_t length) {
  if (w->failed || length > PTRDIFF_MAX - w->at || (w->data != NULL && length > w->room - w->at)) {
    w->failed = true;
    return NULL;
  }
  uint8_t *to = w->data != NULL ? w->data + w->at : NULL;
  w->at += length;
  return to;
}

static void put(rvl_nest_writer *w, uint64_t number, size_t size) {
  uint8_t *to = take(w, size);
  for (size_t i = 0; to != NULL && i < size; i++) to[i] = (uint8_t)(number >> 8 * i);
}

void rvl_nest_begin(rvl_nest_writer *w) {
  w->at = 0;
  w->failed = false;
  uint8_t *to = take(w, sizeof header);
  if (to != NULL) memcpy(to, header, sizeof header);
}

static void open_container(rvl_nest_writer *w, unsigned tag, size_t count) {
  if (count > UINT32_MAX) w->failed = true;
  put(w, tag, 1);
  put(w, count, 4);
}

void rvl_nest_open_dict(rvl_nest_writer *w, size_t count) { open_container(w, TAG_DICT, count); }

void rvl_nest_open_list(rvl_nest_writer *w, size_t count) { open_container(w, TAG_LIST, count); }

void rvl_nest_put_key(rvl_nest_writer *w, const char *key, size_t length) {
  if (length > RVL_NEST_KEY || !is_utf8((const uint8_t *)key, length)) w->failed = true;
  put(w, length, 2);
  uint8_t *to = take(w, length);
  if (to != NULL) memcpy(to, key, length);
}

/* Room for the checksum, the padding, and what both are for. */
static uint8_t *put_raw(rvl_nest_writer *w, size_t length) {
  w->checksum_at = w->at;
  put(w, 0, 8);
  put(w, 0, (8 - w->at % 8) % 8);
  return take(w, length);
}

void rvl_nest_put_string(rvl_nest_writer *w, const char *text, size_t length) {
  if (length > UINT32_MAX || !is_utf8((const uint8_t *)text, length)) w->failed = true;
  put(w, TAG_ARRAY, 1);
  put(w, RVL_NEST_STRING_DTYPE, 1);
  put(w, 0, 1);
  put(w, length, 4);
  uint8_t *to = put_raw(w, length);
  if (to != NULL) memcpy(to, text, length);
  rvl_nest_seal(w);
}

void *rvl_nest_put_array(rvl_nest_writer *w, unsigned dtype, size_t ndim, const size_t *dims, size_t element_size) {
  size_t size = element_size;
  if (ndim > RVL_NEST_DIMS) w->failed = true;
  put(w, TAG_ARRAY, 1);
  put(w, dtype, 1);
  put(w, ndim, 1);
  for (size_t i = 0; i < ndim; i++) {
    put(w, dims[i], 8);
    if (size > 0 && dims[i] > PTRDIFF_MAX / size) w->failed = true;
    else size *= dims[i];
  }
  return put_raw(w, size);
}

void rvl_nest_seal(rvl_nest_writer *w) {
  if (w->data == NULL || w->failed) return;
  size_t from = (w->checksum_at + 8 + 7) / 8 * 8;
  uint64_t checksum = XXH64(w->data + from, w->at - from, RVL_NEST_SEED);
  for (size_t i = 0; i < 8; i++) w->data[w->checksum_at + i] = (uint8_t)(checksum >> 8 * i);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static bool fail(rvl_nest_reader *r, const char *error) {
  if (r->error == NULL) r->error = error;
  return false;
}

static const uint8_t *next(rvl_nest_reader *r, size_t length) {
  if (r->error != NULL) return NULL;
  if (length > r->length - r->at) {
    fail(r, "it ends too early");
    return NULL;
  }
  const uint8_t *from = r->data + r->at;
  r->at += length;
  return from;
}

static uint64_t number_at(const uint8_t *from, size_t size) {
  uint64_t number = 0;
  for (size_t i = 0; i < size; i++) number |= (uint64_t)from[i] << 8 * i;
  return number;
}

static bool get(rvl_nest_reader *r, size_t size, uint64_t *number) {
  const uint8_t *from = next(r, size);
  if (from != NULL) *number = number_at(from, size);
  return from != NULL;
}

bool rvl_nest_open(rvl_nest_reader *r, const void *data, size_t length) {
  *r = (rvl_nest_reader){.data = data, .length = length};
  const uint8_t *from = next(r, sizeof header);
  if (from == NULL) return false;
  if (memcmp(from, header, 4) != 0) return fail(r, "it does not begin with NEST");
  if (from[4] != header[4]) return fail(r, "it is of another version of NEST");
  return true;
}

/* The checksum, the padding and the bytes. */
static bool read_raw(rvl_nest_reader *r, rvl_nest_value *v) {
  uint64_t checksum;
  v->checksum_at = r->at;
  if (!get(r, 8, &checksum) || next(r, (8 - r->at % 8) % 8) == NULL) return false;
  v->raw = next(r, v->size);
  if (v->raw == NULL) return false;
  return XXH64(v->raw, v->size, RVL_NEST_SEED) == checksum ||
         fail(r, "a checksum does not match: bytes have changed");
}

static bool read_string(rvl_nest_reader *r, rvl_nest_value *v) {
  uint64_t length;
  v->kind = RVL_NEST_STRING;
  if (v->ndim != 0) return fail(r, "a string has dimensions");
  if (!get(r, 4, &length)) return false;
  v->size = (size_t)length;
  if (!read_raw(r, v)) return false;
  return is_utf8(v->raw, v->size) || fail(r, "a string is not UTF-8");
}

static bool read_array(rvl_nest_reader *r, rvl_nest_value *v) {
  const uint8_t *head = next(r, 2);
  if (head == NULL) return false;
  v->dtype = head[0];
  v->ndim = head[1];
  if (v->dtype == RVL_NEST_STRING_DTYPE) return read_string(r, v);
  if (v->dtype > RVL_NEST_STRING_DTYPE) return fail(r, "there is an array of an unknown type");
  v->kind = RVL_NEST_ARRAY;
  v->dims = next(r, v->ndim * (size_t)8);
  if (v->dims == NULL) return false;
  size_t rest = r->length - r->at, rows = 1;   /* rows: the product of what is not zero */
  bool empty = false;
  for (size_t i = 0; i < v->ndim; i++) {
    uint64_t dim = number_at(v->dims + 8 * i, 8);
    empty = empty || dim == 0;
    if (dim > 0 && rows > PTRDIFF_MAX / dim) return fail(r, "an array is larger than memory can be");
    if (dim > 0) rows *= (size_t)dim;
  }
  if (empty && rows > MOST_EMPTY_ROWS) return fail(r, "an array has too many rows that are empty");
  v->count = empty ? 0 : rows;
  if (v->count > rest) return fail(r, "it ends too early");
  v->size = v->count * rvl_dtype_size((rvl_dtype)v->dtype);
  return read_raw(r, v);
}

/* So many values of at least `least` bytes must be there, beside those that are owed: each byte stands for one of them,
 * however lists are nested. */
static bool read_count(rvl_nest_reader *r, rvl_nest_value *v, rvl_nest_kind kind, size_t least) {
  uint64_t count;
  v->kind = kind;
  if (!get(r, 4, &count)) return false;
  size_t rest = r->length - r->at;
  if (r->owed > rest || count > (rest - r->owed) / least) return fail(r, "it ends too early");
  v->count = (size_t)count;
  r->owed += v->count * least;
  return true;
}

static void pay(rvl_nest_reader *r, size_t least) { r->owed -= least < r->owed ? least : r->owed; }

bool rvl_nest_read(rvl_nest_reader *r, rvl_nest_value *v) {
  uint64_t tag;
  *v = (rvl_nest_value){.kind = RVL_NEST_ARRAY};
  pay(r, LEAST_VALUE);
  if (!get(r, 1, &tag)) return false;
  switch (tag) {
    case TAG_ARRAY: return read_array(r, v);
    case TAG_DICT: return read_count(r, v, RVL_NEST_DICT, LEAST_KEY + LEAST_VALUE);
    case TAG_LIST: return read_count(r, v, RVL_NEST_LIST, LEAST_VALUE);
    default: return fail(r, "there is a value of an unknown kind");
  }
}

bool rvl_nest_read_key(rvl_nest_reader *r, const char **key, size_t *length) {
  uint64_t size;
  pay(r, LEAST_KEY);
  if (!get(r, 2, &size)) return false;
  const uint8_t *from = next(r, (size_t)size);
  if (from == NULL) return false;
  if (!is_utf8(from, (size_t)size)) return fail(r, "a key is not UTF-8");
  *key = (const char *)from;
  *length = (size_t)size;
  return true;
}

bool rvl_nest_end(rvl_nest_reader *r) {
  return r->error == NULL && (r->at == r->length || fail(r, "bytes follow its end"));
}

size_t rvl_nest_dim(const rvl_nest_value *v, size_t i) { return (size_t)number_at(v->dims + 8 * i, 8); }
