/*
 * roster/roster.h - who is present, by tenant and name: what stands behind muster.roster/1.
 *
 * Shape    A room a tenant that has agents. In it each agent stands in a table by name, in a ledger in the order of serials, and in a ledger
 *          of each of its capabilities; so finding by capabilities costs as much as the rarest one has agents. An agent is packed into one
 *          piece of memory, which is put in place of the one before.
 * Order    Serials only rise, over all tenants and also past a clear, and stay with the name for as long as it is present.
 * Bounds   ROSTER_MAX_LIST capabilities and labels and ROSTER_MAX_BYTES of text an agent. How many agents there are is for who puts them.
 * Threads  Any. One lock for each part of the tenants, by which readers do not wait for each other. A find over many lets go of it every so
 *          often: what is put or removed meanwhile may show or not, unless it is the one writer who asks.
 * Memory   Tenants are handles that are never looked into. What is shown is borrowed for the call.
 */
#ifndef MUSTER_ROSTER_ROSTER_H
#define MUSTER_ROSTER_ROSTER_H

#include <muster/plugin.h>
#include <stddef.h>
#include <stdint.h>

enum { ROSTER_MAX_LIST = 64, ROSTER_MAX_BYTES = 16384, ROSTER_MAX_SESSION = 64 };

#define ROSTER_KEEPER "presence" /* the capability of the plugin that keeps it */

struct roster;

/* Called for each change, under the lock of its tenant: in the order in which they took effect, and without a call of the roster. */
typedef void (*roster_change_fn)(void *arg, const struct muster_roster_change *change);

int roster_new(roster_change_fn fn, void *arg, struct roster **ret_roster);
void roster_free(struct roster *r); /* tells nothing; accepts NULL */

/* As the members of muster.roster/1. MUSTER_EINVAL: an agent without a legal name or session, of an unknown status, or past the bounds. */
int roster_put(struct roster *r, const struct muster_tenant *tenant, uint32_t kind, const char *reason, const struct muster_agent *agent);
int roster_remove(struct roster *r, const struct muster_tenant *tenant, const char *agent, const char *reason);
void roster_clear(struct roster *r, const struct muster_tenant *tenant); /* NULL: all */
int roster_get(struct roster *r, const struct muster_tenant *tenant, const char *agent, muster_agent_fn fn, void *arg);
int64_t roster_find(struct roster *r, const struct muster_tenant *tenant, const struct muster_roster_query *query, muster_agent_fn fn, void *arg);
int64_t roster_count(struct roster *r, const struct muster_tenant *tenant, int64_t by_status[4]);
/* What is wrong with an agent, for messages; NULL: nothing. */
const char *roster_fault(const struct muster_agent *agent);

struct roster_size {
    size_t agents, bytes; /* bytes: of the packed agents, without the tables */
};
struct roster_size roster_size(struct roster *r);

#endif
