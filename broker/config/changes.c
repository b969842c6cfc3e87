/*
 * What differs between two configurations, setting by setting; see config_changes() and config_setting_changes() in config.h.
 *
 * Values are compared as they were bound and shown as they are printed, so that a secret that changed is named and
 * not told.
 */
#include <stdlib.h>
#include <string.h>

#include "config/host.h"

struct walk {
    const struct config *now, *next;
    config_change_fn fn;
    void *arg;
    struct buf path; /* of what is compared */
    bool reloadable; /* what is compared */
};

/* The same struct of values from both sides. */
struct sides {
    const void *now, *next;
};

static void compare_table(struct walk *w, const struct config_table *t, struct sides values);

/* Go on below key; the result is for leave(). */
static size_t enter(struct walk *w, const char *key)
{
    size_t mark = w->path.len;

    buf_printf(&w->path, "%s%s", mark ? "." : "", key);
    return mark;
}

static void leave(struct walk *w, size_t mark)
{
    w->path.len = mark;
    if (w->path.data)
        w->path.data[mark] = '\0';
}

static void tell(struct walk *w, const char *text)
{
    struct config_change change = {.path = w->path.data ? w->path.data : "", .text = text, .reloadable = w->reloadable};

    w->fn(w->arg, &change);
}

static void tell_below(struct walk *w, const char *key, const char *change)
{
    size_t mark = enter(w, key);

    tell(w, change);
    leave(w, mark);
}

/* ---- values ---- */

static bool is_same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool is_same_list(const struct muster_list *a, const struct muster_list *b)
{
    bool same = a->n == b->n;

    for (size_t i = 0; i < a->n && same; i++)
        same = strcmp(a->items[i], b->items[i]) == 0;
    return same;
}

static bool is_same(uint32_t type, struct sides at)
{
    switch (type) {
    case MUSTER_T_BOOL:
    case MUSTER_T_ENUM:
        return *(const int32_t *)at.now == *(const int32_t *)at.next;
    case MUSTER_T_STRING:
        return is_same_text(*(const char *const *)at.now, *(const char *const *)at.next);
    case MUSTER_T_LIST:
        return is_same_list(at.now, at.next);
    case MUSTER_T_FLOAT:
        return *(const double *)at.now == *(const double *)at.next;
    default:
        return *(const int64_t *)at.now == *(const int64_t *)at.next;
    }
}

/* What looks the same and is not differs in what is hidden. */
static void tell_value(struct walk *w, const struct muster_option *o, struct sides at)
{
    struct buf change = {0}, next = {0};

    print_setting(o, at.now, &change);
    print_setting(o, at.next, &next);
    if (change.data && next.data && strcmp(change.data, next.data) != 0)
        buf_printf(&change, " -> %s%s", next.data, o->def && strcmp(next.data, o->def) == 0 ? " (the default)" : "");
    else
        buf_clear(&change);
    tell(w, change.len ? change.data : "changed");
    buf_done(&change);
    buf_done(&next);
}

/* ---- maps, and the entries of plugins ---- */

static const void *entry_of(const struct muster_map *map, size_t entry_size, const char *key)
{
    for (size_t i = 0; i < map->n; i++)
        if (strcmp(map->keys[i], key) == 0)
            return (const char *)map->entries + i * entry_size;
    return NULL;
}

static void compare_entry(struct walk *w, const struct config_table *fields, const char *key, struct sides entry)
{
    size_t mark = enter(w, key);

    if (!entry.now || !entry.next)
        tell(w, entry.next ? "added" : "removed");
    else
        compare_table(w, fields, entry);
    leave(w, mark);
}

static void compare_map(struct walk *w, const struct config_table *t, const struct muster_option *o, struct sides at)
{
    const struct muster_map *now = at.now, *next = at.next;
    struct config_table fields = table_fields(t, o);

    for (size_t i = 0; i < next->n; i++)
        compare_entry(w, &fields, next->keys[i],
                      (struct sides){entry_of(now, o->entry_size, next->keys[i]),
                                     (const char *)next->entries + i * o->entry_size});
    for (size_t i = 0; i < now->n; i++)
        if (!entry_of(next, o->entry_size, now->keys[i]))
            tell_below(w, now->keys[i], "removed");
}

