/* The rules that every role obeys, and the lists of INTERFACE 2 word for word where the contract
 * gives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "auth/roles.h"

static const struct role_names names = {"mst", "acme", "a1", "_op_a1"};

static void expand(const char *pattern, struct buf *out)
{
    buf_clear(out);
    role_expand(out, pattern, &names);
    assert_false(buf_failed(out));
}

/* True when the list has that subject for agent a1 of acme. */
static bool has(int role, int list, const char *subject)
{
    struct buf b = {0};
    bool found = false;

    for (const char *const *p = role_patterns(role, list); *p && !found; p++) {
        expand(*p, &b);
        found = strcmp(b.data, subject) == 0;
    }
    buf_done(&b);
    return found;
}

static size_t count(int role, int list)
{
    size_t n = 0;

    while (role_patterns(role, list)[n])
        n++;
    return n;
}

static void test_names(void **state)
{
    (void)state;
    for (int role = 0; role < ROLES_N; role++) {
        assert_int_equal(role_find(role_name(role)), role);
        assert_non_null(strstr(role_list(), role_name(role)));
    }
    assert_int_equal(role_find("root"), -1);
    assert_int_equal(role_find(""), -1);
}

static void test_agent_is_as_the_contract_says(void **state)
{
    static const char *const pub[] = {"mst.acme.rpc.a1.>", "mst.acme.all.a1.>",
                                      "mst.acme.to.*.a1.>", "mst.acme.grp.*.a1.>"};
    static const char *const sub[] = {
        "mst.acme.box.a1.>",    "mst.acme.all.>",     "mst.acme.to.a1.>", "mst.acme.grp.>",
        "mst.acme.msg.a1",      "mst.acme.evt.>",     "mst.acme.cdc.>",   "mst.acme.log.all.>",
        "mst.acme.log.to.a1.>", "mst.acme.log.grp.>", "mst.acme.sub.a1.>"};

    (void)state;
    assert_int_equal(count(ROLE_AGENT, ROLE_PUB), 4);
    assert_int_equal(count(ROLE_AGENT, ROLE_SUB), 11);
    for (size_t i = 0; i < 4; i++)
        assert_true(has(ROLE_AGENT, ROLE_PUB, pub[i]));
    for (size_t i = 0; i < 11; i++)
        assert_true(has(ROLE_AGENT, ROLE_SUB, sub[i]));
}

static void narrowed(int role, int list, const struct role_narrowing *narrowing, const char *expected)
{
    struct buf b = {0};

    role_put_narrowed(&b, role, list, &names, narrowing);
    assert_false(buf_failed(&b));
    assert_string_equal(b.data, expected);
    buf_done(&b);
}

/* A group may be called as a letter that stands for something in patterns. */
static void test_narrowed_lists(void **state)
{
    const struct role_narrowing groups = {.groups = "red,A"}, tables = {.tables = "public.orders,audit.*"}, both = {"T", "a.b"};

    (void)state;
    narrowed(ROLE_AGENT, ROLE_PUB, &groups,
             "{\"allow\":[\"mst.acme.rpc.a1.>\",\"mst.acme.all.a1.>\",\"mst.acme.to.*.a1.>\","
             "\"mst.acme.grp.red.a1.>\",\"mst.acme.grp.A.a1.>\"]}");
    narrowed(ROLE_OBSERVER, ROLE_SUB, &groups,
             "{\"allow\":[\"mst.acme.box.a1.>\",\"mst.acme.all.>\",\"mst.acme.grp.red.>\",\"mst.acme.grp.A.>\",\"mst.acme.evt.>\","
             "\"mst.acme.cdc.>\",\"mst.acme.log.all.>\",\"mst.acme.log.grp.red.>\",\"mst.acme.log.grp.A.>\",\"mst.acme.sub.a1.>\"]}");
    narrowed(ROLE_OBSERVER, ROLE_SUB, &tables,
             "{\"allow\":[\"mst.acme.box.a1.>\",\"mst.acme.all.>\",\"mst.acme.grp.>\",\"mst.acme.evt.>\","
             "\"mst.acme.cdc.*.public.orders.>\",\"mst.acme.cdc.*.audit.*.>\",\"mst.acme.log.all.>\",\"mst.acme.log.grp.>\","
             "\"mst.acme.sub.a1.>\"]}");
    narrowed(ROLE_OPERATOR, ROLE_SUB, &both,
             "{\"allow\":[\"mst.acme.box.a1.>\",\"mst.*.box._op_a1.>\",\"mst.*.all.>\",\"mst.*.to.>\",\"mst.*.grp.T.>\",\"mst.*.msg.*\","
             "\"mst.*.evt.>\",\"mst.*.cdc.*.a.b.>\",\"mst.*.audit.>\",\"mst.*.log.all.>\",\"mst.*.log.to.>\",\"mst.*.log.grp.T.>\","
             "\"mst.*.sub.>\"]}");
}

