/*
 * config/: options of every type with every kind of error, option tables, what is printed and hidden, the
 * schema.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config_demo.h"

static void bind(const struct config *config, struct demo *out)
{
    struct config_error err = {""};

    *out = (struct demo){0};
    if (config_bind(config, &config->plugins[0], &demo_plugin, out, &err)) {
        print_error("%s\n", err.text);
        fail();
    }
}

static void test_option_errors(void **state)
{
    static const struct bad table[] = {
        {"{dead_after: 5d}", "m.yaml:4:20: plugins.demo.dead_after: 5d is above 1h"},
        {"dead_after: 999999999999999999999d",
         "m.yaml:4:19: plugins.demo.dead_after: 999999999999999999999d is above 1h"},
        {"dead_after: 10ms", "m.yaml:4:19: plugins.demo.dead_after: 10ms is below 1s"},
        {"dead_after: 30",
         "m.yaml:4:19: plugins.demo.dead_after: expected a duration such as 5s, got '30'; write 30s "
         "for seconds or 30ms for milliseconds"},
        {"dead_after: abc",
         "m.yaml:4:19: plugins.demo.dead_after: expected a duration such as 5s, got 'abc'"},
        {"dead_after: 1.5s",
         "m.yaml:4:19: plugins.demo.dead_after: expected a duration such as 5s, got '1.5s'; the "
         "units are ms, s, m, h and d, one of them, after a whole number"},
        {"dead_after: 05s",
         "m.yaml:4:19: plugins.demo.dead_after: expected a duration such as 5s, got '05s'; a number "
         "does not begin with 0"},
        {"dead_after: [5s]",
         "m.yaml:4:19: plugins.demo.dead_after: expected a duration such as 5s, got a list"},
        {"dead_after:",
         "m.yaml:4:18: plugins.demo.dead_after: expected a duration such as 5s, got nothing"},
        {"on: yes",
         "m.yaml:4:11: plugins.demo.on: expected true or false, got 'yes'; write true, without quotes"},
        {"on: Off",
         "m.yaml:4:11: plugins.demo.on: expected true or false, got 'Off'; write false, without quotes"},
        {"on: 'true'",
         "m.yaml:4:11: plugins.demo.on: expected true or false, got 'true'; write true, without quotes"},
        {"on: 2", "m.yaml:4:11: plugins.demo.on: expected true or false, got '2'"},
        {"count: 010",
         "m.yaml:4:14: plugins.demo.count: expected a whole number, got '010'; a number does not begin "
         "with 0"},
        {"count: 0x1F",
         "m.yaml:4:14: plugins.demo.count: expected a whole number, got '0x1F'; write it in decimal"},
        {"count: 1_000",
         "m.yaml:4:14: plugins.demo.count: expected a whole number, got '1_000'; leave out the "
         "underscores"},
        {"count: +5",
         "m.yaml:4:14: plugins.demo.count: expected a whole number, got '+5'; leave out the +"},
        {"count: '5'",
         "m.yaml:4:14: plugins.demo.count: expected a whole number, got '5'; leave out the quotes"},
        {"count: 1.5", "m.yaml:4:14: plugins.demo.count: expected a whole number, got '1.5'"},
        {"count: 12:30", "m.yaml:4:14: plugins.demo.count: expected a whole number, got '12:30'"},
        {"count: -11", "m.yaml:4:14: plugins.demo.count: -11 is below -10"},
        {"count: -99999999999999999999",
         "m.yaml:4:14: plugins.demo.count: -99999999999999999999 is below -10"},
        {"count: 99999999999999999999",
         "m.yaml:4:14: plugins.demo.count: 99999999999999999999 is above 64"},
        {"ratio: 1.01", "m.yaml:4:14: plugins.demo.ratio: 1.01 is above 1"},
        {"ratio: -1e-3", "m.yaml:4:14: plugins.demo.ratio: -1e-3 is below 0"},
        {"ratio: .inf", "m.yaml:4:14: plugins.demo.ratio: expected a number, got '.inf'"},
        {"ratio: 1e999", "m.yaml:4:14: plugins.demo.ratio: expected a number, got '1e999'"},
        {"ratio: \"0.5\"",
         "m.yaml:4:14: plugins.demo.ratio: expected a number, got '0.5'; leave out the quotes"},
        {"window: 64kb",
         "m.yaml:4:15: plugins.demo.window: expected a size such as 64KiB, got '64kb'; the units are "
         "KiB, MiB and GiB, or none for bytes"},
        {"window: 2GiB", "m.yaml:4:15: plugins.demo.window: 2GiB is above 1GiB"},
        {"window: 1023", "m.yaml:4:15: plugins.demo.window: 1023 is below 1KiB"},
        {"snapshot: neve",
         "m.yaml:4:17: plugins.demo.snapshot: expected one of never, always, got 'neve'; did you mean "
         "never?"},
        {"name: ''", "m.yaml:4:13: plugins.demo.name: has 0 bytes, at least 1 are needed"},
        {"name: 1234567890123", "m.yaml:4:13: plugins.demo.name: has 13 bytes, more than 12"},
        {"name: {a: b}", "m.yaml:4:13: plugins.demo.name: expected text, got a map"},
        {"token: [swordfish]", "m.yaml:4:14: plugins.demo.token: expected text, got a list"},
        {"token: true",
         "m.yaml:4:14: plugins.demo.token: expected text, got a value that is not shown; put it in "
         "quotes if it is meant as text"},
        {"messages: a",
         "m.yaml:4:17: plugins.demo.messages: expected a list such as [a, b], got 'a'; put it in "
         "brackets"},
        {"messages: [a, b, c, d]", "m.yaml:4:17: plugins.demo.messages: has 4 items, more than 3"},
        {"messages: [a, {b: c}]", "m.yaml:4:21: plugins.demo.messages[1]: expected text, got a map"},
        {"messages: [a,\n        false]",
         "m.yaml:5:9: plugins.demo.messages[1]: expected text, got 'false'; put it in "
         "quotes if it is meant as text"},
        {"tables: [public.orders]",
         "m.yaml:4:15: plugins.demo.tables: expected a map of names to settings, got a list"},
        {"tables: {public.orders: yes}",
         "m.yaml:4:31: plugins.demo.tables.public.orders: expected a map of settings, "
         "got 'yes'"},
        {"tables: {public.orders: {tennant: acme}}",
         "m.yaml:4:32: plugins.demo.tables.public.orders.tennant: unknown key; did you mean tenant?"},
        {"tables:\n        public.orders:\n          subject_key: 1\n",
         "m.yaml:6:24: plugins.demo.tables.public.orders.subject_key: expected true or false, got '1'; "
         "write true, "
         "without quotes"},
        {"dead_aftr: 5s", "m.yaml:4:7: plugins.demo.dead_aftr: unknown key; did you mean dead_after?"},
        {"\"a\\nb\": 5s",
         "m.yaml:4:7: plugins.demo.a?b: unknown key; the keys here are on, snapshot, count, dead_after, "
         "window, ratio, name, token, key_file, messages, tables"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config *config = load_demo(table[i].text);
        struct config_error err = {""};
        struct demo demo = {0};

        assert_int_equal(config_bind(config, &config->plugins[0], &demo_plugin, &demo, &err),
                         MUSTER_EINVAL);
        assert_string_equal(err.text, table[i].expected);
        config_free(config);
    }
}

static void test_option_values(void **state)
{
    struct config *config =
        load_demo("on: false\n      snapshot: always\n      count: 64\n      dead_after: \"1h\"\n"
                  "      window: 8MiB\n      ratio: 2.5e-1\n      name: 007\n      token: \"a b\"\n"
                  "      key_file: keys/a\n      messages:\n        - 'null'\n        - no\n"
                  "      tables: {public.orders: {tenant: acme, owner_column: user_id, "
                  "subject_key: true}, b: {}, c: }");
    const struct demo_table *tables;
    char expected[4096], folder[2048];
    struct demo d;

    (void)state;
    bind(config, &d);
    assert_int_equal(d.on, 0);
    assert_int_equal(d.snapshot, 1);
    assert_int_equal(d.count, 64);
    assert_int_equal(d.dead_after, 3600000000000);
    assert_int_equal(d.window, 8 << 20);
    assert_true(d.ratio == 0.25);
    assert_string_equal(d.name, "007");
    assert_string_equal(d.token, "a b");
    assert_non_null(getcwd(folder, sizeof folder));
    snprintf(expected, sizeof expected, "%s/keys/a", folder);
    assert_string_equal(d.key_file, expected);
    assert_int_equal(d.messages.n, 2);
    assert_string_equal(d.messages.items[0], "null");
    assert_string_equal(d.messages.items[1], "no");
    assert_int_equal(d.tables.n, 3);
    assert_string_equal(d.tables.keys[0], "public.orders");
    tables = d.tables.entries;
    assert_string_equal(tables[0].tenant, "acme");
    assert_string_equal(tables[0].owner_column, "user_id");
    assert_int_equal(tables[0].subject_key, 1);
    assert_string_equal(d.tables.keys[2], "c");
    assert_null(tables[2].tenant);
    config_free(config);
}

static void assert_demo_defaults(const struct demo *d)
{
    assert_int_equal(d->on, 1);
    assert_int_equal(d->snapshot, 0);
    assert_int_equal(d->count, -3);
    assert_int_equal(d->dead_after, 15000000000);
    assert_int_equal(d->window, 65536);
    assert_true(d->ratio == 0.5);
    assert_null(d->name);
    assert_int_equal(d->messages.n, 2);
    assert_string_equal(d->messages.items[0], "muster.evt");
    assert_string_equal(d->messages.items[1], "app");
    assert_int_equal(d->tables.n, 0);
}

static void test_option_defaults(void **state)
{
    static const char *const texts[] = {"plugins: [{name: demo}]", "plugins: [{name: demo, config: {}}]",
                                        "plugins: [{name: demo, config: }]"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct config *config = load(texts[i]);
        struct demo d;

        bind(config, &d);
        assert_demo_defaults(&d);
        config_free(config);
    }
}

/* One option in a plugin of its own, for tables that are wrong and for what is required. */
static void bind_one(const struct muster_option *option, const char *text, const char *expected)
{
    struct muster_plugin plugin = {.name = "demo",
                                   .version = "1",
                                   .options = option,
                                   .n_options = 1,
                                   .option_size = sizeof *option,
                                   .config_size = 32};
    struct config *config = load(text);
    struct config_error err = {""};
    int64_t out[4] = {0};

    assert_int_equal(config_bind(config, &config->plugins[0], &plugin, out, &err), MUSTER_EINVAL);
    assert_string_equal(err.text, expected);
    config_free(config);
}

