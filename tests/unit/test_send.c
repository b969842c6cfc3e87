/*
 * plugins/fanout: the appends of message.send, against a stream that acknowledges when it is told to.
 *
 * However many messages to however many receivers: each is appended once, in the order of the receivers; what is under way is bounded, of one
 * message and of all; and every message is answered.
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

enum { OF_ONE = 256, MESSAGES = 60, RECEIVERS = 400, ACKS = MESSAGES * RECEIVERS };

static struct {
    struct {
        muster_stream_ack_fn fn;
        void *arg;
    } acks[ACKS];
    size_t first, n; /* first … n - 1 are under way */
    size_t answers, refusals, room;
} w;

static int fake_append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    (void)host;
    (void)stream;
    if (!w.room)
        return MUSTER_EAGAIN;
    w.room--;
    assert_in_range(w.n, 0, ACKS - 1);
    w.acks[w.n].fn = a->acked;
    w.acks[w.n++].arg = a->arg;
    return 0;
}

static int fake_reply(const struct muster_host *host, uint64_t request, struct muster_bytes body)
{
    char expected[40];

    (void)host;
    (void)request;
    (void)snprintf(expected, sizeof expected, "{\"delivered_to\":%d}", RECEIVERS);
    assert_int_equal(body.len, strlen(expected));
    assert_memory_equal(body.data, expected, body.len);
    w.answers++;
    return 0;
}

static int fake_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    (void)host;
    (void)request;
    (void)field;
    (void)message;
    assert_string_equal(code, "unavailable");
    w.refusals++;
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
    return 1;
}

void fanout_look_ready(struct fanout *f) /* the plugin's, which is in no library */
{
    (void)f;
}

static const struct muster_host host;
static const struct muster_stream stream = {.append = fake_append};
static const struct muster_bus bus = {.reply = fake_reply, .reply_error = fake_reply_error, .drop = fake_drop};
static const struct muster_metrics metrics = {.add = fake_count, .set = fake_count};
static const struct muster_timer timer = {.now = fake_now};
static const struct muster_msg msg = {.agent = "ann", .request = 1, .encoding = MUSTER_JSON};
static struct inbox inbox;
static struct fanout f = {.host = &host, .stream = &stream, .bus = &bus, .metrics = &metrics, .timer = &timer, .inbox = &inbox};

static void begin(size_t room)
{
    memset(&w, 0, sizeof w);
    w.room = room;
    inbox = (struct inbox){.open = true};
}

/* As send.c has it when the receivers are known. */
static struct send *new_send(void)
{
    struct send *s = calloc(1, sizeof *s);

    s->a = calloc(1, sizeof *s->a);
    s->a->f = &f;
    s->a->msg = &msg;
    s->n = s->end = RECEIVERS;
    s->names = calloc(RECEIVERS, sizeof *s->names);
    s->order = calloc(RECEIVERS, sizeof *s->order);
    s->again = calloc(RECEIVERS, sizeof *s->again);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        s->order[i] = i;
        (void)snprintf(s->names[i], sizeof s->names[i], "r%u", i);
    }
    return s;
}

static void acknowledge(int code)
{
    size_t i = w.first++;

    w.acks[i].fn(w.acks[i].arg, code, i + 1);
}

static void test_what_is_under_way_is_bounded(void **state)
{
    size_t most = 0;

    (void)state;
    begin(SIZE_MAX);
    send_append(new_send());
    assert_int_equal(w.n, OF_ONE);
    for (int i = 1; i < MESSAGES; i++)
        send_append(new_send());
    assert_int_equal(w.n, SENDS_UNDER_WAY);
    while (w.first < w.n) {
        acknowledge(0);
        most = w.n - w.first > most ? w.n - w.first : most;
        assert_int_equal(inbox.under_way, w.n - w.first);
    }
    assert_int_equal(most, SENDS_UNDER_WAY);
    assert_int_equal(w.n, ACKS);
    assert_int_equal(w.answers, MESSAGES);
}

static void test_room_comes_and_goes(void **state)
{
    (void)state;
    begin(100);
    for (int i = 0; i < MESSAGES; i++)
        send_append(new_send());
    for (int i = 0; w.first < w.n || inbox.stalled || inbox.crowded; i++) {
        for (int k = 0; k < 7 && w.first < w.n; k++)
            acknowledge(0);
        w.room = i % 5 ? w.room : 300;
        inbox_resume(&f);
        assert_in_range(inbox.under_way, 0, SENDS_UNDER_WAY);
    }
    assert_int_equal(w.n, ACKS);
    assert_int_equal(w.answers, MESSAGES);
}

static void test_the_end(void **state)
{
    (void)state;
    begin(SIZE_MAX);
    for (int i = 0; i < MESSAGES; i++)
        send_append(new_send());
    inbox_drop_stalled(&f);
    while (w.first < w.n)
        acknowledge(MUSTER_ELINK);
    assert_int_equal(w.n, SENDS_UNDER_WAY);
    assert_int_equal(w.refusals, MESSAGES);
    assert_null(inbox.crowded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_under_way_is_bounded),
        cmocka_unit_test(test_room_comes_and_goes),
        cmocka_unit_test(test_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
