/* An engine's life: one libcurl multi handle, and what happens to it in a fork. */
#include "engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_private.h"
#include "sigpipe.h"

/* ---- handles ----------------------------------------------------------------------------- */

/* How many forks lie between this process and the first one: far cheaper to ask than getpid. */
static unsigned forks;

static void count_fork(void) {
  forks++;
}

/* In a forked child the parent's handles share sockets with it: to clean them up would speak on
 * the parent's connections. They are left as they are, and calls in flight were never ours. */
void engine_abandon_after_fork(engine *e) {
  if (e->forks == forks) return;
  e->forks = forks;
  e->multi = NULL;
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    t->easy = NULL;
    if (t->state != RUNNING) continue;
    transfer_give_reason(t, "CURLE_ABORTED_BY_CALLBACK",
                         "the call belongs to the process before the fork", 0);
    transfer_finish(t, CURLE_ABORTED_BY_CALLBACK);
  }
}

/* None of its transfers may be running. The next one gets a new handle. */
static void close_multi(engine *e) {
  curl_multi_cleanup(e->multi);
  e->multi = NULL;
}

bool engine_open_multi(engine *e, const char **message) {
  if (e->multi != NULL) return true;
  e->multi = curl_multi_init();
  if (e->multi == NULL) {
    *message = "libcurl could not make a multi handle: out of memory";
    return false;
  }
  static const CURLMoption limits[] = {CURLMOPT_MAX_HOST_CONNECTIONS,
                                       CURLMOPT_MAX_TOTAL_CONNECTIONS, CURLMOPT_MAXCONNECTS};
  CURLMcode code = CURLM_OK;
  for (size_t i = 0; i < sizeof limits / sizeof limits[0] && code == CURLM_OK; i++)
    code = curl_multi_setopt(e->multi, limits[i], e->max_connections);
  if (code == CURLM_OK) return true;
  *message = curl_multi_strerror(code);
  close_multi(e);
  return false;
}

/* ---- life -------------------------------------------------------------------------------- */

static CURLcode init_code;

static void init_libcurl(void) {
  init_code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (init_code == CURLE_OK && pthread_atfork(NULL, NULL, count_fork) != 0)
    init_code = CURLE_OUT_OF_MEMORY;
}

/* The field gets a copy of the text; NULL stays NULL. */
static bool copy_text(char **field, const char *value) {
  if (value == NULL) return true;
  *field = strdup(value);
  return *field != NULL;
}

/* With a CA file, libcurl's CA folder is left out: the options say why. */
static bool copy_texts(engine *e, const engine_config *config) {
  const curl_version_info_data *built = curl_version_info(CURLVERSION_NOW);
  const char *ca_file = config->ca_file != NULL ? config->ca_file : built->cainfo;
  return copy_text(&e->origin, config->origin) && copy_text(&e->user_agent, config->user_agent) &&
         copy_text(&e->ca_file, ca_file) &&
         copy_text(&e->ca_path, ca_file == NULL ? built->capath : NULL) &&
         copy_text(&e->proxy, config->proxy != NULL ? config->proxy : "") &&
         copy_text(&e->no_proxy, "") && copy_text(&e->protocol, e->plain ? "http" : "https");
}

engine *engine_new(const engine_config *config, const char **message) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_libcurl);
  *message = curl_easy_strerror(init_code);
  if (init_code != CURLE_OK) return NULL;
  *message = "out of memory";
  engine *e = calloc(1, sizeof *e);
  if (e == NULL) return NULL;
  e->forks = forks;
  e->plain = strncmp(config->origin, "http:", 5) == 0;
  e->connect_timeout_ms = config->connect_timeout_ms;
  e->max_connections = config->max_connections;
  e->max_head = config->max_head;
  e->max_body = config->max_body;
  e->common = curl_slist_append(NULL, "Expect:"); /* no waiting for a "100 Continue" */
  if (e->common != NULL && copy_texts(e, config) && engine_open_multi(e, message)) return e;
  engine_free(e);
  return NULL;
}

