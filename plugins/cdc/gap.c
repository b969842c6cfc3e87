/*
 * A gap is told to every tenant as evt.cdc.gap, before the record says so: a crash in between tells it twice rather than never.
 *
 * Events are emitted through the database, at most OPEN at a time. When all are committed the record is written and the instance
 * goes on; when one fails this life ends, and the next one finds the same gap.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cdc/cdc.h"

enum { OPEN = 256 };

struct gap {
    struct cdc *c;
    uint32_t generation;
    struct cdc_record next;
    const struct muster_tenant **tenants;
    size_t n, cap, at; /* those below `at` are told, or being told */
    size_t n_open;
    bool failed;
    char subject[96], body[512];
};

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
    char from[24], to[24], at[CLOCK_RFC3339_SIZE];

    source_print_lsn(c->record.confirm, from);
    source_print_lsn(c->source.slot_confirmed, to);
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

void gap_tell(struct cdc *c, const char *reason, const struct cdc_record *next)
{
    struct gap *g = calloc(1, sizeof *g);

    if (!g) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory to tell a gap");
        return;
    }
    *g = (struct gap){.c = c, .generation = c->generation, .next = *next};
    c->metrics->add(c->host, c->m.gaps, NULL, 1);
    write_body(g, reason);
    (void)c->tenants->each(c->host, add_tenant, g); /* fails only without the capability, which we have */
    go_on(g);
}
