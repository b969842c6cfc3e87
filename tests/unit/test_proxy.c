/* child/proxy.h against a child that is a socket: what it may say, what ends it, and that nothing of it is left then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy_host.h"

#define MESSAGE ((uint64_t)1 << 32 | 1)

static int begin(void **state)
{
    (void)state;
    fake_begin();
    return 0;
}

static int end(void **state)
{
    (void)state;
    fake_end();
    assert_int_equal(fake.n_held, 0);
    assert_int_equal(fake.n_leases, 0);
    assert_int_equal(fake.n_watches, 0);
    return 0;
}

/* The first frame of the type that the proxy has said, with its fields to be read. False: it has not. */
static bool heard(uint16_t type, struct frame_reader *ret_reader)
{
    size_t at = 0, len;

    turn();
    while (frame_peek(fake.said.data + at, fake.said.len - at, ret_reader, &len) == 1) {
        if (ret_reader->type == type)
            return true;
        at += len;
    }
    return false;
}

static bool is_over(void)
{
    char byte;

    turn();
    return recv(fake.child, &byte, 1, MSG_DONTWAIT) == 0;
}

static void assert_breach(const char *words)
{
    assert_true(is_over());
    assert_non_null(strstr(fake.log, "plugin acme 1.0 tried what it may not"));
    if (!strstr(fake.log, words))
        fail_msg("\"%s\" says nothing of \"%s\"", fake.log, words);
}

/* ---- frames of the child ------------------------------------------------------------------------------------------------------------ */

static void say_empty(uint16_t type, uint64_t id)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, type, id);

    say(&b, &f);
}

static void say_done(uint64_t id, int32_t code, bool held)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_DONE, id);

    frame_put_i32(&f, code);
    frame_put_u8(&f, held);
    say(&b, &f);
}

static void say_reply(uint64_t id, size_t len)
{
    static char body[1000001];
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_REPLY, id);

    frame_put_bytes(&f, (struct muster_bytes){body, len});
    say(&b, &f);
}

static void put_out(struct frame *f, uint64_t tenant, const char *subject)
{
    frame_put_u64(f, tenant);
    frame_put_str(f, subject);
    frame_put_headers(f, NULL, 0);
    frame_put_bytes(f, (struct muster_bytes){"{}", 2});
}

static void say_publication(uint64_t call, uint64_t tenant, const char *subject, const char *reply)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_PUBLISH, call);

    put_out(&f, tenant, subject);
    frame_put_str(&f, reply);
    say(&b, &f);
}

static void say_publish(uint64_t call, uint64_t tenant, const char *subject)
{
    say_publication(call, tenant, subject, NULL);
}

static void say_append(uint64_t call, uint64_t stream, uint64_t tenant, const char *subject, uint64_t lease)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_APPEND, call);

    frame_put_u64(&f, stream);
    put_out(&f, tenant, subject);
    frame_put_u64(&f, MUSTER_UNFENCED);
    frame_put_u64(&f, lease);
    say(&b, &f);
}

static void say_lease(uint64_t id, const char *name, int64_t ttl_ns)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_LEASE, id);

    frame_put_str(&f, name);
    frame_put_i64(&f, ttl_ns);
    say(&b, &f);
}

static void say_read(uint64_t call, uint64_t stream)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_STREAM_READ, call);

    frame_put_u64(&f, stream);
    frame_put_u64(&f, 0);
    frame_put_str(&f, NULL);
    frame_put_u64(&f, 1);
    frame_put_u32(&f, 10);
    say(&b, &f);
}

static void put_kv_get(struct buf *b, uint64_t call)
{
    struct frame f = frame_begin(b, FRAME_KV_GET, call);

    frame_put_u64(&f, 1);
    frame_put_str(&f, "k");
    assert_int_equal(frame_end(&f), 0);
}

