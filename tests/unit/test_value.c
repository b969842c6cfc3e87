/* Values: what each type's text becomes in JSON and MessagePack, and how types are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cdc/jsontree.h"
#include "cdc/types.h"

enum { /* OIDs of pg_type */
       BOOL = 16,
       BYTEA = 17,
       CHAR = 18,
       NAME = 19,
       INT8 = 20,
       INT2 = 21,
       INT2VECTOR = 22,
       INT4 = 23,
       TEXT = 25,
       OID = 26,
       JSON = 114,
       XML = 142,
       POINT = 600,
       BOX = 603,
       POLYGON = 604,
       CIDR = 650,
       FLOAT4 = 700,
       FLOAT8 = 701,
       MACADDR = 829,
       MONEY = 790,
       INET = 869,
       BOOLS = 1000,
       BYTEAS = 1001,
       INT4S = 1007,
       TEXTS = 1009,
       INT8S = 1016,
       BOXES = 1020,
       FLOAT8S = 1022,
       BPCHAR = 1042,
       VARCHAR = 1043,
       DATE = 1082,
       TIME = 1083,
       TIMESTAMP = 1114,
       TIMESTAMPS = 1115,
       DATES = 1182,
       TIMESTAMPTZ = 1184,
       TIMESTAMPTZS = 1185,
       INTERVAL = 1186,
       NUMERICS = 1231,
       TIMETZ = 1266,
       BIT = 1560,
       NUMERIC = 1700,
       UUID = 2950,
       UUIDS = 2951,
       LSN = 3220,
       TSVECTOR = 3614,
       JSONB = 3802,
       JSONBS = 3807,
       INT4RANGE = 3904,
       INT4RANGES = 3905,
       INT4MULTIRANGE = 4451,
};

struct row {
    uint32_t type;
    const char *text;
    const char *json;
    const char *msgpack; /* hex; NULL: not compared */
};

/* Write one value as the only element of an array, so that commas and rewinding have something to
 * break. */
static void put(struct out *o, struct buf *b, uint32_t encoding, struct value_type type,
                const char *text)
{
    size_t len = strlen(text);
    char *copy = malloc(len ? len : 1); /* no NUL at its end, as in a message */
    size_t at;

    assert_non_null(copy);
    memcpy(copy, text, len);
    o->encoding = encoding;
    buf_clear(b);
    out_to(o, b);
    at = out_open(o, OUT_ARRAY);
    out_bool(o, true);
    value_put(o, type, copy, len);
    out_close(o, OUT_ARRAY, at, 2);
    assert_false(buf_failed(b));
    free(copy);
}

static void put_hex(struct buf *to, const struct buf *b)
{
    buf_clear(to);
    for (size_t i = 0; i < b->len; i++)
        buf_printf(to, "%02x", (unsigned char)b->data[i]);
}

static void check(const struct row *rows, size_t n)
{
    struct types types = {0};
    struct out o = {0};
    struct buf b = {0}, want = {0}, hex = {0};

    for (size_t i = 0; i < n; i++) {
        struct value_type type = types_value(&types, rows[i].type);

        put(&o, &b, MUSTER_JSON, type, rows[i].text);
        buf_clear(&want);
        buf_printf(&want, "[true,%s]", rows[i].json);
        assert_string_equal(b.data, want.data);
        if (!rows[i].msgpack)
            continue;
        put(&o, &b, MUSTER_MSGPACK, type, rows[i].text);
        put_hex(&hex, &b);
        buf_clear(&want);
        buf_printf(&want, "92c3%s", rows[i].msgpack);
        assert_string_equal(hex.data, want.data);
    }
    out_done(&o);
    buf_done(&b);
    buf_done(&want);
    buf_done(&hex);
}

#define CHECK(rows) check(rows, sizeof(rows) / sizeof *(rows))

