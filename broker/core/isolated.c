/* A plugin of isolation process as an instance of this broker; see isolated.h. */
#include "core/isolated.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "child/proxy.h"
#include "core/dispatch.h"
#include "core/inbox.h"
#include "core/loader.h"
#include "core/reach.h"
#include "core/services.h"
#include "core/told.h"
#include "core/walls.h"
#include "metrics/metrics.h"
#include "wire/error.h"

enum { MAX_WORDS = 32 };

/* One child takes the place of another; shared by the main thread and the lane. */
struct replacement {
    struct plugin_settings settings; /* after it: what was in force before */
    const struct muster_plugin *plugin;
    struct stamp file;
    atomic_int refs;
    atomic_bool is_over;
    int err; /* and why: once it is over */
    char why[INSTANCE_WHY_SIZE];
};

struct isolated {
    struct instance *in;
    const struct plugin_settings *settings; /* the instance's, or those that are to be */
    const struct muster_plugin *plugin;
    struct replacement *replacement; /* NULL once it is over */
    struct arena memory; /* of what the proxy goes by, which outlives the settings it was made of */
    const char *file;
    const char **services;
    struct muster_list subscribe, publish, tenants;
    const char *capabilities[MAX_WORDS];
    size_t n_capabilities;
    struct arena walls_memory; /* of what the child now running was started with */
    struct sandbox walls;
    const char *dsn;
    struct reach reach;
};

static const struct described *described_of(const struct muster_plugin *plugin)
{
    return (const struct described *)plugin; /* described.h: it is the first member */
}

/* ---- what the proxy asks --------------------------------------------------------------------------------------------------------- */

/* Anew for each child: settings and files may be others by now. */
static int make_walls(struct isolated *i, char why[WALLS_WHY_SIZE])
{
    int err;

    arena_done(&i->walls_memory);
    i->dsn = NULL;
    err = walls_of(i->settings->how, i->plugin, i->settings->values, &i->walls_memory, &i->walls, why);
    if (!err)
        err = walls_dsn(i->settings->how, &i->walls_memory, &i->dsn, why);
    if (!err && reach_note(&i->walls, &i->walls_memory, &i->reach) != 0) {
        (void)snprintf(why, WALLS_WHY_SIZE, "no memory");
        err = MUSTER_ENOMEM;
    }
    return err;
}

static int spawn(void *arg, struct spawn *ret_child, char why[SPAWN_WHY_SIZE])
{
    struct isolated *i = arg;
    char reason[WALLS_WHY_SIZE];
    int err = make_walls(i, reason);

    if (err)
        (void)snprintf(why, SPAWN_WHY_SIZE, "%.*s", SPAWN_WHY_SIZE - 1, reason);
    return err ? err : spawn_start(i->in->area, ret_child, why);
}

static void put_sandbox(void *arg, struct frame *f)
{
    const struct isolated *i = arg;

    frame_put_str(f, i->file);
    sandbox_put(f, &i->walls);
}

static struct told told_of(const struct isolated *i, const struct plugin_settings *settings)
{
    return (struct told){.config = settings->config,
                         .how = settings->how,
                         .plugin = i->plugin,
                         .values = settings->values,
                         .lane = i->in->host.lane,
                         .broker_id = i->in->host.broker_id,
                         .postgres_dsn = i->dsn};
}

static void put_settings(void *arg, struct frame *f)
{
    const struct isolated *i = arg;
    const struct told told = told_of(i, i->settings);

    told_put(f, &told);
}

static int is_same(void *arg, struct frame_reader *r, char why[PROXY_WHY_SIZE])
{
    const struct isolated *i = arg;

    if (describe_is_same(described_of(i->plugin), r))
        return 0;
    (void)snprintf(why, PROXY_WHY_SIZE, "%s says something else of itself than when it was read; SIGHUP reads it again", i->file);
    return MUSTER_EEXIST;
}

/* The child holds each of its formats to the log's rate, and the proxy the sum: lines that come here are not one site's. */
static void log_text(void *arg, int level, const char *text)
{
    static const char formats[][3] = {"%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s"};
    static atomic_uint next;
    const struct isolated *i = arg;

    log_line(level, i->in->area, formats[atomic_fetch_add(&next, 1) % (sizeof formats / sizeof *formats)], text);
}

static void reason(void *arg, char *out, size_t size)
{
    struct instance *in = ((const struct isolated *)arg)->in;

    pthread_mutex_lock(&in->lock);
    (void)snprintf(out, size, "%s", in->reason);
    pthread_mutex_unlock(&in->lock);
}

