/* The decoder of pgoutput: real messages, every way to cut them short, and what no server sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cdc/pgoutput.h"
#include "muster/plugin.h"
#include "pgoutput_capture.h"

enum { MESSAGE_MAX = 4096 };

static size_t from_hex(const char *hex, uint8_t out[MESSAGE_MAX])
{
    size_t n = strlen(hex) / 2;

    assert_true(n <= MESSAGE_MAX);
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'}, *end;

        out[i] = (uint8_t)strtoul(pair, &end, 16);
        assert_ptr_equal(end, pair + 2);
    }
    return n;
}

/* Decode into a heap copy of exactly the message's size, so that the sanitizer sees a read beyond
 * it. */
static int decode_copy(struct pgoutput *d, const uint8_t *message, size_t n, uint8_t **ret_copy)
{
    uint8_t *copy = malloc(n ? n : 1);

    assert_non_null(copy);
    memcpy(copy, message, n);
    *ret_copy = copy;
    return pgoutput_decode(d, copy, n);
}

static void decode_hex(struct pgoutput *d, const char *hex, uint8_t message[MESSAGE_MAX])
{
    assert_int_equal(pgoutput_decode(d, message, from_hex(hex, message)), 0);
}

static void test_captures_decode(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX];

    (void)state;
    for (size_t i = 0; i < N_CAPTURES; i++)
        for (size_t k = 0; captures[i].messages[k]; k++) {
            decode_hex(&d, captures[i].messages[k], message);
            assert_int_equal(d.type, message[0]);
        }
    pgoutput_done(&d);
}

static void test_every_cut_is_refused(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX + 1], *copy;

    (void)state;
    for (size_t i = 0; i < N_CAPTURES; i++)
        for (size_t k = 0; captures[i].messages[k]; k++) {
            size_t n = from_hex(captures[i].messages[k], message);

            for (size_t cut = 0; cut < n; cut++) {
                assert_int_equal(decode_copy(&d, message, cut, &copy), MUSTER_EINVAL);
                assert_non_null(d.reason);
                free(copy);
            }
            message[n] = 0;
            assert_int_equal(decode_copy(&d, message, n + 1, &copy), MUSTER_EINVAL);
            assert_string_equal(d.reason, "bytes behind the end of the message");
            free(copy);
        }
    pgoutput_done(&d);
}

static void assert_text(const struct pgoutput_cell *cell, const char *text)
{
    assert_int_equal(cell->kind, 't');
    assert_int_equal(cell->len, strlen(text));
    assert_memory_equal(cell->data, text, cell->len);
}

static void test_rows(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX];

    (void)state;
    decode_hex(&d, capture_insert_update_delete[1], message);
    assert_int_equal(d.type, 'R');
    assert_string_equal(d.relation.schema, "public");
    assert_string_equal(d.relation.table, "orders");
    assert_int_equal(d.relation.identity, 'd');
    assert_int_equal(d.relation.n_columns, 7);
    assert_string_equal(d.columns[0].name, "id");
    assert_int_equal(d.columns[0].type, 20);
    assert_true(d.columns[0].identity);
    assert_int_equal(d.columns[3].type, 1700);
    assert_int_equal(d.columns[3].typmod, 10 << 16 | (2 + 4)); /* numeric(10,2) */
    assert_false(d.columns[3].identity);

    decode_hex(&d, capture_insert_update_delete[2], message);
    assert_true(d.type == 'I' && d.row.has_new && !d.row.old_kind);
    assert_int_equal(d.new_row.n, 7);
    assert_text(&d.new_row.cells[0], "1");
    assert_text(&d.new_row.cells[2], "a \"quoted\" thing");

    decode_hex(&d, capture_insert_update_delete[8], message); /* the key changes */
    assert_true(d.type == 'U' && d.row.has_new && d.row.old_kind == 'K');
    assert_text(&d.old_row.cells[0], "1");
    assert_int_equal(d.old_row.cells[1].kind, 'n');
    assert_text(&d.new_row.cells[0], "2");

    decode_hex(&d, capture_insert_update_delete[11], message);
    assert_true(d.type == 'D' && !d.row.has_new && d.row.old_kind == 'K');

    decode_hex(&d, capture_full[2], message);
    assert_true(d.type == 'U' && d.row.old_kind == 'O');
    assert_int_equal(d.new_row.cells[2].kind, 'u');
    assert_int_equal(d.old_row.cells[2].kind, 't');
    pgoutput_done(&d);
}

