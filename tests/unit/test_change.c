/* Relations and bodies of changes: captured transactions, and rows made by hand for what a capture
 * cannot show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cdc/change.h"
#include "pgoutput_capture.h"

enum { MESSAGE_MAX = 4096, NO_LIMIT = 1 << 20 };

/* A reader without a link: what it has learnt, and its last body. */
struct replay {
    struct pgoutput msg;
    struct types types;
    struct relations relations;
    struct change_txn txn;
    struct out out;
    struct relation *rel;
    struct buf body, hex;
    uint8_t message[MESSAGE_MAX];
};

static int setup(void **state)
{
    struct replay *r = calloc(1, sizeof *r);

    if (!r)
        return -1;
    r->out.encoding = MUSTER_JSON;
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct replay *r = *state;

    pgoutput_done(&r->msg);
    types_done(&r->types);
    relations_done(&r->relations);
    change_txn_done(&r->txn);
    out_done(&r->out);
    buf_done(&r->body);
    buf_done(&r->hex);
    free(r);
    return 0;
}

/* Decode one message and keep what bodies need of it. */
static void feed(struct replay *r, const char *hex)
{
    size_t n = strlen(hex) / 2;

    assert_true(n <= MESSAGE_MAX);
    for (size_t i = 0; i < n; i++)
        r->message[i] = (uint8_t)strtoul((char[]){hex[2 * i], hex[2 * i + 1], '\0'}, NULL, 16);
    assert_int_equal(pgoutput_decode(&r->msg, r->message, n), 0);
    if (r->msg.type == 'B')
        assert_int_equal(change_txn_set(&r->txn, &r->msg.begin), 0);
    if (r->msg.type == 'Y')
        assert_int_equal(types_said(&r->types, r->msg.type_name.oid, r->msg.type_name.schema,
                                    r->msg.type_name.name),
                         0);
    if (r->msg.type == 'R')
        assert_int_equal(relations_put(&r->relations, &r->types, &r->msg, &r->rel), 0);
}

/* Feed a capture up to message `upto`, which is a row, and give its change. */
static struct change feed_to(struct replay *r, const char *const *messages, size_t upto)
{
    struct change c;

    for (size_t i = 0; i <= upto; i++)
        feed(r, messages[i]);
    c = change_of(&r->msg, relations_get(&r->relations, r->msg.row.relation), &r->txn);
    assert_int_equal(change_check(&c), 0);
    return c;
}

static const char *body_of(struct replay *r, const struct change *c, size_t max)
{
    buf_clear(&r->body);
    assert_int_equal(change_body(c, &r->out, max, &r->body), 0);
    assert_true(r->body.len <= max);
    return r->body.data;
}

/* The body from `key` on: what stands before is the same in all of a transaction. */
static const char *rows_of(struct replay *r, const struct change *c)
{
    const char *at = strstr(body_of(r, c, NO_LIMIT), "\"key\":");

    assert_non_null(at);
    return at;
}

/* Where nothing was left out. */
#define ALL_THERE ",\"unchanged\":[],\"omitted\":[]}"

#define BIG                                                                                        \
    "012345678901234567890123456789012345678901234567890123456789012345678901234"                  \
    "567890123456789012345678901234567890123456789012345678901234567890123456789"

