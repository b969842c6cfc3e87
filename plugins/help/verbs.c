/* The verbs of the service help. What they mean is the database's (schemas/sql/017_help.sql). */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "common/work/ask.h"
#include "common/work/notice.h"
#include "help/help.h"

/* ---- before ------------------------------------------------------------------------------------------------------------- */

unsigned int levels_of(const struct muster_value *v)
{
    bool map = value_type(v) == MUSTER_MAP;
    unsigned int deepest = 0;

    if (!map && value_type(v) != MUSTER_ARRAY)
        return 0;
    for (size_t i = 0; i < value_count(v); i++) {
        const char *key;
        unsigned int n = levels_of(map ? value_key(v, i, &key, NULL) : value_at(v, i));

        deepest = n > deepest ? n : deepest;
    }
    return deepest + 1;
}

static bool are_flat(struct ask *a)
{
    static const char *const fields[] = {"context", "default_answer", "solution"};

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct muster_value *v = value_get(a->args, fields[i]);
        unsigned int n = v ? levels_of(v) : 0;

        if (n <= LEVELS_MAX)
            continue;
        ask_error(a, "invalid_argument", fields[i], "%s: %u levels of lists and maps came, at most %d were expected", fields[i], n, LEVELS_MAX);
        return false;
    }
    return true;
}

/* What came, with ours behind: its last bracket is put at the end of that. */
static void run_with(struct ask *a, struct buf *ours)
{
    struct buf args = {0};

    if (ask_str(a, "request_id"))
        buf_printf(ours, ",\"ask\":\"%016llx\"", (unsigned long long)clock_random());
    ask_args(a, &args);
    while (args.len && args.data[args.len - 1] != '}')
        args.len--;
    if (args.len)
        args.len--;
    if (!buf_failed(ours))
        buf_put(&args, ours->data, ours->len);
    buf_putc(&args, '}');
    if (buf_failed(&args) || buf_failed(ours))
        ask_failed(a, MUSTER_ENOMEM, "the request could not be written");
    else
        ask_run_with(a, args.data);
    buf_done(&args);
}

/* Asked before this broker knows who is there: then the sweep looks for experts. */
static bool look_request(struct ask *a)
{
    struct help *h = (struct help *)a->w;
    struct buf ours = {0}, experts = {0};

    if (!are_flat(a))
        return false;
    experts_put_session(h, a->msg->tenant, a->msg->agent, &ours);
    buf_printf(&ours, ",\"set\":%s", h->set);
    if (experts_put(h, a->msg->tenant, a->args, a->msg->agent, &experts) || experts_are_known(h, a->msg->tenant)) {
        buf_put_lit(&ours, ",\"candidates\":");
        buf_put(&ours, experts.data, experts.len);
    }
    run_with(a, &ours);
    buf_done(&experts);
    buf_done(&ours);
    return false;
}

/* Its candidates depend on what was asked for then: they are looked for when it is open. */
static bool look_retry(struct ask *a)
{
    struct help *h = (struct help *)a->w;
    struct buf ours = {0};

    experts_put_session(h, a->msg->tenant, a->msg->agent, &ours);
    buf_printf(&ours, ",\"set\":%s", h->set);
    run_with(a, &ours);
    buf_done(&ours);
    return false;
}

static bool look(struct ask *a)
{
    struct buf ours = {0};

    if (!are_flat(a))
        return false;
    experts_put_session((struct help *)a->w, a->msg->tenant, a->msg->agent, &ours);
    run_with(a, &ours);
    buf_done(&ours);
    return false;
}

/* ---- after -------------------------------------------------------------------------------------------------------------- */

/* With a request_id it may be what was answered, and told, before. */
static bool is_new(const struct ask *a, const struct muster_value *more)
{
    const char *said = text_in(more, "ask");

    return !ask_str(a, "request_id") || (said && a->sent.data && strstr(a->sent.data, said));
}

static void done(struct ask *a, const char *ok, size_t len, const struct muster_value *more)
{
    (void)ok;
    (void)len;
    if (is_new(a, more))
        tells_send((struct help *)a->w, a->msg->tenant, more);
}

const struct work_verb help_verbs[] = {
    {"request", "help_request", 0, NULL, look_request, done},
    {"claim", "help_claim", 0, "help_id", look, done},
    {"decline", "help_decline", 0, "help_id", look, done},
    {"answer", "help_answer", 0, "help_id", look, done},
    {"accept", "help_accept", 0, "help_id", look, done},
    {"reject", "help_reject", 0, "help_id", look, done},
    {"escalate", "help_escalate", WORK_ROLE, "help_id", look, done},
    {"resolve", "help_resolve", WORK_ROLE, "help_id", look, done},
    {"withdraw", "help_withdraw", WORK_ROLE, "help_id", look, done},
    {"retry", "help_retry", WORK_ROLE, "help_id", look_retry, done},
    {"get", "help_get", WORK_READS, NULL, NULL, NULL},
    {"list", "help_list", WORK_READS | WORK_PAGED, NULL, NULL, NULL},
    {"history", "help_history", WORK_READS | WORK_PAGED, NULL, NULL, NULL},
    {"stats", "help_stats", WORK_READS, NULL, NULL, NULL},
};
const size_t n_help_verbs = sizeof help_verbs / sizeof *help_verbs;

