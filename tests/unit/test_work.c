/* Parts of plugins/common/work: outcomes cut without being read, and the refs of reply subjects. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/work/notice.h"
#include "common/work/outcome.h"
#include "common/work/storable.h"

static void cut(const char *text, const char *wanted_ok, const char *wanted_more)
{
    struct buf more = {0};
    const char *ok;
    size_t len;

    assert_true(outcome_ok(text, &ok, &len, &more));
    assert_int_equal(len, strlen(wanted_ok));
    assert_memory_equal(ok, wanted_ok, len);
    assert_string_equal(more.data, wanted_more);
    buf_done(&more);
}

static void test_an_outcome_is_cut(void **state)
{
    (void)state;
    cut("{\"ok\": {}}", "{}", "{}");
    cut("{\"ok\": {\"state\": \"queued\"}}", "{\"state\": \"queued\"}", "{}");
    cut("{\"ok\": {\"a\": [1, {\"b\": \"}]\"}]}, \"settle\": true}", "{\"a\": [1, {\"b\": \"}]\"}]}", "{ \"settle\": true}");
    cut("{\"ok\": {\"t\": \"\\\\\\\"}\"}, \"notify\": {\"x\": 1}}", "{\"t\": \"\\\\\\\"}\"}", "{ \"notify\": {\"x\": 1}}");
    cut("{\"ok\": 17}", "17", "{}");
    cut("{\"ok\": \"a,b\", \"n\": 1}", "\"a,b\"", "{ \"n\": 1}");
    cut("{\"ok\": true, \"n\": 1}", "true", "{ \"n\": 1}");
}

static void test_what_is_no_success_is_not_cut(void **state)
{
    static const char *const texts[] = {"",       "{}",           "{\"error\": {\"code\": \"internal\"}}", "{\"ok\": ", "{\"ok\": {", "{\"ok\": \"",
                                        "{\"ok\": \"\\", "{\"ok\": {\"a\": \"}}", "null",  "{\"ok\": {}"};
    struct buf more = {0};
    const char *ok;
    size_t len;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_false(outcome_ok(texts[i], &ok, &len, &more));
    buf_done(&more);
}

static void ref_comes_back(const char *id, uint64_t epoch)
{
    struct buf subject = {0}, read = {0};
    uint64_t found;

    buf_puts(&subject, "rpc.w1.task.accept.");
    notice_ref(&subject, id, epoch);
    assert_null(strpbrk(subject.data, " *>\t"));
    assert_true(notice_read_ref(subject.data, &read, &found));
    assert_string_equal(read.data, id);
    assert_int_equal(found, epoch);
    buf_done(&subject);
    buf_done(&read);
}

static void test_refs_come_back(void **state)
{
    char longest[257];

    (void)state;
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    ref_comes_back("t1", 1);
    ref_comes_back("a task of >*. \xc3\xbc/?", 0);
    ref_comes_back(longest, UINT64_MAX);
}

static void test_what_is_no_ref_is_refused(void **state)
{
    static const char *const subjects[] = {"rpc", "rpc.w1.task.accept.", "rpc.w1.task.accept.x", "rpc.w1.task.accept.1", "rpc.w1.task.accept.1-",
                                           "rpc.w1.task.accept.-eA", "rpc.w1.task.accept.1-!", "rpc.w1.task.accept.1-AA", "rpc.w1.task.accept.1x-eA"};
    uint64_t epoch;

    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        struct buf read = {0};

        assert_false(notice_read_ref(subjects[i], &read, &epoch));
        buf_done(&read);
    }
}

/* NULL: it can be kept. */
static void stored(const char *json, const char *wanted_field)
{
    char field[STORABLE_FIELD_SIZE] = "", why[STORABLE_WHY_SIZE] = "";
    struct muster_value *doc;
    struct wire_error error;
    bool yes;

    assert_int_equal(value_decode(MUSTER_JSON, (struct muster_bytes){json, strlen(json)}, &doc, &error), 0);
    yes = storable(doc, field, why);
    assert_int_equal(yes, wanted_field == NULL);
    if (wanted_field)
        assert_string_equal(field, wanted_field);
    value_free(doc);
}

static void put_levels(struct buf *b, unsigned int n)
{
    for (unsigned int i = 0; i < n; i++)
        buf_putc(b, '[');
    for (unsigned int i = 0; i < n; i++)
        buf_putc(b, ']');
}

static void stored_so_deep(const char *before, unsigned int levels, const char *after, const char *wanted_field)
{
    struct buf b = {0};

    buf_puts(&b, before);
    put_levels(&b, levels);
    buf_puts(&b, after);
    stored(b.data, wanted_field);
    buf_done(&b);
}

static void test_what_can_be_kept(void **state)
{
    (void)state;
    stored("{}", NULL);
    stored("{\"a\": [0.0, -0, 1e63, -1e-63, 12345678901234567890, \"1e99\", null, true]}", NULL);
    stored("{\"a\": 1e64}", "a");
    stored("{\"b\": 1, \"a\": {\"c\": [-1e-64]}}", "a");
    stored("{\"a\": 0e99}", "a");
    stored("{\"a\": 1e-400}", "a");
    stored("{\"a\": [1, 1e99]}", "a");
    stored("{\"a\": [{\"b\": 1}, {\"c\": 2, \"d\": [1e99]}]}", "a[1].d");
    stored_so_deep("{\"a\": ", 26, "}", NULL);
    stored_so_deep("{\"a\": ", 27, "}", "a");
    stored_so_deep("{\"a\": [{\"b\": ", 24, "}]}", NULL);
    stored_so_deep("{\"a\": [{\"b\": ", 25, "}]}", "a[0].b");
    stored_so_deep("{\"a\": [{}, ", 25, "]}", NULL);
    stored_so_deep("{\"a\": [{}, ", 26, "]}", "a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_an_outcome_is_cut), cmocka_unit_test(test_what_is_no_success_is_not_cut),
                                       cmocka_unit_test(test_refs_come_back), cmocka_unit_test(test_what_is_no_ref_is_refused),
                                       cmocka_unit_test(test_what_can_be_kept)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
