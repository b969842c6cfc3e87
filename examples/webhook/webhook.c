/*
 * webhook - sends messages to URLs, signed and retried as Standard Webhooks 1.0 says.
 *
 * Shape    One subscription a subject, a queue and its attempts a hook (hook.c), requests by libcurl on the lane (http.c).
 * Threads  The lane; libcurl looks up names in threads of its own.
 */
#include "hook.h"

#include <stdlib.h>
#include <string.h>

enum { FAILURES_TOLD = 3 }; /* in a row, before a hook is told as failing */

struct webhook {
    struct hook_tools tools;
    const struct muster_io *io;
    const struct webhook_config *config;
    struct hook *hooks;
    size_t n_hooks;
    uint64_t *subs;
    size_t n_subs;
    uint64_t timer_id;
};

/* ---- the clock ---- */

/* A receiver that is gone stays so until somebody acts: it is told before one that fails. */
static void tell_health(struct webhook *wh)
{
    const struct muster_host *host = wh->tools.host;
    const struct hook *failing = NULL;

    for (size_t i = 0; i < wh->n_hooks; i++) {
        const struct hook *hook = &wh->hooks[i];

        if (hook->gone) {
            host->health(host, MUSTER_HEALTH_DEGRADED, "gone", "hook %s: the receiver answered 410 and hears nothing any more", hook->name);
            return;
        }
        if (hook->n_failures >= FAILURES_TOLD)
            failing = hook;
    }
    if (failing)
        host->health(host, MUSTER_HEALTH_DEGRADED, "failing", "hook %s: the last %lld attempts failed", failing->name,
                     (long long)failing->n_failures);
    else
        host->health(host, MUSTER_HEALTH_OK, "ok", "sending");
}

static void on_due(void *self, int64_t now_ns);

static void look(struct webhook *wh)
{
    const struct muster_timer *timer = wh->tools.timer;
    int64_t next = INT64_MAX, now;

    for (size_t i = 0; i < wh->n_hooks; i++) {
        int64_t one = hook_run(&wh->hooks[i]);

        next = one < next ? one : next;
    }
    tell_health(wh);
    if (wh->timer_id)
        timer->stop(wh->tools.host, wh->timer_id);
    wh->timer_id = 0;
    now = timer->now(wh->tools.host);
    if (next != INT64_MAX && timer->once(wh->tools.host, next > now ? next - now : 1, on_due, &wh->timer_id) != 0)
        wh->tools.host->log(wh->tools.host, MUSTER_LOG_ERROR, "a timer could not be set: attempts wait for the next message");
}

static void on_due(void *self, int64_t now_ns)
{
    struct webhook *wh = self;

    (void)now_ns; /* hooks look themselves */
    wh->timer_id = 0;
    look(wh);
}

static void on_change(void *arg)
{
    look(arg);
}

static void on_http_timer(void *self, int64_t now_ns)
{
    struct webhook *wh = self;

    (void)now_ns; /* libcurl has a clock of its own */
    http_timeout(wh->tools.http);
}

/* ---- messages ---- */

/* What the plugin itself says is sent nowhere: a hook that fails would be told of its failing. */
static int on_message(void *self, const struct muster_msg *msg)
{
    struct webhook *wh = self;
    int err = 0;

    if (strncmp(msg->subject, "evt.webhook.", 12) == 0)
        return 0;
    for (size_t i = 0; i < wh->n_hooks; i++) {
        int one = hook_take(&wh->hooks[i], msg);

        err = one ? one : err;
    }
    return err;
}

static void unsubscribe(struct webhook *wh, uint64_t *subs, size_t n)
{
    while (n > 0)
        wh->tools.bus->unsubscribe(wh->tools.host, subs[--n]);
    free(subs);
}

