/*
 * fanout/table_index.h - the watches of one table, found by what a change says.
 *
 * Shape    For each operation: by the values that a column must be equal to (a hash table for each such column), by the bounds that it must be above
 *          or below (two sorted lists for each such column), and the rest. A watch stands under one of its conditions, the one that lets
 *          fewest changes through by its kind, and is tested in whole when it is found: the cost of a change grows with those that it may be
 *          for, not with those there are.
 * Memory   Entries are the caller's and stay where they are while they are in an index.
 * Threads  None: one owner.
 */
#ifndef MUSTER_FANOUT_TABLE_INDEX_H
#define MUSTER_FANOUT_TABLE_INDEX_H

#include "base/map.h"
#include "fanout/filter.h"

struct table_index;

struct index_entry {
    const struct filter *filter;
    uint32_t ops;  /* ROW_* bits */
    uint64_t seen; /* the index's: the last change that found it */
};

enum {
    INDEX_MATCH,    /* the row passes the filter */
    INDEX_LEFT,     /* it did, and does no longer */
    INDEX_WITHHELD, /* whose row it is cannot be told */
};
/* Neither adds nor removes an entry. */
typedef void (*index_fn)(void *arg, struct index_entry *entry, int outcome);

struct table_index *table_index_new(void);
void table_index_free(struct table_index *t);
/* False: no memory; it is not in the index then. */
bool table_index_add(struct table_index *t, struct index_entry *entry);
void table_index_remove(struct table_index *t, struct index_entry *entry);
size_t table_index_n(const struct table_index *t);
/* Call fn once for each watch that the change is for. */
void table_index_match(struct table_index *t, struct row *row, index_fn fn, void *arg);
/* What a change is to one entry; negative: nothing. */
int index_outcome(const struct index_entry *entry, struct row *row);
/* How many entries the last match looked at. */
size_t table_index_looked_at(const struct table_index *t);
/* Call fn for every entry, with INDEX_MATCH. */
void table_index_each(struct table_index *t, index_fn fn, void *arg);

#endif