static uint64_t subscription(void *arg)
{
    const struct instance *in = ((const struct isolated *)arg)->in;

    return in->delivering ? in->delivering->sub->id : 0;
}

static void waits(void *arg)
{
    struct instance *in = ((const struct isolated *)arg)->in;

    if (in->delivering)
        in->delivering->is_patient = true;
}

static void go_on(void *arg)
{
    inbox_retry(((const struct isolated *)arg)->in->inbox);
}

static void failed(void *arg, const struct muster_msg *msg, int code)
{
    const struct instance *in = ((const struct isolated *)arg)->in;
    struct delivery *d = (struct delivery *)(void *)((char *)(uintptr_t)msg - offsetof(struct delivery, msg));

    inbox_count_failure(in->inbox);
    if (d->sub->queue)
        dispatch_refuse(d, error_of_result(code), "the service failed");
}

static int make_metric(void *arg, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric)
{
    return instance_make_metric(((const struct isolated *)arg)->in, type, name, help, label, ret_metric);
}

static int merge_metric(void *arg, uint64_t metric, const uint64_t *counts, size_t n_counts, int64_t sum_ns)
{
    (void)arg;
    return metric_merge((struct metric *)(uintptr_t)metric, counts, n_counts, sum_ns);
}

static int64_t lease_until(void *arg, uint64_t lease)
{
    return host_lease_until(((const struct isolated *)arg)->in, lease);
}

static void replaced(void *arg, void *next_arg, const char *why);

static const struct proxy_hooks hooks = {.spawn = spawn,
                                         .put_sandbox = put_sandbox,
                                         .put_settings = put_settings,
                                         .is_same = is_same,
                                         .log = log_text,
                                         .reason = reason,
                                         .replaced = replaced,
                                         .subscription = subscription,
                                         .waits = waits,
                                         .go_on = go_on,
                                         .failed = failed,
                                         .make_metric = make_metric,
                                         .merge_metric = merge_metric,
                                         .lease_until = lease_until};

/* ---- making ----------------------------------------------------------------------------------------------------------------------- */

/* What it asks for is what it is granted: one that asks for more than it may was not loaded (core/described.h). */
static int list_capabilities(struct isolated *i)
{
    const char *all = i->plugin->capabilities;
    char *copy = (char *)(uintptr_t)arena_strdup(&i->memory, all ? all : ""), *word;

    if (!copy)
        return MUSTER_ENOMEM;
    while ((word = strsep(&copy, " ")) && i->n_capabilities < MAX_WORDS)
        if (*word)
            i->capabilities[i->n_capabilities++] = word;
    return 0;
}

static int list_services(struct isolated *i)
{
    const struct muster_plugin *p = i->plugin;

    i->services = arena_alloc(&i->memory, p->n_services + 1, sizeof *i->services);
    for (uint32_t n = 0; i->services && n < p->n_services; n++)
        i->services[n] = p->services[n].name;
    return i->services ? 0 : MUSTER_ENOMEM;
}

static int copy_list(struct isolated *i, const struct muster_list *from, struct muster_list *to)
{
    const char **items = arena_alloc(&i->memory, from->n, sizeof *items);

    for (size_t n = 0; items && n < from->n; n++) {
        items[n] = arena_strdup(&i->memory, from->items[n]);
        if (!items[n])
            return MUSTER_ENOMEM;
    }
    *to = (struct muster_list){items, from->n};
    return items ? 0 : MUSTER_ENOMEM;
}

static int copy_policy(struct isolated *i)
{
    const struct config_plugin *how = i->settings->how;
    int err = copy_list(i, &how->allow.subscribe, &i->subscribe);

    if (!err)
        err = copy_list(i, &how->allow.publish, &i->publish);
    return err ? err : copy_list(i, &how->allow.tenants, &i->tenants);
}

static int find_file(struct isolated *i)
{
    char path[PATH_MAX + 80], full[PATH_MAX];

    (void)loader_path(i->settings->how, path, sizeof path);
    i->file = arena_strdup(&i->memory, realpath(path, full) ? full : path);
    return i->file ? 0 : MUSTER_ENOMEM;
}

static int prepare(struct isolated *i)
{
    const struct instance *in = i->in;
    char why[WALLS_WHY_SIZE] = "no memory";
    int err = find_file(i);

    if (!err)
        err = list_capabilities(i);
    if (!err)
        err = list_services(i);
    if (!err)
        err = copy_policy(i);
    if (!err)
        err = make_walls(i, why);
    return err ? in->host.fail(&in->host, err, "plugins.%s.%s", in->how->instance, why) : 0;
}

