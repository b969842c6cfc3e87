/* The cache of names; see credentials.h. One writer, the loop's thread; readers anywhere. */
#include "tenant/credentials.h"

#include <stdlib.h>
#include <string.h>

#include "auth/roles.h"
#include "base/assert.h"
#include "base/hash.h"
#include "tenant/credentials_parts.h"

static uint64_t hash_of(const struct muster_tenant *tenant, const char *agent, size_t len)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);

    return hash_bytes(agent, len) ^ (tenant ? tenant->hash * odd : 0);
}

static struct shard *shard_of(struct credentials *c, uint64_t hash)
{
    return &c->shards[hash % CREDENTIALS_SHARDS];
}

static struct credential **bucket_of(struct shard *shard, uint64_t hash)
{
    return &shard->buckets[hash / CREDENTIALS_SHARDS % SHARD_BUCKETS];
}

/* The shard's lock is held. */
static struct credential *find(struct shard *shard, const struct muster_tenant *tenant, const char *agent, size_t len, uint64_t hash)
{
    for (struct credential *at = *bucket_of(shard, hash); at; at = at->next)
        if (at->hash == hash && at->tenant == tenant && strncmp(at->agent, agent, len) == 0 && at->agent[len] == '\0')
            return at;
    return NULL;
}

struct credential *credentials_find(struct credentials *c, const struct muster_tenant *tenant, const char *agent, size_t len)
{
    uint64_t hash = hash_of(tenant, agent, len);
    struct shard *shard = shard_of(c, hash);
    struct credential *found;

    if (len > NAME_MAX_LEN)
        return NULL;
    pthread_rwlock_rdlock(&shard->lock);
    found = credential_ref(find(shard, tenant, agent, len, hash));
    pthread_rwlock_unlock(&shard->lock);
    /* Written only where it changes: who speaks all the time would make all threads pass its line around. */
    if (found && !atomic_load_explicit(&found->used, memory_order_relaxed))
        atomic_store_explicit(&found->used, true, memory_order_relaxed);
    return found;
}

struct credential *credential_ref(struct credential *credential)
{
    if (credential)
        atomic_fetch_add_explicit(&credential->refs, 1, memory_order_relaxed);
    return credential;
}

static void forget_words(struct credential *credential)
{
    free(credential->verbs);
    free(credential->groups);
    free(credential->tables);
}

void credential_unref(struct credential *credential)
{
    if (!credential || atomic_fetch_sub_explicit(&credential->refs, 1, memory_order_acq_rel) != 1)
        return;
    forget_words(credential);
    free(credential);
}

int credential_state(const struct credential *credential, int64_t wall_ns)
{
    int64_t expires = atomic_load_explicit(&credential->expires_wall_ns, memory_order_relaxed);

    if (atomic_load_explicit(&credential->gone, memory_order_relaxed))
        return CREDENTIAL_GONE;
    if (atomic_load_explicit(&credential->revoked, memory_order_relaxed))
        return CREDENTIAL_REVOKED;
    return expires && expires <= wall_ns ? CREDENTIAL_EXPIRED : CREDENTIAL_LIVE;
}

bool credential_expires(const struct credential *credential)
{
    return atomic_load_explicit(&credential->expires_wall_ns, memory_order_relaxed) != 0;
}

uint32_t credential_role(const struct credential *credential)
{
    return credential ? atomic_load_explicit(&credential->role, memory_order_relaxed) : MUSTER_ROLE_NONE;
}

/* ---- narrowing ------------------------------------------------------------------------------------------------------------------ */

/* One word: "service.verb" or "service.*". */
static bool word_has(const char *word, size_t len, const char *service, size_t service_len, const char *verb, size_t verb_len)
{
    if (len < service_len + 2 || memcmp(word, service, service_len) != 0 || word[service_len] != '.')
        return false;
    word += service_len + 1;
    len -= service_len + 1;
    return (len == 1 && *word == '*') || (len == verb_len && memcmp(word, verb, len) == 0);
}

