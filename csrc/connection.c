/* What we see of libcurl's connections ourselves: which socket a request goes out on, how that socket is then, and what
 * the kernel has sent on it since. Nothing here rests on libcurl's own counts: what CURLINFO_REQUEST_SIZE means has
 * changed three times. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if __has_include(<linux/tcp.h>)
#include <linux/tcp.h>
#endif

#include "engine_private.h"

/* The addresses that a socket connects. All connections of an engine go to the same port, so that one is left out. */
typedef struct {
  char own[INET6_ADDRSTRLEN], other[INET6_ADDRSTRLEN];
  int port; /* the own one; 0 until it is connected */
} ends;

struct connection {
  int socket;
  ends ends;
  unsigned requests, flying; /* ever, and those that are not ended */
  bool multiplexed;          /* HTTP/2 */
  connection *next;
};

/* ---- what the kernel says ---------------------------------------------------------------- */

#ifdef TCP_INFO

/* The kernel's numbers for a socket's state, from its tcp_states.h. They are part of its interface to programs. */
enum { ESTABLISHED = 1, CLOSED = 7 };

/* Linux 4.19 and newer count the bytes that a socket has sent. A system that has the field and never fills it, as
 * gVisor, has not counted the segments of the handshake either. */
static bool read_traffic(int socket, traffic *t) {
  enum { NEEDED = offsetof(struct tcp_info, tcpi_bytes_sent) + sizeof(uint64_t) };
  struct tcp_info info;
  socklen_t size = sizeof info;
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || size < NEEDED) return false;
  *t = (traffic){
      .known = info.tcpi_segs_out > 0,
      .end = info.tcpi_state == CLOSED        ? RESET
             : info.tcpi_state == ESTABLISHED ? OPEN
                                              : ENDED,
      .sent = info.tcpi_bytes_sent,
      .unsent = info.tcpi_notsent_bytes,
  };
  return true;
}

#else

static bool read_traffic(int socket, traffic *t) {
  (void)socket, (void)t;
  return false;
}

#endif

/* MPTCP would answer for one of its subflows only. */
static bool is_tcp(int socket) {
#ifdef SO_PROTOCOL
  int protocol = 0;
  socklen_t size = sizeof protocol;
  return getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
         protocol == IPPROTO_TCP;
#else
  return socket >= 0;
#endif
}

typedef enum { QUIET, TALKING, OVER } condition;

static condition condition_of(int socket) {
  char byte;
  ssize_t size = recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (size > 0) return TALKING;
  return size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? QUIET : OVER;
}

typedef union {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
} end_address;

/* Returns its port; 0 where it has none. */
static int write_address(const end_address *end, char *text) {
  bool is_v6 = end->any.sa_family == AF_INET6;
  const void *address = is_v6 ? (const void *)&end->v6.sin6_addr : (const void *)&end->v4.sin_addr;
  if (!is_v6 && end->any.sa_family != AF_INET) return 0;
  if (inet_ntop(end->any.sa_family, address, text, INET6_ADDRSTRLEN) == NULL) return 0;
  return ntohs(is_v6 ? end->v6.sin6_port : end->v4.sin_port);
}

/* Leaves the port 0 where it is not connected yet. */
static void learn_ends(int socket, ends *e) {
  end_address own, other;
  socklen_t own_size = sizeof own, other_size = sizeof other;
  if (getpeername(socket, &other.any, &other_size) != 0 || write_address(&other, e->other) == 0)
    return;
  if (getsockname(socket, &own.any, &own_size) != 0) return;
  e->port = write_address(&own, e->own);
}

/* ---- a transfer on its connection -------------------------------------------------------- */

/* Nothing of a request has left if its connection is at its end and has sent nothing since the request was issued. While
 * the connection lives, what libcurl, TLS or HTTP/2 hold back may still go. TLS's close_notify counts like the request:
 * after it the answer remains that some may have left. */
