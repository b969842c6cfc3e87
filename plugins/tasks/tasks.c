/*
 * tasks - work that is never lost and never done twice: the service task.
 *
 * in   requests rpc.*.task.*; what respond() says to an assignment or a cancel; evt.task.>
 * out  answers; R.<T>.to.<agent>._muster.task_…
 *
 * The parts are told in tasks.h.
 */
#include "tasks/tasks.h"

#include <stdlib.h>

#include "base/clock.h"
#include "common/work/notice.h"
#include "schemas/task.h"

#define DAY (INT64_C(86400) * CLOCK_S)
#define FIELD(member) .offset = offsetof(struct tasks_config, member)

static const struct muster_option options[] = {
    {.key = "sweep", .help = "How often each broker looks for tasks whose deadline, pause or offer has ended.", .type = MUSTER_T_DURATION_NS, .def = "500ms",
     .min = 50 * CLOCK_MS, .max = 60 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(sweep_ns)},
    {.key = "keep", .help = "Tasks are deleted that long after they have ended (0s: never).", .type = MUSTER_T_DURATION_NS, .def = "30d", .min = 0,
     .max = 3650 * DAY, .flags = MUSTER_O_RELOADABLE, FIELD(keep_ns)},
};

static void tasks_destroy(void *self)
{
    struct tasks *t = self;

    if (!t)
        return;
    router_destroy(t);
    notices_destroy(t);
    work_destroy(&t->work);
    free(t);
}

static int tasks_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct tasks *t = calloc(1, sizeof *t);
    int err;

    if (!t)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    t->work = (struct work){.host = host, .service = "task", .verbs = task_verbs, .n_verbs = n_task_verbs};
    t->config = config;
    err = work_create(&t->work);
    if (!err)
        err = notices_create(t);
    if (!err)
        err = sweeps_create(t);
    if (!err)
        err = router_create(t);
    if (err) {
        tasks_destroy(t);
        return err;
    }
    *ret_self = t;
    return 0;
}

static void on_tick(void *self, int64_t now_ns)
{
    sweeps_tick(self, now_ns);
    notices_tick(self);
    router_tick(self, now_ns);
}

static int tasks_start(void *self)
{
    struct tasks *t = self;
    uint64_t id;
    int err = t->work.timer->every(t->work.host, TASKS_TICK_NS, on_tick, &id);

    if (!err)
        err = work_start(&t->work);
    if (!err)
        err = verbs_start(t);
    if (!err)
        err = notices_start(t);
    if (!err)
        err = notice_receipts(&t->work);
    return err ? err : router_start(t);
}

static void tasks_drain(void *self, int64_t deadline_ns)
{
    (void)deadline_ns;
    router_drain(self);
}

static void tasks_on_writable(void *self)
{
    struct tasks *t = self;

    work_flush(&t->work);
    notices_writable(t);
    router_writable(t);
}

static void tasks_on_link(void *self, int up)
{
    router_link(self, up);
}

static void tasks_on_tables(void *self)
{
    router_tables(self);
}

static int tasks_reload(void *self, const void *config)
{
    struct tasks *t = self;

    t->config = config;
    sweeps_set(t);
    return 0;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "task", .verbs = TASK_VERBS, .schema = muster_schema_task},
};

MUSTER_PLUGIN(.name = "tasks", .version = MUSTER_VERSION, .capabilities = "cross_tenant stream sql system", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct tasks_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = tasks_create, .start = tasks_start, .drain = tasks_drain,
              .destroy = tasks_destroy, .on_writable = tasks_on_writable, .on_link = tasks_on_link, .on_tables = tasks_on_tables, .reload = tasks_reload);
