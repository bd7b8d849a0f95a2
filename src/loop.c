#include "loop.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000u

uint64_t rvl_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void place(rvl_loop *loop, rvl_timer *timer, size_t i) {
  loop->heap[i] = timer;
  timer->slot = i + 1;
}

static void sift_up(rvl_loop *loop, size_t i) {
  rvl_timer *timer = loop->heap[i];
  while (i > 0) {
    size_t parent = (i - 1) / 2;
    if (loop->heap[parent]->due <= timer->due) break;
    place(loop, loop->heap[parent], i);
    i = parent;
  }
  place(loop, timer, i);
}

static void sift_down(rvl_loop *loop, size_t i) {
  rvl_timer *timer = loop->heap[i];
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= loop->heap_count) break;
    if (child + 1 < loop->heap_count && loop->heap[child + 1]->due < loop->heap[child]->due) child++;
    if (timer->due <= loop->heap[child]->due) break;
    place(loop, loop->heap[child], i);
    i = child;
  }
  place(loop, timer, i);
}

bool rvl_timer_start(rvl_loop *loop, rvl_timer *timer, uint64_t due) {
  if (timer->slot != 0) {
    bool later = due > timer->due;
    timer->due = due;
    if (later) sift_down(loop, timer->slot - 1);
    else sift_up(loop, timer->slot - 1);
    return true;
  }
  if (loop->heap_count == loop->heap_room) {
    size_t room = loop->heap_room == 0 ? 16 : loop->heap_room * 2;
    rvl_timer **heap = realloc(loop->heap, room * sizeof *heap);
    if (heap == NULL) return false;
    loop->heap = heap;
    loop->heap_room = room;
  }
  timer->due = due;
  loop->heap[loop->heap_count++] = timer;
  sift_up(loop, loop->heap_count - 1);
  return true;
}

void rvl_timer_stop(rvl_loop *loop, rvl_timer *timer) {
  if (timer->slot == 0) return;
  size_t i = timer->slot - 1;
  rvl_timer *last = loop->heap[--loop->heap_count];
  timer->slot = 0;
  if (last == timer) return;
  place(loop, last, i);
  sift_up(loop, i);
  sift_down(loop, last->slot - 1);
}

static void fire_due(rvl_loop *loop) {
  if (loop->heap_count == 0) return;
  uint64_t now = rvl_now();
  while (loop->heap_count > 0 && loop->heap[0]->due <= now) {
    rvl_timer *timer = loop->heap[0];
    rvl_timer_stop(loop, timer);
    timer->fire(timer);
  }
}

/*
** Its only work is to end the wait: fire_due looks at the heap. libuv before 1.45 runs timers that are due before it
** polls, and would then poll without a limit; uv_stop makes that poll return at once.
*/
static void on_alarm(uv_timer_t *alarm) {
  rvl_loop *loop = alarm->data;
  loop->alarm_due = 0;
  uv_stop(&loop->uv);
}

static void on_wake(uv_async_t *wake) { (void)wake; }

static void set_alarm(rvl_loop *loop) {
  uint64_t due = loop->heap_count > 0 ? loop->heap[0]->due : 0;
  if (due == 0 || due == loop->alarm_due) {
    if (due == 0 && loop->alarm_due != 0) {
      uv_timer_stop(&loop->alarm);
      loop->alarm_due = 0;
    }
    return;
  }
  /* An alarm that rings early costs one look; moving it for every request would cost more. */
  if (loop->alarm_due != 0 && loop->alarm_due < due) return;
  uint64_t now = rvl_now();
  uint64_t ms = due > now ? (due - now + NS_PER_MS - 1) / NS_PER_MS : 0;
  uv_update_time(&loop->uv);
  uv_timer_start(&loop->alarm, on_alarm, ms, 0);
  loop->alarm_due = due;
}

/* A page that a fork empties: asking for the process id would be a system call for every request. */
static unsigned char *new_fork_mark(void) {
  size_t size = (size_t)sysconf(_SC_PAGESIZE);
  unsigned char *mark = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mark == MAP_FAILED) return NULL;
  if (madvise(mark, size, MADV_WIPEONFORK) != 0) {
    munmap(mark, size);
    return NULL;
  }
  *mark = 1;
  return mark;
}

bool rvl_loop_is_forked(const rvl_loop *loop) { return *loop->fork_mark == 0; }

int rvl_loop_init(rvl_loop *loop) {
  *loop = (rvl_loop){0};
  loop->fork_mark = new_fork_mark();
  if (loop->fork_mark == NULL) return UV_ENOMEM;
  int err = uv_loop_init(&loop->uv);
  if (err != 0) {
    munmap(loop->fork_mark, (size_t)sysconf(_SC_PAGESIZE));
    return err;
  }
  uv_timer_init(&loop->uv, &loop->alarm);
  loop->alarm.data = loop;
  err = uv_async_init(&loop->uv, &loop->wake, on_wake);
  if (err != 0) {
    uv_close((uv_handle_t *)&loop->alarm, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    uv_loop_close(&loop->uv);
    munmap(loop->fork_mark, (size_t)sysconf(_SC_PAGESIZE));
  }
  return err;
}

void rvl_loop_close(rvl_loop *loop) {
  uv_close((uv_handle_t *)&loop->alarm, NULL);
  uv_close((uv_handle_t *)&loop->wake, NULL);
  uv_run(&loop->uv, UV_RUN_DEFAULT);
  uv_loop_close(&loop->uv);
  munmap(loop->fork_mark, (size_t)sysconf(_SC_PAGESIZE));
  for (size_t i = 0; i < loop->heap_count; i++) loop->heap[i]->slot = 0;
  free(loop->heap);
  loop->heap = NULL;
  loop->heap_count = 0;
}

void rvl_loop_step(rvl_loop *loop, bool block) {
  if (block) set_alarm(loop);
  uv_run(&loop->uv, block ? UV_RUN_ONCE : UV_RUN_NOWAIT);
  fire_due(loop);
}

void rvl_loop_wake(rvl_loop *loop) { uv_async_send(&loop->wake); }
