/*
 * relation - the tables that pgoutput has described; see relation.h.
 *
 * pgoutput describes a table before its first row in a session and again after anything in its
 * cache changed, which can be often and mean nothing. Therefore a description is built aside first,
 * compared, and then moved in: a failure leaves the old one in force, and "did the columns change"
 * is a comparison of the two `columns` lists as readers would see them.
 */
#include "cdc/relation.h"

#include <stdlib.h>

#include "muster/plugin.h"

static const uint32_t encodings[RELATION_ENCODINGS] = {
    [RELATION_JSON] = MUSTER_JSON, [RELATION_MSGPACK] = MUSTER_MSGPACK};

static void release(struct relation *rel)
{
    free(rel->columns);
    buf_done(&rel->names);
    buf_done(&rel->text);
}

void relations_done(struct relations *r)
{
    size_t at = 0;
    void *value;

    while (map_next(&r->by_id, &at, NULL, &value)) {
        struct relation *rel = value;

        if (r->user_free && rel->user)
            r->user_free(rel->user);
        release(rel);
        free(rel);
    }
    map_done(&r->by_id);
    r->last = NULL;
}

/* The NUL is kept: names go to strcmp() and to the log. */
static struct relation_span put_name(struct buf *names, const char *name)
{
    struct relation_span span = {.at = (uint32_t)names->len, .len = (uint32_t)strlen(name)};

    buf_put(names, name, span.len + 1);
    return span;
}

static struct relation_span span_from(size_t at, const struct buf *b)
{
    return (struct relation_span){.at = (uint32_t)at, .len = (uint32_t)(b->len - at)};
}

/* Write a name of the database as a key. */
static void put_key(struct out *o, const char *name, size_t len)
{
    out_name(o, name, len);
    if (o->encoding == MUSTER_JSON)
        buf_putc(o->b, ':');
    o->comma = false;
}

/* The beginning of every body of the table. */
static struct relation_span make_head(const struct relation *rel, struct out *o)
{
    size_t at = o->b->len;

    o->comma = false;
    OUT_KEY(o, "schema");
    out_name(o, relation_name(rel, rel->schema), rel->schema.len);
    OUT_KEY(o, "table");
    out_name(o, relation_name(rel, rel->table), rel->table.len);
    OUT_KEY(o, "op");
    return span_from(at, o->b);
}

/* The value of `columns`, readers' only description of the table. */
static struct relation_span make_list(const struct relation *rel, const struct types *t,
                                      struct out *o)
{
    size_t at = o->b->len, list;
    struct buf type = {0};

    o->comma = false;
    list = out_open(o, OUT_ARRAY);
    for (uint32_t i = 0; i < rel->n_columns; i++) {
        const struct relation_column *c = &rel->columns[i];
        size_t map = out_open(o, OUT_MAP);

        OUT_KEY(o, "name");
        out_name(o, relation_name(rel, c->name), c->name.len);
        OUT_KEY(o, "type");
        buf_clear(&type);
        types_put_name(t, c->type, &type);
        o->b->failed |= buf_failed(&type);
        out_name(o, type.data ? type.data : "", type.len);
        out_close(o, OUT_MAP, map, 2);
    }
    out_close(o, OUT_ARRAY, list, rel->n_columns);
    buf_done(&type);
    return span_from(at, o->b);
}

/* Make all parts of one encoding. */
static void make_parts(struct relation *rel, const struct types *t, struct out *o, int e)
{
    o->encoding = encodings[e];
    rel->head[e] = make_head(rel, o);
    for (uint32_t i = 0; i < rel->n_columns; i++) {
        struct relation_column *c = &rel->columns[i];
        size_t at = o->b->len;

        o->comma = true; /* out_key_ready() drops it where the column comes first */
        put_key(o, relation_name(rel, c->name), c->name.len);
        c->name_key[e] = span_from(at, o->b);
    }
    rel->list[e] = make_list(rel, t, o);
}

/* Make the parts that depend on names and types, from rel->names and the columns. */
static int make_text(struct relation *rel, const struct types *t)
{
    struct out o = {0};

    out_to(&o, &rel->text);
    for (int e = 0; e < RELATION_ENCODINGS; e++)
        make_parts(rel, t, &o, e);
    for (uint32_t i = 0; i < rel->n_columns; i++)
        rel->columns[i].value = types_value(t, rel->columns[i].type);
    out_done(&o);
    return buf_failed(&rel->text) ? MUSTER_ENOMEM : 0;
}

