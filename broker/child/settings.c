/* The values of a plugin's settings over the pipe: in the order of the option table, which both ends have; see describe.h. */
#include <string.h>

#include "child/describe.h"
#include "config/options.h"

static void put_table(struct frame *f, const struct config_table *t, const void *values);

static void put_map(struct frame *f, const struct config_table *t, const struct muster_option *o, const struct muster_map *map)
{
    struct config_table fields = table_fields(t, o);

    frame_put_u32(f, (uint32_t)map->n);
    for (size_t i = 0; i < map->n; i++) {
        frame_put_str(f, map->keys[i]);
        put_table(f, &fields, (const char *)map->entries + i * o->entry_size);
    }
}

static void put_list(struct frame *f, const struct muster_list *list)
{
    frame_put_u32(f, (uint32_t)list->n);
    for (size_t i = 0; i < list->n; i++)
        frame_put_str(f, list->items[i]);
}

static void put_value(struct frame *f, const struct config_table *t, const struct muster_option *o, const void *at)
{
    switch (o->type) {
    case MUSTER_T_BOOL:
    case MUSTER_T_ENUM:
        frame_put_i32(f, *(const int32_t *)at);
        break;
    case MUSTER_T_FLOAT:
        frame_put_f64(f, *(const double *)at);
        break;
    case MUSTER_T_STRING:
        frame_put_str(f, *(const char *const *)at);
        break;
    case MUSTER_T_LIST:
        put_list(f, at);
        break;
    case MUSTER_T_MAP:
        put_map(f, t, o, at);
        break;
    default:
        frame_put_i64(f, *(const int64_t *)at);
    }
}

static void put_table(struct frame *f, const struct config_table *t, const void *values)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);

        put_value(f, t, &o, (const char *)values + o.offset);
    }
}

void settings_put(struct frame *f, const struct muster_plugin *plugin, const void *values)
{
    const struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};

    put_table(f, &table, values);
}

/* ---- hearing -------------------------------------------------------------------------------------------------------------------- */

static int get_table(struct frame_reader *r, const struct config_table *t, void *values, struct arena *memory);

static int get_text(struct frame_reader *r, const char **out, struct arena *memory)
{
    const char *s = frame_get_str(r);

    *out = arena_strdup(memory, s);
    return s && !*out ? MUSTER_ENOMEM : 0;
}

static int get_list(struct frame_reader *r, struct muster_list *out, struct arena *memory)
{
    uint32_t n = frame_get_count(r, sizeof(uint32_t) + 1);
    const char **items = arena_alloc(memory, n, sizeof *items);
    int err = items ? 0 : MUSTER_ENOMEM;

    for (uint32_t i = 0; i < n && !err; i++) {
        err = get_text(r, &items[i], memory);
        if (!err && !items[i])
            err = MUSTER_EINVAL;
    }
    *out = err ? (struct muster_list){0} : (struct muster_list){items, n};
    return err;
}

static int get_map(struct frame_reader *r, const struct config_table *t, const struct muster_option *o, struct muster_map *out,
                   struct arena *memory)
{
    struct config_table fields = table_fields(t, o);
    uint32_t n = frame_get_count(r, (o->n_fields + 1) * sizeof(uint32_t) + 1); /* a key, and something of each field */
    const char **keys = arena_alloc(memory, n, sizeof *keys);
    char *entries = arena_alloc(memory, n, o->entry_size);
    int err = keys && entries ? 0 : MUSTER_ENOMEM;

    for (uint32_t i = 0; i < n && !err; i++) {
        err = get_text(r, &keys[i], memory);
        if (!err && !keys[i])
            err = MUSTER_EINVAL;
        if (!err)
            err = get_table(r, &fields, entries + i * o->entry_size, memory);
    }
    *out = err ? (struct muster_map){0} : (struct muster_map){keys, entries, n};
    return err;
}

/* The end that reads uses the index of an ENUM as one of its table. */
static int get_choice(struct frame_reader *r, const struct muster_option *o, int32_t *out)
{
    const char *at = o->choices ? o->choices : "", *choice;
    int32_t n = 0;
    size_t len;

    while (option_choice(&at, &choice, &len))
        n++;
    *out = frame_get_i32(r);
    return *out >= 0 && (*out < n || *out == 0) ? 0 : MUSTER_EINVAL;
}

static int get_value(struct frame_reader *r, const struct config_table *t, const struct muster_option *o, void *at, struct arena *memory)
{
    switch (o->type) {
    case MUSTER_T_BOOL:
        *(int32_t *)at = frame_get_i32(r) != 0;
        return 0;
    case MUSTER_T_ENUM:
        return get_choice(r, o, at);
    case MUSTER_T_FLOAT:
        *(double *)at = frame_get_f64(r);
        return 0;
    case MUSTER_T_STRING:
        return get_text(r, at, memory);
    case MUSTER_T_LIST:
        return get_list(r, at, memory);
    case MUSTER_T_MAP:
        return get_map(r, t, o, at, memory);
    default:
        *(int64_t *)at = frame_get_i64(r);
        return 0;
    }
}

static int get_table(struct frame_reader *r, const struct config_table *t, void *values, struct arena *memory)
{
    int err = 0;

    for (uint32_t i = 0; i < t->n && !err; i++) {
        struct muster_option o = table_at(t, i);

        err = get_value(r, t, &o, (char *)values + o.offset, memory);
        if (!err && r->bad)
            err = MUSTER_EINVAL;
    }
    return err;
}

int settings_get(struct frame_reader *r, const struct muster_plugin *plugin, void *values, struct arena *memory)
{
    const struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};
    const char *key;

    /* Of a stranger in the child; the broker made its own. */
    if (table_fault(&table, plugin->config_size, &key))
        return MUSTER_EINVAL;
    return get_table(r, &table, values, memory);
}
