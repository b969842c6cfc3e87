/* KEY=VALUE of `muster tenant limits`: the bounds hold, units count, and a refusal names the key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/limits.h"

static void takes(const char *text, const char *key, int64_t value)
{
    struct limit limit;
    char why[512];

    assert_true(limit_parse(text, &limit, why, sizeof why));
    assert_string_equal(limit.name, key);
    assert_false(limit.none);
    assert_int_equal(limit.value, value);
}

static void takes_away(const char *text, const char *key)
{
    struct limit limit;
    char why[512];

    assert_true(limit_parse(text, &limit, why, sizeof why));
    assert_string_equal(limit.name, key);
    assert_true(limit.none);
}

static void refuses(const char *text, const char *said)
{
    struct limit limit = {.value = 4711};
    char why[512] = "";

    assert_false(limit_parse(text, &limit, why, sizeof why));
    assert_non_null(strstr(why, said));
    assert_non_null(strstr(why, "expected"));
    assert_int_equal(limit.value, 4711);
}

static void test_values(void **state)
{
    (void)state;
    takes("requests_per_s=200", "requests_per_s", 200);
    takes("watches=0", "watches", 0);
    takes("subscriptions=500", "subscriptions", 500);
    takes("queued_bytes=65536", "queued_bytes", 65536);
    takes("queued_bytes=64KiB", "queued_bytes", 65536);
    takes("queued_bytes=3mib", "queued_bytes", 3 << 20);
    takes("queued_bytes=1024GiB", "queued_bytes", INT64_C(1) << 40);
    takes("task.open=10000", "task.open", 10000);
    takes("a-b.c_d=0", "a-b.c_d", 0);
    takes("task.open=9007199254740992", "task.open", INT64_C(1) << 53);
    takes_away("task.open=none", "task.open");
    takes_away("burst=", "burst");
    takes_away("burst=none", "burst");
}

static void test_bounds_of_every_key(void **state)
{
    char text[128];

    (void)state;
    for (size_t i = 0; i < TENANT_N_LIMITS; i++) {
        const struct limit_key *key = &limit_keys[i];

        snprintf(text, sizeof text, "%s=%" PRId64, key->name, key->min);
        takes(text, key->name, key->min);
        snprintf(text, sizeof text, "%s=%" PRId64, key->name, key->max);
        takes(text, key->name, key->max);
        snprintf(text, sizeof text, "%s=%" PRId64, key->name, key->min - 1);
        refuses(text, key->name);
        snprintf(text, sizeof text, "%s=%" PRId64, key->name, key->max + 1);
        refuses(text, key->name);
    }
}

static void test_refused(void **state)
{
    (void)state;
    refuses("", "KEY=VALUE");
    refuses("burst", "KEY=VALUE");
    refuses("=5", "KEY=VALUE");
    refuses("Burst=5", "requests_per_s, burst");
    refuses("burst =5", "KEY=VALUE");
    refuses("burst=1.5", "burst: 1.5 came");
    refuses("burst= 5", "burst");
    refuses("burst=5x", "burst");
    refuses("burst=0x10", "burst");
    refuses("burst=+5", "burst");
    refuses("burst=1KiB", "burst");
    refuses("task.open=9007199254740993", "task.open");
    refuses("task.open=1KiB", "task.open");
    refuses(".open=1", "KEY=VALUE");
    refuses("task.=1", "KEY=VALUE");
    refuses("task.open.now=1", "KEY=VALUE");
    refuses("_task.open=1", "KEY=VALUE");
    refuses("task.o*=1", "<service>.<name>");
    refuses("queued_bytes=KiB", "queued_bytes");
    refuses("queued_bytes=1KB", "queued_bytes");
    refuses("queued_bytes=9223372036854775808", "queued_bytes");
    refuses("queued_bytes=9007199254740993KiB", "queued_bytes");
}

/* What came can be of any length; the message is cut and stays a string. */
static void test_long_text(void **state)
{
    struct limit limit;
    char text[4096], why[64];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_false(limit_parse(text, &limit, why, sizeof why));
    assert_int_equal(strlen(why), sizeof why - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_bounds_of_every_key),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
