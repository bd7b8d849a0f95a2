/*
** The terminal: what it is, how wide it is, and line editing for the interactive mode.
**
** Line editing is libedit's (BSD), loaded with dlopen when an editor is made, so that nothing else pays for
** it and no header of it is needed to build. Without the library, terminal.editor returns nil and the caller
** reads plain lines. Nothing is kept in globals: libedit hands our object back as client data.
**
** An editor waits for input in one place, read_char. It calls the Lua function `wait` (protected) when nothing
** is there to read, which lets the loop run the script's tasks meanwhile; an error of `wait`, such as an
** interrupt, ends the line that is being edited.
*/
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#include <lauxlib.h>
#include <lua.h>

int rvl_open_terminal(lua_State *L);

/* ---------------------------------------------------------------------------------------------------------
** libedit's interface, as far as it is used (histedit.h)
*/

typedef struct editline EditLine;
typedef struct history History;
typedef struct { int num; const char *str; } HistEvent;
typedef struct { const char *buffer; const char *cursor; const char *lastchar; } LineInfo;

typedef char *(*prompt_function)(EditLine *);
typedef unsigned char (*key_function)(EditLine *, int);
typedef int (*read_function)(EditLine *, wchar_t *);
typedef int (*history_function)(History *, HistEvent *, int, ...);

enum { EL_PROMPT = 0, EL_EDITOR = 2, EL_SIGNAL = 3, EL_BIND = 4, EL_ADDFN = 9, EL_HIST = 10, EL_GETCFN = 13,
       EL_CLIENTDATA = 14, EL_PREP_TERM = 16 };
enum { CC_REFRESH = 4, CC_ERROR = 6, CC_REDISPLAY = 8 };
enum { H_SETSIZE = 1, H_ENTER = 10, H_SETUNIQUE = 20 };

typedef struct library {
  void *handle;
  EditLine *(*init)(const char *, FILE *, FILE *, FILE *);
  void (*end)(EditLine *);
  const char *(*gets)(EditLine *, int *);
  int (*set)(EditLine *, int, ...);
  int (*wset)(EditLine *, int, ...);
  int (*get)(EditLine *, int, ...);
  void (*resize)(EditLine *);
  const LineInfo *(*line)(EditLine *);
  int (*insert)(EditLine *, const char *);
  int (*source)(EditLine *, const char *);
  History *(*history_init)(void);
  void (*history_end)(History *);
  history_function history;
} library;

typedef struct editor {
  library lib;
  EditLine *el;
  History *history;
  lua_State *L;        /* the state that called read; NULL outside of it */
  const char *prompt;  /* anchored on the stack of L while reading */
  int columns, rows;   /* the window as last seen */
  int interrupted;     /* a signal or an error of `wait` ended the line */
  int failed;          /* the value at index ERROR_SLOT is an error of `wait` */
} editor;

#define EDITOR "riverlua.terminal.editor"

/* Stack of editor_read: self, prompt, wait, complete, and room for an error. */
enum { SELF_SLOT = 1, PROMPT_SLOT = 2, WAIT_SLOT = 3, COMPLETE_SLOT = 4, ERROR_SLOT = 5 };

static const char *const library_names[] = {"libedit.so.2", "libedit.so.0", "libedit.so", NULL};

/* Looks a function up. memcpy, since C11 has no cast from an object pointer to a function pointer. */
static int find_symbol(void *handle, const char *name, void *function, size_t size) {
  void *symbol = dlsym(handle, name);
  if (symbol == NULL) return 0;
  memcpy(function, &symbol, size);
  return 1;
}

#define FIND(field, name) find_symbol(lib->handle, name, &lib->field, sizeof(lib->field))

