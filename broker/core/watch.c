/* The thread that sees when a lane hangs; see watch.h. */
#include "core/watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/broker.h"
#include "core/health.h"
#include "core/heap.h"
#include "core/instance.h"
#include "metrics/metrics.h"

static const int64_t period_ns = 100 * CLOCK_MS;

struct watched {
    struct instance *in; /* NULL: the broker's own lane */
    struct health_component *health;
    struct metric *stalled;
    int64_t busy_ns; /* when it was last looked at: a smaller one now is another callback */
    bool warned;
};

struct watch {
    struct broker *broker;
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop */
    pthread_cond_t wake;
    bool stop, running;
    struct watched *lanes;
    size_t n_lanes;
    struct heap heap; /* the thread's alone */
};

static void tell_stalled(struct watched *w, const struct lane_crumb *who, int64_t ns)
{
    health_set(w->health, MUSTER_HEALTH_DOWN, "stalled", "%s %s has been in its callback \"%s\"%s%s for %.1f s", who->plugin,
               who->version, who->callback, who->subject[0] ? " on " : "", who->subject, (double)ns / 1e9);
    metric_set(w->stalled, NULL, 1);
}

/* It runs no plugin, so there is nobody to name. */
static void look_at_own(struct watched *w, struct lane *lane)
{
    int64_t ns = lane_silence(lane);

    if (ns >= WATCH_STALL_NS)
        health_set(w->health, MUSTER_HEALTH_DOWN, "stalled",
                   "the broker's own lane, which follows tenants and streams, has given no sign of life for %.1f s", (double)ns / 1e9);
    else
        health_set(w->health, MUSTER_HEALTH_OK, "ok", "serving");
    metric_set(w->stalled, NULL, ns >= WATCH_STALL_NS);
}

static void look_at(struct watched *w)
{
    struct lane_crumb who = {0};
    int64_t ns = lane_busy(w->in->lane, &who);

    if (ns < w->busy_ns)
        w->warned = false;
    w->busy_ns = ns;
    if (ns >= WATCH_STALL_NS) {
        tell_stalled(w, &who, ns);
        return;
    }
    health_set(w->health, MUSTER_HEALTH_OK, "ok", "serving");
    metric_set(w->stalled, NULL, 0);
    if (ns < WATCH_WARN_NS || w->warned)
        return;
    w->warned = true;
    log_warn(w->in->area, "its callback \"%s\"%s%s has run for %lld ms; it holds up its lane", who.callback,
             who.subject[0] ? " on " : "", who.subject, (long long)(ns / CLOCK_MS));
}

static void wait_a_period(struct watch *w)
{
    int64_t until = clock_now_ns() + period_ns;
    struct timespec ts = {.tv_sec = until / CLOCK_S, .tv_nsec = until % CLOCK_S};

    (void)pthread_cond_timedwait(&w->wake, &w->lock, &ts); /* early or late, the loop looks */
}

static void *run(void *arg)
{
    struct watch *w = arg;

    (void)pthread_setname_np(pthread_self(), "watch"); /* cosmetic */
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        pthread_mutex_unlock(&w->lock);
        for (size_t i = 0; i < w->n_lanes; i++)
            if (w->lanes[i].in)
                look_at(&w->lanes[i]);
            else
                look_at_own(&w->lanes[i], broker_lane(w->broker));
        heap_look(&w->heap, clock_now_ns());
        pthread_mutex_lock(&w->lock);
        if (!w->stop)
            wait_a_period(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* in NULL: the broker's own. */
static int add_lane(struct watch *w, struct instance *in)
{
    struct watched *lane = &w->lanes[w->n_lanes];
    char name[200];
    struct metric_spec spec = {.type = MUSTER_GAUGE,
                               .name = "muster_lane_stalled",
                               .help = "1 while a callback has run for longer than two seconds; of lane core: while it gives no sign of life.",
                               .constants = {{"lane", name}}};
    int err;

    if (!in)
        (void)snprintf(name, sizeof name, "%s", lane_name(broker_lane(w->broker)));
    else
        (void)snprintf(name, sizeof name, in->host.n_lanes > 1 ? "%s.%u" : "%s", in->area, in->host.lane);
    lane->in = in;
    err = health_add(broker_health(w->broker), HEALTH_LANE, name, true, &lane->health);
    if (!err)
        err = metrics_make(broker_metrics(w->broker), &spec, &lane->stalled);
    if (!err)
        w->n_lanes++;
    return err;
}

int watch_new(struct broker *broker, struct watch **ret_watch)
{
    struct watch *w = calloc(1, sizeof *w);
    pthread_condattr_t attr;
    struct instance *const *instances;
    size_t n;
    int err = 0;

    if (!w)
        return MUSTER_ENOMEM;
    w->broker = broker;
    ASSERT(pthread_mutex_init(&w->lock, NULL) == 0 && pthread_condattr_init(&attr) == 0);
    ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&w->wake, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
    instances = broker_instances(broker, &n);
    w->lanes = calloc(n + 1, sizeof *w->lanes);
    if (w->lanes)
        err = add_lane(w, NULL);
    for (size_t i = 0; w->lanes && i < n && !err; i++)
        err = add_lane(w, instances[i]);
    if (!w->lanes || err || pthread_create(&w->thread, NULL, run, w) != 0) {
        watch_free(w);
        return err ? err : MUSTER_ENOMEM;
    }
    w->running = true;
    *ret_watch = w;
    return 0;
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    if (w->running) {
        pthread_mutex_lock(&w->lock);
        w->stop = true;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
        (void)pthread_join(w->thread, NULL);
    }
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_mutex_destroy(&w->lock);
    free(w->lanes);
    free(w);
}
