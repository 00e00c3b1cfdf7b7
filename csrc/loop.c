/* Waits for the sockets of any number of engines and tends to their transfers. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine_private.h"

enum { MAX_EVENTS = 64 };

/* ---- life -------------------------------------------------------------------------------- */

loop *loop_new(const char **message) {
  loop *l = calloc(1, sizeof *l);
  *message = "out of memory";
  if (l == NULL) return NULL;
  l->forks = engine_forks();
  l->users = 1;
  l->bell = -1;
  l->poller = epoll_create1(EPOLL_CLOEXEC);
  if (l->poller >= 0) return l;
  *message = "the system has no epoll descriptor left";
  free(l);
  return NULL;
}

void loop_release(loop *l) {
  if (l == NULL || --l->users > 0) return;
  if (l->bell >= 0) close(l->bell);
  close(l->poller);
  free(l->owners);
  free(l);
}

bool loop_add_bell(loop *l) {
  l->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = l->bell};
  return l->bell >= 0 && epoll_ctl(l->poller, EPOLL_CTL_ADD, l->bell, &event) == 0;
}

/* What epoll watches is the parent's: its engines, as far as they are used here, come anew. It is not closed:
 * a daemon closes all descriptors of its parent, and the number may be another one's by now. */
static bool abandon_after_fork(loop *l) {
  if (l->forks == engine_forks()) return true;
  l->poller = epoll_create1(EPOLL_CLOEXEC);
  if (l->poller < 0) return false;
  l->forks = engine_forks();
  atomic_store(&l->inbox, NULL);
  atomic_store(&l->closing, NULL);
  l->engines = NULL;
  for (size_t i = 0; i < l->owner_count; i++) l->owners[i] = NULL;
  l->secure = l->busy = 0;
  return true;
}

/* ---- engines and transfers --------------------------------------------------------------- */

void loop_wake(loop *l) {
  static const uint64_t one = 1;
  if (l->bell < 0) return;
  atomic_store(&l->news, true);
  /* It fails only if the bell rings already. */
  if (atomic_exchange(&l->asleep, false) && write(l->bell, &one, sizeof one) < 0) return;
}

bool loop_submit(loop *l, transfer *t) {
  if (!abandon_after_fork(l)) return false;
  t->owner->attached = true;
  stack_push(&l->inbox, t);
  loop_wake(l);
  return true;
}

void loop_take_in(loop *l) {
  for (transfer *t = stack_take(&l->inbox), *next; t != NULL; t = next) {
    next = t->next;
    engine *e = t->owner;
    if (!e->busy) {
      e->busy = true;
      e->next = l->engines;
      l->engines = e;
      if (!e->plain) l->secure++;
    }
    flight_admit(e, t);
  }
}

/* An engine without transfers has nothing to do, whatever its connections are. */
static void rest(loop *l, engine **at) {
  engine *e = *at;
  *at = e->next;
  e->busy = false;
  if (!e->plain) l->secure--;
}

/* Afterwards the loop knows nothing of the engine. */
void loop_detach(loop *l, engine *e) {
  loop_take_in(l);
  flight_end(e);
  e->attached = false;
  if (!e->busy) return;
  engine **at = &l->engines;
  while (*at != e) at = &(*at)->next;
  rest(l, at);
}

/* Leaves the engine to the thread, which frees it. */
void loop_close(loop *l, engine *e) {
  e->next_closing = atomic_load(&l->closing);
  while (!atomic_compare_exchange_weak(&l->closing, &e->next_closing, e)) continue;
  loop_wake(l);
}

/* ---- sockets ----------------------------------------------------------------------------- */

static bool own(loop *l, engine *e, size_t socket) {
  if (socket >= l->owner_count) {
    size_t count = socket * 2 + 16;
    engine **grown = realloc(l->owners, count * sizeof *grown);
    if (grown == NULL) return false;
    for (size_t i = l->owner_count; i < count; i++) grown[i] = NULL;
    l->owners = grown;
    l->owner_count = count;
  }
  l->owners[socket] = e;
  return true;
}

