/*
 * Binding: a map of the file against an option table, value by value; see options.h.
 *
 * Types come from the table alone: `007` is text where text is expected, and refused where a number is. So
 * none of YAML's guesses (octal, yes and no, sexagesimal) can happen.
 */
#include "config/options.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "config/near.h"
#include "config/scalar.h"

/* One value on its way into the config struct. */
struct slot {
    const struct config_scope *scope;
    const struct config_table *table; /* that option is from */
    const struct muster_option *option;
    const struct config_node *node;
    void *out;
};

/* "expected …, got …", with a hint where there is one ("": none). */
static int mismatch(const struct slot *s, const char *hint)
{
    struct buf expected = {0};
    char shown[CONFIG_SHOW_SIZE];
    int err;

    option_expected(&expected, s->option);
    err = config_refuse(
        s->scope, s->node, "expected %s, got %s%s%s", expected.data ? expected.data : "another type",
        config_show(s->node, s->option->flags & MUSTER_O_SECRET, shown), *hint ? "; " : "", hint);
    buf_done(&expected);
    return err;
}

/* Nothing at all is no scalar here: a key without a value is refused by every type but maps. */
static bool is_scalar(const struct slot *s)
{
    return s->node->kind == CONFIG_SCALAR && !node_is_null(s->node);
}

