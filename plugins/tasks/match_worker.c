/* Who is present, and their slots; see match.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tasks/match_parts.h"

struct worker *worker_get(struct match_tenant *t, const char *agent, bool make)
{
    size_t len = strlen(agent);
    struct worker *w = map_get(&t->workers, agent, len);

    if (w || !make)
        return w;
    w = calloc(1, sizeof *w + len + 1);
    if (!w || !map_put(&t->workers, agent, len, w)) {
        free(w);
        return NULL;
    }
    w->t = t;
    w->capacity = 1;
    w->load = NAN;
    memcpy(w->agent, agent, len);
    link_init(&w->waiting);
    return w;
}

static void worker_free(struct worker *w)
{
    free(w->session);
    free(w->capabilities);
    free(w->labels);
    free(w->members);
    free(w);
}

void worker_tidy(struct worker *w)
{
    if (w->present || w->used || w->refs)
        return;
    map_take(&w->t->workers, w->agent, strlen(w->agent));
    worker_free(w);
}

void workers_done(struct match_tenant *t)
{
    struct worker *w;
    const char *key;

    for (size_t i = 0; map_next(&t->workers, &i, &key, (void **)&w);)
        worker_free(w);
    map_done(&t->workers);
}

/* ---- free or not ---- */

static bool is_free(const struct worker *w)
{
    return w->present && w->able && w->used < w->capacity && (!w->pulls || w->credit);
}

/* Who has most room first, then who says that it has least to do, then who has waited longest. */
int64_t worker_key(const struct worker *w)
{
    int64_t busy = w->busy, part = (int64_t)w->used * 1000 / w->capacity, said = 0;

    if (w->load > 0)
        said = w->load < 1 ? (int64_t)(w->load * 31) : 31;
    return busy << 60 | part << 50 | said << 45 | (int64_t)(w->turn & ((UINT64_C(1) << 45) - 1));
}

static void set_free(struct worker *w)
{
    int64_t key = worker_key(w);

    for (uint32_t i = 0; i < w->n_members; i++) {
        heap_set(&w->members[i]->need->free, &w->members[i]->node, key);
        need_update(w->members[i]->need);
    }
}

static void set_taken(struct worker *w)
{
    for (uint32_t i = 0; i < w->n_members; i++) {
        heap_remove(&w->members[i]->need->free, &w->members[i]->node);
        need_update(w->members[i]->need);
    }
}

static void wake_groups(struct worker *w)
{
    while (link_is_in(&w->waiting))
        group_unpark(LINK_OF(w->waiting.next, struct group, waiting));
}

void worker_update(struct worker *w)
{
    bool was = w->is_free;

    w->is_free = is_free(w);
    if (!w->is_free) {
        if (was)
            set_taken(w);
        if (!w->present || !w->able)
            wake_groups(w);
        return;
    }
    set_free(w);
    if (was)
        return;
    for (uint32_t i = 0; i < w->n_members; i++)
        need_recall(w->members[i]->need, w);
    wake_groups(w);
}

/* ---- who is there ---- */

static bool same_words(const struct words *a, const struct words *b)
{
    return words_within(a, b) && words_within(b, a);
}

static void leave_all(struct worker *w)
{
    w->is_free = false;
    while (w->n_members)
        need_leave(w->members[w->n_members - 1]->need, w);
}

static bool join_all(struct worker *w)
{
    bool ok = true;

    for (struct link *l = w->t->all_needs.next; l != &w->t->all_needs; l = l->next) {
        struct need *need = LINK_OF(l, struct need, link);

        if (need_takes(need, w))
            ok &= need_join(need, w);
    }
    return ok;
}

static bool set_words(struct worker *w, const struct worker_spec *spec, bool *ret_changed)
{
    struct words *capabilities, *labels = NULL;

    if (!words_make(spec->n_capabilities, spec->capabilities, &capabilities) ||
        !words_make(spec->n_labels, spec->labels, &labels)) {
        free(capabilities);
        return false;
    }
    *ret_changed = !w->present || !same_words(capabilities, w->capabilities) || !same_words(labels, w->labels);
    if (!*ret_changed) {
        free(capabilities);
        free(labels);
        return true;
    }
    leave_all(w);
    free(w->capabilities);
    free(w->labels);
    w->capabilities = capabilities;
    w->labels = labels;
    return true;
}

static bool set_session(struct worker *w, const char *session)
{
    char *copy;

    if (w->session && strcmp(w->session, session) == 0)
        return true;
    copy = strdup(session);
    if (!copy)
        return false;
    free(w->session);
    w->session = copy;
    w->credit = 0; /* what another session asked for nobody waits for */
    return true;
}

bool match_present(struct match_tenant *t, const struct worker_spec *spec)
{
    struct worker *w = worker_get(t, spec->agent, true);
    bool changed;

    if (!w || !set_session(w, spec->session) || !set_words(w, spec, &changed)) {
        if (w)
            worker_tidy(w);
        return false;
    }
    t->n_present += !w->present;
    w->present = w->seen = true;
    w->capacity = spec->capacity ? spec->capacity : 1;
    w->load = spec->load;
    w->able = spec->able;
    w->busy = spec->busy;
    w->pulls = spec->pulls;
    w->asks = spec->asks;
    changed = !changed || join_all(w);
    worker_update(w);
    return changed;
}

static void absent(struct worker *w)
{
    if (!w->present)
        return;
    w->t->n_present--;
    w->present = false;
    w->credit = 0;
    leave_all(w);
    worker_update(w);
    worker_tidy(w);
}

void match_absent(struct match_tenant *t, const char *agent)
{
    struct worker *w = worker_get(t, agent, false);

    if (w)
        absent(w);
}

void match_present_begin(struct match_tenant *t)
{
    struct worker *w;
    const char *key;

    for (size_t i = 0; map_next(&t->workers, &i, &key, (void **)&w);)
        w->seen = false;
}

void match_present_end(struct match_tenant *t)
{
    struct worker *w;
    const char *key;

    for (size_t i = 0; map_next(&t->workers, &i, &key, (void **)&w);)
        if (!w->seen)
            absent(w);
}

void match_credit(struct match_tenant *t, const char *agent, uint32_t n)
{
    struct worker *w = worker_get(t, agent, false);

    if (!w)
        return;
    w->credit = n;
    worker_update(w);
}

uint32_t match_holds(const struct match_tenant *t, const char *agent)
{
    const struct worker *w = map_get(&t->workers, agent, strlen(agent));

    return w ? w->used : 0;
}

bool match_asks_again(struct match_tenant *t, const char *agent, int64_t now_ns, int64_t every_ns)
{
    struct worker *w = worker_get(t, agent, false);

    if (!w || !w->used || (w->asked_ns && now_ns - w->asked_ns < every_ns))
        return false;
    w->asked_ns = now_ns;
    return true;
}
