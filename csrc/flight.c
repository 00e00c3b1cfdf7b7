/* An engine's transfers in libcurl's hands: from the loop's inbox to the engine's outbox. Only the loop
 * calls what is here.
 *
 * libcurl is told which sockets are ready (curl_multi_socket_action) instead of being asked to look
 * (curl_multi_perform): it would look at each transfer whenever anything happens to one. With 256 in
 * flight that is 4 times the processor time. */
#include <math.h>
#include <stdio.h>

#include "engine_private.h"

/* Until the first answer tells which HTTP is spoken, and where it is HTTP/2, a server gets no more
 * connections than this: with HTTP/2 one carries a hundred calls, and libcurl opens one for each call
 * beyond. */
enum { FEW_CONNECTIONS = 16 };

static const double never = HUGE_VAL;
static const double grace = 0.02; /* where libcurl watches the time its message is the better one */

/* ---- the multi handle -------------------------------------------------------------------- */

/* What libcurl wants to know of a socket. */
static int on_watch(CURL *easy, curl_socket_t socket, int what, void *context, void *known) {
  (void)easy;
  engine *e = context;
  if (!loop_watch(e->loop, e, socket, known != NULL, what)) return -1;
  if (known == NULL && what != CURL_POLL_REMOVE) curl_multi_assign(e->multi, socket, e);
  return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *context) {
  (void)multi;
  engine *e = context;
  e->timer = timeout_ms < 0 ? never : engine_now() + (double)timeout_ms / 1000;
  return 0;
}

/* None of its transfers may be in flight. The next one gets a new handle. */
static void close_multi(engine *e) {
  curl_multi_cleanup(e->multi);
  e->multi = NULL;
  e->timer = never;
}

static CURLMcode allow_connections(engine *e, long connections) {
  static const CURLMoption limits[] = {CURLMOPT_MAX_HOST_CONNECTIONS,
                                       CURLMOPT_MAX_TOTAL_CONNECTIONS, CURLMOPT_MAXCONNECTS};
  CURLMcode code = CURLM_OK;
  for (size_t i = 0; i < sizeof limits / sizeof limits[0] && code == CURLM_OK; i++)
    code = curl_multi_setopt(e->multi, limits[i], connections);
  return code;
}

static long few(const engine *e) {
  return e->max_connections < FEW_CONNECTIONS ? e->max_connections : FEW_CONNECTIONS;
}

static CURLMcode set_up_multi(engine *e) {
  CURLMcode code = curl_multi_setopt(e->multi, CURLMOPT_SOCKETFUNCTION, on_watch);
  if (code == CURLM_OK) code = curl_multi_setopt(e->multi, CURLMOPT_SOCKETDATA, e);
  if (code == CURLM_OK) code = curl_multi_setopt(e->multi, CURLMOPT_TIMERFUNCTION, on_timer);
  if (code == CURLM_OK) code = curl_multi_setopt(e->multi, CURLMOPT_TIMERDATA, e);
  e->limit = (size_t)(e->plain ? e->max_connections : few(e));
  return code == CURLM_OK ? allow_connections(e, (long)e->limit) : code;
}

static CURLMcode open_multi(engine *e) {
  if (e->multi != NULL) return CURLM_OK;
  e->timer = never;
  e->multi = curl_multi_init();
  if (e->multi == NULL) return CURLM_OUT_OF_MEMORY;
  CURLMcode code = set_up_multi(e);
  if (code != CURLM_OK) close_multi(e);
  return code;
}

/* ---- taking off -------------------------------------------------------------------------- */

/* Takes a transfer out of the loop; its caller has it then, as unfinished as it is. */
void flight_drop(transfer *t) {
  engine *e = t->owner;
  if (t->in_flight) {
    curl_multi_remove_handle(e->multi, t->easy);
    t->in_flight = false;
    e->in_flight--;
    connection_leave(t);
    list_remove(&e->flying, t);
  } else {
    list_remove(&e->waiting, t);
  }
  e->loop->busy--;
}

static void end(transfer *t, CURLcode code) {
  engine *e = t->owner;
  bool is_unresolved = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY;
  e->unresolved = is_unresolved || (e->unresolved && t->issues == 0);
  flight_drop(t);
  e->loop->ended++;
  transfer_finish(t, code); /* from here on it is the caller's */
}

static void end_by_multi(transfer *t, CURLMcode code) {
  const char *why = code == CURLM_ABORTED_BY_CALLBACK ? "the system could not watch a socket"
                                                      : curl_multi_strerror(code);
  snprintf(t->message, sizeof t->message, "%s", why);
  end(t, code == CURLM_OUT_OF_MEMORY ? CURLE_OUT_OF_MEMORY : CURLE_FAILED_INIT);
}

/* The time that it has waited here is no longer its own. A name that was not found is asked for anew: libcurl
 * from 8.16 on remembers that for half a minute. */
static void launch(transfer *t) {
  engine *e = t->owner;
  curl_easy_setopt(t->easy, CURLOPT_DNS_CACHE_TIMEOUT, e->unresolved ? 0L : 60L);
  double left_ms = (t->deadline - engine_now()) * 1000;
  if (left_ms < (double)t->timeout_ms - 1)
    curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, left_ms < 1 ? 1L : (long)left_ms);
  CURLMcode code = open_multi(e);
  if (code == CURLM_OK) code = curl_multi_add_handle(e->multi, t->easy);
  if (code != CURLM_OK) {
    end_by_multi(t, code);
    return;
  }
  list_remove(&e->waiting, t);
  list_append(&e->flying, t);
  t->in_flight = true;
  e->in_flight++;
}

