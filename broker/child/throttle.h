/*
 * child/throttle.h - holds a process to a share of the machine's time, by stopping it for a while (SIGSTOP) when it has had it.
 *
 * Shape    Time is counted in periods of 100 ms. A process that has used its share of one is stopped until the next; what it used too
 *          much, because nobody looked in time, it waits for in those after it. So over seconds it gets what it may have and no more.
 *          Nobody is stopped for more than two seconds for that: who did not look (a machine that was paused) was late himself.
 * Threads  One user at a time.
 */
#ifndef MUSTER_CHILD_THROTTLE_H
#define MUSTER_CHILD_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct throttle {
    pid_t pid;
    clockid_t clock; /* of the processor time of all its threads */
    int64_t share_ns; /* of a period; 0: as much as it likes */
    int64_t n_cores;  /* of the machine: so fast it can use its share up at most */
    int64_t period_end_ns, used_ns; /* used: what the clock said when the period began, and what of it is still owed */
    int64_t stopped_since_ns; /* 0: it runs */
    int64_t stopped_ns; /* in all, without the present stop */
};

/* cores above what the machine has are no limit. The process must not have been reaped. */
void throttle_init(struct throttle *t, pid_t pid, double cores, int64_t now_ns);
/* Look, and stop or continue it. Returns when to look again; INT64_MAX: never, as it has no limit or is gone. */
int64_t throttle_tick(struct throttle *t, int64_t now_ns);
/* Let it run, whatever it used: before it is to end in time. throttle_tick() is not to be called after it. */
void throttle_end(struct throttle *t, int64_t now_ns);
/* For how long it has been stopped in all, by now. Who waits for an answer of the process adds it to its patience. */
int64_t throttle_stopped_ns(const struct throttle *t, int64_t now_ns);

#endif
