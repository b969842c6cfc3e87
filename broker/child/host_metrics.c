/*
 * muster.metrics/1, muster.config/1 and muster.sql/1 of a child; see host.h.
 *
 * Metrics are counted in a registry of the child's own, by the broker's code and rules, and what has gathered goes to the parent at most
 * every tenth of a second: an add() costs what it costs in the broker.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"
#include "metrics/metrics.h"
#include "sql/sql.h"

/* ---- muster.metrics/1 ------------------------------------------------------------------------------------------------------------- */

struct child_metric {
    struct child_metric *next; /* older */
    struct child *child;
    uint32_t number;           /* from 1 */
    uint64_t id;
    struct metric *metric;
    atomic_bool changed;
    bool forced; /* lane only: how it is being told */
};

static int make_local(struct child *c, int type, const char *name, const char *help, const char *label, struct metric **ret_metric)
{
    const struct muster_host *host = &c->in.host;
    struct metric_spec spec = {.type = type,
                               .help = help,
                               .label = label,
                               .constants = {{"plugin", host->plugin}, {"instance", host->instance}}};
    char full[128];
    int err;

    if ((size_t)snprintf(full, sizeof full, "muster_%s_%s", host->plugin, name) >= sizeof full)
        return host->fail(host, MUSTER_EINVAL, "metric %s: the name is too long", name);
    for (char *p = full; *p; p++)
        if (*p == '-') /* legal in a plugin's name, not in a metric's */
            *p = '_';
    spec.name = full;
    if (host->n_lanes > 1)
        spec.constants[2] = (struct metric_label){"lane", "0"}; /* the parent has its number; here the name alone counts */
    err = metrics_make(c->registry, &spec, ret_metric);
    if (err)
        return host->fail(host, err, "metric %s cannot be made: its name, type or label do not fit (error %d)", full, err);
    return 0;
}

static int send_make(struct child *c, const struct child_metric *m, int type, const char *name, const char *help, const char *label)
{
    struct frame f = pipe_begin(c->pipe, FRAME_METRIC_MAKE, m->id);

    frame_put_u32(&f, (uint32_t)type);
    frame_put_str(&f, name);
    frame_put_str(&f, help);
    frame_put_str(&f, label);
    return child_send(c, &f);
}

static struct child_metric *find_metric(struct child *c, const struct metric *metric)
{
    struct child_metric *m = c->metrics;

    while (m && m->metric != metric)
        m = m->next;
    return m;
}

static int metrics_make_of(const struct muster_host *host, int type, const char *name, const char *help, const char *label,
                           uint64_t *ret_metric)
{
    struct child *c = child_of(host);
    struct metric *metric;
    struct child_metric *m;
    int err = IN_CREATE(&c->in) ? make_local(c, type, name, help, label, &metric) : MUSTER_EINVAL;

    if (err)
        return err;
    m = find_metric(c, metric); /* made twice, it is one */
    if (!m && c->metrics && c->metrics->number >= CHILD_MAX_METRICS)
        return child_refuse_more(c, "metrics", CHILD_MAX_METRICS);
    if (!m) {
        m = calloc(1, sizeof *m);
        if (!m)
            return MUSTER_ENOMEM;
        m->child = c;
        m->number = c->metrics ? c->metrics->number + 1 : 1;
        m->id = child_next_id(c);
        m->metric = metric;
        err = send_make(c, m, type, name, help, label);
        if (err) {
            free(m);
            return err;
        }
        m->next = c->metrics;
        c->metrics = m;
    }
    *ret_metric = (uint64_t)(uintptr_t)m;
    return 0;
}

static struct child_metric *metric_of(uint64_t metric)
{
    return (struct child_metric *)(uintptr_t)metric;
}

static bool fits(const struct muster_host *host, uint64_t metric, bool ok)
{
    if (!ok)
        host->log(host, MUSTER_LOG_ERROR, "metric %#llx: this call does not fit its type, or a counter was to fall",
                  (unsigned long long)metric);
    return ok;
}

static void note_change(struct child_metric *m)
{
    atomic_store(&m->changed, true);
    child_gather(m->child);
}

static void metrics_add_to(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    struct child_metric *m = metric_of(metric);
    int type = metric_type(m->metric);

    if (!fits(host, metric, type == MUSTER_GAUGE || (type == MUSTER_COUNTER && by >= 0)))
        return;
    metric_add(m->metric, label_value, by);
    note_change(m);
}

static void metrics_set_to(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t to)
{
    struct child_metric *m = metric_of(metric);

    if (!fits(host, metric, metric_type(m->metric) == MUSTER_GAUGE))
        return;
    metric_set(m->metric, label_value, to);
    note_change(m);
}

static void metrics_observe_in(const struct muster_host *host, uint64_t metric, int64_t ns)
{
    struct child_metric *m = metric_of(metric);

    if (!fits(host, metric, metric_type(m->metric) == MUSTER_HISTOGRAM))
        return;
    metric_observe(m->metric, ns);
    note_change(m);
}

