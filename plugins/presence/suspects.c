/*
 * presence/suspects.c - who may be gone: told as suspect, called, and declared gone only after that.
 *
 * When many of one NATS server fall silent at once, or the server itself is lost, the fault is hardly theirs; nobody of them is declared
 * gone before there was time to answer a roll call. An agent that beats but does not get on with its task is suspect too, and never gone.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "presence/presence.h"

enum { MANY = 5, SHARE = 5 }; /* more than 5, and more than a fifth */

bool suspects_many(const struct server *server)
{
    return server->n_overdue > MANY && (uint64_t)server->n_overdue * SHARE > server->n_agents;
}

int64_t suspects_wait(const struct presence *p, int64_t now_ns)
{
    return now_ns + p->config->dead_after_ns + p->config->roll_call_ns;
}

/* ---- doubt -------------------------------------------------------------------------------------------------------------------- */

static void set_doubt(struct agent *a, const char *reason, int64_t until_ns)
{
    struct agent_death *d = &a->death;

    if (!(d->flags & DEATH_DOUBT) || until_ns > d->doubt_ns)
        d->doubt_ns = until_ns;
    if (!(d->flags & DEATH_DOUBT))
        d->doubted_ns = a->tenancy->p->timer->now(a->tenancy->p->host);
    d->flags |= DEATH_DOUBT;
    d->why = reason;
    wheel_set_earlier(&a->tenancy->p->death.wheel, &d->entry, d->doubt_ns);
    a->tenancy->death.call_due = a->tenancy->p->death.calls_due = true;
}

/* What the agent is told to be is not what we think of it, and nothing is on its way. */
static bool differs(const struct agent *a)
{
    return a->suspect != !!(a->death.flags & (DEATH_DOUBT | DEATH_STUCK)) && !a->asked;
}

bool suspects_unsettled(const struct agent *a)
{
    return tenancy_leads(a->tenancy) && a->suspect != !!(a->death.flags & (DEATH_DOUBT | DEATH_STUCK));
}

void suspects_settle(struct agent *a)
{
    struct agent_death *d = &a->death;

    if (!tenancy_leads(a->tenancy) || !differs(a))
        return;
    /* Where there is no room, the next look asks again. */
    if (a->suspect)
        (void)change_trust(a);
    else
        (void)change_suspect(a, d->flags & DEATH_DOUBT ? d->why : "stuck");
}

void suspects_doubt(struct agent *a, const char *reason, int64_t until_ns)
{
    struct presence *p = a->tenancy->p;

    if (!tenancy_leads(a->tenancy))
        return;
    if (!(a->death.flags & DEATH_DOUBT))
        p->metrics->add(p->host, p->death.doubts, reason, 1);
    set_doubt(a, reason, until_ns);
    suspects_settle(a);
}

/* Look soon whether what is told of it is right. */
static void look_again(struct agent *a)
{
    struct presence *p = a->tenancy->p;

    if (a->death.joined && suspects_unsettled(a))
        wheel_set_earlier(&p->death.wheel, &a->death.entry, p->timer->now(p->host));
}

void suspects_trust(struct agent *a)
{
    a->death.flags &= (uint8_t)~DEATH_DOUBT;
    suspects_settle(a);
    look_again(a);
}

/* ---- stuck -------------------------------------------------------------------------------------------------------------------- */

int64_t suspects_stuck_ns(const struct agent *a)
{
    int64_t after_ns = a->tenancy->p->config->stuck_after_ns;

    return after_ns && a->status == MUSTER_AGENT_BUSY && a->task_digest ? a->task_ns + after_ns : INT64_MAX;
}

static bool is_stuck(const struct agent *a, int64_t now_ns)
{
    return now_ns >= suspects_stuck_ns(a);
}

static void set_stuck(struct agent *a)
{
    a->death.flags |= DEATH_STUCK;
    a->death.stuck_ns = a->task_ns;
}

