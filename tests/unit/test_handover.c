/* core/handover.h: what is handed over and when, what is not, and the bounds. The lane is real; its calls are counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/handover.h"

struct scene {
    struct lane *lane;
    struct handover *h;
    struct handover_out *out;
    struct handover_in *in;
    uint64_t life; /* of what was appended last */
    int n_called;  /* the lane's */
};

static void on_handed(void *arg)
{
    ((struct scene *)arg)->n_called++;
}

static int nothing(void *arg)
{
    (void)arg;
    return 0;
}

static void settle(const struct scene *s)
{
    assert_int_equal(lane_call(s->lane, nothing, NULL), 0);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    const struct handover_how how = {.stream = "T_1", .fn = on_handed, .arg = s};
    struct handover_how here = how;

    if (!s)
        abort();
    assert_int_equal(lane_new("follower", &s->lane), 0);
    assert_int_equal(lane_start(s->lane), 0);
    here.lane = s->lane;
    assert_int_equal(handover_new(NULL, &s->h), 0);
    s->out = handover_open(s->h, "T_1");
    assert_non_null(s->out);
    handover_is_of(s->out, 7);
    assert_int_equal(handover_follow(s->h, &here, &s->in), 0);
    handover_want(s->in, true);
    *state = s;
    return 0;
}

static int drop(void *arg)
{
    struct scene *s = arg;

    handover_unfollow(s->in);
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    assert_int_equal(lane_call(s->lane, drop, s), 0);
    handover_unref(s->out);
    lane_stop(s->lane);
    lane_free(s->lane);
    handover_free(s->h);
    free(s);
    return 0;
}

static void append_on(struct scene *s, uint64_t seq, bool asks, uint64_t connects, size_t pad)
{
    char *text = malloc(pad + 32), number[32];
    const struct muster_header headers[] = {{"Muster-Seq", number}, {"Empty", ""}};
    struct bus_out msg = {.subject = "mst._in.acme.shelf", .headers = headers, .n_headers = seq % 3 == 0 ? 0 : 2, .fence = (int64_t)seq - 1};

    if (!text)
        abort();
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)seq);
    memset(text, 'x', pad + 32);
    msg.payload = (struct muster_bytes){text, seq % 5 == 0 ? 0 : (size_t)snprintf(text, 32, "body %s", number) + pad};
    s->life = handover_sent(s->out, &msg, asks, connects);
    free(text);
}

static void append(struct scene *s, uint64_t seq, bool asks)
{
    append_on(s, seq, asks, 1, 0);
}

static void acked(struct scene *s, uint64_t seq)
{
    handover_acked(s->out, s->life, seq);
}

/* Whatever can be taken, as "1 2 3". */
static const char *taken(struct scene *s)
{
    static char list[4096];
    struct handed *run;

    list[0] = '\0';
    while ((run = handover_take(s->in))) {
        struct handed_cursor c = handed_begin(run);
        struct muster_header headers[8];
        struct js_msg msg;

        assert_int_equal(handed_created(run), 7);
        while (handed_next(&c, headers, 8, &msg)) {
            char number[32], body[40];

            (void)snprintf(number, sizeof number, "%llu", (unsigned long long)msg.seq);
            (void)snprintf(body, sizeof body, "body %s", number);
            assert_string_equal(msg.subject, "mst._in.acme.shelf");
            assert_int_equal(msg.n_headers, msg.seq % 3 == 0 ? 0 : 2);
            if (msg.n_headers) {
                assert_string_equal(headers[0].value, number);
                assert_string_equal(headers[1].name, "Empty");
                assert_string_equal(headers[1].value, "");
            }
            assert_string_equal(msg.data.data, msg.seq % 5 == 0 ? "" : body);
            assert_int_equal(msg.data.len, msg.seq % 5 == 0 ? 0 : strlen(body));
            assert_true(msg.stored_wall_ns > 0);
            (void)snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? " " : "", number);
        }
        handed_end(&c);
    }
    return list;
}

static void test_after_the_acknowledgement(void **state)
{
    struct scene *s = *state;

    append(s, 1, false);
    append(s, 2, true);
    append(s, 3, false);
    append(s, 4, true);
    append(s, 5, true);
    assert_string_equal(taken(s), "");
    acked(s, 2);
    settle(s);
    assert_int_equal(s->n_called, 1);
    assert_string_equal(taken(s), "1 2");
    acked(s, 5);
    assert_int_equal(handover_count(s->in), 5);
    assert_string_equal(taken(s), "3 4 5");
    append(s, 6, true);
    acked(s, 6);
    assert_string_equal(taken(s), "6");
    assert_false(handover_missed(s->in));
}

static void test_what_is_not_contiguous_is_given_up(void **state)
{
    struct scene *s = *state;

    append(s, 1, false);
    append(s, 2, true);
    append(s, 7, true);
    acked(s, 2);
    assert_string_equal(taken(s), "");
    acked(s, 7);
    assert_string_equal(taken(s), "7");
    append(s, 8, false);
    append(s, 8, true); /* the one before was lost on its way, and its sender knows */
    acked(s, 8);
    assert_string_equal(taken(s), "8");
}

