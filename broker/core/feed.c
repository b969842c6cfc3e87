/* Who watches, and what waits before their lanes; see feed.h. */
#include "core/feed.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "core/instance.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { BATCH = 256 };

/* Freed by its lane: by feed_remove(), or by the item that is under way then. */
struct watcher {
    struct lane_item item;
    struct watcher *next;
    struct feed *feed;
    struct instance *in;
    uint64_t id;
    union feed_fn fn;
    void *arg;
    bool scheduled, gap;
    struct feed_event *first, **last;
    size_t n;
    bool dead, running; /* lane only */
};

struct feed {
    struct feed_options how;
    pthread_mutex_t lock; /* guards these */
    struct watcher *first;
    bool hearing;
};

/* ---- what waits ------------------------------------------------------------------------------------------------------------- */

static void free_events(struct feed_event *e)
{
    while (e) {
        struct feed_event *next = e->next;

        free(e);
        e = next;
    }
}

static struct feed_event *take_events(struct watcher *w, size_t max)
{
    struct feed_event *first = w->first, **at = &w->first;

    for (; *at && max; max--, w->n--)
        at = &(*at)->next;
    w->first = *at;
    *at = NULL;
    if (!w->first)
        w->last = &w->first;
    return first;
}

/* The lock is held. */
static void schedule(struct watcher *w)
{
    if (w->scheduled)
        return;
    w->scheduled = true;
    lane_push(w->in->lane, &w->item);
}

/* What waits is worth nothing beside a gap. The lock is held. */
static void set_gap(struct watcher *w)
{
    free_events(take_events(w, SIZE_MAX));
    if (!w->gap)
        metric_add(w->feed->how.gaps, NULL, 1);
    w->gap = true;
    if (w->feed->hearing)
        schedule(w);
}

/* The lock is held. */
static void gap_all(struct feed *f)
{
    for (struct watcher *w = f->first; w; w = w->next)
        set_gap(w);
}

void feed_gap(struct feed *f)
{
    pthread_mutex_lock(&f->lock);
    gap_all(f);
    pthread_mutex_unlock(&f->lock);
}

void feed_hear(struct feed *f, bool hearing)
{
    pthread_mutex_lock(&f->lock);
    f->hearing = hearing;
    if (hearing)
        gap_all(f);
    pthread_mutex_unlock(&f->lock);
}

/* Before a gap is told there is nothing that it would not cover. The lock is held. */
static void push_event(struct watcher *w, const struct feed_event *event, size_t n)
{
    struct feed_event *e = w->n < w->feed->how.max_queued ? malloc(n) : NULL;

    if (!e) {
        set_gap(w);
        return;
    }
    memcpy(e, event, n);
    e->next = NULL;
    *w->last = e;
    w->last = &e->next;
    w->n++;
    schedule(w);
}

bool feed_is_of(const struct instance *in, const struct muster_tenant *tenant)
{
    return tenant->hash % in->host.n_lanes == in->host.lane;
}

void feed_push(struct feed *f, const struct feed_event *event, size_t n)
{
    pthread_mutex_lock(&f->lock);
    for (struct watcher *w = f->first; w; w = w->next)
        if (!event->tenant || feed_is_of(w->in, event->tenant))
            push_event(w, event, n);
    pthread_mutex_unlock(&f->lock);
}

/* ---- the lane --------------------------------------------------------------------------------------------------------------- */

static void tell_all(struct watcher *w, bool gap, const struct feed_event *events)
{
    w->running = true;
    if (gap && !w->dead)
        w->feed->how.tell(w->in, w->fn, w->arg, NULL);
    for (const struct feed_event *e = events; e && !w->dead; e = e->next)
        w->feed->how.tell(w->in, w->fn, w->arg, e);
    w->running = false;
}

static void run_watcher(struct lane_item *item)
{
    struct watcher *w = (struct watcher *)item;
    struct feed_event *events;
    bool gap;

    pthread_mutex_lock(&w->feed->lock);
    w->scheduled = false;
    gap = w->gap;
    w->gap = false;
    events = take_events(w, BATCH);
    if (w->first)
        schedule(w); /* others have their turn first */
    pthread_mutex_unlock(&w->feed->lock);
    tell_all(w, gap, events);
    free_events(events);
    if (w->dead && !w->scheduled) /* of the dead nobody else knows */
        free(w);
}

static void drop_watcher(struct lane_item *item)
{
    free(item);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int feed_add(struct feed *f, struct instance *in, union feed_fn fn, void *arg, uint64_t *ret_id)
{
    struct watcher *w = calloc(1, sizeof *w);
    size_t n = 0;

    if (!w)
        return MUSTER_ENOMEM;
    *w = (struct watcher){.item = {.run = run_watcher, .drop = drop_watcher}, .feed = f, .in = in, .fn = fn, .arg = arg, .gap = true};
    w->last = &w->first;
    pthread_mutex_lock(&f->lock);
    for (const struct watcher *other = f->first; other; other = other->next)
        n += other->in == in;
    if (n < FEED_MAX_WATCHERS) {
        w->id = *ret_id = ++in->next_id;
        w->next = f->first;
        f->first = w;
        if (f->hearing)
            schedule(w);
    }
    pthread_mutex_unlock(&f->lock);
    if (n < FEED_MAX_WATCHERS)
        return 0;
    free(w);
    return MUSTER_EAGAIN;
}

static struct watcher *take_watcher(struct feed *f, const struct instance *in, const uint64_t *id)
{
    struct watcher **at, *w;

    pthread_mutex_lock(&f->lock);
    for (at = &f->first; *at && ((*at)->in != in || (id && (*at)->id != *id)); at = &(*at)->next)
        ;
    w = *at;
    if (w) {
        *at = w->next;
        free_events(take_events(w, SIZE_MAX));
    }
    pthread_mutex_unlock(&f->lock);
    return w;
}

static void end_watcher(struct watcher *w)
{
    w->dead = true;
    if (!w->scheduled && !w->running)
        free(w);
}

void feed_remove(struct feed *f, struct instance *in, uint64_t id)
{
    struct watcher *w = take_watcher(f, in, &id);

    if (w)
        end_watcher(w);
}

void feed_forget(struct feed *f, struct instance *in)
{
    struct watcher *w;

    while ((w = take_watcher(f, in, NULL)) != NULL)
        end_watcher(w);
}

int feed_new(const struct feed_options *options, struct feed **ret_feed)
{
    struct feed *f = calloc(1, sizeof *f);

    if (!f)
        return MUSTER_ENOMEM;
    f->how = *options;
    ASSERT(pthread_mutex_init(&f->lock, NULL) == 0);
    *ret_feed = f;
    return 0;
}

/* No instance lives any more, and each has taken its watchers with it. */
void feed_free(struct feed *f)
{
    if (!f)
        return;
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}