static bool is_one_of(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

/* Two plain words. What YAML 1.1 takes for booleans is understood well enough to say what to write. */
static int to_bool(const struct slot *s)
{
    static const char *const yes[] = {"true", "yes", "on", "y", "1"};
    static const char *const no[] = {"false", "no", "off", "n", "0"};
    const char *text = s->node->text;
    bool value;

    if (!is_scalar(s))
        return mismatch(s, "");
    value = strcmp(text, "true") == 0;
    if (s->node->plain && (value || strcmp(text, "false") == 0)) {
        *(int32_t *)s->out = value;
        return 0;
    }
    if (is_one_of(text, yes, sizeof yes / sizeof *yes))
        return mismatch(s, "write true, without quotes");
    return mismatch(s, is_one_of(text, no, sizeof no / sizeof *no) ? "write false, without quotes" : "");
}

/* What is usually wrong with a number that the grammar refused. */
static const char *number_hint(const char *text)
{
    size_t sign = text[0] == '-' || text[0] == '+', digits = strspn(text + sign, "0123456789_");

    if (text[0] == '+')
        return "leave out the +";
    if (memchr(text, '_', digits + sign))
        return "leave out the underscores";
    if (digits == 1 && strchr("xXoO", text[sign + 1]) && text[sign + 1])
        return "write it in decimal";
    if (digits > 1 && text[sign] == '0')
        return "a number does not begin with 0";
    return "";
}

/* The bounds of the table; what does not fit the type itself is over. put writes a value as a user would.
 */
static int in_range(const struct slot *s, int64_t value, bool over, const char *(*put)(int64_t, char *))
{
    bool bounded = s->option->min || s->option->max;
    int64_t min = bounded ? s->option->min : INT64_MIN, max = bounded ? s->option->max : INT64_MAX;
    bool above = over ? value > 0 : value > max, below = over ? value < 0 : value < min;
    char bound[SCALAR_TEXT_SIZE];

    if (!above && !below) {
        *(int64_t *)s->out = value;
        return 0;
    }
    return config_refuse(s->scope, s->node, "%.40s is %s %s", s->node->text, above ? "above" : "below",
                         put(above ? max : min, bound));
}

/* Quoted digits are text: whoever wrote them meant something else, or a habit that other keys would punish.
 */
static int to_int(const struct slot *s)
{
    int64_t value;
    bool over;

    if (!is_scalar(s))
        return mismatch(s, "");
    if (!scalar_int(s->node->text, &value, &over))
        return mismatch(s, number_hint(s->node->text));
    if (!s->node->plain)
        return mismatch(s, "leave out the quotes");
    return in_range(s, value, over, scalar_put_int);
}

/* Bounds are whole numbers, as the table has them. Infinity and NaN cannot be written. */
static int to_float(const struct slot *s)
{
    const struct muster_option *o = s->option;
    bool bounded = o->min || o->max;
    double value;

    if (!is_scalar(s))
        return mismatch(s, "");
    if (!scalar_float(s->node->text, &value))
        return mismatch(s, number_hint(s->node->text));
    if (!s->node->plain)
        return mismatch(s, "leave out the quotes");
    if (bounded && (value < (double)o->min || value > (double)o->max))
        return config_refuse(s->scope, s->node, "%.40s is %s %lld", s->node->text,
                             value < (double)o->min ? "below" : "above",
                             (long long)(value < (double)o->min ? o->min : o->max));
    *(double *)s->out = value;
    return 0;
}

/* The value is the index of the choice, so choices are only ever appended by a plugin. */
static int to_enum(const struct slot *s)
{
    const char *at = s->option->choices, *choice;
    struct near near;
    char hint[128] = "";
    size_t len;
    int err;

    if (!is_scalar(s))
        return mismatch(s, "");
    near = near_to(s->node->text);
    for (int32_t i = 0; option_choice(&at, &choice, &len); i++) {
        if (strncmp(s->node->text, choice, len) == 0 && s->node->text[len] == '\0') {
            *(int32_t *)s->out = i;
            near_done(&near);
            return 0;
        }
        near_offer(&near, choice, len);
    }
    if (near.n)
        snprintf(hint, sizeof hint, "did you mean %s?", near.names.data);
    err = mismatch(s, hint);
    near_done(&near);
    return err;
}

/* Quotes are allowed: a duration is text to YAML anyway. A plain number is the mistake worth a hint of its
 * own, since it meant seconds in one system and milliseconds in the next. */
static int to_duration(const struct slot *s)
{
    const char *text = s->node->text;
    char hint[128] = "the units are ms, s, m, h and d, one of them, after a whole number";
    int64_t ns;
    size_t digits;
    bool over;

    if (!is_scalar(s))
        return mismatch(s, "");
    if (scalar_duration(text, &ns, &over))
        return in_range(s, ns, over, scalar_put_duration);
    digits = strspn(text, "0123456789");
    if (digits == 0)
        return mismatch(s, "");
    if (digits > 1 && text[0] == '0')
        return mismatch(s, number_hint(text));
    if (text[digits] == '\0' && digits < 20)
        snprintf(hint, sizeof hint, "write %ss for seconds or %sms for milliseconds", text, text);
    return mismatch(s, hint);
}

/* Powers of two only: KB and MB mean either, depending on who reads. */
static int to_bytes(const struct slot *s)
{
    const char *text = s->node->text;
    int64_t bytes;
    bool over;

    if (!is_scalar(s))
        return mismatch(s, "");
    if (scalar_bytes(text, &bytes, &over))
        return in_range(s, bytes, over, scalar_put_bytes);
    if (*number_hint(text))
        return mismatch(s, number_hint(text));
    return mismatch(s,
                    strspn(text, "0123456789") ? "the units are KiB, MiB and GiB, or none for bytes" : "");
}

/* Text that stands for something else in YAML is refused without quotes: `slot: true` is rarely meant as a
 * name. */
static int check_text(const struct slot *s)
{
    if (s->node->kind != CONFIG_SCALAR)
        return mismatch(s, "");
    if (node_is_null(s->node))
        return mismatch(s, s->node->text[0] ? "put it in quotes if it is meant as text" : "");
    if (s->node->plain && (strcmp(s->node->text, "true") == 0 || strcmp(s->node->text, "false") == 0))
        return mismatch(s, "put it in quotes if it is meant as text");
    return 0;
}

/* Lengths of text and of lists. */
static int check_count(const struct slot *s, size_t n, const char *what)
{
    const struct muster_option *o = s->option;

    if (!o->min && !o->max)
        return 0;
    if (o->min > 0 && n < (size_t)o->min)
        return config_refuse(s->scope, s->node, "has %zu %s, at least %lld are needed", n, what,
                             (long long)o->min);
    if (n > (size_t)o->max)
        return config_refuse(s->scope, s->node, "has %zu %s, more than %lld", n, what, (long long)o->max);
    return 0;
}

/* Paths of the file are resolved here; those of a default are the plugin's own affair. */
static int to_string(const struct slot *s)
{
    const char *text = s->node->text;
    int err = check_text(s);

    if (!err)
        err = check_count(s, strlen(text), "bytes");
    if (err)
        return err;
    if (s->node->line && option_is_path(s->option))
        text = tree_resolve(s->scope->tree, text);
    if (!text)
        return config_no_memory(s->scope->err);
    *(const char **)s->out = text;
    return 0;
}

/* Items are text, each by the rules of to_string() without bounds of their own. A single value is no list:
 * it would hide a forgotten bracket. */
static int to_list(const struct slot *s)
{
    struct muster_option item = {.key = s->option->key, .type = MUSTER_T_STRING, .flags = s->option->flags};
    struct muster_list *list = s->out;
    const char **items;
    size_t n = 0;
    int err;

    if (s->node->kind != CONFIG_LIST)
        return mismatch(s, is_scalar(s) ? "put it in brackets" : "");
    err = check_count(s, s->node->n, "items");
    items = tree_alloc(s->scope->tree, s->node->n, sizeof *items);
    if (!items)
        return config_no_memory(s->scope->err);
    for (const struct config_node *at = s->node->first; at && !err; at = at->next) {
        struct slot one = {s->scope, s->table, &item, at, &items[n++]};

        err = to_string(&one);
    }
    if (err)
        return err;
    *list = (struct muster_list){items, n};
    return 0;
}

/* MAP and ENTRIES alike: children that are maps of the same table. Recursion ends with CONFIG_MAX_DEPTH of
 * the file. */
static int to_entries(const struct slot *s)
{
    struct config_table fields = table_fields(s->table, s->option);
    bool named = s->option->type == MUSTER_T_MAP;
    struct muster_map *map = s->out;
    const char **keys;
    char *entries;
    size_t n = 0;
    int err = 0;

    if (!node_is_null(s->node) && s->node->kind != (named ? CONFIG_MAP : CONFIG_LIST))
        return mismatch(s, "");
    keys = tree_alloc(s->scope->tree, s->node->n, sizeof *keys);
    entries = tree_alloc(s->scope->tree, s->node->n, s->option->entry_size);
    if (!keys || !entries)
        return config_no_memory(s->scope->err);
    for (const struct config_node *at = s->node->first; at && !err; at = at->next, n++) {
        keys[n] = at->key;
        err = config_bind_table(s->scope, &fields, at, entries + n * s->option->entry_size);
    }
    if (err)
        return err;
    *map = (struct muster_map){named ? keys : NULL, entries, n};
    return 0;
}

/* A plugin's settings: their table is not known before the plugin is loaded. */
static int to_node(const struct slot *s)
{
    if (!node_is_map(s->node))
        return mismatch(s, "");
    *(const struct config_node **)s->out = s->node;
    return 0;
}

/* Type is checked before: by table_fault() for a plugin, by whoever wrote it for the host's own table. */
static int convert(const struct slot *s)
{
    static int (*const by_type[])(const struct slot *) = {
        [MUSTER_T_BOOL] = to_bool,       [MUSTER_T_INT] = to_int,     [MUSTER_T_FLOAT] = to_float,
        [MUSTER_T_ENUM] = to_enum,       [MUSTER_T_BYTES] = to_bytes, [MUSTER_T_DURATION_NS] = to_duration,
        [MUSTER_T_STRING] = to_string,   [MUSTER_T_LIST] = to_list,   [MUSTER_T_MAP] = to_entries,
        [CONFIG_T_ENTRIES] = to_entries, [CONFIG_T_NODE] = to_node,
    };

    return by_type[s->option->type](s);
}

/* "did you mean urls?", or the keys there are when none is near. */
static int unknown_key(const struct config_scope *s, const struct config_table *t,
                       const struct config_node *node, const char *prefix)
{
    struct near near = near_to(node->key);
    struct table_name name;
    struct buf all = {0};
    int err;

    for (uint32_t i = 0; i < t->n; i++) {
        if (!table_name_at(t, prefix, i, &name))
            continue;
        near_offer(&near, name.text, name.len);
        buf_printf(&all, "%s%.*s", all.len ? ", " : "", (int)name.len, name.text);
    }
    if (near.n)
        err = config_refuse_key(s, node, "unknown key; did you mean %s?", near.names.data);
    else if (all.len)
        err = config_refuse_key(s, node, "unknown key; the keys here are %s", all.data);
    else
        err = config_refuse_key(s, node, "unknown key; there are no settings here");
    buf_done(&all);
    near_done(&near);
    return err;
}

static int bind_level(const struct config_scope *s, const struct config_table *t,
                      const struct config_node *map, const char *prefix, void *out);

/* One key of the file, which is an option, a group of options, or a mistake. A dot in it is a mistake too:
 * there is one way to write a group. */
static int bind_key(const struct config_scope *s, const struct config_table *t,
                    const struct config_node *node, const char *prefix, void *out)
{
    char inner[2 * CONFIG_MAX_KEY + 2];
    struct table_name name;

    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o;
        struct slot slot = {s, t, &o, node, out};

        if (!table_name_at(t, prefix, i, &name) || strlen(node->key) != name.len ||
            strncmp(node->key, name.text, name.len) != 0)
            continue;
        o = table_at(t, i);
        slot.out = (char *)out + o.offset;
        if (!name.is_group)
            return convert(&slot);
        (void)snprintf(inner, sizeof inner, "%s%s.", prefix,
                       node->key); /* fits: it begins an option's key */
        return bind_level(s, t, node, inner, out);
    }
    return unknown_key(s, t, node, prefix);
}

