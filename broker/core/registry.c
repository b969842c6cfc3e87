/* The registry and the streams, on the core lane; see registry.h. */
#include "core/registry.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "core/broker.h"
#include "core/connections.h"
#include "core/dispatch.h"
#include "core/health.h"
#include "core/instance.h"
#include "core/links.h"
#include "core/streams.h"
#include "core/sweep.h"
#include "sql/fault.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"

struct registry {
    struct broker *broker;
    struct health_component *health; /* PostgreSQL's; NULL: there is no database */
    void (*on_danger)(void *arg, const char *why);
    void *danger_arg;
    atomic_bool serving; /* set on the core lane */

    /* Core lane only. */
    struct streams *streams;
    struct sweep *sweep;
    bool is_up;
    uint64_t histories; /* see histories_changed() */
};

bool registry_is_serving(const struct registry *r)
{
    return atomic_load(&r->serving);
}

/* ---- from other threads --------------------------------------------------------------------------------------------------------- */

struct errand {
    struct lane_item item;
    struct registry *registry;
};

static void check_streams(struct lane_item *item)
{
    struct errand *errand = (struct errand *)item;

    if (errand->registry->streams)
        streams_check(errand->registry->streams);
    free(errand);
}

static void read_tenants(struct lane_item *item)
{
    struct errand *errand = (struct errand *)item;

    (void)tenants_read(broker_tenants(errand->registry->broker)); /* while the database is away all is read when it is back */
    free(errand);
}

static void drop_errand(struct lane_item *item)
{
    free(item);
}

static int push_errand(struct registry *r, void (*run)(struct lane_item *item))
{
    struct errand *errand = malloc(sizeof *errand);

    if (!errand)
        return MUSTER_ENOMEM;
    *errand = (struct errand){.item = {.run = run, .drop = drop_errand}, .registry = r};
    lane_push(broker_lane(r->broker), &errand->item);
    return 0;
}

void registry_check(struct registry *r)
{
    (void)push_errand(r, check_streams); /* the minute's check makes it good */
}

int registry_read(struct registry *r)
{
    return push_errand(r, read_tenants);
}

/* ---- PostgreSQL ----------------------------------------------------------------------------------------------------------------- */

static void say_registry(struct registry *r)
{
    health_set(r->health, MUSTER_HEALTH_OK, "ok", "following muster.tenants and muster.tables");
}

void registry_heard(struct registry *r)
{
    if (r->is_up)
        say_registry(r);
}

static void on_postgres(void *arg, const struct sql_fault *fault, const char *reason)
{
    struct registry *r = arg;

    r->is_up = !fault;
    if (!fault && !atomic_load(&r->serving)) /* not before: other brokers know the tenants, and would be asked less */
        atomic_store(&r->serving, dispatch_start(broker_dispatch(r->broker)) == 0);
    if (!fault && links_tell_when_heard(broker_links(r->broker)) != 0)
        say_registry(r); /* the link says that it is away */
    if (!fault)
        credentials_stale(broker_credentials(r->broker)); /* what was changed meanwhile was not told */
    if (fault)
        health_set(r->health, MUSTER_HEALTH_DOWN, fault->code, "%s; %s", reason, fault->help);
}

/* A number that is another when a tenant comes or goes, or its history, or what bounds it, changes. */
static void add_history(void *arg, const struct muster_tenant *tenant)
{
    uint64_t *sum = arg;

    *sum += tenant->hash * (tenants_history(tenant) + 1);
    *sum += tenant->hash * 31 * (uint64_t)(tenants_limit(tenant, TENANT_STREAM_MESSAGES) + 1);
    *sum += tenant->hash * 37 * (uint64_t)(tenants_limit(tenant, TENANT_STREAM_BYTES) + 1);
}

static bool histories_changed(struct registry *r)
{
    uint64_t before = r->histories;

    r->histories = 0;
    tenants_each(broker_tenants(r->broker), add_history, &r->histories);
    return r->histories != before;
}

static void on_tenants(void *arg, unsigned int what)
{
    struct registry *r = arg;

    links_tell(broker_links(r->broker), instance_tell_tables);
    if (what & TENANTS_CHANGED)
        connections_tenants_changed(broker_connections(r->broker));
    if (what & TENANTS_CHANGED && histories_changed(r)) /* each stream is asked about */
        streams_check(r->streams);
}

static int open_postgres(struct registry *r)
{
    const struct config *config = broker_config(r->broker);
    struct tenants_source source = {.loop = lane_loop(broker_lane(r->broker)),
                                    .dsn = config->postgres.dsn,
                                    .broker_id = broker_id(r->broker),
                                    .on_link = on_postgres,
                                    .arg = r};
    struct config_error why;
    int err = tenants_open(broker_tenants(r->broker), &source);

    if (err == MUSTER_EINVAL) {
        (void)config_fault(config, "postgres.dsn", &why, "is no connection string that PostgreSQL's library can read");
        log_error("postgres", "%s", why.text);
    }
    return err ? err : sweep_new(r->broker, &r->sweep);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

int registry_new(struct broker *broker, void (*on_danger)(void *arg, const char *why), void *arg, struct registry **ret_registry)
{
    struct registry *r = calloc(1, sizeof *r);
    int err = r ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    *r = (struct registry){.broker = broker, .on_danger = on_danger, .danger_arg = arg};
    if (broker_config(broker)->postgres.dsn)
        err = health_add(broker_health(broker), HEALTH_POSTGRES, "registry", true, &r->health);
    if (err) {
        free(r);
        return err;
    }
    *ret_registry = r;
    return 0;
}

void registry_free(struct registry *r)
{
    if (!r)
        return;
    streams_free(r->streams);
    free(r);
}

int registry_open(struct registry *r)
{
    int err = streams_new(r->broker, r->on_danger, r->danger_arg, &r->streams);

    if (!err)
        err = tenants_on_change(broker_tenants(r->broker), on_tenants, r);
    if (!err && broker_config(r->broker)->postgres.dsn)
        err = open_postgres(r);
    return err;
}

void registry_start(struct registry *r)
{
    streams_start(r->streams);
}

void registry_close(struct registry *r)
{
    streams_close(r->streams);
    tenants_close(broker_tenants(r->broker));
    sweep_free(r->sweep);
}
