/* Tenants, their turns, pairs, time; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/match_parts.h"

static const int64_t ended_look_ns = 5 * CLOCK_S;

struct matcher *match_new(const struct match_config *config)
{
    struct matcher *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->config = *config;
    link_init(&r->tenants);
    link_init(&r->ring);
    link_init(&r->peeks);
    link_init(&r->tell);
    return r;
}

void match_free(struct matcher *r)
{
    if (!r)
        return;
    while (link_is_in(&r->tenants))
        match_tenant_end(LINK_OF(r->tenants.next, struct match_tenant, link));
    heap_done(&r->timed);
    free(r);
}

/* ---- tenants ---- */

struct match_tenant *match_tenant_new(struct matcher *r, void *user)
{
    struct match_tenant *t = calloc(1, sizeof *t);

    if (!t || !heap_reserve(&r->timed)) {
        free(t);
        return NULL;
    }
    *t = (struct match_tenant){.r = r, .user = user, .limits = {.weight = 1}, .timed = {.kind = TIMED_TENANT}};
    link_init(&t->all_needs);
    link_init(&t->idle_needs);
    link_init(&t->idle_groups);
    link_init(&t->ended);
    link_init(&t->ring);
    link_init(&t->link);
    link_put(&r->tenants, &t->link);
    return t;
}

void *match_tenant_user(const struct match_tenant *t)
{
    return t->user;
}

void match_tenant_end(struct match_tenant *t)
{
    struct matcher *r = t->r;
    void *item;

    while (link_is_in(&t->all_needs)) {
        struct need *need = LINK_OF(t->all_needs.next, struct need, link);

        if (link_is_in(&need->all_routes))
            route_end(LINK_OF(need->all_routes.next, struct route, link));
        else
            need_end(need);
    }
    for (size_t i = 0; table_next(&t->tasks, &i, &item);)
        task_free(item);
    groups_done(t);
    workers_done(t);
    table_done(&t->tasks);
    table_done(&t->routes);
    table_done(&t->by_need);
    heap_done(&t->needs);
    timed_clear(r, &t->timed);
    heap_unreserve(&r->timed);
    link_remove(&t->ring);
    link_remove(&t->link);
    free(t);
}

static bool may_run_more(const struct match_tenant *t)
{
    uint32_t assigning = t->r->config.assigning;

    return (!assigning || t->n_assigning < assigning) && (!t->limits.running || (int64_t)(t->n_assigning + t->n_held) < t->limits.running);
}

void tenant_update(struct match_tenant *t)
{
    bool ready = t->needs.n && !t->paused && may_run_more(t) && !t->timed.node.at;

    if (ready && !link_is_in(&t->ring))
        link_put(&t->r->ring, &t->ring);
    else if (!ready && link_is_in(&t->ring)) {
        link_remove(&t->ring);
        t->credit = 0;
    }
}

void match_tenant_limits(struct match_tenant *t, const struct match_limits *limits)
{
    struct group *g;
    const char *key;

    if (memcmp(&t->limits, limits, sizeof *limits) == 0)
        return;
    t->limits = *limits;
    if (t->limits.weight < 1)
        t->limits.weight = 1;
    for (size_t i = 0; map_next(&t->groups, &i, &key, (void **)&g);)
        group_unpark(g);
    timed_clear(t->r, &t->timed);
    tenant_update(t);
}

void match_tenant_pause(struct match_tenant *t, bool paused)
{
    t->paused = paused;
    tenant_update(t);
}

void match_tenant_settle(struct match_tenant *t)
{
    struct need *need;

    if (t->settled)
        return;
    t->settled = true;
    for (struct link *l = t->all_needs.next; l != &t->all_needs; l = l->next) {
        need = LINK_OF(l, struct need, link);
        need_look_later(need);
    }
}

struct match_counts match_tenant_counts(const struct match_tenant *t)
{
    return (struct match_counts){t->n_queued, t->n_aside, t->n_assigning, t->n_held, t->routes.n, t->n_present};
}

/* ---- pairs ---- */

bool rate_allows(int64_t next_ns, int64_t rate, int64_t now_ns)
{
    return !rate || next_ns <= now_ns;
}

static int64_t rate_next(int64_t next_ns, int64_t rate, int64_t now_ns)
{
    int64_t earliest = now_ns - CLOCK_S / 10;

    return rate ? (next_ns > earliest ? next_ns : earliest) + CLOCK_S / rate : 0;
}

/* group NULL: none. */
static void give_to(struct worker *w, struct task *task, struct group *group, struct pairing *ret_pairing)
{
    struct match_tenant *t = task->t;

    task->state = TASK_ASSIGNING;
    task->over_epoch = 0;
    t->n_assigning++;
    hold_take(task, w, group);
    w->turn = ++t->r->turns;
    if (w->credit)
        w->credit--;
    t->next_ns = rate_next(t->next_ns, t->limits.rate, t->r->now_ns);
    if (group) {
        group_stick(group, w);
        group->next_ns = rate_next(group->next_ns, t->limits.group_rate, t->r->now_ns);
    }
    worker_update(w);
    tenant_update(t);
    *ret_pairing = (struct pairing){.tenant = t, .task = task, .task_id = task->task_id, .agent = w->agent, .session = w->session,
                                    .seq = task->seq, .asks = w->asks, .pulls = w->pulls};
}