static void test_numbers(void **state)
{
    static const struct row rows[] = {
        {INT4, "0", "0", "00"},
        {INT4, "127", "127", "7f"},
        {INT4, "128", "128", "cc80"},
        {INT4, "256", "256", "cd0100"},
        {INT4, "65536", "65536", "ce00010000"},
        {INT4, "-1", "-1", "ff"},
        {INT4, "-32", "-32", "e0"},
        {INT4, "-33", "-33", "d0df"},
        {INT2, "-32768", "-32768", "d18000"},
        {INT4, "-2147483648", "-2147483648", "d280000000"},
        {INT8, "9007199254740993", "9007199254740993", "cf0020000000000001"},
        {INT8, "9223372036854775807", "9223372036854775807", "cf7fffffffffffffff"},
        {INT8, "-9223372036854775808", "-9223372036854775808", "d38000000000000000"},
        {INT4, "", "\"\"", "a0"}, /* never sent; a body stays well-formed */
        {INT4, "007", "\"007\"", "a3303037"},
        {INT4, "1x", "\"1x\"", "a23178"},
        {INT8, "99999999999999999999", "\"99999999999999999999\"", NULL},
        {OID, "4294967295", "\"4294967295\"", "aa34323934393637323935"},
        {FLOAT8, "1.5", "1.5", "cb3ff8000000000000"},
        {FLOAT8, "-0", "-0", "cb8000000000000000"},
        {FLOAT8, "0", "0", "cb0000000000000000"},
        {FLOAT8, "0.1", "0.1", "cb3fb999999999999a"},
        {FLOAT8, "1.2345678901234568e+17", "1.2345678901234568e+17", "cb437b69b4ba630f35"},
        {FLOAT8, "1e-300", "1e-300", "cb01a56e1fc2f8f359"},
        {FLOAT8, "4.9406564584124654e-324", "4.9406564584124654e-324", "cb0000000000000001"},
        {FLOAT8, "1.7976931348623157e+308", "1.7976931348623157e+308", "cb7fefffffffffffff"},
        {FLOAT4, "1.1", "1.1", "cb3ff199999999999a"},
        {FLOAT8, "NaN", "\"NaN\"", "a34e614e"},
        {FLOAT8, "Infinity", "\"Infinity\"", "a8496e66696e697479"},
        {FLOAT4, "-Infinity", "\"-Infinity\"", "a92d496e66696e697479"},
        {FLOAT8, ".5", "\".5\"", NULL},
        {FLOAT8, "1.", "\"1.\"", NULL},
        {FLOAT8, "1e", "\"1e\"", NULL},
        {NUMERIC, "12.50", "\"12.50\"", "a531322e3530"},
        {NUMERIC, "NaN", "\"NaN\"", NULL},
        {NUMERIC, "123456789012345678901234567890.123456789",
         "\"123456789012345678901234567890.123456789\"", NULL},
        {MONEY, "$12.34", "\"$12.34\"", NULL},
        {BOOL, "t", "true", "c3"},
        {BOOL, "f", "false", "c2"},
        {BOOL, "x", "\"x\"", "a178"},
    };

    (void)state;
    CHECK(rows);
}

