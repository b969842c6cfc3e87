/*
 * plugins/presence in the test host: what it writes of sessions and when, whatever PostgreSQL does; the roster that it makes of them again;
 * and NATS servers that are lost and come back.
 */
#include <muster/testhost.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_WRITES = 200 };

/* PostgreSQL as the test has it: what came, and what it answers. */
struct base {
    char *writes[MAX_WRITES];
    size_t n;
    int code;           /* what it answers */
    const char *refuse; /* refuses what has this word */
    const char *present[2]; /* rows of sessions_present */
    int load_code;
};

static int on_record(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    struct base *b = arg;
    char outcome[80];
    const char *text = statement->params[0].data;
    size_t n = 0;

    assert_true(b->n < MAX_WRITES);
    b->writes[b->n++] = strndup(text, statement->params[0].len);
    if (b->refuse && strstr(b->writes[b->n - 1], b->refuse)) {
        muster_test_sql_error(rows, "22P02", "cannot be read");
        return MUSTER_EINVAL;
    }
    if (b->code)
        return b->code;
    for (const char *at = b->writes[b->n - 1]; (at = strstr(at, "{\"session\":")); at++)
        n++;
    (void)snprintf(outcome, sizeof outcome, "{\"ok\": {\"stored\": %zu, \"refused\": 0}}", n);
    muster_test_row(rows, 1, (const char *const[]){outcome});
    return 0;
}

static int on_present(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    const struct base *b = arg;

    if (b->load_code)
        return b->load_code;
    if (strcmp(statement->tenant, "acme") != 0)
        return 0;
    for (size_t i = 0; i < 2 && b->present[i]; i++)
        muster_test_row(rows, 2, (const char *const[]){i ? "s2" : "s1", b->present[i]});
    return 0;
}

static struct muster_test *begin(struct base *b)
{
    const struct muster_test_options options = {.size = sizeof options, .file = PRESENCE_SO, .tenants = "acme zeta",
                                                .config = "heartbeat: 5s\ndead_after: 15s\ngrace: 2s\nroll_call: 5s\nlost_after: 60s\n"};
    struct muster_test *t = muster_test_begin(&options);

    muster_test_sql(t, "record_sessions", on_record, b);
    muster_test_sql(t, "sessions_present", on_present, b);
    muster_test_tables_changed(t);
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, 200 * MUSTER_TEST_MS);
    return t;
}

static void end(struct muster_test *t, struct base *b)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    if (muster_test_failures(t))
        fail_msg("%s", muster_test_failure(t, 0));
    assert_int_equal(muster_test_free(t), 0);
    for (size_t i = 0; i < b->n; i++)
        free(b->writes[i]);
}

static const char *ask(struct muster_test *t, const char *agent, const char *verb, const char *json)
{
    char subject[100];

    (void)snprintf(subject, sizeof subject, "rpc.%s.presence.%s", agent, verb);
    return muster_test_answer_text(t, muster_test_request(t, subject, json));
}

/* How many writes have both words. */
static size_t count(const struct base *b, const char *one, const char *other)
{
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++)
        n += strstr(b->writes[i], one) && strstr(b->writes[i], other);
    return n;
}

static void beat(struct muster_test *t, const char *agent, int64_t for_ns)
{
    char subject[100];

    (void)snprintf(subject, sizeof subject, "rpc.%s.presence.beat", agent);
    for (; for_ns > 0; for_ns -= 5 * MUSTER_TEST_S) {
        muster_test_tell(t, subject, "{}");
        muster_test_advance(t, for_ns < 5 * MUSTER_TEST_S ? for_ns : 5 * MUSTER_TEST_S);
    }
}

/* Whether the last event on the subject (of the streams) has the words. */
static int told(struct muster_test *t, const char *agent, const char *event, const char *words)
{
    char end[100];

    (void)snprintf(end, sizeof end, ".%s.%s", event, agent);
    for (size_t i = muster_test_n_sent(t); i-- > 0;) {
        const struct muster_test_sent *s = muster_test_sent(t, i);
        size_t len = strlen(s->subject);

        if (s->kind == MUSTER_TEST_APPENDED && len > strlen(end) && strcmp(s->subject + len - strlen(end), end) == 0)
            return strstr(s->payload.data, words) != NULL;
    }
    return 0;
}

