/* base/clock: RFC 3339 vectors from Python's datetime, and what a UUIDv7 must be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

static void test_rfc3339(void **state)
{
    static const struct {
        int64_t ns;
        const char *text;
    } vectors[] = {
        {0, "1970-01-01T00:00:00.000000Z"},
        {999, "1970-01-01T00:00:00.000000Z"},
        {1000, "1970-01-01T00:00:00.000001Z"},
        {-1, "1969-12-31T23:59:59.999999Z"},
        {-1000, "1969-12-31T23:59:59.999999Z"},
        {-1001, "1969-12-31T23:59:59.999998Z"},
        {INT64_C(951782400000000000), "2000-02-29T00:00:00.000000Z"},
        {INT64_C(1700000000123456789), "2023-11-14T22:13:20.123456Z"},
        {INT64_C(4107542400000000000), "2100-03-01T00:00:00.000000Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854775Z"},
        {INT64_MIN, "1677-09-21T00:12:43.145224Z"},
    };
    char out[CLOCK_RFC3339_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        clock_rfc3339(vectors[i].ns, out);
        assert_string_equal(out, vectors[i].text);
    }
}

static void test_clocks(void **state)
{
    int64_t before = clock_now_ns();
    int64_t wall = clock_wall_ns() / CLOCK_S;

    (void)state;
    assert_true(clock_now_ns() >= before);
    assert_true(wall - (int64_t)time(NULL) <= 1 && (int64_t)time(NULL) - wall <= 1);
}

static void test_uuid7_form(void **state)
{
    char id[CLOCK_UUID_SIZE];
    int64_t before = clock_wall_ns() / CLOCK_MS, after;
    unsigned long long high;
    unsigned int low;

    (void)state;
    clock_uuid7(id);
    after = clock_wall_ns() / CLOCK_MS;
    assert_int_equal(strlen(id), 36);
    for (size_t i = 0; i < 36; i++)
        assert_non_null(
            strchr(i == 8 || i == 13 || i == 18 || i == 23 ? "-" : "0123456789abcdef", id[i]));
    assert_int_equal(id[14], '7');           /* version */
    assert_non_null(strchr("89ab", id[19])); /* variant */
    assert_int_equal(sscanf(id, "%8llx-%4x", &high, &low), 2);
    assert_in_range(high << 16 | low, (uint64_t)before, (uint64_t)after);
}

static void test_uuid7_is_new_each_time(void **state)
{
    char ids[64][CLOCK_UUID_SIZE];

    (void)state;
    for (size_t i = 0; i < 64; i++) {
        clock_uuid7(ids[i]);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(ids[i], ids[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc3339),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_uuid7_form),
        cmocka_unit_test(test_uuid7_is_new_each_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
