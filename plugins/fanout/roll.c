/* Names that are found at once; see roll.h. */
#include "fanout/roll.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* The slot of the name, or the free one where it would be. */
static uint32_t *slot_of(const struct roll *r, const char *name)
{
    size_t i = hash_bytes(name, strlen(name)) & (r->n_slots - 1);

    while (r->slots[i] && strcmp(r->names[r->slots[i] - 1], name) != 0)
        i = (i + 1) & (r->n_slots - 1);
    return &r->slots[i];
}

bool roll_make(struct roll *r, roll_name *names, size_t n)
{
    size_t n_slots = 16;

    while (n_slots < 2 * n)
        n_slots *= 2;
    *r = (struct roll){.names = names, .slots = calloc(1, n_slots * sizeof *r->slots + n), .n_slots = n_slots};
    if (!r->slots)
        return false;
    r->marked = (uint8_t *)(r->slots + n_slots);
    for (size_t i = 0; i < n; i++) {
        uint32_t *slot = slot_of(r, names[i]);

        if (!*slot)
            *slot = (uint32_t)i + 1;
    }
    return true;
}

void roll_done(struct roll *r)
{
    free(r->slots);
    *r = (struct roll){0};
}

bool roll_find(const struct roll *r, const char *name, size_t *ret_i)
{
    uint32_t slot = r->slots ? *slot_of(r, name) : 0;

    if (!slot)
        return false;
    *ret_i = slot - 1;
    return true;
}

bool roll_mark(struct roll *r, size_t i)
{
    bool was = r->marked[i];

    r->marked[i] = 1;
    return !was;
}
