/* Who is present; see roster.h. */
#include "roster/roster.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "roster/parts.h"

struct part *roster_part(struct roster *r, const struct muster_tenant *tenant)
{
    return &r->parts[hash_bytes(&tenant, sizeof tenant) % ROSTER_PARTS];
}

struct room *part_room(const struct part *part, const struct muster_tenant *tenant)
{
    return map_get(&part->rooms, &tenant, sizeof tenant);
}

static struct room *room_make(struct part *part, const struct muster_tenant *tenant)
{
    struct room *room = part_room(part, tenant);

    if (room)
        return room;
    room = room_new(tenant);
    if (room && map_put(&part->rooms, &tenant, sizeof tenant, room))
        return room;
    room_free(room);
    return NULL;
}

static void room_end(struct part *part, struct room *room)
{
    if (room_count(room))
        return;
    (void)map_take(&part->rooms, &room->tenant, sizeof room->tenant);
    room_free(room);
}

/* ---- changes ------------------------------------------------------------------------------------------------------------------------ */

static void tell(const struct roster *r, const struct muster_roster_change *change)
{
    if (r->fn && change->kind)
        r->fn(r->arg, change);
}

static void tell_put(const struct roster *r, const struct muster_tenant *tenant, const struct muster_roster_change *how,
                     const struct muster_agent *agent, const struct pack *before)
{
    struct muster_roster_change change = *how;

    change.tenant = tenant;
    change.agent = agent->agent;
    change.session = change.kind == MUSTER_ROSTER_REPLACED && before ? before->agent.session : agent->session;
    tell(r, &change);
}

int roster_put(struct roster *r, const struct muster_tenant *tenant, uint32_t kind, const char *reason, const struct muster_agent *agent)
{
    const struct muster_roster_change how = {.size = sizeof how, .kind = kind, .reason = reason};
    struct part *part = roster_part(r, tenant);
    struct pack *before;
    struct room *room;
    int err;

    if (roster_fault(agent))
        return MUSTER_EINVAL;
    pthread_rwlock_wrlock(&part->lock);
    room = room_make(part, tenant);
    err = room ? room_put(room, atomic_fetch_add(&r->serial, 1) + 1, agent, &before) : MUSTER_ENOMEM;
    if (!err) {
        tell_put(r, tenant, &how, agent, before);
        free(before);
    }
    if (room)
        room_end(part, room); /* where nobody could be put */
    pthread_rwlock_unlock(&part->lock);
    return err;
}

int roster_remove(struct roster *r, const struct muster_tenant *tenant, const char *agent, const char *reason)
{
    const struct muster_roster_change how = {.size = sizeof how, .kind = MUSTER_ROSTER_LEAVE, .reason = reason};
    struct part *part = roster_part(r, tenant);
    struct entry *e;
    struct room *room;

    pthread_rwlock_wrlock(&part->lock);
    room = part_room(part, tenant);
    e = room ? room_entry(room, agent) : NULL;
    if (e) {
        struct pack *p = room_take(room, e);

        tell_put(r, tenant, &how, &p->agent, NULL);
        free(p);
        room_end(part, room);
    }
    pthread_rwlock_unlock(&part->lock);
    return e ? 0 : MUSTER_ENOTFOUND;
}

static void tell_reset(const struct roster *r, const struct muster_tenant *tenant)
{
    tell(r, &(struct muster_roster_change){.size = sizeof(struct muster_roster_change), .kind = MUSTER_ROSTER_RESET, .tenant = tenant});
}

static void clear_all(struct part *part)
{
    void *room;

    pthread_rwlock_wrlock(&part->lock);
    for (size_t at = 0; map_next(&part->rooms, &at, NULL, &room);)
        room_free(room);
    map_done(&part->rooms);
    part->rooms = (struct map){0};
    pthread_rwlock_unlock(&part->lock);
}

static void clear_one(struct roster *r, struct part *part, const struct muster_tenant *tenant)
{
    pthread_rwlock_wrlock(&part->lock);
    room_free(map_take(&part->rooms, &tenant, sizeof tenant));
    tell_reset(r, tenant);
    pthread_rwlock_unlock(&part->lock);
}

void roster_clear(struct roster *r, const struct muster_tenant *tenant)
{
    if (tenant) {
        clear_one(r, roster_part(r, tenant), tenant);
        return;
    }
    for (size_t i = 0; i < ROSTER_PARTS; i++)
        clear_all(&r->parts[i]);
    tell_reset(r, NULL);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

struct roster_size roster_size(struct roster *r)
{
    struct roster_size size = {0};
    void *room;

    for (size_t i = 0; i < ROSTER_PARTS; i++) {
        pthread_rwlock_rdlock(&r->parts[i].lock);
        for (size_t at = 0; map_next(&r->parts[i].rooms, &at, NULL, &room);) {
            size.agents += room_count(room);
            size.bytes += ((struct room *)room)->n_bytes;
        }
        pthread_rwlock_unlock(&r->parts[i].lock);
    }
    return size;
}

/* Readers never hold it twice; a writer must get through while they come and go. */
static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;

    ASSERT(pthread_rwlockattr_init(&attr) == 0);
    ASSERT(pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP) == 0);
    ASSERT(pthread_rwlock_init(lock, &attr) == 0);
    (void)pthread_rwlockattr_destroy(&attr);
}

int roster_new(roster_change_fn fn, void *arg, struct roster **ret_roster)
{
    struct roster *r = calloc(1, sizeof *r);

    if (!r)
        return MUSTER_ENOMEM;
    r->fn = fn;
    r->arg = arg;
    for (size_t i = 0; i < ROSTER_PARTS; i++)
        init_lock(&r->parts[i].lock);
    *ret_roster = r;
    return 0;
}

void roster_free(struct roster *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < ROSTER_PARTS; i++) {
        clear_all(&r->parts[i]);
        (void)pthread_rwlock_destroy(&r->parts[i].lock);
    }
    free(r);
}