static void test_missing_required(void **state)
{
    struct muster_option slot = {.key = "slot", .type = MUSTER_T_STRING, .flags = MUSTER_O_REQUIRED};
    struct muster_option ttl = {.key = "ttl", .type = MUSTER_T_DURATION_NS, .flags = MUSTER_O_REQUIRED};

    (void)state;
    bind_one(&slot, "plugins:\n  - name: demo\n",
             "m.yaml:2:5: plugins.demo.slot: is missing; it needs text");
    bind_one(&slot, "plugins: [{name: demo, config: {}}]",
             "m.yaml:1:32: plugins.demo.slot: is missing; it needs text");
    bind_one(&ttl, "plugins:\n  - {name: demo, instance: x, config: }\n",
             "m.yaml:2:39: plugins.x.ttl: is missing; it needs a duration such as 5s");
    bind_one(&ttl, "plugins:\n  - {name: demo, instance: x, config: {a: 1}}\n",
             "m.yaml:2:40: plugins.x.a: unknown key; the keys here are ttl");
}

static void test_wrong_tables(void **state)
{
    static const struct muster_option self[] = {{.key = "m",
                                                 .type = MUSTER_T_MAP,
                                                 .fields = self,
                                                 .n_fields = 1,
                                                 .entry_size = sizeof(struct muster_map)}};
    static const char *const one = "plugins: [{name: demo}]";

    (void)state;
    bind_one(&(struct muster_option){.key = "x", .type = 99}, one,
             "plugins.demo: the plugin's option table is wrong at x: its type is not known to this broker");
    bind_one(&(struct muster_option){.type = MUSTER_T_INT}, one,
             "plugins.demo: the plugin's option table is wrong at (without a key): its key is missing");
    bind_one(
        &(struct muster_option){.key = "x", .type = MUSTER_T_INT, .offset = 25}, one,
        "plugins.demo: the plugin's option table is wrong at x: its offset does not fit the config struct");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_ENUM}, one,
             "plugins.demo: the plugin's option table is wrong at x: an enum without choices");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_INT, .min = 1}, one,
             "plugins.demo: the plugin's option table is wrong at x: its min is above its max");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_INT, .flags = MUSTER_O_SECRET}, one,
             "plugins.demo: the plugin's option table is wrong at x: only text and lists can be secret");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_INT, .flags = MUSTER_O_UNIQUE}, one,
             "plugins.demo: the plugin's option table is wrong at x: only text can be unique");
    bind_one(&(struct muster_option){.key = "x",
                                     .type = MUSTER_T_MAP,
                                     .fields = &(struct muster_option){.key = "y", .flags = MUSTER_O_ONCE},
                                     .n_fields = 1,
                                     .entry_size = 8},
             one,
             "plugins.demo: the plugin's option table is wrong at y: only what is outside of maps can be "
             "unique, or set once");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_STRING, .def = "\xff"}, one,
             "plugins.demo: the plugin's option table is wrong at x: its default is not UTF-8");
    bind_one(&(struct muster_option){.key = "a..b", .type = MUSTER_T_INT}, one,
             "plugins.demo: the plugin's option table is wrong at a..b: its key is missing");
    bind_one(self, one, "plugins.demo: the plugin's option table is wrong at m: maps nested too deep");
    bind_one(&(struct muster_option){.key = "x", .type = MUSTER_T_INT, .def = "5s"}, one,
             "m.yaml: plugins.demo.x: its default: expected a whole number, got '5s'");
}

