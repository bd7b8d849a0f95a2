/* The first pass over a table: checks it, and plans what to write. See protobuf_plan.h. */
#include "protobuf_plan.h"
#include "runtime.h"

#include <string.h>

enum {
  LARGE = 16384,          /* bytes of a string that is joined rather than written */
  KEPT_AT_MOST = 65536    /* bytes of each memory that stay for the next message */
};

/* ---- memory ------------------------------------------------------------------------------------------ */

bool rvl_pb_reserve(rvl_pb_encoder *e, rvl_protobuf_memory *m, size_t room) {
  if (room <= m->room) return true;
  if (room > SIZE_MAX / 2) return false;
  if (room < 2 * m->room) room = 2 * m->room;
  void *context;
  lua_Alloc allocate = lua_getallocf(e->L, &context);
  void *data = allocate(context, m->data, m->data != NULL ? m->room : 0, room);
  if (data == NULL) return false;
  *m = (rvl_protobuf_memory){data, room};
  return true;
}

static void trim(lua_State *L, rvl_protobuf_memory *m) {
  if (m->room <= KEPT_AT_MOST) return;
  void *context;
  lua_Alloc allocate = lua_getallocf(L, &context);
  allocate(context, m->data, m->room, 0);
  *m = (rvl_protobuf_memory){0};
}

void rvl_pb_finish(rvl_pb_encoder *e) {
  for (; e->anchored > 0; e->anchored--) {
    lua_pushboolean(e->L, 0);
    lua_rawseti(e->L, e->anchors, (lua_Integer)e->anchored);
  }
  trim(e->L, &e->codec->plan);
  trim(e->L, &e->codec->scratch);
  trim(e->L, &e->codec->out);
}

static rvl_pb_op *at(rvl_pb_encoder *e, uint32_t index) {
  return index != 0 ? (rvl_pb_op *)e->codec->plan.data + index : &e->spare;
}

/* ---- chains ------------------------------------------------------------------------------------------ */

/* Adds an operation to the end of a chain. */
static uint32_t add(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *field, rvl_pb_op_kind kind,
                    size_t size) {
  size_t whole = size;
  if (kind != RVL_PB_OP_RAW) whole += field->tag_length;
  if (kind != RVL_PB_OP_RAW && kind != RVL_PB_OP_SCALAR) whole += rvl_varint_size(size);
  c->size += whole;
  if (c->size > RVL_PROTOBUF_LARGEST)
    rvl_pb_fail(e, NULL, "limit", NULL, "a message of protobuf has less than 2 GiB");
  size_t room = ((size_t)e->count + 1) * sizeof(rvl_pb_op);
  if (e->starved || e->count == UINT32_MAX || !rvl_pb_reserve(e, &e->codec->plan, room)) {
    e->starved = true;
    return 0;
  }
  uint32_t index = e->count++;
  *at(e, index) = (rvl_pb_op){.field = field, .size = size, .kind = kind};
  if (c->last != 0) at(e, c->last)->next = index;
  else c->first = index;
  c->last = index;
  return index;
}

/* Puts the operations of one field where its number belongs. */
static void splice_in(rvl_pb_encoder *e, rvl_pb_chain *whole, rvl_pb_chain part, const rvl_protobuf_field *field) {
  whole->size += part.size;
  if (whole->size > RVL_PROTOBUF_LARGEST)
    rvl_pb_fail(e, NULL, "limit", NULL, "a message of protobuf has less than 2 GiB");
  if (part.first == 0 || e->starved) return;
  if (whole->first == 0 || field < at(e, whole->first)->field) {
    at(e, part.last)->next = whole->first;
    whole->first = part.first;
    if (whole->last == 0) whole->last = part.last;
    return;
  }
  uint32_t before = whole->last;
  if (field < at(e, before)->field) {
    before = whole->first;
    while (at(e, at(e, before)->next)->field < field) before = at(e, before)->next;
  }
  at(e, part.last)->next = at(e, before)->next;
  at(e, before)->next = part.first;
  if (whole->last == before) whole->last = part.last;
}

