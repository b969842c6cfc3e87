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
    int epochs;          /* that began after the first */
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

static size_t heads_of(struct muster_test *t, const char *head)
{
    size_t n = 0;

    for (size_t i = 0; i < muster_test_n_sent(t); i++) {
        const struct muster_test_sent *sent = muster_test_sent(t, i);

        n += strcmp(sent->subject, "evt._.head") == 0 && sent->payload.len == strlen(head) && memcmp(sent->payload.data, head, sent->payload.len) == 0;
    }
    return n;
}

/* Who missed the change of epoch need not wait for its first event. */
static void test_heads(void **state)
{
    struct muster_test *t = begin(0);

    (void)state;
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    (void)ask(t, "ann", "hello", "{}");
    muster_test_advance(t, 60 * MUSTER_TEST_S);
    assert_int_equal(heads_of(t, "{\"evt.presence\":{\"epoch\":1,\"seq\":1}}"), 3); /* one may be lost */
    assert_int_equal(muster_test_lease_take(t, NULL, MUSTER_ESTALE), 0);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, 60 * MUSTER_TEST_S);
    assert_int_equal(heads_of(t, "{\"evt.presence\":{\"epoch\":2,\"seq\":0}}"), 3);
    (void)ask(t, "bob", "hello", "{}");
    muster_test_advance(t, 60 * MUSTER_TEST_S);
    assert_int_equal(heads_of(t, "{\"evt.presence\":{\"epoch\":2,\"seq\":1}}"), 3);
    end(t);
}

/* Digests are told of more than digest_above at once. */
static void test_digests(void **state)
{
    static char hello[] = "{}";
    struct muster_test *t = begin(0);
    char subject[64];

    (void)state;
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    for (int n = 15; n <= 16; n++) {
        for (int i = 0; i < n; i++) {
            const struct muster_test_message msg = {.size = sizeof msg, .subject = subject, .asks = 1, .payload = {hello, 2}};

            (void)snprintf(subject, sizeof subject, "rpc.a%d-%d.presence.hello", n, i);
            (void)muster_test_queue(t, &msg);
        }
        muster_test_run(t);
    }
    assert_int_equal(muster_test_metric(t, "events_total", "join"), 15 + 1);
    assert_int_equal(muster_test_metric(t, "digests_total", NULL), 1);
    end(t);
}

static void say_here(struct muster_test *t, int64_t ns)
{
    for (; ns > 0; ns -= MUSTER_TEST_S) {
        (void)muster_test_kv_put(t, NULL, "broker.peer", (struct muster_bytes){"here", 4});
        muster_test_advance(t, MUSTER_TEST_S);
    }
}

/* Half of the shards is another broker's; when it dies, what comes from it is kept, and when it is back, it gets its part. */
static void test_shards_of_who_has_died(void **state)
{
    struct muster_test *t = begin(0);
    char name[16];

    (void)state;
    for (int i = 0; i < 8; i++) {
        (void)snprintf(name, sizeof name, "shard.%d", i);
        assert_int_equal(muster_test_lease_give(t, name), 0);
    }
    say_here(t, 15 * MUSTER_TEST_S);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 8);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, 10 * MUSTER_TEST_S);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 16);
    say_here(t, 15 * MUSTER_TEST_S);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 8);
    end(t);
}

/* ---- one that follows ----------------------------------------------------------------------------------------------------------- */

static int answer_empty(void *arg, const struct muster_test_sent *asked, const char **ret_json)
{
    (void)asked;
    *ret_json = arg;
    return 0;
}

static struct muster_bytes join_of(const char *agent, char body[400])
{
    int len = snprintf(body, 400,
                       "{\"agent_id\":\"%s\",\"tenant_id\":\"acme\",\"status\":\"online\",\"suspect\":false,\"task\":null,"
                       "\"started_at\":\"2026-01-01T00:00:00.000000Z\",\"session\":\"s1\",\"capabilities\":[],\"labels\":{}}",
                       agent);

    return (struct muster_bytes){body, (size_t)len};
}

static void hear_join(struct muster_test *t, const char *agent, const char *epoch, const char *seq, const char *stream_seq)
{
    const struct muster_header headers[] = {{"Muster-Epoch", epoch}, {"Muster-Seq", seq}, {"Nats-Sequence", stream_seq}};
    char subject[64], body[400];
    const struct muster_test_message msg = {
        .size = sizeof msg, .subject = subject, .headers = headers, .n_headers = 3, .payload = join_of(agent, body)};

    (void)snprintf(subject, sizeof subject, "evt.presence.join.%s", agent);
    (void)muster_test_send(t, &msg);
}

