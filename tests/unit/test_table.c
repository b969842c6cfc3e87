/* base/table: compared step by step with a plain array that cannot be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "base/table.h"

enum { ITEMS = 1000 };

static int items[ITEMS]; /* each has its own number, which is the key */

static bool is(const void *item, const void *key)
{
    return *(const int *)item == *(const int *)key;
}

/* Several have the same hash, and many the same home. */
static uint64_t hash_of(int key)
{
    return (uint64_t)(key / 3) * 7;
}

static int number_all(void **state)
{
    (void)state;
    for (int i = 0; i < ITEMS; i++)
        items[i] = i;
    return 0;
}

static void test_empty(void **state)
{
    struct table t = {0};
    size_t at = 0;
    void *item;

    (void)state;
    assert_null(table_get(&t, 1, is, &items[1]));
    assert_null(table_take(&t, 1, is, &items[1]));
    assert_false(table_next(&t, &at, &item));
    table_done(&t);
}

static void test_random_work_against_an_array(void **state)
{
    struct table t = {0};
    bool there[ITEMS] = {false};
    size_t n = 0;
    uint64_t seed = 42;

    (void)state;
    for (int step = 0; step < 50000; step++) {
        int key;

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        key = (int)((seed >> 33) % ITEMS);
        assert_ptr_equal(table_get(&t, hash_of(key), is, &key), there[key] ? &items[key] : NULL);
        if (seed >> 63 && !there[key]) {
            assert_true(table_put(&t, hash_of(key), &items[key]));
            there[key] = true;
            n++;
        } else {
            assert_ptr_equal(table_take(&t, hash_of(key), is, &key), there[key] ? &items[key] : NULL);
            n -= there[key];
            there[key] = false;
        }
        assert_int_equal(t.n, n);
        assert_true(t.n_used < t.cap || t.cap == 0); /* a search for what is not there must end */
    }
    table_done(&t);
}

/* The same item put and taken for ever leaves emptied slots behind, which must not make the table grow. */
static void test_emptied_slots_are_swept(void **state)
{
    struct table t = {0};

    (void)state;
    for (int i = 0; i < 100000; i++) {
        int key = i % ITEMS;

        assert_true(table_put(&t, hash_of(key), &items[key]));
        assert_ptr_equal(table_take(&t, hash_of(key), is, &key), &items[key]);
    }
    assert_int_equal(t.n, 0);
    assert_int_equal(t.cap, 16);
    table_done(&t);
}

static void test_walk_may_remove_and_an_empty_table_is_given_back(void **state)
{
    struct table t = {0};
    size_t n = 0;
    void *item;

    (void)state;
    for (int i = 0; i < ITEMS; i++)
        assert_true(table_put(&t, hash_of(i), &items[i]));
    for (size_t at = 0; table_next(&t, &at, &item); n++)
        assert_ptr_equal(table_take(&t, hash_of(*(int *)item), is, item), item);
    assert_int_equal(n, ITEMS);
    assert_int_equal(t.n, 0);
    assert_int_equal(t.cap, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_random_work_against_an_array),
        cmocka_unit_test(test_emptied_slots_are_swept),
        cmocka_unit_test(test_walk_may_remove_and_an_empty_table_is_given_back),
    };

    return cmocka_run_group_tests(tests, number_all, NULL);
}