static void test_text(void **state)
{
    static const struct row rows[] = {
        {TEXT, "", "\"\"", "a0"},
        {TEXT, "plain", "\"plain\"", "a5706c61696e"},
        {TEXT, "exactly 8", "\"exactly 8\"", NULL},
        {TEXT, "a\tb\nc\rd\"e\\f\x01g\x1f", "\"a\\tb\\nc\\rd\\\"e\\\\f\\u0001g\\u001f\"", NULL},
        {TEXT, "long enough for a word, then \" a quote",
         "\"long enough for a word, then \\\" a quote\"", NULL},
        {TEXT, "\x7f", "\"\x7f\"", "a17f"},
        {TEXT, "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf",
         "\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf\"", NULL},
        {TEXT, "\xff", "{\"base64\":\"/w==\"}", "81a6626173653634a42f773d3d"},
        {TEXT, "caf\xe9", "{\"base64\":\"Y2Fm6Q==\"}", NULL}, /* LATIN1 in a SQL_ASCII database */
        {TEXT, "\xc0\x80", "{\"base64\":\"wIA=\"}", NULL},    /* overlong */
        {TEXT, "\xe0\x9f\xbf", "{\"base64\":\"4J+/\"}", NULL},
        {TEXT, "\xf0\x8f\xbf\xbf", "{\"base64\":\"8I+/vw==\"}", NULL},
        {TEXT, "\xed\xa0\x80", "{\"base64\":\"7aCA\"}", NULL},         /* a surrogate */
        {TEXT, "\xf4\x90\x80\x80", "{\"base64\":\"9JCAgA==\"}", NULL}, /* beyond U+10FFFF */
        {TEXT, "12345678\xe2\x82", "{\"base64\":\"MTIzNDU2Nzjigg==\"}", NULL},
        {VARCHAR, "v", "\"v\"", NULL},
        {BPCHAR, "ab   ", "\"ab   \"", NULL},
        {CHAR, "x", "\"x\"", NULL},
        {NAME, "n", "\"n\"", NULL},
        {UUID, "00000000-0000-4000-8000-000000000001", "\"00000000-0000-4000-8000-000000000001\"",
         "d92430303030303030302d303030302d343030302d383030302d303030303030303030303031"},
        {XML, "<a>1</a>", "\"<a>1</a>\"", NULL},
        {INET, "10.0.0.1/8", "\"10.0.0.1/8\"", NULL},
        {CIDR, "10.0.0.0/8", "\"10.0.0.0/8\"", NULL},
        {MACADDR, "08:00:2b:01:02:03", "\"08:00:2b:01:02:03\"", NULL},
        {POINT, "(1,2)", "\"(1,2)\"", NULL},
        {BOX, "(3,4),(1,2)", "\"(3,4),(1,2)\"", NULL},
        {POLYGON, "((0,0),(1,1))", "\"((0,0),(1,1))\"", NULL},
        {BIT, "1010", "\"1010\"", NULL},
        {INT4RANGE, "[1,5)", "\"[1,5)\"", NULL},
        {INT4MULTIRANGE, "{[1,3),[5,7)}", "\"{[1,3),[5,7)}\"", NULL}, /* braces, but no array */
        {INT2VECTOR, "1 2", "\"1 2\"", NULL},
        {TSVECTOR, "'a':1 'fat':2", "\"'a':1 'fat':2\"", NULL},
        {LSN, "16/B374D848", "\"16/B374D848\"", NULL},
        {INTERVAL, "1 year 2 mons", "\"1 year 2 mons\"", NULL},
        {9999, "{1,2}", "\"{1,2}\"", NULL}, /* a type nobody has heard of */
    };

    (void)state;
    CHECK(rows);
}

static void test_times(void **state)
{
    static const struct row rows[] = {
        {TIMESTAMPTZ, "2026-01-02 03:04:05+00", "\"2026-01-02T03:04:05.000000Z\"",
         "bb323032362d30312d30325430333a30343a30352e3030303030305a"},
        {TIMESTAMPTZ, "2026-01-02 03:04:05.6+00", "\"2026-01-02T03:04:05.600000Z\"", NULL},
        {TIMESTAMPTZ, "2026-01-02 03:04:05.000001+00", "\"2026-01-02T03:04:05.000001Z\"", NULL},
        {TIMESTAMPTZ, "2026-01-02 03:04:05+02", "\"2026-01-02 03:04:05+02\"", NULL},
        {TIMESTAMPTZ, "2026-01-02 03:04:05", "\"2026-01-02 03:04:05\"", NULL},
        {TIMESTAMPTZ, "2026-01-02 03:04:05.+00", "\"2026-01-02 03:04:05.+00\"", NULL},
        {TIMESTAMPTZ, "infinity", "\"infinity\"", NULL},
        {TIMESTAMPTZ, "-infinity", "\"-infinity\"", NULL},
        {TIMESTAMPTZ, "0044-03-15 01:02:03+00 BC", "\"0044-03-15 01:02:03+00 BC\"", NULL},
        {TIMESTAMPTZ, "10000-01-01 00:00:00+00", "\"10000-01-01 00:00:00+00\"", NULL},
        {TIMESTAMP, "2026-01-02 03:04:05.123456", "\"2026-01-02T03:04:05.123456\"", NULL},
        {TIMESTAMP, "2026-01-02 03:04:05", "\"2026-01-02T03:04:05.000000\"", NULL},
        {TIMESTAMP, "2026-01-02 03:04:05.1234567", "\"2026-01-02 03:04:05.1234567\"", NULL},
        {TIMESTAMP, "0044-03-15 01:02:03 BC", "\"0044-03-15 01:02:03 BC\"", NULL},
        {TIMESTAMP, "294276-12-31 23:59:59.999999", "\"294276-12-31 23:59:59.999999\"", NULL},
        {TIMESTAMP, "-infinity", "\"-infinity\"", NULL},
        {DATE, "2026-01-02", "\"2026-01-02\"", NULL},
        {DATE, "0044-03-15 BC", "\"0044-03-15 BC\"", NULL},
        {TIME, "03:04:05.5", "\"03:04:05.5\"", NULL},
        {TIMETZ, "03:04:05+02", "\"03:04:05+02\"", NULL},
    };

    (void)state;
    CHECK(rows);
}

