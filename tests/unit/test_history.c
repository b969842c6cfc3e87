/*
 * plugins/fanout: message.history against an oracle that knows what was ever stored.
 *
 * A seeded world of one tenant: messages come into MSG, EVT and MAIL, old ones and single ones are deleted, epochs change, streams are made anew,
 * reads fail; NATS answers late and in any order. Readers ask from everywhere. What is told complete has no hole against what was ever
 * stored; what is told at all is in order; what is shorter than asked for reaches the newest that there was; where nothing was ever taken
 * away all is complete. Where the connection has no room they wait, and are answered all the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/history.h"
#include "fanout/inbox.h"

enum { STREAMS = 3, MSGS = 4000, CALLS = 4096, AGENTS = 120, STEPS = 6000, TIMERS = 4 };
enum { MSG, EVT, MAIL };
static const char *const stream_names[] = {"MSG", "EVT", "MAIL"};

struct muster_tenant {
    int n; /* 0: acme */
};

struct message {
    char subject[48], epoch[24], count[24], payload[24];
    uint64_t seq;
    int64_t wall_ns;
    bool gone;
};

struct stream {
    struct message msgs[MSGS]; /* of sequence n at n - 1, also those that are gone */
    uint64_t last, first;
    int64_t created;
    bool touched; /* something was deleted, or it was made anew */
};

/* What NATS has to answer. */
struct call {
    int kind; /* 1 info, 2 last, 3 read, 4 follow */
    int stream;
    char subject[64];
    uint64_t from, id;
    uint32_t max;
    bool held;
    muster_stream_info_fn info;
    muster_stream_msg_fn msg;
    muster_stream_follow_fn follow;
    void *arg;
};

/* A request under way, and what held when it was asked. */
struct request {
    struct muster_msg msg;
    char subject[64], agent[16], channel[32], body[256];
    int stream;
    uint64_t after, last; /* last: the channel's newest then, as it is told */
    bool has_after, right_epoch, was_touched;
    uint32_t limit;
};

static struct world {
    struct fanout f;
    struct fanout_config config;
    struct muster_host host;
    struct stream streams[STREAMS];
    struct call calls[CALLS];
    size_t n_calls, n_answers, n_complete, n_errors, n_open;
    uint64_t seed, next_id, epoch, counts[2];
    int64_t now_ns;
    unsigned int faults; /* in 1,000 */
    unsigned int fills;  /* likewise: how often a call leaves no room behind it */
    bool full;           /* there is no room, until somebody is told that there is */
    size_t n_asked, n_kept; /* questions; bytes of answers that were written and found no room */
    uint64_t told_first;    /* of the last answer */
    struct {
        muster_timer_fn fn;
        int64_t due_ns;
    } timers[TIMERS];
} w;
static struct muster_tenant acme;

static uint64_t roll(uint64_t n)
{
    w.seed = w.seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (w.seed >> 33) % n;
}

/* ---- the host ----------------------------------------------------------------------------------------------------------- */

static void host_log(const struct muster_host *host, int level, const char *fmt, ...)
{
    (void)host, (void)level, (void)fmt;
}

static int host_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    (void)host, (void)fmt;
    return code;
}

static const char *tenant_name(const struct muster_tenant *tenant)
{
    static char name[16];

    if (!tenant->n)
        return "acme";
    (void)snprintf(name, sizeof name, "t%d", tenant->n);
    return name;
}

static int may_hear(const struct muster_host *host, const struct muster_tenant *tenant, const char *agent, const char *subject)
{
    (void)host, (void)tenant, (void)agent, (void)subject;
    return 0;
}

static int make_metric(const struct muster_host *host, int type, const char *name, const char *help, const char *label, uint64_t *ret)
{
    (void)host, (void)type, (void)name, (void)help, (void)label;
    *ret = 1;
    return 0;
}

static void add_metric(const struct muster_host *host, uint64_t metric, const char *value, int64_t by)
{
    (void)host, (void)metric, (void)value, (void)by;
}

static void set_metric(const struct muster_host *host, uint64_t metric, const char *value, int64_t to)
{
    (void)host, (void)metric, (void)value, (void)to;
}

static int64_t now(const struct muster_host *host)
{
    (void)host;
    return w.now_ns;
}

