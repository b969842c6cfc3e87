/* wire/msgpack: what is read and what is refused; and that JSON and MessagePack of one body are one
 * tree and one digest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "wire/digest.h"
#include "wire_same.h"

#define BODY(lit) ((struct muster_bytes){lit, sizeof(lit) - 1})

static void refused(struct muster_bytes body, const char *expected)
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    assert_int_equal(value_decode(MUSTER_MSGPACK, body, &doc, &err), MUSTER_EINVAL);
    assert_null(doc);
    assert_string_equal(err.text, expected);
}

static void test_values(void **state)
{
    struct muster_value *doc = NULL;
    struct wire_error err;
    size_t len;

    (void)state;
    assert_int_equal(
        value_decode(MUSTER_MSGPACK,
                     BODY("\x87\xa1i\xd3\x80\0\0\0\0\0\0\0\xa1u\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
                          "\xa1s\xd9\x02hi\xa1"
                          "b\xc4\x03\x00\x01\x02\xa1"
                          "f\xca\x3f\xc0\0\0\xa1l\x93\xc0\xc3\xff\xa0\xa0"),
                     &doc, &err),
        0);
    assert_int_equal(value_count(doc), 7);
    assert_true(value_int(value_get(doc, "i")) == INT64_MIN);
    assert_true(value_float(value_get(doc, "u")) == 18446744073709551615.0);
    assert_string_equal(value_str(value_get(doc, "s"), &len), "hi");
    assert_int_equal(value_type(value_get(doc, "b")), MUSTER_BIN);
    assert_memory_equal(value_str(value_get(doc, "b"), &len), "\0\1\2", 4);
    assert_int_equal(len, 3);
    assert_true(value_float(value_get(doc, "f")) == 1.5);
    assert_int_equal(value_int(value_at(value_get(doc, "l"), 2)), -1);
    assert_string_equal(value_str(value_get(doc, ""), &len), "");
    value_free(doc);
}

static void test_refusals(void **state)
{
    (void)state;
    refused(
        BODY("\x81\xa1"
             "a\xd4\x01\x00"),
        "a (byte 3): the type 0xd4 came, expected nil, bool, int, float, str, bin, array or map");
    refused(BODY("\x81\x01\x02"), "byte 1: a key of type 0x01 came, expected a str");
    refused(BODY("\x81\xa1"
                 "a\xcb\x7f\xf8\0\0\0\0\0\0"),
            "a (byte 3): a NaN or infinity came, expected a finite number, or it as a string");
    refused(BODY("\x81\xa1"
                 "a\xca\x7f\x80\0\0"),
            "a (byte 3): a NaN or infinity came, expected a finite number, or it as a string");
    refused(BODY("\x81\xa1"
                 "a\xa2\xc3("),
            "a (byte 4): the byte 0xc3 came, expected valid UTF-8 without U+0000");
    refused(BODY("\x81\xa1"
                 "a\xa1\0"),
            "a (byte 4): the byte 0x00 came, expected valid UTF-8 without U+0000");
    refused(BODY("\x82\xa1"
                 "a\x01\xa1"
                 "a\x02"),
            "a (byte 5): this key came twice, expected each key once");
    refused(BODY("\x80\xc0"), "byte 1: 1 more bytes came, expected the end of the body");
    refused(BODY("\x90"), "byte 0: a list came, expected a map");
}

/* Heads that promise what does not follow must be refused before memory is taken for it. */
static void test_short(void **state)
{
    (void)state;
    refused(BODY("\x81\xa1"
                 "a\xdd\xff\xff\xff\xff"),
            "a (byte 3): a list of 4294967295 came, expected at most 4096");
    refused(BODY("\xdf\xff\xff\xff\xff"),
            "byte 0: a map of 4294967295 came, expected at most 1024");
    refused(BODY("\x81\xa1"
                 "a\xc6\xff\xff\xff\xffx"),
            "a (byte 9): the end of the body came, expected 4294967294 more bytes");
    refused(BODY("\x81\xa1"
                 "a\xdb\x00"),
            "a (byte 5): the end of the body came, expected 3 more bytes");
    refused(BODY("\x81\xa1"
                 "a"),
            "a (byte 3): the end of the body came, expected 1 more bytes");
    refused(BODY("\x81\xa1"
                 "a\x92\x01"),
            "a[1] (byte 5): the end of the body came, expected 1 more bytes");
}

static int decode_nested(int arrays, const char *inner, size_t inner_len)
{
    struct muster_value *doc = NULL;
    struct wire_error err;
    struct buf b = {0};
    int code;

    buf_put_lit(&b, "\x81\xa1"
                    "a");
    for (int i = 0; i < arrays; i++)
        buf_put_lit(&b, "\x91");
    buf_put(&b, inner, inner_len);
    code = value_decode(MUSTER_MSGPACK, bytes_of(&b), &doc, &err);
    if (!code)
        value_free(doc);
    buf_done(&b);
    return code;
}

/* A binary is a map in JSON, so it takes a level. */
static void test_depth(void **state)
{
    (void)state;
    assert_int_equal(decode_nested(31, "\x01", 1), 0);
    assert_int_equal(decode_nested(32, "\x01", 1), MUSTER_EINVAL);
    assert_int_equal(decode_nested(30, "\x91\x90", 2), MUSTER_EINVAL);
    assert_int_equal(decode_nested(30, "\xc4\x01x", 3), 0);
    assert_int_equal(decode_nested(31, "\xc4\x01x", 3), MUSTER_EINVAL);
}

