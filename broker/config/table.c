/*
 * Walking and checking option tables; see options.h.
 *
 * A plugin's table is code of somebody else: before anything is bound to it, offsets, types and keys are
 * checked against its config struct, so that a slip there is a message and not a broken heap.
 */
#include <string.h>

#include "base/utf8.h"
#include "config/options.h"

/* Of nested maps in a table: deeper than a file may nest, so that a table that contains itself comes to an
 * end. */
enum { MAX_TABLE_DEPTH = CONFIG_MAX_DEPTH };

/* By value: the members that a shorter option does not have are zero in the copy. */
struct muster_option table_at(const struct config_table *t, uint32_t i)
{
    struct muster_option o = {0};

    memcpy(&o, (const char *)t->options + (size_t)i * t->stride,
           t->stride < sizeof o ? t->stride : sizeof o);
    return o;
}

/* How much of a key belongs to its group at this level: up to the dot, or nothing. */
static size_t group_len(const char *rest)
{
    size_t len = strcspn(rest, ".");

    return rest[len] ? len + 1 : 0;
}

/* True when one of the first n options is in the group that begins key. */
static bool is_named(const struct config_table *t, uint32_t n, const char *key, size_t len)
{
    for (uint32_t i = 0; i < n; i++)
        if (strncmp(table_at(t, i).key, key, len) == 0)
            return true;
    return false;
}

bool table_name_at(const struct config_table *t, const char *prefix, uint32_t i,
                   struct table_name *ret_name)
{
    const char *key = table_at(t, i).key, *rest = key + strlen(prefix);
    size_t group;

    if (strncmp(key, prefix, strlen(prefix)) != 0)
        return false;
    group = group_len(rest);
    if (group && is_named(t, i, key, (size_t)(rest - key) + group))
        return false;
    *ret_name = (struct table_name){rest, strcspn(rest, "."), group > 0};
    return true;
}

struct config_table table_fields(const struct config_table *t, const struct muster_option *o)
{
    return (struct config_table){o->fields, o->n_fields, t->stride};
}

bool option_is_path(const struct muster_option *o)
{
    size_t len = strlen(o->key);

    if (o->type != MUSTER_T_STRING)
        return false;
    return (o->flags & CONFIG_O_PATH) || (len > 5 && strcmp(o->key + len - 5, "_file") == 0);
}

/* "never|always" gives never, then always. */
bool option_choice(const char **at, const char **ret_choice, size_t *ret_len)
{
    if (!**at)
        return false;
    *ret_choice = *at;
    *ret_len = strcspn(*at, "|");
    *at += *ret_len + ((*at)[*ret_len] == '|');
    return true;
}

static void put_choices(struct buf *out, const struct muster_option *o)
{
    const char *at = o->choices, *choice;
    size_t len;

    buf_put_lit(out, "one of ");
    for (bool more = option_choice(&at, &choice, &len); more;) {
        buf_put(out, choice, len);
        more = option_choice(&at, &choice, &len);
        if (more)
            buf_put_lit(out, ", ");
    }
}

void option_expected(struct buf *out, const struct muster_option *o)
{
    static const char *const words[] = {
        [MUSTER_T_BOOL] = "true or false",
        [MUSTER_T_INT] = "a whole number",
        [MUSTER_T_FLOAT] = "a number",
        [MUSTER_T_DURATION_NS] = "a duration such as 5s",
        [MUSTER_T_BYTES] = "a size such as 64KiB",
        [MUSTER_T_STRING] = "text",
        [MUSTER_T_LIST] = "a list such as [a, b]",
        [MUSTER_T_MAP] = "a map of names to settings",
    };

    if (o->type == MUSTER_T_ENUM)
        put_choices(out, o);
    else if (o->type == CONFIG_T_ENTRIES)
        buf_put_lit(out, "a list of maps");
    else if (o->type == CONFIG_T_NODE)
        buf_put_lit(out, "a map of settings");
    else
        buf_puts(out, words[o->type]);
}

size_t option_size(uint32_t type)
{
    switch (type) {
    case MUSTER_T_BOOL:
    case MUSTER_T_ENUM:
        return sizeof(int32_t);
    case MUSTER_T_STRING:
        return sizeof(const char *);
    case MUSTER_T_LIST:
        return sizeof(struct muster_list);
    case MUSTER_T_MAP:
        return sizeof(struct muster_map);
    default:
        return sizeof(int64_t);
    }
}

/* Keys of one map must differ, and a group cannot be a setting too ("a" beside "a.b"). */
static const char *key_fault(const struct config_table *t, uint32_t i)
{
    const char *key = table_at(t, i).key;

    if (!key || !*key || *key == '.' || strstr(key, "..") || key[strlen(key) - 1] == '.')
        return "its key is missing";
    if (strlen(key) > CONFIG_MAX_KEY || !utf8_is_valid(key, strlen(key)))
        return "its key is too long, or not UTF-8";
    for (uint32_t j = 0; j < i; j++) {
        const char *other = table_at(t, j).key;
        size_t len = strlen(key) < strlen(other) ? strlen(key) : strlen(other);

        if (strncmp(key, other, len) == 0 && strchr(".", key[len]) && strchr(".", other[len]))
            return "its key is in the table already";
    }
    return NULL;
}

/* The type first: what follows depends on it. */
static const char *option_fault(const struct muster_option *o, size_t size)
{
    size_t need;

    if (o->def && !utf8_is_valid(o->def, strlen(o->def)))
        return "its default is not UTF-8";
    if (o->type > MUSTER_T_MAP)
        return "its type is not known to this broker";
    need = option_size(o->type);
    if (size < need || o->offset > size - need || o->offset % (need < 8 ? need : 8) != 0)
        return "its offset does not fit the config struct";
    if (o->type == MUSTER_T_ENUM && (!o->choices || !*o->choices))
        return "an enum without choices";
    if (o->type == MUSTER_T_MAP && (!o->fields || !o->n_fields || !o->entry_size))
        return "a map without fields";
    if (o->type == MUSTER_T_MAP && o->def)
        return "a map cannot have a default";
    if ((o->flags & MUSTER_O_SECRET) && o->type != MUSTER_T_STRING && o->type != MUSTER_T_LIST)
        return "only text and lists can be secret";
    if ((o->flags & MUSTER_O_UNIQUE) && o->type != MUSTER_T_STRING)
        return "only text can be unique";
    if (o->min > o->max)
        return "its min is above its max";
    return NULL;
}

/* A table and the tables of its maps. */
static const char *fault_at_depth(const struct config_table *t, size_t size, int depth,
                                  const char **ret_key)
{
    if (depth == MAX_TABLE_DEPTH)
        return "maps nested too deep";
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);
        struct config_table fields = table_fields(t, &o);
        const char *fault;

        *ret_key = o.key && *o.key ? o.key : "(without a key)";
        fault = key_fault(t, i);
        if (!fault)
            fault = option_fault(&o, size);
        if (!fault && depth && (o.flags & (MUSTER_O_UNIQUE | MUSTER_O_ONCE)))
            fault = "only what is outside of maps can be unique, or set once";
        if (!fault && o.type == MUSTER_T_MAP)
            fault = fault_at_depth(&fields, o.entry_size, depth + 1, ret_key);
        if (fault)
            return fault;
    }
    return NULL;
}

const char *table_fault(const struct config_table *t, size_t size, const char **ret_key)
{
    *ret_key = "(table)";
    if (t->n && (!t->options || t->stride < offsetof(struct muster_option, choices)))
        return "option_size does not fit";
    return fault_at_depth(t, size, 0, ret_key);
}
