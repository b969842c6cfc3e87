/* The AsyncAPI document; see asyncapi.h. */
#include "wire/asyncapi.h"

#include <stdio.h>
#include <string.h>

struct doc {
    struct buf *out;
    const struct schema *const *schemas;
    size_t n;
};

static void put(const struct doc *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put(const struct doc *d, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(d->out, fmt, ap);
    va_end(ap);
}

/* What varies in subjects; INTERFACE 2. */
static const struct {
    const char *name, *doc;
} parameters[] = {
    {"root", "The root token, mst by default."},
    {"tenant", "The tenant."},
    {"agent", "The agent that sends a request, or gets its answer."},
    {"inbox", "What the client made up for this request."},
    {"key", "The id, or ~ and its hash where the id is no legal token."},
    {"source", "The instance of the plugin cdc, main by default."},
    {"schema", "The schema of the table."},
    {"table", "The table."},
    {"op", "insert, update, delete or truncate."},
    {"reply", "The reply subject of the request."},
};

/* A double-quoted scalar, which YAML and JSON write alike. */
static void print_quoted(const struct doc *d, struct text t)
{
    buf_putc(d->out, '"');
    for (size_t i = 0; i < t.len; i++) {
        unsigned char ch = (unsigned char)t.s[i];

        if (ch == '"' || ch == '\\')
            put(d, "\\%c", ch);
        else if (ch < 0x20)
            put(d, "\\u%04x", ch);
        else
            buf_putc(d->out, (char)ch);
    }
    buf_putc(d->out, '"');
}

static void print_line(const struct doc *d, int indent, const char *key, struct text value)
{
    if (!value.s)
        return;
    put(d, "%*s%s: ", indent, "", key);
    print_quoted(d, value);
    buf_putc(d->out, '\n');
}

static void print_doc(const struct doc *d, int indent, const char *doc)
{
    if (doc)
        print_line(d, indent, "description", text_of(doc));
}

static void print_bound(const struct doc *d, int indent, const char *key, int64_t bound, int64_t none)
{
    if (bound != none)
        put(d, "%*s%s: %lld\n", indent, "", key, (long long)bound);
}

static void print_range(const struct doc *d, int indent, const struct schema_field *f)
{
    static const char *const low[] = {"minLength", "minItems", "minProperties", "minimum"};
    static const char *const high[] = {"maxLength", "maxItems", "maxProperties", "maximum"};
    int word = f->shape == SCHEMA_LIST  ? 1
               : f->shape == SCHEMA_MAP ? 2
               : f->kind == SCHEMA_STR  ? 0
                                        : 3;

    print_bound(d, indent, low[word], f->min, INT64_MIN);
    print_bound(d, indent, high[word], f->max, INT64_MAX);
}

static void print_choices(const struct doc *d, int indent, struct text choices)
{
    const char *p = choices.s, *end = p + choices.len;

    put(d, "%*stype: string\n%*senum: [", indent, "", indent, "");
    while (p <= end) {
        const char *bar = memchr(p, '|', (size_t)(end - p));
        size_t len = (size_t)((bar ? bar : end) - p);

        if (p > choices.s)
            put(d, ", ");
        print_quoted(d, (struct text){p, len});
        p += len + 1;
    }
    put(d, "]\n");
}

/* Types of one service are told apart from another's by its name. */
static const char *owner_of(const struct doc *d, const struct schema_type *type)
{
    for (size_t i = 0; i < d->n; i++)
        if (type >= d->schemas[i]->types && type < d->schemas[i]->types + d->schemas[i]->n_types)
            return d->schemas[i]->service;
    return schema_core()->service;
}

static void print_kind(const struct doc *d, int indent, const struct schema_field *f)
{
    static const char *const types[] = {
        [SCHEMA_BOOL] = "type: boolean",
        [SCHEMA_INT] = "type: integer\nformat: int64",
        [SCHEMA_FLOAT] = "type: number\nformat: double",
        [SCHEMA_STR] = "type: string",
        [SCHEMA_NAME] = "type: string\npattern: \"^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$\"",
        [SCHEMA_TIME] = "type: string\nformat: date-time",
        [SCHEMA_ANY] = "description: \"Any value.\"",
    };
    const char *second;

    if (f->kind == SCHEMA_REF) {
        put(d, "%*s$ref: \"#/components/schemas/%s.%s\"\n", indent, "", owner_of(d, f->ref),
               f->ref->name);
        return;
    }
    if (f->kind == SCHEMA_ENUM) {
        print_choices(d, indent, f->choices);
        return;
    }
    second = strchr(types[f->kind], '\n');
    if (!second) {
        put(d, "%*s%s\n", indent, "", types[f->kind]);
        return;
    }
    put(d, "%*s%.*s\n", indent, "", (int)(second - types[f->kind]), types[f->kind]);
    put(d, "%*s%s\n", indent, "", second + 1);
}

/* A value, list or map of the kind; what stands around it has been printed. */
static void print_shape(const struct doc *d, int indent, const struct schema_field *f)
{
    if (f->shape == SCHEMA_ONE) {
        print_kind(d, indent, f);
        print_range(d, indent, f);
        return;
    }
    put(d, "%*stype: %s\n", indent, "", f->shape == SCHEMA_LIST ? "array" : "object");
    print_range(d, indent, f);
    put(d, "%*s%s:\n", indent, "", f->shape == SCHEMA_LIST ? "items" : "additionalProperties");
    print_kind(d, indent + 2, f);
}

static void print_default(const struct doc *d, int indent, const struct schema_field *f)
{
    if (!f->def.s)
        return;
    if (f->kind == SCHEMA_BOOL || f->kind == SCHEMA_INT || f->kind == SCHEMA_FLOAT)
        put(d, "%*sdefault: %.*s\n", indent, "", (int)f->def.len, f->def.s);
    else
        print_line(d, indent, "default", f->def);
}

static void print_field_schema(const struct doc *d, int indent, const struct schema_field *f)
{
    bool one = f->shape == SCHEMA_ONE;

    print_line(d, indent, "description", f->doc);
    print_default(d, indent, f);
    if (f->nullable)
        put(d, "%*sanyOf:\n%*s- type: \"null\"\n%*s-\n", indent, "", indent + 2, "", indent + 2,
               "");
    else if (one && f->kind == SCHEMA_REF && f->doc.s) /* a $ref takes no neighbours */
        put(d, "%*sallOf:\n%*s-\n", indent, "", indent + 2, "");
    else if (one && f->kind == SCHEMA_ANY && f->doc.s)
        return;
    else
        indent -= 4;
    print_shape(d, indent + 4, f);
}

static void print_required(const struct doc *d, int indent, const struct schema_type *type)
{
    size_t n = 0;

    for (size_t i = 0; i < type->n_fields; i++)
        if (!type->fields[i].optional)
            put(d, "%s%.*s", n++ ? ", " : (put(d, "%*srequired: [", indent, ""), ""),
                   (int)type->fields[i].name.len, type->fields[i].name.s);
    if (n)
        put(d, "]\n");
}

static void print_type(const struct doc *d, int indent, const struct schema_type *type, bool strict)
{
    print_doc(d, indent, type->doc);
    if (type->alias) {
        print_field_schema(d, indent, &type->fields[0]);
        return;
    }
    put(d, "%*stype: object\n", indent, "");
    if (strict)
        put(d, "%*sadditionalProperties: false\n", indent, "");
    print_required(d, indent, type);
    if (type->n_fields)
        put(d, "%*sproperties:\n", indent, "");
    for (size_t i = 0; i < type->n_fields; i++) {
        put(d, "%*s%.*s:\n", indent + 2, "", (int)type->fields[i].name.len, type->fields[i].name.s);
        print_field_schema(d, indent + 4, &type->fields[i]);
    }
}

/* {root} and so on become parameters with their meaning. */
static void print_parameters(const struct doc *d, const char *address)
{
    bool any = false;

    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        char token[32];

        (void)snprintf(token, sizeof token, "{%s}", parameters[i].name); /* names are short */
        if (!strstr(address, token))
            continue;
        if (!any)
            put(d, "    parameters:\n");
        any = true;
        put(d, "      %s:\n", parameters[i].name);
        print_doc(d, 8, parameters[i].doc);
    }
}

