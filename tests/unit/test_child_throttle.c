/* child/throttle: processes that do nothing but use time get their share of it, also with several threads, and all of it where there is no
 * limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "child/throttle.h"

static void *burn(void *arg)
{
    static atomic_int n;

    for (;;)
        atomic_fetch_add(&n, 1);
    return arg;
}

static pid_t burner(int threads)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, burn, NULL) != 0)
            _exit(1);
    }
    (void)burn(NULL);
    _exit(0);
}

static double used_s(pid_t pid)
{
    struct timespec used;
    clockid_t clock;

    assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &used), 0);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static void sleep_until(int64_t ns)
{
    int64_t left = ns - clock_now_ns();
    struct timespec span = {left / CLOCK_S, left % CLOCK_S};

    if (left > 0)
        (void)nanosleep(&span, NULL);
}

/* Seconds of the processor that a process of so many threads gets in two of the clock. */
static double share_of(int threads, double cores, int64_t *ret_stopped)
{
    pid_t pid = burner(threads);
    int64_t now = clock_now_ns(), end = now + 2 * CLOCK_S;
    struct throttle t;
    double used;

    assert_true(pid > 0);
    throttle_init(&t, pid, cores, now);
    while (now < end) {
        int64_t next = throttle_tick(&t, now);

        sleep_until(next < end ? next : end);
        now = clock_now_ns();
    }
    used = used_s(pid);
    throttle_end(&t, now);
    *ret_stopped = throttle_stopped_ns(&t, now);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return used;
}

static void test_one_thread_gets_its_share(void **state)
{
    int64_t stopped;
    double used = share_of(1, 0.2, &stopped);

    (void)state;
    assert_true(used > 0.02 && used < 0.55); /* 0.4, or less on a machine that has other work */
    assert_true(stopped > 0 || used < 0.35); /* others may leave it less than its share */
}

static void test_threads_share_one_share(void **state)
{
    int64_t stopped;
    double used = share_of(4, 0.2, &stopped);

    (void)state;
    assert_true(used > 0.02 && used < 0.6);
}

static void test_the_least_share(void **state)
{
    int64_t stopped;
    double used = share_of(2, 0.05, &stopped);

    (void)state;
    assert_true(used > 0.005 && used < 0.25);
}

static void test_no_limit_stops_nobody(void **state)
{
    int64_t stopped;

    (void)state;
    (void)share_of(1, 64, &stopped);
    assert_int_equal(stopped, 0);
}

static void test_who_looks_late_does_not_stop_it_for_long(void **state)
{
    pid_t pid = burner(1);
    int64_t began = clock_now_ns();
    struct throttle t;

    (void)state;
    throttle_init(&t, pid, 0.05, began);
    sleep_until(began + CLOCK_S / 2); /* as a machine that was paused: what it used is owed for ten seconds */
    assert_true(throttle_tick(&t, clock_now_ns()) != INT64_MAX);
    sleep_until(clock_now_ns() + CLOCK_S / 10);
    if (used_s(pid) > 0.15) /* others may leave it less */
        assert_true(throttle_stopped_ns(&t, clock_now_ns()) >= CLOCK_S / 10); /* also while it lasts */
    sleep_until(clock_now_ns() + 2 * CLOCK_S);
    (void)throttle_tick(&t, clock_now_ns());
    assert_true(t.stopped_since_ns == 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_one_that_is_gone_needs_no_look(void **state)
{
    pid_t pid = burner(1);
    struct throttle t;

    (void)state;
    throttle_init(&t, pid, 0.05, clock_now_ns());
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(throttle_tick(&t, clock_now_ns()) == INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_thread_gets_its_share),
        cmocka_unit_test(test_threads_share_one_share),
        cmocka_unit_test(test_the_least_share),
        cmocka_unit_test(test_no_limit_stops_nobody),
        cmocka_unit_test(test_who_looks_late_does_not_stop_it_for_long),
        cmocka_unit_test(test_one_that_is_gone_needs_no_look),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
