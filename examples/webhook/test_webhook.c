/*
 * Tests of the plugin on the test host against a real HTTP server. Sockets live in real time and waits between attempts in the host's:
 * while these tests wait for the server they move the host's clock along, a millisecond each time they look.
 */
#include "server.h"
#include "sign.h"

#include <muster/testhost.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failed;
static char secret_file[] = "/tmp/webhook-test-XXXXXX";
static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#define CHECK(condition)                                                                                                              \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                           \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

/* ---- the host ---- */

static const char *settings(const struct server *s, const char *more)
{
    static char text[4][1024];
    static int next;

    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next],
             "hooks: {a: {subjects: [\"evt.test.>\"], url: \"http://127.0.0.1:%d/\", secret_file: %s%s}}\nprivate_hosts: [127.0.0.1]",
             server_port(s), secret_file, more);
    return text[next];
}

static struct muster_test *begin(const struct server *s, const char *more)
{
    const struct muster_test_options options = {
        .size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = settings(s, more), .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

struct expected {
    struct muster_test *t;
    const char *metric;
    int64_t value;
};

static int is_reached(void *arg)
{
    const struct expected *e = arg;

    muster_test_advance(e->t, MUSTER_TEST_MS);
    return muster_test_metric(e->t, e->metric, NULL) >= e->value;
}

static int wait_for(struct muster_test *t, const char *metric, int64_t value)
{
    struct expected e = {t, metric, value};

    return muster_test_wait(t, is_reached, &e, 10000) == 0;
}

static void say(struct muster_test *t, int from, int to)
{
    char subject[64], body[64];

    for (int i = from; i <= to; i++) {
        snprintf(subject, sizeof subject, "evt.test.said.%d", i);
        snprintf(body, sizeof body, "{\"i\": %d}", i);
        muster_test_tell(t, subject, body);
    }
}

static int number_in(const struct server_request *r)
{
    const char *at = strstr(r->body, "\"i\":");

    return at ? atoi(at + 4) : -1;
}

/* ---- answers ---- */

static int good_at_the_third(size_t n, const char **ret_header)
{
    (void)ret_header;
    return n % 3 == 2 ? 204 : n % 3 == 1 ? SERVER_CLOSE : 500;
}

static int later(size_t n, const char **ret_header)
{
    *ret_header = "Retry-After: 120";
    return n ? 200 : 503;
}

/* ---- tests ---- */

static void test_a_message_is_posted_signed(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, "");
    struct server_request r = {.len = 0};
    struct sign_key keys[2] = {{.len = 0}};
    char expected[SIGN_TEXT_SIZE];

    muster_test_tell(t, "evt.test.said.4711", "{\"amount\": \"12.50\"}");
    CHECK(wait_for(t, "delivered_total", 1));
    CHECK(server_request(s, 0, &r));
    CHECK(strcmp(r.body, "{\"type\":\"test.said\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"tenant\":\"acme\","
                         "\"subject\":\"evt.test.said.4711\",\"data\":{\"amount\":\"12.50\"}}") == 0);
    CHECK(strncmp(r.timestamp, "17672256", 8) == 0);
    CHECK(!sign_read_key(secret, strlen(secret), &keys[0]));
    CHECK(sign_make(keys, r.id, atoll(r.timestamp), r.body, r.len, expected) && strcmp(r.signature, expected) == 0);
    end(t);
    server_stop(s);
}

static void test_failures_are_tried_again_in_order(void)
{
    struct server *s = server_start(good_at_the_third);
    struct muster_test *t = begin(s, ", backoff: 20ms");
    struct server_request r, before = {.len = 0};

    say(t, 0, 4);
    CHECK(wait_for(t, "delivered_total", 5));
    /* libcurl goes on by itself where a connection that was kept turns out to be closed: that counts as no failure. */
    CHECK(server_n(s) == 15 && server_most(s) == 1 && muster_test_metric(t, "failed_attempts_total", "a") >= 5);
    for (size_t i = 0; i < 15; i++) {
        CHECK(server_request(s, i, &r) && number_in(&r) == (int)i / 3);
        CHECK((i % 3 == 0) == (strcmp(r.id, before.id) != 0));
        before = r;
    }
    end(t);
    server_stop(s);
}

/* The host's clock says when: not before Retry-After, and then at once. */
static void test_a_receiver_says_when(void)
{
    struct server *s = server_start(later);
    struct muster_test *t = begin(s, ", backoff: 1s");

    say(t, 1, 2);
    CHECK(wait_for(t, "failed_attempts_total", 1));
    muster_test_advance(t, 118 * MUSTER_TEST_S);
    CHECK(muster_test_wait(t, NULL, NULL, 50) == 0 && server_n(s) == 1);
    muster_test_advance(t, 3 * MUSTER_TEST_S);
    CHECK(wait_for(t, "delivered_total", 2));
    end(t);
    server_stop(s);
}

static void test_the_wait_doubles_up_to_the_deadline(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", backoff: 10s, deadline: 10m");
    const struct muster_test_sent *dead;
    int64_t begun = muster_test_now(t);
    size_t attempts = 0;

