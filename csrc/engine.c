#include "engine.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if LIBCURL_VERSION_NUM < 0x075500
#error "integrations needs libcurl 7.85 or newer"
#endif

enum { MAX_SLOTS = 1 << 20, FIRST_BODY = 4096 };

typedef struct {
  char *bytes;
  size_t used, size;
} buffer;

typedef enum { FREE, BUILDING, RUNNING, FINISHED } state;

struct transfer {
  engine *owner;
  CURL *easy;
  struct curl_slist *headers; /* its own ones; the last one links to the engine's */
  state state;
  uint32_t slot, generation;
  bool write;      /* must not be sent twice */
  unsigned issues; /* how often libcurl was about to send it */
  CURLcode code;
  long status; /* these two once it is finished, for after a fork the handle is gone */
  bool sent;
  const char *code_name; /* with `reason`: where the engine, not libcurl, ended it */
  buffer head, body;
  transfer *next_free;
  char reason[96];
  char message[CURL_ERROR_SIZE];
};

struct engine {
  CURLM *multi;
  unsigned forks;            /* of the process whose handles these are */
  bool plain;                /* http, not https */
  struct curl_slist *common; /* headers of each request, the credentials among them */
  char *origin, *user_agent, *ca_file, *ca_path, *proxy;
  char *no_proxy; /* "": libcurl would take it from the environment */
  long connect_timeout_ms, max_connections;
  size_t max_head, max_body;
  transfer **slots, *first_free;
  size_t slot_count, finished;
};

/* ---- memory ------------------------------------------------------------------------------ */

static bool append(buffer *b, const char *bytes, size_t size) {
  if (b->size - b->used < size) {
    size_t wanted = b->size > 0 ? b->size : FIRST_BODY;
    while (wanted - b->used < size) wanted *= 2;
    char *grown = realloc(b->bytes, wanted);
    if (grown == NULL) return false;
    b->bytes = grown;
    b->size = wanted;
  }
  memcpy(b->bytes + b->used, bytes, size);
  b->used += size;
  return true;
}

/* A large response must not stay in memory for as long as its handle is kept. */
static void clear(buffer *b) {
  b->used = 0;
  if (b->size <= 16 * FIRST_BODY) return;
  free(b->bytes);
  *b = (buffer){NULL, 0, 0};
}

static void free_secret(char *secret) {
  if (secret == NULL) return;
  explicit_bzero(secret, strlen(secret));
  free(secret);
}

static void free_common_headers(engine *e) {
  for (struct curl_slist *at = e->common; at != NULL; at = at->next)
    explicit_bzero(at->data, strlen(at->data));
  curl_slist_free_all(e->common);
  e->common = NULL;
}

/* ---- libcurl's callbacks: they only collect bytes and count ------------------------------ */

/* Ends a transfer for a reason of the engine's own: libcurl's message would only say that a
 * callback failed. */
static void give_reason(transfer *t, const char *code_name, const char *what, size_t limit) {
  t->code_name = code_name;
  if (limit > 0)
    snprintf(t->reason, sizeof t->reason, "%s is over %zu bytes", what, limit);
  else
    snprintf(t->reason, sizeof t->reason, "%s", what);
}

static size_t collect(transfer *t, buffer *b, const char *bytes, size_t size, size_t limit,
                      const char *code_name, const char *what) {
  if (size > limit - b->used) {
    give_reason(t, code_name, what, limit);
    return 0;
  }
  if (append(b, bytes, size)) return size;
  give_reason(t, "CURLE_OUT_OF_MEMORY", "out of memory for the response", 0);
  return 0;
}

static size_t on_head(char *bytes, size_t size, size_t count, void *context) {
  transfer *t = context;
  return collect(t, &t->head, bytes, size * count, t->owner->max_head, "CURLE_TOO_LARGE",
                 "the response's head");
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
  transfer *t = context;
  return collect(t, &t->body, bytes, size * count, t->owner->max_body, "CURLE_FILESIZE_EXCEEDED",
                 "the response's body");
}

