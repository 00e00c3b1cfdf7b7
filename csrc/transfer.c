/* A transfer's life: begun, submitted, finished, released; and what is known of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_private.h"
#include "sigpipe.h"

enum { MAX_SLOTS = 1 << 20, LARGE_BUFFER = 1 << 16 };

void free_secret(char *secret) {
  if (secret == NULL) return;
  explicit_bzero(secret, strlen(secret));
  free(secret);
}

/* ---- lists ------------------------------------------------------------------------------- */

void list_append(list *l, transfer *t) {
  t->next = NULL;
  t->previous = l->last;
  if (l->last != NULL) l->last->next = t;
  l->last = t;
  if (l->first == NULL) l->first = t;
}

void list_remove(list *l, transfer *t) {
  if (t->previous != NULL) t->previous->next = t->next;
  if (t->next != NULL) t->next->previous = t->previous;
  if (l->first == t) l->first = t->next;
  if (l->last == t) l->last = t->previous;
}

/* Any number may put something there at a time, and one may take. */
void stack_push(stack *s, transfer *t) {
  t->next = atomic_load_explicit(s, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(s, &t->next, t, memory_order_release,
                                                memory_order_relaxed))
    continue;
}

transfer *stack_take(stack *s) {
  transfer *first = NULL, *t = NULL;
  if (atomic_load_explicit(s, memory_order_relaxed) != NULL)
    t = atomic_exchange_explicit(s, NULL, memory_order_acquire);
  for (transfer *next; t != NULL; t = next) {
    next = t->next;
    t->next = first;
    first = t;
  }
  return first;
}

/* A large response must not stay in memory for as long as its handle is kept. */
static void clear(buffer *b) {
  b->used = 0;
  if (b->size <= LARGE_BUFFER) return;
  free(b->bytes);
  *b = (buffer){NULL, 0, 0};
}

/* ---- headers ----------------------------------------------------------------------------- */

/* Appends "name: value" to the list. The line is wiped: it may be a credential. */
bool transfer_append_header(struct curl_slist **headers, const char *name, const char *value) {
  size_t size = strlen(name) + strlen(value) + 3;
  char *line = malloc(size);
  if (line == NULL) return false;
  snprintf(line, size, "%s: %s", name, value);
  struct curl_slist *grown = curl_slist_append(*headers, line);
  free_secret(line);
  if (grown == NULL) return false;
  *headers = grown;
  return true;
}

bool engine_add_credential(engine *e, const char *name, const char *value) {
  return transfer_append_header(&e->common, name, value);
}

const char *engine_secret(const engine *e, size_t position) {
  const struct curl_slist *at = e->common->next; /* behind the one that is no credential */
  for (; at != NULL && position > 0; position--) at = at->next;
  return at != NULL ? strrchr(at->data, ' ') + 1 : NULL;
}

bool engine_add_header(transfer *t, const char *name, const char *value) {
  return transfer_append_header(&t->headers, name, value);
}

/* Gives back a transfer's own headers, without those that it shares. */
static void drop_headers(transfer *t) {
  struct curl_slist *at = t->headers;
  if (at == t->owner->common) at = NULL;
  while (at != NULL) {
    struct curl_slist *next = at->next != t->owner->common ? at->next : NULL;
    at->next = NULL;
    curl_slist_free_all(at);
    at = next;
  }
  t->headers = NULL;
}

/* ---- life -------------------------------------------------------------------------------- */

/* As if nothing had been tried yet. */
void transfer_reset(transfer *t) {
  t->issues = 0;
  t->left = t->kept = t->stale = t->head_ended = false;
  t->end = UNSEEN;
  t->head.used = t->body.used = 0;
  t->code_name = NULL;
  t->reason[0] = t->message[0] = '\0';
}

static transfer *add_slot(engine *e) {
  if (e->slot_count == MAX_SLOTS) return NULL;
  transfer **grown = realloc(e->slots, (e->slot_count + 1) * sizeof *grown);
  if (grown == NULL) return NULL;
  e->slots = grown;
  transfer *t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->owner = e;
  t->slot = (uint32_t)e->slot_count;
  e->slots[e->slot_count++] = t;
  return t;
}

transfer *engine_begin(engine *e) {
  engine_abandon_after_fork(e);
  transfer *t = e->first_free != NULL ? e->first_free : add_slot(e);
  if (t == NULL) return NULL;
  e->first_free = t->next;
  t->state = BUILDING;
  t->generation = t->generation == UINT32_MAX ? 1 : t->generation + 1; /* an id is never 0 */
  t->announced = t->restarted = false;
  atomic_store_explicit(&t->unwanted, false, memory_order_relaxed);
  t->code = CURLE_OK;
  transfer_reset(t);
  return t;
}

static void free_memory(transfer *t) {
  if (t->easy != NULL) t->owner->handles--;
  curl_easy_cleanup(t->easy);
  t->easy = NULL;
  free(t->head.bytes);
  free(t->body.bytes);
  t->head = t->body = (buffer){NULL, 0, 0};
}

