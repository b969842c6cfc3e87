/*
 * core/reach.h - which files a process reaches through the walls that it was started with: a file of the same name may be another by now,
 * and settings may name new ones.
 */
#ifndef MUSTER_CORE_REACH_H
#define MUSTER_CORE_REACH_H

#include <stdbool.h>
#include <sys/types.h>

#include "child/sandbox.h"

struct reach_place {
    dev_t device;
    ino_t inode;
};
/* Files, and folders with all that is in them. */
struct reach {
    struct reach_place *places; /* in the arena */
    size_t n;
};

/* What the walls open, as it is now. MUSTER_ENOMEM. */
int reach_note(const struct sandbox *walls, struct arena *memory, struct reach *ret_reach);
/* All that the walls `next` would open for reading, and that is there, lies within. */
bool reach_covers(const struct reach *r, const struct sandbox *next);

#endif
