/*
 * A gap is told to every tenant as evt.cdc.gap, before the record says so: a crash in between tells it twice rather than never.
 *
 * Events are emitted through the database and read from the slot of events. What lost this slot may have lost that one too (a
 * standby was promoted, a backup restored), and its reader sees only what is emitted after it has made it anew: wait for it.
 *
 * Then at most OPEN events are under way. When all are committed the record is written and the instance goes on; when one fails
 * this life ends, and the next one finds the same gap.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { OPEN = 256, PATIENCE_S = 30 };
static const char reader_key[] = "events"; /* in the bucket: the slot of events */
static const char reader_sql[] = "SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL"
                                 " AND wal_status <> 'lost'";

struct gap {
    struct cdc *c;
    uint32_t generation;
    struct cdc_record next;
    const struct muster_tenant **tenants;
    size_t n, cap, at; /* those below `at` are told, or being told */
    size_t n_open;
    bool failed;
    char reader[64]; /* the slot of events */
    int n_looks;
    char subject[96], body[512];
};

int gap_prepare(struct cdc *c)
{
    return c->sql->prepare(c->host, "cdc_reader", MUSTER_SQL_READ, reader_sql, &c->stmt_reader);
}

static void gap_free(struct gap *g)
{
    free(g->tenants);
    free(g);
}

static void add_tenant(void *arg, const struct muster_tenant *tenant)
{
    struct gap *g = arg;

    if (g->n == g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 64;
        const struct muster_tenant **more = realloc(g->tenants, cap * sizeof(*more));

        g->failed |= !more;
        if (!more)
            return;
        g->tenants = more;
        g->cap = cap;
    }
    g->tenants[g->n++] = tenant;
}

static void on_told(void *arg, int code);

static int tell_one(struct gap *g, const struct muster_tenant *tenant)
{
    struct muster_publication pub = {.size = sizeof pub,
                                     .tenant = tenant,
                                     .subject = g->subject,
                                     .payload = {g->body, strlen(g->body)},
                                     .done = on_told,
                                     .arg = g};
    int err = g->c->bus->publish(g->c->host, &pub);

    if (!err)
        g->n_open++;
    return err;
}

/* Tell as many as may be open. The last answer ends it. */
static void go_on(struct gap *g)
{
    struct cdc *c = g->c;

    while (!g->failed && g->at < g->n && g->n_open < OPEN)
        g->failed = tell_one(g, g->tenants[g->at++]) != 0;
    if (g->n_open)
        return;
    if (g->generation != c->generation)
        ; /* this life is over */
    else if (g->failed)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "a gap could not be told to every tenant; trying again");
    else
        position_write(c, &g->next);
    gap_free(g);
}

static void on_told(void *arg, int code)
{
    struct gap *g = arg;

    g->n_open--;
    g->failed |= code != 0 || g->generation != g->c->generation;
    go_on(g);
}

static void write_body(struct gap *g, const char *reason)
{
    struct cdc *c = g->c;
    char from[PGOUTPUT_LSN_SIZE], to[PGOUTPUT_LSN_SIZE], at[CLOCK_RFC3339_SIZE];

    (void)pgoutput_print_lsn(c->record.confirm, from);
    (void)pgoutput_print_lsn(c->source.slot_confirmed, to);
    clock_rfc3339(c->timer->wall_now(c->host), at);
    (void)snprintf(g->subject, sizeof g->subject, "evt.cdc.gap.%s", c->host->instance);
    (void)snprintf(g->body, sizeof g->body,
                   "{\"source\":\"%s\",\"reason\":\"%s\",\"from_lsn\":%s%s%s,\"to_lsn\":\"%s\",\"epoch\":%llu,\"at\":\"%s\"}",
                   c->host->instance, reason, c->have_record ? "\"" : "", c->have_record ? from : "null", c->have_record ? "\"" : "", to,
                   (unsigned long long)g->next.epoch, at);
    c->host->log(c->host, MUSTER_LOG_ERROR,
                 "gap: %s: changes between %s and %s may be missing; epoch %llu begins and every tenant is told", reason, from, to,
                 (unsigned long long)g->next.epoch);
}

