/* Free memory that is given back; see heap.h. */
#include "core/heap.h"

#include <malloc.h>
#include <stdio.h>

#include "base/clock.h"

enum { WORTH_PAGES = (4 << 20) / 4096, WORTH_PART = 8 }; /* and a part of it all: giving back walks through what is free */
static const int64_t period_ns = 5 * CLOCK_S;

/* The C library would have to walk all that is free to say how much that is. 0: it cannot be read. */
static int64_t resident_pages(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    long long resident = 0;

    if (!f)
        return 0;
    if (fscanf(f, "%*s %lld", &resident) != 1)
        resident = 0;
    (void)fclose(f);
    return resident;
}

/* It has grown, and grows no more: what is in use stays, and what was of a burst goes. */
void heap_look(struct heap *h, int64_t now_ns)
{
    int64_t n;

    if (now_ns < h->next_ns)
        return;
    h->next_ns = now_ns + period_ns;
    n = resident_pages();
    if (n < h->base || !h->base)
        h->base = n;
    if (n - h->base >= WORTH_PAGES + h->base / WORTH_PART && n <= h->last + h->last / 64) {
        (void)malloc_trim(0);
        h->base = n = resident_pages();
    }
    h->last = n;
}
