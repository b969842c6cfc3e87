/*
 * presence - who is here: one roster a tenant in every broker, and events of what changes in it, told once in a cluster.
 *
 * in   requests rpc.*.presence.* and beats; connections of the NATS servers; evt.presence.> of the shards that others hold
 * out  PRES_0 … PRES_15, fenced, which republish evt.presence.<join|leave|status|suspect>.<agent>; answers; rows of agent_sessions
 *
 * All state is per instance and touched on the lane only; there is no lock. The parts are told in presence.h.
 */
#include "presence/presence.h"

#include <stdlib.h>

#include "base/clock.h"
#include "common/metric_list.h"
#include "schemas/presence.h"
#include "schemas/session.h"
#include "schemas/stats.h"

static const int64_t tick_ns = 200 * CLOCK_MS;

static const struct muster_service services[] = {
    {.size = sizeof services[0], .name = "presence", .verbs = "hello beat status bye list get count", .schema = muster_schema_presence},
    {.size = sizeof services[0], .name = "session", .verbs = "register status active", .schema = muster_schema_session},
    {.size = sizeof services[0], .name = "stats", .verbs = "hub", .schema = muster_schema_stats},
};

static int find_services(struct presence *p)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {
        {MUSTER_BUS, (const void **)&p->bus},         {MUSTER_STREAM, (const void **)&p->stream},
        {MUSTER_LEASE, (const void **)&p->lease},     {MUSTER_TIMER, (const void **)&p->timer},
        {MUSTER_TENANT, (const void **)&p->tenants},  {MUSTER_METRICS, (const void **)&p->metrics},
        {MUSTER_CODEC, (const void **)&p->codec},     {MUSTER_ROSTER, (const void **)&p->roster},
        {MUSTER_KV, (const void **)&p->kv},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = p->host->service(p->host, wanted[i].id, wanted[i].table);
    return err;
}

static int make_metrics(struct presence *p)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_GAUGE, "agents", "Agents that are present, of all tenants.", NULL, &p->m.agents},
        {MUSTER_GAUGE, "shards", "Shards that this broker holds.", NULL, &p->m.shards},
        {MUSTER_COUNTER, "events_total", "Events stored.", "event", &p->m.events},
        {MUSTER_COUNTER, "digests_total", "Of these, those that told of many agents.", NULL, &p->m.digests},
        {MUSTER_COUNTER, "beats_total", "Beats heard of agents that are present.", NULL, &p->m.beats},
        {MUSTER_COUNTER, "lists_total", "Lists read from another broker to follow its events.", "why", &p->m.lists},
        {MUSTER_COUNTER, "gaps_total", "Gaps found in the events of another broker.", NULL, &p->m.gaps},
        {MUSTER_COUNTER, "appends_failed_total", "Events that were not acknowledged, so that the stream was read again.", NULL, &p->m.failed},
        {MUSTER_GAUGE, "waiting", "Changes that wait to be stored.", NULL, &p->m.waiting},
        {MUSTER_HISTOGRAM, "store_seconds", "From a change to the acknowledgement of its event.", NULL, &p->m.store},
    };

    return metric_list_make(p->host, p->metrics, wanted, sizeof wanted / sizeof *wanted);
}

static void presence_destroy(void *self)
{
    struct presence *p = self;

    if (!p)
        return;
    for (uint32_t i = 0; i < SHARDS; i++)
        asks_done(&p->shards[i]);
    death_done(p);
    tenancies_done(p);
    buf_done(&p->scratch);
    free(p);
}

static int presence_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct presence *p = calloc(1, sizeof *p);
    int err;

    if (!p)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    p->host = host;
    p->config = &p->settled;
    for (uint32_t i = 0; i < SHARDS; i++)
        p->shards[i] = (struct shard){.p = p, .n = i};
    err = settings_settle(host, config, &p->settled);
    if (!err)
        err = find_services(p);
    if (!err)
        err = make_metrics(p);
    if (!err)
        err = death_prepare(p);
    if (err) {
        presence_destroy(p);
        return err;
    }
    p->shares.how = shards_how(p);
    *ret_self = p;
    return 0;
}