static int once(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    (void)host;
    for (uint64_t i = 0; i < TIMERS; i++)
        if (!w.timers[i].fn) {
            w.timers[i].fn = fn;
            w.timers[i].due_ns = w.now_ns + delay_ns;
            *ret_id = i + 1;
            return 0;
        }
    fail_msg("more than %d timers", TIMERS);
    return MUSTER_ENOMEM;
}

static void run_timers(void)
{
    for (int i = 0; i < TIMERS; i++) {
        muster_timer_fn fn = w.timers[i].fn;

        if (!fn || w.now_ns < w.timers[i].due_ns)
            continue;
        w.timers[i].fn = NULL;
        fn(&w.f, w.now_ns);
    }
}

/* False: the connection has no room, and will not until on_writable(). */
static bool has_room(void)
{
    bool had = !w.full;

    w.full = w.full || (w.fills && roll(1000) < w.fills);
    return had;
}

static void is_writable(void)
{
    if (!w.full)
        return;
    w.full = false;
    asks_flush(&w.f);
    history_part.on_writable(&w.f);
}

/* Cursors: nobody has acknowledged anything, and all were made now. */
struct statement {
    muster_sql_fn fn;
    void *arg;
    char names[4096];
} statements[64];
static size_t n_statements;
static const char *row_names[512];

static const char *get_cell(const struct muster_sql_result *r, uint32_t row, uint32_t column)
{
    (void)r;
    return column == 0 ? row_names[row] : column == 3 ? "4000000000" : NULL;
}

static int exec(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *key, uint32_t n,
                const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    struct statement *s;

    if (!has_room())
        return MUSTER_EAGAIN;
    s = &statements[n_statements++];
    (void)host, (void)stmt, (void)tenant, (void)key, (void)n;
    assert_true(n_statements < 64 && params[1].len < sizeof s->names);
    s->fn = fn;
    s->arg = arg;
    memcpy(s->names, params[1].data, params[1].len);
    s->names[params[1].len] = '\0';
    return 0;
}

static int prepare(const struct muster_host *host, const char *name, int flags, const char *text, uint64_t *ret)
{
    (void)host, (void)name, (void)flags, (void)text;
    *ret = 1;
    return 0;
}

static void answer_statement(void)
{
    struct statement s = statements[0];
    struct muster_sql_result r = {.size = sizeof r, .get = get_cell, .error = "", .sqlstate = ""};

    memmove(statements, statements + 1, --n_statements * sizeof s);
    for (char *at = strtok(s.names, ","); at; at = strtok(NULL, ","))
        row_names[r.n_rows++] = at;
    s.fn(s.arg, &r);
}

/* ---- NATS --------------------------------------------------------------------------------------------------------------- */

static int stream_of(uint64_t handle)
{
    return (int)handle - 1;
}

static int add_call(struct call call, const char *subject)
{
    if (!has_room())
        return MUSTER_EAGAIN;
    assert_true(w.n_calls < CALLS);
    w.n_asked++;
    (void)snprintf(call.subject, sizeof call.subject, "%s", subject ? subject : ">");
    w.calls[w.n_calls++] = call;
    return 0;
}

static int s_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    (void)host;
    return add_call((struct call){.kind = 1, .stream = stream_of(stream), .info = fn, .arg = arg}, NULL);
}

static int s_attach(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn, void *arg,
                    uint64_t *ret_stream)
{
    (void)tenant;
    for (uint64_t i = 0; i < STREAMS; i++)
        if (strcmp(name, stream_names[i]) == 0)
            *ret_stream = i + 1;
    return s_info(host, *ret_stream, fn, arg);
}

static void s_close(const struct muster_host *host, uint64_t stream)
{
    (void)host, (void)stream;
}

static int s_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                  muster_stream_msg_fn fn, void *arg)
{
    (void)host, (void)tenant;
    return add_call((struct call){.kind = 2, .stream = stream_of(stream), .msg = fn, .arg = arg}, subject);
}

static int s_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from,
                  uint32_t max, muster_stream_msg_fn fn, void *arg)
{
    (void)host, (void)tenant;
    return add_call((struct call){.kind = 3, .stream = stream_of(stream), .from = from, .max = max, .msg = fn, .arg = arg}, subject);
}

