/*
 * cron/cron.h - what the parts of the plugin share.
 *
 * Shape    The broker that holds the lease runs the jobs. A run is written down under the lease's protection first, and asked for then:
 *          each at most once, whichever broker dies when. cron.c has the life and the clock, run.c a run.
 * Threads  The lane.
 */
#ifndef CRON_CRON_H
#define CRON_CRON_H

#include "job.h"

#define CRON_RETRY_NS INT64_C(1000000000) /* what could not be done is tried again after that */

struct cron {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_kv *kv;
    const struct muster_lease *lease;
    const struct muster_timer *timer;
    const struct muster_tenants *tenants;
    const struct muster_codec *codec;
    const struct muster_metrics *metrics;
    struct {
        uint64_t asked, answered, failed, missed;
    } counts;
    struct job *jobs;
    size_t n_jobs;
    uint64_t generation; /* of the jobs: what is still on its way for others is for nobody */
    uint64_t lease_id;   /* 0: not contending */
    uint64_t timer_id;   /* 0: not set */
    int64_t ttl_ns;
};

/* Read the last run of a job that is unknown. */
void run_load(struct cron *c, struct job *job);
/* Do the next step of a run that is due or was held up. */
void run_step(struct cron *c, struct job *job);

/* Look at the clock soon, because a job has something to do or to wait for. */
void cron_look(struct cron *c);

#endif
