/*
 * cdc - rows that change in PostgreSQL, and events that transactions emit, become messages of their tenant, exactly once, in the
 * order of commits.
 *
 * in   a logical replication slot (pgoutput)
 * out  R._in.<T>.cdc.<instance>.<schema>.<table>.<op>.<key>, or with `messages` R._in.<T>.evt.<service>.<event>.<key>; the fenced
 *      stream CDC_<instance> or EVT stores and republishes them; R.<T>.evt._.head every 5 s
 *
 * All state is per instance and touched on the lane only; there is no lock. The parts are told in cdc.h.
 */
#include "cdc/cdc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"

static const int64_t tick_ns = CLOCK_S / 2, head_ns = 5 * CLOCK_S;
static const int64_t proof_ns = 2 * CLOCK_S; /* without a fault are proof */
static const int64_t backoff_min_ns = 100 * CLOCK_MS, backoff_max_ns = 5 * CLOCK_S;

static const struct muster_option table_options[] = {
    {.key = "tenant", .help = "All rows belong to this tenant.", .type = MUSTER_T_STRING, .min = 1, .max = NAME_MAX_LEN,
     .offset = offsetof(struct route_setting, tenant)},
    {.key = "tenant_column", .help = "The column that names the tenant.", .type = MUSTER_T_STRING,
     .offset = offsetof(struct route_setting, tenant_column)},
    {.key = "owner_column", .help = "The column that names the end user who may read the row.", .type = MUSTER_T_STRING,
     .offset = offsetof(struct route_setting, owner_column)},
    {.key = "subject_key", .help = "Put the row's key into the subject.", .type = MUSTER_T_BOOL, .def = "false",
     .offset = offsetof(struct route_setting, subject_key)},
};

