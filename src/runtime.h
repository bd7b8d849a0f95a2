/*
** The Lua side of a runtime: one per lua_State. Scheduler, loop and what the bindings share.
**
** A *context* is a line of execution that can block: the script itself or a task. Blocking code waits for
** a *signal*. Inside a task it yields, and the scheduler resumes it when the signal has fired; where Lua cannot
** yield (the script itself, require, sort, gsub, metamethods called from C) it runs the loop until then.
*/
#ifndef RVL_RUNTIME_H
#define RVL_RUNTIME_H

#include "loop.h"

#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#define RVL_SIGNAL "riverlua.Signal"
#define RVL_TASK "riverlua.Task"

typedef struct rvl_context rvl_context;

/* What contexts wait for. Zero-initialised: nobody waits. */
typedef struct rvl_signal {
  rvl_context *first, *last;
} rvl_signal;

typedef enum rvl_wake_reason {
  RVL_WOKEN_NOT,
  RVL_WOKEN_SIGNAL,
  RVL_WOKEN_TIMER,
  RVL_WOKEN_CANCEL,
  RVL_WOKEN_STUCK                    /* nothing is left that could fire the signal */
} rvl_wake_reason;

struct rvl_context {
  rvl_signal *waiting_on;
  rvl_context *previous, *next;      /* others waiting for the same signal */
  rvl_timer timer;
  rvl_wake_reason woken;
  bool waiting;
  bool pumping;                      /* waits by running the loop itself: must not be resumed */
  bool cancel_pending;               /* asked to stop while it was not waiting */
  bool ready;                        /* in the ready queue */
  uint64_t ready_turn;
  rvl_context *ready_previous, *ready_next;
  struct rvl_runtime *rt;
  lua_State *blocked;                /* the coroutine whose call waits, for reports */
};

/* A coroutine that the scheduler or coroutine.resume runs. */
typedef struct rvl_frame {
  lua_State *L;
  struct rvl_frame *previous;
} rvl_frame;

typedef struct rvl_runtime {
  lua_State *L;                      /* the main thread */
  rvl_loop loop;
  atomic_bool loop_open;             /* other threads look before they wake the loop */
  struct rvl_curl_api *curl;         /* NULL until the first client is made */
  struct rvl_wslay_api *wslay;       /* NULL until the first WebSocket is opened */
  struct rvl_heartbeat_box *heartbeats;   /* those whose threads run; see lua_heartbeat.c */
  struct rvl_engine_box *engines;         /* the same; see lua_trainer.c */
  rvl_context script;                /* task 0 */
  rvl_context *current;
  rvl_frame *frame;                  /* innermost running coroutine; NULL: the main thread */
  rvl_context *ready_first, *ready_last;
  uint64_t turn;
  size_t live_tasks;                 /* spawned and not ended */
  rvl_signal all_done;               /* fires when there are none, or one */
  lua_Integer spawned;
  size_t pending;                    /* transfers under way: something will wake the loop */
  int pump_depth;
  bool command;                      /* runs the riverlua command: the process is ours, its signals too */
  bool closing;                      /* Lua runs no finalizers for what is made from now on */
  atomic_bool interrupted;
  atomic_bool stopping;              /* the script has been told; the call into the runtime has not returned */
  volatile sig_atomic_t hooked;      /* a hook is set that will tell it */
} rvl_runtime;

/* The runtime of a state: created on first use. */
rvl_runtime *rvl_runtime_of(lua_State *L);
/* The runtime of a C function made by rvl_new_functions. */
#define rvl_upvalue_runtime(L) ((rvl_runtime *)lua_touserdata(L, lua_upvalueindex(1)))
/* Pushes a table of functions, each with the runtime as upvalue 1. */
void rvl_new_functions(lua_State *L, const luaL_Reg *functions);
/* Makes a metatable whose methods and metamethods have the runtime as upvalue 1. */
void rvl_new_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods);

/* The loop, opened on first use; raises when that fails or the process was forked. */
rvl_loop *rvl_runtime_loop(lua_State *L, rvl_runtime *rt);

/* Raises kind "closed" while the state is being closed: what it guards would never be freed. */
void rvl_runtime_check_open(lua_State *L, const rvl_runtime *rt);

/* Raises riverlua.errors.new{kind=, message=, hint=}; `hint` may be NULL. */
int rvl_raise(lua_State *L, const char *kind, const char *hint, const char *format, ...);
/* Pushes that error instead. */
void rvl_push_error(lua_State *L, const char *kind, const char *hint, const char *message);