/* ---- what respond() says ------------------------------------------------------------------------------------------------ */

/* The verb that a body means; what goes with it is put behind args. One that declines, one with a solution answers, any other body claims. */
static const char *read_body(const struct muster_value *doc, struct buf *args)
{
    const struct muster_value *solution = value_in(doc, "solution"), *confidence = value_in(doc, "confidence");

    if (notice_says(doc, "decline", true)) {
        notice_put_reason(doc, args);
        return "decline";
    }
    if (!solution || levels_of(solution) > LEVELS_MAX)
        return "claim";
    buf_put_lit(args, ",\"solution\":");
    notice_put_value(args, solution);
    if (confidence && (value_type(confidence) == MUSTER_INT || value_type(confidence) == MUSTER_FLOAT)) {
        buf_put_lit(args, ",\"confidence\":");
        notice_put_value(args, confidence);
    }
    return "answer";
}

static int refuse(struct help *h, const struct muster_msg *msg, const char *field, const char *message)
{
    return msg->request ? h->work.bus->reply_error(h->work.host, msg->request, "invalid_argument", field, message) : 0;
}

/* human: it is escalated, and a solution resolves it. */
static int respond(struct help *h, const struct muster_msg *msg, const struct buf *id, uint64_t epoch, bool human)
{
    struct muster_value *doc = notice_body(msg);
    struct buf args = {0};
    const char *verb;
    int err;

    buf_put_lit(&args, "{\"help_id\":");
    buf_put_json(&args, id->data, id->len);
    if (human)
        buf_printf(&args, ",\"role\":\"%s\"", work_role(msg));
    else
        buf_printf(&args, ",\"offer\":%llu", (unsigned long long)epoch);
    verb = read_body(doc, &args);
    if (!human)
        experts_put_session(h, msg->tenant, msg->agent, &args);
    buf_putc(&args, '}');
    if (human && strcmp(verb, "answer") != 0)
        err = refuse(h, msg, "solution", "solution: nothing came, a solution was expected");
    else
        err = buf_failed(&args) ? MUSTER_ENOMEM : work_answer(&h->work, msg, human ? "resolve" : verb, args.data);
    value_free(doc);
    buf_done(&args);
    return err;
}

/* What the asker's answer to share_knowledge says of it: only what is said in so many words is a verdict, since libraries answer by themselves.
 * NULL: it has come, and no more. */
static const char *read_verdict(const struct muster_value *doc, struct buf *args)
{
    if (notice_says(doc, "accept", false) || notice_says(doc, "decline", true)) {
        notice_put_reason(doc, args);
        return "reject";
    }
    return notice_says(doc, "accept", true) ? "accept" : NULL;
}

static int judge(struct help *h, const struct muster_msg *msg, const struct buf *id, uint64_t seq)
{
    struct muster_value *doc = notice_body(msg);
    struct buf args = {0};
    const char *verb;
    int err;

    buf_put_lit(&args, "{\"help_id\":");
    buf_put_json(&args, id->data, id->len);
    buf_printf(&args, ",\"seq\":%llu", (unsigned long long)seq);
    verb = read_verdict(doc, &args);
    buf_putc(&args, '}');
    if (!verb)
        err = notice_received(&h->work, msg);
    else
        err = buf_failed(&args) ? MUSTER_ENOMEM : work_answer(&h->work, msg, verb, args.data);
    value_free(doc);
    buf_done(&args);
    return err;
}

enum answering { OF_EXPERT, OF_HUMAN, OF_ASKER };

static int on_respond(struct help *h, const struct muster_msg *msg, enum answering who)
{
    struct buf id = {0};
    uint64_t epoch;
    int err;

    if (!msg->agent || !notice_read_ref(msg->subject, &id, &epoch))
        err = refuse(h, msg, NULL, "ref: the end of a reply subject that came with a message was expected");
    else
        err = who == OF_ASKER ? judge(h, msg, &id, epoch) : respond(h, msg, &id, epoch, who == OF_HUMAN);
    buf_done(&id);
    return err;
}

static int on_claim(void *self, const struct muster_msg *msg)
{
    return on_respond(self, msg, OF_EXPERT);
}

static int on_resolve(void *self, const struct muster_msg *msg)
{
    return on_respond(self, msg, OF_HUMAN);
}

static int on_verdict(void *self, const struct muster_msg *msg)
{
    return on_respond(self, msg, OF_ASKER);
}

int respond_start(struct help *h)
{
    struct muster_subscription sub = {.size = sizeof sub, .queue = 1, .overflow = MUSTER_OVERFLOW_REJECT, .max_msgs = 16384, .max_bytes = 16 << 20};
    uint64_t id;
    int err;

    sub.subject = "rpc.*.help.claim.*";
    sub.fn = on_claim;
    err = h->work.bus->subscribe(h->work.host, &sub, &id);
    if (err)
        return err;
    sub.subject = "rpc.*.help.resolve.*";
    sub.fn = on_resolve;
    err = h->work.bus->subscribe(h->work.host, &sub, &id);
    if (err)
        return err;
    sub.subject = "rpc.*.help.accept.*";
    sub.fn = on_verdict;
    err = h->work.bus->subscribe(h->work.host, &sub, &id);
    return err ? err : notice_receipts(&h->work);
}
