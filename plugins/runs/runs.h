/*
 * runs/runs.h - what the parts of the plugin share. The services run and event: the database has every run, and decides; brokers ask it.
 *
 * Parts    verbs.c    the requests, each one function of the database  (common/work)
 *          sweeps.c   tries and verifiers whose time is over, silence, escalations, lost sessions, what is old
 *          tiers.c    how long each tier has for what is escalated
 * Threads  The lane, without a lock.
 */
#ifndef MUSTER_RUNS_RUNS_H
#define MUSTER_RUNS_RUNS_H

#include "common/work/sweeper.h"
#include "common/work/work.h"

struct runs_config {
    int64_t sweep_ns, stuck_after_ns;
    int64_t verify_by_ns;    /* to find a verifier */
    int64_t verify_lease_ns; /* that a verifier has before it says more */
    int64_t keep_ns, keep_events_ns; /* 0: for ever */
    struct muster_list escalate_tiers;
};

enum { TIERS_MAX = 10, TIERS_SIZE = TIERS_MAX * 16 + 3 }; /* one has 10 digits at most, " ms" and a comma */
enum { SWEEP_DUE, SWEEP_STUCK, SWEEP_TIERS, SWEEP_ORPHANS, SWEEP_PURGE, SWEEP_EVENTS, SWEEPS };

struct runs {
    struct work work; /* first: common/work/work.h */
    struct work events; /* of the service event */
    const struct runs_config *config;
    struct sweep sweeps[SWEEPS];
    char stuck_after[32], keep[32], keep_events[32]; /* as intervals */
    char tiers[TIERS_SIZE];                          /* as an array of them */
    int64_t left_ns; /* when a session was heard to have ended; 0: none since the last look */
};

extern const struct work_verb run_verbs[], event_verbs[];
extern const size_t n_run_verbs, n_event_verbs;
/* For struct muster_service. */
#define RUN_VERBS "start progress status complete fail escalate retry cancel verification get list history summary export"
#define EVENT_VERBS "append list"

#define RUNS_TICK_NS (INT64_C(100) * 1000000)

/* NULL, or the item that is no duration of a tier. */
const char *tiers_write(const struct muster_list *list, char text[TIERS_SIZE]);

int sweeps_create(struct runs *r);
int sweeps_start(struct runs *r); /* hear who leaves */
void sweeps_tick(struct runs *r, int64_t now_ns);
void sweeps_set(struct runs *r); /* the configuration is new */

#endif
