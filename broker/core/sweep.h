/*
 * core/sweep.h - what the database must have done for it from time to time: request ids older than 24 hours go.
 *
 * Every broker sweeps; the function skips what another holds. On the core lane.
 */
#ifndef MUSTER_CORE_SWEEP_H
#define MUSTER_CORE_SWEEP_H

struct broker;
struct sweep;

/* MUSTER_EINVAL: the connection string cannot be parsed. */
int sweep_new(struct broker *broker, struct sweep **ret_sweep);
/* Run the loop once more, for libuv's handles. Accepts NULL. */
void sweep_free(struct sweep *sweep);

#endif
