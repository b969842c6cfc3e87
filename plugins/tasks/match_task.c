/* Tasks by their ids; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tasks/match_parts.h"

static bool is_task(const void *item, const void *key)
{
    return strcmp(((const struct task *)item)->task_id, key) == 0;
}

static uint64_t hash_of(const char *task_id)
{
    return hash_bytes(task_id, strlen(task_id));
}

struct task *task_find(const struct match_tenant *t, const char *task_id)
{
    return table_get(&t->tasks, hash_of(task_id), is_task, task_id);
}

bool match_knows(const struct match_tenant *t, const char *task_id)
{
    const struct task *task = task_find(t, task_id);

    return task && task->state != TASK_ENDED;
}

bool match_is_news(const struct match_tenant *t, const char *task_id, int64_t epoch)
{
    const struct task *task = task_find(t, task_id);

    return !task || (task->epoch <= epoch && (task->state == TASK_HELD || task->state == TASK_ENDED));
}

struct task *task_new(struct match_tenant *t, const char *task_id)
{
    size_t len = strlen(task_id);
    struct task *task = calloc(1, sizeof *task + len + 1);

    if (!task)
        return NULL;
    memcpy(task->task_id, task_id, len);
    task->t = t;
    task->state = TASK_ENDED;
    link_init(&task->link);
    link_init(&task->tell);
    if (!table_put(&t->tasks, hash_of(task_id), task)) {
        free(task);
        return NULL;
    }
    return task;
}

void task_free(struct task *task)
{
    (void)table_take(&task->t->tasks, hash_of(task->task_id), is_task, task->task_id);
    link_remove(&task->link);
    link_remove(&task->tell);
    free(task->excluded);
    free(task->crashed);
    free(task);
}

bool task_set(struct task *task, const struct task_spec *spec)
{
    free(task->excluded);
    free(task->crashed);
    task->crashed = NULL;
    task->pos = spec->pos;
    task->epoch = spec->epoch;
    task->seq = spec->seq;
    task->unroutable = spec->unroutable;
    return words_make(spec->n_excluded, spec->excluded, &task->excluded) && words_make(spec->n_crashed, spec->crashed, &task->crashed);
}
