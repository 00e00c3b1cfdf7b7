/* HTTP transfers by libcurl. Knows nothing of Lua.
 *
 * begin -> header … -> submit -> run until finished -> result -> release
 *
 * An engine belongs to one origin: it sends its credentials nowhere else. Its bytes are moved by a loop,
 * which serves any number of engines: one that engine_run drives, or the process's background thread. An
 * engine is not for use by two threads at a time. After a fork the child gets new handles of its own at
 * the next call. */
#ifndef INTEGRATIONS_ENGINE_H
#define INTEGRATIONS_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

typedef struct engine engine;
typedef struct loop loop;
typedef struct transfer transfer;

typedef struct {
  const char *origin; /* "https://host[:port][/prefix]"; plain http is the caller's decision */
  const char *user_agent;
  const char *ca_file; /* NULL: the system's */
  const char *proxy;   /* NULL: none, whatever the environment says */
  long connect_timeout_ms;
  long max_connections;
  size_t max_head, max_body; /* bytes of a response, counted as they arrive, decoded */
  loop *loop;                /* NULL: the background thread */
} engine_config;

/* Seconds that a transfer took for each step; 0 where it was not taken, as on a connection that is
 * used again. */
typedef struct {
  double dns, connect, tls;
  double first_byte; /* of the response, since it was submitted */
} engine_durations;

typedef struct {
  const char *code;    /* NULL: a whole response came; else libcurl's name of what went wrong */
  const char *message; /* for people, with `code` */
  long status;         /* of the last status line, 0 where none came */
  bool sent;           /* whether any byte of the request may have left */
  const char *head, *body;
  size_t head_size, body_size;
} engine_result;

/* A loop for engines that their caller runs. NULL where memory or the system fail. It lives until it is
 * released and the last of its engines is freed. */
loop *loop_new(const char **message);
void loop_release(loop *l);

/* NULL where memory or libcurl fail; *message then says which. */
engine *engine_new(const engine_config *config, const char **message);

/* A header that goes with each request and is wiped at the end: credentials. */
bool engine_add_credential(engine *e, const char *name, const char *value);

/* The secret of the credential at this position: the last word of its value, so without "Bearer". NULL
 * behind the last one. */
const char *engine_secret(const engine *e, size_t position);

/* A transfer that is being put together; it belongs to the engine from the start. */
transfer *engine_begin(engine *e);
bool engine_add_header(transfer *t, const char *name, const char *value);

/* Starts it. Returns its id, or 0 (*message says why; the transfer is released then). */
uint64_t engine_submit(transfer *t, const char *method, const char *url, const char *body,
                       size_t body_size, long timeout_ms, const char **message);

/* Moves bytes of all engines of this one's loop, waiting up to timeout_ms until one of their transfers is
 * finished or anything else happens. Returns how many of this engine are finished and not released. With
 * the background thread it only looks. */
size_t engine_run(engine *e, int timeout_ms);

/* The id of a transfer that was finished since and was not told of yet; 0 where there is none. */
uint64_t engine_next(engine *e);

typedef enum { TRANSFER_UNKNOWN, TRANSFER_RUNNING, TRANSFER_FINISHED } transfer_state;

/* What is known of a transfer. The result's bytes are the engine's, until it is released. */
transfer_state engine_result_of(engine *e, uint64_t id, engine_result *result);

/* How long a finished transfer took; false where nobody can tell any more. */
bool engine_durations_of(engine *e, uint64_t id, engine_durations *durations);

/* Forgets a transfer, running or finished. Returns whether any byte of it may have left. */
bool engine_release(engine *e, uint64_t id);
void engine_discard(transfer *t);

/* Seconds of a clock that never jumps. */
double engine_now(void);

/* Stops all transfers, wipes the credentials and frees everything; in the background, soon. */
void engine_free(engine *e);

#pragma GCC visibility pop

#endif
