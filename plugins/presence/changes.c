/*
 * What the holder of a shard decides, in order an agent: see presence.h.
 *
 * While events of a tenant are under way, what comes for it waits, and goes out together when they are stored: a storm of joins becomes a
 * few digests. An agent has one change in each such round, so that the next one is decided on what is stored.
 *
 * Nothing is decided twice: what may be stored or not, because an append was not acknowledged, waits again until the stream has been read,
 * and then finds its own event there or not (a status that is there changes nothing).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/agent.h"
#include "presence/decide.h"
#include "presence/presence.h"

enum { ROUND_MAX = 4000, DIGEST_BYTES = 500000 };

/* An event on its way. Freed when its acknowledgement, or the end of it, has come. */
struct flight {
    struct flight *next;
    struct shard *shard;
    uint32_t generation;
    struct tenancy *tenancy;
    int kind;
    uint64_t seq;
    bool stored; /* as a later acknowledgement told */
    struct change *changes;
    struct buf body;
};

/* What struct agent says is asked for: by death.h only, and one thing at a time. */
static const uint8_t asked_kinds[ASKS] = {[ASK_LEAVE] = KIND_LEAVE, [ASK_SUSPECT] = KIND_SUSPECT, [ASK_TRUST] = KIND_STATUS};

/* ---- the queue ------------------------------------------------------------------------------------------------------------------ */

static void run_posted(void *arg)
{
    struct tenancy *t = arg;

    t->posted = false;
    changes_run(t);
}

/* Never at once: what asks may be in the middle of what took effect just now. */
static void changes_soon(struct tenancy *t)
{
    if (!t->posted && t->p->host->post(t->p->host, run_posted, t) == 0)
        t->posted = true; /* otherwise the tick does it */
}

static void append_change(struct tenancy *t, struct change *c)
{
    c->next = NULL;
    *t->waiting_end = c;
    t->waiting_end = &c->next;
    t->n_waiting++;
    t->p->n_waiting++;
}

/* A list of changes in front of those that wait. */
static void put_back(struct tenancy *t, struct change *list)
{
    struct change **end = &list;

    while (*end) {
        t->n_waiting++;
        t->p->n_waiting++;
        end = &(*end)->next;
    }
    *end = t->waiting;
    if (!t->waiting)
        t->waiting_end = end == &list ? &t->waiting : end;
    t->waiting = list;
}

static void unlink_change(struct tenancy *t, struct change **link)
{
    struct change *c = *link;

    *link = c->next;
    if (!*link)
        t->waiting_end = link;
    c->next = NULL;
    t->n_waiting--;
    t->p->n_waiting--;
}

static struct change *change_new(struct tenancy *t, int ask, const char *agent, const char *session, const char *reason)
{
    struct change *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->ask = ask;
    c->reason = reason;
    c->since_ns = t->p->timer->now(t->p->host);
    (void)snprintf(c->agent, sizeof c->agent, "%s", agent);
    (void)snprintf(c->session, sizeof c->session, "%s", session);
    return c;
}

static void change_free(struct tenancy *t, struct change *c)
{
    struct agent *a = agent_find(t, c->agent);

    if (a && asked_kinds[c->ask] && strcmp(a->session, c->session) == 0)
        a->asked = 0;
    if (c->msg)
        t->p->bus->drop(t->p->host, c->msg);
    buf_done(&c->body);
    free(c->replaced);
    free(c);
}

static int ask(struct agent *a, int what, const char *reason)
{
    struct tenancy *t = a->tenancy;
    struct change *c;

    if (!tenancy_leads(t))
        return MUSTER_ESTALE;
    if (a->asked)
        return 0;
    c = change_new(t, what, a->name, a->session, reason);
    if (!c)
        return MUSTER_ENOMEM;
    a->asked = asked_kinds[what];
    append_change(t, c);
    changes_soon(t);
    return 0;
}

int change_leave(struct agent *a, const char *reason)
{
    return ask(a, ASK_LEAVE, reason);
}

int change_suspect(struct agent *a, const char *reason)
{
    return a->suspect ? 0 : ask(a, ASK_SUSPECT, reason);
}

