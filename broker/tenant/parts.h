/*
 * tenant/parts.h - what tenant.c (registry), tables.c (table settings) and follow.c (database) share. Private to tenant/.
 */
#ifndef MUSTER_TENANT_PARTS_H
#define MUSTER_TENANT_PARTS_H

#include <pthread.h>

#include "tenant/tenant.h"

enum { WATCHERS_MAX = 16 };

/* Handles by name: open addressing, at most half full. Handles are only ever added, so readers take no lock; a table that
 * became too small stays until the end for readers that are still in it (all of them together are smaller than the last). */
struct table {
    struct table *older;
    size_t cap; /* a power of two */
    _Atomic(struct muster_tenant *) slots[];
};

/* A list that does not change any more. Holders count; the registry is one. */
struct roster {
    _Atomic uint32_t refs;
    size_t n;
    struct muster_tenant *tenants[]; /* live, by name */
};

struct table_list {
    _Atomic uint32_t refs;
    uint64_t serial;
    size_t n;
    struct muster_table *rows; /* strings owned; by schema and table */
};

struct watcher {
    tenants_change_fn fn;
    void *arg;
};

struct tenants {
    _Atomic(struct table *) table;
    pthread_rwlock_t lock; /* roster and tables, for the time of taking a reference or swapping; and declaring objects */
    struct roster *roster;
    struct table_list *tables;
    /* Of the loop's thread alone: */
    uint32_t n_handles;
    uint64_t reading; /* counts tenants_set() */
    int64_t defaults[TENANT_N_LIMITS];
    struct watcher watchers[WATCHERS_MAX];
    size_t n_watchers;
    struct listen *listen;
    /* Names of counts, only ever added: readers see the first n_objects whole. */
    _Atomic uint32_t n_objects;
    char objects[LIMITS_MAX_OBJECTS][LIMIT_NAME_SIZE];
    struct usage *usage;
    tenants_credential_fn on_credential; /* may be NULL */
    void *credential_arg;
};

/* Where the limit of that name stands in the arrays of limits; -1: nobody knows it. [any] */
int tenants_limit_index(const struct tenants *t, const char *name, size_t len);
void tenants_tell(struct tenants *t, unsigned int what);
void table_list_unref(struct table_list *list);

#endif