static bool list_has(const char *list, const char *service, size_t service_len, const char *verb, size_t verb_len)
{
    while (*list) {
        size_t len = strcspn(list, " ");

        if (word_has(list, len, service, service_len, verb, verb_len))
            return true;
        list += len + (list[len] == ' ');
    }
    return false;
}

bool credential_may(struct credentials *c, const struct credential *credential, const char *service, size_t service_len,
                    const char *verb, size_t verb_len)
{
    struct shard *shard = shard_of(c, credential->hash);
    bool may;

    if (!atomic_load_explicit(&credential->narrowed, memory_order_acquire))
        return true;
    pthread_rwlock_rdlock(&shard->lock);
    may = !credential->verbs || list_has(credential->verbs, service, service_len, verb, verb_len);
    pthread_rwlock_unlock(&shard->lock);
    return may;
}

/* An operator outside its own tenant is not heard of there by its plain name, and its own tenant is not known here: a token that none has. */
bool credential_may_hear(struct credentials *c, const struct credential *credential, const char *root, const char *tenant,
                         const char *subject)
{
    bool is_alias = !credential->tenant;
    const struct role_names names = {root, is_alias ? "_" : tenant, is_alias ? "_" : credential->agent, credential->agent};
    struct shard *shard = shard_of(c, credential->hash);
    uint32_t role = credential_role(credential);
    bool may;

    if (role == MUSTER_ROLE_NONE)
        return false;
    pthread_rwlock_rdlock(&shard->lock);
    may = role_covers((int)role - 1, ROLE_SUB, &names, &(struct role_narrowing){credential->groups, credential->tables}, subject);
    pthread_rwlock_unlock(&shard->lock);
    return may;
}

/* ---- writing: the loop's thread ---------------------------------------------------------------------------------------------------- */

static void unlink_credential(struct credentials *c, struct shard *shard, struct credential *gone)
{
    struct credential **at = bucket_of(shard, gone->hash);

    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    shard->n--;
    atomic_fetch_sub(&c->n, 1);
}

/* The next one that nobody holds and that nobody asked for since the hand came by. NULL: none in this bucket. */
static struct credential *idle_in(struct credential *at)
{
    for (; at; at = at->next)
        if (!atomic_exchange(&at->used, false) && atomic_load(&at->refs) == 1)
            return at;
    return NULL;
}

/* Twice around: the first time takes the marks away. The lock is held for writing, so no new holder comes meanwhile. */
static bool make_room(struct credentials *c, struct shard *shard)
{
    for (uint32_t i = 0; shard->n >= SHARD_MAX && i < 2 * SHARD_BUCKETS; i++) {
        struct credential *idle = idle_in(shard->buckets[shard->hand++ % SHARD_BUCKETS]);

        if (!idle)
            continue;
        unlink_credential(c, shard, idle);
        credential_unref(idle);
    }
    return shard->n < SHARD_MAX;
}

static struct credential *credential_new(const struct muster_tenant *tenant, const char *agent, uint64_t hash)
{
    size_t size = strlen(agent) + 1;
    struct credential *n = calloc(1, sizeof *n + size);

    if (!n)
        return NULL;
    atomic_init(&n->refs, 1);
    atomic_init(&n->used, true);
    n->tenant = tenant;
    n->hash = hash;
    memcpy(n->agent, agent, size);
    return n;
}

/* Insert it. NULL: no room, or no memory. The lock is held for writing. */
static struct credential *add(struct credentials *c, struct shard *shard, const struct muster_tenant *tenant, const char *agent,
                              uint64_t hash)
{
    struct credential *n = make_room(c, shard) ? credential_new(tenant, agent, hash) : NULL;

    if (!n)
        return NULL;
    n->next = *bucket_of(shard, hash);
    *bucket_of(shard, hash) = n;
    shard->n++;
    atomic_fetch_add(&c->n, 1);
    return n;
}