static void test_bytea(void **state)
{
    static const struct row rows[] = {
        {BYTEA, "\\x", "\"\"", "c400"},
        {BYTEA, "\\xde", "\"3g==\"", "c401de"},
        {BYTEA, "\\xdeADbe", "\"3q2+\"", "c403deadbe"},
        {BYTEA, "\\xdeadbeef", "\"3q2+7w==\"", "c404deadbeef"},
        {BYTEA, "\\xd", "\"\\\\xd\"", NULL},
        {BYTEA, "\\xzz", "\"\\\\xzz\"", "a45c787a7a"},
        {BYTEA, "\\336", "\"\\\\336\"", NULL}, /* bytea_output = escape */
    };
    struct out o = {0};
    struct buf b = {0}, text = {0};

    (void)state;
    CHECK(rows);
    buf_puts(&text, "\\x");
    for (size_t i = 0; i < 70000; i++)
        buf_puts(&text, "61");
    put(&o, &b, MUSTER_MSGPACK, (struct value_type){.kind = VALUE_BYTEA}, text.data);
    assert_int_equal(b.len, 2 + 5 + 70000);
    assert_memory_equal(b.data + 2,
                        "\xc6\x00\x01\x11\x70"
                        "aaa",
                        8);
    put(&o, &b, MUSTER_JSON, (struct value_type){.kind = VALUE_BYTEA}, text.data);
    assert_int_equal(b.len, 9 + 4 * 23334);
    assert_string_equal(b.data + b.len - 12, "FhYWFhYQ==\"]"); /* padding at the very end only */
    out_done(&o);
    buf_done(&b);
    buf_done(&text);
}

