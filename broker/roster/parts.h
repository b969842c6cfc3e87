/*
 * roster/parts.h - what roster.c (changes) and find.c (questions) share. Private to roster/.
 */
#ifndef MUSTER_ROSTER_PARTS_H
#define MUSTER_ROSTER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "roster/room.h"
#include "roster/roster.h"

enum { ROSTER_PARTS = 32 };

struct part {
    pthread_rwlock_t lock;
    struct map rooms; /* by the tenant's handle, struct room, owned; none is empty */
};

struct roster {
    roster_change_fn fn;
    void *arg;
    _Atomic uint64_t serial; /* the last one given */
    struct part parts[ROSTER_PARTS];
};

struct part *roster_part(struct roster *r, const struct muster_tenant *tenant);
/* NULL: nobody is present. The part's lock is held. */
struct room *part_room(const struct part *part, const struct muster_tenant *tenant);

#endif
