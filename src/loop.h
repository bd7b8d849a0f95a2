/*
** The event loop: libuv for sockets and wake-ups, a heap of deadlines on the monotonic clock.
** Knows nothing of Lua. Callbacks run inside rvl_loop_step, on the loop's thread.
*/
#ifndef RVL_LOOP_H
#define RVL_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct rvl_timer rvl_timer;

/* A deadline. Lives in its owner's memory; zero-initialised means not started. */
struct rvl_timer {
  uint64_t due;             /* nanoseconds, rvl_now */
  size_t slot;              /* place in the heap plus one; 0: not started */
  void (*fire)(rvl_timer *timer);
};

typedef struct rvl_loop {
  uv_loop_t uv;
  uv_timer_t alarm;         /* set to the nearest deadline */
  uv_async_t wake;
  rvl_timer **heap;
  size_t heap_count, heap_room;
  size_t background;        /* timers among them that nobody waits for: they keep nothing going */
  uint64_t alarm_due;       /* what `alarm` is set to; 0: stopped */
  unsigned char *fork_mark; /* 1 here, 0 in a child that was forked later */
} rvl_loop;

/* Monotonic nanoseconds. */
uint64_t rvl_now(void);

/* Both return 0 or a libuv error. */
int rvl_loop_init(rvl_loop *loop);
void rvl_loop_close(rvl_loop *loop);

/* Starts or moves a timer; false: no memory. */
bool rvl_timer_start(rvl_loop *loop, rvl_timer *timer, uint64_t due);
void rvl_timer_stop(rvl_loop *loop, rvl_timer *timer);

/* Whether this process was forked from the one that made the loop: its sockets must be left alone. */
bool rvl_loop_is_forked(const rvl_loop *loop);

/* Handles what is due; with `block`, waits for the next event first. */
void rvl_loop_step(rvl_loop *loop, bool block);

/* Makes a blocking step return. Any thread, any signal handler. */
void rvl_loop_wake(rvl_loop *loop);

#endif