static void conclude(transfer *t, bool closing) {
  traffic now;
  if (t->connection == NULL || !read_traffic(t->connection->socket, &now)) return;
  t->end = now.end;
  bool is_over = now.end == RESET || (closing && now.unsent == 0);
  if (is_over && t->before.known && now.sent == t->before.sent) t->left = false;
}

void connection_settle(transfer *t) {
  conclude(t, false);
}

void connection_leave(transfer *t) {
  if (t->connection != NULL) t->connection->flying--;
  t->connection = NULL;
}

/* ---- the list of an engine --------------------------------------------------------------- */

static connection **place_of(engine *e, int socket) {
  connection **at = &e->connections;
  while (*at != NULL && (*at)->socket != socket) at = &(*at)->next;
  return at;
}

/* By its addresses, which are what libcurl tells when it is about to send. Linux gives the same own end to connections
 * with different hosts, and a name may have several. */
static connection *find(engine *e, const char *own, int port, const char *other) {
  for (connection *c = e->connections; c != NULL; c = c->next) {
    if (c->ends.port == 0) learn_ends(c->socket, &c->ends);
    if (c->ends.port == port && strcmp(c->ends.own, own) == 0 && strcmp(c->ends.other, other) == 0)
      return c;
  }
  return NULL;
}

static void remove_at(connection **at) {
  connection *c = *at;
  *at = c->next;
  free(c);
}

/* Its transfers learn what has left of them, where that can be told: afterwards nobody can. */
static void detach(engine *e, connection *c, bool told) {
  for (transfer *t = e->flying.first; t != NULL && c->flying > 0; t = t->next) {
    if (t->connection != c) continue;
    if (told) conclude(t, true);
    connection_leave(t);
  }
}

/* A record whose socket libcurl closed without a word, as 7.88 to 8.1 do with one that never got connected, goes when
 * the number is another's. A connection without a record, for want of memory or because it is no plain TCP, is one that
 * nothing is known of. */
void connection_opened(engine *e, int socket) {
  connection **stale = place_of(e, socket);
  if (*stale != NULL) {
    detach(e, *stale, false);
    remove_at(stale);
  }
  if (!is_tcp(socket)) return;
  connection *c = calloc(1, sizeof *c);
  if (c == NULL) return;
  c->socket = socket;
  c->next = e->connections;
  e->connections = c;
}

void connection_closes(engine *e, int socket) {
  connection **at = place_of(e, socket);
  if (*at == NULL) return;
  detach(e, *at, true);
  remove_at(at);
}

void connections_forget(engine *e) {
  while (e->connections != NULL) remove_at(&e->connections);
}

/* ---- before a request goes out ----------------------------------------------------------- */

/* Nobody has asked for what arrives on a connection that is at rest: over HTTP/1.1 it would be taken for the answer to
 * the next request. Over HTTP/2 it may be a mere ping, but also the goodbye that a write must not meet. */
static bool is_dead(const connection *c, bool write) {
  condition now = condition_of(c->socket);
  if (now != TALKING) return now == OVER;
  return c->requests > 0 && c->flying == 0 && (write || !c->multiplexed);
}

/* libcurl is about to send a transfer's request on the connection between these addresses. Returns whether it may: not
 * on one that is dead. libcurl from 8.22 on does not look at one that was used in the second before. */
bool connection_take(transfer *t, const char *own, int port, const char *other) {
  connection_leave(t);
  connection *c = port > 0 ? find(t->owner, own, port, other) : NULL;
  t->kept = c != NULL && c->requests > 0;
  t->before.known = false;
  if (c == NULL) return true;
  if (is_dead(c, t->write)) return false;
  c->requests++;
  c->flying++;
  t->connection = c;
  if (t->write) read_traffic(c->socket, &t->before);
  return true;
}

void connection_multiplexes(transfer *t) {
  if (t->connection != NULL) t->connection->multiplexed = true;
}