static void test_detect(void **state)
{
    struct wire_error err;
    uint32_t encoding = 0;

    (void)state;
    assert_int_equal(value_detect(BODY("\x81"), &encoding, &err), 0);
    assert_int_equal(encoding, MUSTER_MSGPACK);
    assert_int_equal(value_detect(BODY("\xde"), &encoding, &err), 0);
    assert_int_equal(value_detect(BODY("\n{"), &encoding, &err), 0);
    assert_int_equal(encoding, MUSTER_JSON);
    assert_int_equal(value_detect(BODY("[1]"), &encoding, &err), MUSTER_EINVAL);
    assert_string_equal(
        err.text,
        "byte 0: 0x5b came, expected the first byte of a JSON object or of a MessagePack map");
}

/* JSON -> tree -> MessagePack -> tree -> JSON. */
static void test_transcode(void **state)
{
    static const char body[] =
        "{\"task_id\":\"t-1\",\"n\":9007199254740993,\"u\":18446744073709551615,\"f\":0.1,\"e\":1."
        "0,"
        "\"deep\":[[{\"a\":null}],true,false,-1,\"\xe2\x82\xac\"],\"\":\"\\u0001\"}";
    struct muster_value *a = NULL, *b = NULL;
    struct wire_error err;
    struct buf packed, json;

    (void)state;
    assert_int_equal(value_decode(MUSTER_JSON, BODY(body), &a, &err), 0);
    packed = encoded(a, MUSTER_MSGPACK);
    assert_int_equal(value_decode(MUSTER_MSGPACK, bytes_of(&packed), &b, &err), 0);
    assert_true(same_tree(a, b));
    json = encoded(b, MUSTER_JSON);
    assert_string_equal(json.data, body);
    buf_done(&json);
    buf_done(&packed);
    value_free(a);
    value_free(b);
}

static void digest(uint32_t encoding, struct muster_bytes body, uint8_t out[DIGEST_SIZE])
{
    struct muster_value *doc = NULL;
    struct wire_error err;

    if (value_decode(encoding, body, &doc, &err))
        fail_msg("%s", err.text);
    assert_int_equal(digest_of(doc, out), 0);
    value_free(doc);
}

static void canonical(const char *json, const char *expected)
{
    struct muster_value *doc = NULL;
    struct wire_error err;
    struct buf text = {0};

    if (value_decode(MUSTER_JSON, (struct muster_bytes){json, strlen(json)}, &doc, &err))
        fail_msg("%s: %s", json, err.text);
    digest_text(doc, &text);
    assert_string_equal(text.data, expected);
    buf_done(&text);
    value_free(doc);
}

static void test_canonical(void **state)
{
    (void)state;
    canonical("{ \"b\" : 1, \"a\" : [ ] , \"B\":{}, \"ab\":null, \"\":true}",
              "{\"\":true,\"B\":{},\"a\":[],\"ab\":null,\"b\":1}");
    canonical("{\"a\":[1,1.0,1e0,10e-1,0.10e1]}", "{\"a\":[1,1,1,1,1]}");
    canonical("{\"a\":[-0,-0.0,0e5]}", "{\"a\":[0,0,0]}");
    canonical("{\"a\":[0.1,1e-7,1.50,1e300]}", "{\"a\":[0.1,1e-07,1.5,1e+300]}");
    canonical("{\"a\":[18446744073709551615,9223372036854775808,9223372036854775808.0,"
              "18446744073709551616]}",
              "{\"a\":[18446744073709551615,9223372036854775808,9223372036854775808,1."
              "8446744073709552e+19]}");
    canonical("{\"\\u00e9\":\"\\u0041\\/\"}", "{\"\xc3\xa9\":\"A/\"}");
}

static void test_digest(void **state)
{
    /* sha256sum of {"a":1,"b":"x"} */
    static const uint8_t expected[DIGEST_SIZE] = {0xec, 0xf9, 0xe9, 0x8e, 0xc0, 0x64, 0x1e, 0x23};
    uint8_t json[DIGEST_SIZE], packed[DIGEST_SIZE], other[DIGEST_SIZE];

    (void)state;
    digest(MUSTER_JSON, BODY("{\"b\":\"x\", \"a\":1.0}"), json);
    digest(MUSTER_MSGPACK,
           BODY("\x82\xa1"
                "a\x01\xa1"
                "b\xd9\x01x"),
           packed);
    digest(MUSTER_JSON, BODY("{\"b\":\"x\", \"a\":2}"), other);
    assert_memory_equal(json, packed, DIGEST_SIZE);
    assert_memory_equal(json, expected, 8);
    assert_memory_not_equal(json, other, DIGEST_SIZE);
    digest(MUSTER_JSON, BODY("{\"a\":{\"base64\":\"AAEC\"}}"), json);
    digest(MUSTER_MSGPACK,
           BODY("\x81\xa1"
                "a\xc4\x03\0\1\2"),
           packed);
    assert_memory_equal(json, packed, DIGEST_SIZE);
}

/* Each thread has a zone of its own, which goes when the thread ends (the leak check sees it
 * otherwise). */
static void *decode_some(void *result)
{
    for (int i = 0; i < 100; i++) {
        struct muster_value *doc = NULL;
        struct wire_error err;

        if (value_decode(MUSTER_MSGPACK,
                         BODY("\x81\xa1"
                              "a\x93\x01\x02\xa1x"),
                         &doc, &err))
            *(int *)result = -1;
        else
            value_free(doc);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[4];
    int results[4] = {0};

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, decode_some, &results[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(results[i], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_short),   cmocka_unit_test(test_depth),
        cmocka_unit_test(test_detect),  cmocka_unit_test(test_transcode),
        cmocka_unit_test(test_digest),  cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
