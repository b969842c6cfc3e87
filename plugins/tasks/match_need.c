/* What routes need, who has it, and what nobody has; see match.h. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tasks/match_parts.h"

enum { IDLE_MAX = 2048 }; /* needs of a tenant that nothing asks for at the moment: who has them need not be found out again */

/* ---- life ---- */

struct need_key {
    const char *wanted;
    const struct words *capabilities, *labels;
};

static uint64_t hash_words(uint64_t hash, const struct words *words)
{
    for (uint32_t i = 0; words && i < words->n; i++)
        hash = hash * 31 + hash_bytes(words->at[i], strlen(words->at[i]));
    return hash * 31 + 1;
}

static uint64_t hash_of(const struct need_key *key)
{
    return hash_words(hash_words(key->wanted ? hash_bytes(key->wanted, strlen(key->wanted)) : 0, key->capabilities), key->labels);
}

static bool same_words(const struct words *a, const struct words *b)
{
    return words_within(a, b) && words_within(b, a);
}

static bool is_need(const void *item, const void *with)
{
    const struct need *need = item;
    const struct need_key *key = with;

    return (key->wanted ? need->wanted && strcmp(need->wanted, key->wanted) == 0 : !need->wanted) &&
           same_words(need->capabilities, key->capabilities) && same_words(need->labels, key->labels);
}

static bool join_workers(struct need *need)
{
    struct match_tenant *t = need->t;
    struct worker *w = need->wanted ? worker_get(t, need->wanted, false) : NULL;
    const char *key;

    if (need->wanted)
        return !w || !need_takes(need, w) || need_join(need, w);
    for (size_t i = 0; map_next(&t->workers, &i, &key, (void **)&w);)
        if (need_takes(need, w) && !need_join(need, w))
            return false;
    return true;
}

static void need_free(struct need *need)
{
    heap_done(&need->routes);
    heap_done(&need->free);
    free(need->wanted);
    free(need->capabilities);
    free(need->labels);
    free(need);
}

static bool enter(struct match_tenant *t, struct need *need, uint64_t hash)
{
    if (!heap_reserve(&t->needs))
        return false;
    if (!heap_reserve(&t->r->timed)) {
        heap_unreserve(&t->needs);
        return false;
    }
    if (!table_put(&t->by_need, hash, need)) {
        heap_unreserve(&t->needs);
        heap_unreserve(&t->r->timed);
        return false;
    }
    link_put(&t->all_needs, &need->link);
    return true;
}

/* Owns the sets. */
static struct need *make(struct match_tenant *t, const char *wanted, struct words *capabilities, struct words *labels)
{
    struct need_key key = {wanted, capabilities, labels};
    struct need *need = calloc(1, sizeof *need);

    if (!need) {
        free(capabilities);
        free(labels);
        return NULL;
    }
    *need = (struct need){.t = t, .wanted = wanted ? strdup(wanted) : NULL, .capabilities = capabilities, .labels = labels,
                          .timed = {.kind = TIMED_NEED}};
    link_init(&need->link);
    link_init(&need->aside);
    link_init(&need->all_routes);
    link_init(&need->members);
    link_init(&need->idle);
    if ((wanted && !need->wanted) || !enter(t, need, hash_of(&key))) {
        need_free(need);
        return NULL;
    }
    if (!join_workers(need)) {
        need_end(need);
        return NULL;
    }
    return need;
}

struct need *need_of(struct match_tenant *t, const struct route_spec *spec)
{
    struct words *capabilities = NULL, *labels = NULL;
    struct need *need = NULL;

    if (words_make(spec->n_capabilities, spec->capabilities, &capabilities) && words_make(spec->n_labels, spec->labels, &labels)) {
        struct need_key key = {spec->wanted, capabilities, labels};

        need = table_get(&t->by_need, hash_of(&key), is_need, &key);
        if (!need)
            return make(t, spec->wanted, capabilities, labels);
    }
    free(capabilities);
    free(labels);
    return need;
}

void need_end(struct need *need)
{
    struct need_key key = {need->wanted, need->capabilities, need->labels};
    struct match_tenant *t = need->t;

    while (link_is_in(&need->members))
        need_leave(need, LINK_OF(need->members.next, struct member, link)->worker);
    (void)table_take(&t->by_need, hash_of(&key), is_need, &key);
    heap_remove(&t->needs, &need->node);
    heap_unreserve(&t->needs);
    timed_clear(t->r, &need->timed);
    heap_unreserve(&t->r->timed);
    link_remove(&need->link);
    need_wake(need);
    need_free(need);
    tenant_update(t);
}

void need_wake(struct need *need)
{
    need->t->n_idle_needs -= link_is_in(&need->idle);
    link_remove(&need->idle);
}

void need_rest(struct need *need)
{
    struct match_tenant *t = need->t;

    if (need->wanted) { /* that costs no more than a name */
        need_end(need);
        return;
    }
    t->n_idle_needs += !link_is_in(&need->idle);
    link_put(&t->idle_needs, &need->idle);
    if (t->n_idle_needs > IDLE_MAX)
        need_end(LINK_OF(t->idle_needs.next, struct need, idle));
}

