/* SIGHUP; see reload.h. */
#include "core/audit.h"
#include "core/reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/notify.h"
#include "core/broker.h"
#include "core/check.h"
#include "core/instance.h"
#include "core/isolated.h"

static const int64_t instance_ns = 3 * CLOCK_S, all_ns = 10 * CLOCK_S; /* that one lane may take, and all of them */
static const int64_t least_ns = CLOCK_S / 2; /* that one has, also behind those that have used up the time of all */

struct reload {
    struct broker *broker;
    const struct config *next;
    int64_t deadline_ns;
    struct map told; /* lines, by themselves: lanes of one instance differ in nothing, as a rule */
    size_t n_taken, n_waiting;
};

/* One changed setting of an instance. */
struct difference {
    struct difference *next;
    bool reloadable;
    char line[]; /* "plugins.main.slot: a -> b" */
};

struct differences {
    struct difference *first, **last;
    bool reloadable; /* all of them */
    bool failed;     /* no memory for one */
};

/* ---- telling ------------------------------------------------------------------------------------------------------------------- */

/* True when the line is new in this reload. Without memory it is told once too often. */
static bool is_news(struct reload *r, const char *line)
{
    if (map_get(&r->told, line, strlen(line)))
        return false;
    (void)map_put(&r->told, line, strlen(line), r);
    return true;
}

static void tell_waiting(struct reload *r, const char *line)
{
    if (!is_news(r, line))
        return;
    r->n_waiting++;
    log_warn("config", "reload: %s; waits for a restart", line);
}

static void tell_taken(struct reload *r, const char *line)
{
    if (!is_news(r, line))
        return;
    r->n_taken++;
    log_info("config", "reload: %s; taken over", line);
}

static void tell_end(const struct reload *r)
{
    if (r->n_taken)
        log_info("config", "reload: done; %zu settings taken over, %zu wait for a restart", r->n_taken, r->n_waiting);
    else
        log_info("config", "reload: done; %zu settings wait for a restart", r->n_waiting);
}

/* ---- instances ------------------------------------------------------------------------------------------------------------------ */

static void add_difference(void *arg, const struct config_change *change)
{
    struct differences *all = arg;
    size_t size = strlen(change->path) + strlen(change->text) + 3;
    struct difference *d = malloc(sizeof *d + size);

    if (!d) {
        all->failed = true;
        return;
    }
    *d = (struct difference){.reloadable = change->reloadable};
    (void)snprintf(d->line, size, "%s: %s", change->path, change->text);
    all->reloadable = all->reloadable && d->reloadable;
    *all->last = d;
    all->last = &d->next;
}

static void free_differences(struct differences *all)
{
    struct difference *next;

    for (struct difference *d = all->first; d; d = next) {
        next = d->next;
        free(d);
    }
}

static void tell_differences(struct reload *r, const struct differences *all, void (*tell)(struct reload *r, const char *line))
{
    for (const struct difference *d = all->first; d; d = d->next)
        tell(r, d->line);
}

static int64_t deadline_of_one(const struct reload *r)
{
    int64_t now = clock_now_ns(), least = now + least_ns, one = now + instance_ns < r->deadline_ns ? now + instance_ns : r->deadline_ns;

    return one > least ? one : least;
}

static void tell_failure(struct reload *r, const struct instance *in, const char *why)
{
    struct buf line = {0};

    buf_printf(&line, "plugins.%s", in->how->instance);
    if (in->host.n_lanes > 1)
        buf_printf(&line, " on lane %u", in->host.lane);
    buf_printf(&line, ": plugin %s %s: %s; it goes on with what it had", in->plugin->name, in->plugin->version, why);
    if (line.data && is_news(r, line.data))
        log_error("config", "reload: %s", line.data);
    buf_done(&line);
}

