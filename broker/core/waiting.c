/* Messages of tenants and names that are being asked for; see waiting.h. */
#include "core/waiting.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/map.h"
#include "base/name.h"

/* So many in a second that begins with the first. */
struct budget {
    int64_t since_ns;
    uint32_t n;
};

/* A tenant's part of a room for names. */
struct share {
    uint32_t n_msgs;
    size_t n_bytes;
};

enum { KEY_MAX = 2 * NAME_MAX_LEN + 1 }; /* a dot, which no name has, stands between tenant and agent */

/* What is asked for, or a "no" that is remembered. It has a queue only while verdict is WAITING_IN. */
struct party {
    struct party *before, *after; /* in its list */
    char key[KEY_MAX];
    size_t len, tenant_len;
    bool asking;      /* waiting_answer() is still to come: the entry stays until then */
    int verdict;      /* what is said to who comes; WAITING_IN: nothing yet */
    int64_t since_ns; /* of the question, then of the verdict */
    struct waiter *first, *last;
    uint32_t n_msgs;
    size_t n_bytes;
    struct budget told;
};

struct parties {
    struct party *first, *last; /* the oldest first */
};

struct bounds {
    uint32_t keys, msgs, key_msgs;
    size_t bytes, key_bytes;
};

static const struct bounds of_tenants = {WAITING_TENANTS, WAITING_MSGS, WAITING_TENANT_MSGS, WAITING_BYTES, WAITING_TENANT_BYTES};
static const struct bounds of_names = {WAITING_NAMES, WAITING_NAMES_MSGS, WAITING_NAME_MSGS, WAITING_NAMES_BYTES, WAITING_NAME_BYTES};

struct waiting {
    struct waiting_options how;
    const struct bounds *bounds;
    atomic_uint n_msgs; /* written under the lock; 0 only when what waited has left altogether */

    /* Guards all below. Taken before every lock that leave() takes (the dispatcher's, an inbox's, an outbox's; that of a room for names after
     * that of one for tenants). */
    pthread_mutex_t lock;
    struct map by_key;
    struct map shares; /* by tenant, of those who wait; in a room for names */
    struct parties asked, remembered;
    size_t n_bytes;
    int64_t now_ns; /* of the last call that told it */
    struct budget told;
};

/* ---- with the lock held --------------------------------------------------------------------- */

static void list_put(struct parties *list, struct party *p)
{
    p->before = list->last;
    p->after = NULL;
    if (list->last)
        list->last->after = p;
    else
        list->first = p;
    list->last = p;
}

static void list_take(struct parties *list, struct party *p)
{
    if (p->before)
        p->before->after = p->after;
    else
        list->first = p->after;
    if (p->after)
        p->after->before = p->before;
    else
        list->last = p->before;
}

static size_t key_of(struct text tenant, struct text agent, char out[KEY_MAX])
{
    ASSERT(tenant.len <= NAME_MAX_LEN && agent.len <= NAME_MAX_LEN);
    memcpy(out, tenant.s, tenant.len);
    if (!agent.s)
        return tenant.len;
    out[tenant.len] = '.';
    memcpy(out + tenant.len + 1, agent.s, agent.len);
    return tenant.len + 1 + agent.len;
}

static bool is_over(const struct waiting *w, const struct party *p)
{
    return !p->asking && w->now_ns - p->since_ns >= WAITING_REMEMBER_NS;
}

static void forget(struct waiting *w, struct party *p)
{
    list_take(p->asking ? &w->asked : &w->remembered, p);
    (void)map_take(&w->by_key, p->key, p->len);
    free(p);
}

/* NULL: it is not asked for, and nothing is remembered of it any more. */
static struct party *find(struct waiting *w, struct text tenant, struct text agent)
{
    char key[KEY_MAX];
    struct party *p = map_get(&w->by_key, key, key_of(tenant, agent, key));

    if (!p || !is_over(w, p))
        return p;
    forget(w, p);
    return NULL;
}

/* NULL: too many are asked for or remembered. None of those gives way, or a few more keys than fit would have a question a message. */
static struct party *add(struct waiting *w, const struct waiter *m)
{
    struct party *p;

