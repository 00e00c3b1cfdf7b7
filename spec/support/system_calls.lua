--- A system that has run out of something, for programs that process.run_lua starts: a library that is loaded before
--- the others fails in its place, once.
---
--- The same library is a Lua module that closes descriptors behind everybody's back, as a daemon does after its fork.
local preload = require "support.preload"

local system_calls = {}

local LIBRARY = "build/spec/system_calls.so"
local FAILING = "INTEGRATIONS_SPEC_FAILING"

local SOURCE = [[
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether it is the turn of this one: INTEGRATIONS_SPEC_FAILING is "epoll_ctl 3" where the third call fails. */
static int is_due(const char *name, int *calls) {
  const char *failing = getenv("INTEGRATIONS_SPEC_FAILING");
  size_t size = strlen(name);
  if (failing == NULL || strncmp(failing, name, size) != 0 || failing[size] != ' ') return 0;
  return __atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST) == atoi(failing + size);
}

static int fail(int number) {
  errno = number;
  return -1;
}

int epoll_create1(int flags) {
  static int calls;
  int (*original)(int) = (int (*)(int))dlsym(RTLD_NEXT, "epoll_create1");
  return is_due("epoll_create1", &calls) ? fail(EMFILE) : original(flags);
}

int epoll_ctl(int poller, int operation, int descriptor, struct epoll_event *event) {
  static int calls;
  int (*original)(int, int, int, struct epoll_event *) =
      (int (*)(int, int, int, struct epoll_event *))dlsym(RTLD_NEXT, "epoll_ctl");
  if (operation != EPOLL_CTL_DEL && is_due("epoll_ctl", &calls)) return fail(ENOSPC);
  return original(poller, operation, descriptor, event);
}

int eventfd(unsigned int value, int flags) {
  static int calls;
  int (*original)(unsigned int, int) = (int (*)(unsigned int, int))dlsym(RTLD_NEXT, "eventfd");
  return is_due("eventfd", &calls) ? fail(EMFILE) : original(value, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context) {
  static int calls;
  int (*original)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
      (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
  return is_due("pthread_create", &calls) ? EAGAIN : original(thread, attributes, run, context);
}

/* A server in this process that has not accepted the connection yet does so now. */
static int accept_pending(void) {
  for (int i = 3; i < 256; i++) {
    int listens = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(i, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens) continue;
    int accepted = accept(i, NULL, NULL);
    if (accepted >= 0) return accepted;
  }
  return -1;
}

/* The other end of the connection, which is in this process, too. */
static int find_peer(int socket) {
  struct sockaddr_in own;
  socklen_t size = sizeof own;
  if (getsockname(socket, (struct sockaddr *)&own, &size) != 0) return -1;
  for (int i = 3; i < 256; i++) {
    struct sockaddr_in other = {0};
    size = sizeof other;
    if (getpeername(i, (struct sockaddr *)&other, &size) == 0 && other.sin_port == own.sin_port) return i;
  }
  return accept_pending();
}

static void reset_peer(int socket) {
  struct linger at_once = {1, 0};
  int peer = find_peer(socket);
  setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(peer);
}

/* libcurl's calls, not those of a server in the same process: only libcurl asks for no signal. "send 2 reset" lets the
 * peer reset the connection just before; "send 2 late" reports a failure of what was done. */
ssize_t send(int socket, const void *bytes, size_t size, int flags) {
  static int calls;
  ssize_t (*original)(int, const void *, size_t, int) =
      (ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
  if (!(flags & MSG_NOSIGNAL) || !is_due("send", &calls)) return original(socket, bytes, size, flags);
  if (strstr(getenv("INTEGRATIONS_SPEC_FAILING"), "reset")) reset_peer(socket);
  ssize_t sent = original(socket, bytes, size, flags);
  return sent < 0 ? sent : fail(ECONNRESET);
}

/* "TCP_INFO uncounted": a system that has the fields and never fills them. "TCP_INFO queued": one where what was
 * written is still to be sent. */
int getsockopt(int socket, int level, int option, void *value, socklen_t *size) {
  int (*original)(int, int, int, void *, socklen_t *) =
      (int (*)(int, int, int, void *, socklen_t *))dlsym(RTLD_NEXT, "getsockopt");
  const char *failing = getenv("INTEGRATIONS_SPEC_FAILING");
  int result = original(socket, level, option, value, size);
  if (level != IPPROTO_TCP || option != TCP_INFO || failing == NULL || strncmp(failing, "TCP_INFO ", 9) != 0)
    return result;
  struct tcp_info *info = value;
  int queued = strcmp(failing + 9, "queued") == 0;
  info->tcpi_bytes_sent = 0;
  info->tcpi_notsent_bytes = queued;
  info->tcpi_segs_out = queued;
  return result;
}

typedef struct lua_State lua_State;
typedef int (*lua_CFunction)(lua_State *L);
void lua_pushcclosure(lua_State *L, lua_CFunction function, int upvalues);
double luaL_checknumber(lua_State *L, int index);

static int close_descriptors(lua_State *L) {
  for (int i = (int)luaL_checknumber(L, 1), last = (int)luaL_checknumber(L, 2); i <= last; i++) close(i);
  return 0;
}

int luaopen_close(lua_State *L) {
  lua_pushcclosure(L, close_descriptors, 0);
  return 1;
}
]]

--- The environment of a program in which this one call fails.
---@param failing string "epoll_ctl 3": the third one of them; see above what may stand behind it, or instead
---@return string[]
function system_calls.failing(failing)
  preload.build(LIBRARY, SOURCE)
  return preload.environment(LIBRARY, FAILING .. "=" .. failing)
end

--- A function that closes the descriptors from the first one to the last, whosever they are.
---@return fun(first: integer, last: integer)
function system_calls.closing()
  preload.build(LIBRARY, SOURCE)
  return assert(package.loadlib("./" .. LIBRARY, "luaopen_close"))()
end

return system_calls
