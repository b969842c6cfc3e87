/*
 * Events of the holder on their way: changes of one kind are one event each, or digests of many; they are appended one after another, and
 * take effect when they are stored, in that order. See presence.h.
 */
#include "presence/flights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/agent.h"
#include "presence/answers.h"

enum { DIGEST_BYTES = 500000 };

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

/* ---- stored ------------------------------------------------------------------------------------------------------------------- */

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
        change_finish(t, c);
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

/* ---- appended ----------------------------------------------------------------------------------------------------------------- */

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

enum { HEADERS = 4 };

/* The position, and the trace of the request where the event is of one alone. */
static uint32_t fill_headers(const struct flight *f, const char *epoch, const char *seq, struct muster_header out[HEADERS])
{
    const struct muster_msg *msg = f->changes->next ? NULL : f->changes->msg;
    uint32_t n = 0;

    out[n++] = (struct muster_header){"Muster-Epoch", epoch};
    out[n++] = (struct muster_header){"Muster-Seq", seq};
    for (uint32_t i = 0; msg && i < msg->n_headers && n < HEADERS; i++)
        if (strcmp(msg->headers[i].name, "traceparent") == 0 || strcmp(msg->headers[i].name, "tracestate") == 0)
            out[n++] = msg->headers[i];
    return n;
}

static int append(struct tenancy *t, struct flight *f)
{
    struct presence *p = t->p;
    struct shard *s = t->shard;
    char subject[sizeof "pres.16.suspect." + NAME_MAX_LEN], epoch[BUF_U64_SIZE], seq[BUF_U64_SIZE];
    struct muster_header headers[HEADERS];
    struct muster_writer *w;
    struct muster_append a = {.size = sizeof a,
                              .n_headers = fill_headers(f, buf_u64(s->epoch, epoch), buf_u64(f->seq, seq), headers),
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

int flights_send(struct tenancy *t, int kind, struct change *list, size_t n)
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
            changes_put_back(t, f->changes);
            flight_free(f);
        }
    }
    changes_put_back(t, list);
    return err;
}

struct change *flights_end(struct tenancy *t)
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
    return all;
}
