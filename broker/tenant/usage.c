/* What each agent has used up; see usage.h. */
#include "tenant/usage.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/name.h"

enum { N_ROWS = 1 << 16, N_LOCKS = 64, SWEEP_ROWS = 64 };
/* A bucket of more never runs dry, and its depth in nanoseconds would not fit. */
static const int64_t tokens_max = INT64_C(1000000000);
static const int64_t full_wait_ns = CLOCK_S;

struct usage_entry {
    struct usage_entry *next;
    const struct muster_tenant *tenant;
    uint64_t hash;
    int64_t full_at_ns[USAGE_N_BUCKETS];
    int64_t rate[USAGE_N_BUCKETS]; /* as it was last: a changed limit begins with a full bucket */
    uint32_t n_in_flight;
    uint8_t len;
    char agent[NAME_MAX_LEN];
};

struct usage {
    pthread_mutex_t locks[N_LOCKS]; /* row i is under lock i % N_LOCKS */
    struct usage_entry *rows[N_ROWS];
    uint32_t swept[N_LOCKS]; /* how often rows of this lock were swept for room */
    atomic_size_t n;
    _Atomic uint64_t n_full;
};

/* ---- buckets ---------------------------------------------------------------------------------------------------------------------- */

/* The generic cell rate algorithm. */
struct bucket bucket_of_requests(int64_t rate, int64_t burst)
{
    int64_t period = rate < CLOCK_S ? CLOCK_S / rate : 1;
    int64_t tokens = burst > 0 ? burst : rate; /* without a burst: what a second gives */

    return (struct bucket){.rate = rate, .cost_ns = period, .depth_ns = period * (tokens < tokens_max ? tokens : tokens_max)};
}

struct bucket bucket_of_bytes(int64_t rate, size_t n_bytes)
{
    double cost = (double)n_bytes / (double)rate * (double)CLOCK_S;

    return (struct bucket){.rate = rate, .cost_ns = cost < 1 ? 1 : (int64_t)cost, .depth_ns = CLOCK_S, .overdraws = true};
}

int64_t bucket_take(const struct bucket *b, int64_t full_at_ns, int64_t now_ns, int64_t *ret_full_at_ns)
{
    int64_t from = full_at_ns > now_ns ? full_at_ns : now_ns, next = from + b->cost_ns;
    int64_t over = (b->overdraws ? from + 1 : next) - now_ns - b->depth_ns;

    if (over > 0)
        return over;
    *ret_full_at_ns = next;
    return 0;
}

/* ---- entries ---------------------------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct usage_key *key)
{
    return hash_bytes(key->agent, key->agent_len) ^ ((uint64_t)(uintptr_t)key->tenant * UINT64_C(0x9e3779b97f4a7c15));
}

static pthread_mutex_t *lock_of(struct usage *u, uint64_t hash)
{
    return &u->locks[hash % N_LOCKS]; /* N_LOCKS divides N_ROWS */
}

static bool is_idle(const struct usage_entry *e, int64_t now_ns)
{
    return !e->n_in_flight && e->full_at_ns[USAGE_REQUESTS] <= now_ns && e->full_at_ns[USAGE_BYTES] <= now_ns;
}

static bool is_of(const struct usage_entry *e, const struct usage_key *key, uint64_t hash)
{
    return e->hash == hash && e->tenant == key->tenant && e->len == key->agent_len && memcmp(e->agent, key->agent, e->len) == 0;
}

static struct usage_entry *entry_new(struct usage *u, const struct usage_key *key, uint64_t hash)
{
    struct usage_entry *e = NULL;

    if (atomic_fetch_add(&u->n, 1) < USAGE_MAX && key->agent_len <= NAME_MAX_LEN)
        e = calloc(1, sizeof *e);
    if (!e) {
        atomic_fetch_sub(&u->n, 1);
        atomic_fetch_add(&u->n_full, 1);
        return NULL;
    }
    e->tenant = key->tenant;
    e->hash = hash;
    e->len = (uint8_t)key->agent_len;
    memcpy(e->agent, key->agent, key->agent_len);
    return e;
}

