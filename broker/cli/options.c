/*
 * Option tables read and shown; see options.h.
 *
 * A table may come from a plugin that was compiled against another header, so options are read
 * through config/options.h, by the table's own stride.
 */
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

#include "config/options.h"
#include "config/scalar.h"

static struct config_table table_of(const struct muster_plugin *plugin)
{
    return (struct config_table){plugin->options, plugin->n_options, plugin->option_size};
}

const char *options_fault(const struct muster_plugin *plugin)
{
    struct config_table table = table_of(plugin);
    const char *key;

    return table_fault(&table, plugin->config_size, &key);
}

/* ---- printing ---- */

/* The number in the unit of the type. */
static const char *put_bound(uint32_t type, int64_t value, char out[SCALAR_TEXT_SIZE])
{
    if (type == MUSTER_T_DURATION_NS)
        return scalar_put_duration(value, out);
    if (type == MUSTER_T_BYTES)
        return scalar_put_bytes(value, out);
    return scalar_put_int(value, out);
}

/* What config_bind() would refuse beyond; both 0: nothing is refused, and nothing is printed. */
static void print_range(struct buf *out, const struct muster_option *o)
{
    char min[SCALAR_TEXT_SIZE], max[SCALAR_TEXT_SIZE];
    const char *unit = o->type == MUSTER_T_STRING ? " bytes"
                       : o->type == MUSTER_T_LIST ? " items"
                                                  : "";

    if (!o->min && !o->max)
        return;
    if (o->max == INT64_MAX)
        buf_printf(out, "%s%s or more", put_bound(o->type, o->min, min), unit);
    else
        buf_printf(out, "%s to %s%s", put_bound(o->type, o->min, min),
                   put_bound(o->type, o->max, max), unit);
}

static const char *type_word(uint32_t type)
{
    static const char *const words[] = {
        [MUSTER_T_BOOL] = "bool",
        [MUSTER_T_INT] = "int",
        [MUSTER_T_FLOAT] = "float",
        [MUSTER_T_ENUM] = "choice",
        [MUSTER_T_DURATION_NS] = "duration",
        [MUSTER_T_BYTES] = "size",
        [MUSTER_T_STRING] = "text",
        [MUSTER_T_LIST] = "list",
        [MUSTER_T_MAP] = "map",
    };

    return words[type];
}

/* Two lines: the facts in columns, the help below them, because it is a sentence. */
static void print_option(struct buf *out, const char *prefix, const struct muster_option *o)
{
    char name[CONFIG_MAX_KEY * 2 + 8];
    struct buf range = {0};

    (void)snprintf(name, sizeof name, "%s%s", prefix, o->key);
    if (o->type == MUSTER_T_ENUM)
        buf_puts(&range, o->choices);
    else
        print_range(&range, o);
    buf_printf(out, "%-26s %-9s %-10s %s%s%s%s\n", name, type_word(o->type),
               o->flags & MUSTER_O_REQUIRED ? "required"
               : o->def                     ? o->def
                                            : "-",
               range.data ? range.data : "", o->flags & MUSTER_O_SECRET ? " (secret)" : "",
               o->flags & MUSTER_O_UNIQUE ? " (another in each instance)" : "",
               o->flags & MUSTER_O_ONCE ? " (in one instance)" : "");
    if (o->help)
        buf_printf(out, "    %s\n", o->help);
    buf_done(&range);
}

/* The options of a map's entries follow the map, behind its key and a star for the entry's name. */
static void print_table(struct buf *out, const struct config_table *t, const char *prefix)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);
        struct config_table fields = table_fields(t, &o);
        char inner[CONFIG_MAX_KEY * 2];

        print_option(out, prefix, &o);
        if (o.type != MUSTER_T_MAP)
            continue;
        (void)snprintf(inner, sizeof inner, "%s%s.*.", prefix,
                       o.key); /* cut where maps are nested beyond all sense */
        print_table(out, &fields, inner);
    }
}

void options_print(const struct muster_plugin *plugin, struct buf *out)
{
    struct config_table table = table_of(plugin);

    if (!table.n) {
        buf_put_lit(out, "it takes no options\n");
        return;
    }
    buf_printf(out, "%-26s %-9s %-10s %s\n", "OPTION", "TYPE", "DEFAULT", "BOUNDS");
    print_table(out, &table, "");
}

/* ---- values ---- */

/* Where the option's value is in values; NULL when there is no option of that key and type. */
static const void *find_value(const struct config_table *t, const void *values, const char *key,
                              struct muster_option *ret_option)
{
    for (uint32_t i = 0; i < t->n; i++) {
        *ret_option = table_at(t, i);
        if (strcmp(ret_option->key, key) == 0)
            return (const char *)values + ret_option->offset;
    }
    return NULL;
}

/* The type is checked: what has this key in a later version of the plugin may be something else. */
static const char *string_in(const struct config_table *t, const void *values, const char *key)
{
    struct muster_option o;
    const void *value = find_value(t, values, key, &o);

    return value && o.type == MUSTER_T_STRING ? *(const char *const *)value : NULL;
}

const char *options_string(const struct muster_plugin *plugin, const void *values, const char *key)
{
    struct config_table table = table_of(plugin);

    return string_in(&table, values, key);
}

struct muster_list options_list(const struct muster_plugin *plugin, const void *values,
                                const char *key)
{
    struct config_table table = table_of(plugin);
    struct muster_option o;
    const void *value = find_value(&table, values, key, &o);

    return value && o.type == MUSTER_T_LIST ? *(const struct muster_list *)value
                                            : (struct muster_list){0};
}

int64_t options_int(const struct muster_plugin *plugin, const void *values, const char *key)
{
    struct config_table table = table_of(plugin);
    struct muster_option o;
    const void *value = find_value(&table, values, key, &o);

    return value && o.type == MUSTER_T_INT ? *(const int64_t *)value : 0;
}

/* path: the map option, the entry's key, the field. */
const char *options_entry(const struct muster_plugin *plugin, const void *values,
                          const char *const path[3])
{
    struct config_table table = table_of(plugin);
    struct muster_option o;
    const struct muster_map *map = find_value(&table, values, path[0], &o);

    if (!map || o.type != MUSTER_T_MAP)
        return NULL;
    struct config_table fields = table_fields(&table, &o);
    for (size_t i = 0; i < map->n; i++)
        if (strcmp(map->keys[i], path[1]) == 0)
            return string_in(&fields, (const char *)map->entries + i * o.entry_size, path[2]);
    return NULL;
}
