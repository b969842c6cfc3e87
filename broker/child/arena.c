/* Memory that is freed together; see arena.h. */
#include "child/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *before;
    max_align_t data[];
};

void *arena_alloc(struct arena *a, size_t n, size_t size)
{
    struct arena_block *block;

    if (size && n > (SIZE_MAX - sizeof *block - 1) / size)
        return NULL;
    block = calloc(1, sizeof *block + n * size + 1);
    if (!block)
        return NULL;
    block->before = a->last;
    a->last = block;
    return block->data;
}

const char *arena_strdup(struct arena *a, const char *s)
{
    size_t size = s ? strlen(s) + 1 : 0;
    char *copy = s ? arena_alloc(a, size, 1) : NULL;

    return copy ? memcpy(copy, s, size) : NULL;
}

void arena_done(struct arena *a)
{
    while (a->last) {
        struct arena_block *block = a->last;

        a->last = block->before;
        free(block);
    }
}
