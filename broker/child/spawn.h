/*
 * child/spawn.h - starts the process of a child and ends it.
 *
 * Shape    The child is this program again with --plugin-host. It gets nothing of the broker but SPAWN_FD, its end of the socket pair, a
 *          pipe as standard output and error, an empty standard input, and an environment of its own. It is the leader of a session
 *          of its own, with no signal blocked or ignored.
 * Threads  One user at a time. The kernel ends the child when the thread that started it ends, so that thread has to outlive it.
 */
#ifndef MUSTER_CHILD_SPAWN_H
#define MUSTER_CHILD_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SPAWN_FD = 3, SPAWN_WHY_SIZE = 256, SPAWN_STATUS_SIZE = 96 };
#define SPAWN_OPTION "--plugin-host"

struct spawn {
    pid_t pid;   /* 0 once it is reaped */
    int socket;  /* the broker's end, without blocking; -1 once it is given away */
    int err;     /* what it writes to its standard output and error, without blocking; -1 once it is given away */
    int pidfd;   /* readable when it has ended; -1 where the kernel has none */
};

/* Start a child; name is for people, in its arguments. Errors: MUSTER_EAGAIN with why, nothing is left then. */
int spawn_start(const char *name, struct spawn *ret_child, char why[SPAWN_WHY_SIZE]);
/* True when it has ended; its status is in *ret_status then. Does not wait. */
bool spawn_reap(struct spawn *s, int *ret_status);
/* The same, waiting until the deadline. */
bool spawn_wait(struct spawn *s, int64_t deadline_ns, int *ret_status);
/* End it at once and wait for that: SIGKILL, which nothing holds up but the kernel. Returns its status; 0 when it was reaped before. */
int spawn_kill(struct spawn *s);
/* Close what is still here of it; the process must have been reaped. */
void spawn_done(struct spawn *s);
/* "signal 11 (Segmentation fault)", "exit code 1". */
const char *spawn_status(int status, char out[SPAWN_STATUS_SIZE]);

#endif