/* From here on the gap belongs to the events that are open. */
static void tell_all(struct cdc *c)
{
    struct gap *g = c->gap;

    c->gap = NULL;
    (void)c->tenants->each(c->host, add_tenant, g); /* fails only without the capability, which we have */
    go_on(g);
}

/* ---- the slot of events ---------------------------------------------------------------------------------------------------- */

static void look_for_reader(struct cdc *c);

static void on_look_again(void *self, int64_t now_ns)
{
    struct cdc *c = self;

    (void)now_ns;
    if (c->gap && c->gap->reader[0])
        look_for_reader(c);
}

static void on_reader(void *arg, const struct muster_sql_result *r)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);
    uint64_t timer;

    if (!c || !c->gap)
        return;
    if (r->code) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the slot of events could not be looked for: %s", r->error);
        return;
    }
    if (r->n_rows == 0 && c->gap->n_looks++ < PATIENCE_S && c->timer->once(c->host, CLOCK_S, on_look_again, &timer) == 0)
        return;
    if (r->n_rows == 0)
        c->host->log(c->host, MUSTER_LOG_WARN, "nobody reads slot %s, so that tenants may not hear of the gap", c->gap->reader);
    tell_all(c);
}

static void look_for_reader(struct cdc *c)
{
    struct muster_bytes name = {c->gap->reader, strlen(c->gap->reader)};
    struct cdc_ask *ask = cdc_ask_new(c);
    int err = ask ? c->sql->exec(c->host, c->stmt_reader, NULL, NULL, 1, &name, on_reader, ask) : MUSTER_ENOMEM;

    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "postgres_away", "the slot of events could not be looked for (error %d)", err);
}

static void on_reader_name(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);

    (void)revision;
    if (!c)
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the slot of events could not be asked for (error %d)", code);
        return;
    }
    if (!code && value.len < sizeof c->gap->reader)
        memcpy(c->gap->reader, value.data, value.len);
    if (c->gap->reader[0])
        look_for_reader(c);
    else
        tell_all(c); /* there never was one */
}

static void on_named(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    (void)arg;
    (void)code; /* written again with the next life */
    (void)value;
    (void)revision;
}

void gap_name_reader(struct cdc *c)
{
    const struct muster_kv_put put = {.size = sizeof put,
                                      .key = reader_key,
                                      .value = {c->config->slot, strlen(c->config->slot)},
                                      .revision = MUSTER_UNFENCED,
                                      .fn = on_named};

    (void)c->kv->put(c->host, &put);
}

static void ask_reader(struct cdc *c)
{
    struct cdc_ask *ask = cdc_ask_new(c);
    int err = ask ? c->kv->get(c->host, NULL, reader_key, on_reader_name, ask) : MUSTER_ENOMEM;

    if (!err)
        return;
    (void)cdc_ask_take(ask);
    cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "the slot of events could not be asked for (error %d)", err);
}

/* ---- the beginning, and the end in between ------------------------------------------------------------------------------------ */

void gap_reset(struct cdc *c)
{
    if (c->gap)
        gap_free(c->gap);
    c->gap = NULL;
}

void gap_tell(struct cdc *c, const char *reason, const struct cdc_record *next)
{
    struct gap *g = calloc(1, sizeof *g);

    if (!g) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory to tell a gap");
        return;
    }
    *g = (struct gap){.c = c, .generation = c->generation, .next = *next};
    c->gap = g;
    c->metrics->add(c->host, c->m.gaps, NULL, 1);
    write_body(g, reason);
    if (c->events)
        tell_all(c); /* its own slot is there */
    else
        ask_reader(c);
}
