/*
 * runs - what agents do, from its start to its verified end: the services run and event.
 *
 * in   requests rpc.*.run.*, rpc.*.event.*; evt.presence.>
 * out  answers
 *
 * The parts are told in runs.h.
 */
#include "runs/runs.h"

#include <stdlib.h>

#include "base/clock.h"
#include "schemas/event.h"
#include "schemas/run.h"

#define DAY (INT64_C(86400) * CLOCK_S)
#define FIELD(member) .offset = offsetof(struct runs_config, member)

static const struct muster_option options[] = {
    {.key = "sweep", .help = "How often each broker looks for tries, verifications and escalations whose time is over.", .type = MUSTER_T_DURATION_NS, .def = "500ms",
     .min = 50 * CLOCK_MS, .max = 60 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(sweep_ns)},
    {.key = "stuck_after", .help = "A run of which nothing was heard for so long is called stuck (0s: none is).", .type = MUSTER_T_DURATION_NS, .def = "10m", .min = 0,
     .max = 30 * DAY, .flags = MUSTER_O_RELOADABLE, FIELD(stuck_after_ns)},
    {.key = "verify_by", .help = "A run that no verifier has taken for so long is escalated.", .type = MUSTER_T_DURATION_NS, .def = "1h", .min = CLOCK_S,
     .max = 30 * DAY, .flags = MUSTER_O_RELOADABLE, FIELD(verify_by_ns)},
    {.key = "verify_lease", .help = "How long a verifier may take before it says that it takes longer.", .type = MUSTER_T_DURATION_NS, .def = "5m", .min = CLOCK_S,
     .max = 30 * DAY, .flags = MUSTER_O_RELOADABLE, FIELD(verify_lease_ns)},
    {.key = "escalate_tiers", .help = "How long each tier of humans has for an escalated run before the next is told ([]: only the first is).", .type = MUSTER_T_LIST,
     .def = "1h,4h,1d", .min = 0, .max = TIERS_MAX, .flags = MUSTER_O_RELOADABLE, FIELD(escalate_tiers)},
    {.key = "keep", .help = "Runs are deleted that long after they have ended (0s: never).", .type = MUSTER_T_DURATION_NS, .def = "90d", .min = 0, .max = 3650 * DAY,
     .flags = MUSTER_O_RELOADABLE, FIELD(keep_ns)},
    {.key = "keep_events", .help = "What agents put on record is deleted after so long (0s: never).", .type = MUSTER_T_DURATION_NS, .def = "30d", .min = 0,
     .max = 3650 * DAY, .flags = MUSTER_O_RELOADABLE, FIELD(keep_events_ns)},
};

static int runs_check(const struct muster_host *host, const void *config)
{
    const struct runs_config *c = config;
    char text[TIERS_SIZE];
    const char *wrong = tiers_write(&c->escalate_tiers, text);

    return wrong ? host->fail(host, MUSTER_EINVAL, "escalate_tiers: %.40s came, durations from 1s to 30d such as [1h, 4h, 1d] were expected", wrong) : 0;
}

static void runs_destroy(void *self)
{
    struct runs *r = self;

    if (!r)
        return;
    work_destroy(&r->events);
    work_destroy(&r->work);
    free(r);
}

static int runs_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct runs *r = calloc(1, sizeof *r);
    int err;

    if (!r)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    r->work = (struct work){.host = host, .service = "run", .verbs = run_verbs, .n_verbs = n_run_verbs};
    r->events = (struct work){.service = "event", .verbs = event_verbs, .n_verbs = n_event_verbs};
    r->config = config;
    err = work_create(&r->work);
    if (!err)
        err = work_also(&r->work, &r->events);
    if (!err)
        err = sweeps_create(r);
    if (err) {
        runs_destroy(r);
        return err;
    }
    *ret_self = r;
    return 0;
}

static void on_tick(void *self, int64_t now_ns)
{
    sweeps_tick(self, now_ns);
}

static int runs_start(void *self)
{
    struct runs *r = self;
    uint64_t id;
    int err = r->work.timer->every(r->work.host, RUNS_TICK_NS, on_tick, &id);

    if (!err)
        err = work_start(&r->work);
    if (!err)
        err = work_start(&r->events);
    return err ? err : sweeps_start(r);
}

static void runs_on_writable(void *self)
{
    struct runs *r = self;

    work_flush(&r->work);
    work_flush(&r->events);
}

static int runs_reload(void *self, const void *config)
{
    struct runs *r = self;

    r->config = config;
    sweeps_set(r);
    return 0;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "run", .verbs = RUN_VERBS, .schema = muster_schema_run},
    {.size = sizeof(struct muster_service), .name = "event", .verbs = EVENT_VERBS, .schema = muster_schema_event},
};

MUSTER_PLUGIN(.name = "runs", .version = MUSTER_VERSION, .capabilities = "cross_tenant stream sql", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct runs_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = runs_create, .start = runs_start, .destroy = runs_destroy, .check = runs_check,
              .on_writable = runs_on_writable, .reload = runs_reload);