/* Its entry in the row, or NULL; who is idle beside it goes. The lock is held. */
static struct usage_entry *look(struct usage *u, struct usage_entry **at, const struct usage_key *key, uint64_t hash)
{
    while (*at) {
        struct usage_entry *e = *at;

        if (is_of(e, key, hash))
            return e;
        if (!is_idle(e, key->now_ns)) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        free(e);
        atomic_fetch_sub(&u->n, 1);
    }
    return NULL;
}

/* Who is idle in some of the rows under the same lock goes. */
static void sweep(struct usage *u, const struct usage_key *key, uint64_t hash)
{
    uint32_t first = hash % N_LOCKS;

    for (int i = 0; i < SWEEP_ROWS; i++)
        (void)look(u, &u->rows[(first + N_LOCKS * u->swept[first]++) % N_ROWS], key, hash);
}

/* The agent's entry, made where there is none. NULL: no room. The lock is held. */
static struct usage_entry *entry_of(struct usage *u, const struct usage_key *key, uint64_t hash)
{
    struct usage_entry **row = &u->rows[hash % N_ROWS], *e = look(u, row, key, hash);

    if (e)
        return e;
    if (atomic_load(&u->n) >= USAGE_MAX)
        sweep(u, key, hash);
    e = entry_new(u, key, hash);
    if (e) {
        e->next = *row;
        *row = e;
    }
    return e;
}

/* All or nothing: who may not send the bytes keeps the token. */
static int64_t take(struct usage_entry *e, const struct bucket *buckets, int64_t now_ns, int *ret_which)
{
    int64_t next[USAGE_N_BUCKETS];

    for (int i = 0; i < USAGE_N_BUCKETS; i++) {
        int64_t wait;

        if (e->rate[i] != buckets[i].rate) {
            e->full_at_ns[i] = 0;
            e->rate[i] = buckets[i].rate;
        }
        next[i] = e->full_at_ns[i];
        wait = buckets[i].cost_ns ? bucket_take(&buckets[i], e->full_at_ns[i], now_ns, &next[i]) : 0;
        *ret_which = i;
        if (wait)
            return wait;
    }
    memcpy(e->full_at_ns, next, sizeof next);
    return 0;
}

int64_t usage_take(struct usage *u, const struct usage_key *key, const struct bucket buckets[USAGE_N_BUCKETS], int *ret_which)
{
    uint64_t hash = hash_of(key);
    struct usage_entry *e;
    int64_t wait = full_wait_ns;

    pthread_mutex_lock(lock_of(u, hash));
    e = entry_of(u, key, hash);
    *ret_which = buckets[USAGE_REQUESTS].cost_ns ? USAGE_REQUESTS : USAGE_BYTES;
    if (e)
        wait = take(e, buckets, key->now_ns, ret_which);
    pthread_mutex_unlock(lock_of(u, hash));
    return wait;
}

struct usage_entry *usage_enter(struct usage *u, const struct usage_key *key, uint32_t most)
{
    uint64_t hash = hash_of(key);
    struct usage_entry *e;

    pthread_mutex_lock(lock_of(u, hash));
    e = entry_of(u, key, hash);
    if (e && e->n_in_flight >= most)
        e = NULL;
    if (e)
        e->n_in_flight++;
    pthread_mutex_unlock(lock_of(u, hash));
    return e;
}

void usage_leave(struct usage *u, struct usage_entry *e)
{
    pthread_mutex_t *lock = lock_of(u, e->hash); /* it may be freed by another once it is unlocked */

    pthread_mutex_lock(lock);
    e->n_in_flight--;
    pthread_mutex_unlock(lock);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

struct usage *usage_new(void)
{
    struct usage *u = calloc(1, sizeof *u);

    for (int i = 0; u && i < N_LOCKS; i++)
        ASSERT(pthread_mutex_init(&u->locks[i], NULL) == 0);
    return u;
}

void usage_free(struct usage *u)
{
    if (!u)
        return;
    for (size_t i = 0; i < N_ROWS; i++)
        while (u->rows[i]) {
            struct usage_entry *e = u->rows[i];

            u->rows[i] = e->next;
            free(e);
        }
    for (int i = 0; i < N_LOCKS; i++)
        (void)pthread_mutex_destroy(&u->locks[i]);
    free(u);
}

size_t usage_count(struct usage *u)
{
    return atomic_load(&u->n);
}

uint64_t usage_full(struct usage *u)
{
    return atomic_load(&u->n_full);
}
