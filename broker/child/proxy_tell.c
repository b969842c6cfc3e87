/* What a child says of itself, and what it is told of tenants; see proxy.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "child/proxy_parts.h"
#include "wire/text.h"

enum { MAX_BUCKETS = 64, HEALTH_CODE_LEN = 48, MAX_LOG_TEXT = 8192 };

/* ---- log and health -------------------------------------------------------------------------------------------------------------- */

/* The child holds each of its formats to a bound; this is the sum of all. */
static bool may_log(struct ward *c)
{
    int64_t now = clock_now_ns();
    char line[96];

    if (now - c->log_since_ns > 10 * CLOCK_S) {
        if (c->n_log_dropped) {
            (void)snprintf(line, sizeof line, "%u lines of the plugin's process were not written", c->n_log_dropped);
            c->proxy->how.hooks->log(c->proxy->how.arg, LOG_WARN, line);
        }
        c->log_since_ns = now;
        c->n_log_lines = c->n_log_dropped = 0;
    }
    if (c->n_log_lines >= MAX_LOG_LINES) {
        c->n_log_dropped++;
        return false;
    }
    c->n_log_lines++;
    return true;
}

void ward_log(struct ward *c, int level, const char *text)
{
    if (may_log(c))
        c->proxy->how.hooks->log(c->proxy->how.arg, level, text);
}

enum taken take_log(struct ward *c, struct frame_reader *r)
{
    uint32_t level = frame_get_u32(r);
    const char *text = frame_get_str(r);
    char line[MAX_LOG_TEXT + 1];

    if (!frame_is_read(r) || !text || level > LOG_DEBUG)
        return ward_malformed(c, r);
    (void)snprintf(line, sizeof line, "%s", text); /* no line of anybody is as long as a frame may be */
    if (log_wants((int)level))
        ward_log(c, (int)level, line);
    return TAKEN;
}

void tell_health_again(struct ward *c)
{
    if (c->health_code[0])
        c->proxy->host->health(c->proxy->host, c->health, c->health_code, "%s", c->health_text);
}

enum taken take_health(struct ward *c, struct frame_reader *r)
{
    uint32_t state = frame_get_u32(r);
    const char *code = frame_get_str(r), *text = frame_get_str(r);

    if (!frame_is_read(r) || !text || state > MUSTER_HEALTH_DOWN)
        return ward_malformed(c, r);
    c->health = (int)state;
    (void)snprintf(c->health_code, sizeof c->health_code, "%s", code && code[0] ? code : "ok");
    (void)snprintf(c->health_text, sizeof c->health_text, "%s", text);
    if (!c->stalled)
        tell_health_again(c);
    return TAKEN;
}

/* ---- metrics -------------------------------------------------------------------------------------------------------------------- */

/* The child before may have made it: it goes on counting then. */
static enum taken make_metric(struct ward *c, const char *key, const struct frame_reader *r, uint32_t type, const char *const texts[3])
{
    struct proxy *p = c->proxy;
    struct metric_of_child *m = map_get(&p->metrics_made, key, strlen(key));
    char reason[PROXY_WHY_SIZE] = "";
    int err = 0;

    if (!m && p->metrics_made.n >= MAX_METRICS)
        return ward_breach(c, "it makes more than %d metrics", MAX_METRICS);
    if (!m) {
        m = calloc(1, sizeof *m);
        err = m ? p->how.hooks->make_metric(p->how.arg, (int)type, texts[0], texts[1], texts[2], &m->host_id) : MUSTER_ENOMEM;
        if (!err && !map_put(&p->metrics_made, key, strlen(key), m))
            err = MUSTER_ENOMEM;
        if (m)
            m->type = (int)type;
    }
    if (!err && id_put(&c->metrics, r->id, m))
        return TAKEN;
    if (err)
        free(m);
    p->how.hooks->reason(p->how.arg, reason, sizeof reason);
    ward_kill(c, "its metric %.64s cannot be made (error %d): %s", texts[0], err ? err : MUSTER_ENOMEM, reason);
    return BROKEN;
}

enum taken take_metric_make(struct ward *c, struct frame_reader *r)
{
    uint32_t type = frame_get_u32(r);
    const char *texts[3];
    char key[256];