static void *bind(const struct config_settings *s)
{
    void *values = calloc(1, s->plugin->plugin->config_size + 1);
    struct config_error err;

    if (!values || config_bind(s->config, s->plugin, s->plugin->plugin, values, &err) == 0)
        return values;
    free(values);
    return NULL;
}

int config_setting_changes(const struct config_settings *now, const struct config_settings *next, config_change_fn fn, void *arg)
{
    const struct muster_plugin *plugin = next->plugin->plugin;
    struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};
    struct walk w = {.now = now->config, .next = next->config, .fn = fn, .arg = arg};
    void *bound[2] = {now->values ? NULL : bind(now), next->values ? NULL : bind(next)};
    struct sides at = {now->values ? now->values : bound[0], next->values ? next->values : bound[1]};

    buf_printf(&w.path, "plugins.%s", next->plugin->instance);
    if (at.now && at.next)
        compare_table(&w, &table, at);
    buf_done(&w.path);
    free(bound[0]);
    free(bound[1]);
    return at.now && at.next ? 0 : MUSTER_ENOMEM;
}

static size_t find_instance(const struct config *config, const char *instance)
{
    size_t i = 0;

    while (i < config->n_plugins && strcmp(config->plugins[i].instance, instance) != 0)
        i++;
    return i;
}

/* By their names, which are those of messages: the order of the list means nothing. */
static void compare_plugins(struct walk *w, const struct config_table *fields)
{
    const struct host_plugin *now = w->now->tree->host->plugins.entries, *next = w->next->tree->host->plugins.entries;
    size_t mark = enter(w, "plugins");

    for (size_t i = 0; i < w->next->n_plugins; i++) {
        size_t j = find_instance(w->now, next[i].instance);
        bool known = j < w->now->n_plugins;

        compare_entry(w, fields, next[i].instance, (struct sides){known ? &now[j] : NULL, &next[i]});
    }
    for (size_t j = 0; j < w->now->n_plugins; j++)
        if (find_instance(w->next, now[j].instance) == w->next->n_plugins)
            tell_below(w, now[j].instance, "removed");
    leave(w, mark);
}

/* ---- tables ---- */

/* What no two instances may have alike is not taken over by one alone: the other may have kept what it had. */
static bool is_reloadable(const struct muster_option *o)
{
    return (o->flags & MUSTER_O_RELOADABLE) && !(o->flags & (MUSTER_O_UNIQUE | MUSTER_O_ONCE));
}

static void compare_option(struct walk *w, const struct config_table *t, const struct muster_option *o, struct sides at)
{
    struct config_table fields = table_fields(t, o);
    bool outer = w->reloadable;
    size_t mark;

    if (o->type == CONFIG_T_ENTRIES) {
        compare_plugins(w, &fields);
        return;
    }
    if (o->type == CONFIG_T_NODE)
        return; /* config_setting_changes() */
    w->reloadable = outer || is_reloadable(o);
    mark = enter(w, o->key);
    if (o->type == MUSTER_T_MAP)
        compare_map(w, t, o, at);
    else if (!is_same(o->type, at))
        tell_value(w, o, at);
    leave(w, mark);
    w->reloadable = outer;
}

static void compare_table(struct walk *w, const struct config_table *t, struct sides values)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);

        compare_option(w, t, &o,
                       (struct sides){(const char *)values.now + o.offset, (const char *)values.next + o.offset});
    }
}

void config_changes(const struct config *now, const struct config *next, config_change_fn fn, void *arg)
{
    struct config_table table = config_host_table();
    struct walk w = {.now = now, .next = next, .fn = fn, .arg = arg};

    compare_table(&w, &table, (struct sides){now->tree->host, next->tree->host});
    buf_done(&w.path);
}