static void test_transactions(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX];
    uint64_t lsn;
    int64_t at;

    (void)state;
    decode_hex(&d, capture_insert_update_delete[0], message);
    assert_int_equal(d.type, 'B');
    assert_true(d.begin.xid > 0 && d.begin.final_lsn > 0);
    lsn = d.begin.final_lsn;
    at = d.begin.commit_us;
    decode_hex(&d, capture_insert_update_delete[3], message);
    assert_int_equal(d.type, 'C');
    assert_int_equal(d.commit.commit_lsn, lsn);
    assert_true(d.commit.end_lsn > lsn);
    assert_int_equal(d.commit.commit_us, at);
    decode_hex(&d, capture_origin[1], message);
    assert_int_equal(d.type, 'O');
    assert_string_equal(d.origin.name, "far");
    assert_int_equal(d.origin.commit_lsn, 0x1234);
    pgoutput_done(&d);
}

static void test_others(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX];
    uint32_t first;

    (void)state;
    decode_hex(&d, capture_truncate_two[1], message);
    first = d.relation.id;
    decode_hex(&d, capture_truncate_two[3], message);
    assert_int_equal(d.type, 'T');
    assert_int_equal(d.truncate.n, 2);
    assert_true(d.truncate.restart_identity && d.truncate.cascade);
    assert_int_equal(pgoutput_truncated(&d, 0), first);
    assert_int_not_equal(pgoutput_truncated(&d, 1), first);

    decode_hex(&d, capture_messages[1], message);
    assert_true(d.type == 'M' && d.message.transactional);
    assert_string_equal(d.message.prefix, "muster.evt");
    assert_int_equal(d.message.len, 7);
    assert_memory_equal(d.message.content, "{\"a\":1}", 7);
    decode_hex(&d, capture_messages[3], message);
    assert_false(d.message.transactional);
    assert_string_equal(d.message.prefix, "other");

    decode_hex(&d, capture_user_types[1], message);
    assert_int_equal(d.type, 'Y');
    assert_string_equal(d.type_name.schema, "public");
    assert_string_equal(d.type_name.name, "mood");
    pgoutput_done(&d);
}

static const struct {
    const char *hex, *reason;
} broken[] = {
    {"", "empty message"},
    {"5300000001", "message of an unknown type"}, /* S: a stream was not asked for */
    {"58", "message of an unknown type"},
    {"4300", "message ends too early"},
    {"4301000000000000000000000000000000000000000000000000", "commit with unknown flags"},
    {"49000000014b0000",
     "row without the tuple that its operation needs"}, /* an insert with an old tuple */
    {"55000000014b00004b0000", "row without the tuple that its operation needs"},
    {"44000000014e0000", "row without the tuple that its operation needs"},
    {"49000000014e0001620000000131", "column in binary format, which was not asked for"},
    {"49000000014e000178", "column of an unknown kind"},
    {"49000000014e000174ffffffff", "message ends too early"},
    {"49000000014e000174000000053132", "message ends too early"},
    {"49000000014effff", "more columns than 1664"},
    {"49000000014e0681", "more columns than 1664"},
    {"52000000017000740064ffff", "more columns than 1664"},
    {"520000000170007400780000", "relation with an unknown replica identity"},
    {"520000000170007400000000", "relation with an unknown replica identity"},
    {"590000000170006e", "name without an end, or longer than 1024 bytes"},
    {"540000000500", "truncate of more relations than it names"},
    {"54ffffffff0000000001", "truncate of more relations than it names"},
    {"4d0000000000000000007000000000ff00", "message ends too early"},
};

static void test_broken_messages(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[MESSAGE_MAX], *copy;

    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        size_t n = from_hex(broken[i].hex, message);

        assert_int_equal(decode_copy(&d, message, n, &copy), MUSTER_EINVAL);
        assert_string_equal(d.reason, broken[i].reason);
        free(copy);
    }
    pgoutput_done(&d);
}

/* As wide as a tuple can be, after a narrow one: the arrays grow and are used again. */
static void test_widest_row(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[8 + PGOUTPUT_COLUMNS_MAX] = {
        'I', 0, 0, 0, 1, 'N', PGOUTPUT_COLUMNS_MAX >> 8, PGOUTPUT_COLUMNS_MAX & 0xFF};
    uint8_t narrow[] = {'I', 0, 0, 0, 1, 'N', 0, 1, 'n'};
    const struct pgoutput_cell *cells;

    (void)state;
    assert_int_equal(pgoutput_decode(&d, narrow, sizeof narrow), 0);
    memset(message + 8, 'n', PGOUTPUT_COLUMNS_MAX);
    assert_int_equal(pgoutput_decode(&d, message, sizeof message), 0);
    assert_int_equal(d.new_row.n, PGOUTPUT_COLUMNS_MAX);
    cells = d.new_row.cells;
    assert_int_equal(pgoutput_decode(&d, narrow, sizeof narrow), 0);
    assert_int_equal(d.new_row.n, 1);
    assert_ptr_equal(d.new_row.cells, cells);
    pgoutput_done(&d);
}

