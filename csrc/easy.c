/* What libcurl is told about a transfer, and what it tells. */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_private.h"

#if LIBCURL_VERSION_NUM < 0x075500
#error "integrations needs libcurl 7.85 or newer"
#endif

/* 7.87 and newer. */
#if LIBCURL_VERSION_NUM < 0x075700
#define CURLOPT_QUICK_EXIT ((CURLoption)(CURLOPTTYPE_LONG + 322))
#endif

/* ---- libcurl's callbacks: they only collect bytes and count ------------------------------ */

enum { FIRST_SIZE = 4096 };

static bool append(buffer *b, const char *bytes, size_t size) {
  if (b->size - b->used < size) {
    size_t wanted = b->size > 0 ? b->size : FIRST_SIZE;
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

static size_t collect(transfer *t, buffer *b, const char *bytes, size_t size, size_t limit,
                      const char *code_name, const char *what) {
  if (size > limit - b->used) {
    transfer_give_reason(t, code_name, what, limit);
    return 0;
  }
  if (append(b, bytes, size)) return size;
  transfer_give_reason(t, "CURLE_OUT_OF_MEMORY", "out of memory for the response", 0);
  return 0;
}

/* One line a time. Those of a 1xx come before, and trailers of the body behind. */
static size_t on_head(char *bytes, size_t size, size_t count, void *context) {
  transfer *t = context;
  bool is_blank = size * count > 0 && (bytes[0] == '\r' || bytes[0] == '\n');
  bool is_status_line = size * count >= 5 && memcmp(bytes, "HTTP/", 5) == 0;
  t->head_ended = is_blank || (t->head_ended && !is_status_line);
  return collect(t, &t->head, bytes, size * count, t->owner->max_head, "CURLE_TOO_LARGE",
                 "the response's head");
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
  transfer *t = context;
  return collect(t, &t->body, bytes, size * count, t->owner->max_body, "CURLE_FILESIZE_EXCEEDED",
                 "the response's body");
}

/* Connections are not for the programs that the host starts. */
static int on_open(void *context, curl_socket_t socket, curlsocktype purpose) {
  (void)purpose;
  transfer *t = context;
  int flags = fcntl(socket, F_GETFD);
  if (flags == -1 || fcntl(socket, F_SETFD, flags | FD_CLOEXEC) == -1) return CURL_SOCKOPT_ERROR;
  connection_opened(t->owner, socket);
  return CURL_SOCKOPT_OK;
}

/* The transfer is the one that opened it; it may serve another request by now. */
static int on_close(void *context, curl_socket_t socket) {
  transfer *t = context;
  connection_closes(t->owner, socket);
  return close(socket);
}

/* libcurl sends a request again by itself, whatever the method: when a connection that it uses again
 * dies before the response, and up to five times when a server refuses an HTTP/2 stream. A write must
 * not go out twice, so its second issue is refused. A read may go once more, since a kept connection
 * that dies is nothing unusual; then it is for the caller's policy, which waits in between. */
static int on_issue(void *context, char *remote_ip, char *local_ip, int remote_port,
                    int local_port) {
  (void)remote_port;
  transfer *t = context;
  const char *reason =
      t->write ? "no answer came; a write is not sent again" : "no answer came, twice";
  if (t->issues < (t->write ? 1 : 2)) {
    if (connection_take(t, local_ip, local_port, remote_ip)) {
      t->left = true;
      t->issues++;
      return CURL_PREREQFUNC_OK;
    }
    if (!t->left) reason = "the server ended the connection before the request was sent";
    t->stale = t->kept;
    curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 1L); /* else one of HTTP/2 would be kept */
  }
  transfer_give_reason(t, "CURLE_GOT_NOTHING", reason, 0);
  return CURL_PREREQFUNC_ABORT;
}

/* ---- options ----------------------------------------------------------------------------- */

typedef enum { CONSTANT, WHERE_KNOWN, NUMBER, TEXT, SELF, CALLBACK } source;

/* One libcurl option and where its value is: here (and perhaps of no avail in an old libcurl), in a field of the
 * engine, the transfer itself, or a function. */
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

/* clang-format off */
#define ROW(name, from, ...) { #name, CURLOPT_##name, from, { __VA_ARGS__ } }
/* clang-format on */
#define OPTION_CONSTANT(name, number) ROW(name, CONSTANT, .constant = number)
#define OPTION_WHERE_KNOWN(name, number) ROW(name, WHERE_KNOWN, .constant = number)
#define OPTION_NUMBER(name, member) ROW(name, NUMBER, .field = offsetof(engine, member))
#define OPTION_TEXT(name, member) ROW(name, TEXT, .field = offsetof(engine, member))
#define OPTION_SELF(name) ROW(name, SELF, .constant = 0)
#define OPTION_CALLBACK(name, function) ROW(name, CALLBACK, .callback = (void (*)(void))function)

/* Set once for each easy handle, which then serves many requests. */
static const option_row options[] = {
    /* Security: the origin's protocol only, no redirect, nothing from files or the environment.
     * Cookies, HSTS and alt-svc are off unless asked for. */
    OPTION_TEXT(PROTOCOLS_STR, protocol),
    OPTION_TEXT(REDIR_PROTOCOLS_STR, protocol),
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
    OPTION_WHERE_KNOWN(QUICK_EXIT, 1),
    /* Connections: HTTP/2 where the server offers it, then many calls on one connection. */
    OPTION_CONSTANT(HTTP_VERSION, CURL_HTTP_VERSION_2TLS),
    OPTION_NUMBER(PIPEWAIT, pipewait),
    OPTION_CONSTANT(TCP_KEEPALIVE, 1),
    OPTION_CONSTANT(MAXLIFETIME_CONN, 600),
    OPTION_TEXT(USERAGENT, user_agent),
    /* What comes back. */
    OPTION_CALLBACK(WRITEFUNCTION, on_body),
    OPTION_SELF(WRITEDATA),
    OPTION_CALLBACK(HEADERFUNCTION, on_head),
    OPTION_SELF(HEADERDATA),
    OPTION_CALLBACK(SOCKOPTFUNCTION, on_open),
    OPTION_SELF(SOCKOPTDATA),
    OPTION_CALLBACK(CLOSESOCKETFUNCTION, on_close),
    OPTION_SELF(CLOSESOCKETDATA),
    OPTION_CALLBACK(PREREQFUNCTION, on_issue),
    OPTION_SELF(PREREQDATA),
    OPTION_SELF(PRIVATE),
};

static CURLcode set_option(transfer *t, const option_row *row) {
  const char *field = (const char *)t->owner + row->value.field;
  switch (row->source) {
    case CONSTANT: return curl_easy_setopt(t->easy, row->option, row->value.constant);
    case WHERE_KNOWN: curl_easy_setopt(t->easy, row->option, row->value.constant); return CURLE_OK;
    case NUMBER: return curl_easy_setopt(t->easy, row->option, *(const long *)(const void *)field);
    case TEXT: return curl_easy_setopt(t->easy, row->option, *(char *const *)(const void *)field);
    case SELF: return curl_easy_setopt(t->easy, row->option, t);
    case CALLBACK: return curl_easy_setopt(t->easy, row->option, row->value.callback);
  }
  return CURLE_BAD_FUNCTION_ARGUMENT;
}

bool easy_open(transfer *t, const char **message) {
  t->easy = curl_easy_init();
  if (t->easy == NULL) {
    *message = "libcurl could not make a handle: out of memory";
    return false;
  }
  CURLcode code = CURLE_OK;
  for (size_t i = 0; i < sizeof options / sizeof options[0] && code == CURLE_OK; i++) {
    code = set_option(t, &options[i]);
    if (code != CURLE_OK) *message = options[i].name;
  }
  if (code == CURLE_OK) code = curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->message);
  if (code == CURLE_OK && !t->owner->plain) code = tls_read_no_further(t->easy);
  if (code == CURLE_OK) {
    t->owner->handles++;
    return true;
  }
  /* A libcurl older at run time than at build time, or built without TLS. */
  if (code != CURLE_UNKNOWN_OPTION && code != CURLE_NOT_BUILT_IN)
    *message = curl_easy_strerror(code);
  curl_easy_cleanup(t->easy);
  t->easy = NULL;
  return false;
}

