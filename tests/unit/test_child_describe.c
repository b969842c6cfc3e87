/* child/describe, child/settings: a descriptor and its settings go through a frame and come out as they were; what a stranger makes of them
 * is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "child/describe.h"
#include "config/config.h"
#include "config/host.h"
#include "config/options.h"

struct inner {
    int64_t wait_ns;
    struct muster_list words;
};
struct outer {
    const char *name;
    struct muster_map inners;
    int32_t on;
};
struct settings {
    char gap; /* offsets of the two ends differ */
    int32_t on, kind;
    int64_t count, size, wait_ns;
    double share;
    const char *text, *key_file;
    struct muster_list words;
    struct muster_map outers;
};

static const struct muster_option inner_options[] = {
    {.key = "wait", .help = "", .type = MUSTER_T_DURATION_NS, .offset = offsetof(struct inner, wait_ns), .def = "5s"},
    {.key = "words", .help = "", .type = MUSTER_T_LIST, .offset = offsetof(struct inner, words)},
};
static const struct muster_option outer_options[] = {
    {.key = "name", .help = "", .type = MUSTER_T_STRING, .offset = offsetof(struct outer, name)},
    {.key = "inners", .help = "", .type = MUSTER_T_MAP, .offset = offsetof(struct outer, inners), .fields = inner_options, .n_fields = 2,
     .entry_size = sizeof(struct inner)},
    {.key = "on", .help = "", .type = MUSTER_T_BOOL, .offset = offsetof(struct outer, on)},
};
static const struct muster_option options[] = {
    {.key = "on", .help = "On.\nOr off.", .type = MUSTER_T_BOOL, .offset = offsetof(struct settings, on), .def = "true"},
    {.key = "kind", .help = "", .type = MUSTER_T_ENUM, .offset = offsetof(struct settings, kind), .choices = "a|b|c"},
    {.key = "count", .help = "", .type = MUSTER_T_INT, .offset = offsetof(struct settings, count), .min = -5, .max = 10},
    {.key = "size", .help = "", .type = MUSTER_T_BYTES, .offset = offsetof(struct settings, size)},
    {.key = "wait", .help = "", .type = MUSTER_T_DURATION_NS, .offset = offsetof(struct settings, wait_ns), .flags = MUSTER_O_RELOADABLE},
    {.key = "share", .help = "", .type = MUSTER_T_FLOAT, .offset = offsetof(struct settings, share)},
    {.key = "text.inner", .help = "", .type = MUSTER_T_STRING, .offset = offsetof(struct settings, text), .flags = MUSTER_O_SECRET},
    {.key = "key_file", .help = "", .type = MUSTER_T_STRING, .offset = offsetof(struct settings, key_file)},
    {.key = "words", .help = "", .type = MUSTER_T_LIST, .offset = offsetof(struct settings, words), .def = "x,y"},
    {.key = "outers", .help = "", .type = MUSTER_T_MAP, .offset = offsetof(struct settings, outers), .fields = outer_options, .n_fields = 3,
     .entry_size = sizeof(struct outer)},
};
static const struct muster_service services[] = {
    {.size = sizeof *services, .name = "first", .verbs = "do see"},
    {.size = sizeof *services, .name = "second", .verbs = "go", .schema = "{\n}"},
};

static int a_reload(void *self, const void *config)
{
    (void)self;
    (void)config;
    return 0;
}

static struct muster_plugin a_plugin(void)
{
    return (struct muster_plugin){.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR, .abi_minor = MUSTER_ABI_MINOR,
                                  .name = "thing", .version = "1.2", .source_id = "abc", .capabilities = "stream sql", .options = options,
                                  .n_options = sizeof options / sizeof *options, .option_size = sizeof *options,
                                  .config_size = sizeof(struct settings), .services = services, .n_services = 2,
                                  .service_size = sizeof *services, .reload = a_reload};
}

static struct frame_reader reader_of(struct buf *b)
{
    struct frame_reader r;
    size_t len;

    assert_int_equal(frame_peek(b->data, b->len, &r, &len), 1);
    return r;
}

