/* riverlua.core.folder: what a program that keeps files safely needs beyond Lua's io library. */
#include "runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK "riverlua.FolderLock"

/* nil, text, errno: as Lua's io functions fail */
static int failed(lua_State *L, const char *path) {
  int code = errno;
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", path, strerror(code));
  lua_pushinteger(L, code);
  return 3;
}

/* make(path) → true: makes the folder and those above it; one that is there already is fine */
static int folder_make(lua_State *L) {
  size_t length;
  const char *path = luaL_checklstring(L, 1, &length);
  char *copy = lua_newuserdatauv(L, length + 1, 0);
  memcpy(copy, path, length + 1);
  for (char *p = copy + 1; length > 0 && *p != '\0'; p++) {
    if (*p != '/') continue;
    *p = '\0';
    if (mkdir(copy, 0777) != 0 && errno != EEXIST) return failed(L, copy);
    *p = '/';
  }
  if (mkdir(copy, 0777) != 0 && errno != EEXIST) return failed(L, copy);
  struct stat status;
  if (stat(copy, &status) != 0) return failed(L, copy);
  if (!S_ISDIR(status.st_mode)) {
    errno = ENOTDIR;
    return failed(L, copy);
  }
  lua_pushboolean(L, 1);
  return 1;
}

typedef struct listing { DIR *stream; } listing;

static int listing_close(lua_State *L) {
  listing *l = lua_touserdata(L, 1);
  if (l->stream != NULL) closedir(l->stream);
  l->stream = NULL;
  return 0;
}

/* list(path) → names in no order, without "." and ".." */
static int folder_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  listing *l = lua_newuserdatauv(L, sizeof *l, 0);
  l->stream = NULL;
  lua_createtable(L, 0, 1);   /* an error while the list grows must not leak the stream */
  lua_pushcfunction(L, listing_close);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  l->stream = opendir(path);
  if (l->stream == NULL) return failed(L, path);
  lua_newtable(L);
  lua_Integer count = 0;
  for (struct dirent *entry; (entry = readdir(l->stream)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++count);
  }
  closedir(l->stream);
  l->stream = NULL;
  return 1;
}

static int lock_release(lua_State *L) {
  int *fd = luaL_checkudata(L, 1, LOCK);
  if (*fd >= 0) close(*fd);
  *fd = -1;
  return 0;
}

/* lock(path) → object with close(), or nil and a text, "locked" when another process (or object) holds it */
static int folder_lock(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
  *fd = -1;
  if (luaL_newmetatable(L, LOCK)) {
    static const luaL_Reg methods[] = {
        {"close", lock_release}, {"__gc", lock_release}, {"__close", lock_release}, {NULL, NULL}};
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_setmetatable(L, -2);
  *fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (*fd < 0) return failed(L, path);
  if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
    bool taken = errno == EWOULDBLOCK;
    int result = failed(L, path);
    close(*fd);
    *fd = -1;
    if (taken) {
      lua_pushnil(L);
      lua_pushliteral(L, "locked");
      return 2;
    }
    return result;
  }
  return 1;
}

static bool write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, bytes, length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes += written;
    length -= (size_t)written;
  }
  return true;
}

/* The names in a folder are safe only once it is itself. */
static bool sync_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  bool ok = fsync(fd) == 0 || errno == EINVAL;   /* some file systems cannot */
  int code = errno;
  close(fd);
  errno = code;
  return ok;
}

static bool sync_folder_of(lua_State *L, const char *path) {
  const char *slash = strrchr(path, '/');
  return sync_folder(slash == NULL ? "." : slash == path ? "/" : lua_pushlstring(L, path, (size_t)(slash - path)));
}

/* sync(path) → true: what was renamed in this folder stays so when the power fails */
static int folder_sync(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (!sync_folder(path)) return failed(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* replace(path, bytes) → true: afterwards the file holds these bytes, or, whatever happens, its old ones */
static int folder_replace(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  const char *part = lua_pushfstring(L, "%s.part", path);
  int fd = open(part, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return failed(L, part);
  bool ok = write_all(fd, bytes, length) && fsync(fd) == 0;
  int code = errno;
  if (close(fd) != 0 && ok) {
    ok = false;
    code = errno;
  }
  if (ok && rename(part, path) != 0) {
    ok = false;
    code = errno;
  }
  if (!ok) {
    unlink(part);
    errno = code;
    return failed(L, path);
  }
  if (!sync_folder_of(L, path)) return failed(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* executable() → path of the program that runs, or nil */
static int folder_executable(lua_State *L) {
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0 || length == sizeof path) return 0;
  lua_pushlstring(L, path, (size_t)length);
  return 1;
}

/* sync_file(path) → true: what was written to a file, and its name, are on the disk */
static int folder_sync_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failed(L, path);
  bool ok = fsync(fd) == 0;
  int code = errno;
  close(fd);
  errno = code;
  if (!ok || !sync_folder_of(L, path)) return failed(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

int rvl_open_folder(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"make", folder_make},       {"list", folder_list}, {"lock", folder_lock},
      {"replace", folder_replace}, {"sync", folder_sync}, {"sync_file", folder_sync_file},
      {"executable", folder_executable}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
