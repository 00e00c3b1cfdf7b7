/* libcurl from 8.15 on lets OpenSSL read ahead. What comes in one piece with an answer has left the socket by then, and
 * libcurl does not look where it is: HTTP/2's goodbye, or an answer that nobody asked for, which would be taken for the
 * answer to the next request. Without reading ahead it stays where connection.c sees it. */
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "engine_private.h"

/* OpenSSL's SSL_CTX_set_read_ahead is a macro for this function with this command. */
typedef long control(void *context, int command, long value, void *more);
enum { SET_READ_AHEAD = 41, READS_AHEAD = 0x080f00 };

static control *ssl_ctx_ctrl; /* NULL: not needed, or not to be had */

/* In the libraries that libcurl was linked with: the module itself needs no OpenSSL. Where the program has another one
 * of that name, libcurl may use that: then neither is touched. */
static void find_control(void) {
  const union {
    CURL *(*function)(void);
    void *address;
  } known = {curl_easy_init};
  union {
    void *address;
    control *function;
  } found;
  Dl_info libcurl;
  const curl_version_info_data *present = curl_version_info(CURLVERSION_NOW);
  if (present->version_num < READS_AHEAD || present->ssl_version == NULL) return;
  if (strncmp(present->ssl_version, "OpenSSL/", 8) != 0 || dladdr(known.address, &libcurl) == 0)
    return;
  void *handle = dlopen(libcurl.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == NULL) return;
  void *other = dlsym(RTLD_DEFAULT, "SSL_CTX_ctrl");
  found.address = dlsym(handle, "SSL_CTX_ctrl");
  if (other == NULL || other == found.address) ssl_ctx_ctrl = found.function;
  dlclose(handle);
}

static CURLcode on_context(CURL *easy, void *context, void *unused) {
  (void)easy, (void)unused;
  ssl_ctx_ctrl(context, SET_READ_AHEAD, 0, NULL);
  return CURLE_OK;
}

CURLcode tls_read_no_further(CURL *easy) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_control);
  if (ssl_ctx_ctrl == NULL) return CURLE_OK;
  return curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_context);
}
