/*
 * roster/room.h - the agents of one tenant. Private to roster/.
 *
 * Threads  None: the roster locks.
 */
#ifndef MUSTER_ROSTER_ROOM_H
#define MUSTER_ROSTER_ROOM_H

#include <muster/plugin.h>
#include <stddef.h>
#include <stdint.h>

#include "base/map.h"
#include "roster/ledger.h"
#include "roster/pack.h"

/* One agent: stays one object for as long as the name is present. */
struct entry {
    uint64_t serial;
    uint64_t hash; /* of the name */
    struct pack *pack;
};

/* A capability that one agent has at least. */
struct capability {
    struct ledger ledger;
    char name[];
};

struct room {
    const struct muster_tenant *tenant;
    struct entry **table; /* by the name's hash: open addressing, at most half full */
    size_t table_cap;
    struct ledger ledger;
    struct map capabilities; /* by name, struct capability, owned */
    int64_t by_status[4];    /* [0]: suspect, whatever its status */
    size_t n_bytes;
};

struct room *room_new(const struct muster_tenant *tenant);
void room_free(struct room *room); /* accepts NULL */
static inline size_t room_count(const struct room *room)
{
    return ledger_count(&room->ledger);
}
struct entry *room_entry(const struct room *room, const char *agent); /* NULL: it is not present */
/* A new one, or in place of what is there, whose pack goes to *ret_before; of a new one that is NULL. MUSTER_ENOMEM: nothing has changed. */
int room_put(struct room *room, uint64_t serial, const struct muster_agent *agent, struct pack **ret_before);
/* Its pack is the caller's; the entry is gone. */
struct pack *room_take(struct room *room, struct entry *entry);
struct capability *room_capability(const struct room *room, const char *name); /* NULL: nobody has it */

#endif