/* All or none. The new ones first: nothing is missed. What comes in between comes once, because the lane is here. */
static int subscribe(struct webhook *wh, const struct webhook_config *config)
{
    const char *subjects[MAX_HOOKS * MAX_SUBJECTS];
    size_t n = settings_subjects(config, subjects), done = 0;
    uint64_t *subs = calloc(n + 1, sizeof *subs);
    struct muster_subscription sub = {.size = sizeof sub, .overflow = MUSTER_OVERFLOW_DROP_NEW, .queue = 1, /* one broker sends it */
                                      .max_msgs = 10000, .max_bytes = 16 << 20, .fn = on_message};
    int err = subs ? 0 : MUSTER_ENOMEM;

    while (!err && done < n) {
        sub.subject = subjects[done];
        err = wh->tools.bus->subscribe(wh->tools.host, &sub, &subs[done]);
        done += !err;
    }
    if (err) {
        unsubscribe(wh, subs, done);
        return wh->tools.host->fail(wh->tools.host, err, "hooks: the subjects could not be subscribed");
    }
    unsubscribe(wh, wh->subs, wh->n_subs);
    wh->subs = subs;
    wh->n_subs = n;
    return 0;
}

/* ---- hooks ---- */

static void free_hooks(struct hook *hooks, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)hook_done(&hooks[i]); /* nothing waits there */
    free(hooks);
}

static int make_hooks(struct webhook *wh, const struct webhook_config *config, struct hook **ret_hooks)
{
    const struct muster_host *host = wh->tools.host;
    struct hook *hooks = calloc(config->hooks.n + 1, sizeof *hooks);
    int err = hooks ? 0 : host->fail(host, MUSTER_ENOMEM, "no memory for %zu hooks", config->hooks.n);

    for (size_t i = 0; i < config->hooks.n && !err; i++) {
        const struct hook_config *c = settings_hook(config, i);

        hook_init(&hooks[i], &wh->tools, config->hooks.keys[i], c);
        hooks[i].anywhere = settings_may_go_anywhere(config, c->url);
        err = settings_keys(host, hooks[i].name, c, hooks[i].keys);
    }
    if (err) {
        if (hooks)
            free_hooks(hooks, config->hooks.n);
        return err;
    }
    *ret_hooks = hooks;
    return 0;
}

static struct hook *find_hook(struct hook *hooks, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(hooks[i].name, name) == 0)
            return &hooks[i];
    return NULL;
}

/* What waits goes to the hook of the same name. */
static void replace_hooks(struct webhook *wh, struct hook *hooks, size_t n)
{
    for (size_t i = 0; i < wh->n_hooks; i++) {
        struct hook *to = find_hook(hooks, n, wh->hooks[i].name);

        if (to)
            hook_hand_over(&wh->hooks[i], to);
        else
            hook_give_up(&wh->hooks[i], "the hook was taken out of the settings");
    }
    free_hooks(wh->hooks, wh->n_hooks);
    wh->hooks = hooks;
    wh->n_hooks = n;
}

/* ---- life ---- */

static int find_services(struct webhook *wh)
{
    struct hook_tools *t = &wh->tools;
    const struct {
        const char *id;
        const void **table;
    } services[] = {{MUSTER_BUS, (const void **)&t->bus},
                    {MUSTER_TIMER, (const void **)&t->timer},
                    {MUSTER_IO, (const void **)&wh->io},
                    {MUSTER_METRICS, (const void **)&t->metrics},
                    {MUSTER_CODEC, (const void **)&t->bodies.codec},
                    {MUSTER_TENANT, (const void **)&t->bodies.tenants}};
    int err = 0;

    for (size_t i = 0; i < sizeof services / sizeof *services && !err; i++)
        err = t->host->service(t->host, services[i].id, services[i].table);
    t->bodies.host = t->host;
    t->bodies.timer = t->timer;
    return err;
}

