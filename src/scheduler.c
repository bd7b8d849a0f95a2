/* Contexts, signals and the two ways to wait: yielding and running the loop. See runtime.h. */
#include "runtime.h"
#include "scheduler.h"

/* Pumps inside pumps use C stack; deeper ones only do input and output and leave tasks to the outer ones. */
#define MAX_PUMP_DEPTH 16

/* ---- signals -------------------------------------------------------------------------------------- */

static void enlist(rvl_context *c, rvl_signal *s) {
  c->waiting_on = s;
  c->next = NULL;
  c->previous = s->last;
  if (s->last != NULL) s->last->next = c;
  else s->first = c;
  s->last = c;
}

static void delist(rvl_context *c) {
  rvl_signal *s = c->waiting_on;
  if (s == NULL) return;
  if (c->previous != NULL) c->previous->next = c->next;
  else s->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  else s->last = c->previous;
  c->waiting_on = NULL;
}

void rvl_context_make_ready(rvl_context *c) {
  rvl_runtime *rt = c->rt;
  if (c->ready) return;
  c->ready = true;
  c->ready_turn = rt->turn;
  c->ready_previous = rt->ready_last;
  c->ready_next = NULL;
  if (rt->ready_last != NULL) rt->ready_last->ready_next = c;
  else rt->ready_first = c;
  rt->ready_last = c;
}

static void unready(rvl_context *c) {
  rvl_runtime *rt = c->rt;
  if (!c->ready) return;
  if (c->ready_previous != NULL) c->ready_previous->ready_next = c->ready_next;
  else rt->ready_first = c->ready_next;
  if (c->ready_next != NULL) c->ready_next->ready_previous = c->ready_previous;
  else rt->ready_last = c->ready_previous;
  c->ready = false;
}

void rvl_context_wake(rvl_context *c, rvl_wake_reason reason) {
  if (!c->waiting) return;
  delist(c);
  if (c->timer.slot != 0) rvl_timer_stop(&c->rt->loop, &c->timer);
  c->waiting = false;
  c->woken = reason;
  if (!c->pumping) rvl_context_make_ready(c);
}

void rvl_context_forget(rvl_context *c) {
  delist(c);
  unready(c);   /* cancelled before it first ran */
  if (c->timer.slot != 0) rvl_timer_stop(&c->rt->loop, &c->timer);
  c->waiting = false;
}

void rvl_signal_fire(rvl_signal *s) {
  while (s->first != NULL) rvl_context_wake(s->first, RVL_WOKEN_SIGNAL);
}

bool rvl_signal_fire_one(rvl_signal *s) {
  if (s->first == NULL) return false;
  rvl_context_wake(s->first, RVL_WOKEN_SIGNAL);
  return true;
}

void rvl_signal_detach(rvl_signal *s) {
  while (s->first != NULL) delist(s->first);
}

/* ---- coroutines ----------------------------------------------------------------------------------- */

int rvl_resume(rvl_runtime *rt, lua_State *co, lua_State *from, int nargs, int *nresults) {
  rvl_frame frame = {co, rt->frame};
  rt->frame = &frame;
  int status = lua_resume(co, from, nargs, nresults);
  rt->frame = frame.previous;
  if (rt->hooked) rvl_runtime_set_hook(rt);   /* the coroutine may have ended before its hook was called */
  return status;
}

bool rvl_is_blocked(lua_State *co, const rvl_runtime *rt, int nresults) {
  if (nresults != 1 || lua_touserdata(co, -1) != (const void *)rt || !lua_islightuserdata(co, -1)) return false;
  lua_pop(co, 1);
  return true;
}

/* ---- waiting -------------------------------------------------------------------------------------- */

static void run_ready(lua_State *L, rvl_runtime *rt) {
  uint64_t turn = rt->turn++;   /* those made ready meanwhile take their turn after the loop's */
  while (rt->ready_first != NULL && rt->ready_first->ready_turn <= turn) {
    rvl_context *c = rt->ready_first;
    unready(c);
    rvl_task_run(L, c);
  }
}

static bool can_be_woken(const rvl_runtime *rt) {
  return rt->loop.heap_count > rt->loop.background || rt->pending > 0;
}

