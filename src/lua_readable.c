/* core.wait_readable: waits until a file descriptor has something to read, so that tasks go on at a prompt. */
#include "runtime.h"

#include <fcntl.h>
#include <stdlib.h>

#define READABLE "riverlua.Readable"

typedef struct readable {
  uv_poll_t *poll;      /* freed by libuv's close callback; NULL: closed */
  rvl_signal ready;
  rvl_runtime *rt;
} readable;

static void free_poll(uv_handle_t *handle) { free(handle); }

static void stop(readable *r) {
  if (r->poll == NULL) return;
  r->rt->pending--;
  if (rvl_loop_is_forked(&r->rt->loop)) {   /* libuv's epoll is the parent's too */
    r->poll = NULL;
    return;
  }
  r->poll->data = NULL;
  uv_close((uv_handle_t *)r->poll, free_poll);
  r->poll = NULL;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  readable *r = poll->data;
  if (r == NULL) return;
  stop(r);
  rvl_signal_fire(&r->ready);
}

static int readable_gc(lua_State *L) {
  readable *r = luaL_checkudata(L, 1, READABLE);
  stop(r);
  rvl_signal_detach(&r->ready);
  return 0;
}

static int wait_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  readable *r = (readable *)ctx;
  if (r->rt->current->woken != RVL_WOKEN_SIGNAL) stop(r);
  rvl_woken(L, r->rt);
  return 0;
}

/* wait_readable(fd): returns when reading from it will not block */
int rvl_wait_readable(lua_State *L) {
  rvl_runtime *rt = rvl_upvalue_runtime(L);
  int fd = (int)luaL_checkinteger(L, 1);
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  readable *r = lua_newuserdatauv(L, sizeof *r, 0);
  *r = (readable){.rt = rt};
  if (luaL_newmetatable(L, READABLE)) {
    lua_pushcfunction(L, readable_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  uv_poll_t *poll = malloc(sizeof *poll);
  if (poll == NULL) return luaL_error(L, "not enough memory");
  /* libuv makes it non-blocking; a terminal is shared with standard output, which must stay as it was */
  int flags = fcntl(fd, F_GETFL);
  int err = uv_poll_init(&loop->uv, poll, fd);
  if (flags != -1) fcntl(fd, F_SETFL, flags);
  if (err != 0) {   /* a plain file: always ready */
    free(poll);
    return 0;
  }
  poll->data = r;
  r->poll = poll;
  rt->pending++;
  if (uv_poll_start(poll, UV_READABLE, on_readable) != 0) return luaL_error(L, "the file cannot be watched");
  return rvl_wait(L, rt, &r->ready, -1, (lua_KContext)r, wait_k);
}
