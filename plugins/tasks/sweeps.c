/* What happens to tasks without anybody asking: clocks that run out, followers, sessions that were lost unheard, what is old. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/tasks.h"

static const int64_t orphans_ns = 15 * CLOCK_S, purge_ns = 600 * CLOCK_S, purge_pause_ns = 100 * CLOCK_MS;

/* How much at once: what a statement has locked it holds to its end, and others wait 50 ms for it. settle and orphans do so many for each of so
 * many. */
static const struct sweep jobs[SWEEPS] = {
    [SWEEP_DUE] = {.name = "task_due", .call = "muster.task_due($1, $4::int, $2::int)", .has_shards = true, .limit = 50},
    [SWEEP_SETTLE] = {.name = "task_settle", .call = "muster.task_settle($1, $2::int)", .limit = 100},
    [SWEEP_ORPHANS] = {.name = "task_orphans", .call = "muster.task_orphans($1, $2::int)", .limit = 20, .period_ns = orphans_ns},
    [SWEEP_PURGE] = {.name = "task_purge", .call = "muster.task_purge($1::interval, $2::int)", .limit = 1000, .pause_ns = purge_pause_ns},
};

void sweeps_set(struct tasks *t)
{
    t->sweeps[SWEEP_DUE].period_ns = t->sweeps[SWEEP_SETTLE].period_ns = t->config->sweep_ns;
    t->sweeps[SWEEP_PURGE].period_ns = t->config->keep_ns ? purge_ns : 0;
    (void)snprintf(t->keep, sizeof t->keep, "%lld s", (long long)(t->config->keep_ns / CLOCK_S));
    t->sweeps[SWEEP_PURGE].first = t->keep;
    t->sweeps[SWEEP_PURGE].due_ns = 0; /* what was to stay may be to go now */
}

int sweeps_create(struct tasks *t)
{
    int err = 0;

    memcpy(t->sweeps, jobs, sizeof jobs);
    for (size_t i = 0; i < SWEEPS && !err; i++) {
        t->sweeps[i].first = t->work.host->broker_id;
        err = sweep_prepare(&t->sweeps[i], &t->work);
    }
    sweeps_set(t);
    return err;
}

void sweeps_tick(struct tasks *t, int64_t now_ns)
{
    for (size_t i = 0; i < SWEEPS; i++)
        sweep_tick(&t->sweeps[i], now_ns);
    outlook_tell(&t->sweeps[SWEEP_DUE].outlook, t->work.host, "tasks", "no task changes");
}

void sweeps_settle(struct tasks *t)
{
    sweep_soon(&t->sweeps[SWEEP_SETTLE]);
}