static void test_captured_rows(void **state)
{
    static const struct {
        const char *const *messages;
        size_t at;
        const char *rows;
    } rows[] = {
        {capture_insert_update_delete, 2,
         "\"key\":{\"id\":1},\"new\":{\"id\":1,\"tenant_id\":\"acme\",\"item\":\"a \\\"quoted\\\" "
         "thing\",\"price\":\"12.50\","
         "\"paid\":true,\"meta\":{\"k\": 1.10, \"n\": "
         "null},\"created\":\"2026-01-02T03:04:05.600000Z\"},\"old\":null" ALL_THERE},
        {capture_insert_update_delete, 8, /* the key changes */
         "\"key\":{\"id\":2},\"new\":{\"id\":2,\"tenant_id\":\"acme\",\"item\":\"a \\\"quoted\\\" "
         "thing\",\"price\":\"12.50\","
         "\"paid\":false,\"meta\":{\"k\": 1.10, \"n\": "
         "null},\"created\":\"2026-01-02T03:04:05.600000Z\"},\"old\":{\"id\":1}" ALL_THERE},
        {capture_insert_update_delete, 11, "\"key\":{\"id\":2},\"new\":null,\"old\":{\"id\":2}" ALL_THERE},
        {capture_composite, 3,
         "\"key\":{\"a\":\"y\",\"b\":2},\"new\":{\"a\":\"y\",\"b\":2,\"note\":null},\"old\":null" ALL_THERE},
        {capture_composite, 6,
         "\"key\":{\"a\":\"x\",\"b\":3},\"new\":{\"a\":\"x\",\"b\":3,\"note\":\"n\"},\"old\":{"
         "\"a\":\"x\",\"b\":1}" ALL_THERE},
        {capture_index_identity, 5,
         "\"key\":{\"code\":\"one\"},\"new\":{\"id\":1,\"code\":\"one\",\"note\":\"m\"},\"old\":"
         "null" ALL_THERE},
        {capture_index_identity, 11,
         "\"key\":{\"code\":\"uno\"},\"new\":null,\"old\":{\"code\":\"uno\"}" ALL_THERE},
        {capture_nothing, 2, "\"key\":{},\"new\":{\"id\":1,\"note\":\"a\"},\"old\":null" ALL_THERE},
        {capture_toast, 2,
         "\"key\":{\"id\":1},\"new\":{\"id\":1,\"note\":\"b\"},\"old\":null,\"unchanged\":[\"big\"],"
         "\"omitted\":[]}"},
        {capture_toast,
         5, /* the old tuple has NULL in the place of big, and that is not its value */
         "\"key\":{\"id\":2},\"new\":{\"id\":2,\"note\":\"b\"},\"old\":{\"id\":1},\"unchanged\":["
         "\"big\"],\"omitted\":[]}"},
        {capture_full, 5, /* not sent in new, but in old */
         "\"key\":{},\"new\":{\"id\":5,\"note\":null,\"big\":\"" BIG
         "\"},\"old\":{\"id\":1,\"note\":\"b\",\"big\":\"" BIG "\"}" ALL_THERE},
        {capture_full, 8,
         "\"key\":{},\"new\":null,\"old\":{\"id\":5,\"note\":null,\"big\":\"" BIG "\"}" ALL_THERE},
        {capture_names, 2,
         "\"key\":{\"id\":1},\"new\":{\"id\":1,\"col \\\"x\\\"\":\"a\",\"t\xc3\xa4"
         "ble\":\"\xc3\xb6\"},\"old\":null" ALL_THERE},
        {capture_user_types, 9,
         "\"key\":{\"id\":1},\"new\":{\"id\":1,\"m\":\"very happy\",\"ms\":[\"sad\",\"very "
         "happy\",null],\"a\":\"(\\\"a b\\\",2)\","
         "\"p\":7,\"ps\":[\"1\",\"2\"],\"i\":[[1,2],[3,4]],\"f\":\"ok\"},\"old\":null" ALL_THERE},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct change c = feed_to(*state, rows[i].messages, rows[i].at);

        assert_string_equal(rows_of(*state, &c), rows[i].rows);
    }
}

static void test_whole_body(void **state)
{
    struct replay *r = *state;
    struct change c = feed_to(r, capture_insert_update_delete, 11);

    assert_string_equal(
        body_of(r, &c, NO_LIMIT),
        "{\"schema\":\"public\",\"table\":\"orders\",\"op\":\"delete\",\"lsn\":\"0/22C2B60\","
        "\"commit_time\":\"2026-11-22T07:56:44.559607Z\",\"xid\":879,\"key\":{\"id\":2},\"new\":"
        "null,"
        "\"old\":{\"id\":2}" ALL_THERE);
    r->out.encoding = MUSTER_MSGPACK;
    (void)body_of(r, &c, NO_LIMIT);
    for (size_t i = 0; i < r->body.len; i++)
        buf_printf(&r->hex, "%02x", (unsigned char)r->body.data[i]);
    assert_string_equal(r->hex.data, "8b"
                                     "a6736368656d61"
                                     "a67075626c6963"
                                     "a57461626c65"
                                     "a66f7264657273"
                                     "a26f70"
                                     "a664656c657465"
                                     "a36c736e"
                                     "a9302f32324332423630"
                                     "ab636f6d6d69745f74696d65"
                                     "bb323032362d31312d32325430373a35363a34342e3535393630375a"
                                     "a3786964"
                                     "cd036f"
                                     "a36b6579"
                                     "81a2696402"
                                     "a36e6577"
                                     "c0"
                                     "a36f6c64"
                                     "81a2696402"
                                     "a9756e6368616e67656490"
                                     "a76f6d697474656490");
}

