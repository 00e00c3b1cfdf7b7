/* What the files of the engine share: engine.c (an engine's life), transfer.c (a transfer's), easy.c
 * (what libcurl is told of a transfer), connection.c (what is seen of libcurl's connections), flight.c (an
 * engine's transfers in libcurl's hands), result.c (what is told of one that has ended), tls.c (what OpenSSL
 * is told), loop.c (who waits for their sockets), background.c (the thread that may do so).
 *
 * Two may work on an engine: its caller, and the loop, which the caller drives itself or a thread does.
 * A transfer belongs to one of them at a time. It goes to the loop by the loop's inbox and comes back by
 * its engine's outbox; nobody ever waits for the other. */
#ifndef INTEGRATIONS_ENGINE_PRIVATE_H
#define INTEGRATIONS_ENGINE_PRIVATE_H

#include <curl/curl.h>
#include <stdatomic.h>

#include "engine.h"

#pragma GCC visibility push(hidden)

typedef struct {
  char *bytes;
  size_t used, size;
} buffer;

/* As its caller sees it; RUNNING and FORGOTTEN are the loop's. */
typedef enum { FREE, BUILDING, RUNNING, FORGOTTEN, FINISHED } state;

typedef struct connection connection;

/* How the other side has left a connection, as far as that was seen. */
typedef enum { UNSEEN, OPEN, ENDED, RESET } connection_end;

/* How a socket is and what it has sent, as the kernel tells. `known`: whether it counts at all. */
typedef struct {
  bool known;
  connection_end end;
  uint64_t sent;   /* bytes, repeated ones among them */
  uint32_t unsent; /* bytes that are still to be sent */
} traffic;

struct transfer {
  engine *owner;
  CURL *easy;
  struct curl_slist *headers; /* its own ones; the last one links to the engine's */
  state state;
  bool announced; /* by engine_next */
  uint32_t slot, generation;
  bool write;             /* must not be sent twice */
  unsigned issues;        /* how often libcurl was let send it */
  bool left;              /* whether any byte of it may have left */
  bool kept;              /* whether the connection that libcurl chose last had been used before */
  bool stale;             /* whether that one was at its end, and so was not used */
  bool restarted;         /* by us, on a new connection */
  connection_end end;     /* of its connection, where it failed */
  connection *connection; /* that it is on; NULL where nothing is known of it */
  traffic before;         /* of that connection, when a write was about to be sent */
  long timeout_ms;
  double deadline; /* by engine_now */
  atomic_bool unwanted;
  bool in_flight; /* whether the multi handle has it */
  CURLcode code;
  long status; /* these two once it is finished, for after a fork the handle is gone */
  bool sent;
  const char *code_name; /* with `reason`: where the engine, not libcurl, ended it */
  buffer head, body;
  bool head_ended;           /* whether the blank line after it came */
  transfer *next, *previous; /* in the one list or stack that it is in */
  char reason[96];
  char message[CURL_ERROR_SIZE];
};

typedef struct {
  transfer *first, *last;
} list;

/* What one side has put there and the other one takes all of. */
typedef _Atomic(transfer *) stack;

struct engine {
  bool plain;                /* http, not https */
  struct curl_slist *common; /* headers of each request, the credentials among them */
  char *origin, *user_agent, *ca_file, *ca_path, *proxy;
  char *protocol; /* "https"; "http" where the origin is so, which the caller allows for loopback */
  char *no_proxy; /* "": libcurl would take it from the environment */
  long connect_timeout_ms, max_connections;
  /* Whether a call waits to see whether a connection carries several: only TLS offers HTTP/2. */
  long pipewait;
  size_t max_head, max_body;

  /* the caller's */
  loop *loop; /* NULL until the first transfer of an engine in the background */
  bool background;
  unsigned forks; /* of the process whose handles these are */
  bool attached;  /* whether the loop knows it */
  transfer **slots, *first_free;
  size_t slot_count, finished;
  long handles; /* of libcurl's, that its slots have */
  list ready;   /* finished and not asked for by engine_next */

  /* between the two */
  stack outbox;
  atomic_bool disturbed; /* some transfer is unwanted */
  engine *next_closing;  /* among those that the caller has let go of for good */

  /* the loop's */
  engine *next;
  bool busy; /* whether it is among those that its loop tends to */
  CURLM *multi;
  double timer;   /* when libcurl wants to be called, by engine_now */
  double overdue; /* when the first deadline of its transfers may have passed */
  list waiting, flying;
  size_t in_flight, limit; /* how many there are and may be */
  bool unresolved;         /* whether the host's name was not found when it was last asked for */
  connection *connections;
};

/* list and stack, in transfer.c */
void list_append(list *l, transfer *t);
void list_remove(list *l, transfer *t);
void stack_push(stack *s, transfer *t);
transfer *stack_take(stack *s); /* the first one that was put there; the others by `next` */

/* engine.c */
unsigned engine_forks(void);
void engine_abandon_after_fork(engine *e);
void engine_collect(engine *e);
void engine_destroy(engine *e);

/* loop.c */
struct loop {
  int poller; /* epoll */
  int bell;   /* eventfd that wakes the thread; -1 where there is none */
  atomic_bool asleep, news, stopping;
  stack inbox;
  _Atomic(engine *) closing;
  engine *engines; /* those that have something to do */
  engine **owners; /* by socket: whose it is, as far as it is watched */
  size_t owner_count;
  unsigned forks;
  size_t users, secure; /* engines, and those that are busy and speak TLS */
  size_t busy;          /* transfers that it has */
  size_t ended;         /* transfers, ever */
};
bool loop_add_bell(loop *l);
bool loop_submit(loop *l, transfer *t);
void loop_take_in(loop *l);
void loop_wake(loop *l);
void loop_close(loop *l, engine *e);
void loop_detach(loop *l, engine *e);
bool loop_watch(loop *l, engine *e, int socket, bool known, int what);
void loop_turn(loop *l, int timeout_ms);
void loop_run(loop *l, int timeout_ms);

/* background.c */
loop *background_loop(const char **message);

/* flight.c */
void flight_admit(engine *e, transfer *t);
void flight_tend(engine *e);
void flight_serve(engine *e, int socket, int what);
double flight_due(const engine *e);
bool flight_is_over(const engine *e);
void flight_drop(transfer *t);
void flight_end(engine *e);

/* connection.c */
void connection_opened(engine *e, int socket);
void connection_closes(engine *e, int socket);
void connections_forget(engine *e);
bool connection_take(transfer *t, const char *own, int port, const char *other);
void connection_settle(transfer *t);
void connection_leave(transfer *t);
void connection_multiplexes(transfer *t);

/* tls.c */
CURLcode tls_read_no_further(CURL *easy);

/* result.c */
void result_explain(transfer *t);

/* transfer.c */
transfer *transfer_find(engine *e, uint64_t id);
void transfer_reset(transfer *t);
void transfer_finish(transfer *t, CURLcode code);
void transfer_give_reason(transfer *t, const char *code_name, const char *what, size_t limit);
bool transfer_append_header(struct curl_slist **headers, const char *name, const char *value);
void transfer_recycle(transfer *t);
void transfer_free(transfer *t);
void free_secret(char *secret);

/* easy.c */
bool easy_open(transfer *t, const char **message);
CURLcode easy_restart(transfer *t);
CURLcode easy_set_request(transfer *t, const char *method, const char *url, const char *body,
                          size_t body_size, long timeout_ms);

#pragma GCC visibility pop

#endif