static void print_channel(const struct doc *d, const char *service, const char *name, const char *address,
                          const char *doc)
{
    put(d, "  %s.%s:\n", service, name);
    print_line(d, 4, "address", text_of(address));
    print_doc(d, 4, doc);
    put(d, "    messages:\n      body:\n        $ref: \"#/components/messages/%s.%s\"\n", service,
           name);
}

/* Its address is null, because the request tells where the reply goes. */
static void print_reply_channel(const struct doc *d, const char *service, const char *name)
{
    put(d, "  %s.%s.reply:\n    address: null\n    messages:\n", service, name);
    put(d, "      body:\n        $ref: \"#/components/messages/%s.%s.reply\"\n", service, name);
    put(d, "      error:\n        $ref: \"#/components/messages/core.error\"\n");
}

static void print_channels(const struct doc *d, const struct schema *s)
{
    char address[256];

    for (size_t i = 0; i < s->verbs.n; i++) {
        const struct schema_entry *e = &s->verbs.items[i];

        (void)snprintf(address, sizeof address, "{root}.{tenant}.rpc.{agent}.%s.%s", s->service,
                       e->name);
        print_channel(d, s->service, e->name, address, e->doc);
        print_parameters(d, address);
        print_reply_channel(d, s->service, e->name);
    }
    for (size_t i = 0; i < s->events.n; i++) {
        const struct schema_entry *e = &s->events.items[i];

        (void)snprintf(address, sizeof address, "{root}.{tenant}.evt.%s.%s.{key}", s->service,
                       e->name);
        print_channel(d, s->service, e->name, address, e->doc);
        print_parameters(d, address);
    }
    for (size_t i = 0; i < s->messages.n; i++) {
        const struct schema_entry *e = &s->messages.items[i];

        print_channel(d, s->service, e->name, e->subject, e->doc);
        print_parameters(d, e->subject);
    }
}

