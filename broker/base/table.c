/* A hash table of items that have their keys in them; see table.h. */
#include "base/table.h"

#include <stdlib.h>

static char gone; /* its address marks a slot that an item was taken out of */
#define TABLE_GONE ((void *)&gone)

enum { FIRST_CAP = 16, KEEP_CAP = 64 }; /* an empty table of KEEP_CAP slots is kept */

static bool is_live(const struct table_slot *s)
{
    return s->item && s->item != TABLE_GONE;
}

void table_done(struct table *t)
{
    free(t->slots);
    *t = (struct table){0};
}

/* A slot that was emptied keeps a chain together, a free one ends it, and grow() sees to it that there is a free one. */
static struct table_slot *find(const struct table *t, uint32_t hash, table_is_fn is, const void *key)
{
    if (!t->cap)
        return NULL;
    for (size_t i = hash & (t->cap - 1);; i = (i + 1) & (t->cap - 1)) {
        struct table_slot *s = &t->slots[i];

        if (!s->item)
            return NULL;
        if (s->hash == hash && s->item != TABLE_GONE && is(s->item, key))
            return s;
    }
}

static void place(struct table_slot *slots, size_t cap, struct table_slot slot)
{
    size_t i = slot.hash & (cap - 1);

    while (slots[i].item)
        i = (i + 1) & (cap - 1);
    slots[i] = slot;
}

/* Also the way to get rid of emptied slots: where those are many, the new table is no larger. */
static bool grow(struct table *t)
{
    size_t cap = t->n * 4 < FIRST_CAP ? FIRST_CAP : t->cap;
    struct table_slot *slots;

    while (t->n * 2 >= cap)
        cap *= 2;
    slots = calloc(cap, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < t->cap; i++)
        if (is_live(&t->slots[i]))
            place(slots, cap, t->slots[i]);
    free(t->slots);
    t->slots = slots;
    t->cap = cap;
    t->n_used = t->n;
    return true;
}

void *table_get(const struct table *t, uint64_t hash, table_is_fn is, const void *key)
{
    const struct table_slot *s = find(t, (uint32_t)hash, is, key);

    return s ? s->item : NULL;
}

bool table_put(struct table *t, uint64_t hash, void *item)
{
    /* Emptied slots count: they make chains as long as others do. */
    if ((t->n_used + 1) * 4 > t->cap * 3 && !grow(t))
        return false;
    place(t->slots, t->cap, (struct table_slot){item, (uint32_t)hash});
    t->n++;
    t->n_used++;
    return true;
}

void *table_take(struct table *t, uint64_t hash, table_is_fn is, const void *key)
{
    struct table_slot *s = find(t, (uint32_t)hash, is, key);
    void *item = s ? s->item : NULL;

    if (!s)
        return NULL;
    s->item = TABLE_GONE;
    if (--t->n == 0 && t->cap > KEEP_CAP)
        table_done(t);
    return item;
}

/* In the order of slots, which means nothing. */
bool table_next(const struct table *t, size_t *at, void **ret_item)
{
    while (*at < t->cap) {
        const struct table_slot *s = &t->slots[(*at)++];

        if (!is_live(s))
            continue;
        *ret_item = s->item;
        return true;
    }
    return false;
}