/* Room for so many bytes at the end of the scratch memory. */
static uint8_t *scratch(rvl_pb_encoder *e, size_t room) {
  if (!rvl_pb_reserve(e, &e->codec->scratch, e->scratch_length + room)) {
    e->starved = true;
    return NULL;
  }
  return (uint8_t *)e->codec->scratch.data + e->scratch_length;
}

/* ---- lists of scalars -------------------------------------------------------------------------------- */

static void plan_array(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, const rvl_array *a,
                       const rvl_protobuf_frame *frame) {
  size_t size = 0;
  if (a->length == 0) return;
  if (a->columns != 0) rvl_pb_fail(e, frame, "argument", NULL, "a list is wanted, got a matrix");
  if (rvl_pb_is_same_in_memory(f, a)) {
    size = a->length * rvl_dtype_size(a->dtype);
  } else {
    for (size_t i = 0; i < a->length; i++) {
      uint64_t bits;
      rvl_protobuf_frame element = {frame->up, f, (lua_Integer)i + 1, 0};
      if (!rvl_pb_array_bits(f, a, i, &bits)) rvl_pb_fail_element(e, f, a, i, &element);
      size += rvl_pb_scalar_size(f, bits);
    }
  }
  if (f->packed) {
    uint32_t index = add(e, c, f, RVL_PB_OP_ARRAY, size);
    at(e, index)->is.bytes = a;
    return;
  }
  size += a->length * f->tag_length;
  uint32_t index = add(e, c, f, RVL_PB_OP_RAW, size);
  at(e, index)->is.offset = e->scratch_length;
  uint8_t *out = scratch(e, size);
  if (out == NULL) return;
  for (size_t i = 0; i < a->length; i++) {
    uint64_t bits = 0;
    rvl_pb_array_bits(f, a, i, &bits);
    memcpy(out, f->tag, f->tag_length);
    out = rvl_pb_put_scalar(out + f->tag_length, f, bits);
  }
  e->scratch_length += size;
}

/* Raises unless the table at an index has the keys 1 to `length` and no others. */
static void check_list(rvl_pb_encoder *e, int index, lua_Integer length, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (length > 0) lua_pushinteger(L, length);
  else lua_pushnil(L);
  if (lua_next(L, index) == 0) return;   /* the last one in the part that is an array: the rule */
  lua_pop(L, 2);
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    lua_pop(L, 1);
    if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= length) continue;
    const char *shown = lua_type(L, -1) == LUA_TSTRING ? lua_pushfstring(L, "'%s'", lua_tostring(L, -1))
                                                       : rvl_pb_push_shown(L, -1);
    rvl_pb_fail(e, frame, "argument", NULL, "a list without holes is wanted, got a table with the key %s", shown);
  }
}

static void plan_scalars(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, int index,
                         lua_Integer length, const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  size_t start = e->scratch_length;
  size_t prefix = f->packed ? 0 : f->tag_length;
  rvl_protobuf_frame element = {frame->up, f, 0, 0};
  for (lua_Integer i = 1; i <= length; i++) {
    element.index = i;
    lua_rawgeti(L, index, i);
    uint64_t bits = rvl_pb_scalar_bits(e, f, lua_gettop(L), &element);
    lua_pop(L, 1);
    uint8_t *out = scratch(e, RVL_TAG_MAX + RVL_VARINT_MAX);
    if (out == NULL) return;
    memcpy(out, f->tag, prefix);
    e->scratch_length += (size_t)(rvl_pb_put_scalar(out + prefix, f, bits) - out);
  }
  uint32_t added = add(e, c, f, f->packed ? RVL_PB_OP_PACKED : RVL_PB_OP_RAW, e->scratch_length - start);
  at(e, added)->is.offset = start;
}

/* ---- everything else --------------------------------------------------------------------------------- */