/* ---- the mirror --------------------------------------------------------------------------------------------------------------- */

static void sessions_are_written(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);

    (void)state;
    (void)ask(t, "ann", "hello", "{\"session\":\"s1\",\"metadata\":{\"a\":1}}");
    muster_test_advance(t, 200 * MUSTER_TEST_MS);
    assert_int_equal(count(&b, "\"session\":\"s1\",\"agent\":\"ann\",\"status\":\"active\",\"begins\":true", "\"metadata\":{\"a\":1}"), 1);
    (void)ask(t, "ann", "hello", "{\"session\":\"s2\"}");
    muster_test_advance(t, 200 * MUSTER_TEST_MS);
    assert_int_equal(count(&b, "\"session\":\"s1\",\"agent\":\"ann\",\"status\":\"completed\"", "\"reason\":\"replaced\""), 1);
    (void)ask(t, "ann", "bye", "{}");
    muster_test_advance(t, 200 * MUSTER_TEST_MS);
    assert_int_equal(count(&b, "\"session\":\"s2\",\"agent\":\"ann\",\"status\":\"completed\"", "\"reason\":\"bye\""), 1);
    assert_int_equal(muster_test_metric(t, "sessions_written_total", NULL), 4);
    assert_int_equal(muster_test_metric(t, "sessions_waiting", NULL), 0);
    end(t, &b);
}

static void a_status_may_wait_and_a_beat_writes_nothing(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);
    size_t n;

    (void)state;
    (void)ask(t, "ann", "hello", "{\"session\":\"s1\"}");
    muster_test_advance(t, MUSTER_TEST_S);
    n = b.n;
    (void)ask(t, "ann", "status", "{\"status\":\"busy\",\"task\":\"one\"}");
    (void)ask(t, "ann", "status", "{\"status\":\"busy\",\"task\":\"two\"}");
    beat(t, "ann", 4 * MUSTER_TEST_S);
    assert_int_equal(b.n, n);
    beat(t, "ann", 60 * MUSTER_TEST_S);
    assert_int_equal(b.n, n + 1);
    assert_int_equal(count(&b, "\"begins\":false", "\"task\":\"two\""), 1);
    (void)ask(t, "ann", "status", "{\"status\":\"away\"}");
    muster_test_drain(t, MUSTER_TEST_S); /* what may wait does not wait for the end */
    assert_int_equal(count(&b, "\"begins\":false", "\"status\":\"away\""), 1);
    end(t, &b);
}

static void what_waits_of_a_session_is_one_row(void **state)
{
    static const int codes[] = {MUSTER_ELINK, MUSTER_ETIME, MUSTER_EAGAIN};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct base b = {.code = codes[i]};
        struct muster_test *t = begin(&b);
        size_t n;

        (void)ask(t, "ann", "hello", "{\"session\":\"s1\"}");
        muster_test_advance(t, 3 * MUSTER_TEST_S);
        (void)ask(t, "ann", "bye", "{}");
        muster_test_advance(t, 3 * MUSTER_TEST_S);
        assert_int_equal(muster_test_metric(t, "sessions_waiting", NULL), 1);
        b.code = 0;
        n = b.n;
        muster_test_advance(t, 3 * MUSTER_TEST_S);
        assert_int_equal(b.n, n + 1);
        assert_non_null(strstr(b.writes[n], "\"status\":\"completed\",\"begins\":true"));
        assert_int_equal(muster_test_metric(t, "sessions_written_total", NULL), 1);
        assert_int_equal(muster_test_metric(t, "sessions_waiting", NULL), 0);
        end(t, &b);
    }
}

static void one_row_that_is_refused_takes_no_other_along(void **state)
{
    struct base b = {.code = MUSTER_ELINK};
    struct muster_test *t = begin(&b);
    char name[16];

    (void)state;
    for (int i = 0; i < 30; i++) {
        (void)snprintf(name, sizeof name, "a%d", i);
        (void)ask(t, name, "hello", i == 17 ? "{\"session\":\"the-bad-one\"}" : "{}");
    }
    b.code = 0;
    b.refuse = "the-bad-one";
    muster_test_advance(t, 12 * MUSTER_TEST_S); /* they are not gone yet */
    assert_int_equal(muster_test_metric(t, "sessions_dropped_total", NULL), 1);
    assert_int_equal(muster_test_metric(t, "sessions_waiting", NULL), 0);
    assert_true(muster_test_metric(t, "sessions_written_total", NULL) >= 29);
    assert_int_equal(muster_test_logged(t, "session the-bad-one of agent a17"), 1);
    end(t, &b);
}

