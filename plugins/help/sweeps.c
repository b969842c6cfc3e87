/* What happens to requests without anybody asking: clocks that run out, rounds, sessions that were lost unheard, what is old. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "common/work/ask.h"
#include "help/help.h"

static const int64_t orphans_ns = 2 * CLOCK_S, purge_ns = 600 * CLOCK_S, purge_pause_ns = 100 * CLOCK_MS;

/* The lock is held until the batch that the statement is in has ended. What is to be told comes in rows, each no longer than brokers decode: what is
 * long is one tenant's, and the others' is told all the same. */
#define ALONE(job, call)                                                                                                                            \
    "SELECT j ->> 'n', d FROM (SELECT CASE WHEN $2::boolean OR pg_try_advisory_xact_lock(hashtext('muster." job "'), -1) THEN " call \
    " ELSE '{\"n\": -1}' END OFFSET 0) AS x (j) LEFT JOIN LATERAL jsonb_array_elements(j -> 'done') AS d ON true"

static const struct {
    const char *name, *statement;
} statements[JOBS] = {
    [JOB_DUE] = {"help_due", ALONE("help_due", "muster.help_due($1, NULL, 25)")},
    [JOB_LOOKING] = {"help_looking", ALONE("help_looking", "muster.help_looking(NULL, 50 + 0 * length($1))")},
    [JOB_ORPHANS] = {"help_orphans", ALONE("help_orphans", "muster.help_orphans($1, 50)")},
};

void jobs_set(struct help *h)
{
    const struct help_config *c = h->config;

    h->jobs[JOB_DUE].period_ns = h->jobs[JOB_LOOKING].period_ns = c->sweep_ns;
    h->jobs[JOB_ORPHANS].period_ns = orphans_ns;
    h->purge.period_ns = c->keep_ns || c->keep_accepted_ns ? purge_ns : 0;
    (void)snprintf(h->keep, sizeof h->keep, "{%lld s,%lld s}", (long long)((c->keep_ns ? c->keep_ns : INT64_MAX) / CLOCK_S),
                   (long long)((c->keep_accepted_ns ? c->keep_accepted_ns : INT64_MAX) / CLOCK_S));
    h->purge.first = h->keep;
    (void)snprintf(h->set, sizeof h->set,
                   "{\"timeout_ms\":%lld,\"offer_ms\":%lld,\"claim_ms\":%lld,\"verdict_ms\":%lld,\"rounds\":%lld,\"rejections\":%lld,\"depth\":%lld,"
                   "\"quota\":%lld,\"prior\":%lld,\"auto_accept\":%s}",
                   (long long)(c->timeout_ns / CLOCK_MS), (long long)(c->offer_ns / CLOCK_MS), (long long)(c->claim_ns / CLOCK_MS),
                   (long long)(c->verdict_ns / CLOCK_MS), (long long)c->rounds, (long long)c->rejections, (long long)c->depth, (long long)c->quota,
                   (long long)c->prior, c->auto_accept ? "true" : "false");
}

int jobs_create(struct help *h)
{
    int err = 0;

    for (size_t i = 0; i < JOBS && !err; i++) {
        h->jobs[i] = (struct job){.h = h, .name = statements[i].name};
        err = h->work.sql->prepare(h->work.host, statements[i].name, MUSTER_SQL_WRITE, statements[i].statement, &h->jobs[i].stmt);
    }
    h->purge = (struct sweep){.name = "help_purge", .call = "muster.help_purge((($1::text[])[1])::interval, (($1::text[])[2])::interval, $2::int)",
                              .limit = 1000, .pause_ns = purge_pause_ns};
    if (!err)
        err = sweep_prepare(&h->purge, &h->work);
    jobs_set(h);
    return err;
}

static void run(struct job *j, bool anyway);

static void tell(struct job *j, const char *one)
{
    struct muster_value *doc;
    struct wire_error error;

    if (value_decode(MUSTER_JSON, ask_param(one), &doc, &error) != 0)
        return;
    tells_send(j->h, NULL, doc);
    value_free(doc);
}

/* What was done may have left more to do: ask again until nothing is. */
static void on_done(void *arg, const struct muster_sql_result *r)
{
    struct job *j = arg;
    struct work *w = &j->h->work;
    const char *text = r->code || !r->n_rows ? NULL : r->get(r, 0, 0);
    long n = text ? strtol(text, NULL, 10) : 0;

    j->asking = false;
    outlook_note(&j->h->outlook, r);
    for (uint32_t i = 0; n > 0 && i < r->n_rows; i++)
        if (r->get(r, i, 1))
            tell(j, r->get(r, i, 1));
    if (n > 0)
        w->metrics->add(w->host, w->m_swept, j->name, n);
    if (!r->code && !j->anyway && sweep_goes_on(&j->taken_ns, n < 0, w->timer->now(w->host), j->period_ns))
        run(j, true);
    else if (n > 0)
        run(j, j->anyway);
}

static void run(struct job *j, bool anyway)
{
    struct work *w = &j->h->work;

    j->anyway = anyway;
    j->asking = w->sql->exec(w->host, j->stmt, NULL, j->name, 2,
                             (struct muster_bytes[]){ask_param(w->host->broker_id), ask_param(anyway ? "true" : "false")}, on_done, j) == 0;
}

static void tick(struct job *j, int64_t now_ns)
{
    if (j->asking || now_ns < j->due_ns)
        return;
    j->due_ns = now_ns + j->period_ns / 2 + (int64_t)(clock_random() % (uint64_t)j->period_ns);
    run(j, false);
}

void jobs_tick(struct help *h, int64_t now_ns)
{
    for (size_t i = 0; i < JOBS; i++)
        tick(&h->jobs[i], now_ns);
    sweep_tick(&h->purge, now_ns);
    outlook_tell(&h->outlook, h->work.host, "help requests", "no request for help changes");
}
