/*
 * core/departures.h - connections of brokers that have ended, for whoever waits for what a broker holds: leases. Private to core/.
 *
 * Shape    What the system account tells of connections that are no agent's, and of servers that are lost with all of theirs. It is
 *          remembered for a while, because a contender may read a record only after its holder went. Who listens is called on its lane
 *          whenever something was added, and looks up what it cares for.
 * Bounds   DEPARTURES_MAX; the oldest is forgotten first. What is forgotten or never heard is learned by waiting.
 * Threads  Any, but for an ear: it is made, called and freed on its lane.
 * Lock     One, over the ring and the list of ears; nothing is called while it is held.
 */
#ifndef MUSTER_CORE_DEPARTURES_H
#define MUSTER_CORE_DEPARTURES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/lane.h"

struct departures;
struct departures_ear;

enum { DEPARTURES_MAX = 1024 };

struct departures *departures_new(void); /* NULL: no memory */
void departures_free(struct departures *d); /* accepts NULL; no ear is left */
/* client 0: the server is lost, with every client. */
void departures_note(struct departures *d, const char *server, uint64_t client);
/* A server that was lost answers again, and its clients may live. */
void departures_back(struct departures *d, const char *server);
/* When it was heard of, by clock_boot_ns(); 0: it is not known to have gone. */
int64_t departures_when(struct departures *d, const char *server, uint64_t client);

/* NULL: no memory. */
struct departures_ear *departures_hear(struct departures *d, struct lane *lane, void (*fn)(void *arg), void *arg);
void departures_ear_free(struct departures_ear *ear); /* accepts NULL */

#endif
