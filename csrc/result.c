/* What is told of a finished transfer. Which code and which words libcurl has for the same event differs from version
 * to version: where we have seen ourselves what happened, ours are told. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine_private.h"

/* ---- codes ------------------------------------------------------------------------------- */

/* Names that headers of older versions lack. */
enum { TOO_LARGE = 100, ECH_REQUIRED = 101 };

/* clang-format off */
#define CODE_NAME(name) { name, #name }
/* clang-format on */

/* The codes that an HTTP transfer can end in, by libcurl's own names. */
static const struct {
  int code;
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
    CODE_NAME(CURLE_SSL_CLIENTCERT),
    CODE_NAME(CURLE_UNRECOVERABLE_POLL),
    {TOO_LARGE, "CURLE_TOO_LARGE"},
    {ECH_REQUIRED, "CURLE_ECH_REQUIRED"},
};

static const char *code_name(const transfer *t) {
  if (t->code_name != NULL) return t->code_name;
  if (t->code == CURLE_OK) return NULL;
  for (size_t i = 0; i < sizeof code_names / sizeof code_names[0]; i++)
    if (code_names[i].code == (int)t->code) return code_names[i].name;
  return "CURLE_OTHER";
}

/* ---- words ------------------------------------------------------------------------------- */

static bool always(const transfer *t) {
  return t != NULL;
}

static bool is_head_cut(const transfer *t) {
  return !t->head_ended; /* for libcurl the end of the connection ends a head as well as a blank line */
}

static bool has_status(const transfer *t) {
  return t->status != 0;
}

static bool was_issued(const transfer *t) {
  return t->issues > 0;
}

static bool was_reset(const transfer *t) {
  return t->end == RESET;
}

static bool says(const transfer *t, const char *words) {
  return strstr(t->message, words) != NULL;
}

/* The end of TLS without its goodbye is an error of OpenSSL's; our own goodbye is then answered by a reset. */
static bool has_ended(const transfer *t) {
  return t->end == ENDED || says(t, "unexpected eof") || says(t, "SSL_ERROR_SYSCALL");
}

static bool is_answer_broken(const transfer *t) {
  return t->status != 0 && (t->end == OPEN || has_ended(t));
}

static bool has_nothing_come(const transfer *t) {
  return t->head.used == 0 && has_ended(t);
}

static bool says_reset(const transfer *t) {
  return says(t, "reset by peer");
}

static bool is_for_another_host(const transfer *t) {
  return says(t, "subject name");
}

static bool has_errno(const transfer *t, int number) {
  long last = 0;
  return t->easy != NULL && curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &last) == CURLE_OK &&
         last == number;
}

static bool is_refused(const transfer *t) {
  return has_errno(t, ECONNREFUSED);
}

static bool is_without_route(const transfer *t) {
  return has_errno(t, EHOSTUNREACH) || has_errno(t, ENETUNREACH);
}

#define LONG_LINE "a line of the response's head is too long, or memory ran out"
#define BROKEN "the connection was reset"
#define NO_ANSWER "the connection ended without an answer"
#define CUT "the connection ended before the response was whole, or what came is no HTTP"

/* The first row of a code whose condition holds gives the words, and perhaps another code. */
static const struct {
  int code;
  bool (*holds)(const transfer *t);
  const char *name, *words;
} explanations[] = {
    {CURLE_OK, is_head_cut, "CURLE_PARTIAL_FILE", "the response's head was cut short"},
    /* Before 8.6 libcurl had no code of its own for a line that is longer than it takes. */
    {CURLE_OUT_OF_MEMORY, has_status, "CURLE_TOO_LARGE", LONG_LINE},
    {TOO_LARGE, has_status, NULL, LONG_LINE},
    {CURLE_RECV_ERROR, is_answer_broken, "CURLE_PARTIAL_FILE", CUT},
    {CURLE_RECV_ERROR, has_nothing_come, "CURLE_GOT_NOTHING", NO_ANSWER},
    {CURLE_RECV_ERROR, was_reset, NULL, BROKEN},
    {CURLE_SEND_ERROR, was_reset, NULL, BROKEN},
    {CURLE_SSL_CONNECT_ERROR, says_reset, NULL, BROKEN},
    {CURLE_SSL_CONNECT_ERROR, has_ended, NULL, "the connection ended in the handshake"},
    {CURLE_PARTIAL_FILE, always, NULL, CUT},
    {CURLE_GOT_NOTHING, always, NULL, NO_ANSWER},
    {CURLE_UNSUPPORTED_PROTOCOL, was_issued, NULL, "the response does not begin as HTTP does"},
    {CURLE_COULDNT_CONNECT, is_refused, NULL, "connection refused"},
    {CURLE_COULDNT_CONNECT, is_without_route, NULL, "no route to the host"},
    {CURLE_PEER_FAILED_VERIFICATION, is_for_another_host, NULL,
     "the certificate is for another host"},
    {CURLE_OPERATION_TIMEDOUT, has_status, NULL, "the response was not whole in time"},
    {CURLE_OPERATION_TIMEDOUT, was_issued, NULL, "no response came in time"},
    {CURLE_OPERATION_TIMEDOUT, always, NULL, "no connection came about in time"},
};