/* ---- the roster from there ---------------------------------------------------------------------------------------------------- */

#define STATE(agent, session)                                                                                                                \
    "{\"agent_id\":\"" agent "\",\"tenant_id\":\"acme\",\"status\":\"busy\",\"suspect\":false,\"task\":\"dig\","                                \
    "\"started_at\":\"2025-12-31T00:00:00.000000Z\",\"last_heartbeat\":\"2025-12-31T01:00:00.000000Z\",\"capabilities\":[\"c\"],"            \
    "\"labels\":{},\"capacity\":1,\"auto_accept\":true,\"delivery\":\"push\",\"load\":null,\"metadata\":{},\"session\":\"" session "\"}"

static void after_a_restart_agents_are_called_first(void **state)
{
    struct base b = {.present = {STATE("ann", "s1"), STATE("bob", "s2")}};
    struct muster_test *t = begin(&b);

    (void)state;
    assert_non_null(strstr(ask(t, "cat", "get", "{\"agent\":\"ann\"}"), "\"task\":\"dig\""));
    assert_true(told(t, "bob", "suspect", "\"reason\":\"restart\""));
    muster_test_advance(t, MUSTER_TEST_S);
    assert_non_null(muster_test_sent_on(t, "all._muster.roll_call"));
    beat(t, "ann", 25 * MUSTER_TEST_S);
    assert_non_null(strstr(ask(t, "cat", "get", "{\"agent\":\"ann\"}"), "\"suspect\":false"));
    assert_true(told(t, "bob", "leave", "\"reason\":\"timeout\""));
    assert_false(told(t, "ann", "leave", ""));
    assert_int_equal(count(&b, "\"session\":\"s2\"", "\"status\":\"failed\""), 1);
    end(t, &b);
}

static void nobody_leads_before_the_sessions_are_read(void **state)
{
    struct base b = {.present = {STATE("ann", "s1")}, .load_code = MUSTER_ELINK};
    struct muster_test *t = begin(&b);
    uint64_t n = muster_test_request(t, "rpc.cat.presence.count", "{}");

    (void)state;
    assert_null(muster_test_answer(t, n));
    b.load_code = 0;
    muster_test_advance(t, 2 * MUSTER_TEST_S);
    assert_non_null(strstr(ask(t, "cat", "count", "{}"), "\"count\":1"));
    end(t, &b);
}

/* ---- servers ------------------------------------------------------------------------------------------------------------------ */

static void agents_of_a_lost_server_are_suspect_and_back_with_it(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);

    (void)state;
    muster_test_connect(t, "acme", "ann", "N1", 1);
    muster_test_connect(t, "acme", "bob", "N2", 1);
    (void)ask(t, "ann", "hello", "{}");
    (void)ask(t, "bob", "hello", "{}");
    muster_test_server(t, "N1", 0);
    muster_test_advance(t, 200 * MUSTER_TEST_MS);
    assert_true(told(t, "ann", "suspect", "\"reason\":\"node\""));
    for (int i = 0; i < 8; i++) /* out of sight for longer than silence is death */
        beat(t, "bob", 5 * MUSTER_TEST_S);
    assert_false(told(t, "ann", "leave", ""));
    muster_test_server(t, "N1", 1);
    muster_test_tell(t, "rpc.ann.presence.beat", "{}");
    muster_test_advance(t, MUSTER_TEST_S);
    assert_non_null(strstr(ask(t, "bob", "get", "{\"agent\":\"ann\"}"), "\"suspect\":false"));
    assert_false(told(t, "bob", "suspect", ""));
    muster_test_disconnect(t, "N1", 1, "Client Closed");
    beat(t, "bob", 3 * MUSTER_TEST_S);
    assert_true(told(t, "ann", "leave", "\"reason\":\"disconnected\""));
    end(t, &b);
}

