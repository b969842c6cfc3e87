/* Lines of `muster watch`, and the gaps between them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "cli/term.h"
#include "cli/watch_line.h"

#define SUBJECT "mst.acme.cdc.main.public.orders."
#define CHANGE(op, rest)                                                                           \
    "{\"schema\":\"public\",\"table\":\"orders\",\"op\":\"" op "\",\"lsn\":\"0/1\","               \
    "\"commit_time\":\"2026-01-31T23:59:58.123456Z\",\"xid\":1," rest "}"

static const struct watch_style plain = {.root = "mst"}, json = {.root = "mst", .json = true},
                                coloured = {.root = "mst", .colours = true};

static struct heard heard(const char *subject, const char *body)
{
    return (struct heard){.subject = subject, .data = {body, strlen(body)}};
}

/* The line of one message is exactly this. */
static void expect(const struct watch_style *style, const char *subject, const char *body,
                   const char *line)
{
    struct heard h = heard(subject, body);
    struct buf out = {0};

    assert_true(heard_is_shown(style, &h));
    heard_print(&out, style, &h);
    assert_false(buf_failed(&out));
    assert_string_equal(out.data, line);
    buf_done(&out);
}

static void test_insert_shows_what_is_there(void **state)
{
    (void)state;
    expect(
        &plain, SUBJECT "insert._",
        CHANGE("insert",
               "\"key\":{\"id\":7},\"new\":{\"id\":7,\"item\":\"a bolt\",\"qty\":3,\"note\":null,"
               "\"data\":{\"a\":[1,2]},\"big\":90071992547409931},\"old\":null,\"unchanged\":[],"
               "\"omitted\":[]"),
        "23:59:58.123  acme        insert   public.orders  id=7  item=\"a bolt\" qty=3 "
        "data={\"a\":[1,2]} "
        "big=90071992547409931\n");
}

static void test_update_shows_what_changed_where_that_is_known(void **state)
{
    (void)state;
    expect(&plain, SUBJECT "update._",
           CHANGE("update",
                  "\"key\":{\"id\":7},\"new\":{\"id\":7,\"item\":\"nut\",\"qty\":4,\"note\":null},"
                  "\"old\":{\"id\":7,\"item\":\"nut\",\"qty\":3,\"note\":\"x\"},\"unchanged\":[],"
                  "\"omitted\":[]"),
           "23:59:58.123  acme        update   public.orders  id=7  qty=3→4 note=x→null\n");
    expect(
        &plain, SUBJECT "update._",
        CHANGE("update",
               "\"key\":{\"id\":8},\"new\":{\"id\":8,\"qty\":4,\"note\":null},\"old\":{\"id\":7},"
               "\"unchanged\":[\"doc\",\"pic\"],\"omitted\":[\"huge\"]"),
        "23:59:58.123  acme        update   public.orders  id=8 (was 7)  qty=4  (unchanged: doc, "
        "pic)  "
        "(omitted, too large: huge)\n");
    expect(&plain, SUBJECT "update._",
           CHANGE("update", "\"key\":{},\"new\":{\"id\":8,\"qty\":4},\"old\":{\"id\":8,\"qty\":3}"),
           "23:59:58.123  acme        update   public.orders   id=8 qty=4\n");
}

static void test_delete_and_truncate(void **state)
{
    (void)state;
    expect(&plain, SUBJECT "delete._",
           CHANGE("delete", "\"key\":{\"id\":7},\"new\":null,\"old\":{\"id\":7,\"item\":\"nut\"}"),
           "23:59:58.123  acme        delete   public.orders  id=7  item=nut\n");
    expect(&plain, SUBJECT "truncate._",
           CHANGE("truncate", "\"key\":null,\"new\":null,\"old\":null"),
           "23:59:58.123  acme        truncate public.orders\n");
}

static void test_an_event_has_its_key_and_members(void **state)
{
    struct muster_header key = {"Muster-Key", "order 7"};
    struct heard h =
        heard("mst.acme.evt.task.assigned.~abcdefghijklmnop",
              "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"state\":\"assigned\",\"none\":null}");
    struct buf out = {0};

    (void)state;
    expect(&plain, h.subject, h.data.data,
           "10:00:00.000  acme        task.assigned  ~abcdefghijklmnop  state=assigned\n");
    h.headers = &key;
    h.n_headers = 1;
    heard_print(&out, &plain, &h);
    assert_string_equal(out.data,
                        "10:00:00.000  acme        task.assigned  order 7  state=assigned\n");
    buf_done(&out);
}

