/*
 * Settings of a plugin; see settings.h.
 *
 * check() gets a host of its own: there is no instance yet, and with --check there never will be. It can give a reason and
 * nothing else.
 */
#include "core/settings.h"

#include <stdio.h>
#include <string.h>
#include <stdlib.h>

#include "base/log.h"
#include "core/described.h"
#include "core/loader.h"

struct check_host {
    struct muster_host host;
    char reason[SETTINGS_REASON_SIZE];
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

static struct check_host host_for_check(const struct settings_host *as, const struct muster_plugin *plugin)
{
    return (struct check_host){.host = {.size = sizeof(struct muster_host),
                                        .abi_major = MUSTER_ABI_MAJOR,
                                        .abi_minor = MUSTER_ABI_MINOR,
                                        .log = check_log,
                                        .fail = check_fail,
                                        .post = check_post,
                                        .service = check_service,
                                        .health = check_health,
                                        .plugin = plugin->name,
                                        .instance = as->instance,
                                        .n_lanes = as->n_lanes,
                                        .broker_id = as->broker_id,
                                        .postgres_dsn = loader_has_capability(plugin, "postgres") ? as->postgres_dsn : NULL,
                                        .root = as->root}};
}

int settings_check(const struct settings_host *as, const struct muster_plugin *plugin, const void *values, char reason[SETTINGS_REASON_SIZE])
{
    struct check_host c = host_for_check(as, plugin);
    int code = 0;

    c.host.impl = &c;
    if (MUSTER_HAS(plugin, check) && plugin->check)
        code = plugin->check(&c.host, values);
    memcpy(reason, c.reason, sizeof c.reason);
    return code;
}

static int tell_refusal(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, int code,
                        const char *reason, struct config_error *err)
{
    if (reason[0])
        (void)config_fault_setting(config, how, err, reason); /* the plugin's code says what kind it is */
    else
        (void)config_fault_entry(config, how, "config", err, "plugin %s %s refuses its settings (%d): it gave no reason", plugin->name,
                                 plugin->version, code);
    return code;
}

static int check_in_child(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin,
                          const void *values, struct config_error *err)
{
    char why[LOADER_WHY_SIZE];
    bool asked;
    int code = described_check(config, how, plugin, values, &asked, why);

    if (code && asked)
        return tell_refusal(config, how, plugin, code, why, err);
    if (code)
        (void)config_fault_entry(config, how, how->path ? "path" : "name", err, "%s", why);
    return code;
}

int settings_bind(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, void *values,
                  struct config_error *err)
{
    const struct settings_host as = {how->instance, config->broker.id, config->postgres.dsn, config->broker.root, (uint32_t)how->lanes};
    char reason[SETTINGS_REASON_SIZE];
    int code = config_bind(config, how, plugin, values, err);

    if (code)
        return code;
    if (how->isolation == CONFIG_ISOLATION_PROCESS)
        return check_in_child(config, how, plugin, values, err);
    code = settings_check(&as, plugin, values, reason);
    return code ? tell_refusal(config, how, plugin, code, reason, err) : 0;
}

int settings_new(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin,
                 struct plugin_settings *ret_settings, struct config_error *err)
{
    struct plugin_settings s = {config, how, calloc(1, plugin->config_size + 1)};
    int code;

    if (!s.values) {
        (void)config_fault_entry(config, how, "config", err, "no memory");
        return MUSTER_ENOMEM;
    }
    code = settings_bind(config, how, plugin, s.values, err);
    if (code) {
        free(s.values);
        return code;
    }
    config_ref(config);
    *ret_settings = s;
    return 0;
}

void settings_done(struct plugin_settings *s)
{
    free(s->values);
    config_free(s->config);
    *s = (struct plugin_settings){0};
}
