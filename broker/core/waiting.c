/* Messages of tenants that are being asked for; see waiting.h. */
#include "core/waiting.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/name.h"

/* So many in a second that begins with the first. */
struct budget {
    int64_t since_ns;
    uint32_t n;
};

/* A tenant that is asked for, or that a "no" is remembered of. It has a queue only while verdict is WAITING_IN. */
struct tenant {
    char name[NAME_MAX_LEN];
    size_t len;
    uint64_t hash;
    bool asking;      /* waiting_answer() is still to come: the entry stays until then */
    int verdict;      /* what is said to who comes; WAITING_IN: nothing yet */
    int64_t since_ns; /* of the question, then of the verdict */
    struct waiter *first, *last;
    uint32_t n_msgs;
    size_t n_bytes;
    struct budget told;
};

struct waiting {
    struct waiting_options how;
    atomic_uint n_msgs; /* written under the lock; 0 only when what waited has left altogether */

    /* Guards all below. Taken before every lock that leave() takes (the dispatcher's, an inbox's, an outbox's). */
    pthread_mutex_t lock;
    struct tenant tenants[WAITING_TENANTS];
    size_t n_tenants;
    size_t n_bytes;
    int64_t now_ns; /* of the last call that told it */
    struct budget told;
};

/* ---- with the lock held --------------------------------------------------------------------- */

static bool is_over(const struct waiting *w, const struct tenant *t)
{
    return !t->asking && w->now_ns - t->since_ns >= WAITING_REMEMBER_NS;
}

static void forget(struct waiting *w, struct tenant *t)
{
    *t = w->tenants[--w->n_tenants];
}

/* NULL: it is not asked for, and nothing is remembered of it any more. */
static struct tenant *find(struct waiting *w, struct text name)
{
    uint64_t hash = hash_bytes(name.s, name.len);

    for (size_t i = 0; i < w->n_tenants; i++) {
        struct tenant *t = &w->tenants[i];

        if (t->hash != hash || t->len != name.len || memcmp(t->name, name.s, name.len) != 0)
            continue;
        if (!is_over(w, t))
            return t;
        forget(w, t);
        break;
    }
    return NULL;
}

/* NULL: too many are asked for or remembered. None of those gives way, or a few more tenants than fit would have a question a
 * message. */
static struct tenant *add(struct waiting *w, struct text name)
{
    struct tenant *t;

    for (size_t i = w->n_tenants; w->n_tenants == WAITING_TENANTS && i > 0; i--)
        if (is_over(w, &w->tenants[i - 1]))
            forget(w, &w->tenants[i - 1]);
    if (w->n_tenants == WAITING_TENANTS)
        return NULL;
    t = &w->tenants[w->n_tenants++];
    *t = (struct tenant){.len = name.len,
                         .hash = hash_bytes(name.s, name.len),
                         .asking = true,
                         .verdict = WAITING_IN,
                         .since_ns = w->now_ns};
    memcpy(t->name, name.s, name.len);
    return t;
}

static bool has_room(const struct waiting *w, const struct tenant *t, const struct waiter *m)
{
    if (atomic_load(&w->n_msgs) >= WAITING_MSGS || w->n_bytes + m->n_bytes > WAITING_BYTES)
        return false;
    return !t || !t->first ||
           (t->n_msgs < WAITING_TENANT_MSGS && t->n_bytes + m->n_bytes <= WAITING_TENANT_BYTES);
}

static struct waiting_verdict append(struct waiting *w, struct tenant *t, struct waiter *m)
{
    m->next = NULL;
    if (t->last)
        t->last->next = m;
    else
        t->first = m;
    t->last = m;
    t->n_msgs++;
    t->n_bytes += m->n_bytes;
    w->n_bytes += m->n_bytes;
    atomic_fetch_add(&w->n_msgs, 1);
    return (struct waiting_verdict){.what = WAITING_IN};
}

static bool spend(struct budget *b, uint32_t limit, int64_t now_ns)
{
    if (now_ns - b->since_ns >= CLOCK_S)
        *b = (struct budget){.since_ns = now_ns};
    return b->n < limit && ++b->n;
}

/* t is NULL where the tenant has no entry. */
static bool may_tell(struct waiting *w, struct tenant *t)
{
    return (!t || spend(&t->told, WAITING_TENANT_ANSWERS_PER_S, w->now_ns)) &&
           spend(&w->told, WAITING_ANSWERS_PER_S, w->now_ns);
}

