/* core/departures.h: what is remembered, what comes back, and ears on a lane that are called, and let go while a call waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"
#include "core/departures.h"

struct world {
    struct departures *d;
    struct lane *lane;
    struct departures_ear *ear;
    atomic_int n_calls;
};

static int make(void **state)
{
    static struct world w;

    w = (struct world){.d = departures_new()};
    assert_non_null(w.d);
    assert_int_equal(lane_new("ears", &w.lane), 0);
    assert_int_equal(lane_start(w.lane), 0);
    *state = &w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;

    lane_stop(w->lane);
    lane_free(w->lane);
    departures_free(w->d);
    return 0;
}

static void on_departure(void *arg)
{
    struct world *w = arg;

    assert_true(lane_here(w->lane));
    atomic_fetch_add(&w->n_calls, 1);
}

static int call_hear(void *arg)
{
    struct world *w = arg;

    w->ear = departures_hear(w->d, w->lane, on_departure, w);
    return w->ear ? 0 : -1;
}

static int call_deaf(void *arg)
{
    struct world *w = arg;

    departures_ear_free(w->ear);
    w->ear = NULL;
    return 0;
}

/* What is noted on the lane waits until this has returned. */
static int call_note_and_deaf(void *arg)
{
    struct world *w = arg;

    departures_note(w->d, "N9", 1);
    return call_deaf(w);
}

static int call_nothing(void *arg)
{
    (void)arg;
    return 0;
}

static void settle(struct world *w)
{
    assert_int_equal(lane_call(w->lane, call_nothing, NULL), 0);
    assert_int_equal(lane_call(w->lane, call_nothing, NULL), 0);
}

static void test_what_has_gone_is_known(void **state)
{
    struct world *w = *state;
    int64_t before = clock_boot_ns(), when;

    assert_int_equal(departures_when(w->d, "N1", 5), 0);
    departures_note(w->d, "N1", 5);
    when = departures_when(w->d, "N1", 5);
    assert_true(when >= before && when <= clock_boot_ns());
    assert_int_equal(departures_when(w->d, "N1", 6), 0);
    assert_int_equal(departures_when(w->d, "N2", 5), 0);
    assert_int_equal(departures_when(w->d, "N1", 0), 0);
}

static void test_a_server_that_is_back_is_not_gone(void **state)
{
    struct world *w = *state;

    departures_note(w->d, "N1", 0);
    departures_note(w->d, "N1", 0);
    departures_note(w->d, "N1", 7);
    assert_true(departures_when(w->d, "N1", 0) > 0);
    departures_back(w->d, "N1");
    assert_int_equal(departures_when(w->d, "N1", 0), 0);
    assert_true(departures_when(w->d, "N1", 7) > 0); /* a connection that ended does not come back */
}

static void test_the_oldest_is_forgotten(void **state)
{
    struct world *w = *state;

    for (uint64_t client = 1; client <= DEPARTURES_MAX + 1; client++)
        departures_note(w->d, "N1", client);
    assert_int_equal(departures_when(w->d, "N1", 1), 0);
    assert_true(departures_when(w->d, "N1", 2) > 0);
    assert_true(departures_when(w->d, "N1", DEPARTURES_MAX + 1) > 0);
}

static void test_an_ear_is_called_on_its_lane(void **state)
{
    struct world *w = *state;

    assert_int_equal(lane_call(w->lane, call_hear, w), 0);
    departures_note(w->d, "N1", 5);
    settle(w);
    assert_int_equal(w->n_calls, 1);
    for (int i = 0; i < 1000; i++)
        departures_note(w->d, "N1", 6);
    settle(w);
    assert_in_range(w->n_calls, 2, 1001);
    assert_int_equal(lane_call(w->lane, call_deaf, w), 0);
}

static void test_an_ear_that_is_let_go_is_not_called(void **state)
{
    struct world *w = *state;

    assert_int_equal(lane_call(w->lane, call_hear, w), 0);
    assert_int_equal(lane_call(w->lane, call_note_and_deaf, w), 0);
    settle(w);
    assert_int_equal(w->n_calls, 0);
    departures_note(w->d, "N1", 5);
    settle(w);
    assert_int_equal(w->n_calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_has_gone_is_known, make, end),
        cmocka_unit_test_setup_teardown(test_a_server_that_is_back_is_not_gone, make, end),
        cmocka_unit_test_setup_teardown(test_the_oldest_is_forgotten, make, end),
        cmocka_unit_test_setup_teardown(test_an_ear_is_called_on_its_lane, make, end),
        cmocka_unit_test_setup_teardown(test_an_ear_that_is_let_go_is_not_called, make, end),
    };

    return cmocka_run_group_tests_name("departures", tests, NULL, NULL);
}