static void reload_instance(struct reload *r, struct instance *in, const struct config_plugin *next)
{
    const struct plugin_settings *now = instance_settings(in);
    struct differences all = {.last = &all.first, .reloadable = true};
    char why[INSTANCE_WHY_SIZE];
    int err = now ? config_setting_changes(&(struct config_settings){now->config, now->how, now->values},
                                           &(struct config_settings){r->next, next, NULL}, add_difference, &all)
                  : MUSTER_EAGAIN;

    if (err || all.failed) {
        tell_failure(r, in, now ? "no memory to compare its settings" : "an earlier reload() is not through");
        r->n_waiting++;
    } else if (all.first) {
        err = all.reloadable ? instance_reload(in, r->next, next, deadline_of_one(r), why) : MUSTER_EABI;
        if (err && err != MUSTER_EABI)
            tell_failure(r, in, why);
        tell_differences(r, &all, err ? tell_waiting : tell_taken);
    }
    free_differences(&all);
}

/* ---- instances in a child: what reload() does not take over, another child does --------------------------------------------------- */

/* Walls and all that is not the plugin's own. */
static const char *const child_keys[] = {"allow.", "limits.", "user", "postgres.", "restart."};

static bool is_of_child(const char *path, const char *instance)
{
    size_t len = strlen("plugins."), n = strlen(instance);
    const char *key = path + len + n + 1;

    if (strncmp(path, "plugins.", len) != 0 || strncmp(path + len, instance, n) != 0 || path[len + n] != '.')
        return false;
    for (size_t i = 0; i < sizeof child_keys / sizeof *child_keys; i++)
        if (strncmp(key, child_keys[i], strlen(child_keys[i])) == 0)
            return true;
    return false;
}

struct of_child {
    struct differences *all;
    const char *instance;
};

static void add_of_child(void *arg, const struct config_change *change)
{
    const struct of_child *o = arg;
    struct config_change whole = *change;

    whole.reloadable = false;
    if (is_of_child(change->path, o->instance))
        add_difference(o->all, &whole);
}

static void add_file(struct differences *all, const struct instance *in, const struct muster_plugin *plugin)
{
    char path[160], text[160];

    (void)snprintf(path, sizeof path, "plugins.%s", in->how->instance);
    (void)snprintf(text, sizeof text, "its file is another one now (%.60s -> %.60s)", in->plugin->version, plugin->version);
    add_difference(all, &(struct config_change){.path = path, .text = text});
}

/* How the instance differs from what it is to be. Tables of two descriptors cannot be compared. */
static int compare_child(const struct reload *r, const struct instance *in, const struct plugin_settings *now,
                         const struct config_plugin *next, struct differences *all)
{
    struct stamp file = loader_stamp(next);
    struct of_child of_child = {all, in->how->instance};
    int err = 0;

    config_changes(now->config, r->next, add_of_child, &of_child);
    if (memcmp(&in->file, &file, sizeof file) != 0 || in->plugin != next->plugin)
        add_file(all, in, next->plugin);
    if (in->plugin == next->plugin)
        err = config_setting_changes(&(struct config_settings){now->config, now->how, now->values},
                                     &(struct config_settings){r->next, next, NULL}, add_difference, all);
    return err ? err : all->failed ? MUSTER_ENOMEM : 0;
}

static int change_child(struct reload *r, struct instance *in, const struct config_plugin *next, const struct differences *all,
                        char why[INSTANCE_WHY_SIZE])
{
    int err = all->reloadable ? instance_reload(in, r->next, next, deadline_of_one(r), why) : MUSTER_EABI;

    return err != MUSTER_EABI ? err : isolated_replace(in, r->next, next, next->plugin, r->deadline_ns, why);
}

static void reload_child(struct reload *r, struct instance *in, const struct config_plugin *next)
{
    const struct plugin_settings *now = instance_settings(in);
    struct differences all = {.last = &all.first, .reloadable = true};
    char why[INSTANCE_WHY_SIZE];
    int err;

    if (!now || strcmp(in->plugin->name, next->plugin->name) != 0 || compare_child(r, in, now, next, &all) != 0) {
        tell_failure(r, in,
                     now ? "it has another name now, or there is no memory to compare its settings" : "an earlier change is not through");
        r->n_waiting++;
    } else if (all.first) {
        err = change_child(r, in, next, &all, why);
        if (err)
            tell_failure(r, in, why);
        tell_differences(r, &all, err ? tell_waiting : tell_taken);
    }
    free_differences(&all);
}

