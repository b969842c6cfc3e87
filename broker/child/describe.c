/* Descriptors over the pipe; see describe.h. What is believed of a stranger is decided in describe_get() and below it. */
#include "child/describe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "base/utf8.h"
#include "config/options.h"

enum { TEXT_LINE = 1, TEXT_LINES = 2, KNOWN_FLAGS = MUSTER_O_ONCE * 2 - 1, OPTION_LEAST = 40, SERVICE_LEAST = 12 };

/* ---- telling -------------------------------------------------------------------------------------------------------------------- */

static void put_options(struct frame *f, const struct config_table *t)
{
    frame_put_u32(f, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        struct muster_option o = table_at(t, i);
        struct config_table fields = table_fields(t, &o);

        frame_put_str(f, o.key);
        frame_put_str(f, o.help);
        frame_put_str(f, o.def);
        frame_put_u32(f, o.type);
        frame_put_u32(f, o.flags);
        frame_put_i64(f, o.min);
        frame_put_i64(f, o.max);
        frame_put_str(f, o.choices);
        if (o.type == MUSTER_T_MAP)
            put_options(f, &fields);
    }
}

static void put_services(struct frame *f, const struct muster_plugin *p)
{
    frame_put_u32(f, p->n_services);
    for (uint32_t i = 0; i < p->n_services; i++) {
        const struct muster_service *s = (const void *)((const char *)p->services + (size_t)i * p->service_size);

        frame_put_str(f, s->name);
        frame_put_str(f, s->verbs);
        frame_put_str(f, s->schema);
    }
}

#define HAS(p, member, bit) (MUSTER_HAS(p, member) && (p)->member ? (bit) : 0u)

static uint32_t has_of(const struct muster_plugin *p)
{
    return HAS(p, drain, DESCRIBE_DRAIN) | HAS(p, on_writable, DESCRIBE_ON_WRITABLE) | HAS(p, on_link, DESCRIBE_ON_LINK) |
           HAS(p, on_tables, DESCRIBE_ON_TABLES) | HAS(p, check, DESCRIBE_CHECK) | HAS(p, reload, DESCRIBE_RELOAD) |
           HAS(p, on_pause, DESCRIBE_ON_PAUSE) | HAS(p, on_resume, DESCRIBE_ON_RESUME);
}

void describe_put(struct frame *f, const struct muster_plugin *p)
{
    const struct config_table table = {p->options, p->n_options, p->option_size};

    frame_put_u32(f, p->abi_major);
    frame_put_u32(f, p->abi_minor);
    frame_put_str(f, p->name);
    frame_put_str(f, p->version);
    frame_put_str(f, p->source_id);
    frame_put_str(f, p->capabilities);
    frame_put_u32(f, has_of(p));
    put_options(f, &table);
    put_services(f, p);
}

/* ---- hearing -------------------------------------------------------------------------------------------------------------------- */

struct hearing {
    struct frame_reader *r;
    struct arena *memory;
    uint32_t n_options; /* so far, with those in maps */
    int code;           /* of the first fault; why says which */
    char *why;
};

static void refuse(struct hearing *h, int code, const char *fmt, ...) MUSTER_PRINTF(3, 4);

static void refuse(struct hearing *h, int code, const char *fmt, ...)
{
    va_list ap;

    if (h->code)
        return;
    h->code = code;
    va_start(ap, fmt);
    (void)vsnprintf(h->why, DESCRIBE_WHY_SIZE, fmt, ap);
    va_end(ap);
}

/* These texts reach logs and terminals: nothing in them may move a cursor. */
static bool is_printable(const char *s, size_t len, int form)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] == 0x7f || ((unsigned char)s[i] < ' ' && !(form == TEXT_LINES && strchr("\n\t", s[i]))))
            return false;
    return utf8_is_valid(s, len);
}

