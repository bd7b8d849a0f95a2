/*
** Lua tables to protobuf messages and back, by the descriptors that protobuf-c's compiler makes: protobuf_type.c (what
** is known of a message type), protobuf_encode.c (and what protobuf_plan.h says), protobuf_decode.c, lua_protobuf.c (the
** binding). No C structs of messages are made on the way.
*/
#ifndef RVL_PROTOBUF_H
#define RVL_PROTOBUF_H

#include <lua.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct rvl_protobuf_type rvl_protobuf_type;

/* Levels of messages within messages, as in protobuf's own libraries. */
enum { RVL_PROTOBUF_DEPTH = 100 };
/* So many large strings of a message are joined rather than copied twice. */
enum { RVL_PB_MOST_ANCHORS = 256 };
/* protobuf's own limit on a message. */
#define RVL_PROTOBUF_LARGEST ((size_t)INT32_MAX)

typedef enum rvl_protobuf_kind {
  RVL_PB_INT32,
  RVL_PB_INT64,
  RVL_PB_UINT32,
  RVL_PB_UINT64,
  RVL_PB_FLOAT,
  RVL_PB_DOUBLE,
  RVL_PB_BOOL,
  RVL_PB_ENUM,
  RVL_PB_STRING,
  RVL_PB_BYTES,
  RVL_PB_MESSAGE
} rvl_protobuf_kind;

typedef struct rvl_protobuf_field {
  const ProtobufCFieldDescriptor *descriptor;
  const rvl_protobuf_type *message;   /* of messages and maps (their entries) */
  uint32_t oneof_next;                /* index of the oneof's next member, round and round; its own: no others */
  uint8_t kind;                       /* rvl_protobuf_kind */
  uint8_t wire;                       /* rvl_wire of one element */
  uint8_t tag_length;
  uint8_t tag[5];                     /* with `wire`, or that of bytes where `packed` */
  bool zigzag;
  bool repeated, packed;
  bool numbers;                       /* repeated, and a riverlua.Array in Lua */
  bool map;
  bool implicit;                      /* zero is the same as absent */
  bool required;
  bool filled;                        /* set when absent: to zero, its default or an empty list */
} rvl_protobuf_field;

typedef struct rvl_protobuf_slot {
  const char *name;                   /* of the string that Lua has: names are compared by address first */
  uint32_t field;
} rvl_protobuf_slot;

struct rvl_protobuf_type {
  const ProtobufCMessageDescriptor *descriptor;
  lua_Integer names;                  /* name of field i: names[names + i] in the codec's list */
  size_t empty_cost;                  /* about how many bytes an empty message takes in Lua */
  uint32_t count;                     /* of fields */
  uint32_t keys;                      /* so many a decoded table has at most */
  uint32_t required;
  uint32_t mask;                      /* of `slots` */
  bool checked;                       /* it or what is inside it has required fields */
  rvl_protobuf_slot *slots;
  rvl_protobuf_field fields[];        /* in the order of their numbers */
};

/* Memory for one message on its way out, kept for the next one. Taken from Lua's allocator without the collector's
** knowing: no code of a script's runs while pointers into its tables are held. */
typedef struct rvl_protobuf_memory {
  void *data;
  size_t room;                        /* bytes */
} rvl_protobuf_memory;

/* One per module: what types share. */
typedef struct rvl_protobuf_codec {
  rvl_protobuf_memory plan, scratch, out;
} rvl_protobuf_codec;

/* user values of a codec */
enum { RVL_PB_NAMES = 1, RVL_PB_TYPES, RVL_PB_ANCHORS, RVL_PB_CODEC_VALUES = RVL_PB_ANCHORS };
/* user values of a message type */
enum { RVL_PB_TYPE_CODEC = 1, RVL_PB_TYPE_NAMES, RVL_PB_TYPE_KIN, RVL_PB_TYPE_VALUES = RVL_PB_TYPE_KIN };

/* One step of the way to a value, on the C stack while what is inside it is worked on. */
typedef struct rvl_protobuf_frame {
  const struct rvl_protobuf_frame *up;
  const rvl_protobuf_field *field;
  lua_Integer index;                  /* of a list's element, from 1; 0: none */
  int key;                            /* stack index of a map's key; 0: none */
} rvl_protobuf_frame;

/* Pushes a codec, with which types are made. */
void rvl_protobuf_push_codec(lua_State *L);
/* Pushes the type of a descriptor, made on first use; the codec's stack index. */
const rvl_protobuf_type *rvl_protobuf_push_type(lua_State *L, int codec, const ProtobufCMessageDescriptor *descriptor);
/* The field of this number; `near` is where the last one was found, or 0. */
const rvl_protobuf_field *rvl_protobuf_find(const rvl_protobuf_type *type, uint32_t number, uint32_t near);
/* Raises kind "argument" unless there is a message type at the index. */
const rvl_protobuf_type *rvl_protobuf_check(lua_State *L, int index);
/* Pushes `prompts[3].max_tokens`, or the type's name for the message itself. */
void rvl_protobuf_push_path(lua_State *L, const rvl_protobuf_type *root, const rvl_protobuf_frame *frame);
/* Bytes of a text before the first that is not UTF-8; `length` when all is well. */
size_t rvl_protobuf_text_end(const char *text, size_t length);

/* (type, table) → bytes; (type, bytes) → table */
int rvl_protobuf_encode_call(lua_State *L);
int rvl_protobuf_decode_call(lua_State *L);

#endif
