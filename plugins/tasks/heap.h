/*
 * tasks/heap.h - a binary heap of nodes that are parts of what they stand for: the least key first. No threads of its own.
 *
 * Room for a node is made before it is needed (heap_reserve), so that a push cannot fail.
 */
#ifndef MUSTER_TASKS_HEAP_H
#define MUSTER_TASKS_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
    int64_t key;
    size_t at; /* its place, from 1; 0: it is in no heap */
};

struct heap {
    struct heap_node **nodes;
    size_t n, cap, reserved;
};

void heap_done(struct heap *h);
/* One more node may be in it from now on. False: no memory. */
bool heap_reserve(struct heap *h);
void heap_unreserve(struct heap *h);
static inline struct heap_node *heap_top(const struct heap *h)
{
    return h->n ? h->nodes[0] : NULL;
}
/* It is in the heap under this key, whether it was before or not. */
void heap_set(struct heap *h, struct heap_node *node, int64_t key);
void heap_remove(struct heap *h, struct heap_node *node); /* of one that is not in it: no effect */

#define HEAP_OF(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

#endif