int change_trust(struct agent *a)
{
    return a->suspect ? ask(a, ASK_TRUST, NULL) : 0;
}

void change_count(struct tenancy *t)
{
    struct change *c = change_new(t, ASK_COUNT, "_", "", NULL);

    if (!c)
        return; /* the next second asks again */
    append_change(t, c);
    changes_soon(t);
}

static int ask_of(const char *verb)
{
    return strcmp(verb, "hello") == 0 ? ASK_HELLO : strcmp(verb, "status") == 0 ? ASK_STATUS : ASK_BYE;
}

int change_request(struct tenancy *t, const struct muster_msg *msg)
{
    struct change *c = change_new(t, ask_of(msg->verb), msg->agent, "", NULL);
    int err = c ? t->p->bus->hold(t->p->host, msg, &c->msg) : MUSTER_ENOMEM;

    if (err) {
        free(c);
        return err;
    }
    append_change(t, c);
    changes_soon(t);
    return 0;
}

/* ---- answers -------------------------------------------------------------------------------------------------------------------- */

static void answer_hello(struct tenancy *t, const struct change *c)
{
    const struct presence_config *config = t->p->config;
    struct buf *b = &t->p->scratch;
    char now[CLOCK_RFC3339_SIZE];

    clock_rfc3339(t->p->timer->wall_now(t->p->host), now);
    buf_clear(b);
    buf_put_lit(b, "{\"session\":");
    buf_put_json(b, c->session, strlen(c->session));
    buf_printf(b, ",\"heartbeat_ms\":%lld,\"dead_after_ms\":%lld,\"grace_ms\":%lld,\"server_time\":\"%s\",\"agents\":%zu,\"epoch\":%llu,\"seq\":%llu}",
               (long long)(config->heartbeat_ns / CLOCK_MS), (long long)(config->dead_after_ns / CLOCK_MS),
               (long long)(config->grace_ns / CLOCK_MS), now, t->agents.n, (unsigned long long)t->epoch, (unsigned long long)t->seq);
    (void)reply_json(t->p, c->msg, b);
}

static void answer(struct tenancy *t, const struct change *c)
{
    static char empty[] = "{}";
    const struct buf nothing = {.data = empty, .len = 2};

    if (!c->msg || !c->msg->request)
        return;
    if (c->error)
        (void)t->p->bus->reply_error(t->p->host, c->msg->request, c->error, *c->field ? c->field : NULL, c->why);
    else if (c->ask == ASK_HELLO)
        answer_hello(t, c);
    else
        (void)reply_json(t->p, c->msg, &nothing);
}

static void finish(struct tenancy *t, struct change *c)
{
    answer(t, c);
    change_free(t, c);
}

/* ---- appends -------------------------------------------------------------------------------------------------------------------- */

static void tell_sessions(struct tenancy *t, const struct flight *f, const struct change *c)
{
    const struct session_event event = {
        .tenancy = t,
        .kind = f->kind,
        .agent = c->agent,
        .session = c->session,
        .replaced = c->replaced,
        .reason = c->reason,
        .body = {f->body.data + c->at, c->len},
        .epoch = t->shard->epoch,
    };

    sessions_stored(t->p, &event);
}

static void apply_change(struct tenancy *t, const struct flight *f, struct change *c)
{
    struct muster_value *body;

    if (f->kind == KIND_COUNT)
        return;
    if (t->p->codec->decode(t->p->host, MUSTER_JSON, (struct muster_bytes){f->body.data + c->at, c->len}, &body) != 0) {
        t->p->host->log(t->p->host, MUSTER_LOG_ERROR, "the event of agent %s of tenant %s cannot be read", c->agent, t->name);
        return;
    }
    apply_event(t, f->kind, body);
    t->p->codec->free_doc(body);
    tell_sessions(t, f, c);
}