static void test_what_was_refused_is_missing(void **state)
{
    struct scene *s = *state;

    append(s, 1, false);
    append(s, 2, true);
    append(s, 3, true);
    handover_failed(s->out);
    acked(s, 3);
    append(s, 4, true);
    acked(s, 4);
    assert_string_equal(taken(s), ""); /* what comes behind a gap waits until somebody knows of it */
    assert_true(handover_missed(s->in));
    assert_false(handover_missed(s->in));
    append(s, 5, true);
    acked(s, 5);
    assert_string_equal(taken(s), "5");
}

/* What was sent first stands there although it was given up; what was sent anew under the same sequences is refused later. */
static void test_late_acknowledgements_are_of_what_was_sent_then(void **state)
{
    struct scene *s = *state;
    uint64_t before;

    append(s, 11, false);
    append(s, 12, true);
    append(s, 13, false);
    append(s, 14, true);
    before = s->life;
    handover_failed(s->out); /* of 12 nothing was heard in time */
    assert_true(handover_missed(s->in));
    append(s, 11, false);
    append(s, 12, true);
    handover_acked(s->out, before, 14);
    assert_string_equal(taken(s), "");
    handover_failed(s->out);
    assert_true(handover_missed(s->in));
    append(s, 15, true);
    acked(s, 15);
    assert_string_equal(taken(s), "15");
}

static void test_another_connection_proves_nothing(void **state)
{
    struct scene *s = *state;

    append_on(s, 1, false, 1, 0);
    append_on(s, 2, true, 2, 0);
    acked(s, 2);
    assert_string_equal(taken(s), "2");
}

static void test_what_was_seen_is_freed(void **state)
{
    struct scene *s = *state;

    for (uint64_t seq = 1; seq <= 9; seq++)
        append(s, seq, seq % 3 == 0);
    acked(s, 9);
    assert_int_equal(handover_trim(s->in, 5, 7), 4);
    assert_string_equal(taken(s), "4 5 6 7 8 9");
    assert_int_equal(handover_trim(s->in, 5, 7), 0);
}

static void test_bounds(void **state)
{
    struct scene *s = *state;
    uint64_t n = 0, base = HANDOVER_MAX_MSGS + 64;
    struct handed *run;

    for (uint64_t seq = 1; seq <= base; seq++) {
        append(s, seq, seq % 64 == 0);
        if (seq % 64 == 0)
            acked(s, seq);
    }
    assert_true(handover_missed(s->in));
    while ((run = handover_take(s->in))) {
        struct handed_cursor c = handed_begin(run);

        n += 64;
        handed_end(&c);
    }
    assert_int_equal(n, HANDOVER_MAX_MSGS);
    for (uint64_t seq = 1; seq <= 25; seq++)
        append_on(s, base + seq, false, 1, 500000);
    append(s, base + 26, true);
    acked(s, base + 26);
    assert_int_equal(handover_trim(s->in, 1, 7), base + 23); /* 17 that have a body are more than 8 MiB: with the next they were given up */
}

static void test_what_is_of_another_stream_is_freed(void **state)
{
    struct scene *s = *state;

    for (uint64_t seq = 1; seq <= 3; seq++)
        append(s, seq, true);
    acked(s, 3);
    assert_int_equal(handover_trim(s->in, 1, 7), 1);
    assert_int_equal(handover_trim(s->in, 1, 8), 0);
    assert_string_equal(taken(s), "");
}

static void test_nobody_wants_it(void **state)
{
    struct scene *s = *state;

    append(s, 1, true);
    handover_want(s->in, false);
    acked(s, 1);
    handover_want(s->in, true);
    assert_string_equal(taken(s), "");
    append(s, 2, true);
    acked(s, 2);
    handover_want(s->in, false);
    assert_string_equal(taken(s), "");
    handover_want(s->in, true);
    handover_is_of(s->out, 0);
    append(s, 3, true);
    acked(s, 3);
    assert_string_equal(taken(s), ""); /* nobody knows of which stream it is */
}

static void test_a_stream_that_begins_again(void **state)
{
    struct scene *s = *state;

    append(s, 1, true);
    append(s, 2, true);
    acked(s, 2);
    append(s, 1, true);
    acked(s, 1);
    append(s, 2, true);
    acked(s, 2);
    assert_string_equal(taken(s), "1 2");
    assert_true(handover_missed(s->in));
    handover_is_of(s->out, 7);
    append(s, 1, true);
    acked(s, 1);
    assert_string_equal(taken(s), "1");
}

static void test_of_other_streams_nothing(void **state)
{
    struct scene *s = *state;
    struct handover_out *other = handover_open(s->h, "T_2"), *mine = s->out;

    s->out = other;
    handover_is_of(other, 7);
    append(s, 1, true);
    acked(s, 1);
    assert_string_equal(taken(s), "");
    s->out = mine;
    handover_unref(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_after_the_acknowledgement, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_contiguous_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_refused_is_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_acknowledgements_are_of_what_was_sent_then, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_of_another_stream_is_freed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_connection_proves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_seen_is_freed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_wants_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stream_that_begins_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_of_other_streams_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