    for (int i = 0; i < 2 && w->remembered.first && is_over(w, w->remembered.first); i++)
        forget(w, w->remembered.first);
    p = w->by_key.n < w->bounds->keys ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    *p = (struct party){.tenant_len = m->tenant.len, .asking = true, .verdict = WAITING_IN, .since_ns = w->now_ns};
    p->len = key_of(m->tenant, m->agent, p->key);
    if (!map_put(&w->by_key, p->key, p->len, p)) {
        free(p);
        return NULL;
    }
    list_put(&w->asked, p);
    return p;
}

/* A tenant has no more of the room than is left for all others. */
static bool fits_share(const struct waiting *w, const struct waiter *m)
{
    const struct share *s = map_get(&w->shares, m->tenant.s, m->tenant.len);

    return !s || (s->n_msgs < w->bounds->msgs - atomic_load(&w->n_msgs) &&
                  s->n_bytes + m->n_bytes <= w->bounds->bytes - w->n_bytes);
}

static bool has_room(const struct waiting *w, const struct party *p, const struct waiter *m)
{
    if (atomic_load(&w->n_msgs) >= w->bounds->msgs || w->n_bytes + m->n_bytes > w->bounds->bytes || !fits_share(w, m))
        return false;
    return !p || !p->first || (p->n_msgs < w->bounds->key_msgs && p->n_bytes + m->n_bytes <= w->bounds->key_bytes);
}

/* Of a room for tenants there are none, because a tenant is a key there; nor of operators, whose tenant is "". False: no memory. */
static bool add_share(struct waiting *w, const struct waiter *m)
{
    struct share *s = map_get(&w->shares, m->tenant.s, m->tenant.len);

    if (!w->how.of_names || m->tenant.len == 0)
        return true;
    if (!s) {
        s = calloc(1, sizeof *s);
        if (!s || !map_put(&w->shares, m->tenant.s, m->tenant.len, s)) {
            free(s);
            return false;
        }
    }
    s->n_msgs++;
    s->n_bytes += m->n_bytes;
    return true;
}

static void take_share(struct waiting *w, const struct party *p)
{
    struct share *s = map_get(&w->shares, p->key, p->tenant_len);

    if (!s)
        return;
    s->n_msgs -= p->n_msgs;
    s->n_bytes -= p->n_bytes;
    if (s->n_msgs == 0)
        free(map_take(&w->shares, p->key, p->tenant_len));
}

static bool spend(struct budget *b, uint32_t limit, int64_t now_ns)
{
    if (now_ns - b->since_ns >= CLOCK_S)
        *b = (struct budget){.since_ns = now_ns};
    return b->n < limit && ++b->n;
}

/* p is NULL where the key has no entry. */
static bool may_tell(struct waiting *w, struct party *p)
{
    return (!p || spend(&p->told, WAITING_TENANT_ANSWERS_PER_S, w->now_ns)) &&
           spend(&w->told, WAITING_ANSWERS_PER_S, w->now_ns);
}

static struct waiting_verdict refuse(struct waiting *w, struct party *p, const struct waiter *m,
                                     int what)
{
    return (struct waiting_verdict){.what = what, .tell = m->asks && may_tell(w, p)};
}

static struct waiting_verdict append(struct waiting *w, struct party *p, struct waiter *m)
{
    if (!add_share(w, m))
        return refuse(w, p, m, WAITING_FULL);
    m->next = NULL;
    if (p->last)
        p->last->next = m;
    else
        p->first = m;
    p->last = m;
    p->n_msgs++;
    p->n_bytes += m->n_bytes;
    w->n_bytes += m->n_bytes;
    atomic_fetch_add(&w->n_msgs, 1);
    return (struct waiting_verdict){.what = WAITING_IN};
}

/* All that wait for a key leave. The count goes last: until then nobody passes them. */
static void let_go(struct waiting *w, struct party *p, int what)
{
    struct waiter *m = p->first;

    while (m) {
        struct waiter *next = m->next;
        struct waiting_verdict verdict = {.what = what};

        if (what != WAITING_KNOWN)
            verdict = refuse(w, p, m, what);
        w->how.leave(w->how.arg, m, verdict);
        m = next;
    }
    take_share(w, p);
    w->n_bytes -= p->n_bytes;
    atomic_fetch_sub(&w->n_msgs, p->n_msgs);
    p->first = p->last = NULL;
    p->n_msgs = 0;
    p->n_bytes = 0;
}