/* Connections are not for the programs that the host starts. */
static int on_socket(void *context, curl_socket_t socket, curlsocktype purpose) {
  (void)context, (void)purpose;
  int flags = fcntl(socket, F_GETFD);
  if (flags == -1 || fcntl(socket, F_SETFD, flags | FD_CLOEXEC) == -1) return CURL_SOCKOPT_ERROR;
  return CURL_SOCKOPT_OK;
}

/* libcurl sends a request again by itself when a reused connection dies before the response,
 * whatever the method. A write must not go out twice, so its second issue is refused. */
static int on_issue(void *context, char *remote_ip, char *local_ip, int remote_port,
                    int local_port) {
  (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
  transfer *t = context;
  t->issues++;
  if (!t->write || t->issues == 1) return CURL_PREREQFUNC_OK;
  give_reason(t, "CURLE_GOT_NOTHING",
              "the connection died before an answer came; a write is not sent again", 0);
  return CURL_PREREQFUNC_ABORT;
}

/* ---- options ----------------------------------------------------------------------------- */

typedef enum { CONSTANT, NUMBER, TEXT, SELF, CALLBACK } source;

/* One libcurl option and where its value is: here, in a field of the engine, the transfer
 * itself, or a function. */
typedef struct {
  const char *name;
  CURLoption option;
  source source;
  union {
    long constant;
    size_t field;
    void (*callback)(void);
  } value;
} option_row;

#define ROW(name, from, ...) \
  { \
#name, CURLOPT_##name, from, { \
      __VA_ARGS__ \
    } \
  }
#define OPTION_CONSTANT(name, number) ROW(name, CONSTANT, .constant = number)
#define OPTION_NUMBER(name, member) ROW(name, NUMBER, .field = offsetof(engine, member))
#define OPTION_TEXT(name, member) ROW(name, TEXT, .field = offsetof(engine, member))
#define OPTION_SELF(name) ROW(name, SELF, .constant = 0)
#define OPTION_CALLBACK(name, function) ROW(name, CALLBACK, .callback = (void (*)(void))function)

/* Set once for each easy handle, which then serves many requests. */
static const option_row options[] = {
    /* Security: only HTTP, no redirect, nothing from files or the environment. */
    OPTION_TEXT(PROXY, proxy),
    OPTION_TEXT(NOPROXY, no_proxy),
    OPTION_CONSTANT(FOLLOWLOCATION, 0),
    OPTION_CONSTANT(SSL_VERIFYPEER, 1),
    OPTION_CONSTANT(SSL_VERIFYHOST, 2),
    OPTION_CONSTANT(SSLVERSION, CURL_SSLVERSION_TLSv1_2),
    OPTION_CONSTANT(NETRC, CURL_NETRC_IGNORED),
    OPTION_CONSTANT(DISALLOW_USERNAME_IN_URL, 1),
    OPTION_CONSTANT(HTTP09_ALLOWED, 0),
    OPTION_CONSTANT(PATH_AS_IS, 1),
    OPTION_CONSTANT(SUPPRESS_CONNECT_HEADERS, 1),
    /* A CA folder would switch off libcurl's cache of parsed certificates: 22 ms instead of 2
     * for each new connection. One file holds the same certificates. */
    OPTION_TEXT(CAINFO, ca_file),
    OPTION_TEXT(CAPATH, ca_path),
    /* Time: no signals (they belong to the host), and a resolver that is not waited for. */
    OPTION_CONSTANT(NOSIGNAL, 1),
    OPTION_NUMBER(CONNECTTIMEOUT_MS, connect_timeout_ms),
#if LIBCURL_VERSION_NUM >= 0x075700
    OPTION_CONSTANT(QUICK_EXIT, 1),
#endif
    /* Connections: HTTP/2 where the server offers it, then many calls on one connection. */
    OPTION_CONSTANT(HTTP_VERSION, CURL_HTTP_VERSION_2TLS),
    OPTION_CONSTANT(PIPEWAIT, 1),
    OPTION_CONSTANT(TCP_KEEPALIVE, 1),
    OPTION_CONSTANT(MAXLIFETIME_CONN, 600),
    OPTION_TEXT(USERAGENT, user_agent),
    /* What comes back. */
    OPTION_CALLBACK(WRITEFUNCTION, on_body),
    OPTION_SELF(WRITEDATA),
    OPTION_CALLBACK(HEADERFUNCTION, on_head),
    OPTION_SELF(HEADERDATA),
    OPTION_CALLBACK(SOCKOPTFUNCTION, on_socket),
    OPTION_CALLBACK(PREREQFUNCTION, on_issue),
    OPTION_SELF(PREREQDATA),
    OPTION_SELF(PRIVATE),
};