/* The engine's headers become the tail of the transfer's: no copy of a secret for each call. */
static struct curl_slist *link_headers(transfer *t) {
  struct curl_slist *last = t->headers;
  if (last == NULL) return t->headers = t->owner->common;
  while (last->next != NULL) last = last->next;
  last->next = t->owner->common;
  return t->headers;
}

/* What differs from request to request. Each line sets what an earlier request may have left. */
CURLcode easy_set_request(transfer *t, const char *method, const char *url, const char *body,
                          size_t body_size, long timeout_ms) {
  CURL *easy = t->easy;
  CURLcode code = curl_easy_setopt(easy, CURLOPT_URL, url);
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_HTTPHEADER, link_headers(t));
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
  /* An idle connection that the server is about to close costs a write its outcome. */
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, t->write ? 10L : 60L);
  if (code == CURLE_OK && body == NULL) code = curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
  if (code == CURLE_OK && body != NULL)
    code = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_size);
  if (code == CURLE_OK && body != NULL) code = curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body);
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 0L);
  if (code == CURLE_OK) code = curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 0L);
  return code;
}

/* The same request once more, on a connection that nothing is wrong with. */
CURLcode easy_restart(transfer *t) {
  CURLcode code = curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
  if (code == CURLE_OK) code = curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 0L);
  return code;
}