/* Whatever the result, release() undoes it. */
static int build(struct relation *rel, const struct types *t, const struct pgoutput *msg)
{
    uint32_t n = msg->relation.n_columns;

    *rel = (struct relation){
        .id = msg->relation.id, .version = 1, .described = 1, .identity = msg->relation.identity, .n_columns = n};
    rel->columns = calloc(n ? n : 1, sizeof *rel->columns);
    if (!rel->columns)
        return MUSTER_ENOMEM;
    rel->schema =
        put_name(&rel->names, msg->relation.schema[0] ? msg->relation.schema : "pg_catalog");
    rel->table = put_name(&rel->names, msg->relation.table);
    for (uint32_t i = 0; i < n; i++) {
        const struct pgoutput_column *from = &msg->columns[i];
        struct relation_column *c = &rel->columns[i];

        *c = (struct relation_column){
            .type = from->type, .typmod = from->typmod, .identity = from->identity};
        c->key = from->identity && strchr("di", rel->identity);
        c->name = put_name(&rel->names, from->name);
        rel->n_key += c->key;
    }
    return buf_failed(&rel->names) ? MUSTER_ENOMEM : make_text(rel, t);
}

static bool same_list(const struct relation *a, const struct relation *b)
{
    struct relation_span x = a->list[RELATION_JSON], y = b->list[RELATION_JSON];

    return x.len == y.len && memcmp(a->text.data + x.at, b->text.data + y.at, x.len) == 0;
}

/* Let old become fresh, keeping what outlives a description. */
static void replace(struct relation *old, struct relation *fresh)
{
    bool same = same_list(old, fresh);

    fresh->version = old->version + !same;
    fresh->described = old->described + 1;
    fresh->user = old->user;
    /* Under the other identities the flags of the message decide. */
    if (same && fresh->identity == old->identity && strchr("fn", fresh->identity)) {
        for (uint32_t i = 0; i < fresh->n_columns; i++)
            fresh->columns[i].key = old->columns[i].key;
        fresh->n_key = old->n_key;
    }
    release(old);
    *old = *fresh;
}

/* Take in a table that is new. */
static int insert(struct relations *r, const struct relation *fresh, struct relation **ret_relation)
{
    struct relation *rel;

    if (r->by_id.n >= RELATIONS_MAX)
        return MUSTER_EAGAIN;
    rel = malloc(sizeof *rel);
    if (!rel || !map_put(&r->by_id, &fresh->id, sizeof fresh->id, rel)) {
        free(rel);
        return MUSTER_ENOMEM;
    }
    *rel = *fresh;
    *ret_relation = rel;
    return 0;
}

int relations_put(struct relations *r, const struct types *t, const struct pgoutput *msg,
                  struct relation **ret_relation)
{
    struct relation *old = relations_get(r, msg->relation.id), fresh;
    int err = build(&fresh, t, msg);

    if (!err && old) {
        replace(old, &fresh);
        *ret_relation = old;
        return 0;
    }
    if (!err)
        err = insert(r, &fresh, ret_relation);
    if (err)
        release(&fresh);
    return err;
}

struct relation *relations_get(struct relations *r, uint32_t id)
{
    if (!r->last || r->last->id != id)
        r->last = map_get(&r->by_id, &id, sizeof id);
    return r->last;
}

/* Built aside as well: rows may be on their way that still use the old parts. */
int relation_resolve(struct relation *rel, const struct types *t)
{
    struct relation fresh = *rel;
    int err;

    fresh.text = (struct buf){0};
    fresh.columns = calloc(rel->n_columns ? rel->n_columns : 1, sizeof *fresh.columns);
    if (!fresh.columns)
        return MUSTER_ENOMEM;
    memcpy(fresh.columns, rel->columns, rel->n_columns * sizeof *fresh.columns);
    err = make_text(&fresh, t);
    if (err) {
        buf_done(&fresh.text);
        free(fresh.columns);
        return err;
    }
    fresh.version += !same_list(rel, &fresh);
    buf_done(&rel->text);
    free(rel->columns);
    *rel = fresh;
    return 0;
}

static bool holds(const uint32_t *oids, size_t n, uint32_t oid)
{
    for (size_t i = 0; i < n; i++)
        if (oids[i] == oid)
            return true;
    return false;
}

size_t relation_missing_types(const struct relation *rel, const struct types *t, uint32_t *oids,
                              size_t max)
{
    size_t n = 0;

    for (uint32_t i = 0; i < rel->n_columns && n < max; i++) {
        uint32_t oid = types_missing(t, rel->columns[i].type);

        if (oid && !holds(oids, n, oid))
            oids[n++] = oid;
    }
    return n;
}

int relation_set_key(struct relation *rel, const char *const *names, size_t n)
{
    if (!strchr("fn", rel->identity))
        return MUSTER_EINVAL;
    for (size_t i = 0; i < n; i++)
        if (relation_find_column(rel, names[i]) < 0)
            return MUSTER_EINVAL;
    for (uint32_t i = 0; i < rel->n_columns; i++)
        rel->columns[i].key = false;
    rel->n_key = 0;
    for (size_t i = 0; i < n; i++) {
        struct relation_column *c = &rel->columns[relation_find_column(rel, names[i])];

        rel->n_key += !c->key;
        c->key = true;
    }
    return 0;
}

int relation_find_column(const struct relation *rel, const char *name)
{
    for (uint32_t i = 0; i < rel->n_columns; i++)
        if (strcmp(relation_name(rel, rel->columns[i].name), name) == 0)
            return (int)i;
    return -1;
}