static CURLcode set_option(transfer *t, const option_row *row) {
  const char *field = (const char *)t->owner + row->value.field;
  switch (row->source) {
    case CONSTANT: return curl_easy_setopt(t->easy, row->option, row->value.constant);
    case NUMBER: return curl_easy_setopt(t->easy, row->option, *(const long *)(const void *)field);
    case TEXT: return curl_easy_setopt(t->easy, row->option, *(char *const *)(const void *)field);
    case SELF: return curl_easy_setopt(t->easy, row->option, t);
    case CALLBACK: return curl_easy_setopt(t->easy, row->option, row->value.callback);
  }
  return CURLE_BAD_FUNCTION_ARGUMENT;
}

/* https only, unless the origin itself is plain http (which the caller allows for loopback). */
static CURLcode set_protocols(transfer *t) {
  const char *only = t->owner->plain ? "http" : "https";
  CURLcode code = curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, only);
  if (code != CURLE_OK) return code;
  return curl_easy_setopt(t->easy, CURLOPT_REDIR_PROTOCOLS_STR, "https");
}

static bool open_easy(transfer *t, const char **message) {
  t->easy = curl_easy_init();
  if (t->easy == NULL) {
    *message = "libcurl could not make a handle: out of memory";
    return false;
  }
  CURLcode code = set_protocols(t);
  for (size_t i = 0; i < sizeof options / sizeof options[0] && code == CURLE_OK; i++) {
    code = set_option(t, &options[i]);
    if (code != CURLE_OK) *message = options[i].name;
  }
  if (code == CURLE_OK) code = curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->message);
  if (code == CURLE_OK) return true;
  /* A libcurl older at run time than at build time, or built without TLS. */
  if (code != CURLE_UNKNOWN_OPTION && code != CURLE_NOT_BUILT_IN)
    *message = curl_easy_strerror(code);
  curl_easy_cleanup(t->easy);
  t->easy = NULL;
  return false;
}

/* ---- the host process: SIGPIPE, fork ----------------------------------------------------- */

/* With NOSIGNAL libcurl leaves SIGPIPE alone. On a plain socket it sends with MSG_NOSIGNAL, but
 * OpenSSL's writes raise the signal: around these it is blocked for this thread, and one that
 * arrives meanwhile is swallowed. */
typedef struct {
  bool active, pending;
  sigset_t before;
} sigpipe_guard;

static sigset_t sigpipe_set(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  return set;
}

static sigpipe_guard block_sigpipe(const engine *e) {
  sigpipe_guard guard = {.active = !e->plain};
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

static void restore_sigpipe(const sigpipe_guard *guard) {
  if (!guard->active) return;
  const struct timespec at_once = {0, 0};
  sigset_t set = sigpipe_set();
  while (!guard->pending && sigtimedwait(&set, NULL, &at_once) == SIGPIPE) continue;
  pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
}

/* A code does not tell whether the request was sent. It was not if libcurl never came to issue it,
 * or if its size is nothing; without a handle to ask, the answer has to be the careful one. */
static void finish(transfer *t, CURLcode code) {
  long request_size = 1;
  t->status = 0;
  if (t->easy != NULL) {
    curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &request_size);
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->status);
  }
  t->sent = t->easy == NULL || (t->issues > 0 && request_size > 0);
  t->state = FINISHED;
  t->code = code;
  t->owner->finished++;
}

/* How many forks lie between this process and the first one: far cheaper to ask than getpid. */
static unsigned forks;