static struct proxy_options options_of(struct isolated *i)
{
    const struct config_plugin *how = i->settings->how;

    return (struct proxy_options){.host = &i->in->host,
                                  .plugin = i->plugin,
                                  .policy = {.plugin = i->plugin->name,
                                             .services = i->services,
                                             .n_services = i->plugin->n_services,
                                             .subscribe = i->subscribe.items,
                                             .n_subscribe = i->subscribe.n,
                                             .publish = i->publish.items,
                                             .n_publish = i->publish.n},
                                  .capabilities = {i->capabilities, i->n_capabilities},
                                  .tenants = i->tenants,
                                  .delay_ns = how->restart.delay_ns,
                                  .max_delay_ns = how->restart.max_delay_ns,
                                  .cpu = how->limits.cpu,
                                  .messages = how->limits.messages,
                                  .loop = lane_loop(i->in->lane),
                                  .hooks = &hooks,
                                  .arg = i};
}

static void isolated_free(struct isolated *i)
{
    arena_done(&i->memory);
    arena_done(&i->walls_memory);
    free(i);
}

static int isolated_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct isolated *i = calloc(1, sizeof *i);
    struct proxy_options options;
    struct proxy *proxy;
    int err = i ? 0 : MUSTER_ENOMEM;

    (void)config; /* the instance's */
    if (err)
        return err;
    i->in = instance_of(host);
    i->settings = &i->in->in_force;
    i->plugin = i->in->plugin;
    err = prepare(i);
    if (!err) {
        options = options_of(i);
        err = proxy_new(&options, &proxy);
    }
    if (err)
        isolated_free(i);
    else
        *ret_self = proxy;
    return err;
}

/* ---- handing on ------------------------------------------------------------------------------------------------------------------ */

static int isolated_start(void *self)
{
    return proxy_start(self);
}

static void isolated_drain(void *self, int64_t deadline_ns)
{
    proxy_drain(self, deadline_ns);
}

static void isolated_destroy(void *self)
{
    struct isolated *i = self ? proxy_arg(self) : NULL;

    proxy_destroy(self);
    if (i)
        isolated_free(i);
}

static void isolated_on_writable(void *self)
{
    proxy_on_writable(self);
}

static void isolated_on_link(void *self, int up)
{
    proxy_on_link(self, up != 0);
}

static void isolated_on_tables(void *self)
{
    proxy_on_tables(self);
}

static void isolated_on_pause(void *self)
{
    proxy_on_pause(self, true);
}

static void isolated_on_resume(void *self)
{
    proxy_on_pause(self, false);
}

static void put_values(void *arg, struct frame *f)
{
    const struct isolated *i = arg;
    const struct told told = told_of(i, i->in->taking);

    told_put_values(f, &told);
}

/* Whether the child that runs can read all files that the settings name. */
static bool reaches(const struct isolated *i, const struct plugin_settings *settings)
{
    struct arena memory = {0};
    struct sandbox next;
    char why[WALLS_WHY_SIZE];
    bool all = walls_of(settings->how, i->plugin, settings->values, &memory, &next, why) == 0 && reach_covers(&i->reach, &next);

    arena_done(&memory);
    return all;
}

/* MUSTER_EABI is the walls' word here, never the plugin's. */
static int isolated_reload(void *self, const void *config)
{
    struct isolated *i = proxy_arg(self);
    int err;

    (void)config; /* the instance's, with its places */
    if (!reaches(i, i->in->taking))
        return i->in->host.fail(&i->in->host, MUSTER_EABI, "its settings name a file outside of its walls");
    err = proxy_reload(self, put_values, i);
    return err == MUSTER_EABI ? MUSTER_EINVAL : err;
}

/* ---- another in its place -------------------------------------------------------------------------------------------------------- */

static void unref(struct replacement *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    settings_done(&r->settings);
    free(r);
}

/* On the lane. */
static void be_over(struct instance *in, struct replacement *r, int err, const char *why)
{
    r->err = err;
    (void)snprintf(r->why, sizeof r->why, "%s", why);
    if (err && atomic_load(&r->refs) == 1) /* who asked has given up, and tells nothing */
        log_error(in->area, "%s; it goes on with what it had", why);
    else if (!err)
        log_info(in->area, "plugin %s %s has taken the place of the one before", in->plugin->name, in->plugin->version);
    atomic_store(&r->is_over, true);
    atomic_store(&in->reloading, false);
    unref(r);
}

