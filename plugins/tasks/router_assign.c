/*
 * A pair becomes an assignment: one item in the group commit, under the shard's fence, and after it the message to the agent. What could not be
 * sent waits; who holds it is told when NATS is there again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/work/notice.h"
#include "common/work/outcome.h"
#include "tasks/router_parts.h"

enum { ASSIGNING_MAX = 1024, /* of all tenants; one has 128 at most */ TELLS_MAX = 64, UNSENT_MAX = 4096, UNSENT_BYTES = 64 << 20 };
static const int64_t unsent_ns = 300 * CLOCK_S;
static const int64_t first_ago_ns = 15 * CLOCK_S, again_ago_ns = 120 * CLOCK_S; /* how old an assignment may be that is sent, or sent again */

struct giving {
    struct question q;
    struct task *task;
    struct match_tenant *m;
    int64_t since_ns;
    uint64_t fence_epoch;
    bool pulls;
    char *agent, *session; /* behind the id */
    char task_id[];
};

int assign_create(struct router *r)
{
    const struct {
        const char *name, *sql;
        uint64_t *stmt;
    } wanted[] = {
        {"task_give", "SELECT muster.task_give($1, $2, $3, $4, $5::int, $6::boolean, 5000, $7, $8::bigint, '_muster')", &r->stmt.assign},
        {"task_unroutable", "SELECT muster.task_unroutable($1, '_muster', $2::jsonb)", &r->stmt.unroutable},
        {"task_session_lost", "SELECT muster.task_session_lost($1, '_muster', $2::jsonb)", &r->stmt.session_lost},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = r->w->sql->prepare(r->w->host, wanted[i].name, MUSTER_SQL_WRITE, wanted[i].sql, wanted[i].stmt);
    return err;
}

/* ---- delivery ----------------------------------------------------------------------------------------------------------- */

static int publish(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *reply, struct muster_bytes body, bool again)
{
    static const struct muster_header redelivery = {"Muster-Redelivery", "1"};
    char subject[128];
    struct muster_publication pub = {.size = sizeof pub, .tenant = tenant, .subject = subject, .payload = body, .reply = reply, .headers = &redelivery,
                                     .n_headers = again};

    (void)snprintf(subject, sizeof subject, "to.%s._muster.task_assignment", agent);
    return r->w->bus->publish(r->w->host, &pub);
}

/* False: too many wait already. */
static bool keep(struct router *r, const struct muster_tenant *tenant, const char *agent, const struct buf *reply, const char *body, size_t len)
{
    size_t size = strlen(agent) + 1;
    struct unsent *u = r->n_unsent < UNSENT_MAX && r->unsent_bytes < UNSENT_BYTES ? calloc(1, sizeof *u + size) : NULL;

    if (!u)
        return false;
    u->tenant = tenant;
    u->since_ns = r->w->timer->now(r->w->host);
    memcpy(u->agent, agent, size);
    buf_put(&u->body, body, len);
    buf_put(&u->reply, reply->data, reply->len);
    *r->unsent_end = u;
    r->unsent_end = &u->next;
    r->n_unsent++;
    r->unsent_bytes += u->body.len;
    return true;
}

static void unsent_free(struct router *r, struct unsent *u)
{
    r->n_unsent--;
    r->unsent_bytes -= u->body.len;
    buf_done(&u->body);
    buf_done(&u->reply);
    free(u);
}

void unsent_flush(struct router *r)
{
    int64_t now_ns = r->w->timer->now(r->w->host);

    while (r->unsent) {
        struct unsent *u = r->unsent;
        bool whole = !buf_failed(&u->body) && !buf_failed(&u->reply) && now_ns - u->since_ns < unsent_ns;
        int err = whole ? publish(r, u->tenant, u->agent, u->reply.data, (struct muster_bytes){u->body.data, u->body.len}, true) : 0;

        if (err == MUSTER_EAGAIN || err == MUSTER_ELINK)
            return;
        r->unsent = u->next;
        if (!r->unsent)
            r->unsent_end = &r->unsent;
        unsent_free(r, u);
    }
}

void unsent_done(struct router *r)
{
    while (r->unsent) {
        struct unsent *u = r->unsent;

        r->unsent = u->next;
        unsent_free(r, u);
    }
}

/* It is read from the database, and sent, when what waits has gone. */
static void leave_unheard(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *task_id, int64_t ago_ns)
{
    struct routed *d = routed_find(r, tenant);

    if (!d)
        return; /* who has the shard now reads it */
    if (!missed_note(d, agent, task_id, unheard_from(r, ago_ns)))
        d->unheard_all = true;
    unheard_since(d, unheard_from(r, ago_ns));
}

void deliver(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *task_id, uint64_t epoch, const char *body, size_t len,
             bool again)
{
    struct buf reply = {0};
    int err;

    buf_printf(&reply, "rpc.%s.task.accept.", agent);
    notice_ref(&reply, task_id, epoch);
    err = buf_failed(&reply) ? MUSTER_ENOMEM : r->unsent ? MUSTER_EAGAIN : publish(r, tenant, agent, reply.data, (struct muster_bytes){body, len}, again);
    if (err == MUSTER_EAGAIN || err == MUSTER_ELINK) {
        if (!keep(r, tenant, agent, &reply, body, len))
            leave_unheard(r, tenant, agent, task_id, again ? again_ago_ns : first_ago_ns);
    } else if (err) {
        r->w->host->log(r->w->host, MUSTER_LOG_WARN, "the assignment of task %.100s to %s could not be sent (%d)", task_id, agent, err);
    } else if (again) {
        r->w->metrics->add(r->w->host, r->m.resent, NULL, 1);
    }
    buf_done(&reply);
}

/* ---- outcomes ----------------------------------------------------------------------------------------------------------- */

/* It stands in front. */
static uint64_t epoch_in(const char *ok, size_t len)
{
    static const char key[] = "{\"epoch\": ";

    return len > sizeof key && memcmp(ok, key, sizeof key - 1) == 0 ? strtoull(ok + sizeof key - 1, NULL, 10) : 0;
}

static void assigned(struct giving *g, struct routed *d, const char *ok, size_t len)
{
    uint64_t epoch = epoch_in(ok, len);

    g->q.r->w->metrics->add(g->q.r->w->host, g->q.r->m.assigned, NULL, 1);
    if (d)
        match_assigned(g->m, g->task, (int64_t)epoch);
    if (g->pulls && d && !pull_takes(d, g->agent, ok, len))
        (void)missed_note(d, g->agent, g->task_id, g->since_ns);
    else if (!g->pulls || !d)
        deliver(g->q.r, g->q.tenant, g->agent, g->task_id, epoch, ok, len, false);
    feed_look_for(g->q.r, g->q.tenant, g->agent, g->session);
}

/* What was known is old: what is true is looked at, or told by an event. */
static void refused(struct giving *g, struct routed *d, const char *text)
{
    struct muster_value *doc = NULL;
    struct wire_error why;
    const struct muster_value *error = value_decode(MUSTER_JSON, ask_param(text), &doc, &why) == 0 ? value_in(doc, "error") : NULL;
    const char *code = text_in(error, "code"), *field = text_in(error, "field");

    g->q.r->w->metrics->add(g->q.r->w->host, g->q.r->m.refused, code ? code : "unknown", 1);
    if (d && field && strcmp(field, "fence") == 0) {
        shard_is_lost(d->shard);
    } else if (d && field && strcmp(field, "paused") == 0) {
        match_tenant_pause(g->m, true);
        match_put_back(g->m, g->task);
    } else if (d) {
        match_forget(g->m, g->task);
        if (code && (strcmp(code, "aborted") == 0 || strcmp(code, "unavailable") == 0 || (field && strcmp(field, "agent") == 0)))
            look_at(d, g->task_id, INT64_MAX);
    }
    value_free(doc);
}

/* Where the link has ended nobody knows whether it is committed. */
static void doubt(struct giving *g, struct routed *d, int code)
{
    if (code != MUSTER_ELINK) {
        routed_again(d);
        return;
    }
    if (!missed_note(d, g->agent, g->task_id, g->since_ns))
        d->unheard_all = true;
    unheard_since(d, g->since_ns);
}

static void on_assigned(void *arg, const struct muster_sql_result *result)
{
    struct giving *g = arg;
    struct router *r = g->q.r;
    struct routed *d = routed_of(&g->q);
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0), *ok;
    struct buf more = {0};
    size_t len;

    r->n_assigning--;
    r->w->metrics->observe(r->w->host, r->m.wait, r->w->timer->now(r->w->host) - g->since_ns);
    if (text && outcome_ok(text, &ok, &len, &more)) {
        assigned(g, d, ok, len);
    } else {
        if (d && g->pulls)
            pull_fails(d, g->agent);
        if (text) {
            refused(g, d, text);
        } else if (d) {
            match_forget(g->m, g->task);
            doubt(g, d, result->code);
        }
    }
    buf_done(&more);
    router_soon(r);
    free(g);
}