static int through(const struct muster_plugin *p, struct described **ret_described, char why[DESCRIBE_WHY_SIZE])
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_HELLO, 0);
    struct frame_reader r;
    int err;

    describe_put(&f, p);
    assert_int_equal(frame_end(&f), 0);
    r = reader_of(&b);
    err = describe_get(&r, ret_described, why);
    buf_done(&b);
    return err;
}

static void test_a_descriptor_comes_through(void **state)
{
    struct muster_plugin p = a_plugin();
    struct described *d;
    char why[DESCRIBE_WHY_SIZE];
    const struct muster_plugin *q;
    const char *key;
    struct config_table table;

    (void)state;
    assert_int_equal(through(&p, &d, why), 0);
    q = &d->plugin;
    assert_int_equal(d->has, DESCRIBE_RELOAD);
    assert_string_equal(q->name, "thing");
    assert_string_equal(q->version, "1.2");
    assert_string_equal(q->source_id, "abc");
    assert_string_equal(q->capabilities, "stream sql");
    assert_int_equal(q->n_options, p.n_options);
    assert_int_equal(q->n_services, 2);
    assert_string_equal(q->services[1].schema, "{\n}");
    assert_null(q->services[0].schema);
    assert_string_equal(q->options[0].help, "On.\nOr off.");
    assert_string_equal(q->options[9].fields[1].fields[0].def, "5s");
    assert_int_equal(q->options[2].min, -5);
    assert_null(q->create);
    assert_null(q->reload);
    table = (struct config_table){q->options, q->n_options, q->option_size};
    assert_null(table_fault(&table, q->config_size, &key));
    describe_free(d);
}

static const char text[] = "plugins:\n"
                           "  - name: thing\n"
                           "    config:\n"
                           "      on: false\n"
                           "      kind: c\n"
                           "      count: -3\n"
                           "      size: 4KiB\n"
                           "      wait: 2s\n"
                           "      share: 0.25\n"
                           "      text: {inner: hush}\n"
                           "      words: [p, q, r]\n"
                           "      outers:\n"
                           "        one: {name: n1, on: true, inners: {deep: {words: [w]}, deeper: {wait: 1m}}}\n"
                           "        two: {}\n";

static void check_outers(const struct muster_map *outers)
{
    const struct outer *one = outers->entries, *two = one + 1;
    const struct inner *inner;

    assert_int_equal(outers->n, 2);
    assert_string_equal(outers->keys[1], "two");
    assert_string_equal(one->name, "n1");
    assert_true(one->on);
    assert_int_equal(one->inners.n, 2);
    inner = one->inners.entries;
    assert_int_equal(inner[0].wait_ns, INT64_C(5000000000));
    assert_int_equal(inner[0].words.n, 1);
    assert_string_equal(inner[0].words.items[0], "w");
    assert_int_equal(inner[1].wait_ns, INT64_C(60000000000));
    assert_int_equal(two->inners.n, 0);
    assert_null(two->name);
}

/* Bound by the broker at its own offsets, written by the child at those of the plugin. */
static void test_settings_come_through(void **state)
{
    struct muster_plugin p = a_plugin();
    struct described *d;
    struct config *config;
    struct config_error err;
    char why[DESCRIBE_WHY_SIZE];
    struct settings out = {0};
    struct arena memory = {0};
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SETTINGS, 0);
    struct frame_reader r;
    void *values;

    (void)state;
    assert_int_equal(through(&p, &d, why), 0);
    assert_int_equal(config_load_text("m.yaml", text, sizeof text - 1, &config, &err), 0);
    values = calloc(1, d->plugin.config_size);
    assert_int_equal(config_bind(config, &config->plugins[0], &d->plugin, values, &err), 0);
    settings_put(&f, &d->plugin, values);
    assert_int_equal(frame_end(&f), 0);
    r = reader_of(&b);
    assert_int_equal(settings_get(&r, &p, &out, &memory), 0);
    assert_true(frame_is_read(&r));
    free(values);
    config_free(config);
    describe_free(d);
    buf_done(&b);

    assert_false(out.on);
    assert_int_equal(out.kind, 2);
    assert_int_equal(out.count, -3);
    assert_int_equal(out.size, 4096);
    assert_int_equal(out.wait_ns, INT64_C(2000000000));
    assert_true(out.share == 0.25);
    assert_string_equal(out.text, "hush");
    assert_null(out.key_file);
    assert_int_equal(out.words.n, 3);
    assert_string_equal(out.words.items[2], "r");
    check_outers(&out.outers);
    arena_done(&memory);
}