static void reload_children(struct reload *r, const struct config_plugin *now, const struct config_plugin *next)
{
    struct instance *const *instances;
    size_t n;

    instances = broker_instances(r->broker, &n);
    for (size_t i = 0; i < n && next->plugin; i++)
        if (instances[i]->how == now)
            reload_child(r, instances[i], next);
}

static void say_of(struct reload *r, const struct config_plugin *p, const char *text)
{
    char line[256];

    (void)snprintf(line, sizeof line, "plugins.%s%s", p->instance, text);
    tell_waiting(r, line);
}

static bool is_child(const struct config_plugin *how)
{
    return how->isolation == CONFIG_ISOLATION_PROCESS;
}

/* Of an instance that is in both configurations. Tables of two plugins cannot be compared; that another is named has been told. */
static void reload_entry(struct reload *r, const struct config_plugin *now, const struct config_plugin *next)
{
    struct stamp file = loader_stamp(now);
    struct instance *const *instances;
    size_t n;

    if (!now->plugin) {
        say_of(r, now, ": was not loaded");
        return;
    }
    if (is_child(now) && is_child(next)) {
        reload_children(r, now, next);
        return;
    }
    if (now->plugin != next->plugin)
        return; /* or it is not required, and was told to be missing */
    instances = broker_instances(r->broker, &n);
    for (size_t i = 0; i < n; i++) {
        if (instances[i]->how != now)
            continue;
        if (memcmp(&instances[i]->file, &file, sizeof file) != 0)
            say_of(r, now, ": its file is another one now");
        reload_instance(r, instances[i], next);
    }
}

static void reload_entries(struct reload *r, const struct config *running)
{
    for (size_t i = 0; i < r->next->n_plugins; i++)
        for (size_t j = 0; j < running->n_plugins; j++)
            if (strcmp(r->next->plugins[i].instance, running->plugins[j].instance) == 0) {
                reload_entry(r, &running->plugins[j], &r->next->plugins[i]);
                (void)notify_watchdog();
            }
}

/* ---- the broker's own part ------------------------------------------------------------------------------------------------------- */

/* It is compared with what is in force, and told there. */
static bool is_of_some_child(const struct reload *r, const char *path)
{
    for (size_t i = 0; i < r->next->n_plugins; i++)
        if (is_child(&r->next->plugins[i]) && is_of_child(path, r->next->plugins[i].instance))
            return true;
    return false;
}

/* Log takes effect by itself; every other change waits. */
static void name_change(void *arg, const struct config_change *change)
{
    struct reload *r = arg;
    struct buf line = {0};

    if (strncmp(change->path, "broker.log.", 11) == 0 || is_of_some_child(r, change->path))
        return;
    buf_printf(&line, "%s: %s", change->path, change->text);
    tell_waiting(r, line.data ? line.data : change->path);
    buf_done(&line);
}

/* All that is wrong is one line of the log; warnings are lines of their own, since they keep nothing from being changed. */
static void on_told(void *arg, int level, const char *text)
{
    struct buf *faults = arg;

    if (level == MUSTER_LOG_WARN)
        log_warn("config", "reload: %s", text);
    else
        buf_printf(faults, "%s%s", faults->len ? "; " : "", text);
}

static bool is_good(const struct config *config)
{
    struct buf faults = {0};
    size_t n = check_config(config, on_told, &faults);

    if (n)
        log_error("config", "reload: %s; nothing was changed", faults.data ? faults.data : "no memory to check the plugins");
    buf_done(&faults);
    return n == 0;
}

void reload_config(struct broker *broker, const char *file)
{
    struct reload r = {.broker = broker};
    struct config_error err;
    struct config *next;

    if (config_load(file, &next, &err) != 0) {
        log_error("config", "reload: %s; nothing was changed", err.text);
        return;
    }
    if (is_good(next)) {
        log_setup(next->broker.log_json, next->broker.log_level);
        audit_set_log(broker_audit(broker), next->broker.log_audit);
        r.next = next;
        r.deadline_ns = clock_now_ns() + all_ns; /* from here on: files that take long to be checked are nobody else's fault */
        config_changes(broker_config(broker), next, name_change, &r);
        reload_entries(&r, broker_config(broker));
        tell_end(&r);
        map_done(&r.told);
    }
    config_free(next);
}
