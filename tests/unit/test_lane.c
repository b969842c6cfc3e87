/* core/lane.h: order, calls and their deadlines, posts from many threads, the end, and what a watcher sees of a hanging lane. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "core/lane.h"

enum { THREADS = 4, EACH = 5000 };

struct note {
    struct lane_item item;
    struct log *log;
    int thread, n;
    bool dropped;
};

struct log { /* on the lane, or after its end */
    struct lane *lane;
    int next[THREADS];
    int n_run, n_dropped, n_wrong, n_elsewhere;
};

static struct lane *new_lane(void)
{
    struct lane *lane;

    assert_int_equal(lane_new("a lane with a long name", &lane), 0);
    return lane;
}

static void run_note(struct lane_item *item)
{
    struct note *note = (struct note *)item;

    note->log->n_elsewhere += !lane_here(note->log->lane);
    note->log->n_wrong += note->n != note->log->next[note->thread]++;
    note->log->n_run++;
    free(note);
}

static void drop_note(struct lane_item *item)
{
    struct note *note = (struct note *)item;

    note->log->n_dropped++;
    free(note);
}

static void push(struct log *log, int thread, int n)
{
    struct note *note = malloc(sizeof *note);

    if (!note)
        abort();
    *note =
        (struct note){{.run = run_note, .drop = drop_note}, .log = log, .thread = thread, .n = n};
    lane_push(log->lane, &note->item);
}

struct pusher {
    struct log *log;
    int thread;
};

static void *push_many(void *arg)
{
    const struct pusher *p = arg;

    for (int i = 0; i < EACH; i++)
        push(p->log, p->thread, i);
    return NULL;
}