/* Copies of the words of a row, in a credential that is nothing else. False: no memory. */
static bool copy_words(const struct credential_row *row, struct credential *to)
{
    to->verbs = row->verbs ? strdup(row->verbs) : NULL;
    to->groups = row->groups ? strdup(row->groups) : NULL;
    to->tables = row->tables ? strdup(row->tables) : NULL;
    return !to->verbs == !row->verbs && !to->groups == !row->groups && !to->tables == !row->tables;
}

/* The row as it is now. The words are taken. The lock is held for writing. */
static void apply(struct credential *n, uint32_t role, const struct credential_row *row, const struct credential *words)
{
    forget_words(n);
    n->verbs = words->verbs;
    n->groups = words->groups;
    n->tables = words->tables;
    atomic_store(&n->narrowed, n->verbs != NULL);
    atomic_store(&n->role, role);
    atomic_store(&n->expires_wall_ns, row->expires_wall_ns);
    atomic_store(&n->revoked, row->revoked);
}

/* Who still holds it sees that it is gone. */
static void forget(struct credentials *c, struct shard *shard, struct credential *gone)
{
    if (!gone)
        return;
    atomic_store(&gone->gone, true);
    unlink_credential(c, shard, gone);
    credential_unref(gone);
}

static int put(struct credentials *c, struct shard *shard, struct credential *n, const struct credential_row *row)
{
    int role = role_find(row->role);
    struct credential words = {0};

    if (!copy_words(row, &words) || role < 0) {
        forget(c, shard, n); /* what it was before may be more than it is now */
        forget_words(&words);
        return role < 0 ? MUSTER_EINVAL : MUSTER_ENOMEM;
    }
    apply(n, (uint32_t)role + 1, row, &words);
    return 0;
}

int credentials_put(struct credentials *c, const struct muster_tenant *tenant, const char *agent, const struct credential_row *row)
{
    size_t len = strlen(agent);
    uint64_t hash = hash_of(tenant, agent, len);
    struct shard *shard = shard_of(c, hash);
    struct credential *n;
    int err = 0;

    if (len > NAME_MAX_LEN)
        return MUSTER_EINVAL;
    pthread_rwlock_wrlock(&shard->lock);
    n = find(shard, tenant, agent, len, hash);
    if (!row)
        forget(c, shard, n);
    else if (!n)
        n = add(c, shard, tenant, agent, hash);
    if (row)
        err = n ? put(c, shard, n, row) : MUSTER_EAGAIN;
    pthread_rwlock_unlock(&shard->lock);
    return err;
}

void credentials_stale(struct credentials *c)
{
    for (size_t i = 0; i < CREDENTIALS_SHARDS; i++)
        for (size_t k = 0; k < SHARD_BUCKETS; k++) /* only this thread changes the lists */
            for (struct credential *at = c->shards[i].buckets[k]; at; at = at->next)
                credentials_mark_stale(c, at);
    credentials_run(c);
}

size_t credentials_count(const struct credentials *c)
{
    return atomic_load(&c->n);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

int credentials_new(const struct credentials_options *options, struct credentials **ret_credentials)
{
    struct credentials *c = calloc(1, sizeof *c);

    if (!c)
        return MUSTER_ENOMEM;
    c->how = *options;
    c->closed = true; /* until credentials_open(): nobody would answer */
    ASSERT(pthread_mutex_init(&c->lock, NULL) == 0);
    for (size_t i = 0; i < CREDENTIALS_SHARDS; i++)
        ASSERT(pthread_rwlock_init(&c->shards[i].lock, NULL) == 0);
    *ret_credentials = c;
    return 0;
}

static void shard_done(struct shard *shard)
{
    for (size_t i = 0; i < SHARD_BUCKETS; i++)
        while (shard->buckets[i]) {
            struct credential *at = shard->buckets[i];

            shard->buckets[i] = at->next;
            credential_unref(at);
        }
    (void)pthread_rwlock_destroy(&shard->lock);
}

void credentials_free(struct credentials *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < CREDENTIALS_SHARDS; i++)
        shard_done(&c->shards[i]);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}
