/* What the client is measured against: libcurl used directly, as a C program would.
 *
 *   baseline about                              libcurl's version; the system's file of certificates
 *   baseline list URL CALLS                     one kept connection, one handle
 *   baseline connect URL CALLS CA_FILE          a new TLS connection for each call, one handle
 *   baseline write URL CALLS CA_FILE PROTECTION a small POST, one handle; PROTECTION against a second
 *                                               POST is none, guard (the client's) or fresh
 *   baseline multi URL CALLS LIMIT              up to LIMIT calls at a time, of URL/id with an id for each;
 *                                               as many handles, used again; their connections included
 *
 * All but the first print the microseconds of processor time (user and system) of one call; multi also
 * the seconds that all of them took. */
#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

/* Most of libcurl's one-time work is behind it after the first few calls. */
enum { WARM_UP = 5, MAX_BODY = 64 * 1024 };

typedef struct {
  char bytes[MAX_BODY];
  size_t used;
} kept_body;

static kept_body body;

/* How often libcurl has issued the request at hand. */
static int issues;

/* Keeps the body, as a program does that wants to read it. */
static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
  kept_body *kept = context;
  size_t length = size * count;
  if (length > MAX_BODY - kept->used) return 0;
  memcpy(kept->bytes + kept->used, bytes, length);
  kept->used += length;
  return length;
}

static double processor_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
         ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec) / 1e6;
}

static void expect_success(CURL *easy, CURLcode code, const kept_body *kept) {
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_OK && status == 200 && kept->used > 0) return;
  fprintf(stderr, "baseline: %s, status %ld\n", curl_easy_strerror(code), status);
  exit(1);
}

static void fetch(CURL *easy) {
  body.used = 0;
  issues = 0;
  expect_success(easy, curl_easy_perform(easy), &body);
}

/* ---- writes ------------------------------------------------------------------------------ */

static const char input[] =
    "{\"destination\":\"Segment\",\"label\":\"Marketing events\","
    "\"filters\":{\"email_events\":[\"drop\",\"bounce\"]},"
    "\"properties\":{\"write_key\":\"canary\",\"destination_region\":\"EU\"}}";

/* The only connection's. */
static curl_socket_t last_socket = CURL_SOCKET_BAD;

static int on_open(void *context, curl_socket_t socket, curlsocktype purpose) {
  (void)context, (void)purpose;
  last_socket = socket;
  return CURL_SOCKOPT_OK;
}

/* As the client's: the connection is looked at, what it has sent is noted, and a transfer is issued once. */
static int on_issue(void *context, char *remote_ip, char *local_ip, int remote_port,
                    int local_port) {
  (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
  int *count = context;
  char byte;
  unsigned char traffic[256];
  socklen_t size = sizeof traffic;
  if (recv(last_socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) return CURL_PREREQFUNC_ABORT;
  getsockopt(last_socket, IPPROTO_TCP, TCP_INFO, traffic, &size);
  return ++*count == 1 ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static void protect_not(CURL *easy) {
  (void)easy;
}

static void protect_by_guard(CURL *easy) {
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_issue);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, &issues);
  curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_open);
}

/* libcurl sends again only what it has sent on a connection that it used before (HTTP/1.1). */
static void protect_by_new_connection(CURL *easy) {
  curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
}

static const struct {
  const char *name;
  void (*apply)(CURL *easy);
} protections[] = {
    {"none", protect_not},
    {"guard", protect_by_guard},
    {"fresh", protect_by_new_connection},
};

static void prepare_write(CURL *easy, const char *protection) {
  /* As in the client: no folder of certificates, so that new connections are not dearer than need be. */
  curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, input);
  for (size_t i = 0; i < sizeof protections / sizeof protections[0]; i++)
    if (strcmp(protections[i].name, protection) == 0) protections[i].apply(easy);
}

/* ---- many at a time ---------------------------------------------------------------------- */

/* A place for one of the calls that are under way. */
typedef struct {
  CURL *easy;
  kept_body body;
} lane;

