/*
 * --print-config: the effective configuration as YAML that loads again; see config_print() in config.h.
 *
 * Everything is printed from bound values by its option table, so that the text shows what the broker works
 * with: defaults filled in, paths absolute, variables of the environment laid over. Secrets are replaced by
 * "…".
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/host.h"
#include "config/source.h"
#include "config/scalar.h"

/* Where in the text an option stands. */
struct print_at {
    const char *prefix; /* of the groups around it, "broker.log." */
    struct table_name name;
    int indent;
};

struct printer {
    struct buf *out;
    const struct config *config;
    const struct config_plugin *plugin; /* whose entry is printed */
};

static void print_table(struct printer *p, const struct config_table *t, const void *base, int indent);
static void print_level(struct printer *p, const struct config_table *t, const void *base,
                        const char *prefix, int indent);

/* Words that other readers of YAML take for something else than text. */
static bool is_reserved(const char *text)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

/* What needs no quotes to stay one plain scalar; "-" and "..." are marks of YAML itself. */
static bool is_word(const char *text)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-";
    bool begins_well = isalnum((unsigned char)text[0]) || (text[0] && isalnum((unsigned char)text[1]));

    return begins_well && !text[strspn(text, letters)];
}

/* Stricter than a plain value: text that begins like a number gets quotes, for readers without an option
 * table. */
static bool needs_no_quotes(const char *text)
{
    return is_word(text) && !strchr("0123456789.-", text[0]) && !is_reserved(text);
}

/* In double quotes; what a file may not hold as it is gets an escape, the shortest: YAML ends a key with the 1024th character. */
static void print_quoted(struct buf *out, const char *text)
{
    buf_putc(out, '"');
    while (*text) {
        struct source_fault fault;
        uint32_t code;
        size_t n = source_char(text, &code);

        if (code == '"' || code == '\\')
            buf_printf(out, "\\%c", (char)code);
        else if (code == '\n' || code == '\r' || !source_check(text, n, &fault))
            buf_printf(out, code < 0x100 ? "\\x%02X" : "\\u%04X", (unsigned)code);
        else
            buf_put(out, text, n);
        text += n;
    }
    buf_putc(out, '"');
}

/* Hidden before it is quoted: a secret must not reach the output in any form. */
static void print_text(struct buf *out, const char *text)
{
    struct buf shown = {0};

    config_hide(&shown, text);
    if (buf_failed(&shown))
        out->failed = true;
    else if (shown.data && needs_no_quotes(shown.data))
        buf_puts(out, shown.data);
    else
        print_quoted(out, shown.data ? shown.data : "");
    buf_done(&shown);
}

/* Every line begins with its line feed, so that "key: value" can go on behind "key:". */
static void begin_line(struct buf *out, int indent)
{
    buf_printf(out, "\n%*s", indent, "");
}

/* A key is never hidden: only values are secret. */
static void print_key(struct buf *out, const char *key, int indent)
{
    begin_line(out, indent);
    if (needs_no_quotes(key))
        buf_puts(out, key);
    else
        print_quoted(out, key);
    buf_putc(out, ':');
}

/* Turn the first line of a block that was printed at indent + 2, from mark on, into "- …". */
static void make_item(struct buf *out, size_t mark, int indent)
{
    if (!buf_failed(out) && out->len > mark)
        out->data[mark + 1 + (size_t)indent] = '-';
    else
        buf_printf(out, "\n%*s- {}", indent, "");
}

/* Words that say that the value of a key is nobody's business, for settings whose table is not known. */
static bool is_secret_key(const char *key)
{
    static const char *const words[] = {"password", "secret", "token", "passphrase"};
    size_t len = key ? strlen(key) : 0;

    if (len > 5 && strcmp(key + len - 5, "_file") == 0)
        return false;
    for (size_t i = 0; key && i < sizeof words / sizeof *words; i++)
        if (strcasestr(key, words[i]))
            return true;
    return false;
}

/* Nothing, true and false: text may not be one of them, and what is refused must not come back as text. */
static bool is_no_text(const struct config_node *node)
{
    return node->plain && (node_is_null(node) || strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0);
}