static rvl_pb_chain plan_message(rvl_pb_encoder *e, const rvl_protobuf_type *type, int index,
                                 const rvl_protobuf_frame *up);

static void plan_bytes(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, int index,
                       const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (lua_type(L, index) != LUA_TSTRING) rvl_pb_fail_type(e, frame, "a string", index);
  size_t length;
  const char *bytes = lua_tolstring(L, index, &length);
  if (f->kind == RVL_PB_STRING) {
    size_t end = rvl_protobuf_text_end(bytes, length);
    if (end < length)
      rvl_pb_fail(e, frame, "argument", "only fields of the type bytes take any bytes",
                  "a text in UTF-8 is wanted; byte %I is none", (LUAI_UACINT)end + 1);
  }
  bool large = length >= LARGE && e->anchored < RVL_PB_MOST_ANCHORS;
  uint32_t added = add(e, c, f, large ? RVL_PB_OP_LARGE : RVL_PB_OP_BYTES, length);
  at(e, added)->is.bytes = bytes;
  if (!large) return;
  lua_pushvalue(L, index);
  lua_rawseti(L, e->anchors, (lua_Integer)++e->anchored);   /* there is room */
  at(e, added)->inner = e->anchored;
}

static void enter(rvl_pb_encoder *e, const rvl_protobuf_frame *frame) {
  if (++e->depth > RVL_PROTOBUF_DEPTH)
    rvl_pb_fail(e, frame, "argument", "does a table contain itself?", "messages are nested more than %d deep",
                RVL_PROTOBUF_DEPTH);
  if (!lua_checkstack(e->L, 24)) rvl_pb_fail(e, frame, "memory", NULL, "no room for more levels");
}

/* One value that is no list, whatever it is: zero too. */
static void plan_value(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, int index,
                       const rvl_protobuf_frame *frame) {
  if (f->kind == RVL_PB_MESSAGE) {
    if (lua_type(e->L, index) != LUA_TTABLE) rvl_pb_fail_type(e, frame, "a table", index);
    enter(e, frame);
    rvl_pb_chain inner = plan_message(e, f->message, index, frame);
    e->depth--;
    uint32_t added = add(e, c, f, RVL_PB_OP_MESSAGE, inner.size);
    at(e, added)->inner = inner.first;
  } else if (f->wire == RVL_WIRE_BYTES) {
    plan_bytes(e, c, f, index, frame);
  } else {
    uint64_t bits = rvl_pb_scalar_bits(e, f, index, frame);
    uint32_t added = add(e, c, f, RVL_PB_OP_SCALAR, rvl_pb_scalar_size(f, bits));
    at(e, added)->is.bits = bits;
  }
}

static void plan_list(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, int index,
                      const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  if (lua_type(L, index) == LUA_TUSERDATA && f->wire != RVL_WIRE_BYTES) {
    const rvl_array *a = rvl_array_test(L, index);
    if (a != NULL) {
      plan_array(e, c, f, a, frame);
      return;
    }
  }
  if (lua_type(L, index) != LUA_TTABLE) rvl_pb_fail_type(e, frame, "a list", index);
  lua_Integer length = (lua_Integer)lua_rawlen(L, index);
  check_list(e, index, length, frame);
  if (length == 0) return;
  if (f->wire != RVL_WIRE_BYTES) {
    plan_scalars(e, c, f, index, length, frame);
    return;
  }
  rvl_protobuf_frame element = {frame->up, f, 0, 0};
  for (lua_Integer i = 1; i <= length; i++) {
    element.index = i;
    lua_rawgeti(L, index, i);
    plan_value(e, c, f, lua_gettop(L), &element);
    lua_pop(L, 1);
  }
}

/* ---- maps -------------------------------------------------------------------------------------------- */