static void test_each_thread_keeps_its_order(void **state)
{
    struct log log = {.lane = new_lane()};
    struct pusher pushers[THREADS];
    pthread_t threads[THREADS];

    (void)state;
    assert_int_equal(lane_start(log.lane), 0);
    for (int i = 0; i < THREADS; i++) {
        pushers[i] = (struct pusher){&log, i};
        assert_int_equal(pthread_create(&threads[i], NULL, push_many, &pushers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    lane_stop(log.lane); /* runs what is queued */
    assert_int_equal(log.n_run, THREADS * EACH);
    assert_int_equal(log.n_wrong, 0);
    assert_int_equal(log.n_elsewhere, 0);
    push(&log, 0, 0);
    assert_int_equal(log.n_dropped, 1);
    lane_free(log.lane);
}

static void test_what_was_pushed_before_the_start_is_run(void **state)
{
    struct log log = {.lane = new_lane()};

    (void)state;
    push(&log, 0, 0);
    push(&log, 0, 1);
    assert_int_equal(log.n_run, 0);
    assert_int_equal(lane_start(log.lane), 0);
    lane_stop(log.lane);
    assert_int_equal(log.n_run, 2);
    assert_int_equal(log.n_wrong, 0);
    lane_free(log.lane);
    lane_free(NULL);
}

/* The broker gives up before its start: nobody is left to run it. */
static void test_what_was_pushed_and_never_started_is_dropped(void **state)
{
    struct log log = {.lane = new_lane()};

    (void)state;
    push(&log, 0, 0);
    lane_free(log.lane);
    assert_int_equal(log.n_dropped, 1);
}

static int say_where(void *arg)
{
    struct lane *lane = arg;

    return lane_here(lane) ? 7 : 8;
}

static int call_again(void *arg)
{
    return lane_call(arg, say_where, arg);
}

static void test_call_is_on_the_lane_in_every_phase(void **state)
{
    struct lane *lane = new_lane(), *other = new_lane();

    (void)state;
    assert_false(lane_here(lane));
    assert_int_equal(lane_call(lane, say_where, lane), 7);
    assert_false(lane_here(lane));
    assert_int_equal(lane_start(lane), 0);
    assert_int_equal(lane_call(lane, say_where, lane), 7);
    assert_int_equal(lane_call(lane, call_again, lane), 7);
    assert_int_equal(lane_call(lane, say_where, other), 8);
    assert_int_equal(lane_call(other, call_again, lane), 7);
    assert_false(lane_here(lane));
    lane_stop(lane);
    assert_int_equal(lane_call(lane, say_where, lane), 7);
    lane_free(lane);
    lane_free(other);
}

struct hang {
    struct lane *lane;
    atomic_bool inside, go_on;
};

static int hang(void *arg)
{
    static const struct lane_crumb who = {
        .plugin = "echo", .version = "1.2.3", .source_id = "", .instance = "main"};
    struct hang *h = arg;
    int result;

    lane_enter(h->lane, &who, "message", "rpc.a1.echo.slow");
    lane_enter(h->lane, &who, "inner", NULL); /* the outermost is what is told */
    atomic_store(&h->inside, true);
    while (!atomic_load(&h->go_on))
        ;
    lane_leave(h->lane);
    result = lane_crumb_here() ? 5 : 6;
    lane_leave(h->lane);
    return result;
}

static void test_a_call_gives_up_and_its_end_does_no_harm(void **state)
{
    struct hang h = {.lane = new_lane()};

    (void)state;
    assert_int_equal(lane_start(h.lane), 0);
    assert_int_equal(lane_call_until(h.lane, hang, &h, clock_now_ns() + 20 * CLOCK_MS),
                     MUSTER_ETIME);
    assert_int_equal(lane_call_until(h.lane, say_where, h.lane, clock_now_ns() - 1), MUSTER_ETIME);
    atomic_store(&h.go_on, true);
    assert_int_equal(lane_call_until(h.lane, hang, &h, INT64_MAX), 5);
    lane_free(h.lane);
}

static int ask(void *arg)
{
    return lane_crumb_here() == arg;
}

static void test_a_watcher_sees_who_hangs(void **state)
{
    struct hang h = {.lane = new_lane()};
    struct lane_crumb who = {0};

    (void)state;
    assert_int_equal(lane_start(h.lane), 0);
    assert_int_equal(lane_busy(h.lane, &who), 0);
    assert_int_equal(lane_call_until(h.lane, hang, &h, clock_now_ns() + CLOCK_MS), MUSTER_ETIME);
    while (!atomic_load(&h.inside) || lane_busy(h.lane, &who) == 0)
        ;
    assert_string_equal(who.plugin, "echo");
    assert_string_equal(who.version, "1.2.3");
    assert_string_equal(who.instance, "main");
    assert_string_equal(who.callback, "message");
    assert_string_equal(who.subject, "rpc.a1.echo.slow");
    assert_null(lane_crumb_here()); /* it is another thread's */
    atomic_store(&h.go_on, true);
    assert_int_equal(lane_call(h.lane, ask, NULL), 1);
    assert_int_equal(lane_busy(h.lane, &who), 0);
    lane_free(h.lane);
}

struct turns {
    struct lane *lane;
    atomic_int left, n_calls;
};

static bool on_turn(void *arg)
{
    struct turns *t = arg;

    t->n_calls++;
    return atomic_load(&t->left) > 0 && atomic_fetch_sub(&t->left, 1) > 1;
}

static int nothing(void *arg)
{
    (void)arg;
    return 0;
}

/* Items are run although there are always more messages. */
/* The watcher asks, and asks again when it was answered. */
static void test_silence_is_seen(void **state)
{
    struct hang h = {.lane = new_lane()};

    (void)state;
    assert_int_equal(lane_silence(h.lane), 0);
    assert_int_equal(lane_start(h.lane), 0);
    while (lane_silence(h.lane) != 0)
        ;
    assert_int_equal(lane_call_until(h.lane, hang, &h, clock_now_ns() + CLOCK_MS), MUSTER_ETIME);
    while (lane_silence(h.lane) < 50 * CLOCK_MS)
        ;
    atomic_store(&h.go_on, true);
    while (lane_silence(h.lane) != 0)
        ;
    lane_stop(h.lane);
    for (int i = 0; i < 3; i++)
        assert_int_equal(lane_silence(h.lane), 0); /* of an ended lane nothing is expected */
    lane_free(h.lane);
}

static void test_an_end_is_not_waited_for_for_ever(void **state)
{
    struct hang h = {.lane = new_lane()};

    (void)state;
    assert_int_equal(lane_start(h.lane), 0);
    assert_int_equal(lane_call_until(h.lane, hang, &h, clock_now_ns() + CLOCK_MS), MUSTER_ETIME);
    assert_int_equal(lane_stop_until(h.lane, clock_now_ns() + 50 * CLOCK_MS), MUSTER_ETIME);
    atomic_store(&h.go_on, true);
    assert_int_equal(lane_stop_until(h.lane, INT64_MAX), 0);
    assert_int_equal(lane_stop_until(h.lane, 0), 0);
    lane_free(h.lane);
}

static void test_turns_and_items_alternate(void **state)
{
    struct turns t = {.lane = new_lane(), .left = 1000};

    (void)state;
    lane_on_turn(t.lane, on_turn, &t);
    assert_int_equal(lane_start(t.lane), 0);
    lane_wake(t.lane);
    for (int i = 0; i < 10; i++)
        assert_int_equal(lane_call(t.lane, nothing, NULL), 0);
    lane_stop(t.lane);
    assert_int_equal(atomic_load(&t.left), 0);
    assert_true(atomic_load(&t.n_calls) >= 1000);
    assert_true(lane_turns(t.lane) >= 1000);
    lane_free(t.lane);
}

static atomic_int n_turns;

static bool count_turn(void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_turns, 1);
    return false;
}

static void await_turns(int n)
{
    int64_t until = clock_now_ns() + 10 * CLOCK_S;

    while (atomic_load(&n_turns) < n && clock_now_ns() < until)
        (void)nanosleep(&(struct timespec){.tv_nsec = CLOCK_MS}, NULL);
    assert_int_equal(atomic_load(&n_turns), n);
}

static void test_wakes_are_held(void **state)
{
    struct lane *lane = new_lane();

    (void)state;
    atomic_store(&n_turns, 0);
    lane_on_turn(lane, count_turn, NULL);
    assert_int_equal(lane_start(lane), 0);
    lane_hold_wakes();
    for (int i = 0; i < 100; i++)
        lane_wake(lane);
    (void)nanosleep(&(struct timespec){.tv_nsec = 50 * CLOCK_MS}, NULL);
    assert_int_equal(atomic_load(&n_turns), 0);
    lane_let_wakes();
    await_turns(1);
    lane_wake(lane); /* nothing is held any more */
    await_turns(2);
    lane_free(lane);
}

/* Who does not hold wakes makes nobody wait less long, however often it wakes. */
static void test_late_wakes(void **state)
{
    struct lane *lane = new_lane();
    int64_t now = clock_now_ns();

    (void)state;
    atomic_store(&n_turns, 0);
    lane_on_turn(lane, count_turn, NULL);
    assert_int_equal(lane_start(lane), 0);
    lane_wake_late(lane);
    await_turns(1);
    for (int i = 0; i < 1000; i++)
        lane_wake_late(lane);
    (void)nanosleep(&(struct timespec){.tv_nsec = 50 * CLOCK_MS}, NULL);
    atomic_store(&n_turns, 0);
    lane_hold_wakes();
    lane_wake_late(lane);
    lane_let_wakes();
    assert_true(lane_let_late_wakes(now));
    assert_true(lane_let_late_wakes(now + CLOCK_MS));
    assert_int_equal(atomic_load(&n_turns), 0);
    assert_false(lane_let_late_wakes(now + 5 * CLOCK_MS));
    await_turns(1);
    assert_false(lane_let_late_wakes(now + 6 * CLOCK_MS));
    lane_hold_wakes();
    lane_wake_late(lane);
    lane_let_wakes();
    assert_false(lane_let_late_wakes(INT64_MAX));
    await_turns(2);
    lane_free(lane);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_thread_keeps_its_order),
        cmocka_unit_test(test_what_was_pushed_before_the_start_is_run),
        cmocka_unit_test(test_what_was_pushed_and_never_started_is_dropped),
        cmocka_unit_test(test_call_is_on_the_lane_in_every_phase),
        cmocka_unit_test(test_a_call_gives_up_and_its_end_does_no_harm),
        cmocka_unit_test(test_a_watcher_sees_who_hangs),
        cmocka_unit_test(test_silence_is_seen),
        cmocka_unit_test(test_an_end_is_not_waited_for_for_ever),
        cmocka_unit_test(test_turns_and_items_alternate),
        cmocka_unit_test(test_wakes_are_held),
        cmocka_unit_test(test_late_wakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