/* A copy; what names it in messages. NULL: it was absent, or is refused. */
static const char *hear_text(struct hearing *h, const char *what, size_t max, int form)
{
    const char *s = frame_get_str(h->r), *copy;
    size_t len = s ? strlen(s) : 0;

    if (h->code || !s)
        return NULL;
    if (len > max)
        refuse(h, MUSTER_EINVAL, "%s of %zu bytes, expected at most %zu", what, len, max);
    else if (!is_printable(s, len, form))
        refuse(h, MUSTER_EINVAL, "%s is not printable UTF-8", what);
    copy = h->code ? NULL : arena_strdup(h->memory, s);
    if (!copy)
        refuse(h, MUSTER_ENOMEM, "no memory for its descriptor");
    return copy;
}

static uint32_t hear_count(struct hearing *h, const char *what, size_t least, uint32_t max)
{
    uint32_t n = frame_get_count(h->r, least);

    if (n <= max && !h->code)
        return n;
    refuse(h, MUSTER_EINVAL, "%u %s, expected at most %u", n, what, max);
    return 0;
}

static struct config_table hear_options(struct hearing *h, int depth, size_t *ret_size);

/* Offsets are ours: everything lies at a multiple of eight. */
static void hear_option(struct hearing *h, struct muster_option *o, int depth, size_t *size)
{
    struct config_table fields;

    o->key = hear_text(h, "the key of an option", CONFIG_MAX_KEY, TEXT_LINE);
    o->help = hear_text(h, "the help of an option", DESCRIBE_MAX_TEXT, TEXT_LINES);
    o->def = hear_text(h, "the default of an option", DESCRIBE_MAX_TEXT, TEXT_LINES);
    o->type = frame_get_u32(h->r);
    o->flags = frame_get_u32(h->r) & KNOWN_FLAGS;
    o->min = frame_get_i64(h->r);
    o->max = frame_get_i64(h->r);
    o->choices = hear_text(h, "the choices of an option", DESCRIBE_MAX_TEXT, TEXT_LINE);
    if (!o->help)
        o->help = "";
    if (o->type > MUSTER_T_MAP)
        refuse(h, MUSTER_EINVAL, "option %s is of type %u, which this broker does not know", o->key ? o->key : "?", o->type);
    if (h->code)
        return;
    o->offset = *size;
    *size += (option_size(o->type) + 7) / 8 * 8;
    if (o->type != MUSTER_T_MAP)
        return;
    fields = hear_options(h, depth + 1, &o->entry_size);
    o->fields = fields.options;
    o->n_fields = fields.n;
}

/* The recursion ends with DESCRIBE_MAX_DEPTH, and the whole of it with DESCRIBE_MAX_OPTIONS. */
static struct config_table hear_options(struct hearing *h, int depth, size_t *ret_size)
{
    uint32_t n = hear_count(h, "options", OPTION_LEAST, DESCRIBE_MAX_OPTIONS - h->n_options);
    struct muster_option *options = arena_alloc(h->memory, n, sizeof *options);
    size_t size = 0;

    if (!options)
        refuse(h, MUSTER_ENOMEM, "no memory for its descriptor");
    if (depth > DESCRIBE_MAX_DEPTH)
        refuse(h, MUSTER_EINVAL, "options nested more than %d deep", DESCRIBE_MAX_DEPTH);
    h->n_options += n;
    for (uint32_t i = 0; i < n && !h->code; i++)
        hear_option(h, &options[i], depth, &size);
    *ret_size = size;
    return (struct config_table){options, n, sizeof *options};
}

static void hear_service(struct hearing *h, struct muster_service *s)
{
    *s = (struct muster_service){.size = sizeof *s};
    s->name = hear_text(h, "the name of a service", NAME_MAX_LEN, TEXT_LINE);
    s->verbs = hear_text(h, "the verbs of a service", DESCRIBE_MAX_TEXT, TEXT_LINE);
    s->schema = hear_text(h, "the schema of a service", DESCRIBE_MAX_SCHEMA, TEXT_LINES);
    if (!h->code && (!s->name || !name_is_public(s->name, strlen(s->name))))
        refuse(h, MUSTER_EINVAL, "service \"%s\": expected letters, digits, _ or -", s->name ? s->name : "");
    if (!h->code && !s->verbs)
        refuse(h, MUSTER_EINVAL, "service %s has no verbs", s->name);
}