#define FIELD(member) .offset = offsetof(struct cdc_config, member)
static const struct muster_option options[] = {
    {.key = "slot", .help = "The replication slot; made when it is missing.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_REQUIRED | MUSTER_O_UNIQUE, .min = 1, .max = 63, FIELD(slot)},
    {.key = "publication", .help = "The publication whose tables are read (default muster; with messages: muster_evt, which is empty).",
     .type = MUSTER_T_STRING, .min = 1, .max = 63, FIELD(publication)},
    {.key = "messages", .help = "Prefixes of logical messages that are published as events, instead of rows.", .type = MUSTER_T_LIST,
     .flags = MUSTER_O_ONCE, FIELD(messages)},
    {.key = "snapshot", .help = "Whether tables are copied first.", .type = MUSTER_T_ENUM, .choices = "never", .def = "never",
     FIELD(snapshot)},
    {.key = "origin", .help = "any: every change; none: only what was written here, not what replication brought.", .type = MUSTER_T_ENUM,
     .choices = "any|none", .def = "any", FIELD(origin)},
    {.key = "encoding", .help = "Of bodies: json, or msgpack also for tenants that do not ask for it.", .type = MUSTER_T_ENUM,
     .choices = "json|msgpack", .def = "json", .flags = MUSTER_O_RELOADABLE, FIELD(encoding)},
    {.key = "tenant_column", .help = "The column that names a row's tenant, where a table says no other.", .type = MUSTER_T_STRING,
     .def = "tenant_id", .min = 1, .max = 63, .flags = MUSTER_O_RELOADABLE, FIELD(tenant_column)},
    {.key = "unroutable.tenant", .help = "Takes the rows whose tenant is NULL, illegal or unknown.", .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE, FIELD(unroutable_tenant)},
    {.key = "tables", .help = "Settings per table, over those of `muster publish`.", .type = MUSTER_T_MAP, .fields = table_options,
     .n_fields = sizeof table_options / sizeof *table_options, .entry_size = sizeof(struct route_setting), .flags = MUSTER_O_RELOADABLE,
     FIELD(tables)},
    {.key = "retention", .help = "How long the stream keeps a message.", .type = MUSTER_T_DURATION_NS, .def = "1d",
     .min = 5 * 60 * CLOCK_S, .max = INT64_C(365) * 86400 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(retention_ns)},
    {.key = "max_bytes", .help = "How much the stream keeps; the oldest go first (0: no limit).", .type = MUSTER_T_BYTES, .def = "0",
     .min = 0, .max = INT64_MAX, .flags = MUSTER_O_RELOADABLE, FIELD(max_bytes)},
    {.key = "replicas", .help = "Copies of the stream in the NATS cluster.", .type = MUSTER_T_INT, .def = "1", .min = 1, .max = 5,
     .flags = MUSTER_O_RELOADABLE, FIELD(replicas)},
    {.key = "window_msgs", .help = "Messages that may be sent and not yet acknowledged.", .type = MUSTER_T_INT, .def = "8192", .min = 1,
     .max = SINK_RING / 2, .flags = MUSTER_O_RELOADABLE, FIELD(window_msgs)},
    {.key = "window_bytes", .help = "Bytes that may be sent and not yet acknowledged.", .type = MUSTER_T_BYTES, .def = "16MiB",
     .min = 65536, .max = INT64_C(1) << 30, .flags = MUSTER_O_RELOADABLE, FIELD(window_bytes)},
};

/* ---- lives ------------------------------------------------------------------------------------------------------------------ */

struct cdc_ask *cdc_ask_new(struct cdc *c)
{
    struct cdc_ask *ask = calloc(1, sizeof *ask);

    if (ask)
        *ask = (struct cdc_ask){.c = c, .generation = c->generation};
    return ask;
}

struct cdc *cdc_ask_take(struct cdc_ask *ask)
{
    struct cdc *c = ask && ask->generation == ask->c->generation ? ask->c : NULL;

    free(ask);
    return c;
}

static void begin(struct cdc *c)
{
    if (c->draining || c->phase != CDC_WAIT || c->retry_timer)
        return;
    /* on_link() and on_tables() come. */
    if (!c->link_up || (!c->tables_serial && (routes_load(c) != 0 || !c->tables_serial)))
        return;
    c->phase = CDC_SOURCE;
    source_open(c);
}

/* Without links there is no life that could tell; at a start they are a moment away. */
static void say_waiting(struct cdc *c, int64_t now_ns)
{
    if (c->phase != CDC_WAIT || c->retry_timer || now_ns - c->since_ns < proof_ns)
        return;
    if (!c->link_up)
        c->host->health(c->host, MUSTER_HEALTH_DOWN, "nats_away", "NATS is away");
    else
        c->host->health(c->host, MUSTER_HEALTH_DOWN, "postgres_away", "the tenants could not be read yet; the component registry says why");
}

static void on_retry(void *self, int64_t now_ns)
{
    struct cdc *c = self;

    (void)now_ns;
    c->retry_timer = 0;
    begin(c);
}

/* The present life ends; what still comes of it is dropped by its generation. */
static void end_life(struct cdc *c)
{
    c->generation++;
    c->phase = CDC_WAIT;
    c->since_ns = c->timer->now(c->host);
    c->confirmed = 0; /* means nothing to another server */
    c->routes.n_refused = 0;
    c->proven = false;
    source_close(c);
    sink_reset(c);
    pump_reset(c);
    types_done(&c->types); /* the next server may be another cluster, with other types under these numbers */
    gap_reset(c);
    channels_reset(&c->channels, false);
}

/* End this life, and begin another after a while. */
static void begin_again(struct cdc *c, int64_t after_ns)
{
    end_life(c);
    c->metrics->add(c->host, c->m.restarts, NULL, 1);
    if (!c->retry_timer && c->timer->once(c->host, after_ns, on_retry, &c->retry_timer) != 0)
        c->host->health(c->host, MUSTER_HEALTH_DOWN, "no_memory", "no memory to try again");
}

void cdc_restart(struct cdc *c)
{
    if (c->phase == CDC_WAIT || c->draining)
        return;
    c->backoff_ns = c->backoff_ns ? c->backoff_ns * 2 : backoff_min_ns;
    if (c->backoff_ns > backoff_max_ns)
        c->backoff_ns = backoff_max_ns;
    begin_again(c, c->backoff_ns);
}

void cdc_fault(struct cdc *c, int state, const char *code, const char *fmt, ...)
{
    char line[384];
    va_list ap;

    if (c->phase == CDC_WAIT || c->draining)
        return; /* of a life that has ended, or ends on purpose */
    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    c->host->health(c->host, state, code, "%s", line);
    cdc_restart(c);
}

/* The names of some refused tables, for a sentence. */
static void put_refused(struct cdc *c, char *out, size_t size)
{
    size_t len = 0;
    void *rel;

    for (size_t at = 0; len + 1 < size && map_next(&c->relations.by_id, &at, NULL, &rel);) {
        const struct route *r = ((struct relation *)rel)->user;
        int n = r && r->refused ? snprintf(out + len, size - len, "%s%s%s%s%s", len ? ", " : "", r->name, r->leaf[0] ? " (partition " : "",
                                           r->leaf, r->leaf[0] ? ")" : "")
                                : 0;

        len += n > 0 ? (size_t)n : 0;
    }
}

void cdc_say(struct cdc *c)
{
    char names[256] = "";

    if (c->phase != CDC_STREAM || !c->proven)
        return;
    put_refused(c, names, sizeof names);
    if (c->routes.n_refused)
        c->host->health(c->host, MUSTER_HEALTH_DEGRADED, "table_refused",
                        "not delivered, because the replica identity lacks the tenant column or there is none: %s", names);
    else
        c->host->health(c->host, MUSTER_HEALTH_OK, "ok", "streaming from slot %s", c->config->slot);
}

void cdc_proven(struct cdc *c)
{
    if (c->phase != CDC_STREAM || c->proven)
        return;
    c->proven = true;
    c->backoff_ns = 0;
    cdc_say(c);
}

void cdc_streams(struct cdc *c)
{
    c->phase = CDC_STREAM;
    c->since_ns = c->timer->now(c->host);
    if (!c->backoff_ns)
        cdc_proven(c);
}

/* ---- what the host calls ------------------------------------------------------------------------------------------------------ */

static void on_tick(void *self, int64_t now_ns)
{
    struct cdc *c = self;

    source_tick(c);
    say_waiting(c, now_ns);
    if (c->phase == CDC_STREAM && !(c->waits & PUMP_WAIT_CATALOG) && now_ns - c->since_ns > proof_ns)
        cdc_proven(c);
    if (c->source.step == SOURCE_COPYING)
        source_status(c, c->wal_end, c->confirmed);
    position_confirm(c);
    c->metrics->set(c->host, c->m.window, NULL, (int64_t)(c->sink.sent - c->sink.acked));
}

static void on_head(void *self, int64_t now_ns)
{
    struct cdc *c = self;

    (void)now_ns;
    if (!c->draining)
        position_measure(c);
    if (c->phase != CDC_STREAM)
        return;
    channels_tell(c);
    position_check(c);
    if (c->routes.n_refused)
        catalog_review(c);
}

static void cdc_on_link(void *self, int up)
{
    struct cdc *c = self;

    c->link_up = up;
    if (!up && c->phase != CDC_WAIT)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "NATS is away");
    else
        begin(c);
}

