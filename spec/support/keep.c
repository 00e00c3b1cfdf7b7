/* Runs a command, and lets nothing of it live on:
 *
 *     keep TITLE SECONDS COMMAND [ARGUMENT ...]
 *
 * The end comes when the command has ended, by itself or killed; when its time is over; when this program is told to
 * stop; and when the parent of this program is gone. It prints "TITLE STATUS SECONDS LEFT" when there is nothing left:
 * LEFT is how many were there still, some time after a command that ended by itself.
 *
 * This program is a subreaper: who loses its parent below it becomes its child, a daemon such as nginx, too. A process
 * group alone would not do, since a daemon leaves it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TOO_LONG = 124, NO_COMMAND = 127, BY_SIGNAL = 128 };

/* How long those that are left have to end by themselves, as a server does whose control connection has ended: that
 * takes a moment, on a busy machine, too. And then how long from SIGTERM to SIGKILL. */
enum { TURN_MS = 20, TURNS_ALONE = 100, TURNS_TO_STOP = 250 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int status_of(int ended) {
  return WIFEXITED(ended) ? WEXITSTATUS(ended) : BY_SIGNAL + WTERMSIG(ended);
}

/* Collects who has ended. The status of the command if it is among them, else -1; whether anybody is left. */
static int collect(pid_t command, int *is_left) {
  int status = -1, ended;
  pid_t pid;
  while ((pid = waitpid(-1, &ended, WNOHANG)) > 0) {
    if (pid == command) status = status_of(ended);
  }
  *is_left = pid == 0;
  return status;
}

/* To this program's children: whoever is below them comes after them. How many there were. */
static int signal_children(int signal) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  FILE *children = fopen(path, "r");
  int pid, count = 0;
  for (; children != NULL && fscanf(children, "%d", &pid) == 1; count++) kill(pid, signal);
  if (children != NULL) fclose(children);
  return count;
}

/* How many did not end by themselves. */
static int end_all(int turn) {
  const struct timespec pause = {.tv_nsec = TURN_MS * 1000000L};
  int is_left, first = turn, left = 0;
  for (collect(0, &is_left); is_left; collect(0, &is_left), turn++) {
    if (turn >= TURNS_ALONE) {
      int count = signal_children(turn < TURNS_ALONE + TURNS_TO_STOP ? SIGTERM : SIGKILL);
      if (turn == TURNS_ALONE && first < turn) left = count;
    }
    nanosleep(&pause, NULL);
  }
  return left;
}

static pid_t start(char **command, const sigset_t *waited) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  sigprocmask(SIG_UNBLOCK, waited, NULL);
  setsid();
  execvp(command[0], command);
  fprintf(stderr, "%s: %s\n", command[0], strerror(errno));
  _exit(NO_COMMAND);
}

/* The command's exit status, or why it is to be ended. */
static int wait_for(pid_t command, const sigset_t *waited, double deadline) {
  int status = -1, is_left;
  while (status < 0) {
    double left = deadline > now() ? deadline - now() : 0;
    const struct timespec time = {.tv_sec = (time_t)left,
                                  .tv_nsec = (long)((left - (time_t)left) * 1e9)};
    int signal = sigtimedwait(waited, NULL, &time);
    if (signal > 0 && signal != SIGCHLD) return BY_SIGNAL + signal;
    status = collect(command, &is_left);
    if (status < 0 && now() >= deadline) return TOO_LONG;
  }
  return status;
}

int main(int count, char **arguments) {
  pid_t parent = getppid();
  if (count < 4) return 2;
  const int waited_signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
  sigset_t waited;
  sigemptyset(&waited);
  for (size_t i = 0; i < sizeof waited_signals / sizeof *waited_signals; i++) {
    signal(waited_signals[i], SIG_DFL); /* one that is ignored would not be waited for */
    sigaddset(&waited, waited_signals[i]);
  }
  sigprocmask(SIG_BLOCK, &waited, NULL);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) return BY_SIGNAL + SIGTERM; /* it was gone before that could be told */

  double started = now();
  pid_t command = start(arguments + 3, &waited);
  if (command < 0) return 1;
  int status = wait_for(command, &waited, started + atof(arguments[2]));
  int left = end_all(status == TOO_LONG || status > BY_SIGNAL ? TURNS_ALONE : 0);
  printf("%s %d %.1f %d\n", arguments[1], status, now() - started, left);
  return status;
}