/* ---- pairs -------------------------------------------------------------------------------------------------------------- */

static void put_text(struct buf *b, const char *key, const char *text)
{
    buf_printf(b, "\"%s\":", key);
    buf_put_json(b, text, strlen(text));
    buf_putc(b, ',');
}

static struct giving *giving_new(struct routed *d, const struct pairing *p)
{
    size_t n_id = strlen(p->task_id) + 1, n_agent = strlen(p->agent) + 1, n_session = strlen(p->session) + 1;
    struct giving *g = malloc(sizeof *g + n_id + n_agent + n_session);

    if (!g)
        return NULL;
    *g = (struct giving){.q = {.r = d->r, .tenant = d->tenant, .life = d->life}, .task = p->task, .m = d->m, .pulls = p->pulls,
                         .since_ns = d->r->w->timer->now(d->r->w->host)};
    memcpy(g->task_id, p->task_id, n_id);
    g->agent = g->task_id + n_id;
    memcpy(g->agent, p->agent, n_agent);
    g->session = g->agent + n_agent;
    memcpy(g->session, p->session, n_session);
    return g;
}

static int assign(struct routed *d, const struct pairing *p, struct giving *g)
{
    struct work *w = d->r->w;
    char seq[16], fence[16], epoch[24];

    (void)snprintf(seq, sizeof seq, "%d", p->seq); /* 0: of what is queued in the same transaction */
    (void)snprintf(fence, sizeof fence, "task.%u", d->shard->n);
    (void)snprintf(epoch, sizeof epoch, "%llu", (unsigned long long)d->shard->epoch);
    return w->sql->exec(w->host, d->r->stmt.assign, d->tenant, p->task_id, 8,
                        (struct muster_bytes[]){ask_param(d->name), ask_param(p->task_id), ask_param(p->agent), ask_param(p->session),
                                                ask_param(p->seq || p->early ? seq : NULL), ask_param(p->asks ? "false" : "true"), ask_param(fence), ask_param(epoch)},
                        on_assigned, g);
}