void suspects_look_stuck(struct agent *a, int64_t now_ns)
{
    if (a->suspect || a->death.flags & (DEATH_STUCK | DEATH_DOUBT) || !is_stuck(a, now_ns))
        return;
    a->tenancy->p->metrics->add(a->tenancy->p->host, a->tenancy->p->death.doubts, "stuck", 1);
    set_stuck(a);
}

void death_changed(struct agent *a)
{
    struct agent_death *d = &a->death;

    if (d->flags & DEATH_STUCK && (a->status != MUSTER_AGENT_BUSY || a->task_ns != d->stuck_ns))
        d->flags &= (uint8_t)~DEATH_STUCK;
    look_again(a);
    if (d->joined && suspects_stuck_ns(a) != INT64_MAX)
        wheel_set_earlier(&a->tenancy->p->death.wheel, &d->entry, suspects_stuck_ns(a));
}

/* ---- shards that come and go -------------------------------------------------------------------------------------------------- */

/* What the holder before knew of the suspect is found out anew, with full time for each; where that was this broker, and nothing was heard since, the
 * time goes on. */
static int64_t doubt_until_ns(const struct agent *a, int64_t now_ns, bool unseen)
{
    const struct presence *p = a->tenancy->p;
    const struct agent_death *d = &a->death;

    if (unseen)
        return now_ns + p->config->lost_after_ns;
    if (d->doubt_ns && a->beat_ns < d->doubted_ns && d->met_ns < d->doubted_ns)
        return d->doubt_ns > now_ns + p->config->roll_call_ns ? d->doubt_ns : now_ns + p->config->roll_call_ns;
    return suspects_wait(p, now_ns);
}

static void begin_agent(struct agent *a, int64_t now_ns)
{
    bool unseen = a->death.contact && contact_is_out_of_sight(a->death.contact);

    if (a->suspect && is_stuck(a, now_ns))
        set_stuck(a);
    else if (a->suspect || a->restored || unseen)
        suspects_doubt(a, unseen ? "node" : "restart", doubt_until_ns(a, now_ns, unseen));
    silence_look(a);
}

static void end_agent(struct agent *a, int64_t now_ns)
{
    (void)now_ns;
    a->death.flags &= (uint8_t)~(DEATH_DOUBT | DEATH_STUCK);
}

void death_leads(struct shard *s, bool leads)
{
    struct presence *p = s->p;
    int64_t now_ns = p->timer->now(p->host);
    struct tenancy *t;

    for (size_t i = 0; tenancy_next(p, &i, &t);) {
        struct agent *a;

        if (t->shard != s)
            continue;
        for (size_t at = 0; agent_next(t, &at, &a);)
            (leads ? begin_agent : end_agent)(a, now_ns);
    }
}

/* ---- roll calls --------------------------------------------------------------------------------------------------------------- */

static int call(struct tenancy *t)
{
    struct presence *p = t->p;
    char body[48];
    int n = snprintf(body, sizeof body, "{\"within_ms\":%lld}", (long long)(p->config->roll_call_ns / CLOCK_MS));
    const struct muster_publication pub = {
        .size = sizeof pub, .tenant = t->tenant, .subject = "all._muster.roll_call", .payload = {body, (size_t)n}};

    return p->bus->publish(p->host, &pub);
}

/* One at a time: who is suspect a moment later is called with the next. */
static bool try_call(struct tenancy *t, int64_t now_ns)
{
    const struct presence *p = t->p;

    if (!tenancy_leads(t)) {
        t->death.call_due = false;
        return false;
    }
    if (t->death.called_ns && now_ns - t->death.called_ns < p->config->roll_call_ns)
        return true;
    if (call(t))
        return true;
    p->metrics->add(p->host, p->death.calls, NULL, 1);
    t->death.called_ns = now_ns;
    t->death.call_due = false;
    return false;
}

void suspects_tick(struct presence *p, int64_t now_ns)
{
    bool more = false;
    struct tenancy *t;

    if (!p->death.calls_due || !p->link_up)
        return;
    for (size_t i = 0; tenancy_next(p, &i, &t);)
        if (t->death.call_due)
            more |= try_call(t, now_ns);
    p->death.calls_due = more;
}
