/* What watch.open asks for; see watch.h. The broker has held it against the definition. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/doc.h"
#include "fanout/watch.h"


enum { MAX_BYTES = 262144 };

static bool complain(struct complaint *c, const char *code, const char *field, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static bool complain(struct complaint *c, const char *code, const char *field, const char *fmt, ...)
{
    va_list ap;

    c->code = code;
    c->field = field;
    va_start(ap, fmt);
    (void)vsnprintf(c->text, sizeof c->text, fmt, ap);
    va_end(ap);
    return false;
}

static const char *text(const struct muster_value *args, const char *key)
{
    return doc_text(doc_get(args, key), NULL);
}

static int64_t number(const struct muster_value *args, const char *key, int64_t otherwise)
{
    const struct muster_value *v = doc_get(args, key);

    return v ? doc_int(v) : otherwise;
}

static bool read_events(const struct muster_value *args, struct watch_spec *s, struct complaint *c)
{
    const struct muster_value *events = doc_get(args, "events");

    s->ops = events ? 0 : ROW_ANY;
    for (size_t i = 0; i < doc_count(events); i++) {
        const char *name = doc_text(value_at(events, i), NULL);
        uint32_t op = strcmp(name, "*") == 0 ? ROW_ANY : row_op((struct span){name, strlen(name)});

        if (!op)
            return complain(c, "invalid_argument", "events", "events[%zu]: %s came, one of insert, update, delete, truncate and * was expected", i,
                            name);
        s->ops |= op;
    }
    return true;
}

static uint32_t slow_of(const char *word)
{
    static const char *const words[] = {[SLOW_PAUSE] = "pause", [SLOW_DROP_OLD] = "drop_old", [SLOW_CONFLATE] = "conflate", [SLOW_CUT] = "cut"};
    uint32_t i = 0;

    while (word && i < 3 && strcmp(word, words[i]) != 0)
        i++;
    return word ? i : SLOW_PAUSE;
}

static void read_rules(const struct muster_value *args, struct watch_spec *s)
{
    const char *encoding = text(args, "encoding");

    s->conflate_by = text(args, "conflate_by");
    s->encoding = !encoding ? 0 : strcmp(encoding, "msgpack") == 0 ? MUSTER_MSGPACK : MUSTER_JSON;
    s->rules = (struct batch_rules){.interval_ns = number(args, "interval_ms", 0) * CLOCK_MS,
                                    .max_bytes = (size_t)number(args, "max_bytes", MAX_BYTES),
                                    .slow = slow_of(text(args, "slow")),
                                    .conflates = s->conflate_by != NULL};
}

bool watch_spec_read(const struct muster_value *args, struct watch_spec *ret, struct complaint *c)
{
    static const char *const of_tables[] = {"schema", "table", "source", "events", "filter", "columns"};

    *c = (struct complaint){.code = NULL};
    *ret = (struct watch_spec){.schema = text(args, "schema"), .table = text(args, "table"), .source = text(args, "source"),
                         .filter = text(args, "filter"), .columns = doc_get(args, "columns"), .sources = doc_get(args, "sources"),
                         .after = doc_get(args, "after")};
    read_rules(args, ret);
    if (!ret->source)
        ret->source = "main";
    if (!ret->filter)
        ret->filter = "";
    for (size_t i = 0; ret->sources && i < sizeof of_tables / sizeof *of_tables; i++)
        if (doc_get(args, of_tables[i]))
            return complain(c, "invalid_argument", of_tables[i], "%s: it came with sources, one of the two forms was expected", of_tables[i]);
    if (!ret->sources && (!ret->schema || !ret->table))
        return complain(c, "invalid_argument", ret->schema ? "table" : "schema", "%s: nothing came, schema and table, or sources were expected",
                        ret->schema ? "table" : "schema");
    return read_events(args, ret, c);
}

/* ---- the table ----------------------------------------------------------------------------------------------------------------- */

static char first_of(const struct muster_value *column, const char *key)
{
    const char *s = text(column, key);

    return s ? *s : '\0';
}

static bool read_columns(const struct muster_value *columns, struct table_info *info)
{
    info->n = doc_count(columns);
    info->columns = calloc(info->n ? info->n : 1, sizeof *info->columns);
    for (size_t i = 0; info->columns && i < info->n; i++) {
        const struct muster_value *column = value_at(columns, i);
        struct filter_column *to = &info->columns[i];

        to->name = text(column, "name");
        to->type = text(column, "type");
        if (!to->name || !to->type)
            return false;
        to->class = datum_class(to->type, first_of(column, "typtype"), first_of(column, "category"));
        to->in_identity = doc_int(doc_get(column, "identity")) != 0;
    }
    return info->columns != NULL;
}

