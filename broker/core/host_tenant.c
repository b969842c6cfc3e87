/*
 * muster.tenant/1: handles of tenants, found but never made by a plugin.
 *
 * The registry follows the database on the core lane: a refresh goes there and its answer comes back to the plugin's lane.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "core/broker.h"
#include "core/instance.h"
#include "tenant/tenant.h"

/* A handle that came with a message can be used without it. */
static bool may(const struct muster_host *host)
{
    return instance_has_capability(instance_of(host), "cross_tenant");
}

static int refuse(const struct muster_host *host)
{
    return host->fail(host, MUSTER_EACCES, "the capability \"cross_tenant\" is missing in the plugin's descriptor");
}

static struct tenants *registry(const struct muster_host *host)
{
    return broker_tenants(instance_of(host)->broker);
}

static const char *tenant_name(const struct muster_tenant *tenant)
{
    return tenants_name(tenant);
}

static int tenant_limits(const struct muster_host *host, const struct muster_tenant *tenant, struct muster_tenant_limits *limits)
{
    (void)host;
    return tenants_limits(tenant, limits);
}

static int64_t tenant_limit(const struct muster_host *host, const struct muster_tenant *tenant, const char *name)
{
    return tenants_limit_named(registry(host), tenant, name);
}

static const struct muster_tenant *tenant_find(const struct muster_host *host, const char *name, size_t len)
{
    return ON_LANE(instance_of(host)) && may(host) ? tenants_find(registry(host), name, len) : NULL;
}

static int tenant_each(const struct muster_host *host, muster_tenant_fn fn, void *arg)
{
    if (!ON_LANE(instance_of(host)))
        return MUSTER_EINVAL;
    if (!may(host))
        return refuse(host);
    tenants_each(registry(host), fn, arg);
    return 0;
}

static int tenant_tables(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    if (!ON_LANE(instance_of(host)))
        return MUSTER_EINVAL;
    if (!may(host))
        return refuse(host);
    tenants_tables(registry(host), fn, arg, ret_serial);
    return 0;
}

/* A refresh on its way: to the core lane, and back with the answer. */
struct refresh {
    struct lane_item item;
    struct instance *in;
    muster_tenant_found_fn fn;
    void *arg;
    int code;
    const struct muster_tenant *tenant;
    size_t len;
    char name[];
};

static void run_answer(struct lane_item *item)
{
    struct refresh *r = (struct refresh *)item;

    if (!r->in->ended) {
        instance_enter(r->in, "tenant", NULL);
        r->fn(r->arg, r->code, r->tenant);
        instance_leave(r->in);
    }
    free(r);
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    struct refresh *r = arg;

    r->code = code;
    r->tenant = tenant;
    r->item.run = r->item.drop = run_answer;
    lane_push(r->in->lane, &r->item);
}

static void run_question(struct lane_item *item)
{
    struct refresh *r = (struct refresh *)item;
    int err = tenants_refresh(broker_tenants(r->in->broker), r->name, r->len, on_found, r);

    if (err)
        on_found(r, err, NULL);
}

/* The core lane has ended; the plugin waits for an answer all the same. */
static void drop_question(struct lane_item *item)
{
    on_found(item, MUSTER_ELINK, NULL);
}

static int tenant_refresh(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    struct refresh *r;
    int err = MAY_BEGIN(instance_of(host));

    if (err)
        return err;
    if (!may(host))
        return refuse(host);
    if (!fn || len > NAME_MAX_LEN)
        return MUSTER_EINVAL;
    r = calloc(1, sizeof *r + len + 1);
    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct refresh){.item = {.run = run_question, .drop = drop_question}, .in = instance_of(host), .fn = fn, .arg = arg,
                          .len = len};
    memcpy(r->name, name, len);
    lane_push(broker_lane(r->in->broker), &r->item);
    return 0;
}

const struct muster_tenants host_tenants = {.size = sizeof host_tenants,
                                            .name = tenant_name,
                                            .limits = tenant_limits,
                                            .find = tenant_find,
                                            .each = tenant_each,
                                            .refresh = tenant_refresh,
                                            .tables = tenant_tables,
                                            .limit = tenant_limit};
