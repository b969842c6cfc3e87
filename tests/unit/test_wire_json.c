/* wire/json: what is read, what is refused and in which words, and that nothing is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "wire_same.h"

#define VALUE "a string in quotes, a number, true, false, null, a list or a map"

static struct muster_bytes text(const char *s)
{
    return (struct muster_bytes){s, strlen(s)};
}

static struct muster_value *decode(const char *s)
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    if (value_decode(MUSTER_JSON, text(s), &doc, &err))
        fail_msg("%s: %s", s, err.text);
    return doc;
}

static void refused(struct muster_bytes body, const char *expected)
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    assert_int_equal(value_decode(MUSTER_JSON, body, &doc, &err), MUSTER_EINVAL);
    assert_null(doc);
    assert_string_equal(err.text, expected);
}

static void test_values(void **state)
{
    struct muster_value *doc = decode(" { \"s\" : \"x\\u00e9\\n\\ud83d\\ude00/\\/\" "
                                      ",\"i\":-9223372036854775808,\"l\":[1,true,null,false,[],{}],"
                                      "\"f\":1.5e3,\"\":0}\r\n\t");
    const struct muster_value *list = value_get(doc, "l");
    const char *key;
    size_t len;

    (void)state;
    assert_int_equal(value_type(doc), MUSTER_MAP);
    assert_int_equal(value_count(doc), 5);
    assert_string_equal(value_str(value_get(doc, "s"), &len), "x\xc3\xa9\n\xf0\x9f\x98\x80//");
    assert_int_equal(len, 10);
    assert_true(value_int(value_get(doc, "i")) == INT64_MIN);
    assert_int_equal(value_type(value_get(doc, "f")), MUSTER_FLOAT);
    assert_true(value_float(value_get(doc, "f")) == 1500.0);
    assert_int_equal(value_count(list), 6);
    assert_int_equal(value_type(value_at(list, 1)), MUSTER_BOOL);
    assert_int_equal(value_int(value_at(list, 1)), 1);
    assert_int_equal(value_type(value_at(list, 2)), MUSTER_NULL);
    assert_int_equal(value_type(value_at(list, 5)), MUSTER_MAP);
    assert_null(value_at(list, 6));
    assert_null(value_get(doc, "none"));
    assert_null(value_get(list, "s"));
    assert_non_null(value_key(doc, 4, &key, &len));
    assert_int_equal(len, 0);
    assert_null(value_key(doc, 5, &key, NULL));
    value_free(doc);
}

/* Ids above 2^53, where a double loses digits. */
static void test_large_integers(void **state)
{
    struct muster_value *doc =
        decode("{\"a\":9007199254740993,\"b\":9223372036854775807,\"c\":9223372036854775808,"
               "\"d\":18446744073709551615,\"e\":18446744073709551616,\"f\":-9223372036854775809}");
    struct buf json = encoded(doc, MUSTER_JSON);

    (void)state;
    assert_true(value_int(value_get(doc, "a")) == INT64_C(9007199254740993));
    assert_true(value_int(value_get(doc, "b")) == INT64_MAX);
    assert_int_equal(value_type(value_get(doc, "c")), MUSTER_FLOAT);
    assert_int_equal(value_int(value_get(doc, "c")), 0);
    assert_true(value_float(value_get(doc, "d")) == 18446744073709551616.0);
    assert_string_equal(
        json.data,
        "{\"a\":9007199254740993,\"b\":9223372036854775807,\"c\":9223372036854775808,"
        "\"d\":18446744073709551615,\"e\":18446744073709551616,\"f\":-9223372036854775809}");
    buf_done(&json);
    value_free(doc);
}

static void test_digits_are_kept(void **state)
{
    static const char body[] =
        "{\"a\":1.10,\"b\":0.1e-7,\"c\":123456789012345678901234567890.5,\"d\":-0.0,\"e\":1E5}";
    struct muster_value *doc = decode(body);
    struct buf json = encoded(doc, MUSTER_JSON);

    (void)state;
    assert_string_equal(json.data, body);
    assert_true(value_float(value_get(doc, "b")) == 0.1e-7);
    buf_done(&json);
    value_free(doc);
}