static int s_follow(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from,
                    uint32_t max, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow)
{
    (void)host, (void)tenant, (void)max;
    *ret_follow = ++w.next_id;
    return add_call((struct call){.kind = 4, .stream = stream_of(stream), .from = from, .id = w.next_id, .follow = fn, .arg = arg}, subject);
}

static void s_hold_back(const struct muster_host *host, uint64_t follow, uint32_t on)
{
    (void)host;
    for (size_t i = 0; i < w.n_calls; i++)
        if (w.calls[i].kind == 4 && w.calls[i].id == follow)
            w.calls[i].held = on != 0;
}

static void s_unfollow(const struct muster_host *host, uint64_t follow)
{
    (void)host;
    for (size_t i = 0; i < w.n_calls; i++)
        if (w.calls[i].kind == 4 && w.calls[i].id == follow)
            w.calls[i] = w.calls[--w.n_calls];
}

static bool matches(const char *pattern, const char *subject)
{
    size_t n = strlen(pattern);

    if (pattern[n - 1] == '>' || pattern[n - 1] == '*')
        return strncmp(pattern, subject, n - 1) == 0;
    return strcmp(pattern, subject) == 0;
}

static const struct message *first_from(const struct call *c)
{
    const struct stream *s = &w.streams[c->stream];

    for (uint64_t seq = c->from ? c->from : 1; seq <= s->last; seq++)
        if (!s->msgs[seq - 1].gone && matches(c->subject, s->msgs[seq - 1].subject))
            return &s->msgs[seq - 1];
    return NULL;
}

static struct muster_msg show(const struct message *m, struct muster_header headers[2])
{
    headers[0] = (struct muster_header){"Muster-Epoch", m->epoch};
    headers[1] = (struct muster_header){"Muster-Seq", m->count};
    return (struct muster_msg){.size = sizeof(struct muster_msg), .encoding = MUSTER_JSON, .tenant = &acme, .subject = m->subject,
                               .headers = headers, .n_headers = m->epoch[0] ? 2 : 0, .payload = {m->payload, strlen(m->payload)},
                               .seq = m->seq, .stored_wall_ns = m->wall_ns};
}

static struct muster_stream_info info_of(const struct stream *s)
{
    struct muster_stream_info info = {.size = sizeof info, .first_seq = s->last + 1, .last_seq = s->last, .created_wall_ns = s->created};

    for (uint64_t i = s->last; i-- > 0;)
        if (!s->msgs[i].gone) {
            info.first_seq = s->msgs[i].seq;
            info.n_msgs++;
        }
    return info;
}

/* One step of one call: a read gives a few messages at a time, and the world goes on between. */
static void answer_call(size_t i)
{
    struct call *c = &w.calls[i], done;
    const struct message *m = c->kind == 1 ? NULL : first_from(c);
    struct muster_header headers[2];
    struct muster_msg msg;
    bool fault = roll(1000) < w.faults;

    if (c->held)
        return;
    if (c->kind == 2) {
        for (const struct message *next = m; next;) {
            c->from = next->seq + 1;
            next = first_from(c);
            m = next ? next : m;
        }
    }
    if (m)
        msg = show(m, headers);
    if (fault && c->kind == 4 && roll(2)) { /* away for a while */
        done = *c;
        done.follow(done.arg, MUSTER_ELINK, NULL);
        return;
    }
    if (!fault && m && (c->kind == 4 || (c->kind == 3 && c->max))) {
        c->from = m->seq + 1;
        done = *c;
        c->max -= c->kind == 3;
        if (done.kind == 4)
            done.follow(done.arg, 0, &msg);
        else
            done.msg(done.arg, 0, &msg);
        return;
    }
    done = *c;
    if (c->kind != 4) /* a follow ends with unfollow() */
        w.calls[i] = w.calls[--w.n_calls];
    if (done.kind == 1) {
        struct muster_stream_info info = info_of(&w.streams[done.stream]);

        done.info(done.arg, fault ? MUSTER_ETIME : 0, fault ? NULL : &info);
    } else if (done.kind == 2) {
        done.msg(done.arg, fault ? MUSTER_ELINK : m ? 0 : MUSTER_ENOTFOUND, fault || !m ? NULL : &msg);
    } else if (done.kind == 3) {
        done.msg(done.arg, fault ? MUSTER_ELINK : done.max ? MUSTER_ENOTFOUND : 0, NULL);
    } else {
        done.follow(done.arg, fault ? MUSTER_ESTALE : MUSTER_EAGAIN, NULL);
    }
}

