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

/* A name that the database did not know when it had committed everything up to as_of. */
struct unknown_tenant {
    uint64_t as_of;
};

/* ---- settings --------------------------------------------------------------------------------------------------------- */

static void setting_free(struct route_setting *s)
{
    if (!s)
        return;
    free((char *)s->tenant);
    free((char *)s->tenant_column);
    free((char *)s->owner_column);
    free(s);
}

static void clear_settings(struct routes *routes)
{
    void *value;

    for (size_t at = 0; map_next(&routes->settings, &at, NULL, &value);)
        setting_free(value);
    map_done(&routes->settings);
}

static void clear_unknown(struct routes *routes)
{
    void *value;

    for (size_t at = 0; map_next(&routes->unknown, &at, NULL, &value);)
        free(value);
    map_done(&routes->unknown);
}

void routes_done(struct routes *routes)
{
    clear_settings(routes);
    clear_unknown(routes);
}

static char *copy(const char *s)
{
    return s ? strdup(s) : NULL;
}

static void on_table(void *arg, const struct muster_table *table)
{
    struct cdc *c = arg;
    struct route_setting *s = calloc(1, sizeof *s);
    char name[160];
    int n = snprintf(name, sizeof name, "%s.%s", table->schema, table->table);

    if (!s || n < 0 || (size_t)n >= sizeof name) {
        free(s);
        return;
    }
    *s = (struct route_setting){copy(table->tenant), copy(table->tenant_column), copy(table->owner_column),
                                (int32_t)table->subject_key};
    if (!map_put(&c->routes.settings, name, (size_t)n, s))
        setting_free(s);
}

int routes_load(struct cdc *c)
{
    clear_settings(&c->routes);
    clear_unknown(&c->routes);
    c->routes.version++;
    c->tables_refused = 0;
    return c->tenants->tables(c->host, on_table, c, &c->tables_serial);
}

/* What the configuration says of a table, else what muster.tables says; member by member. */
static struct route_setting setting_of(struct cdc *c, const char *name)
{
    const struct muster_map *m = &c->config->tables;
    const struct route_setting *kept = map_get(&c->routes.settings, name, strlen(name));
    struct route_setting s = kept ? *kept : (struct route_setting){0};

    for (size_t i = 0; i < m->n; i++) {
        const struct route_setting *given = (const struct route_setting *)m->entries + i;

        if (strcmp(m->keys[i], name) != 0)
            continue;
        s.tenant = given->tenant ? given->tenant : s.tenant;
        s.tenant_column = given->tenant_column ? given->tenant_column : s.tenant_column;
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

static void tell_refused(struct cdc *c, const struct route *r, const char *column, bool exists)
{
    c->tables_refused++;
    c->host->log(c->host, MUSTER_LOG_ERROR,
                 exists ? "table %s is refused: its replica identity lacks the tenant column %s; run ALTER TABLE %s REPLICA IDENTITY FULL "
                          "(or USING INDEX with one that has it), or map it with `muster publish --tenant`"
                        : "table %s is refused: it has no tenant column %s; map table %s with `muster publish --tenant T`, or name "
                          "another column",
                 r->name, column, r->name);
    c->host->health(c->host, MUSTER_HEALTH_DEGRADED, "table_refused", "table %s is not delivered: no tenant column %s in its identity",
                    r->name, column);
}

static void fill(struct cdc *c, struct route *r, const struct relation *rel)
{
    const char *schema = relation_name(rel, rel->schema), *table = relation_name(rel, rel->table);
    struct route_setting s;
    const char *column;
    char a[NAME_TOKEN_SIZE], b[NAME_TOKEN_SIZE];

    (void)snprintf(r->name, sizeof r->name, "%s.%s", schema, table);
    (void)name_token(schema, strlen(schema), a);
    (void)name_token(table, strlen(table), b);
    (void)snprintf(r->channel, sizeof r->channel, "cdc.%s.%s.%s", c->host->instance, a, b);
    s = setting_of(c, r->name);
    column = s.tenant_column ? s.tenant_column : c->config->tenant_column;
    r->version = c->routes.version;
    r->subject_key = s.subject_key;
    r->mapped = s.tenant;
    r->column = s.tenant ? -1 : relation_find_column(rel, column);
    r->refused = !s.tenant && !in_identity(rel, r->column);
    if (r->refused)
        tell_refused(c, r, column, r->column >= 0);
}

void route_free(void *route)
{
    free(route);
}

struct route *route_of(struct cdc *c, struct relation *rel)
{
    struct route *r = rel->user;

    if (r && r->version == c->routes.version && r->rel_version == rel->version)
        return r;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return NULL;
        rel->user = r;
    }
    r->ready = false;
    r->rel_version = rel->version;
    fill(c, r, rel);
    return r;
}

/* ---- tenants ---------------------------------------------------------------------------------------------------------- */

static void remember_unknown(struct cdc *c, const char *name, size_t len)
{
    struct unknown_tenant *u = map_get(&c->routes.unknown, name, len);

    if (!u) {
        if (c->routes.unknown.n >= MAX_UNKNOWN)
            clear_unknown(&c->routes);
        u = calloc(1, sizeof *u);
        if (!u || !map_put(&c->routes.unknown, name, len, u)) {
            free(u);
            return; /* asked again with the next row */
        }
    }
    u->as_of = c->begin.final_lsn;
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
 * which then has seen all that was committed before the present transaction: that answer holds for it and for all before. */
int route_tenant(struct cdc *c, const char *name, size_t len, const struct muster_tenant **ret_tenant)
{
    const struct unknown_tenant *u;
    const struct muster_tenant *tenant;

    if (!name_is_public(name, len))
        return ROUTE_NOBODY;
    tenant = c->tenants->find(c->host, name, len);
    if (tenant) {
        *ret_tenant = tenant;
        return ROUTE_TENANT;
    }
    u = map_get(&c->routes.unknown, name, len);
    if (u && c->begin.final_lsn <= u->as_of)
        return ROUTE_NOBODY;
    pump_wait(c, PUMP_WAIT_TENANT);
    return ask_tenant(c, name, len);
}

void route_unroutable(struct cdc *c, struct route *r, const char *why)
{
    int64_t now = c->timer->now(c->host);

    c->metrics->add(c->host, c->m.unroutable, r->name, 1);
    r->n_unroutable++;
    if (r->told_ns && now - r->told_ns < unroutable_period_ns)
        return;
    r->told_ns = now;
    c->host->log(c->host, MUSTER_LOG_WARN, "table %s: a row goes to nobody: %s (%llu so far)", r->name, why,
                 (unsigned long long)r->n_unroutable);
}