static void test_trees(void **state)
{
    static const struct row rows[] = {
        {JSONB, "{\"k\": 1.10, \"n\": null}", "{\"k\": 1.10, \"n\": null}",
         "82a16bcb3ff199999999999aa16ec0"},
        {JSONB, "3", "3", "03"},
        {JSONB, "\"x\"", "\"x\"", "a178"},
        {JSONB, "null", "null", "c0"},
        {JSONB, "[]", "[]", "90"},
        {JSONB, "[[], {}, true, false]", "[[], {}, true, false]", "949080c3c2"},
        {JSONB, "-9223372036854775808", "-9223372036854775808", "d38000000000000000"},
        {JSONB, "18446744073709551615", "18446744073709551615", "cfffffffffffffffff"},
        {JSONB, "18446744073709551616", "18446744073709551616",
         "b43138343436373434303733373039353531363136"},
        {JSONB, "0.1234567890123456", "0.1234567890123456",
         "b2302e31323334353637383930313233343536"},
        {JSONB, "123456789012345.0", "123456789012345.0", NULL},
        {JSONB, "1e400", "1e400", "a53165343030"},
        {JSONB, "1e-400", "1e-400", "a631652d343030"},
        {JSONB, "0e5", "0e5", "cb0000000000000000"},
        {JSONB, "-0", "-0", "cb8000000000000000"},
        {JSON, "{\"a\":\n\t[1,\r\n2.50]}", "{\"a\":  [1,  2.50]}", "81a1619201cb4004000000000000"},
        {JSON, " {\"dup\":1,\"dup\":2} ", " {\"dup\":1,\"dup\":2} ", NULL},
        {JSON, "\"a\\nb\\u00e9\\ud83d\\ude00\\/\"", "\"a\\nb\\u00e9\\ud83d\\ude00\\/\"",
         "aa610a62c3a9f09f98802f"},
        {JSON, "\"\\u0000\"", "\"\\u0000\"", "a100"},
        /* What RFC 8259 does not allow is a string, never a broken body. */
        {JSON, "\"\\ud800\"", "\"\\\"\\\\ud800\\\"\"", "a8225c756438303022"},
        {JSON, "\"\\ude00\\ud83d\"", "\"\\\"\\\\ude00\\\\ud83d\\\"\"", NULL},
        {JSON, "[1,]", "\"[1,]\"", "a45b312c5d"},
        {JSON, "{\"a\"}", "\"{\\\"a\\\"}\"", NULL},
        {JSON, "[1 2]", "\"[1 2]\"", NULL},
        {JSON, "01", "\"01\"", NULL},
        {JSON, "tru", "\"tru\"", NULL},
        {JSON, "\"\\x\"", "\"\\\"\\\\x\\\"\"", NULL},
        {JSON, "\"", "\"\\\"\"", "a122"},
        {JSON, "", "\"\"", "a0"},
        {JSON, "{} {}", "\"{} {}\"", NULL},
        {JSON, "\"a\nb\"", "\"\\\"a\\nb\\\"\"", NULL},
        {JSON, "\"\xff\"", "{\"base64\":\"Iv8i\"}", NULL},
    };

    (void)state;
    CHECK(rows);
}

/* n opening brackets and as many closing ones. */
static char *nest(size_t n)
{
    char *text = malloc(2 * n + 1);

    assert_non_null(text);
    memset(text, '[', n);
    memset(text + n, ']', n);
    text[2 * n] = '\0';
    return text;
}

static void test_deep_trees(void **state)
{
    static const struct {
        uint32_t encoding;
        size_t depth;
        char first; /* of the value: a tree or a string */
    } rows[] = {{MUSTER_JSON, JSONTREE_DEPTH_JSON, '['},
                {MUSTER_JSON, JSONTREE_DEPTH_JSON + 1, '"'},
                {MUSTER_MSGPACK, JSONTREE_DEPTH_COLUMN, (char)0x91},
                {MUSTER_MSGPACK, JSONTREE_DEPTH_COLUMN + 1, (char)0xd9}};
    struct out o = {0};
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *text = nest(rows[i].depth);

        put(&o, &b, rows[i].encoding, (struct value_type){.kind = VALUE_JSON}, text);
        if (rows[i].encoding == MUSTER_JSON)
            assert_int_equal(b.data[strlen("[true,")], rows[i].first);
        else if (i == 2)
            assert_memory_equal(b.data, "\x92\xc3\x91\x91", 4);
        else
            assert_memory_equal(b.data, "\x92\xc3\xd9\x32[[", 6);
        free(text);
    }
    out_done(&o);
    buf_done(&b);
}

static void add_member(void *arg, struct jsontree_span key, struct jsontree_span v)
{
    buf_put(arg, key.s, key.len);
    buf_putc(arg, '=');
    buf_put(arg, v.s, v.len);
    buf_putc(arg, ';');
}

