/* The test host as an author uses it: every service, driven by a plugin that keeps the rules (good.c). */
#include <muster/testhost.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "good.h"

const struct muster_plugin *good_entry(void);

static struct muster_test *begin_with(const char *config, uint32_t flags)
{
    const struct muster_test_options options = {
        .size = sizeof options, .flags = flags, .entry = good_entry, .config = config, .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

static struct muster_test *begin(void)
{
    return begin_with(NULL, 0);
}

/* What failed is shown by the assertion. */
static void end(struct muster_test *t)
{
    muster_test_destroy(t);
    if (muster_test_failures(t))
        fail_msg("%s", muster_test_failure(t, 0));
    assert_int_equal(muster_test_free(t), 0);
}

static const char *ask(struct muster_test *t, const char *verb, const char *json)
{
    char subject[100];
    uint64_t n;

    (void)snprintf(subject, sizeof subject, "rpc.ann.good.%s", verb);
    n = muster_test_request(t, subject, json);
    return muster_test_answer_text(t, n);
}

/* ---- requests ---- */

static void test_request(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_string_equal(ask(t, "say", "{}"), "{\"number\":7}");
    assert_int_equal(muster_test_metric(t, "said_total", "ann"), 1);
    assert_int_equal(muster_test_metric(t, "said_total", "bob"), 0);
    assert_int_equal(muster_test_metric(t, "took_seconds", NULL), 1);
    assert_int_equal(muster_test_n_open(t), 0);
    end(t);
}

/* What a library puts back as it was (libcurl does around each call) is no change. */
static void test_signal_put_back(void **state)
{
    struct muster_test *t = begin();
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct sigaction before;

    (void)state;
    assert_int_equal(sigaction(SIGPIPE, &ignore, &before), 0);
    assert_int_equal(sigaction(SIGPIPE, &before, NULL), 0);
    end(t);
}

static void test_msgpack(void **state)
{
    struct muster_test *t = begin();
    const struct muster_test_message msg = {.size = sizeof msg,
                                            .encoding = MUSTER_MSGPACK,
                                            .tenant = "zeta",
                                            .subject = "rpc.bob.good.say",
                                            .asks = 1,
                                            .payload = {"\x80", 1}};
    const struct muster_test_answer *answer = muster_test_answer(t, muster_test_send(t, &msg));

    (void)state;
    assert_non_null(answer);
    assert_int_equal(answer->encoding, MUSTER_MSGPACK);
    assert_int_equal(answer->payload.len, 9);
    assert_memory_equal(answer->payload.data, "\x81\xa6number\x07", 9);
    end(t);
}

/* Who asks may what its role may; nobody has said more of the verb than that it is there, so it writes. */
static void test_role(void **state)
{
    struct muster_test *t = begin();
    struct muster_test_message msg = {
        .size = sizeof msg, .subject = "rpc.ann.good.say", .asks = 1, .payload = {"{}", 2}, .role = MUSTER_ROLE_OBSERVER};
    const struct muster_test_answer *answer = muster_test_answer(t, muster_test_send(t, &msg));

    (void)state;
    assert_string_equal(answer->error, "permission_denied");
    assert_int_equal(answer->by_host, 1);
    assert_non_null(strstr(answer->message, "role observer may not ask for good.say"));
    msg.role = MUSTER_ROLE_USER;
    assert_string_equal(muster_test_answer(t, muster_test_send(t, &msg))->error, "permission_denied");
    msg.role = MUSTER_ROLE_ADMIN;
    assert_null(muster_test_answer(t, muster_test_send(t, &msg))->error);
    msg.role = 0;
    assert_null(muster_test_answer(t, muster_test_send(t, &msg))->error);
    end(t);
}

/* As a broker does: the plugin does not see what does not fit. */
static void test_body_refused(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.put", "{\"key\": \"k\", \"value\": 5}");
    const struct muster_test_answer *answer = muster_test_answer(t, n);

    (void)state;
    assert_string_equal(answer->error, "invalid_argument");
    assert_string_equal(answer->field, "value");
    assert_int_equal(answer->by_host, 1);
    assert_int_equal(muster_test_calls(t, "kv.put"), 0);
    n = muster_test_request(t, "rpc.ann.good.nothing", "{}");
    assert_string_equal(muster_test_answer(t, n)->error, "not_found");
    end(t);
}

static void test_bound_rejects(void **state)
{
    struct muster_test *t = begin();
    const struct muster_test_message msg = {.size = sizeof msg, .subject = "rpc.ann.good.say", .asks = 1, .payload = {"{}", 2}};
    uint64_t last = 0;

    (void)state;
    for (int i = 0; i < 4; i++)
        last = muster_test_queue(t, &msg);
    assert_string_equal(muster_test_answer(t, last)->error, "resource_exhausted");
    assert_null(muster_test_answer(t, last - 1));
    muster_test_run(t);
    assert_non_null(muster_test_answer(t, last - 1));
    end(t);
}

static int is_answered(void *arg)
{
    struct muster_test *t = arg;

    return muster_test_n_open(t) == 0;
}

static void test_thread_answers(void **state)
{
    struct muster_test *t = begin();
    uint64_t n;

    (void)state;
    n = muster_test_request(t, "rpc.ann.good.work", "{}");
    assert_int_equal(muster_test_wait(t, is_answered, t, 10000), 0);
    assert_string_equal(muster_test_answer_text(t, n), "{\"worked\":1}");
    muster_test_fault(t, "host.post", MUSTER_ENOMEM, 1, 1);
    n = muster_test_request(t, "rpc.ann.good.work", "{}");
    assert_int_equal(muster_test_wait(t, is_answered, t, 10000), 0);
    assert_string_equal(muster_test_answer(t, n)->error, "unavailable");
    end(t);
}

/* ---- what the plugin asks and says ---- */

static void test_question_times_out(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.ask", "{\"agent\": \"bob\"}");

    (void)state;
    assert_null(muster_test_answer(t, n));
    assert_string_equal(muster_test_sent(t, 0)->subject, "to.bob._muster.ping");
    assert_int_equal(muster_test_sent(t, 0)->kind, MUSTER_TEST_ASKED);
    muster_test_advance(t, 2 * MUSTER_TEST_S - 1);
    assert_null(muster_test_answer(t, n));
    muster_test_advance(t, 1);
    assert_string_equal(muster_test_answer_text(t, n), "{\"code\":-5}");
    end(t);
}

static int say_hi(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    *ret_json = "{\"hi\":1}";
    *(int *)arg += asked->payload.len == 2;
    return 0;
}

static void test_question_answered(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.ask", "{\"agent\": \"bob\"}");
    int calls = 0;

    (void)state;
    assert_int_equal(muster_test_answer_to(t, 0, 0, "{\"hello\": 1}"), 0);
    assert_string_equal(muster_test_answer_text(t, n), "{\"bytes\":12}");
    assert_int_equal(muster_test_answer_to(t, 0, 0, "{}"), MUSTER_ENOTFOUND);
    muster_test_answer_by(t, "to.*._muster.ping", say_hi, &calls);
    assert_string_equal(ask(t, "ask", "{\"agent\": \"cat\"}"), "{\"bytes\":8}");
    assert_int_equal(calls, 1);
    muster_test_answer_by(t, "to.*._muster.ping", NULL, NULL);
    muster_test_fault(t, "bus.request:callback", MUSTER_ENOTFOUND, 1, 1);
    assert_string_equal(ask(t, "ask", "{\"agent\": \"cat\"}"), "{\"code\":-8}");
    end(t);
}

/* Whatever its body, and without an answer. */
static void test_respond(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_string_equal(ask(t, "hand", "{}"), "{\"number\":1}");
    assert_string_equal(muster_test_sent_on(t, "to.ann._muster.hand")->reply, "rpc.ann.good.took.r7");
    muster_test_tell(t, muster_test_sent_on(t, "to.ann._muster.hand")->reply, "no JSON");
    assert_int_equal(muster_test_metric(t, "said_total", "took"), 1);
    muster_test_tell(t, "all.ann.hear", "{}");
    assert_null(muster_test_sent_on(t, "evt.good.>")->reply);
    end(t);
}

static void test_may_hear(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_string_equal(ask(t, "hears", "{}"), "{\"code\":0}");
    muster_test_agent(t, NULL, "ann", MUSTER_ROLE_USER, NULL, NULL);
    assert_string_equal(ask(t, "hears", "{}"), "{\"code\":-4}");
    muster_test_agent(t, "acme", "ann", MUSTER_ROLE_NONE, NULL, NULL);
    assert_string_equal(ask(t, "hears", "{}"), "{\"code\":-8}");
    muster_test_agent(t, NULL, "ann", MUSTER_ROLE_OBSERVER, "red", "a.b");
    assert_string_equal(ask(t, "hears", "{}"), "{\"code\":0}");
    end(t);
}

static void test_event(void **state)
{
    struct muster_test *t = begin();
    const struct muster_test_sent *event;

    (void)state;
    muster_test_tell(t, "all.ann.hear", "{}");
    event = muster_test_sent_on(t, "evt.good.>");
    assert_non_null(event);
    assert_string_equal(event->tenant, "acme");
    assert_string_equal(event->payload.data, "{\"a\":1}");
    assert_null(muster_test_sent_on(t, "evt.other.>"));
    end(t);
}

/* MUSTER_EAGAIN from a callback: it comes again in a moment. */
static void test_comes_again(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    muster_test_fault(t, "bus.publish", MUSTER_EAGAIN, 1, 2);
    muster_test_tell(t, "all.ann.hear", "{}");
    assert_int_equal(muster_test_n_sent(t), 0);
    muster_test_advance(t, MUSTER_TEST_S / 2);
    assert_int_equal(muster_test_n_sent(t), 1);
    assert_int_equal(muster_test_calls(t, "bus.publish"), 3);
    assert_int_equal(muster_test_faults_given(t, "bus.publish"), 2);
    end(t);
}

/* ---- what is stored ---- */

static void test_kv(void **state)
{
    struct muster_test *t = begin();
    struct muster_test_value value;

    (void)state;
    assert_string_equal(ask(t, "put", "{\"key\": \"k\", \"value\": \"v\"}"), "{\"revision\":1}");
    value = muster_test_kv_get(t, "acme", "k");
    assert_int_equal(value.revision, 1);
    assert_string_equal(value.value.data, "v");
    assert_int_equal(muster_test_kv_get(t, NULL, "k").revision, 0);
    assert_int_equal(muster_test_kv_get(t, "zeta", "k").revision, 0);
    muster_test_jump_wall(t, 3601 * MUSTER_TEST_S);
    assert_int_equal(muster_test_kv_get(t, "acme", "k").revision, 0);
    muster_test_fault(t, "kv.put:callback", MUSTER_ESTALE, 1, 1);
    assert_string_equal(ask(t, "put", "{\"key\": \"k\", \"value\": \"v\"}"), "{\"code\":-7}");
    end(t);
}

static void test_stream_and_lease(void **state)
{
    struct muster_test *t = begin();
    struct muster_stream_info info;
    const char *code;

    (void)state;
    assert_int_equal(muster_test_health(t, NULL, NULL), MUSTER_HEALTH_STANDBY);
    assert_string_equal(ask(t, "log", "{\"text\": \"x\"}"), "{\"code\":-7}");
    assert_int_equal(muster_test_lease_give(t, "leader"), 0);
    assert_int_equal(muster_test_lease_give(t, "leader"), MUSTER_ENOTFOUND);
    assert_int_equal(muster_test_health(t, &code, NULL), MUSTER_HEALTH_OK);
    assert_string_equal(code, "leads");
    assert_string_equal(ask(t, "log", "{\"text\": \"x\"}"), "{\"seq\":1}");
    assert_int_equal(muster_test_stream(t, "GOOD", &info), 0);
    assert_int_equal(info.last_seq, 1);
    assert_string_equal(muster_test_stored(t, "GOOD", 1)->payload.data, "{\"text\": \"x\"}");
    assert_int_equal(muster_test_sent_on(t, "good.log")->seq, 1);
    (void)muster_test_store(t, "GOOD", "zeta", "good.other", (struct muster_bytes){"{}", 2}); /* another broker */
    assert_string_equal(ask(t, "log", "{\"text\": \"y\"}"), "{\"code\":-7}");
    assert_string_equal(ask(t, "log", "{\"text\": \"y\"}"), "{\"seq\":3}");
    assert_int_equal(muster_test_lease_take(t, NULL, MUSTER_ESTALE), 0);
    assert_int_equal(muster_test_health(t, NULL, NULL), MUSTER_HEALTH_STANDBY);
    end(t);
}

/* What cannot be renewed is lost when its time has passed, and not before. */
static void test_lease_without_link(void **state)
{
    struct muster_test *t = begin();
    const char *text;

    (void)state;
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_link(t, 0);
    muster_test_advance(t, 14 * MUSTER_TEST_S);
    assert_int_equal(muster_test_health(t, NULL, NULL), MUSTER_HEALTH_OK);
    muster_test_advance(t, 2 * MUSTER_TEST_S);
    assert_int_equal(muster_test_health(t, NULL, &text), MUSTER_HEALTH_STANDBY);
    assert_string_equal(text, "lost with -5");
    muster_test_link(t, 1);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    assert_int_equal(muster_test_health(t, NULL, &text), MUSTER_HEALTH_OK);
    assert_string_equal(text, "epoch 2");
    end(t);
}

static int give_row(void *arg, const struct muster_test_statement *s, struct muster_test_rows *rows)
{
    const char *const cells[] = {"three", NULL};

    assert_string_equal(s->name, "row");
    assert_string_equal(s->tenant, "acme");
    assert_int_equal(s->n_params, 2);
    assert_null(s->params[1].data);
    if (*(int *)arg) {
        muster_test_sql_error(rows, "40001", "could not serialize");
        return MUSTER_EINVAL;
    }
    muster_test_row(rows, 2, cells);
    return 0;
}

static void test_sql(void **state)
{
    struct muster_test *t = begin();
    int broken = 0;

    (void)state;
    assert_string_equal(ask(t, "row", "{}"), "{\"row\":-1}");
    muster_test_sql(t, "row", give_row, &broken);
    assert_string_equal(ask(t, "row", "{}"), "{\"row\":5}");
    broken = 1;
    assert_string_equal(ask(t, "row", "{}"), "{\"code\":-1}");
    end(t);
}

static void test_connections(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_int_equal(muster_test_logged(t, "connected: 0"), 1); /* the first gap */
    muster_test_connect(t, "zeta", "ann", NULL, 5);
    assert_int_equal(muster_test_logged(t, "connected: 1"), 1);
    muster_test_disconnect(t, NULL, 5, NULL);
    assert_int_equal(muster_test_logged(t, "connected: 0"), 2);
    muster_test_connect(t, "zeta", "ann", "NOTHER", 6);
    muster_test_server(t, "NOTHER", 0);
    assert_int_equal(muster_test_logged(t, "server NOTHER: lost"), 1);
    muster_test_disconnect(t, "NOTHER", 6, NULL); /* nobody hears it */
    assert_int_equal(muster_test_logged(t, "connected: 0"), 2);
    muster_test_server(t, "NOTHER", 1);
    assert_int_equal(muster_test_logged(t, "server NOTHER: back"), 1);
    end(t);
}

/* ---- time, links, settings ---- */

static void test_clock(void **state)
{
    struct muster_test *t = begin_with("tick: 250ms\n", 0);
    int64_t now = muster_test_now(t), wall = muster_test_wall_now(t);

    (void)state;
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_logged(t, "tick "), 4);
    assert_int_equal(muster_test_line(t, muster_test_n_lines(t) - 1)->at_ns, now + MUSTER_TEST_S);
    assert_int_equal(muster_test_wall_now(t), wall + MUSTER_TEST_S);
    end(t);
}

static void test_link_lost(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.ask", "{\"agent\": \"bob\"}");

    (void)state;
    muster_test_link(t, 0);
    assert_string_equal(muster_test_answer_text(t, n), "{\"error\":{\"code\":\"unavailable\",\"message\":\"the answer was lost with the link\"}}");
    end(t);
}

static void test_settings(void **state)
{
    const struct muster_test_options odd = {.size = sizeof odd, .entry = good_entry, .config = "tick: 2s\nnumber: 101\n"};
    const struct muster_test_options unlucky = {.size = sizeof unlucky, .entry = good_entry, .config = "number: 13\n"};
    struct muster_test *t = muster_test_new(&odd);

    (void)state;
    assert_int_equal(muster_test_create(t), MUSTER_EINVAL);
    assert_non_null(strstr(muster_test_reason(t), "settings:2:9: "));
    end(t);
    t = muster_test_new(&unlucky);
    assert_int_equal(muster_test_check(t), MUSTER_EINVAL);
    assert_non_null(strstr(muster_test_reason(t), "settings:1:9: "));
    assert_non_null(strstr(muster_test_reason(t), "13 brings bad luck"));
    end(t);
}

static void test_reload(void **state)
{
    struct muster_test *t = begin_with("{number: 8}", 0);

    (void)state;
    assert_string_equal(ask(t, "say", "{}"), "{\"number\":8}");
    assert_int_equal(muster_test_reload(t, "number: 9\n"), 0);
    assert_string_equal(ask(t, "say", "{}"), "{\"number\":9}");
    assert_int_equal(muster_test_reload(t, "number: 13\n"), MUSTER_EINVAL);
    assert_string_equal(ask(t, "say", "{}"), "{\"number\":9}");
    assert_int_equal(((const struct good_config *)muster_test_config(t))->number, 9);
    end(t);
}

static void test_two_hosts(void **state)
{
    struct muster_test *a = begin(), *b = begin_with("number: 2\n", 0);

    (void)state;
    assert_string_equal(ask(a, "say", "{}"), "{\"number\":7}");
    assert_string_equal(ask(b, "say", "{}"), "{\"number\":2}");
    end(a);
    assert_string_equal(ask(b, "say", "{}"), "{\"number\":2}");
    end(b);
}

static void test_drain(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.ask", "{\"agent\": \"bob\"}");

    (void)state;
    muster_test_drain(t, 5 * MUSTER_TEST_S);
    assert_string_equal(muster_test_answer_text(t, n), "{\"code\":-5}");
    end(t);
}

/* What a plugin has open when it ends completes, and no request is left. */
static void test_ends_in_the_middle(void **state)
{
    struct muster_test *t = begin();
    uint64_t n = muster_test_request(t, "rpc.ann.good.ask", "{\"agent\": \"bob\"}");

    (void)state;
    muster_test_destroy(t);
    assert_string_equal(muster_test_answer_text(t, n), "{\"code\":-10}");
    end(t);
}

/* ---- faults and bodies ---- */

static void test_every_fault(void **state)
{
    static const struct {
        const char *verb, *json;
    } requests[] = {{"put", "{\"key\": \"k\", \"value\": \"v\"}"}, {"ask", "{\"agent\": \"bob\"}"}, {"log", "{\"text\": \"x\"}"},
                    {"row", "{}"},                               {"say", "{}"},                  {"work", "{}"}};
    const struct muster_test_function *functions;
    size_t n;

    (void)state;
    functions = muster_test_functions(&n);
    assert_true(n > 30);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; functions[i].codes[c]; c++) {
            struct muster_test *t = begin();

            (void)muster_test_lease_give(t, NULL);
            muster_test_fault(t, functions[i].name, functions[i].codes[c], 1, 0);
            for (size_t r = 0; r < sizeof requests / sizeof *requests; r++)
                (void)ask(t, requests[r].verb, requests[r].json);
            muster_test_advance(t, 40 * MUSTER_TEST_S);
            end(t);
        }
}

