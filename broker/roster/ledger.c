/* Agents in order; see ledger.h. */
#include "roster/ledger.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum { FIRST_CAP = 4, MIN_GONE = 16 };

bool ledger_reserve(struct ledger *l)
{
    size_t cap = l->cap ? l->cap * 2 : FIRST_CAP;
    struct ledger_slot *more;

    if (l->n < l->cap)
        return true;
    more = realloc(l->slots, cap * sizeof *more);
    if (!more)
        return false;
    l->slots = more;
    l->cap = cap;
    return true;
}

size_t ledger_from(const struct ledger *l, uint64_t serial)
{
    size_t low = 0, high = l->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (l->slots[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void ledger_put(struct ledger *l, uint64_t serial, struct entry *entry)
{
    size_t at = ledger_from(l, serial);

    if (at < l->n && l->slots[at].serial == serial) {
        l->n_gone--;
    } else {
        ASSERT(l->n < l->cap);
        memmove(&l->slots[at + 1], &l->slots[at], (l->n - at) * sizeof *l->slots);
        l->n++;
    }
    l->slots[at] = (struct ledger_slot){serial, entry};
}

static void close_gaps(struct ledger *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->n; i++)
        if (l->slots[i].entry)
            l->slots[n++] = l->slots[i];
    l->n = n;
    l->n_gone = 0;
}

void ledger_take(struct ledger *l, uint64_t serial)
{
    size_t at = ledger_from(l, serial);

    ASSERT(at < l->n && l->slots[at].serial == serial && l->slots[at].entry);
    l->slots[at].entry = NULL;
    l->n_gone++;
    if (l->n_gone >= MIN_GONE && l->n_gone > l->n / 2)
        close_gaps(l);
}

void ledger_done(struct ledger *l)
{
    free(l->slots);
    *l = (struct ledger){0};
}
