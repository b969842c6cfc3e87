/*
 * JSON Schema (2020-12) of a plugin's settings, for editors and for schemas/plugins/; see config_schema()
 * in config.h.
 *
 * It is a help for who writes a file: what is refused is decided by config_bind(). What JSON Schema has no word
 * for begins with x-muster-.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"
#include "config/scalar.h"

static void put_object(struct buf *out, const struct config_table *t);

static void put_string(struct buf *out, const char *text)
{
    buf_put_json(out, text, strlen(text));
}

/* The words of an ENUM. */
static void put_choices(struct buf *out, const struct muster_option *o)
{
    const char *at = o->choices, *choice;
    size_t len;

    buf_put_lit(out, ",\"enum\":[");
    for (bool first = true; option_choice(&at, &choice, &len); first = false) {
        if (!first)
            buf_putc(out, ',');
        buf_put_json(out, choice, len);
    }
    buf_putc(out, ']');
}

/* The type, and what belongs to it: the pattern of a unit, the choices, the settings of an entry. */
static void put_type(struct buf *out, const struct config_table *t, const struct muster_option *o)
{
    static const char *const types[] = {
        [MUSTER_T_BOOL] = "\"type\":\"boolean\"",
        [MUSTER_T_INT] = "\"type\":\"integer\"",
        [MUSTER_T_FLOAT] = "\"type\":\"number\"",
        [MUSTER_T_ENUM] = "\"type\":\"string\"",
        [MUSTER_T_DURATION_NS] = "\"type\":\"string\",\"pattern\":\"^(0|[1-9][0-9]*)(ms|s|m|h|d)$\"",
        [MUSTER_T_BYTES] =
            "\"type\":[\"integer\",\"string\"],\"pattern\":\"^(0|[1-9][0-9]*)(KiB|MiB|GiB)?$\"",
        [MUSTER_T_STRING] = "\"type\":\"string\"",
        [MUSTER_T_LIST] = "\"type\":\"array\",\"items\":{\"type\":\"string\"}",
        [MUSTER_T_MAP] = "\"type\":\"object\",\"additionalProperties\":",
    };
    struct config_table fields = table_fields(t, o);

    buf_puts(out, types[o->type]);
    if (o->type == MUSTER_T_MAP)
        put_object(out, &fields);
    if (o->type == MUSTER_T_ENUM)
        put_choices(out, o);
}

/* Durations and sizes are text here, so that their bounds can only be told, not checked. */
static void put_bounds(struct buf *out, const struct muster_option *o)
{
    static const char *const names[][2] = {
        [MUSTER_T_INT] = {"minimum", "maximum"},
        [MUSTER_T_FLOAT] = {"minimum", "maximum"},
        [MUSTER_T_STRING] = {"minLength", "maxLength"},
        [MUSTER_T_LIST] = {"minItems", "maxItems"},
        [MUSTER_T_DURATION_NS] = {"x-muster-min-ns", "x-muster-max-ns"},
        [MUSTER_T_BYTES] = {"minimum", "maximum"},
        [MUSTER_T_MAP] = {NULL, NULL},
    };
    const char *const *name = names[o->type];

    if ((!o->min && !o->max) || !name[0])
        return;
    buf_printf(out, ",\"%s\":%lld,\"%s\":%lld", name[0], (long long)o->min, name[1], (long long)o->max);
}

/* "a,b" in the table. */
static void put_list_default(struct buf *out, const char *def)
{
    buf_putc(out, '[');
    for (bool first = true; *def; first = false) {
        size_t len = strcspn(def, ",");

        if (!first)
            buf_putc(out, ',');
        buf_put_json(out, def, len);
        def += len + (def[len] == ',');
    }
    buf_putc(out, ']');
}