/* False: no more now. */
static bool give(struct router *r, const struct pairing *p)
{
    struct routed *d = match_tenant_user(p->tenant);
    struct giving *g = giving_new(d, p);

    if (!g || assign(d, p, g) != 0) {
        match_put_back(p->tenant, p->task);
        if (g && g->pulls)
            pull_credit(d, g->agent); /* it was taken with the pair */
        free(g);
        return false;
    }
    r->n_assigning++;
    if (p->pulls)
        pull_begins(d, p->agent);
    return true;
}

bool assign_early(struct routed *d, const struct route_spec *needs, const char *task_id)
{
    struct router *r = d->r;
    struct pairing p;

    return r->n_assigning < ASSIGNING_MAX && match_early(d->m, needs, task_id, r->w->timer->now(r->w->host), &p) && give(r, &p);
}

/* ---- what nobody can do ------------------------------------------------------------------------------------------------- */

static void on_told(void *arg, const struct muster_sql_result *result)
{
    struct question *q = arg;
    struct routed *d = routed_of(q);

    q->r->n_tells--;
    if (d && result->code)
        routed_again(d);
    else if (!result->code)
        q->r->w->metrics->add(q->r->w->host, q->r->m.unroutable, NULL, 1);
    router_soon(q->r);
    free(q);
}

static bool tell(const struct telling *t)
{
    const struct routed *d = match_tenant_user(t->tenant);
    struct work *w = d->r->w;
    struct question *q = question_new(d);
    struct buf args = {0};
    int err;

    buf_putc(&args, '{');
    put_text(&args, "task_id", t->task_id);
    if (t->seq)
        buf_printf(&args, "\"seq\":%d,", t->seq);
    buf_printf(&args, "\"unroutable\":%s}", t->unroutable ? "true" : "false");
    err = !q || buf_failed(&args) ? MUSTER_ENOMEM
                                  : w->sql->exec(w->host, d->r->stmt.unroutable, d->tenant, t->task_id, 2,
                                                 (struct muster_bytes[]){ask_param(d->name), {args.data, args.len}}, on_told, q);
    buf_done(&args);
    if (err)
        free(q);
    return !err;
}

void assign_run(struct router *r)
{
    struct pairing p;
    struct telling t;
    int64_t now_ns = r->w->timer->now(r->w->host);

    while (r->n_assigning < ASSIGNING_MAX && match_next(r->matcher, now_ns, &p))
        if (!give(r, &p))
            break;
    while (r->n_tells < TELLS_MAX && match_tell_next(r->matcher, &t) && tell(&t))
        r->n_tells++;
}