static void put_in_force(struct instance *in, struct replacement *r)
{
    struct plugin_settings before = in->in_force;
    char why[SERVICES_WHY_SIZE];

    if (services_replace(broker_services(in->broker), in->plugin, r->plugin, why) != 0)
        log_error(in->area, "%s; requests to it are not held against their definitions", why);
    in->in_force = r->settings;
    r->settings = before;
    in->plugin = r->plugin;
    in->file = r->file;
    in->crumb.version = r->plugin->version;
    in->crumb.source_id = r->plugin->source_id ? r->plugin->source_id : "";
}

static void replaced(void *arg, void *next_arg, const char *why)
{
    struct isolated *next = next_arg;
    struct replacement *r = next->replacement;
    struct instance *in = next->in;

    next->replacement = NULL;
    if (why) {
        isolated_free(next);
    } else {
        put_in_force(in, r);
        next->settings = &in->in_force;
        isolated_free(arg);
    }
    be_over(in, r, why ? MUSTER_EINVAL : 0, why ? why : "");
}

struct begin {
    struct isolated *next;
    struct replacement *r;
};

/* On the lane; frees the argument. */
static int call_replace(void *arg)
{
    struct begin *b = arg;
    struct instance *in = b->next->in;
    struct proxy_options options;
    char why[INSTANCE_WHY_SIZE] = "the instance does not run";
    int err = in->started && !in->ending ? prepare(b->next) : MUSTER_ELINK;

    if (!err) {
        options = options_of(b->next);
        err = proxy_replace(in->self, &options);
    }
    if (err) {
        if (err != MUSTER_ELINK)
            reason(b->next, why, sizeof why);
        isolated_free(b->next);
        be_over(in, b->r, err, why);
    }
    free(b);
    return 0;
}

static int why_not(char why[INSTANCE_WHY_SIZE], int code, const char *text)
{
    (void)snprintf(why, INSTANCE_WHY_SIZE, "%.*s", INSTANCE_WHY_SIZE - 1, text);
    return code;
}

static struct begin *make_begin(struct instance *in, struct replacement *r)
{
    struct begin *b = calloc(1, sizeof *b);
    struct isolated *next = calloc(1, sizeof *next);

    if (!b || !next) {
        free(b);
        free(next);
        return NULL;
    }
    *next = (struct isolated){.in = in, .settings = &r->settings, .plugin = r->plugin, .replacement = r};
    *b = (struct begin){next, r};
    return b;
}

/* Gives up the caller's share of r. */
static int wait_for(struct replacement *r, int64_t deadline_ns, char why[INSTANCE_WHY_SIZE])
{
    int err = MUSTER_ETIME;

    while (!atomic_load(&r->is_over) && clock_now_ns() < deadline_ns)
        (void)usleep(2000);
    if (atomic_load(&r->is_over))
        err = why_not(why, r->err, r->why);
    else
        (void)why_not(why, err, "another child is being made; what becomes of it will be told");
    unref(r);
    return err;
}

int isolated_replace(struct instance *in, const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin,
                     int64_t deadline_ns, char why[INSTANCE_WHY_SIZE])
{
    struct replacement *r;
    struct config_error fault;
    struct begin *b = NULL;
    int err;

    if (atomic_exchange(&in->reloading, true))
        return why_not(why, MUSTER_EAGAIN, "an earlier change is not through");
    r = calloc(1, sizeof *r);
    err = r ? settings_new(config, how, plugin, &r->settings, &fault) : MUSTER_ENOMEM;
    if (!err) {
        r->plugin = plugin;
        r->file = loader_stamp(how);
        atomic_store(&r->refs, 2);
        b = make_begin(in, r);
    }
    if (!err && b && lane_call_until(in->lane, call_replace, b, deadline_ns) != MUSTER_ENOMEM)
        return wait_for(r, deadline_ns, why);
    atomic_store(&in->reloading, false);
    if (!err) {
        free(b ? b->next : NULL);
        free(b);
        settings_done(&r->settings);
    }
    free(r);
    return why_not(why, err ? err : MUSTER_ENOMEM, err && err != MUSTER_ENOMEM ? fault.text : "no memory");
}

void isolated_equip(struct described *d)
{
    struct muster_plugin *plugin = &d->plugin;

    plugin->create = isolated_create;
    plugin->start = isolated_start;
    plugin->drain = isolated_drain;
    plugin->destroy = isolated_destroy;
    plugin->on_writable = isolated_on_writable;
    plugin->on_link = isolated_on_link;
    plugin->on_tables = isolated_on_tables;
    plugin->on_pause = isolated_on_pause;
    plugin->on_resume = isolated_on_resume;
    plugin->reload = d->has & DESCRIBE_RELOAD ? isolated_reload : NULL;
}
