/*
 * Answers to hello, status and bye; see answers.h.
 *
 * Order    A request with a request_id is begun in muster.requests before anything is decided, and answered when its answer stands there. Of an
 *          agent one such request is under way at a time, so that the same one again finds the answer; what else it asks keeps its place.
 *          Requests without one never wait for PostgreSQL.
 */
#include "presence/answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/request.h"

enum { REQUEST_ID_MAX = 128 };

/* One request with a request_id. A statement under way keeps it alive. */
struct claim {
    struct tenancy *t;
    struct change *change;        /* NULL: it has been finished or dropped */
    const struct muster_msg *msg; /* owned while the answer is being kept; else the change's */
    enum { CLAIM_NEW, CLAIM_ASKING, CLAIM_OURS, CLAIM_ANSWERED, CLAIM_KEEPING } state;
    struct buf outcome; /* the first answer, as it was or as it is to be kept */
    char id[REQUEST_ID_MAX * 4 + 1], agent[NAME_MAX_LEN + 1], digest[REQUEST_DIGEST_SIZE];
};

static void claim_free(struct claim *claim)
{
    buf_done(&claim->outcome);
    free(claim);
}

void claim_end(struct claim *claim)
{
    claim->change = NULL;
    if (claim->state != CLAIM_ASKING && claim->state != CLAIM_KEEPING)
        claim_free(claim);
}

/* ---- the text ------------------------------------------------------------------------------------------------------------------ */

static void put_hello(struct tenancy *t, const struct change *c, struct buf *b)
{
    const struct presence_config *config = t->p->config;
    char now[CLOCK_RFC3339_SIZE];

    clock_rfc3339(t->p->timer->wall_now(t->p->host), now);
    buf_put_lit(b, "{\"session\":");
    buf_put_json(b, c->session, strlen(c->session));
    buf_printf(b, ",\"heartbeat_ms\":%lld,\"dead_after_ms\":%lld,\"grace_ms\":%lld,\"server_time\":\"%s\",\"agents\":%zu,\"epoch\":%llu,\"seq\":%llu}",
               (long long)(config->heartbeat_ns / CLOCK_MS), (long long)(config->dead_after_ns / CLOCK_MS),
               (long long)(config->grace_ns / CLOCK_MS), now, t->agents.n, (unsigned long long)t->epoch, (unsigned long long)t->seq);
}

static void put_answer(struct tenancy *t, const struct change *c, struct buf *b)
{
    if (c->ask == ASK_HELLO)
        put_hello(t, c, b);
    else
        buf_put_lit(b, "{}");
}

static void put_error(const struct change *c, struct buf *b)
{
    buf_printf(b, "{\"code\":\"%s\",\"message\":", c->error);
    buf_put_json(b, c->why, strlen(c->why));
    if (*c->field)
        buf_printf(b, ",\"field\":\"%s\"", c->field);
    buf_putc(b, '}');
}

static void put_outcome(struct tenancy *t, const struct change *c, struct buf *b)
{
    buf_puts(b, c->error ? "{\"error\":" : "{\"ok\":");
    if (c->error)
        put_error(c, b);
    else
        put_answer(t, c, b);
    buf_putc(b, '}');
    buf_putc(b, '\0');
}

/* ---- is it new? ---------------------------------------------------------------------------------------------------------------- */

static void fail(struct change *c, const char *error, const char *why)
{
    c->error = error;
    (void)snprintf(c->field, sizeof c->field, "request_id");
    (void)snprintf(c->why, sizeof c->why, "%s", why);
}

static struct claim *claim_new(struct tenancy *t, struct change *c, const char *id)
{
    struct claim *claim = calloc(1, sizeof *claim);

    if (!claim || request_digest(c->msg, claim->digest) != 0) {
        free(claim);
        fail(c, "resource_exhausted", "the broker has no memory for this; try again");
        return NULL;
    }
    claim->t = t;
    claim->change = c;
    (void)snprintf(claim->id, sizeof claim->id, "%s", id);
    (void)snprintf(claim->agent, sizeof claim->agent, "%s", c->agent);
    return claim;
}

