/* What happens to runs without anybody asking: tries and verifiers whose time is over, silence, escalations, lost sessions, what is old. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "runs/runs.h"

static const int64_t orphans_ns = 15 * CLOCK_S, purge_ns = 600 * CLOCK_S, purge_pause_ns = 100 * CLOCK_MS;
/* Presence has written down by then what it told. */
static const int64_t written_ns = CLOCK_S;

/* Few at once: what a statement has locked it holds to its end, and others wait 50 ms for it. */
static const struct sweep jobs[SWEEPS] = {
    [SWEEP_DUE] = {.name = "run_due", .call = "muster.run_due($1, $4::int, $2::int)", .has_shards = true, .limit = 50},
    [SWEEP_STUCK] = {.name = "run_stuck", .call = "muster.run_stuck($1::interval, $2::int)", .limit = 50},
    [SWEEP_TIERS] = {.name = "run_tiers", .call = "muster.run_tiers($1::interval[], $2::int)", .limit = 50},
    [SWEEP_ORPHANS] = {.name = "run_orphans", .call = "muster.run_orphans($1, $2::int)", .limit = 20, .period_ns = orphans_ns},
    [SWEEP_PURGE] = {.name = "run_purge", .call = "muster.run_purge($1::interval, $2::int)", .limit = 1000, .pause_ns = purge_pause_ns},
    [SWEEP_EVENTS] = {.name = "event_purge", .call = "muster.event_purge($1::interval, $2::int)", .limit = 1000, .pause_ns = purge_pause_ns},
};

static const char *interval(char *text, size_t size, int64_t ns)
{
    (void)snprintf(text, size, "%lld ms", (long long)(ns / CLOCK_MS));
    return text;
}

/* Silence is looked at ten times in the time that it may last, but no oftener than anything else. */
static int64_t look_every(const struct runs_config *config)
{
    int64_t every = config->stuck_after_ns / 10;

    if (every > 60 * CLOCK_S)
        every = 60 * CLOCK_S;
    return !config->stuck_after_ns || every > config->sweep_ns ? every : config->sweep_ns;
}

void sweeps_set(struct runs *r)
{
    r->sweeps[SWEEP_DUE].period_ns = r->config->sweep_ns;
    r->sweeps[SWEEP_STUCK].period_ns = look_every(r->config);
    r->sweeps[SWEEP_STUCK].first = interval(r->stuck_after, sizeof r->stuck_after, r->config->stuck_after_ns);
    (void)tiers_write(&r->config->escalate_tiers, r->tiers); /* runs_check() has seen it */
    r->sweeps[SWEEP_TIERS].period_ns = r->config->sweep_ns;
    r->sweeps[SWEEP_TIERS].first = r->tiers;
    r->sweeps[SWEEP_PURGE].period_ns = r->config->keep_ns ? purge_ns : 0;
    r->sweeps[SWEEP_PURGE].first = interval(r->keep, sizeof r->keep, r->config->keep_ns);
    r->sweeps[SWEEP_EVENTS].period_ns = r->config->keep_events_ns ? purge_ns : 0;
    r->sweeps[SWEEP_EVENTS].first = interval(r->keep_events, sizeof r->keep_events, r->config->keep_events_ns);
}

int sweeps_create(struct runs *r)
{
    int err = 0;

    memcpy(r->sweeps, jobs, sizeof jobs);
    for (size_t i = 0; i < SWEEPS && !err; i++) {
        r->sweeps[i].first = r->work.host->broker_id;
        err = sweep_prepare(&r->sweeps[i], &r->work);
    }
    sweeps_set(r);
    return err;
}

/* Somebody left, or took the place of a session of his own: who held what is looked up, once for all who went in that second. */
static int on_presence(void *self, const struct muster_msg *msg)
{
    struct runs *r = self;

    (void)msg;
    if (!r->left_ns)
        r->left_ns = r->work.timer->now(r->work.host);
    return 0;
}

int sweeps_start(struct runs *r)
{
    static const char *const subjects[] = {"evt.presence.leave.*", "evt.presence.join.*"};
    int err = 0;

    for (size_t i = 0; i < sizeof subjects / sizeof *subjects && !err; i++) {
        const struct muster_subscription sub = {.size = sizeof sub, .subject = subjects[i], .queue = 1, .overflow = MUSTER_OVERFLOW_DROP_NEW,
                                                .max_msgs = 1024, .max_bytes = 4 << 20, .fn = on_presence};
        uint64_t id;

        err = r->work.bus->subscribe(r->work.host, &sub, &id);
    }
    return err;
}

void sweeps_tick(struct runs *r, int64_t now_ns)
{
    if (r->left_ns && now_ns - r->left_ns >= written_ns) {
        r->left_ns = 0;
        sweep_soon(&r->sweeps[SWEEP_ORPHANS]);
    }
    for (size_t i = 0; i < SWEEPS; i++)
        sweep_tick(&r->sweeps[i], now_ns);
    outlook_tell(&r->sweeps[SWEEP_DUE].outlook, r->work.host, "runs", "no run changes");
}
