/* What the files of the engine share: engine.c (an engine's life), transfer.c (a transfer's),
 * easy.c (what libcurl is told). */
#ifndef INTEGRATIONS_ENGINE_PRIVATE_H
#define INTEGRATIONS_ENGINE_PRIVATE_H

#include <curl/curl.h>

#include "engine.h"

#pragma GCC visibility push(hidden)

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
  double deadline; /* by engine_now */
  CURLcode code;
  long status; /* these two once it is finished, for after a fork the handle is gone */
  bool sent;
  const char *code_name; /* with `reason`: where the engine, not libcurl, ended it */
  buffer head, body;
  bool head_ended; /* whether the blank line after it came */
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
  char *protocol; /* "https"; "http" where the origin is so, which the caller allows for loopback */
  char *no_proxy; /* "": libcurl would take it from the environment */
  long connect_timeout_ms, max_connections;
  size_t max_head, max_body;
  transfer **slots, *first_free;
  size_t slot_count, finished;
};

/* engine.c: before anything that touches a handle. */
void engine_abandon_after_fork(engine *e);
bool engine_open_multi(engine *e, const char **message);

/* transfer.c */
void transfer_finish(transfer *t, CURLcode code);
void transfer_give_reason(transfer *t, const char *code_name, const char *what, size_t limit);
bool transfer_append_header(struct curl_slist **list, const char *name, const char *value);
void transfer_free(transfer *t);
void free_secret(char *secret);

/* easy.c */
bool easy_open(transfer *t, const char **message);
CURLcode easy_set_request(transfer *t, const char *method, const char *url, const char *body,
                          size_t body_size, long timeout_ms);

#pragma GCC visibility pop

#endif
