/* sql/turns.h: whose turn it is, the order of one tenant, what is out, and lines that go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sql/parts.h"

enum { SMALL = 400, MANY = 1000 };

struct fixture {
    struct turns turns;
    uint64_t n;
    struct item *batch[BATCH_ITEMS];
    unsigned int n_batch;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    *state = f;
    if (f)
        turns_init(&f->turns, 1, 0);
    return f ? 0 : -1;
}

static void end_batch(struct fixture *f)
{
    for (unsigned int i = 0; i < f->n_batch; i++) {
        line_end(f->batch[i]);
        free(f->batch[i]);
    }
    f->n_batch = 0;
}

static unsigned int take_batch(struct fixture *f)
{
    assert_int_equal(f->n_batch, 0);
    f->n_batch = turns_take_batch(&f->turns, TURNS_LIGHT, f->batch, BATCH_ITEMS, BATCH_BYTES);
    return f->n_batch;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct queue late;
    struct item *item;

    end_batch(f);
    late = turns_expire(&f->turns, INT64_MAX);
    while ((item = queue_pop(&late)))
        free(item);
    turns_done(&f->turns);
    free(f);
    return 0;
}

static void put(struct fixture *f, const char *tenant, size_t n, size_t bytes)
{
    for (size_t i = 0; i < n; i++) {
        struct item *item = calloc(1, sizeof *item);

        assert_non_null(item);
        *item = (struct item){.bytes = bytes, .seq = ++f->n, .deadline_ns = (int64_t)f->n};
        line_put(turns_line(&f->turns, tenant), item);
    }
}

/* Of those taken: how many are of the tenant, and in the order they came. */
static unsigned int of_tenant(const struct fixture *f, const char *tenant)
{
    unsigned int n = 0;
    uint64_t last = 0;

    for (unsigned int i = 0; i < f->n_batch; i++) {
        if (strcmp(f->batch[i]->line->tenant, tenant) != 0)
            continue;
        assert_true(f->batch[i]->seq > last);
        last = f->batch[i]->seq;
        n++;
    }
    return n;
}

static void test_one_alone_has_whole_batches(void **state)
{
    struct fixture *f = *state;

    put(f, "loud", 250, SMALL);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(take_batch(f), i < 2 ? 100 : 50);
        assert_int_equal(f->batch[0]->seq, 100 * i + 1);
        assert_int_equal(of_tenant(f, "loud"), f->n_batch);
        end_batch(f);
    }
    assert_int_equal(take_batch(f), 0);
}

static void test_who_comes_later_is_in_the_next_batch(void **state)
{
    struct fixture *f = *state;

    put(f, "loud", MANY, SMALL);
    (void)take_batch(f);
    put(f, "quiet", 1, SMALL);
    end_batch(f);
    assert_int_equal(take_batch(f), 100);
    assert_int_equal(of_tenant(f, "quiet"), 1);
}

static void test_a_batch_is_shared(void **state)
{
    struct fixture *f = *state;

    put(f, "loud", MANY, SMALL);
    put(f, "louder", MANY, SMALL);
    put(f, "quiet", 10, SMALL);
    assert_int_equal(take_batch(f), 100);
    assert_int_equal(of_tenant(f, "quiet"), 10);
    assert_in_range(of_tenant(f, "loud"), 43, 47);
    assert_in_range(of_tenant(f, "louder"), 43, 47);
}

static void test_large_items_cost_more_turns(void **state)
{
    struct fixture *f = *state;
    unsigned int large = 0, small = 0;

    put(f, "large", MANY, (size_t)8 * 1024 - 1024); /* with what an item costs: two quanta; eight of the small ones */
    put(f, "small", MANY, 0);
    for (int i = 0; i < 9; i++) {
        (void)take_batch(f);
        large += of_tenant(f, "large");
        small += of_tenant(f, "small");
        end_batch(f);
    }
    assert_in_range(small, 7 * large, 9 * large);
}

