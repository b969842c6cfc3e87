/*
 * muster-asyncapi - print the AsyncAPI 3.0 document of all definitions in schemas/messages/.
 *
 * A tool of the build: it loads every definition, so a wrong one stops the build with the file and
 * the place. The document describes the broker's side: it receives requests and answers them, and
 * it sends events and other messages.
 */
#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "wire/schema.h"

struct definition {
    const char *file, *text;
};

#include "schemas/all.inc"

enum { N_DEFINITIONS = sizeof definitions / sizeof *definitions };

static struct schema *schemas[N_DEFINITIONS];

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
static void print_quoted(struct text t)
{
    putchar('"');
    for (size_t i = 0; i < t.len; i++) {
        unsigned char ch = (unsigned char)t.s[i];

        if (ch == '"' || ch == '\\')
            printf("\\%c", ch);
        else if (ch < 0x20)
            printf("\\u%04x", ch);
        else
            putchar(ch);
    }
    putchar('"');
}

static void print_line(int indent, const char *key, struct text value)
{
    if (!value.s)
        return;
    printf("%*s%s: ", indent, "", key);
    print_quoted(value);
    putchar('\n');
}

static void print_doc(int indent, const char *doc)
{
    if (doc)
        print_line(indent, "description", text_of(doc));
}

static void print_bound(int indent, const char *key, int64_t bound, int64_t none)
{
    if (bound != none)
        printf("%*s%s: %lld\n", indent, "", key, (long long)bound);
}

static void print_range(int indent, const struct schema_field *f)
{
    static const char *const low[] = {"minLength", "minItems", "minProperties", "minimum"};
    static const char *const high[] = {"maxLength", "maxItems", "maxProperties", "maximum"};
    int word = f->shape == SCHEMA_LIST  ? 1
               : f->shape == SCHEMA_MAP ? 2
               : f->kind == SCHEMA_STR  ? 0
                                        : 3;

    print_bound(indent, low[word], f->min, INT64_MIN);
    print_bound(indent, high[word], f->max, INT64_MAX);
}

static void print_choices(int indent, struct text choices)
{
    const char *p = choices.s, *end = p + choices.len;

    printf("%*stype: string\n%*senum: [", indent, "", indent, "");
    while (p <= end) {
        const char *bar = memchr(p, '|', (size_t)(end - p));
        size_t len = (size_t)((bar ? bar : end) - p);

        if (p > choices.s)
            printf(", ");
        print_quoted((struct text){p, len});
        p += len + 1;
    }
    printf("]\n");
}

/* Types of one service are told apart from another's by its name. */
static const char *owner_of(const struct schema_type *type)
{
    for (size_t i = 0; i < N_DEFINITIONS; i++)
        if (type >= schemas[i]->types && type < schemas[i]->types + schemas[i]->n_types)
            return schemas[i]->service;
    return schema_core()->service;
}

static void print_kind(int indent, const struct schema_field *f)
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
        printf("%*s$ref: \"#/components/schemas/%s.%s\"\n", indent, "", owner_of(f->ref),
               f->ref->name);
        return;
    }
    if (f->kind == SCHEMA_ENUM) {
        print_choices(indent, f->choices);
        return;
    }
    second = strchr(types[f->kind], '\n');
    if (!second) {
        printf("%*s%s\n", indent, "", types[f->kind]);
        return;
    }
    printf("%*s%.*s\n", indent, "", (int)(second - types[f->kind]), types[f->kind]);
    printf("%*s%s\n", indent, "", second + 1);
}

/* A value, list or map of the kind; what stands around it has been printed. */
static void print_shape(int indent, const struct schema_field *f)
{
    if (f->shape == SCHEMA_ONE) {
        print_kind(indent, f);
        print_range(indent, f);
        return;
    }
    printf("%*stype: %s\n", indent, "", f->shape == SCHEMA_LIST ? "array" : "object");
    print_range(indent, f);
    printf("%*s%s:\n", indent, "", f->shape == SCHEMA_LIST ? "items" : "additionalProperties");
    print_kind(indent + 2, f);
}