/* Settings whose types are not known keep their quotes, or the lack of them. */
static void print_scalar(struct buf *out, const struct config_node *node, bool secret)
{
    buf_putc(out, ' ');
    if (secret && !is_no_text(node))
        print_quoted(out, "…");
    else if (node->plain && (is_word(node->text) || node_is_null(node)))
        buf_puts(out,
                 *node->text ? node->text : "null"); /* numbers, units and booleans stay what they are */
    else
        print_text(out, node->text);
}

/* Settings as they stand in the file, after their key. Recursion ends with CONFIG_MAX_DEPTH. */
static void print_node(struct buf *out, const struct config_node *node, int indent, bool secret)
{
    secret = secret || is_secret_key(node->key);
    if (node->kind == CONFIG_SCALAR) {
        print_scalar(out, node, secret);
        return;
    }
    if (node->n == 0)
        buf_puts(out, node->kind == CONFIG_MAP ? " {}" : " []");
    for (const struct config_node *at = node->first; at; at = at->next) {
        if (node->kind == CONFIG_MAP) {
            print_key(out, at->key, indent);
        } else {
            begin_line(out, indent);
            buf_putc(out, '-');
        }
        print_node(out, at, indent + 2, secret);
    }
}

/* On one line: lists of settings are short, and [] needs no case of its own. */
static void print_list(struct buf *out, const struct muster_list *list, bool secret)
{
    buf_puts(out, " [");
    for (size_t i = 0; i < list->n; i++) {
        if (i)
            buf_puts(out, ", ");
        print_text(out, secret ? "…" : list->items[i]);
    }
    buf_putc(out, ']');
}

/* MAP: names and their settings. ENTRIES: items of a list, each a map that begins behind the dash. */
static void print_map(struct printer *p, const struct config_table *t, const struct muster_option *o,
                      const struct muster_map *map, int indent)
{
    struct config_table fields = table_fields(t, o);

    if (map->n == 0)
        buf_puts(p->out, map->keys || o->type == MUSTER_T_MAP ? " {}" : " []");
    for (size_t i = 0; i < map->n; i++) {
        const void *entry = (const char *)map->entries + i * o->entry_size;
        size_t mark;

        if (map->keys)
            print_key(p->out, map->keys[i], indent);
        else
            p->plugin = &p->config->plugins[i]; /* the host has one list of maps */
        mark = p->out->len;
        print_table(p, &fields, entry, indent + 2);
        if (!map->keys)
            make_item(p->out, mark, indent);
        else if (p->out->len == mark)
            buf_puts(p->out, " {}");
    }
}

/* The settings of a plugin: by its table where that is known, otherwise as they were given. They are bound
 * once more, because the struct that was bound first belongs to the plugin. */
static void print_settings(struct printer *p, int indent)
{
    const struct config_plugin *owner = p->plugin;
    const struct muster_plugin *plugin = owner->plugin;
    void *values = plugin ? calloc(1, plugin->config_size + 1) : NULL;
    struct config_error err;
    size_t mark = p->out->len;

    if (values && config_bind(p->config, owner, plugin, values, &err) == 0) {
        struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};

        print_table(p, &table, values, indent);
        if (p->out->len == mark)
            buf_puts(p->out, " {}");
    } else if (owner->config) {
        print_node(p->out, owner->config, indent, false);
    } else {
        buf_puts(p->out, " {}");
    }
    free(values);
}

/* The word at index; an index that is no choice cannot come out of a bind. */
static void print_choice(struct buf *out, const struct muster_option *o, int32_t index)
{
    const char *at = o->choices, *choice;
    size_t len;

    for (int32_t i = 0; option_choice(&at, &choice, &len); i++)
        if (i == index)
            buf_printf(out, " %.*s", (int)len, choice);
}