static void test_a_tenant_has_one_batch_under_way(void **state)
{
    struct fixture *f = *state;
    struct item *other;

    put(f, "loud", MANY, SMALL);
    (void)take_batch(f);
    assert_false(turns_any(&f->turns, TURNS_LIGHT));
    put(f, "quiet", 1, SMALL);
    assert_true(turns_any(&f->turns, TURNS_LIGHT));
    other = turns_take(&f->turns);
    assert_string_equal(other->line->tenant, "quiet");
    assert_null(turns_take(&f->turns));
    for (unsigned int i = 0; i + 1 < f->n_batch; i++)
        line_end(f->batch[i]);
    assert_null(turns_take(&f->turns)); /* one is left */
    line_end(f->batch[f->n_batch - 1]);
    assert_true(turns_any(&f->turns, TURNS_LIGHT));
    line_end(other);
    free(other);
    for (unsigned int i = 0; i < f->n_batch; i++)
        free(f->batch[i]);
    f->n_batch = 0;
}

static void test_what_comes_back_is_first(void **state)
{
    struct fixture *f = *state;

    put(f, "acme", 5, SMALL);
    assert_int_equal(take_batch(f), 5);
    put(f, "acme", 1, SMALL);
    for (unsigned int i = 5; i-- > 0;)
        line_put_back(f->batch[i]);
    f->n_batch = 0;
    assert_int_equal(take_batch(f), 6);
    for (unsigned int i = 0; i < 6; i++)
        assert_int_equal(f->batch[i]->seq, i + 1);
}

static void test_so_many_are_out(void **state)
{
    struct fixture *f = *state;
    struct item *out[4];

    f->turns.max_out = 2;
    put(f, "loud", 10, SMALL);
    put(f, "quiet", 10, SMALL);
    for (int i = 0; i < 4; i++)
        out[i] = turns_take(&f->turns);
    for (int i = 0; i < 4; i++)
        assert_non_null(out[i]);
    assert_null(turns_take(&f->turns));
    line_put_back(out[0]);
    out[0] = turns_take(&f->turns);
    assert_int_equal(out[0]->seq, 1);
    for (int i = 0; i < 4; i++) {
        line_end(out[i]);
        free(out[i]);
    }
}

/* The item is larger than a batch may be; it goes alone, as soon as it has the turns for it. */
static void test_too_large_for_a_batch(void **state)
{
    struct fixture *f = *state;
    unsigned int n_batches = 0;

    put(f, "loud", MANY, SMALL);
    put(f, "huge", 1, 2 * (size_t)BATCH_BYTES);
    put(f, "huge", 1, SMALL);
    while (take_batch(f) > 0) {
        n_batches++;
        if (of_tenant(f, "huge") > 0 && f->batch[f->n_batch - 1]->bytes > SMALL)
            assert_int_equal(f->n_batch, 1);
        end_batch(f);
    }
    assert_in_range(n_batches, 11, 13);
}

static void test_expired_are_the_first(void **state)
{
    struct fixture *f = *state;
    struct queue late;
    struct item *item;
    uint64_t n = 0;

    put(f, "loud", 3, SMALL);
    put(f, "quiet", 3, SMALL);
    (void)take_batch(f); /* these are on their way */
    put(f, "loud", 3, SMALL);
    late = turns_expire(&f->turns, 8);
    while ((item = queue_pop(&late))) {
        assert_null(item->line);
        assert_int_equal(item->seq, 7 + n++);
        free(item);
    }
    assert_int_equal(n, 2);
}

static void test_room_is_told_at_half(void **state)
{
    struct fixture *f = *state;
    struct line *line;

    put(f, "loud", 300, SMALL);
    line = turns_line(&f->turns, "loud");
    line->n_refused = line->n_items;
    (void)take_batch(f);
    assert_false(f->turns.has_room);
    end_batch(f);
    (void)take_batch(f);
    assert_true(f->turns.has_room);
    assert_int_equal(line->n_refused, 0);
}

