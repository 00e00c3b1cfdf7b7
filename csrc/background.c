/* The process's background thread, which runs one loop: for callers that must not wait themselves. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "engine_private.h"

enum { TURN_MS = 60000, GOODBYE_SECONDS = 2 };

/* One for the process, whoever comes first makes it; a forked child makes its own. */
static struct {
  pthread_mutex_t lock;
  loop *loop;
  pthread_t thread;
} background = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *run(void *context) {
  loop *l = context;
  while (!atomic_load(&l->stopping)) loop_turn(l, TURN_MS);
  loop_turn(l, 0); /* frees the engines that were closed last */
  return NULL;
}

/* Signals are for the host's own threads. */
static bool start(loop *l) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&background.thread, NULL, run, l);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return failed == 0;
}

/* At the process's end libraries put away what the thread still uses, so it must be gone by then. It may
 * be in the middle of something: then it is waited for, not for ever. */
static void stop(void) {
  loop *l = background.loop;
  if (l == NULL || l->forks != engine_forks()) return;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += GOODBYE_SECONDS;
  atomic_store(&l->stopping, true);
  loop_wake(l);
  pthread_timedjoin_np(background.thread, NULL, &until);
}

/* A lock that another thread held during the fork stays locked in the child. */
static void unlock_in_child(void) {
  pthread_mutex_init(&background.lock, NULL);
}

static void prepare_process(void) {
  atexit(stop);
  pthread_atfork(NULL, NULL, unlock_in_child);
}

static loop *open_loop(const char **message) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare_process);
  loop *l = loop_new(message);
  if (l == NULL) return NULL;
  *message = "the background thread could not be started";
  if (loop_add_bell(l) && start(l)) return l;
  loop_release(l);
  return NULL;
}

loop *background_loop(const char **message) {
  pthread_mutex_lock(&background.lock);
  if (background.loop == NULL || background.loop->forks != engine_forks())
    background.loop = open_loop(message); /* the parent's is left as it is */
  loop *l = background.loop;
  pthread_mutex_unlock(&background.lock);
  return l;
}
