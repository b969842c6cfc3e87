/* Whose is a row; see route.h. */
#include "cdc/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "cdc/cdc.h"

static const int64_t unroutable_period_ns = 60 * CLOCK_S;
enum { MAX_UNKNOWN = 4096 };

static char unknown_mark; /* what the names in routes.unknown lead to */

void routes_done(struct routes *routes)
{
    map_done(&routes->unknown);
}

void routes_tenants_changed(struct cdc *c)
{
    map_done(&c->routes.unknown);
}

void routes_tables_changed(struct cdc *c)
{
    c->routes.version++;
}

/* ---- settings --------------------------------------------------------------------------------------------------------- */

static void on_table(void *arg, const struct muster_table *table)
{
    (void)arg;
    (void)table; /* only that something has changed counts: what, is asked when a row comes */
}

int routes_load(struct cdc *c)
{
    uint64_t before = c->tables_serial;
    int err = c->tenants->tables(c->host, on_table, NULL, &c->tables_serial);

    if (!err && c->tables_serial != before)
        catalog_review(c);
    return err;
}

/* What the configuration says of a table, else what muster.tables says. Who gets the rows is one setting: a column given here
 * replaces a tenant given there. */
static struct route_setting setting_of(const struct cdc *c, const char *name, const struct route_setting *kept)
{
    const struct muster_map *m = &c->config->tables;
    struct route_setting s = *kept;

    for (size_t i = 0; i < m->n; i++) {
        const struct route_setting *given = (const struct route_setting *)m->entries + i;

        if (strcmp(m->keys[i], name) != 0)
            continue;
        if (given->tenant || given->tenant_column) {
            s.tenant = given->tenant;
            s.tenant_column = given->tenant_column;
        }
        s.owner_column = given->owner_column ? given->owner_column : s.owner_column;
        s.subject_key = given->subject_key ? 1 : s.subject_key;
    }
    return s;
}

/* ---- routes ----------------------------------------------------------------------------------------------------------- */

static bool in_identity(const struct relation *rel, int column)
{
    return column >= 0 && (rel->identity == 'f' || rel->columns[column].identity);
}

static void tell_refused(struct cdc *c, const struct route *r, const char *column)
{
    if (r->leaf[0])
        c->host->log(c->host, MUSTER_LOG_ERROR,
                     "table %s is refused: the replica identity of its partition %s lacks the tenant column %s; run ALTER TABLE %s REPLICA "
                     "IDENTITY FULL (or USING INDEX with one that has it): partitions do not inherit it",
                     r->name, r->leaf, column, r->leaf);
    else
        c->host->log(c->host, MUSTER_LOG_ERROR,
                 r->column >= 0 ? "table %s is refused: its replica identity lacks the tenant column %s; run ALTER TABLE %s REPLICA "
                                  "IDENTITY FULL (or USING INDEX with one that has it), or map it with `muster publish --tenant`"
                                : "table %s is refused: it has no tenant column %s; map table %s with `muster publish --tenant T`, or "
                                  "name another column",
                 r->name, column, r->name);
}

/* Told once, when it becomes so; a table that is described again says nothing new. */
static void set_refused(struct cdc *c, struct route *r, bool refused, const char *column)
{
    if (refused == r->refused)
        return;
    r->refused = refused;
    c->routes.n_refused = refused ? c->routes.n_refused + 1 : c->routes.n_refused - 1;
    if (refused)
        tell_refused(c, r, column);
    cdc_say(c);
}

const char *route_given_column(const struct cdc *c, const struct relation *rel)
{
    const struct route *r = rel->user;

    return setting_of(c, r->name, &(struct route_setting){0}).tenant_column;
}

void route_settle(struct cdc *c, struct relation *rel, const struct route_setting *kept, const char *leaf)
{
    struct route *r = rel->user;
    struct route_setting s = setting_of(c, r->name, kept);
    const char *column = s.tenant_column ? s.tenant_column : c->config->tenant_column;

    r->known = true;
    r->ready = false; /* types and key are looked up for what was refused, too, when it is no more */
    r->subject_key = s.subject_key;
    (void)snprintf(r->mapped, sizeof r->mapped, "%s", s.tenant ? s.tenant : "");
    r->column = s.tenant ? -1 : relation_find_column(rel, column);
    (void)snprintf(r->leaf, sizeof r->leaf, "%s", leaf && !s.tenant && in_identity(rel, r->column) ? leaf : "");
    set_refused(c, r, !s.tenant && (r->leaf[0] || !in_identity(rel, r->column)), column);
}

void route_gone(struct cdc *c, struct relation *rel)
{
    struct route *r = rel->user;

    r->known = r->ready = false; /* it may come back */
    set_refused(c, r, false, "");
}

void route_free(void *route)
{
    free(route);
}

