/*
** riverlua.core.digest: hashes, HMAC, base64 and random bytes for lua/riverlua/digest.lua.
** The algorithms are nettle's; the random bytes come from the system.
*/
#include "nettle_digest.h"
#include "runtime.h"

#include <errno.h>
#include <nettle/base64.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <sys/random.h>

#define MOST_RANDOM 65536

static int sha1(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  struct sha1_ctx ctx;
  uint8_t out[SHA1_DIGEST_SIZE];
  sha1_init(&ctx);
  sha1_update(&ctx, length, (const uint8_t *)bytes);
  RVL_END_DIGEST(sha1_digest, &ctx, out);
  lua_pushlstring(L, (const char *)out, sizeof out);
  return 1;
}

static int sha256(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  struct sha256_ctx ctx;
  uint8_t out[SHA256_DIGEST_SIZE];
  sha256_init(&ctx);
  sha256_update(&ctx, length, (const uint8_t *)bytes);
  RVL_END_DIGEST(sha256_digest, &ctx, out);
  lua_pushlstring(L, (const char *)out, sizeof out);
  return 1;
}

/* hmac_sha256(key, bytes) */
static int hmac_sha256(lua_State *L) {
  size_t key_length, length;
  const char *key = luaL_checklstring(L, 1, &key_length);
  const char *bytes = luaL_checklstring(L, 2, &length);
  struct hmac_sha256_ctx ctx;
  uint8_t out[SHA256_DIGEST_SIZE];
  hmac_sha256_set_key(&ctx, key_length, (const uint8_t *)key);
  hmac_sha256_update(&ctx, length, (const uint8_t *)bytes);
  RVL_END_DIGEST(hmac_sha256_digest, &ctx, out);
  lua_pushlstring(L, (const char *)out, sizeof out);
  return 1;
}

/* equal(a, b) → whether they are the same bytes; takes as long wherever they differ */
static int equal(lua_State *L) {
  size_t a_length, b_length;
  const char *a = luaL_checklstring(L, 1, &a_length);
  const char *b = luaL_checklstring(L, 2, &b_length);
  lua_pushboolean(L, a_length == b_length && memeql_sec(a, b, a_length));
  return 1;
}

static int to_base64(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length < SIZE_MAX / 2, 1, "too long");
  luaL_Buffer out;
  size_t room = BASE64_ENCODE_RAW_LENGTH(length);
  base64_encode_raw(luaL_buffinitsize(L, &out, room), length, (const uint8_t *)bytes);
  luaL_pushresultsize(&out, room);
  return 1;
}

/* from_base64(text) → bytes, or nil when it is not base64; white space between is skipped */
static int from_base64(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  luaL_Buffer out;
  size_t size = BASE64_DECODE_LENGTH(length);
  uint8_t *room = (uint8_t *)luaL_buffinitsize(L, &out, size);
  struct base64_decode_ctx ctx;
  base64_decode_init(&ctx);
  if (!base64_decode_update(&ctx, &size, room, length, text) || !base64_decode_final(&ctx)) {
    lua_pushnil(L);
    return 1;
  }
  luaL_pushresultsize(&out, size);
  return 1;
}

/* random(n) → n bytes nobody can foresee */
static int random_bytes(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 0 && n <= MOST_RANDOM, 1, "between 0 and 65536");
  luaL_Buffer out;
  char *room = luaL_buffinitsize(L, &out, (size_t)n);
  for (size_t had = 0; had < (size_t)n;) {
    ssize_t got = getrandom(room + had, (size_t)n - had, 0);
    if (got < 0 && errno != EINTR) return rvl_raise(L, "unsupported", NULL, "the system gives no random bytes");
    if (got > 0) had += (size_t)got;
  }
  luaL_pushresultsize(&out, (size_t)n);
  return 1;
}

int rvl_open_digest(lua_State *L) {
  static const luaL_Reg functions[] = {{"sha1", sha1},           {"sha256", sha256},         {"hmac_sha256", hmac_sha256},
                                       {"equal", equal},         {"to_base64", to_base64},   {"from_base64", from_base64},
                                       {"random", random_bytes}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