static void print_default(int indent, const struct schema_field *f)
{
    if (!f->def.s)
        return;
    if (f->kind == SCHEMA_BOOL || f->kind == SCHEMA_INT || f->kind == SCHEMA_FLOAT)
        printf("%*sdefault: %.*s\n", indent, "", (int)f->def.len, f->def.s);
    else
        print_line(indent, "default", f->def);
}

static void print_field_schema(int indent, const struct schema_field *f)
{
    bool one = f->shape == SCHEMA_ONE;

    print_line(indent, "description", f->doc);
    print_default(indent, f);
    if (f->nullable)
        printf("%*sanyOf:\n%*s- type: \"null\"\n%*s-\n", indent, "", indent + 2, "", indent + 2,
               "");
    else if (one && f->kind == SCHEMA_REF && f->doc.s) /* a $ref takes no neighbours */
        printf("%*sallOf:\n%*s-\n", indent, "", indent + 2, "");
    else if (one && f->kind == SCHEMA_ANY && f->doc.s)
        return;
    else
        indent -= 4;
    print_shape(indent + 4, f);
}

static void print_required(int indent, const struct schema_type *type)
{
    size_t n = 0;

    for (size_t i = 0; i < type->n_fields; i++)
        if (!type->fields[i].optional)
            printf("%s%.*s", n++ ? ", " : (printf("%*srequired: [", indent, ""), ""),
                   (int)type->fields[i].name.len, type->fields[i].name.s);
    if (n)
        printf("]\n");
}

static void print_type(int indent, const struct schema_type *type, bool strict)
{
    print_doc(indent, type->doc);
    if (type->alias) {
        print_field_schema(indent, &type->fields[0]);
        return;
    }
    printf("%*stype: object\n", indent, "");
    if (strict)
        printf("%*sadditionalProperties: false\n", indent, "");
    print_required(indent, type);
    if (type->n_fields)
        printf("%*sproperties:\n", indent, "");
    for (size_t i = 0; i < type->n_fields; i++) {
        printf("%*s%.*s:\n", indent + 2, "", (int)type->fields[i].name.len, type->fields[i].name.s);
        print_field_schema(indent + 4, &type->fields[i]);
    }
}

/* {root} and so on become parameters with their meaning. */
static void print_parameters(const char *address)
{
    bool any = false;

    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        char token[32];

        (void)snprintf(token, sizeof token, "{%s}", parameters[i].name); /* names are short */
        if (!strstr(address, token))
            continue;
        if (!any)
            printf("    parameters:\n");
        any = true;
        printf("      %s:\n", parameters[i].name);
        print_doc(8, parameters[i].doc);
    }
}

static void print_channel(const char *service, const char *name, const char *address,
                          const char *doc)
{
    printf("  %s.%s:\n", service, name);
    print_line(4, "address", text_of(address));
    print_doc(4, doc);
    printf("    messages:\n      body:\n        $ref: \"#/components/messages/%s.%s\"\n", service,
           name);
}

/* Its address is null, because the request tells where the reply goes. */
static void print_reply_channel(const char *service, const char *name)
{
    printf("  %s.%s.reply:\n    address: null\n    messages:\n", service, name);
    printf("      body:\n        $ref: \"#/components/messages/%s.%s.reply\"\n", service, name);
    printf("      error:\n        $ref: \"#/components/messages/core.error\"\n");
}

static void print_channels(const struct schema *s)
{
    char address[256];

    for (size_t i = 0; i < s->verbs.n; i++) {
        const struct schema_entry *e = &s->verbs.items[i];

        (void)snprintf(address, sizeof address, "{root}.{tenant}.rpc.{agent}.%s.%s", s->service,
                       e->name);
        print_channel(s->service, e->name, address, e->doc);
        print_parameters(address);
        print_reply_channel(s->service, e->name);
    }
    for (size_t i = 0; i < s->events.n; i++) {
        const struct schema_entry *e = &s->events.items[i];

        (void)snprintf(address, sizeof address, "{root}.{tenant}.evt.%s.%s.{key}", s->service,
                       e->name);
        print_channel(s->service, e->name, address, e->doc);
        print_parameters(address);
    }
    for (size_t i = 0; i < s->messages.n; i++) {
        const struct schema_entry *e = &s->messages.items[i];

        print_channel(s->service, e->name, e->subject, e->doc);
        print_parameters(e->subject);
    }
}