/* ---- what happens ------------------------------------------------------------------------------------------------------- */

static void store(int stream, const char *subject)
{
    struct stream *s = &w.streams[stream];
    struct message *m = &s->msgs[s->last];

    if (s->last >= MSGS)
        return;
    *m = (struct message){.seq = ++s->last, .wall_ns = w.now_ns};
    (void)snprintf(m->subject, sizeof m->subject, "%s", subject);
    (void)snprintf(m->payload, sizeof m->payload, "%" PRIu64, m->seq);
    if (stream == EVT) {
        (void)snprintf(m->epoch, sizeof m->epoch, "%" PRIu64, w.epoch);
        (void)snprintf(m->count, sizeof m->count, "%" PRIu64, ++w.counts[subject[4] == 'b']);
    }
}

static void something_is_stored(void)
{
    char subject[48];

    switch (roll(4)) {
    case 0:
        store(MSG, roll(2) ? "all.a.x" : "grp.g.a.x");
        break;
    case 1:
        store(EVT, roll(2) ? "evt.a.made.k" : "evt.b.made.k");
        break;
    default:
        (void)snprintf(subject, sizeof subject, "msg.a%d", (int)roll(AGENTS));
        store(MAIL, subject);
    }
}

/* The oldest go, and what the bound of a subject takes: its oldest. Of EVT only by age. */
static void something_is_deleted(void)
{
    int stream = (int)roll(STREAMS);
    struct stream *s = &w.streams[stream];
    struct muster_stream_info info = info_of(s);
    uint64_t n = roll(20);

    if (!info.n_msgs)
        return;
    s->touched = true;
    for (uint64_t seq = info.first_seq; seq < info.first_seq + n && seq <= s->last; seq++)
        s->msgs[seq - 1].gone = true;
}

static void epoch_changes(void)
{
    w.epoch++;
    w.counts[0] = w.counts[1] = 0;
    w.streams[EVT].touched = true;
}

/* ---- readers ------------------------------------------------------------------------------------------------------------ */

static uint64_t shown_of(const struct request *q, const struct message *m)
{
    return q->stream == EVT ? strtoull(m->count, NULL, 10) : m->seq;
}

static const struct message *newest(const struct request *q, const char *filter)
{
    const struct stream *s = &w.streams[q->stream];

    for (uint64_t i = s->last; i-- > 0;)
        if (!s->msgs[i].gone && matches(filter, s->msgs[i].subject))
            return &s->msgs[i];
    return NULL;
}

static void filter_of(const struct request *q, char out[48])
{
    if (q->stream == MAIL)
        (void)snprintf(out, 48, "msg.%s", q->agent);
    else
        (void)snprintf(out, 48, "%s.>", q->channel);
}

static void ask_for(struct request *q, const char *channel, int stream)
{
    char filter[48];
    const struct message *last;
    uint64_t epoch;

    (void)snprintf(q->channel, sizeof q->channel, "%s", channel);
    q->stream = stream;
    filter_of(q, filter);
    last = newest(q, filter);
    q->last = last ? shown_of(q, last) : 0;
    epoch = stream == EVT ? (last ? strtoull(last->epoch, NULL, 10) : w.epoch) : (uint64_t)(w.streams[stream].created / 1000);
    q->limit = (uint32_t)(1 + roll(60));
    q->has_after = roll(4) != 0;
    q->after = q->has_after ? roll(q->last + 1) : 0;
    q->right_epoch = roll(10) != 0;
    q->was_touched = w.streams[stream].touched;
    (void)snprintf(q->body, sizeof q->body, q->has_after ? "{\"channel\":\"%s\",\"limit\":%u,\"after\":{\"epoch\":%" PRIu64 ",\"seq\":%" PRIu64 "}}"
                                                         : "{\"channel\":\"%s\",\"limit\":%u}",
                   channel, q->limit, q->right_epoch ? epoch : epoch + 7, q->after);
}

