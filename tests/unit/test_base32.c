/* base/base32: the vectors of RFC 4648 and of CRC-16/XMODEM, other vectors from Python's base64 and
 * binascii. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/base32.h"

static const struct {
    const char *raw;
    size_t len;
    const char *text;
} vectors[] = {
    {"", 0, ""},
    {"f", 1, "MY"},
    {"fo", 2, "MZXQ"},
    {"foo", 3, "MZXW6"},
    {"foob", 4, "MZXW6YQ"},
    {"fooba", 5, "MZXW6YTB"},
    {"foobar", 6, "MZXW6YTBOI"},
    {"\0", 1, "AA"},
    {"\xff\xff\xff\xff\xff", 5, "77777777"},
    {"\0\1\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe\xf\x10\x11\x12\x13", 20,
     "AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQT"},
};

static void test_encode(void **state)
{
    char out[64];

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        size_t n = base32_encode(vectors[i].raw, vectors[i].len, out, sizeof out, BASE32_UPPER);

        assert_int_equal(n, strlen(vectors[i].text));
        assert_int_equal(n, base32_len(vectors[i].len));
        assert_string_equal(out, vectors[i].text);
    }
    assert_int_equal(base32_encode("foobar", 6, out, sizeof out, BASE32_LOWER), 10);
    assert_string_equal(out, "mzxw6ytboi");
}

static void test_encode_needs_room_for_the_nul(void **state)
{
    char out[11] = "untouched";

    (void)state;
    assert_int_equal(base32_encode("foobar", 6, out, 10, BASE32_UPPER), 0);
    assert_string_equal(out, "untouched");
    assert_int_equal(base32_encode("foobar", 6, out, 11, BASE32_UPPER), 10);
}

static void test_decode(void **state)
{
    uint8_t out[64];

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        size_t n = base32_decode(vectors[i].text, strlen(vectors[i].text), out, sizeof out);

        assert_int_equal(n, vectors[i].len);
        assert_memory_equal(out, vectors[i].raw, n);
    }
    assert_int_equal(base32_decode("mzXw6YtbOi", 10, out, sizeof out), 6);
    assert_memory_equal(out, "foobar", 6);
}

static void test_decode_refuses(void **state)
{
    static const char *const bad[] = {"MZX1", "MZX8", "MZ=Q", "MZ Q", "MZ\xc3\xbc", "0000"};
    uint8_t out[6];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(base32_decode(bad[i], strlen(bad[i]), out, sizeof out), 0);
    assert_int_equal(base32_decode("MZXW6YTBOI", 10, out, 5), 0); /* six bytes do not fit in five */
    assert_int_equal(base32_decode("MZXW6YTBOI", 10, out, 6), 6);
}

static void test_crc16(void **state)
{
    uint8_t all[256];

    (void)state;
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    assert_int_equal(crc16_xmodem("", 0), 0);
    assert_int_equal(crc16_xmodem("123456789", 9), 0x31c3);
    assert_int_equal(crc16_xmodem("A", 1), 0x58e5);
    assert_int_equal(crc16_xmodem(all, sizeof all), 0x7e55);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode), cmocka_unit_test(test_encode_needs_room_for_the_nul),
        cmocka_unit_test(test_decode), cmocka_unit_test(test_decode_refuses),
        cmocka_unit_test(test_crc16),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
