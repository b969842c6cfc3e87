/* One running instance of a plugin, from create to destroy; see instance.h. */
#include "core/instance.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/dispatch.h"
#include "core/health.h"
#include "core/host.h"
#include "core/loader.h"
#include "core/services.h"
#include "core/settings.h"
#include "metrics/metrics.h"
#include "sql/sql.h"

static const int64_t start_ns = 30 * CLOCK_S, release_ns = CLOCK_S;

bool instance_has_capability(const struct instance *in, const char *capability)
{
    return loader_has_capability(in->plugin, capability);
}

#ifdef NDEBUG
enum { ABORT_ON_BREACH = false };
#else
enum { ABORT_ON_BREACH = true };
#endif

static void tell_breach(const struct instance *in, const char *function, const char *where, const char *tag)
{
    log_error(in->area, "plugin %s %s called %s() %s; muster/plugin.h says [%s]", in->plugin->name, in->plugin->version, function, where,
              tag);
    if (ABORT_ON_BREACH)
        abort();
}

bool instance_is_here(const struct instance *in, const char *function)
{
    ASSERT(in->magic == INSTANCE_MAGIC);
    if (lane_here(in->lane))
        return true;
    tell_breach(in, function, "on another thread than its lane", "lane");
    return false;
}

bool instance_in_create(const struct instance *in, const char *function)
{
    ASSERT(in->magic == INSTANCE_MAGIC);
    if (!lane_here(in->lane)) {
        tell_breach(in, function, "on another thread than the one that runs create()", "init");
        return false;
    }
    if (in->created)
        tell_breach(in, function, "after create()", "init");
    return !in->created;
}

int instance_may_begin(const struct instance *in, const char *function)
{
    if (!instance_is_here(in, function))
        return MUSTER_EINVAL;
    if (in->created)
        return in->ending ? MUSTER_ELINK : 0;
    tell_breach(in, function, "in create()", "lane");
    return MUSTER_EINVAL;
}

/* The reason that the plugin gave with host->fail(), or what the code says. */
static void log_failure(struct instance *in, const char *what, int code)
{
    char path[PATH_MAX];

    pthread_mutex_lock(&in->lock);
    health_set(in->health, MUSTER_HEALTH_DOWN, "failed", "plugin %s %s (%s): %s failed (%d): %s", in->plugin->name, in->plugin->version,
               loader_path(in->how, path, sizeof path), what, code, in->reason[0] ? in->reason : "it gave no reason");
    pthread_mutex_unlock(&in->lock);
}

static int add_services(struct instance *in)
{
    char why[SERVICES_WHY_SIZE], path[PATH_MAX];
    int err = services_add(broker_services(in->broker), in->plugin, why);

    if (err)
        health_set(in->health, MUSTER_HEALTH_DOWN, "bad_service", "plugin %s %s (%s): %s", in->plugin->name, in->plugin->version,
                   loader_path(in->how, path, sizeof path), why);
    return err;
}

static int bind_config(struct instance *in)
{
    struct config_error err;
    int code = settings_new(broker_config(in->broker), in->how, in->plugin, &in->in_force, &err);

    if (code)
        health_set(in->health, MUSTER_HEALTH_DOWN, "bad_config", "%s", err.text);
    return code;
}

static int call_create(void *arg)
{
    struct instance *in = arg;
    int err;

    instance_enter(in, "create", NULL);
    err = in->plugin->create(&in->host, in->in_force.values, &in->self);
    instance_leave(in);
    in->created = !err;
    return err;
}

static int make_metrics(struct instance *in)
{
    struct metric_spec failures = {.type = MUSTER_COUNTER,
                                   .name = "muster_reload_failures_total",
                                   .help = "Changed settings that a plugin did not take over when it was told to.",
                                   .constants = {{"plugin", in->plugin->name}, {"instance", in->how->instance}}};

    return metrics_make(broker_metrics(in->broker), &failures, &in->reload_failures);
}

static int build(struct instance *in, uint32_t lane, uint32_t n_lanes)
{
    char name[160];
    struct inbox_options inbox = {.metrics = broker_metrics(in->broker),
                                  .plugin = in->plugin->name,
                                  .instance = in->how->instance,
                                  .deliver = dispatch_deliver,
                                  .refuse = dispatch_refuse,
                                  .arg = in};
    int err;

    (void)snprintf(in->area, sizeof in->area, "%s.%s", in->plugin->name, in->how->instance);
    (void)snprintf(name, sizeof name, n_lanes > 1 ? "%s.%u" : "%s", in->area, lane);
    in->crumb = (struct lane_crumb){.plugin = in->plugin->name,
                                    .version = in->plugin->version,
                                    .source_id = in->plugin->source_id ? in->plugin->source_id : "",
                                    .instance = in->how->instance};
    err = lane_new(in->how->instance, &in->lane);
    inbox.lane = in->lane;
    if (!err)
        err = health_add(broker_health(in->broker), HEALTH_PLUGIN, name, in->how->required, &in->health);
    if (!err)
        err = inbox_new(&inbox, &in->inbox);
    if (!err)
        err = make_metrics(in);
    if (!err)
        err = add_services(in);
    if (!err)
        err = bind_config(in);
    if (err)
        return err;
    host_init(in, lane, n_lanes);
    err = lane_call(in->lane, call_create, in);
    if (err)
        log_failure(in, "create", err);
    return err;
}

