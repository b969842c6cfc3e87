/* The router: its life, and one turn after the other; see router.h. */
#include "tasks/router_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/metric_list.h"

static const struct match_config match_config = {
    .window = 256, .routes = 10000, .assigning = 128, .sticky_ns = 30 * CLOCK_S, .unroutable_ns = 500 * CLOCK_MS};

struct muster_bytes number_param(int64_t v, char out[24])
{
    int n = snprintf(out, 24, "%" PRId64, v);

    return (struct muster_bytes){out, (size_t)n};
}

const char *field_of(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    const char *text = result->get(result, row, column);

    return text && *text ? text : NULL;
}

int64_t number_of(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    const char *text = result->get(result, row, column);

    return text ? strtoll(text, NULL, 10) : 0;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

static int find_services(struct router *r)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {{MUSTER_LEASE, (const void **)&r->lease}, {MUSTER_KV, (const void **)&r->kv}, {MUSTER_ROSTER, (const void **)&r->roster}};
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = r->w->host->service(r->w->host, wanted[i].id, wanted[i].table);
    return err;
}

static int make_metrics(struct router *r)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_COUNTER, "assigned_total", "Tasks that this broker has assigned", NULL, &r->m.assigned},
        {MUSTER_COUNTER, "assign_refused_total", "Assignments that the database refused, because what was known was old", "reason", &r->m.refused},
        {MUSTER_COUNTER, "assignments_resent_total", "Assignments sent again, because the first may not have arrived", NULL, &r->m.resent},
        {MUSTER_COUNTER, "sessions_lost_total", "Sessions whose tasks were released", NULL, &r->m.lost},
        {MUSTER_COUNTER, "unroutable_total", "Tasks told of as unroutable", NULL, &r->m.unroutable},
        {MUSTER_GAUGE, "shards", "Shards of tenants that this broker assigns for", NULL, &r->m.shards},
        {MUSTER_GAUGE, "windowed", "Queued tasks that are known here, of the tenants that this broker assigns for", NULL, &r->m.queued},
        {MUSTER_GAUGE, "held", "Tasks held by agents, of the tenants that this broker assigns for", NULL, &r->m.held},
        {MUSTER_HISTOGRAM, "assign_seconds", "From the pair to the committed assignment", NULL, &r->m.wait},
    };

    return metric_list_make(r->w->host, r->w->metrics, wanted, sizeof wanted / sizeof *wanted);
}

int router_create(struct tasks *t)
{
    struct router *r = calloc(1, sizeof *r);
    int err;

    if (!r)
        return t->work.host->fail(t->work.host, MUSTER_ENOMEM, "no memory for the router");
    t->router = r;
    r->t = t;
    r->w = &t->work;
    r->unsent_end = &r->unsent;
    link_init(&r->routed);
    link_init(&r->looking);
    link_init(&r->returned);
    for (uint32_t i = 0; i < TASK_SHARDS; i++)
        r->shards[i] = (struct task_shard){.r = r, .n = i};
    r->matcher = match_new(&match_config);
    err = r->matcher ? find_services(r) : t->work.host->fail(t->work.host, MUSTER_ENOMEM, "no memory for the router");
    if (!err)
        err = make_metrics(r);
    if (!err)
        err = assign_create(r);
    if (!err)
        err = reads_create(r);
    if (!err)
        err = returns_create(r);
    r->shares.how = shards_how(r);
    return err;
}

int router_start(struct tasks *t)
{
    struct router *r = t->router;
    int err = feed_start(r);

    if (!err)
        err = pull_start(r);
    if (!err)
        err = returns_start(r);
    r->away_ns = r->w->timer->now(r->w->host);
    if (!err)
        shards_start(r);
    return err;
}

void router_drain(struct tasks *t)
{
    struct router *r = t->router;

    r->draining = true;
    shares_end(&r->shares);
    for (struct link *l = r->routed.next; l != &r->routed; l = l->next)
        pull_end(LINK_OF(l, struct routed, link));
}

void router_destroy(struct tasks *t)
{
    struct router *r = t->router;

    if (!r)
        return;
    t->router = NULL;
    for (uint32_t i = 0; i < TASK_SHARDS; i++)
        routed_end_all(&r->shards[i]);
    unsent_done(r);
    buf_done(&r->needs.text);
    returns_done(r);
    map_done(&r->by_tenant);
    match_free(r->matcher);
    free(r);
}

/* ---- turns -------------------------------------------------------------------------------------------------------------- */

static void turn(void *self, int64_t now_ns)
{
    struct router *r = ((struct tasks *)self)->router;

    (void)now_ns;
    r->posted = false;
    if (r->draining)
        return;
    read_looks(r);
    read_peeks(r);
    assign_run(r);
}

/* A timer, and not post(): it comes before what the lane has gathered for the database is sent, and what follows is in the same commit. */
void router_soon(struct router *r)
{
    uint64_t id;

    if (!r->posted && !r->draining)
        r->posted = r->w->timer->once(r->w->host, 0, turn, &id) == 0; /* else with the next tick */
}

static void tell_metrics(struct router *r)
{
    int64_t n_queued = 0, n_held = 0;

    for (struct link *l = r->routed.next; l != &r->routed; l = l->next) {
        struct match_counts n = match_tenant_counts(LINK_OF(l, struct routed, link)->m);

        n_queued += (int64_t)(n.queued + n.aside);
        n_held += (int64_t)(n.held + n.assigning);
    }
    r->w->metrics->set(r->w->host, r->m.queued, NULL, n_queued);
    r->w->metrics->set(r->w->host, r->m.held, NULL, n_held);
}

void router_tick(struct tasks *t, int64_t now_ns)
{
    struct router *r = t->router;

    if (r->draining)
        return;
    (void)match_tick(r->matcher, now_ns);
    shards_tick(r, now_ns);
    routed_tick(r, now_ns);
    pull_tick(r, now_ns);
    returns_tick(r, now_ns);
    if (now_ns - r->looked_ns >= CLOCK_S) {
        r->looked_ns = now_ns;
        tell_metrics(r);
    }
    router_soon(r);
}

void router_link(struct tasks *t, bool up)
{
    struct router *r = t->router;
    bool back = up && !r->link_up;

    if (up != r->link_up)
        *(up ? &r->back_ns : &r->away_ns) = r->w->timer->now(r->w->host);
    r->link_up = up;
    if (up)
        unsent_flush(r);
    if (back)
        routed_back(r);
}

void router_tables(struct tasks *t)
{
    routed_tables(t->router);
}

void router_writable(struct tasks *t)
{
    unsent_flush(t->router);
    router_soon(t->router);
}
