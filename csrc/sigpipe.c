#include "sigpipe.h"

#include <pthread.h>
#include <time.h>

static sigset_t sigpipe_set(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  return set;
}

sigpipe_guard sigpipe_block(bool needed) {
  sigpipe_guard guard = {.active = needed};
  if (!guard.active) return guard;
  sigset_t set = sigpipe_set(), pending;
  pthread_sigmask(SIG_BLOCK, &set, &guard.before);
  /* One that the host keeps pending is the host's. It can only be there if it was blocked. */
  if (sigismember(&guard.before, SIGPIPE) == 1) {
    sigpending(&pending);
    guard.pending = sigismember(&pending, SIGPIPE) == 1;
  }
  return guard;
}

void sigpipe_restore(const sigpipe_guard *guard) {
  if (!guard->active) return;
  const struct timespec at_once = {0, 0};
  sigset_t set = sigpipe_set();
  while (!guard->pending && sigtimedwait(&set, NULL, &at_once) == SIGPIPE) continue;
  pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
}