/*
** Waits until `signal` fires (NULL: only the deadline ends it), `seconds` have passed (negative: never) or the
** context is cancelled; then goes on in `k`, which must begin with rvl_woken. Use: return rvl_wait(…).
*/
int rvl_wait(lua_State *L, rvl_runtime *rt, rvl_signal *signal, lua_Number seconds, lua_KContext ctx, lua_KFunction k);
/* How long it is until then, for rvl_wait; 0: never. */
lua_Number rvl_seconds_until(uint64_t due);
/* Why the wait ended; raises when it was cancelled or interrupted. */
rvl_wake_reason rvl_woken(lua_State *L, rvl_runtime *rt);

/*
** For waits that sockets end: one who waits counts as something that will wake the loop, until he is woken or
** forgotten. rvl_wait_counted is rvl_wait, and rvl_waited stands for rvl_woken in its `k`.
*/
typedef struct rvl_wait_count {
  rvl_runtime *rt;
  size_t count;
} rvl_wait_count;
int rvl_wait_counted(lua_State *L, rvl_wait_count *waiting, rvl_signal *signal, lua_Number seconds, lua_KContext ctx,
                     lua_KFunction k);
rvl_wake_reason rvl_waited(lua_State *L, rvl_wait_count *waiting);
void rvl_forget_waiting(rvl_wait_count *waiting);

/* Wakes everybody (or the one that has waited longest). */
void rvl_signal_fire(rvl_signal *signal);
bool rvl_signal_fire_one(rvl_signal *signal);

/* A function of riverlua.core.task: see lua_readable.c */
int rvl_wait_readable(lua_State *L);

/* The open client at a stack index, from riverlua.core.transfer: see lua_transfer.c */
struct rvl_net *rvl_check_net(lua_State *L, int index);

/* Part of riverlua.core.listener: see lua_signals.c */
int rvl_signals_new(lua_State *L);
void rvl_open_signals(lua_State *L);

/* Forgets the waiters of a signal whose memory goes away. */
void rvl_signal_detach(rvl_signal *signal);

/* Asks the running code to stop; `same_thread`: called by a signal handler on the runtime's thread. */
void rvl_runtime_interrupt(rvl_runtime *rt, bool same_thread);
/* Makes the coroutine that runs now look for an interrupt. */
void rvl_runtime_set_hook(rvl_runtime *rt);
/* Whether an interrupt is to be raised in the current context. */
bool rvl_runtime_take_interrupt(rvl_runtime *rt);

/* For coroutine.resume with the blocked calls of tasks passing through: see lua_standard.c */
/* Resumes `co`, keeping the chain of running coroutines. */
int rvl_resume(rvl_runtime *rt, lua_State *co, lua_State *from, int nargs, int *nresults);
/* Whether `co`, having yielded, waits in rvl_wait; takes the mark off its stack. */
bool rvl_is_blocked(lua_State *co, const rvl_runtime *rt, int nresults);
/* Goes on in `k` when the current context has been woken; on behalf of a coroutine inside it. */
int rvl_wait_on(lua_State *L, rvl_runtime *rt, lua_KContext ctx, lua_KFunction k);

/* Cancels the tasks that are left and waits for their ends; a lua_CFunction. */
int rvl_end_tasks(lua_State *L);

/* Ends the threads of heartbeats, and those of trainers: before the process ends under them. */
void rvl_heartbeats_stop(rvl_runtime *rt);
void rvl_engines_stop(rvl_runtime *rt);

/* (main function, arguments) → exit code: runs the command line; see lua_command.c */
int rvl_command_run(lua_State *L);

/* Openers of the modules riverlua.core.*, and the searcher that finds them and the embedded Lua files. */
int rvl_open_task(lua_State *L);
int rvl_open_transfer(lua_State *L);
int rvl_open_json(lua_State *L);
int rvl_open_terminal(lua_State *L);
int rvl_open_runtime(lua_State *L);
int rvl_open_heartbeat(lua_State *L);
int rvl_open_river(lua_State *L);
int rvl_open_gzip(lua_State *L);
int rvl_open_listener(lua_State *L);
int rvl_open_folder(lua_State *L);
int rvl_open_math(lua_State *L);
int rvl_open_digest(lua_State *L);
int rvl_open_websocket(lua_State *L);
int rvl_open_regex(lua_State *L);
int rvl_open_grpc(lua_State *L);
int rvl_open_grpc_server(lua_State *L);
int rvl_open_protobuf(lua_State *L);
int rvl_open_array(lua_State *L);
int rvl_open_nest(lua_State *L);
int rvl_open_block(lua_State *L);
int rvl_open_trainer(lua_State *L);
void rvl_open_standard(lua_State *L);
void rvl_open_searcher(lua_State *L);
int rvl_is_embedded(lua_State *L);

#endif