static void start_call(CURLM *multi, lane *l, const char *url, long number) {
  char address[1024];
  snprintf(address, sizeof address, "%s/3f2a6c1e-0000-4000-8000-%012ld", url, number);
  l->body.used = 0;
  curl_easy_setopt(l->easy, CURLOPT_URL, address);
  curl_multi_add_handle(multi, l->easy);
}

static void finish_call(CURLM *multi, const CURLMsg *message, lane **finished) {
  CURLcode code = message->data.result;
  curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)finished);
  curl_multi_remove_handle(multi, (*finished)->easy);
  expect_success((*finished)->easy, code, &(*finished)->body);
}

static void run_calls(CURLM *multi, const char *url, long calls, long started) {
  int running, left;
  for (long done = 0; done < calls;) {
    curl_multi_perform(multi, &running);
    const CURLMsg *message;
    while ((message = curl_multi_info_read(multi, &left)) != NULL) {
      lane *finished;
      finish_call(multi, message, &finished);
      done++;
      if (started < calls) start_call(multi, finished, url, ++started);
    }
    if (done < calls) curl_multi_poll(multi, NULL, 0, 1000, NULL);
  }
}

static double wall_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The handles are copies of one that is prepared. */
static void measure_multi(CURL *prepared, const char *url, long calls, long limit) {
  CURLM *multi = curl_multi_init();
  lane *lanes = calloc((size_t)limit, sizeof *lanes);
  if (lanes == NULL) exit(1);
  double wall = wall_seconds(), processor = processor_seconds();
  for (long i = 0; i < limit; i++) {
    lanes[i].easy = curl_easy_duphandle(prepared);
    curl_easy_setopt(lanes[i].easy, CURLOPT_PRIVATE, &lanes[i]);
    curl_easy_setopt(lanes[i].easy, CURLOPT_WRITEDATA, &lanes[i].body);
    start_call(multi, &lanes[i], url, i + 1);
  }
  run_calls(multi, url, calls, limit);
  printf("%.3f %.6f\n", (processor_seconds() - processor) / (double)calls * 1e6,
         wall_seconds() - wall);
  for (long i = 0; i < limit; i++) curl_easy_cleanup(lanes[i].easy);
  curl_multi_cleanup(multi);
  free(lanes);
}

/* ---- all of it --------------------------------------------------------------------------- */

static void measure(CURL *easy, long calls) {
  for (int i = 0; i < WARM_UP; i++) fetch(easy);
  double before = processor_seconds();
  for (long i = 0; i < calls; i++) fetch(easy);
  printf("%.3f\n", (processor_seconds() - before) / (double)calls * 1e6);
}

static int about(void) {
  const curl_version_info_data *built = curl_version_info(CURLVERSION_NOW);
  const char *tls = built->ssl_version != NULL ? built->ssl_version : "no TLS";
  printf("%s (%s)\n%s\n", built->version, tls, built->cainfo != NULL ? built->cainfo : "");
  return 0;
}

static CURL *prepare(const char *url, const struct curl_slist *headers) {
  CURL *easy = curl_easy_init();
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "lua-integrations/0.1.0");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &body);
  return easy;
}

int main(int count, char **arguments) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  if (count == 2 && strcmp(arguments[1], "about") == 0) return about();
  if (count < 4) return 2;
  /* The very bytes that the client sends. */
  struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
  headers = curl_slist_append(headers, "Authorization: Bearer SG.test.canary");
  CURL *easy = prepare(arguments[2], headers);
  long calls = strtol(arguments[3], NULL, 10);
  if (strcmp(arguments[1], "multi") == 0) {
    measure_multi(easy, arguments[2], calls, count > 4 ? strtol(arguments[4], NULL, 10) : 1);
  } else {
    /* CAPATH is left as it is: the folder of certificates that libcurl was built with. */
    if (count > 4 && arguments[4][0] != '\0') curl_easy_setopt(easy, CURLOPT_CAINFO, arguments[4]);
    if (count > 5) {
      headers = curl_slist_append(headers, "Content-Type: application/json");
      prepare_write(easy, arguments[5]);
    }
    measure(easy, calls);
  }
  curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  return 0;
}
