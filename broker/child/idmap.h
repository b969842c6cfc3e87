/*
 * child/idmap.h - a hash table from ids, which are counted from 1, to pointers.
 *
 * Shape    Open addressing, linear probing, no tombstones. Zero-initialised is empty.
 * Memory   Values are borrowed; idmap_done() frees the table.
 * Threads  None: one owner.
 */
#ifndef MUSTER_CHILD_IDMAP_H
#define MUSTER_CHILD_IDMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idmap_slot {
    uint64_t id; /* 0: free */
    void *value;
};

struct idmap {
    struct idmap_slot *slots;
    size_t cap, n;
};

void idmap_done(struct idmap *m);
void *idmap_get(const struct idmap *m, uint64_t id);
/* False when there is no memory; the table is unchanged then. */
bool idmap_put(struct idmap *m, uint64_t id, void *value);
/* Remove and return the value, NULL when there is none. */
void *idmap_take(struct idmap *m, uint64_t id);
/* Any value, NULL when it is empty. */
void *idmap_first(const struct idmap *m);
/* Walk: start with *at = 0; NULL at the end. The table may not change meanwhile. */
void *idmap_next(const struct idmap *m, size_t *at);

#endif