static void count_fork(void) {
  forks++;
}

/* In a forked child the parent's handles share sockets with it: to clean them up would speak on
 * the parent's connections. They are left as they are, and calls in flight were never ours. */
static void abandon_after_fork(engine *e) {
  if (e->forks == forks) return;
  e->forks = forks;
  e->multi = NULL;
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    t->easy = NULL;
    if (t->state != RUNNING) continue;
    give_reason(t, "CURLE_ABORTED_BY_CALLBACK", "the call belongs to the process before the fork",
                0);
    finish(t, CURLE_ABORTED_BY_CALLBACK);
  }
}

static bool open_multi(engine *e, const char **message) {
  if (e->multi != NULL) return true;
  e->multi = curl_multi_init();
  if (e->multi == NULL) {
    *message = "libcurl could not make a multi handle: out of memory";
    return false;
  }
  curl_multi_setopt(e->multi, CURLMOPT_MAX_HOST_CONNECTIONS, e->max_connections);
  curl_multi_setopt(e->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, e->max_connections);
  curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS, e->max_connections);
  return true;
}

/* ---- an engine's life -------------------------------------------------------------------- */

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
         copy_text(&e->no_proxy, "");
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
  if (e->common != NULL && copy_texts(e, config) && open_multi(e, message)) return e;
  engine_free(e);
  return NULL;
}

static void close_easy(transfer *t) {
  if (t->easy == NULL) return;
  if (t->state == RUNNING) curl_multi_remove_handle(t->owner->multi, t->easy);
  curl_easy_cleanup(t->easy);
  t->easy = NULL;
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

void engine_free(engine *e) {
  if (e == NULL) return;
  sigpipe_guard guard = block_sigpipe(e); /* the goodbye of a TLS connection is a write, too */
  abandon_after_fork(e);
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    close_easy(t);
    drop_headers(t);
    free(t->head.bytes);
    free(t->body.bytes);
    free(t);
  }
  if (e->multi != NULL) curl_multi_cleanup(e->multi);
  restore_sigpipe(&guard);
  free_common_headers(e);
  free_secret(e->proxy);
  free(e->slots);
  free(e->origin);
  free(e->user_agent);
  free(e->ca_file);
  free(e->ca_path);
  free(e->no_proxy);
  free(e);
}

/* ---- headers ----------------------------------------------------------------------------- */

/* Appends "name: value" to the list. The line is wiped: it may be a credential. */
static bool append_header(struct curl_slist **list, const char *name, const char *value) {
  size_t size = strlen(name) + strlen(value) + 3;
  char *line = malloc(size);
  if (line == NULL) return false;
  snprintf(line, size, "%s: %s", name, value);
  struct curl_slist *grown = curl_slist_append(*list, line);
  free_secret(line);
  if (grown == NULL) return false;
  *list = grown;
  return true;
}

bool engine_add_credential(engine *e, const char *name, const char *value) {
  return append_header(&e->common, name, value);
}

bool engine_add_header(transfer *t, const char *name, const char *value) {
  return append_header(&t->headers, name, value);
}

/* The engine's headers become the tail of the transfer's: no copy of a secret for each call. */
static struct curl_slist *link_headers(transfer *t) {
  struct curl_slist *last = t->headers;
  if (last == NULL) return t->headers = t->owner->common;
  while (last->next != NULL) last = last->next;
  last->next = t->owner->common;
  return t->headers;
}

/* ---- a transfer's life ------------------------------------------------------------------- */

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
  abandon_after_fork(e);
  transfer *t = e->first_free != NULL ? e->first_free : add_slot(e);
  if (t == NULL) return NULL;
  e->first_free = t->next_free;
  t->state = BUILDING;
  t->generation++;
  t->issues = 0;
  t->code = CURLE_OK;
  t->code_name = NULL;
  t->reason[0] = t->message[0] = '\0';
  return t;
}