static void launch_waiting(engine *e) {
  while (e->waiting.first != NULL && (e->multi == NULL || e->in_flight < e->limit))
    launch(e->waiting.first);
}

void flight_admit(engine *e, transfer *t) {
  list_append(&e->waiting, t);
  e->loop->busy++;
  if (t->deadline + grace < e->overdue) e->overdue = t->deadline + grace;
  if (atomic_load_explicit(&t->unwanted, memory_order_relaxed))
    end(t, CURLE_ABORTED_BY_CALLBACK);
  else
    launch_waiting(e);
}

/* ---- landing ----------------------------------------------------------------------------- */

static void adapt_limit(transfer *t) {
  engine *e = t->owner;
  long version = CURL_HTTP_VERSION_NONE;
  curl_easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &version);
  if (e->plain || version == CURL_HTTP_VERSION_NONE) return;
  bool is_multiplexed = version >= CURL_HTTP_VERSION_2_0;
  if (is_multiplexed) connection_multiplexes(t);
  size_t limit = is_multiplexed ? SIZE_MAX : (size_t)e->max_connections;
  if (limit == e->limit) return;
  e->limit = limit;
  allow_connections(e, is_multiplexed ? few(e) : e->max_connections);
}

/* Where nothing of it has left because the connection that libcurl had kept was at its end, it goes on a new one at
 * once: its caller need not know. */
static bool restart(transfer *t) {
  bool never_left = t->stale || (t->write && t->kept && !t->left);
  bool is_wanted = !atomic_load_explicit(&t->unwanted, memory_order_relaxed);
  if (!never_left || !is_wanted || t->restarted || engine_now() >= t->deadline) return false;
  if (easy_restart(t) != CURLE_OK) return false;
  flight_drop(t);
  transfer_reset(t);
  t->restarted = true;
  list_append(&t->owner->waiting, t);
  t->owner->loop->busy++;
  launch(t);
  return true;
}

static void end_finished(engine *e) {
  int left;
  for (CURLMsg *m; (m = curl_multi_info_read(e->multi, &left)) != NULL;) {
    if (m->msg != CURLMSG_DONE) continue;
    CURLcode code = m->data.result; /* the message is gone once its handle is removed */
    transfer *t;
    curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    adapt_limit(t);
    if (code != CURLE_OK) connection_settle(t);
    if (code == CURLE_OK || !restart(t)) end(t, code);
  }
}

/* The multi handle itself failed: no call may wait for ever, and the next one gets a new handle. */
static void end_all(engine *e, CURLMcode code) {
  while (e->flying.first != NULL) end_by_multi(e->flying.first, code);
  close_multi(e);
}

static void act(engine *e, curl_socket_t socket, int what) {
  int running;
  CURLMcode code = curl_multi_socket_action(e->multi, socket, what, &running);
  end_finished(e);
  if (code != CURLM_OK) end_all(e, code);
}

static bool is_overdue(const transfer *t, double now) {
  return now >= t->deadline + grace;
}

/* Ends the transfer if nobody wants it or its time is over. */
static void end_if_due(transfer *t, double now) {
  if (atomic_load_explicit(&t->unwanted, memory_order_relaxed)) {
    end(t, CURLE_ABORTED_BY_CALLBACK);
  } else if (is_overdue(t, now)) {
    transfer_give_reason(t, "CURLE_OPERATION_TIMEDOUT",
                         "the time limit passed while the call waited for a free connection", 0);
    end(t, CURLE_OPERATION_TIMEDOUT);
  } else if (t->deadline + grace < t->owner->overdue) {
    t->owner->overdue = t->deadline + grace;
  }
}

static void sweep_list(const list *l, double now) {
  for (transfer *t = l->first, *next; t != NULL; t = next) {
    next = t->next;
    end_if_due(t, now);
  }
}

/* Whether all in flight are overdue and none ever had a connection. */
static bool is_stuck(const engine *e, double now) {
  for (const transfer *t = e->flying.first; t != NULL; t = t->next)
    if (!is_overdue(t, now) || t->issues > 0) return false;
  return e->flying.first != NULL;
}

/* libcurl watches no time limit while a transfer waits for one of the connections. Where all do, they wait
 * for one that never comes free (libcurl 7.88 keeps a half-made one where memory ran out): the next call
 * gets a new multi handle. Done when the first deadline has passed, not whenever something happens. */
static void sweep(engine *e, double now) {
  bool stuck = is_stuck(e, now);
  e->overdue = never;
  sweep_list(&e->waiting, now);
  sweep_list(&e->flying, now);
  if (stuck) close_multi(e);
}

/* Does what is due. A timer that libcurl sets anew for now is served at once, a few times. */
void flight_tend(engine *e) {
  enum { TIMES = 8 };
  double now = engine_now();
  for (int i = 0; i < TIMES && e->multi != NULL && e->timer <= now; i++) {
    e->timer = never;
    act(e, CURL_SOCKET_TIMEOUT, 0);
  }
  if (atomic_exchange(&e->disturbed, false) || now >= e->overdue) sweep(e, now);
  launch_waiting(e);
}

void flight_serve(engine *e, int socket, int what) {
  if (e->multi != NULL) act(e, socket, what);
}

bool flight_is_over(const engine *e) {
  return e->flying.first == NULL && e->waiting.first == NULL && e->timer == never;
}

double flight_due(const engine *e) {
  return e->timer < e->overdue ? e->timer : e->overdue;
}

/* The end of the engine. */
void flight_end(engine *e) {
  while (e->waiting.first != NULL) flight_drop(e->waiting.first);
  while (e->flying.first != NULL) flight_drop(e->flying.first);
  if (e->multi != NULL) close_multi(e);
}