static void hear_services(struct hearing *h, struct muster_plugin *p)
{
    uint32_t n = hear_count(h, "services", SERVICE_LEAST, DESCRIBE_MAX_SERVICES);
    struct muster_service *services = arena_alloc(h->memory, n, sizeof *services);

    if (!services)
        refuse(h, MUSTER_ENOMEM, "no memory for its descriptor");
    for (uint32_t i = 0; i < n && !h->code; i++)
        hear_service(h, &services[i]);
    p->services = services;
    p->n_services = n;
    p->service_size = sizeof *services;
}

static void hear_head(struct hearing *h, struct muster_plugin *p)
{
    uint32_t major = frame_get_u32(h->r), minor = frame_get_u32(h->r);

    p->size = sizeof *p;
    p->abi_major = (uint16_t)major;
    p->abi_minor = (uint16_t)minor;
    p->name = hear_text(h, "its name", NAME_MAX_LEN, TEXT_LINE);
    p->version = hear_text(h, "its version", NAME_MAX_LEN, TEXT_LINE);
    p->source_id = hear_text(h, "its source_id", 4 * NAME_MAX_LEN, TEXT_LINE);
    p->capabilities = hear_text(h, "its capabilities", 4 * NAME_MAX_LEN, TEXT_LINE);
    if (major != MUSTER_ABI_MAJOR || minor > MUSTER_ABI_MINOR || minor < MUSTER_ABI_OLDEST)
        refuse(h, MUSTER_EABI, "made for ABI %u.%u, this broker loads ABI %d.%d to %d.%d", major, minor, MUSTER_ABI_MAJOR, MUSTER_ABI_OLDEST,
               MUSTER_ABI_MAJOR, MUSTER_ABI_MINOR);
    if (!h->code && (!p->name || !name_is_public(p->name, strlen(p->name)) || !p->version || !*p->version))
        refuse(h, MUSTER_EINVAL, "its name is \"%s\" and its version \"%s\", expected letters, digits, _ or -, and a version",
               p->name ? p->name : "", p->version ? p->version : "");
}

static void keep_said(struct hearing *h, struct described *d)
{
    size_t len = (size_t)(h->r->end - h->r->at);
    void *copy = arena_alloc(h->memory, len, 1);

    if (!copy) {
        refuse(h, MUSTER_ENOMEM, "no memory for its descriptor");
        return;
    }
    memcpy(copy, h->r->at, len);
    d->said = (struct muster_bytes){copy, len};
}

static void hear_descriptor(struct hearing *h, struct described *d)
{
    struct muster_plugin *p = &d->plugin;
    struct config_table table;
    const char *fault, *key;

    keep_said(h, d);
    hear_head(h, p);
    d->has = frame_get_u32(h->r);
    table = hear_options(h, 0, &p->config_size);
    p->options = table.options;
    p->n_options = table.n;
    p->option_size = table.stride;
    hear_services(h, p);
    if (!h->code && !frame_is_read(h->r))
        refuse(h, MUSTER_EINVAL, "its descriptor is cut, or too long");
    fault = h->code ? NULL : table_fault(&table, p->config_size, &key);
    if (fault)
        refuse(h, MUSTER_EINVAL, "its option table is wrong at %s: %s", key, fault);
}

int describe_get(struct frame_reader *r, struct described **ret_described, char why[DESCRIBE_WHY_SIZE])
{
    struct described *d = calloc(1, sizeof *d);
    struct hearing h = {.r = r, .memory = d ? &d->memory : NULL, .why = why};

    if (!d) {
        refuse(&h, MUSTER_ENOMEM, "no memory for its descriptor");
        return MUSTER_ENOMEM;
    }
    hear_descriptor(&h, d);
    if (h.code)
        describe_free(d);
    else
        *ret_described = d;
    return h.code;
}

bool describe_is_same(const struct described *d, const struct frame_reader *r)
{
    return !r->bad && (size_t)(r->end - r->at) == d->said.len && memcmp(r->at, d->said.data, d->said.len) == 0;
}

void describe_free(struct described *d)
{
    if (!d)
        return;
    arena_done(&d->memory);
    free(d);
}
