/*
 * child/limits.h - the limits of a tenant that a plugin in a child may ask for, by name: those of the broker's own table, then those that
 * its services declare. Both ends make the list from the same descriptor, so that frames carry the values alone.
 *
 * Threads  One makes it; then any.
 */
#ifndef MUSTER_CHILD_LIMITS_H
#define MUSTER_CHILD_LIMITS_H

#include <muster/plugin.h>

#include "child/arena.h"
#include "tenant/limits.h"

enum { CHILD_LIMITS_MAX = TENANT_N_LIMITS + LIMITS_MAX_OBJECTS };

struct child_limits {
    const char **names; /* in memory */
    size_t n;
    struct arena memory;
};

/* A definition that cannot be read declares none. MUSTER_ENOMEM. */
int child_limits_init(struct child_limits *l, const struct muster_plugin *plugin);
void child_limits_done(struct child_limits *l); /* also of one that is zero */
/* Its place in the list, or -1. */
int child_limits_find(const struct child_limits *l, const char *name);

#endif