/* Who is here, as people ask for it; what every agent has is left to `muster agents show`. */
static void test_presence_is_told_in_a_line(void **state)
{
    (void)state;
    expect(&plain, "mst.acme.evt.presence.join.ann",
           "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"agent_id\":\"ann\",\"status\":\"online\",\"from\":null,\"task\":null,"
           "\"capabilities\":[\"plan\",\"review\"],\"labels\":{\"team\":\"core\"},\"load\":0.5}",
           "10:00:00.000  acme        presence.join  ann  online capabilities=plan,review labels=team=core\n");
    expect(&plain, "mst.acme.evt.presence.leave.ann",
           "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"agent_id\":\"ann\",\"status\":\"busy\",\"from\":\"busy\",\"task\":\"t\\u001b-1\","
           "\"reason\":\"timeout\",\"capabilities\":[],\"labels\":{}}",
           "10:00:00.000  acme        presence.leave  ann  busy reason=timeout task=t?-1\n");
    expect(&plain, "mst.acme.evt.presence.status.ann",
           "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"agent_id\":\"ann\",\"status\":\"busy\",\"from\":\"online\"}",
           "10:00:00.000  acme        presence.status  ann  busy (was online)\n");
    expect(&plain, "mst.acme.evt.presence.join._",
           "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"agents\":[{\"agent_id\":\"a1\"},{\"agent_id\":\"a2\"},3]}",
           "10:00:00.000  acme        presence.join  _  3 agents: a1, a2, ?\n");
    expect(&plain, "mst.acme.evt.presence.count._",
           "{\"at\":\"2026-01-31T10:00:00.000001Z\",\"count\":7,\"by_status\":{\"online\":5,\"busy\":2}}",
           "10:00:00.000  acme        presence.count  _  7: online=5,busy=2\n");
}

/* Bodies in which something is missing or of another type are shown as far as they go. */
static void test_strange_bodies_are_no_fault(void **state)
{
    static const char *const bodies[] = {
        "{}",
        CHANGE("insert", "\"key\":[1],\"new\":[2],\"old\":3,\"unchanged\":{},\"omitted\":[1,{}]"),
        "{\"commit_time\":12,\"schema\":1,\"table\":null}",
        "{\"commit_time\":\"2026\"}",
        "[1]",
        "\xff",
        "",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct heard h = heard(SUBJECT "insert._", bodies[i]);
        struct buf out = {0};

        heard_print(&out, &plain, &h);
        assert_false(buf_failed(&out));
        assert_ptr_equal(strchr(out.data, '\n'), out.data + out.len - 1);
        assert_non_null(strstr(out.data, "  acme  "));
        buf_done(&out);
    }
}

static void test_nothing_in_a_row_reaches_the_terminal_as_control(void **state)
{
    struct heard h = heard(
        SUBJECT "insert._",
        CHANGE("insert", "\"key\":{\"\\u001b[1m\":1},\"new\":{\"a\\u009bb\":\"\\u001b]0;x\\u0007\","
                         "\"c\":\"\\u007f\\u0085\\n\\r\"}"));
    struct buf out = {0};

    (void)state;
    heard_print(&out, &plain, &h);
    for (size_t i = 0; i + 1 < out.len; i++) {
        unsigned char c = (unsigned char)out.data[i];

        assert_true(c >= 0x20 && c != 0x7f);
        assert_false(c == 0xc2 && (unsigned char)out.data[i + 1] < 0xa0);
    }
    buf_done(&out);
}

static void test_long_values_and_rows_are_cut(void **state)
{
    struct buf body = {0}, out = {0};
    struct heard h;

    (void)state;
    buf_puts(&body,
             "{\"commit_time\":\"2026-01-31T23:59:58.123456Z\",\"key\":{},\"new\":{\"long\":\"");
    for (int i = 0; i < 100; i++)
        buf_puts(&body, "ü");
    buf_puts(&body, "\"");
    for (int i = 0; i < 40; i++)
        buf_printf(&body, ",\"c%d\":%d", i, i);
    buf_puts(&body, "},\"old\":null}");
    h = heard(SUBJECT "insert._", body.data);
    heard_print(&out, &plain, &h);
    assert_non_null(strstr(out.data, "ü…")); /* cut between characters */
    assert_non_null(strstr(out.data, " c22=22 (17 columns more)\n"));
    buf_done(&out);
    buf_done(&body);
}

static void test_json_is_one_object_a_line(void **state)
{
    struct muster_header headers[] = {{"Muster-Seq", "3"}, {"X-Odd", "a\"\xff"}};
    struct heard h = heard(SUBJECT "insert._", "{\"big\": 90071992547409931,\n \"x\": 1.50}");
    struct buf out = {0};

    (void)state;
    h.headers = headers;
    h.n_headers = 2;
    heard_print(&out, &json, &h);
    assert_string_equal(out.data,
                        "{\"subject\":\"" SUBJECT
                        "insert._\",\"headers\":{\"Muster-Seq\":\"3\",\"X-Odd\":\"a\\\"\uFFFD\"},"
                        "\"body\":{\"big\":90071992547409931,\"x\":1.50}}\n");
    buf_done(&out);
    expect(&json, SUBJECT "insert._", "\x81\xa1\x61\x01",
           "{\"subject\":\"" SUBJECT "insert._\",\"headers\":{},\"body\":{\"a\":1}}\n");
    expect(&json, SUBJECT "insert._", "no",
           "{\"subject\":\"" SUBJECT "insert._\",\"headers\":{},\"body\":{\"base64\":\"bm8=\"}}\n");
}

