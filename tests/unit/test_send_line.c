/*
 * plugins/fanout: the order of what one sender sends, against a database that answers in any order and a stream that does when it is told to.
 *
 * However long each takes to be looked up or claimed: the messages of a sender are appended as they came; what fails or is tried again lets
 * none pass and stops none for good; and no sender waits for another.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/send.h"

enum { MANY = 2000, RECEIVERS = 10, BEGIN = 2, DONE = 3 /* statements of ask.c in the order in which they are prepared */ };

static struct {
    struct {
        muster_stream_ack_fn fn;
        void *arg;
    } acks[MANY];
    struct {
        muster_sql_fn fn;
        void *arg;
        uint64_t stmt;
    } asked[MANY];
    size_t first, n, n_asked, most_asked; /* first … n - 1 are under way */
    char appended[MANY][8];               /* "a17": the sender's first letter and the payload */
    size_t answers, refusals, room;
    uint64_t n_stmts;
    int64_t now;
} w;

static int fake_append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    (void)host;
    (void)stream;
    if (!w.room)
        return MUSTER_EAGAIN;
    w.room--;
    assert_in_range(w.n, 0, MANY - 1);
    assert_string_equal(a->headers[0].name, "Muster-From");
    (void)snprintf(w.appended[w.n], sizeof w.appended[w.n], "%c%.*s", a->headers[0].value[0], (int)a->payload.len, (const char *)a->payload.data);
    w.acks[w.n].fn = a->acked;
    w.acks[w.n++].arg = a->arg;
    return 0;
}

static int fake_reply(const struct muster_host *host, uint64_t request, struct muster_bytes body)
{
    (void)host;
    (void)request;
    (void)body;
    w.answers++;
    return 0;
}

static int fake_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    (void)host;
    (void)request;
    (void)code;
    (void)field;
    (void)message;
    w.refusals++;
    return 0;
}

static int fake_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    (void)host;
    *ret_msg = msg;
    return 0;
}

static void fake_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    (void)host;
    (void)msg;
}

static void fake_count(const struct muster_host *host, uint64_t metric, const char *value, int64_t by)
{
    (void)host;
    (void)metric;
    (void)value;
    (void)by;
}

static int64_t fake_now(const struct muster_host *host)
{
    (void)host;
    return w.now;
}

static const char *fake_name(const struct muster_tenant *tenant)
{
    (void)tenant;
    return "acme";
}

static int fake_may_hear(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    (void)host;
    (void)tenant;
    (void)subject;
    return strcmp(agent, "known") == 0 ? 0 : MUSTER_ENOTFOUND;
}

static int fake_prepare(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    (void)host;
    (void)name;
    (void)kind;
    (void)statement;
    *ret_stmt = ++w.n_stmts;
    return 0;
}

static int fake_exec(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                     uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    (void)host;
    (void)tenant;
    (void)order_key;
    (void)n_params;
    (void)params;
    assert_in_range(w.n_asked, 0, MANY - 1);
    w.asked[w.n_asked].fn = fn;
    w.asked[w.n_asked].arg = arg;
    w.asked[w.n_asked++].stmt = stmt;
    w.most_asked = w.n_asked > w.most_asked ? w.n_asked : w.most_asked;
    return 0;
}

void fanout_look_ready(struct fanout *f) /* the plugin's, which is in no library */
{
    (void)f;
}

static const struct muster_host host;
static const struct muster_stream stream = {.append = fake_append};
static const struct muster_bus bus = {.reply = fake_reply, .reply_error = fake_reply_error, .hold = fake_hold, .drop = fake_drop};
static const struct muster_metrics metrics = {.add = fake_count, .set = fake_count};
static const struct muster_timer timer = {.now = fake_now};
static const struct muster_tenants tenants = {.name = fake_name, .may_hear = fake_may_hear};
static const struct muster_sql sql = {.prepare = fake_prepare, .exec = fake_exec};
static struct inbox inbox;
static struct fanout f = {.host = &host, .stream = &stream, .bus = &bus, .metrics = &metrics, .timer = &timer, .tenants = &tenants,
                          .sql = &sql, .inbox = &inbox};