/* libcurl's word on whether a socket is watched already is not taken for granted. */
bool loop_watch(loop *l, engine *e, int socket, bool known, int what) {
  struct epoll_event event = {.data.fd = socket};
  if (what & CURL_POLL_IN) event.events |= EPOLLIN;
  if (what & CURL_POLL_OUT) event.events |= EPOLLOUT;
  if (what == CURL_POLL_REMOVE) {
    epoll_ctl(l->poller, EPOLL_CTL_DEL, socket, &event); /* it may be closed already */
    if ((size_t)socket < l->owner_count) l->owners[socket] = NULL;
    return true;
  }
  if (!own(l, e, (size_t)socket)) return false;
  if (epoll_ctl(l->poller, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) == 0) return true;
  if (errno != ENOENT && errno != EEXIST) return false;
  return epoll_ctl(l->poller, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, socket, &event) == 0;
}

/* An event may be of a socket that an earlier one of the same turn has closed. */
static void serve(loop *l, const struct epoll_event *event) {
  uint64_t rung;
  int socket = event->data.fd, what = 0;
  if (socket == l->bell) {
    if (read(socket, &rung, sizeof rung) < 0) return; /* nothing is lost: it only wakes */
    return;
  }
  if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) what |= CURL_CSELECT_IN;
  if (event->events & EPOLLOUT) what |= CURL_CSELECT_OUT;
  engine *e = (size_t)socket < l->owner_count ? l->owners[socket] : NULL;
  if (e != NULL) flight_serve(e, socket, what);
}

/* ---- turning ----------------------------------------------------------------------------- */

/* An engine that is being closed has given all of its transfers by then: whoever looks for those that are
 * being closed first and takes the transfers in afterwards has them all. */
static void tend(loop *l) {
  engine *closing = NULL;
  if (atomic_load_explicit(&l->closing, memory_order_relaxed) != NULL)
    closing = atomic_exchange(&l->closing, NULL);
  loop_take_in(l);
  for (engine *e = closing, *next; e != NULL; e = next) {
    next = e->next_closing;
    loop_detach(l, e);
    engine_destroy(e);
  }
  for (engine **at = &l->engines; *at != NULL;) {
    flight_tend(*at);
    if (flight_is_over(*at))
      rest(l, at);
    else
      at = &(*at)->next;
  }
}

/* Milliseconds, rounded up, until something is due. */
static int time_to_wait(const loop *l, int timeout_ms) {
  double due = HUGE_VAL;
  for (const engine *e = l->engines; e != NULL; e = e->next)
    if (flight_due(e) < due) due = flight_due(e);
  double left_ms = ceil((due - engine_now()) * 1000);
  if (left_ms >= timeout_ms) return timeout_ms;
  return left_ms < 0 ? 0 : (int)left_ms;
}

/* Says that it sleeps before it looks for the last time, so that no news is missed. */
static int wait(loop *l, struct epoll_event *events, int timeout_ms) {
  atomic_store(&l->asleep, true);
  if (atomic_exchange(&l->news, false)) timeout_ms = 0;
  int count = epoll_wait(l->poller, events, MAX_EVENTS, timeout_ms);
  atomic_store(&l->asleep, false);
  return count;
}

/* Does what is due, then waits until something happens or becomes due, and does that. */
void loop_turn(loop *l, int timeout_ms) {
  struct epoll_event events[MAX_EVENTS];
  size_t ended = l->ended;
  tend(l);
  if (l->ended != ended) timeout_ms = 0;
  int count = wait(l, events, time_to_wait(l, timeout_ms));
  for (int i = 0; i < count; i++) serve(l, &events[i]);
  tend(l);
}

/* Turns until a transfer has ended, none is left or the time is over. */
void loop_run(loop *l, int timeout_ms) {
  if (!abandon_after_fork(l)) return;
  size_t ended = l->ended;
  double until = engine_now() + (double)timeout_ms / 1000;
  loop_take_in(l);
  int left_ms = l->busy > 0 ? timeout_ms : 0;
  do {
    loop_turn(l, left_ms);
    left_ms = (int)ceil((until - engine_now()) * 1000);
  } while (l->ended == ended && l->busy > 0 && left_ms > 0);
}