int table_info_read(const char *json, struct table_info *ret)
{
    struct wire_error error;
    struct table_info info = {.doc = NULL};
    int err = value_decode(MUSTER_JSON, (struct muster_bytes){json, strlen(json)}, &info.doc, &error);

    if (!err && !read_columns(doc_get(info.doc, "columns"), &info))
        err = MUSTER_EINVAL;
    if (err)
        table_info_done(&info);
    else
        *ret = info;
    return err;
}

void table_info_done(struct table_info *info)
{
    value_free(info->doc);
    free(info->columns);
    *info = (struct table_info){.doc = NULL};
}

/* ---- a watch ------------------------------------------------------------------------------------------------------------------- */

static const struct filter_column *column_of(const struct table_info *info, const char *name)
{
    for (size_t i = 0; i < info->n; i++)
        if (strcmp(info->columns[i].name, name) == 0)
            return &info->columns[i];
    return NULL;
}

static bool check_columns(const struct watch *w, const struct table_info *info, struct complaint *c)
{
    const char *by = w->spec.conflate_by;

    for (size_t i = 0; i < doc_count(w->spec.columns); i++) {
        const char *name = doc_text(value_at(w->spec.columns, i), NULL);

        if (!column_of(info, name))
            return complain(c, "invalid_argument", "columns", "columns[%zu]: %s came, the name of a column of %s.%s was expected", i, name,
                            w->spec.schema, w->spec.table);
    }
    if (by && strcmp(by, "_key") != 0 && !column_of(info, by))
        return complain(c, "invalid_argument", "conflate_by", "conflate_by: %s came, the name of a column of %s.%s or _key was expected", by,
                        w->spec.schema, w->spec.table);
    return true;
}

struct owner_search {
    const struct watch_spec *spec;
    const char *owner;
};

static void on_table(void *arg, const struct muster_table *table)
{
    struct owner_search *s = arg;

    if (strcmp(table->schema, s->spec->schema) == 0 && strcmp(table->table, s->spec->table) == 0)
        s->owner = table->owner_column;
}

/* The column that says whose a row is, for a user; NULL for others. */
static bool owner_of(struct watch *w, const char **ret_owner, struct complaint *c)
{
    struct owner_search search = {.spec = &w->spec};
    uint64_t serial;

    *ret_owner = NULL;
    if (w->role != MUSTER_ROLE_USER)
        return true;
    (void)w->ws->f->tenants->tables(w->ws->f->host, on_table, &search, &serial);
    *ret_owner = search.owner;
    w->owned = true;
    return search.owner || complain(c, "permission_denied", "table", "%s.%s has no owner column: a user cannot be shown whose its rows are",
                                    w->spec.schema, w->spec.table);
}

static bool check_identity(const struct watch *w, const struct table_info *info, struct complaint *c)
{
    const struct filter_column *missing = filter_unidentified(w->filter, info->columns, info->n);

    if (!missing || !(w->spec.ops & (ROW_UPDATE | ROW_DELETE)))
        return true;
    return complain(c, "failed_precondition", "filter",
                    "filter: column %s is not in the replica identity of %s.%s, so that updates and deletes do not tell its old value; "
                    "ALTER TABLE \"%s\".\"%s\" REPLICA IDENTITY FULL, or events without update and delete",
                    missing->name, w->spec.schema, w->spec.table, w->spec.schema, w->spec.table);
}

static bool note_binary(struct watch *w, const struct table_info *info)
{
    buf_clear(&w->binary);
    for (size_t i = 0; i < info->n; i++)
        if (strcmp(info->columns[i].type, "bytea") == 0)
            buf_put(&w->binary, info->columns[i].name, strlen(info->columns[i].name) + 1);
    return !buf_failed(&w->binary);
}

bool watch_compile(struct watch *w, const struct table_info *info, struct complaint *c)
{
    const struct span owner_is = {w->agent, strlen(w->agent)}, filter = {w->spec.filter, strlen(w->spec.filter)};
    char why[FILTER_WHY_SIZE];
    const char *owner;

    *c = (struct complaint){.code = NULL};
    if (!owner_of(w, &owner, c) || !check_columns(w, info, c))
        return false;
    w->filter = filter_new(filter, info->columns, info->n, owner, owner_is, why);
    if (!w->filter && why[0])
        return complain(c, "invalid_argument", "filter", "filter: %s", why);
    if (!w->filter || !note_binary(w, info))
        return complain(c, "resource_exhausted", NULL, "no memory for the filter");
    return check_identity(w, info, c);
}
