/* A hash table from byte strings to pointers; see map.h. */
#include "base/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static char gone; /* its address marks a deleted slot */
#define MAP_GONE (&gone)

enum { KEEP_CAP = 64 }; /* an empty table of so many slots is kept */

static uint32_t hash_of(const void *key, size_t len)
{
    return (uint32_t)hash_bytes(key, len);
}

static bool is_live(const struct map_slot *s)
{
    return s->key && s->key != MAP_GONE;
}

void map_done(struct map *m)
{
    for (size_t i = 0; i < m->cap; i++)
        if (is_live(&m->slots[i]))
            free(m->slots[i].key);
    free(m->slots);
    *m = (struct map){0};
}

/* Linear probing: a deleted slot keeps a chain together, an empty one ends it, and grow() sees to it that there is an
 * empty one. */
static struct map_slot *find(const struct map *m, const void *key, size_t len, uint32_t hash)
{
    if (!m->cap)
        return NULL;
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct map_slot *s = &m->slots[i];

        if (!s->key)
            return NULL;
        if (s->key != MAP_GONE && s->hash == hash && s->len == len && memcmp(s->key, key, len) == 0)
            return s;
    }
}

static struct map_slot *free_slot(struct map_slot *slots, size_t cap, uint32_t hash)
{
    size_t i = hash & (cap - 1);

    while (slots[i].key)
        i = (i + 1) & (cap - 1);
    return &slots[i];
}

/* Also the way to get rid of deleted slots: where those are many, the new table is no larger. Hashes are kept, so no
 * key is hashed again. */
static bool grow(struct map *m)
{
    size_t cap = m->n * 4 < 16 ? 16 : m->cap;
    struct map_slot *slots;

    while (m->n * 2 >= cap)
        cap *= 2;
    slots = calloc(cap, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < m->cap; i++)
        if (is_live(&m->slots[i]))
            *free_slot(slots, cap, m->slots[i].hash) = m->slots[i];
    free(m->slots);
    m->slots = slots;
    m->cap = cap;
    m->n_used = m->n;
    return true;
}

void *map_get(const struct map *m, const void *key, size_t len)
{
    struct map_slot *s = find(m, key, len, hash_of(key, len));

    return s ? s->value : NULL;
}

bool map_put(struct map *m, const void *key, size_t len, void *value)
{
    uint32_t hash = hash_of(key, len);
    struct map_slot *s = find(m, key, len, hash);
    char *copy;

    if (s) {
        s->value = value;
        return true;
    }
    /* Deleted slots count: they make chains as long as live ones do. */
    if ((m->n_used + 1) * 4 > m->cap * 3 && !grow(m))
        return false;
    copy = len <= UINT32_MAX ? malloc(len + 1) : NULL;
    if (!copy)
        return false;
    memcpy(copy, key, len);
    copy[len] = '\0';
    *free_slot(m->slots, m->cap, hash) = (struct map_slot){.key = copy, .value = value, .len = (uint32_t)len, .hash = hash};
    m->n++;
    m->n_used++;
    return true;
}

void *map_take(struct map *m, const void *key, size_t len)
{
    struct map_slot *s = find(m, key, len, hash_of(key, len));
    void *value = s ? s->value : NULL;

    if (!s)
        return NULL;
    free(s->key);
    s->key = MAP_GONE;
    if (--m->n == 0 && m->cap > KEEP_CAP)
        map_done(m);
    return value;
}

/* In the order of slots, which means nothing. map_take() while walking is fine, map_put() may move everything. */
bool map_next(const struct map *m, size_t *at, const char **ret_key, void **ret_value)
{
    while (*at < m->cap) {
        const struct map_slot *s = &m->slots[(*at)++];

        if (!is_live(s))
            continue;
        if (ret_key)
            *ret_key = s->key;
        if (ret_value)
            *ret_value = s->value;
        return true;
    }
    return false;
}