/* Two holders went within a second, and what the first had sent is stored only now: whoever follows the third has it as well, and once. */
static void test_late_events(void **state)
{
    static char list[] = "{\"agents\":[],\"epoch\":7,\"seq\":0,\"stream\":100}";
    struct muster_test *t = begin(0);

    (void)state;
    muster_test_answer_by(t, "rpc._p_presence.presence.list", answer_empty, list);
    muster_test_tables_changed(t);
    muster_test_advance(t, 5 * MUSTER_TEST_S);
    hear_join(t, "old", "5", "8", "100"); /* the list was made after it */
    assert_int_equal(muster_test_roster(t, "acme", NULL, NULL, NULL), 0);
    hear_join(t, "ann", "5", "9", "101");
    hear_join(t, "bob", "6", "1", "102");
    assert_int_equal(muster_test_roster(t, "acme", NULL, NULL, NULL), 2);
    hear_join(t, "bob", "6", "1", "102");
    hear_join(t, "cat", "7", "3", "103"); /* the third holder gave each of them a position */
    assert_int_equal(muster_test_roster(t, "acme", NULL, NULL, NULL), 3);
    assert_int_equal(muster_test_metric(t, "gaps_total", NULL), 0);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    assert_non_null(strstr(ask(t, "ann", "count", "{}"), "\"count\":3"));
    end(t);
}

/* Whoever has led knows all up to the end of its lead: what a holder before it stores behind that is late there, too. */
static void test_late_event_after_a_lead(void **state)
{
    struct muster_test *t = begin(0);

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(muster_test_lease_give(t, NULL), 0);
        (void)ask(t, "bob", "hello", "{}");
        assert_int_equal(muster_test_lease_take(t, NULL, MUSTER_ESTALE), 0);
    }
    hear_join(t, "bob", "1", "1", "1");
    hear_join(t, "ann", "1", "2", "3");
    assert_int_equal(muster_test_roster(t, "acme", NULL, NULL, NULL), 2);
    end(t);
}

enum { SESSIONS_PAGE = 500 };

/* The first page is full. Before the second one is there, NATS stores what a slow holder before has sent, and all hear it. */
static int page_of_sessions(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows)
{
    static const char *const none[] = {"s0", "{}"};
    static const struct muster_header headers[] = {{"Muster-Epoch", "0"}, {"Muster-Seq", "7"}, {"Nats-Sequence", "1"}};
    char body[400];
    const struct muster_test_message heard = {
        .size = sizeof heard, .subject = "evt.presence.join.ann", .headers = headers, .n_headers = 3, .payload = join_of("ann", body)};

    if (statement->params[0].len)
        return 0;
    assert_int_equal(muster_test_store(arg, "PRES_15", "acme", "pres.15.join.ann", heard.payload), 1);
    (void)muster_test_queue(arg, &heard);
    for (int i = 0; i < SESSIONS_PAGE; i++)
        muster_test_row(rows, 2, none);
    return 0;
}

/* It was stored when the stream had told how far it is, and heard before this broker led: it is read all the same. */
static void test_late_event_during_a_take_over(void **state)
{
    struct muster_test *t = begin(0);

    (void)state;
    muster_test_sql(t, "sessions_present", page_of_sessions, t);
    muster_test_tables_changed(t);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 16);
    (void)ask(t, "bob", "hello", "{}");
    assert_int_equal(muster_test_metric(t, "appends_failed_total", NULL), 0);
    end(t);
}

/* An event that did not take effect, since nobody answered the list that had to come first, is read from the stream in the end. */
static void test_what_waits_for_a_list_is_not_passed_over(void **state)
{
    static char list[] = "{\"agents\":[],\"epoch\":5,\"seq\":8,\"stream\":1}";
    struct muster_test *t = begin(0);

    (void)state;
    muster_test_answer_by(t, "rpc._p_presence.presence.list", answer_empty, list);
    muster_test_tables_changed(t);
    muster_test_advance(t, 5 * MUSTER_TEST_S);
    for (uint64_t n = 1; n <= 2; n++)
        assert_int_equal(muster_test_store(t, "PRES_15", "acme", "pres.15.join.ann", (struct muster_bytes){"{}", 2}), n);
    hear_join(t, "ann", "5", "9", "1");
    muster_test_advance(t, 20 * MUSTER_TEST_S); /* nothing was missing for so long */
    muster_test_answer_by(t, "rpc._p_presence.presence.list", NULL, NULL);
    hear_join(t, "bob", "5", "11", "2");
    assert_int_equal(muster_test_calls(t, "stream.read"), 0);
    assert_int_equal(muster_test_lease_give(t, NULL), 0);
    muster_test_advance(t, MUSTER_TEST_S);
    assert_int_equal(muster_test_metric(t, "shards", NULL), 16);
    assert_int_equal(muster_test_calls(t, "stream.read"), 1);
    end(t);
}