static struct waiting_verdict enter_known(struct waiting *w, struct waiter *m)
{
    struct party *p = find(w, m->tenant, m->agent);

    if (!p || !p->first)
        return (struct waiting_verdict){.what = WAITING_KNOWN};
    return has_room(w, p, m) ? append(w, p, m) : refuse(w, p, m, WAITING_FULL);
}

/* *ret_ask: the question is the caller's to ask. */
static struct waiting_verdict enter_unknown(struct waiting *w, struct waiter *m, bool *ret_ask)
{
    struct party *p = find(w, m->tenant, m->agent);

    if (p && p->verdict != WAITING_IN)
        return refuse(w, p, m, p->verdict);
    if (!has_room(w, p, m))
        return refuse(w, p, m, WAITING_FULL);
    if (!p) {
        p = add(w, m);
        *ret_ask = p != NULL;
    }
    return p ? append(w, p, m) : refuse(w, NULL, m, WAITING_FULL);
}

/* ---- in and out ----------------------------------------------------------------------------- */

struct waiting_verdict waiting_enter(struct waiting *w, struct waiter *waiter, int64_t now_ns)
{
    char names[2][NAME_MAX_LEN]; /* once the lock is free, the waiter may leave at any time */
    struct text tenant = {names[0], waiter->tenant.len}, agent = {waiter->agent.s ? names[1] : NULL, waiter->agent.len};
    struct waiting_verdict verdict;
    bool ask = false;

    ASSERT(tenant.len <= NAME_MAX_LEN && agent.len <= NAME_MAX_LEN);
    memcpy(names[0], waiter->tenant.s, tenant.len);
    if (agent.s)
        memcpy(names[1], waiter->agent.s, agent.len);
    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    verdict = waiter->known ? enter_known(w, waiter) : enter_unknown(w, waiter, &ask);
    pthread_mutex_unlock(&w->lock);
    if (ask)
        w->how.ask(w->how.arg, tenant, agent);
    return verdict;
}

void waiting_answer(struct waiting *w, struct text tenant, struct text agent, int what, int64_t now_ns)
{
    struct party *p;

    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    p = find(w, tenant, agent);
    ASSERT(p && p->asking);
    let_go(w, p, what);
    list_take(&w->asked, p);
    list_put(&w->remembered, p);
    p->asking = false;
    p->verdict = what;
    p->since_ns = now_ns;
    if (what == WAITING_KNOWN)
        forget(w, p);
    pthread_mutex_unlock(&w->lock);
}

bool waiting_tick(struct waiting *w, int64_t now_ns)
{
    bool some = false;

    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    for (struct party *p = w->asked.first; p; p = p->after) {
        if (p->verdict != WAITING_IN)
            continue;
        some = true;
        if (now_ns - p->since_ns < WAITING_PATIENCE_NS)
            break; /* those after it came later */
        let_go(w, p, WAITING_AWAY);
        p->verdict = WAITING_AWAY; /* also to who comes, until the question is answered */
    }
    pthread_mutex_unlock(&w->lock);
    return some;
}

bool waiting_has(struct waiting *w, struct text tenant, struct text agent)
{
    const struct party *p;
    bool has;

    if (atomic_load(&w->n_msgs) == 0)
        return false;
    pthread_mutex_lock(&w->lock);
    p = find(w, tenant, agent);
    has = p && p->first;
    pthread_mutex_unlock(&w->lock);
    return has;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct waiting *waiting_new(const struct waiting_options *options)
{
    struct waiting *w = calloc(1, sizeof *w);

    if (!w)
        return NULL;
    w->how = *options;
    w->bounds = options->of_names ? &of_names : &of_tenants;
    ASSERT(pthread_mutex_init(&w->lock, NULL) == 0);
    return w;
}

static void free_party(struct waiting *w, struct party *p)
{
    for (struct waiter *m = p->first, *next; m; m = next) {
        next = m->next;
        w->how.leave(w->how.arg, m, (struct waiting_verdict){.what = WAITING_AWAY});
    }
    take_share(w, p);
    p->n_msgs = 0;
    forget(w, p);
}

void waiting_free(struct waiting *w)
{
    if (!w)
        return;
    while (w->asked.first)
        free_party(w, w->asked.first);
    while (w->remembered.first)
        free_party(w, w->remembered.first);
    map_done(&w->by_key);
    map_done(&w->shares);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}
