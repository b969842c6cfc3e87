/* Groups: whom they stick to, how many of their tasks are held, and which routes wait for that; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "tasks/match_parts.h"

enum { IDLE_MAX = 1024 }; /* groups of a tenant that have nothing to do, and whose worker is remembered */

struct group *group_get(struct match_tenant *t, const char *key)
{
    size_t len = strlen(key);
    struct group *g = map_get(&t->groups, key, len);

    if (g)
        return g;
    g = calloc(1, sizeof *g + len + 1);
    if (!g || !map_put(&t->groups, key, len, g)) {
        free(g);
        return NULL;
    }
    memcpy(g->key, key, len);
    link_init(&g->parked);
    link_init(&g->waiting);
    link_init(&g->idle);
    return g;
}

void group_stick(struct group *g, struct worker *w)
{
    struct worker *before = g->worker;

    if (before == w)
        return;
    link_remove(&g->waiting);
    g->worker = w;
    if (w)
        w->refs++;
    if (before) {
        before->refs--;
        worker_tidy(before);
    }
}

static void group_free(struct match_tenant *t, struct group *g)
{
    group_stick(g, NULL);
    link_remove(&g->idle);
    map_take(&t->groups, g->key, strlen(g->key));
    free(g);
}

void group_tidy(struct match_tenant *t, struct group *g)
{
    if (g->n_routes || g->n_held) {
        t->n_idle -= link_is_in(&g->idle);
        link_remove(&g->idle);
        return;
    }
    if (!g->worker) {
        t->n_idle -= link_is_in(&g->idle);
        group_free(t, g);
        return;
    }
    t->n_idle += !link_is_in(&g->idle);
    link_put(&t->idle_groups, &g->idle);
    if (t->n_idle > IDLE_MAX) {
        t->n_idle--;
        group_free(t, LINK_OF(t->idle_groups.next, struct group, idle));
    }
}

void groups_done(struct match_tenant *t)
{
    struct group *g;
    const char *key;

    for (size_t i = 0; map_next(&t->groups, &i, &key, (void **)&g);)
        group_free(t, g);
    map_done(&t->groups);
}

/* ---- waiting ---- */

void route_unpark(struct route *route)
{
    link_remove(&route->parked);
    timed_clear(route->need->t->r, &route->timed);
    route_update(route);
}

void group_unpark(struct group *g)
{
    link_remove(&g->waiting);
    while (link_is_in(&g->parked))
        route_unpark(LINK_OF(g->parked.next, struct route, parked));
}

static enum choice park(struct route *route, int64_t until_ns)
{
    link_put(&route->group->parked, &route->parked);
    if (until_ns)
        timed_set(route->need->t->r, &route->timed, until_ns);
    route_update(route);
    return CHOICE_PARKED;
}

/* It is worth waiting for the worker while it works for this group, and for a while where it works for others. */
static enum choice wait_for_worker(struct route *route)
{
    struct matcher *r = route->need->t->r;
    struct group *g = route->group;

    if (!route->since_ns)
        route->since_ns = r->now_ns;
    link_put(&g->worker->waiting, &g->waiting);
    return park(route, g->n_held ? 0 : route->since_ns + r->config.sticky_ns);
}

static bool sticks(const struct route *route, const struct task *task)
{
    const struct worker *w = route->group->worker;

    return w && w->present && w->able && member_of(route->need, w) && !words_has(task->excluded, w->agent) &&
           !words_has(task->crashed, w->agent);
}

/* Parked, or taken by its worker; CHOICE_ASIDE: anybody may have it. */
static enum choice choose_in_group(struct route *route, struct task *task, struct worker **ret_worker)
{
    const struct match_limits *limits = &route->need->t->limits;
    struct matcher *r = route->need->t->r;
    struct group *g = route->group;

    if (limits->group_running && g->n_held >= limits->group_running)
        return park(route, 0);
    if (!rate_allows(g->next_ns, limits->group_rate, r->now_ns))
        return park(route, g->next_ns);
    if (!sticks(route, task))
        return CHOICE_ASIDE;
    *ret_worker = g->worker;
    if (g->worker->is_free)
        return CHOICE_TAKE;
    if (g->n_held || !route->since_ns || r->now_ns < route->since_ns + r->config.sticky_ns)
        return wait_for_worker(route);
    return CHOICE_ASIDE;
}

enum choice route_choose(struct route *route, struct worker **ret_worker)
{
    struct task *task = route->window[0];

    if (route->group) {
        enum choice choice = choose_in_group(route, task, ret_worker);

        if (choice != CHOICE_ASIDE)
            return choice;
    }
    *ret_worker = need_choose(route->need, task);
    return *ret_worker ? CHOICE_TAKE : CHOICE_ASIDE;
}
