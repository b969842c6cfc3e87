/*
 * base/map.h - a hash table from byte strings to pointers.
 *
 * Shape    Open addressing, linear probing, power-of-two capacity. Zero-initialised is empty.
 * Memory   Keys are copied; values are borrowed. map_done() frees the keys only. A large table that has become empty is given back.
 * Threads  None: one owner.
 */
#ifndef MUSTER_BASE_MAP_H
#define MUSTER_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_slot {
    char *key; /* NULL: free; MAP_GONE: deleted */
    void *value;
    uint32_t len, hash; /* hash: the lower half */
};

struct map {
    struct map_slot *slots;
    size_t cap, n, n_used; /* n_used counts deleted slots too */
};

void map_done(struct map *m);
void *map_get(const struct map *m, const void *key, size_t len);
/* Insert or replace. False when there is no memory (or the key has 4 GiB); the table is unchanged then. value may not be NULL. */
bool map_put(struct map *m, const void *key, size_t len, void *value);
/* Remove and return the value, NULL when there is none. */
void *map_take(struct map *m, const void *key, size_t len);
/* Walk: start with *at = 0; false at the end. Removing the current entry during the walk is allowed. */
bool map_next(const struct map *m, size_t *at, const char **ret_key, void **ret_value);

#endif
