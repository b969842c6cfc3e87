/* plugins/fanout: what waits for a watcher keeps its bounds, its order and its count: sent = delivered + dropped + waiting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/batch.h"

static uint64_t seed = 5;

static unsigned roll(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

static struct note *note(unsigned key, uint64_t seq, size_t len)
{
    struct note_text *text = note_text_new(len < sizeof key ? sizeof key : len);
    struct note *n;

    assert_non_null(text);
    memcpy(text->data, &key, sizeof key);
    text->key_len = sizeof key;
    n = note_new(text);
    assert_non_null(n);
    note_text_drop(text);
    n->seq = seq;
    return n;
}

static uint64_t dropped(const struct batch *b)
{
    uint64_t sum = 0;

    for (int i = 0; i < DROPPED_REASONS; i++)
        sum += b->dropped[i];
    return sum;
}

static void check(const struct batch *b)
{
    size_t n = 0, bytes = 0;
    uint64_t last = 0;

    for (const struct note *x = b->first; x; x = x->next) {
        n++;
        bytes += x->len;
        assert_true(x->seq > last); /* in the order that they came */
        last = x->seq;
    }
    assert_int_equal(n, b->n);
    assert_int_equal(bytes, b->bytes);
    assert_true(n <= 1 || bytes <= b->rules.max_bytes);
    assert_int_equal(b->sent, b->delivered + dropped(b) + n);
}

static void test_invariant(void **state)
{
    (void)state;
    for (unsigned form = 0; form < 8; form++) {
        struct batch b;
        uint64_t seq = 0, offered = 0, refused = 0;
        int64_t now = 0;

        batch_init(&b, &(struct batch_rules){.interval_ns = 100, .max_bytes = 200, .slow = form % 4, .conflates = form >= 4});
        for (int round = 0; round < 20000; round++) {
            struct note *n = note(roll(12), ++seq, 4 + roll(roll(50) ? 60 : 400));
            int outcome;

            offered++;
            now += (int64_t)roll(30);
            outcome = batch_push(&b, n, now);
            if (outcome == BATCH_FULL) {
                refused++;
                note_free(n);
            }
            assert_true((outcome == BATCH_FULL) <= (b.rules.slow == SLOW_PAUSE));
            assert_true((outcome == BATCH_CUT) <= (b.rules.slow == SLOW_CUT));
            check(&b);
            if (batch_is_due(&b, now) && roll(3) == 0)
                batch_delivered(&b, batch_end(&b), now);
            check(&b);
        }
        assert_int_equal(b.sent, offered - refused);
        if (b.rules.slow == SLOW_PAUSE)
            assert_int_equal(b.dropped[DROPPED_OLD], 0); /* nothing but what a newer one stands for */
        batch_done(&b);
    }
}

static void test_interval(void **state)
{
    struct batch b;

    (void)state;
    batch_init(&b, &(struct batch_rules){.interval_ns = 100, .max_bytes = 30, .slow = SLOW_PAUSE});
    assert_int_equal(batch_push(&b, note(1, 1, 10), 1000), BATCH_TAKEN);
    assert_false(batch_is_due(&b, 1099));
    assert_true(batch_is_due(&b, 1100));
    assert_int_equal(batch_push(&b, note(1, 2, 10), 1050), BATCH_TAKEN);
    batch_delivered(&b, batch_end(&b), 1100);
    assert_int_equal(b.delivered, 2);
    assert_int_equal(batch_push(&b, note(1, 3, 10), 1110), BATCH_TAKEN);
    assert_false(batch_is_due(&b, 1200));
    assert_true(batch_is_due(&b, 1210));
    batch_done(&b);
}

/* The order of what is read again must hold: nothing is taken after a refusal before there is room. */
static void test_pause(void **state)
{
    struct batch b;
    struct note *third = note(3, 3, 10), *small = note(4, 4, 4);

    (void)state;
    batch_init(&b, &(struct batch_rules){.max_bytes = 25, .slow = SLOW_PAUSE});
    assert_int_equal(batch_push(&b, note(1, 1, 10), 0), BATCH_TAKEN);
    assert_int_equal(batch_push(&b, note(2, 2, 10), 0), BATCH_TAKEN);
    assert_int_equal(batch_push(&b, third, 0), BATCH_FULL);
    assert_int_equal(batch_push(&b, small, 0), BATCH_FULL);
    assert_false(batch_has_room(&b));
    batch_delivered(&b, batch_end(&b), 0);
    assert_true(batch_has_room(&b));
    assert_int_equal(batch_push(&b, third, 0), BATCH_TAKEN);
    assert_int_equal(batch_push(&b, small, 0), BATCH_TAKEN);
    batch_done(&b);
}

static void test_conflate(void **state)
{
    struct batch b;

    (void)state;
    batch_init(&b, &(struct batch_rules){.max_bytes = 40, .slow = SLOW_CONFLATE});
    for (uint64_t seq = 1; seq <= 4; seq++)
        assert_int_equal(batch_push(&b, note(seq % 2, seq, 10), 0), BATCH_TAKEN);
    assert_int_equal(b.n, 4); /* it is not slow yet */
    assert_int_equal(batch_push(&b, note(1, 5, 10), 0), BATCH_TAKEN);
    assert_int_equal(b.n, 2);
    assert_int_equal(b.first->seq, 4);
    assert_int_equal(b.last->seq, 5);
    assert_int_equal(b.untold[DROPPED_CONFLATED], 3);
    batch_delivered(&b, batch_end(&b), 0);
    assert_int_equal(b.untold[DROPPED_CONFLATED], 0);
    assert_int_equal(b.dropped[DROPPED_CONFLATED], 3);
    batch_done(&b);
}

static void test_cut(void **state)
{
    struct batch b;

    (void)state;
    batch_init(&b, &(struct batch_rules){.max_bytes = 15, .slow = SLOW_CUT});
    assert_int_equal(batch_push(&b, note(1, 1, 10), 0), BATCH_TAKEN);
    assert_int_equal(batch_push(&b, note(2, 2, 10), 0), BATCH_CUT);
    assert_int_equal(b.n, 0);
    assert_int_equal(b.dropped[DROPPED_CUT], 2);
    batch_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_invariant), cmocka_unit_test(test_interval), cmocka_unit_test(test_pause),
                                       cmocka_unit_test(test_conflate), cmocka_unit_test(test_cut)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
