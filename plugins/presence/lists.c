/* list, get and count: what the roster has, with load and last heartbeat as presence knows them. See presence.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "presence/agent.h"
#include "presence/presence.h"
#include "wire/text.h"

enum { LIMIT = 100, ANSWER_BYTES = 900000, LABELS_ASKED = 16 };

/* What is asked for, read from a body. */
struct question {
    struct muster_roster_query query;
    const char *capability;
    struct muster_header labels[LABELS_ASKED];
    struct muster_bytes after; /* where it is none */
};

static int read_after(const struct muster_codec *codec, const struct muster_value *body, struct question *q)
{
    const struct muster_value *v = codec->get(body, "after");
    size_t len;
    const char *s = v ? codec->as_str(v, &len) : NULL;
    char *end;

    if (!s)
        return 0;
    errno = 0;
    q->query.after = strtoull(s, &end, 10);
    if (*s >= '0' && *s <= '9' && end == s + len && !errno)
        return 0;
    q->after = (struct muster_bytes){s, len};
    return MUSTER_EINVAL;
}

static void read_labels(const struct muster_codec *codec, const struct muster_value *map, struct question *q)
{
    size_t n = map ? codec->count(map) : 0, len;

    for (size_t i = 0; i < n && i < LABELS_ASKED; i++) {
        const char *key;
        const struct muster_value *v = codec->key(map, i, &key, &len);

        q->labels[i] = (struct muster_header){key, codec->as_str(v, &len)};
        q->query.n_labels++;
    }
    q->query.labels = q->labels;
}

static int question_read(const struct muster_codec *codec, const struct muster_value *body, struct question *q)
{
    const struct muster_value *status = codec->get(body, "status"), *limit = codec->get(body, "limit"),
                              *capability = codec->get(body, "capability");
    size_t len;

    *q = (struct question){.query = {.size = sizeof q->query, .limit = limit ? (uint32_t)codec->as_int(limit) : LIMIT}};
    if (status)
        q->query.statuses = 1u << status_of(codec->as_str(status, &len));
    if (capability) {
        q->capability = codec->as_str(capability, &len);
        q->query.capabilities = &q->capability;
        q->query.n_capabilities = 1;
    }
    read_labels(codec, codec->get(body, "label"), q);
    return read_after(codec, body, q);
}

static int refuse_after(struct presence *p, const struct muster_msg *msg, const struct question *q)
{
    char came[TEXT_QUOTE_SIZE], why[160];

    (void)snprintf(why, sizeof why, "after: %s came, expected `next` of an answer to list", text_quote(q->after.data, q->after.len, came));
    return p->bus->reply_error(p->host, msg->request, "invalid_argument", "after", why);
}

/* Decode the body of a request and hand it on. */
static int with_question(struct tenancy *t, const struct muster_msg *msg, int (*fn)(struct tenancy *t, const struct muster_msg *msg,
                                                                                     const struct question *q))
{
    struct presence *p = t->p;
    struct question q;
    struct muster_value *body;
    int err = p->codec->decode(p->host, msg->encoding, msg->payload, &body);

    if (err)
        return err;
    err = question_read(p->codec, body, &q);
    err = err ? refuse_after(p, msg, &q) : fn(t, msg, &q);
    p->codec->free_doc(body);
    return err;
}

/* ---- list ----------------------------------------------------------------------------------------------------------------------- */

struct listing {
    struct tenancy *t;
    struct buf *b;
    uint32_t n, limit;
    uint64_t serial; /* of the last one written */
    bool more;
};

/* Under the roster's lock. */
static int list_one(void *arg, const struct muster_agent *agent)
{
    struct listing *l = arg;
    const struct agent *a = agent_find(l->t, agent->agent);
    struct muster_agent copy = *agent;

    if (l->n == l->limit || l->b->len > ANSWER_BYTES) {
        l->more = true;
        return 1;
    }
    if (!a)
        return 0;
    copy.load = a->load;
    if (l->n++)
        buf_putc(l->b, ',');
    agent_write(l->b, l->t->name, &copy, a->beat_wall_ns, NULL);
    l->serial = agent->serial;
    return 0;
}

/* Brokers are told what of the stream is in it: an event of an older epoch behind that was stored late. */
static void put_place(const struct tenancy *t, const struct muster_msg *msg, struct buf *b)
{
    buf_printf(b, ",\"epoch\":%llu,\"seq\":%llu", (unsigned long long)t->epoch, (unsigned long long)t->seq);
    if (strcmp(msg->agent, PRESENCE_ITSELF) == 0)
        buf_printf(b, ",\"stream\":%llu", (unsigned long long)t->shard->acked);
    buf_putc(b, '}');
}