/* Whether the key of entry a comes before that of b. */
static bool is_before(rvl_pb_encoder *e, uint32_t a, uint32_t b) {
  const rvl_pb_op *x = at(e, at(e, a)->inner), *y = at(e, at(e, b)->inner);
  const rvl_protobuf_field *f = x->field;
  if (f->wire == RVL_WIRE_BYTES) {
    int order = memcmp(x->is.bytes, y->is.bytes, x->size < y->size ? x->size : y->size);
    return order != 0 ? order < 0 : x->size < y->size;
  }
  if (f->zigzag) return rvl_unzigzag(x->is.bits) < rvl_unzigzag(y->is.bits);
  if (f->kind == RVL_PB_INT32 || f->kind == RVL_PB_INT64) return (int64_t)x->is.bits < (int64_t)y->is.bits;
  return x->is.bits < y->is.bits;
}

/* Sorts the first `count` entries from `first` on and cuts the rest off. */
static rvl_pb_chain sort_entries(rvl_pb_encoder *e, uint32_t first, size_t count) {
  if (count == 1) {
    at(e, first)->next = 0;
    return (rvl_pb_chain){first, first, 0};
  }
  uint32_t middle = first;
  for (size_t i = 0; i < count / 2; i++) middle = at(e, middle)->next;
  rvl_pb_chain left = sort_entries(e, first, count / 2), right = sort_entries(e, middle, count - count / 2);
  rvl_pb_chain sorted = {0};
  uint32_t a = left.first, b = right.first;
  while (a != 0 || b != 0) {
    uint32_t *from = b == 0 || (a != 0 && !is_before(e, b, a)) ? &a : &b;
    uint32_t taken = *from;
    *from = at(e, taken)->next;
    if (sorted.last != 0) at(e, sorted.last)->next = taken;
    else sorted.first = taken;
    sorted.last = taken;
  }
  return sorted;
}

/* Entries have both their fields on the wire, zero or not, as other writers of protobuf do it. */
static void plan_map(rvl_pb_encoder *e, rvl_pb_chain *c, const rvl_protobuf_field *f, int index,
                     const rvl_protobuf_frame *frame) {
  lua_State *L = e->L;
  const rvl_protobuf_field *fields = f->message->fields;
  if (lua_type(L, index) != LUA_TTABLE) rvl_pb_fail_type(e, frame, "a table", index);
  enter(e, frame);
  rvl_pb_chain entries = {0};
  size_t count = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    int value = lua_gettop(L);
    rvl_protobuf_frame entry = {frame->up, f, 0, value - 1};
    rvl_pb_chain inner = {0};
    plan_value(e, &inner, &fields[0], value - 1, &entry);
    plan_value(e, &inner, &fields[1], value, &entry);
    uint32_t added = add(e, &entries, f, RVL_PB_OP_MESSAGE, inner.size);
    at(e, added)->inner = inner.first;
    lua_pop(L, 1);
    count++;
  }
  e->depth--;
  if (count > 0 && !e->starved) {
    rvl_pb_chain sorted = sort_entries(e, entries.first, count);
    c->first = sorted.first;
    c->last = sorted.last;
  }
  c->size = entries.size;
}

/* ---- messages ---------------------------------------------------------------------------------------- */

/* The field that the key at an index names; NULL: there is none. */
static const rvl_protobuf_field *field_of(lua_State *L, const rvl_protobuf_type *type, int key) {
  if (lua_type(L, key) != LUA_TSTRING) return NULL;
  size_t length;
  const char *name = lua_tolstring(L, key, &length);
  for (size_t slot = (size_t)((uintptr_t)name >> 3) & type->mask; type->slots[slot].name != NULL;
       slot = (slot + 1) & type->mask)
    if (type->slots[slot].name == name) return &type->fields[type->slots[slot].field];
  if (strlen(name) != length) return NULL;   /* long names are not one string in Lua */
  const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field_by_name(type->descriptor, name);
  return d != NULL ? &type->fields[d - type->descriptor->fields] : NULL;
}

