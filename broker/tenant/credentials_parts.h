/*
 * tenant/credentials_parts.h - what credentials.c (the cache) and inquiry.c (the database) share. Private to tenant/.
 */
#ifndef MUSTER_TENANT_CREDENTIALS_PARTS_H
#define MUSTER_TENANT_CREDENTIALS_PARTS_H

#include <pthread.h>

#include "tenant/credentials.h"

enum { CREDENTIALS_SHARDS = 64, SHARD_BUCKETS = 1024, SHARD_MAX = CREDENTIALS_MAX / CREDENTIALS_SHARDS };

/* Readers only count a reference under the lock, so nobody waits for them. */
struct shard {
    pthread_rwlock_t lock;
    struct credential *buckets[SHARD_BUCKETS];
    uint32_t n, hand; /* hand: the bucket that is looked at next for room */
};

struct change_watcher {
    credentials_change_fn fn;
    void *arg;
};

/* A name that is asked for because somebody waits, or because its row was changed while it was not cached. */
struct inquiry {
    struct inquiry *next;
    bool wanted;
    char tenant[NAME_MAX_LEN + 1], agent[NAME_MAX_LEN + 1];
};

/* The statement that is on its way: questions first, then what is read again. */
struct batch {
    struct inquiry *inquiries[CREDENTIALS_BATCH];
    struct credential *again[CREDENTIALS_BATCH];
    size_t n_inquiries, n_again;
    struct credential_row rows[CREDENTIALS_BATCH]; /* of its answer, while it is read; too many for the stack */
    bool there[CREDENTIALS_BATCH];
};

struct credentials {
    struct credentials_options how;
    struct shard shards[CREDENTIALS_SHARDS];
    _Atomic size_t n;

    pthread_mutex_t lock; /* guards the questions; nothing is called while it is held */
    struct inquiry *first, *last;
    size_t n_changes; /* of those that nobody waits for */
    bool closed;

    /* Of the loop's thread alone: */
    struct credential *stale_first, *stale_last; /* counted */
    struct batch batch;
    bool asking;
    uv_timer_t *retry;
    struct change_watcher watchers[CREDENTIALS_WATCHERS_MAX];
    size_t n_watchers;
};

/* Have it read again. [loop] */
void credentials_mark_stale(struct credentials *c, struct credential *credential);

#endif
