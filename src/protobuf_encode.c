/* The second pass: the plan is written. See protobuf_plan.h. */
#include "protobuf_plan.h"
#include "runtime.h"

#include <string.h>

/* ---- writing ----------------------------------------------------------------------------------------- */

/* Where a large string belongs in what was written. */
typedef struct cut {
  size_t offset;
  uint32_t anchor;
} cut;

typedef struct writer {
  const rvl_pb_op *plan;
  const uint8_t *scratch;
  uint8_t *start, *out;
  cut *cuts;
  uint32_t cut_count;
} writer;

static uint8_t *put_array(uint8_t *out, const rvl_pb_op *o) {
  const rvl_array *a = o->is.bytes;
  if (rvl_pb_is_same_in_memory(o->field, a)) {
    memcpy(out, a->data, o->size);
    return out + o->size;
  }
  for (size_t i = 0; i < a->length; i++) {
    uint64_t bits = 0;
    rvl_pb_array_bits(o->field, a, i, &bits);
    out = rvl_pb_put_scalar(out, o->field, bits);
  }
  return out;
}

static uint8_t *put_bytes(uint8_t *out, const void *bytes, size_t length) {
  memcpy(out, bytes, length);
  return out + length;
}

static void write_chain(writer *w, uint32_t first) {
  for (uint32_t i = first; i != 0; i = w->plan[i].next) {
    const rvl_pb_op *o = &w->plan[i];
    if (o->kind != RVL_PB_OP_RAW) w->out = put_bytes(w->out, o->field->tag, o->field->tag_length);
    if (o->kind != RVL_PB_OP_RAW && o->kind != RVL_PB_OP_SCALAR) w->out = rvl_put_varint(w->out, o->size);
    switch (o->kind) {
      case RVL_PB_OP_SCALAR: w->out = rvl_pb_put_scalar(w->out, o->field, o->is.bits); break;
      case RVL_PB_OP_BYTES: w->out = put_bytes(w->out, o->is.bytes, o->size); break;
      case RVL_PB_OP_MESSAGE: write_chain(w, o->inner); break;
      case RVL_PB_OP_ARRAY: w->out = put_array(w->out, o); break;
      case RVL_PB_OP_LARGE: w->cuts[w->cut_count++] = (cut){(size_t)(w->out - w->start), o->inner}; break;
      default: w->out = put_bytes(w->out, w->scratch + o->is.offset, o->size); break;
    }
  }
}

static writer start_writing(const rvl_pb_encoder *e, uint8_t *out, cut *cuts) {
  return (writer){.plan = e->codec->plan.data, .scratch = e->codec->scratch.data, .start = out, .out = out,
                  .cuts = cuts};
}

/* ---- encoding ---------------------------------------------------------------------------------------- */

static size_t large_bytes(const rvl_pb_encoder *e) {
  size_t sum = 0;
  for (uint32_t i = 1; i <= e->anchored; i++) {
    lua_rawgeti(e->L, e->anchors, (lua_Integer)i);
    sum += lua_rawlen(e->L, -1);
    lua_pop(e->L, 1);
  }
  return sum;
}

/* Joins what was written and the large strings that belong between. */
static void push_joined(rvl_pb_encoder *e, const writer *w) {
  lua_State *L = e->L;
  int count = (int)w->cut_count, base = lua_gettop(L);
  size_t length = (size_t)(w->out - w->start);
  if (!lua_checkstack(L, 3 * count + 20)) rvl_pb_fail(e, NULL, "memory", NULL, "no room for the pieces of the message");
  for (int i = 0; i < count; i++) lua_rawgeti(L, e->anchors, (lua_Integer)w->cuts[i].anchor);
  lua_pushlstring(L, (const char *)w->start, length);   /* from here on finalizers may run */
  const char *written = lua_tostring(L, -1);
  size_t done = 0;
  for (int i = 0; i < count; i++) {
    lua_pushlstring(L, written + done, w->cuts[i].offset - done);
    lua_pushvalue(L, base + 1 + i);
    done = w->cuts[i].offset;
  }
  lua_pushlstring(L, written + done, length - done);
  lua_concat(L, 2 * count + 1);
}

/* Plans, and makes room for what is written. */
static rvl_pb_chain plan_in_room(rvl_pb_encoder *e, int index) {
  for (int attempt = 0; attempt < 2; attempt++) {
    rvl_pb_chain whole = rvl_pb_plan(e, index);
    if (rvl_pb_reserve(e, &e->codec->out, whole.size - large_bytes(e))) return whole;
    rvl_pb_finish(e);   /* a plan does not outlive a collection */
    if (attempt == 0) lua_gc(e->L, LUA_GCCOLLECT);
  }
  rvl_pb_fail_memory(e);
}

/* T:encode(table) → bytes */
int rvl_protobuf_encode_call(lua_State *L) {
  cut cuts[RVL_PB_MOST_ANCHORS];
  rvl_pb_encoder e = {.L = L, .root = rvl_protobuf_check(L, 1), .type = 1, .anchors = 4};
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, RVL_PB_TYPE_CODEC);
  e.codec = lua_touserdata(L, 3);
  lua_getiuservalue(L, 3, RVL_PB_ANCHORS);
  rvl_pb_chain whole = plan_in_room(&e, 2);
  writer w = start_writing(&e, e.codec->out.data, cuts);
  write_chain(&w, whole.first);
  if (w.cut_count > 0) push_joined(&e, &w);
  else lua_pushlstring(L, (const char *)w.start, (size_t)(w.out - w.start));
  rvl_pb_finish(&e);
  return 1;
}
