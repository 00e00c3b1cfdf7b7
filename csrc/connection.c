/* What we see of libcurl's connections ourselves. libcurl says when it opens and closes a socket and when it is about
 * to send a request; how the socket is then, and whether anything of the request has left, the kernel says. Nothing
 * here rests on libcurl's own counts: what CURLINFO_REQUEST_SIZE means has changed three times. */
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

struct connection {
  int socket;
  int port; /* its own end; 0 until that is known */
  char address[INET6_ADDRSTRLEN];
  unsigned requests, flying; /* ever, and those that are not ended */
  bool multiplexed;          /* HTTP/2 */
  connection *next;
};

/* ---- what the kernel says ---------------------------------------------------------------- */

#ifdef TCP_INFO

/* The kernel's numbers of states (its tcp_states.h): each of them is an interface to programs. */
enum { ESTABLISHED = 1, CLOSED = 7 };

/* Linux 4.19 and newer count what a socket has sent. */
static bool read_traffic(int socket, traffic *t) {
  enum { NEEDED = offsetof(struct tcp_info, tcpi_bytes_sent) + sizeof(uint64_t) };
  struct tcp_info info;
  socklen_t size = sizeof info;
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || size < NEEDED) return false;
  *t = (traffic){
      .known = true,
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

typedef enum { QUIET, TALKING, OVER } condition;

static condition condition_of(int socket) {
  char byte;
  ssize_t size = recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (size > 0) return TALKING;
  return size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? QUIET : OVER;
}

static void learn_own_end(connection *c) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } end;
  socklen_t size = sizeof end;
  if (getsockname(c->socket, &end.any, &size) != 0) return;
  bool is_v6 = end.any.sa_family == AF_INET6;
  if (!is_v6 && end.any.sa_family != AF_INET) return;
  const void *address = is_v6 ? (const void *)&end.v6.sin6_addr : (const void *)&end.v4.sin_addr;
  if (inet_ntop(end.any.sa_family, address, c->address, sizeof c->address) == NULL) return;
  c->port = ntohs(is_v6 ? end.v6.sin6_port : end.v4.sin_port);
}

/* ---- the list of an engine --------------------------------------------------------------- */

static connection **place_of(engine *e, int socket) {
  connection **at = &e->connections;
  while (*at != NULL && (*at)->socket != socket) at = &(*at)->next;
  return at;
}

/* By its own end, which is all that libcurl tells when it is about to send. */
static connection *find(engine *e, const char *address, int port) {
  for (connection *c = e->connections; c != NULL; c = c->next) {
    if (c->port == 0) learn_own_end(c);
    if (c->port == port && port > 0 && strcmp(c->address, address) == 0) return c;
  }
  return NULL;
}

static void remove_at(connection **at) {
  connection *c = *at;
  *at = c->next;
  free(c);
}

/* A connection that is not in the list, for want of memory, is one that nothing is known of. */
void connection_opened(engine *e, int socket) {
  connection **stale = place_of(e, socket);
  if (*stale != NULL) remove_at(stale);
  connection *c = calloc(1, sizeof *c);
  if (c == NULL) return;
  c->socket = socket;
  c->next = e->connections;
  e->connections = c;
}

/* Its transfers learn now what has left of them: afterwards nobody can tell. */
void connection_closes(engine *e, int socket) {
  connection **at = place_of(e, socket);
  if (*at == NULL) return;
  for (transfer *t = e->flying.first; t != NULL && (*at)->flying > 0; t = t->next) {
    if (t->connection != *at) continue;
    connection_settle(t, true);
    connection_leave(t);
  }
  remove_at(at);
}

void connections_forget(engine *e) {
  while (e->connections != NULL) remove_at(&e->connections);
}

/* ---- a transfer's ------------------------------------------------------------------------ */

/* Nobody has asked for what arrives on a connection that is at rest: over HTTP/1.1 it would be taken for the answer to
 * the next request. Over HTTP/2 it may be a mere ping, but also the goodbye that a write must not meet. */
static bool is_dead(const connection *c, bool write) {
  condition now = condition_of(c->socket);
  if (now != TALKING) return now == OVER;
  return c->requests > 0 && c->flying == 0 && (write || !c->multiplexed);
}

/* libcurl is about to send a transfer's request on the connection with this end. Returns whether it may: not on one
 * that is dead, which libcurl from 8.22 on uses unseen where it was used in the second before. */
bool connection_take(transfer *t, const char *address, int port) {
  connection_leave(t);
  connection *c = find(t->owner, address, port);
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

/* Nothing of a request has left if its connection is at its end and has sent nothing since. While it lives, what
 * libcurl, TLS and HTTP/2 hold back may still go; what TLS sends to say goodbye counts as the request's. */
void connection_settle(transfer *t, bool closing) {
  traffic now = {.known = false};
  if (t->connection == NULL || !read_traffic(t->connection->socket, &now)) return;
  t->end = now.end;
  bool is_over = now.end == RESET || (closing && now.unsent == 0);
  if (is_over && t->before.known && now.sent == t->before.sent) t->left = false;
}

void connection_leave(transfer *t) {
  if (t->connection != NULL) t->connection->flying--;
  t->connection = NULL;
}

void connection_multiplexes(transfer *t) {
  if (t->connection != NULL) t->connection->multiplexed = true;
}