static void give(struct task *task, struct worker *w, struct pairing *ret_pairing)
{
    struct route *route = task->route;

    window_take(route, task);
    route->since_ns = 0;
    give_to(w, task, route->group, ret_pairing);
}

static void put_aside(struct match_tenant *t, struct task *task)
{
    window_take(task->route, task);
    task->state = TASK_ASIDE;
    t->n_aside++;
    link_put(&task->route->need->aside, &task->link);
    if (!task->unroutable && !need_has_somebody(task->route->need, task))
        need_look_later(task->route->need);
}

/* The next one of this tenant. */
static bool pick(struct match_tenant *t, struct pairing *ret_pairing)
{
    struct heap_node *top;

    if (!rate_allows(t->next_ns, t->limits.rate, t->r->now_ns)) {
        timed_set(t->r, &t->timed, t->next_ns);
        return false;
    }
    while ((top = heap_top(&t->needs)) != NULL) {
        struct need *need = HEAP_OF(top, struct need, node);
        struct route *route = HEAP_OF(heap_top(&need->routes), struct route, node);
        struct worker *w;

        switch (route_choose(route, &w)) {
        case CHOICE_TAKE:
            give(route->window[0], w, ret_pairing);
            return true;
        case CHOICE_ASIDE:
            put_aside(t, route->window[0]);
            break;
        case CHOICE_PARKED:
            break;
        }
    }
    return false;
}

bool match_next(struct matcher *r, int64_t now_ns, struct pairing *ret_pairing)
{
    r->now_ns = now_ns;
    while (link_is_in(&r->ring)) {
        struct match_tenant *t = LINK_OF(r->ring.next, struct match_tenant, ring);

        if (t->credit <= 0)
            t->credit = t->limits.weight;
        if (!pick(t, ret_pairing)) {
            tenant_update(t);
            continue;
        }
        if (--t->credit <= 0 && link_is_in(&t->ring))
            link_put(&r->ring, &t->ring);
        return true;
    }
    return false;
}

/* Nothing waits that should go first, as far as is known. */
static bool is_next(const struct match_tenant *t, const struct need *need, int64_t now_ns)
{
    const struct route *only = need->n_routes ? LINK_OF(need->all_routes.next, struct route, link) : NULL;

    if (t->paused || t->needs.n || !may_run_more(t) || t->timed.node.at || !rate_allows(t->next_ns, t->limits.rate, now_ns))
        return false;
    return need->n_routes <= 1 && !(only && (only->n || only->more || only->peeking));
}

static struct worker *least_busy(const struct need *need)
{
    const struct heap_node *top = heap_top(&need->free);

    return top ? HEAP_OF(top, struct member, node)->worker : NULL;
}

bool match_early(struct match_tenant *t, const struct route_spec *needs, const char *task_id, int64_t now_ns, struct pairing *ret_pairing)
{
    struct need *need = needs->group || task_find(t, task_id) ? NULL : need_of(t, needs);
    struct worker *w = need && is_next(t, need, now_ns) ? least_busy(need) : NULL;
    struct task *task = w ? task_new(t, task_id) : NULL;

    if (need && !need->n_routes)
        need_rest(need);
    if (!task)
        return false;
    t->r->now_ns = now_ns;
    give_to(w, task, NULL, ret_pairing);
    ret_pairing->early = true;
    return true;
}

bool match_tell_next(struct matcher *r, struct telling *ret_telling)
{
    struct task *task;

    if (!link_is_in(&r->tell))
        return false;
    task = LINK_OF(r->tell.next, struct task, tell);
    link_remove(&task->tell);
    *ret_telling = (struct telling){task->t, task->task_id, task->seq, task->unroutable};
    return true;
}

/* ---- time ---- */

void timed_set(struct matcher *r, struct timed *timed, int64_t at_ns)
{
    heap_set(&r->timed, &timed->node, at_ns);
}

void timed_clear(struct matcher *r, struct timed *timed)
{
    heap_remove(&r->timed, &timed->node);
}

static void fire(struct timed *timed)
{
    switch (timed->kind) {
    case TIMED_TENANT:
        tenant_update(HEAP_OF(timed, struct match_tenant, timed));
        break;
    case TIMED_ROUTE:
        route_unpark(HEAP_OF(timed, struct route, timed));
        break;
    case TIMED_NEED:
        need_look(HEAP_OF(timed, struct need, timed));
        break;
    }
}

int64_t match_tick(struct matcher *r, int64_t now_ns)
{
    struct heap_node *top;
    bool ended = false;

    r->now_ns = now_ns;
    while ((top = heap_top(&r->timed)) != NULL && top->key <= now_ns) {
        heap_remove(&r->timed, top);
        fire(HEAP_OF(top, struct timed, node));
    }
    for (struct link *l = r->tenants.next; l != &r->tenants; l = l->next) {
        struct match_tenant *t = LINK_OF(l, struct match_tenant, link);

        ended_purge(t, now_ns);
        ended |= link_is_in(&t->ended);
    }
    if (ended && (!top || top->key > now_ns + ended_look_ns))
        return now_ns + ended_look_ns;
    return top ? top->key : INT64_MAX;
}