static void test_truncate(void **state)
{
    struct replay *r = *state;
    struct change c = {.op = 'T'};

    for (size_t i = 0; i <= 3; i++)
        feed(r, capture_truncate_two[i]);
    c.rel = relations_get(&r->relations, pgoutput_truncated(&r->msg, 1));
    c.txn = &r->txn;
    assert_int_equal(change_check(&c), 0);
    assert_string_equal(rows_of(r, &c), "\"key\":{},\"new\":null,\"old\":null" ALL_THERE);
    assert_non_null(strstr(r->body.data, "\"table\":\"composite\",\"op\":\"truncate\""));
}

/* Columns are told in the encoding's own form, and the version rises with each ALTER TABLE but not
 * with a repetition. */
static void test_schema_versions(void **state)
{
    static const struct {
        size_t at;
        uint32_t version;
        const char *columns;
    } rows[] = {
        {2, 1, "[{\"name\":\"id\",\"type\":\"int4\"},{\"name\":\"note\",\"type\":\"text\"}]"},
        {5, 2,
         "[{\"name\":\"id\",\"type\":\"int4\"},{\"name\":\"note\",\"type\":\"text\"},{\"name\":"
         "\"extra\",\"type\":\"public.mood\"}]"},
        {8, 3,
         "[{\"name\":\"id\",\"type\":\"int4\"},{\"name\":\"extra\",\"type\":\"public.mood\"}]"},
        {11, 4,
         "[{\"name\":\"id\",\"type\":\"int8\"},{\"name\":\"extra\",\"type\":\"public.mood\"}]"},
    };
    struct replay *r = *state;
    size_t fed = 0;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct change c;
        struct buf want = {0};

        for (; fed <= rows[i].at; fed++)
            feed(r, capture_alter_in_transaction[fed]);
        c = change_of(&r->msg, r->rel, &r->txn);
        c.list_columns = true;
        assert_int_equal(r->msg.type, 'I');
        assert_int_equal(r->rel->version, rows[i].version);
        buf_printf(&want, ",\"columns\":%s}", rows[i].columns);
        (void)body_of(r, &c, NO_LIMIT);
        assert_string_equal(r->body.data + r->body.len - want.len, want.data);
        buf_done(&want);
    }
    feed(r, capture_alter_in_transaction[10]); /* the last R once more */
    assert_int_equal(r->msg.type, 'R');
    assert_int_equal(r->rel->version, 4);
}

static void test_relation_user_types(void **state)
{
    struct replay *r = *state;
    struct change c = feed_to(r, capture_user_types, 9);
    const struct relation *rel = r->rel;
    uint32_t posints = rel->columns[relation_find_column(rel, "ps")].type,
             posint = rel->columns[4].type, missing[8];
    struct types_row array = {
        .oid = posints, .elem = posint, .delim = ',', .schema = "public", .name = "_posint"};

    assert_int_equal(relation_missing_types(rel, &r->types, missing, 8),
                     5); /* m, ms, a, ps, f; not p and i */
    assert_int_equal(relation_missing_types(rel, &r->types, missing, 2), 2);
    assert_int_equal(types_learn(&r->types, &array), 0);
    assert_int_equal(relation_resolve(r->rel, &r->types), 0);
    assert_int_equal(rel->version, 2); /* its type has another name now */
    assert_int_equal(relation_missing_types(rel, &r->types, missing, 8), 4);
    assert_non_null(strstr(rows_of(r, &c), "\"ps\":[1,2]"));
    assert_int_equal(relation_resolve(r->rel, &r->types), 0);
    assert_int_equal(rel->version, 2);
}

/* A table made by hand: id, tenant, note, big. */
static struct relation *make_table(struct replay *r, char identity)
{
    static const char *const names[] = {"id", "tenant", "note", "big"};
    uint8_t widest[] = {'R', 0, 0, 0, 7, 'a', 'p', 'p', 0, 't', 0, (uint8_t)identity, 0, 0};

