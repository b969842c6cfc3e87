/*
 * Looks into pg_catalog for what pgoutput does not tell: the types behind a user's types, the primary key under REPLICA IDENTITY FULL.
 *
 * The pump waits meanwhile, once a table. The catalog is of now, not of when the row was written; a type or key that has changed
 * since then was announced by a new relation message, which asks again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { MAX_OIDS = 64 };

static const char types_sql[] = "SELECT t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, t.typbasetype, t.typdelim, n.nspname, t.typname"
                                " FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
                                " WHERE t.oid = ANY ($1::oid[])";
static const char key_sql[] = "SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a"
                              " ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
                              " WHERE i.indrelid = $1::oid AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)";

int catalog_prepare(struct cdc *c)
{
    int err = c->sql->prepare(c->host, "cdc_types", MUSTER_SQL_READ, types_sql, &c->stmt_types);

    return err ? err : c->sql->prepare(c->host, "cdc_key", MUSTER_SQL_READ, key_sql, &c->stmt_key);
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

static bool lookup_failed(struct cdc *c, const struct muster_sql_result *r)
{
    uint64_t timer;

    if (!r->code)
        return false;
    c->host->log(c->host, MUSTER_LOG_WARN, "the catalog could not be read: %s; trying again", r->error);
    if (c->timer->once(c->host, CLOCK_S, retry_catalog, &timer) != 0)
        cdc_restart(c);
    return true;
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
    if (r->n_rows == 0 && rel->user)
        ((struct route *)rel->user)->ready = true; /* dropped since: text is all there is to say */
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

static int ask_catalog(struct cdc *c, struct relation *rel, uint64_t stmt, struct muster_bytes param, muster_sql_fn fn)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err;

    if (ask)
        ask->about = rel;
    err = ask ? c->sql->exec(c->host, stmt, NULL, NULL, 1, &param, fn, ask) : MUSTER_ENOMEM;
    if (err) {
        (void)cdc_ask_take(ask);
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the catalog could not be asked (error %d)", err);
    }
    pump_wait(c, PUMP_WAIT_CATALOG);
    return MUSTER_EAGAIN;
}

int catalog_settle(struct cdc *c, struct relation *rel, struct route *r)
{
    uint32_t oids[MAX_OIDS];
    size_t n = relation_missing_types(rel, &c->types, oids, MAX_OIDS);
    struct buf list = {0};
    char oid[16];
    int err;

    if (n) {
        put_oids(&list, oids, n);
        err = ask_catalog(c, rel, c->stmt_types, (struct muster_bytes){list.data, list.len}, on_types);
        buf_done(&list);
        return err;
    }
    if (rel->identity == 'f' || rel->identity == 'n') {
        int len = snprintf(oid, sizeof oid, "%u", rel->id);

        return ask_catalog(c, rel, c->stmt_key, (struct muster_bytes){oid, (size_t)len}, on_key);
    }
    r->ready = true;
    return 0;
}
