/* Tenants; see presence.h. */
#include <stdlib.h>
#include <string.h>

#include "presence/presence.h"

/* FNV-1a: the same in every broker, whatever its version. */
uint32_t shard_of(const char *tenant)
{
    uint32_t h = 2166136261u;

    for (const unsigned char *c = (const unsigned char *)tenant; *c; c++)
        h = (h ^ *c) * 16777619u;
    return h % SHARDS;
}

static struct tenancy *tenancy_new(struct presence *p, const struct muster_tenant *tenant, const char *name)
{
    struct tenancy *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    *t = (struct tenancy){.p = p, .tenant = tenant, .name = name, .shard = &p->shards[shard_of(name)], .found = p->looks,
                          .covered = UINT64_MAX};
    t->held_end = &t->held;
    t->waiting_end = &t->waiting;
    t->flights_end = &t->flights;
    if (tenancy_leads(t)) { /* a tenant that was added after the shard was taken over */
        t->epoch = t->shard->epoch;
        t->follow = FOLLOW_LIVE;
    }
    if (map_put(&p->by_tenant, name, strlen(name), t))
        return t;
    free(t);
    return NULL;
}

static struct tenancy *find_or_make(struct presence *p, const struct muster_tenant *tenant)
{
    const char *name = p->tenants->name(tenant);
    struct tenancy *t = map_get(&p->by_tenant, name, strlen(name));

    return t ? t : tenancy_new(p, tenant, name);
}

struct tenancy *tenancy_of(struct presence *p, const struct muster_tenant *tenant)
{
    if (!p->asked_last || p->asked_last->tenant != tenant)
        p->asked_last = find_or_make(p, tenant);
    return p->asked_last;
}

bool tenancy_next(struct presence *p, size_t *at, struct tenancy **ret_tenancy)
{
    void *value;

    if (!map_next(&p->by_tenant, at, NULL, &value))
        return false;
    *ret_tenancy = value;
    return true;
}

/* Nobody hears of it: who was told that the agents are there has no tenant any more. */
void tenancy_clear(struct tenancy *t)
{
    struct agent *a;

    follow_end(t);
    t->follow = tenancy_leads(t) ? FOLLOW_LIVE : FOLLOW_UNKNOWN;
    if (t->flights || (!t->agents.n && !t->waiting && !t->death.rows))
        return;
    changes_drop(t);
    for (size_t i = 0; agent_next(t, &i, &a);)
        agent_end(a);
    (void)t->p->roster->clear(t->p->host, t->tenant);
    sessions_forget(t);
}

void tenancies_done(struct presence *p)
{
    struct tenancy *t;
    struct agent *a;

    for (size_t i = 0; tenancy_next(p, &i, &t);) {
        for (size_t j = 0; agent_next(t, &j, &a);)
            agent_end(a); /* death_done() has been called */
        table_done(&t->agents);
        changes_drop(t);
        follow_end(t);
        map_done(&t->keeping);
        free(t);
    }
    map_done(&p->by_tenant);
}