static void test_empty_body(void **state)
{
    struct muster_value *doc = NULL;
    struct wire_error err;
    uint32_t encoding = 0;

    (void)state;
    assert_int_equal(value_detect((struct muster_bytes){NULL, 0}, &encoding, &err), 0);
    assert_int_equal(encoding, MUSTER_JSON);
    assert_int_equal(value_decode(MUSTER_MSGPACK, (struct muster_bytes){NULL, 0}, &doc, &err), 0);
    assert_int_equal(value_type(doc), MUSTER_MAP);
    assert_int_equal(value_count(doc), 0);
    value_free(doc);
    assert_int_equal(value_decode_any(MUSTER_JSON, (struct muster_bytes){NULL, 0}, &doc, &err),
                     MUSTER_EINVAL);
    value_free(NULL);
}

static void test_any_top(void **state)
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    (void)state;
    assert_int_equal(value_decode_any(MUSTER_JSON, text("\"hi\""), &doc, &err), 0);
    assert_string_equal(value_str(doc, NULL), "hi");
    value_free(doc);
    assert_int_equal(value_decode_any(MUSTER_JSON, text("-0"), &doc, &err), 0);
    assert_int_equal(value_type(doc), MUSTER_INT);
    value_free(doc);
    refused(text("[1]"), "byte 0: a list came, expected a map");
}