static void test_long_name(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[5 + 1 + PGOUTPUT_NAME_MAX + 2] = {'Y', 0, 0, 0, 1, 0};

    (void)state;
    memset(message + 6, 'x', PGOUTPUT_NAME_MAX);
    assert_int_equal(pgoutput_decode(&d, message, 6 + PGOUTPUT_NAME_MAX + 1), 0);
    assert_int_equal(strlen(d.type_name.name), PGOUTPUT_NAME_MAX);
    message[6 + PGOUTPUT_NAME_MAX] = 'x';
    assert_int_equal(pgoutput_decode(&d, message, 6 + PGOUTPUT_NAME_MAX + 2), MUSTER_EINVAL);
    pgoutput_done(&d);
}

/* PostgreSQL bounds neither prefixes of messages nor names of origins. */
static void test_long_prefix(void **state)
{
    struct pgoutput d = {0};
    uint8_t message[10 + 5000 + 1 + 4 + 1] = {'M', 1};

    (void)state;
    memset(message + 10, 'p', 5000);
    message[10 + 5000 + 1 + 3] = 1;
    message[10 + 5000 + 1 + 4] = 'x';
    assert_int_equal(pgoutput_decode(&d, message, sizeof message), 0);
    assert_int_equal(strlen(d.message.prefix), 5000);
    assert_int_equal(d.message.len, 1);
    assert_int_equal(pgoutput_decode(&d, message, 10 + 5000), MUSTER_EINVAL);
    pgoutput_done(&d);
}

static void test_frames(void **state)
{
    static const uint8_t data[] = {'w', 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0,   0,  1,
                                   2,   3, 5, 0, 0, 0, 0, 0, 0, 0, 9, 'B', 'x'};
    static const uint8_t alive[] = {'k', 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1};
    struct pgoutput_frame f = {0};

    (void)state;
    assert_int_equal(pgoutput_frame(data, sizeof data, &f), 0);
    assert_int_equal(f.kind, 'w');
    assert_int_equal(f.start, 0x01020304);
    assert_int_equal(f.end, 0x01020305);
    assert_int_equal(f.sent_us, 9);
    assert_int_equal(f.len, 2);
    assert_memory_equal(f.data, "Bx", 2);

    assert_int_equal(pgoutput_frame(alive, sizeof alive, &f), 0);
    assert_int_equal(f.kind, 'k');
    assert_int_equal(f.end, UINT64_C(0x200000001));
    assert_int_equal(f.sent_us, 7);
    assert_true(f.reply_now);

    for (size_t n = 0; n < 25; n++)
        assert_int_equal(pgoutput_frame(data, n, &f), MUSTER_EINVAL);
    for (size_t n = 0; n < sizeof alive; n++)
        assert_int_equal(pgoutput_frame(alive, n, &f), MUSTER_EINVAL);
    assert_int_equal(pgoutput_frame("x", 1, &f), MUSTER_EINVAL);
    assert_int_equal(f.kind, 'k'); /* a failure writes nothing */
}

static void test_status(void **state)
{
    static const uint8_t expected[PGOUTPUT_STATUS_SIZE] = {'r', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0,
                                                           0,   0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
                                                           4,   0, 0, 0, 0, 0, 0, 1, 0, 1};
    uint8_t out[PGOUTPUT_STATUS_SIZE];
    struct pgoutput_status status = {.received = UINT64_C(0x100000002),
                                     .flushed = 3,
                                     .applied = 4,
                                     .now_us = 256,
                                     .reply_now = true};

    (void)state;
    pgoutput_status(&status, out);
    assert_memory_equal(out, expected, sizeof expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_captures_decode),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_transactions),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_broken_messages),
        cmocka_unit_test(test_widest_row),
        cmocka_unit_test(test_long_name),
        cmocka_unit_test(test_long_prefix),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_status),
    };

    return cmocka_run_group_tests_name("pgoutput", tests, NULL, NULL);
}