static atomic_uint n_made; /* of this process, so that each has a number */

int instance_new(struct broker *broker, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane,
                 struct instance **ret_in)
{
    struct instance *in = calloc(1, sizeof *in);
    int err;

    if (!in)
        return MUSTER_ENOMEM;
    in->magic = INSTANCE_MAGIC;
    in->number = atomic_fetch_add(&n_made, 1);
    in->broker = broker;
    in->plugin = plugin;
    in->how = how;
    in->file = loader_stamp(how);
    ASSERT(pthread_mutex_init(&in->lock, NULL) == 0);
    err = build(in, lane, (uint32_t)how->lanes);
    if (err) {
        instance_free(in);
        return err;
    }
    *ret_in = in;
    return 0;
}

/* Nothing more may come, and what is open completes on the lane behind this. */
static int call_cancel(void *arg)
{
    struct instance *in = arg;

    in->ending = true;
    host_bus_done(in);
    host_sql_done(in);
    host_login_done(in);
    host_stream_done(in);
    host_sys_done(in);
    host_roster_done(in);
    bus_cancel(broker_bus(in->broker), in);
    return 0;
}

static int call_start(void *arg)
{
    struct instance *in = arg;
    int err = in->sql ? sql_start(in->sql) : 0;

    instance_enter(in, "start", NULL);
    if (!err)
        err = in->plugin->start(in->self);
    instance_leave(in);
    in->started = !err;
    if (!err)
        return 0;
    log_failure(in, "start", err);
    host_time_done(in);
    (void)call_cancel(in); /* cannot fail; destroy() comes at the broker's end */
    host_lease_end(in);
    return err;
}

int instance_start(struct instance *in)
{
    int err = lane_start(in->lane);

    if (!err)
        err = lane_call_until(in->lane, call_start, in, clock_now_ns() + start_ns);
    if (err == MUSTER_ETIME)
        log_error(in->area, "plugin %s %s: start() has not returned within %lld s", in->plugin->name, in->plugin->version,
                  (long long)(start_ns / CLOCK_S));
    return err;
}

static void drain_plugin(struct instance *in)
{
    if (!in->started || !MUSTER_HAS(in->plugin, drain) || !in->plugin->drain)
        return;
    instance_enter(in, "drain", NULL);
    in->plugin->drain(in->self, in->drain_until_ns);
    instance_leave(in);
}

/* What waits for the end of a pause would wait for nothing. */
static int call_drain(void *arg)
{
    struct instance *in = arg;

    drain_plugin(in);
    inbox_close_pause(in->inbox);
    return 0;
}

int instance_drain(struct instance *in, int64_t deadline_ns)
{
    in->drain_until_ns = deadline_ns;
    return lane_call_until(in->lane, call_drain, in, deadline_ns);
}

static int call_destroy(void *arg)
{
    struct instance *in = arg;

    if (in->created) {
        instance_enter(in, "destroy", NULL);
        in->plugin->destroy(in->self);
        instance_leave(in);
    }
    in->self = NULL;
    in->ended = true;
    host_roster_leave(in);
    host_time_done(in);
    host_kv_done(in);
    host_lease_end(in); /* last: what the plugin did under them has ended */
    return 0;
}

static int call_cancel_rest(void *arg)
{
    struct instance *in = arg;

    bus_cancel_lane(broker_bus(in->broker), in->lane);
    return 0;
}

static int call_stop_leases(void *arg)
{
    struct instance *in = arg;

    in->leases_over = true;
    return call_cancel_rest(in);
}

static int call_forget_leases(void *arg)
{
    host_lease_done(arg);
    return 0;
}

/* Others wait for what is not released until its time is up. */
static int end_leases(struct instance *in, int64_t deadline_ns)
{
    int64_t until_ns = clock_now_ns() + release_ns;
    int err;

    until_ns = until_ns < deadline_ns ? until_ns : deadline_ns;
    while (atomic_load(&in->n_leases) && bus_is_up(broker_bus(in->broker), BUS_LIVE) && clock_now_ns() < until_ns)
        (void)usleep(1000);
    err = lane_call_until(in->lane, call_stop_leases, in, deadline_ns);
    return err ? err : lane_call_until(in->lane, call_forget_leases, in, deadline_ns);
}