    for (size_t i = 0; i < 3; i++)
        texts[i] = frame_get_str(r);
    if (!frame_is_read(r) || !texts[0] || !texts[1] || type > MUSTER_HISTOGRAM || !r->id || id_get(&c->metrics, r->id))
        return ward_malformed(c, r);
    if ((size_t)snprintf(key, sizeof key, "%u %s %s", type, texts[0], texts[2] ? texts[2] : "") >= sizeof key)
        return ward_breach(c, "its metric %.64s… has too long a name", texts[0]);
    return make_metric(c, key, r, type, texts);
}

enum taken take_metric(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint32_t op = frame_get_u32(r);
    const char *label = frame_get_str(r);
    int64_t number = frame_get_i64(r);
    uint32_t n = frame_get_count(r, sizeof(uint64_t));
    uint64_t counts[MAX_BUCKETS];
    const struct metric_of_child *m = id_get(&c->metrics, r->id);
    bool fits;

    for (uint32_t i = 0; i < n && n <= MAX_BUCKETS; i++)
        counts[i] = frame_get_u64(r);
    if (!frame_is_read(r) || op > FRAME_METRIC_OBSERVED)
        return ward_malformed(c, r);
    fits = m && (op == FRAME_METRIC_OBSERVED ? m->type == MUSTER_HISTOGRAM
                 : op == FRAME_METRIC_SET    ? m->type == MUSTER_GAUGE
                                             : m->type == MUSTER_GAUGE || (m->type == MUSTER_COUNTER && number >= 0));
    if (fits && op == FRAME_METRIC_OBSERVED)
        fits = p->how.hooks->merge_metric(p->how.arg, m->host_id, counts, n, number) == 0;
    else if (fits && op == FRAME_METRIC_SET)
        p->metrics->set(p->host, m->host_id, label, number);
    else if (fits)
        p->metrics->add(p->host, m->host_id, label, number);
    return fits ? TAKEN : ward_breach(c, "it counts in a metric that it has not made, or that is of another type");
}

/* ---- tenants -------------------------------------------------------------------------------------------------------------------- */

bool proxy_has_capability(const struct proxy *p, const char *capability)
{
    for (size_t i = 0; i < p->how.capabilities.n; i++)
        if (strcmp(p->how.capabilities.items[i], capability) == 0)
            return true;
    return false;
}

static bool is_allowed(const struct proxy *p, const char *name)
{
    for (size_t i = 0; i < p->how.tenants.n; i++)
        if (strcmp(p->how.tenants.items[i], name) == 0)
            return true;
    return p->how.tenants.n == 0;
}

bool may_see(const struct proxy *p, const struct muster_tenant *tenant)
{
    return p->how.tenants.n == 0 || (tenant && is_allowed(p, p->tenants->name(tenant)));
}

static void put_tenant(struct ward *c, const struct told *t)
{
    struct frame f = ward_begin(c, FRAME_TENANT, t->number);

    frame_put_str(&f, c->proxy->tenants->name(t->tenant));
    frame_put_u32(&f, t->limits.encoding);
    frame_put_i64(&f, t->limits.requests_per_s);
    frame_put_i64(&f, t->limits.burst);
    frame_put_u8(&f, t->known);
    frame_put_u32(&f, (uint32_t)c->limits.n);
    for (size_t i = 0; i < c->limits.n; i++)
        frame_put_i64(&f, t->named[i]);
    ward_end(c, &f);
}

static struct muster_tenant_limits limits_of(const struct proxy *p, const struct muster_tenant *tenant)
{
    struct muster_tenant_limits limits = {.size = sizeof limits};

    (void)p->tenants->limits(p->host, tenant, &limits); /* what cannot be told stays zero */
    return limits;
}

/* True when one is another than before. */
static bool read_named(const struct ward *c, const struct muster_tenant *tenant, int64_t named[CHILD_LIMITS_MAX])
{
    const struct proxy *p = c->proxy;
    bool changed = false;

    for (size_t i = 0; i < c->limits.n; i++) {
        int64_t limit = p->tenants->limit(p->host, tenant, c->limits.names[i]);

        changed = changed || limit != named[i];
        named[i] = limit;
    }
    return changed;
}

static struct told *told_new(struct ward *c, const struct muster_tenant *tenant)
{
    struct told *t;

