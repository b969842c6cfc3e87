/*
 * core/settings.h - a plugin's settings as a start, a reload, `musterd --check` and `muster doctor` judge them: held against its option
 * table, then shown to its check().
 */
#ifndef MUSTER_CORE_SETTINGS_H
#define MUSTER_CORE_SETTINGS_H

#include "config/config.h"

enum { SETTINGS_REASON_SIZE = 512 };

/* What check() may see of the instance that is to be. */
struct settings_host {
    const char *instance, *broker_id, *postgres_dsn, *root;
    uint32_t n_lanes;
};

/* The plugin's check(), where it has one; reason is "" where it gave none. Any thread on which nothing else of the plugin runs. */
int settings_check(const struct settings_host *as, const struct muster_plugin *plugin, const void *values, char reason[SETTINGS_REASON_SIZE]);
/* config_bind(), then the plugin's check(). Main thread, or the lane before it runs. */
int settings_bind(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, void *values,
                  struct config_error *err);

/* Settings in the hands of an instance: the values, and the configuration that they borrow from, which is held with them. */
struct plugin_settings {
    const struct config *config;
    const struct config_plugin *how;
    void *values; /* of plugin->config_size bytes */
};
/* settings_bind() to values of their own. MUSTER_ENOMEM: *err says so too. As settings_bind() else. */
int settings_new(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin,
                 struct plugin_settings *ret_settings, struct config_error *err);
void settings_done(struct plugin_settings *s); /* any thread; empty ones too */

#endif
