/*
** riverlua: Lua 5.4 with clients for online learning, AI gateways and LLM training.
** The one public header. Everything a host needs is declared here.
**
** Threads: a runtime belongs to the thread that uses it; different runtimes may live on different
** threads. riverlua_interrupt and riverlua_wake are the only calls that another thread or a signal
** handler may make.
** The library never prints (scripts do), exits, aborts or installs signal handlers.
*/
#ifndef RIVERLUA_H
#define RIVERLUA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RIVERLUA_VERSION_MAJOR 0
#define RIVERLUA_VERSION_MINOR 1
#define RIVERLUA_VERSION_PATCH 0
#define RIVERLUA_VERSION "0.1.0"
#define RIVERLUA_VERSION_NUMBER \
  (RIVERLUA_VERSION_MAJOR * 1000000 + RIVERLUA_VERSION_MINOR * 1000 + RIVERLUA_VERSION_PATCH)

#if defined(__GNUC__)
#define RIVERLUA_API __attribute__((visibility("default")))
#else
#define RIVERLUA_API
#endif

struct lua_State;

/* An interpreter with its loop, connections and tasks. */
typedef struct riverlua riverlua;

/* What a call came to. */
typedef enum riverlua_status {
  RIVERLUA_OK = 0,
  RIVERLUA_ERROR = 1,       /* the script failed: see riverlua_error_message */
  RIVERLUA_OUT_OF_MEMORY = 2,
  RIVERLUA_INTERRUPTED = 3  /* riverlua_interrupt stopped it */
} riverlua_status;

/*
** Settings of a runtime; copied by riverlua_new. Call riverlua_config_init first: it fills in the
** defaults, so that fields added later keep their meaning for hosts compiled earlier.
*/
typedef struct riverlua_config {
  size_t size;               /* sizeof(riverlua_config), set by riverlua_config_init */
  int ignore_environment;    /* non-zero: LUA_PATH, LUA_CPATH and LUA_INIT are not read. Default 0 */
  size_t memory_limit;       /* bytes that Lua may hold; 0 (default): no limit */
  void *user_data;           /* returned by riverlua_user_data. Default NULL */
} riverlua_config;

RIVERLUA_API void riverlua_config_init(riverlua_config *config);

/* Version of the library in use, as RIVERLUA_VERSION_NUMBER and as text. Any thread. */
RIVERLUA_API int riverlua_version_number(void);
RIVERLUA_API const char *riverlua_version(void);

/*
** Makes a runtime with the standard libraries and all modules of riverlua. `config` may be NULL
** (all defaults). Returns NULL when memory runs out. The caller owns it: riverlua_close frees it.
*/
RIVERLUA_API riverlua *riverlua_new(const riverlua_config *config);

/*
** Gives the modules of riverlua, and coroutine functions that tasks can block through, to a lua_State of the
** host's own with the standard libraries open. Raises a Lua error when memory runs out. Returns 0.
*/
RIVERLUA_API int riverlua_openlibs(struct lua_State *L);

/*
** Ends all tasks (their <close> handlers run), closes connections and frees the runtime.
** NULL is allowed. Must not be called from inside a call into the same runtime.
*/
RIVERLUA_API void riverlua_close(riverlua *rt);

/*
** Tasks that a call leaves behind stand still until the next call into the runtime waits for something.
*/

/* Runs a Lua file or a piece of Lua source named `name` in messages (NULL: the source itself). */
RIVERLUA_API riverlua_status riverlua_run_file(riverlua *rt, const char *path);
RIVERLUA_API riverlua_status riverlua_run_string(riverlua *rt, const char *source, const char *name);

/*
** Calls the function that the Lua expression `function` names ("score", "my.module.score") with the
** JSON text `arguments` decoded (NULL: no argument) and encodes its first result into `*result`: a
** string owned by the runtime, valid until the next call into it. `result` may be NULL.
*/
RIVERLUA_API riverlua_status riverlua_call_json(riverlua *rt, const char *function, const char *arguments,
                                                const char **result);

/*
** The riverlua command: runs the command line `argv` as `riverlua` does and returns the exit code.
** Messages go to the standard error stream, as a command's do.
*/
RIVERLUA_API int riverlua_command(riverlua *rt, int argc, char **argv);

/*
** The last error of this runtime: one line; its kind ("timeout", "http", …; "lua" for an error raised by
** a script); where it happened. Never NULL; empty when there was none. Valid until the next call.
*/
RIVERLUA_API const char *riverlua_error_message(const riverlua *rt);
RIVERLUA_API const char *riverlua_error_kind(const riverlua *rt);
RIVERLUA_API const char *riverlua_error_traceback(const riverlua *rt);

/*
** Stops the running script at its next chance: its blocking calls and its Lua code raise an error of kind
** "interrupted". Safe in a signal handler that runs on the runtime's own thread; from another thread it
** ends blocking calls, and Lua code at its next blocking call. When nothing runs, the next call is stopped.
*/
RIVERLUA_API void riverlua_interrupt(riverlua *rt);
/* Non-zero from riverlua_interrupt until the call that it stops has returned. Any thread, any signal handler. */
RIVERLUA_API int riverlua_interrupt_pending(const riverlua *rt);

/* Makes a blocking call of the runtime look around once more. Any thread, any signal handler. */
RIVERLUA_API void riverlua_wake(riverlua *rt);

/* The Lua state inside, for hosts that use Lua's own C API. Owned by the runtime. */
RIVERLUA_API struct lua_State *riverlua_state(riverlua *rt);
RIVERLUA_API void *riverlua_user_data(const riverlua *rt);

#ifdef __cplusplus
}
#endif

#endif