/* Nothing that names a group or the rows of a table is left as wide as it was, whatever the role. */
static void test_no_role_escapes_a_narrowing(void **state)
{
    const struct role_narrowing narrowing = {"red", "a.b"};

    (void)state;
    for (int role = 0; role < ROLES_N; role++)
        for (int list = ROLE_PUB; list <= ROLE_SUB; list++) {
            struct buf b = {0};

            role_put_narrowed(&b, role, list, &names, &narrowing);
            assert_null(strstr(b.data, ".grp.>"));
            assert_null(strstr(b.data, ".grp.*"));
            assert_null(strstr(b.data, ".log.>"));
            assert_null(strstr(b.data, ".cdc.>"));
            buf_done(&b);
        }
}

static void test_what_a_role_covers(void **state)
{
    static const struct role_narrowing groups = {.groups = "red,A"}, tables = {.tables = "public.orders,audit.*"};
    static const struct {
        int role;
        const struct role_narrowing *narrowing;
        const char *subject;
        bool covers;
    } cases[] = {
        {ROLE_AGENT, NULL, "mst.acme.evt.presence.>", true},
        {ROLE_AGENT, NULL, "mst.acme.msg.a1", true},
        {ROLE_AGENT, NULL, "mst.acme.msg.a2", false},
        {ROLE_AGENT, NULL, "mst.acme.msg.*", false},
        {ROLE_AGENT, NULL, "mst.acme.to.a2.>", false},
        {ROLE_AGENT, NULL, "mst.acme.audit.>", false},
        {ROLE_AGENT, NULL, "mst.zeta.evt.>", false},
        {ROLE_AGENT, &groups, "mst.acme.grp.red.>", true},
        {ROLE_AGENT, &groups, "mst.acme.grp.A.x.hi", true},
        {ROLE_AGENT, &groups, "mst.acme.grp.blue.>", false},
        {ROLE_AGENT, &groups, "mst.acme.grp.>", false},
        {ROLE_AGENT, &groups, "mst.acme.cdc.>", true},
        {ROLE_AGENT, &tables, "mst.acme.cdc.*.public.orders.*.*", true},
        {ROLE_AGENT, &tables, "mst.acme.cdc.main.audit.x.insert.k", true},
        {ROLE_AGENT, &tables, "mst.acme.cdc.*.public.items.>", false},
        {ROLE_AGENT, &tables, "mst.acme.cdc.>", false},
        {ROLE_OBSERVER, NULL, "mst.acme.evt.>", true},
        {ROLE_OBSERVER, NULL, "mst.acme.msg.a1", false},
        {ROLE_OBSERVER, NULL, "mst.acme.log.to.a1.>", false},
        {ROLE_USER, NULL, "mst.acme.evt.>", false},
        {ROLE_USER, NULL, "mst.acme.sub.a1.w", true},
        {ROLE_HUMAN, NULL, "mst.acme.to.a1.>", true},
        {ROLE_ADMIN, NULL, "mst.acme.msg.a2", true},
        {ROLE_ADMIN, NULL, "mst.acme.to.>", true},
        {ROLE_ADMIN, NULL, "mst.zeta.to.>", false},
        {ROLE_ADMIN, NULL, "mst.acme.box.a2.>", false},
        {ROLE_OPERATOR, NULL, "mst.zeta.evt.>", true},
        {ROLE_OPERATOR, NULL, "mst.zeta.box.a1.>", false},
        {ROLE_PLUGIN, NULL, "mst.acme.evt.>", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (role_covers(cases[i].role, ROLE_SUB, &names, cases[i].narrowing, cases[i].subject) != cases[i].covers)
            fail_msg("%s %s", role_name(cases[i].role), cases[i].subject);
    assert_true(role_covers(ROLE_AGENT, ROLE_PUB, &names, NULL, "mst.acme.rpc.a1.task.get"));
    assert_false(role_covers(ROLE_AGENT, ROLE_PUB, &names, NULL, "mst.acme.evt.x.y.z"));
}

static void test_lists_are_never_empty(void **state)
{
    (void)state;
    for (int role = 0; role < ROLES_N; role++) {
        assert_true(count(role, ROLE_PUB) > 0);
        assert_true(count(role, ROLE_SUB) > 0);
    }
}

/* Every subject lies under R.T., but for an operator's alias and an operator's reading. */
static void test_nothing_leaves_the_tenant(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int role = 0; role < ROLES_N; role++)
        for (int list = ROLE_PUB; list <= ROLE_SUB; list++)
            for (const char *const *p = role_patterns(role, list); *p; p++) {
                expand(*p, &b);
                assert_null(strchr(b.data, '$'));
                assert_null(strstr(b.data, "_in"));
                if (strncmp(b.data, "mst.acme.", 9) == 0)
                    continue;
                assert_int_equal(role, ROLE_OPERATOR);
                assert_true(strncmp(b.data, "mst.*.", 6) == 0);
                assert_true(list == ROLE_SUB || strcmp(b.data, "mst.*.rpc._op_a1.>") == 0);
            }
    buf_done(&b);
}

/* A publisher writes its own name where the sender's name stands; a plugin alone writes to others,
 * as a service answers. */
static void test_nobody_can_send_as_another(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int role = 0; role < ROLES_N; role++)
        for (const char *const *p = role_patterns(role, ROLE_PUB); *p && role != ROLE_PLUGIN; p++) {
            expand(*p, &b);
            assert_true(strstr(b.data, ".a1.>") || strstr(b.data, "._op_a1.>"));
        }
    buf_done(&b);
}

