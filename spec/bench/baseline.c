/* What the client is measured against: libcurl used directly, as a C program would.
 *
 *   baseline about                              libcurl's version; the system's file of certificates
 *   baseline list URL CALLS                     one kept connection, one handle
 *   baseline connect URL CALLS CA_FILE          a new TLS connection for each call, one handle
 *   baseline write URL CALLS CA_FILE PROTECTION a small POST, one handle; PROTECTION against a second
 *                                               POST is none, guard (the client's) or fresh
 *
 * All but the first print the microseconds of processor time (user and system) of one call. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Most of libcurl's one-time work is behind it after the first few calls. */
enum { WARM_UP = 5, MAX_BODY = 64 * 1024 };

static struct {
  char bytes[MAX_BODY];
  size_t used;
} body;

/* How often libcurl has issued the request at hand. */
static int issues;

/* Keeps the body, as a program does that wants to read it. */
static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
  (void)context;
  size_t length = size * count;
  if (length > MAX_BODY - body.used) return 0;
  memcpy(body.bytes + body.used, bytes, length);
  body.used += length;
  return length;
}

static double processor_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
         ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec) / 1e6;
}

static void fetch(CURL *easy) {
  long status = 0;
  body.used = 0;
  issues = 0;
  CURLcode code = curl_easy_perform(easy);
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_OK && status == 200 && body.used > 0) return;
  fprintf(stderr, "baseline: %s, status %ld\n", curl_easy_strerror(code), status);
  exit(1);
}

/* ---- writes ------------------------------------------------------------------------------ */

static const char input[] =
    "{\"destination\":\"Segment\",\"label\":\"Marketing events\","
    "\"filters\":{\"email_events\":[\"drop\",\"bounce\"]},"
    "\"properties\":{\"write_key\":\"canary\",\"destination_region\":\"EU\"}}";

/* As the client's: a transfer is issued once. */
static int on_issue(void *context, char *remote_ip, char *local_ip, int remote_port,
                    int local_port) {
  (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
  int *count = context;
  return ++*count == 1 ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static void protect_not(CURL *easy) {
  (void)easy;
}

static void protect_by_guard(CURL *easy) {
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_issue);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, &issues);
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

int main(int count, char **arguments) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  if (count == 2 && strcmp(arguments[1], "about") == 0) return about();
  if (count < 4) return 2;
  CURL *easy = curl_easy_init();
  /* The very bytes that the client sends. */
  struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
  headers = curl_slist_append(headers, "Authorization: Bearer SG.test.canary");
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "lua-integrations/0.1.0");
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_URL, arguments[2]);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  /* CAPATH is left as it is: the folder of certificates that libcurl was built with. */
  if (count > 4 && arguments[4][0] != '\0') curl_easy_setopt(easy, CURLOPT_CAINFO, arguments[4]);
  if (count > 5) {
    headers = curl_slist_append(headers, "Content-Type: application/json");
    prepare_write(easy, arguments[5]);
  }
  measure(easy, strtol(arguments[3], NULL, 10));
  curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  return 0;
}
