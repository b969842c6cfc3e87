/* Shares of the machine's time; see throttle.h. */
#include "child/throttle.h"

#include <signal.h>
#include <unistd.h>

#include "base/clock.h"

static const int64_t period_ns = 100 * CLOCK_MS, least_ns = 2 * CLOCK_MS;
enum { MAX_OWED = 20 }; /* shares */

/* -1: it is gone. */
static int64_t clock_of(const struct throttle *t)
{
    struct timespec used;

    return clock_gettime(t->clock, &used) == 0 ? used.tv_sec * CLOCK_S + used.tv_nsec : -1;
}

void throttle_init(struct throttle *t, pid_t pid, double cores, int64_t now_ns)
{
    int64_t n = sysconf(_SC_NPROCESSORS_ONLN);

    *t = (struct throttle){.pid = pid, .n_cores = n > 0 ? n : 1, .period_end_ns = now_ns + period_ns};
    if (cores < (double)t->n_cores && clock_getcpuclockid(pid, &t->clock) == 0)
        t->share_ns = (int64_t)(cores * (double)period_ns);
}

static void stop(struct throttle *t, int64_t now_ns)
{
    if (!t->stopped_since_ns && kill(t->pid, SIGSTOP) == 0)
        t->stopped_since_ns = now_ns;
}

static void go_on(struct throttle *t, int64_t now_ns)
{
    if (!t->stopped_since_ns)
        return;
    (void)kill(t->pid, SIGCONT);
    t->stopped_ns += now_ns - t->stopped_since_ns;
    t->stopped_since_ns = 0;
}

/* One share a period is paid back; a process that used less has nothing saved up. */
static void begin_periods(struct throttle *t, int64_t used, int64_t now_ns)
{
    while (t->period_end_ns <= now_ns && t->used_ns < used) {
        t->used_ns += t->share_ns;
        t->period_end_ns += period_ns;
    }
    if (t->used_ns >= used) {
        t->used_ns = used;
        if (t->period_end_ns <= now_ns)
            t->period_end_ns = now_ns + period_ns;
    }
}

int64_t throttle_tick(struct throttle *t, int64_t now_ns)
{
    int64_t used = t->share_ns ? clock_of(t) : -1, left, soon;

    if (used < 0)
        return INT64_MAX;
    if (t->used_ns < used - MAX_OWED * t->share_ns)
        t->used_ns = used - MAX_OWED * t->share_ns;
    if (t->period_end_ns <= now_ns)
        begin_periods(t, used, now_ns);
    left = t->share_ns - (used - t->used_ns);
    if (left <= 0) {
        stop(t, now_ns);
        return t->period_end_ns;
    }
    go_on(t, now_ns);
    soon = left / t->n_cores;
    soon = now_ns + (soon > least_ns ? soon : least_ns);
    return soon < t->period_end_ns ? soon : t->period_end_ns;
}

void throttle_end(struct throttle *t, int64_t now_ns)
{
    go_on(t, now_ns);
    t->share_ns = 0;
}

int64_t throttle_stopped_ns(const struct throttle *t, int64_t now_ns)
{
    return t->stopped_ns + (t->stopped_since_ns ? now_ns - t->stopped_since_ns : 0);
}
