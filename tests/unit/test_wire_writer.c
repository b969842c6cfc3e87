/* wire/writer and wire/codec: both encodings, completeness, limits; the ABI's table over them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "wire/codec.h"
#include "wire/writer.h"

static void write_sample(struct muster_writer *w)
{
    writer_map(w, 4);
    writer_text(w, "s");
    writer_str(w, "a\"b", 3);
    writer_text(w, "list");
    writer_array(w, 5);
    writer_int(w, -5);
    writer_float(w, 1);
    writer_bool(w, true);
    writer_null(w);
    writer_map(w, 0);
    writer_text(w, "bin");
    writer_bin(w, "\xff", 1);
    writer_text(w, "nan");
    writer_float(w, -INFINITY);
}

static void test_json(void **state)
{
    struct muster_writer w;
    struct buf out = {0};

    (void)state;
    writer_init(&w, MUSTER_JSON, &out);
    write_sample(&w);
    assert_int_equal(writer_finish(&w, NULL), 0);
    assert_string_equal(out.data, "{\"s\":\"a\\\"b\",\"list\":[-5,1.0,true,null,{}],\"bin\":{"
                                  "\"base64\":\"/w==\"},\"nan\":\"-Infinity\"}");
    buf_done(&out);
}

static void test_msgpack(void **state)
{
    static const char expected[] = "\x84\xa1s\xa3"
                                   "a\"b\xa4list\x95\xfb\xca\x3f\x80\0\0\xc3\xc0\x80\xa3"
                                   "bin\xc4\x01\xff\xa3nan\xa9-Infinity";
    struct muster_writer w;
    struct buf out = {0};

    (void)state;
    writer_init(&w, MUSTER_MSGPACK, &out);
    write_sample(&w);
    assert_int_equal(writer_finish(&w, NULL), 0);
    assert_int_equal(out.len, sizeof expected - 1);
    assert_memory_equal(out.data, expected, sizeof expected - 1);
    buf_done(&out);
}

static void test_digits(void **state)
{
    static const struct {
        double v;
        const char *digits;
    } cases[] = {{0.1, "0.1"},
                 {1, "1.0"},
                 {-0.0, "-0.0"},
                 {1e21, "1e+21"},
                 {1.0 / 3, "0.3333333333333333"},
                 {5e-324, "4.94065645841247e-324"},
                 {123456789.125, "123456789.125"}};
    struct buf out = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_clear(&out);
        writer_digits(&out, cases[i].v);
        assert_string_equal(out.data, cases[i].digits);
    }
    buf_done(&out);
}

static void breached(struct muster_writer *w, const char *expected)
{
    const char *why = NULL;

    assert_int_equal(writer_finish(w, &why), MUSTER_EINVAL);
    assert_string_equal(why, expected);
    writer_null(w); /* nothing moves any more */
    assert_int_equal(writer_finish(w, NULL), MUSTER_EINVAL);
    buf_clear(w->out);
    writer_init(w, w->encoding, w->out);
}

static void test_breaches(void **state)
{
    struct muster_writer w;
    struct buf out = {0};

    (void)state;
    writer_init(&w, MUSTER_JSON, &out);
    assert_int_equal(writer_finish(&w, NULL), MUSTER_EINVAL);
    writer_map(&w, 2);
    writer_text(&w, "a");
    writer_int(&w, 1);
    assert_int_equal(writer_finish(&w, NULL), MUSTER_EINVAL);
    writer_int(&w, 2);
    breached(&w, "a key that is not a string");
    writer_int(&w, 1);
    writer_int(&w, 2);
    breached(&w, "a value behind the end of the body");
    writer_str(&w, "\xff", 1);
    breached(&w, "a string that is not UTF-8, or holds U+0000");
    writer_str(&w, "a\0b", 3);
    breached(&w, "a string that is not UTF-8, or holds U+0000");
    writer_map(&w, WIRE_MAX_KEYS + 1);
    breached(&w, "a map of more than 1,024 keys");
    writer_array(&w, SIZE_MAX);
    breached(&w, "a list of more than 4,096 elements");
    for (int i = 0; i < WIRE_MAX_DEPTH; i++)
        writer_array(&w, 1);
    writer_bin(&w, "x", 1);
    breached(&w, "more than 32 levels");
    buf_done(&out);
}

/* What host->fail() was told last. */
static char failure[640];

static int fail_text(const struct muster_host *host, int code, const char *fmt, ...)
{
    va_list ap;

    (void)host;
    va_start(ap, fmt);
    (void)vsnprintf(failure, sizeof failure, fmt, ap);
    va_end(ap);
    return code;
}

static void test_codec(void **state)
{
    const struct muster_host host = {.size = sizeof host, .fail = fail_text};
    const struct muster_codec *codec = codec_table();
    struct muster_value *doc = NULL;
    struct muster_writer *w = NULL;
    struct muster_bytes out = {NULL, 0};

    (void)state;
    assert_int_equal(codec->size, sizeof *codec);
    assert_int_equal(
        codec->decode(&host, MUSTER_JSON, (struct muster_bytes){"{\"a\":[tru]}", 11}, &doc),
        MUSTER_EINVAL);
    assert_string_equal(failure, "a[0] (byte 6): 't' came, expected a string in quotes, a number, "
                                 "true, false, null, a list or a map");
    assert_int_equal(
        codec->decode(&host, MUSTER_JSON, (struct muster_bytes){"{\"a\":[2.5]}", 11}, &doc), 0);
    assert_int_equal(codec->writer_new(&host, 7, &w), MUSTER_EINVAL);
    assert_int_equal(codec->writer_new(&host, MUSTER_MSGPACK, &w), 0);
    codec->put_map(w, 2);
    codec->put_str(w, "again", 5);
    codec->put_value(w, doc);
    codec->put_str(w, "yes", 3);
    assert_int_equal(codec->bytes(w, &out), MUSTER_EINVAL);
    codec->put_bool(w, 7);
    assert_int_equal(codec->bytes(w, &out), 0);
    assert_int_equal(out.len, 21);
    assert_memory_equal(out.data,
                        "\x82\xa5"
                        "again\x81\xa1"
                        "a\x91\xca\x40\x20\0\0\xa3yes\xc3",
                        21);
    codec->writer_free(w);
    codec->free_doc(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),   cmocka_unit_test(test_msgpack),
        cmocka_unit_test(test_digits), cmocka_unit_test(test_breaches),
        cmocka_unit_test(test_codec),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