    assert_int_equal(pgoutput_decode(&r->msg, widest, sizeof widest), 0);
    r->msg.relation.n_columns = 4;
    for (uint32_t i = 0; i < 4; i++)
        r->msg.columns[i] =
            (struct pgoutput_column){.name = names[i],
                                     .type = i ? 25 : 23,
                                     .typmod = -1,
                                     .identity = identity == 'f' || (identity != 'n' && i < 2)};
    assert_int_equal(relations_put(&r->relations, &r->types, &r->msg, &r->rel), 0);
    assert_int_equal(
        change_txn_set(&r->txn,
                       &(struct pgoutput_begin){.final_lsn = UINT64_C(0x1A000002F0), .xid = 7}),
        0);
    return r->rel;
}

#define CELL(text)                                                                                 \
    {                                                                                              \
        .kind = 't', .data = (text), .len = sizeof(text) - 1                                       \
    }
#define NULL_CELL                                                                                  \
    {                                                                                              \
        .kind = 'n'                                                                                \
    }
#define TOAST_CELL                                                                                 \
    {                                                                                              \
        .kind = 'u'                                                                                \
    }

static struct change update_of(struct replay *r, char old_kind,
                               const struct pgoutput_tuple *old_row,
                               const struct pgoutput_tuple *new_row)
{
    struct change c = {.rel = r->rel,
                       .txn = &r->txn,
                       .op = 'U',
                       .old_kind = old_kind,
                       .old_row = old_row,
                       .new_row = new_row};

    assert_int_equal(change_check(&c), 0);
    return c;
}

/* A row that moves to another tenant: a delete to the one, an insert to the other. */
static void test_tenant_move(void **state)
{
    struct replay *r = *state;
    struct pgoutput_cell before[] = {CELL("1"), CELL("acme"), CELL("n"), CELL("b")};
    struct pgoutput_cell after[] = {CELL("1"), CELL("zeta"), CELL("m"), TOAST_CELL};
    struct pgoutput_tuple old_row = {before, 4, 4}, new_row = {after, 4, 4};
    struct change c;

    (void)make_table(r, 'f');
    c = update_of(r, 'O', &old_row, &new_row);
    c.op = 'D';
    assert_string_equal(rows_of(r, &c), "\"key\":{},\"new\":null,\"old\":{\"id\":1,\"tenant\":"
                                        "\"acme\",\"note\":\"n\",\"big\":\"b\"}" ALL_THERE);
    assert_non_null(
        strstr(r->body.data, "\"op\":\"delete\",\"lsn\":\"1A/"
                             "2F0\",\"commit_time\":\"2000-01-01T00:00:00.000000Z\",\"xid\":7,"));
    c.op = 'I';
    assert_string_equal(rows_of(r, &c), "\"key\":{},\"new\":{\"id\":1,\"tenant\":\"zeta\",\"note\":"
                                        "\"m\",\"big\":\"b\"},\"old\":null" ALL_THERE);
}

static void test_texts_for_routing(void **state)
{
    struct replay *r = *state;
    struct pgoutput_cell before[] = {CELL("1"), CELL("acme"), NULL_CELL, NULL_CELL};
    struct pgoutput_cell after[] = {CELL("1"), TOAST_CELL, NULL_CELL, TOAST_CELL};
    struct pgoutput_tuple old_row = {before, 4, 4}, new_row = {after, 4, 4};
    struct muster_bytes text = {0};
    struct change c;

    (void)make_table(r, 'd');
    c = update_of(r, 'K', &old_row, &new_row);
    assert_int_equal(change_new_text(&c, 1, &text),
                     CHANGE_VALUE); /* a key's TOAST value stands in the old tuple */
    assert_int_equal(text.len, 4);
    assert_memory_equal(text.data, "acme", 4);
    assert_int_equal(change_new_text(&c, 2, &text), CHANGE_NULL);
    assert_int_equal(change_new_text(&c, 3, &text), CHANGE_ABSENT);
    assert_int_equal(change_old_text(&c, 1, &text), CHANGE_VALUE);
    assert_int_equal(change_old_text(&c, 2, &text),
                     CHANGE_ABSENT); /* NULL in a 'K' tuple is no NULL */
    c = update_of(r, 0, NULL, &new_row);
    assert_int_equal(change_new_text(&c, 1, &text), CHANGE_ABSENT);
    assert_int_equal(change_old_text(&c, 0, &text), CHANGE_ABSENT);
    assert_int_equal(relation_find_column(r->rel, "tenant"), 1);
    assert_int_equal(relation_find_column(r->rel, "nobody"), -1);
}

