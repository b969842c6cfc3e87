/* When an issuer's keys are looked for again, on a clock that the test moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "auth/keyring.h"
#include "base/clock.h"

static const struct keyring_times times = {
    .fresh_min_ns = 60 * CLOCK_S,
    .fresh_default_ns = 3600 * CLOCK_S,
    .fresh_max_ns = 86400 * CLOCK_S,
    .retry_min_ns = CLOCK_S,
    .retry_max_ns = 60 * CLOCK_S,
    .unknown_every_ns = 30 * CLOCK_S,
};

static struct jwks *some_keys(void)
{
    static const char secret[] = "0123456789abcdef0123456789abcdef";
    char why[JWKS_WHY_SIZE];
    struct jwks *set = NULL;

    assert_int_equal(jwks_secret(secret, strlen(secret), &set, why), 0);
    return set;
}

/* How long until the next attempt, after an answer with this max-age at the time 0. */
static int64_t next_after(int64_t max_age_s)
{
    struct keyring k;

    keyring_init(&k, &times, 0);
    keyring_begin(&k, 0);
    keyring_got(&k, some_keys(), max_age_s, 0);
    int64_t due = k.due_ns;
    assert_false(keyring_is_due(&k, due - 1));
    assert_true(keyring_is_due(&k, due));
    keyring_done(&k);
    return due / CLOCK_S;
}

static void test_freshness_is_bounded(void **state)
{
    (void)state;
    assert_int_equal(next_after(-1), 3600);
    assert_int_equal(next_after(600), 600);
    assert_int_equal(next_after(0), 60);
    assert_int_equal(next_after(59), 60);
    assert_int_equal(next_after(86401), 86400);
    assert_int_equal(next_after(INT64_MAX), 86400);
}

static void test_due_at_once_and_one_at_a_time(void **state)
{
    struct keyring k;

    (void)state;
    keyring_init(&k, &times, 5);
    assert_true(keyring_is_due(&k, 5));
    keyring_begin(&k, 5);
    assert_false(keyring_is_due(&k, 5));
    assert_false(keyring_may_ask(&k, INT64_MAX));
    keyring_failed(&k, 5);
    keyring_done(&k);
}

static void test_the_last_good_keys_hold(void **state)
{
    struct keyring k;
    int64_t now = 0;

    (void)state;
    keyring_init(&k, &times, 0);
    keyring_begin(&k, 0);
    keyring_got(&k, some_keys(), -1, 0);
    struct jwks *had = k.keys;
    for (int i = 0; i < 100; i++) {
        now = k.due_ns;
        assert_true(keyring_is_due(&k, now));
        keyring_begin(&k, now);
        keyring_failed(&k, now);
        assert_ptr_equal(k.keys, had);
        assert_true(k.due_ns - now <= 60 * CLOCK_S);
    }
    keyring_begin(&k, now);
    keyring_got(&k, some_keys(), 600, now);
    assert_ptr_not_equal(k.keys, had);
    assert_int_equal(k.due_ns, now + 600 * CLOCK_S);
    keyring_done(&k);
}

static void test_delays_double(void **state)
{
    static const int64_t wanted[] = {1, 2, 4, 8, 16, 32, 60, 60};
    struct keyring k;
    int64_t now = 0;

    (void)state;
    keyring_init(&k, &times, 0);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        keyring_begin(&k, now);
        keyring_failed(&k, now);
        assert_int_equal(k.due_ns - now, wanted[i] * CLOCK_S);
        now = k.due_ns;
    }
    keyring_begin(&k, now);
    keyring_got(&k, some_keys(), -1, now);
    now = k.due_ns;
    keyring_begin(&k, now);
    keyring_failed(&k, now);
    assert_int_equal(k.due_ns - now, CLOCK_S);
    keyring_done(&k);
}

/* Whatever how many tokens of made-up kids come, the issuer hears of them twice a minute. */
static void test_unknown_kids_are_paced(void **state)
{
    struct keyring k;
    int n = 0;

    (void)state;
    keyring_init(&k, &times, 0);
    keyring_begin(&k, 0);
    keyring_got(&k, some_keys(), -1, 0);
    for (int64_t now = 0; now < 3000 * CLOCK_S; now += CLOCK_S / 10)
        if (keyring_may_ask(&k, now)) {
            n++;
            keyring_begin(&k, now);
            keyring_got(&k, some_keys(), -1, now);
        }
    assert_in_range(n, 98, 100);
    keyring_done(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_freshness_is_bounded),    cmocka_unit_test(test_due_at_once_and_one_at_a_time),
        cmocka_unit_test(test_the_last_good_keys_hold), cmocka_unit_test(test_delays_double),
        cmocka_unit_test(test_unknown_kids_are_paced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
