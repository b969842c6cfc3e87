/* Who watches, and what waits before their lanes; see watchers.h. */
#include "core/watchers.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/instance.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { BATCH = 256 };

struct event {
    struct event *next;
    int kind;
    const struct muster_tenant *tenant;
    struct sys_client client;
};

/* Freed by its lane: by unwatch(), or by the item that is under way then. */
struct watcher {
    struct lane_item item;
    struct watcher *next;
    struct watchers *ws;
    struct instance *in;
    uint64_t id;
    muster_connection_fn fn;
    void *arg;
    bool scheduled, gap;
    struct event *first, **last;
    size_t n;
    bool dead, running; /* lane only */
};

struct watchers {
    struct metric *gaps;
    pthread_mutex_t lock; /* guards these */
    struct watcher *first;
    bool hearing;
};

/* ---- what waits ------------------------------------------------------------------------------------------------------------- */

static void free_events(struct event *e)
{
    while (e) {
        struct event *next = e->next;

        free(e);
        e = next;
    }
}

static struct event *take_events(struct watcher *w, size_t max)
{
    struct event *first = w->first, **at = &w->first;

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

/* What waits is worth nothing beside a gap: list() tells how it is. The lock is held. */
static void set_gap(struct watcher *w)
{
    free_events(take_events(w, SIZE_MAX));
    if (!w->gap)
        metric_add(w->ws->gaps, NULL, 1);
    w->gap = true;
    if (w->ws->hearing)
        schedule(w);
}

/* The lock is held. */
static void gap_all(struct watchers *ws)
{
    for (struct watcher *w = ws->first; w; w = w->next)
        set_gap(w);
}

void watchers_gap(struct watchers *ws)
{
    pthread_mutex_lock(&ws->lock);
    gap_all(ws);
    pthread_mutex_unlock(&ws->lock);
}

void watchers_hear(struct watchers *ws, bool hearing)
{
    pthread_mutex_lock(&ws->lock);
    ws->hearing = hearing;
    if (hearing)
        gap_all(ws);
    pthread_mutex_unlock(&ws->lock);
}

/* The lock is held. */
static void push_event(struct watcher *w, int kind, const struct muster_tenant *tenant, const struct sys_client *client)
{
    struct event *e = w->n < WATCHERS_MAX_QUEUED ? malloc(sizeof *e) : NULL;

    if (!e) {
        set_gap(w);
        return;
    }
    *e = (struct event){.kind = kind, .tenant = tenant, .client = *client};
    *w->last = e;
    w->last = &e->next;
    w->n++;
    schedule(w);
}

bool watchers_is_of(const struct instance *in, const struct muster_tenant *tenant)
{
    return tenant->hash % in->host.n_lanes == in->host.lane;
}

void watchers_push(struct watchers *ws, int kind, const struct muster_tenant *tenant, const struct sys_client *client)
{
    pthread_mutex_lock(&ws->lock);
    for (struct watcher *w = ws->first; w; w = w->next)
        if (watchers_is_of(w->in, tenant))
            push_event(w, kind, tenant, client);
    pthread_mutex_unlock(&ws->lock);
}

/* ---- the lane --------------------------------------------------------------------------------------------------------------- */

void watchers_show(const struct sys_client *client, int kind, const struct muster_tenant *tenant, struct muster_connection *out)
{
    *out = (struct muster_connection){.size = sizeof *out,
                                      .kind = (uint32_t)kind,
                                      .tenant = tenant,
                                      .agent = client->agent,
                                      .server = client->server,
                                      .client = client->id,
                                      .name = client->name,
                                      .reason = kind == MUSTER_SYS_DISCONNECT ? client->reason : NULL,
                                      .at_wall_ns = client->at_wall_ns};
}

static void tell(struct watcher *w, const struct muster_connection *connection)
{
    if (connection->kind == MUSTER_SYS_DISCONNECT)
        host_sys_saw(w->in, connection->server, connection->client);
    instance_enter(w->in, "connection", NULL);
    w->fn(w->arg, connection);
    instance_leave(w->in);
}

static void tell_gap(struct watcher *w)
{
    const struct muster_connection gap = {.size = sizeof gap, .kind = MUSTER_SYS_GAP, .at_wall_ns = clock_wall_ns()};

    tell(w, &gap);
}

static void tell_events(struct watcher *w, const struct event *e)
{
    struct muster_connection connection;

    for (; e && !w->dead; e = e->next) {
        watchers_show(&e->client, e->kind, e->tenant, &connection);
        tell(w, &connection);
    }
}

static void run_watcher(struct lane_item *item)
{
    struct watcher *w = (struct watcher *)item;
    struct event *events;
    bool gap;

    pthread_mutex_lock(&w->ws->lock);
    w->scheduled = false;
    gap = w->gap;
    w->gap = false;
    events = take_events(w, BATCH);
    if (w->first)
        schedule(w); /* others have their turn first */
    pthread_mutex_unlock(&w->ws->lock);
    w->running = true;
    if (gap && !w->dead)
        tell_gap(w);
    tell_events(w, events);
    w->running = false;
    free_events(events);
    if (w->dead && !w->scheduled) /* of the dead nobody else knows */
        free(w);
}

static void drop_watcher(struct lane_item *item)
{
    free(item);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int watchers_add(struct watchers *ws, struct instance *in, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    struct watcher *w = calloc(1, sizeof *w);
    size_t n = 0;

    if (!w)
        return MUSTER_ENOMEM;
    *w = (struct watcher){.item = {.run = run_watcher, .drop = drop_watcher}, .ws = ws, .in = in, .fn = fn, .arg = arg, .gap = true};
    w->last = &w->first;
    pthread_mutex_lock(&ws->lock);
    for (const struct watcher *other = ws->first; other; other = other->next)
        n += other->in == in;
    if (n < WATCHERS_MAX) {
        w->id = *ret_id = ++in->next_id;
        w->next = ws->first;
        ws->first = w;
        if (ws->hearing)
            schedule(w);
    }
    pthread_mutex_unlock(&ws->lock);
    if (n < WATCHERS_MAX)
        return 0;
    free(w);
    return MUSTER_EAGAIN;
}

static struct watcher *take_watcher(struct watchers *ws, const struct instance *in, const uint64_t *id)
{
    struct watcher **at, *w;

    pthread_mutex_lock(&ws->lock);
    for (at = &ws->first; *at && ((*at)->in != in || (id && (*at)->id != *id)); at = &(*at)->next)
        ;
    w = *at;
    if (w) {
        *at = w->next;
        free_events(take_events(w, SIZE_MAX));
    }
    pthread_mutex_unlock(&ws->lock);
    return w;
}

static void end_watcher(struct watcher *w)
{
    w->dead = true;
    if (!w->scheduled && !w->running)
        free(w);
}

void watchers_remove(struct watchers *ws, struct instance *in, uint64_t id)
{
    struct watcher *w = take_watcher(ws, in, &id);

    if (w)
        end_watcher(w);
}

void watchers_forget(struct watchers *ws, struct instance *in)
{
    struct watcher *w;

    while ((w = take_watcher(ws, in, NULL)) != NULL)
        end_watcher(w);
}

int watchers_new(struct metric *gaps, struct watchers **ret_watchers)
{
    struct watchers *ws = calloc(1, sizeof *ws);

    if (!ws)
        return MUSTER_ENOMEM;
    ws->gaps = gaps;
    ASSERT(pthread_mutex_init(&ws->lock, NULL) == 0);
    *ret_watchers = ws;
    return 0;
}

/* No instance lives any more, and each has taken its watchers with it. */
void watchers_free(struct watchers *ws)
{
    if (!ws)
        return;
    (void)pthread_mutex_destroy(&ws->lock);
    free(ws);
}
