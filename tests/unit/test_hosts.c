/* base/hosts: libpq's lists of hosts, begun at another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "base/hosts.h"

static void assert_list(const char *list, const char *expected)
{
    if (expected)
        assert_string_equal(list, expected);
    else
        assert_null(list);
}

static void test_rotation(void **state)
{
    static const struct {
        unsigned int first;
        const char *list, *expected;
    } table[] = {
        {0, "a,b,c", NULL},    {1, "a,b,c", "b,c,a"}, {2, "a,b,c", "c,a,b"}, {3, "a,b,c", NULL},
        {4, "a,b,c", "b,c,a"}, {7, "a", NULL},        {1, "", NULL},         {1, NULL, NULL},
        {1, ",b", "b,"},       {1, "a,", ",a"},       {1, ",,", ",,"},       {UINT32_MAX, "a,b", "b,a"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct hosts hosts = {.first = table[i].first};

        hosts_take(&hosts, "host", table[i].list, NULL);
        assert_list(hosts.host, table[i].expected);
        hosts_done(&hosts);
    }
}

static void test_every_list(void **state)
{
    struct hosts hosts = {.first = 1};

    (void)state;
    hosts_take(&hosts, "host", "a,b", NULL);
    hosts_take(&hosts, "hostaddr", "10.0.0.1,10.0.0.2", NULL);
    hosts_take(&hosts, "port", "5432", NULL); /* for all of them */
    hosts_take(&hosts, "options", "-c search_path=a,b", NULL);
    assert_list(hosts.host, "b,a");
    assert_list(hosts.hostaddr, "10.0.0.2,10.0.0.1");
    assert_null(hosts.port);
    hosts_done(&hosts);
}

/* As libpq does: what the string does not say, the environment may. */
static void test_environment(void **state)
{
    struct hosts hosts = {.first = 1};

    (void)state;
    assert_int_equal(setenv("HOSTS_OF_TEST", "c,d", 1), 0);
    hosts_take(&hosts, "host", "a,b", "HOSTS_OF_TEST");
    hosts_take(&hosts, "port", NULL, "HOSTS_OF_TEST");
    hosts_take(&hosts, "hostaddr", NULL, "HOSTS_OF_TEST_THAT_IS_NOT_SET");
    assert_list(hosts.host, "b,a");
    assert_list(hosts.port, "d,c");
    assert_null(hosts.hostaddr);
    hosts_done(&hosts);
}

/* What a service's file says is not known here, and stands between the string and the environment. */
static void test_service(void **state)
{
    (void)state;
    for (int last = 0; last < 2; last++) {
        struct hosts hosts = {.first = 1};

        if (!last)
            hosts_take(&hosts, "service", "muster", NULL);
        hosts_take(&hosts, "host", "a,b", NULL);
        if (last)
            hosts_take(&hosts, "service", "muster", NULL);
        hosts_take(&hosts, "port", "1,2", NULL);
        assert_null(hosts.host);
        assert_null(hosts.port);
        hosts_done(&hosts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rotation), cmocka_unit_test(test_every_list),
                                       cmocka_unit_test(test_environment), cmocka_unit_test(test_service)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