static void asks(struct request *q, const struct muster_tenant *tenant)
{
    struct ask *a;

    q->msg = (struct muster_msg){.size = sizeof q->msg, .encoding = MUSTER_JSON, .tenant = tenant, .agent = q->agent, .subject = q->subject,
                                 .service = "message", .verb = "history", .request = (uint64_t)(uintptr_t)q,
                                 .payload = {q->body, strlen(q->body)}, .role = MUSTER_ROLE_AGENT};
    w.n_open++;
    assert_int_equal(ask_new(&w.f, &q->msg, &a), 0);
    history_read(a);
}

static void somebody_asks(const char *agent)
{
    static const char *const channels[] = {"all", "grp.g", "evt.a", "evt.b"};
    struct request *q = calloc(1, sizeof *q);
    size_t i = roll(4);

    assert_non_null(q);
    (void)snprintf(q->agent, sizeof q->agent, "a%d", (int)roll(AGENTS));
    if (agent || roll(3) == 0) {
        if (agent)
            (void)snprintf(q->agent, sizeof q->agent, "%s", agent);
        ask_for(q, "inbox", MAIL);
    } else {
        ask_for(q, channels[i], i < 2 ? MSG : EVT);
    }
    asks(q, &acme);
}

/* Where the channel stands at the message with this position, of the newest epoch; 0: nowhere. */
static uint64_t place_of(const struct request *q, const char *filter, uint64_t epoch, uint64_t shown)
{
    const struct stream *s = &w.streams[q->stream];

    for (uint64_t i = s->last; i-- > 0;)
        if (matches(filter, s->msgs[i].subject) && shown_of(q, &s->msgs[i]) == shown &&
            (q->stream != EVT || strtoull(s->msgs[i].epoch, NULL, 10) == epoch))
            return s->msgs[i].seq;
    return 0;
}

/* The next of the channel behind sequence seq that was ever stored; kept: only those that are there still. */
static uint64_t next_place(const struct request *q, const char *filter, uint64_t seq, bool kept)
{
    const struct stream *s = &w.streams[q->stream];

    for (uint64_t i = seq; i < s->last; i++)
        if (matches(filter, s->msgs[i].subject) && !(kept && s->msgs[i].gone))
            return s->msgs[i].seq;
    return 0;
}

static void check_answer(const struct request *q, const struct muster_value *doc)
{
    const struct muster_value *messages = value_get(doc, "messages");
    uint64_t epoch = (uint64_t)value_int(value_get(doc, "epoch")), last = (uint64_t)value_int(value_get(doc, "last_seq")), at = 0, place = 0;
    bool complete = value_int(value_get(doc, "complete")) != 0;
    size_t n = value_count(messages);
    char filter[48];

    filter_of(q, filter);
    assert_true(n <= q->limit);
    w.told_first = n ? (uint64_t)value_int(value_get(value_at(messages, 0), "seq")) : 0;
    for (size_t i = 0; i < n; i++) {
        const struct muster_value *m = value_at(messages, i);
        uint64_t shown = (uint64_t)value_int(value_get(m, "seq"));

        at = place_of(q, filter, epoch, shown);
        assert_true(at != 0);
        assert_int_equal((uint64_t)value_int(value_get(m, "body")), at);
        assert_true(at > place);
        if (i && complete)
            assert_int_equal(at, next_place(q, filter, place, false));
        if (!i && complete && q->has_after && q->right_epoch) /* the very next that was ever stored */
            assert_int_equal(shown, q->stream == EVT ? q->after + 1 : next_place(q, filter, q->after, false));
        place = at;
    }
    if (n < q->limit && q->last && q->right_epoch && q->has_after && q->after < q->last && complete)
        assert_true(n && (uint64_t)value_int(value_get(value_at(messages, n - 1), "seq")) >= q->last);
    if (complete && n < q->limit && n)
        assert_true(last >= (uint64_t)value_int(value_get(value_at(messages, n - 1), "seq"))); /* more where an epoch ends in between */
    if (!w.streams[q->stream].touched && !q->was_touched && (q->right_epoch || !q->has_after))
        assert_true(complete);
    if (q->has_after && !q->right_epoch && q->stream != EVT)
        assert_false(complete);
    w.n_complete += complete;
}

static int b_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret)
{
    (void)host;
    *ret = msg;
    return 0;
}

static void b_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    (void)host;
    w.n_open--;
    free((struct request *)(uintptr_t)msg->request);
}

