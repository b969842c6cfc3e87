/*
 * core/arrivals.h - messages of tenants that the registry does not know yet, and the questions about them. Private to core/.
 *
 * A tenant is told to the brokers a moment after it is there, and its agents may speak at once: so what they send waits
 * (core/waiting.h, which has the bounds and the order of locks) while the registry asks the database by name, on the core lane.
 *
 * Threads  Any, where not said otherwise. leave() runs as that of the waiting room.
 */
#ifndef MUSTER_CORE_ARRIVALS_H
#define MUSTER_CORE_ARRIVALS_H

#include "bus/bus.h"
#include "core/waiting.h"

struct arrivals;
struct broker;
struct sub;

struct arrival {
    struct waiter waiter;
    struct bus_msg *raw; /* owned */
    struct sub *sub;     /* counted; NULL: a request that a service is still to be found for */
};

typedef void (*arrivals_leave_fn)(void *arg, struct arrival *arrival,
                                  struct waiting_verdict verdict); /* takes arrival */

struct arrivals *arrivals_new(struct broker *broker, arrivals_leave_fn leave, void *arg);
/* After the core lane and the bus have ended. What still waits leaves untold. Accepts NULL. */
void arrivals_free(struct arrivals *a);
/* Look from now on that nobody waits too long; end that. On the core lane; close also where it was not opened. */
int arrivals_open(struct arrivals *a);
void arrivals_close(struct arrivals *a);

/* As waiting_has(). */
bool arrivals_has(struct arrivals *a, struct text tenant);
/* As waiting_enter(): takes the arrival when this gives WAITING_IN. */
struct waiting_verdict arrivals_enter(struct arrivals *a, struct arrival *arrival);
void arrival_free(struct arrival *arrival);

#endif