static void test_set_key(void **state)
{
    struct replay *r = *state;
    struct pgoutput_cell cells[] = {CELL("1"), CELL("acme"), CELL("n"), NULL_CELL};
    struct pgoutput_tuple row = {cells, 4, 4};
    struct change c;

    (void)make_table(r, 'f');
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"id", "nobody"}, 2),
                     MUSTER_EINVAL);
    assert_int_equal(r->rel->n_key, 0);
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"tenant", "id", "id"}, 3), 0);
    c = update_of(r, 'O', &row, &row);
    assert_non_null(strstr(rows_of(r, &c), "\"key\":{\"id\":1,\"tenant\":\"acme\"},\"new\":"));
    (void)make_table(r, 'f'); /* described again: it stays */
    assert_int_equal(r->rel->n_key, 2);
    (void)make_table(r, 'd'); /* another identity has its own */
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"id"}, 1), MUSTER_EINVAL);
    assert_true(r->rel->columns[0].key && r->rel->columns[1].key && !r->rel->columns[2].key);
}

static void assert_key(struct replay *r, const struct change *c, const char *key, const char *token)
{
    char got[NAME_TOKEN_SIZE];
    struct buf b = {0};

    buf_puts(&b, "x"); /* it appends */
    assert_int_equal(change_key(c, &r->out, &b, got), 0);
    assert_string_equal(b.data + 1, key);
    assert_string_equal(got, token);
    buf_done(&b);
}

static void test_keys(void **state)
{
    static const struct {
        const char *text, *key, *token;
    } rows[] = {
        /* tokens: '~' and sha256(text) in base32 */
        {"42", "42", "42"},
        {"550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000",
         "550e8400-e29b-41d4-a716-446655440000"},
        {"a b", "a b", "~zbuhucfklvxnebcd"},
        {"a.b", "a.b", "~fzztnxeoxkd66rzn"},
        {"a\r\nX: 1", "[\"a\\r\\nX: 1\"]", "~v4ziuvxyw2faagmj"},
        {" a", "[\" a\"]", "~pxszrm77rkmwhdq7"},
    };
    struct replay *r = *state;
    struct pgoutput_cell cells[] = {CELL("1"), CELL("acme"), NULL_CELL, NULL_CELL};
    struct pgoutput_tuple row = {cells, 4, 4};
    struct change c;

    (void)make_table(r, 'd');
    r->out.encoding = MUSTER_MSGPACK; /* a header is text all the same */
    c = update_of(r, 0, NULL, &row);
    assert_key(r, &c, "[1,\"acme\"]", "~xinarjqdfrjjwuhb");
    assert_int_equal(r->out.encoding, MUSTER_MSGPACK);
    c.op = 'T';
    assert_key(r, &c, "", "_");

    (void)make_table(r, 'f');
    c = update_of(r, 'O', &row, &row);
    assert_key(r, &c, "", "_");
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"note"}, 1), 0);
    assert_key(r, &c, "", "_"); /* NULL */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cells[2] = (struct pgoutput_cell){
            .kind = 't', .data = rows[i].text, .len = (uint32_t)strlen(rows[i].text)};
        assert_key(r, &c, rows[i].key, rows[i].token);
    }
}

/* The key is what a body shows, also where PostgreSQL's text is another. */
static void test_keys_of_types(void **state)
{
    static const struct {
        uint8_t kind;
        bool array;
        const char *text, *key, *token;
    } rows[] = {
        {VALUE_BOOL, false, "t", "true", "true"},
        {VALUE_BYTEA, false, "\\x00ff", "AP8=", "~b66lsny45dxvesec"},
        {VALUE_TIMESTAMPTZ, false, "2020-01-02 03:04:05+00", "2020-01-02T03:04:05.000000Z", "~4rzvbmcqd3c6h2pq"},
        {VALUE_TIMESTAMP, false, "2020-01-02 03:04:05.5", "2020-01-02T03:04:05.500000", "~ike2gtmy55fyu37b"},
        {VALUE_INT, true, "{1,2}", "[1,2]", "~jgteof6v2tfrtfjo"},
        {VALUE_JSON, false, "{\"a\": 1}", "{\"a\": 1}", "~7hmgakgg4dle4isr"},
        {VALUE_FLOAT, false, "1.5", "1.5", "~t4u2cmcdroaroc4s"},
    };
    struct replay *r = *state;
    struct pgoutput_cell cells[] = {CELL("1"), CELL("acme"), NULL_CELL, NULL_CELL};
    struct pgoutput_tuple row = {cells, 4, 4};
    struct change c;

    (void)make_table(r, 'f');
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"note"}, 1), 0);
    c = update_of(r, 'O', &row, &row);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        r->rel->columns[2].value = (struct value_type){.kind = rows[i].kind, .array = rows[i].array, .delim = ','};
        cells[2] = (struct pgoutput_cell){.kind = 't', .data = rows[i].text, .len = (uint32_t)strlen(rows[i].text)};
        assert_key(r, &c, rows[i].key, rows[i].token);
    }
}