static void test_members(void **state)
{
    static const struct {
        const char *text, *told;
        bool ok;
    } rows[] = {
        {" { \"a\" : 1.10 , \"b\\n\":{ \"c\" : [ ] } } ", "a=1.10;b\\n={ \"c\" : [ ] };", true},
        {"{}", "", true},
        {"{\"a\":\"\\\"}\"}", "a=\"\\\"}\";", true},
        {"{\"a\":1}x", "a=1;", false},
        {"{\"a\":1", "a=1;", false},
        {"{\"a\" 1}", "", false},
        {"{\"a\":01}", "", false},
        {"{a:1}", "", false},
        {"[1]", "", false},
        {"", "", false},
    };
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_clear(&b);
        buf_puts(&b, "");
        assert_int_equal(jsontree_each(rows[i].text, strlen(rows[i].text), add_member, &b), rows[i].ok);
        assert_string_equal(b.data, rows[i].told);
    }
    buf_done(&b);
}

static void test_strings(void **state)
{
    static const struct {
        const char *text, *said; /* NULL: none */
    } rows[] = {{"\"\"", ""},       {"\"a\\n\\u00e9\\ud83d\\ude00\"", "a\n\xc3\xa9\xf0\x9f\x98\x80"}, {"\"a", NULL}, {"a", NULL},
                {"\"a\"b", NULL}, {"\"\\ud800\"", NULL},                                         {"\"\n\"", NULL}, {"", NULL}};
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_clear(&b);
        buf_puts(&b, "");
        assert_int_equal(jsontree_string(rows[i].text, strlen(rows[i].text), &b), rows[i].said != NULL);
        if (rows[i].said)
            assert_string_equal(b.data, rows[i].said);
    }
    buf_done(&b);
}

static void test_arrays(void **state)
{
    static const struct row rows[] = {
        {INT4S, "{}", "[]", "90"},
        {INT4S, "{1,NULL,-3}", "[1,null,-3]", "9301c0fd"},
        {INT4S, "[0:2]={1,NULL,3}", "[1,null,3]", "9301c003"},
        {INT4S, "[-1:0][2:3]={{1,2},{3,4}}", "[[1,2],[3,4]]", "92920102920304"},
        {INT8S, "{-9223372036854775808}", "[-9223372036854775808]", NULL},
        {FLOAT8S, "{NaN,-0,1e+300,Infinity}", "[\"NaN\",-0,1e+300,\"Infinity\"]", NULL},
        {NUMERICS, "{1.10,NaN}", "[\"1.10\",\"NaN\"]", NULL},
        {BOOLS, "{t,f,NULL}", "[true,false,null]", "93c3c2c0"},
        {TEXTS, "{\"a b\",\"q\\\"q\",\"back\\\\slash\",NULL,\"NULL\",\"\",\",{}\"}",
         "[\"a b\",\"q\\\"q\",\"back\\\\slash\",null,\"NULL\",\"\",\",{}\"]", NULL},
        {TEXTS, "{{{a,b},{c,d}},{{e,f},{g,h}}}",
         "[[[\"a\",\"b\"],[\"c\",\"d\"]],[[\"e\",\"f\"],[\"g\",\"h\"]]]", NULL},
        {TEXTS, "{\"\xff\",ok}", "[{\"base64\":\"/w==\"},\"ok\"]", NULL},
        {BYTEAS, "{\"\\\\xdead\"}", "[\"3q0=\"]", "91c402dead"},
        {JSONBS, "{\"{\\\"a\\\": 1}\",[1],3,NULL,\"null\"}", "[{\"a\": 1},[1],3,null,null]", NULL},
        {UUIDS, "{00000000-0000-4000-8000-000000000001}",
         "[\"00000000-0000-4000-8000-000000000001\"]", NULL},
        {TIMESTAMPTZS, "{\"2026-01-02 03:04:05.5+00\",infinity}",
         "[\"2026-01-02T03:04:05.500000Z\",\"infinity\"]", NULL},
        {TIMESTAMPS, "{\"2026-01-02 03:04:05\"}", "[\"2026-01-02T03:04:05.000000\"]", NULL},
        {DATES, "{2026-01-02,-infinity}", "[\"2026-01-02\",\"-infinity\"]", NULL},
        {BOXES, "{(3,4),(1,2);(5,6),(1,2)}", "[\"(3,4),(1,2)\",\"(5,6),(1,2)\"]", NULL},
        {INT4RANGES, "{\"[1,5)\",empty}", "[\"[1,5)\",\"empty\"]", NULL},
        /* What is no array literal is a string. */
        {INT4S, "", "\"\"", "a0"},
        {INT4S, "{1,2", "\"{1,2\"", "a47b312c32"},
        {INT4S, "{1,2}x", "\"{1,2}x\"", NULL},
        {INT4S, "{1,,2}", "\"{1,,2}\"", NULL},
        {INT4S, "{1,}", "\"{1,}\"", NULL},
        {INT4S, "[0:1={1,2}", "\"[0:1={1,2}\"", NULL},
        {INT4S, "[0:1]{1,2}", "\"[0:1]{1,2}\"", NULL},
        {TEXTS, "{\"a", "\"{\\\"a\"", NULL},
        {TEXTS, "{\"a\\", "\"{\\\"a\\\\\"", NULL},
        {TEXTS, "{a\"b}", "\"{a\\\"b}\"", NULL},
        {TEXTS, "{{{{{{a}}}}}}", "[[[[[[\"a\"]]]]]]", NULL},
        {TEXTS, "{{{{{{{a}}}}}}}", "\"{{{{{{{a}}}}}}}\"", NULL},
    };
    struct out o = {0};
    struct buf b = {0}, text = {0};

    (void)state;
    CHECK(rows);
    /* More members than a short header counts: what was written moves. */
    buf_puts(&text, "{0");
    for (size_t i = 1; i < 65536; i++)
        buf_puts(&text, ",1");
    buf_puts(&text, "}");
    put(&o, &b, MUSTER_MSGPACK, types_value(&(struct types){0}, INT4S), text.data);
    assert_int_equal(b.len, 2 + 5 + 65536);
    assert_memory_equal(b.data, "\x92\xc3\xdd\x00\x01\x00\x00\x00\x01", 9);
    put(&o, &b, MUSTER_MSGPACK, types_value(&(struct types){0}, INT4S),
        "{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}");
    assert_memory_equal(b.data, "\x92\xc3\xdc\x00\x10\x00\x01", 7);
    assert_int_equal(b.len, 2 + 3 + 16);
    out_done(&o);
    buf_done(&b);
    buf_done(&text);
}