static int b_reply(const struct muster_host *host, uint64_t request, struct muster_bytes body)
{
    struct muster_value *doc;
    struct wire_error error;

    (void)host;
    if (!has_room()) {
        w.n_kept += body.len;
        return MUSTER_EAGAIN;
    }
    assert_int_equal(value_decode(MUSTER_JSON, body, &doc, &error), 0);
    w.n_answers++;
    check_answer((const struct request *)(uintptr_t)request, doc);
    value_free(doc);
    return 0;
}

static int b_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    (void)host, (void)request, (void)field, (void)message;
    assert_true(w.faults != 0);
    assert_true(strcmp(code, "unavailable") == 0 || strcmp(code, "deadline_exceeded") == 0);
    w.n_errors++;
    return 0;
}

/* ---- the world ---------------------------------------------------------------------------------------------------------- */

static const struct muster_bus bus = {.size = sizeof bus, .hold = b_hold, .drop = b_drop, .reply = b_reply, .reply_error = b_reply_error};
static const struct muster_stream stream = {.size = sizeof stream, .close = s_close, .info = s_info, .last = s_last, .read = s_read,
                                            .attach = s_attach, .follow = s_follow, .unfollow = s_unfollow, .hold_back = s_hold_back};
static const struct muster_tenants tenants = {.size = sizeof tenants, .name = tenant_name, .may_hear = may_hear};
static const struct muster_metrics metrics = {.size = sizeof metrics, .make = make_metric, .add = add_metric, .set = set_metric};
static const struct muster_timer timer = {.size = sizeof timer, .now = now, .wall_now = now, .once = once};
static const struct muster_sql sql = {.size = sizeof sql, .prepare = prepare, .exec = exec};
static struct inbox inbox;

static void begin(uint64_t seed, unsigned int faults, int64_t cache_bytes)
{
    memset(&w, 0, sizeof w);
    n_statements = 0;
    w.seed = seed;
    w.faults = faults;
    w.now_ns = 1800000000 * CLOCK_S;
    w.epoch = 5;
    w.config = (struct fanout_config){.cache_bytes = cache_bytes, .retention_ns = 7 * 86400 * CLOCK_S};
    w.host = (struct muster_host){.size = sizeof w.host, .log = host_log, .fail = host_fail, .root = "mst"};
    inbox = (struct inbox){.open = true, .stream = MAIL + 1, .epoch = 3000};
    w.f = (struct fanout){.host = &w.host, .bus = &bus, .stream = &stream, .tenants = &tenants, .metrics = &metrics, .timer = &timer, .sql = &sql,
                          .config = &w.config, .link_up = true, .inbox = &inbox};
    for (int i = 0; i < STREAMS; i++)
        w.streams[i].created = (i + 1) * INT64_C(1000000);
    assert_int_equal(asks_create(&w.f), 0);
    assert_int_equal(history_part.create(&w.f), 0);
}

static void nats_answers(void)
{
    if (n_statements && roll(2))
        answer_statement();
    for (uint64_t n = roll(1 + w.n_calls); n-- > 0 && w.n_calls;)
        answer_call(roll(w.n_calls));
    if (roll(2))
        is_writable();
    run_timers();
}

static void settle(void)
{
    for (int i = 0; w.n_open && i < 2000000; i++) {
        w.now_ns += CLOCK_MS;
        if (n_statements)
            answer_statement();
        for (size_t at = w.n_calls; at-- > 0;)
            if (at < w.n_calls)
                answer_call(at);
        is_writable();
        run_timers();
    }
    assert_int_equal(w.n_open, 0);
}

static void end(void)
{
    settle();
    history_part.destroy(&w.f);
    asks_done(&w.f);
}

static void live(bool wears)
{
    for (int i = 0; i < STEPS; i++) {
        w.now_ns += (int64_t)roll(20) * CLOCK_MS;
        if (roll(3) == 0)
            something_is_stored();
        if (wears && roll(60) == 0)
            something_is_deleted();
        if (wears && roll(1500) == 0)
            epoch_changes();
        if (roll(5) == 0)
            somebody_asks(NULL);
        nats_answers();
    }
}

