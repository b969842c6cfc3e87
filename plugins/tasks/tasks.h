/*
 * tasks/tasks.h - what the parts of the plugin share. The service task: the database has every task, and decides; brokers ask it.
 *
 * Parts    verbs.c    the requests, each one function of the database                      (common/work)
 *          stats.c    how many there are
 *          notices.c  what agents are told of their tasks, from the events
 *          sweeps.c   deadlines, pauses, followers, lost sessions and old tasks
 *          router.h   who gets what
 * Threads  The lane, without a lock.
 */
#ifndef MUSTER_TASKS_TASKS_H
#define MUSTER_TASKS_TASKS_H

#include "common/work/sweeper.h"
#include "common/work/work.h"
#include "tasks/router.h"

struct tasks_config {
    int64_t sweep_ns;
    int64_t keep_ns; /* of tasks that have ended; 0: for ever */
};

enum { SWEEP_DUE, SWEEP_SETTLE, SWEEP_ORPHANS, SWEEP_PURGE, SWEEPS };

struct tasks {
    struct work work; /* first: common/work/work.h */
    const struct tasks_config *config;
    struct sweep sweeps[SWEEPS];
    uint64_t result;   /* statement of notices.c */
    uint64_t m_told, m_untold; /* metrics */
    struct long_result *longs, *unseen; /* that wait for room, and to be seen */
    size_t n_long;
    struct count *counts; /* of stats.c, that are under way */
    char keep[32];     /* keep_ns as an interval */
    struct router *router;
};

extern const struct work_verb task_verbs[];
extern const size_t n_task_verbs;
/* For struct muster_service. */
#define TASK_VERBS "submit submit_many accept decline progress complete fail need_input provide_input cancel cancelled retry pause resume " \
                   "get list history stats pull"

#define TASKS_TICK_NS (INT64_C(100) * 1000000)

int verbs_start(struct tasks *t); /* what respond() says */

bool stats_look(struct ask *a); /* look() of the verb stats */

int notices_create(struct tasks *t);
int notices_start(struct tasks *t);
void notices_writable(struct tasks *t);
void notices_tick(struct tasks *t); /* every TASKS_TICK_NS */
void notices_destroy(struct tasks *t);

int sweeps_create(struct tasks *t);
void sweeps_tick(struct tasks *t, int64_t now_ns);
void sweeps_set(struct tasks *t); /* the configuration is new */
/* Somebody follows what has ended: tell them. */
void sweeps_settle(struct tasks *t);

#endif
