/* base/utf8: the borders of RFC 3629, and that mending keeps what is valid. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/utf8.h"

static void test_valid(void **state)
{
    static const char *const good[] = {
        "",
        "plain",
        "z\xc3\xbcrich",
        "\xc2\x80",
        "\xdf\xbf",
        "\xe0\xa0\x80",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xef\xbf\xbf",
        "\xf0\x90\x80\x80",
        "\xf4\x8f\xbf\xbf",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(utf8_is_valid(good[i], strlen(good[i])));
    assert_true(utf8_is_valid("a\0b", 3));
    assert_true(utf8_is_valid(NULL, 0));
}

static void test_prefix(void **state)
{
    static const struct {
        const char *text;
        size_t valid;
    } bad[] = {
        {"ab\x80", 2},   /* a lone continuation */
        {"\xc0\x80", 0}, /* overlong, two bytes */
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},     /* overlong, three */
        {"\xf0\x8f\xbf\xbf", 0}, /* overlong, four */
        {"x\xed\xa0\x80", 1},    /* a surrogate */
        {"\xf4\x90\x80\x80", 0}, /* past U+10FFFF */
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xc3", 0}, /* cut off */
        {"ok\xe2\x82", 2},
        {"\xf0\x9f\x98", 0},
        {"\xe2\x28\xa1", 0}, /* the second byte is no continuation */
        {"\xe2\x82\x28", 0},
        {"\xc3\xbc\xc3(", 2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(utf8_prefix(bad[i].text, strlen(bad[i].text)), bad[i].valid);
}

static void assert_mended(const char *text, const char *expected)
{
    struct buf b = {0};

    utf8_put(&b, text, strlen(text));
    assert_string_equal(b.data ? b.data : "", expected);
    buf_done(&b);
}

static void test_mending(void **state)
{
    (void)state;
    assert_mended("", "");
    assert_mended("z\xc3\xbcrich", "z\xc3\xbcrich");
    assert_mended("z\xfcrich", "z\xef\xbf\xbdrich");
    assert_mended("\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd");
    assert_mended("cut\xe2\x82", "cut\xef\xbf\xbd\xef\xbf\xbd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_mending),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
