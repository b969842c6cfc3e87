/*
 * presence/retention.c - sessions that ended long ago are forgotten: the holder of a tenant's shard deletes them, some at a time, one tenant after
 * another. Another broker that does the same meanwhile passes over what this one is about to delete.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "presence/presence.h"

enum { PURGE_ROWS = 1000 };
static const int64_t first_ns = 5 * CLOCK_S, period_ns = 600 * CLOCK_S, pause_ns = 100 * CLOCK_MS; /* pause: between two statements */

static int64_t n_purged(const struct presence *p, const char *outcome)
{
    const struct muster_value *ok, *n;
    struct muster_value *doc;
    int64_t purged = 0;

    if (!outcome || p->codec->decode(p->host, MUSTER_JSON, (struct muster_bytes){outcome, strlen(outcome)}, &doc) != 0)
        return 0;
    ok = p->codec->get(doc, "ok");
    n = ok ? p->codec->get(ok, "purged") : NULL;
    if (n)
        purged = p->codec->as_int(n);
    p->codec->free_doc(doc);
    return purged;
}

/* A full batch means that there is more; a failure waits for the next round. */
static void on_purged(void *arg, const struct muster_sql_result *result)
{
    struct tenancy *t = arg;
    struct presence *p = t->p;
    struct retention *r = &p->death.retention;
    int64_t n = result->code || !result->n_rows ? 0 : n_purged(p, result->get(result, 0, 0));

    r->asking = false;
    r->again = n == PURGE_ROWS ? t : NULL;
    r->next_ns = p->timer->now(p->host) + pause_ns;
    if (n)
        p->metrics->add(p->host, r->purged, NULL, n);
    if (result->code)
        p->host->log(p->host, MUSTER_LOG_DEBUG, "sessions of tenant %s that have ended were not purged: %s", t->name, result->error);
}

static struct tenancy *next_tenancy(struct presence *p)
{
    struct retention *r = &p->death.retention;
    struct tenancy *t = r->again;

    r->again = NULL;
    if (t && tenancy_leads(t))
        return t;
    while (tenancy_next(p, &r->at, &t))
        if (tenancy_leads(t) && tenancy_is(t))
            return t;
    return NULL;
}

static void purge(struct presence *p, struct tenancy *t)
{
    char keep[32], limit[16];
    const struct muster_bytes params[2] = {
        {keep, (size_t)snprintf(keep, sizeof keep, "%lld s", (long long)(p->config->keep_sessions_ns / CLOCK_S))},
        {limit, (size_t)snprintf(limit, sizeof limit, "%d", PURGE_ROWS)},
    };

    p->death.retention.asking = p->death.sql->exec(p->host, p->death.retention.stmt, t->tenant, NULL, 2, params, on_purged, t) == 0;
}

void retention_tick(struct presence *p, int64_t now_ns)
{
    struct retention *r = &p->death.retention;
    struct tenancy *t;

    if (r->asking || now_ns < r->next_ns || !p->config->keep_sessions_ns)
        return;
    t = next_tenancy(p);
    if (t) {
        r->next_ns = now_ns + pause_ns; /* where there is no room, it is the next one's turn */
        r->any = true;
        purge(p, t);
        return;
    }
    r->next_ns = now_ns + (r->any ? period_ns : first_ns); /* who leads nobody looks whether that has changed */
    r->at = 0;
    r->any = false;
}

int retention_prepare(struct presence *p)
{
    struct retention *r = &p->death.retention;
    int err = p->death.sql->prepare(p->host, "purge_sessions", MUSTER_SQL_WRITE, "SELECT muster.purge_sessions($1::interval, $2::int)", &r->stmt);

    r->next_ns = p->timer->now(p->host) + first_ns;
    return err ? err : p->metrics->make(p->host, MUSTER_COUNTER, "sessions_purged_total", "Rows of agent_sessions deleted because they ended long ago.",
                                        NULL, &r->purged);
}