static void hear_head(struct muster_test *t, const char *head, const char *stream)
{
    const struct muster_header header = {"Muster-Stream", stream};
    const struct muster_test_message msg = {
        .size = sizeof msg, .subject = "evt._.head", .headers = &header, .n_headers = 1, .payload = {head, strlen(head)}};

    (void)muster_test_send(t, &msg);
}

/* Who has heard all of the stream goes on under a new epoch; who has not reads the roster anew. */
static void test_new_epoch(void **state)
{
    static char list[] = "{\"agents\":[],\"epoch\":5,\"seq\":8,\"stream\":100}";
    struct muster_test *t = begin(0);
    int64_t lists;

    (void)state;
    muster_test_answer_by(t, "rpc._p_presence.presence.list", answer_empty, list);
    muster_test_tables_changed(t);
    muster_test_advance(t, 5 * MUSTER_TEST_S);
    hear_join(t, "ann", "5", "9", "101");
    muster_test_advance(t, 20 * MUSTER_TEST_S); /* nothing was missing for so long */
    lists = muster_test_metric(t, "lists_total", NULL);
    hear_head(t, "{\"evt.presence\":{\"epoch\":7,\"seq\":0}}", "101");
    hear_join(t, "bob", "5", "10", "102"); /* late */
    hear_join(t, "cat", "7", "2", "103");
    assert_int_equal(muster_test_roster(t, "acme", NULL, NULL, NULL), 3);
    assert_int_equal(muster_test_metric(t, "lists_total", NULL), lists);
    hear_head(t, "{\"evt.presence\":{\"epoch\":8,\"seq\":0}}", "104"); /* one is missing */
    assert_int_equal(muster_test_metric(t, "lists_total", "head"), 1);
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
        const struct muster_test_sent *sent = muster_test_sent(p->lead, p->heads);
        const struct muster_test_message head = {
            .size = sizeof head, .subject = "evt._.head", .headers = sent->headers, .n_headers = sent->n_headers, .payload = sent->payload};

        if (strcmp(sent->subject, "evt._.head") == 0 && (!p->lose || dice(p, (uint64_t)p->lose)))
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

/* It is held anew, under another epoch, where nobody waits for an answer. */
static void begin_epoch(struct pair *p)
{
    muster_test_run(p->lead);
    if (muster_test_n_open(p->lead))
        return;
    assert_int_equal(muster_test_lease_take(p->lead, NULL, MUSTER_ESTALE), 0);
    assert_int_equal(muster_test_lease_give(p->lead, NULL), 0);
    p->epochs++;
}

/* MUSTER_TEST_LONG may say how many. */
static uint64_t n_seeds(void)
{
    const char *n = getenv("MUSTER_TEST_LONG");

    return n && strtoull(n, NULL, 10) > SEEDS ? strtoull(n, NULL, 10) : SEEDS;
}

static void test_two_brokers(void **state)
{
    int64_t digests = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= n_seeds(); seed++) {
        struct pair p = {.lead = begin(0), .follow = begin(0), .seed = seed * 7919, .lose = seed % 3 ? 10 : 0};

        assert_int_equal(muster_test_lease_give(p.lead, NULL), 0);
        muster_test_answer_by(p.follow, "rpc._p_presence.presence.list", answer_list, &p);
        for (int i = 0; i < ROUNDS; i++) {
            for (uint64_t n = dice(&p, 30) + 1; n; n--)
                act(&p);
            if (!dice(&p, 10)) /* the leader's append fails */
                muster_test_fault(p.lead, "stream.append:callback", dice(&p, 2) ? MUSTER_ETIME : MUSTER_ELINK, 1 + (uint32_t)dice(&p, 3), 1);
            let_run(&p, (int64_t)dice(&p, 300) * MUSTER_TEST_MS);
            if (seed % 2 && !dice(&p, 15))
                begin_epoch(&p);
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
            assert_true(muster_test_metric(p.follow, "gaps_total", NULL) <= p.epochs); /* a head notice of one is ahead */
        digests += muster_test_metric(p.lead, "digests_total", NULL);
        end(p.lead);
        end(p.follow);
    }
    assert_true(digests > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waits_for_its_shard),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_unknown_outcome),
        cmocka_unit_test(test_lost_lease),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_digests),
        cmocka_unit_test(test_shards_of_who_has_died),
        cmocka_unit_test(test_late_events),
        cmocka_unit_test(test_late_event_after_a_lead),
        cmocka_unit_test(test_late_event_during_a_take_over),
        cmocka_unit_test(test_what_waits_for_a_list_is_not_passed_over),
        cmocka_unit_test(test_new_epoch),
        cmocka_unit_test(test_two_brokers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
