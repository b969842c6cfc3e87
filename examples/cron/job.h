/*
 * cron/job.h - a job: its settings, and when it is due.
 *
 * Units    _s: seconds since 1970-01-01 UTC, _ns as in muster/plugin.h.
 * Threads  None: no state but the job.
 */
#ifndef CRON_JOB_H
#define CRON_JOB_H

#include "times.h"

#include <muster/plugin.h>

enum { MISSED_SKIP, MISSED_ONCE }; /* the order of the option's choices */

struct job_config {
    const char *at, *request, *body;
    int64_t every_ns, late_ns, jitter_ns, timeout_ns;
    struct muster_list tenants;
    int32_t missed;
};

enum job_state {
    JOB_UNKNOWN,   /* its last run has to be read */
    JOB_LOADING,   /* is being read */
    JOB_WAITING,   /* for due_s */
    JOB_RECORDING, /* the run is being written down, before anybody is asked */
    JOB_SENDING,   /* to the tenants from next_tenant on */
};

struct job {
    const char *name; /* of the settings, as all strings here */
    const struct job_config *config;
    struct times times;
    char subject[200];
    enum job_state state;
    int64_t last_s; /* the time that the last run was for; of a job that never ran, when it was first seen. 0: not known yet */
    int64_t due_s;  /* the time that the next or present one is for */
    int64_t tried_s; /* the run that a write of unknown outcome was for; 0: none */
    int64_t not_before_ns; /* by the monotonic clock, after a record that could not be written or read */
    uint64_t revision; /* of the record of the last run */
    size_t next_tenant;
};

enum { JOB_FIELDS = 9 };
extern const struct muster_option job_fields[JOB_FIELDS];

/* 0, or MUSTER_EINVAL with the key and a reason by host->fail(). */
int job_parse(const struct muster_host *host, const char *name, const struct job_config *config, struct job *ret);
/* Set due_s from last_s. Returns 1 when times were missed: later than late, by more than the settings allow. */
int job_plan(struct job *job, int64_t now_ns);
/* When due_s is to be run: with the job's jitter, which is the same in every broker. */
int64_t job_due_ns(const struct job *job);

#endif
