/* muster.roster/1 of the test host, through a plugin that keeps it (keeper.c) and by the test itself. */
#include <muster/testhost.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const struct muster_plugin *keeper_entry(void);

static struct muster_test *begin(void)
{
    const struct muster_test_options options = {.size = sizeof options, .entry = keeper_entry, .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_destroy(t);
    if (muster_test_failures(t))
        fail_msg("%s", muster_test_failure(t, 0));
    assert_int_equal(muster_test_free(t), 0);
}

static const char *ask(struct muster_test *t, const char *verb, const char *json)
{
    char subject[100];

    (void)snprintf(subject, sizeof subject, "rpc.ann.keeper.%s", verb);
    return muster_test_answer_text(t, muster_test_request(t, subject, json));
}

static void test_what_a_plugin_keeps(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_string_equal(ask(t, "put", "{\"agent\": \"a1\", \"capabilities\": [\"go\"]}"), "{\"code\":0,\"text\":\"\",\"last\":0}");
    (void)ask(t, "put", "{\"agent\": \"a2\", \"status\": 2, \"suspect\": 1, \"label\": \"eu\"}");
    assert_string_equal(ask(t, "find", "{}"), "{\"code\":2,\"text\":\"a1 a2 \",\"last\":2}");
    assert_string_equal(ask(t, "find", "{\"capabilities\": [\"go\"]}"), "{\"code\":1,\"text\":\"a1 \",\"last\":1}");
    assert_string_equal(ask(t, "find", "{\"label\": \"eu\", \"after\": 1}"), "{\"code\":1,\"text\":\"a2 \",\"last\":2}");
    assert_string_equal(ask(t, "get", "{\"agent\": \"a3\"}"), "{\"code\":-8,\"text\":\"\",\"last\":0}");
    assert_string_equal(ask(t, "count", "{}"), "{\"code\":2,\"text\":\"1 suspect, 1 online, 1 busy, 0 away\",\"last\":0}");
    (void)ask(t, "put", "{\"agent\": \"a1\", \"session\": \"s2\", \"kind\": 5}");
    (void)ask(t, "remove", "{\"agent\": \"a1\", \"reason\": \"timeout\"}");
    (void)ask(t, "clear", "{}");
    assert_string_equal(ask(t, "watched", "{}"), "{\"code\":2,\"text\":\"reset - - -\\njoin a1 s1 -\\njoin a2 s1 -\\nreplaced a1 s1 -\\n"
                                                 "leave a1 s2 timeout\\nreset - - -\\n\",\"last\":0}");
    assert_int_equal(muster_test_roster(t, NULL, NULL, NULL, NULL), 0);
    end(t);
}

static void test_what_the_test_puts(void **state)
{
    struct muster_test *t = begin();
    const struct muster_agent agent = {.size = sizeof agent, .status = MUSTER_AGENT_ONLINE, .agent = "bob", .session = "s"};

    (void)state;
    muster_test_present(t, "acme", MUSTER_ROSTER_JOIN, NULL, &agent);
    muster_test_present(t, "zeta", MUSTER_ROSTER_JOIN, NULL, &agent);
    assert_string_equal(ask(t, "find", "{}"), "{\"code\":1,\"text\":\"bob \",\"last\":1}");
    muster_test_absent(t, "acme", "bob", "bye");
    muster_test_roster_reset(t);
    assert_string_equal(ask(t, "watched", "{}"), "{\"code\":2,\"text\":\"reset - - -\\njoin bob s -\\njoin bob s -\\nleave bob s bye\\nreset - - -\\n\",\"last\":0}");
    assert_int_equal(muster_test_roster(t, "zeta", NULL, NULL, NULL), 1);
    end(t);
}

static void test_what_is_wrong_is_told(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_string_equal(ask(t, "put", "{\"agent\": \"a.1\"}"), "{\"code\":-1,\"text\":\"\",\"last\":0}");
    assert_non_null(strstr(muster_test_failure(t, 0), "roster.put() in message rpc.ann.keeper.put: agent: expected a name"));
    assert_string_equal(ask(t, "put", "{\"agent\": \"a1\", \"kind\": 2}"), "{\"code\":-1,\"text\":\"\",\"last\":0}");
    assert_non_null(strstr(muster_test_failure(t, 1), "kind is 2"));
    muster_test_fault(t, "roster.put", MUSTER_ENOMEM, 1, 1);
    assert_string_equal(ask(t, "put", "{\"agent\": \"a1\"}"), "{\"code\":-2,\"text\":\"\",\"last\":0}");
    assert_int_equal(muster_test_failures(t), 2);
    (void)muster_test_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_plugin_keeps),
        cmocka_unit_test(test_what_the_test_puts),
        cmocka_unit_test(test_what_is_wrong_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
