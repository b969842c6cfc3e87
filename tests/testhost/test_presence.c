/*
 * plugins/presence as a whole, in the test host: two instances stand for two brokers. What the one that leads has stored is what the other
 * hears, as NATS would republish it, but for what the seed loses on the way; lists that the follower asks for are asked of the leader.
 * However it goes, both rosters must be those of an oracle that knows what each agent did.
 */
#include <muster/testhost.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { AGENTS = 40, ROUNDS = 150, SEEDS = 6 };

/* What an agent did last, as it knows it itself. */
struct truth {
    int present, busy;
    unsigned int session;
};

struct pair {
    struct muster_test *lead, *follow;
    struct truth agents[AGENTS];
    uint64_t heard;      /* of the stream, by the follower */
    size_t heads;        /* of what the leader sent, looked at */
    uint64_t seed;
    int lose;            /* one in so many messages; 0: none */
};

static uint64_t dice(struct pair *p, uint64_t n)
{
    p->seed ^= p->seed << 13;
    p->seed ^= p->seed >> 7;
    p->seed ^= p->seed << 17;
    return p->seed % n;
}

static struct muster_test *begin(uint32_t flags)
{
    const struct muster_test_options options = {.size = sizeof options,
                                                .flags = flags,
                                                .file = PRESENCE_SO,
                                                .config = "heartbeat: 5s\ndead_after: 1h\ndigest_above: 15\ncount_above: 5\n",
                                                .tenants = "acme"};
    struct muster_test *t = muster_test_begin(&options);

    muster_test_advance(t, MUSTER_TEST_S); /* it contends a moment after its start */
    return t;
}

static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    if (muster_test_failures(t))
        fail_msg("%s", muster_test_failure(t, 0));
    assert_int_equal(muster_test_free(t), 0);
}

static const char *ask(struct muster_test *t, const char *agent, const char *verb, const char *json)
{
    char subject[100];

    (void)snprintf(subject, sizeof subject, "rpc.%s.presence.%s", agent, verb);
    return muster_test_answer_text(t, muster_test_request(t, subject, json));
}

/* ---- one broker ----------------------------------------------------------------------------------------------------------------- */

static void test_waits_for_its_shard(void **state)
{
    struct muster_test *t = begin(0);
    uint64_t n = muster_test_request(t, "rpc.ann.presence.hello", "{}");

    (void)state;
    assert_null(muster_test_answer(t, n)); /* another holds the shard, and answers */
    assert_int_equal(muster_test_health(t, NULL, NULL), MUSTER_HEALTH_DOWN);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 16);
    assert_non_null(strstr(ask(t, "ann", "hello", "{\"session\":\"s1\"}"), "\"session\":\"s1\",\"heartbeat_ms\":5000"));
    assert_non_null(strstr(ask(t, "bob", "get", "{\"agent\":\"ann\"}"), "\"session\":\"s1\""));
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_health(t, NULL, NULL), MUSTER_HEALTH_OK);
    end(t);
}

static void test_environment(void **state)
{
    const struct muster_test_options options = {
        .size = sizeof options, .file = PRESENCE_SO, .config = "heartbeat: 1s\n", .tenants = "acme"};
    struct muster_test *t;

    (void)state;
    assert_int_equal(setenv("FEDERATION_HEARTBEAT_INTERVAL", "20000", 1), 0);
    t = muster_test_begin(&options);
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    assert_non_null(strstr(ask(t, "ann", "hello", "{}"), "\"heartbeat_ms\":20000,\"dead_after_ms\":60000"));
    end(t);
    assert_int_equal(setenv("FEDERATION_HEARTBEAT_INTERVAL", "soon", 1), 0);
    t = muster_test_new(&options);
    assert_int_equal(muster_test_check(t), MUSTER_EINVAL);
    assert_non_null(strstr(muster_test_reason(t), "FEDERATION_HEARTBEAT_INTERVAL is \"soon\", expected 100 to 600000 milliseconds"));
    muster_test_forgive(t);
    assert_int_equal(muster_test_free(t), 0);
    assert_int_equal(unsetenv("FEDERATION_HEARTBEAT_INTERVAL"), 0);
}

