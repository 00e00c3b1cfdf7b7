/* Waits for the sockets of any number of engines and tends to their transfers. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine_private.h"

enum { MAX_EVENTS = 64 };

/* What an event of epoll is about: an engine's number and its socket; the bell has no number. */
static uint64_t tag_of(uint32_t number, int socket) {
  return (uint64_t)number << 32 | (uint32_t)socket;
}

static bool ring_with(loop *l, int bell) {
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag_of(0, bell)};
  l->bell = bell;
  return bell >= 0 && epoll_ctl(l->poller, EPOLL_CTL_ADD, bell, &event) == 0;
}

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
  free(l);
}

bool loop_add_bell(loop *l) {
  return ring_with(l, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/* What epoll watches is the parent's: its engines, as far as they are used here, come anew. */
static bool abandon_after_fork(loop *l) {
  if (l->forks == engine_forks()) return true;
  close(l->poller);
  l->poller = epoll_create1(EPOLL_CLOEXEC);
  if (l->poller < 0) return false;
  l->forks = engine_forks();
  atomic_store(&l->inbox, NULL);
  l->engines = NULL;
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

static void attach(loop *l, engine *e) {
  e->number = ++l->last_number;
  e->next = l->engines;
  l->engines = e;
  if (!e->plain) l->secure++;
}

void loop_take_in(loop *l) {
  for (transfer *t = stack_take(&l->inbox), *next; t != NULL; t = next) {
    next = t->next;
    if (t->owner->number == 0) attach(l, t->owner);
    flight_admit(t->owner, t);
  }
}

/* Afterwards the loop knows nothing of the engine. */
void loop_detach(loop *l, engine *e) {
  loop_take_in(l);
  flight_end(e);
  if (e->number == 0) return;
  engine **at = &l->engines;
  while (*at != e) at = &(*at)->next;
  *at = e->next;
  e->number = 0;
  e->attached = false;
  if (!e->plain) l->secure--;
}

static engine *find(const loop *l, uint32_t number) {
  engine *e = l->engines;
  while (e != NULL && e->number != number) e = e->next;
  return e;
}

/* ---- sockets ----------------------------------------------------------------------------- */

bool loop_watch(loop *l, engine *e, int socket, bool known, int what) {
  struct epoll_event event = {.data.u64 = tag_of(e->number, socket)};
  if (what & CURL_POLL_IN) event.events |= EPOLLIN;
  if (what & CURL_POLL_OUT) event.events |= EPOLLOUT;
  if (what == CURL_POLL_REMOVE) {
    epoll_ctl(l->poller, EPOLL_CTL_DEL, socket, &event); /* it may be closed already */
    return true;
  }
  return epoll_ctl(l->poller, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) == 0;
}

static void serve(loop *l, const struct epoll_event *event) {
  uint64_t rung;
  uint32_t number = (uint32_t)(event->data.u64 >> 32);
  int socket = (int)(uint32_t)event->data.u64;
  int what = 0;
  if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) what |= CURL_CSELECT_IN;
  if (event->events & EPOLLOUT) what |= CURL_CSELECT_OUT;
  engine *e = find(l, number);
  if (e != NULL) flight_serve(e, socket, what);
  if (number == 0 && read(socket, &rung, sizeof rung) < 0) return;
}

/* ---- turning ----------------------------------------------------------------------------- */

/* An engine that is being closed has given all of its transfers by then: whoever sees that first and
 * takes them in afterwards has them all. */
static void tend(loop *l) {
  for (engine *e = l->engines; e != NULL; e = e->next) e->leaving = atomic_load(&e->closing);
  loop_take_in(l);
  for (engine *e = l->engines, *next; e != NULL; e = next) {
    next = e->next;
    if (e->leaving) {
      loop_detach(l, e);
      engine_destroy(e);
    } else {
      flight_tend(e);
    }
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
