/* Tests of the plugin on the test host: its clock begins at 2026-01-01T00:00:00Z, a Thursday, and moves as these tests say. */
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

static const int64_t minute = 60 * MUSTER_TEST_S, hour = 3600 * MUSTER_TEST_S;

static struct muster_test *begin(const char *settings)
{
    const struct muster_test_options options = {
        .size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = settings, .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

static int answer_ok(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    (void)arg, (void)asked;
    *ret_json = "{}";
    return 0;
}

/* As if there were services that do as they are asked. */
static struct muster_test *begin_leading(const char *settings)
{
    struct muster_test *t = begin(settings);

    muster_test_answer_by(t, "rpc._p_cron.>", answer_ok, NULL);
    CHECK(muster_test_lease_give(t, "cron") == 0);
    muster_test_run(t);
    return t;
}

static size_t n_asked(struct muster_test *t)
{
    size_t n = 0;

    for (size_t i = 0; i < muster_test_n_sent(t); i++)
        n += muster_test_sent(t, i)->kind == MUSTER_TEST_ASKED;
    return n;
}

static const char *header(const struct muster_test_sent *sent, const char *name)
{
    for (uint32_t i = 0; sent && i < sent->n_headers; i++)
        if (strcmp(sent->headers[i].name, name) == 0)
            return sent->headers[i].value;
    return "";
}

static const char job_a[] = "jobs: {a: {at: \"*/10 * * * *\", tenants: [acme, zeta], request: report.build, body: '{\"of\": 1}'}}";

static void test_asks_for_each_tenant_at_the_time(void)
{
    struct muster_test *t = begin_leading(job_a);
    const struct muster_test_sent *sent;

    muster_test_advance(t, 10 * minute - MUSTER_TEST_MS);
    CHECK(n_asked(t) == 0);
    muster_test_advance(t, 2 * MUSTER_TEST_MS);
    CHECK(n_asked(t) == 2);
    sent = muster_test_sent_on(t, "rpc._p_cron.report.build");
    CHECK(sent && strcmp(sent->tenant, "zeta") == 0 && strcmp(sent->payload.data, "{\"of\": 1}") == 0);
    CHECK(strcmp(header(sent, "Muster-Cron-Job"), "a") == 0 && strcmp(header(sent, "Muster-Cron-Time"), "2026-01-01T00:10:00Z") == 0);
    muster_test_advance(t, hour);
    CHECK(n_asked(t) == 14);
    CHECK(muster_test_metric(t, "answered_total", "a") == 14 && muster_test_metric(t, "failed_total", "a") == 0);
    end(t);
}

static void test_every_is_at_multiples_of_the_clock(void)
{
    struct muster_test *t = begin("jobs: {a: {every: 7s, tenants: [acme], request: a.b}}");

    muster_test_answer_by(t, "rpc.>", answer_ok, NULL);
    muster_test_advance(t, 3 * MUSTER_TEST_S);
    CHECK(muster_test_lease_give(t, "cron") == 0);
    muster_test_advance(t, 70 * MUSTER_TEST_S);
    CHECK(n_asked(t) == 10);
    end(t);
}

static void test_only_the_holder_asks(void)
{
    struct muster_test *t = begin(job_a);

    CHECK(muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_STANDBY);
    muster_test_answer_by(t, "rpc.>", answer_ok, NULL);
    muster_test_advance(t, hour);
    CHECK(n_asked(t) == 0);
    CHECK(muster_test_lease_give(t, "cron") == 0);
    CHECK(muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_OK);
    muster_test_advance(t, 10 * minute);
    CHECK(n_asked(t) == 2);
    CHECK(muster_test_lease_take(t, "cron", MUSTER_ESTALE) == 0);
    muster_test_advance(t, hour);
    CHECK(n_asked(t) == 2 && muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_STANDBY);
    end(t);
}

/* "last.<instance>.<job>": the time of the last run and the epoch of who ran it. */
static void say_last(struct muster_test *t, const char *text)
{
    (void)muster_test_kv_put(t, NULL, "last.cron.a", (struct muster_bytes){text, strlen(text)});
}

static const int64_t new_year = 1767225600; /* 2026-01-01T00:00:00Z */

static void say_last_minutes_ago(struct muster_test *t, int minutes)
{
    char text[64];

    snprintf(text, sizeof text, "%lld 1", (long long)(new_year - minutes * 60));
    say_last(t, text);
}

static void test_what_was_missed_is_left_out(void)
{
    struct muster_test *t = begin(job_a);

    muster_test_answer_by(t, "rpc.>", answer_ok, NULL);
    say_last_minutes_ago(t, 60);
    muster_test_advance(t, 5 * minute); /* 00:05: the run of 00:00 is too late */
    CHECK(muster_test_lease_give(t, "cron") == 0);
    muster_test_run(t);
    CHECK(n_asked(t) == 0 && muster_test_metric(t, "missed_total", "a") == 1);
    muster_test_advance(t, 5 * minute);
    CHECK(n_asked(t) == 2);
    end(t);
}

static void test_what_was_missed_is_made_up_for_once(void)
{
    struct muster_test *t =
        begin("jobs: {a: {at: \"*/10 * * * *\", tenants: [acme], request: report.build, missed: once}}");

    muster_test_answer_by(t, "rpc.>", answer_ok, NULL);
    say_last_minutes_ago(t, 600);
    muster_test_advance(t, 5 * minute);
    CHECK(muster_test_lease_give(t, "cron") == 0);
    muster_test_advance(t, minute);
    CHECK(n_asked(t) == 1 && muster_test_metric(t, "missed_total", "a") == 1);
    muster_test_advance(t, 4 * minute);
    CHECK(n_asked(t) == 2);
    end(t);
}

/* The broker before died at the full hour, and this one is there a minute later. */
static void test_a_run_that_is_late_takes_place(void)
{
    struct muster_test *t = begin(job_a);

    muster_test_answer_by(t, "rpc.>", answer_ok, NULL);
    say_last_minutes_ago(t, 10);
    muster_test_advance(t, minute);
    CHECK(muster_test_lease_give(t, "cron") == 0);
    muster_test_advance(t, MUSTER_TEST_S);
    CHECK(n_asked(t) == 2 && muster_test_metric(t, "missed_total", "a") == 0);
    CHECK(strcmp(header(muster_test_sent_on(t, "rpc.>"), "Muster-Cron-Time"), "2026-01-01T00:00:00Z") == 0);
    end(t);
}

/* What another broker has run is not run again, and nothing is asked that is not written down. */
static void test_each_run_is_once(void)
{
    struct muster_test *t = begin_leading(job_a);
    char text[64];

    muster_test_advance(t, 9 * minute);
    snprintf(text, sizeof text, "%lld 99", (long long)(new_year + 600));
    say_last(t, text);
    muster_test_advance(t, 2 * minute);
    CHECK(n_asked(t) == 0);
    muster_test_advance(t, 10 * minute);
    CHECK(n_asked(t) == 2);
    muster_test_fault(t, "kv.put", MUSTER_ESTALE, 1, 0);
    muster_test_advance(t, hour);
    CHECK(n_asked(t) == 2);
    end(t);
}

static void test_a_write_that_nobody_knows_of(void)
{
    struct muster_test *t = begin_leading(job_a);

    muster_test_fault(t, "kv.put:callback", MUSTER_ELINK, 1, 1);
    muster_test_advance(t, 10 * minute + 5 * MUSTER_TEST_S);
    CHECK(n_asked(t) == 2);
    muster_test_advance(t, 5 * minute);
    CHECK(n_asked(t) == 2);
    end(t);
}

/* A job whose record is refused, or cannot be read, does not set the pace of the others. */
static void test_a_store_that_refuses(void)
{
    static const char two[] = "jobs: {a: {every: 1m, missed: once, tenants: [acme, nobody], request: a.b},"
                              " b: {at: \"* * * * *\", tenants: [acme], request: a.c}}";
    struct muster_test *t = begin_leading(two);

    muster_test_advance(t, MUSTER_TEST_S);
    muster_test_fault(t, "kv.put:callback", MUSTER_ESTALE, 2, 0); /* the jobs get out of step */
    muster_test_advance(t, 10 * minute);
    CHECK(muster_test_faults_given(t, "kv.put:callback") >= 2 && muster_test_faults_given(t, "kv.put:callback") <= 1300);
    muster_test_fault(t, "kv.get:callback", MUSTER_ELINK, 1, 0);
    muster_test_advance(t, 10 * minute);
    CHECK(muster_test_faults_given(t, "kv.get:callback") >= 2 && muster_test_faults_given(t, "kv.get:callback") <= 1300);
    end(t);
}

static void test_room_and_link(void)
{
    struct muster_test *t = begin_leading(job_a);

    muster_test_fault(t, "bus.request", MUSTER_EAGAIN, 2, 3); /* the host tells by itself that there is room, and there is none */
    muster_test_advance(t, 10 * minute + 5 * MUSTER_TEST_S);
    CHECK(n_asked(t) == 2 && muster_test_faults_given(t, "bus.request") == 3);
    muster_test_fault(t, "bus.request", MUSTER_ELINK, 1, 0);
    muster_test_advance(t, 15 * minute);
    muster_test_no_faults(t);
    CHECK(n_asked(t) == 2 && muster_test_metric(t, "failed_total", "a") == 2);
    muster_test_advance(t, 5 * minute);
    CHECK(n_asked(t) == 4);
    end(t);
}

static int answer_error(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    (void)asked, (void)ret_json;
    return *(int *)arg;
}

static void test_failures_are_told(void)
{
    struct muster_test *t = begin_leading("jobs: {a: {at: \"@hourly\", tenants: [acme, nobody], request: a.b}}");
    int code = MUSTER_ENOTFOUND;

    muster_test_answer_by(t, "rpc.>", answer_error, &code);
    muster_test_advance(t, hour);
    CHECK(muster_test_logged(t, "nobody serves that") == 1 && muster_test_logged(t, "there is no such tenant") == 1);
    CHECK(muster_test_metric(t, "failed_total", "a") == 2 && muster_test_metric(t, "asked_total", "a") == 1);
    end(t);
}

static void test_jitter_is_within_its_bound(void)
{
    struct muster_test *t = begin_leading("jobs: {a: {at: \"* * * * *\", tenants: [acme], request: a.b, jitter: 20s}}");
    int64_t sum = 0, begun = muster_test_now(t);

    muster_test_advance(t, 60 * minute + 30 * MUSTER_TEST_S);
    CHECK(n_asked(t) == 60);
    for (size_t i = 0; i < muster_test_n_sent(t); i++) {
        int64_t late = (muster_test_sent(t, i)->at_ns - begun) % minute;

        CHECK(late < 20 * MUSTER_TEST_S + 10 * MUSTER_TEST_MS);
        sum += late;
    }
    CHECK(sum > 60 * 5 * MUSTER_TEST_S && sum < 60 * 15 * MUSTER_TEST_S);
    end(t);
}

static void test_the_wall_clock_jumps(void)
{
    struct muster_test *t = begin_leading(job_a);

    muster_test_jump_wall(t, 9 * minute + 30 * MUSTER_TEST_S);
    muster_test_advance(t, 40 * MUSTER_TEST_S);
    CHECK(n_asked(t) == 2);
    muster_test_jump_wall(t, -20 * minute);
    muster_test_advance(t, 15 * minute);
    CHECK(n_asked(t) == 2); /* what has run does not run again */
    end(t);
}

static void test_new_settings(void)
{
    struct muster_test *t = begin_leading(job_a);

    CHECK(muster_test_reload(t, "jobs: {b: {every: 1m, tenants: [acme], request: a.b}}") == 0);
    muster_test_advance(t, 10 * minute);
    CHECK(n_asked(t) == 10 && muster_test_sent_on(t, "rpc._p_cron.a.b"));
    CHECK(muster_test_reload(t, "jobs: {b: {every: 1m, tenants: [acme], request: a.b, body: '[1]'}}") == MUSTER_EINVAL);
    CHECK(strstr(muster_test_reason(t), "jobs.b.body"));
    muster_test_advance(t, minute);
    CHECK(n_asked(t) == 11);
    end(t);
}

static void test_what_is_refused(void)
{
    static const char *const wrong[][2] = {
        {"jobs: {a: {tenants: [acme], request: a.b}}", "jobs.a: neither came"},
        {"jobs: {a: {at: \"@daily\", every: 1m, tenants: [acme], request: a.b}}", "jobs.a: both came"},
        {"jobs: {a: {at: \"61 * * * *\", tenants: [acme], request: a.b}}", "jobs.a.at: minute \"61\""},
        {"jobs: {a: {at: \"0 0 30 2 *\", tenants: [acme], request: a.b}}", "never comes"},
        {"jobs: {a: {every: 1500ms, tenants: [acme], request: a.b}}", "whole seconds"},
        {"jobs: {a: {every: 1m, tenants: [acme], request: ab.}}", "service.verb was expected"},
        {"jobs: {a: {every: 1m, tenants: [acme], request: a.b.c}}", "service.verb was expected"},
        {"jobs: {a: {every: 1m, tenants: [acme], request: a.b, jitter: 5m}}", "jobs.a.late"},
        {"jobs: {\"a.b\": {every: 1m, tenants: [acme], request: a.b}}", "the name came"},
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const struct muster_test_options options = {.size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = wrong[i][0]};
        struct muster_test *t = muster_test_new(&options);

        CHECK(muster_test_check(t) == MUSTER_EINVAL);
        if (!strstr(muster_test_reason(t), wrong[i][1])) {
            fprintf(stderr, "%s: %s, expected %s\n", wrong[i][0], muster_test_reason(t), wrong[i][1]);
            failed = 1;
        }
        failed |= muster_test_free(t) > 0;
    }
}

int main(void)
{
    test_asks_for_each_tenant_at_the_time();
    test_every_is_at_multiples_of_the_clock();
    test_only_the_holder_asks();
    test_what_was_missed_is_left_out();
    test_what_was_missed_is_made_up_for_once();
    test_a_run_that_is_late_takes_place();
    test_each_run_is_once();
    test_a_write_that_nobody_knows_of();
    test_a_store_that_refuses();
    test_room_and_link();
    test_failures_are_told();
    test_jitter_is_within_its_bound();
    test_the_wall_clock_jumps();
    test_new_settings();
    test_what_is_refused();
    return failed;
}