void engine_discard(transfer *t) {
  if (t->state == RUNNING) {
    sigpipe_guard guard = block_sigpipe(t->owner);
    curl_multi_remove_handle(t->owner->multi, t->easy);
    restore_sigpipe(&guard);
  }
  if (t->state == FINISHED) t->owner->finished--;
  /* The copy of the body is the user's data; it need not wait for the handle's next use. */
  if (t->easy != NULL) curl_easy_setopt(t->easy, CURLOPT_COPYPOSTFIELDS, NULL);
  if (t->easy != NULL) curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, NULL);
  drop_headers(t);
  clear(&t->head);
  clear(&t->body);
  t->state = FREE;
  t->next_free = t->owner->first_free;
  t->owner->first_free = t;
}

static uint64_t id_of(const transfer *t) {
  return (uint64_t)t->generation * MAX_SLOTS + t->slot;
}

static transfer *find(engine *e, uint64_t id) {
  abandon_after_fork(e);
  if (id % MAX_SLOTS >= e->slot_count) return NULL;
  transfer *t = e->slots[id % MAX_SLOTS];
  return t->generation == id / MAX_SLOTS && t->state >= RUNNING ? t : NULL;
}

void engine_release(engine *e, uint64_t id) {
  transfer *t = find(e, id);
  if (t != NULL) engine_discard(t);
}

/* What differs from request to request. Each line sets what an earlier request may have left. */
static CURLcode set_request(transfer *t, const char *method, const char *url, const char *body,
                            size_t body_size, long timeout_ms) {
  CURL *easy = t->easy;
  CURLcode code = curl_easy_setopt(easy, CURLOPT_URL, url);
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_HTTPHEADER, link_headers(t));
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
  /* An idle connection that the server is about to close costs a write its outcome. */
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, t->write ? 10L : 60L);
  if (code == CURLE_OK && body == NULL) code = curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
  if (code == CURLE_OK && body != NULL) {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_size);
    code = curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body);
  }
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
  return code;
}

static bool is_below_origin(const engine *e, const char *url) {
  size_t size = strlen(e->origin);
  return strncmp(url, e->origin, size) == 0 && url[size] == '/';
}

static bool start(transfer *t, const char *method, const char *url, const char *body,
                  size_t body_size, long timeout_ms, const char **message) {
  if (!is_below_origin(t->owner, url)) {
    *message = "the address is not below this client's base_url";
    return false;
  }
  if (!open_multi(t->owner, message)) return false;
  if (t->easy == NULL && !open_easy(t, message)) return false;
  t->write = strcmp(method, "GET") != 0;
  CURLcode code = set_request(t, method, url, body, body_size, timeout_ms);
  *message = curl_easy_strerror(code);
  if (code != CURLE_OK) return false;
  CURLMcode added = curl_multi_add_handle(t->owner->multi, t->easy);
  *message = curl_multi_strerror(added);
  return added == CURLM_OK;
}

uint64_t engine_submit(transfer *t, const char *method, const char *url, const char *body,
                       size_t body_size, long timeout_ms, const char **message) {
  if (!start(t, method, url, body, body_size, timeout_ms, message)) {
    engine_discard(t);
    return 0;
  }
  t->state = RUNNING;
  return id_of(t);
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
    finish(t, code);
  }
}

/* The multi handle itself failed: no call may wait for ever, and the next one gets a new handle. */
static void fail_all(engine *e, CURLMcode code) {
  for (size_t i = 0; i < e->slot_count; i++) {
    transfer *t = e->slots[i];
    if (t->state != RUNNING) continue;
    curl_multi_remove_handle(e->multi, t->easy);
    snprintf(t->message, sizeof t->message, "%s", curl_multi_strerror(code));
    finish(t, code == CURLM_OUT_OF_MEMORY ? CURLE_OUT_OF_MEMORY : CURLE_FAILED_INIT);
  }
  curl_multi_cleanup(e->multi);
  e->multi = NULL;
}

