/*
 * child/arena.h - memory of things that are read from the other end and go together: nothing in it is freed alone. One user at a time.
 */
#ifndef MUSTER_CHILD_ARENA_H
#define MUSTER_CHILD_ARENA_H

#include <stddef.h>

struct arena {
    struct arena_block *last; /* NULL: empty */
};

/* Zeroed memory for n things of size bytes; NULL when there is none. */
void *arena_alloc(struct arena *a, size_t n, size_t size);
/* A copy of s; NULL for NULL, and when there is no memory. */
const char *arena_strdup(struct arena *a, const char *s);
void arena_done(struct arena *a);

#endif
