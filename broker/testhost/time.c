/* muster.timer/1 on the clock of the test, and muster.io/1 on real descriptors. Lane only, but for now and wall_now. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

enum { MAX_POLLED = 256 };

struct timer {
    struct due due;
    muster_timer_fn fn;
    int64_t period_ns; /* 0: once */
    bool stopped;      /* inside its own function */
};

static int64_t up_to_ms(int64_t ns)
{
    return (ns / MUSTER_TEST_MS + (ns % MUSTER_TEST_MS > 0)) * MUSTER_TEST_MS;
}

/* Late ticks coalesce into one: the next is a period from now. */
static void run_timer(struct muster_test *t, struct due *d, int code)
{
    struct timer *timer = (struct timer *)d;

    (void)code; /* timers do not end with a code */
    list_add(&t->timers, timer); /* so that stop() finds it while it runs */
    DURING(t, "timer", NULL, timer->fn(t->self, t->now_ns));
    for (size_t i = t->timers.n; i-- > 0;)
        if (t->timers.items[i] == timer)
            list_remove(&t->timers, i);
    if (timer->period_ns && !timer->stopped && t->phase < PHASE_ENDED)
        due_add(t, &timer->due, t->now_ns + timer->period_ns);
    else
        free(timer);
}

static int start(struct muster_test *t, int call, int64_t ns, bool once, muster_timer_fn fn, uint64_t *ret_id)
{
    int err = call_begin(t, call);
    struct timer *timer;

    if (err)
        return err;
    if (!fn || !ret_id)
        return breach(t, call, "%s is NULL", fn ? "ret_id" : "fn");
    if (ns < 0 || (!once && ns == 0))
        return breach(t, call, "%lld ns: expected %s", (long long)ns, once ? "0 or more" : "more than 0");
    timer = must_alloc(sizeof *timer);
    *timer = (struct timer){.due = {.kind = DUE_TIMER, .callback = -1, .owner = ++t->next_id, .run = run_timer},
                            .fn = fn,
                            .period_ns = once ? 0 : up_to_ms(ns)};
    due_add(t, &timer->due, t->now_ns + up_to_ms(ns));
    *ret_id = timer->due.owner;
    return 0;
}

static int timer_every(const struct muster_host *host, int64_t period_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    return start(test_of(host, CALL_TIMER_EVERY), CALL_TIMER_EVERY, period_ns, false, fn, ret_id);
}

static int timer_once(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    return start(test_of(host, CALL_TIMER_ONCE), CALL_TIMER_ONCE, delay_ns, true, fn, ret_id);
}

static void timer_stop(const struct muster_host *host, uint64_t id)
{
    struct muster_test *t = test_of(host, CALL_TIMER_STOP);
    struct due *d;

    if (call_begin(t, CALL_TIMER_STOP) != 0 || !id)
        return;
    for (size_t i = 0; i < t->timers.n; i++) {
        struct timer *running = t->timers.items[i];

        if (running->due.owner == id)
            running->stopped = true;
    }
    d = due_find(t, DUE_TIMER, id);
    if (!d)
        return;
    due_remove(t, d);
    free(d);
}

static int64_t timer_now(const struct muster_host *host)
{
    struct muster_test *t = test_of(host, CALL_TIMER_NOW);
    int64_t now;

    (void)call_begin(t, CALL_TIMER_NOW);
    pthread_mutex_lock(&t->lock);
    now = t->now_ns;
    pthread_mutex_unlock(&t->lock);
    return now;
}

static int64_t timer_wall_now(const struct muster_host *host)
{
    struct muster_test *t = test_of(host, CALL_TIMER_WALL_NOW);
    int64_t now;

    (void)call_begin(t, CALL_TIMER_WALL_NOW);
    pthread_mutex_lock(&t->lock);
    now = muster_test_wall_now(t);
    pthread_mutex_unlock(&t->lock);
    return now;
}

const struct muster_timer test_timer = {.size = sizeof test_timer,
                                        .every = timer_every,
                                        .once = timer_once,
                                        .stop = timer_stop,
                                        .now = timer_now,
                                        .wall_now = timer_wall_now};

/* ---- descriptors --------------------------------------------------------------------------------------------------------------- */

static struct io_watch *find(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->watches.n; i++) {
        struct io_watch *w = t->watches.items[i];

        if (w->id == id)
            return w;
    }
    return NULL;
}

static int check_events(struct muster_test *t, int call, uint32_t events)
{
    if (events & ~(uint32_t)(MUSTER_READABLE | MUSTER_WRITABLE))
        return breach(t, call, "events %#x: expected MUSTER_READABLE and MUSTER_WRITABLE", events);
    return 0;
}

