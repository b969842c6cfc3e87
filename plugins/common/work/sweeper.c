/* Jobs of every broker; see sweeper.h. */
#include "common/work/sweeper.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "common/work/ask.h"

enum { ALL = -1, TAKEN = -1 };

static void run(struct sweep *s, int shard, bool anyway);

/* Locks of this kind are one name space for every SQL user, a tenant's too. */
bool sweep_goes_on(int64_t *taken_ns, bool taken, int64_t now_ns, int64_t period_ns)
{
    if (!taken)
        *taken_ns = 0;
    else if (!*taken_ns)
        *taken_ns = now_ns;
    return taken && now_ns - *taken_ns >= SWEEP_PATIENCE * period_ns;
}

static int64_t by_chance(int64_t period_ns)
{
    return period_ns / 2 + (int64_t)(clock_random() % (uint64_t)period_ns);
}

static void note(struct sweep *s, const struct muster_sql_result *result)
{
    outlook_note(&s->outlook, result);
    if (result->code)
        s->w->host->log(s->w->host, MUSTER_LOG_DEBUG, "%s was not done: %s", s->name, result->error);
}

static void on_done(void *arg, const struct muster_sql_result *result)
{
    struct sweep *s = arg;
    long n = result->code || !result->n_rows || !result->get(result, 0, 0) ? 0 : strtol(result->get(result, 0, 0), NULL, 10);
    int64_t now_ns = s->w->timer->now(s->w->host);
    bool soon = s->soon, of_all = s->shard == ALL && !s->anyway && !result->code;

    s->asking = s->soon = false;
    note(s, result);
    if (n > 0)
        s->w->metrics->add(s->w->host, s->m_done, s->name, n);
    if (result->code)
        return;
    if (of_all && sweep_goes_on(&s->taken_ns, n == TAKEN, now_ns, s->period_ns))
        run(s, ALL, true);
    else if (n == TAKEN && s->shard == ALL && s->has_shards)
        run(s, (int)(clock_random() % SWEEP_SHARDS), false);
    else if (n >= (long)s->limit && s->pause_ns)
        s->due_ns = now_ns + s->pause_ns;
    else if (n >= (long)s->limit)
        run(s, s->shard, s->anyway);
    else if (soon)
        run(s, ALL, false);
}

static void run(struct sweep *s, int shard, bool anyway)
{
    char limit[16], number[16];
    const struct muster_bytes params[4] = {
        ask_param(s->first),
        {limit, (size_t)snprintf(limit, sizeof limit, "%u", s->limit)},
        ask_param(anyway ? "true" : "false"),
        {shard == ALL ? NULL : number, (size_t)snprintf(number, sizeof number, "%d", shard)},
    };

    s->shard = shard;
    s->anyway = anyway;
    s->asking = s->w->sql->exec(s->w->host, s->stmt, NULL, s->name, s->has_shards ? 4 : 3, params, on_done, s) == 0;
}

void sweep_tick(struct sweep *s, int64_t now_ns)
{
    if (s->asking || !s->period_ns)
        return;
    if (now_ns < s->due_ns && s->due_ns - now_ns < 2 * s->period_ns) /* a period that became shorter holds from now on */
        return;
    s->due_ns = now_ns + by_chance(s->period_ns);
    run(s, ALL, false);
}

void sweep_soon(struct sweep *s)
{
    if (s->asking)
        s->soon = true;
    else
        run(s, ALL, false);
}

/* The lock is held until the batch that the statement is in has ended. */
int sweep_prepare(struct sweep *s, struct work *w)
{
    char statement[336];
    int n = snprintf(statement, sizeof statement, "SELECT CASE WHEN $3::boolean OR pg_try_advisory_xact_lock(hashtext('muster.%s'), %s) THEN %s ELSE %d END",
                     s->name, s->has_shards ? "coalesce($4::int, -1)" : "-1", s->call, TAKEN);

    s->w = w;
    if (n < 0 || (size_t)n >= sizeof statement)
        return w->host->fail(w->host, MUSTER_EINVAL, "the statement of %s is too long", s->name);
    s->m_done = w->m_swept;
    return w->sql->prepare(w->host, s->name, MUSTER_SQL_WRITE, statement, &s->stmt);
}