static void assert_type(const struct types *t, uint32_t oid, const char *name,
                        struct value_type want)
{
    struct value_type v = types_value(t, oid);
    struct buf b = {0};

    types_put_name(t, oid, &b);
    assert_string_equal(b.data, name);
    assert_int_equal(v.kind, want.kind);
    assert_int_equal(v.array, want.array);
    assert_int_equal(v.delim, want.delim);
    buf_done(&b);
}

static struct value_type scalar(uint8_t kind)
{
    return (struct value_type){.kind = kind, .delim = ','};
}

static struct value_type array_of(uint8_t kind)
{
    return (struct value_type){.kind = kind, .array = true, .delim = ','};
}

static void test_types_said(void **state)
{
    struct types t = {0};

    (void)state;
    assert_type(&t, INT4S, "int4[]", array_of(VALUE_INT));
    assert_type(&t, 20000, "oid 20000", scalar(VALUE_TEXT));
    assert_int_equal(types_missing(&t, INT4S), 0);
    assert_int_equal(types_missing(&t, 20000), 20000);

    assert_int_equal(types_said(&t, 20000, "", "int4"), 0); /* a domain */
    assert_type(&t, 20000, "int4", scalar(VALUE_INT));
    assert_int_equal(types_missing(&t, 20000), 0);
    assert_int_equal(types_said(&t, 20001, "", "_int4"), 0); /* a domain over an array */
    assert_type(&t, 20001, "int4[]", array_of(VALUE_INT));
    assert_int_equal(types_said(&t, 20002, "app", "mood"), 0);
    assert_type(&t, 20002, "app.mood", scalar(VALUE_TEXT));
    assert_int_equal(types_missing(&t, 20002), 20002);
    assert_int_equal(types_said(&t, 20003, "app", "_mood"),
                     0); /* the name is all there is to go by */
    assert_type(&t, 20003, "app.mood[]", array_of(VALUE_TEXT));
    assert_int_equal(types_missing(&t, 20003), 20003);
    assert_int_equal(types_said(&t, 20002, "app", "temper"), 0); /* renamed */
    assert_type(&t, 20002, "app.temper", scalar(VALUE_TEXT));
    assert_int_equal(types_said(&t, INT4, "app", "mine"), 0); /* the table is not to be shadowed */
    assert_type(&t, INT4, "int4", scalar(VALUE_INT));
    types_done(&t);
}