/* ---- who has it ---- */

bool need_takes(const struct need *need, const struct worker *w)
{
    return w->present && (!need->wanted || strcmp(need->wanted, w->agent) == 0) && words_within(need->capabilities, w->capabilities) &&
           words_within(need->labels, w->labels);
}

struct member *member_of(const struct need *need, const struct worker *w)
{
    for (uint32_t i = 0; i < w->n_members; i++)
        if (w->members[i]->need == need)
            return w->members[i];
    return NULL;
}

static bool has_room(struct worker *w)
{
    uint32_t cap = w->cap_members ? w->cap_members * 2 : 4;
    struct member **members;

    if (w->n_members < w->cap_members)
        return true;
    members = realloc(w->members, cap * sizeof(struct member *));
    if (!members)
        return false;
    w->members = members;
    w->cap_members = cap;
    return true;
}

/* Who could do what nobody could is told of, at once. */
static void look_again(struct need *need)
{
    if (need->n_unroutable || link_is_in(&need->aside))
        timed_set(need->t->r, &need->timed, need->t->r->now_ns);
}

bool need_join(struct need *need, struct worker *w)
{
    struct member *m = has_room(w) ? calloc(1, sizeof *m) : NULL;

    if (!m || !heap_reserve(&need->free)) {
        free(m);
        return false;
    }
    m->need = need;
    m->worker = w;
    link_init(&m->link);
    link_put(&need->members, &m->link);
    w->members[w->n_members++] = m;
    need->n_members++;
    if (w->is_free)
        heap_set(&need->free, &m->node, worker_key(w));
    look_again(need);
    need_update(need);
    return true;
}

void need_leave(struct need *need, struct worker *w)
{
    for (uint32_t i = 0; i < w->n_members; i++) {
        struct member *m = w->members[i];

        if (m->need != need)
            continue;
        w->members[i] = w->members[--w->n_members];
        heap_remove(&need->free, &m->node);
        heap_unreserve(&need->free);
        link_remove(&m->link);
        free(m);
        need->n_members--;
        break;
    }
    if (need->n_routes)
        need_look_later(need);
    need_update(need);
}

void need_update(struct need *need)
{
    struct heap_node *top = heap_top(&need->routes);

    if (top && need->free.n)
        heap_set(&need->t->needs, &need->node, top->key);
    else
        heap_remove(&need->t->needs, &need->node);
    tenant_update(need->t);
}

struct worker *need_choose(const struct need *need, const struct task *task)
{
    const struct heap_node *best = NULL, *second = NULL; /* second: it has crashed there */

    for (size_t i = 0; i < need->free.n; i++) {
        const struct heap_node *node = need->free.nodes[i];
        const struct worker *w = HEAP_OF(node, struct member, node)->worker;
        bool crashed = words_has(task->crashed, w->agent);

        if (words_has(task->excluded, w->agent))
            continue;
        if (crashed ? !second || node->key < second->key : !best || node->key < best->key)
            *(crashed ? &second : &best) = node;
        if (!task->excluded && !task->crashed)
            break; /* the first is the one with the least */
    }
    best = best ? best : second;
    return best ? HEAP_OF(best, struct member, node)->worker : NULL;
}

/* ---- what nobody has ---- */

bool need_has_somebody(const struct need *need, const struct task *task)
{
    size_t n = 0;

    for (uint32_t i = 0; task->excluded && i < task->excluded->n; i++) {
        const struct worker *w = worker_get(need->t, task->excluded->at[i], false);

        n += w && member_of(need, w);
    }
    return need->n_members > n;
}

static void task_tell(struct task *task, bool unroutable)
{
    if (task->unroutable == unroutable)
        return;
    task->unroutable = unroutable;
    if (unroutable)
        task->route->need->n_unroutable++;
    else
        task->route->need->n_unroutable--;
    link_put(&task->t->r->tell, &task->tell);
}

void need_look_later(struct need *need)
{
    if (need->t->settled && !need->timed.node.at)
        timed_set(need->t->r, &need->timed, need->t->r->now_ns + need->t->r->config.unroutable_ns);
}

void need_look(struct need *need)
{
    if (!need->t->settled)
        return;
    for (struct link *l = need->all_routes.next; l != &need->all_routes; l = l->next) {
        const struct route *route = LINK_OF(l, struct route, link);

        for (uint32_t i = 0; i < route->n; i++)
            task_tell(route->window[i], !need_has_somebody(need, route->window[i]));
    }
    for (struct link *l = need->aside.next; l != &need->aside; l = l->next) {
        struct task *task = LINK_OF(l, struct task, link);

        task_tell(task, !need_has_somebody(need, task));
    }
}

void need_recall(struct need *need, const struct worker *w)
{
    struct link *next;

    for (struct link *l = need->aside.next; l != &need->aside; l = next) {
        struct task *task = LINK_OF(l, struct task, link);

        next = l->next;
        if (words_has(task->excluded, w->agent))
            continue;
        link_remove(&task->link);
        task->t->n_aside--;
        (void)window_put(task->route, task);
    }
}
