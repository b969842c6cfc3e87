/*
 * muster.tenant/1: handles of tenants, found but never made by a plugin.
 *
 * The registry follows the database on the core lane: a refresh goes there and its answer comes back to the plugin's lane.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/broker.h"
#include "core/dispatch.h"
#include "core/instance.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"
#include "wire/subject.h"

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

static int may_hear(struct credentials *c, const struct credential *credential, const struct instance *in, const struct muster_tenant *tenant,
                    const char *subject)
{
    const char *root = broker_root(in->broker), *name = tenants_name(tenant);
    char full[SUBJECT_MAX + 1];
    int n = snprintf(full, sizeof full, "%s.%s.%s", root, name, subject);

    if (n < 0 || n > SUBJECT_MAX)
        return MUSTER_EINVAL;
    if (credential_state(credential, clock_wall_ns()) != CREDENTIAL_LIVE)
        return MUSTER_EACCES;
    return credential_may_hear(c, credential, root, name, full) ? 0 : MUSTER_EACCES;
}

static int tenant_may_hear(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    struct credentials *c = dispatch_credentials(broker_dispatch(instance_of(host)->broker));
    struct text name = text_of(agent ? agent : "");
    struct credential *credential;
    int err;

    if (!tenant || !agent || !subject || !subject_is_pattern(subject, strlen(subject)))
        return host->fail(host, MUSTER_EINVAL, "may_hear(\"%s\", \"%s\"): expected a tenant, a name, and what follows R.T.", agent ? agent : "",
                          subject ? subject : "");
    if (subject_is_plugin(name))
        return 0; /* of this process, or let through to ask by what it declares */
    credential = credentials_find(c, subject_is_operator(name) ? NULL : tenant, name.s, name.len);
    err = credential ? may_hear(c, credential, instance_of(host), tenant, subject) : MUSTER_ENOTFOUND;
    credential_unref(credential);
    return err;
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
                                            .limit = tenant_limit,
                                            .may_hear = tenant_may_hear};
