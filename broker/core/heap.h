/*
 * core/heap.h - what a burst has left of the heap is given back to the system: the C library keeps it, for each of its arenas, as long as
 * something at its end is in use.
 *
 * Threads  The watcher's: giving back takes milliseconds, and an arena is locked meanwhile.
 */
#ifndef MUSTER_CORE_HEAP_H
#define MUSTER_CORE_HEAP_H

#include <stdint.h>

struct heap { /* zeroed: nothing was looked at yet */
    int64_t next_ns;
    int64_t base; /* resident pages when some were given back last, or fewer since */
    int64_t last; /* at the last look */
};

/* To be called often; looks every so often. */
void heap_look(struct heap *heap, int64_t now_ns);

#endif
