/*
 * Settings of a plugin; see settings.h.
 *
 * check() gets a host of its own: there is no instance yet, and with --check there never will be. It can give a reason and
 * nothing else.
 */
#include "core/settings.h"

#include <stdio.h>

#include "base/log.h"
#include "core/loader.h"

struct check_host {
    struct muster_host host;
    char reason[512];
};

static void check_log(const struct muster_host *host, int level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    log_vline(level < LOG_ERROR ? LOG_ERROR : level > LOG_DEBUG ? LOG_DEBUG : level, host->instance, fmt, ap);
    va_end(ap);
}

static int check_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    struct check_host *c = host->impl;
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(c->reason, sizeof c->reason, fmt, ap);
    va_end(ap);
    return code;
}

static int check_post(const struct muster_host *host, void (*fn)(void *arg), void *arg)
{
    (void)fn; /* there is no lane to run it on */
    (void)arg;
    return check_fail(host, MUSTER_EINVAL, "post() was called in check()");
}

static int check_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    (void)ret_table; /* written on success only */
    return check_fail(host, MUSTER_EABI, "service %.64s was asked for in check(), which has none", id);
}

static void check_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    (void)host; /* nobody shows what does not run */
    (void)state;
    (void)code;
    (void)fmt;
}

static void host_for_check(struct check_host *c, const struct config *config, const struct config_plugin *how,
                           const struct muster_plugin *plugin)
{
    *c = (struct check_host){.host = {.size = sizeof c->host,
                                      .abi_major = MUSTER_ABI_MAJOR,
                                      .abi_minor = MUSTER_ABI_MINOR,
                                      .impl = c,
                                      .log = check_log,
                                      .fail = check_fail,
                                      .post = check_post,
                                      .service = check_service,
                                      .health = check_health,
                                      .plugin = plugin->name,
                                      .instance = how->instance,
                                      .n_lanes = (uint32_t)how->lanes,
                                      .broker_id = config->broker.id,
                                      .postgres_dsn = loader_has_capability(plugin, "postgres") ? config->postgres.dsn : NULL}};
}

int settings_bind(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, void *values,
                  struct config_error *err)
{
    struct check_host c;
    int code = config_bind(config, how, plugin, values, err);

    if (code || !MUSTER_HAS(plugin, check) || !plugin->check)
        return code;
    host_for_check(&c, config, how, plugin);
    code = plugin->check(&c.host, values);
    if (!code)
        return 0;
    if (c.reason[0])
        (void)config_fault_setting(config, how, err, c.reason); /* the plugin's code says what kind it is */
    else
        (void)config_fault_entry(config, how, "config", err, "plugin %s %s refuses its settings (%d): it gave no reason", plugin->name,
                                 plugin->version, code);
    return code;
}