/* An event whose acknowledgement is lost may be stored or not; either way it is told once, and the request is answered. */
static void test_unknown_outcome(void **state)
{
    static const int codes[] = {MUSTER_ETIME, MUSTER_ELINK, MUSTER_ESTALE, MUSTER_EAGAIN};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct muster_test *t = begin(0);
        struct muster_stream_info info = {.size = sizeof info};
        uint64_t n;
        uint64_t total = 0;
        char stream[16];

        assert_int_equal(muster_test_lease_give(t, NULL), 0);
        (void)ask(t, "bob", "hello", "{}");
        muster_test_fault(t, codes[i] == MUSTER_EAGAIN ? "stream.append" : "stream.append:callback", codes[i], 1, 1);
        n = muster_test_request(t, "rpc.ann.presence.hello", "{\"session\":\"s1\"}");
        muster_test_no_faults(t);
        muster_test_advance(t, MUSTER_TEST_S);
        assert_non_null(strstr(muster_test_answer_text(t, n), "\"session\":\"s1\""));
        assert_non_null(strstr(ask(t, "bob", "count", "{}"), "\"count\":2"));
        for (int s = 0; s < 16; s++) {
            (void)snprintf(stream, sizeof stream, "PRES_%d", s);
            if (muster_test_stream(t, stream, &info) == 0)
                total += info.last_seq;
        }
        assert_int_equal(total, 2);
        end(t);
    }
}

static void test_lost_lease(void **state)
{
    struct muster_test *t = begin(0);
    uint64_t n;

    (void)state;
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    (void)ask(t, "ann", "hello", "{}");
    assert_int_equal(muster_test_lease_take(t, NULL, MUSTER_ESTALE), 0);
    n = muster_test_request(t, "rpc.ann.presence.status", "{\"status\":\"busy\"}");
    assert_null(muster_test_answer(t, n));
    assert_int_equal(muster_test_lease_give(t, NULL), 0); /* nobody else was there */
    assert_non_null(strstr(ask(t, "bob", "count", "{}"), "\"count\":1"));
    assert_non_null(strstr(ask(t, "bob", "list", "{}"), "\"seq\":0}")); /* of a new epoch */
    end(t);
}

/* ---- two brokers ---------------------------------------------------------------------------------------------------------------- */

static const char *stream_of_acme(struct pair *p)
{
    static char stream[16];
    struct muster_stream_info info = {.size = sizeof info};

    for (int s = 0; s < 16; s++) {
        (void)snprintf(stream, sizeof stream, "PRES_%d", s);
        if (muster_test_stream(p->lead, stream, &info) == 0 && info.last_seq)
            return stream;
    }
    return NULL;
}

/* A stored event, as NATS republishes it. */
static void hand_over(struct pair *p, const struct muster_test_sent *stored)
{
    struct muster_header headers[4];
    char subject[200], seq[24];
    struct muster_test_message msg = {.size = sizeof msg, .subject = subject, .headers = headers, .payload = stored->payload};

    for (msg.n_headers = 0; msg.n_headers < stored->n_headers && msg.n_headers < 3; msg.n_headers++)
        headers[msg.n_headers] = stored->headers[msg.n_headers];
    (void)snprintf(seq, sizeof seq, "%llu", (unsigned long long)stored->seq);
    headers[msg.n_headers++] = (struct muster_header){"Nats-Sequence", seq};
    (void)snprintf(subject, sizeof subject, "evt.presence.%s", strchr(strchr(stored->subject, '.') + 1, '.') + 1);
    (void)muster_test_send(p->follow, &msg);
}

/* The events and heads that came since; of each one in `lose` is lost. */
static void republish(struct pair *p)
{
    const char *stream = stream_of_acme(p);
    const struct muster_test_sent *m;

    while (stream && (m = muster_test_stored(p->lead, stream, p->heard + 1))) {
        p->heard++;
        if (!p->lose || dice(p, (uint64_t)p->lose))
            hand_over(p, m);
    }
    for (; p->heads < muster_test_n_sent(p->lead); p->heads++) {
        const struct muster_test_message head = {.size = sizeof head, .subject = "evt._.head", .payload = muster_test_sent(p->lead, p->heads)->payload};

        if (strcmp(muster_test_sent(p->lead, p->heads)->subject, "evt._.head") == 0 && (!p->lose || dice(p, (uint64_t)p->lose)))
            (void)muster_test_send(p->follow, &head);
    }
}

