/*
 * core/registry.h - the registry as the broker follows it: tenants and tables from PostgreSQL, the streams that go with them, and
 * whether requests are taken. Private to core/.
 *
 * Owns     The streams, the sweep, the timer that checks the streams once a minute, and the health of PostgreSQL.
 * Threads  [lane] the core lane; [main] the thread that starts and ends the broker; [any] any thread.
 */
#ifndef MUSTER_CORE_REGISTRY_H
#define MUSTER_CORE_REGISTRY_H

#include <stdbool.h>

struct broker;
struct registry;

/* on_danger as that of streams_new(). [main] */
int registry_new(struct broker *broker, void (*on_danger)(void *arg, const char *why), void *arg, struct registry **ret_registry);
/* After the core lane and the bus have ended. Accepts NULL. [main] */
void registry_free(struct registry *r);
/* Read and follow it, if there is a database. [lane] */
int registry_open(struct registry *r);
/* Check the streams, now and once a minute. [lane] */
void registry_start(struct registry *r);
/* After registry_start(). [lane] */
void registry_close(struct registry *r);

/* Requests are taken, since it was read first. [any] */
bool registry_is_serving(const struct registry *r);
/* What the broker listens to has reached the server, so it may be said that the registry is followed. [lane] */
void registry_heard(struct registry *r);
/* Check the streams soon. [any] */
void registry_check(struct registry *r);
/* Read the tenants again soon. MUSTER_ENOMEM. [any] */
int registry_read(struct registry *r);

#endif
