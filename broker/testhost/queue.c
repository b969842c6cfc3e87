/* What is due, and the clock that only the test moves; see inside.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "testhost/inside.h"

enum { MAX_STEPS = 200000, MAX_POLLS = 1000, POLL_MS = 5 };

static void insert(struct muster_test *t, struct due *d, int64_t at_ns)
{
    struct due **at = &t->due;

    d->at_ns = at_ns;
    while (*at && (*at)->at_ns <= at_ns)
        at = &(*at)->next;
    d->next = *at;
    *at = d;
}

void due_add(struct muster_test *t, struct due *d, int64_t at_ns)
{
    pthread_mutex_lock(&t->lock);
    insert(t, d, at_ns);
    pthread_mutex_unlock(&t->lock);
}

static void take_out(struct due **at)
{
    struct due *d = *at;

    *at = d->next;
    d->next = NULL;
}

void due_remove(struct muster_test *t, struct due *d)
{
    pthread_mutex_lock(&t->lock);
    for (struct due **at = &t->due; *at; at = &(*at)->next)
        if (*at == d) {
            take_out(at);
            break;
        }
    pthread_mutex_unlock(&t->lock);
}

static bool is_of(const struct due *d, uint32_t kinds, uint64_t owner)
{
    return (d->kind & kinds) && (!owner || d->owner == owner);
}

struct due *due_find(struct muster_test *t, uint32_t kinds, uint64_t owner)
{
    struct due *d;

    pthread_mutex_lock(&t->lock);
    for (d = t->due; d && !is_of(d, kinds, owner);)
        d = d->next;
    pthread_mutex_unlock(&t->lock);
    return d;
}

static struct due *take_of(struct muster_test *t, uint32_t kinds, uint64_t owner)
{
    struct due *d = NULL;

    pthread_mutex_lock(&t->lock);
    for (struct due **at = &t->due; *at; at = &(*at)->next)
        if (is_of(*at, kinds, owner)) {
            d = *at;
            take_out(at);
            break;
        }
    pthread_mutex_unlock(&t->lock);
    return d;
}

void due_end(struct muster_test *t, uint32_t kinds, uint64_t owner, int code)
{
    struct due *mine = NULL, **last = &mine, *d;

    while ((d = take_of(t, kinds, owner))) { /* what their callbacks ask for is not among them */
        *last = d;
        last = &d->next;
    }
    while ((d = mine)) {
        mine = d->next;
        d->next = NULL;
        d->run(t, d, code);
    }
}

/* Messages wait while the plugin has paused, and behind one of their tenant that it did not take. */
static bool may_run(const struct muster_test *t, const struct due *d)
{
    const struct delivery *m = (const struct delivery *)d;

    if (d->kind != DUE_MESSAGE)
        return true;
    return !t->paused && (!m->tenant->again || m->tenant->again == m);
}

static struct due *take_next(struct muster_test *t, int64_t until_ns)
{
    struct due *d = NULL;

    pthread_mutex_lock(&t->lock);
    for (struct due **at = &t->due; *at && (*at)->at_ns <= until_ns; at = &(*at)->next)
        if (may_run(t, *at)) {
            d = *at;
            take_out(at);
            if (d->at_ns > t->now_ns)
                t->now_ns = d->at_ns;
            break;
        }
    pthread_mutex_unlock(&t->lock);
    return d;
}

/* on_writable follows a call that gave MUSTER_EAGAIN, once there is room: at once here. */
static bool tell_writable(struct muster_test *t)
{
    bool wants;

    pthread_mutex_lock(&t->lock);
    wants = t->wants_writable;
    t->wants_writable = false;
    pthread_mutex_unlock(&t->lock);
    if (wants)
        muster_test_writable(t);
    return wants;
}

static void run_until(struct muster_test *t, int64_t until_ns)
{
    struct due *d;
    int64_t now = t->now_ns;
    size_t steps = 0, polls = 0; /* of this moment */

    if (t->phase == PHASE_ENDED)
        return;
    do {
        while ((d = take_next(t, until_ns)) && (t->now_ns > now || steps < MAX_STEPS)) {
            steps = t->now_ns > now ? 0 : steps + 1;
            now = t->now_ns;
            d->run(t, d, d->callback >= 0 ? fault_take(t, d->callback) : 0);
        }
        if (d) {
            due_add(t, d, d->at_ns);
            fail_test(t, "does not come to rest: %d callbacks at one moment of the clock", MAX_STEPS);
            return;
        }
    } while (polls++ < MAX_POLLS && io_poll(t, 0)); /* what stays ready would be told for ever */
}

void starve(struct muster_test *t)
{
    pthread_mutex_lock(&t->lock);
    t->wants_writable = true;
    pthread_mutex_unlock(&t->lock);
}

/* Bounded: a plugin that tries again in on_writable meets a fault that lasts each time. */
static void run_and_tell(struct muster_test *t, int64_t until_ns)
{
    run_until(t, until_ns);
    for (int i = 0; i < 3 && t->phase == PHASE_STARTED && tell_writable(t); i++)
        run_until(t, until_ns);
}

void muster_test_run(struct muster_test *t)
{
    run_and_tell(t, t->now_ns);
}

void muster_test_advance(struct muster_test *t, int64_t ns)
{
    int64_t until = t->now_ns + (ns > 0 ? ns : 0);

    run_and_tell(t, until);
    pthread_mutex_lock(&t->lock);
    if (until > t->now_ns)
        t->now_ns = until;
    pthread_mutex_unlock(&t->lock);
}

int64_t muster_test_now(const struct muster_test *t)
{
    return t->now_ns;
}

static const int64_t wall_begin_ns = INT64_C(1767225600) * MUSTER_TEST_S; /* 2026-01-01 */
static const int64_t mono_begin_ns = 1000 * MUSTER_TEST_S;

int64_t muster_test_wall_now(const struct muster_test *t)
{
    return wall_begin_ns + t->now_ns - mono_begin_ns + t->wall_ahead_ns;
}

void muster_test_jump_wall(struct muster_test *t, int64_t ns)
{
    pthread_mutex_lock(&t->lock);
    t->wall_ahead_ns += ns;
    pthread_mutex_unlock(&t->lock);
}

static int64_t real_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int muster_test_wait(struct muster_test *t, int (*done)(void *arg), void *arg, int timeout_ms)
{
    int64_t until = real_ms() + timeout_ms;

    for (;;) {
        muster_test_run(t);
        if (done && done(arg))
            return 0;
        if (real_ms() >= until)
            return done ? MUSTER_ETIME : 0;
        (void)io_poll(t, POLL_MS);
    }
}
