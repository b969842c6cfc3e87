/*
 * An agent that connects anew may have missed what was sent to it while it had no connection: within presence's grace its session goes on, and
 * nobody else would tell it. What it was assigned in the last minutes and has said nothing of is sent again. Here is known, too, what else agents
 * may have missed: who pulls is told of it when it asks.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/router_parts.h"

static const int64_t wait_ns = 300 * CLOCK_MS; /* until it has subscribed again */
static const int64_t ago_ns = 120 * CLOCK_S; /* servers take as long to find out that a connection is dead */
static const int64_t under_way_ns = 5 * CLOCK_S; /* within which the database has ended what was sent to it before a link was cut */
enum { RETURNED_MAX = 20000, MISSED_MAX = 2000 };

struct returned {
    struct link link; /* r->returned, the first is due first */
    const struct muster_tenant *tenant;
    int64_t due_ns;
    char agent[];
};

int returns_create(struct router *r)
{
    if (r->w->host->service(r->w->host, MUSTER_SYS, (const void **)&r->sys) != 0)
        r->sys = NULL;
    return 0;
}

void returned_note(struct router *r, const struct muster_tenant *tenant, const char *agent)
{
    size_t size = strlen(agent) + 1;
    struct returned *back = r->n_returned < RETURNED_MAX ? malloc(sizeof *back + size) : NULL;

    if (!back)
        return;
    link_init(&back->link);
    back->tenant = tenant;
    back->due_ns = r->w->timer->now(r->w->host) + wait_ns;
    memcpy(back->agent, agent, size);
    link_put(&r->returned, &back->link);
    r->n_returned++;
}

static void on_connection(void *arg, const struct muster_connection *c)
{
    struct router *r = arg;
    const struct routed *d = c->kind == MUSTER_SYS_CONNECT ? routed_find(r, c->tenant) : NULL;

    if (d && match_holds(d->m, c->agent))
        returned_note(r, c->tenant, c->agent);
}

int returns_start(struct router *r)
{
    uint64_t id;

    return r->sys ? r->sys->watch(r->w->host, on_connection, r, &id) : 0;
}

static void end(struct router *r, struct returned *back)
{
    link_remove(&back->link);
    r->n_returned--;
    free(back);
}

void returns_tick(struct router *r, int64_t now_ns)
{
    while (link_is_in(&r->returned)) {
        struct returned *back = LINK_OF(r->returned.next, struct returned, link);
        struct routed *d = routed_find(r, back->tenant);

        if (back->due_ns > now_ns)
            return;
        if (d && !pull_does(d, back->agent))
            read_unheard(d, back->agent, unheard_from(d->r, ago_ns));
        end(r, back);
    }
}

void returns_done(struct router *r)
{
    while (link_is_in(&r->returned))
        end(r, LINK_OF(r->returned.next, struct returned, link));
}

/* ---- what was missed --------------------------------------------------------------------------------------------------- */

struct missed {
    struct link link; /* d->missed */
    int64_t since_ns, noted_ns;
    bool asked;
    const char *task_id; /* behind the agent */
    char agent[];
};

static struct missed *missed_in(struct link *l)
{
    return LINK_OF(l, struct missed, link);
}

static struct missed *missed_find(struct routed *d, const char *agent, const char *task_id)
{
    for (struct link *l = d->missed.next; l != &d->missed; l = l->next)
        if (strcmp(missed_in(l)->agent, agent) == 0 && strcmp(missed_in(l)->task_id, task_id) == 0)
            return missed_in(l);
    return NULL;
}

static struct missed *missed_new(struct routed *d, const char *agent, const char *task_id)
{
    size_t n_agent = strlen(agent) + 1, n_id = strlen(task_id) + 1;
    struct missed *m = d->n_missed < MISSED_MAX ? malloc(sizeof *m + n_agent + n_id) : NULL;

    if (!m)
        return NULL;
    memcpy(m->agent, agent, n_agent);
    memcpy(m->agent + n_agent, task_id, n_id);
    m->task_id = m->agent + n_agent;
    link_init(&m->link);
    link_put(&d->missed, &m->link);
    d->n_missed++;
    return m;
}

bool missed_note(struct routed *d, const char *agent, const char *task_id, int64_t since_ns)
{
    struct missed *m = missed_find(d, agent, task_id);

    if (!m)
        m = missed_new(d, agent, task_id);
    if (!m) {
        d->r->w->host->log(d->r->w->host, MUSTER_LOG_WARN, "%s: %s may have missed task %.100s, as may others have %u", d->name, agent, task_id, d->n_missed);
        return false;
    }
    m->since_ns = since_ns;
    m->noted_ns = d->r->w->timer->now(d->r->w->host);
    m->asked = false;
    return true;
}

int64_t missed_ask(struct routed *d, const char *agent)
{
    int64_t since_ns = 0;

    for (struct link *l = d->missed.next; l != &d->missed; l = l->next) {
        struct missed *m = missed_in(l);

        if (agent && strcmp(m->agent, agent) != 0)
            continue;
        m->asked = true;
        if (!since_ns || m->since_ns < since_ns)
            since_ns = m->since_ns;
    }
    return since_ns;
}

static void missed_free(struct routed *d, struct missed *m)
{
    link_remove(&m->link);
    d->n_missed--;
    free(m);
}

bool missed_take(struct routed *d, const char *agent, const char *task_id)
{
    struct missed *m = missed_find(d, agent, task_id);

    if (!m)
        return false;
    missed_free(d, m);
    return true;
}

bool missed_end(struct routed *d, const char *agent)
{
    int64_t now_ns = d->r->w->timer->now(d->r->w->host);
    struct link *next;
    bool more = false;

    for (struct link *l = d->missed.next; l != &d->missed; l = next) {
        struct missed *m = missed_in(l);

        next = l->next;
        if (!m->asked || (agent && strcmp(m->agent, agent) != 0))
            continue;
        if (now_ns - m->noted_ns > under_way_ns)
            missed_free(d, m);
        else
            more = true;
    }
    return more;
}

void missed_drop(struct routed *d, const char *agent)
{
    struct link *next;

    for (struct link *l = d->missed.next; l != &d->missed; l = next) {
        next = l->next;
        if (!agent || strcmp(missed_in(l)->agent, agent) == 0)
            missed_free(d, missed_in(l));
    }
}