static void test_syntax(void **state)
{
    static const struct {
        const char *body, *error;
    } cases[] = {
        {"{\"a\":1", "byte 6: the end of the body came, expected ',' or '}'"},
        {"{\"a\":1}x", "byte 7: 'x' came, expected the end of the body"},
        {"{\"a\":1,}", "byte 7: '}' came, expected '\"' and a key"},
        {"{\"a\" 1}", "a (byte 5): '1' came, expected ':'"},
        {"{\"a\":[1,]}", "a[1] (byte 8): ']' came, expected " VALUE},
        {"{\"a\":[1 2]}", "a (byte 8): '2' came, expected ',' or ']'"},
        {"{\"a\":01}", "a (byte 5): '0' came, expected a number without leading zeros"},
        {"{\"a\":1.}", "a (byte 7): '}' came, expected a digit behind the point"},
        {"{\"a\":1e}", "a (byte 7): '}' came, expected a digit of the exponent"},
        {"{\"a\":+1}", "a (byte 5): '+' came, expected " VALUE},
        {"{\"a\":-}", "a (byte 6): '}' came, expected a digit"},
        {"{\"a\":nul}", "a (byte 5): 'n' came, expected " VALUE},
        {"{\"a\":NaN}", "a (byte 5): 'N' came, expected " VALUE},
        {"{'a':1}", "byte 1: ''' came, expected '\"' and a key"},
        {"{\"a\":\"\\x\"}", "a (byte 7): 'x' came, expected one of \"\\/bfnrtu behind a backslash"},
        {"{\"a\":\"\\u12g4\"}", "a (byte 7): 'u' came, expected \\u and four hex digits"},
        {"{\"a\":\"\\ud800\"}",
         "a (byte 7): 'u' came, expected a pair of surrogates, the high one first"},
        {"{\"a\":\"\\udc00\\ud800\"}",
         "a (byte 7): 'u' came, expected a pair of surrogates, the high one first"},
        {"{\"a\":\"\\u0000\"}", "a (byte 7): 'u' came, expected no U+0000 in a string"},
        {"{\"a\":\"\n\"}",
         "a (byte 6): the byte 0x0a came, expected an escape for control characters"},
        {"{\"a\":\"x", "a (byte 7): the end of the body came, expected a closing '\"'"},
        {"{\"a\":1e999}",
         "a (byte 5): the number \"1e999\" came, expected one that a double can hold"},
        {"\xef\xbb\xbf{}", "byte 0: the byte 0xef came, expected " VALUE},
        {"{\"tasks\":[{},{},{\"deadline\":tomorrow}]}",
         "tasks[2].deadline (byte 28): 't' came, expected " VALUE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(text(cases[i].body), cases[i].error);
    refused((struct muster_bytes){"{\"a\":1}\0", 8},
            "byte 7: the byte 0x00 came, expected the end of the body");
}

static void test_utf8(void **state)
{
    (void)state;
    refused(text("{\"a\":\"ok\xc3(\"}"), "a (byte 8): the byte 0xc3 came, expected valid UTF-8");
    refused(text("{\"a\":\"\xed\xa0\x80\"}"),
            "a (byte 6): the byte 0xed came, expected valid UTF-8");
    refused(text("{\"\xff\":1}"), "byte 2: the byte 0xff came, expected valid UTF-8");
    value_free(decode("{\"\xc3\xa9\":\"\xe2\x82\xac \\u20ac \xf0\x9f\x98\x80\"}"));
}

static void test_twice(void **state)
{
    struct buf b = {0};
    struct muster_value *doc = NULL;
    struct wire_error err;

    (void)state;
    refused(text("{\"x\":{\"a\":1,\"b\":2,\"a\":1}}"),
            "x.a (byte 19): this key came twice, expected each key once");
    refused(text("{\"a\":1,\"\\u0061\":2}"),
            "a (byte 8): this key came twice, expected each key once");
    buf_putc(&b, '{');
    for (int i = 0; i < 600; i++)
        buf_printf(&b, "\"k%d\":%d,", i, i);
    buf_put_lit(&b, "\"k77\":1}");
    assert_int_equal(value_decode(MUSTER_JSON, bytes_of(&b), &doc, &err), MUSTER_EINVAL);
    assert_string_equal(err.field, "k77");
    assert_int_equal(err.offset, b.len - 7);
    buf_done(&b);
}

static void repeat(struct buf *b, const char *s, int n)
{
    while (n--)
        buf_puts(b, s);
}

static int try(struct buf *b, struct wire_error *err)
{
    struct muster_value *doc = NULL;
    int code = value_decode(MUSTER_JSON, bytes_of(b), &doc, err);

    if (!code)
        value_free(doc);
    buf_clear(b);
    return code;
}

/* The largest that is allowed, and one more. */
static void test_limits(void **state)
{
    struct wire_error err;
    struct buf b = {0};

    (void)state;
    for (int depth = 32; depth <= 33; depth++) {
        buf_puts(&b, "{\"a\":");
        repeat(&b, "[", depth - 1);
        repeat(&b, "]", depth - 1);
        buf_putc(&b, '}');
        assert_int_equal(try(&b, &err), depth == 32 ? 0 : MUSTER_EINVAL);
    }
    assert_non_null(strstr(err.text, "level 33 came, expected at most 32 levels"));
    for (int n = 4096; n <= 4097; n++) {
        buf_puts(&b, "{\"a\":[0");
        repeat(&b, ",0", n - 1);
        buf_puts(&b, "]}");
        assert_int_equal(try(&b, &err), n == 4096 ? 0 : MUSTER_EINVAL);
    }
    assert_string_equal(
        err.text,
        "a (byte 8198): '0' came, expected ']', because a list has at most 4,096 elements");
    for (int n = 1024; n <= 1025; n++) {
        buf_putc(&b, '{');
        for (int i = 0; i < n; i++)
            buf_printf(&b, "%s\"%d\":0", i ? "," : "", i);
        buf_putc(&b, '}');
        assert_int_equal(try(&b, &err), n == 1024 ? 0 : MUSTER_EINVAL);
    }
    assert_non_null(strstr(err.text, "expected '}', because a map has at most 1,024 keys"));
    for (int len = WIRE_MAX_BODY; len <= WIRE_MAX_BODY + 1; len++) {
        buf_puts(&b, "{\"a\":\"");
        repeat(&b, "x", len - 8);
        buf_puts(&b, "\"}");
        assert_int_equal(try(&b, &err), len == WIRE_MAX_BODY ? 0 : MUSTER_EINVAL);
    }
    assert_string_equal(err.text, "a body of 1000001 bytes came, expected at most 1000000");
    buf_done(&b);
}

/* What a sentence quotes of a body stays short and printable. */
static void test_error_text(void **state)
{
    struct wire_error err;
    struct buf b = {0};

    (void)state;
    buf_puts(&b, "{\"");
    repeat(&b, "\\u0001k", 500);
    buf_puts(&b, "\":{\"b\":?}}");
    assert_int_equal(try(&b, &err), MUSTER_EINVAL);
    assert_null(strpbrk(err.text, "\001\n"));
    assert_true(strlen(err.text) < 200);
    assert_non_null(strstr(err.field, ".b"));
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_large_integers),
        cmocka_unit_test(test_digits_are_kept),
        cmocka_unit_test(test_empty_body),
        cmocka_unit_test(test_any_top),
        cmocka_unit_test(test_syntax),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_error_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
