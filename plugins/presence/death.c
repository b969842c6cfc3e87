/*
 * presence/death.c - the life of the parts of death.h, and what happens to all deadlines when we were deaf ourselves.
 */
#include "base/clock.h"
#include "common/metric_list.h"
#include "presence/presence.h"

static const int64_t tick_ns = 100 * CLOCK_MS, late_ns = 2 * CLOCK_S;

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What came meanwhile waits behind this tick, or is lost: all begin anew, and one beat of each can be heard before anybody is gone. */
static void was_late(struct presence *p, int64_t now_ns)
{
    const struct presence_config *c = p->config;

    p->host->log(p->host, MUSTER_LOG_WARN, "the lane stood still for %lld ms: nobody is declared gone until it has heard what came meanwhile",
                 (long long)((now_ns - p->death.tick_ns) / CLOCK_MS));
    p->death.floor_ns = now_ns;
    p->death.calm_ns = later(p->death.calm_ns, now_ns + later(c->grace_ns, c->heartbeat_ns));
}

/* After a lane that stood still the next tick comes first, which knows of it. */
static void on_alarm(void *self, int64_t now_ns)
{
    struct presence *p = self;

    p->death.alarm_ns = 0;
    if (p->death.done || now_ns - p->death.tick_ns > late_ns)
        return;
    silence_tick(p, now_ns);
    death_hurry(p, now_ns);
}

void death_hurry(struct presence *p, int64_t now_ns)
{
    int64_t next_ns = wheel_next(&p->death.wheel, p->death.tick_ns + tick_ns);
    uint64_t id;

    if (next_ns == INT64_MAX || (p->death.alarm_ns && p->death.alarm_ns <= next_ns))
        return;
    if (p->timer->once(p->host, next_ns > now_ns ? next_ns - now_ns : 0, on_alarm, &id) == 0)
        p->death.alarm_ns = next_ns;
}

static void on_tick(void *self, int64_t now_ns)
{
    struct presence *p = self;

    if (now_ns - p->death.tick_ns > late_ns)
        was_late(p, now_ns);
    p->death.tick_ns = now_ns;
    conn_tick(p, now_ns);
    silence_tick(p, now_ns);
    suspects_tick(p, now_ns);
    sessions_tick(p, now_ns);
    death_hurry(p, now_ns);
}

void death_link(struct presence *p, bool up)
{
    int64_t now_ns = p->timer->now(p->host);

    if (!up) {
        p->death.was_down = true;
    } else if (p->death.was_down) {
        p->death.was_down = false;
        p->death.floor_ns = p->death.gap_ns = now_ns;
        p->death.calm_ns = now_ns + p->config->dead_after_ns;
    }
}

static int make_metrics(struct presence *p)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_COUNTER, "suspects_total", "Agents that became suspect, by the reason.", "reason", &p->death.doubts},
        {MUSTER_COUNTER, "roll_calls_total", "Roll calls sent.", NULL, &p->death.calls},
        {MUSTER_COUNTER, "servers_lost_total", "NATS servers lost that had connections of agents.", NULL, &p->death.lost_servers},
        {MUSTER_COUNTER, "connections_vanished_total", "Connections whose end was not told by their server.", NULL, &p->death.vanished},
        {MUSTER_COUNTER, "connections_refused_total", "Connections not kept, for want of room or sense.", NULL, &p->death.refused},
    };

    return metric_list_make(p->host, p->metrics, wanted, sizeof wanted / sizeof *wanted);
}

int death_prepare(struct presence *p)
{
    int err;

    wheel_init(&p->death.wheel, p->timer->now(p->host));
    contacts_init(&p->death.contacts, CONTACTS_MAX);
    err = p->host->service(p->host, MUSTER_SYS, (const void **)&p->death.sys);
    if (!err)
        err = p->host->service(p->host, MUSTER_SQL, (const void **)&p->death.sql);
    if (!err)
        err = make_metrics(p);
    return err ? err : sessions_prepare(p);
}

int death_start(struct presence *p)
{
    uint64_t id;
    int err;

    p->death.tick_ns = p->timer->now(p->host);
    err = p->timer->every(p->host, tick_ns, on_tick, &id);
    if (!err)
        err = conn_start(p);
    if (!err)
        err = sessions_start(p);
    return err ? err : stats_start(p);
}

void death_drain(struct presence *p)
{
    sessions_drain(p);
}

/* Agents that are freed afterwards say death_left(), to which nothing is left to do. */
void death_done(struct presence *p)
{
    if (p->death.done || !p->death.contacts.servers.next)
        return;
    p->death.done = true;
    sessions_done(p);
    contacts_done(&p->death.contacts);
}
