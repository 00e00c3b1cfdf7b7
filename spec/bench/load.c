/* Calls an HTTP server from many loops at a time, and asks it beside them how long an answer takes.
 *
 *   load PORT PID SECONDS PATH LOOPS
 *
 * Each loop has a kept connection to 127.0.0.1:PORT and sends its next request for PATH when the
 * answer to the last one is there. One more connection asks for /ping. All of them wait in threads of
 * their own: what keeps one from reading its answer at once is the processor alone.
 *
 * Prints what SECONDS gave, after a warm-up: the calls done per second; the median, the 99th percentile
 * and the greatest of the milliseconds that /ping took; the milliseconds of processor time that the
 * process PID took per second, with all of its threads. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LOOPS = 1024, MAX_PINGS = 100000 };

/* Loops start one after the other within this time, so that their calls are not all made at once. */
static const double SPREAD = 0.2;
/* Connections are made, and what needs to be compiled or allocated is. */
static const double WARM_UP = 1.0;
/* The least between two pings, and the most. They differ, so as not to fall into step with anything. */
static const double SHORTEST_PAUSE = 0.004, LONGEST_PAUSE = 0.006;

static struct {
  uint16_t port;
  const char *path;
  long loops;
  double start, first, last; /* of all, and of what counts */
} plan;

static atomic_long calls;
static double pings[MAX_PINGS];
static size_t ping_count;

static void fail(const char *what) {
  fprintf(stderr, "load: %s\n", what);
  exit(1);
}

/* ---- time -------------------------------------------------------------------------------- */

static double seconds_of(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) fail("no such process");
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double now(void) {
  return seconds_of(CLOCK_MONOTONIC);
}

static void sleep_until(double moment) {
  struct timespec time = {.tv_sec = (time_t)moment};
  time.tv_nsec = (long)((moment - (double)time.tv_sec) * 1e9);
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* ---- requests ---------------------------------------------------------------------------- */

static int open_connection(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(plan.port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
  int yes = 1;
  setsockopt(socket_fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (connect(socket_fd, (struct sockaddr *)&address, sizeof address) != 0) fail("no connection");
  return socket_fd;
}

/* Whether an answer is whole. All that are asked for have a length. */
static bool is_whole(const char *answer, size_t size) {
  const char *end = strstr(answer, "\r\n\r\n");
  if (end == NULL) return false;
  const char *length = strcasestr(answer, "\r\ncontent-length:");
  if (length == NULL || length > end) fail("an answer without a length");
  size_t head = (size_t)(end - answer) + 4;
  return size - head >= strtoul(length + strlen("\r\ncontent-length:"), NULL, 10);
}

static void ask(int socket_fd, const char *path) {
  char text[4096];
  int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path);
  if (send(socket_fd, text, (size_t)length, MSG_NOSIGNAL) != length) fail("nothing can be sent");
  size_t size = 0;
  do {
    ssize_t received = recv(socket_fd, text + size, sizeof text - 1 - size, 0);
    if (received <= 0) fail("a connection was closed");
    size += (size_t)received;
    text[size] = '\0';
  } while (!is_whole(text, size));
  if (strncmp(text, "HTTP/1.1 200 ", 13) != 0) fail(text);
}

/* ---- threads ----------------------------------------------------------------------------- */

static void *call(void *position) {
  int socket_fd = open_connection();
  sleep_until(plan.start + SPREAD * (double)(intptr_t)position / (double)plan.loops);
  double done = now();
  while (done < plan.last) {
    ask(socket_fd, plan.path);
    done = now();
    if (done >= plan.first && done < plan.last) calls++;
  }
  close(socket_fd);
  return NULL;
}

static void *probe(void *unused) {
  (void)unused;
  unsigned int seed = 1;
  int socket_fd = open_connection();
  double next = plan.first;
  while (next < plan.last && ping_count < MAX_PINGS) {
    sleep_until(next);
    double asked = now();
    ask(socket_fd, "/ping");
    double answered = now();
    pings[ping_count++] = (answered - asked) * 1e3;
    next = answered + SHORTEST_PAUSE + (LONGEST_PAUSE - SHORTEST_PAUSE) * rand_r(&seed) / RAND_MAX;
  }
  close(socket_fd);
  return NULL;
}

/* ---- all of it --------------------------------------------------------------------------- */

static int by_size(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static double percentile(size_t percent) {
  return pings[(ping_count * percent + 99) / 100 - 1];
}

static pthread_t start(void *(*run)(void *), intptr_t position) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, (void *)position) != 0) fail("no thread");
  return thread;
}

/* Seconds of processor time that the process takes until what counts is over. */
static double watch(clockid_t process) {
  sleep_until(plan.first);
  double before = seconds_of(process);
  sleep_until(plan.last);
  return seconds_of(process) - before;
}

int main(int count, char **arguments) {
  static pthread_t threads[MAX_LOOPS + 1];
  if (count != 6) return 2;
  clockid_t process;
  if (clock_getcpuclockid((pid_t)strtol(arguments[2], NULL, 10), &process) != 0) fail("no process");
  double seconds = strtod(arguments[3], NULL);
  plan.port = (uint16_t)strtol(arguments[1], NULL, 10);
  plan.path = arguments[4];
  plan.loops = strtol(arguments[5], NULL, 10);
  if (plan.loops > MAX_LOOPS) return 2;
  plan.start = now();
  plan.first = plan.start + WARM_UP;
  plan.last = plan.first + seconds;
  for (long i = 0; i < plan.loops; i++) threads[i] = start(call, i);
  threads[plan.loops] = start(probe, 0);
  double busy = watch(process);
  for (long i = 0; i <= plan.loops; i++) pthread_join(threads[i], NULL);
  qsort(pings, ping_count, sizeof pings[0], by_size);
  printf("%.3f %.4f %.4f %.4f %.3f\n", (double)calls / seconds, percentile(50), percentile(99),
         percentile(100), busy * 1e3 / seconds);
  return 0;
}