static void agents_of_a_server_that_stays_lost_are_gone_in_the_end(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);

    (void)state;
    muster_test_connect(t, "acme", "ann", "N1", 1);
    muster_test_connect(t, "acme", "bob", "N1", 2);
    (void)ask(t, "ann", "hello", "{}");
    (void)ask(t, "bob", "hello", "{}");
    muster_test_server(t, "N1", 0);
    muster_test_connect(t, "acme", "bob", "N2", 1); /* he has gone elsewhere */
    beat(t, "bob", 59 * MUSTER_TEST_S);
    assert_false(told(t, "ann", "leave", ""));
    beat(t, "bob", 3 * MUSTER_TEST_S);
    assert_true(told(t, "ann", "leave", "\"reason\":\"timeout\""));
    assert_false(told(t, "bob", "leave", ""));
    muster_test_disconnect(t, "N2", 1, "Read Error");
    muster_test_advance(t, 3 * MUSTER_TEST_S);
    assert_true(told(t, "bob", "leave", "\"reason\":\"disconnected\""));
    end(t, &b);
}

static void who_is_kicked_and_does_not_come_back_has_been_kicked(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);

    (void)state;
    muster_test_connect(t, "acme", "ann", "N1", 1);
    (void)ask(t, "ann", "hello", "{}");
    muster_test_disconnect(t, "N1", 1, "Credentials Revoked");
    muster_test_advance(t, 3 * MUSTER_TEST_S);
    assert_true(told(t, "ann", "leave", "\"reason\":\"kicked\""));
    end(t, &b);
}

static void nobody_is_gone_while_the_link_is_away(void **state)
{
    struct base b = {0};
    struct muster_test *t = begin(&b);

    (void)state;
    muster_test_connect(t, "acme", "ann", "N1", 1);
    (void)ask(t, "ann", "hello", "{}");
    muster_test_disconnect(t, "N1", 1, "Read Error");
    muster_test_link(t, 0);
    muster_test_advance(t, 120 * MUSTER_TEST_S);
    muster_test_link(t, 1);
    muster_test_connect(t, "acme", "ann", "N1", 2);
    muster_test_advance(t, 10 * MUSTER_TEST_S);
    assert_false(told(t, "ann", "leave", ""));
    beat(t, "ann", 30 * MUSTER_TEST_S);
    assert_false(told(t, "ann", "leave", ""));
    end(t, &b);
}

/* ---- stuck -------------------------------------------------------------------------------------------------------------------- */

static int64_t events(struct muster_test *t, const char *event)
{
    return muster_test_metric(t, "events_total", event);
}

/* Who beats and does not get on with a task is suspect, told once, until it says how it is; never gone for it. */
static void who_does_not_get_on_is_suspect_until_it_says_so(void **state)
{
    static const char *const busy = "{\"status\":\"busy\",\"task\":\"t1\"}";
    const struct muster_test_options options = {
        .size = sizeof options, .file = PRESENCE_SO, .tenants = "acme", .config = "heartbeat: 5s\ndead_after: 15s\nstuck_after: 30s\n"};
    struct muster_test *t = muster_test_begin(&options);
    struct base b = {0};

    (void)state;
    muster_test_tables_changed(t);
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    (void)ask(t, "ann", "hello", "{\"session\":\"s1\"}");
    (void)ask(t, "ann", "status", busy);
    beat(t, "ann", 29 * MUSTER_TEST_S);
    (void)ask(t, "ann", "status", busy); /* the same again is a word of it */
    assert_int_equal(events(t, "status"), 1);
    beat(t, "ann", 29 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 0);
    beat(t, "ann", 5 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 1);
    assert_non_null(strstr(ask(t, "ann", "get", "{\"agent\":\"ann\"}"), "\"suspect\":true"));

    beat(t, "ann", 300 * MUSTER_TEST_S);
    (void)ask(t, "ann", "hello", "{\"session\":\"s1\"}"); /* says nothing of the task */
    beat(t, "ann", 10 * MUSTER_TEST_S);
    assert_non_null(strstr(ask(t, "ann", "get", "{\"agent\":\"ann\"}"), "\"suspect\":true"));
    assert_int_equal(events(t, "suspect"), 1);
    assert_int_equal(events(t, "status"), 1);

    (void)ask(t, "ann", "status", busy);
    assert_int_equal(events(t, "status"), 2);
    assert_non_null(strstr(ask(t, "ann", "get", "{\"agent\":\"ann\"}"), "\"suspect\":false"));
    beat(t, "ann", 35 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 2);
    (void)ask(t, "ann", "status", "{\"status\":\"busy\",\"task\":\"t2\"}"); /* another one */
    beat(t, "ann", 25 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 2);
    (void)ask(t, "ann", "status", "{\"status\":\"busy\"}"); /* with nothing that it could be stuck with */
    beat(t, "ann", 120 * MUSTER_TEST_S);
    (void)ask(t, "ann", "status", "{\"status\":\"away\",\"task\":\"t2\"}");
    beat(t, "ann", 120 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 2);
    assert_int_equal(events(t, "leave"), 0);

    (void)ask(t, "ann", "status", busy);
    beat(t, "ann", 35 * MUSTER_TEST_S);
    assert_int_equal(events(t, "suspect"), 3);
    muster_test_advance(t, 20 * MUSTER_TEST_S); /* silent as well: that it is gone is told as of any other */
    assert_int_equal(events(t, "leave"), 1);
    end(t, &b);
}