struct shared {
    const char *slot, *port, *token;
    struct muster_list messages;
};

/* Settings that instances of one plugin must not share. */
static const struct muster_option shared_options[] = {
    {.key = "slot", .type = MUSTER_T_STRING, .flags = MUSTER_O_UNIQUE, .offset = offsetof(struct shared, slot)},
    {.key = "in.port",
     .type = MUSTER_T_STRING,
     .flags = MUSTER_O_UNIQUE,
     .def = "7000",
     .offset = offsetof(struct shared, port)},
    {.key = "token",
     .type = MUSTER_T_STRING,
     .flags = MUSTER_O_UNIQUE | MUSTER_O_SECRET,
     .offset = offsetof(struct shared, token)},
    {.key = "messages",
     .type = MUSTER_T_LIST,
     .flags = MUSTER_O_ONCE,
     .offset = offsetof(struct shared, messages)},
};
#define SHARED_PLUGIN(of)                                                                                \
    {                                                                                                    \
        .name = (of), .version = "1", .options = shared_options,                                         \
        .n_options = sizeof shared_options / sizeof *shared_options, .option_size = sizeof *shared_options, \
        .config_size = sizeof(struct shared)                                                             \
    }
static const struct muster_plugin shared_plugin = SHARED_PLUGIN("shared");
static const struct muster_plugin other_plugin = SHARED_PLUGIN("other");

