/* Which versions of nats-server have which known weakness, at the edges that advisories.nats.io names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "bus/greeting.h"
#include "core/advisories.h"

static bool has(const char *version, const char *id)
{
    struct bus_version v;

    assert_true(bus_version_read(version, &v));
    for (const struct advisory *a = advisory_next(&v, NULL); a; a = advisory_next(&v, a))
        if (strstr(a->id, id))
            return true;
    return false;
}

static void test_edges(void **state)
{
    static const struct {
        const char *id, *last, *fixed;
    } edges[] = {
        {"CVE-2025-30215", "2.10.26", "2.10.27"},      {"CVE-2025-30215", "2.11.0", "2.11.1"},
        {"CVE-2026-27889", "2.11.13", "2.11.14"},      {"CVE-2026-27889", "2.12.4", "2.12.5"},
        {"CVE-2026-33249", "2.11.14", "2.11.15"},      {"CVE-2026-33249", "2.12.5", "2.12.6"},
        {"CVE-2026-33249", "2.11.0", "2.10.29"},       {"GHSA-g33f-6538-grxh", "2.12.9", "2.12.10"},
        {"GHSA-g33f-6538-grxh", "2.11.17", "2.13.0"},  {"GHSA-g33f-6538-grxh", "2.14.1", "2.14.2"},
        {"GHSA-jx8g-9g95-6322", "2.11.15", "2.11.16"}, {"GHSA-jx8g-9g95-6322", "2.12.6", "2.12.7"},
        {"GHSA-3g5q-cfh2-cq67", "2.12.7", "2.12.8"},   {"CVE-2023-47090", "2.9.22", "2.9.23"},
        {"CVE-2023-46129", "2.10.3", "2.10.4"},        {"CVE-2023-46129", "2.10.0", "2.9.25"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        assert_true(has(edges[i].last, edges[i].id));
        assert_false(has(edges[i].fixed, edges[i].id));
    }
}

static void test_packaged_and_newest(void **state)
{
    const struct bus_version newest = {2, 15, 1};

    (void)state;
    assert_true(has("2.9.10", "CVE-2025-30215") && has("2.9.10", "CVE-2026-27889"));
    assert_true(!has("2.10.27", "CVE-2025-30215") && has("2.10.27", "CVE-2026-27889"));
    assert_null(advisory_next(&newest, NULL));
}

/* Operator mode alone reads JWTs before a login. */
static void test_what_stands_open(void **state)
{
    const struct bus_version debian = {2, 9, 10}, tracing = {2, 11, 0};

    (void)state;
    for (const struct advisory *a = advisory_next(&debian, NULL); a; a = advisory_next(&debian, a)) {
        assert_false(advisory_is_open(a, true));
        assert_int_equal(advisory_is_open(a, false), strcmp(a->id, "GHSA-g33f-6538-grxh") == 0);
        assert_true(*a->what && *a->answer);
    }
    for (const struct advisory *a = advisory_next(&tracing, NULL); a; a = advisory_next(&tracing, a))
        assert_int_equal(advisory_is_open(a, true), strcmp(a->id, "CVE-2026-33249") == 0);
}

static void test_greetings(void **state)
{
    static const char *const bad[] = {"",
                                      "INFO ",
                                      "INFO {}",
                                      "INFO {\"server_id\":\"N\"}",
                                      "INFO {\"server_id\":\"N\",\"version\":\"two\"}",
                                      "INFO {\"server_id\":\"N\",\"version\":\"2.9\"}",
                                      "INFO {\"server_id\":\"N\",\"version\":\"-1.9.1\"}",
                                      "INFO {\"server_id\":\"N\",\"version\":291}",
                                      "-ERR {\"server_id\":\"N\",\"version\":\"2.9.1\"}",
                                      "INFO [\"server_id\"]"};
    static const char good[] = "INFO {\"server_id\":\"NA\",\"version\":\"2.12.0-RC.1\",\"jetstream\":true,\"nonce\":\"x\"} \r\n";
    struct greeting g;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(greeting_read(bad[i], strlen(bad[i]), &g), MUSTER_EINVAL);
    assert_int_equal(greeting_read(good, strlen(good), &g), 0);
    assert_string_equal(g.server, "NA");
    assert_string_equal(g.version, "2.12.0-RC.1");
    assert_true(g.jetstream && g.nonce && g.number.major == 2 && g.number.minor == 12 && g.number.patch == 0);
    assert_int_equal(greeting_ask("nats://127.0.0.1:1", 100, &g), MUSTER_ELINK);
    assert_int_equal(greeting_ask("nats://", 100, &g), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_packaged_and_newest),
        cmocka_unit_test(test_what_stands_open),
        cmocka_unit_test(test_greetings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
