/* SIGPIPE around libcurl's calls. */
#ifndef INTEGRATIONS_SIGPIPE_H
#define INTEGRATIONS_SIGPIPE_H

#include <signal.h>
#include <stdbool.h>

#pragma GCC visibility push(hidden)

/* With NOSIGNAL libcurl leaves SIGPIPE alone. On a plain socket it sends with MSG_NOSIGNAL, but
 * OpenSSL's writes raise the signal: around these it is blocked for this thread, and one that
 * arrives meanwhile is swallowed. */
typedef struct {
  bool active, pending;
  sigset_t before;
} sigpipe_guard;

/* Does nothing where it is not needed. */
sigpipe_guard sigpipe_block(bool needed);
void sigpipe_restore(const sigpipe_guard *guard);

#pragma GCC visibility pop

#endif