/* Bind a second instance, whose settings begin at line 4 column 43, after those of one with the same plugin and of another
 * plugin. Each is bound twice, as one with two lanes is: it is not in its own way. */
static void bind_second(const char *settings, const char *second, const char *expected)
{
    struct config_error err = {""};
    struct config *config;
    char text[512];

    (void)snprintf(text, sizeof text,
                   "plugins:\n  - {name: other, config: %s}\n  - {name: shared, instance: one, config: %s}\n"
                   "  - {name: shared, instance: two, config: %s}\n",
                   second, settings, second);
    config = load(text);
    for (size_t i = 0; i < 6; i++) {
        const struct muster_plugin *plugin = i < 2 ? &other_plugin : &shared_plugin;
        struct shared out = {0};
        int code = config_bind(config, &config->plugins[i / 2], plugin, &out, &err);

        assert_int_equal(code, i >= 4 && *expected ? MUSTER_EINVAL : 0);
    }
    assert_string_equal(err.text, expected);
    config_free(config);
}

static void test_shared_settings(void **state)
{
    static const char *const first = "{slot: x, in: {port: '1'}, token: swordfish, messages: [m]}";

    (void)state;
    bind_second(first, "{slot: y}", "");
    bind_second(first, "{slot: X, in: {port: '2'}, token: s, messages: []}", "");
    bind_second("{in: {port: '1'}}", "{slot: x, messages: [m]}", "");
    bind_second(first, "{slot: x}",
                "m.yaml:4:50: plugins.two.slot: expected a value of its own, got 'x', which instance one has too");
    bind_second(first, "{slot: y, in: {port: 1}}",
                "m.yaml:4:64: plugins.two.in.port: expected a value of its own, got '1', which instance one has too");
    bind_second(first, "{token: swordfish}",
                "m.yaml:4:51: plugins.two.token: expected a value of its own, got a value that is not shown, which "
                "instance one has too");
    bind_second(first, "{messages: [n, o]}",
                "m.yaml:4:54: plugins.two.messages: instance one sets it already; only one instance of shared can");
    bind_second("{}", "{slot: x}",
                "m.yaml:4:43: plugins.two.in.port: is missing; its default '7000' is what instance one has too");
    bind_second("{in: {port: '7000'}}", "{}",
                "m.yaml:4:43: plugins.two.in.port: is missing; its default '7000' is what instance one has too");
}

struct grouped {
    int64_t a, b, c, d;
};

/* Keys with dots: maps in maps; their options need not stand together in the table. */
static const struct muster_option grouped_options[] = {
    {.key = "out.a", .type = MUSTER_T_INT, .def = "1", .offset = offsetof(struct grouped, a)},
    {.key = "b", .type = MUSTER_T_INT, .def = "2", .offset = offsetof(struct grouped, b)},
    {.key = "out.in.c",
     .type = MUSTER_T_INT,
     .flags = MUSTER_O_REQUIRED,
     .max = 9,
     .offset = offsetof(struct grouped, c)},
    {.key = "out.in.dd", .type = MUSTER_T_INT, .offset = offsetof(struct grouped, d)},
};
static const struct muster_plugin grouped_plugin = {
    .name = "grouped",
    .version = "1",
    .options = grouped_options,
    .n_options = 4,
    .option_size = sizeof *grouped_options,
    .config_size = sizeof(struct grouped),
};

