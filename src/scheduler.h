/* Between scheduler.c, which knows contexts, and lua_task.c, which knows that some of them are tasks. */
#ifndef RVL_SCHEDULER_H
#define RVL_SCHEDULER_H

#include "runtime.h"

void rvl_context_wake(rvl_context *context, rvl_wake_reason reason);
void rvl_context_make_ready(rvl_context *context);
/* Takes a context off every list, because its memory goes away. */
void rvl_context_forget(rvl_context *context);

/* Starts or resumes the task of a ready context. */
void rvl_task_run(lua_State *L, rvl_context *context);
/* Raises what the context was cancelled with. */
int rvl_task_raise_cancelled(lua_State *L, rvl_context *context);

#endif
