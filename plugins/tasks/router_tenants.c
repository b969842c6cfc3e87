/* The tenants of the shards that are held here: what is known of each, and when it is read anew; see router_parts.h. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/router_parts.h"

static const int64_t resync_ns = 10 * CLOCK_S; /* routes: one step of an index each */
static const int64_t idle_ns = 60 * CLOCK_S;   /* of a tenant that has nothing */
static const int64_t again_ns = CLOCK_S;       /* where events were missed, at most that often */
static const int64_t held_ns = 30 * CLOCK_S;
static const int64_t settle_ns = 3 * CLOCK_S;  /* after a shard has come here: the roster is whole by then */

struct routed *routed_find(const struct router *r, const struct muster_tenant *tenant)
{
    return map_get(&r->by_tenant, &tenant, sizeof tenant);
}

struct question *question_new(const struct routed *d)
{
    struct question *q = malloc(sizeof *q);

    if (q)
        *q = (struct question){.r = d->r, .tenant = d->tenant, .life = d->life};
    return q;
}

struct routed *routed_of(const struct question *q)
{
    struct routed *d = routed_find(q->r, q->tenant);

    return d && d->life == q->life ? d : NULL;
}

static int64_t limit_of(const struct routed *d, const char *name)
{
    int64_t n = d->r->w->tenants->limit(d->r->w->host, d->tenant, name);

    return n < 0 ? 0 : n;
}

static void routed_limits(struct routed *d)
{
    const struct match_limits limits = {.weight = limit_of(d, "task.weight"), .running = limit_of(d, "task.running"), .rate = limit_of(d, "task.rate"),
                                        .group_running = limit_of(d, "task.group_running"), .group_rate = limit_of(d, "task.group_rate")};

    match_tenant_limits(d->m, &limits);
}

static struct routed *routed_new(struct task_shard *s, const struct muster_tenant *tenant, const char *name)
{
    struct router *r = s->r;
    struct routed *d = calloc(1, sizeof *d);
    int64_t now_ns = r->w->timer->now(r->w->host);

    if (!d)
        return NULL;
    *d = (struct routed){.r = r, .tenant = tenant, .name = name, .shard = s, .life = ++r->lives, .routes_after = INT64_MIN,
                         .settle_ns = now_ns + settle_ns, .held_ns = now_ns + held_ns};
    d->resync_ns = now_ns + resync_ns * (int64_t)(1 + r->lives % 8) / 8;
    d->m = match_tenant_new(r->matcher, d);
    if (!d->m || !map_put(&r->by_tenant, &tenant, sizeof tenant, d)) {
        if (d->m)
            match_tenant_end(d->m);
        free(d);
        return NULL;
    }
    link_init(&d->link);
    link_init(&d->looking);
    link_init(&d->sought);
    link_init(&d->later);
    link_init(&d->pulls);
    link_init(&d->missed);
    link_put(&r->routed, &d->link);
    routed_limits(d);
    feed_present(d);
    return d;
}

static void routed_end(struct routed *d)
{
    pull_end(d);
    missed_drop(d, NULL);
    (void)map_take(&d->r->by_tenant, &d->tenant, sizeof d->tenant);
    match_tenant_end(d->m);
    link_remove(&d->link);
    link_remove(&d->looking);
    looks_drop(&d->sought);
    looks_drop(&d->later);
    free(d->held_after);
    free(d);
}

/* ---- a shard comes, and goes -------------------------------------------------------------------------------------------- */

/* NULL: there is one, or another broker's; or no memory, then with the next look at the tenants. */
static struct routed *add(struct router *r, const struct muster_tenant *tenant)
{
    const char *name = r->w->tenants->name(tenant);
    struct task_shard *s = &r->shards[task_shard_of(name)];

    return s->state != SHARD_SERVES || routed_find(r, tenant) ? NULL : routed_new(s, tenant, name);
}