static void put_names(const struct cdc *c, struct route *r, const struct relation *rel)
{
    const char *schema = relation_name(rel, rel->schema), *table = relation_name(rel, rel->table);
    char a[NAME_TOKEN_SIZE], b[NAME_TOKEN_SIZE];

    (void)snprintf(r->name, sizeof r->name, "%s.%s", schema, table);
    (void)name_token(schema, strlen(schema), a);
    (void)name_token(table, strlen(table), b);
    (void)snprintf(r->channel, sizeof r->channel, "cdc.%s.%s.%s", c->host->instance, a, b);
}

struct route *route_of(struct cdc *c, struct relation *rel)
{
    struct route *r = rel->user;

    /* A change whose first part is out keeps the route that part was sent by. */
    if (r && ((r->version == c->routes.version && r->described == rel->described) || c->part > 0))
        return r;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return NULL;
        rel->user = r;
    }
    r->version = c->routes.version;
    r->described = rel->described;
    r->known = r->typed = r->ready = false;
    put_names(c, r, rel);
    return r;
}

/* ---- tenants ---------------------------------------------------------------------------------------------------------- */

static void remember_unknown(struct cdc *c, const char *name, size_t len)
{
    if (c->routes.unknown.n >= MAX_UNKNOWN)
        map_done(&c->routes.unknown);
    (void)map_put(&c->routes.unknown, name, len, &unknown_mark); /* without memory it is asked again with the next row */
}

struct tenant_ask {
    size_t len;
    char name[NAME_MAX_LEN];
};

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    struct cdc_ask *ask = arg;
    struct tenant_ask *about = ask->about;
    struct cdc *c = cdc_ask_take(ask);

    (void)tenant;
    if (c && (code == 0 || code == MUSTER_ENOTFOUND)) {
        if (code)
            remember_unknown(c, about->name, about->len);
        pump_resume(c, PUMP_WAIT_TENANT);
    } else if (c) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the tenants could not be read (error %d)", code);
    }
    free(about);
}

static int ask_tenant(struct cdc *c, const char *name, size_t len)
{
    struct tenant_ask *about = calloc(1, sizeof *about);
    struct cdc_ask *ask = about ? cdc_ask_new(c) : NULL;
    int err = ask ? 0 : MUSTER_ENOMEM;

    if (!err) {
        about->len = len;
        memcpy(about->name, name, len);
        ask->about = about;
        c->metrics->add(c->host, c->m.questions, NULL, 1);
        err = c->tenants->refresh(c->host, name, len, on_found, ask);
    }
    if (err) {
        (void)cdc_ask_take(ask);
        free(about);
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the tenants could not be asked for (error %d)", err);
    }
    return ROUTE_WAIT;
}

/* A row is somebody's when the tenant was there when it was committed. What the registry does not know is asked of the database,
 * once it shows the row's own transaction. A name that it does not know either stays unknown until the log tells of a change of the
 * tenants, or the registry knows it: rows of nobody cost no question each. */
int route_tenant(struct cdc *c, const char *name, size_t len, const struct muster_tenant **ret_tenant)
{
    const struct muster_tenant *tenant;

    if (!name_is_public(name, len))
        return ROUTE_NOBODY;
    tenant = c->tenants->find(c->host, name, len);
    if (tenant) {
        *ret_tenant = tenant;
        return ROUTE_TENANT;
    }
    if (map_get(&c->routes.unknown, name, len))
        return ROUTE_NOBODY;
    if (catalog_sees(c) != 0)
        return ROUTE_WAIT;
    pump_wait(c, PUMP_WAIT_TENANT);
    return ask_tenant(c, name, len);
}

/* A name that somebody wrote, for the log: whatever it is, it stays one short word of one line. */
void route_show_name(const char *name, size_t len, char out[ROUTE_SHOWN])
{
    struct buf b = {0};
    size_t n = len < NAME_MAX_LEN ? len : NAME_MAX_LEN;

    while (n < len && n > 0 && ((unsigned char)name[n] & 0xC0) == 0x80) /* not in the middle of a character */
        n--;
    if (out_is_utf8(name, n))
        buf_put_json(&b, name, n);
    (void)snprintf(out, ROUTE_SHOWN, "%.390s%s", b.data && !buf_failed(&b) ? b.data : "(bytes)", n < len ? "…" : "");
    buf_done(&b);
}

void route_unroutable(struct cdc *c, struct route *r, const char *tenant, size_t len)
{
    int64_t now = c->timer->now(c->host);
    char shown[ROUTE_SHOWN] = "NULL";

    c->metrics->add(c->host, c->m.unroutable, r->name, 1);
    r->n_unroutable++;
    if (r->told_ns && now - r->told_ns < unroutable_period_ns)
        return;
    r->told_ns = now;
    if (tenant)
        route_show_name(tenant, len, shown);
    c->host->log(c->host, MUSTER_LOG_WARN, "table %s: a row goes to nobody: its tenant is %s%s (%llu so far)", r->name, shown,
                 !tenant                       ? ""
                 : name_is_public(tenant, len) ? ", which there is not"
                                               : ", which is no legal name",
                 (unsigned long long)r->n_unroutable);
}
