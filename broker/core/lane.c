/* A thread with an event loop; see lane.h. */
#include "core/lane.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

enum { CONTROL_BATCH = 256 }; /* control items a turn, so that timers and sockets get theirs */
enum { SIGNAL_STACK = 65536 };
enum { HELD_WAKES = 16, LATE_MAX = 256 };
static const int64_t late_max_ns = 5 * CLOCK_MS;

struct beat {
    struct lane_item item;
    _Atomic int64_t asked_ns; /* 0: not under way */
};

struct lane {
    char name[64];
    uv_loop_t loop;
    uv_async_t wake;
    pthread_t thread;
    bool running; /* the thread was started; its starter only */

    pthread_mutex_t lock;           /* guards the queue and closed */
    struct lane_item *head, **tail; /* control items in order */
    bool closed;

    bool (*on_turn)(void *arg);
    void *turn_arg;
    atomic_bool stopping;
    atomic_int n_held; /* threads that will wake it in a moment */
    _Atomic uint64_t turns;

    struct lane_crumb crumb; /* written on the lane before busy_since */
    unsigned int depth;      /* lane only */
    _Atomic int64_t busy_since_ns;
    struct beat beat;
    uv_mutex_t end_lock; /* guards ended */
    uv_cond_t end_wake;
    bool ended; /* the thread has nothing left to do */
    _Alignas(16) char signal_stack[SIGNAL_STACK]; /* the kernel and the sanitizers want a stack where one may be */
};

static _Thread_local struct lane *lane_of_thread;

static struct lane_item *take_batch(struct lane *l, bool *ret_more)
{
    struct lane_item *first, *last;
    int n = 1;

    pthread_mutex_lock(&l->lock);
    first = last = l->head;
    while (last && last->next && n++ < CONTROL_BATCH)
        last = last->next;
    if (last) {
        l->head = last->next;
        if (!l->head)
            l->tail = &l->head;
        last->next = NULL;
    }
    *ret_more = l->head != NULL;
    pthread_mutex_unlock(&l->lock);
    return first;
}

/* Run one batch. True when more is waiting. */
static bool run_batch(struct lane *l)
{
    bool more;
    struct lane_item *item = take_batch(l, &more);

    while (item) {
        struct lane_item *next = item->next;

        item->run(item);
        item = next;
    }
    return more;
}

static void on_wake(uv_async_t *async)
{
    struct lane *l = async->data;
    bool more = run_batch(l);

    atomic_fetch_add_explicit(&l->turns, 1, memory_order_relaxed);
    if (l->on_turn && l->on_turn(l->turn_arg))
        more = true;
    if (more)
        (void)uv_async_send(&l->wake); /* cannot fail for a live handle */
    else if (atomic_load(&l->stopping))
        uv_stop(&l->loop);
}

/* A signal handler needs ground to stand on when a callback has used up the stack. */
static void use_signal_stack(struct lane *l, stack_t *ret_before)
{
    stack_t stack = {.ss_sp = l->signal_stack, .ss_size = SIGNAL_STACK};

    (void)sigaltstack(&stack, ret_before); /* without it a crash is still a crash, only untold */
}

static void *run(void *arg)
{
    stack_t before = {.ss_flags = SS_DISABLE};
    struct lane *l = arg;

    lane_of_thread = l;
    use_signal_stack(l, &before);
    (void)pthread_setname_np(pthread_self(), l->name); /* cosmetic */
    (void)uv_run(&l->loop, UV_RUN_DEFAULT);
    while (run_batch(l))
        ;
    (void)sigaltstack(&before, NULL); /* the sanitizers' own, which they free with the thread */
    uv_mutex_lock(&l->end_lock);
    l->ended = true;
    uv_cond_signal(&l->end_wake);
    uv_mutex_unlock(&l->end_lock);
    return NULL;
}

/* Also where the lane ends first. */
static void run_beat(struct lane_item *item)
{
    atomic_store(&((struct beat *)item)->asked_ns, 0);
}

int lane_new(const char *name, struct lane **ret_lane)
{
    struct lane *l = calloc(1, sizeof *l);

    if (!l)
        return MUSTER_ENOMEM;
    (void)snprintf(l->name, sizeof l->name, "%.15s", name); /* the kernel keeps 15 characters of a thread's name */
    l->tail = &l->head;
    if (uv_loop_init(&l->loop) != 0) {
        free(l);
        return MUSTER_ENOMEM;
    }
    ASSERT(uv_async_init(&l->loop, &l->wake, on_wake) == 0);
    l->wake.data = l;
    ASSERT(pthread_mutex_init(&l->lock, NULL) == 0);
    ASSERT(uv_mutex_init(&l->end_lock) == 0 && uv_cond_init(&l->end_wake) == 0);
    l->beat.item.run = run_beat;
    *ret_lane = l;
    return 0;
}

