/* base/map: compared step by step with a plain array that cannot be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

static int values[1000];

static void test_empty(void **state)
{
    struct map m = {0};
    size_t at = 0;

    (void)state;
    assert_null(map_get(&m, "a", 1));
    assert_null(map_take(&m, "a", 1));
    assert_false(map_next(&m, &at, NULL, NULL));
    map_done(&m);
}

static void test_keys_are_bytes(void **state)
{
    struct map m = {0};

    (void)state;
    assert_true(map_put(&m, "", 0, &values[0]));
    assert_true(map_put(&m, "a\0b", 3, &values[1]));
    assert_true(map_put(&m, "a\0c", 3, &values[2]));
    assert_true(map_put(&m, "a", 1, &values[3]));
    assert_int_equal(m.n, 4);
    assert_ptr_equal(map_get(&m, "", 0), &values[0]);
    assert_ptr_equal(map_get(&m, "a\0b", 3), &values[1]);
    assert_ptr_equal(map_get(&m, "a\0c", 3), &values[2]);
    assert_ptr_equal(map_get(&m, "a", 1), &values[3]);
    assert_null(map_get(&m, "a\0", 2));
    map_done(&m);
    assert_int_equal(m.n, 0);
}

static void test_keys_are_copied_and_values_replaced(void **state)
{
    struct map m = {0};
    char key[] = "key";

    (void)state;
    assert_true(map_put(&m, key, 3, &values[0]));
    key[0] = 'x';
    assert_ptr_equal(map_get(&m, "key", 3), &values[0]);
    assert_true(map_put(&m, "key", 3, &values[1]));
    assert_int_equal(m.n, 1);
    assert_ptr_equal(map_get(&m, "key", 3), &values[1]);
    assert_ptr_equal(map_take(&m, "key", 3), &values[1]);
    assert_null(map_get(&m, "key", 3));
    assert_null(map_take(&m, "key", 3));
    map_done(&m);
}

static size_t key_of(size_t i, char out[24])
{
    return (size_t)snprintf(out, 24, "key.%zu", i);
}

static void test_random_work_against_an_array(void **state)
{
    struct map m = {0};
    bool there[1000] = {false};
    size_t n = 0;
    uint64_t seed = 42;

    (void)state;
    for (int step = 0; step < 50000; step++) {
        char key[24];
        size_t i, len;

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        i = (size_t)(seed >> 33) % 1000;
        len = key_of(i, key);
        if (seed >> 63) {
            assert_true(map_put(&m, key, len, &values[i]));
            n += !there[i];
            there[i] = true;
        } else {
            assert_ptr_equal(map_take(&m, key, len), there[i] ? &values[i] : NULL);
            n -= there[i];
            there[i] = false;
        }
        assert_int_equal(m.n, n);
        assert_true(m.n_used < m.cap || m.cap == 0); /* a search for what is not there must end */
    }
    for (size_t i = 0; i < 1000; i++) {
        char key[24];
        size_t len = key_of(i, key);

        assert_ptr_equal(map_get(&m, key, len), there[i] ? &values[i] : NULL);
    }
    map_done(&m);
}

/* The same few keys put and taken for ever leave deleted slots behind, which must not make the
 * table grow. */
static void test_deleted_slots_are_swept(void **state)
{
    struct map m = {0};

    (void)state;
    for (size_t i = 0; i < 100000; i++) {
        char key[24];
        size_t len = key_of(i, key);

        assert_true(map_put(&m, key, len, &values[0]));
        assert_ptr_equal(map_take(&m, key, len), &values[0]);
    }
    assert_int_equal(m.n, 0);
    assert_int_equal(m.cap, 16);
    map_done(&m);
}

static void test_an_empty_large_table_is_given_back(void **state)
{
    struct map m = {0};

    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        char key[24];

        assert_true(map_put(&m, key, key_of(i, key), &values[i]));
    }
    for (size_t i = 0; i < 1000; i++) {
        char key[24];

        assert_true(m.cap >= 1000);
        assert_ptr_equal(map_take(&m, key, key_of(i, key)), &values[i]);
    }
    assert_int_equal(m.cap, 0);
    assert_true(map_put(&m, "a", 1, &values[0]));
    assert_ptr_equal(map_get(&m, "a", 1), &values[0]);
    map_done(&m);
}

static void test_walk_may_remove(void **state)
{
    struct map m = {0};
    bool seen[100] = {false};
    const char *key;
    void *value;
    size_t at = 0, n = 0;

    (void)state;
    for (size_t i = 0; i < 100; i++) {
        char text[24];
        size_t len = key_of(i, text);

        assert_true(map_put(&m, text, len, &values[i]));
    }
    while (map_next(&m, &at, &key, &value)) {
        size_t i = (size_t)((int *)value - values);
        char expected[24];

        (void)key_of(i, expected);
        assert_string_equal(key, expected);
        assert_false(seen[i]);
        seen[i] = true;
        n++;
        if (i % 2)
            assert_ptr_equal(map_take(&m, expected, strlen(expected)), value);
    }
    assert_int_equal(n, 100);
    assert_int_equal(m.n, 50);
    map_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_keys_are_bytes),
        cmocka_unit_test(test_keys_are_copied_and_values_replaced),
        cmocka_unit_test(test_random_work_against_an_array),
        cmocka_unit_test(test_deleted_slots_are_swept),
        cmocka_unit_test(test_an_empty_large_table_is_given_back),
        cmocka_unit_test(test_walk_may_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
