/*
 * A plugin's own settings: bound to its option table, and found again in the file; see config.h.
 *
 * In messages they are called plugins.<instance>.<key>, which says more than plugins[2].config.<key>.
 */
#include <stdio.h>
#include <string.h>

#include "config/options.h"

enum { PREFIX_SIZE = 80 }; /* "plugins." and an instance */

/* Not the operator's mistake, so it names no line of the file. */
static int refuse_table(const struct config_plugin *p, const char *key, const char *fault,
                        struct config_error *err)
{
    char who[PREFIX_SIZE];

    snprintf(who, sizeof who, "plugins.%s", p->instance);
    return config_refuse_who(err, who, "the plugin's option table is wrong at %s: %s", key, fault);
}

/* Without a map the defaults are bound, and what is missing is told at the plugin's entry. */
int config_bind(const struct config *config, const struct config_plugin *p,
                const struct muster_plugin *plugin, void *out, struct config_error *err)
{
    struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};
    struct config_node none = {
        .plain = true, .text = "", .line = p->entry->line, .column = p->entry->column};
    const struct config_node *map = p->config ? p->config : &none;
    char prefix[PREFIX_SIZE];
    struct config_scope scope = {config->tree, map, prefix, err};
    const char *key, *fault = table_fault(&table, plugin->config_size, &key);
    int failed;

    if (fault)
        return refuse_table(p, key, fault, err);
    snprintf(prefix, sizeof prefix, "plugins.%s", p->instance);
    failed = config_bind_table(&scope, &table, map, out);
    if (!failed)
        config->plugins[p - config->plugins].plugin = plugin;
    return failed;
}

bool config_position(const struct config *config, const struct config_plugin *p, const char *key,
                     char out[256])
{
    const struct config_node *node = p->config ? node_find(p->config, key) : NULL;
    int len;

    if (!node)
        return false;
    len = snprintf(out, 256, "%s:%u:%u", config->file, node->key_line, node->key_column);
    return len > 0 && len < 256;
}