/* ---- retention ---------------------------------------------------------------------------------------------------------------- */

struct old {
    int rows[2], n[2]; /* of acme and zeta: what is left, and how often it was asked */
    int code;
};

static int on_purge(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    struct old *old = arg;
    int i = strcmp(statement->tenant, "zeta") == 0, n;
    char outcome[64];

    assert_string_equal(statement->params[0].data, "86400 s");
    old->n[i]++;
    if (old->code)
        return old->code;
    n = old->rows[i] < atoi(statement->params[1].data) ? old->rows[i] : atoi(statement->params[1].data);
    old->rows[i] -= n;
    (void)snprintf(outcome, sizeof outcome, "{\"ok\": {\"purged\": %d}}", n);
    muster_test_row(rows, 1, (const char *const[]){outcome});
    return 0;
}

/* Each tenant's turn comes, one statement at a time, until a batch is not full; who does not lead deletes nothing. */
static void sessions_that_ended_long_ago_go_in_batches(void **state)
{
    struct base b = {0};
    struct old old = {.rows = {2500, 1}};
    const struct muster_test_options options = {.size = sizeof options, .file = PRESENCE_SO, .tenants = "acme zeta", .config = "keep_sessions: 1d\n"};
    struct muster_test *t = muster_test_begin(&options);

    (void)state;
    muster_test_sql(t, "purge_sessions", on_purge, &old);
    muster_test_tables_changed(t);
    muster_test_advance(t, 10 * MUSTER_TEST_S);
    assert_int_equal(old.n[0] + old.n[1], 0);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, 600 * MUSTER_TEST_S);
    assert_int_equal(old.rows[0] + old.rows[1], 0);
    assert_int_equal(old.n[0], 3);
    assert_int_equal(old.n[1], 1);
    assert_int_equal(muster_test_metric(t, "sessions_purged_total", NULL), 2501);
    old.rows[0] = 5;
    old.code = MUSTER_ETIME;
    muster_test_advance(t, 601 * MUSTER_TEST_S);
    assert_int_equal(old.n[0], 4); /* not until it succeeds: the next round tries again */
    old.code = 0;
    muster_test_advance(t, 601 * MUSTER_TEST_S);
    assert_int_equal(old.rows[0], 0);
    end(t, &b);
}

/* ---- request ids ---------------------------------------------------------------------------------------------------------------- */

/* muster.requests as the test has it: one row. */
struct requests {
    char answer[400];
    int n_begun, n_done, begin_code, done_code;
};

static int on_begin(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    struct requests *r = arg;
    char begun[200];

    r->n_begun++;
    if (r->begin_code)
        return r->begin_code;
    (void)snprintf(begun, sizeof begun, "{\"ok\": {\"begun\": \"first\"}}");
    assert_string_equal(statement->params[2].data, "presence.hello");
    muster_test_row(rows, 1, (const char *const[]){*r->answer ? r->answer : begun});
    return 0;
}

static int on_done(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    struct requests *r = arg;

    r->n_done++;
    if (r->done_code)
        return r->done_code;
    (void)snprintf(r->answer, sizeof r->answer, "%.*s", (int)statement->params[4].len, (const char *)statement->params[4].data);
    muster_test_row(rows, 1, (const char *const[]){r->answer});
    return 0;
}

