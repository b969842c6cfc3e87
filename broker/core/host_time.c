/*
 * muster.timer/1 and muster.io/1: libuv's timers and polls of the instance's lane.
 *
 * Both are one struct host_event in the instance's list, found by id; the handle's memory goes when libuv has closed it.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/instance.h"

struct host_event {
    struct host_event *next;
    uint64_t id;
    struct instance *in;
    union {
        uv_handle_t handle;
        uv_timer_t timer;
        uv_poll_t poll;
    } uv;
    muster_timer_fn on_timer;
    muster_io_fn on_io;
    void *arg;
    bool once;
};

/* libuv needs the handle for a while after uv_close(). */
static void free_event(uv_handle_t *handle)
{
    free(handle->data);
}

/* No id is given twice, so stopping what has run already harms nobody. */
static struct host_event *event_new(struct instance *in)
{
    struct host_event *e = calloc(1, sizeof *e);

    if (!e)
        return NULL;
    e->in = in;
    e->id = ++in->next_id;
    return e;
}

static void event_add(struct host_event *e)
{
    e->uv.handle.data = e;
    e->next = e->in->events;
    e->in->events = e;
}

static struct host_event *event_find(struct instance *in, uint64_t id)
{
    struct host_event *e = in->events;

    while (e && e->id != id)
        e = e->next;
    return e;
}

static void event_remove(struct instance *in, uint64_t id)
{
    struct host_event **at = &in->events, *e;

    while (*at && (*at)->id != id)
        at = &(*at)->next;
    e = *at;
    if (!e)
        return;
    *at = e->next;
    uv_close(&e->uv.handle, free_event);
}

void host_time_done(struct instance *in)
{
    while (in->events)
        event_remove(in, in->events->id);
}

/* ---- timers -------------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    struct host_event *e = timer->data;
    struct instance *in = e->in;
    muster_timer_fn fn = e->on_timer;

    /* First, so that fn may start and stop timers without meeting this one. */
    if (e->once)
        event_remove(in, e->id);
    instance_enter(in, "timer", NULL);
    fn(in->self, clock_now_ns());
    instance_leave(in);
}

static int start_timer(struct instance *in, int64_t ns, bool once, muster_timer_fn fn, uint64_t *ret_id)
{
    uint64_t ms = (uint64_t)(ns / CLOCK_MS + (ns % CLOCK_MS > 0));
    struct host_event *e;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || ns < 0 || (!once && ns == 0))
        return MUSTER_EINVAL;
    e = event_new(in);
    if (!e)
        return MUSTER_ENOMEM;
    e->on_timer = fn;
    e->once = once;
    ASSERT(uv_timer_init(lane_loop(in->lane), &e->uv.timer) == 0);
    event_add(e);
    /* The loop's time is when this turn began: behind a long callback the timer would come early. */
    uv_update_time(lane_loop(in->lane));
    ASSERT(uv_timer_start(&e->uv.timer, on_timer, ms, once ? 0 : ms) == 0);
    *ret_id = e->id;
    return 0;
}

static int timer_every(const struct muster_host *host, int64_t period_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    return start_timer(instance_of(host), period_ns, false, fn, ret_id);
}

static int timer_once(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    return start_timer(instance_of(host), delay_ns, true, fn, ret_id);
}

static void timer_stop(const struct muster_host *host, uint64_t id)
{
    if (ON_LANE(instance_of(host)))
        event_remove(instance_of(host), id);
}

static int64_t timer_now(const struct muster_host *host)
{
    (void)host;
    return clock_now_ns();
}

static int64_t timer_wall_now(const struct muster_host *host)
{
    (void)host;
    return clock_wall_ns();
}

const struct muster_timer host_timer = {.size = sizeof host_timer,
                                        .every = timer_every,
                                        .once = timer_once,
                                        .stop = timer_stop,
                                        .now = timer_now,
                                        .wall_now = timer_wall_now};

/* ---- descriptors --------------------------------------------------------------------------------------------------- */

static void on_io(uv_poll_t *poll, int status, int events)
{
    struct host_event *e = poll->data;
    struct instance *in = e->in;
    uint32_t ready = (events & UV_READABLE ? MUSTER_READABLE : 0u) | (events & UV_WRITABLE ? MUSTER_WRITABLE : 0u);

    /* An error on the descriptor is found by the plugin when it reads or writes. */
    if (status < 0)
        ready = MUSTER_READABLE | MUSTER_WRITABLE;
    instance_enter(in, "io", NULL);
    e->on_io(e->arg, ready);
    instance_leave(in);
}

/* 0 pauses: the handle stays and can be started again. */
static int apply(struct host_event *e, uint32_t events)
{
    int wanted = (events & MUSTER_READABLE ? UV_READABLE : 0) | (events & MUSTER_WRITABLE ? UV_WRITABLE : 0);
    int err = wanted ? uv_poll_start(&e->uv.poll, wanted, on_io) : uv_poll_stop(&e->uv.poll);

    return err ? MUSTER_EINVAL : 0;
}

static int io_watch(const struct muster_host *host, int fd, uint32_t events, muster_io_fn fn, void *arg, uint64_t *ret_id)
{
    struct instance *in = instance_of(host);
    struct host_event *e;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || fd < 0)
        return MUSTER_EINVAL;
    e = event_new(in);
    if (!e)
        return MUSTER_ENOMEM;
    e->on_io = fn;
    e->arg = arg;
    if (uv_poll_init(lane_loop(in->lane), &e->uv.poll, fd) != 0) {
        free(e);
        return MUSTER_EINVAL;
    }
    event_add(e);
    err = apply(e, events);
    if (err)
        event_remove(in, e->id);
    else
        *ret_id = e->id;
    return err;
}

static int io_change(const struct muster_host *host, uint64_t id, uint32_t events)
{
    struct host_event *e;

    if (!ON_LANE(instance_of(host)))
        return MUSTER_EINVAL;
    e = event_find(instance_of(host), id);
    return e && e->on_io ? apply(e, events) : MUSTER_EINVAL;
}

static void io_unwatch(const struct muster_host *host, uint64_t id)
{
    if (ON_LANE(instance_of(host)))
        event_remove(instance_of(host), id);
}

const struct muster_io host_io = {
    .size = sizeof host_io, .watch = io_watch, .change = io_change, .unwatch = io_unwatch};