int lane_start(struct lane *l)
{
    if (pthread_create(&l->thread, NULL, run, l) != 0)
        return MUSTER_ENOMEM;
    l->running = true;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* True when the thread is through; joining it takes no time then. */
static bool wait_for_end(struct lane *l, int64_t deadline_ns)
{
    bool ended;

    uv_mutex_lock(&l->end_lock);
    while (!l->ended) {
        int64_t left = deadline_ns - clock_now_ns();

        if (left <= 0)
            break;
        (void)uv_cond_timedwait(&l->end_wake, &l->end_lock, (uint64_t)(left < CLOCK_S ? left : CLOCK_S)); /* the loop looks again */
    }
    ended = l->ended;
    uv_mutex_unlock(&l->end_lock);
    return ended;
}

void lane_stop(struct lane *l)
{
    (void)lane_stop_until(l, INT64_MAX); /* without a deadline there is no failure */
}

/* Of one that has ended, or never ran. */
static void drop_waiting(struct lane *l)
{
    struct lane_item *item;

    pthread_mutex_lock(&l->lock);
    l->closed = true;
    item = l->head;
    l->head = NULL;
    pthread_mutex_unlock(&l->lock);
    while (item) {
        struct lane_item *next = item->next;

        (item->drop ? item->drop : item->run)(item);
        item = next;
    }
}

int lane_stop_until(struct lane *l, int64_t deadline_ns)
{
    if (!l)
        return 0;
    if (l->running) {
        atomic_store(&l->stopping, true);
        lane_wake(l);
        if (!wait_for_end(l, deadline_ns))
            return MUSTER_ETIME;
        (void)pthread_join(l->thread, NULL);
        l->running = false;
    }
    drop_waiting(l);
    return 0;
}

void lane_free(struct lane *l)
{
    if (!l)
        return;
    lane_stop(l);
    while (atomic_load(&l->n_held)) /* for some milliseconds at most */
        (void)usleep(200);
    uv_walk(&l->loop, close_handle, NULL);
    (void)uv_run(&l->loop, UV_RUN_DEFAULT); /* runs the close callbacks; nothing is left that could block */
    (void)uv_loop_close(&l->loop);
    (void)pthread_mutex_destroy(&l->lock);
    uv_mutex_destroy(&l->end_lock);
    uv_cond_destroy(&l->end_wake);
    free(l);
}

const char *lane_name(const struct lane *l)
{
    return l->name;
}

uv_loop_t *lane_loop(struct lane *l)
{
    return &l->loop;
}

bool lane_here(const struct lane *l)
{
    return lane_of_thread == l;
}

void lane_push(struct lane *l, struct lane_item *item)
{
    bool closed;

    item->next = NULL;
    pthread_mutex_lock(&l->lock);
    closed = l->closed;
    if (!closed) {
        *l->tail = item;
        l->tail = &item->next;
    }
    pthread_mutex_unlock(&l->lock);
    if (closed)
        (item->drop ? item->drop : item->run)(item);
    else
        lane_wake(l);
}

static void wake_now(struct lane *l)
{
    (void)uv_async_send(&l->wake); /* coalesces; cannot fail for a live handle */
}

/* Each lane once. Those that are kept count it, so that they are not freed meanwhile. */
struct wakes {
    struct lane *lanes[HELD_WAKES];
    int n;
};

static _Thread_local struct {
    struct wakes soon, late;
    int64_t late_ns; /* when the first of the late ones came; 0: not known yet */
    int n_late;      /* how often those that are kept were asked for */
    bool on;
} held;

/* False: there is no room. */
static bool keep(struct wakes *w, struct lane *l)
{
    for (int i = 0; i < w->n; i++)
        if (w->lanes[i] == l)
            return true;
    if (w->n == HELD_WAKES)
        return false;
    atomic_fetch_add(&l->n_held, 1);
    w->lanes[w->n++] = l;
    return true;
}

static void let(struct wakes *w)
{
    for (int i = 0; i < w->n; i++) {
        wake_now(w->lanes[i]);
        atomic_fetch_sub(&w->lanes[i]->n_held, 1);
    }
    w->n = 0;
}

void lane_wake(struct lane *l)
{
    if (!held.on || !keep(&held.soon, l))
        wake_now(l);
}

void lane_wake_late(struct lane *l)
{
    if (held.on && keep(&held.late, l))
        held.n_late++;
    else
        wake_now(l);
}

void lane_hold_wakes(void)
{
    held.on = true;
}

void lane_let_wakes(void)
{
    let(&held.soon);
    held.on = false;
}

bool lane_let_late_wakes(int64_t now_ns)
{
    if (!held.late.n)
        return false;
    if (!held.late_ns)
        held.late_ns = now_ns;
    if (held.n_late < LATE_MAX && now_ns - held.late_ns < late_max_ns && now_ns != INT64_MAX)
        return true;
    let(&held.late);
    held.late_ns = 0;
    held.n_late = 0;
    return false;
}

void lane_on_turn(struct lane *l, bool (*fn)(void *arg), void *arg)
{
    l->on_turn = fn;
    l->turn_arg = arg;
}

/* A call that somebody waits for; shared by the waiter, who may give up, and the lane. */
struct call {
    struct lane_item item;
    int (*fn)(void *arg);
    void *arg;
    uv_mutex_t lock; /* guards done, result and refs */
    uv_cond_t wake;
    bool done;
    int result, refs;
};

static void call_unref(struct call *c)
{
    int left;

    uv_mutex_lock(&c->lock);
    left = --c->refs;
    uv_mutex_unlock(&c->lock);
    if (left)
        return;
    uv_cond_destroy(&c->wake);
    uv_mutex_destroy(&c->lock);
    free(c);
}

static void run_call(struct lane_item *item)
{
    struct call *c = (struct call *)item;
    int result = c->fn(c->arg);

    uv_mutex_lock(&c->lock);
    c->result = result;
    c->done = true;
    uv_cond_signal(&c->wake);
    uv_mutex_unlock(&c->lock);
    call_unref(c);
}

static int wait_for(struct call *c, int64_t deadline_ns)
{
    int result;

    uv_mutex_lock(&c->lock);
    while (!c->done) {
        int64_t left = deadline_ns - clock_now_ns();

        if (left <= 0)
            break;
        (void)uv_cond_timedwait(&c->wake, &c->lock, (uint64_t)(left < CLOCK_S ? left : CLOCK_S)); /* the loop looks again */
    }
    result = c->done ? c->result : MUSTER_ETIME;
    uv_mutex_unlock(&c->lock);
    call_unref(c);
    return result;
}

int lane_call_until(struct lane *l, int (*fn)(void *arg), void *arg, int64_t deadline_ns)
{
    struct call *c;

    if (lane_here(l))
        return fn(arg);
    if (!l->running) { /* the caller is the lane as long as it has no thread */
        struct lane *before = lane_of_thread;
        int result;

        lane_of_thread = l;
        result = fn(arg);
        lane_of_thread = before;
        return result;
    }
    c = malloc(sizeof *c);
    if (!c)
        return MUSTER_ENOMEM;
    *c = (struct call){.item = {.run = run_call}, .fn = fn, .arg = arg, .refs = 2};
    ASSERT(uv_mutex_init(&c->lock) == 0 && uv_cond_init(&c->wake) == 0);
    lane_push(l, &c->item);
    return wait_for(c, deadline_ns);
}

int lane_call(struct lane *l, int (*fn)(void *arg), void *arg)
{
    return lane_call_until(l, fn, arg, INT64_MAX);
}

void lane_enter(struct lane *l, const struct lane_crumb *who, const char *callback, const char *subject)
{
    if (l->depth++)
        return;
    pthread_mutex_lock(&l->lock);
    l->crumb.plugin = who->plugin;
    l->crumb.version = who->version;
    l->crumb.source_id = who->source_id;
    l->crumb.instance = who->instance;
    l->crumb.callback = callback;
    l->crumb.subject[0] = '\0';
    if (subject) {
        size_t len = strnlen(subject, sizeof l->crumb.subject - 1);

        memcpy(l->crumb.subject, subject, len);
        l->crumb.subject[len] = '\0';
    }
    pthread_mutex_unlock(&l->lock);
    atomic_store_explicit(&l->busy_since_ns, clock_now_ns(), memory_order_release);
}

void lane_leave(struct lane *l)
{
    if (--l->depth == 0)
        atomic_store_explicit(&l->busy_since_ns, 0, memory_order_release);
}

int64_t lane_busy(struct lane *l, struct lane_crumb *ret_who)
{
    int64_t since = atomic_load_explicit(&l->busy_since_ns, memory_order_acquire);
    int64_t now = clock_now_ns();

    if (!since || now <= since)
        return 0;
    pthread_mutex_lock(&l->lock);
    *ret_who = l->crumb;
    pthread_mutex_unlock(&l->lock);
    return now - since;
}

int64_t lane_silence(struct lane *l)
{
    int64_t asked = atomic_load(&l->beat.asked_ns), now = clock_now_ns();

    if (asked)
        return now - asked;
    atomic_store(&l->beat.asked_ns, now);
    lane_push(l, &l->beat.item);
    return 0;
}

const struct lane_crumb *lane_crumb_here(void)
{
    struct lane *l = lane_of_thread;

    return l && l->depth ? &l->crumb : NULL;
}

uint64_t lane_turns(const struct lane *l)
{
    return atomic_load_explicit(&l->turns, memory_order_relaxed);
}