static void test_nothing_is_lost(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        begin(seed, 0, 1 << 20);
        live(false);
        end();
        assert_true(w.n_answers > 500 && w.n_errors == 0);
    }
}

static void test_what_is_lost_is_told(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        begin(seed, 0, seed % 2 ? 1 << 20 : 1 << 13);
        live(true);
        end();
        assert_true(w.n_complete > 100 && w.n_complete < w.n_answers);
    }
}

static void test_reads_that_fail(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        begin(seed, 30, 1 << 20);
        live(true);
        end();
        assert_true(w.n_errors > 10 && w.n_answers > 100);
    }
}

/* A connection that is full, now and then, or most of the time: all wait for room, nobody is refused. */
static void test_no_room(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        begin(seed, 0, 1 << 20);
        w.fills = seed % 2 ? 30 : 300;
        live(true);
        end();
        assert_true(w.n_errors == 0 && w.n_answers > 500 && w.n_complete > 100);
    }
}

/* Those that still wait for room when the plugin ends are told so. */
static void test_the_end_without_room(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        begin(seed, 1, 1 << 20);
        w.fills = 300;
        for (int i = 0; i < 200; i++)
            something_is_stored();
        for (int i = 0; i < 200; i++) {
            somebody_asks(NULL);
            nats_answers();
        }
        w.fills = 0;
        w.full = true;
        for (int i = 0; i < 200; i++)
            somebody_asks(NULL);
        w.faults = 1000;
        for (size_t at = w.n_calls; at-- > 0;)
            if (at < w.n_calls)
                answer_call(at);
        while (n_statements)
            answer_statement();
        w.full = false;
        history_part.destroy(&w.f);
        asks_done(&w.f);
        assert_int_equal(w.n_open, 0);
    }
}

/* One of a herd: of a channel from `after` on; without: from the oldest. */
static void one_of_many_asks(const char *channel, int kind, bool has_after, uint64_t after, uint32_t limit)
{
    struct request *q = calloc(1, sizeof *q);

    assert_non_null(q);
    (void)snprintf(q->agent, sizeof q->agent, "a1");
    ask_for(q, channel, kind);
    q->has_after = has_after;
    q->after = after;
    q->right_epoch = true;
    q->limit = limit;
    (void)snprintf(q->body, sizeof q->body, has_after ? "{\"channel\":\"%s\",\"limit\":%u,\"after\":{\"epoch\":%" PRIu64 ",\"seq\":%" PRIu64 "}}"
                                                      : "{\"channel\":\"%s\",\"limit\":%u}",
                   channel, limit, kind == EVT ? w.epoch : (uint64_t)(w.streams[kind].created / 1000), after);
    asks(q, &acme);
}

enum { HERD = 1200, STORED = 1000 };

/* A herd costs the reads that one reader of it all would: whatever the place of each, and though answers find no room again and again. */
static void herd_asks(const char *channel, int kind, bool has_after, uint32_t limit, size_t most)
{
    size_t before = w.n_answers;

    w.n_asked = w.n_kept = 0;
    for (int i = 0; i < HERD; i++)
        one_of_many_asks(channel, kind, has_after, has_after ? roll(STORED) : 0, limit);
    settle();
    assert_int_equal(w.n_answers - before, HERD);
    assert_int_equal(w.n_errors, 0);
    assert_true(w.n_asked <= most);
    assert_true(w.n_kept < 200000); /* one answer each time that there was no room for it */
}

static void test_a_herd(void **state)
{
    (void)state;
    begin(3, 0, 16 << 20);
    for (int i = 0; i < STORED; i++) {
        w.now_ns += CLOCK_MS;
        store(MSG, "all.a.x");
        store(EVT, "evt.a.made.k");
    }
    w.fills = 3;
    herd_asks("all", MSG, false, 50, 6);
    herd_asks("all", MSG, true, 50, 12);
    herd_asks("evt.a", EVT, true, 50, 40);
    herd_asks("evt.a", EVT, false, 50, 12);
    end();
}

/* The window of a channel keeps to its bound while a herd is served from everywhere in it. */
static void test_a_herd_in_little_memory(void **state)
{
    (void)state;
    begin(4, 0, 1 << 18);
    for (int i = 0; i < STORED; i++)
        store(EVT, "evt.a.made.k");
    herd_asks("evt.a", EVT, true, 50, 100);
    assert_true(w.f.history->n_bytes <= 1 << 18);
    end();
}