static void test_bodies(void **state)
{
    struct muster_test *t = begin();
    struct muster_bytes body = muster_test_body(t, "good", "put", MUSTER_JSON, 1, 0);
    char first[5000];

    (void)state;
    assert_true(body.len < sizeof first);
    memcpy(first, body.data, body.len);
    assert_memory_equal(first, muster_test_body(t, "good", "put", MUSTER_JSON, 1, 0).data, body.len);
    for (uint64_t seed = 0; seed < 300; seed++)
        for (int broken = 0; broken < 2; broken++) {
            uint32_t encoding = seed & 1 ? MUSTER_JSON : MUSTER_MSGPACK;
            struct muster_test_message msg = {.size = sizeof msg,
                                              .encoding = encoding,
                                              .subject = "rpc.ann.good.put",
                                              .asks = 1,
                                              .payload = muster_test_body(t, "good", "put", encoding, seed, broken)};
            const struct muster_test_answer *answer = muster_test_answer(t, muster_test_send(t, &msg));

            assert_non_null(answer);
            if (!broken)
                assert_null(answer->error);
            else
                assert_string_equal(answer->error, "invalid_argument");
        }
    assert_null(muster_test_body(t, "good", "nothing", MUSTER_JSON, 1, 0).data);
    end(t);
}