static int make_metrics(struct hook_tools *t)
{
    const struct {
        int type;
        const char *name, *help, *label;
        uint64_t *ret;
    } metrics[] = {
        {MUSTER_COUNTER, "delivered_total", "Messages that a receiver took, by hook.", "hook", &t->counts.delivered},
        {MUSTER_COUNTER, "failed_attempts_total", "Attempts that failed, by hook.", "hook", &t->counts.failed},
        {MUSTER_COUNTER, "dead_total", "Messages given up, by hook.", "hook", &t->counts.dead},
        {MUSTER_COUNTER, "dropped_total", "Messages that found the queue full or the receiver gone, by hook.", "hook", &t->counts.dropped},
        {MUSTER_GAUGE, "queued", "Messages that wait or are under way, by hook.", "hook", &t->counts.queued},
        {MUSTER_HISTOGRAM, "request_seconds", "How long a receiver took for a message.", NULL, &t->counts.took},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof metrics / sizeof *metrics && !err; i++)
        err = t->metrics->make(t->host, metrics[i].type, metrics[i].name, metrics[i].help, metrics[i].label, metrics[i].ret);
    return err;
}

static void webhook_destroy(void *self)
{
    struct webhook *wh = self;

    if (!wh)
        return;
    for (size_t i = 0; i < wh->n_hooks; i++) {
        int64_t n = hook_done(&wh->hooks[i]);

        if (n)
            wh->tools.host->log(wh->tools.host, MUSTER_LOG_ERROR, "hook %s: %lld messages waited and are lost", wh->hooks[i].name, (long long)n);
    }
    free(wh->hooks);
    free(wh->subs);
    http_free(wh->tools.http);
    free(wh);
}

static int build(struct webhook *wh)
{
    struct http_host http = {.host = wh->tools.host, .on_timer = on_http_timer};
    int err = find_services(wh);

    if (!err)
        err = make_metrics(&wh->tools);
    if (!err)
        err = make_hooks(wh, wh->config, &wh->hooks);
    if (err)
        return err;
    wh->n_hooks = wh->config->hooks.n;
    http.io = wh->io;
    http.timer = wh->tools.timer;
    if (http_new(&http, &wh->tools.http) != 0)
        return wh->tools.host->fail(wh->tools.host, MUSTER_ENOMEM, "libcurl could not be set up");
    return 0;
}

static int webhook_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct webhook *wh = calloc(1, sizeof *wh);
    int err;

    if (!wh)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    wh->config = config;
    wh->tools.host = host;
    wh->tools.on_change = on_change;
    wh->tools.arg = wh;
    err = build(wh);
    if (err) {
        webhook_destroy(wh);
        return err;
    }
    *ret_self = wh;
    return 0;
}

static int webhook_start(void *self)
{
    struct webhook *wh = self;
    int err = subscribe(wh, wh->config);

    if (!err)
        tell_health(wh);
    return err;
}

static int webhook_reload(void *self, const void *config)
{
    struct webhook *wh = self;
    const struct webhook_config *c = config;
    struct hook *hooks;
    int err = make_hooks(wh, c, &hooks);

    if (err)
        return err;
    err = subscribe(wh, c);
    if (err) {
        free_hooks(hooks, c->hooks.n);
        return err;
    }
    replace_hooks(wh, hooks, c->hooks.n);
    wh->config = c;
    look(wh);
    return 0;
}

/* Attempts go on until destroy(); what comes is left to the other brokers. */
static void webhook_drain(void *self, int64_t deadline_ns)
{
    struct webhook *wh = self;

    (void)deadline_ns; /* no request is held */
    unsubscribe(wh, wh->subs, wh->n_subs);
    wh->subs = NULL;
    wh->n_subs = 0;
}

MUSTER_PLUGIN(.name = "webhook", .version = MUSTER_PLUGIN_VERSION, .options = webhook_options, .n_options = WEBHOOK_OPTIONS,
              .config_size = sizeof(struct webhook_config), .check = settings_check, .create = webhook_create, .start = webhook_start,
              .reload = webhook_reload, .drain = webhook_drain, .destroy = webhook_destroy);