static void free_common_headers(engine *e) {
  for (struct curl_slist *at = e->common; at != NULL; at = at->next)
    explicit_bzero(at->data, strlen(at->data));
  curl_slist_free_all(e->common);
  e->common = NULL;
}

void engine_free(engine *e) {
  if (e == NULL) return;
  /* The goodbye of a TLS connection is a write, too. */
  sigpipe_guard guard = sigpipe_block(!e->plain);
  engine_abandon_after_fork(e);
  for (size_t i = 0; i < e->slot_count; i++) transfer_free(e->slots[i]);
  if (e->multi != NULL) close_multi(e);
  sigpipe_restore(&guard);
  free_common_headers(e);
  free_secret(e->proxy);
  free(e->slots);
  free(e->origin);
  free(e->user_agent);
  free(e->ca_file);
  free(e->ca_path);
  free(e->no_proxy);
  free(e->protocol);
  free(e);
}

/* ---- running ----------------------------------------------------------------------------- */

static void collect_finished(engine *e) {
  int left;
  for (CURLMsg *m; (m = curl_multi_info_read(e->multi, &left)) != NULL;) {
    if (m->msg != CURLMSG_DONE) continue;
    CURLcode code = m->data.result; /* the message is gone once its handle is removed */
    transfer *t;
    curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    curl_multi_remove_handle(e->multi, t->easy);
    transfer_finish(t, code);
  }
}

/* The multi handle itself failed: no call may wait for ever, and the next one gets a new handle. */
static void fail_all(engine *e, CURLMcode code) {
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    if (t->state != RUNNING) continue;
    curl_multi_remove_handle(e->multi, t->easy);
    snprintf(t->message, sizeof t->message, "%s", curl_multi_strerror(code));
    transfer_finish(t, code == CURLM_OUT_OF_MEMORY ? CURLE_OUT_OF_MEMORY : CURLE_FAILED_INIT);
  }
  close_multi(e);
}

double engine_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool is_overdue(const transfer *t, double now) {
  const double grace = 0.02; /* where libcurl watches the time its message is the better one */
  return now - grace >= t->deadline;
}

/* libcurl watches no time limit while a transfer waits for one of the connections. When nothing else
 * runs it waited for a connection that never comes free (libcurl 7.88 keeps a half-made one where
 * memory ran out): the next call gets a new multi handle. */
static void end_overdue(engine *e) {
  double now = engine_now();
  size_t ended = 0, running = 0;
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    if (t->state != RUNNING) continue;
    running++;
    if (!is_overdue(t, now)) continue;
    curl_multi_remove_handle(e->multi, t->easy);
    transfer_give_reason(t, "CURLE_OPERATION_TIMEDOUT",
                         "the time limit passed while the call waited for a free connection", 0);
    transfer_finish(t, CURLE_OPERATION_TIMEDOUT);
    ended++;
  }
  if (ended > 0 && ended == running) close_multi(e);
}

/* For how long nothing becomes overdue. */
static int time_to_wait(const engine *e, int timeout_ms) {
  double now = engine_now();
  for (size_t i = 0; i < e->slot_count; i++) {
    const transfer *t = e->slots[i];
    double left_ms = (t->deadline - now) * 1000 + 1;
    if (t->state == RUNNING && left_ms < timeout_ms) timeout_ms = left_ms < 1 ? 1 : (int)left_ms;
  }
  return timeout_ms;
}

size_t engine_run(engine *e, int timeout_ms) {
  engine_abandon_after_fork(e);
  if (e->multi == NULL) return e->finished;
  sigpipe_guard guard = sigpipe_block(!e->plain);
  int running = 0;
  CURLMcode code = curl_multi_perform(e->multi, &running);
  collect_finished(e);
  if (code == CURLM_OK && running > 0 && e->finished == 0 && timeout_ms > 0) {
    code = curl_multi_poll(e->multi, NULL, 0, time_to_wait(e, timeout_ms), NULL);
    if (code == CURLM_OK) code = curl_multi_perform(e->multi, &running);
    collect_finished(e);
  }
  if (code != CURLM_OK)
    fail_all(e, code);
  else
    end_overdue(e);
  sigpipe_restore(&guard);
  return e->finished;
}
