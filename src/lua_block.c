#include "block.h"
#include "runtime.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK "riverlua.Block"

enum { BEFORE = 1024, AFTER = 4096, MOST_VARINT = 10 };   /* room around a body, which grows when it is not enough */

static rvl_block *check_block(lua_State *L) { return luaL_checkudata(L, 1, BLOCK); }

static _Noreturn void fail_memory(lua_State *L) {
  lua_pushliteral(L, "not enough memory");
  lua_error(L);
  __builtin_unreachable();
}

rvl_block *rvl_block_push(lua_State *L, size_t length) {
  if (length > PTRDIFF_MAX - BEFORE - AFTER) fail_memory(L);
  rvl_block *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (rvl_block){.room = BEFORE + length + AFTER, .start = BEFORE, .length = length, .body = BEFORE,
                   .body_length = length};
  luaL_setmetatable(L, BLOCK);
  b->data = malloc(b->room);
  if (b->data == NULL) {   /* Lua itself would do the same before it gave up */
    lua_gc(L, LUA_GCCOLLECT);
    b->data = malloc(b->room);
  }
  if (b->data == NULL) fail_memory(L);
  return b;
}

rvl_block *rvl_block_test(lua_State *L, int index) { return luaL_testudata(L, index, BLOCK); }

static int block_gc(lua_State *L) {
  rvl_block *b = check_block(L);
  if (b->readers > 0) return 0;   /* a reader is younger, and finalized first */
  free(b->data);
  *b = (rvl_block){0};
  return 0;
}

/* Raises while somebody is sending it. */
static void check_unread(lua_State *L, const rvl_block *b, const char *what) {
  if (b->readers > 0)
    rvl_raise(L, "argument", "wait until the call is done, or cancel it", "a block cannot be %s while a call sends it",
              what);
}

/* free(): its memory is given back now, not when it is collected; may be called twice */
static int block_free(lua_State *L) {
  check_unread(L, check_block(L), "freed");
  return block_gc(L);
}

static int block_length(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_block(L)->length);
  return 1;
}

/* sub(i, j) → these bytes as a string; both from 1 on, j may be beyond the end */
static int block_sub(lua_State *L) {
  const rvl_block *b = check_block(L);
  lua_Integer from = luaL_optinteger(L, 2, 1), to = luaL_optinteger(L, 3, (lua_Integer)b->length);
  if (from < 1) from = 1;
  if (to > (lua_Integer)b->length) to = (lua_Integer)b->length;
  if (from > to) lua_pushliteral(L, "");
  else lua_pushlstring(L, b->data + b->start + (from - 1), (size_t)(to - from + 1));
  return 1;
}

/* Room for so much before and after the body. */
static void make_room(lua_State *L, rvl_block *b, size_t before, size_t after) {
  if (before <= b->body && after <= b->room - b->body - b->body_length) return;
  if (before > PTRDIFF_MAX / 4 || after > PTRDIFF_MAX / 4 || b->body_length > PTRDIFF_MAX / 4) fail_memory(L);
  size_t room = before + b->body_length + after;
  char *data = malloc(room);
  if (data == NULL) fail_memory(L);
  memcpy(data + before, b->data + b->body, b->body_length);
  free(b->data);
  b->data = data;
  b->room = room;
  b->body = before;
}

static size_t write_varint(unsigned char *out, uint64_t value) {
  size_t n = 0;
  for (; value >= 0x80; value >>= 7) out[n++] = (unsigned char)(value | 0x80);
  out[n++] = (unsigned char)value;
  return n;
}

/*
** frame(before, rest, after) → the block, which is now the message: `before`, which ends with the tag of a field; the
** length of that field; in the field the body and `rest`; `after`. May be called again.
*/
static int block_frame(lua_State *L) {
  rvl_block *b = check_block(L);
  size_t before_length, rest_length, after_length;
  const char *before = luaL_checklstring(L, 2, &before_length), *rest = luaL_checklstring(L, 3, &rest_length),
             *after = luaL_checklstring(L, 4, &after_length);
  luaL_argcheck(L, b->data != NULL, 1, "the block has been given back");
  check_unread(L, b, "framed");
  unsigned char varint[MOST_VARINT];
  size_t n = write_varint(varint, (uint64_t)(b->body_length + rest_length));
  make_room(L, b, before_length + n, rest_length + after_length);
  b->start = b->body - n - before_length;
  b->length = before_length + n + b->body_length + rest_length + after_length;
  memcpy(b->data + b->start, before, before_length);
  memcpy(b->data + b->start + before_length, varint, n);
  memcpy(b->data + b->body + b->body_length, rest, rest_length);
  memcpy(b->data + b->body + b->body_length + rest_length, after, after_length);
  lua_settop(L, 1);
  return 1;
}

/* is(value) */
static int block_is(lua_State *L) {
  lua_pushboolean(L, rvl_block_test(L, 1) != NULL);
  return 1;
}

int rvl_open_block(lua_State *L) {
  static const luaL_Reg methods[] = {{"sub", block_sub}, {"frame", block_frame}, {"free", block_free}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__len", block_length}, {"__gc", block_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"is", block_is}, {NULL, NULL}};
  rvl_new_class(L, BLOCK, methods, meta);
  rvl_new_functions(L, functions);
  return 1;
}