/* Nothing is done without PostgreSQL; what it did not keep is gone on with, and not done again. */
static void what_was_not_kept_is_not_done_twice(void **state)
{
    struct base b = {0};
    struct requests r = {.begin_code = MUSTER_ELINK, .done_code = MUSTER_ETIME};
    struct muster_test *t = begin(&b);
    const char *hello = "{\"request_id\":\"r1\"}";
    char first[400];

    (void)state;
    muster_test_sql(t, "presence_begin", on_begin, &r);
    muster_test_sql(t, "presence_done", on_done, &r);
    assert_non_null(strstr(ask(t, "ann", "hello", hello), "unavailable"));
    assert_non_null(strstr(ask(t, "ann", "count", "{}"), "\"count\":0"));
    r.begin_code = 0;
    assert_non_null(strstr(ask(t, "ann", "hello", hello), "it is done, but the database did not keep the answer"));
    assert_non_null(strstr(ask(t, "ann", "get", "{\"agent\":\"ann\"}"), "\"session\":\"first\""));
    r.done_code = 0;
    (void)snprintf(first, sizeof first, "%s", ask(t, "ann", "hello", hello));
    assert_non_null(strstr(first, "\"session\":\"first\""));
    assert_non_null(strstr(first, "\"seq\":1"));
    (void)ask(t, "ann", "status", "{\"status\":\"busy\"}");
    assert_string_equal(ask(t, "ann", "hello", hello), first);
    assert_int_equal(r.n_begun, 4);
    assert_int_equal(r.n_done, 2);
    assert_int_equal(muster_test_metric(t, "events_total", "join"), 1);
    end(t, &b);
}

/* Where there is no room to ask, nothing is done; what an agent asks behind a request that waits keeps its place. */
static void what_waits_for_postgresql_keeps_its_place(void **state)
{
    struct base b = {0};
    struct requests r = {0};
    struct muster_test *t = begin(&b);
    struct muster_test_message msg = {.size = sizeof msg, .subject = "rpc.bob.presence.hello", .asks = 1, .payload = {"{\"request_id\":\"r2\"}", 19}};
    uint64_t n[3];

    (void)state;
    muster_test_sql(t, "presence_begin", on_begin, &r);
    muster_test_sql(t, "presence_done", on_done, &r);
    muster_test_fault(t, "sql.exec", MUSTER_EAGAIN, 1, 1);
    assert_non_null(strstr(ask(t, "bob", "hello", "{\"request_id\":\"r2\"}"), "the database cannot be asked now"));
    for (int i = 0; i < 2; i++)
        n[i] = muster_test_queue(t, &msg);
    msg.subject = "rpc.bob.presence.status";
    msg.payload = (struct muster_bytes){"{\"status\":\"away\"}", 17};
    n[2] = muster_test_queue(t, &msg);
    muster_test_run(t);
    assert_non_null(strstr(muster_test_answer_text(t, n[0]), "\"session\":\"first\""));
    assert_non_null(strstr(r.answer, muster_test_answer_text(t, n[1])));
    assert_string_equal(muster_test_answer_text(t, n[2]), "{}");
    assert_int_equal(r.n_done, 1);
    end(t, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_are_written),
        cmocka_unit_test(a_status_may_wait_and_a_beat_writes_nothing),
        cmocka_unit_test(what_waits_of_a_session_is_one_row),
        cmocka_unit_test(one_row_that_is_refused_takes_no_other_along),
        cmocka_unit_test(after_a_restart_agents_are_called_first),
        cmocka_unit_test(nobody_leads_before_the_sessions_are_read),
        cmocka_unit_test(agents_of_a_lost_server_are_suspect_and_back_with_it),
        cmocka_unit_test(agents_of_a_server_that_stays_lost_are_gone_in_the_end),
        cmocka_unit_test(who_is_kicked_and_does_not_come_back_has_been_kicked),
        cmocka_unit_test(nobody_is_gone_while_the_link_is_away),
        cmocka_unit_test(who_does_not_get_on_is_suspect_until_it_says_so),
        cmocka_unit_test(sessions_that_ended_long_ago_go_in_batches),
        cmocka_unit_test(what_was_not_kept_is_not_done_twice),
        cmocka_unit_test(what_waits_for_postgresql_keeps_its_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
