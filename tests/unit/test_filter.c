/* plugins/fanout: the filter of a watch, case by case, and held against a plain evaluation of the same conditions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/filter.h"

#define COLUMN(n, t, kind, cat) {.name = (n), .type = (t), .in_identity = true}
static struct filter_column columns[] = {
    COLUMN("id", "int8", 'b', 'N'),      COLUMN("n", "numeric", 'b', 'N'),         COLUMN("f", "float8", 'b', 'N'),
    COLUMN("ok", "bool", 'b', 'B'),      COLUMN("t", "text", 'b', 'S'),            COLUMN("c", "bpchar", 'b', 'S'),
    COLUMN("u", "uuid", 'b', 'U'),       COLUMN("at", "timestamptz", 'b', 'D'),    COLUMN("ts", "timestamp", 'b', 'D'),
    COLUMN("d", "date", 'b', 'D'),       COLUMN("tod", "time", 'b', 'D'),          COLUMN("mood", "mood", 'e', 'E'),
    COLUMN("ip", "inet", 'b', 'I'),      COLUMN("doc", "jsonb", 'b', 'U'),         COLUMN("tags", "_text", 'b', 'A'),
    COLUMN("a,b=\"c\"", "int4", 'b', 'N'), COLUMN("age", "interval", 'b', 'T'),
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

static struct span text_of(const char *s)
{
    return (struct span){s, strlen(s)};
}

static int set_classes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_COLUMNS; i++)
        columns[i].class = datum_class(columns[i].type, strcmp(columns[i].type, "mood") == 0 ? 'e' : 'b', columns[i].type[0] == '_' ? 'A' : 'X');
    return 0;
}

static int test_new_row(const char *filter_text, const char *row_json)
{
    char why[FILTER_WHY_SIZE], body[2048];
    struct filter *f = filter_new(text_of(filter_text), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why);
    struct row row = {0};
    int outcome;

    if (!f)
        fail_msg("%s: %s", filter_text, why);
    (void)snprintf(body, sizeof body, "{\"schema\":\"public\",\"table\":\"t\",\"op\":\"insert\",\"new\":%s,\"old\":null,\"unchanged\":[],\"omitted\":[]}",
                   row_json);
    assert_true(row_read(&row, text_of(body)));
    outcome = filter_test(f, &row, ROW_NEW);
    row_done(&row);
    filter_free(f);
    return outcome;
}

static void test_operators(void **state)
{
    static const struct {
        const char *filter, *row;
        int outcome;
    } cases[] = {
        {"", "{}", FILTER_YES},
        {"id=eq.5", "{\"id\":5}", FILTER_YES},
        {"id=eq.5", "{\"id\":6}", FILTER_NO},
        {"id=eq.5", "{\"id\":null}", FILTER_NO},
        {"id=not.eq.5", "{\"id\":null}", FILTER_NO}, /* NOT of unknown is unknown */
        {"id=isdistinct.5", "{\"id\":null}", FILTER_YES},
        {"id=not.isdistinct.5", "{\"id\":5}", FILTER_YES},
        {"id=eq.5", "{}", FILTER_MAYBE},
        {"id=gt.9223372036854775806", "{\"id\":9223372036854775807}", FILTER_YES}, /* a double cannot tell the two */
        {"id=neq.9223372036854775806", "{\"id\":9223372036854775807}", FILTER_YES},
        {"id=in.(1,2,-3)", "{\"id\":-3}", FILTER_YES},
        {"id=not.in.(1,2,3)", "{\"id\":2}", FILTER_NO},
        {"id=is.null", "{\"id\":null}", FILTER_YES},
        {"id=not.is.null", "{\"id\":0}", FILTER_YES},
        {"id=gte.1,id=lt.3", "{\"id\":2}", FILTER_YES},
        {"id=gte.1,id=lt.3", "{\"id\":3}", FILTER_NO},
        {"\"a,b=\\\"c\\\"\"=eq.1", "{\"a,b=\\\"c\\\"\":1}", FILTER_YES},
        {"n=eq.1.50", "{\"n\":\"1.5\"}", FILTER_YES},
        {"n=eq.0", "{\"n\":\"-0.00\"}", FILTER_YES},
        {"n=gt.99999999999999999999.1", "{\"n\":\"99999999999999999999.2\"}", FILTER_YES},
        {"n=lt.-1.5", "{\"n\":\"-1.51\"}", FILTER_YES},
        {"n=lt.-1.5", "{\"n\":\"-10\"}", FILTER_YES},
        {"n=lt.10", "{\"n\":\"9.99\"}", FILTER_YES},
        {"n=lt.1e1", "{\"n\":\"9.99\"}", FILTER_YES},
        {"n=lt.1e1", "{\"n\":\"10\"}", FILTER_NO},
        {"n=eq.1.50E+1", "{\"n\":\"15\"}", FILTER_YES},
        {"n=eq.-12.5e-3", "{\"n\":\"-0.0125\"}", FILTER_YES},
        {"n=eq.0012.3e3", "{\"n\":\"12300\"}", FILTER_YES},
        {"n=eq.123e-2", "{\"n\":\"1.23\"}", FILTER_YES},
        {"n=eq..5e1", "{\"n\":\"5\"}", FILTER_YES},
        {"n=eq.0e7", "{\"n\":\"0\"}", FILTER_YES},
        {"n=eq.1e0", "{\"n\":\"1\"}", FILTER_YES},
        {"n=lt.1e400", "{\"n\":\"99999999999999999999999999\"}", FILTER_YES},
        {"n=gt.1e-400", "{\"n\":\"0.1\"}", FILTER_YES},
        {"n=gt.5", "{\"n\":\"NaN\"}", FILTER_YES},
        {"n=eq.NaN", "{\"n\":\"NaN\"}", FILTER_YES},
        {"n=lt.0", "{\"n\":\"-Infinity\"}", FILTER_YES},
        {"f=eq.0.1", "{\"f\":0.1}", FILTER_YES},
        {"f=eq.0", "{\"f\":-0.0}", FILTER_YES},
        {"f=gt.1e300", "{\"f\":\"Infinity\"}", FILTER_YES},
        {"f=gt.1", "{\"f\":\"NaN\"}", FILTER_YES},
        {"f=lt.2", "{\"f\":1}", FILTER_YES},
        {"ok=is.true", "{\"ok\":true}", FILTER_YES},
        {"ok=is.false", "{\"ok\":true}", FILTER_NO},
        {"ok=not.is.true", "{\"ok\":null}", FILTER_YES}, /* IS NOT TRUE */
        {"ok=eq.true", "{\"ok\":true}", FILTER_YES},
        {"t=eq.", "{\"t\":\"\"}", FILTER_YES},
        {"t=eq.a.b", "{\"t\":\"a.b\"}", FILTER_YES},
        {"t=eq.\"a,b\"", "{\"t\":\"a,b\"}", FILTER_YES},
        {"t=eq.\"say \\\"hi\\\" \\\\\"", "{\"t\":\"say \\\"hi\\\" \\\\\"}", FILTER_YES},
        {"t=in.(a,\"b,c\",\"d)\")", "{\"t\":\"b,c\"}", FILTER_YES},
        {"t=in.(a,\"b,c\",\"d)\")", "{\"t\":\"d)\"}", FILTER_YES},
        {"t=eq.\xc3\xbc\xf0\x9f\x98\x80", "{\"t\":\"\\u00fc\\ud83d\\ude00\"}", FILTER_YES},
        {"t=like.a%c", "{\"t\":\"abbc\"}", FILTER_YES},
        {"t=like.a%c", "{\"t\":\"abbd\"}", FILTER_NO},
        {"t=like.%b%b%", "{\"t\":\"abab\"}", FILTER_YES},
        {"t=like.a_c", "{\"t\":\"a\xc3\xbc" "c\"}", FILTER_YES},
        {"t=like.100\\%", "{\"t\":\"100%\"}", FILTER_YES},
        {"t=like.100\\%", "{\"t\":\"1000\"}", FILTER_NO},
        {"t=ilike.ABC%", "{\"t\":\"abcd\"}", FILTER_YES},
        {"t=like.ABC%", "{\"t\":\"abcd\"}", FILTER_NO},
        {"t=not.like.%x%", "{\"t\":\"abcd\"}", FILTER_YES},
        {"t=gt.B", "{\"t\":\"a\"}", FILTER_YES}, /* bytes */
        {"c=eq.ab", "{\"c\":\"ab   \"}", FILTER_YES},
        {"u=eq.A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{\"u\":\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"}", FILTER_YES},
        {"at=gte.2026-01-01T02:00:00+02:00", "{\"at\":\"2026-01-01T00:00:00Z\"}", FILTER_YES},
        {"at=gt.2026-01-01T00:00:01Z", "{\"at\":\"2026-01-01T00:00:01.5Z\"}", FILTER_YES},
        {"at=lt.infinity", "{\"at\":\"2026-01-01T00:00:01.5Z\"}", FILTER_YES},
        {"at=lt.2026-01-01T00:00:00Z", "{\"at\":\"0044-03-15 00:00:00+00 BC\"}", FILTER_YES},
        {"d=lt.5874897-12-31", "{\"d\":\"5874896-12-31\"}", FILTER_YES}, /* more days than int64 has microseconds */
        {"ts=eq.2026-01-31 12:00:00", "{\"ts\":\"2026-01-31T12:00:00\"}", FILTER_YES},
        {"d=lt.2026-02-01", "{\"d\":\"2026-01-31\"}", FILTER_YES},
        {"d=lt.0001-01-01", "{\"d\":\"0001-12-31 BC\"}", FILTER_YES},
        {"tod=lt.12:00:00.5", "{\"tod\":\"12:00:00\"}", FILTER_YES},
        {"mood=in.(glad,sad)", "{\"mood\":\"sad\"}", FILTER_YES},
        {"ip=eq.10.0.0.1", "{\"ip\":\"10.0.0.1\"}", FILTER_YES},
        {"doc=is.null", "{\"doc\":{\"a\":[1,\"}\"]}}", FILTER_NO},
        {"doc=not.is.null,id=eq.1", "{\"doc\":{\"a\":[1,\"}\"]},\"id\":1}", FILTER_YES},
        {"tags=is.null", "{\"tags\":null}", FILTER_YES},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int outcome = test_new_row(cases[i].filter, cases[i].row);

        if (outcome != cases[i].outcome)
            fail_msg("%s on %s: %d came, %d was expected", cases[i].filter, cases[i].row, outcome, cases[i].outcome);
    }
}

