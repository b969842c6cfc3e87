/*
 * doctor: the configuration, and whether every plugin loads and takes its part of it.
 *
 * What `musterd --check` checks, and by the same functions. Nothing of a plugin runs but its entry and its
 * check().
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/doctor.h"
#include "cli/options.h"
#include "cli/settings.h"
#include "core/check.h"
#include "core/loader.h"
#include "core/settings.h"

/* Remember an instance whose settings are good; takes values. */
static void add_cdc(struct doctor *d, const struct config_plugin *how,
                    const struct muster_plugin *plugin, void *values)
{
    struct doctor_cdc *more = realloc(d->cdc, (d->n_cdc + 1) * sizeof *more);
    struct doctor_cdc *c;

    if (!more) {
        free(values);
        return;
    }
    d->cdc = more;
    c = &more[d->n_cdc++];
    *c = (struct doctor_cdc){.how = how, .plugin = plugin, .values = values};
    c->slot = options_string(plugin, values, "slot");
    c->publication = options_string(plugin, values, "publication");
    c->tenant_column = options_string(plugin, values, "tenant_column");
    c->events = options_list(plugin, values, "messages").n > 0;
    if (!c->publication)
        c->publication = c->events
                             ? "muster_evt"
                             : "muster"; /* the plugin's default depends on the other option */
    if (c->events)
        (void)snprintf(c->stream, sizeof c->stream, "EVT");
    else
        (void)snprintf(c->stream, sizeof c->stream, "CDC_%s", how->instance);
}

/* A plugin may do without, and says so itself when it cannot. */
static void check_system(struct doctor *d, const char *what, const struct muster_plugin *plugin)
{
    const struct config *config = d->cli->config;

    if (loader_has_capability(plugin, "system") && !config->nats.system_creds &&
        !config->nats.system_user)
        doctor_say(d, DOCTOR_HINT, what, "system_missing",
                   "%s %s follows who connects, and no credentials of the system account are given: "
                   "set nats.system_creds (`muster nats-config` writes system.creds), or "
                   "nats.system_user and nats.system_password_file",
                   plugin->name, plugin->version);
}

static void check_callout(struct doctor *d, const char *what, const struct muster_plugin *plugin)
{
    const struct config *config = d->cli->config;

    if (loader_has_capability(plugin, "login") && !config->nats.callout_creds &&
        !config->nats.callout_user)
        doctor_say(d, DOCTOR_HINT, what, "callout_missing",
                   "%s %s accepts tokens, and no login of the callout's account is given: run `muster "
                   "nats-config --callout` and set what it prints (nats.callout_creds, "
                   "nats.callout_key_file)",
                   plugin->name, plugin->version);
}

/* The broker starts without a plugin that is not required, so that one is a hint. */
static void check_plugin(struct doctor *d, const struct config_plugin *how)
{
    int level = how->required ? DOCTOR_BROKEN : DOCTOR_HINT;
    const struct muster_plugin *plugin;
    char what[DOCTOR_WHAT_SIZE];
    struct config_error err;
    void *values;

    (void)snprintf(what, sizeof what, "plugin %s", how->instance);
    if (check_load(d->cli->config, how, &plugin, &err) != 0) {
        doctor_say(d, level, what, "plugin_not_loaded", "%s", err.text);
        return;
    }
    values = calloc(1, plugin->config_size + 1);
    if (!values || settings_bind(d->cli->config, how, plugin, values, &err) != 0) {
        doctor_say(d, level, what, "plugin_settings", "%s", values ? err.text : "no memory");
        free(values);
        return;
    }
    doctor_say(d, DOCTOR_OK, what, NULL, "%s %s", plugin->name, plugin->version);
    if (loader_has_capability(plugin, "sql"))
        d->n_connections += (long)how->lanes * d->cli->config->postgres.pool;
    check_system(d, what, plugin);
    check_callout(d, what, plugin);
    if (options_int(plugin, values, "replicas") > d->replicas) {
        d->replicas = options_int(plugin, values, "replicas");
        d->replicated_by = how->instance;
    }
    if (strcmp(plugin->name, "cdc") == 0)
        add_cdc(d, how, plugin, values);
    else
        free(values);
}

/* Keys may well be on another machine, or not be ours to read: then nothing can be said. */
static void check_keys(struct doctor *d)
{
    const struct config *config = d->cli->config;
    struct settings settings;
    struct file_error err;

    if (!config->nats.keys || !*config->nats.keys ||
        settings_read(config->nats.keys, &settings, &err) != 0)
        return;
    if (strcmp(settings.root, config->broker.root) != 0)
        doctor_say(d, DOCTOR_BROKEN, "nats keys", "root_differs",
                   "%s is made for the root token %s, the configuration says %s: set broker.root "
                   "(or MUSTER_ROOT) to %s, or name other keys",
                   config->nats.keys, settings.root, config->broker.root, settings.root);
    else
        doctor_say(d, DOCTOR_OK, "nats keys", NULL, "made for the root token %s", settings.root);
}

bool doctor_config(struct doctor *d)
{
    const struct config *config = d->cli->config;

    if (!config) {
        doctor_say(d, DOCTOR_BROKEN, "configuration", "configuration", "%s", d->cli->config_error);
        return false;
    }
    doctor_say(d, DOCTOR_OK, "configuration", NULL, "%s is valid",
               config->file ? config->file : "the environment");
    if (!config->n_plugins)
        doctor_say(
            d, DOCTOR_HINT, "plugins", NULL,
            "none is configured, so that a broker has nothing to do: add them under plugins:%s",
            config->file ? "" : " in a file and name it with -c or MUSTER_CONFIG");
    check_keys(d);
    for (size_t i = 0; i < config->n_plugins; i++)
        check_plugin(d, &config->plugins[i]);
    return true;
}
