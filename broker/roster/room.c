/* The agents of one tenant; see room.h. */
#include "roster/room.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "roster/roster.h"

enum { FIRST_TABLE = 8 };

/* ---- the table of names ------------------------------------------------------------------------------------------------------------ */

static void table_add(struct entry **table, size_t cap, struct entry *e)
{
    size_t i = e->hash & (cap - 1);

    while (table[i])
        i = (i + 1) & (cap - 1);
    table[i] = e;
}

static bool table_reserve(struct room *room)
{
    size_t cap = room->table_cap ? room->table_cap * 2 : FIRST_TABLE;
    struct entry **more;

    if ((room_count(room) + 1) * 2 <= room->table_cap)
        return true;
    more = calloc(cap, sizeof(struct entry *));
    if (!more)
        return false;
    for (size_t i = 0; i < room->table_cap; i++)
        if (room->table[i])
            table_add(more, cap, room->table[i]);
    free(room->table);
    room->table = more;
    room->table_cap = cap;
    return true;
}

static size_t table_find(const struct room *room, const char *agent, uint64_t hash)
{
    size_t i = hash & (room->table_cap - 1);

    while (room->table[i] && (room->table[i]->hash != hash || strcmp(room->table[i]->pack->agent.agent, agent) != 0))
        i = (i + 1) & (room->table_cap - 1);
    return i;
}

struct entry *room_entry(const struct room *room, const char *agent)
{
    return room->table_cap ? room->table[table_find(room, agent, hash_bytes(agent, strlen(agent)))] : NULL;
}

/* Those behind it that would not be found past the gap move up. */
static void table_remove(struct room *room, const struct entry *e)
{
    size_t mask = room->table_cap - 1, gap = table_find(room, e->pack->agent.agent, e->hash);

    room->table[gap] = NULL;
    for (size_t i = (gap + 1) & mask; room->table[i]; i = (i + 1) & mask) {
        size_t home = room->table[i]->hash & mask;

        if (((i - home) & mask) < ((i - gap) & mask))
            continue;
        room->table[gap] = room->table[i];
        room->table[i] = NULL;
        gap = i;
    }
}

/* ---- capabilities ------------------------------------------------------------------------------------------------------------------- */

struct capability *room_capability(const struct room *room, const char *name)
{
    return map_get(&room->capabilities, name, strlen(name));
}

static struct capability *capability_of(const char *name)
{
    return (struct capability *)(void *)((char *)(uintptr_t)name - offsetof(struct capability, name));
}

static struct capability *capability_make(struct room *room, const char *name)
{
    struct capability *c = room_capability(room, name);
    size_t len = strlen(name);

    if (c)
        return c;
    c = calloc(1, sizeof *c + len + 1);
    if (!c)
        return NULL;
    memcpy(c->name, name, len);
    if (map_put(&room->capabilities, name, len, c))
        return c;
    free(c);
    return NULL;
}

static void capability_end(struct room *room, struct capability *c)
{
    if (ledger_count(&c->ledger))
        return;
    (void)map_take(&room->capabilities, c->name, strlen(c->name));
    ledger_done(&c->ledger);
    free(c);
}

static bool has(const char *const *names, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (names[i] == name)
            return true;
    return false;
}

/* Where the texts of its capabilities stand, each once, with room in the ledger of each. False: no memory. */
static bool reserve_capabilities(struct room *room, const struct muster_agent *agent, const char *names[ROSTER_MAX_LIST], uint32_t *ret_n)
{
    for (uint32_t i = 0; i < agent->n_capabilities; i++) {
        struct capability *c = capability_make(room, agent->capabilities[i]);

        if (!c)
            return false;
        if (has(names, *ret_n, c->name))
            continue;
        names[(*ret_n)++] = c->name;
        if (!ledger_reserve(&c->ledger))
            return false;
    }
    return true;
}

static void end_unused(struct room *room, const char *const *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        capability_end(room, capability_of(names[i]));
}

/* From what the one before had to what the new one has; either may be NULL. */
static void move_capabilities(struct room *room, struct entry *e, const struct pack *before, const struct pack *now)
{
    for (uint32_t i = 0; now && i < now->agent.n_capabilities; i++)
        if (!before || !has(before->agent.capabilities, before->agent.n_capabilities, now->agent.capabilities[i]))
            ledger_put(&capability_of(now->agent.capabilities[i])->ledger, e->serial, e);
    for (uint32_t i = 0; before && i < before->agent.n_capabilities; i++) {
        struct capability *c = capability_of(before->agent.capabilities[i]);

        if (now && has(now->agent.capabilities, now->agent.n_capabilities, c->name))
            continue;
        ledger_take(&c->ledger, e->serial);
        capability_end(room, c);
    }
}

/* ---- agents ------------------------------------------------------------------------------------------------------------------------- */

static void count(struct room *room, const struct pack *p, int by)
{
    room->by_status[p->agent.status] += by;
    if (p->agent.flags & MUSTER_AGENT_SUSPECT)
        room->by_status[0] += by;
    room->n_bytes += by > 0 ? p->n_bytes : -p->n_bytes;
}

static struct entry *entry_new(struct room *room, uint64_t serial, const char *agent)
{
    struct entry *e = ledger_reserve(&room->ledger) && table_reserve(room) ? malloc(sizeof *e) : NULL;

    if (e)
        *e = (struct entry){.serial = serial, .hash = hash_bytes(agent, strlen(agent))};
    return e;
}

static void enter(struct room *room, struct entry *e, struct pack *p)
{
    struct pack *before = e->pack;

    p->agent.serial = e->serial;
    move_capabilities(room, e, before, p);
    e->pack = p;
    count(room, p, 1);
    if (before) {
        count(room, before, -1);
        return;
    }
    ledger_put(&room->ledger, e->serial, e);
    table_add(room->table, room->table_cap, e);
}

int room_put(struct room *room, uint64_t serial, const struct muster_agent *agent, struct pack **ret_before)
{
    struct entry *there = room_entry(room, agent->agent), *e = there ? there : entry_new(room, serial, agent->agent);
    const char *names[ROSTER_MAX_LIST];
    uint32_t n = 0;
    bool ok = e && reserve_capabilities(room, agent, names, &n);
    struct pack *p = ok ? pack_new(agent, names, n) : NULL;

    if (!p) {
        end_unused(room, names, n);
        if (!there)
            free(e);
        return MUSTER_ENOMEM;
    }
    *ret_before = e->pack;
    enter(room, e, p);
    return 0;
}

struct pack *room_take(struct room *room, struct entry *e)
{
    struct pack *p = e->pack;

    table_remove(room, e);
    ledger_take(&room->ledger, e->serial);
    move_capabilities(room, e, p, NULL);
    count(room, p, -1);
    free(e);
    return p;
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

struct room *room_new(const struct muster_tenant *tenant)
{
    struct room *room = calloc(1, sizeof *room);

    if (room)
        room->tenant = tenant;
    return room;
}

void room_free(struct room *room)
{
    void *c;

    if (!room)
        return;
    for (size_t i = 0; i < room->ledger.n; i++) {
        struct entry *e = room->ledger.slots[i].entry;

        if (e)
            free(e->pack);
        free(e);
    }
    for (size_t at = 0; map_next(&room->capabilities, &at, NULL, &c);) {
        ledger_done(&((struct capability *)c)->ledger);
        free(c);
    }
    map_done(&room->capabilities);
    ledger_done(&room->ledger);
    free(room->table);
    free(room);
}