static void test_group_errors(void **state)
{
    static const struct bad table[] = {
        {"{}", "m.yaml:4:7: plugins.demo.out.in.c: is missing; it needs a whole number"},
        {"{out: }", "m.yaml:4:7: plugins.demo.out.in.c: is missing; it needs a whole number"},
        {"{out: {in: {c: 10}}}", "m.yaml:4:22: plugins.demo.out.in.c: 10 is above 9"},
        {"{out: 5}", "m.yaml:4:13: plugins.demo.out: expected a map of settings, got '5'"},
        {"{out: {in: [c]}}", "m.yaml:4:18: plugins.demo.out.in: expected a map of settings, got a list"},
        {"{out.in.c: 5}", "m.yaml:4:8: plugins.demo.out.in.c: unknown key; did you mean out?"},
        {"{out: {ib: {c: 1}}}", "m.yaml:4:14: plugins.demo.out.ib: unknown key; did you mean in?"},
        {"{out: {in: {x: 1}}}", "m.yaml:4:19: plugins.demo.out.in.x: unknown key; the keys here are c, dd"},
        {"{ou: 1}", "m.yaml:4:8: plugins.demo.ou: unknown key; did you mean out?"},
        {"{c: 1}", "m.yaml:4:8: plugins.demo.c: unknown key; the keys here are out, b"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config *config = load_demo(table[i].text);
        struct config_error err = {""};
        struct grouped out = {0};

        assert_int_equal(config_bind(config, &config->plugins[0], &grouped_plugin, &out, &err),
                         MUSTER_EINVAL);
        assert_string_equal(err.text, table[i].expected);
        config_free(config);
    }
}

static void test_groups(void **state)
{
    struct config *config = load_demo("{b: 3, out: {in: {c: 4}}}");
    struct config_error err = {""};
    struct grouped out = {0};
    struct buf b = {0};
    char at[256];

    (void)state;
    assert_int_equal(config_bind(config, &config->plugins[0], &grouped_plugin, &out, &err), 0);
    assert_int_equal(out.a, 1);
    assert_int_equal(out.b, 3);
    assert_int_equal(out.c, 4);
    assert_int_equal(out.d, 0);
    assert_true(config_position(config, &config->plugins[0], "out.in.c", at));
    assert_string_equal(at, "m.yaml:4:25");
    config_print(config, &b);
    assert_non_null(strstr(b.data, "    config:\n      out:\n        a: 1\n        in:\n          c: 4\n"
                                   "          dd: 0\n      b: 3\n"));
    buf_clear(&b);
    config_schema(&grouped_plugin, &b);
    assert_non_null(strstr(b.data,
                           "\"properties\":{\"out\":{\"type\":\"object\",\"additionalProperties\":false,"
                           "\"properties\":{\"a\":{\"type\":\"integer\",\"default\":1},\"in\":{"));
    assert_non_null(strstr(b.data,
                           "\"dd\":{\"type\":\"integer\"}},\"required\":[\"c\"]}},\"required\":[\"in\"]},"
                           "\"b\":{\"type\":\"integer\",\"default\":2}},\"required\":[\"out\"]}"));
    buf_done(&b);
    config_free(config);
}

/* Two options that cannot stand in one table. */
static void test_clashing_keys(void **state)
{
    static const char *const pairs[][2] = {{"a", "a"}, {"a.b", "a"}, {"a", "a.b"}};
    struct config *config = load("plugins: [{name: demo}]");
    struct muster_option options[2] = {{.type = MUSTER_T_INT}, {.type = MUSTER_T_INT}};
    struct muster_plugin plugin = grouped_plugin;
    struct config_error err = {""};
    struct grouped out = {0};

    (void)state;
    plugin.options = options;
    plugin.n_options = 2;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        options[0].key = pairs[i][0];
        options[1].key = pairs[i][1];
        assert_int_equal(config_bind(config, &config->plugins[0], &plugin, &out, &err), MUSTER_EINVAL);
        assert_non_null(strstr(err.text, "its key is in the table already"));
    }
    options[0].key = "ab.c";
    options[1].key = "a";
    assert_int_equal(config_bind(config, &config->plugins[0], &plugin, &out, &err), 0);
    config_free(config);
}