int instance_end(struct instance *in, int64_t deadline_ns)
{
    int err;

    if (in->ended)
        return 0;
    err = lane_call_until(in->lane, call_cancel, in, deadline_ns);
    /* An answer that was on its way may have led to another question, of which none leads to a third. */
    for (int i = 0; i < 3 && !err; i++)
        err = lane_call_until(in->lane, call_cancel_rest, in, deadline_ns);
    if (!err)
        err = lane_call_until(in->lane, call_destroy, in, deadline_ns);
    if (!err)
        err = end_leases(in, deadline_ns);
    return err ? err : lane_stop_until(in->lane, deadline_ns);
}

static void free_positions(struct instance *in)
{
    void *value;

    for (size_t at = 0; map_next(&in->positions, &at, NULL, &value);)
        free(value);
    map_done(&in->positions);
}

void instance_free(struct instance *in)
{
    if (!in)
        return;
    if (in->lane)
        (void)instance_end(in, INT64_MAX); /* without a deadline there is no failure */
    lane_free(in->lane);
    inbox_free(in->inbox);
    free_positions(in);
    settings_done(&in->in_force);
    (void)pthread_mutex_destroy(&in->lock);
    free(in);
}

/* ---- telling the plugin -------------------------------------------------------------------------------------------- */

enum { TELL_WRITABLE, TELL_UP, TELL_DOWN, TELL_TABLES, TELL_PRESSURE };

struct tell {
    struct lane_item item;
    struct instance *in;
    int what; /* TELL_* */
};

static void call(struct instance *in, const char *name, void (*fn)(void *self))
{
    if (!fn)
        return;
    instance_enter(in, name, NULL);
    fn(in->self);
    instance_leave(in);
}

static void call_on_link(struct instance *in, int up)
{
    if (!in->plugin->on_link)
        return;
    instance_enter(in, "on_link", NULL);
    in->plugin->on_link(in->self, up);
    instance_leave(in);
}

/* How it is now, whatever it was when this was asked for. */
static void call_on_pressure(struct instance *in)
{
    bool pressed = in->sql_pressed || broker_is_pressed(in->broker);

    if (pressed == in->told_pressed)
        return;
    in->told_pressed = pressed;
    if (pressed)
        call(in, "on_pause", in->plugin->on_pause);
    else
        call(in, "on_resume", in->plugin->on_resume);
}

static void tell_plugin(struct instance *in, int what)
{
    const struct muster_plugin *p = in->plugin;

    if (what == TELL_WRITABLE && MUSTER_HAS(p, on_writable))
        call(in, "on_writable", p->on_writable);
    else if (what == TELL_TABLES && MUSTER_HAS(p, on_tables))
        call(in, "on_tables", p->on_tables);
    else if (what == TELL_PRESSURE && MUSTER_HAS(p, on_resume))
        call_on_pressure(in);
    else if ((what == TELL_UP || what == TELL_DOWN) && MUSTER_HAS(p, on_link))
        call_on_link(in, what == TELL_UP);
}

static void run_tell(struct lane_item *item)
{
    struct tell *t = (struct tell *)item;

    if (t->what == TELL_UP || t->what == TELL_DOWN)
        host_lease_on_link(t->in);
    if (t->in->started && !t->in->ended)
        tell_plugin(t->in, t->what);
    free(t);
}

static void drop_tell(struct lane_item *item)
{
    free(item);
}

static void tell(struct instance *in, int what)
{
    struct tell *t = malloc(sizeof *t);

    if (!t) {
        log_error(in->area, "no memory to tell the plugin of a change");
        return;
    }
    *t = (struct tell){.item = {.run = run_tell, .drop = drop_tell}, .in = in, .what = what};
    lane_push(in->lane, &t->item);
}

void instance_tell_writable(struct instance *in)
{
    if (atomic_exchange(&in->wants_writable, false))
        tell(in, TELL_WRITABLE);
}

void instance_has_room(struct instance *in)
{
    atomic_store(&in->wants_writable, true);
    instance_tell_writable(in);
}

/* The link may have got room between its refusal and now, and told nobody: hence the second look. */
int instance_sent(struct instance *in, int link, int err)
{
    if (err != MUSTER_EAGAIN)
        return err;
    atomic_store(&in->wants_writable, true);
    if (!bus_is_starved(broker_bus(in->broker), link))
        instance_tell_writable(in);
    return err;
}

void instance_uncork(struct instance *in)
{
    in->n_corked = 0;
    bus_go(broker_bus(in->broker), BUS_LIVE);
}

void instance_tell_pressure(struct instance *in)
{
    tell(in, TELL_PRESSURE);
}

void instance_tell_link(struct instance *in, bool up)
{
    tell(in, up ? TELL_UP : TELL_DOWN);
}

void instance_tell_tables(struct instance *in)
{
    tell(in, TELL_TABLES);
}