static void cdc_on_tables(void *self)
{
    struct cdc *c = self;

    if (routes_load(c) != 0)
        return;
    begin(c);
}

static void cdc_on_writable(void *self)
{
    pump_resume(self, PUMP_WAIT_WINDOW);
}

static int find_services(struct cdc *c)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {
        {MUSTER_BUS, (const void **)&c->bus},       {MUSTER_STREAM, (const void **)&c->stream},
        {MUSTER_KV, (const void **)&c->kv},         {MUSTER_TIMER, (const void **)&c->timer},
        {MUSTER_IO, (const void **)&c->io},         {MUSTER_TENANT, (const void **)&c->tenants},
        {MUSTER_METRICS, (const void **)&c->metrics}, {MUSTER_SQL, (const void **)&c->sql},
        {MUSTER_CODEC, (const void **)&c->codec},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int err = c->host->service(c->host, wanted[i].id, wanted[i].table);

        if (err)
            return err;
    }
    return 0;
}

static int make_metrics(struct cdc *c)
{
    const struct {
        int type;
        const char *name, *help, *label;
        uint64_t *metric;
    } wanted[] = {
        {MUSTER_COUNTER, "published_total", "Messages sent to the stream.", NULL, &c->m.published},
        {MUSTER_COUNTER, "skipped_total", "Changes that the stream had already.", NULL, &c->m.skipped},
        {MUSTER_COUNTER, "unroutable_total", "Rows that went to nobody because of their tenant.", "table", &c->m.unroutable},
        {MUSTER_COUNTER, "refused_total", "Rows of refused tables, and messages that are no events or of no tenant.", NULL, &c->m.refused},
        {MUSTER_COUNTER, "questions_total", "Look-ups in the database: settings, types and keys of tables, tenants, visibility.", NULL,
         &c->m.questions},
        {MUSTER_COUNTER, "restarts_total", "Times that the instance began again from slot and stream.", NULL, &c->m.restarts},
        {MUSTER_COUNTER, "gaps_total", "Gaps told as evt.cdc.gap.", NULL, &c->m.gaps},
        {MUSTER_GAUGE, "lag_bytes", "Log that PostgreSQL keeps for the slot, asked every 5 s.", NULL, &c->m.lag},
        {MUSTER_GAUGE, "unconfirmed_bytes", "Log behind the slot's confirmed position, asked every 5 s.", NULL, &c->m.unconfirmed},
        {MUSTER_GAUGE, "window_messages", "Messages sent and not yet acknowledged.", NULL, &c->m.window},
        {MUSTER_HISTOGRAM, "commit_to_ack_seconds", "From reading a commit to the acknowledgement of all before it.", NULL,
         &c->m.commit_to_ack},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int err = c->metrics->make(c->host, wanted[i].type, wanted[i].name, wanted[i].help, wanted[i].label, wanted[i].metric);

        if (err)
            return err;
    }
    return 0;
}

