/* One running instance of a plugin, from create to destroy; see instance.h. */
#include "core/instance.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/dispatch.h"
#include "core/health.h"
#include "core/host.h"
#include "core/loader.h"
#include "core/services.h"
#include "core/settings.h"
#include "sql/sql.h"

static const int64_t start_ns = 30 * CLOCK_S;

bool instance_has_capability(const struct instance *in, const char *capability)
{
    return loader_has_capability(in->plugin, capability);
}

#ifdef NDEBUG
enum { ABORT_ON_BREACH = false };
#else
enum { ABORT_ON_BREACH = true };
#endif

static void tell_breach(const struct instance *in, const char *function, const char *where)
{
    log_error(in->area, "plugin %s %s called %s() %s; muster/plugin.h says [lane]", in->plugin->name, in->plugin->version, function,
              where);
    if (ABORT_ON_BREACH)
        abort();
}

bool instance_is_here(const struct instance *in, const char *function)
{
    ASSERT(in->magic == INSTANCE_MAGIC);
    if (lane_here(in->lane))
        return true;
    tell_breach(in, function, "on another thread than its lane");
    return false;
}

int instance_may_begin(const struct instance *in, const char *function)
{
    if (!instance_is_here(in, function))
        return MUSTER_EINVAL;
    if (in->created)
        return in->ending ? MUSTER_ELINK : 0;
    tell_breach(in, function, "in create()");
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
    int code;

    in->config = calloc(1, in->plugin->config_size + 1);
    if (!in->config)
        return MUSTER_ENOMEM;
    code = settings_bind(broker_config(in->broker), in->how, in->plugin, in->config, &err);
    if (code)
        health_set(in->health, MUSTER_HEALTH_DOWN, "bad_config", "%s", err.text);
    return code;
}

static int call_create(void *arg)
{
    struct instance *in = arg;
    int err;

    instance_enter(in, "create", NULL);
    err = in->plugin->create(&in->host, in->config, &in->self);
    instance_leave(in);
    in->created = !err;
    return err;
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

int instance_new(struct broker *broker, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane,
                 struct instance **ret_in)
{
    struct instance *in = calloc(1, sizeof *in);
    int err;

    if (!in)
        return MUSTER_ENOMEM;
    in->magic = INSTANCE_MAGIC;
    in->broker = broker;
    in->plugin = plugin;
    in->how = how;
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
    host_stream_done(in);
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

static int call_drain(void *arg)
{
    struct instance *in = arg;

    if (!in->started || !MUSTER_HAS(in->plugin, drain) || !in->plugin->drain)
        return 0;
    instance_enter(in, "drain", NULL);
    in->plugin->drain(in->self, in->drain_until_ns);
    instance_leave(in);
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
    host_time_done(in);
    return 0;
}

static int call_cancel_rest(void *arg)
{
    struct instance *in = arg;

    bus_cancel_lane(broker_bus(in->broker), in->lane);
    return 0;
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
        lane_stop(in->lane);
    return err;
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
    free(in->config);
    (void)pthread_mutex_destroy(&in->lock);
    free(in);
}

/* ---- telling the plugin -------------------------------------------------------------------------------------------- */

enum { TELL_WRITABLE, TELL_UP, TELL_DOWN, TELL_TABLES };

struct tell {
    struct lane_item item;
    struct instance *in;
    int what; /* TELL_* */
};

static void run_tell(struct lane_item *item)
{
    struct tell *t = (struct tell *)item;
    struct instance *in = t->in;
    const struct muster_plugin *p = in->plugin;

    if (!in->started || in->ended)
        ; /* not yet, or not any more */
    else if (t->what == TELL_WRITABLE && MUSTER_HAS(p, on_writable) && p->on_writable) {
        instance_enter(in, "on_writable", NULL);
        p->on_writable(in->self);
        instance_leave(in);
    } else if (t->what == TELL_TABLES && MUSTER_HAS(p, on_tables) && p->on_tables) {
        instance_enter(in, "on_tables", NULL);
        p->on_tables(in->self);
        instance_leave(in);
    } else if ((t->what == TELL_UP || t->what == TELL_DOWN) && MUSTER_HAS(p, on_link) && p->on_link) {
        instance_enter(in, "on_link", NULL);
        p->on_link(in->self, t->what == TELL_UP);
        instance_leave(in);
    }
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

/* The link may have got room between its refusal and now, and told nobody: hence the second look. */
void instance_starve(struct instance *in, int link)
{
    atomic_store(&in->wants_writable, true);
    if (!bus_is_starved(broker_bus(in->broker), link))
        instance_tell_writable(in);
}

void instance_tell_link(struct instance *in, bool up)
{
    tell(in, up ? TELL_UP : TELL_DOWN);
}

void instance_tell_tables(struct instance *in)
{
    tell(in, TELL_TABLES);
}