static void take_effect(struct tenancy *t, struct flight *f)
{
    struct presence *p = t->p;
    int64_t now = p->timer->now(p->host);

    t->epoch = t->shard->epoch;
    t->seq = f->seq;
    p->metrics->add(p->host, p->m.events, kind_name(f->kind), 1);
    for (struct change *c = f->changes, *next; c; c = next) {
        next = c->next;
        apply_change(t, f, c);
        p->metrics->observe(p->host, p->m.store, now - c->since_ns);
        finish(t, c);
    }
    f->changes = NULL;
}

static void flight_free(struct flight *f)
{
    buf_done(&f->body);
    free(f);
}

/* All up to f are stored. */
static void stored(struct tenancy *t, struct flight *f)
{
    struct flight *head;

    do {
        head = t->flights;
        t->flights = head->next;
        if (!t->flights)
            t->flights_end = &t->flights;
        take_effect(t, head);
        head->stored = true;
    } while (head != f);
    if (!t->flights)
        changes_run(t);
}

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct flight *f = arg;
    struct shard *s = f->shard;

    if (f->generation == s->generation && code)
        shard_failed(s, code);
    else if (f->generation == s->generation && seq > s->acked)
        s->acked = seq;
    if (f->generation == s->generation && !f->stored && !code)
        stored(f->tenancy, f);
    flight_free(f);
}

/* The body as JSON in f->body, or as the tenant wants it in `out`, which is the caller's. */
static struct muster_bytes encoded(struct tenancy *t, const struct flight *f, struct muster_writer **ret_writer)
{
    struct muster_tenant_limits limits = {.size = sizeof limits};
    struct muster_bytes json = {f->body.data, f->body.len}, bytes;

    *ret_writer = NULL;
    if (t->p->tenants->limits(t->p->host, t->tenant, &limits) != 0 || limits.encoding != MUSTER_MSGPACK)
        return json;
    return recode(t->p, json, ret_writer, &bytes) == 0 ? bytes : json;
}

static int append(struct tenancy *t, struct flight *f)
{
    struct presence *p = t->p;
    struct shard *s = t->shard;
    char subject[sizeof "pres.16.suspect." + NAME_MAX_LEN], epoch[BUF_U64_SIZE], seq[BUF_U64_SIZE];
    const struct muster_header headers[] = {{"Muster-Epoch", buf_u64(s->epoch, epoch)}, {"Muster-Seq", buf_u64(f->seq, seq)}};
    struct muster_writer *w;
    struct muster_append a = {.size = sizeof a,
                              .n_headers = 2,
                              .tenant = t->tenant,
                              .subject = subject,
                              .headers = headers,
                              .payload = encoded(t, f, &w),
                              .expected_seq = s->sent,
                              .acked = on_ack,
                              .arg = f,
                              .lease = s->lease};
    int err;

    (void)snprintf(subject, sizeof subject, "pres.%u.%s.%s", s->n, kind_name(f->kind), f->changes->next ? "_" : f->changes->agent);
    err = buf_failed(&f->body) ? MUSTER_ENOMEM : p->stream->append(p->host, s->stream, &a);
    if (w)
        p->codec->writer_free(w);
    return err;
}

/* Send it; its changes wait again where that cannot be. */
static int fly(struct tenancy *t, struct flight *f)
{
    int err;

    f->seq = t->sent_seq + 1;
    err = append(t, f);
    if (err)
        return err;
    t->sent_seq++;
    t->shard->sent++;
    *t->flights_end = f;
    t->flights_end = &f->next;
    if (f->changes->next)
        t->p->metrics->add(t->p->host, t->p->m.digests, NULL, 1);
    return 0;
}

static struct flight *flight_new(struct tenancy *t, int kind)
{
    struct flight *f = calloc(1, sizeof *f);

    if (f)
        *f = (struct flight){.shard = t->shard, .generation = t->shard->generation, .tenancy = t, .kind = kind};
    return f;
}

/* Move the body of c into f. */
static void load(struct flight *f, struct change *c)
{
    c->at = f->body.len;
    c->len = c->body.len;
    buf_put(&f->body, c->body.data, c->body.len);
    buf_done(&c->body);
}