static int load_library(library *lib) {
  int i;
  /* It stays loaded: the terminal library below it keeps memory of its own, which a second editor uses again. */
  for (i = 0; library_names[i] != NULL && lib->handle == NULL; i++)
    lib->handle = dlopen(library_names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (lib->handle == NULL) return 0;
  if (FIND(init, "el_init") && FIND(end, "el_end") && FIND(gets, "el_gets") && FIND(set, "el_set") &&
      FIND(wset, "el_wset") && FIND(get, "el_get") && FIND(resize, "el_resize") && FIND(line, "el_line") &&
      FIND(insert, "el_insertstr") && FIND(source, "el_source") &&
      FIND(history_init, "history_init") && FIND(history_end, "history_end") && FIND(history, "history"))
    return 1;
  dlclose(lib->handle);
  lib->handle = NULL;
  return 0;
}

/* The editor that a callback belongs to. Its client data can only be asked for with a function of the library. */
static editor *editor_of(EditLine *el) {
  int (*get)(EditLine *, int, ...);
  void *data = NULL, *handle = NULL;
  int i;
  for (i = 0; library_names[i] != NULL && handle == NULL; i++)
    handle = dlopen(library_names[i], RTLD_NOW | RTLD_NOLOAD);
  if (handle == NULL) return NULL;
  if (find_symbol(handle, "el_get", &get, sizeof(get))) get(el, EL_CLIENTDATA, &data);
  dlclose(handle); /* the editor holds another reference */
  return (editor *)data;
}

/* ---------------------------------------------------------------------------------------------------------
** Callbacks of libedit. None of them may raise a Lua error: what can is done under lua_pcall, and pushing a
** plain C function or a light userdata does not allocate.
*/

static char *show_prompt(EditLine *el) {
  static const char none[] = "";
  editor *ed = editor_of(el);
  const char *prompt = ed != NULL && ed->prompt != NULL ? ed->prompt : none;
  return (char *)(size_t)prompt; /* libedit takes it without const and only reads */
}

/* Waits until the standard input has something. Returns 0 when the line has to end instead. */
static int wait_for_input(editor *ed) {
  struct pollfd input = {STDIN_FILENO, POLLIN, 0};
  lua_State *L = ed->L;
  if (poll(&input, 1, 0) > 0) return 1;
  if (lua_isnil(L, WAIT_SLOT)) {
    if (poll(&input, 1, -1) > 0) return 1;
    ed->interrupted = 1;
    return 0;
  }
  lua_pushvalue(L, WAIT_SLOT);
  lua_pushinteger(L, STDIN_FILENO);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return 1;
  lua_replace(L, ERROR_SLOT);
  ed->interrupted = ed->failed = 1;
  return 0;
}

/* A window that changed its size while a line is being edited: the signal for it is left to the host. */
static void follow_size(editor *ed) {
  struct winsize size;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return;
  if (size.ws_col == ed->columns && size.ws_row == ed->rows) return;
  ed->columns = size.ws_col;
  ed->rows = size.ws_row;
  ed->lib.resize(ed->el);
}

/* Reads one character, in as many bytes as the locale's encoding takes. */
static int read_char(EditLine *el, wchar_t *out) {
  editor *ed = editor_of(el);
  mbstate_t state;
  int tries;
  if (ed == NULL || ed->L == NULL) return -1;
  memset(&state, 0, sizeof(state));
  for (tries = 0; tries < 64;) {
    char byte;
    ssize_t got;
    size_t length;
    if (!wait_for_input(ed)) {
      errno = EINTR;
      return -1;
    }
    follow_size(ed);
    got = read(STDIN_FILENO, &byte, 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return (int)got;
    length = mbrtowc(out, &byte, 1, &state);
    if (length == 0) *out = L'\0';
    if (length != (size_t)-1 && length != (size_t)-2) return 1;
    if (length == (size_t)-1) memset(&state, 0, sizeof(state)); /* no character: drop it */
    tries++;
  }
  return -1;
}

/* Asks the Lua function `complete(text before the cursor)` what to insert and what to list. */
static int complete_protected(lua_State *L) {
  editor *ed = (editor *)lua_touserdata(L, 1);
  const LineInfo *line = ed->lib.line(ed->el);
  const char *text;
  lua_settop(L, 2); /* the editor, the function */
  lua_pushlstring(L, line->buffer, (size_t)(line->cursor - line->buffer));
  lua_call(L, 1, 2);
  text = lua_tostring(L, -2);
  if (text != NULL && *text != '\0') ed->lib.insert(ed->el, text);
  if (lua_isstring(L, -1)) {
    fprintf(stdout, "\n%s\n", lua_tostring(L, -1));
    fflush(stdout);
    lua_pushboolean(L, 1);
  } else {
    lua_pushboolean(L, 0);
  }
  return 1;
}

static unsigned char complete_key(EditLine *el, int key) {
  editor *ed = editor_of(el);
  unsigned char result = CC_ERROR; /* a beep */
  lua_State *L;
  (void)key;
  if (ed == NULL || ed->L == NULL || lua_isnil(ed->L, COMPLETE_SLOT)) return result;
  L = ed->L;
  lua_pushcfunction(L, complete_protected);
  lua_pushlightuserdata(L, ed);
  lua_pushvalue(L, COMPLETE_SLOT);
  if (lua_pcall(L, 2, 1, 0) == LUA_OK) result = lua_toboolean(L, -1) ? CC_REDISPLAY : CC_REFRESH;
  lua_pop(L, 1);
  return result;
}

/* ---------------------------------------------------------------------------------------------------------
** The editor as a Lua object
*/

static editor *check_editor(lua_State *L) {
  editor *ed = (editor *)luaL_checkudata(L, SELF_SLOT, EDITOR);
  if (ed->el == NULL) luaL_error(L, "attempt to use a closed editor");
  return ed;
}

/* Also while a line is read: os.exit in a task closes the state, and the terminal must get its mode back. */
static int editor_free(lua_State *L) {
  editor *ed = (editor *)luaL_checkudata(L, SELF_SLOT, EDITOR);
  if (ed->el != NULL) ed->lib.end(ed->el);
  ed->el = NULL;
  if (ed->history != NULL) ed->lib.history_end(ed->history);
  ed->history = NULL;
  if (ed->lib.handle != NULL) dlclose(ed->lib.handle);
  ed->lib.handle = NULL;
  return 0;
}

static int editor_close(lua_State *L) {
  const editor *ed = (const editor *)luaL_checkudata(L, SELF_SLOT, EDITOR);
  if (ed->L != NULL) return luaL_error(L, "attempt to close an editor that is reading");
  return editor_free(L);
}

static int editor_tostring(lua_State *L) {
  const editor *ed = (const editor *)luaL_checkudata(L, SELF_SLOT, EDITOR);
  lua_pushstring(L, ed->el != NULL ? "riverlua.terminal.editor" : "riverlua.terminal.editor (closed)");
  return 1;
}

static void bind_keys(editor *ed) {
  static const char *const keys[][2] = {
    {"^I", "rvl-complete"},       {"^R", "em-inc-search-prev"},   {"\\e[1~", "ed-move-to-beg"},
    {"\\e[4~", "ed-move-to-end"}, {"\\e[H", "ed-move-to-beg"},    {"\\e[F", "ed-move-to-end"},
    {"\\e[3~", "ed-delete-next-char"}, {"\\e[1;5D", "ed-prev-word"}, {"\\e[1;5C", "em-next-word"},
  };
  size_t i;
  for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
    ed->lib.set(ed->el, EL_BIND, keys[i][0], keys[i][1], (char *)NULL);
}

/* editor() → an editor on the standard streams, or nil when there is no libedit or no terminal. */
static int terminal_editor(lua_State *L) {
  editor *ed;
  HistEvent event;
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return 0;
  ed = (editor *)lua_newuserdatauv(L, sizeof(*ed), 0);
  memset(ed, 0, sizeof(*ed));
  luaL_setmetatable(L, EDITOR);
  if (!load_library(&ed->lib)) return 0;
  ed->history = ed->lib.history_init();
  ed->el = ed->lib.init("riverlua", stdin, stdout, stderr);
  if (ed->el == NULL || ed->history == NULL) return 0; /* __gc frees what there is */
  ed->lib.set(ed->el, EL_CLIENTDATA, (void *)ed);
  ed->lib.set(ed->el, EL_PROMPT, (prompt_function)show_prompt);
  ed->lib.set(ed->el, EL_EDITOR, "emacs");
  ed->lib.set(ed->el, EL_SIGNAL, 0);
  ed->lib.set(ed->el, EL_GETCFN, (read_function)read_char);
  ed->lib.history(ed->history, &event, H_SETSIZE, 1000);
  ed->lib.history(ed->history, &event, H_SETUNIQUE, 1);
  ed->lib.set(ed->el, EL_HIST, ed->lib.history, (void *)ed->history);
  /* The names are kept, not copied; el_set would copy them and never free the copies. */
  ed->lib.wset(ed->el, EL_ADDFN, L"rvl-complete", L"complete a name", (key_function)complete_key);
  bind_keys(ed);
  ed->lib.source(ed->el, NULL); /* the user's ~/.editrc comes last */
  return 1;
}

/*
** editor:read(prompt, wait, complete) → the line without its end; nil at the end of the input;
** nil, "interrupted"[, error] when a signal or an error of wait came between.
*/
static int editor_read(lua_State *L) {
  editor *ed = check_editor(L);
  const char *line;
  int count = 0;
  if (ed->L != NULL) return luaL_error(L, "the editor is already reading");
  luaL_checkstring(L, PROMPT_SLOT);
  lua_settop(L, ERROR_SLOT);
  luaL_checkstack(L, LUA_MINSTACK, "no room to read a line");
  ed->prompt = lua_tostring(L, PROMPT_SLOT);
  ed->interrupted = ed->failed = 0;
  ed->L = L;
  ed->lib.set(ed->el, EL_PREP_TERM, 1); /* before the prompt shows: a key pressed early must not be lost */
  line = ed->lib.gets(ed->el, &count);
  ed->L = NULL;
  ed->prompt = NULL;
  if (ed->interrupted) {
    lua_pushnil(L);
    lua_pushliteral(L, "interrupted");
    if (!ed->failed) return 2;
    lua_pushvalue(L, ERROR_SLOT);
    return 3;
  }
  if (line == NULL || count <= 0) return 0;
  if (line[count - 1] == '\n') count--;
  lua_pushlstring(L, line, (size_t)count);
  return 1;
}

/* editor:add(line): one more line of history. */
static int editor_add(lua_State *L) {
  editor *ed = check_editor(L);
  const char *line = luaL_checkstring(L, 2);
  HistEvent event;
  ed->lib.history(ed->history, &event, H_ENTER, line);
  return 0;
}

/* ---------------------------------------------------------------------------------------------------------
** Functions of the module
*/

/* isatty(fd) */
static int terminal_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* size(fd) → columns, rows; nil when fd is no terminal or does not know. */
static int terminal_size(lua_State *L) {
  struct winsize size;
  if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  lua_pushinteger(L, size.ws_row);
  return 2;
}

/* clock() → seconds on the monotonic clock, from an arbitrary start. */
static int terminal_clock(lua_State *L) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return luaL_fileresult(L, 0, NULL);
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec * 1e-9);
  return 1;
}

