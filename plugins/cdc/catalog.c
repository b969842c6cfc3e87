/*
 * Looks into the database for what pgoutput does not tell: how a table is routed, the types behind a user's types, the primary
 * key under REPLICA IDENTITY FULL.
 *
 * The pump waits meanwhile, once a description of a table. The answer is of now, not of when the row was written: not older, because
 * it is asked for only when the database shows the row's transaction; and where it is younger, a type or key that has changed since
 * then was announced by a new description, which asks again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { MAX_OIDS = 64 };
static const int64_t invisible_min_ns = 5 * CLOCK_MS, invisible_max_ns = 500 * CLOCK_MS, invisible_told_ns = 2 * CLOCK_S;

static const char types_sql[] = "SELECT t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, t.typbasetype, t.typdelim, n.nspname, t.typname"
                                " FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
                                " WHERE t.oid = ANY ($1::oid[])";
static const char key_sql[] = "SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a"
                              " ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"
                              " WHERE i.indrelid = $1::oid AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)";

/* Also a leaf whose own identity lacks the tenant column: a partition does not inherit its root's identity, and pgoutput, which sends
 * its rows as the root's, does not tell. Of a table without partitions there is none. */
static const char table_sql[] =
    "SELECT t.tenant, t.tenant_column, t.subject_key,"
    " (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_partition_tree($3::oid::regclass) p"
    "  JOIN pg_catalog.pg_class c ON c.oid = p.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    "  WHERE p.isleaf AND c.relreplident <> 'f' AND NOT EXISTS ("
    "   SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid"
    "    AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"
    "   WHERE i.indrelid = c.oid AND a.attname = coalesce($4, t.tenant_column, $5)"
    "    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)"
    "  ORDER BY 1 LIMIT 1)"
    " FROM (SELECT) AS one LEFT JOIN muster.tables t ON t.schema_name = $1 AND t.table_name = $2";

static const char gone_sql[] = "SELECT FROM pg_catalog.pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";

/* The log has 32 bits of a transaction's number; the snapshot's end, which is near, gives the rest. */
static const char visible_sql[] =
    "SELECT pg_visible_in_snapshot((xmax - ((xmax - $1::bigint + 2147483648) & 4294967295) + 2147483648)::text::xid8, snapshot)"
    " FROM (SELECT s AS snapshot, pg_snapshot_xmax(s)::text::bigint AS xmax FROM pg_current_snapshot() s) AS now";

int catalog_prepare(struct cdc *c)
{
    int err = c->sql->prepare(c->host, "cdc_types", MUSTER_SQL_READ, types_sql, &c->stmt_types);

    if (!err)
        err = c->sql->prepare(c->host, "cdc_key", MUSTER_SQL_READ, key_sql, &c->stmt_key);
    if (!err)
        err = c->sql->prepare(c->host, "cdc_table", MUSTER_SQL_READ, table_sql, &c->stmt_table);
    if (!err)
        err = c->sql->prepare(c->host, "cdc_gone", MUSTER_SQL_READ, gone_sql, &c->stmt_gone);
    return err ? err : c->sql->prepare(c->host, "cdc_visible", MUSTER_SQL_READ, visible_sql, &c->stmt_visible);
}

static void put_oids(struct buf *b, const uint32_t *oids, size_t n)
{
    buf_putc(b, '{');
    for (size_t i = 0; i < n; i++)
        buf_printf(b, i ? ",%u" : "%u", oids[i]);
    buf_putc(b, '}');
}

static uint32_t oid_at(const struct muster_sql_result *r, uint32_t row, uint32_t column)
{
    const char *s = r->get(r, row, column);

    return s ? (uint32_t)strtoul(s, NULL, 10) : 0;
}

/* A lookup that failed is asked again when the pump goes on; the link's own fault is told by the host. */
static void retry_catalog(void *self, int64_t now_ns)
{
    (void)now_ns;
    pump_resume(self, PUMP_WAIT_CATALOG);
}

/* The stream stands still meanwhile, which must not pass for health. */
static void retry_later(struct cdc *c, const char *why)
{
    uint64_t timer;

    c->proven = false;
    c->host->health(c->host, MUSTER_HEALTH_DOWN, "catalog_unreadable", "what is needed to read a table cannot be looked up: %s", why);
    if (c->timer->once(c->host, CLOCK_S, retry_catalog, &timer) != 0)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory to look into the catalog again");
}

/* Without a link nothing here comes true, and while the pump waits nothing is confirmed: a server that shuts down would wait for
 * us. The life ends, and with it the replication link. */
static bool lookup_failed(struct cdc *c, const struct muster_sql_result *r)
{
    if (r->code == MUSTER_ELINK)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "what is needed to read a table cannot be looked up: %s", r->error);
    else if (r->code)
        retry_later(c, r->error);
    return r->code != 0;
}

