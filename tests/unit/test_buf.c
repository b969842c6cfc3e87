/* base/buf: growth, the NUL behind the text, numbers, JSON strings and base64 (vectors of RFC 4648
 * and Python). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

static void test_starts_empty(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_false(buf_failed(&b));
    assert_null(buf_take(&b)); /* nothing was ever put */
    buf_done(&b);
    buf_done(&b);
}

static void test_put_grows(void **state)
{
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < 10000; i++) {
        buf_putc(&b, (char)('a' + i % 26));
        assert_int_equal(b.len, i + 1);
        assert_int_equal(b.data[b.len], '\0');
        assert_true(b.cap > b.len);
    }
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(b.data[i], 'a' + i % 26);
    buf_done(&b);
    assert_null(b.data);
}

static void test_put_of_nothing(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_put(&b, NULL, 0); /* an empty muster_bytes has no data */
    assert_string_equal(b.data, "");
    buf_puts(&b, "ab");
    buf_put(&b, NULL, 0);
    buf_put_lit(&b, "");
    assert_string_equal(b.data, "ab");
    buf_put(&b, "c\0d", 3);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "abc\0d", 6);
    buf_done(&b);
}

static void test_exact_fit(void **state)
{
    char block[64];

    (void)state;
    memset(block, 'x', sizeof block);
    for (size_t first = 60; first <= 64; first++) {
        struct buf b = {0};

        buf_put(&b, block, first);
        buf_put(&b, block, 64 - first);
        assert_int_equal(b.len, 64);
        assert_true(b.cap > 64);
        assert_int_equal(b.data[64], '\0');
        buf_done(&b);
    }
}

static void test_too_much_fails_and_keeps_what_is_there(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_puts(&b, "kept");
    assert_false(buf_reserve(&b, SIZE_MAX));
    assert_true(buf_failed(&b));
    assert_string_equal(b.data, "kept");
    buf_clear(&b);
    assert_false(buf_failed(&b));
    assert_false(buf_reserve(&b, SIZE_MAX / 2 + 1)); /* doubling must not wrap */
    assert_true(buf_failed(&b));
    assert_null(buf_take(&b));
    assert_null(b.data);
}

static void test_printf(void **state)
{
    struct buf b = {0};
    char *text;

    (void)state;
    buf_printf(&b, "%s", "");
    assert_string_equal(b.data, "");
    buf_printf(&b, "%d-%s", 7, "x");
    buf_printf(&b, "%0200d", 1);
    assert_int_equal(b.len, 203);
    assert_int_equal(strlen(b.data), 203);
    text = buf_take(&b);
    assert_memory_equal(text, "7-x000", 6);
    assert_null(b.data);
    free(text);
}

static void test_numbers(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_put_u64(&b, 0);
    buf_putc(&b, ' ');
    buf_put_u64(&b, UINT64_MAX);
    buf_putc(&b, ' ');
    buf_put_i64(&b, INT64_MIN);
    buf_putc(&b, ' ');
    buf_put_i64(&b, INT64_MAX);
    buf_putc(&b, ' ');
    buf_put_i64(&b, -1);
    assert_string_equal(b.data,
                        "0 18446744073709551615 -9223372036854775808 9223372036854775807 -1");
    buf_done(&b);
}

static void test_json(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        const char *json;
    } vectors[] = {
        {NULL, 0, "\"\""},
        {"", 0, "\"\""},
        {"plain", 5, "\"plain\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\t\n\f\r", 5, "\"\\b\\t\\n\\f\\r\""},
        {"\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\""},
        {"z\xc3\xbc\n", 4, "\"z\xc3\xbc\\n\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct buf b = {0};

        buf_put_json(&b, vectors[i].text, vectors[i].len);
        assert_string_equal(b.data, vectors[i].json);
        buf_done(&b);
    }
}

static void test_base64(void **state)
{
    static const struct {
        const char *raw;
        size_t len;
        const char *padded, *url;
    } vectors[] = {
        {"f", 1, "Zg==", "Zg"},
        {"fo", 2, "Zm8=", "Zm8"},
        {"foo", 3, "Zm9v", "Zm9v"},
        {"foob", 4, "Zm9vYg==", "Zm9vYg"},
        {"\xfb", 1, "+w==", "-w"},
        {"\xfb\xff", 2, "+/8=", "-_8"},
        {"\xfb\xff\xfe", 3, "+//+", "-__-"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct buf padded = {0}, url = {0};

        buf_put_base64(&padded, vectors[i].raw, vectors[i].len);
        buf_put_base64url(&url, vectors[i].raw, vectors[i].len);
        assert_string_equal(padded.data, vectors[i].padded);
        assert_string_equal(url.data, vectors[i].url);
        buf_done(&padded);
        buf_done(&url);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_empty),
        cmocka_unit_test(test_put_grows),
        cmocka_unit_test(test_put_of_nothing),
        cmocka_unit_test(test_exact_fit),
        cmocka_unit_test(test_too_much_fails_and_keeps_what_is_there),
        cmocka_unit_test(test_printf),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_base64),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