/* What libcurl puts before OpenSSL's own words differs from version to version, and from 8.22 on a number comes
 * behind them: "SSL certificate problem: certificate has expired", "TLS connect error: error:0A00042E:SSL
 * routines::tlsv1 alert protocol version". */
static void tell_in_tls_words(transfer *t) {
  static const char *const marks[] = {"SSL routines::", "certificate problem: ", "verify result: "};
  for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
    const char *mark = strstr(t->message, marks[i]);
    if (mark == NULL) continue;
    const char *words = mark + strlen(marks[i]), *number = strstr(words, " (");
    int size = (int)(number != NULL ? number - words : (ptrdiff_t)strlen(words));
    snprintf(t->reason, sizeof t->reason, "%.*s", size, words);
    return;
  }
}

/* Done when it has ended, by whoever knows: afterwards the handle may serve another one. */
void result_explain(transfer *t) {
  if (t->reason[0] != '\0') return;
  for (size_t i = 0; i < sizeof explanations / sizeof explanations[0]; i++) {
    if (explanations[i].code != (int)t->code || !explanations[i].holds(t)) continue;
    transfer_give_reason(t, explanations[i].name, explanations[i].words, 0);
    return;
  }
  if (t->code == CURLE_PEER_FAILED_VERIFICATION || t->code == CURLE_SSL_CONNECT_ERROR)
    tell_in_tls_words(t);
}

/* ---- for the caller ---------------------------------------------------------------------- */

static const char *message_of(const transfer *t) {
  if (t->reason[0] != '\0') return t->reason;
  return t->message[0] != '\0' ? t->message : curl_easy_strerror(t->code);
}

transfer_state engine_result_of(engine *e, uint64_t id, engine_result *result) {
  transfer *t = transfer_find(e, id);
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

/* libcurl gives the moments at which each step was done, counted from the start: a step that was not
 * taken has the moment 0 or that of the one before. */
static double between(double from, double to) {
  return to > from ? to - from : 0;
}

bool engine_durations_of(engine *e, uint64_t id, engine_durations *durations) {
  static const CURLINFO moments[] = {CURLINFO_NAMELOOKUP_TIME, CURLINFO_CONNECT_TIME,
                                     CURLINFO_APPCONNECT_TIME, CURLINFO_STARTTRANSFER_TIME};
  enum { LOOKED_UP, CONNECTED, SECURED, FIRST_BYTE, COUNT };
  double at[COUNT] = {0};
  long connections = 0;
  const transfer *t = transfer_find(e, id);
  if (t == NULL || t->state != FINISHED || t->easy == NULL) return false;
  for (size_t i = 0; i < COUNT; i++) curl_easy_getinfo(t->easy, moments[i], &at[i]);
  curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connections);
  bool is_kept = t->issues > 0 && connections == 0; /* then the first moment means nothing */
  *durations = (engine_durations){
      .dns = is_kept ? 0 : at[LOOKED_UP],
      .connect = between(at[LOOKED_UP], at[CONNECTED]),
      .tls = between(at[CONNECTED], at[SECURED]),
      .first_byte = t->head.used > 0 ? at[FIRST_BYTE] : 0,
  };
  return true;
}