/* Timers and subscriptions that are still there count in a strict test only. */
static void test_strict(void **state)
{
    struct muster_test *t = begin_with(NULL, MUSTER_TEST_STRICT);

    (void)state;
    muster_test_destroy(t);
    assert_int_equal(muster_test_failures(t), 4);
    assert_non_null(strstr(muster_test_failure(t, 0), "good 1.2.3: left a timer running"));
    assert_non_null(strstr(muster_test_failure(t, 1), "11 subscriptions"));
    assert_int_equal(muster_test_free(t), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),          cmocka_unit_test(test_msgpack),
        cmocka_unit_test(test_signal_put_back),
        cmocka_unit_test(test_role),
        cmocka_unit_test(test_respond),
        cmocka_unit_test(test_may_hear),
        cmocka_unit_test(test_body_refused),     cmocka_unit_test(test_bound_rejects),
        cmocka_unit_test(test_thread_answers),   cmocka_unit_test(test_question_times_out),
        cmocka_unit_test(test_question_answered), cmocka_unit_test(test_event),
        cmocka_unit_test(test_comes_again),      cmocka_unit_test(test_kv),
        cmocka_unit_test(test_stream_and_lease), cmocka_unit_test(test_lease_without_link),
        cmocka_unit_test(test_sql),              cmocka_unit_test(test_connections),
        cmocka_unit_test(test_clock),            cmocka_unit_test(test_link_lost),
        cmocka_unit_test(test_settings),         cmocka_unit_test(test_reload),
        cmocka_unit_test(test_two_hosts),        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_ends_in_the_middle), cmocka_unit_test(test_every_fault),
        cmocka_unit_test(test_bodies),           cmocka_unit_test(test_strict),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
