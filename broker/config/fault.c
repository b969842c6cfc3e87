/*
 * Faults that others find in a configuration that is well-formed: a file that cannot be read, a plugin that is not there
 * or that refuses a setting; see config.h.
 *
 * They are told like those of the file itself, so that an operator need not know who found them.
 */
#include <stdio.h>
#include <string.h>

#include "config/host.h"

enum { TEXT_SIZE = 1024, PREFIX_SIZE = 80 }; /* a prefix is "plugins." and an instance */

/* A default has neither a place nor a variable: it is told by its path alone. */
int host_refuse(const struct config_scope *s, const char *path, const char *text)
{
    const struct config_node *node = node_find(s->tree->root, path);
    const char *variable = environment_of(s->tree, path);

    if (variable || !node)
        return config_refuse_who(s->err, variable ? variable : path, "%s", text);
    return config_refuse(s, node, "%s", text);
}

int config_fault(const struct config *config, const char *path, struct config_error *err, const char *fmt, ...)
{
    struct config_scope scope = {config->tree, NULL, "", err};
    char text[TEXT_SIZE];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return host_refuse(&scope, path, text);
}

/* In messages base is called plugins.<instance>, be it the entry or its settings. */
static struct config_scope scope_of(const struct config *config, const struct config_plugin *p, char prefix[PREFIX_SIZE],
                                    struct config_error *err)
{
    (void)snprintf(prefix, PREFIX_SIZE, "plugins.%s", p->instance);
    return (struct config_scope){config->tree, p->entry, prefix, err};
}

int config_fault_entry(const struct config *config, const struct config_plugin *p, const char *key, struct config_error *err,
                       const char *fmt, ...)
{
    const struct config_node *node = node_find(p->entry, key);
    char prefix[PREFIX_SIZE], text[TEXT_SIZE];
    struct config_scope scope = scope_of(config, p, prefix, err);
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return config_refuse(&scope, node ? node : p->entry, "%s", text);
}

/* What stands at path, whose keys may hold dots themselves ("tables.public.orders.tenant"). NULL: not in the file.
 * Recursion ends with CONFIG_MAX_DEPTH. */
static const struct config_node *find_setting(const struct config_node *map, const char *path)
{
    const struct config_node *found = NULL;

    for (const struct config_node *at = map->kind == CONFIG_MAP ? map->first : NULL; at && !found; at = at->next) {
        size_t len = strlen(at->key);

        if (strncmp(at->key, path, len) != 0)
            continue;
        if (path[len] == '\0')
            return at;
        if (path[len] == '.')
            found = find_setting(at, path + len + 1);
    }
    return found;
}

/* "slot" of "slot: too long"; false when the text does not begin with a key. */
static bool key_of(const char *text, char out[TEXT_SIZE])
{
    size_t len = strcspn(text, ": \n");

    if (len == 0 || len >= TEXT_SIZE || strncmp(text + len, ": ", 2) != 0)
        return false;
    memcpy(out, text, len);
    out[len] = '\0';
    return true;
}

int config_fault_setting(const struct config *config, const struct config_plugin *p, struct config_error *err, const char *text)
{
    char prefix[PREFIX_SIZE], key[TEXT_SIZE];
    struct config_scope scope = scope_of(config, p, prefix, err);
    const struct config_node *node = NULL;

    if (!key_of(text, key))
        return config_refuse(&scope, p->entry, "%s", text);
    if (p->config)
        node = find_setting(p->config, key);
    if (node)
        scope.base = p->config;
    else
        node = node_get(p->entry, key); /* "lanes" */
    if (!node)
        return config_refuse(&scope, p->entry, "%s", text);
    text += strlen(key) + 2;
    return node->kind == CONFIG_SCALAR ? config_refuse(&scope, node, "%s", text) : config_refuse_key(&scope, node, "%s", text);
}