static void print_operation(const char *service, const char *name, const char *action)
{
    printf("  %s.%s:\n    action: %s\n    channel:\n      $ref: \"#/channels/%s.%s\"\n", service,
           name, action, service, name);
    printf("    messages:\n      - $ref: \"#/channels/%s.%s/messages/body\"\n", service, name);
}

static void print_operations(const struct schema *s)
{
    for (size_t i = 0; i < s->verbs.n; i++) {
        const char *name = s->verbs.items[i].name;

        print_operation(s->service, name, "receive");
        printf("    reply:\n      address:\n        location: \"$message.header#/reply\"\n");
        printf("      channel:\n        $ref: \"#/channels/%s.%s.reply\"\n      messages:\n",
               s->service, name);
        printf("        - $ref: \"#/channels/%s.%s.reply/messages/body\"\n", s->service, name);
        printf("        - $ref: \"#/channels/%s.%s.reply/messages/error\"\n", s->service, name);
    }
    for (size_t i = 0; i < s->events.n; i++)
        print_operation(s->service, s->events.items[i].name, "send");
    for (size_t i = 0; i < s->messages.n; i++)
        print_operation(s->service, s->messages.items[i].name, "send");
}

static void print_message(const struct schema *s, const struct schema_entry *e,
                          const struct schema_type *body, bool strict)
{
    printf("    %s.%s%s:\n", s->service, e->name, body == &e->reply ? ".reply" : "");
    if (e->key && body == &e->body) {
        print_line(6, "summary", text_of("The last token of the subject is the key."));
        print_line(6, "description", text_of(e->key));
    }
    printf("      payload:\n");
    print_type(8, body, strict);
}

static void print_messages(const struct schema *s)
{
    for (size_t i = 0; i < s->verbs.n; i++) {
        print_message(s, &s->verbs.items[i], &s->verbs.items[i].body, true);
        print_message(s, &s->verbs.items[i], &s->verbs.items[i].reply, false);
    }
    for (size_t i = 0; i < s->events.n; i++)
        print_message(s, &s->events.items[i], &s->events.items[i].body, false);
    for (size_t i = 0; i < s->messages.n; i++)
        print_message(s, &s->messages.items[i], &s->messages.items[i].body, false);
}

static void print_schemas(const struct schema *s)
{
    for (size_t i = 0; i < s->n_types; i++) {
        printf("    %s.%s:\n", s->service, s->types[i].name);
        print_type(6, &s->types[i], false);
    }
}

static void print_each(const char *heading, void (*print)(const struct schema *s))
{
    printf("%s", heading);
    for (size_t i = 0; i < N_DEFINITIONS; i++)
        print(schemas[i]);
}

static int load_all(void)
{
    struct wire_error err = {.text = "no memory"};

    for (size_t i = 0; i < N_DEFINITIONS; i++) {
        if (schema_load(definitions[i].text, schema_core(), &schemas[i], &err)) {
            fprintf(stderr, "schemas/messages/%s.yaml: %s\n", definitions[i].file, err.text);
            return -1;
        }
        if (strcmp(schemas[i]->service, definitions[i].file) != 0) {
            fprintf(stderr,
                    "schemas/messages/%s.yaml: service: %s came, expected the name of the file\n",
                    definitions[i].file, schemas[i]->service);
            return -1;
        }
    }
    return 0;
}

static void free_all(void)
{
    for (size_t i = 0; i < N_DEFINITIONS; i++)
        schema_free(schemas[i]);
}

int main(void)
{
    int err = load_all();

    if (!err) {
        printf("# Made by muster-asyncapi from schemas/messages/; edit those. The contract in "
               "words is INTERFACE.\n"
               "asyncapi: 3.0.0\ninfo:\n  title: Muster\n  version: \"%s\"\n"
               "  description: \"Bodies are maps in JSON or MessagePack; the first byte tells. "
               "Requests are answered in their "
               "own encoding.\"\n  license:\n    name: Apache-2.0\ndefaultContentType: "
               "application/json\n",
               MUSTER_VERSION);
        print_each("channels:\n", print_channels);
        print_each("operations:\n", print_operations);
        print_each("components:\n  messages:\n", print_messages);
        print_each("  schemas:\n", print_schemas);
    }
    free_all();
    return err ? 1 : 0;
}
