/*
 * core/host_lease.h - a contender of an instance for a lease. Private to host_lease*.c; lane only.
 */
#ifndef MUSTER_CORE_HOST_LEASE_H
#define MUSTER_CORE_HOST_LEASE_H

#include "base/clock.h"
#include "core/hearer.h"
#include "core/instance.h"
#include "lease/lease.h"

enum { HOST_LEASE_SUBJECT = 320 };

struct host_lease {
    struct host_lease *next;
    uint64_t id;
    struct instance *in;
    struct lease lease;
    uv_timer_t timer;
    struct hearer *hearer;
    bool pumping;
    muster_lease_got_fn on_got;
    muster_lease_lost_fn on_lost;
    void *arg;
    char subject[HOST_LEASE_SUBJECT];
    const char *name; /* within subject */
    char asked[LEASE_HOLDER_SIZE]; /* the holder whose connections were asked for last */
    int64_t asked_ns;
    unsigned int n_unasked; /* times that it could not be asked, in a row */
};

/* ---- host_lease_bucket.c ---- */

/* lease_heard_of() follows where this gave 0. */
int lease_bucket_read(struct host_lease *h);
/* lease_was_written() follows where this gave 0. */
int lease_bucket_write(struct host_lease *h, const struct lease_record *record);

/* ---- host_lease.c ---- */

/* code 0: the record as it is; MUSTER_ENOTFOUND: there is none; MUSTER_E*: nobody knows. */
void lease_heard_of(struct host_lease *h, int code, const struct lease_record *record);
void lease_was_written(struct host_lease *h, int code, uint64_t revision);

/* ---- host_lease_at.c ---- */

/* The connections that this broker has now. */
void lease_at_learn(struct instance *in, struct lease_at at[LEASE_N_AT]);
/* After each read, and when something has gone: tell the lease when its holder is known to have gone; ask where that is worth it. */
void lease_at_judge(struct host_lease *h);

#endif
