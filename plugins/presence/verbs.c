/*
 * Who asks what. Every broker hears every request; the holder of the tenant's shard answers, and the others take it as a sign of life. A
 * broker that is just taking the shard over keeps what changes something until it leads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "common/late.h"
#include "presence/agent.h"
#include "presence/presence.h"

enum { REQUESTS_MAX = 65536, REQUESTS_BYTES = 64 << 20 };

int recode(struct presence *p, struct muster_bytes json, struct muster_writer **ret_writer, struct muster_bytes *ret_bytes)
{
    struct muster_value *doc;
    struct muster_writer *w;
    int err = p->codec->decode(p->host, MUSTER_JSON, json, &doc);

    if (err)
        return err;
    err = p->codec->writer_new(p->host, MUSTER_MSGPACK, &w);
    if (!err) {
        p->codec->put_value(w, doc);
        err = p->codec->bytes(w, ret_bytes);
        *ret_writer = w;
        if (err) {
            p->codec->writer_free(w);
            *ret_writer = NULL;
        }
    }
    p->codec->free_doc(doc);
    return err;
}

int reply_json(struct presence *p, const struct muster_msg *msg, const struct buf *json)
{
    struct muster_bytes bytes = {json->data, json->len};
    struct muster_writer *w = NULL;
    int err;

    if (!msg->request)
        return 0;
    err = buf_failed(json) ? MUSTER_ENOMEM : msg->encoding == MUSTER_MSGPACK ? recode(p, bytes, &w, &bytes) : 0;
    if (!err)
        err = p->bus->reply(p->host, msg->request, bytes);
    if (w)
        p->codec->writer_free(w);
    return err;
}

/* ---- beats ---------------------------------------------------------------------------------------------------------------------- */

static const double load_step = 0.1; /* of the load before: a smaller change is not worth telling those who watch the roster */

/* The roster's copy gets what is not in an event by being written, read and put again. */
void roster_put_again(struct agent *a)
{
    struct presence *p = a->tenancy->p;
    struct buf json = {0};
    struct muster_value *body;
    struct said said;

    if (agent_write_present(&json, a, NULL, NULL, NULL) == 0 && !buf_failed(&json) &&
        p->codec->decode(p->host, MUSTER_JSON, (struct muster_bytes){json.data, json.len}, &body) == 0) {
        if (said_read(p, body, &said) == 0) {
            said.agent.flags |= death_is_late(a) ? AGENT_IS_LATE : 0;
            if (p->roster->put(p->host, a->tenancy->tenant, MUSTER_ROSTER_STATUS, NULL, &said.agent) == 0)
                a->load_put = (float)a->load;
            said_done(&said);
        }
        p->codec->free_doc(body);
    }
    buf_done(&json);
}

static void take_load(struct agent *a, const struct muster_msg *msg)
{
    const struct muster_codec *codec = a->tenancy->p->codec;
    struct muster_value *body;
    const struct muster_value *load;

    if (codec->decode(a->tenancy->p->host, msg->encoding, msg->payload, &body) != 0)
        return; /* cannot be: the broker has checked it */
    load = codec->get(body, "load");
    if (load)
        a->load = codec->as_float(load);
    codec->free_doc(body);
    if (load && !(fabs(a->load - a->load_put) < load_step * fmax(fabs(a->load_put), load_step)))
        roster_put_again(a);
}

static int answer_beat(struct tenancy *t, const struct muster_msg *msg)
{
    struct presence *p = t->p;
    static char empty[] = "{}";
    const struct buf nothing = {.data = empty, .len = 2};

    if (!agent_find(t, msg->agent))
        return p->bus->reply_error(p->host, msg->request, "failed_precondition", NULL, "this agent is not present: say hello first");
    return reply_json(p, msg, &nothing);
}

/* By the clock, too: who was stopped for a while finds what was asked long ago before it hears that another leads. */
static bool leads_now(const struct tenancy *t)
{
    const struct shard *s = t->shard;

    return tenancy_leads(t) && s->p->lease->epoch(s->p->host, s->lease) == s->epoch;
}

/* What only the holder needs to hear. */
static int ask(struct tenancy *t, const struct muster_msg *msg, int (*fn)(struct tenancy *t, const struct muster_msg *msg))
{
    if (!msg->request)
        return 0;
    return leads_now(t) ? fn(t, msg) : asks_keep(t, msg);
}

/* An unchanged beat is no more than this: found, and its time noted. */
static int beat(struct tenancy *t, const struct muster_msg *msg)
{
    struct presence *p = t->p;
    struct agent *a = agent_find(t, msg->agent);
    uint64_t digest;

    if (a) {
        digest = hash_bytes(msg->payload.data, msg->payload.len);
        agent_heard(a, msg->recv_ns);
        p->metrics->add(p->host, p->m.beats, NULL, 1);
        if (digest != a->beat_digest)
            take_load(a, msg);
        a->beat_digest = digest;
    }
    return ask(t, msg, answer_beat);
}

/* ---- what changes something ------------------------------------------------------------------------------------------------------ */

static int change(struct tenancy *t, const struct muster_msg *msg)
{
    const struct presence *p = t->p;
    struct agent *a = agent_find(t, msg->agent);

    if (a)
        agent_heard(a, msg->recv_ns);
    if (a && strcmp(msg->verb, "status") == 0)
        a->task_ns = a->beat_ns; /* it gets on with it, also where it says the same again */
    if (t->shard->state == SHARD_FOLLOWS)
        return 0;
    if (*msg->agent == '_')
        return !msg->request ? 0 : p->bus->reply_error(p->host, msg->request, "permission_denied", NULL, "an operator of another tenant is none of its agents");
    return change_request(t, msg);
}

typedef int (*verb_fn)(struct tenancy *t, const struct muster_msg *msg);

static const struct {
    const char *verb;
    verb_fn heard, answer; /* by all; by the holder alone */
} verbs[] = {
    {"beat", beat, answer_beat},  {"status", change, NULL},    {"hello", change, NULL},     {"bye", change, NULL},
    {"get", NULL, verb_get},      {"list", NULL, verb_list},   {"count", NULL, verb_count},
};

int verb_answer(struct tenancy *t, const struct muster_msg *msg)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(msg->verb, verbs[i].verb) == 0)
            return verbs[i].answer(t, msg);
    return 0;
}

static int on_request(void *self, const struct muster_msg *msg)
{
    struct presence *p = self;
    struct tenancy *t = tenancy_of(p, msg->tenant);

    if (!t || !msg->agent)
        return t ? 0 : MUSTER_ENOMEM;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(msg->verb, verbs[i].verb) == 0)
            return verbs[i].heard ? verbs[i].heard(t, msg) : ask(t, msg, verbs[i].answer);
    return 0;
}

/* One subscription for all, because an agent's hello, status and beats keep their order then. */
int verbs_start(struct presence *p)
{
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .overflow = MUSTER_OVERFLOW_REJECT,
                                            .subject = "rpc.*.presence.*",
                                            .max_msgs = REQUESTS_MAX,
                                            .max_bytes = REQUESTS_BYTES,
                                            .fn = on_request};
    uint64_t id;

    return p->bus->subscribe(p->host, &sub, &id);
}
