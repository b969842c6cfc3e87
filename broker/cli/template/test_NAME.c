/* Tests of the plugin on the test host: no broker, no NATS, a clock and a bus that only these tests move. */
#include <muster/testhost.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed;

#define CHECK(condition)                                                                                                              \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                           \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

static struct muster_test *begin(const char *settings)
{
    const struct muster_test_options options = {
        .size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = settings, .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

/* What the plugin did against muster/plugin.h fails the test as well. */
static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

static int answers(struct muster_test *t, const char *body, const char *expected)
{
    const char *text = muster_test_answer_text(t, muster_test_request(t, "rpc.ann.@NAME@.next", body));

    if (strstr(text, expected))
        return 1;
    fprintf(stderr, "answered %s, expected %s\n", text, expected);
    return 0;
}

static int is_error(struct muster_test *t, uint64_t number, const char *code)
{
    const struct muster_test_answer *answer = muster_test_answer(t, number);

    return answer && answer->error && strcmp(answer->error, code) == 0;
}

static void test_counts_by_series_and_tenant(void)
{
    struct muster_test *t = begin("prefix: INV-");
    const struct muster_test_message of_zeta = {
        .size = sizeof of_zeta, .tenant = "zeta", .subject = "rpc.bob.@NAME@.next", .asks = 1, .payload = {"{}", 2}};

    CHECK(answers(t, "{}", "\"number\":1"));
    CHECK(answers(t, "{}", "\"label\":\"INV-2\""));
    CHECK(answers(t, "{\"series\": \"bills\"}", "\"number\":1"));
    CHECK(strstr(muster_test_answer_text(t, muster_test_send(t, &of_zeta)), "\"number\":1"));
    CHECK(muster_test_metric(t, "issued_total", NULL) == 4);
    end(t);
}

static void test_what_does_not_fit_is_refused(void)
{
    struct muster_test *t = begin(NULL);

    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{\"series\": 7}"), "invalid_argument"));
    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{\"serie\": \"bills\"}"), "invalid_argument"));
    CHECK(answers(t, "{}", "\"number\":1"));
    end(t);
}

static void test_another_broker_was_faster(void)
{
    struct muster_test *t = begin(NULL);

    muster_test_fault(t, "kv.put:callback", MUSTER_ESTALE, 1, 3);
    CHECK(answers(t, "{}", "\"number\":1"));
    muster_test_fault(t, "kv.put:callback", MUSTER_ESTALE, 1, 0);
    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{}"), "unavailable"));
    end(t);
}

static void test_nats_is_away(void)
{
    struct muster_test *t = begin(NULL);

    muster_test_fault(t, "kv.get", MUSTER_ELINK, 1, 1);
    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{}"), "unavailable"));
    muster_test_fault(t, "kv.put:callback", MUSTER_ELINK, 1, 1);
    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{}"), "unavailable"));
    end(t);
}

static void test_an_answer_waits_for_room(void)
{
    struct muster_test *t = begin(NULL);
    uint64_t number;

    muster_test_fault(t, "bus.reply", MUSTER_EAGAIN, 1, 1);
    number = muster_test_request(t, "rpc.ann.@NAME@.next", "{}");
    muster_test_writable(t);
    muster_test_run(t);
    CHECK(strstr(muster_test_answer_text(t, number), "\"number\":1"));
    end(t);
}

static void test_reload_and_drain(void)
{
    struct muster_test *t = begin("prefix: a");

    CHECK(answers(t, "{}", "\"label\":\"a1\""));
    CHECK(muster_test_reload(t, "prefix: b") == 0);
    CHECK(answers(t, "{}", "\"label\":\"b2\""));
    muster_test_drain(t, MUSTER_TEST_S);
    CHECK(is_error(t, muster_test_request(t, "rpc.ann.@NAME@.next", "{}"), "unavailable"));
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

int main(void)
{
    test_counts_by_series_and_tenant();
    test_what_does_not_fit_is_refused();
    test_another_broker_was_faster();
    test_nats_is_away();
    test_an_answer_waits_for_room();
    test_reload_and_drain();
    return failed;
}
