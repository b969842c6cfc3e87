/* A binary heap; see heap.h. */
#include "tasks/heap.h"

#include <stdlib.h>

#include "base/assert.h"

void heap_done(struct heap *h)
{
    free(h->nodes);
    *h = (struct heap){0};
}

bool heap_reserve(struct heap *h)
{
    if (h->reserved == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 8;
        struct heap_node **nodes = realloc(h->nodes, cap * sizeof *nodes);

        if (!nodes)
            return false;
        h->nodes = nodes;
        h->cap = cap;
    }
    h->reserved++;
    return true;
}

void heap_unreserve(struct heap *h)
{
    ASSERT(h->reserved > h->n);
    h->reserved--;
}

static void place(struct heap *h, struct heap_node *node, size_t at)
{
    h->nodes[at - 1] = node;
    node->at = at;
}

static void up(struct heap *h, struct heap_node *node, size_t at)
{
    for (; at > 1 && h->nodes[at / 2 - 1]->key > node->key; at /= 2)
        place(h, h->nodes[at / 2 - 1], at);
    place(h, node, at);
}

static void down(struct heap *h, struct heap_node *node, size_t at)
{
    for (size_t child; (child = at * 2) <= h->n; at = child) {
        if (child < h->n && h->nodes[child]->key < h->nodes[child - 1]->key)
            child++;
        if (h->nodes[child - 1]->key >= node->key)
            break;
        place(h, h->nodes[child - 1], at);
    }
    place(h, node, at);
}

void heap_set(struct heap *h, struct heap_node *node, int64_t key)
{
    int64_t was = node->key;

    node->key = key;
    if (!node->at) {
        ASSERT(h->n < h->reserved);
        up(h, node, ++h->n);
    } else if (key < was) {
        up(h, node, node->at);
    } else if (key > was) {
        down(h, node, node->at);
    }
}

void heap_remove(struct heap *h, struct heap_node *node)
{
    struct heap_node *last;
    size_t at = node->at;

    if (!at)
        return;
    node->at = 0;
    last = h->nodes[--h->n];
    if (last == node)
        return;
    if (last->key < node->key)
        up(h, last, at);
    else
        down(h, last, at);
}