/* The follower's list is the leader's; now and then nobody answers. */
static int answer_list(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    struct pair *p = arg;
    static char body[200];

    (void)snprintf(body, sizeof body, "%.*s", (int)asked->payload.len, (const char *)asked->payload.data);
    if (p->lose && !dice(p, 4))
        return MUSTER_ETIME;
    *ret_json = ask(p->lead, "_p_presence", "list", body);
    return 0;
}

struct seen {
    const struct pair *p;
    int n;
};

static int check_agent(void *arg, const struct muster_agent *agent)
{
    struct seen *seen = arg;
    const struct truth *truth = &seen->p->agents[atoi(agent->agent + 1)];
    char session[16];

    (void)snprintf(session, sizeof session, "s%u", truth->session);
    seen->n++;
    if (!truth->present || strcmp(agent->session, session) != 0 || (agent->status == MUSTER_AGENT_BUSY) != truth->busy)
        fail_msg("seed %llu: %s is %s with session %s, expected session %s", (unsigned long long)seen->p->seed, agent->agent,
                 agent->status == MUSTER_AGENT_BUSY ? "busy" : "online", agent->session, truth->present ? session : "none");
    return 0;
}

static void check_roster(const struct pair *p, struct muster_test *t)
{
    struct seen seen = {.p = p};
    int n = 0;

    for (int i = 0; i < AGENTS; i++)
        n += p->agents[i].present;
    assert_int_equal(muster_test_roster(t, "acme", NULL, check_agent, &seen), n);
    assert_int_equal(seen.n, n);
}

/* One agent does something: both brokers hear it, the one that leads answers. */
static void act(struct pair *p)
{
    int i = (int)dice(p, AGENTS);
    struct truth *a = &p->agents[i];
    uint64_t what = dice(p, 8);
    char subject[64], body[64] = "{}";
    const char *verb = "beat";

    if (what < 3 || !a->present) {
        verb = "hello";
        a->session++;
        a->present = 1;
        a->busy = 0;
        (void)snprintf(body, sizeof body, "{\"session\":\"s%u\"}", a->session);
    } else if (what < 6) {
        verb = "status";
        a->busy = (int)dice(p, 2);
        (void)snprintf(body, sizeof body, "{\"status\":\"%s\"}", a->busy ? "busy" : "online");
    } else if (what == 6) {
        verb = "bye";
        a->present = 0;
    }
    (void)snprintf(subject, sizeof subject, "rpc.a%d.presence.%s", i, verb);
    for (int b = 0; b < 2; b++) {
        const struct muster_test_message msg = {
            .size = sizeof msg, .subject = subject, .asks = 1, .payload = {body, strlen(body)}};

        (void)muster_test_queue(b ? p->follow : p->lead, &msg);
    }
}

static void let_run(struct pair *p, int64_t ns)
{
    muster_test_run(p->lead);
    muster_test_advance(p->lead, ns);
    republish(p);
    muster_test_advance(p->follow, ns);
    republish(p);
}

static void test_two_brokers(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct pair p = {.lead = begin(0), .follow = begin(0), .seed = seed * 7919, .lose = seed % 3 ? 10 : 0};

        assert_int_equal(muster_test_lease_give(p.lead, NULL), 0);
        muster_test_answer_by(p.follow, "rpc._p_presence.presence.list", answer_list, &p);
        for (int i = 0; i < ROUNDS; i++) {
            for (uint64_t n = dice(&p, 30) + 1; n; n--)
                act(&p);
            if (!dice(&p, 10)) /* the leader's append fails */
                muster_test_fault(p.lead, "stream.append:callback", dice(&p, 2) ? MUSTER_ETIME : MUSTER_ELINK, 1 + (uint32_t)dice(&p, 3), 1);
            let_run(&p, (int64_t)dice(&p, 300) * MUSTER_TEST_MS);
        }
        muster_test_no_faults(p.lead);
        p.lose = 0;
        for (int i = 0; i < 20; i++)
            let_run(&p, MUSTER_TEST_S);
        check_roster(&p, p.lead);
        check_roster(&p, p.follow);
        if (seed % 3)
            assert_true(muster_test_metric(p.follow, "gaps_total", NULL) > 0);
        else
            assert_int_equal(muster_test_metric(p.follow, "gaps_total", NULL), 0);
        assert_true(muster_test_metric(p.lead, "digests_total", NULL) > 0);
        end(p.lead);
        end(p.follow);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waits_for_its_shard),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_unknown_outcome),
        cmocka_unit_test(test_lost_lease),
        cmocka_unit_test(test_two_brokers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
