/* What agents are told when a change is committed: request_help, share_knowledge, help_cancel. It is live; who was not there asks `get`. */
#include <string.h>

#include "common/metric_list.h"
#include "common/work/ask.h"
#include "common/work/notice.h"
#include "help/help.h"

static bool is_true(const struct muster_value *v)
{
    return v && value_type(v) == MUSTER_BOOL && value_int(v);
}

/* Where respond() goes: a claim or an answer, of a human what resolves it, of the asker a verdict on the answer of this moment (seq). */
static void put_reply(struct buf *b, const char *agent, const struct muster_value *body, const struct muster_value *seq)
{
    const struct muster_value *n = seq ? seq : value_in(body, "epoch");
    const char *help_id = text_in(body, "help_id");

    buf_printf(b, "rpc.%s.help.%s.", agent, seq ? "accept" : is_true(value_in(body, "escalated")) ? "resolve" : "claim");
    notice_ref(b, help_id ? help_id : "", n ? (uint64_t)value_int(n) : 0);
}

/* Who is asked may answer before the event of it has come. */
static void note(struct help *h, const struct muster_tenant *tenant, const char *agent, const struct muster_value *body)
{
    const char *names[2] = {agent, text_in(body, "from")}, *help_id = text_in(body, "help_id");

    if (help_id && names[1])
        known_add(&h->known, h->work.tenants->name(tenant), help_id, names, 2);
}

static void tell_one(struct help *h, const struct muster_tenant *tenant, const char *agent, const struct muster_value *message, const struct buf *json)
{
    const char *type = text_in(message, "type");
    const struct muster_value *body = value_in(message, "body"), *verdict = value_in(message, "verdict");
    bool answer = is_true(value_in(message, "answer"));
    struct buf reply = {0};
    int err;

    if (answer)
        note(h, tenant, agent, body);
    if (answer || verdict)
        put_reply(&reply, agent, body, verdict);
    err = buf_failed(&reply) ? MUSTER_ENOMEM : notice_send(&h->work, tenant, agent, type, reply.data, json);
    h->work.metrics->add(h->work.host, err ? h->m_untold : h->m_told, type, 1);
    buf_done(&reply);
}

static void tell(struct help *h, const struct muster_tenant *tenant, const struct muster_value *message)
{
    const struct muster_value *to = value_in(message, "to"), *body = value_in(message, "body");
    struct buf json = {0};

    if (!to || !body || !text_in(message, "type"))
        return;
    notice_put_value(&json, body);
    for (size_t i = 0; i < value_count(to) && !buf_failed(&json); i++)
        if (value_str(value_at(to, i), NULL))
            tell_one(h, tenant, value_str(value_at(to, i), NULL), message, &json);
    buf_done(&json);
}

static const struct muster_tenant *tenant_of(struct help *h, const struct muster_tenant *tenant, const struct muster_value *one)
{
    const char *name = text_in(one, "tenant");

    return name ? h->work.tenants->find(h->work.host, name, strlen(name)) : tenant;
}

static void send_one(struct help *h, const struct muster_tenant *tenant, const struct muster_value *outcome)
{
    const struct muster_value *messages = value_in(outcome, "tell"), *offer = value_in(outcome, "offer");

    if (!tenant)
        return; /* it has gone */
    for (size_t i = 0; messages && i < value_count(messages); i++)
        tell(h, tenant, value_at(messages, i));
    if (offer)
        experts_look(h, tenant, offer);
}

void tells_send(struct help *h, const struct muster_tenant *tenant, const struct muster_value *outcome)
{
    const struct muster_value *done = value_in(outcome, "done");

    send_one(h, tenant_of(h, tenant, outcome), outcome);
    for (size_t i = 0; done && i < value_count(done); i++)
        send_one(h, tenant_of(h, tenant, value_at(done, i)), value_at(done, i));
}

void tells_of_result(struct help *h, const struct muster_tenant *tenant, const struct muster_sql_result *result)
{
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);
    struct muster_value *doc;
    struct wire_error error;

    if (result->code)
        h->work.host->log(h->work.host, MUSTER_LOG_DEBUG, "a statement failed: %s", result->error);
    if (!text || value_decode(MUSTER_JSON, ask_param(text), &doc, &error) != 0)
        return;
    tells_send(h, tenant, doc);
    value_free(doc);
}

int tells_create(struct help *h)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_COUNTER, "told_total", "What agents were told of requests for help.", "type", &h->m_told},
        {MUSTER_COUNTER, "untold_total", "What could not be sent.", "type", &h->m_untold},
    };
    int err = metric_list_make(h->work.host, h->work.metrics, wanted, sizeof wanted / sizeof *wanted);

    if (!err)
        err = h->work.sql->prepare(h->work.host, "help_offer", MUSTER_SQL_WRITE, "SELECT muster.help_offer($1, '_muster', $2::jsonb)", &h->offer);
    return err;
}