static void one_asks_since(int64_t since_ns)
{
    struct request *q = calloc(1, sizeof *q);
    char since[CLOCK_RFC3339_SIZE];

    assert_non_null(q);
    (void)snprintf(q->agent, sizeof q->agent, "a1");
    ask_for(q, "evt.a", EVT);
    q->has_after = false;
    q->limit = 10;
    clock_rfc3339(since_ns, since);
    (void)snprintf(q->body, sizeof q->body, "{\"channel\":\"evt.a\",\"limit\":10,\"since\":\"%s\"}", since);
    asks(q, &acme);
    settle();
}

static void store_events(int n)
{
    for (int i = 0; i < n; i++) {
        w.now_ns += CLOCK_MS;
        store(EVT, "evt.a.made.k");
    }
}

/* What was found in a stream says nothing of the one that was made in its place. */
static void test_places_of_a_stream_that_is_gone(void **state)
{
    struct stream *s = &w.streams[EVT];
    int64_t middle_ns;

    (void)state;
    begin(5, 0, 16 << 20);
    store_events(STORED / 2);
    middle_ns = w.now_ns;
    store_events(STORED / 2);
    one_asks_since(middle_ns + CLOCK_MS);
    assert_int_equal(w.told_first, STORED / 2 + 1);
    s->last = 0;
    s->created++;
    s->touched = true;
    store_events(STORED);
    one_of_many_asks("evt.a", EVT, true, STORED + 400, 10);
    settle();
    assert_int_equal(w.told_first, STORED + 401);
    one_asks_since(middle_ns + CLOCK_MS);
    assert_int_equal(w.told_first, STORED + 1);
    end();
}

/* More inboxes at once than are read one by one. */
static void test_many_inboxes(void **state)
{
    char agent[16];

    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        begin(seed, seed > 3 ? 5 : 0, 1 << 20);
        for (int round = 0; round < 4; round++) {
            for (int i = 0; i < 400; i++)
                something_is_stored();
            for (int i = 0; i < AGENTS; i++) {
                (void)snprintf(agent, sizeof agent, "a%d", i);
                somebody_asks(agent);
            }
            for (int i = 0; i < 300; i++) {
                w.now_ns += CLOCK_MS;
                if (roll(4) == 0)
                    something_is_stored();
                nats_answers();
            }
        }
        end();
        assert_true(w.n_answers + w.n_errors == 4 * AGENTS);
    }
}

/* What is kept of tenants that asked before does not keep the next one out. */
static void test_more_tenants_than_streams(void **state)
{
    static struct muster_tenant many[TAPES_MAX + 20];

    (void)state;
    begin(11, 0, 64 << 20);
    for (int i = 0; i < 20; i++)
        something_is_stored();
    for (int i = 0; i < TAPES_MAX + 20; i++) {
        struct request *q = calloc(1, sizeof *q);

        assert_non_null(q);
        many[i].n = i + 1;
        (void)snprintf(q->agent, sizeof q->agent, "a1");
        ask_for(q, "all", MSG);
        asks(q, &many[i]);
        settle();
    }
    end();
    assert_int_equal(w.n_errors, 0);
    assert_int_equal(w.n_answers, TAPES_MAX + 20);
}

/* Those that end with the plugin are answered, too. */
static void test_the_end(void **state)
{
    (void)state;
    begin(9, 0, 1 << 20);
    for (int i = 0; i < 300; i++)
        something_is_stored();
    for (int i = 0; i < 200; i++)
        somebody_asks(NULL);
    for (int i = 0; i < 40; i++)
        nats_answers();
    w.faults = 1000;
    end();
    assert_true(w.n_errors > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_lost), cmocka_unit_test(test_what_is_lost_is_told), cmocka_unit_test(test_reads_that_fail),
        cmocka_unit_test(test_many_inboxes),    cmocka_unit_test(test_the_end),
        cmocka_unit_test(test_more_tenants_than_streams), cmocka_unit_test(test_no_room), cmocka_unit_test(test_the_end_without_room),
        cmocka_unit_test(test_a_herd), cmocka_unit_test(test_a_herd_in_little_memory),
        cmocka_unit_test(test_places_of_a_stream_that_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
