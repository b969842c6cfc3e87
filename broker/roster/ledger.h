/*
 * roster/ledger.h - agents in the order of their serials. Private to roster/.
 *
 * Shape    A vector that is sorted because what comes has a higher serial, as a rule. What goes leaves a gap, and gaps are closed when they
 *          are the most of it; so a place is found by halving, and a walk costs what there is.
 * Threads  None: the owner locks.
 */
#ifndef MUSTER_ROSTER_LEDGER_H
#define MUSTER_ROSTER_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct entry;

struct ledger_slot {
    uint64_t serial;
    struct entry *entry; /* NULL: it has gone */
};

struct ledger { /* zeroed: empty */
    struct ledger_slot *slots;
    size_t n, cap, n_gone;
};

/* Make room for one more. False: no memory. */
bool ledger_reserve(struct ledger *l);
/* There is room. The serial is not there, or has gone. */
void ledger_put(struct ledger *l, uint64_t serial, struct entry *entry);
/* It is there. */
void ledger_take(struct ledger *l, uint64_t serial);
/* The first slot with this serial or a higher one; l->n: none. */
size_t ledger_from(const struct ledger *l, uint64_t serial);
static inline size_t ledger_count(const struct ledger *l)
{
    return l->n - l->n_gone;
}
void ledger_done(struct ledger *l);

#endif
