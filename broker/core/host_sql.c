/* muster.sql/1: the SQL service of the instance's lane, made when its first statement is prepared. */
#include <stdlib.h>

#include "base/assert.h"
#include "core/instance.h"
#include "sql/sql.h"
#include "tenant/tenant.h"

enum { MAX_WAITING = 16384 };
static const size_t max_waiting_bytes = 32u << 20;

static void on_writable(void *arg)
{
    struct instance *in = arg;

    atomic_store(&in->wants_writable, true);
    instance_tell_writable(in);
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
                                  .arg = in};

    if (in->sql)
        return 0;
    if (!config->postgres.dsn)
        return in->host.fail(&in->host, MUSTER_EINVAL, "postgres.dsn: missing; this plugin runs statements");
    return sql_new(&options, &in->sql);
}

static int sql_prepare_for(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    struct instance *in = instance_of(host);
    int err = need_service(in);

    return err ? err : sql_prepare(in->sql, name, kind, statement, ret_stmt);
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

static int sql_exec_for(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                        uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct call *call;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !in->sql)
        return MUSTER_EINVAL;
    if (!tenant && !instance_has_capability(in, "cross_tenant"))
        return host->fail(host, MUSTER_EACCES, "a statement without a tenant needs the capability \"cross_tenant\"");
    call = malloc(sizeof *call);
    if (!call)
        return MUSTER_ENOMEM;
    *call = (struct call){in, fn, arg};
    err = sql_exec(in->sql, &(struct sql_call){.stmt = stmt,
                                               .tenant = tenant ? tenants_name(tenant) : NULL,
                                               .order_key = order_key,
                                               .params = params,
                                               .n_params = n_params,
                                               .fn = on_result,
                                               .arg = call});
    if (err)
        free(call);
    return err;
}

const struct muster_sql host_sql = {.size = sizeof host_sql, .prepare = sql_prepare_for, .exec = sql_exec_for};

void host_sql_done(struct instance *in)
{
    sql_free(in->sql);
    in->sql = NULL;
}
