/* Routes, and of each the window of the tasks that are next; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tasks/match_parts.h"

/* ---- routes ---- */

static bool is_route(const void *item, const void *key)
{
    return ((const struct route *)item)->id == *(const int64_t *)key;
}

struct route *route_find(const struct match_tenant *t, int64_t id)
{
    return table_get(&t->routes, (uint64_t)id * UINT64_C(0x9E3779B97F4A7C15) >> 7, is_route, &id);
}

static void route_free(struct route *route)
{
    struct need *need = route->need;
    struct match_tenant *t = need->t;
    struct group *g = route->group;

    (void)table_take(&t->routes, (uint64_t)route->id * UINT64_C(0x9E3779B97F4A7C15) >> 7, is_route, &route->id);
    heap_remove(&need->routes, &route->node);
    heap_unreserve(&need->routes);
    timed_clear(t->r, &route->timed);
    heap_unreserve(&t->r->timed);
    link_remove(&route->link);
    link_remove(&route->parked);
    link_remove(&route->peek);
    need->n_routes--;
    free(route->window);
    free(route->cursor_id);
    free(route);
    if (g && !--g->n_routes)
        group_tidy(t, g);
    need_update(need);
    if (!need->n_routes)
        need_rest(need);
}

void route_tidy(struct route *route)
{
    if (!route->n_tasks && !route->more && !route->peeking)
        route_free(route);
}

static void detach_all(struct route *route)
{
    struct link *l = route->need->aside.next, *next;

    for (; l != &route->need->aside; l = next) {
        struct task *task = LINK_OF(l, struct task, link);

        next = l->next;
        if (task->route == route)
            match_forget(task->t, task);
    }
    while (route->n)
        match_forget(route->need->t, route->window[route->n - 1]);
}

void route_end(struct route *route)
{
    struct match_tenant *t = route->need->t;
    void *item;

    route->peeking = true; /* it stays until all is out */
    detach_all(route);
    for (size_t i = 0; route->n_tasks && table_next(&t->tasks, &i, &item);)
        if (((struct task *)item)->route == route)
            route_detach(item);
    route->more = route->peeking = false;
    route_free(route);
}

/* Where there are as many as may be, one goes that nobody could serve: it is found again, when there is room. */
static bool make_room(struct match_tenant *t)
{
    if (t->routes.n < t->r->config.routes)
        return true;
    for (struct link *l = t->all_needs.next; l != &t->all_needs; l = l->next) {
        struct need *need = LINK_OF(l, struct need, link);

        for (struct link *m = need->n_members ? &need->all_routes : need->all_routes.next; m != &need->all_routes; m = m->next) {
            struct route *route = LINK_OF(m, struct route, link);

            if (route->peeking)
                continue;
            route_end(route);
            return true;
        }
    }
    return false;
}

struct route *route_new(struct match_tenant *t, const struct route_spec *spec)
{
    struct route *route = make_room(t) ? calloc(1, sizeof *route) : NULL;
    struct need *need = route ? need_of(t, spec) : NULL;
    struct group *g = need && spec->group ? group_get(t, spec->group) : NULL;

    if (!need || (spec->group && !g) || !heap_reserve(&need->routes)) {
        if (g)
            group_tidy(t, g);
        if (need && !need->n_routes)
            need_rest(need);
        free(route);
        return NULL;
    }
    *route = (struct route){.id = spec->id, .need = need, .group = g, .timed = {.kind = TIMED_ROUTE}};
    link_init(&route->link);
    link_init(&route->parked);
    link_init(&route->peek);
    if (!heap_reserve(&t->r->timed) || !table_put(&t->routes, (uint64_t)spec->id * UINT64_C(0x9E3779B97F4A7C15) >> 7, route)) {
        heap_unreserve(&need->routes);
        free(route);
        return NULL;
    }
    if (!need->n_routes++)
        need_wake(need);
    link_put(&need->all_routes, &route->link);
    if (g && !g->n_routes++)
        group_tidy(t, g);
    return route;
}

struct route *route_get(struct match_tenant *t, const struct route_spec *spec)
{
    struct route *route = route_find(t, spec->id);

    return route ? route : route_new(t, spec);
}

