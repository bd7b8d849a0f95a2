/*
** riverlua.core.gzip: gzip files inflated piece by piece.
**
** inflater() makes an object: feed(bytes) hands over the next piece, read() gives decompressed bytes until there are
** none for now, finish() raises unless the input ended where a member ends. Output comes in pieces of bounded size,
** however small the input that unfolds into it.
*/
#include "runtime.h"

#include <zlib.h>

#define INFLATER "riverlua.gzip.Inflater"

enum { PIECE = 1 << 16, LONGEST_INPUT = 1 << 30, GZIP_ONLY = 15 + 16 };

typedef struct inflater {
  z_stream z;
  bool open;
  bool inside;    /* a member has begun and not ended */
  bool members;   /* at least one has ended */
  bool failed;
} inflater;

static inflater *check(lua_State *L) {
  inflater *f = luaL_checkudata(L, 1, INFLATER);
  if (!f->open) rvl_raise(L, "closed", NULL, "gzip: the inflater has been closed");
  return f;
}

static int inflater_close(lua_State *L) {
  inflater *f = luaL_checkudata(L, 1, INFLATER);
  if (f->open) inflateEnd(&f->z);
  f->open = false;
  return 0;
}

static int inflater_new(lua_State *L) {
  inflater *f = lua_newuserdatauv(L, sizeof *f, 1);
  *f = (inflater){.open = false};
  luaL_setmetatable(L, INFLATER);
  if (inflateInit2(&f->z, GZIP_ONLY) != Z_OK) return rvl_raise(L, "memory", NULL, "gzip: not enough memory");
  f->open = true;
  return 1;
}

/* feed(bytes): what was fed before must have been read */
static int inflater_feed(lua_State *L) {
  inflater *f = check(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  luaL_argcheck(L, length <= LONGEST_INPUT, 2, "too long");
  luaL_argcheck(L, f->z.avail_in == 0, 2, "read what was fed first");
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, 1);   /* the input stays alive while it is read */
  f->z.next_in = (z_const Bytef *)bytes;
  f->z.avail_in = (uInt)length;
  return 0;
}

static int fail(lua_State *L, inflater *f, const char *what) {
  f->failed = true;
  return rvl_raise(L, "protocol", "is it a gzip file, and whole?", "gzip: %s", what);
}

/* At the end of a member: its padding is skipped, another one is made ready. */
static void between_members(inflater *f) {
  while (f->members && f->z.avail_in > 0 && *f->z.next_in == 0) {
    f->z.next_in++;
    f->z.avail_in--;
  }
  if (f->z.avail_in > 0) {
    if (f->members) inflateReset(&f->z);
    f->inside = true;
  }
}

/* read() → bytes, or nil when more input is needed */
static int inflater_read(lua_State *L) {
  inflater *f = check(L);
  if (f->failed) return fail(L, f, "the data are damaged");
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, PIECE);
  f->z.next_out = (Bytef *)out;
  f->z.avail_out = PIECE;
  while (f->z.avail_out > 0) {
    if (!f->inside) between_members(f);
    if (!f->inside) break;
    int status = inflate(&f->z, Z_NO_FLUSH);
    if (status == Z_STREAM_END) {
      f->inside = false;
      f->members = true;
    } else if (status == Z_BUF_ERROR) {   /* neither more input nor room: not an error */
      break;
    } else if (status == Z_MEM_ERROR) {
      return rvl_raise(L, "memory", NULL, "gzip: not enough memory");
    } else if (status != Z_OK) {
      return fail(L, f, f->members || f->z.total_out > 0 ? "the data are damaged" : "these are no gzip data");
    }
  }
  size_t length = PIECE - f->z.avail_out;
  luaL_pushresultsize(&buffer, length);
  if (length == 0) lua_pushnil(L);
  return 1;
}

/* finish(): raises when the input is not the whole of a file */
static int inflater_finish(lua_State *L) {
  inflater *f = check(L);
  if (f->failed) return fail(L, f, "the data are damaged");
  if (f->inside || !f->members) return fail(L, f, "the data are cut off");
  return 0;
}

static const luaL_Reg methods[] = {{"feed", inflater_feed},   {"read", inflater_read}, {"finish", inflater_finish},
                                   {"close", inflater_close}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__gc", inflater_close}, {"__close", inflater_close}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"inflater", inflater_new}, {NULL, NULL}};

int rvl_open_gzip(lua_State *L) {
  rvl_new_class(L, INFLATER, methods, metamethods);
  rvl_new_functions(L, functions);
  return 1;
}
