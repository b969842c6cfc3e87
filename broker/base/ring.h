/*
 * base/ring.h - things that belong together as a ring of links that are parts of them; one that is in none is a ring of its own.
 */
#ifndef MUSTER_BASE_RING_H
#define MUSTER_BASE_RING_H

#include <stdbool.h>
#include <stddef.h>

struct link {
    struct link *next, *prev;
};
#define LINK_OF(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void link_init(struct link *l)
{
    l->next = l->prev = l;
}
static inline bool link_is_in(const struct link *l)
{
    return l->next != l;
}
static inline void link_remove(struct link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    link_init(l);
}
/* At the end of the ring that head stands for. */
static inline void link_put(struct link *head, struct link *l)
{
    link_remove(l);
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

#endif