/* make_folder(path) → true, or nil, message, errno. For the user alone; the folder may exist already. */
static int terminal_make_folder(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  return luaL_fileresult(L, mkdir(path, S_IRWXU) == 0 || errno == EEXIST, path);
}

/* write_private(path, text, append) → true, or nil, message, errno. A new file is readable by the user alone. */
static int terminal_write_private(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  size_t length, done = 0;
  const char *text = luaL_checklstring(L, 2, &length);
  int how = O_WRONLY | O_CREAT | O_CLOEXEC | (lua_toboolean(L, 3) ? O_APPEND : O_TRUNC);
  int fd = open(path, how, S_IRUSR | S_IWUSR);
  int failed = 0;
  if (fd < 0) return luaL_fileresult(L, 0, path);
  while (done < length && !failed) {
    ssize_t wrote = write(fd, text + done, length - done);
    if (wrote > 0) done += (size_t)wrote;
    else if (errno != EINTR) failed = errno;
  }
  if (close(fd) != 0 && !failed) failed = errno;
  errno = failed;
  return luaL_fileresult(L, !failed, path);
}

int rvl_open_terminal(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"isatty", terminal_isatty},
    {"size", terminal_size},
    {"clock", terminal_clock},
    {"editor", terminal_editor},
    {"make_folder", terminal_make_folder},
    {"write_private", terminal_write_private},
    {NULL, NULL},
  };
  static const luaL_Reg methods[] = {
    {"read", editor_read},
    {"add", editor_add},
    {"close", editor_close},
    {"__gc", editor_free},
    {"__close", editor_close},
    {"__tostring", editor_tostring},
    {NULL, NULL},
  };
  luaL_newmetatable(L, EDITOR);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