/* The instance, when it still waits for the answer to this question. */
static struct cdc *take(struct cdc_ask *ask)
{
    uint32_t ticket = ask->ticket;
    struct cdc *c = cdc_ask_take(ask);

    return c && ticket == c->ticket ? c : NULL;
}

/* What the question about a table brought. */
static void settle(struct cdc *c, struct relation *rel, const struct muster_sql_result *r)
{
    const char *subject_key = r->get(r, 0, 2);
    struct route_setting kept = {
        .tenant = r->get(r, 0, 0), .tenant_column = r->get(r, 0, 1), .subject_key = subject_key && *subject_key == 't'};

    route_settle(c, rel, &kept, r->get(r, 0, 3));
}

static void on_table(void *arg, const struct muster_sql_result *r)
{
    struct relation *rel = ((struct cdc_ask *)arg)->about;
    struct cdc *c = take(arg);

    if (!c || lookup_failed(c, r))
        return;
    settle(c, rel, r);
    pump_resume(c, PUMP_WAIT_CATALOG);
}

static void on_types(void *arg, const struct muster_sql_result *r)
{
    struct relation *rel = ((struct cdc_ask *)arg)->about;
    struct cdc *c = take(arg);
    uint32_t before[MAX_OIDS], after[MAX_OIDS];
    size_t n;

    if (!c || lookup_failed(c, r))
        return;
    n = relation_missing_types(rel, &c->types, before, MAX_OIDS);
    for (uint32_t i = 0; i < r->n_rows; i++) {
        struct types_row row = {.oid = oid_at(r, i, 0),
                                .elem = oid_at(r, i, 1),
                                .base = oid_at(r, i, 2),
                                .delim = *r->get(r, i, 3),
                                .schema = r->get(r, i, 4),
                                .name = r->get(r, i, 5)};

        (void)types_learn(&c->types, &row); /* without memory the type stays text */
    }
    (void)relation_resolve(rel, &c->types); /* likewise */
    if (relation_missing_types(rel, &c->types, after, MAX_OIDS) == n && memcmp(before, after, n * sizeof *after) == 0)
        ((struct route *)rel->user)->typed = true; /* dropped since, or no memory: text is all there is to say */
    pump_resume(c, PUMP_WAIT_CATALOG);
}

static void on_key(void *arg, const struct muster_sql_result *r)
{
    struct relation *rel = ((struct cdc_ask *)arg)->about;
    struct cdc *c = take(arg);
    const char *names[32];
    uint32_t n;

    if (!c || lookup_failed(c, r))
        return;
    for (n = 0; n < r->n_rows && n < sizeof names / sizeof *names; n++)
        names[n] = r->get(r, n, 0);
    if (n)
        (void)relation_set_key(rel, names, n); /* a column that is gone by now: key{} stays empty */
    ((struct route *)rel->user)->ready = true;
    pump_resume(c, PUMP_WAIT_CATALOG);
}

struct question {
    struct relation *rel; /* NULL: about no table */
    uint64_t stmt;
    muster_sql_fn fn;
    uint32_t n;
    struct muster_bytes params[5];
};

static int send(struct cdc *c, const struct question *q, uint32_t ticket)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    if (!ask)
        return MUSTER_ENOMEM;
    ask->about = q->rel;
    ask->ticket = ticket;
    c->metrics->add(c->host, c->m.questions, NULL, 1);
    err = c->sql->exec(c->host, q->stmt, NULL, NULL, q->n, q->params, q->fn, ask);
    if (err)
        (void)cdc_ask_take(ask);
    return err;
}

/* Ask what the pump waits for. An older question is answered to nobody: a timer may have made the pump ask again. */
static void ask(struct cdc *c, const struct question *q)
{
    int err = send(c, q, ++c->ticket);

    if (err == MUSTER_ELINK)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "what is needed to read a table cannot be looked up: PostgreSQL is away");
    else if (err)
        retry_later(c, err == MUSTER_EAGAIN ? "too many statements wait" : "no memory");
}

static struct muster_bytes bytes_of(const char *text)
{
    return (struct muster_bytes){text, text ? strlen(text) : 0};
}

static struct question table_question(const struct cdc *c, struct relation *rel, muster_sql_fn fn, char oid[16])
{
    (void)snprintf(oid, 16, "%u", rel->id);
    return (struct question){.rel = rel,
                             .stmt = c->stmt_table,
                             .fn = fn,
                             .n = 5,
                             .params = {bytes_of(relation_name(rel, rel->schema)), bytes_of(relation_name(rel, rel->table)), bytes_of(oid),
                                        bytes_of(route_given_column(c, rel)), bytes_of(c->config->tenant_column)}};
}

static void ask_table(struct cdc *c, struct relation *rel)
{
    char oid[16];
    struct question q = table_question(c, rel, on_table, oid);

    ask(c, &q);
}