/* A plugin of another header: its options are longer, or end before `fields`. */
static void test_stride(void **state)
{
    static const struct {
        struct muster_option o;
        int64_t newer;
    } longer[] = {{{.key = "a", .type = MUSTER_T_INT, .def = "1"}, 7},
                  {{.key = "b", .type = MUSTER_T_INT, .def = "2", .offset = 8}, 7}};
    enum { SHORT = offsetof(struct muster_option, fields) };
    struct muster_plugin plugin = {
        .options = &longer[0].o, .n_options = 2, .option_size = sizeof *longer, .config_size = 16};
    struct config *config = load("plugins: [{name: demo, config: {b: 5}}]");
    struct config_error err = {""};
    char shorter[2 * SHORT];
    int64_t out[2] = {0};

    (void)state;
    assert_int_equal(config_bind(config, &config->plugins[0], &plugin, out, &err), 0);
    assert_int_equal(out[0], 1);
    assert_int_equal(out[1], 5);
    memcpy(shorter, &longer[0].o, SHORT);
    memcpy(shorter + SHORT, &longer[1].o, SHORT);
    plugin.options = (const struct muster_option *)(const void *)shorter;
    plugin.option_size = SHORT;
    memset(out, 0, sizeof out);
    assert_int_equal(config_bind(config, &config->plugins[0], &plugin, out, &err), 0);
    assert_int_equal(out[0], 1);
    assert_int_equal(out[1], 5);
    config_free(config);
}

static void test_position(void **state)
{
    struct config *c = load_demo("count: 1\n      ratio: 1");
    char at[256];

    (void)state;
    assert_true(config_position(c, &c->plugins[0], "ratio", at));
    assert_string_equal(at, "m.yaml:5:7");
    assert_false(config_position(c, &c->plugins[0], "name", at));
    config_free(c);
}

static void test_hidden(void **state)
{
    static const struct bad table[] = {
        {"postgresql://muster_broker:pw@host/db", "postgresql://muster_broker:…@host/db"},
        {"postgresql://muster_broker@host/db", "postgresql://muster_broker@host/db"},
        {"postgres://h/db?sslmode=require&password=pw&x=y",
         "postgres://h/db?sslmode=require&password=…&x=y"},
        {"postgres://h/db?pass%77ord=pw", "postgres://h/db?pass%77ord=…"},
        {"postgresql://u:p/w@h", "postgresql://…"},
        {"postgresql://h:1/db?password=p@w", "postgresql://…"},
        {"host=h password=pw user=u", "host=h password=… user=u"},
        {"host=h PassWord = 'p\\' w' user=u", "host=h PassWord = … user=u"},
        {"password=p@w:x host=h", "password=… host=h"},
        {"sslpassword=pw", "sslpassword=…"},
        {"nats://token@h:1", "nats://…@h:1"},
        {"nats://u:p@h:1", "nats://u:…@h:1"},
        {"u:p@h", "…@h"},
        {"/d/u:p@h", "/…@h"}, /* an absolute path stays one */
        {"u:p@h/d?password=pw", "…@h/d?password=…"},
        {"nats://a:pw@h,nats://b:pw@h", "nats://…"},
        {"url=nats://a:pw@h", "url=nats://a:…@h"},
        {"a password=x:y@h", "…@h"},
        {"a: password='x y' z", "a: password=… z"},
        {"host=h password='x://y:z@w'", "host=h password=…"},
        {"a password of mine", "a password of mine"},
        {"plain", "plain"},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct buf b = {0};

        config_hide(&b, table[i].text);
        assert_string_equal(b.data ? b.data : "", table[i].expected);
        buf_clear(&b);
        config_hide(&b, table[i].expected); /* hidden once is hidden for good */
        assert_string_equal(b.data ? b.data : "", table[i].expected);
        buf_done(&b);
    }
}

