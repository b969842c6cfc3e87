/*
 * common/work/sweeper.h - what has to be done in the database without anybody asking: every broker looks now and then, and one alone does it.
 *
 * Shape    struct sweep is one job, sweep_prepare() in create(), sweep_tick() every tick of the plugin, whether NATS is there or not. A statement is
 *          a function that does at most so many and gives how many it did. It runs under an advisory lock; who finds it taken does one of 16
 *          shards of the job under the shard's own lock, where the job has shards, so that brokers share what is much and ask once each what is
 *          little. What was full is asked again at once, or after a pause. Whoever has the lock for some periods does not get on with the
 *          job, or is no broker: then it is done without, for a function is right with others beside it.
 * Threads  The lane.
 */
#ifndef MUSTER_COMMON_WORK_SWEEPER_H
#define MUSTER_COMMON_WORK_SWEEPER_H

#include "common/work/outlook.h"
#include "common/work/work.h"

enum { SWEEP_SHARDS = 16, SWEEP_PATIENCE = 4 /* periods */ };

struct sweep {
    /* Set by the plugin before sweep_prepare(). */
    const char *name; /* "task_due" */
    /* What is done, with $1: first, $2: the limit, and of a job with shards $4: the shard, NULL for all: "muster.task_due($1, $4::int, $2::int)" */
    const char *call;
    bool has_shards;
    uint32_t limit;
    int64_t pause_ns; /* between two statements where there is more; 0: at once */

    /* May be changed at any time. */
    const char *first;
    int64_t period_ns; /* 0: never; half of it to one and a half, by chance */

    /* The rest is the sweeper's own. */
    struct work *w;
    uint64_t stmt, m_done;
    int64_t due_ns, taken_ns; /* since when the lock of all was another's whenever it was asked for; 0: it was not */
    int shard;   /* that is being done; -1: all */
    bool anyway; /* without the lock */
    bool asking, soon;
    struct outlook outlook;
};

int sweep_prepare(struct sweep *s, struct work *w);
void sweep_tick(struct sweep *s, int64_t now_ns);
/* The lock of a job was taken, or not, when it was asked for. True: for so long that the job is done without it. */
bool sweep_goes_on(int64_t *taken_ns, bool taken, int64_t now_ns, int64_t period_ns);
/* There is something to do, now. */
void sweep_soon(struct sweep *s);

#endif