    if (c->n_tenants == c->cap_tenants) {
        size_t cap = c->cap_tenants ? c->cap_tenants * 2 : 16;
        struct told **more = realloc(c->by_number, cap * sizeof(struct told *));

        if (!more)
            return NULL;
        c->by_number = more;
        c->cap_tenants = cap;
    }
    t = calloc(1, sizeof *t);
    if (!t || !map_put(&c->tenants, &tenant, sizeof(tenant), t)) {
        free(t);
        return NULL;
    }
    *t = (struct told){.tenant = tenant, .number = c->n_tenants + 1, .limits = limits_of(c->proxy, tenant), .known = true};
    (void)read_named(c, tenant, t->named);
    c->by_number[c->n_tenants++] = t;
    return t;
}

uint64_t tenant_number(struct ward *c, const struct muster_tenant *tenant)
{
    struct told *t = tenant && c->state != WARD_OVER ? map_get(&c->tenants, &tenant, sizeof(tenant)) : NULL;

    if (t)
        return t->number;
    if (!tenant || c->state == WARD_OVER || !may_see(c->proxy, tenant))
        return 0;
    t = told_new(c, tenant);
    if (!t) {
        ward_kill(c, "no memory for a tenant");
        return 0;
    }
    put_tenant(c, t);
    return c->state == WARD_OVER ? 0 : t->number;
}

bool tenant_by_number(const struct ward *c, uint64_t number, const struct muster_tenant **ret_tenant)
{
    *ret_tenant = NULL;
    if (number > c->n_tenants)
        return false;
    if (number)
        *ret_tenant = c->by_number[number - 1]->tenant;
    return true;
}

static void tell_one(void *arg, const struct muster_tenant *tenant)
{
    struct ward *c = arg;
    uint64_t number = tenant_number(c, tenant);

    if (number && c->state != WARD_OVER)
        c->by_number[number - 1]->seen = c->tables_turn;
}

/* What has changed of those that it knows. Who works for all is told which are gone as well. */
static void tell_changes(struct ward *c, bool all)
{
    for (size_t i = 0; i < c->n_tenants && c->state != WARD_OVER; i++) {
        struct told *t = c->by_number[i];
        struct muster_tenant_limits limits = limits_of(c->proxy, t->tenant);
        bool known = !all || t->seen == c->tables_turn, named = read_named(c, t->tenant, t->named);

        if (!named && known == t->known && memcmp(&limits, &t->limits, sizeof limits) == 0)
            continue;
        t->known = known;
        t->limits = limits;
        put_tenant(c, t);
    }
}

struct rows {
    struct ward *c;
    uint64_t serial;
};

/* A row of one tenant alone is shown to who may see that tenant. */
static void put_row(void *arg, const struct muster_table *table)
{
    struct rows *rows = arg;
    struct frame f;

    if (table->tenant && !is_allowed(rows->c->proxy, table->tenant))
        return;
    f = ward_begin(rows->c, FRAME_TABLE, 0);
    frame_put_u64(&f, rows->serial);
    frame_put_str(&f, table->schema);
    frame_put_str(&f, table->table);
    frame_put_str(&f, table->tenant_column);
    frame_put_str(&f, table->tenant);
    frame_put_str(&f, table->owner_column);
    frame_put_u32(&f, table->subject_key);
    ward_end(rows->c, &f);
}

static void skip_row(void *arg, const struct muster_table *table)
{
    (void)arg;
    (void)table;
}

static void tell_rows(struct ward *c)
{
    const struct muster_tenants *tenants = c->proxy->tenants;
    struct rows rows = {.c = c};

    if (tenants->tables(c->proxy->host, skip_row, NULL, &rows.serial) != 0 || rows.serial == c->tables_serial)
        return;
    c->tables_serial = rows.serial;
    (void)tenants->tables(c->proxy->host, put_row, &rows, &rows.serial);
}

void tell_tables(struct ward *c)
{
    struct proxy *p = c->proxy;
    bool all = proxy_has_capability(p, "cross_tenant");
    struct frame f;

    c->tables_turn++;
    if (all)
        (void)p->tenants->each(p->host, tell_one, c);
    tell_changes(c, all);
    if (all)
        tell_rows(c);
    if (!p->knows_tables)
        return;
    f = ward_begin(c, FRAME_ON_TABLES, 0);
    frame_put_u64(&f, c->tables_serial);
    ward_end(c, &f);
}

void tell_child_over(struct ward *c)
{
    for (size_t i = 0; i < c->n_tenants; i++)
        free(c->by_number[i]);
    free(c->by_number);
    child_limits_done(&c->limits);
    c->by_number = NULL;
    c->n_tenants = c->cap_tenants = 0;
    map_done(&c->tenants);
    map_done(&c->metrics);
}
