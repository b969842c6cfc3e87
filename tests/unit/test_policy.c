/* child/policy.h: what the plugin of a child may name, and what it may not whatever the configuration says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>

#include <string.h>

#include "child/policy.h"

static const char *const services[] = {"weather", "tide"};
static const char *const subscribe[] = {"evt.task.>", "rpc.*.map.find", "box.a1.*", "to.>"};
static const char *const publish[] = {"evt.task.done.*", "to.>", "to.*._muster.wake", "rpc._p_acme.>", "rpc.>", "box.>", "grp.*.*.hail", ">"};

static const struct policy bare = {.plugin = "acme", .services = services, .n_services = 2};
static const struct policy wide = {.plugin = "acme", .services = services, .n_services = 2,
                                   .subscribe = subscribe, .n_subscribe = 4, .publish = publish, .n_publish = 8};

static char why[POLICY_WHY_SIZE];

static void test_own_services_are_heard(void **state)
{
    static const char *const good[] = {"rpc.*.weather.at", "rpc.*.weather.>", "rpc.a1.tide.*", "evt.weather.>", "evt.acme.storm.*"};
    static const char *const bad[] = {"rpc.*.map.find", "rpc.*.weather", "evt.>", "evt.*.storm.x", "evt.weather",
                                      "evt.task.>", "box.a1.x", "all.>", "*.a1.weather.at"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(policy_subscribe(&bare, good[i], why), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(policy_subscribe(&bare, bad[i], why), MUSTER_EACCES);
        assert_non_null(strstr(why, bad[i]));
        assert_non_null(strstr(why, "allow.subscribe"));
    }
}

static void test_a_subscription_lies_wholly_inside_what_is_allowed(void **state)
{
    static const char *const good[] = {"evt.task.>", "evt.task.*.k", "rpc.*.map.find", "rpc.a1.map.find", "box.a1.*", "to.a1.>", "to.>"};
    static const char *const bad[] = {"evt.>", "evt.*.done.k", "rpc.*.map.*", "rpc.*.map.>", "rpc.*.map.find.x", "box.*.x", "box.a1.>", "box.a1"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(policy_subscribe(&wide, good[i], why), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(policy_subscribe(&wide, bad[i], why), MUSTER_EACCES);
}

static void test_names_of_the_broker_are_never_heard(void **state)
{
    static const char *const all[] = {">"}, *const taken[] = {">", "rpc.>", "rpc.*.>", "rpc.a1.task.submit", "*.*.task.x", "rpc.*.*.at"};
    const struct policy open = {.plugin = "acme", .subscribe = all, .n_subscribe = 1};

    (void)state;
    assert_int_equal(policy_subscribe(&open, "box.a1.>", why), 0);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        assert_int_equal(policy_subscribe(&open, taken[i], why), MUSTER_EACCES);
        assert_non_null(strstr(why, "come with Muster"));
    }
    assert_int_equal(policy_subscribe(&open, "_in.acme.>", why), MUSTER_EACCES);
    assert_int_equal(policy_subscribe(&open, "_INBOX.>", why), MUSTER_EACCES);
    assert_int_equal(policy_subscribe(&open, "rpc..x", why), MUSTER_EINVAL);
    assert_int_equal(policy_subscribe(&open, "", why), MUSTER_EINVAL);
    assert_int_equal(policy_subscribe(&open, NULL, why), MUSTER_EINVAL);
}

static void test_own_events_are_emitted(void **state)
{
    static const char *const bad[] = {"evt.task.done.k", "evt.weather", "evt", "to.a1._p_acme.x", "rpc._p_acme.map.find", "all._p_acme.x", "acme.x"};

    (void)state;
    assert_int_equal(policy_publish(&bare, "evt.weather.storm.k1", why), 0);
    assert_int_equal(policy_publish(&bare, "evt.tide.high._x", why), 0);
    assert_int_equal(policy_publish(&bare, "evt.acme.storm.k1", why), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(policy_publish(&bare, bad[i], why), MUSTER_EACCES);
        assert_non_null(strstr(why, "allow.publish"));
    }
}

static void test_nobody_else_is_spoken_for(void **state)
{
    static const char *const good[] = {"to.a1._p_acme.hail", "to.a1._muster.wake", "rpc._p_acme.map.find", "grp.g._p_acme.hail",
                                       "evt.task.done.k", "evt.task.done._k"};
    static const char *const bad[] = {"to.a1.a2.hail", "rpc.a1.map.find", "rpc._muster.map.find", "rpc._p_other.map.find", "all.a1.x",
                                      "grp.g.a1.hail", "to.a1._p_acmes.x", "to.a1._muster.sleep", "all._muster.x", "evt._.head"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(policy_publish(&wide, good[i], why), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(policy_publish(&wide, bad[i], why), MUSTER_EACCES);
}

static void test_what_the_broker_alone_says_is_never_said(void **state)
{
    static const char *const bad[] = {"box.a1.x", "msg.a1", "cdc.main.public.t.insert.k", "audit.task.x.a1", "log.all.a1.x", "sub.a1.x",
                                      "pres.1.x", "_in.acme.cdc.x", "_INBOX.x"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(policy_publish(&wide, bad[i], why), MUSTER_EACCES);
        assert_non_null(strstr(why, "only the broker"));
    }
    assert_int_equal(policy_publish(&wide, "evt.weather.*.k", why), MUSTER_EINVAL);
    assert_int_equal(policy_publish(&wide, "", why), MUSTER_EINVAL);
    assert_int_equal(policy_publish(&wide, NULL, why), MUSTER_EINVAL);
}

static void test_respond_comes_to_the_plugin(void **state)
{
    (void)state;
    assert_int_equal(policy_respond(&bare, "to.a1._p_acme.hi", "rpc.a1.tide.took.r", why), 0);
    assert_int_equal(policy_respond(&bare, "to.a1._p_acme.hi", "rpc.a1.task.accept.r", why), MUSTER_EACCES);
    assert_non_null(strstr(why, "task is no service of plugin acme"));
    assert_int_equal(policy_respond(&bare, "to.a1._p_acme.hi", "rpc.a2.tide.took.r", why), MUSTER_EINVAL);
    assert_int_equal(policy_respond(&bare, "all._p_acme.hi", "rpc.a1.tide.took.r", why), MUSTER_EINVAL);
}

static void test_streams_are_of_the_plugin(void **state)
{
    const struct policy task = {.plugin = "evt"};

    (void)state;
    assert_int_equal(policy_stream(&bare, "acme", "acme.>", why), 0);
    assert_int_equal(policy_stream(&bare, "acme_log", "acme_log.*.x", why), 0);
    assert_int_equal(policy_stream(&bare, "CDC_main", "acme.>", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acmes", "acme.>", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acme_", "acme.>", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acme", "cdc.main.>", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acme", ">", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acme", "*.x", why), MUSTER_EACCES);
    assert_int_equal(policy_stream(&bare, "acme", "acme..x", why), MUSTER_EINVAL);
    assert_int_equal(policy_stream(&bare, "acme.x", "acme.>", why), MUSTER_EINVAL);
    assert_int_equal(policy_stream(&task, "evt", "evt.>", why), MUSTER_EACCES);
    assert_int_equal(policy_append(&bare, "acme.x", why), 0);
    assert_int_equal(policy_append(&bare, "acme_log.x", why), 0);
    assert_int_equal(policy_append(&bare, "acmes.x", why), MUSTER_EACCES);
    assert_int_equal(policy_append(&bare, "cdc.main.x", why), MUSTER_EACCES);
    assert_int_equal(policy_append(&task, "evt.acme.x.y", why), MUSTER_EACCES);
    assert_int_equal(policy_append(&bare, "acme.>", why), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_services_are_heard),
        cmocka_unit_test(test_a_subscription_lies_wholly_inside_what_is_allowed),
        cmocka_unit_test(test_names_of_the_broker_are_never_heard),
        cmocka_unit_test(test_own_events_are_emitted),
        cmocka_unit_test(test_nobody_else_is_spoken_for),
        cmocka_unit_test(test_what_the_broker_alone_says_is_never_said),
        cmocka_unit_test(test_respond_comes_to_the_plugin),
        cmocka_unit_test(test_streams_are_of_the_plugin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