static int io_watch(const struct muster_host *host, int fd, uint32_t events, muster_io_fn fn, void *arg, uint64_t *ret_id)
{
    struct muster_test *t = test_of(host, CALL_IO_WATCH);
    int err = call_begin(t, CALL_IO_WATCH);
    struct io_watch *w;

    if (!err)
        err = check_events(t, CALL_IO_WATCH, events);
    if (!err && (!fn || !ret_id))
        err = breach(t, CALL_IO_WATCH, "%s is NULL", fn ? "ret_id" : "fn");
    if (!err && fcntl(fd, F_GETFD) < 0)
        err = breach(t, CALL_IO_WATCH, "descriptor %d is not open", fd);
    for (size_t i = 0; i < t->watches.n && !err; i++)
        if (((struct io_watch *)t->watches.items[i])->fd == fd)
            err = breach(t, CALL_IO_WATCH, "descriptor %d is watched already", fd);
    if (err)
        return err;
    w = must_alloc(sizeof *w);
    *w = (struct io_watch){++t->next_id, fd, events, fn, arg};
    list_add(&t->watches, w);
    *ret_id = w->id;
    return 0;
}

static int io_change(const struct muster_host *host, uint64_t id, uint32_t events)
{
    struct muster_test *t = test_of(host, CALL_IO_CHANGE);
    int err = call_begin(t, CALL_IO_CHANGE);
    struct io_watch *w;

    if (!err)
        err = check_events(t, CALL_IO_CHANGE, events);
    if (err)
        return err;
    w = find(t, id);
    if (!w)
        return breach(t, CALL_IO_CHANGE, "%llu is no watch", (unsigned long long)id);
    w->events = events;
    return 0;
}

static void io_unwatch(const struct muster_host *host, uint64_t id)
{
    struct muster_test *t = test_of(host, CALL_IO_UNWATCH);

    if (call_begin(t, CALL_IO_UNWATCH) != 0)
        return;
    for (size_t i = 0; i < t->watches.n; i++) {
        struct io_watch *w = t->watches.items[i];

        if (w->id != id)
            continue;
        if (fcntl(w->fd, F_GETFD) < 0)
            (void)breach(t, CALL_IO_UNWATCH, "descriptor %d was closed before: unwatch comes first", w->fd);
        list_remove(&t->watches, i);
        free(w);
        return;
    }
    (void)breach(t, CALL_IO_UNWATCH, "%llu is no watch", (unsigned long long)id);
}

const struct muster_io test_io = {.size = sizeof test_io, .watch = io_watch, .change = io_change, .unwatch = io_unwatch};

static void call_ready(struct muster_test *t, uint64_t id, short ready)
{
    struct io_watch *w = find(t, id); /* a function before it may have ended it */
    uint32_t events = 0;

    if (!w)
        return;
    if (ready & POLLNVAL) {
        fail_test(t, "closed descriptor %d while it was watched: unwatch comes first", w->fd);
        w->events = 0;
        return;
    }
    if (ready & (POLLERR | POLLHUP))
        events = MUSTER_READABLE | MUSTER_WRITABLE;
    events |= ready & POLLIN ? MUSTER_READABLE : 0u;
    events |= ready & POLLOUT ? MUSTER_WRITABLE : 0u;
    DURING(t, "io", NULL, w->fn(w->arg, events));
}

/* Once: what stays ready is found by the next run. */
bool io_poll(struct muster_test *t, int timeout_ms)
{
    struct pollfd fds[MAX_POLLED];
    uint64_t ids[MAX_POLLED];
    nfds_t n = 0;
    int ready;

    if (!t->started || t->phase != PHASE_STARTED)
        return false;
    for (size_t i = 0; i < t->watches.n && n < MAX_POLLED; i++) {
        const struct io_watch *w = t->watches.items[i];

        if (!w->events)
            continue;
        ids[n] = w->id;
        fds[n++] = (struct pollfd){.fd = w->fd,
                                   .events = (short)((w->events & MUSTER_READABLE ? POLLIN : 0) |
                                                     (w->events & MUSTER_WRITABLE ? POLLOUT : 0))};
    }
    ready = n || timeout_ms ? poll(fds, n, timeout_ms) : 0;
    for (nfds_t i = 0; ready > 0 && i < n; i++)
        if (fds[i].revents)
            call_ready(t, ids[i], fds[i].revents);
    return ready > 0;
}

void time_end(struct muster_test *t)
{
    struct due *d;

    for (size_t i = 0; i < t->watches.n; i++) {
        struct io_watch *w = t->watches.items[i];

        fail_test(t, "left descriptor %d watched", w->fd);
        free(w);
    }
    list_done(&t->watches);
    while ((d = due_find(t, DUE_TIMER, 0))) {
        due_remove(t, d);
        free(d);
    }
    list_done(&t->timers);
}