static struct waiting_verdict refuse(struct waiting *w, struct tenant *t, const struct waiter *m,
                                     int what)
{
    return (struct waiting_verdict){.what = what, .tell = m->asks && may_tell(w, t)};
}

/* All that wait for a tenant leave. The count goes last: until then nobody passes them. */
static void let_go(struct waiting *w, struct tenant *t, int what)
{
    struct waiter *m = t->first;

    while (m) {
        struct waiter *next = m->next;
        struct waiting_verdict verdict = {.what = what};

        if (what != WAITING_KNOWN)
            verdict = refuse(w, t, m, what);
        w->how.leave(w->how.arg, m, verdict);
        m = next;
    }
    w->n_bytes -= t->n_bytes;
    atomic_fetch_sub(&w->n_msgs, t->n_msgs);
    t->first = t->last = NULL;
    t->n_msgs = 0;
    t->n_bytes = 0;
}

static struct waiting_verdict enter_known(struct waiting *w, struct waiter *m)
{
    struct tenant *t = find(w, m->tenant);

    if (!t || !t->first)
        return (struct waiting_verdict){.what = WAITING_KNOWN};
    return has_room(w, t, m) ? append(w, t, m) : refuse(w, t, m, WAITING_FULL);
}

/* *ret_ask: the question is the caller's to ask. */
static struct waiting_verdict enter_unknown(struct waiting *w, struct waiter *m, bool *ret_ask)
{
    struct tenant *t = find(w, m->tenant);

    if (t && t->verdict != WAITING_IN)
        return refuse(w, t, m, t->verdict);
    if (!has_room(w, t, m))
        return refuse(w, t, m, WAITING_FULL);
    if (!t) {
        t = add(w, m->tenant);
        *ret_ask = t != NULL;
    }
    return t ? append(w, t, m) : refuse(w, NULL, m, WAITING_FULL);
}

/* ---- in and out ----------------------------------------------------------------------------- */

struct waiting_verdict waiting_enter(struct waiting *w, struct waiter *waiter, int64_t now_ns)
{
    char name[NAME_MAX_LEN]; /* once the lock is free, the waiter may leave at any time */
    size_t len = waiter->tenant.len;
    struct waiting_verdict verdict;
    bool ask = false;

    ASSERT(len <= sizeof name);
    memcpy(name, waiter->tenant.s, len);
    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    verdict = waiter->known ? enter_known(w, waiter) : enter_unknown(w, waiter, &ask);
    pthread_mutex_unlock(&w->lock);
    if (ask)
        w->how.ask(w->how.arg, name, len);
    return verdict;
}

void waiting_answer(struct waiting *w, struct text tenant, int what, int64_t now_ns)
{
    struct tenant *t;

    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    t = find(w, tenant);
    ASSERT(t && t->asking);
    let_go(w, t, what);
    t->asking = false;
    t->verdict = what;
    t->since_ns = now_ns;
    if (what == WAITING_KNOWN)
        forget(w, t);
    pthread_mutex_unlock(&w->lock);
}

bool waiting_tick(struct waiting *w, int64_t now_ns)
{
    bool some = false;

    pthread_mutex_lock(&w->lock);
    w->now_ns = now_ns;
    for (size_t i = 0; i < w->n_tenants; i++) {
        struct tenant *t = &w->tenants[i];

        if (t->verdict != WAITING_IN)
            continue;
        some = true;
        if (now_ns - t->since_ns < WAITING_PATIENCE_NS)
            continue;
        let_go(w, t, WAITING_AWAY);
        t->verdict = WAITING_AWAY; /* also to who comes, until the question is answered */
    }
    pthread_mutex_unlock(&w->lock);
    return some;
}

bool waiting_has(struct waiting *w, struct text tenant)
{
    const struct tenant *t;
    bool has;

    if (atomic_load(&w->n_msgs) == 0)
        return false;
    pthread_mutex_lock(&w->lock);
    t = find(w, tenant);
    has = t && t->first;
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
    ASSERT(pthread_mutex_init(&w->lock, NULL) == 0);
    return w;
}

void waiting_free(struct waiting *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_tenants; i++) {
        struct waiter *m = w->tenants[i].first;

        while (m) {
            struct waiter *next = m->next;

            w->how.leave(w->how.arg, m, (struct waiting_verdict){.what = WAITING_AWAY});
            m = next;
        }
    }
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}