/* ---- what the host calls ------------------------------------------------------------------------------------------------------ */

static void look_at_clocks(struct presence *p)
{
    p->wall_ns = p->timer->wall_now(p->host) - p->timer->now(p->host);
}

/* One walk over all tenants, because there may be thousands. */
static void on_tick(void *self, int64_t now_ns)
{
    struct presence *p = self;
    uint32_t missing[SHARDS] = {0}; /* tenants whose roster is not known */
    struct tenancy *t;

    look_at_clocks(p);
    for (size_t i = 0; tenancy_next(p, &i, &t);) {
        if (!tenancy_is(t)) {
            tenancy_clear(t);
            continue;
        }
        if (t->waiting)
            changes_run(t); /* what could not be sent, or found no room for a post */
        missing[t->shard->n] += follow_tick(t, now_ns);
    }
    shards_tick(p, now_ns, missing);
    if (p->link_up && p->tenants_known) /* who does not contend yet takes nothing that others let go for it */
        shares_tick(&p->shares, now_ns);
    wellbeing_tick(p, missing);
}

static void on_second(void *self, int64_t now_ns)
{
    (void)now_ns;
    notices_tick(self);
}

static void on_head_time(void *self, int64_t now_ns)
{
    (void)now_ns;
    notices_heads(self);
}

static int start_timers(struct presence *p)
{
    uint64_t id;
    int err = p->timer->every(p->host, tick_ns, on_tick, &id);

    if (!err)
        err = p->timer->every(p->host, CLOCK_S, on_second, &id);
    return err ? err : p->timer->every(p->host, 5 * CLOCK_S, on_head_time, &id);
}

static int presence_start(void *self)
{
    struct presence *p = self;
    int err = start_timers(p);

    look_at_clocks(p);
    shards_start(p);
    if (!err)
        err = verbs_start(p);
    if (!err)
        err = follow_start(p);
    return err ? err : death_start(p);
}

static void find_tenant(void *arg, const struct muster_tenant *tenant)
{
    struct presence *p = arg;
    size_t before = p->by_tenant.n;
    struct tenancy *t = tenancy_of(p, tenant); /* where there is no memory, the first message of the tenant tries again */

    if (!t)
        return;
    p->tenants_changed |= p->by_tenant.n > before || t->found != p->looks - 1;
    t->found = p->looks;
}

static void find_tenants(struct presence *p)
{
    struct tenancy *t;

    p->tenants_changed = false;
    p->looks++;
    (void)p->tenants->each(p->host, find_tenant, p);
    for (size_t i = 0; tenancy_next(p, &i, &t);)
        p->tenants_changed |= t->found == p->looks - 1;
}

static void presence_on_tables(void *self)
{
    struct presence *p = self;

    find_tenants(p);
    p->tenants_known = true;
    if (p->tenants_changed)
        death_tenants(p);
}

static void presence_on_link(void *self, int up)
{
    struct presence *p = self;

    p->link_up = up;
    if (up)
        follow_again(p);
    death_link(p, up);
}

static void presence_on_writable(void *self)
{
    struct presence *p = self;
    struct tenancy *t;

    for (size_t i = 0; tenancy_next(p, &i, &t);)
        changes_run(t);
}

static void presence_drain(void *self, int64_t deadline_ns)
{
    struct presence *p = self;

    (void)deadline_ns;
    p->draining = true;
    shares_end(&p->shares);
    death_drain(p);
}

static int presence_reload(void *self, const void *config)
{
    struct presence *p = self;

    return settings_settle(p->host, config, &p->settled);
}

MUSTER_PLUGIN(.name = "presence", .version = MUSTER_VERSION, .capabilities = "cross_tenant stream sql system presence", .options = presence_options,
              .n_options = PRESENCE_OPTIONS_N, .config_size = sizeof(struct presence_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = presence_create, .start = presence_start,
              .drain = presence_drain, .destroy = presence_destroy, .on_writable = presence_on_writable, .on_link = presence_on_link,
              .on_tables = presence_on_tables, .check = settings_check, .reload = presence_reload);