static void print_number(struct buf *out, uint32_t type, const void *at)
{
    char text[SCALAR_TEXT_SIZE];

    buf_putc(out, ' ');
    if (type == MUSTER_T_FLOAT)
        buf_puts(out, scalar_put_float(*(const double *)at, text));
    else if (type == MUSTER_T_INT)
        buf_puts(out, scalar_put_int(*(const int64_t *)at, text));
    else if (type == MUSTER_T_DURATION_NS)
        buf_puts(out, scalar_put_duration(*(const int64_t *)at, text));
    else
        buf_puts(out, scalar_put_bytes(*(const int64_t *)at, text));
}

/* The value of an option, after its key. */
static void print_value(struct printer *p, const struct config_table *t, const struct muster_option *o,
                        const void *at, int indent)
{
    bool secret = o->flags & MUSTER_O_SECRET;

    switch (o->type) {
    case MUSTER_T_BOOL:
        buf_puts(p->out, *(const int32_t *)at ? " true" : " false");
        break;
    case MUSTER_T_ENUM:
        print_choice(p->out, o, *(const int32_t *)at);
        break;
    case MUSTER_T_STRING:
        buf_putc(p->out, ' ');
        print_text(p->out, secret ? "…" : *(const char *const *)at);
        break;
    case MUSTER_T_LIST:
        print_list(p->out, at, secret);
        break;
    case MUSTER_T_MAP:
    case CONFIG_T_ENTRIES:
        print_map(p, t, o, at, indent);
        break;
    case CONFIG_T_NODE:
        print_settings(p, indent);
        break;
    default:
        print_number(p->out, o->type, at);
    }
}

void print_setting(const struct muster_option *o, const void *at, struct buf *out)
{
    struct buf value = {0};
    struct printer p = {.out = &value};

    if (o->type == MUSTER_T_STRING && !*(const char *const *)at)
        buf_put_lit(&value, " not set");
    else
        print_value(&p, NULL, o, at, 0);
    if (buf_failed(&value) || !value.len)
        out->failed = true;
    else
        buf_put(out, value.data + 1, value.len - 1); /* without the blank that follows a key */
    buf_done(&value);
}

/* Keys with dots are printed as the maps they stand for. Text that is not set and has no default is left
 * out, and so is what is of a plugin in a child alone. */
static void print_name(struct printer *p, const struct config_table *t, uint32_t i, const void *base,
                       const struct print_at *where)
{
    struct muster_option o = table_at(t, i);
    const void *at = (const char *)base + o.offset;
    char inner[2 * CONFIG_MAX_KEY + 4], key[CONFIG_MAX_KEY + 2];
    size_t mark;

    if (!where->name.is_group && o.type == MUSTER_T_STRING && !*(const char *const *)at)
        return;
    if ((o.flags & CONFIG_O_CHILD) && p->plugin && p->plugin->isolation != CONFIG_ISOLATION_PROCESS)
        return; /* it would be refused there */
    (void)snprintf(key, sizeof key, "%.*s", (int)where->name.len, where->name.text);
    print_key(p->out, key, where->indent);
    if (!where->name.is_group) {
        print_value(p, t, &o, at, where->indent + 2);
        return;
    }
    (void)snprintf(inner, sizeof inner, "%s%s.", where->prefix, key);
    mark = p->out->len;
    print_level(p, t, base, inner, where->indent + 2);
    if (p->out->len == mark)
        buf_puts(p->out, " {}");
}

static void print_level(struct printer *p, const struct config_table *t, const void *base,
                        const char *prefix, int indent)
{
    struct print_at where = {.prefix = prefix, .indent = indent};

    for (uint32_t i = 0; i < t->n; i++)
        if (table_name_at(t, prefix, i, &where.name))
            print_name(p, t, i, base, &where);
}

static void print_table(struct printer *p, const struct config_table *t, const void *base, int indent)
{
    print_level(p, t, base, "", indent);
}

void config_print(const struct config *config, struct buf *out)
{
    struct config_table table = config_host_table();
    struct printer p = {.out = out, .config = config};

    buf_puts(out, "# The effective configuration: file, environment and defaults.");
    print_table(&p, &table, config->tree->host, 0);
    buf_putc(out, '\n');
}
