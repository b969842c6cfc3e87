/*
 * core/host_roster.h - the broker's copy of who is present, and who is told of its changes: what stands behind muster.roster/1.
 *
 * Threads  Any.
 */
#ifndef MUSTER_CORE_HOST_ROSTER_H
#define MUSTER_CORE_HOST_ROSTER_H

#include <stdbool.h>

#include "base/name.h"
#include "core/feed.h"
#include "roster/roster.h"

struct broker;
struct host_roster;

int host_roster_new(struct broker *broker, struct host_roster **ret_roster);
void host_roster_free(struct host_roster *h); /* accepts NULL */
/* One plugin keeps the roster: the first that asks. False: keeper is another. */
bool host_roster_keep(struct host_roster *h, const char *plugin, char keeper[NAME_TOKEN_SIZE]);

#endif