static void test_reasons(void **state)
{
    static const struct {
        const char *filter, *why;
    } cases[] = {
        {"id", "character 1: \"id\" came, a condition such as status=eq.open was expected"},
        {"nope=eq.1", "character 1: \"nope\" came, the name of a column of the table was expected"},
        {"id=5", "column id: \"5\" came, an operator and a dot were expected: eq neq lt lte gt gte in is isdistinct, with not. in front or without"},
        {"id=like.5%", "column id: operator like does not fit its type int8, expected one of eq neq lt lte gt gte in is isdistinct"},
        {"mood=gt.sad", "column mood: operator gt does not fit its type mood, expected one of eq neq in is isdistinct"},
        {"doc=eq.{}", "column doc: operator eq does not fit its type jsonb, expected one of is"},
        {"age=eq.1 day", "column age: operator eq does not fit its type interval, expected one of is"},
        {"id=eq.five", "column id: \"five\" came, an integer was expected"},
        {"id=eq.9223372036854775808", "column id: \"9223372036854775808\" came, an integer was expected"},
        {"id=eq. 5", "column id: \" 5\" came, an integer was expected"},
        {"n=eq.1e", "column n: \"1e\" came, a decimal number was expected"},
        {"n=eq.1e5x", "column n: \"1e5x\" came, a decimal number was expected"},
        {"n=eq.e5", "column n: \"e5\" came, a decimal number was expected"},
        {"n=eq.1e401", "column n: \"1e401\" came, a decimal number was expected"},
        {"at=gt.2026-01-01T00:00:00", "column at: \"2026-01-01T00:00:00\" came, a time with its zone such as 2026-01-31T12:00:00Z was expected"},
        {"at=gt.9999999-01-01T00:00:00Z", "column at: \"9999999-01-01T00:00:00Z\" came, a time with its zone such as 2026-01-31T12:00:00Z was expected"},
        {"d=gt.2026-02-30", "column d: \"2026-02-30\" came, a date such as 2026-01-31 was expected"},
        {"id=is.true", "column id: is.true came, is.null was expected for its type int8"},
        {"ok=is.maybe", "column ok: is.maybe came, is.null, is.true or is.false was expected for its type bool"},
        {"id=in.1,2", "column id: \"1,2\" came behind in., values in brackets such as in.(a,b) were expected"},
        {"id=in.(1,2", "column id: \"\" came in the brackets of in., a comma or ) was expected"},
        {"t=eq.\"abc", "character 6: a text begins with \" and does not end, expected \" behind it"},
        {"t=eq.\"a\"b", "character 9: \"b\" came behind a condition, a comma and another one or the end was expected"},
        {"id=eq.1,", "character 9: \"\" came behind a condition, a comma and another one or the end was expected"},
        {"u=eq.12", "column u: \"12\" came, a UUID was expected"},
        {"id=not.not.eq.1", "column id: \"not.not.eq.1\" came, an operator and a dot were expected: eq neq lt lte gt gte in is isdistinct, with not. in front or without"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char why[FILTER_WHY_SIZE];

        assert_null(filter_new(text_of(cases[i].filter), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why));
        assert_string_equal(why, cases[i].why);
    }
}

static void test_bounds(void **state)
{
    char why[FILTER_WHY_SIZE], text[FILTER_MAX_BYTES + 2] = "";
    struct filter *f;

    (void)state;
    for (int i = 0; i < FILTER_MAX_CONDS; i++)
        (void)strcat(text, i ? ",id=eq.1" : "id=eq.1");
    f = filter_new(text_of(text), columns, N_COLUMNS, "t", text_of("ann"), why);
    assert_non_null(f);
    assert_int_equal(f->n_conds, FILTER_MAX_CONDS + 1);
    filter_free(f);
    (void)strcat(text, ",id=eq.1");
    assert_null(filter_new(text_of(text), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why));
    assert_string_equal(why, "more than 32 conditions came, at most 32 were expected");

    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_null(filter_new(text_of(text), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why));
    assert_string_equal(why, "4097 bytes came, at most 4096 were expected");

    (void)strcpy(text, "id=in.(1");
    for (int i = 0; i < FILTER_MAX_VALUES; i++)
        (void)strcat(text, ",1");
    (void)strcat(text, ")");
    assert_null(filter_new(text_of(text), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why));
    assert_string_equal(why, "column id: more than 256 values came, at most 256 were expected");
}

static void test_owner(void **state)
{
    static const char other[] = "{\"op\":\"insert\",\"new\":{\"t\":\"bob\",\"id\":1},\"omitted\":[]}";
    static const char hidden[] = "{\"op\":\"insert\",\"new\":{\"id\":1},\"omitted\":[\"t\"]}";
    char why[FILTER_WHY_SIZE];
    struct filter *f = filter_new(text_of("id=eq.1"), columns, N_COLUMNS, "t", text_of("ann"), why);
    struct row row = {0};

    (void)state;
    assert_non_null(f);
    assert_true(row_read(&row, text_of(other)));
    assert_int_equal(filter_test(f, &row, ROW_NEW), FILTER_NO);
    assert_true(row_read(&row, text_of(hidden)));
    assert_int_equal(filter_test(f, &row, ROW_NEW), FILTER_WITHHELD);
    filter_free(f);
    assert_null(filter_new(text_of(""), columns, N_COLUMNS, "gone", text_of("ann"), why));
    assert_null(filter_new(text_of(""), columns, N_COLUMNS, "doc", text_of("ann"), why));
    row_done(&row);
}

static void test_identity(void **state)
{
    char why[FILTER_WHY_SIZE];
    struct filter *f = filter_new(text_of("id=eq.1,n=gt.2"), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why);

    (void)state;
    assert_null(filter_unidentified(f, columns, N_COLUMNS));
    columns[1].in_identity = false;
    assert_string_equal(filter_unidentified(f, columns, N_COLUMNS)->name, "n");
    columns[1].in_identity = true;
    filter_free(f);
}

/* The old row of an update whose identity did not change is not in the body. */
static void test_sides(void **state)
{
    static const char same[] = "{\"op\":\"update\",\"new\":{\"id\":1},\"old\":null}";
    static const char moved[] = "{\"op\":\"update\",\"new\":{\"id\":2},\"old\":{\"id\":1}}";
    static const char gone[] = "{\"op\":\"delete\",\"new\":null,\"old\":{\"id\":1}}";
    char why[FILTER_WHY_SIZE];
    struct filter *f = filter_new(text_of("id=eq.1"), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why);
    struct row row = {0};

    (void)state;
    assert_true(row_read(&row, text_of(same)));
    assert_int_equal(filter_test(f, &row, ROW_OLD), FILTER_YES);
    assert_true(row_read(&row, text_of(moved)));
    assert_int_equal(filter_test(f, &row, ROW_NEW), FILTER_NO);
    assert_int_equal(filter_test(f, &row, ROW_OLD), FILTER_YES);
    assert_true(row_read(&row, text_of(gone)));
    assert_false(row_has(&row, ROW_NEW));
    assert_int_equal(filter_test(f, &row, ROW_OLD), FILTER_YES);
    filter_free(f);
    row_done(&row);
}

static void test_changed_types(void **state)
{
    static const char same[] = "{\"op\":\"insert\",\"new\":{},\"columns\":[{\"name\":\"id\",\"type\":\"int8\"},{\"name\":\"mood\",\"type\":\"public.mood\"},"
                               "{\"name\":\"tags\",\"type\":\"text[]\"}]}";
    static const char other[] = "{\"op\":\"insert\",\"new\":{},\"columns\":[{\"name\":\"id\",\"type\":\"text\"},{\"name\":\"mood\",\"type\":\"public.mood\"},"
                                "{\"name\":\"tags\",\"type\":\"text[]\"}]}";
    static const char gone[] = "{\"op\":\"insert\",\"new\":{},\"columns\":[{\"name\":\"id\",\"type\":\"int8\"}]}";
    char why[FILTER_WHY_SIZE];
    struct filter *f = filter_new(text_of("id=eq.1,mood=eq.sad,tags=is.null"), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why);
    struct row row = {0};

    (void)state;
    assert_true(row_read(&row, text_of(same)));
    assert_true(filter_fits(f, &row));
    assert_true(row_read(&row, text_of(other)));
    assert_false(filter_fits(f, &row));
    assert_true(row_read(&row, text_of(gone)));
    assert_false(filter_fits(f, &row));
    filter_free(f);
    row_done(&row);
}

/* {op: insert, new: {id: -5, n: "2.5", t: "ab", ok: true, f: 1.5}} */
static void test_msgpack(void **state)
{
    static const char body[] = "\x82\xa2op\xa6insert\xa3new\x85\xa2id\xfb\xa1n\xa3" "2.5\xa1t\xd9\x02" "ab\xa2ok\xc3\xa1" "f\xcb\x3f\xf8\0\0\0\0\0\0";
    static const char *const yes[] = {"id=eq.-5", "n=gt.2.49", "t=like.a%", "ok=is.true", "f=gte.1.5"};
    char why[FILTER_WHY_SIZE];
    struct row row = {0};

    (void)state;
    assert_true(row_read(&row, (struct span){body, sizeof body - 1}));
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        struct filter *f = filter_new(text_of(yes[i]), columns, N_COLUMNS, NULL, (struct span){NULL, 0}, why);

        assert_non_null(f);
        assert_int_equal(filter_test(f, &row, ROW_NEW), FILTER_YES);
        filter_free(f);
    }
    row_done(&row);
}

