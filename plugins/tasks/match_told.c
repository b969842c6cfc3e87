/* What is told of queued tasks, and what is asked about them; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tasks/match_parts.h"

/* What was known of it is over. False: what is told is old. */
static bool make_way(struct match_tenant *t, const char *task_id, int64_t epoch)
{
    struct task *task = task_find(t, task_id);

    if (!task)
        return true;
    if (task->state == TASK_ASSIGNING || task->epoch > epoch)
        return false;
    if (task->state == TASK_HELD)
        hold_release(task);
    if (task->state == TASK_WAITS || task->state == TASK_ASIDE)
        match_forget(t, task);
    else
        task_free(task);
    return true;
}

static bool put_task(struct route *route, const struct task_spec *spec)
{
    struct task *task = task_new(route->need->t, spec->task_id);

    if (!task || !task_set(task, spec)) {
        if (task)
            task_free(task);
        return false;
    }
    route_attach(route, task);
    return window_put(route, task);
}

bool match_queued(struct match_tenant *t, const struct route_spec *spec, const struct task_spec *task)
{
    struct route *route;
    bool ok;

    if (!make_way(t, task->task_id, task->epoch))
        return true;
    route = route_get(t, spec);
    if (!route)
        return false;
    if (route_is_behind(route, task->pos, task->task_id)) {
        route_pass_over(route, task->pos);
        return true;
    }
    ok = put_task(route, task);
    if (!ok && route_find(t, spec->id) == route)
        route_tidy(route);
    return ok;
}

bool match_route_seen(struct match_tenant *t, const struct route_spec *spec, int64_t pos, const char *task_id)
{
    struct route *route = route_find(t, spec->id);

    if ((route && (route->peeking || route_is_behind(route, pos, task_id))) || match_knows(t, task_id))
        return true;
    if (!route)
        route = route_new(t, spec);
    if (!route)
        return false;
    free(route->cursor_id);
    route->cursor_id = NULL;
    route->cursor_pos = INT64_MIN;
    route->more = true;
    if (!link_is_in(&route->peek))
        link_put(&t->r->peeks, &route->peek);
    return true;
}

bool match_peek_next(struct matcher *r, struct peek *ret_peek)
{
    struct route *route;

    if (!link_is_in(&r->peeks))
        return false;
    route = LINK_OF(r->peeks.next, struct route, peek);
    link_remove(&route->peek);
    route->peeking = true;
    route->beyond = route->dropped = false;
    *ret_peek = (struct peek){route->need->t, route->id, route->cursor_pos, route->cursor_id ? route->cursor_id : ""};
    return true;
}

/* The cursor goes along. */
void match_peeked(struct match_tenant *t, int64_t id, const struct task_spec *spec)
{
    struct route *route = route_find(t, id);

    if (!route || !route->peeking || route->dropped || !route_is_behind(route, spec->pos, spec->task_id))
        return;
    if ((route->beyond && spec->pos >= route->beyond_pos) || !route_set_cursor(route, spec->pos, spec->task_id)) {
        route->dropped = true;
        return;
    }
    if (make_way(t, spec->task_id, spec->epoch) && !put_task(route, spec))
        route_pass_over(route, spec->pos); /* no memory */
}

void match_peek_done(struct match_tenant *t, int64_t id, uint32_t n, uint32_t limit)
{
    struct route *route = route_find(t, id);

    if (!route || !route->peeking)
        return;
    route->peeking = false;
    route->more = n >= limit || route->beyond || route->dropped;
    route_ask(route);
    route_tidy(route);
}

void match_peek_failed(struct match_tenant *t, int64_t id)
{
    struct route *route = route_find(t, id);

    if (!route || !route->peeking)
        return;
    route->peeking = false;
    link_put(&t->r->peeks, &route->peek);
}

void match_forget(struct match_tenant *t, struct task *task)
{
    struct route *route = task->route;

    switch (task->state) {
    case TASK_WAITS:
        window_take(route, task);
        break;
    case TASK_ASIDE:
        t->n_aside--;
        link_remove(&task->link);
        break;
    case TASK_ASSIGNING:
        t->n_assigning--;
        task->state = TASK_ENDED;
        hold_release(task);
        break;
    default:
        break;
    }
    route_detach(task);
    task_free(task);
}

void match_put_back(struct match_tenant *t, struct task *task)
{
    struct route *route = task->route;

    ASSERT(task->state == TASK_ASSIGNING);
    if (!route || task->over_epoch) {
        match_forget(t, task);
        return;
    }
    t->n_assigning--;
    task->state = TASK_ENDED;
    hold_release(task);
    (void)window_put(route, task);
}
