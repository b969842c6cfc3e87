/*
 * base/table.h - a hash table of items that have their keys in them: a slot is all that one costs.
 *
 * Shape    Open addressing, linear probing, power-of-two capacity. Zero-initialised is empty. The caller hashes the key and says whether an
 *          item has it, so that the table neither copies keys nor looks into items.
 * Memory   Items are borrowed. A large table that has become empty is given back.
 * Threads  None: one owner.
 */
#ifndef MUSTER_BASE_TABLE_H
#define MUSTER_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct table_slot {
    void *item;    /* NULL: free; TABLE_GONE: taken out */
    uint32_t hash; /* the lower half */
};

struct table {
    struct table_slot *slots;
    size_t cap, n, n_used; /* n_used counts what was taken out, too */
};

typedef bool (*table_is_fn)(const void *item, const void *key);

void table_done(struct table *t);
void *table_get(const struct table *t, uint64_t hash, table_is_fn is, const void *key);
/* Insert an item whose key is not there. False when there is no memory; the table is unchanged then. */
bool table_put(struct table *t, uint64_t hash, void *item);
/* Remove and return the item, NULL when there is none. */
void *table_take(struct table *t, uint64_t hash, table_is_fn is, const void *key);
/* Walk: start with *at = 0; false at the end. Removing the current item during the walk is allowed. */
bool table_next(const struct table *t, size_t *at, void **ret_item);

#endif
