/* Whom open requests are about; see known.h. */
#include "help/known.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { KEY_MAX = 64 + 1 + 256 + 1 };

struct agent {
    size_t refs;
    char key[]; /* tenant/agent */
};

struct request {
    struct agent **agents;
    size_t n;
    uint32_t round; /* of known, when it was told of */
    char key[]; /* tenant/request */
};

static bool agent_is(const void *item, const void *key)
{
    return strcmp(((const struct agent *)item)->key, key) == 0;
}

static bool request_is(const void *item, const void *key)
{
    return strcmp(((const struct request *)item)->key, key) == 0;
}

static uint64_t hash_of(const char *key)
{
    return hash_bytes(key, strlen(key));
}

static bool make_key(char key[KEY_MAX], const char *tenant, const char *name)
{
    int n = snprintf(key, KEY_MAX, "%s/%s", tenant, name);

    return n > 0 && n < KEY_MAX;
}

static struct agent *take_agent(struct known *k, const char *tenant, const char *name)
{
    char key[KEY_MAX];
    struct agent *a;

    if (!make_key(key, tenant, name))
        return NULL;
    a = table_get(&k->agents, hash_of(key), agent_is, key);
    if (!a) {
        a = calloc(1, sizeof *a + strlen(key) + 1);
        if (!a)
            return NULL;
        memcpy(a->key, key, strlen(key) + 1);
        if (!table_put(&k->agents, hash_of(key), a)) {
            free(a);
            return NULL;
        }
    }
    a->refs++;
    return a;
}

static void drop_agent(struct known *k, struct agent *a)
{
    if (--a->refs)
        return;
    (void)table_take(&k->agents, hash_of(a->key), agent_is, a->key);
    free(a);
}

static struct request *find_or_make(struct known *k, const char *key)
{
    struct request *r = table_get(&k->requests, hash_of(key), request_is, key);

    if (r || k->requests.n >= KNOWN_REQUESTS_MAX)
        return r;
    r = calloc(1, sizeof *r + strlen(key) + 1);
    if (!r)
        return NULL;
    memcpy(r->key, key, strlen(key) + 1);
    if (!table_put(&k->requests, hash_of(key), r)) {
        free(r);
        return NULL;
    }
    return r;
}

static void forget(struct known *k, const char *key)
{
    struct request *r = table_take(&k->requests, hash_of(key), request_is, key);

    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        drop_agent(k, r->agents[i]);
    free(r->agents);
    free(r);
}

static bool is_in(const struct request *r, const struct agent *a)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->agents[i] == a)
            return true;
    return false;
}

static void add_agent(struct known *k, struct request *r, const char *tenant, const char *name)
{
    struct agent *a = r->n < KNOWN_NAMES_MAX ? take_agent(k, tenant, name) : NULL;
    struct agent **agents = a && !is_in(r, a) ? realloc(r->agents, (r->n + 1) * sizeof *agents) : NULL;

    if (agents) {
        r->agents = agents;
        r->agents[r->n++] = a;
    } else if (a) {
        drop_agent(k, a);
    }
}

void known_add(struct known *k, const char *tenant, const char *help_id, const char *const *names, size_t n)
{
    char key[KEY_MAX];
    struct request *r = make_key(key, tenant, help_id) ? find_or_make(k, key) : NULL;

    if (r)
        r->round = k->round;
    for (size_t i = 0; r && i < n; i++)
        add_agent(k, r, tenant, names[i]);
}

void known_forget(struct known *k, const char *tenant, const char *help_id)
{
    char key[KEY_MAX];

    if (make_key(key, tenant, help_id))
        forget(k, key);
}

void known_begin(struct known *k)
{
    k->round++;
}

void known_end(struct known *k)
{
    size_t at = 0;
    void *item;

    while (table_next(&k->requests, &at, &item)) {
        struct request *r = item;

        if (k->round - r->round > 1)
            forget(k, r->key);
    }
}

bool known_has(const struct known *k, const char *tenant, const char *agent)
{
    char key[KEY_MAX];

    return make_key(key, tenant, agent) && table_get(&k->agents, hash_of(key), agent_is, key);
}

void known_done(struct known *k)
{
    size_t at = 0;
    void *item;

    while (table_next(&k->requests, &at, &item)) {
        struct request *r = item;

        forget(k, r->key);
    }
    table_done(&k->requests);
    table_done(&k->agents);
}