/* Makes its slot ready for another one. What only a burst needed is given back. */
void transfer_recycle(transfer *t) {
  if (t->owner->handles > t->owner->max_connections) free_memory(t);
  if (t->easy != NULL) {
    /* The copy of the body is the user's data; it need not wait for the handle's next use. */
    curl_easy_setopt(t->easy, CURLOPT_COPYPOSTFIELDS, NULL);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, NULL);
  }
  drop_headers(t);
  clear(&t->head);
  clear(&t->body);
  t->state = FREE;
  t->next = t->owner->first_free;
  t->owner->first_free = t;
}

/* The background thread gives it back once it has seen that nobody wants it. */
static void forget(transfer *t) {
  engine *e = t->owner;
  t->state = FORGOTTEN;
  atomic_store(&t->unwanted, true);
  atomic_store(&e->disturbed, true);
  loop_wake(e->loop);
}

static void drop(transfer *t) {
  sigpipe_guard guard = sigpipe_block(t->owner->loop->secure > 0);
  loop_take_in(t->owner->loop);
  flight_drop(t);
  sigpipe_restore(&guard);
}

void engine_discard(transfer *t) {
  engine *e = t->owner;
  if (t->state == RUNNING && e->background) {
    forget(t);
    return;
  }
  if (t->state == RUNNING) drop(t);
  if (t->state == FINISHED) {
    e->finished--;
    if (!t->announced) list_remove(&e->ready, t);
  }
  transfer_recycle(t);
}

static uint64_t id_of(const transfer *t) {
  return (uint64_t)t->generation * MAX_SLOTS + t->slot;
}

transfer *transfer_find(engine *e, uint64_t id) {
  engine_collect(e);
  if (id % MAX_SLOTS >= e->slot_count) return NULL;
  transfer *t = e->slots[id % MAX_SLOTS];
  bool is_known = t->state == RUNNING || t->state == FINISHED;
  return t->generation == id / MAX_SLOTS && is_known ? t : NULL;
}

uint64_t engine_next(engine *e) {
  engine_collect(e);
  transfer *t = e->ready.first;
  if (t == NULL) return 0;
  list_remove(&e->ready, t);
  t->announced = true;
  return id_of(t);
}

/* While it is the background thread's, nobody else can tell. */
static bool may_have_left(const transfer *t) {
  if (t->state == FINISHED) return t->sent;
  return t->owner->background || t->left;
}

bool engine_release(engine *e, uint64_t id) {
  transfer *t = transfer_find(e, id);
  if (t == NULL) return false;
  bool has_left = may_have_left(t);
  engine_discard(t);
  return has_left;
}

/* For engine_destroy alone: a slot lives as long as its engine. */
void transfer_free(transfer *t) {
  free_memory(t);
  drop_headers(t);
  free(t);
}

static bool is_below_origin(const engine *e, const char *url) {
  size_t size = strlen(e->origin);
  return strncmp(url, e->origin, size) == 0 && url[size] == '/';
}

static bool find_loop(engine *e, const char **message) {
  if (e->loop == NULL) e->loop = background_loop(message);
  return e->loop != NULL;
}

static bool prepare(transfer *t, const char *method, const char *url, const char *body,
                    size_t body_size, long timeout_ms, const char **message) {
  if (!is_below_origin(t->owner, url)) {
    *message = "the address is not below this client's base_url";
    return false;
  }
  if (t->easy == NULL && !easy_open(t, message)) return false;
  t->write = strcmp(method, "GET") != 0;
  CURLcode code = easy_set_request(t, method, url, body, body_size, timeout_ms);
  *message = curl_easy_strerror(code);
  return code == CURLE_OK;
}

uint64_t engine_submit(transfer *t, const char *method, const char *url, const char *body,
                       size_t body_size, long timeout_ms, const char **message) {
  t->timeout_ms = timeout_ms;
  t->deadline = engine_now() + (double)timeout_ms / 1000;
  if (prepare(t, method, url, body, body_size, timeout_ms, message) &&
      find_loop(t->owner, message)) {
    *message = "the system has no epoll descriptor left";
    t->state = RUNNING;
    if (loop_submit(t->owner->loop, t)) return id_of(t);
    t->state = BUILDING;
  }
  engine_discard(t);
  return 0;
}

/* Ends a transfer for a reason of the engine's own: libcurl's message would only say that a
 * callback failed. */
void transfer_give_reason(transfer *t, const char *code_name, const char *what, size_t limit) {
  t->code_name = code_name;
  if (limit > 0)
    snprintf(t->reason, sizeof t->reason, "%s is over %zu bytes", what, limit);
  else
    snprintf(t->reason, sizeof t->reason, "%s", what);
}

void transfer_finish(transfer *t, CURLcode code) {
  t->status = 0;
  if (t->easy != NULL) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->status);
  t->sent = t->left || t->easy == NULL; /* without a handle the answer has to be the careful one */
  t->code = code;
  result_explain(t);
  stack_push(&t->owner->outbox, t);
}