static int begin(void **state)
{
    (void)state;
    memset(&w, 0, sizeof w);
    w.room = SIZE_MAX;
    w.now = 1;
    inbox = (struct inbox){.open = true, .receivers = RECEIVERS};
    return asks_create(&f);
}

static int end(void **state)
{
    (void)state;
    assert_int_equal(inbox.lines.n, 0);
    map_done(&inbox.lines);
    asks_done(&f);
    return 0;
}

/* ---- what comes --------------------------------------------------------------------------------------------------------- */

static void request(const char *sender, const char *args)
{
    static struct muster_msg msgs[2];
    struct muster_msg *msg = &msgs[sender[0] == 'b'];
    struct ask *a;

    *msg = (struct muster_msg){.agent = sender, .request = 1, .encoding = MUSTER_JSON, .service = "message", .verb = "send",
                               .payload = {args, strlen(args)}};
    assert_int_equal(ask_new(&f, msg, &a), 0);
    inbox_send(a);
}

static void send_to(const char *sender, const char *to, int payload, bool once)
{
    char args[128], id[32];

    (void)snprintf(id, sizeof id, ",\"request_id\":\"r%d\"", payload);
    (void)snprintf(args, sizeof args, "{\"to\":\"%s\",\"type\":\"n\",\"payload\":%d%s}", to, payload, once ? id : "");
    request(sender, args);
}

static const char *claim(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    (void)result;
    (void)row;
    (void)column;
    return "{\"ok\":{\"claim\":\"0192aaaa-0000-7000-8000-000000000000\"}}";
}

static const char *kept(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    (void)result;
    (void)row;
    (void)column;
    return "{\"ok\":{\"seq\":1}}";
}

static const char *receiver(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    (void)result;
    (void)row;
    return column ? "agent" : "asked";
}

/* The database answers the i-th of what it was asked. */
static void answer(size_t i, int code)
{
    uint64_t stmt = w.asked[i].stmt;
    const struct muster_sql_result result = {
        .size = sizeof result, .code = code, .error = "", .n_rows = !code, .get = stmt == BEGIN ? claim : stmt == DONE ? kept : receiver};
    muster_sql_fn fn = w.asked[i].fn;
    void *arg = w.asked[i].arg;

    memmove(&w.asked[i], &w.asked[i + 1], (--w.n_asked - i) * sizeof w.asked[0]);
    fn(arg, &result);
}

static void acknowledge(int code)
{
    size_t i = w.first++;

    w.acks[i].fn(w.acks[i].arg, code, i + 1);
}

static void assert_order_of(char sender)
{
    int last = -1;

    for (size_t i = 0; i < w.n; i++)
        if (w.appended[i][0] == sender) {
            assert_true(atoi(w.appended[i] + 1) > last);
            last = atoi(w.appended[i] + 1);
        }
}

/* ---- tests -------------------------------------------------------------------------------------------------------------- */

static void test_however_long_each_takes(void **state)
{
    static const char *const to[] = {"known", "asked", "asked", "known", "known"};

    (void)state;
    w.room = 10;
    srand(1);
    for (int i = 0; i < MANY; i++)
        send_to(i % 2 ? "ann" : "bea", to[i % 5], i, i % 3 == 0);
    while (w.n_asked || w.first < w.n || inbox.stalled) {
        for (int k = 0; k < 5 && w.n_asked; k++)
            answer((size_t)rand() % w.n_asked, rand() % 10 ? 0 : MUSTER_ETIME); /* what fails stops none */
        for (int k = 0; k < 7 && w.first < w.n; k++)
            acknowledge(0);
        w.room = (size_t)rand() % 20;
        if (rand() % 3 == 0)
            inbox_resume(&f);
    }
    assert_order_of('a');
    assert_order_of('b');
    assert_int_equal(w.answers + w.refusals, MANY);
    assert_in_range(w.answers, MANY / 2, MANY - 1);
    assert_in_range(w.most_asked, SENDS_AHEAD, MANY);
}