static void test_colours_are_asked_for(void **state)
{
    struct heard h =
        heard(SUBJECT "delete._", CHANGE("delete", "\"key\":{},\"new\":null,\"old\":null"));
    struct buf out = {0};

    (void)state;
    heard_print(&out, &coloured, &h);
    assert_non_null(strstr(out.data, "\033[31mdelete  \033[0m"));
    buf_done(&out);
}

static void test_only_changes_and_events_are_shown(void **state)
{
    static const char *const hidden[] = {
        "mst.acme.evt._.head",
        "mst._in.cdc.cdc.main.public.orders.insert._",
        "mst.acme.cdc.main.public.orders.insert",
        "other.acme.evt.task.assigned.1",
        "mst.acme.all.a1.note",
        "mst.acme.cdc.main.public.orders.upsert._",
    };

    (void)state;
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        struct heard h = heard(hidden[i], "{}");

        assert_false(heard_is_shown(&plain, &h));
    }
}

/* What is said before a message of a channel at this position; "" for nothing. */
static void position(struct channels *c, const char *subject, const char *epoch, const char *seq,
                     const char *said)
{
    struct muster_header headers[] = {{"Muster-Epoch", epoch}, {"Muster-Seq", seq}};
    struct heard h = {.subject = subject, .headers = headers, .n_headers = 2};
    struct buf out = {0};

    channels_check(c, &plain, &h, &out);
    assert_string_equal(out.data ? out.data : "", said);
    buf_done(&out);
}

static void test_gaps_are_told_for_each_channel(void **state)
{
    static const char orders[] = SUBJECT "insert._",
                      other[] = "mst.acme.cdc.main.public.others.insert._";
    static const char deleted[] = SUBJECT "delete.7", event[] = "mst.acme.evt.task.assigned.1";
    static const char zeta[] = "mst.zeta.cdc.main.public.orders.insert._";
    struct channels c = {0};

    (void)state;
    position(&c, orders, "1", "10", ""); /* the first that is heard may be any */
    position(&c, deleted, "1", "11", "");
    position(&c, other, "1", "1", "");
    position(&c, zeta, "1", "1", "");
    position(&c, event, "1", "5", "");
    position(&c, orders, "1", "14",
             "-- gap: 2 not heard, between 11 and 14 (acme cdc.main.public.orders)\n");
    position(&c, orders, "1", "15", "");
    position(&c, event, "1", "7", "-- gap: 1 not heard, between 5 and 7 (acme evt.task)\n");
    position(&c, zeta, "1", "1", "-- position 1 came after 1 (zeta cdc.main.public.orders)\n");
    position(&c, other, "2", "1",
             "-- begins anew: epoch 2 after 1; what was between them may be lost (acme "
             "cdc.main.public.others)\n");
    position(&c, other, "2", "2", "");
    channels_done(&c);
}

static void test_messages_without_a_position_are_let_pass(void **state)
{
    struct muster_header seq = {"Muster-Seq", "4"};
    struct heard h = heard(SUBJECT "insert._", "{}");
    struct channels c = {0};
    struct buf out = {0};

    (void)state;
    channels_check(&c, &plain, &h, &out);
    h.headers = &seq;
    h.n_headers = 1;
    channels_check(&c, &plain, &h, &out);
    assert_int_equal(out.len, 0);
    assert_int_equal(c.seen.n, 0);
    channels_done(&c);
}

static void test_what_was_dropped_is_told(void **state)
{
    struct buf out = {0};

    (void)state;
    notice_dropped(&out, &plain, 12);
    notice_dropped(&out, &json, 3);
    assert_string_equal(out.data, "-- 12 came faster than they could be printed\n"
                                  "{\"notice\":{\"kind\":\"dropped\",\"messages\":3}}\n");
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_insert_shows_what_is_there),
        cmocka_unit_test(test_update_shows_what_changed_where_that_is_known),
        cmocka_unit_test(test_delete_and_truncate),
        cmocka_unit_test(test_an_event_has_its_key_and_members),
        cmocka_unit_test(test_presence_is_told_in_a_line),
        cmocka_unit_test(test_strange_bodies_are_no_fault),
        cmocka_unit_test(test_nothing_in_a_row_reaches_the_terminal_as_control),
        cmocka_unit_test(test_long_values_and_rows_are_cut),
        cmocka_unit_test(test_json_is_one_object_a_line),
        cmocka_unit_test(test_colours_are_asked_for),
        cmocka_unit_test(test_only_changes_and_events_are_shown),
        cmocka_unit_test(test_gaps_are_told_for_each_channel),
        cmocka_unit_test(test_messages_without_a_position_are_let_pass),
        cmocka_unit_test(test_what_was_dropped_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