static void test_requests_and_replies_are_private(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int role = 0; role < ROLES_N; role++)
        for (const char *const *p = role_patterns(role, ROLE_SUB); *p; p++) {
            expand(*p, &b);
            if (strstr(b.data, ".rpc."))
                assert_string_equal(b.data,
                                    "mst.acme.rpc.*.a1.>"); /* a plugin: the service of its name */
            if (strstr(b.data, ".box."))
                assert_true(strstr(b.data, ".box.a1.>") || strstr(b.data, ".box._op_a1.>"));
            assert_string_not_equal(b.data, "mst.acme.>");
        }
    assert_false(has(ROLE_AGENT, ROLE_SUB, "mst.acme.rpc.*.a1.>"));
    buf_done(&b);
}

static void test_observer_and_user(void **state)
{
    (void)state;
    for (int role = ROLE_OBSERVER; role <= ROLE_USER; role++) {
        assert_int_equal(count(role, ROLE_PUB), 1);
        assert_true(has(role, ROLE_PUB, "mst.acme.rpc.a1.>"));
        assert_false(has(role, ROLE_SUB, "mst.acme.to.a1.>"));
        assert_false(has(role, ROLE_SUB, "mst.acme.msg.a1"));
        assert_false(has(role, ROLE_SUB, "mst.acme.log.to.a1.>"));
    }
    assert_true(has(ROLE_OBSERVER, ROLE_SUB, "mst.acme.cdc.>"));
    assert_int_equal(count(ROLE_USER, ROLE_SUB), 2);
    assert_true(has(ROLE_USER, ROLE_SUB, "mst.acme.box.a1.>"));
    assert_true(has(ROLE_USER, ROLE_SUB, "mst.acme.sub.a1.>"));
}

static void test_audit(void **state)
{
    (void)state;
    for (int role = 0; role < ROLES_N; role++)
        assert_int_equal(has(role, ROLE_SUB, "mst.acme.audit.>"), role == ROLE_ADMIN);
    assert_true(has(ROLE_OPERATOR, ROLE_SUB, "mst.*.audit.>"));
}

static void test_expand(void **state)
{
    struct buf b = {0};

    (void)state;
    expand("R.T.to.*.A.>", &b);
    assert_string_equal(b.data, "mst.acme.to.*.a1.>");
    expand("R", &b);
    assert_string_equal(b.data, "mst");
    expand("TT.RA.A", &b); /* whole tokens only */
    assert_string_equal(b.data, "TT.RA.a1");
    buf_clear(&b);
    role_put_allow(&b, ROLE_USER, ROLE_SUB, &names);
    assert_string_equal(b.data, "{\"allow\":[\"mst.acme.box.a1.>\",\"mst.acme.sub.a1.>\"]}");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_agent_is_as_the_contract_says),
        cmocka_unit_test(test_narrowed_lists),
        cmocka_unit_test(test_no_role_escapes_a_narrowing),
        cmocka_unit_test(test_what_a_role_covers),
        cmocka_unit_test(test_lists_are_never_empty),
        cmocka_unit_test(test_nothing_leaves_the_tenant),
        cmocka_unit_test(test_nobody_can_send_as_another),
        cmocka_unit_test(test_requests_and_replies_are_private),
        cmocka_unit_test(test_observer_and_user),
        cmocka_unit_test(test_audit),
        cmocka_unit_test(test_expand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
