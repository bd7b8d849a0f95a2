/* The wire format of protobuf: reading and writing its pieces. Pure: bytes in, values or false out. */
#ifndef RVL_PROTOBUF_WIRE_H
#define RVL_PROTOBUF_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum rvl_wire {
  RVL_WIRE_VARINT = 0,
  RVL_WIRE_64 = 1,
  RVL_WIRE_BYTES = 2,
  RVL_WIRE_GROUP = 3,       /* deprecated by protobuf itself, and refused here */
  RVL_WIRE_GROUP_END = 4,
  RVL_WIRE_32 = 5
} rvl_wire;

enum { RVL_VARINT_MAX = 10, RVL_TAG_MAX = 5 };

/* ---- sizes and writing ------------------------------------------------------------------------------- */

static inline size_t rvl_varint_size(uint64_t value) {
  /* 64 bits are 10 groups of 7; the multiplication stands for a division by 7 */
  unsigned bits = 64u - (unsigned)__builtin_clzll(value | 1);
  return (bits * 9 + 64) / 64;
}

static inline uint8_t *rvl_put_varint(uint8_t *out, uint64_t value) {
  while (value >= 0x80) {
    *out++ = (uint8_t)(value | 0x80);
    value >>= 7;
  }
  *out++ = (uint8_t)value;
  return out;
}

static inline uint8_t *rvl_put_32(uint8_t *out, uint32_t value) {
  for (int i = 0; i < 4; i++) out[i] = (uint8_t)(value >> (8 * i));
  return out + 4;
}

static inline uint8_t *rvl_put_64(uint8_t *out, uint64_t value) {
  for (int i = 0; i < 8; i++) out[i] = (uint8_t)(value >> (8 * i));
  return out + 8;
}

static inline uint64_t rvl_zigzag(int64_t value) {
  return (uint64_t)value << 1 ^ (value < 0 ? UINT64_MAX : 0);
}

static inline int64_t rvl_unzigzag(uint64_t value) {
  return (int64_t)(value >> 1 ^ ((value & 1) != 0 ? UINT64_MAX : 0));
}

/* ---- floating point ---------------------------------------------------------------------------------- */

static inline uint64_t rvl_float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline uint64_t rvl_double_bits(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

/* Of the low 32 bits. */
static inline float rvl_float_of(uint64_t bits) {
  uint32_t narrow = (uint32_t)bits;
  float x;
  memcpy(&x, &narrow, sizeof x);
  return x;
}

static inline double rvl_double_of(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

/* What is left to be read. */
typedef struct rvl_wire_reader {
  const uint8_t *at, *end;
} rvl_wire_reader;

static inline size_t rvl_wire_left(const rvl_wire_reader *r) { return (size_t)(r->end - r->at); }

/* False: it is cut short, or longer than 10 bytes. Bits above the 64th are dropped, as protobuf does. */
static inline bool rvl_read_varint(rvl_wire_reader *r, uint64_t *value) {
  const uint8_t *p = r->at;
  if (p < r->end && *p < 0x80) {
    *value = *p;
    r->at = p + 1;
    return true;
  }
  uint64_t sum = 0;
  for (unsigned shift = 0; shift < 70 && p < r->end; shift += 7) {
    uint8_t byte = *p++;
    sum |= (uint64_t)(byte & 0x7f) << (shift < 64 ? shift : 63);
    if (byte < 0x80) {
      *value = sum;
      r->at = p;
      return true;
    }
  }
  return false;
}

static inline uint32_t rvl_get_32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t rvl_get_64(const uint8_t *p) { return rvl_get_32(p) | (uint64_t)rvl_get_32(p + 4) << 32; }

static inline bool rvl_read_32(rvl_wire_reader *r, uint64_t *value) {
  if (rvl_wire_left(r) < 4) return false;
  *value = rvl_get_32(r->at);
  r->at += 4;
  return true;
}

static inline bool rvl_read_64(rvl_wire_reader *r, uint64_t *value) {
  if (rvl_wire_left(r) < 8) return false;
  *value = rvl_get_64(r->at);
  r->at += 8;
  return true;
}

/* A length and so many bytes, which `inner` then reads. */
static inline bool rvl_read_bytes(rvl_wire_reader *r, rvl_wire_reader *inner) {
  rvl_wire_reader ahead = *r;
  uint64_t length;
  if (!rvl_read_varint(&ahead, &length) || length > rvl_wire_left(&ahead)) return false;
  *inner = (rvl_wire_reader){ahead.at, ahead.at + length};
  r->at = inner->end;
  return true;
}

/* A field's number and wire type; false: cut short, the number 0 or more than 2^29 - 1. */
static inline bool rvl_read_tag(rvl_wire_reader *r, uint32_t *number, rvl_wire *wire) {
  const uint8_t *start = r->at;
  uint64_t tag;
  if (!rvl_read_varint(r, &tag)) return false;
  if (tag > UINT32_MAX || tag < 8 || r->at - start > RVL_TAG_MAX) return false;
  *number = (uint32_t)tag >> 3;
  *wire = (rvl_wire)(tag & 7);
  return true;
}

/* Skips a value; false: cut short, or a group. */
static inline bool rvl_skip_value(rvl_wire_reader *r, rvl_wire wire) {
  uint64_t ignored;
  rvl_wire_reader inner;
  switch (wire) {
    case RVL_WIRE_VARINT: return rvl_read_varint(r, &ignored);
    case RVL_WIRE_64: return rvl_read_64(r, &ignored);
    case RVL_WIRE_BYTES: return rvl_read_bytes(r, &inner);
    case RVL_WIRE_32: return rvl_read_32(r, &ignored);
    default: return false;
  }
}

/* How many varints end in these bytes. */
static inline size_t rvl_count_varints(const uint8_t *p, const uint8_t *end) {
  size_t count = 0;
  while (p < end) count += *p++ < 0x80;
  return count;
}

#endif
