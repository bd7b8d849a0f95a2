/*
** How Lua tables become protobuf messages, in two passes. protobuf_plan.c walks the tables and makes a plan: what to
** write, in order, and how long it is; protobuf_scalar.c turns numbers into what goes on the wire. protobuf_encode.c
** writes the plan into memory of the right size. protobuf_fail.c says what is wrong with a table.
** While there is a plan, no code of a script's may run, not even a finalizer, since it points into strings of the
** script's tables: those are read raw, and memory comes from Lua's allocator without the collector being asked. Large
** strings are not written at all: the string that is made in the end is joined from them.
*/
#ifndef RVL_PROTOBUF_PLAN_H
#define RVL_PROTOBUF_PLAN_H

#include "array.h"
#include "protobuf.h"
#include "protobuf_wire.h"

typedef enum rvl_pb_op_kind {
  RVL_PB_OP_SCALAR,   /* bits */
  RVL_PB_OP_BYTES,    /* bytes */
  RVL_PB_OP_LARGE,    /* bytes that are joined later; `inner` is their place among the anchors */
  RVL_PB_OP_MESSAGE,  /* `inner` is its first operation */
  RVL_PB_OP_PACKED,   /* bytes at `offset` in the scratch memory */
  RVL_PB_OP_RAW,      /* the same with tags of their own */
  RVL_PB_OP_ARRAY     /* a packed riverlua.Array */
} rvl_pb_op_kind;

typedef struct rvl_pb_op {
  const rvl_protobuf_field *field;
  uint32_t next;          /* in the same message, 0: none */
  uint32_t inner;
  size_t size;            /* without tag and length */
  union {
    uint64_t bits;
    const void *bytes;
    size_t offset;
  } is;
  rvl_pb_op_kind kind;
} rvl_pb_op;

/* Operations one after the other, and what they take when written. */
typedef struct rvl_pb_chain {
  uint32_t first, last;
  size_t size;
} rvl_pb_chain;

typedef struct rvl_pb_encoder {
  lua_State *L;
  rvl_protobuf_codec *codec;
  const rvl_protobuf_type *root;
  uint32_t count;         /* operations planned */
  size_t scratch_length;
  int type;               /* stack index of the root's type */
  int anchors;            /* stack index of the table of large strings */
  uint32_t anchored;
  int depth;
  bool starved;           /* there was no memory: the plan is worthless */
  rvl_pb_op spare;        /* stands for operations that had no room */
} rvl_pb_encoder;

/* ---- protobuf_plan.c --------------------------------------------------------------------------------- */

/* Plans the table at `index`; a second time after a collection when there was no memory. */
rvl_pb_chain rvl_pb_plan(rvl_pb_encoder *e, int index);
/* Forgets the plan. */
void rvl_pb_finish(rvl_pb_encoder *e);
/* Room for so many bytes; false: no memory. */
bool rvl_pb_reserve(rvl_pb_encoder *e, rvl_protobuf_memory *m, size_t room);

/* ---- protobuf_scalar.c ------------------------------------------------------------------------------- */

/* The value at an index as it goes on the wire; raises when it does not fit the field. */
uint64_t rvl_pb_scalar_bits(rvl_pb_encoder *e, const rvl_protobuf_field *f, int index, const rvl_protobuf_frame *frame);
/* Element i as it goes on the wire; false: it does not fit. */
bool rvl_pb_array_bits(const rvl_protobuf_field *f, const rvl_array *a, size_t i, uint64_t *bits);
/* Whether the elements are on the wire as they are in memory. */
bool rvl_pb_is_same_in_memory(const rvl_protobuf_field *f, const rvl_array *a);
/* Raises: element i does not fit. */
_Noreturn void rvl_pb_fail_element(rvl_pb_encoder *e, const rvl_protobuf_field *f, const rvl_array *a, size_t i,
                                   const rvl_protobuf_frame *frame);

static inline size_t rvl_pb_scalar_size(const rvl_protobuf_field *f, uint64_t bits) {
  return f->wire == RVL_WIRE_VARINT ? rvl_varint_size(bits) : f->wire == RVL_WIRE_64 ? 8 : 4;
}

static inline uint8_t *rvl_pb_put_scalar(uint8_t *out, const rvl_protobuf_field *f, uint64_t bits) {
  if (f->wire == RVL_WIRE_VARINT) return rvl_put_varint(out, bits);
  return f->wire == RVL_WIRE_64 ? rvl_put_64(out, bits) : rvl_put_32(out, (uint32_t)bits);
}

/* ---- protobuf_fail.c: the plan is gone afterwards ---------------------------------------------------- */

_Noreturn void rvl_pb_fail_memory(rvl_pb_encoder *e);
/* Raises "path: …". */
_Noreturn void rvl_pb_fail(rvl_pb_encoder *e, const rvl_protobuf_frame *frame, const char *kind, const char *hint,
                           const char *format, ...);
/* "path: … is wanted, got …", the value at the index */
_Noreturn void rvl_pb_fail_type(rvl_pb_encoder *e, const rvl_protobuf_frame *frame, const char *wanted, int index);
/* The key at `key` names no field of the type. */
_Noreturn void rvl_pb_fail_field(rvl_pb_encoder *e, const rvl_protobuf_type *type, const rvl_protobuf_frame *frame,
                                 int key);
_Noreturn void rvl_pb_fail_enum(rvl_pb_encoder *e, const ProtobufCEnumDescriptor *d, const rvl_protobuf_frame *frame,
                                const char *name);
/* Pushes what stands in messages for the value at an index. */
const char *rvl_pb_push_shown(lua_State *L, int index);

#endif