static bool tell(struct child_metric *m, uint32_t op, const char *value, int64_t number, const uint64_t *counts, size_t n_counts)
{
    struct frame f = pipe_begin(m->child->pipe, FRAME_METRIC, m->id);

    frame_put_u32(&f, op);
    frame_put_str(&f, value);
    frame_put_i64(&f, number);
    frame_put_u32(&f, (uint32_t)n_counts);
    for (size_t i = 0; i < n_counts; i++)
        frame_put_u64(&f, counts[i]);
    return pipe_end(m->child->pipe, &f, m->forced) == 0;
}

static bool tell_number(void *arg, const char *value, int64_t number)
{
    struct child_metric *m = arg;

    return tell(m, metric_type(m->metric) == MUSTER_COUNTER ? FRAME_METRIC_ADD : FRAME_METRIC_SET, value, number, NULL, 0);
}

static bool tell_histogram(void *arg, const uint64_t *counts, size_t n_counts, int64_t sum_ns)
{
    return tell(arg, FRAME_METRIC_OBSERVED, NULL, sum_ns, counts, n_counts);
}

bool metrics_tell(struct child *c, bool force)
{
    bool all = true;

    for (struct child_metric *m = c->metrics; m; m = m->next) {
        const struct metrics_sink sink = {tell_number, tell_histogram, m};

        if (!atomic_exchange(&m->changed, false))
            continue;
        m->forced = force;
        if (metric_drain(m->metric, &sink))
            continue;
        atomic_store(&m->changed, true);
        all = false;
    }
    return all;
}

void metrics_forget_all(struct child *c)
{
    while (c->metrics) {
        struct child_metric *m = c->metrics;

        c->metrics = m->next;
        free(m);
    }
}

const struct muster_metrics child_metrics = {.size = sizeof child_metrics,
                                             .make = metrics_make_of,
                                             .add = metrics_add_to,
                                             .set = metrics_set_to,
                                             .observe = metrics_observe_in};

/* ---- muster.config/1 -------------------------------------------------------------------------------------------------------------- */

static const char *position_of(const struct muster_host *host, const char *key)
{
    struct child *c = child_of(host);

    return ON_LANE(&c->in) ? map_get(&c->places, key, strlen(key)) : NULL;
}

static int add_place(struct child *c, struct map *places, const char *key, const char *place)
{
    const char *before = map_get(&c->places, key, strlen(key)), *copy;

    copy = before && strcmp(before, place) == 0 ? before : arena_strdup(&c->memory, place);
    return copy && map_put(places, key, strlen(key), (void *)(uintptr_t)copy) ? 0 : MUSTER_ENOMEM;
}

/* The texts of before stay: the plugin may have kept them. */
int config_places(struct child *c, struct frame_reader *r)
{
    uint32_t n = frame_get_count(r, 2 * sizeof(uint32_t));
    struct map places = {0};
    int err = 0;

    for (uint32_t i = 0; i < n && !err; i++) {
        const char *key = frame_get_str(r), *place = frame_get_str(r);

        err = key && place ? add_place(c, &places, key, place) : MUSTER_EINVAL;
    }
    if (err) {
        map_done(&places);
        return err;
    }
    map_done(&c->places);
    c->places = places;
    return 0;
}

const struct muster_config child_config = {.size = sizeof child_config, .position = position_of};

/* ---- muster.sql/1: the broker's, on a link and with a role of the plugin's own ------------------------------------------------------ */

enum { POOL = 4, MAX_WAITING = 16384 };
static const size_t max_waiting_bytes = 32u << 20;

static void on_sql_room(void *arg)
{
    struct child *c = arg;

    atomic_store(&c->in.wants_writable, true);
    instance_tell_writable(&c->in);
}

/* Seen before the lane waits. */
static void on_sql_pressure(void *arg, bool on)
{
    struct child *c = arg;

    c->in.sql_pressed = on;
}

static int need_link(struct child *c)
{
    const struct muster_host *host = &c->in.host;
    const struct sql_options options = {.loop = lane_loop(c->in.lane),
                                        .dsn = c->dsn,
                                        .broker_id = host->broker_id,
                                        .area = c->in.area,
                                        .pool = POOL,
                                        .max_items = MAX_WAITING,
                                        .max_bytes = max_waiting_bytes,
                                        .on_writable = on_sql_room,
                                        .on_pressure = on_sql_pressure,
                                        .arg = c};

    if (c->in.sql)
        return 0;
    if (!c->dsn)
        return host->fail(host, MUSTER_EINVAL, "postgres.dsn: missing in the plugin's entry; it runs statements");
    return sql_new(&options, &c->in.sql);
}

static int sql_prepare_for(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    int err = IN_CREATE(instance_of(host)) ? need_link(child_of(host)) : MUSTER_EINVAL;

    return err ? err : host_sql.prepare(host, name, kind, statement, ret_stmt);
}

static int sql_exec_for(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                        uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    const struct sql_call call = {.stmt = stmt,
                                  .tenant = tenant ? child_tenants.name(tenant) : NULL,
                                  .order_key = order_key,
                                  .params = params,
                                  .n_params = n_params,
                                  .fn = fn,
                                  .arg = arg};

    return host_sql_run(instance_of(host), &call);
}

int child_sql_start(struct child *c)
{
    return c->in.sql ? sql_start(c->in.sql) : 0;
}

const struct muster_sql child_sql = {.size = sizeof child_sql, .prepare = sql_prepare_for, .exec = sql_exec_for};