static uint32_t count_heard(uint16_t type)
{
    uint32_t n = 0;
    size_t at = 0, len;
    struct frame_reader r;

    while (frame_peek(fake.said.data + at, fake.said.len - at, &r, &len) == 1) {
        n += r.type == type;
        at += len;
    }
    return n;
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------------- */

static void test_a_message_and_its_answer(void **state)
{
    struct frame_reader r;

    (void)state;
    assert_int_equal(deliver(&acme, 77), 0);
    assert_true(heard(FRAME_MSG, &r));
    assert_int_equal(r.id, MESSAGE);
    assert_int_equal(frame_get_u64(&r), 1); /* its subscription */
    assert_int_equal(frame_get_u32(&r), MUSTER_JSON);
    assert_int_equal(frame_get_u64(&r), 1); /* acme, which was told before */
    say_reply(MESSAGE, 2);
    say_done(MESSAGE, 0, false);
    turn();
    assert_int_equal(fake.n_replies, 1);
    assert_int_equal(fake.n_held, 0);
    say_reply(MESSAGE, 2); /* late, as of a thread of the plugin's: nothing happens */
    say_done(MESSAGE, 0, false);
    assert_false(is_over());
    assert_int_equal(fake.n_replies, 1);
}

static void test_an_answer_is_given_once(void **state)
{
    (void)state;
    (void)deliver(&acme, 77);
    say_reply(MESSAGE, 2);
    say_reply(MESSAGE, 2);
    say_done(MESSAGE, 0, true);
    assert_false(is_over());
    assert_int_equal(fake.n_replies, 1);
    assert_int_equal(fake.n_held, 1);
    say_empty(FRAME_DROP, MESSAGE);
    turn();
    assert_int_equal(fake.n_held, 0);
}

static void test_an_answer_that_finds_no_room_comes_again(void **state)
{
    (void)state;
    (void)deliver(&acme, 77);
    fake.refuse = 1;
    say_reply(MESSAGE, 2);
    say_done(MESSAGE, 0, false);
    turn();
    assert_int_equal(fake.n_held, 1);
    proxy_on_writable(fake.proxy);
    assert_false(is_over());
    assert_int_equal(fake.n_held, 0);
}

/* It asks and does not read: what it asks more waits until it has. */
static void test_who_does_not_read_is_not_asked_for_ever(void **state)
{
    enum { MANY = 60000 };
    struct buf b = {0};
    size_t sent = 0;
    ssize_t n = 0;

    (void)state;
    for (uint64_t i = 1; i <= MANY; i++)
        put_kv_get(&b, i);
    for (int idle = 0; idle < 100 && sent < b.len; idle = n > 0 ? 0 : idle + 1) {
        n = send(fake.child, b.data + sent, b.len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        (void)uv_run(&fake.loop, UV_RUN_NOWAIT);
    }
    assert_true(sent < b.len);
    for (int i = 0; i < 1000 && count_heard(FRAME_VALUE) < MANY; i++) {
        n = send(fake.child, b.data + sent, b.len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        turn();
    }
    buf_done(&b);
    assert_int_equal(count_heard(FRAME_VALUE), MANY);
}

/* What it says before its start is through waits for room like all else, and so does the answer behind it. */
static void test_a_start_whose_messages_find_no_room(void **state)
{
    (void)state;
    fake_end();
    fake_begin_with(3);
    assert_int_equal(fake.n_streams, 1);
    assert_false(is_over());
}

static void test_another_tenants_message_is_not_shown(void **state)
{
    struct frame_reader r;

    (void)state;
    assert_int_equal(deliver(&zeta, 77), 0);
    assert_string_equal(fake.error, "not_found");
    assert_false(heard(FRAME_MSG, &r));
    assert_null(memmem(fake.said.data, fake.said.len, "zeta", 4));
}

static void test_only_so_many_are_under_way(void **state)
{
    (void)state;
    for (int i = 0; i < 256; i++) /* of one tenant */
        assert_int_equal(deliver(&acme, 0), 0);
    assert_int_equal(deliver(&acme, 0), MUSTER_EAGAIN);
    for (uint64_t i = 1; i <= 128; i++)
        say_done(((uint64_t)1 << 32) + i, 0, false);
    turn();
    assert_int_equal(deliver(&acme, 0), 0);
}

static void test_messages_that_it_never_had(void **state)
{
    (void)state;
    say_reply(MESSAGE, 2);
    assert_breach("message that it was not given");
}

static void test_a_message_of_which_nobody_waits_for_an_answer(void **state)
{
    (void)state;
    (void)deliver(&acme, 0);
    say_reply(MESSAGE, 2);
    assert_breach("nobody waits");
}

static void test_an_answer_that_is_too_long(void **state)
{
    (void)state;
    (void)deliver(&acme, 77);
    say_reply(MESSAGE, 1000001);
    turn();
    assert_breach("no answer that may be given");
    assert_string_equal(fake.error, "unavailable");
}

static void test_what_it_publishes(void **state)
{
    struct frame_reader r;

    (void)state;
    (void)deliver(&acme, 0);
    say_publish(5, 1, "evt.acme.said.k");
    say_publish(0, 1, "to.a1._p_acme.hail");
    assert_true(heard(FRAME_SENT, &r));
    assert_int_equal(r.id, 5);
    assert_int_equal(frame_get_i32(&r), 0);
    assert_int_equal(fake.n_published, 2);
}

static void test_where_its_respond_goes(void **state)
{
    struct frame_reader r;

    (void)state;
    (void)deliver(&acme, 0);
    say_publication(5, 1, "to.a1._p_acme.hail", "rpc.a1.acme.took.r");
    assert_true(heard(FRAME_SENT, &r));
    assert_string_equal(fake.reply, "rpc.a1.acme.took.r");
    say_publication(0, 1, "to.a1._p_acme.hail", "rpc.a1.task.accept.r");
    assert_breach("task is no service of plugin acme");
    assert_int_equal(fake.n_published, 1);
}

static void test_subjects_that_it_may_not_name(void **state)
{
    static const char *const subjects[] = {"to.a1.a2.hail", "box.a1.x", "evt.task.done.k", "_in.acme.x", "acme.*"};

    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        (void)deliver(&acme, 0);
        say_publish(0, 1, subjects[i]);
        assert_breach(subjects[i]);
        assert_int_equal(fake.n_published, 0);
        fake_end();
        fake_begin();
    }
}

static void test_tenants_that_it_was_not_given(void **state)
{
    (void)state;
    say_publish(0, 2, "evt.acme.said.k"); /* 1 is acme; zeta is not for it */
    assert_breach("names the tenant 2");
}

static void test_subscriptions_that_it_may_not_have(void **state)
{
    (void)state;
    say_subscribe(2, "rpc.*.task.submit");
    assert_breach("rpc.*.task.submit");
}

static void test_streams(void **state)
{
    struct frame_reader r;

    (void)state;
    say_stream_open(3, "acme", "acme.>");
    assert_true(heard(FRAME_INFO, &r));
    assert_int_equal(r.id, 50);
    assert_int_equal(fake.max_msgs, 1000);
    assert_int_equal(fake.max_msgs_per_subject, 10);
    say_read(51, 3);
    assert_true(heard(FRAME_STORED, &r));
    assert_int_equal(frame_get_i32(&r), 0);
    assert_null(memmem(fake.said.data, fake.said.len, "zeta", 4));
    say_append(52, 3, 1, "acme.x", 0);
    assert_true(heard(FRAME_APPENDED, &r));
    say_append(0, 3, 1, "cdc.main.x", 0);
    assert_breach("cdc.main.x");
    assert_int_equal(fake.n_streams, 0);
}

static void test_streams_of_others(void **state)
{
    (void)state;
    say_stream_open(3, "CDC_main", "acme.>");
    assert_breach("CDC_main");
    assert_int_equal(fake.n_streams, 0);
}

static void test_leases_end_with_it(void **state)
{
    struct frame_reader r;

    (void)state;
    say_lease(4, "boss", 0);
    assert_true(heard(FRAME_LEASE_GOT, &r));
    assert_int_equal(r.id, 4);
    assert_int_equal(frame_get_u64(&r), 5);
    assert_true(frame_get_i64(&r) > clock_boot_ns());
    assert_int_equal(fake.n_leases, 1);
    say_append(0, 3, 1, "acme.x", 99);
    assert_true(is_over());
    assert_int_equal(fake.n_leases, 0);
}

static void test_frames_that_may_not_come(void **state)
{
    static const uint16_t types[] = {FRAME_SANDBOX, FRAME_SETTINGS, FRAME_MSG, FRAME_SENT, FRAME_HELLO, FRAME_CREATED, FRAME_STARTED,
                                     FRAME_METRIC_MAKE, FRAME_GONE, FRAME_DRAINED, FRAME_RELOADED, FRAME_CHECKED, FRAME_REFUSED};

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        say_empty(types[i], 1);
        assert_true(is_over());
        assert_non_null(strstr(fake.log, frame_name(types[i]))); /* by its name, whether it may not come or is malformed */
        fake_end();
        fake_begin();
    }
}

static void test_bytes_that_are_no_frames(void **state)
{
    (void)state;
    say_bytes("GET / HTTP/1.1\r\n\r\n", 18);
    assert_breach("no frame");
}

static void test_what_it_had_is_answered_when_it_is_over(void **state)
{
    (void)state;
    (void)deliver(&acme, 77);
    (void)deliver(&acme, 0);
    turn();
    (void)shutdown(fake.child, SHUT_RDWR);
    turn();
    assert_string_equal(fake.error, "unavailable");
    assert_int_equal(fake.n_held, 1); /* the other waits for the next child */
    assert_int_equal(deliver(&acme, 78), MUSTER_EAGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_message_and_its_answer, begin, end),
        cmocka_unit_test_setup_teardown(test_an_answer_is_given_once, begin, end),
        cmocka_unit_test_setup_teardown(test_an_answer_that_finds_no_room_comes_again, begin, end),
        cmocka_unit_test_setup_teardown(test_who_does_not_read_is_not_asked_for_ever, begin, end),
        cmocka_unit_test_setup_teardown(test_a_start_whose_messages_find_no_room, begin, end),
        cmocka_unit_test_setup_teardown(test_another_tenants_message_is_not_shown, begin, end),
        cmocka_unit_test_setup_teardown(test_only_so_many_are_under_way, begin, end),
        cmocka_unit_test_setup_teardown(test_messages_that_it_never_had, begin, end),
        cmocka_unit_test_setup_teardown(test_a_message_of_which_nobody_waits_for_an_answer, begin, end),
        cmocka_unit_test_setup_teardown(test_an_answer_that_is_too_long, begin, end),
        cmocka_unit_test_setup_teardown(test_what_it_publishes, begin, end),
        cmocka_unit_test_setup_teardown(test_where_its_respond_goes, begin, end),
        cmocka_unit_test_setup_teardown(test_subjects_that_it_may_not_name, begin, end),
        cmocka_unit_test_setup_teardown(test_tenants_that_it_was_not_given, begin, end),
        cmocka_unit_test_setup_teardown(test_subscriptions_that_it_may_not_have, begin, end),
        cmocka_unit_test_setup_teardown(test_streams, begin, end),
        cmocka_unit_test_setup_teardown(test_streams_of_others, begin, end),
        cmocka_unit_test_setup_teardown(test_leases_end_with_it, begin, end),
        cmocka_unit_test_setup_teardown(test_frames_that_may_not_come, begin, end),
        cmocka_unit_test_setup_teardown(test_bytes_that_are_no_frames, begin, end),
        cmocka_unit_test_setup_teardown(test_what_it_had_is_answered_when_it_is_over, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