static void test_types_learnt(void **state)
{
    static const struct types_row rows[] = {
        {.oid = 20000, .base = INT4, .delim = ',', .schema = "app", .name = "posint"},
        {.oid = 20001, .elem = 20000, .delim = ',', .schema = "app", .name = "_posint"},
        {.oid = 20002,
         .delim = ',',
         .schema = "app",
         .name = "_odd"}, /* an underscore, and no array */
        {.oid = 20003, .base = 20000, .delim = ',', .schema = "app", .name = "evenint"},
        {.oid = 20004, .elem = 20005, .delim = ':', .schema = "gis", .name = "_geometry"},
        {.oid = 20006, .base = 20006, .delim = ',', .schema = "app", .name = "loop"},
        {.oid = 20007, .elem = INT4S, .delim = ',', .schema = "app", .name = "_ints"},
    };
    struct types t = {0};

    (void)state;
    assert_int_equal(types_said(&t, 20001, "app", "_posint"), 0);
    assert_type(&t, 20001, "app.posint[]", array_of(VALUE_TEXT));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(types_learn(&t, &rows[i]), 0);
    assert_type(&t, 20001, "int4[]", array_of(VALUE_INT));
    assert_type(&t, 20003, "int4", scalar(VALUE_INT));
    assert_type(&t, 20002, "app._odd", scalar(VALUE_TEXT));
    assert_type(&t, 20004, "gis.geometry[]",
                (struct value_type){.kind = VALUE_TEXT, .array = true, .delim = ':'});
    assert_int_equal(types_missing(&t, 20004), 20005); /* its element is still unknown */
    assert_int_equal(
        types_learn(
            &t,
            &(struct types_row){.oid = 20005, .delim = ':', .schema = "gis", .name = "geometry"}),
        0);
    assert_int_equal(types_missing(&t, 20004), 0);
    assert_type(&t, 20007, "int4[][]",
                array_of(VALUE_TEXT)); /* elements that are arrays themselves stay texts */
    assert_int_equal(types_missing(&t, 20006), 0);               /* a loop ends */
    assert_int_equal(types_said(&t, 20001, "app", "_other"), 0); /* less than what is known */
    assert_type(&t, 20001, "int4[]", array_of(VALUE_INT));
    types_done(&t);
}

static void test_types_bound(void **state)
{
    struct types t = {0};

    (void)state;
    for (uint32_t i = 0; i < TYPES_MAX; i++)
        assert_int_equal(types_said(&t, 20000 + i, "a", "b"), 0);
    assert_int_equal(types_said(&t, 20000 + TYPES_MAX, "a", "b"), MUSTER_EAGAIN);
    assert_int_equal(types_said(&t, 20000, "a", "c"), 0);
    types_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_text),
        cmocka_unit_test(test_times),        cmocka_unit_test(test_bytea),
        cmocka_unit_test(test_trees),        cmocka_unit_test(test_deep_trees),
        cmocka_unit_test(test_members),      cmocka_unit_test(test_strings),
        cmocka_unit_test(test_arrays),       cmocka_unit_test(test_types_said),
        cmocka_unit_test(test_types_learnt), cmocka_unit_test(test_types_bound),
    };

    return cmocka_run_group_tests_name("value", tests, NULL, NULL);
}
