/*
 * fanout/roll.h - a list of names in which each is found at once, and can be marked.
 *
 * Memory   One piece for all of it; the names are borrowed and stay where they are. Zero is empty: nobody is found.
 * Threads  None: one owner.
 */
#ifndef MUSTER_FANOUT_ROLL_H
#define MUSTER_FANOUT_ROLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"

typedef char roll_name[NAME_MAX_LEN + 1];

struct roll {
    roll_name *names;
    uint32_t *slots; /* 0: free; else 1 + the index of a name */
    uint8_t *marked; /* by index; behind the slots */
    size_t n_slots;  /* a power of two, at least twice as many as names */
};

/* n at most 2^30. A name that stands there twice is found by the first. False: no memory. */
bool roll_make(struct roll *r, roll_name *names, size_t n);
void roll_done(struct roll *r);
bool roll_find(const struct roll *r, const char *name, size_t *ret_i);
/* False: it was marked before. */
bool roll_mark(struct roll *r, size_t i);

#endif
