/* The core table of struct muster_host: log, fail, post, service, health. Any thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "core/health.h"
#include "core/host.h"
#include "core/host_roster.h"
#include "core/instance.h"
#include "wire/codec.h"

enum { MAX_POSTED = 65536 };

void host_log(const struct muster_host *host, int level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    log_vline(level < LOG_ERROR ? LOG_ERROR : level > LOG_DEBUG ? LOG_DEBUG : level, instance_of(host)->area, fmt, ap);
    va_end(ap);
}

int host_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    struct instance *in = instance_of(host);
    va_list ap;

    va_start(ap, fmt);
    pthread_mutex_lock(&in->lock);
    (void)vsnprintf(in->reason, sizeof in->reason, fmt, ap);
    pthread_mutex_unlock(&in->lock);
    va_end(ap);
    return code;
}

struct post {
    struct lane_item item;
    struct instance *in;
    void (*fn)(void *arg);
    void *arg;
};

static void run_post(struct lane_item *item)
{
    struct post *p = (struct post *)item;

    atomic_fetch_sub(&p->in->n_posted, 1);
    if (!p->in->ended) {
        instance_enter(p->in, "post", NULL);
        p->fn(p->arg);
        instance_leave(p->in);
    }
    free(p);
}

static void drop_post(struct lane_item *item)
{
    free(item);
}

int host_post(const struct muster_host *host, void (*fn)(void *arg), void *arg)
{
    struct instance *in = instance_of(host);
    struct post *p;

    if (!fn)
        return MUSTER_EINVAL;
    if (atomic_fetch_add(&in->n_posted, 1) >= MAX_POSTED) {
        atomic_fetch_sub(&in->n_posted, 1);
        return MUSTER_EAGAIN;
    }
    p = malloc(sizeof *p);
    if (!p) {
        atomic_fetch_sub(&in->n_posted, 1);
        return MUSTER_ENOMEM;
    }
    *p = (struct post){.item = {.run = run_post, .drop = drop_post}, .in = in, .fn = fn, .arg = arg};
    lane_push(in->lane, &p->item);
    return 0;
}

static const struct host_service services[] = {
    {MUSTER_BUS, &host_bus, NULL},         {MUSTER_STREAM, &host_stream, "stream"}, {MUSTER_KV, &host_kv, NULL},
    {MUSTER_TIMER, &host_timer, NULL},     {MUSTER_IO, &host_io, NULL},             {MUSTER_TENANT, &host_tenants, NULL},
    {MUSTER_CONFIG, &host_config, NULL},   {MUSTER_METRICS, &host_metrics, NULL},   {MUSTER_SQL, &host_sql, "sql"},
    {MUSTER_LEASE, &host_lease, NULL},
    {MUSTER_SYS, &host_sys, "system"},
    {MUSTER_LOGIN, &host_logins, "login"},
    {MUSTER_ROSTER, &host_roster, NULL},
};

/* What a service needs of the broker beside itself. */
static int want(struct instance *in, const void *table, char why[BUS_WHY_SIZE])
{
    char keeper[NAME_TOKEN_SIZE];
    uint64_t stmt;
    int err;

    if (table == &host_roster && instance_has_capability(in, ROSTER_KEEPER) && !host_roster_keep(broker_roster(in->broker), in->plugin->name, keeper)) {
        (void)snprintf(why, BUS_WHY_SIZE, "the roster is kept by plugin %.64s: one plugin in a broker may have the capability \"presence\"", keeper);
        return MUSTER_EEXIST;
    }
    if (table == &host_sys)
        return broker_want_system(in->broker, why);
    if (table != &host_logins)
        return 0;
    err = broker_want_logins(in->broker, why);
    if (err)
        return err;
    (void)snprintf(why, BUS_WHY_SIZE, "service " MUSTER_LOGIN " needs postgres.dsn: logins are held against muster.credentials");
    return host_login_prepare(in, &stmt);
}

int host_find_service(const struct muster_host *host, const struct host_service *list, size_t n, const char *id, const void **ret_table)
{
    const struct instance *in = instance_of(host);
    char why[BUS_WHY_SIZE];
    int err;

    if (!IN_CREATE(in))
        return MUSTER_EINVAL;
    if (strcmp(id, MUSTER_CODEC) == 0) {
        *ret_table = codec_table();
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].id, id) != 0)
            continue;
        if (list[i].capability && !instance_has_capability(in, list[i].capability))
            return host_fail(host, MUSTER_EACCES, "service %s needs the capability \"%s\" in the plugin's descriptor", id,
                             list[i].capability);
        err = want(instance_of(host), list[i].table, why);
        if (err)
            return host_fail(host, err, "%s", why);
        *ret_table = list[i].table;
        return 0;
    }
    return host_fail(host, MUSTER_EABI, "this broker (ABI %d.%d) has no service %s", MUSTER_ABI_MAJOR, MUSTER_ABI_MINOR, id);
}

static int host_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    return host_find_service(host, services, sizeof services / sizeof *services, id, ret_table);
}

static void host_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    va_list ap;

    if (state < MUSTER_HEALTH_OK || state > MUSTER_HEALTH_DOWN) {
        host_log(host, MUSTER_LOG_ERROR, "health state %d: expected one of MUSTER_HEALTH_*", state);
        return;
    }
    va_start(ap, fmt);
    health_vset(instance_of(host)->health, state, code, fmt, ap);
    va_end(ap);
}

void host_init(struct instance *in, uint32_t lane, uint32_t n_lanes)
{
    const struct config *config = broker_config(in->broker);

    in->host = (struct muster_host){
        .size = sizeof in->host,
        .abi_major = MUSTER_ABI_MAJOR,
        .abi_minor = MUSTER_ABI_MINOR,
        .impl = in,
        .log = host_log,
        .fail = host_fail,
        .post = host_post,
        .service = host_service,
        .health = host_health,
        .plugin = in->plugin->name,
        .instance = in->how->instance,
        .lane = lane,
        .n_lanes = n_lanes,
        .broker_id = broker_id(in->broker),
        .postgres_dsn = instance_has_capability(in, "postgres") ? config->postgres.dsn : NULL,
        .root = broker_root(in->broker),
    };
}