/* Raises when the table has another member of the oneof. */
static void check_oneof(rvl_pb_encoder *e, const rvl_protobuf_type *type, const rvl_protobuf_field *f, int index,
                        const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  for (uint32_t i = f->oneof_next; &type->fields[i] != f; i = type->fields[i].oneof_next) {
    lua_getiuservalue(L, e->type, RVL_PB_TYPE_NAMES);   /* the same for all types */
    lua_rawgeti(L, -1, type->names + (lua_Integer)i);
    if (lua_rawget(L, index) != LUA_TNIL) {
      const char *a = f->descriptor->name, *b = type->fields[i].descriptor->name;
      rvl_pb_fail(e, up, "argument", NULL, "'%s' and '%s' exclude each other (a oneof)", f < &type->fields[i] ? a : b,
                  f < &type->fields[i] ? b : a);
    }
    lua_pop(L, 2);
  }
}

static void check_required(rvl_pb_encoder *e, const rvl_protobuf_type *type, int index, const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  for (uint32_t i = 0; i < type->count; i++) {
    if (!type->fields[i].required) continue;
    lua_getiuservalue(L, e->type, RVL_PB_TYPE_NAMES);
    lua_rawgeti(L, -1, type->names + (lua_Integer)i);
    if (lua_rawget(L, index) == LUA_TNIL) {
      rvl_protobuf_frame missing = {up, &type->fields[i], 0, 0};
      rvl_pb_fail(e, &missing, "argument", NULL, "is required by %s", type->descriptor->name);
    }
    lua_pop(L, 2);
  }
}

static rvl_pb_chain plan_field(rvl_pb_encoder *e, const rvl_protobuf_field *f, int index,
                               const rvl_protobuf_frame *frame) {
  rvl_pb_chain c = {0};
  if (f->map) {
    plan_map(e, &c, f, index, frame);
  } else if (f->repeated) {
    plan_list(e, &c, f, index, frame);
  } else if (f->implicit && f->wire != RVL_WIRE_BYTES) {
    uint64_t bits = rvl_pb_scalar_bits(e, f, index, frame);
    if (bits != 0) {
      uint32_t added = add(e, &c, f, RVL_PB_OP_SCALAR, rvl_pb_scalar_size(f, bits));
      at(e, added)->is.bits = bits;
    }
  } else if (!f->implicit || lua_type(e->L, index) != LUA_TSTRING || lua_rawlen(e->L, index) > 0) {
    plan_value(e, &c, f, index, frame);
  }
  return c;
}

/* The table at `index`, which is absolute. */
static rvl_pb_chain plan_message(rvl_pb_encoder *e, const rvl_protobuf_type *type, int index,
                                 const rvl_protobuf_frame *up) {
  lua_State *L = e->L;
  rvl_pb_chain whole = {0};
  uint32_t required = 0;
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    int value = lua_gettop(L);
    const rvl_protobuf_field *f = field_of(L, type, value - 1);
    if (f == NULL) rvl_pb_fail_field(e, type, up, value - 1);
    if (&type->fields[f->oneof_next] != f) check_oneof(e, type, f, index, up);
    required += f->required;
    rvl_protobuf_frame frame = {up, f, 0, 0};
    splice_in(e, &whole, plan_field(e, f, value, &frame), f);
    lua_pop(L, 1);
  }
  if (required < type->required) check_required(e, type, index, up);
  return whole;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

rvl_pb_chain rvl_pb_plan(rvl_pb_encoder *e, int index) {
  lua_State *L = e->L;
  luaL_checkstack(L, 24, NULL);
  if (lua_type(L, index) != LUA_TTABLE) rvl_pb_fail_type(e, NULL, "a table", index);
  for (int attempt = 0; attempt < 2; attempt++) {
    e->starved = false;
    e->count = 1;   /* 0 stands for none */
    e->scratch_length = 0;
    rvl_pb_chain whole = plan_message(e, e->root, index, NULL);
    if (!e->starved) return whole;
    rvl_pb_finish(e);
    if (attempt == 0) lua_gc(L, LUA_GCCOLLECT);
  }
  rvl_pb_fail_memory(e);
}