/* Take changes off the list into one event: one, or as many as make a digest. */
static void fill(struct tenancy *t, struct flight *f, struct change **list, bool digest)
{
    struct change **end = &f->changes;
    char now[CLOCK_RFC3339_SIZE];
    size_t n = 0;

    if (digest)
        buf_put_lit(&f->body, "{\"agents\":[");
    while (*list && (n == 0 || (digest && n < DIGEST_MAX && f->body.len < DIGEST_BYTES))) {
        struct change *c = *list;

        *list = c->next;
        c->next = NULL;
        *end = c;
        end = &c->next;
        if (n++)
            buf_putc(&f->body, ',');
        load(f, c);
    }
    if (!digest)
        return;
    clock_rfc3339(t->p->timer->wall_now(t->p->host), now);
    buf_printf(&f->body, "],\"at\":\"%s\"}", now);
}

/* Send the changes of one kind. What could not be sent waits again. */
static int send_kind(struct tenancy *t, int kind, struct change *list, size_t n)
{
    bool digest = n > (size_t)t->p->config->digest_above && kind != KIND_COUNT;
    int err = 0;

    while (list && !err) {
        struct flight *f = flight_new(t, kind);

        err = f ? 0 : MUSTER_ENOMEM;
        if (f)
            fill(t, f, &list, digest);
        if (f)
            err = fly(t, f);
        if (!err)
            continue;
        if (f) {
            put_back(t, f->changes);
            flight_free(f);
        }
    }
    put_back(t, list);
    return err;
}

/* ---- rounds --------------------------------------------------------------------------------------------------------------------- */

struct round {
    struct change *lists[KINDS], **ends[KINDS];
    size_t n[KINDS];
    struct map seen; /* agents that have had their change in this round */
};

static void take(struct tenancy *t, struct round *r, struct change *c)
{
    int kind = decide(t, c);

    if (!kind) {
        finish(t, c);
        return;
    }
    *r->ends[kind] = c;
    r->ends[kind] = &c->next;
    r->n[kind]++;
}

static void gather(struct tenancy *t, struct round *r)
{
    struct change **link = &t->waiting;
    uint32_t n = 0;

    while (*link && n++ < ROUND_MAX) {
        struct change *c = *link;
        size_t len = strlen(c->agent);

        if (map_get(&r->seen, c->agent, len)) {
            link = &c->next;
            continue;
        }
        unlink_change(t, link);
        if (!map_put(&r->seen, c->agent, len, c))
            c->error = "resource_exhausted"; /* decide() leaves it so */
        take(t, r, c);
    }
}

void changes_run(struct tenancy *t)
{
    struct round r = {0};
    int err = 0;

    if (!tenancy_leads(t) || t->flights || !t->waiting)
        return;
    for (int i = 0; i < KINDS; i++)
        r.ends[i] = &r.lists[i];
    gather(t, &r);
    map_done(&r.seen);
    for (int i = 0; i < KINDS; i++)
        if (err)
            put_back(t, r.lists[i]);
        else
            err = send_kind(t, i, r.lists[i], r.n[i]);
    if (!err && !t->flights && t->waiting)
        changes_soon(t); /* nothing of the round was an event */
    else if (err && err != MUSTER_EAGAIN)
        t->p->host->log(t->p->host, MUSTER_LOG_DEBUG, "events of tenant %s wait (error %d)", t->name, err); /* the tick goes on */
}

/* ---- the end of a lead ---------------------------------------------------------------------------------------------------------- */

void changes_take_back(struct tenancy *t)
{
    struct change *all = NULL, **end = &all;

    for (struct flight *f = t->flights; f; f = f->next) {
        *end = f->changes;
        while (*end)
            end = &(*end)->next;
        f->changes = NULL; /* the flight itself ends with its acknowledgement */
    }
    t->flights = NULL;
    t->flights_end = &t->flights;
    put_back(t, all);
}

void changes_drop(struct tenancy *t)
{
    changes_take_back(t);
    while (t->waiting) {
        struct change *c = t->waiting;

        unlink_change(t, &t->waiting);
        c->error = "unavailable";
        (void)snprintf(c->why, sizeof c->why, "another broker keeps the roster of this tenant now; ask again");
        finish(t, c);
    }
}
