/* muster.sql/1: the SQL service of the instance's lane, made when its first statement is prepared. */
#include <stdlib.h>

#include "base/assert.h"
#include "core/instance.h"
#include "metrics/metrics.h"
#include "sql/sql.h"
#include "tenant/tenant.h"

enum { MAX_WAITING = 16384 };
static const size_t max_waiting_bytes = 32u << 20;

static void on_writable(void *arg)
{
    instance_has_room(arg);
}

/* The plugin is told by the lane, never inside exec(). */
static void on_pressure(void *arg, bool on)
{
    struct instance *in = arg;

    in->sql_pressed = on;
    instance_tell_pressure(in);
}

static int make_metrics(struct instance *in)
{
    const struct metric_spec refused = {.type = MUSTER_COUNTER,
                                        .name = "muster_sql_refused_total",
                                        .help = "Statements that were not taken because too many of the tenant, or of all, waited already.",
                                        .label = "tenant",
                                        .constants = {{"plugin", in->plugin->name}, {"instance", in->how->instance}}};

    return metrics_make(broker_metrics(in->broker), &refused, &in->sql_refused);
}

static int need_service(struct instance *in)
{
    const struct config *config = broker_config(in->broker);
    struct sql_options options = {.loop = lane_loop(in->lane),
                                  .dsn = config->postgres.dsn,
                                  .broker_id = broker_id(in->broker),
                                  .area = in->area,
                                  .pool = (unsigned int)config->postgres.pool,
                                  .max_items = MAX_WAITING,
                                  .max_bytes = max_waiting_bytes,
                                  .on_writable = on_writable,
                                  .on_pressure = on_pressure,
                                  .arg = in};
    int err;

    if (!config->postgres.dsn)
        return in->host.fail(&in->host, MUSTER_EINVAL, "postgres.dsn: missing; this plugin runs statements");
    err = make_metrics(in);
    return err ? err : sql_new(&options, &in->sql);
}

int host_sql_prepare(struct instance *in, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    int err = in->sql ? 0 : need_service(in);

    return err ? err : sql_prepare(in->sql, name, kind, statement, ret_stmt);
}

static int sql_prepare_for(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    struct instance *in = instance_of(host);

    return IN_CREATE(in) ? host_sql_prepare(in, name, kind, statement, ret_stmt) : MUSTER_EINVAL;
}

/* The plugin's function behind a bracket, so that a slow one is seen. */
struct call {
    struct instance *in;
    muster_sql_fn fn;
    void *arg;
};

static void on_result(void *arg, const struct muster_sql_result *result)
{
    struct call *call = arg;

    instance_enter(call->in, "sql result", NULL);
    call->fn(call->arg, result);
    instance_leave(call->in);
    free(call);
}

int host_sql_run(struct instance *in, const struct sql_call *asked)
{
    struct sql_call bracketed = *asked;
    struct call *call;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!asked->fn || !in->sql)
        return MUSTER_EINVAL;
    if (!asked->tenant && !instance_has_capability(in, "cross_tenant"))
        return in->host.fail(&in->host, MUSTER_EACCES, "a statement without a tenant needs the capability \"cross_tenant\"");
    call = malloc(sizeof *call);
    if (!call)
        return MUSTER_ENOMEM;
    *call = (struct call){in, asked->fn, asked->arg};
    bracketed.fn = on_result;
    bracketed.arg = call;
    err = sql_exec(in->sql, &bracketed);
    if (err == MUSTER_EAGAIN)
        metric_add(in->sql_refused, asked->tenant ? asked->tenant : "", 1);
    if (err)
        free(call);
    return err;
}

static int sql_exec_for(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                        uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    const struct sql_call call = {.stmt = stmt,
                                  .tenant = tenant ? tenants_name(tenant) : NULL,
                                  .order_key = order_key,
                                  .params = params,
                                  .n_params = n_params,
                                  .fn = fn,
                                  .arg = arg};

    return host_sql_run(instance_of(host), &call);
}

const struct muster_sql host_sql = {.size = sizeof host_sql, .prepare = sql_prepare_for, .exec = sql_exec_for};

void host_sql_done(struct instance *in)
{
    sql_free(in->sql);
    in->sql = NULL;
}
