/* auth/access.h: who may what, and that what is not known may nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "auth/access.h"
#include "wire/schema.h"

static void check(uint32_t role, bool read, bool write, bool human, bool admin)
{
    const bool expected[SCHEMA_ACCESSES] = {[SCHEMA_READ] = read, [SCHEMA_WRITE] = write, [SCHEMA_HUMAN] = human, [SCHEMA_ADMIN] = admin};

    for (int access = 0; access < SCHEMA_ACCESSES; access++) {
        assert_int_equal(access_allows(role, access, true), expected[access]);
        assert_int_equal(access_allows(role, access, false), expected[access] && role != MUSTER_ROLE_USER);
    }
}

static void test_the_table(void **state)
{
    (void)state;
    check(MUSTER_ROLE_NONE, true, true, true, true);
    check(MUSTER_ROLE_AGENT, true, true, false, false);
    check(MUSTER_ROLE_OBSERVER, true, false, false, false);
    check(MUSTER_ROLE_USER, true, true, false, false);
    check(MUSTER_ROLE_HUMAN, true, true, true, false);
    check(MUSTER_ROLE_ADMIN, true, true, true, true);
    check(MUSTER_ROLE_OPERATOR, true, true, true, true);
    check(MUSTER_ROLE_PLUGIN, false, false, false, false);
    check(MUSTER_ROLE_PLUGIN + 1, false, false, false, false);
    check(UINT32_MAX, false, false, false, false);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(access_role_name(MUSTER_ROLE_AGENT), "agent");
    assert_string_equal(access_role_name(MUSTER_ROLE_PLUGIN), "plugin");
    assert_string_equal(access_role_name(MUSTER_ROLE_NONE), "none");
    assert_string_equal(access_role_name(99), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_table), cmocka_unit_test(test_names)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