size_t engine_run(engine *e, int timeout_ms) {
  abandon_after_fork(e);
  if (e->multi == NULL) return e->finished;
  sigpipe_guard guard = block_sigpipe(e);
  int running = 0;
  CURLMcode code = curl_multi_perform(e->multi, &running);
  collect_finished(e);
  if (code == CURLM_OK && running > 0 && e->finished == 0 && timeout_ms > 0) {
    code = curl_multi_poll(e->multi, NULL, 0, timeout_ms, NULL);
    if (code == CURLM_OK) code = curl_multi_perform(e->multi, &running);
    collect_finished(e);
  }
  if (code != CURLM_OK) fail_all(e, code);
  restore_sigpipe(&guard);
  return e->finished;
}

/* ---- results ----------------------------------------------------------------------------- */

#define CODE_NAME(name) \
  { name, #name }

/* The codes that an HTTP transfer can end in, by libcurl's own names. */
static const struct {
  CURLcode code;
  const char *name;
} code_names[] = {
    CODE_NAME(CURLE_UNSUPPORTED_PROTOCOL),
    CODE_NAME(CURLE_FAILED_INIT),
    CODE_NAME(CURLE_URL_MALFORMAT),
    CODE_NAME(CURLE_COULDNT_RESOLVE_PROXY),
    CODE_NAME(CURLE_COULDNT_RESOLVE_HOST),
    CODE_NAME(CURLE_COULDNT_CONNECT),
    CODE_NAME(CURLE_WEIRD_SERVER_REPLY),
    CODE_NAME(CURLE_HTTP2),
    CODE_NAME(CURLE_PARTIAL_FILE),
    CODE_NAME(CURLE_WRITE_ERROR),
    CODE_NAME(CURLE_OUT_OF_MEMORY),
    CODE_NAME(CURLE_OPERATION_TIMEDOUT),
    CODE_NAME(CURLE_SSL_CONNECT_ERROR),
    CODE_NAME(CURLE_ABORTED_BY_CALLBACK),
    CODE_NAME(CURLE_GOT_NOTHING),
    CODE_NAME(CURLE_SEND_ERROR),
    CODE_NAME(CURLE_RECV_ERROR),
    CODE_NAME(CURLE_SSL_CERTPROBLEM),
    CODE_NAME(CURLE_SSL_CIPHER),
    CODE_NAME(CURLE_PEER_FAILED_VERIFICATION),
    CODE_NAME(CURLE_BAD_CONTENT_ENCODING),
    CODE_NAME(CURLE_FILESIZE_EXCEEDED),
    CODE_NAME(CURLE_USE_SSL_FAILED),
    CODE_NAME(CURLE_SSL_CACERT_BADFILE),
    CODE_NAME(CURLE_SSL_SHUTDOWN_FAILED),
    CODE_NAME(CURLE_SSL_ISSUER_ERROR),
    CODE_NAME(CURLE_SSL_PINNEDPUBKEYNOTMATCH),
    CODE_NAME(CURLE_SSL_INVALIDCERTSTATUS),
    CODE_NAME(CURLE_HTTP2_STREAM),
    CODE_NAME(CURLE_PROXY),
    CODE_NAME(CURLE_UNRECOVERABLE_POLL),
};

static const char *code_name(const transfer *t) {
  if (t->code_name != NULL) return t->code_name;
  if (t->code == CURLE_OK) return NULL;
  for (size_t i = 0; i < sizeof code_names / sizeof code_names[0]; i++)
    if (code_names[i].code == t->code) return code_names[i].name;
  return "CURLE_OTHER";
}

static const char *message_of(const transfer *t) {
  if (t->reason[0] != '\0') return t->reason;
  return t->message[0] != '\0' ? t->message : curl_easy_strerror(t->code);
}

transfer_state engine_result_of(engine *e, uint64_t id, engine_result *result) {
  transfer *t = find(e, id);
  if (t == NULL) return TRANSFER_UNKNOWN;
  if (t->state == RUNNING) return TRANSFER_RUNNING;
  *result = (engine_result){
      .code = code_name(t),
      .message = message_of(t),
      .status = t->status,
      .sent = t->sent,
      .head = t->head.bytes,
      .body = t->body.bytes,
      .head_size = t->head.used,
      .body_size = t->body.used,
  };
  return TRANSFER_FINISHED;
}