static void test_print(void **state)
{
    static const char expected[] = "# The effective configuration: file, environment and defaults.\n"
                                   "broker:\n"
                                   "  id: auto\n"
                                   "  http: \"127.0.0.1:7422\"\n"
                                   "  admin: \"127.0.0.1:7423\"\n"
                                   "  root: mst\n"
                                   "  tls: {}\n"
                                   "  log:\n"
                                   "    format: text\n"
                                   "    level: warn\n"
                   "    audit: all\n"
                                   "nats:\n"
                                   "  urls: [\"nats://u:…@h:4222\"]\n"
                                   "  creds: /etc/b.creds\n"
                                   "  callout_account: MST\n"
                                   "  tls: {}\n"
                                   "postgres:\n"
                                   "  dsn: \"postgresql://u:…@h/db\"\n"
                                   "  pool: 4\n"
                                   "limits:\n"
                                   "  requests_per_s: 0\n"
                                   "  burst: 0\n"
                                   "  bytes_per_s: 0\n"
                                   "  in_flight: 0\n"
                                   "  agent_requests_per_s: 0\n"
                                   "  agent_bytes_per_s: 0\n"
                                   "  agent_in_flight: 0\n"
                                   "  queued_messages: 0\n"
                                   "  queued_bytes: 0\n"
                                   "  connections: 0\n"
                                   "  subscriptions: 500\n"
                                   "  out_bytes: 0\n"
                                   "  stream_bytes: 0\n"
                                   "  stream_messages: 0\n"
                                   "  watches: 1000\n"
                                   "plugins:\n"
                                   "  - name: demo\n"
                                   "    instance: demo\n"
                                   "    lanes: 1\n"
                                   "    isolation: none\n"
                                   "    required: true\n"
                                   "    config:\n"
                                   "      \"on\": true\n"
                                   "      snapshot: never\n"
                                   "      count: -3\n"
                                   "      dead_after: 1m\n"
                                   "      window: 64KiB\n"
                                   "      ratio: 0.5\n"
                                   "      name: \"yes\"\n"
                                   "      token: \"…\"\n"
                                   "      messages: [\"a\\x09b\", c]\n"
                                   "      tables:\n"
                                   "        public.orders:\n"
                                   "          tenant: \"007\"\n"
                                   "          subject_key: true\n"
                                   "        x:\n"
                                   "          subject_key: false\n"
                                   "  - name: other\n"
                                   "    instance: two\n"
                                   "    lanes: 1\n"
                                   "    isolation: none\n"
                                   "    required: true\n"
                                   "    config:\n"
                                   "      a: 5s\n"
                                   "      api_token: \"…\"\n"
                                   "      list:\n"
                                   "        - \"5\"\n"
                                   "        -\n"
                                   "          b: null\n"
                                   "          c: {}\n";
    struct config *c = load(
        "broker: {log: {level: warn}}\n"
        "nats: {urls: ['nats://u:secret@h:4222'], creds: /etc/b.creds}\n"
        "postgres: {dsn: 'postgresql://u:secret@h/db'}\n"
        "plugins:\n"
        "  - {name: demo, config: {dead_after: 60s, name: 'yes', token: secret,\n"
        "     messages: [\"a\\tb\", c], tables: {public.orders: {tenant: 007, subject_key: true}, x: }}}\n"
        "  - {name: other, instance: two, config: {a: 5s, api_token: secret, list: ['5', {b: , c: "
        "{}}]}}\n");
    struct config *again;
    struct buf b = {0}, b2 = {0};
    struct demo d;

    (void)state;
    bind(c, &d);
    config_print(c, &b);
    assert_false(buf_failed(&b));
    assert_string_equal(b.data, expected);
    again = load(b.data);
    bind(again, &d);
    config_print(again, &b2);
    assert_string_equal(b2.data, expected);
    config_free(again);
    config_free(c);
    buf_done(&b);
    buf_done(&b2);
}

/* As the fuzzer does: settings that do not fit stay unbound. */
static void print_as_far_as_bound(const char *text, struct buf *out)
{
    struct config *c = load(text);
    struct config_error err = {""};
    struct demo d = {0};

    if (c->n_plugins)
        (void)config_bind(c, &c->plugins[0], &demo_plugin, &d, &err);
    config_print(c, out);
    config_free(c);
}

static void prints_again(const char *text)
{
    struct buf first = {0}, second = {0};

    print_as_far_as_bound(text, &first);
    print_as_far_as_bound(first.data, &second);
    assert_string_equal(second.data, first.data);
    buf_done(&first);
    buf_done(&second);
}

/* What is hidden, and what needs many escapes, loads again as what it was. */
static void test_print_again(void **state)
{
    struct buf b = {0};

    (void)state;
    prints_again("plugins: [{name: demo, config: {token: true}}]\n"); /* no text, and none afterwards */
    prints_again("plugins: [{name: demo, config: {tables: {secret: {tenant: false}}}}]\n");
    prints_again("plugins: [{name: demo, config: {tables: {secret: {tenant: ~}}}}]\n");
    prints_again("plugins: [{name: demo, config: {key_file: 'a:b@c'}}]\n");
    prints_again("plugins: [{path: /x.so, allow: {read: ['/a:b@c', 'a:b@c']}}]\n");
    prints_again("nats: {creds: 'a:b@c'}\n");
    buf_puts(&b, "plugins: [{name: demo, config: {\"");
    for (int i = 0; i < CONFIG_MAX_KEY; i++)
        buf_puts(&b, "\\a");
    buf_puts(&b, "\": x}}]\n");
    prints_again(b.data);
    buf_done(&b);
}