/* Runs the loop until the context is woken. */
static void pump(lua_State *L, rvl_runtime *rt, rvl_context *c) {
  c->pumping = true;
  rt->pump_depth++;
  bool runs_tasks = rt->pump_depth <= MAX_PUMP_DEPTH;
  while (c->waiting) {
    if (atomic_load(&rt->interrupted)) {
      rvl_context_wake(c, RVL_WOKEN_CANCEL);
      break;
    }
    if (runs_tasks) run_ready(L, rt);
    if (!c->waiting) break;
    bool idle = rt->ready_first == NULL || !runs_tasks;
    if (idle && !can_be_woken(rt)) rvl_context_wake(c, RVL_WOKEN_STUCK);
    else rvl_loop_step(&rt->loop, idle);
  }
  /* what woke the script may itself have been stopped by the interrupt */
  if (c == &rt->script && atomic_load(&rt->interrupted)) c->woken = RVL_WOKEN_CANCEL;
  rt->pump_depth--;
  c->pumping = false;
}

int rvl_wait_on(lua_State *L, rvl_runtime *rt, lua_KContext ctx, lua_KFunction k) {
  rvl_context *c = rt->current;
  if (!c->waiting) return k(L, LUA_YIELD, ctx);
  if (rt->frame != NULL && rt->frame->L == L && lua_isyieldable(L)) {
    lua_pushlightuserdata(L, rt);
    return lua_yieldk(L, 1, ctx, k);
  }
  pump(L, rt, c);
  return k(L, LUA_YIELD, ctx);
}

static void on_wait_due(rvl_timer *timer) {
  rvl_context_wake((rvl_context *)(void *)((char *)timer - offsetof(rvl_context, timer)), RVL_WOKEN_TIMER);
}

int rvl_wait(lua_State *L, rvl_runtime *rt, rvl_signal *signal, lua_Number seconds, lua_KContext ctx,
             lua_KFunction k) {
  rvl_context *c = rt->current;
  luaL_checkstack(L, LUA_MINSTACK, "cannot wait");   /* also for running tasks meanwhile */
  rvl_loop *loop = rvl_runtime_loop(L, rt);
  c->woken = RVL_WOKEN_NOT;
  c->blocked = L;
  if (c->cancel_pending) {
    c->cancel_pending = false;
    c->woken = RVL_WOKEN_CANCEL;
    return k(L, LUA_YIELD, ctx);
  }
  if (seconds >= 0) {
    c->timer.fire = on_wait_due;
    uint64_t ns = seconds < 9e9 ? (uint64_t)(seconds * 1e9) : UINT64_C(9000000000000000000);
    if (!rvl_timer_start(loop, &c->timer, rvl_now() + ns)) return luaL_error(L, "not enough memory");
  }
  c->waiting = true;
  if (signal != NULL) enlist(c, signal);
  return rvl_wait_on(L, rt, ctx, k);
}

rvl_wake_reason rvl_woken(lua_State *L, rvl_runtime *rt) {
  rvl_context *c = rt->current;
  if (c->blocked != L) luaL_error(L, "a coroutine that waits in one task cannot be resumed by another");
  if (c->woken == RVL_WOKEN_STUCK)
    rvl_raise(L, "deadlock", "something else must put to the queue, release the semaphore or end the task waited for",
              "this call would wait for ever: no task, timer or transfer is left that could end it");
  if (c->woken == RVL_WOKEN_CANCEL) {
    if (rvl_runtime_take_interrupt(rt)) rvl_raise(L, "interrupted", NULL, "interrupted");
    rvl_task_raise_cancelled(L, c);
  }
  return c->woken;
}

lua_Number rvl_seconds_until(uint64_t due) {
  uint64_t now = rvl_now();
  if (due == 0) return -1;
  return due > now ? (lua_Number)(due - now) / 1e9 : 0;
}

int rvl_wait_counted(lua_State *L, rvl_wait_count *w, rvl_signal *signal, lua_Number seconds, lua_KContext ctx,
                     lua_KFunction k) {
  w->count++;
  w->rt->pending++;
  return rvl_wait(L, w->rt, signal, seconds, ctx, k);
}

rvl_wake_reason rvl_waited(lua_State *L, rvl_wait_count *w) {
  w->count--;
  w->rt->pending--;
  return rvl_woken(L, w->rt);
}

void rvl_forget_waiting(rvl_wait_count *w) {
  w->rt->pending -= w->count;
  w->count = 0;
}