    server_says(s, 500);
    say(t, 1, 1);
    while (muster_test_metric(t, "dead_total", NULL) == 0 && muster_test_now(t) < begun + 3600 * MUSTER_TEST_S) {
        CHECK(wait_for(t, "failed_attempts_total", (int64_t)++attempts));
        while (muster_test_metric(t, "dead_total", NULL) == 0 && muster_test_metric(t, "queued", "a") == 1 && server_n(s) == attempts &&
               muster_test_now(t) < begun + 3600 * MUSTER_TEST_S) {
            muster_test_advance(t, MUSTER_TEST_S);
            (void)muster_test_wait(t, NULL, NULL, 1);
        }
    }
    CHECK(attempts >= 6 && attempts <= 8 && muster_test_now(t) <= begun + 601 * MUSTER_TEST_S);
    muster_test_run(t);
    dead = muster_test_sent_on(t, "evt.webhook.dead.a");
    CHECK(dead && strstr(dead->payload.data, "\"why\":\"status 500\"") && strstr(dead->payload.data, "\"subject\":\"evt.test.said.1\""));
    CHECK(muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_DEGRADED);
    end(t);
    server_stop(s);
}

static void test_gone_is_gone_until_the_settings_change(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, "");
    const char *code = "";

    server_says(s, 410);
    say(t, 1, 3);
    CHECK(wait_for(t, "dead_total", 3));
    CHECK(server_n(s) == 1 && muster_test_health(t, &code, NULL) == MUSTER_HEALTH_DEGRADED && strcmp(code, "gone") == 0);
    say(t, 4, 4);
    CHECK(muster_test_metric(t, "dropped_total", "a") == 1);
    server_says(s, 200);
    CHECK(muster_test_reload(t, settings(s, ", timeout: 5s")) == 0);
    say(t, 5, 5);
    CHECK(wait_for(t, "delivered_total", 1));
    end(t);
    server_stop(s);
}

static void test_a_server_that_hangs(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", timeout: 200ms, deadline: 100ms, concurrency: 5");

    server_says(s, SERVER_HANG);
    say(t, 1, 8);
    CHECK(wait_for(t, "dead_total", 8));
    CHECK(server_most(s) == 5);
    end(t);
    server_stop(s);
}

static void test_nobody_listens(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", deadline: 10ms");

    server_stop(s);
    say(t, 1, 1);
    CHECK(wait_for(t, "dead_total", 1));
    CHECK(muster_test_logged(t, "refused") > 0 || muster_test_logged(t, "connect") > 0);
    end(t);
}

static void test_the_queue_has_a_bound(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", max_queued: 5");

    server_says(s, SERVER_HANG);
    say(t, 1, 20);
    CHECK(muster_test_metric(t, "dropped_total", "a") == 15 && muster_test_metric(t, "queued", "a") == 5);
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    CHECK(muster_test_logged(t, "5 messages waited and are lost") == 1);
    failed |= muster_test_free(t) > 0;
    server_stop(s);
}

static void test_what_waits_survives_new_settings(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", backoff: 1s");
    struct server_request r;

    server_says(s, 500);
    say(t, 1, 3);
    CHECK(wait_for(t, "failed_attempts_total", 1));
    server_says(s, 200);
    CHECK(muster_test_reload(t, settings(s, ", backoff: 2s")) == 0);
    muster_test_advance(t, 2 * MUSTER_TEST_S);
    CHECK(wait_for(t, "delivered_total", 3));
    CHECK(server_request(s, 3, &r) && number_in(&r) == 3);
    CHECK(muster_test_reload(t, "hooks: {}") == 0 && muster_test_n_subscriptions(t) == 0);
    end(t);
    server_stop(s);
}

static void test_what_no_hook_wants(void)
{
    struct server *s = server_start(NULL);
    struct muster_test *t = begin(s, ", tenants: [acme]");
    const struct muster_test_message of_zeta = {.size = sizeof of_zeta, .tenant = "zeta", .subject = "evt.test.said.z", .payload = {"{}", 2}};

    muster_test_send(t, &of_zeta);
    say(t, 1, 1);
    CHECK(wait_for(t, "delivered_total", 1));
    CHECK(server_n(s) == 1);
    end(t);
    server_stop(s);
}

int main(void)
{
    int fd = mkstemp(secret_file);

    if (fd < 0 || write(fd, secret, strlen(secret)) < 0)
        return 1;
    close(fd);
    test_a_message_is_posted_signed();
    test_failures_are_tried_again_in_order();
    test_a_receiver_says_when();
    test_the_wait_doubles_up_to_the_deadline();
    test_gone_is_gone_until_the_settings_change();
    test_a_server_that_hangs();
    test_nobody_listens();
    test_the_queue_has_a_bound();
    test_what_waits_survives_new_settings();
    test_what_no_hook_wants();
    unlink(secret_file);
    return failed;
}