static void test_too_large(void **state)
{
    struct replay *r = *state;
    char big[300], wide[65];
    struct pgoutput_cell before[] = {CELL("1"), CELL("acme"), CELL("n"), CELL("small")}, after[4];
    struct pgoutput_tuple old_row = {before, 4, 4}, new_row = {after, 4, 4};
    struct change c;
    size_t whole;

    memset(big, 'x', sizeof big);
    memset(wide, 'w', sizeof wide);
    memcpy(after, before, sizeof after);
    after[2] = (struct pgoutput_cell){.kind = 't', .data = wide, .len = CHANGE_SMALL};
    after[3] = (struct pgoutput_cell){.kind = 't', .data = big, .len = sizeof big};
    (void)make_table(r, 'f');
    assert_int_equal(relation_set_key(r->rel, (const char *const[]){"id"}, 1), 0);
    c = update_of(r, 'O', &old_row, &new_row);
    (void)body_of(r, &c, NO_LIMIT);
    assert_non_null(strstr(r->body.data, ALL_THERE));
    whole = r->body.len;
    assert_int_equal(strlen(body_of(r, &c, whole)), whole);

    (void)body_of(
        r, &c, whole - 1); /* 64 bytes stay; a value of either row takes the column out of both */
    assert_null(strstr(r->body.data, "xxxx"));
    assert_null(strstr(r->body.data, "small"));
    assert_non_null(strstr(
        r->body.data, "\"key\":{\"id\":1},\"new\":{\"id\":1,\"tenant\":\"acme\",\"note\":\"wwww"));
    assert_non_null(
        strstr(r->body.data,
               "\"old\":{\"id\":1,\"tenant\":\"acme\",\"note\":\"n\"},\"unchanged\":[],\"omitted\":[\"big\"]}"));

    after[2].len = CHANGE_SMALL + 1;
    (void)body_of(r, &c, whole - 1);
    assert_non_null(strstr(r->body.data, "\"unchanged\":[],\"omitted\":[\"note\",\"big\"]}"));

    (void)body_of(r, &c, r->body.len - 1); /* not even those: the key alone */
    assert_non_null(
        strstr(r->body.data,
               "\"new\":{\"id\":1},\"old\":{\"id\":1},\"unchanged\":[],\"omitted\":[\"tenant\",\"note\",\"big\"]}"));
    buf_clear(&r->body);
    buf_puts(&r->body, "before");
    assert_int_equal(change_body(&c, &r->out, 100, &r->body), MUSTER_EAGAIN);
    assert_string_equal(r->body.data, "before");
}

/* A key that is long stays; so does a NULL. */
static void test_too_large_key(void **state)
{
    struct replay *r = *state;
    char key[100], big[5000];
    struct pgoutput_cell cells[] = {CELL("1"), CELL(""), NULL_CELL, CELL("")};
    struct pgoutput_tuple row = {cells, 4, 4};
    struct change c;

    memset(key, 'k', sizeof key);
    memset(big, 'x', sizeof big);
    cells[1] = (struct pgoutput_cell){.kind = 't', .data = key, .len = sizeof key};
    cells[3] = (struct pgoutput_cell){.kind = 't', .data = big, .len = sizeof big};
    (void)make_table(r, 'd');
    c = (struct change){.rel = r->rel, .txn = &r->txn, .op = 'I', .new_row = &row};
    (void)body_of(r, &c, 500); /* big is not even tried: more than eight times the limit */
    assert_null(strstr(r->body.data, "xxxx"));
    assert_non_null(
        strstr(r->body.data, "kkkk\",\"note\":null},\"old\":null,\"unchanged\":[],\"omitted\":[\"big\"]}"));
}