static void cdc_destroy(void *self)
{
    struct cdc *c = self;

    if (!c)
        return;
    c->phase = CDC_WAIT;
    c->draining = true;
    if (c->io)
        source_close(c);
    if (c->stream)
        sink_done(c);
    pump_reset(c);
    gap_reset(c);
    channels_done(&c->channels);
    routes_done(&c->routes);
    types_done(&c->types);
    change_txn_done(&c->txn);
    pgoutput_done(&c->msg);
    out_done(&c->out);
    for (int i = 0; i < 2; i++) {
        buf_done(&c->drafts[i].body);
        buf_done(&c->drafts[i].key);
        buf_done(&c->drafts[i].subject);
        buf_done(&c->drafts[i].lsn);
    }
    free((void *)c->config);
    free(c);
}

#define TENANT_RULE "1 to 64 letters, digits, _ or -, and no _ first"

/* A copy with the defaults that depend on other settings. */
static const struct cdc_config *settle_config(const struct cdc_config *given)
{
    struct cdc_config *config = malloc(sizeof *config);

    if (!config)
        return NULL;
    *config = *given;
    if (!config->publication)
        config->publication = config->messages.n ? "muster_evt" : "muster";
    return config;
}

static int check_table(const struct muster_host *host, const char *name, const struct route_setting *table)
{
    if (!strchr(name, '.'))
        return host->fail(host, MUSTER_EINVAL, "tables.%s: expected schema.table, such as public.%s", name, name);
    if (table->tenant && !name_is_public(table->tenant, strlen(table->tenant)))
        return host->fail(host, MUSTER_EINVAL, "tables.%s.tenant: \"%s\": expected a tenant's name: " TENANT_RULE, name, table->tenant);
    if (table->tenant && table->tenant_column)
        return host->fail(host, MUSTER_EINVAL, "tables.%s.tenant: tenant_column is given too; all rows are one tenant's, or a column tells whose each is",
                          name);
    return 0;
}

