/* config/changes.c: every setting that differs between two configurations is named once, and no secret is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "config_demo.h"

static void collect(void *arg, const struct config_change *change)
{
    buf_printf(arg, "%s: %s%s\n", change->path, change->text, change->reloadable ? " (reloadable)" : "");
}

/* The settings of every instance that is in both and of the plugin demo. */
static void collect_settings(struct config *now, struct config *next, struct buf *told)
{
    for (size_t i = 0; i < next->n_plugins; i++)
        for (size_t j = 0; j < now->n_plugins; j++)
            if (now->plugins[j].plugin && next->plugins[i].plugin &&
                strcmp(now->plugins[j].instance, next->plugins[i].instance) == 0)
                assert_int_equal(config_setting_changes(&(struct config_settings){now, &now->plugins[j], NULL},
                                                        &(struct config_settings){next, &next->plugins[i], NULL}, collect, told),
                                 0);
}

/* Load text; the first instance, where there is one, is of the plugin demo and was loaded. */
static struct config *load_bound(const char *text)
{
    struct config *config = load(text);
    struct config_error err = {""};
    struct demo values = {0};

    for (size_t i = 0; i < config->n_plugins; i++)
        if (config->plugins[i].name && config_bind(config, &config->plugins[i], &demo_plugin, &values, &err)) {
            print_error("%s\n", err.text);
            fail();
        }
    return config;
}

static void assert_changes(const char *now_text, const char *next_text, const char *expected)
{
    struct config *now = load_bound(now_text), *next = load_bound(next_text);
    struct buf told = {0};

    config_changes(now, next, collect, &told);
    collect_settings(now, next, &told);
    assert_string_equal(told.data ? told.data : "", expected);
    buf_done(&told);
    config_free(now);
    config_free(next);
}

static void test_host(void **state)
{
    (void)state;
    assert_changes("", "", "");
    assert_changes("broker: {id: b1, log: {level: warn}}\nlimits: {watches: 5}\nnats: {creds: /a}\n",
                   "nats: {urls: ['nats://h:1', 'nats://u:secret@h:2']}\n",
                   "broker.id: b1 -> auto (the default)\n"
                   "broker.log.level: warn -> info (the default)\n"
                   "nats.urls: [\"nats://127.0.0.1:4222\"] -> [\"nats://h:1\", \"nats://u:…@h:2\"]\n"
                   "nats.creds: /a -> not set\n"
                   "limits.watches: 5 -> 1000 (the default)\n");
}

static void test_secrets_are_named_and_not_told(void **state)
{
    (void)state;
    assert_changes("postgres: {dsn: 'postgresql://u:old@h/d'}\nplugins: [{name: demo, config: {token: a}}]",
                   "postgres: {dsn: 'postgresql://u:new@h/d'}\nplugins: [{name: demo, config: {token: b}}]",
                   "postgres.dsn: changed\nplugins.demo.token: changed\n");
    assert_changes("plugins: [{name: demo, config: {token: a}}]", "plugins: [{name: demo}]",
                   "plugins.demo.token: \"…\" -> not set\n");
    assert_changes("plugins: [{name: demo, config: {token: a}}]", "plugins: [{name: demo, config: {token: a}}]", "");
}

static void test_settings_of_a_plugin(void **state)
{
    static const char now[] = "plugins:\n"
                              "  - {name: demo, lanes: 2, config: {on: false, snapshot: always, dead_after: 1m, ratio: 1,\n"
                              "     name: a, messages: [x], tables: {public.a: {tenant: t}, public.b: {}, c: {subject_key: true}}}}\n";

    (void)state;
    assert_changes(now, now, "");
    assert_changes(now,
                   "plugins: [{name: demo, config: {count: 5, dead_after: 60s, messages: [x, y],\n"
                   "  tables: {public.a: {tenant: u}, c: {}, d: {}}}}]",
                   "plugins.demo.lanes: 2 -> 1 (the default)\n"
                   "plugins.demo.on: false -> true (the default)\n"
                   "plugins.demo.snapshot: always -> never (the default)\n"
                   "plugins.demo.count: -3 -> 5\n"
                   "plugins.demo.ratio: 1 -> 0.5 (the default)\n"
                   "plugins.demo.name: a -> not set\n"
                   "plugins.demo.messages: [x] -> [x, \"y\"]\n"
                   "plugins.demo.tables.public.a.tenant: t -> u\n"
                   "plugins.demo.tables.c.subject_key: true -> false\n"
                   "plugins.demo.tables.d: added\n"
                   "plugins.demo.tables.public.b: removed\n");
}

static void test_what_can_be_taken_over(void **state)
{
    (void)state;
    assert_changes("plugins: [{name: demo, config: {dead_after: 1m, count: 1}}]",
                   "plugins: [{name: demo, config: {dead_after: 2m, count: 2}}]",
                   "plugins.demo.count: 1 -> 2\n"
                   "plugins.demo.dead_after: 1m -> 2m (reloadable)\n");
}

/* Values that an instance has are what counts, not what its file says. */
static void test_values_in_hand(void **state)
{
    struct config *config = load_bound("plugins: [{name: demo, config: {count: 1}}]");
    struct demo values = {.on = 1, .count = 7, .dead_after = 15000000000, .window = 65536, .ratio = 0.5};
    struct config_settings now = {config, &config->plugins[0], &values}, next = {config, &config->plugins[0], NULL};
    struct buf told = {0};

    (void)state;
    values.messages = (struct muster_list){.items = (const char *const[]){"muster.evt", "app"}, .n = 2};
    assert_int_equal(config_setting_changes(&now, &next, collect, &told), 0);
    assert_string_equal(told.data, "plugins.demo.count: 7 -> 1\n");
    buf_done(&told);
    config_free(config);
}

static void test_a_configuration_lives_as_long_as_it_is_held(void **state)
{
    struct config *config = load("broker: {id: b1}");

    (void)state;
    config_ref(config);
    config_free(config);
    assert_string_equal(config->broker.id, "b1"); /* the sanitizer would tell */
    config_free(config);
}

static void test_instances(void **state)
{
    static const char now[] = "plugins: [{name: demo, instance: a}, {name: demo, instance: b, config: {count: 1}}]";

    (void)state;
    assert_changes(now, "plugins: [{name: demo, instance: b, config: {count: 2}}, {name: demo, instance: a}]",
                   "plugins.b.count: 1 -> 2\n");
    assert_changes(now, "plugins: [{name: demo, instance: c}, {name: demo, instance: a}]",
                   "plugins.c: added\nplugins.b: removed\n");
    assert_changes(now, "", "plugins.a: removed\nplugins.b: removed\n");
    assert_changes("plugins: [{path: /x.so, instance: a}]", "plugins: [{name: demo, instance: a, required: false}]",
                   "plugins.a.name: not set -> demo\n"
                   "plugins.a.path: /x.so -> not set\n"
                   "plugins.a.isolation: process -> none\n"
                   "plugins.a.required: true -> false\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_secrets_are_named_and_not_told),
        cmocka_unit_test(test_settings_of_a_plugin),
        cmocka_unit_test(test_what_can_be_taken_over),
        cmocka_unit_test(test_values_in_hand),
        cmocka_unit_test(test_a_configuration_lives_as_long_as_it_is_held),
        cmocka_unit_test(test_instances),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