static void test_empty_lines_go(void **state)
{
    struct fixture *f = *state;
    char tenant[16];

    for (int i = 0; i < MANY; i++) {
        (void)snprintf(tenant, sizeof tenant, "t%d", i);
        put(f, tenant, 1, SMALL);
    }
    assert_int_equal(f->turns.lines.n, MANY);
    while (take_batch(f) > 0)
        end_batch(f);
    assert_in_range(f->turns.lines.n, 1, 64);
    assert_int_equal(f->turns.lines.n, f->turns.n_idle);
    put(f, "t999", 1, SMALL);
    put(f, "t0", 1, SMALL);
    assert_int_equal(take_batch(f), 2);
}

static void test_who_has_much_is_taken_apart(void **state)
{
    struct fixture *f = *state;
    struct item *much[BATCH_ITEMS];

    f->turns.light = 16384;
    put(f, "loud", 5, SMALL);
    put(f, "quiet", 3, SMALL);
    put(f, "loud", MANY, SMALL); /* light until here */
    assert_int_equal(take_batch(f), 3);
    assert_int_equal(of_tenant(f, "quiet"), 3);
    assert_int_equal(turns_take_batch(&f->turns, TURNS_HEAVY, much, BATCH_ITEMS, BATCH_BYTES), BATCH_ITEMS);
    assert_false(turns_any(&f->turns, TURNS_HEAVY));
    for (int i = 0; i < BATCH_ITEMS; i++) {
        assert_int_equal(much[i]->seq, i < 5 ? i + 1 : i + 4);
        line_end(much[i]);
        free(much[i]);
    }
    assert_true(turns_any(&f->turns, TURNS_HEAVY));
}

static void test_who_has_little_left_is_light(void **state)
{
    struct fixture *f = *state;
    struct item *much[BATCH_ITEMS];

    f->turns.light = 16384;
    put(f, "loud", BATCH_ITEMS + 3, SMALL);
    assert_false(turns_any(&f->turns, TURNS_LIGHT));
    assert_int_equal(turns_take_batch(&f->turns, TURNS_HEAVY, much, BATCH_ITEMS, BATCH_BYTES), BATCH_ITEMS);
    for (int i = 0; i < BATCH_ITEMS; i++) {
        line_end(much[i]);
        free(much[i]);
    }
    assert_false(turns_any(&f->turns, TURNS_HEAVY));
    assert_int_equal(take_batch(f), 3);
}

/* What a line has is served in order and nobody starves, whatever comes when. */
static void test_by_chance(void **state)
{
    struct fixture *f = *state;
    static const char *const tenants[] = {"a", "b", "c", "d", "e"};
    uint64_t seen[5] = {0};
    size_t n_in = 0, n_out = 0;

    srand(7);
    for (int round = 0; round < 3000; round++) {
        size_t n = (size_t)rand() % 40;

        if (round < 2000) {
            put(f, tenants[rand() % 5], n, (size_t)rand() % 3000);
            n_in += n;
        }
        n_out += take_batch(f);
        for (size_t t = 0; t < 5; t++)
            (void)of_tenant(f, tenants[t]);
        for (unsigned int i = 0; i < f->n_batch; i++) {
            size_t t = (size_t)(*f->batch[i]->line->tenant - 'a');

            assert_true(f->batch[i]->seq > seen[t]);
            seen[t] = f->batch[i]->seq;
        }
        end_batch(f);
    }
    assert_int_equal(n_in, n_out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_one_alone_has_whole_batches), TEST(test_who_comes_later_is_in_the_next_batch), TEST(test_a_batch_is_shared),
        TEST(test_large_items_cost_more_turns), TEST(test_a_tenant_has_one_batch_under_way), TEST(test_what_comes_back_is_first),
        TEST(test_so_many_are_out), TEST(test_too_large_for_a_batch), TEST(test_expired_are_the_first), TEST(test_room_is_told_at_half),
        TEST(test_empty_lines_go), TEST(test_who_has_much_is_taken_apart), TEST(test_who_has_little_left_is_light), TEST(test_by_chance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