static void test_who_comes_ahead_is_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < MANY / 2; i++)
        send_to("ann", "asked", i, false);
    assert_int_equal(w.n_asked, SENDS_AHEAD);
    send_to("bea", "known", 1, false); /* and stops nobody else */
    assert_string_equal(w.appended[0], "b1");
    while (w.n_asked > 1)
        answer(1, 0);
    assert_int_equal(w.n, 1);
    while (w.n_asked)
        answer(0, 0);
    assert_int_equal(w.n, MANY / 2 + 1);
    while (w.first < w.n)
        acknowledge(0);
    assert_order_of('a');
}

static void test_groups_ahead_are_fewer(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        request("ann", "{\"all\":true,\"type\":\"n\",\"payload\":1}");
    assert_int_equal(w.n_asked, WIDE_AHEAD);
    while (w.n_asked)
        answer(w.n_asked - 1, 0);
    while (w.first < w.n)
        acknowledge(0);
    assert_int_equal(w.answers, 100);
}

/* "a1" has failed, and its outcome may be unknown: what came later waits, what was under way with it does not. */
static void fail_the_first(void)
{
    send_to("ann", "known", 1, true);
    answer(0, 0);
    send_to("ann", "known", 2, false);
    acknowledge(MUSTER_ETIME);
    send_to("ann", "known", 3, false);
    send_to("bea", "known", 4, false);
    assert_int_equal(w.n, 3);
    assert_string_equal(w.appended[1], "a2");
    assert_string_equal(w.appended[2], "b4");
}

static void test_what_is_tried_again_is_waited_for(void **state)
{
    (void)state;
    fail_the_first();
    inbox_resume(&f);
    assert_int_equal(w.n, 4);
    assert_string_equal(w.appended[3], "a1");
    for (int i = 0; i < 3; i++)
        acknowledge(0);
    assert_string_equal(w.appended[4], "a3");
    acknowledge(0);
    answer(0, 0); /* its answer is kept */
    assert_int_equal(w.answers, 4);
}

static void test_several_are_tried_again_in_their_order(void **state)
{
    (void)state;
    for (int i = 1; i <= 3; i++) {
        send_to("ann", "known", i, true);
        answer(0, 0);
    }
    for (int i = 1; i <= 3; i++)
        acknowledge(MUSTER_ETIME);
    inbox_resume(&f);
    assert_int_equal(w.n, 6);
    for (int i = 1; i <= 3; i++)
        assert_int_equal(atoi(w.appended[2 + i] + 1), i);
    while (w.first < w.n)
        acknowledge(0);
    while (w.n_asked)
        answer(0, 0);
    assert_int_equal(w.answers, 3);
}

static void test_what_is_given_up_is_waited_for_no_longer(void **state)
{
    (void)state;
    fail_the_first();
    w.now += 11 * CLOCK_S;
    inbox_resume(&f);
    assert_int_equal(w.refusals, 1);
    assert_string_equal(w.appended[3], "a3");
    while (w.first < w.n)
        acknowledge(0);
    assert_int_equal(w.answers, 3);
}

static void test_the_end(void **state)
{
    (void)state;
    w.room = 0;
    for (int i = 0; i < 100; i++)
        send_to("ann", i % 2 ? "known" : "asked", i, false);
    while (w.n_asked)
        answer(0, MUSTER_ELINK);
    inbox_drop_stalled(&f);
    assert_int_equal(w.refusals, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_however_long_each_takes, begin, end),
        cmocka_unit_test_setup_teardown(test_who_comes_ahead_is_bounded, begin, end),
        cmocka_unit_test_setup_teardown(test_groups_ahead_are_fewer, begin, end),
        cmocka_unit_test_setup_teardown(test_what_is_tried_again_is_waited_for, begin, end),
        cmocka_unit_test_setup_teardown(test_several_are_tried_again_in_their_order, begin, end),
        cmocka_unit_test_setup_teardown(test_what_is_given_up_is_waited_for_no_longer, begin, end),
        cmocka_unit_test_setup_teardown(test_the_end, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