/* The keys of one map. prefix names the groups around it ("broker.log."), "" at the top of a table. */
static int bind_level(const struct config_scope *s, const struct config_table *t,
                      const struct config_node *map, const char *prefix, void *out)
{
    char shown[CONFIG_SHOW_SIZE];
    int err = 0;

    if (!node_is_map(map))
        return config_refuse(s, map, "expected a map of settings, got %s", config_show(map, false, shown));
    for (const struct config_node *at = map->first; at && !err; at = at->next)
        err = bind_key(s, t, at, prefix, out);
    return err;
}

/* "a,b" as the items of list; nothing for "". */
static int split_default(struct config_tree *tree, const char *text, struct config_node *list)
{
    while (*text) {
        size_t len = strcspn(text, ",");
        struct config_node *item = tree_add(tree, list);

        if (!item)
            return MUSTER_ENOMEM;
        item->text = tree_strdup(tree, text, len);
        if (!item->text)
            return MUSTER_ENOMEM;
        text += len + (text[len] == ',');
    }
    return 0;
}

/* A default is written as in a file: "5s"; that of a list "a,b". */
static int bind_default(const struct slot *s)
{
    uint32_t type = s->option->type;
    struct config_node value = {.kind = type == MUSTER_T_LIST ? CONFIG_LIST : CONFIG_SCALAR,
                                .plain = type !=
                                         MUSTER_T_STRING, /* text stays text, also when it reads "true" */
                                .key = s->option->key,
                                .text = s->option->def,
                                .parent = s->node};
    struct slot slot = *s;

    slot.node = &value;
    if (type == MUSTER_T_LIST && split_default(s->scope->tree, s->option->def, &value))
        return config_no_memory(s->scope->err);
    return convert(&slot);
}

/* An option that the map does not give: its default, or nothing, unless it is required. */
static int bind_absent(const struct slot *s)
{
    struct buf expected = {0};
    int err;

    if (s->option->def)
        return bind_default(s);
    if (!(s->option->flags & MUSTER_O_REQUIRED))
        return 0;
    option_expected(&expected, s->option);
    err = config_refuse_missing(s->scope, s->node, s->option->key, "is missing; it needs %s",
                                expected.data ? expected.data : "a value");
    buf_done(&expected);
    return err;
}

/* In the order of the file, so that the first mistake in it is the one that is told; what is missing comes
 * last. */
int config_bind_table(const struct config_scope *s, const struct config_table *t,
                      const struct config_node *map, void *out)
{
    int err = bind_level(s, t, map, "", out);

    for (uint32_t i = 0; i < t->n && !err; i++) {
        struct muster_option o = table_at(t, i);
        struct slot slot = {s, t, &o, map, (char *)out + o.offset};

        if (!node_find(map, o.key))
            err = bind_absent(&slot);
    }
    return err;
}