static void test_schema(void **state)
{
    static const char expected[] =
        "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"demo "
        "1.2\",\"type\":\"object\","
        "\"additionalProperties\":false,\"properties\":{"
        "\"on\":{\"type\":\"boolean\",\"default\":true},"
        "\"snapshot\":{\"type\":\"string\",\"enum\":[\"never\",\"always\"],\"default\":\"never\"},"
        "\"count\":{\"type\":\"integer\",\"minimum\":-10,\"maximum\":64,\"default\":-3},"
        "\"dead_after\":{\"type\":\"string\",\"pattern\":\"^(0|[1-9][0-9]*)(ms|s|m|h|d)$\",\"description\":"
        "\"Silence "
        "after which an agent counts as "
        "gone.\",\"x-muster-min-ns\":1000000000,\"x-muster-max-ns\":3600000000000,"
        "\"default\":\"15s\",\"x-muster-reloadable\":true},"
        "\"window\":{\"type\":[\"integer\",\"string\"],\"pattern\":\"^(0|[1-9][0-9]*)(KiB|MiB|GiB)?$\","
        "\"minimum\":1024,"
        "\"maximum\":1073741824,\"default\":\"64KiB\"},"
        "\"ratio\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1,\"default\":0.5},"
        "\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":12},"
        "\"token\":{\"type\":\"string\",\"writeOnly\":true},"
        "\"key_file\":{\"type\":\"string\"},"
        "\"messages\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"minItems\":0,\"maxItems\":3,"
        "\"default\":[\"muster.evt\",\"app\"]},"
        "\"tables\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"object\","
        "\"additionalProperties\":false,"
        "\"properties\":{\"tenant\":{\"type\":\"string\"},\"owner_column\":{\"type\":\"string\"},"
        "\"subject_key\":{\"type\":\"boolean\"}}}}}}\n";
    struct muster_option slot = {.key = "slot",
                                 .type = MUSTER_T_STRING,
                                 .flags = MUSTER_O_REQUIRED | MUSTER_O_UNIQUE | MUSTER_O_ONCE};
    struct muster_plugin one = {.name = "a",
                                .version = "1",
                                .options = &slot,
                                .n_options = 1,
                                .option_size = sizeof slot,
                                .config_size = sizeof(char *)};
    struct buf b = {0};

    (void)state;
    config_schema(&demo_plugin, &b);
    assert_false(buf_failed(&b));
    assert_string_equal(b.data, expected);
    buf_clear(&b);
    config_schema(&one, &b);
    assert_non_null(
        strstr(b.data, "\"properties\":{\"slot\":{\"type\":\"string\",\"x-muster-unique\":true,"
                       "\"x-muster-once\":true}},\"required\":[\"slot\"]}"));
    buf_done(&b);
}

/* What plugins say of their settings, with the place of the key that it begins with. */
static void test_told_settings(void **state)
{
    static const struct bad table[] = {
        {"name: not good", "m.yaml:4:7: plugins.demo.name: not good"},
        {"messages: not good", "m.yaml:4:44: plugins.demo.messages: not good"},
        {"tables.public.orders: not good", "m.yaml:4:24: plugins.demo.tables.public.orders: not good"},
        {"lanes: not good", "m.yaml:2:25: plugins.demo.lanes: not good"},
        {"token: not good", "m.yaml:2:5: plugins.demo: token: not good"},
        {"tables.public: not good", "m.yaml:2:5: plugins.demo: tables.public: not good"},
        {"out of order: not good", "m.yaml:2:5: plugins.demo: out of order: not good"},
        {": not\ngood", "m.yaml:2:5: plugins.demo: : not?good"},
        {"", "m.yaml:2:5: plugins.demo: "},
    };
    struct config *c = load("plugins:\n  - {name: demo, lanes: 2,\n     config: {\n"
                            "name: public, tables: {public.orders: {}}, messages: [a]}}\n");
    struct config_error err;

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(config_fault_setting(c, &c->plugins[0], &err, table[i].text), MUSTER_EINVAL);
        assert_string_equal(err.text, table[i].expected);
    }
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_option_errors),   cmocka_unit_test(test_option_values),
        cmocka_unit_test(test_option_defaults), cmocka_unit_test(test_missing_required),
        cmocka_unit_test(test_wrong_tables),    cmocka_unit_test(test_group_errors),
        cmocka_unit_test(test_groups),          cmocka_unit_test(test_clashing_keys),
        cmocka_unit_test(test_stride),          cmocka_unit_test(test_position),
        cmocka_unit_test(test_hidden),          cmocka_unit_test(test_print),
        cmocka_unit_test(test_print_again),
        cmocka_unit_test(test_schema),          cmocka_unit_test(test_shared_settings),
        cmocka_unit_test(test_told_settings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
