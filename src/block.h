/*
** riverlua.core.block: bytes that lie outside Lua's memory and are sent as they are. A request of a GiB is there once:
** its body is written into a block, and what a message has before and after it is put around it in place.
*/
#ifndef RVL_BLOCK_H
#define RVL_BLOCK_H

#include <lua.h>
#include <stddef.h>

typedef struct rvl_block {
  char *data;
  size_t room;
  size_t start, length;        /* of what is sent */
  size_t body, body_length;    /* of what it was made for */
  size_t readers;              /* that are sending it: until they are done it stays where and as it is */
} rvl_block;

/* Pushes a block whose body has this length and is still to be written. Raises when there is no memory. */
rvl_block *rvl_block_push(lua_State *L, size_t length);

/* NULL: none is at the index. */
rvl_block *rvl_block_test(lua_State *L, int index);

#endif