void route_update(struct route *route)
{
    struct need *need = route->need;

    if (route->n && !link_is_in(&route->parked))
        heap_set(&need->routes, &route->node, route->window[0]->pos);
    else
        heap_remove(&need->routes, &route->node);
    need_update(need);
}

/* ---- windows ---- */

static int compare(int64_t pos, const char *task_id, const struct task *with)
{
    if (pos != with->pos)
        return pos < with->pos ? -1 : 1;
    return strcmp(task_id, with->task_id);
}

static uint32_t place_of(const struct route *route, int64_t pos, const char *task_id)
{
    uint32_t low = 0, high = route->n;

    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (compare(pos, task_id, route->window[mid]) > 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool route_is_behind(const struct route *route, int64_t pos, const char *task_id)
{
    if (!route->more || pos < route->cursor_pos)
        return false;
    return pos > route->cursor_pos || strcmp(task_id, route->cursor_id ? route->cursor_id : "") > 0;
}

/* False: no memory; then it is asked from where it was. */
bool route_set_cursor(struct route *route, int64_t pos, const char *task_id)
{
    char *copy = strdup(task_id);

    if (!copy)
        return false;
    free(route->cursor_id);
    route->cursor_id = copy;
    route->cursor_pos = pos;
    return true;
}

/* More is asked for while a quarter is left, so that nobody waits for the answer. */
void route_ask(struct route *route)
{
    struct matcher *r = route->need->t->r;

    if (route->more && !route->peeking && route->n <= r->config.window / 4 && !link_is_in(&route->peek))
        link_put(&r->peeks, &route->peek);
}

/* What is behind the cursor comes from there. While it is asked what is there the answer may not have it yet: it is believed up to this only. */
void route_pass_over(struct route *route, int64_t pos)
{
    if (!route->peeking) {
        route_ask(route);
        return;
    }
    if (!route->beyond || pos < route->beyond_pos)
        route->beyond_pos = pos;
    route->beyond = true;
}

/* The last one goes: what is told of it later is behind the cursor. */
static bool drop_last(struct route *route)
{
    struct task *last = route->window[route->n - 1];
    const struct task *before = route->window[route->n - 2];

    if (!route_set_cursor(route, before->pos, before->task_id))
        return false;
    route->more = true;
    route->dropped |= route->peeking;
    window_take(route, last);
    route_detach(last);
    task_free(last);
    return true;
}

static bool has_room(struct route *route)
{
    uint32_t cap = route->cap ? route->cap * 2 : 4;
    struct task **window;

    if (route->n < route->cap)
        return true;
    window = realloc(route->window, cap * sizeof *window);
    if (!window)
        return false;
    route->window = window;
    route->cap = cap;
    return true;
}

static void lose(struct task *task)
{
    route_detach(task);
    task_free(task);
}

bool window_put(struct route *route, struct task *task)
{
    uint32_t at = place_of(route, task->pos, task->task_id);
    bool behind = route_is_behind(route, task->pos, task->task_id), unroutable = task->unroutable;

    if (behind || !has_room(route)) {
        if (behind)
            route_pass_over(route, task->pos);
        lose(task);
        return behind;
    }
    memmove(route->window + at + 1, route->window + at, (route->n - at) * sizeof *route->window);
    route->window[at] = task;
    route->n++;
    task->state = TASK_WAITS;
    task->t->n_queued++;
    if (route->n > route->need->t->r->config.window && route->n > 1 && !drop_last(route))
        return true; /* one more than there should be */
    route_update(route);
    if (!route->need->n_members || unroutable)
        need_look_later(route->need);
    return true;
}

void window_take(struct route *route, struct task *task)
{
    uint32_t at = place_of(route, task->pos, task->task_id);

    ASSERT(at < route->n && route->window[at] == task);
    route->n--;
    memmove(route->window + at, route->window + at + 1, (route->n - at) * sizeof *route->window);
    task->t->n_queued--;
    route_update(route);
    route_ask(route);
}

void route_attach(struct route *route, struct task *task)
{
    task->route = route;
    route->n_tasks++;
    route->need->n_unroutable += task->unroutable;
}

void route_detach(struct task *task)
{
    struct route *route = task->route;

    if (!route)
        return;
    task->route = NULL;
    route->n_tasks--;
    route->need->n_unroutable -= task->unroutable;
    link_remove(&task->tell);
    route_tidy(route);
}