/* NULL: the request has no request_id, or c->error. */
static struct claim *claim_of(struct tenancy *t, struct change *c)
{
    const struct presence *p = t->p;
    struct claim *claim = NULL;
    struct muster_value *body;
    const char *id;

    if (!memmem(c->msg->payload.data, c->msg->payload.len, "request_id", 10))
        return NULL;
    if (p->codec->decode(p->host, c->msg->encoding, c->msg->payload, &body) != 0)
        return NULL; /* decide() says so */
    id = request_text(p, body, "request_id");
    if (id)
        claim = claim_new(t, c, id);
    p->codec->free_doc(body);
    return claim;
}

/* {"ok": {"begun": session}}: carry it out. Anything else has been answered. */
static bool is_begun(const struct claim *claim, const char *outcome)
{
    const struct presence *p = claim->t->p;
    struct muster_value *doc;
    const struct muster_value *ok, *session;
    size_t len;
    bool begun;

    if (!outcome || p->codec->decode(p->host, MUSTER_JSON, request_param(outcome), &doc) != 0)
        return false;
    ok = p->codec->get(doc, "ok");
    session = ok ? p->codec->get(ok, "begun") : NULL;
    begun = session;
    if (begun && p->codec->as_str(session, &len))
        (void)snprintf(claim->change->session, sizeof claim->change->session, "%s", p->codec->as_str(session, &len));
    p->codec->free_doc(doc);
    return begun;
}

static void take_outcome(struct claim *claim, const char *outcome)
{
    claim->state = CLAIM_OURS;
    if (is_begun(claim, outcome))
        return;
    claim->state = CLAIM_ANSWERED;
    buf_puts(&claim->outcome, outcome ? outcome : "");
    buf_putc(&claim->outcome, '\0');
}

static void on_begun(void *arg, const struct muster_sql_result *result)
{
    struct claim *claim = arg;
    struct change *c = claim->change;

    if (!c) {
        claim_free(claim);
        return;
    }
    claim->state = CLAIM_OURS;
    if (result->code)
        fail(c, request_code(result->code), "request_id: the database did not answer, so that nothing was done; ask again");
    else
        take_outcome(claim, result->n_rows ? result->get(result, 0, 0) : NULL);
    changes_soon(claim->t);
}

static int begin(struct claim *claim)
{
    struct tenancy *t = claim->t;
    struct presence *p = t->p;
    struct change *c = claim->change;
    char verb[32], args[SESSION_MAX + 16] = "{}";

    (void)snprintf(verb, sizeof verb, "presence.%s", c->msg->verb);
    if (c->ask == ASK_HELLO) {
        clock_uuid7(c->session); /* of one that names none */
        (void)snprintf(args, sizeof args, "{\"session\":\"%s\"}", c->session);
    }
    return p->death.sql->exec(p->host, p->death.begin, t->tenant, c->agent, 6,
                              (struct muster_bytes[]){request_param(t->name), request_param(c->agent), request_param(verb), request_param(claim->id),
                                                      request_param(claim->digest), request_param(args)},
                              on_begun, claim);
}

bool answers_wait(struct tenancy *t, struct change *c)
{
    if (!c->looked && !c->error)
        c->claim = claim_of(t, c);
    c->looked = true;
    if (!c->claim || c->claim->state == CLAIM_OURS || c->claim->state == CLAIM_ANSWERED)
        return false;
    if (c->claim->state == CLAIM_ASKING || map_get(&t->keeping, c->agent, strlen(c->agent)))
        return true;
    c->claim->state = CLAIM_ASKING;
    if (begin(c->claim) == 0)
        return true;
    c->claim->state = CLAIM_OURS;
    fail(c, "unavailable", "request_id: the database cannot be asked now, so that nothing was done; ask again");
    return false;
}

bool change_is_answered(const struct change *c)
{
    return c->claim && c->claim->state == CLAIM_ANSWERED;
}

