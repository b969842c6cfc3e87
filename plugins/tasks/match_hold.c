/* What is held, and by whom; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tasks/match_parts.h"

static const int64_t ended_ns = 60 * CLOCK_S; /* an event comes within it, or what was missed is read anew */

void hold_take(struct task *task, struct worker *w, struct group *g)
{
    task->worker = w;
    task->group = g;
    w->used++;
    if (g && !g->n_held++)
        group_tidy(task->t, g);
}

void hold_release(struct task *task)
{
    struct worker *w = task->worker;
    struct group *g = task->group;

    if (task->state == TASK_HELD)
        task->t->n_held--;
    task->state = TASK_ENDED;
    task->worker = NULL;
    task->group = NULL;
    if (g) {
        g->n_held--;
        group_unpark(g);
        group_tidy(task->t, g);
    }
    if (w) {
        w->used--;
        worker_update(w);
        worker_tidy(w);
    }
    tenant_update(task->t);
}

void ended_purge(struct match_tenant *t, int64_t now_ns)
{
    while (link_is_in(&t->ended)) {
        struct task *task = LINK_OF(t->ended.next, struct task, link);

        if (task->until_ns > now_ns)
            return;
        task_free(task);
    }
}

static void end_soon(struct task *task)
{
    task->until_ns = task->t->r->now_ns + ended_ns;
    link_put(&task->t->ended, &task->link);
}

void match_assigned(struct match_tenant *t, struct task *task, int64_t epoch)
{
    ASSERT(task->state == TASK_ASSIGNING);
    t->n_assigning--;
    t->n_held++;
    task->state = TASK_HELD;
    task->epoch = epoch;
    task->seen = true;
    route_detach(task);
    task->unroutable = false;
    free(task->excluded);
    free(task->crashed);
    task->excluded = task->crashed = NULL;
    tenant_update(t);
    if (task->over_epoch >= epoch) {
        hold_release(task);
        task_free(task);
    }
}

bool match_held(struct match_tenant *t, const char *task_id, const char *agent, const char *group, int64_t epoch)
{
    struct task *task = task_find(t, task_id);
    struct worker *w;
    struct group *g;

    if (task && (task->state == TASK_ASSIGNING || epoch < task->epoch || (task->state == TASK_ENDED && epoch == task->epoch)))
        return true;
    if (task && task->state == TASK_HELD && strcmp(task->worker->agent, agent) == 0) {
        task->epoch = epoch;
        task->seen = true;
        return true;
    }
    if (task && task->state == TASK_HELD)
        hold_release(task);
    if (task)
        match_forget(t, task);
    w = worker_get(t, agent, true);
    g = group ? group_get(t, group) : NULL;
    task = w && (!group || g) ? task_new(t, task_id) : NULL;
    if (!task) {
        if (w)
            worker_tidy(w);
        return false;
    }
    task->state = TASK_HELD;
    task->epoch = epoch;
    task->seen = true;
    t->n_held++;
    hold_take(task, w, g);
    if (g)
        group_stick(g, w);
    worker_update(w);
    tenant_update(t);
    return true;
}

void match_over(struct match_tenant *t, const char *task_id, int64_t epoch)
{
    struct task *task = task_find(t, task_id);

    if (!task || epoch < task->epoch)
        return;
    if (task->state == TASK_ASSIGNING) {
        task->over_epoch = epoch > 0 ? epoch : 1;
        return;
    }
    if (task->state == TASK_HELD)
        hold_release(task);
    if (t->reading_held && task->state == TASK_ENDED)
        end_soon(task); /* what is read may be older */
    else
        match_forget(t, task);
}

void match_finished(struct match_tenant *t, const char *task_id)
{
    struct task *task = task_find(t, task_id);

    if (!task || task->state != TASK_HELD)
        return;
    hold_release(task);
    end_soon(task);
}

void match_held_begin(struct match_tenant *t)
{
    void *item;

    t->reading_held = true;
    for (size_t i = 0; table_next(&t->tasks, &i, &item);)
        ((struct task *)item)->seen = false;
}

void match_held_end(struct match_tenant *t)
{
    void *item;

    t->reading_held = false;
    for (size_t i = 0; table_next(&t->tasks, &i, &item);) {
        struct task *task = item;

        if (task->state != TASK_HELD || task->seen)
            continue;
        hold_release(task);
        task_free(task);
    }
}
