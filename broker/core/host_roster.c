/*
 * muster.roster/1: who is present. One copy in the broker (roster/roster.h), which the plugin with the capability ROSTER_KEEPER keeps, and the
 * feed of its changes.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "core/host_roster.h"
#include "core/instance.h"
#include "metrics/metrics.h"

enum { MAX_QUEUED = 4096, REASON_SIZE = 32 };

struct roster_change {
    struct feed_event head;
    uint32_t kind;
    bool has_reason;
    char agent[NAME_TOKEN_SIZE], session[ROSTER_MAX_SESSION + 1], reason[REASON_SIZE];
};

struct host_roster {
    struct roster *roster;
    struct feed *feed;
    pthread_mutex_t lock;          /* guards the next */
    char keeper[NAME_TOKEN_SIZE]; /* the plugin that puts; "" before one has asked */
};

/* ---- changes ------------------------------------------------------------------------------------------------------------------------ */

static void on_change(void *arg, const struct muster_roster_change *change)
{
    struct host_roster *h = arg;
    struct roster_change c = {.head = {.tenant = change->tenant}, .kind = change->kind, .has_reason = change->reason};

    if (change->agent)
        (void)snprintf(c.agent, sizeof c.agent, "%s", change->agent);
    if (change->session)
        (void)snprintf(c.session, sizeof c.session, "%s", change->session);
    if (change->reason)
        (void)snprintf(c.reason, sizeof c.reason, "%s", change->reason);
    feed_push(h->feed, &c.head, sizeof c);
}

/* A gap is a reset of all. */
static void tell(struct instance *in, union feed_fn fn, void *arg, const struct feed_event *event)
{
    const struct roster_change *c = (const struct roster_change *)(const void *)event;
    struct muster_roster_change change = {.size = sizeof change, .kind = c ? c->kind : MUSTER_ROSTER_RESET, .tenant = c ? c->head.tenant : NULL};

    if (c && c->kind != MUSTER_ROSTER_RESET) {
        change.agent = c->agent;
        change.session = c->session;
        change.reason = c->has_reason ? c->reason : NULL;
    }
    instance_enter(in, "roster", NULL);
    fn.change(arg, &change);
    instance_leave(in);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

static void read_agents(void *arg, struct metrics_out *out)
{
    metrics_emit(out, NULL, 0, (double)roster_size(((struct host_roster *)arg)->roster).agents);
}

static void read_bytes(void *arg, struct metrics_out *out)
{
    metrics_emit(out, NULL, 0, (double)roster_size(((struct host_roster *)arg)->roster).bytes);
}

static int make_metrics(struct broker *broker, struct host_roster *h, struct metric **ret_resets)
{
    const struct metric_spec agents = {.type = MUSTER_GAUGE, .name = "muster_roster_agents", .help = "Agents that this broker knows to be present."},
                             bytes = {.type = MUSTER_GAUGE, .name = "muster_roster_bytes", .help = "Memory that they take."},
                             resets = {.type = MUSTER_COUNTER, .name = "muster_roster_resets_total",
                                       .help = "Times that a plugin was told to read the roster anew because too many changes waited for it."};
    int err = metrics_watch(broker_metrics(broker), &agents, read_agents, h);

    if (!err)
        err = metrics_watch(broker_metrics(broker), &bytes, read_bytes, h);
    return err ? err : metrics_make(broker_metrics(broker), &resets, ret_resets);
}

int host_roster_new(struct broker *broker, struct host_roster **ret_roster)
{
    struct feed_options feed = {.max_queued = MAX_QUEUED, .tell = tell};
    struct host_roster *h = calloc(1, sizeof *h);
    int err;

    if (!h)
        return MUSTER_ENOMEM;
    ASSERT(pthread_mutex_init(&h->lock, NULL) == 0);
    err = roster_new(on_change, h, &h->roster);
    if (!err)
        err = make_metrics(broker, h, &feed.gaps);
    if (!err)
        err = feed_new(&feed, &h->feed);
    if (err) {
        host_roster_free(h);
        return err;
    }
    feed_hear(h->feed, true);
    *ret_roster = h;
    return 0;
}

void host_roster_free(struct host_roster *h)
{
    if (!h)
        return;
    roster_free(h->roster);
    feed_free(h->feed);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}

bool host_roster_keep(struct host_roster *h, const char *plugin, char keeper[NAME_TOKEN_SIZE])
{
    bool is_keeper;

    pthread_mutex_lock(&h->lock);
    if (!*h->keeper)
        (void)snprintf(h->keeper, sizeof h->keeper, "%s", plugin);
    is_keeper = strcmp(h->keeper, plugin) == 0;
    memcpy(keeper, h->keeper, NAME_TOKEN_SIZE);
    pthread_mutex_unlock(&h->lock);
    return is_keeper;
}

void host_roster_done(struct instance *in)
{
    feed_forget(broker_roster(in->broker)->feed, in);
}

void host_roster_leave(struct instance *in)
{
    if (instance_has_capability(in, ROSTER_KEEPER))
        roster_clear(broker_roster(in->broker)->roster, NULL);
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------------- */

static struct host_roster *of(const struct muster_host *host)
{
    return broker_roster(instance_of(host)->broker);
}

static int refuse(const struct muster_host *host, const char *function, const char *expected)
{
    return host->fail(host, MUSTER_EINVAL, "roster->%s(): expected %s", function, expected);
}

static int host_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, muster_agent_fn fn, void *arg)
{
    if (!tenant || !agent)
        return refuse(host, "get", "a tenant and a name");
    return roster_get(of(host)->roster, tenant, agent, fn, arg);
}

static int64_t host_find(const struct muster_host *host, const struct muster_tenant *tenant, const struct muster_roster_query *query,
                         muster_agent_fn fn, void *arg)
{
    int64_t n = tenant ? roster_find(of(host)->roster, tenant, query, fn, arg) : MUSTER_EINVAL;

    return n < 0 ? refuse(host, "find", "a tenant, size, and at most 64 capabilities and labels, none of them NULL") : n;
}

static int64_t host_count(const struct muster_host *host, const struct muster_tenant *tenant, int64_t by_status[4])
{
    return tenant ? roster_count(of(host)->roster, tenant, by_status) : refuse(host, "count", "a tenant");
}

static int host_watch(const struct muster_host *host, muster_roster_fn fn, void *arg, uint64_t *ret_id)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);

    if (!err && !fn)
        err = MUSTER_EINVAL;
    return err ? err : feed_add(of(host)->feed, in, (union feed_fn){.change = fn}, arg, ret_id);
}

