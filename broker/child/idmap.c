/* A hash table from ids to pointers; see idmap.h. */
#include "child/idmap.h"

#include <stdlib.h>

enum { FIRST_CAP = 16 };

void idmap_done(struct idmap *m)
{
    free(m->slots);
    *m = (struct idmap){0};
}

/* Ids are counted: neighbours must not crowd. */
static size_t home(const struct idmap *m, uint64_t id)
{
    return (size_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (m->cap - 1);
}

/* The slot of id, or the free one where it would stand. */
static size_t find(const struct idmap *m, uint64_t id)
{
    size_t i = home(m, id);

    while (m->slots[i].id && m->slots[i].id != id)
        i = (i + 1) & (m->cap - 1);
    return i;
}

static bool grow(struct idmap *m)
{
    struct idmap bigger = {.cap = m->cap ? m->cap * 2 : FIRST_CAP};

    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].id)
            bigger.slots[find(&bigger, m->slots[i].id)] = m->slots[i];
    bigger.n = m->n;
    free(m->slots);
    *m = bigger;
    return true;
}

void *idmap_get(const struct idmap *m, uint64_t id)
{
    return m->cap && id ? m->slots[find(m, id)].value : NULL;
}

bool idmap_put(struct idmap *m, uint64_t id, void *value)
{
    size_t i;

    if ((m->n + 1) * 2 > m->cap && !grow(m))
        return false;
    i = find(m, id);
    if (!m->slots[i].id)
        m->n++;
    m->slots[i] = (struct idmap_slot){id, value};
    return true;
}

/* Close the gap at i: who stands behind it and would not be found any more moves up. */
static void close_gap(struct idmap *m, size_t i)
{
    size_t mask = m->cap - 1;

    for (size_t j = (i + 1) & mask; m->slots[j].id; j = (j + 1) & mask) {
        if (((j - home(m, m->slots[j].id)) & mask) < ((j - i) & mask))
            continue; /* its home lies behind the gap */
        m->slots[i] = m->slots[j];
        i = j;
    }
    m->slots[i] = (struct idmap_slot){0};
}

void *idmap_take(struct idmap *m, uint64_t id)
{
    size_t i = m->cap && id ? find(m, id) : 0;
    void *value;

    if (!m->cap || !id || !m->slots[i].id)
        return NULL;
    value = m->slots[i].value;
    close_gap(m, i);
    m->n--;
    return value;
}

void *idmap_first(const struct idmap *m)
{
    size_t at = 0;

    return idmap_next(m, &at);
}

void *idmap_next(const struct idmap *m, size_t *at)
{
    while (*at < m->cap) {
        const struct idmap_slot *slot = &m->slots[(*at)++];

        if (slot->id)
            return slot->value;
    }
    return NULL;
}