/* ---- the answer is kept -------------------------------------------------------------------------------------------------------- */

static void not_kept(const struct claim *claim)
{
    const struct presence *p = claim->t->p;

    if (claim->msg->request)
        (void)p->bus->reply_error(p->host, claim->msg->request, "unavailable", "request_id",
                                  "request_id: it is done, but the database did not keep the answer; the same request again gets one");
}

static void kept(struct claim *claim, int code)
{
    struct tenancy *t = claim->t;

    if (code)
        not_kept(claim);
    else if (claim->msg->request)
        request_tell(t->p, claim->msg, claim->outcome.data);
    t->p->bus->drop(t->p->host, claim->msg);
    (void)map_take(&t->keeping, claim->agent, strlen(claim->agent));
    claim_free(claim);
    if (t->waiting)
        changes_soon(t);
}

static void on_kept(void *arg, const struct muster_sql_result *result)
{
    kept(arg, result->code);
}

/* A parameter's last byte is not the end of the text. */
static struct muster_bytes text_of(const struct buf *b)
{
    return (struct muster_bytes){b->data, b->len - 1};
}

static void keep(struct claim *claim)
{
    struct tenancy *t = claim->t;
    struct presence *p = t->p;
    struct change *c = claim->change;
    char verb[32];
    int err;

    (void)snprintf(verb, sizeof verb, "presence.%s", c->msg->verb);
    put_outcome(t, c, &claim->outcome);
    claim->msg = c->msg;
    c->msg = NULL;
    claim->change = NULL;
    claim->state = CLAIM_KEEPING;
    err = buf_failed(&claim->outcome) || !map_put(&t->keeping, claim->agent, strlen(claim->agent), claim) ? MUSTER_ENOMEM : 0;
    if (!err)
        err = p->death.sql->exec(p->host, p->death.answered, t->tenant, claim->agent, 5,
                                 (struct muster_bytes[]){request_param(t->name), request_param(claim->agent), request_param(verb),
                                                         request_param(claim->id), text_of(&claim->outcome)},
                                 on_kept, claim);
    if (err)
        kept(claim, err);
}

/* These say nothing about the request: it is meant to be made again, under the same id. */
static bool is_passing(const char *error)
{
    static const char *const codes[] = {"unavailable", "resource_exhausted", "deadline_exceeded", "internal"};

    for (size_t i = 0; error && i < sizeof codes / sizeof *codes; i++)
        if (strcmp(error, codes[i]) == 0)
            return true;
    return false;
}

/* ---- the answer ---------------------------------------------------------------------------------------------------------------- */

static void answer(struct tenancy *t, const struct change *c)
{
    struct presence *p = t->p;

    if (!c->msg || !c->msg->request)
        return;
    if (c->error) {
        (void)p->bus->reply_error(p->host, c->msg->request, c->error, *c->field ? c->field : NULL, c->why);
        return;
    }
    if (change_is_answered(c)) {
        request_tell(p, c->msg, c->claim->outcome.data);
        return;
    }
    buf_clear(&p->scratch);
    put_answer(t, c, &p->scratch);
    (void)reply_json(p, c->msg, &p->scratch);
}

void change_finish(struct tenancy *t, struct change *c)
{
    struct claim *claim = c->claim;

    if (claim && claim->state == CLAIM_OURS && !is_passing(c->error)) {
        c->claim = NULL;
        keep(claim);
    } else {
        answer(t, c);
    }
    change_free(t, c);
}

int answers_prepare(struct presence *p)
{
    int err = p->death.sql->prepare(p->host, "presence_begin", MUSTER_SQL_WRITE,
                                    "SELECT muster.once($1, $2, $3, $4, $5::bytea, 'presence_begin', $6::jsonb)", &p->death.begin);

    return err ? err : p->death.sql->prepare(p->host, "presence_done", MUSTER_SQL_WRITE,
                                             "SELECT muster.presence_done($1, $2, $3, $4, $5::jsonb)", &p->death.answered);
}
