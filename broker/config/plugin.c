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

/* Where the instance gives the option; NULL when it does not, and nothing or an empty list is not given either. */
static const struct config_node *given(const struct config_plugin *p, const struct muster_option *o)
{
    const struct config_node *node = p->config ? node_find(p->config, o->key) : NULL;
    bool empty = !node || node_is_null(node) || (node->kind != CONFIG_SCALAR && node->n == 0);

    return empty ? NULL : node;
}

/* Both were bound, so that a value is text or the default. */
static int check_unique(const struct config_scope *s, const struct muster_option *o, const struct config_plugin *p,
                        const struct config_plugin *other)
{
    const struct config_node *ours = given(p, o), *theirs = given(other, o);
    const char *value = ours ? ours->text : o->def, *taken = theirs ? theirs->text : o->def;
    char shown[CONFIG_SHOW_SIZE];

    if (!value || !taken || strcmp(value, taken) != 0)
        return 0;
    if (ours)
        return config_refuse(s, ours, "expected a value of its own, got %s, which instance %s has too",
                             config_show(ours, o->flags & MUSTER_O_SECRET, shown), other->instance);
    return config_refuse_missing(s, s->base, o->key, "is missing; its default %s is what instance %s has too",
                                 config_show_text(o->def, shown), other->instance);
}

static int check_once(const struct config_scope *s, const struct muster_option *o, const struct config_plugin *p,
                      const struct config_plugin *other)
{
    const struct config_node *ours = given(p, o);

    if (!ours || !given(other, o))
        return 0;
    return config_refuse(s, ours, "instance %s sets it already; only one instance of %s can", other->instance,
                         other->plugin->name);
}

static int check_beside(const struct config_scope *s, const struct config_table *t, const struct config_plugin *p,
                        const struct config_plugin *other)
{
    int err = 0;

    for (uint32_t i = 0; i < t->n && !err; i++) {
        struct muster_option o = table_at(t, i);

        if (o.flags & MUSTER_O_UNIQUE)
            err = check_unique(s, &o, p, other);
        if (!err && (o.flags & MUSTER_O_ONCE))
            err = check_once(s, &o, p, other);
    }
    return err;
}

/* Against the instances of the same plugin before it, of which those count that were bound themselves. */
static int check_siblings(const struct config_scope *s, const struct config *config, const struct config_plugin *p,
                          const struct muster_plugin *plugin)
{
    struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};
    int err = 0;

    for (const struct config_plugin *other = config->plugins; other < p && !err; other++)
        if (other->plugin && strcmp(other->plugin->name, plugin->name) == 0)
            err = check_beside(s, &table, p, other);
    return err;
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
        failed = check_siblings(&scope, config, p, plugin);
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

struct positions {
    const char *file;
    config_position_fn fn;
    void *arg;
};

/* Keys with dots of their own are paths too: that is how config_position() finds them. */
static void tell_positions(const struct positions *to, const struct config_node *map, const char *prefix)
{
    for (const struct config_node *at = map->first; at && map->kind == CONFIG_MAP; at = at->next) {
        char key[512], position[256];
        int key_len = snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "." : "", at->key);
        int len = snprintf(position, sizeof position, "%s:%u:%u", to->file, at->key_line, at->key_column);

        if (key_len < (int)sizeof key && len < (int)sizeof position) {
            to->fn(to->arg, key, position);
            tell_positions(to, at, key);
        }
    }
}

void config_positions(const struct config *config, const struct config_plugin *p, config_position_fn fn, void *arg)
{
    const struct positions to = {config->file, fn, arg};

    if (p->config)
        tell_positions(&to, p->config, "");
}
