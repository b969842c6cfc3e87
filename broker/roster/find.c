/* Questions about who is present; see roster.h. */
#include <stdbool.h>
#include <string.h>

#include "roster/parts.h"

enum { TURN = 4096 }; /* agents that are looked at under one hold of the lock */

struct search {
    const struct muster_roster_query *query;
    muster_agent_fn fn;
    void *arg;
    uint64_t next; /* serial from which it goes on */
    int64_t n_found;
    bool ended;
    const char *capabilities[ROSTER_MAX_LIST]; /* as the agents of the room point to them */
};

int roster_get(struct roster *r, const struct muster_tenant *tenant, const char *agent, muster_agent_fn fn, void *arg)
{
    struct part *part = roster_part(r, tenant);
    const struct entry *e;
    const struct room *room;

    pthread_rwlock_rdlock(&part->lock);
    room = part_room(part, tenant);
    e = room ? room_entry(room, agent) : NULL;
    if (e && fn)
        (void)fn(arg, &e->pack->agent);
    pthread_rwlock_unlock(&part->lock);
    return e ? 0 : MUSTER_ENOTFOUND;
}

int64_t roster_count(struct roster *r, const struct muster_tenant *tenant, int64_t by_status[4])
{
    static const int64_t nobody[4];
    struct part *part = roster_part(r, tenant);
    const struct room *room;
    int64_t n;

    pthread_rwlock_rdlock(&part->lock);
    room = part_room(part, tenant);
    n = room ? (int64_t)room_count(room) : 0;
    if (by_status)
        memcpy(by_status, room ? room->by_status : nobody, sizeof nobody);
    pthread_rwlock_unlock(&part->lock);
    return n;
}

/* ---- find --------------------------------------------------------------------------------------------------------------------------- */

/* The shortest ledger that has all who can match. NULL: nobody can. */
static const struct ledger *choose(const struct room *room, struct search *s)
{
    const struct muster_roster_query *q = s->query;
    const struct ledger *best = &room->ledger;

    for (uint32_t i = 0; i < q->n_capabilities; i++) {
        const struct capability *c = room_capability(room, q->capabilities[i]);

        if (!c)
            return NULL;
        s->capabilities[i] = c->name;
        if (ledger_count(&c->ledger) < ledger_count(best))
            best = &c->ledger;
    }
    return best;
}

static bool has_capability(const struct muster_agent *a, const char *name)
{
    for (uint32_t i = 0; i < a->n_capabilities; i++)
        if (a->capabilities[i] == name)
            return true;
    return false;
}

static bool has_label(const struct muster_agent *a, const struct muster_header *label)
{
    for (uint32_t i = 0; i < a->n_labels; i++)
        if (strcmp(a->labels[i].name, label->name) == 0 && strcmp(a->labels[i].value, label->value) == 0)
            return true;
    return false;
}

static bool matches(const struct search *s, const struct muster_agent *a)
{
    const struct muster_roster_query *q = s->query;

    if ((q->statuses && !(q->statuses & 1u << a->status)) || (q->without_flags & a->flags))
        return false;
    for (uint32_t i = 0; i < q->n_capabilities; i++)
        if (!has_capability(a, s->capabilities[i]))
            return false;
    for (uint32_t i = 0; i < q->n_labels; i++)
        if (!has_label(a, &q->labels[i]))
            return false;
    return true;
}

static void look_at(struct search *s, const struct entry *e)
{
    if (!e || !matches(s, &e->pack->agent))
        return;
    s->n_found++;
    s->ended = (s->fn && s->fn(s->arg, &e->pack->agent) != 0) || (s->query->limit && s->n_found >= s->query->limit);
}

/* Some of the room, from s->next on. */
static void look(struct search *s, const struct room *room)
{
    const struct ledger *l = room ? choose(room, s) : NULL;
    size_t i = l ? ledger_from(l, s->next) : 0, end = l && l->n - i > TURN ? i + TURN : l ? l->n : 0;

    for (; i < end && !s->ended; i++)
        look_at(s, l->slots[i].entry);
    s->ended |= !l || i == l->n;
    if (!s->ended)
        s->next = l->slots[i].serial;
}

static bool is_well_formed(const struct muster_roster_query *q)
{
    if (!q || !MUSTER_HAS(q, after) || q->n_capabilities > ROSTER_MAX_LIST || q->n_labels > ROSTER_MAX_LIST)
        return false;
    for (uint32_t i = 0; i < q->n_capabilities; i++)
        if (!q->capabilities || !q->capabilities[i])
            return false;
    for (uint32_t i = 0; i < q->n_labels; i++)
        if (!q->labels || !q->labels[i].name || !q->labels[i].value)
            return false;
    return true;
}

int64_t roster_find(struct roster *r, const struct muster_tenant *tenant, const struct muster_roster_query *query, muster_agent_fn fn, void *arg)
{
    struct search s = {.query = query, .fn = fn, .arg = arg};
    struct part *part = roster_part(r, tenant);

    if (!is_well_formed(query))
        return MUSTER_EINVAL;
    s.next = query->after + 1;
    s.ended = query->after == UINT64_MAX;
    while (!s.ended) {
        pthread_rwlock_rdlock(&part->lock);
        look(&s, part_room(part, tenant));
        pthread_rwlock_unlock(&part->lock);
    }
    return s.n_found;
}