static void add_idle(void *arg, const struct muster_tenant *tenant)
{
    struct routed *d = add(arg, tenant);

    if (d)
        d->ready = true;
}

static void read_all(struct routed *d)
{
    d->ready = false;
    match_tenant_pause(d->m, true);
    read_held(d);
}

static void add_unknown(void *arg, const struct muster_tenant *tenant)
{
    struct routed *d = add(arg, tenant);

    if (d)
        read_all(d);
}

void routed_begin(struct task_shard *s)
{
    (void)s->r->w->tenants->each(s->r->w->host, add_idle, s->r);
}

void routed_has_tasks(struct task_shard *s, const char *name)
{
    const struct muster_tenant *tenant = s->r->w->tenants->find(s->r->w->host, name, strlen(name));
    struct routed *d = tenant ? routed_find(s->r, tenant) : NULL;

    if (d)
        read_all(d);
}

void routed_end_all(struct task_shard *s)
{
    struct link *next;

    for (struct link *l = s->r->routed.next; l != &s->r->routed; l = next) {
        struct routed *d = LINK_OF(l, struct routed, link);

        next = l->next;
        if (d->shard == s)
            routed_end(d);
    }
}

static void mark(void *arg, const struct muster_tenant *tenant)
{
    struct routed *d = routed_find(arg, tenant);

    if (d)
        d->shard = &d->r->shards[task_shard_of(d->name)];
}

/* Tenants that were removed go, new ones come, and limits may be other ones. */
void routed_tables(struct router *r)
{
    struct link *next;

    for (struct link *l = r->routed.next; l != &r->routed; l = l->next)
        LINK_OF(l, struct routed, link)->shard = NULL;
    (void)r->w->tenants->each(r->w->host, mark, r);
    for (struct link *l = r->routed.next; l != &r->routed; l = next) {
        struct routed *d = LINK_OF(l, struct routed, link);

        next = l->next;
        if (d->shard)
            routed_limits(d);
        else
            routed_end(d);
    }
    (void)r->w->tenants->each(r->w->host, add_unknown, r);
    router_soon(r);
}

/* ---- time --------------------------------------------------------------------------------------------------------------- */

void routed_again(struct routed *d)
{
    int64_t soon_ns = d->synced_ns + again_ns;

    d->again = true;
    if (d->resync_ns > soon_ns)
        d->resync_ns = soon_ns;
}

void routed_back(struct router *r)
{
    for (struct link *l = r->routed.next; l != &r->routed; l = l->next) {
        struct routed *d = LINK_OF(l, struct routed, link);

        d->unheard_all = true; /* what was on its way to the server may be lost */
        unheard_since(d, unheard_from(r, 0));
    }
}

static bool is_idle(const struct routed *d)
{
    struct match_counts n = match_tenant_counts(d->m);

    return !(n.queued + n.aside + n.assigning + n.held);
}

static void resync(struct routed *d, int64_t now_ns)
{
    d->synced_ns = now_ns;
    d->resync_ns = now_ns + (is_idle(d) ? idle_ns : resync_ns);
    if (!d->ready) {
        d->resync_ns = now_ns + again_ns;
        if (!d->reading_held)
            read_held(d);
        return;
    }
    if (d->again || now_ns >= d->held_ns) {
        d->held_ns = now_ns + held_ns;
        read_held(d);
    }
    d->again = false;
    match_tenant_pause(d->m, false); /* the word that it goes on may have been missed */
    read_routes(d);
}

void routed_tick(struct router *r, int64_t now_ns)
{
    for (struct link *l = r->routed.next; l != &r->routed; l = l->next) {
        struct routed *d = LINK_OF(l, struct routed, link);

        if (d->settle_ns && now_ns >= d->settle_ns) {
            d->settle_ns = 0;
            match_tenant_settle(d->m);
        }
        looks_tick(d, now_ns);
        if (now_ns >= d->resync_ns)
            resync(d, now_ns);
    }
}