static void print_operation(const struct doc *d, const char *service, const char *name, const char *action)
{
    put(d, "  %s.%s:\n    action: %s\n    channel:\n      $ref: \"#/channels/%s.%s\"\n", service,
           name, action, service, name);
    put(d, "    messages:\n      - $ref: \"#/channels/%s.%s/messages/body\"\n", service, name);
}

static void print_operations(const struct doc *d, const struct schema *s)
{
    for (size_t i = 0; i < s->verbs.n; i++) {
        const char *name = s->verbs.items[i].name;

        print_operation(d, s->service, name, "receive");
        put(d, "    x-access: %s\n    x-user: %s\n", schema_access_name(s->verbs.items[i].access),
            s->verbs.items[i].user ? "true" : "false");
        put(d, "    reply:\n      address:\n        location: \"$message.header#/reply\"\n");
        put(d, "      channel:\n        $ref: \"#/channels/%s.%s.reply\"\n      messages:\n",
               s->service, name);
        put(d, "        - $ref: \"#/channels/%s.%s.reply/messages/body\"\n", s->service, name);
        put(d, "        - $ref: \"#/channels/%s.%s.reply/messages/error\"\n", s->service, name);
    }
    for (size_t i = 0; i < s->events.n; i++)
        print_operation(d, s->service, s->events.items[i].name, "send");
    for (size_t i = 0; i < s->messages.n; i++)
        print_operation(d, s->service, s->messages.items[i].name, "send");
}

static void print_message(const struct doc *d, const struct schema *s, const struct schema_entry *e,
                          const struct schema_type *body, bool strict)
{
    put(d, "    %s.%s%s:\n", s->service, e->name, body == &e->reply ? ".reply" : "");
    if (e->key && body == &e->body) {
        print_line(d, 6, "summary", text_of("The last token of the subject is the key."));
        print_line(d, 6, "description", text_of(e->key));
    }
    put(d, "      payload:\n");
    print_type(d, 8, body, strict);
}

static void print_messages(const struct doc *d, const struct schema *s)
{
    for (size_t i = 0; i < s->verbs.n; i++) {
        print_message(d, s, &s->verbs.items[i], &s->verbs.items[i].body, true);
        print_message(d, s, &s->verbs.items[i], &s->verbs.items[i].reply, false);
    }
    for (size_t i = 0; i < s->events.n; i++)
        print_message(d, s, &s->events.items[i], &s->events.items[i].body, false);
    for (size_t i = 0; i < s->messages.n; i++)
        print_message(d, s, &s->messages.items[i], &s->messages.items[i].body, false);
}

static void print_schemas(const struct doc *d, const struct schema *s)
{
    for (size_t i = 0; i < s->n_types; i++) {
        put(d, "    %s.%s:\n", s->service, s->types[i].name);
        print_type(d, 6, &s->types[i], false);
    }
}

static void print_each(const struct doc *d, const char *heading, void (*print)(const struct doc *d, const struct schema *s))
{
    buf_puts(d->out, heading);
    for (size_t i = 0; i < d->n; i++)
        print(d, d->schemas[i]);
}

void asyncapi_put(struct buf *out, const struct schema *const *schemas, size_t n, const char *comment)
{
    const struct doc doc = {out, schemas, n}, *d = &doc;

    put(d, "# %s\n", comment);
    put(d,
        "asyncapi: 3.0.0\ninfo:\n  title: Muster\n  version: \"%s\"\n"
        "  description: \"Bodies are maps in JSON or MessagePack; the first byte tells. Requests are answered in their own encoding.\"\n"
        "  license:\n    name: Apache-2.0\ndefaultContentType: application/json\n",
        MUSTER_VERSION);
    print_each(d, "channels:\n", print_channels);
    print_each(d, "operations:\n", print_operations);
    print_each(d, "components:\n  messages:\n", print_messages);
    print_each(d, "  schemas:\n", print_schemas);
}
