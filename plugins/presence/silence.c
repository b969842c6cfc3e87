/*
 * presence/silence.c - who has not been heard for too long: deadlines on a timer wheel, looked at when they are due.
 *
 * A beat touches no deadline: it says when the agent was heard, and when the wheel comes to it the deadline is reckoned anew. So each agent
 * is looked at once in a while, and a beat costs next to nothing.
 */
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "presence/presence.h"

static const int64_t again_ns = CLOCK_S, behind_ns = 500 * CLOCK_MS;
/* What was on its way when the connection ended is no sign that the agent lives. */
static const int64_t in_flight_ns = 250 * CLOCK_MS;

static struct agent *agent_of(struct wheel_entry *e)
{
    return (struct agent *)((char *)e - offsetof(struct agent, death.entry));
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t heard_ns(const struct agent *a)
{
    int64_t floor_ns = later(a->tenancy->p->death.floor_ns, a->tenancy->death.floor_ns);

    return later(floor_ns, later(a->beat_ns, a->death.met_ns));
}

/* ---- counts ------------------------------------------------------------------------------------------------------------------- */

static void overdue(struct agent *a, bool is)
{
    struct agent_death *d = &a->death;

    if (is == !!(d->flags & DEATH_OVERDUE))
        return;
    d->flags ^= DEATH_OVERDUE;
    d->server->n_overdue += is ? 1 : -1u;
}

static void leave_server(struct agent *a)
{
    overdue(a, false);
    server_release(a->death.server);
    a->death.server = NULL;
}

void silence_move(struct agent *a, struct server *server)
{
    bool is_overdue = a->death.flags & DEATH_OVERDUE;

    if (a->death.server == server)
        return;
    server_hold(server);
    if (a->death.server)
        leave_server(a);
    a->death.server = server;
    overdue(a, is_overdue);
}

/* Who gives it something to do is told. While NATS is away all fall silent, and nobody gets anything. */
static void tell_late(struct agent *a, bool was)
{
    if (was != death_is_late(a) && a->death.joined && (was || a->tenancy->p->link_up))
        roster_put_again(a);
}

/* ---- looking ------------------------------------------------------------------------------------------------------------------ */

/* Missing beats are counted one beat before they are a death: when the first of many is due, the others are counted. */
static int64_t overdue_ns(const struct agent *a)
{
    const struct presence_config *c = a->tenancy->p->config;

    return heard_ns(a) + c->dead_after_ns - c->heartbeat_ns;
}

static bool is_silent(const struct agent *a, int64_t now_ns)
{
    return now_ns >= heard_ns(a) + a->tenancy->p->config->dead_after_ns;
}

static bool is_gone(const struct agent *a, int64_t now_ns)
{
    return a->death.flags & DEATH_GONE && now_ns >= a->death.gone_ns + a->tenancy->p->config->grace_ns;
}

static void fell_silent(struct agent *a, int64_t now_ns)
{
    if (conn_may_be_hidden(a))
        suspects_doubt(a, "node", now_ns + a->tenancy->p->config->lost_after_ns);
    else if (suspects_many(a->death.server))
        suspects_doubt(a, "silent", suspects_wait(a->tenancy->p, now_ns));
    else
        (void)change_leave(a, "timeout"); /* where there is no room, the next look asks again */
}

/* The grace is over. */
static void went(struct agent *a, int64_t now_ns)
{
    struct agent_death *d = &a->death;

    if (conn_is_sure(a)) {
        (void)change_leave(a, d->flags & DEATH_KICKED ? "kicked" : "disconnected");
        return;
    }
    d->flags &= (uint8_t)~(DEATH_GONE | DEATH_KICKED);
    suspects_doubt(a, "silent", now_ns + a->tenancy->p->config->lost_after_ns);
}

static void judge(struct agent *a, int64_t now_ns)
{
    const struct agent_death *d = &a->death;

    if (a->asked)
        return; /* one thing after another */
    if (is_gone(a, now_ns))
        went(a, now_ns);
    else if (d->flags & DEATH_DOUBT && now_ns >= d->doubt_ns)
        (void)change_leave(a, "timeout");
    else if (!(d->flags & DEATH_DOUBT) && is_silent(a, now_ns))
        fell_silent(a, now_ns);
    else
        suspects_look_stuck(a, now_ns);
    suspects_settle(a);
}

static bool may_judge(const struct agent *a, int64_t now_ns)
{
    const struct presence *p = a->tenancy->p;

    return p->link_up && now_ns >= p->death.calm_ns && tenancy_leads(a->tenancy);
}

/* When it is to be looked at next; what was due and could not be done is tried again in a moment. */
static int64_t next_ns(const struct agent *a, int64_t now_ns)
{
    const struct agent_death *d = &a->death;
    const struct presence_config *c = a->tenancy->p->config;
    int64_t next = d->flags & DEATH_OVERDUE ? heard_ns(a) + c->dead_after_ns : overdue_ns(a);

    if (d->flags & DEATH_DOUBT)
        next = d->doubt_ns;
    if (d->flags & DEATH_GONE)
        next = sooner(next, d->gone_ns + c->grace_ns);
    if (!(d->flags & DEATH_STUCK))
        next = sooner(next, suspects_stuck_ns(a));
    return next > now_ns && !suspects_unsettled(a) ? next : now_ns + again_ns;
}

static void look(struct agent *a, int64_t now_ns)
{
    struct presence *p = a->tenancy->p;
    bool was_late = death_is_late(a);

    overdue(a, now_ns >= overdue_ns(a));
    tell_late(a, was_late);
    if (may_judge(a, now_ns))
        judge(a, now_ns);
    wheel_set(&p->death.wheel, &a->death.entry, next_ns(a, now_ns));
    if (a->death.flags & (DEATH_GONE | DEATH_OVERDUE))
        wheel_hurry(&p->death.wheel, &a->death.entry);
}

void silence_look(struct agent *a)
{
    struct presence *p = a->tenancy->p;

    look(a, p->timer->now(p->host));
}

/* ---- what is heard ------------------------------------------------------------------------------------------------------------ */

static bool is_in_flight(const struct agent *a)
{
    return later(a->beat_ns, a->death.met_ns) <= a->death.gone_ns + in_flight_ns && !(a->death.contact && contact_is_connected(a->death.contact));
}

void silence_met(struct agent *a)
{
    struct agent_death *d = &a->death;
    bool was_late = death_is_late(a);

    overdue(a, false);
    tell_late(a, was_late);
    if (d->flags & DEATH_GONE && !is_in_flight(a))
        d->flags &= (uint8_t)~(DEATH_GONE | DEATH_KICKED);
    suspects_trust(a);
}

/* A tenant with so much waiting has lost beats to its bounds, perhaps. */
void death_heard(struct agent *a, int64_t lag_ns)
{
    if (lag_ns > behind_ns)
        a->tenancy->death.floor_ns = a->beat_ns;
    if (a->death.flags)
        silence_met(a);
}

bool death_is_late(const struct agent *a)
{
    return a->death.flags & DEATH_OVERDUE;
}

bool death_still(const struct agent *a, const char *reason)
{
    const struct presence *p = a->tenancy->p;
    int64_t now_ns = p->timer->now(p->host);

    if (strcmp(reason, "timeout") != 0)
        return is_gone(a, now_ns);
    return a->death.flags & DEATH_DOUBT ? now_ns >= a->death.doubt_ns : is_silent(a, now_ns);
}

/* ---- agents that come and go -------------------------------------------------------------------------------------------------- */

void death_joined(struct agent *a)
{
    struct agent_death *d = &a->death;
    struct presence *p = a->tenancy->p;

    if (p->death.done)
        return;
    if (!d->server)
        silence_move(a, &p->death.nowhere);
    d->joined = true;
    d->flags &= DEATH_OVERDUE;
    d->doubt_ns = 0;
    conn_join(a);
    silence_look(a);
}

void death_left(struct agent *a)
{
    struct agent_death *d = &a->death;
    struct death *death = &a->tenancy->p->death;

    if (death->done || !d->joined)
        return;
    wheel_drop(&death->wheel, &d->entry);
    leave_server(a);
    if (d->contact) {
        d->contact->agent = NULL;
        contact_went(d->contact);
        contacts_release(&death->contacts, d->contact);
    }
    *d = (struct agent_death){0};
}

void silence_tick(struct presence *p, int64_t now_ns)
{
    struct wheel_entry *e;

    while ((e = wheel_take(&p->death.wheel, now_ns)))
        look(agent_of(e), now_ns);
}
