/* An engine's life, as its caller sees it, and what happens to it in a fork. */
#include "engine.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_private.h"
#include "sigpipe.h"

double engine_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- forks ------------------------------------------------------------------------------- */

/* How many forks lie between this process and the first one: far cheaper to ask than getpid. */
static unsigned forks;

static void count_fork(void) {
  forks++;
}

unsigned engine_forks(void) {
  return forks;
}

/* In a forked child the parent's handles share sockets with it: to clean them up would speak on
 * the parent's connections. They are left as they are, and calls in flight were never ours. */
void engine_abandon_after_fork(engine *e) {
  if (e->forks == forks) return;
  e->forks = forks;
  e->multi = NULL;
  e->attached = false;
  e->busy = false;
  e->waiting = e->flying = (list){NULL, NULL};
  e->connections = NULL;
  e->in_flight = 0;
  e->timer = e->overdue = HUGE_VAL;
  atomic_store(&e->outbox, NULL);
  e->handles = 0;
  if (e->background) e->loop = NULL;
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    t->easy = NULL;
    t->connection = NULL;
    t->in_flight = false;
    /* The thread may have been about to change them. */
    if (e->background && t->state != FINISHED) t->head = t->body = (buffer){NULL, 0, 0};
    if (t->state == FORGOTTEN) transfer_recycle(t);
    if (t->state != RUNNING) continue;
    transfer_give_reason(t, "CURLE_ABORTED_BY_CALLBACK",
                         "the call belongs to the process before the fork", 0);
    transfer_finish(t, CURLE_ABORTED_BY_CALLBACK);
  }
}

/* ---- life -------------------------------------------------------------------------------- */

/* Versions of libcurl that nothing helps with. What others lack or break is seen where it matters. */
static const struct {
  unsigned first, last;
  const char *why;
} unusable[] = {
    {0, 0x0754ff, "is too old: 7.85 or newer is needed"},
    {0x075700, 0x075700, "loses events: use an older or a newer one"}, /* curl's issue 10146 */
    /* Each time that it has looked a name up: curl's issue 15725. */
    {0x080b01, 0x080b01, "closes descriptors that are not its own: use an older or a newer one"},
};

/* Asked at run time: in a program that has a libcurl of its own, that one may stand in for the system's. There is
 * one in a process, so there is one message. */
static const char *find_fault(void) {
  static char message[96];
  const curl_version_info_data *present = curl_version_info(CURLVERSION_NOW);
  for (size_t i = 0; i < sizeof unusable / sizeof unusable[0]; i++) {
    if (present->version_num < unusable[i].first || present->version_num > unusable[i].last)
      continue;
    snprintf(message, sizeof message, "libcurl %s %s", present->version, unusable[i].why);
    return message;
  }
  return NULL;
}

static const char *fault; /* why libcurl cannot be used, or NULL */

static void start_libcurl(void) {
  CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code == CURLE_OK && pthread_atfork(NULL, NULL, count_fork) != 0) code = CURLE_OUT_OF_MEMORY;
  fault = code == CURLE_OK ? find_fault() : curl_easy_strerror(code);
}

static bool is_usable(const char **message) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start_libcurl);
  *message = fault;
  return fault == NULL;
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
  if (!is_usable(message)) return NULL;
  *message = "out of memory";
  engine *e = calloc(1, sizeof *e);
  if (e == NULL) return NULL;
  e->forks = forks;
  e->timer = e->overdue = HUGE_VAL;
  e->plain = strncmp(config->origin, "http:", 5) == 0;
  e->pipewait = !e->plain;
  e->connect_timeout_ms = config->connect_timeout_ms;
  e->max_connections = config->max_connections;
  e->max_head = config->max_head;
  e->max_body = config->max_body;
  e->loop = config->loop;
  e->background = config->loop == NULL;
  if (e->loop != NULL) e->loop->users++;
  e->common = curl_slist_append(NULL, "Expect:"); /* no waiting for a "100 Continue" */
  if (e->common != NULL && copy_texts(e, config)) return e;
  engine_free(e);
  return NULL;
}

static void free_common_headers(engine *e) {
  for (struct curl_slist *at = e->common; at != NULL; at = at->next)
    explicit_bzero(at->data, strlen(at->data));
  curl_slist_free_all(e->common);
  e->common = NULL;
}

/* For whoever has it to himself: no loop knows it any more. */
void engine_destroy(engine *e) {
  connections_forget(e);
  for (size_t i = 0; i < e->slot_count; i++) transfer_free(e->slots[i]);
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

void engine_free(engine *e) {
  if (e == NULL) return;
  engine_abandon_after_fork(e);
  loop *l = e->loop;
  if (e->background && e->attached) { /* the thread is at work on it: it does the rest */
    loop_close(l, e);
    return;
  }
  /* The goodbye of a TLS connection is a write, too. */
  sigpipe_guard guard = sigpipe_block(!e->plain && !e->background);
  if (e->attached) loop_detach(l, e);
  sigpipe_restore(&guard);
  bool has_loop = !e->background && l != NULL;
  engine_destroy(e);
  if (has_loop) loop_release(l);
}

/* ---- running ----------------------------------------------------------------------------- */

/* Takes back what the loop has ended. */
void engine_collect(engine *e) {
  engine_abandon_after_fork(e);
  for (transfer *t = stack_take(&e->outbox), *next; t != NULL; t = next) {
    next = t->next;
    if (t->state == FORGOTTEN) {
      transfer_recycle(t);
    } else {
      t->state = FINISHED;
      e->finished++;
      list_append(&e->ready, t);
    }
  }
}

size_t engine_run(engine *e, int timeout_ms) {
  engine_abandon_after_fork(e);
  if (!e->background && e->attached) {
    sigpipe_guard guard = sigpipe_block(e->loop->secure > 0);
    loop_run(e->loop, timeout_ms);
    sigpipe_restore(&guard);
  }
  engine_collect(e);
  return e->finished;
}