static void test_settings_that_are_cut_are_refused(void **state)
{
    struct muster_plugin p = a_plugin();
    struct settings in = {.text = "abc", .words = {(const char *const[]){"a"}, 1}}, out;
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SETTINGS, 0);

    (void)state;
    settings_put(&f, &p, &in);
    assert_int_equal(frame_end(&f), 0);
    for (size_t len = 0; len < b.len - FRAME_HEADER; len++) {
        struct arena memory = {0};
        struct frame_reader r = reader_of(&b);

        r.end = r.at + len;
        memset(&out, 0, sizeof out);
        assert_int_equal(settings_get(&r, &p, &out, &memory), MUSTER_EINVAL);
        arena_done(&memory);
    }
    buf_done(&b);
}

static void refuse(const struct muster_plugin *p, const char *expected)
{
    struct described *d = NULL;
    char why[DESCRIBE_WHY_SIZE] = "";
    int err = through(p, &d, why);

    describe_free(err ? NULL : d);
    assert_string_equal(why, expected);
    assert_true(err < 0);
}

static void test_what_a_stranger_says_is_refused_by_name(void **state)
{
    static char long_text[DESCRIBE_MAX_TEXT + 2];
    struct muster_option option = options[0], nested[5];
    struct muster_service service = services[0];
    struct muster_plugin p = a_plugin();

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    p.name = "../thing";
    refuse(&p, "its name is \"../thing\" and its version \"1.2\", expected letters, digits, _ or -, and a version");
    p.name = "thing\033[2J";
    refuse(&p, "its name is not printable UTF-8");
    p = a_plugin();
    p.version = NULL;
    refuse(&p, "its name is \"thing\" and its version \"\", expected letters, digits, _ or -, and a version");
    p = a_plugin();
    p.abi_minor = MUSTER_ABI_MINOR + 1;
    refuse(&p, "made for ABI 0.5, this broker loads ABI 0.2 to 0.4");
    p = a_plugin();
    p.options = &option;
    p.n_options = 1;
    option.help = long_text;
    refuse(&p, "the help of an option of 65537 bytes, expected at most 65536");
    option = options[0];
    option.type = 0x101;
    refuse(&p, "option on is of type 257, which this broker does not know");
    option = options[0];
    option.key = "a..b";
    refuse(&p, "its option table is wrong at a..b: its key is missing");
    for (size_t i = 0; i < 5; i++)
        nested[i] = (struct muster_option){.key = "m", .type = MUSTER_T_MAP, .fields = i < 4 ? &nested[i + 1] : options, .n_fields = 1, .entry_size = 64};
    p.options = nested;
    refuse(&p, "options nested more than 3 deep");
    p = a_plugin();
    p.services = &service;
    p.n_services = 1;
    service.name = "a b";
    refuse(&p, "service \"a b\": expected letters, digits, _ or -");
    service = services[0];
    service.verbs = NULL;
    refuse(&p, "service first has no verbs");
}

static void test_too_many_options_are_refused(void **state)
{
    struct muster_plugin p = a_plugin();
    struct muster_option *many = calloc(DESCRIBE_MAX_OPTIONS + 1, sizeof *many);
    char (*keys)[8] = calloc(DESCRIBE_MAX_OPTIONS + 1, sizeof *keys);

    (void)state;
    for (unsigned int i = 0; i <= DESCRIBE_MAX_OPTIONS; i++) {
        keys[i][0] = (char)('a' + i % 26);
        keys[i][1] = (char)('a' + i / 26 % 26);
        keys[i][2] = (char)('a' + i / 676);
        many[i] = (struct muster_option){.key = keys[i], .type = MUSTER_T_BOOL};
    }
    p.options = many;
    p.n_options = DESCRIBE_MAX_OPTIONS + 1;
    refuse(&p, "1001 options, expected at most 1000");
    free(many);
    free(keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_descriptor_comes_through),
        cmocka_unit_test(test_settings_come_through),
        cmocka_unit_test(test_settings_that_are_cut_are_refused),
        cmocka_unit_test(test_what_a_stranger_says_is_refused_by_name),
        cmocka_unit_test(test_too_many_options_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
