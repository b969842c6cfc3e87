/*
 * core/host_lease.h - a contender of an instance for a lease. Private to host_lease.c and host_lease_at.c; lane only.
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

/* The connections that this broker has now. */
void lease_at_learn(struct instance *in, struct lease_at at[LEASE_N_AT]);
/* After each read, and when something has gone: tell the lease when its holder is known to have gone; ask where that is worth it. */
void lease_at_judge(struct host_lease *h);

#endif
