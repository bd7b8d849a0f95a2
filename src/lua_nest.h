/* What the two parts of riverlua.core.nest share: lua_nest.c (any value), lua_datum.c (columns of a datum). */
#ifndef RVL_LUA_NEST_H
#define RVL_LUA_NEST_H

#include "array.h"
#include "nest.h"

/*
** Writes, or measures, the value at the index; raises unless it is an array, a string, a number, a boolean, a list or a
** dict (a table whose metatable has the list of its keys as `__nest`). Calls no metamethods and allocates nothing.
** Upvalue 2 is the string "__nest".
*/
void rvl_nest_put_value(lua_State *L, rvl_nest_writer *w, int index, int depth);

/*
** Calls `put` first to measure and then to write into a block that is used again and again, and pushes the bytes. `put`
** returns false when it has pushed a complaint, which is all there is then. Upvalue 1 is the block.
*/
typedef bool rvl_nest_put(lua_State *L, rvl_nest_writer *w, void *context);
bool rvl_nest_make(lua_State *L, rvl_nest_put *put, void *context);

/* columns(entries, tokens) → bytes; or nil, number of an entry, complaint: see lua_datum.c */
int rvl_datum_columns(lua_State *L);
/* size(entries, tokens) → bytes that these take; or nil, number of an entry, complaint */
int rvl_datum_size(lua_State *L);
/*
** block{entries, tokens, size, entries, tokens, size, …} → a block with all of them as the field 1 of a message that
** holds messages whose field 1 they are; or nil, number of an entry, complaint, number of the datum
*/
int rvl_datum_block(lua_State *L);
/* Puts the table of rules into the module on top. */
void rvl_datum_rules(lua_State *L);

#endif
