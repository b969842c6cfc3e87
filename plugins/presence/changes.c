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

#include "presence/answers.h"
#include "presence/flights.h"
#include "presence/presence.h"

enum { ROUND_MAX = 4000 };

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
void changes_soon(struct tenancy *t)
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

void changes_put_back(struct tenancy *t, struct change *list)
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

void change_free(struct tenancy *t, struct change *c)
{
    struct agent *a = agent_find(t, c->agent);

    if (a && asked_kinds[c->ask] && strcmp(a->session, c->session) == 0)
        a->asked = 0;
    if (c->claim)
        claim_end(c->claim);
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

/* ---- rounds --------------------------------------------------------------------------------------------------------------------- */

struct round {
    struct change *lists[KINDS], **ends[KINDS];
    size_t n[KINDS];
    struct map seen; /* agents that have had their change in this round */
    struct map held; /* those whose next request waits for PostgreSQL, and what they asked behind it */
    uint32_t n_taken;
};

/* What death.h asks for does not wait behind a request. */
static bool is_held(struct tenancy *t, struct round *r, struct change *c, size_t len)
{
    if (!c->msg)
        return false;
    if (map_get(&r->held, c->agent, len))
        return true;
    if (!answers_wait(t, c))
        return false;
    if (!map_put(&r->held, c->agent, len, c))
        c->error = "resource_exhausted"; /* nothing that is behind it may overtake it */
    return !c->error;
}

static void take(struct tenancy *t, struct round *r, struct change *c)
{
    int kind = decide(t, c);

    if (!kind) {
        change_finish(t, c);
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

        if (map_get(&r->seen, c->agent, len) || is_held(t, r, c, len)) {
            link = &c->next;
            continue;
        }
        unlink_change(t, link);
        r->n_taken++;
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
    map_done(&r.held);
    for (int i = 0; i < KINDS; i++)
        if (err)
            changes_put_back(t, r.lists[i]);
        else
            err = flights_send(t, i, r.lists[i], r.n[i]);
    if (!err && !t->flights && t->waiting && r.n_taken)
        changes_soon(t); /* nothing of the round was an event */
    else if (err && err != MUSTER_EAGAIN)
        t->p->host->log(t->p->host, MUSTER_LOG_DEBUG, "events of tenant %s wait (error %d)", t->name, err); /* the tick goes on */
}

/* ---- the end of a lead ---------------------------------------------------------------------------------------------------------- */

void changes_take_back(struct tenancy *t)
{
    changes_put_back(t, flights_end(t));
}

void changes_drop(struct tenancy *t)
{
    changes_take_back(t);
    while (t->waiting) {
        struct change *c = t->waiting;

        unlink_change(t, &t->waiting);
        c->error = "unavailable";
        (void)snprintf(c->why, sizeof c->why, "another broker keeps the roster of this tenant now; ask again");
        change_finish(t, c);
    }
}
