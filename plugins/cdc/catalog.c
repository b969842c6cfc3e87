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
                              " ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
                              " WHERE i.indrelid = $1::oid AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)";

static const char table_sql[] = "SELECT tenant, tenant_column, subject_key FROM muster.tables WHERE schema_name = $1 AND table_name = $2";

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

static bool lookup_failed(struct cdc *c, const struct muster_sql_result *r)
{
    if (r->code)
        retry_later(c, r->error);
    return r->code != 0;
}

static void on_table(void *arg, const struct muster_sql_result *r)
{
    struct cdc_ask *ask = arg;
    struct relation *rel = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (!c || lookup_failed(c, r))
        return;
    if (r->n_rows) {
        struct route_setting kept = {
            .tenant = r->get(r, 0, 0), .tenant_column = r->get(r, 0, 1), .subject_key = *r->get(r, 0, 2) == 't'};

        route_settle(c, rel, &kept);
    } else {
        route_settle(c, rel, NULL);
    }
    pump_resume(c, PUMP_WAIT_CATALOG);
}

static void on_types(void *arg, const struct muster_sql_result *r)
{
    struct cdc_ask *ask = arg;
    struct relation *rel = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (!c || lookup_failed(c, r))
        return;
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
    if (r->n_rows == 0)
        ((struct route *)rel->user)->typed = true; /* dropped since: text is all there is to say */
    pump_resume(c, PUMP_WAIT_CATALOG);
}

static void on_key(void *arg, const struct muster_sql_result *r)
{
    struct cdc_ask *ask = arg;
    struct relation *rel = ask->about;
    struct cdc *c = cdc_ask_take(ask);
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

/* Ask about rel, or about no table. The pump waits already: a fault here must find nothing set that outlives it. */
static void ask(struct cdc *c, struct relation *rel, uint64_t stmt, const struct muster_bytes *params, muster_sql_fn fn)
{
    uint32_t n = stmt == c->stmt_gone ? 3 : stmt == c->stmt_table ? 2 : 1;
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    if (ask)
        ask->about = rel;
    c->metrics->add(c->host, c->m.questions, NULL, 1);
    err = ask ? c->sql->exec(c->host, stmt, NULL, NULL, n, params, fn, ask) : MUSTER_ENOMEM;
    if (!err)
        return;
    (void)cdc_ask_take(ask);
    retry_later(c, err == MUSTER_EAGAIN ? "too many statements wait" : "no memory, or no link");
}

static void ask_table(struct cdc *c, struct relation *rel)
{
    const char *schema = relation_name(rel, rel->schema), *table = relation_name(rel, rel->table);
    struct muster_bytes params[] = {{schema, strlen(schema)}, {table, strlen(table)}};

    ask(c, rel, c->stmt_table, params, on_table);
}

static void ask_types(struct cdc *c, struct relation *rel, const uint32_t *oids, size_t n)
{
    struct buf list = {0};

    put_oids(&list, oids, n);
    if (!buf_failed(&list))
        ask(c, rel, c->stmt_types, &(struct muster_bytes){list.data, list.len}, on_types);
    else
        retry_later(c, "no memory");
    buf_done(&list);
}

static void ask_key(struct cdc *c, struct relation *rel)
{
    char oid[16];
    int len = snprintf(oid, sizeof oid, "%u", rel->id);

    ask(c, rel, c->stmt_key, &(struct muster_bytes){oid, (size_t)len}, on_key);
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
    struct cdc *c = cdc_ask_take(arg);

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
    int len = snprintf(xid, sizeof xid, "%u", c->begin.xid);

    if (c->visible)
        return 0;
    if (!c->invisible_ns)
        c->invisible_ns = c->timer->now(c->host);
    pump_wait(c, PUMP_WAIT_CATALOG);
    ask(c, NULL, c->stmt_visible, &(struct muster_bytes){xid, (size_t)len}, on_visible);
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

static void on_gone(void *arg, const struct muster_sql_result *r)
{
    struct cdc_ask *ask = arg;
    struct relation *rel = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    if (!c || r->code)
        return; /* asked again soon */
    if (r->n_rows == 0)
        route_gone(c, rel);
    else
        ask_table(c, rel);
}

void catalog_review(struct cdc *c)
{
    void *value;

    for (size_t at = 0; map_next(&c->relations.by_id, &at, NULL, &value);) {
        struct relation *rel = value;
        const struct route *r = rel->user;
        const char *schema = relation_name(rel, rel->schema), *table = relation_name(rel, rel->table);
        struct muster_bytes params[] = {{c->config->publication, strlen(c->config->publication)},
                                        {schema, strlen(schema)},
                                        {table, strlen(table)}};

        if (r && r->refused)
            ask(c, rel, c->stmt_gone, params, on_gone);
    }
}