static void test_check(void **state)
{
    struct replay *r = *state;
    struct pgoutput_cell cells[] = {CELL("1"), CELL("a"), NULL_CELL, NULL_CELL};
    struct pgoutput_tuple row = {cells, 4, 4}, narrow = {cells, 3, 4};
    struct change c = {.rel = make_table(r, 'd'), .txn = &r->txn, .op = 'I'};

    assert_int_equal(change_check(&c), MUSTER_EINVAL);
    c.new_row = &narrow;
    assert_int_equal(change_check(&c), MUSTER_EINVAL);
    c.new_row = &row;
    assert_int_equal(change_check(&c), 0);
    c.op = 'D';
    assert_int_equal(change_check(&c), MUSTER_EINVAL);
    c.old_row = &row;
    assert_int_equal(change_check(&c), MUSTER_EINVAL); /* of which kind? */
    c.old_kind = 'K';
    assert_int_equal(change_check(&c), 0);
    c.old_row = &narrow;
    assert_int_equal(change_check(&c), MUSTER_EINVAL);
}

static void test_commit_times(void **state)
{
    struct replay *r = *state;
    struct pgoutput_begin begin = {.commit_us = INT64_MAX};

    assert_int_equal(change_txn_set(&r->txn, &begin), MUSTER_EINVAL);
    begin.commit_us = INT64_MIN;
    assert_int_equal(change_txn_set(&r->txn, &begin), MUSTER_EINVAL);
    begin.commit_us = INT64_C(-946684800000001);
    assert_int_equal(change_txn_set(&r->txn, &begin), MUSTER_EINVAL);
    begin.commit_us++;
    begin.final_lsn = UINT64_MAX;
    begin.xid = UINT32_MAX;
    assert_int_equal(change_txn_set(&r->txn, &begin), 0);
    assert_string_equal(
        r->txn.text[RELATION_JSON].data,
        ",\"lsn\":\"FFFFFFFF/"
        "FFFFFFFF\",\"commit_time\":\"1970-01-01T00:00:00.000000Z\",\"xid\":4294967295");
}

static int users_freed;

static void free_user(void *user)
{
    assert_string_equal(user, "mine");
    users_freed++;
}

static void test_relations(void **state)
{
    struct replay *r = *state;
    struct relation *rel = make_table(r, 'd');
    char mine[] = "mine";

    rel->user = mine;
    r->relations.user_free = free_user;
    assert_ptr_equal(make_table(r, 'f'), rel); /* in place */
    assert_ptr_equal(rel->user, mine);
    assert_ptr_equal(relations_get(&r->relations, 7), rel);
    assert_null(relations_get(&r->relations, 8));
    assert_ptr_equal(relations_get(&r->relations, 7), rel);
    relations_done(&r->relations);
    assert_int_equal(users_freed, 1);
}

/* SQL_ASCII lets any bytes be a name. */
static void test_name_not_utf8(void **state)
{
    struct replay *r = *state;
    struct pgoutput_cell cells[] = {CELL("1")};
    struct pgoutput_tuple row = {cells, 1, 1};
    struct change c;

    feed(r, "5200000009"
            "00"
            "74ff00"
            "64"
            "0001"
            "00"
            "c3e900"
            "00000017"
            "ffffffff");
    feed(r, capture_nothing[0]);
    c = (struct change){.rel = r->rel, .txn = &r->txn, .op = 'I', .new_row = &row};
    assert_string_equal(rows_of(r, &c),
                        "\"key\":{},\"new\":{\"\xef\xbf\xbd\xef\xbf\xbd\":1},\"old\":null" ALL_THERE);
    assert_non_null(
        strstr(r->body.data, "{\"schema\":\"pg_catalog\",\"table\":\"t\xef\xbf\xbd\","));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_captured_rows),
        TEST(test_whole_body),
        TEST(test_truncate),
        TEST(test_schema_versions),
        TEST(test_relation_user_types),
        TEST(test_tenant_move),
        TEST(test_texts_for_routing),
        TEST(test_set_key),
        TEST(test_keys),
        TEST(test_keys_of_types),
        TEST(test_too_large),
        TEST(test_too_large_key),
        TEST(test_check),
        TEST(test_commit_times),
        TEST(test_relations),
        TEST(test_name_not_utf8),
    };

    return cmocka_run_group_tests_name("change", tests, NULL, NULL);
}