static void host_unwatch(const struct muster_host *host, uint64_t id)
{
    struct instance *in = instance_of(host);

    if (ON_LANE(in))
        feed_remove(of(host)->feed, in, id);
}

static int may_keep(const struct muster_host *host)
{
    return instance_has_capability(instance_of(host), ROSTER_KEEPER)
               ? 0
               : host->fail(host, MUSTER_EACCES, "the capability \"" ROSTER_KEEPER "\" is missing in the plugin's descriptor");
}

static int host_put(const struct muster_host *host, const struct muster_tenant *tenant, uint32_t kind, const char *reason,
                    const struct muster_agent *agent)
{
    const char *fault = roster_fault(agent);
    int err = may_keep(host);

    if (err)
        return err;
    if (!tenant || kind == MUSTER_ROSTER_LEAVE || kind > MUSTER_ROSTER_REPLACED)
        return refuse(host, "put", "a tenant, and 0 or one of MUSTER_ROSTER_JOIN, STATUS, SUSPECT, REPLACED");
    if (fault)
        return host->fail(host, MUSTER_EINVAL, "roster->put(): %s", fault);
    return roster_put(of(host)->roster, tenant, kind, reason, agent);
}

static int host_remove(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *reason)
{
    int err = may_keep(host);

    if (err)
        return err;
    return tenant && agent ? roster_remove(of(host)->roster, tenant, agent, reason) : refuse(host, "remove", "a tenant and a name");
}

static int host_clear(const struct muster_host *host, const struct muster_tenant *tenant)
{
    int err = may_keep(host);

    if (!err)
        roster_clear(of(host)->roster, tenant);
    return err;
}

const struct muster_roster host_roster = {.size = sizeof host_roster,
                                          .get = host_get,
                                          .find = host_find,
                                          .count = host_count,
                                          .watch = host_watch,
                                          .unwatch = host_unwatch,
                                          .put = host_put,
                                          .remove = host_remove,
                                          .clear = host_clear};
