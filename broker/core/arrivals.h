/*
 * core/arrivals.h - messages of tenants and names that this broker does not know yet, and the questions about them. Private to core/.
 *
 * A tenant is told to the brokers a moment after it is there, and its agents may speak at once; and a broker learns of a name when it first
 * speaks. So what they send waits (core/waiting.h, which has the bounds and the order of locks) in a room for tenants and then in one for
 * names, while the database is asked, on the core lane. The names that are known are kept here too (tenant/credentials.h).
 *
 * Threads  Any, where not said otherwise. leave() runs as that of the waiting room.
 */
#ifndef MUSTER_CORE_ARRIVALS_H
#define MUSTER_CORE_ARRIVALS_H

#include "bus/bus.h"
#include "core/waiting.h"

struct arrivals;
struct broker;
struct credentials;
struct sub;

struct arrival {
    struct waiter waiter;
    struct bus_msg *raw; /* owned */
    struct sub *sub;     /* counted; NULL: a request that a service is still to be found for */
};

/* Takes the arrival, whose waiter has an agent where it waited for a name. */
typedef void (*arrivals_leave_fn)(void *arg, struct arrival *arrival, struct waiting_verdict verdict);

struct arrivals *arrivals_new(struct broker *broker, arrivals_leave_fn leave, void *arg);
/* After the core lane and the bus have ended. What still waits leaves untold. Accepts NULL. */
void arrivals_free(struct arrivals *a);
/* Look from now on that nobody waits too long; end that. On the core lane; close also where it was not opened, after the registry. */
int arrivals_open(struct arrivals *a);
void arrivals_close(struct arrivals *a);
struct credentials *arrivals_credentials(struct arrivals *a);

/* As waiting_has(); agent.s NULL: of the room for tenants. */
bool arrivals_has(struct arrivals *a, struct text tenant, struct text agent);
/* As waiting_enter(), into the room for names where the waiter has an agent: takes the arrival when this gives WAITING_IN. */
struct waiting_verdict arrivals_enter(struct arrivals *a, struct arrival *arrival);
void arrival_free(struct arrival *arrival);

#endif