/* ---- held against a plain evaluation ------------------------------------------------------------------------------------------- */

static uint64_t seed = 20260131;

static unsigned roll(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

struct plain {
    int null;
    long value; /* of id; of n in hundredths */
};

static int plain_says(const char *op, struct plain v, long than)
{
    if (strcmp(op, "isdistinct") == 0)
        return v.null || v.value != than;
    if (v.null)
        return -1;
    if (strcmp(op, "eq") == 0)
        return v.value == than;
    if (strcmp(op, "neq") == 0)
        return v.value != than;
    if (strcmp(op, "lt") == 0)
        return v.value < than;
    if (strcmp(op, "lte") == 0)
        return v.value <= than;
    return strcmp(op, "gt") == 0 ? v.value > than : v.value >= than;
}

static void hundredths(long v, char room[32])
{
    (void)snprintf(room, 32, "%s%ld.%02ld", v < 0 ? "-" : "", labs(v) / 100, labs(v) % 100);
}

static void test_against_plain(void **state)
{
    static const char *const ops[] = {"eq", "neq", "lt", "lte", "gt", "gte", "isdistinct"};

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct plain id = {roll(8) == 0, (long)roll(7) - 3}, n = {roll(8) == 0, (long)roll(401) - 200};
        long than_id = (long)roll(7) - 3, than_n = (long)roll(401) - 200;
        const char *op_id = ops[roll(7)], *op_n = ops[roll(7)];
        int not_id = (int)roll(2), not_n = (int)roll(2), a = plain_says(op_id, id, than_id), b = plain_says(op_n, n, than_n);
        char filter_text[128], row[128], left[32], right[32], number[40];
        int expected = (a >= 0 && a != not_id && b >= 0 && b != not_n) ? FILTER_YES : FILTER_NO;

        hundredths(than_n, left);
        hundredths(n.value, right);
        (void)snprintf(filter_text, sizeof filter_text, "id=%s%s.%ld,n=%s%s.%s", not_id ? "not." : "", op_id, than_id, not_n ? "not." : "", op_n,
                       left);
        (void)snprintf(number, sizeof number, "\"%s\"", right);
        (void)snprintf(row, sizeof row, "{\"id\":%s%.0ld%s,\"n\":%s}", id.null ? "null" : "", id.null ? 0 : id.value, id.null || id.value ? "" : "0",
                       n.null ? "null" : number);
        if (test_new_row(filter_text, row) != expected)
            fail_msg("%s on %s: expected %d", filter_text, row, expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operators), cmocka_unit_test(test_reasons), cmocka_unit_test(test_bounds), cmocka_unit_test(test_owner),
        cmocka_unit_test(test_identity),  cmocka_unit_test(test_sides),   cmocka_unit_test(test_msgpack), cmocka_unit_test(test_changed_types), cmocka_unit_test(test_against_plain),
    };

    return cmocka_run_group_tests(tests, set_classes, NULL);
}
