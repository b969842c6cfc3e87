/* Arrays and memory of the test host; see inside.h. A host without memory is the end of the test. */
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

void *must_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    ASSERT(p);
    return p;
}

char *must_copy(const char *s)
{
    char *copy = s ? strdup(s) : NULL;

    ASSERT(copy || !s);
    return copy;
}

struct muster_bytes must_copy_bytes(struct muster_bytes b)
{
    char *copy = must_alloc(b.len + 1);

    if (b.len)
        memcpy(copy, b.data, b.len);
    return (struct muster_bytes){copy, b.len};
}

void list_add(struct list *l, void *item)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->items = realloc(l->items, l->cap * sizeof *l->items);
        ASSERT(l->items);
    }
    l->items[l->n++] = item;
}

void list_remove(struct list *l, size_t i)
{
    memmove(&l->items[i], &l->items[i + 1], (l->n - i - 1) * sizeof *l->items);
    l->n--;
}

void list_done(struct list *l)
{
    free(l->items);
    *l = (struct list){0};
}