/* Numbers and booleans are written in a table as JSON has them; a size only when it has no unit. */
static void put_default(struct buf *out, const struct muster_option *o)
{
    bool bare = o->type == MUSTER_T_BOOL || o->type == MUSTER_T_INT || o->type == MUSTER_T_FLOAT ||
                (o->type == MUSTER_T_BYTES && !o->def[strspn(o->def, "0123456789")]);

    buf_put_lit(out, ",\"default\":");
    if (o->type == MUSTER_T_LIST)
        put_list_default(out, o->def);
    else if (bare)
        buf_puts(out, o->def);
    else
        put_string(out, o->def);
}

static void put_option(struct buf *out, const struct config_table *t, const struct muster_option *o)
{
    buf_putc(out, '{');
    put_type(out, t, o);
    if (o->help) {
        buf_put_lit(out, ",\"description\":");
        put_string(out, o->help);
    }
    put_bounds(out, o);
    if (o->def)
        put_default(out, o);
    if (o->flags & MUSTER_O_SECRET)
        buf_put_lit(out, ",\"writeOnly\":true");
    if (o->flags & MUSTER_O_RELOADABLE)
        buf_put_lit(out, ",\"x-muster-reloadable\":true");
    if (o->flags & MUSTER_O_UNIQUE)
        buf_put_lit(out, ",\"x-muster-unique\":true");
    if (o->flags & MUSTER_O_ONCE)
        buf_put_lit(out, ",\"x-muster-once\":true");
    buf_putc(out, '}');
}

/* A default makes up for what is missing. */
static bool is_required(const struct muster_option *o)
{
    return (o->flags & MUSTER_O_REQUIRED) && !o->def;
}

/* A group is required when something in it is. */
static bool needs_name(const struct config_table *t, const char *prefix, const struct table_name *name)
{
    size_t len = strlen(prefix) + name->len + name->is_group; /* with the dot */
    const char *key = name->text - strlen(prefix);

    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);

        if (is_required(&o) && strncmp(o.key, key, len) == 0 && (name->is_group || !o.key[len]))
            return true;
    }
    return false;
}

static void put_required(struct buf *out, const struct config_table *t, const char *prefix)
{
    struct table_name name;
    bool any = false;

    for (uint32_t i = 0; i < t->n; i++) {
        if (!table_name_at(t, prefix, i, &name) || !needs_name(t, prefix, &name))
            continue;
        buf_puts(out, any ? "," : ",\"required\":[");
        buf_put_json(out, name.text, name.len);
        any = true;
    }
    if (any)
        buf_putc(out, ']');
}

/* The members of an object, without its braces. Keys with dots are the objects they stand for. */
static void put_level(struct buf *out, const struct config_table *t, const char *prefix)
{
    char inner[CONFIG_MAX_KEY + 2];
    struct table_name name;
    bool any = false;

    buf_put_lit(out, "\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);

        if (!table_name_at(t, prefix, i, &name))
            continue;
        buf_puts(out, any ? "," : "");
        any = true;
        buf_put_json(out, name.text, name.len);
        buf_putc(out, ':');
        if (!name.is_group) {
            put_option(out, t, &o);
            continue;
        }
        (void)snprintf(inner, sizeof inner, "%s%.*s.", prefix, (int)name.len, name.text);
        buf_putc(out, '{');
        put_level(out, t, inner);
        buf_putc(out, '}');
    }
    buf_putc(out, '}');
    put_required(out, t, prefix);
}

static void put_object(struct buf *out, const struct config_table *t)
{
    buf_putc(out, '{');
    put_level(out, t, "");
    buf_putc(out, '}');
}

void config_schema(const struct muster_plugin *plugin, struct buf *out)
{
    struct config_table table = {plugin->options, plugin->n_options, plugin->option_size};
    const char *key;

    if (table_fault(&table, plugin->config_size, &key)) {
        out->failed = true; /* config_bind() says what is wrong with it */
        return;
    }
    buf_put_lit(out, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":");
    buf_printf(out, "\"%s %s\",", plugin->name, plugin->version);
    put_level(out, &table, "");
    buf_put_lit(out, "}\n");
}