/* Names that could never match are refused where they stand. */
static int check_names(const struct muster_host *host, const struct cdc_config *config)
{
    const struct muster_map *m = &config->tables;
    const char *taker = config->unroutable_tenant;
    int err = 0;

    if (strspn(config->slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(config->slot)) /* PostgreSQL's rule */
        return host->fail(host, MUSTER_EINVAL, "slot: \"%s\": expected a name of a-z, 0-9 and _", config->slot);
    if (taker && !name_is_public(taker, strlen(taker)))
        return host->fail(host, MUSTER_EINVAL, "unroutable.tenant: \"%s\": expected a tenant's name: " TENANT_RULE, taker);
    for (size_t i = 0; i < m->n && !err; i++)
        err = check_table(host, m->keys[i], (const struct route_setting *)m->entries + i);
    return err;
}

static int cdc_check(const struct muster_host *host, const void *config)
{
    if (host->n_lanes != 1)
        return host->fail(host, MUSTER_EINVAL, "lanes: %u: a slot has one reader, expected 1; give each further slot an instance",
                          host->n_lanes);
    if (!host->postgres_dsn)
        return host->fail(host, MUSTER_EINVAL, "postgres.dsn is missing: expected where the slot is");
    return check_names(host, config);
}

static int cdc_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct cdc *c = calloc(1, sizeof *c);
    int err;

    if (!c)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    c->host = host;
    c->relations.user_free = route_free;
    c->config = settle_config(config);
    c->events = c->config && c->config->messages.n > 0;
    err = c->config ? find_services(c) : MUSTER_ENOMEM;
    if (!err)
        err = sink_new(c);
    if (!err)
        err = make_metrics(c);
    if (!err)
        err = catalog_prepare(c);
    if (!err)
        err = gap_prepare(c);
    if (!err)
        err = position_prepare(c);
    if (err) {
        cdc_destroy(c);
        return err;
    }
    *ret_self = c;
    return 0;
}

/* A new life reads the stream's settings, the tables and the windows as a start does, and goes on where the stream ends: no change is
 * lost, sent twice, or half by the old and half by the new settings. */
static int cdc_reload(void *self, const void *config)
{
    struct cdc *c = self;
    const struct cdc_config *next = settle_config(config);

    if (!next)
        return c->host->fail(c->host, MUSTER_ENOMEM, "no memory for the settings");
    free((void *)c->config);
    c->config = next;
    if (c->phase != CDC_WAIT && !c->draining)
        begin_again(c, backoff_min_ns);
    return 0;
}

static int cdc_start(void *self)
{
    struct cdc *c = self;
    uint64_t id;
    int err = c->timer->every(c->host, tick_ns, on_tick, &id);

    c->since_ns = c->timer->now(c->host);
    if (!err)
        err = c->timer->every(c->host, head_ns, on_head, &id);
    if (!err)
        begin(c);
    return err;
}

/* Read no more; what is acknowledged is confirmed by the next reader at the latest. */
static void cdc_drain(void *self, int64_t deadline_ns)
{
    struct cdc *c = self;

    (void)deadline_ns;
    c->draining = true;
    position_confirm(c);
    source_pause(c, true);
}

MUSTER_PLUGIN(.name = "cdc", .version = MUSTER_VERSION, .capabilities = "cross_tenant stream sql postgres", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct cdc_config), .create = cdc_create,
              .start = cdc_start, .drain = cdc_drain, .destroy = cdc_destroy, .on_writable = cdc_on_writable,
              .on_link = cdc_on_link, .on_tables = cdc_on_tables, .check = cdc_check, .reload = cdc_reload);