static void ask_types(struct cdc *c, struct relation *rel, const uint32_t *oids, size_t n)
{
    struct buf list = {0};

    put_oids(&list, oids, n);
    if (!buf_failed(&list))
        ask(c, &(struct question){.rel = rel, .stmt = c->stmt_types, .fn = on_types, .n = 1, .params = {{list.data, list.len}}});
    else
        retry_later(c, "no memory");
    buf_done(&list);
}

static void ask_key(struct cdc *c, struct relation *rel)
{
    char oid[16];

    (void)snprintf(oid, sizeof oid, "%u", rel->id);
    ask(c, &(struct question){.rel = rel, .stmt = c->stmt_key, .fn = on_key, .n = 1, .params = {bytes_of(oid)}});
}

/* A backend that has written its commit may be held up before others see it: by the scheduler, or for as long as a synchronous
 * standby is away. */
static void wait_to_see(struct cdc *c)
{
    int64_t waited_ns = c->timer->now(c->host) - c->invisible_ns;
    int64_t again_ns = waited_ns / 4 < invisible_min_ns ? invisible_min_ns : waited_ns / 4;
    uint64_t timer;

    if (waited_ns > invisible_told_ns && c->proven) {
        c->proven = false;
        c->host->health(c->host, MUSTER_HEALTH_DEGRADED, "not_visible",
                        "transaction %u is committed, but PostgreSQL does not show it yet: a standby of synchronous_standby_names "
                        "may be away", c->begin.xid);
    }
    if (c->timer->once(c->host, again_ns > invisible_max_ns ? invisible_max_ns : again_ns, retry_catalog, &timer) != 0)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory to look into the catalog again");
}

static void on_visible(void *arg, const struct muster_sql_result *r)
{
    struct cdc *c = take(arg);

    if (!c || lookup_failed(c, r))
        return;
    c->visible = *r->get(r, 0, 0) == 't';
    if (c->visible)
        pump_resume(c, PUMP_WAIT_CATALOG);
    else
        wait_to_see(c);
}

int catalog_sees(struct cdc *c)
{
    char xid[16];

    if (c->visible)
        return 0;
    if (!c->invisible_ns)
        c->invisible_ns = c->timer->now(c->host);
    pump_wait(c, PUMP_WAIT_CATALOG);
    (void)snprintf(xid, sizeof xid, "%u", c->begin.xid);
    ask(c, &(struct question){.stmt = c->stmt_visible, .fn = on_visible, .n = 1, .params = {bytes_of(xid)}});
    return MUSTER_EAGAIN;
}

int catalog_settle(struct cdc *c, struct relation *rel, struct route *r)
{
    uint32_t oids[MAX_OIDS];
    size_t n = r->known && !r->refused && !r->typed ? relation_missing_types(rel, &c->types, oids, MAX_OIDS) : 0;
    bool has_key = rel->identity != 'f' && rel->identity != 'n';

    if (r->known && n == 0 && (has_key || r->refused)) {
        r->ready = true;
        return 0;
    }
    if (catalog_sees(c) != 0)
        return MUSTER_EAGAIN;
    pump_wait(c, PUMP_WAIT_CATALOG);
    if (!r->known)
        ask_table(c, rel);
    else if (n)
        ask_types(c, rel, oids, n);
    else
        ask_key(c, rel);
    return MUSTER_EAGAIN;
}

/* ---- the review ---------------------------------------------------------------------------------------------------------------- */

/* The route, where what is asked about it still counts. The pump waits for none of this. */
static struct route *reviewed(const struct relation *rel)
{
    struct route *r = rel->user;

    return r && r->refused && r->known && r->described == rel->described ? r : NULL;
}

static void on_reviewed(void *arg, const struct muster_sql_result *r)
{
    struct relation *rel = ((struct cdc_ask *)arg)->about;
    struct cdc *c = cdc_ask_take(arg);

    if (c && !r->code && reviewed(rel))
        settle(c, rel, r);
}

static void on_gone(void *arg, const struct muster_sql_result *r)
{
    struct relation *rel = ((struct cdc_ask *)arg)->about;
    struct cdc *c = cdc_ask_take(arg);
    struct question q;
    char oid[16];

    if (!c || r->code || !reviewed(rel))
        return; /* looked at again soon */
    if (r->n_rows == 0) {
        route_gone(c, rel);
        return;
    }
    q = table_question(c, rel, on_reviewed, oid);
    (void)send(c, &q, 0);
}

void catalog_review(struct cdc *c)
{
    void *value;
    int err = 0;

    for (size_t at = 0; !err && map_next(&c->relations.by_id, &at, NULL, &value);) {
        struct relation *rel = value;

        if (reviewed(rel))
            err = send(c, &(struct question){.rel = rel, .stmt = c->stmt_gone, .fn = on_gone, .n = 3,
                                             .params = {bytes_of(c->config->publication), bytes_of(relation_name(rel, rel->schema)),
                                                        bytes_of(relation_name(rel, rel->table))}},
                       0); /* a full queue: the rest is looked at in 5 s */
    }
}