static int list(struct tenancy *t, const struct muster_msg *msg, const struct question *q)
{
    struct buf *b = &t->p->scratch;
    struct listing l = {.t = t, .b = b, .limit = q->query.limit};
    struct muster_roster_query query = q->query;
    int64_t found;

    query.limit = 0; /* one more than asked tells whether there are more */
    buf_clear(b);
    buf_put_lit(b, "{\"agents\":[");
    found = t->p->roster->find(t->p->host, t->tenant, &query, list_one, &l);
    if (found < 0)
        return (int)found;
    buf_putc(b, ']');
    if (l.more)
        buf_printf(b, ",\"next\":\"%llu\"", (unsigned long long)l.serial);
    put_place(t, msg, b);
    return reply_json(t->p, msg, b);
}

int verb_list(struct tenancy *t, const struct muster_msg *msg)
{
    return with_question(t, msg, list);
}

/* ---- get ------------------------------------------------------------------------------------------------------------------------ */

static int get(struct tenancy *t, const struct muster_msg *msg, const struct muster_value *body)
{
    struct presence *p = t->p;
    const struct muster_value *v = p->codec->get(body, "agent");
    size_t len;
    const char *name = v ? p->codec->as_str(v, &len) : NULL;
    const struct agent *a = name ? agent_find(t, name) : NULL;
    char why[128];

    buf_clear(&p->scratch);
    if (a && agent_write_present(&p->scratch, a, NULL, NULL, NULL) == 0)
        return reply_json(p, msg, &p->scratch);
    (void)snprintf(why, sizeof why, "agent: \"%.64s\" is not present", name ? name : "");
    return p->bus->reply_error(p->host, msg->request, "not_found", "agent", why);
}

int verb_get(struct tenancy *t, const struct muster_msg *msg)
{
    struct muster_value *body;
    int err = t->p->codec->decode(t->p->host, msg->encoding, msg->payload, &body);

    if (err)
        return err;
    err = get(t, msg, body);
    t->p->codec->free_doc(body);
    return err;
}

/* ---- count ---------------------------------------------------------------------------------------------------------------------- */

struct counts {
    int64_t all, by_status[4]; /* [0]: suspect */
};

static int count_one(void *arg, const struct muster_agent *agent)
{
    struct counts *n = arg;

    n->all++;
    n->by_status[agent->status <= MUSTER_AGENT_AWAY ? agent->status : 0]++;
    if (agent->flags & MUSTER_AGENT_SUSPECT)
        n->by_status[0]++;
    return 0;
}

static void put_counts(const struct counts *n, struct buf *b)
{
    buf_printf(b, "{\"count\":%lld,\"by_status\":{\"online\":%lld,\"busy\":%lld,\"away\":%lld,\"suspect\":%lld}}", (long long)n->all,
               (long long)n->by_status[MUSTER_AGENT_ONLINE], (long long)n->by_status[MUSTER_AGENT_BUSY],
               (long long)n->by_status[MUSTER_AGENT_AWAY], (long long)n->by_status[0]);
}

/* Kept by hand: counting 100,000 for each answer would hold the lane. */
void count_write(struct tenancy *t, struct buf *b)
{
    const struct counts n = {.all = (int64_t)t->agents.n,
                             .by_status = {t->n_suspect, t->n_status[MUSTER_AGENT_ONLINE], t->n_status[MUSTER_AGENT_BUSY],
                                           t->n_status[MUSTER_AGENT_AWAY]}};

    put_counts(&n, b);
}

static int count(struct tenancy *t, const struct muster_msg *msg, const struct question *q)
{
    struct presence *p = t->p;
    struct counts n = {0};
    struct muster_roster_query query = q->query;
    int64_t found = 0;

    query.limit = 0;
    buf_clear(&p->scratch);
    if (!query.statuses && !query.n_capabilities && !query.n_labels) {
        count_write(t, &p->scratch);
        return reply_json(p, msg, &p->scratch);
    }
    found = p->roster->find(p->host, t->tenant, &query, count_one, &n);
    if (found < 0)
        return (int)found;
    put_counts(&n, &p->scratch);
    return reply_json(p, msg, &p->scratch);
}

int verb_count(struct tenancy *t, const struct muster_msg *msg)
{
    return with_question(t, msg, count);
}
