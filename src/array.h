/*
** Compact arrays of numbers for Lua: one element takes its own size instead of a table slot. Vectors, or matrices (and
** what has more dimensions) in row order. Elements are in the machine's order, which is little-endian wherever riverlua
** runs.
*/
#ifndef RVL_ARRAY_H
#define RVL_ARRAY_H

#include "dtype.h"

#include <lua.h>
#include <stdint.h>

#define RVL_ARRAY "riverlua.Array"

typedef struct rvl_array {
  rvl_dtype dtype;
  size_t length;         /* elements in all */
  size_t columns;        /* of a matrix, whose rows are length / columns; 0: a vector */
  void *data;            /* in the same block of memory, or in that of the array whose row this is */
  size_t ndim;           /* 1: a vector, 2: a matrix; 0: a single element */
  const size_t *shape;   /* as many numbers; NULL of a vector */
} rvl_array;

/* Pushes a vector whose elements are not set yet. Raises when there is no memory. */
rvl_array *rvl_array_push(lua_State *L, rvl_dtype dtype, size_t length);
/* The same with any shape, whose product the caller has found to be no more than memory can have. */
rvl_array *rvl_array_push_shape(lua_State *L, rvl_dtype dtype, size_t ndim, const size_t *shape);
/* NULL: the value is no array. */
rvl_array *rvl_array_test(lua_State *L, int index);
/* What # gives: rows of a matrix, elements of a vector. */
size_t rvl_array_rows(const rvl_array *a);
/* Pushes an element as a Lua value. */
void rvl_array_push_element(lua_State *L, const rvl_array *a, size_t i);

/* ---- lists into columns: array_read.c ---- */

/* What is refused beyond what does not fit the type, and what is not. */
enum {
  RVL_READ_FINITE = 1,       /* no NaN, no infinity */
  RVL_READ_NATURAL = 2,      /* nothing below zero */
  RVL_READ_BOOLEANS = 4      /* true and false are 1 and 0 */
};

/*
** Converts the first `count` elements of the table or vector at `index` into `out`. Returns the position of the first
** one that is refused, from 1; 0: there is none. Calls no metamethods and allocates nothing but stack.
*/
size_t rvl_array_read(lua_State *L, int index, size_t count, rvl_dtype dtype, unsigned rules, void *out);
/* The same for the elements from `first` (from 0) of an array. */
size_t rvl_array_convert(const rvl_array *a, size_t first, size_t count, rvl_dtype dtype, unsigned rules, void *out);
/* Pushes what is wrong with that element: "is 0.5, which is not an integer". */
void rvl_array_push_complaint(lua_State *L, int index, size_t position, rvl_dtype dtype, unsigned rules);

/*
** Pushes an array made of the list (of lists), or array, at `index`. False: what is wrong has been pushed instead, with
** where it is: "[17] is nan". May call metamethods of the tables.
*/
bool rvl_array_from(lua_State *L, int index, rvl_dtype dtype, unsigned rules);
/*
** If the table at `index` has metamethods that make it look like a list, puts a plain copy in its place, of what is
** inside as well.
*/
void rvl_array_flatten(lua_State *L, int index);

#endif
