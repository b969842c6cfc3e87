/* Messages of a channel without a gap; see history.h. */
#include <stdlib.h>
#include <string.h>

#include "fanout/history.h"

static bool reserve(struct run *r, size_t extra)
{
    size_t cap = r->cap ? r->cap : 16;
    struct stored **items;

    while (cap < r->n + extra)
        cap *= 2;
    if (cap == r->cap)
        return true;
    items = realloc(r->items, cap * sizeof *items);
    if (!items)
        return false;
    r->items = items;
    r->cap = cap;
    return true;
}

bool run_add(struct run *r, struct stored *m)
{
    if (!reserve(r, 1)) {
        stored_drop(m);
        return false;
    }
    r->items[r->n++] = m;
    r->n_bytes += stored_size(m);
    return true;
}

void run_clear(struct run *r)
{
    for (size_t i = 0; i < r->n; i++)
        stored_drop(r->items[i]);
    free(r->items);
    *r = (struct run){0};
}

/* `from` is 0 for one that is empty. */
bool run_covers(const struct run *r, uint64_t start)
{
    return r->from && start >= r->from && start <= r->upto + 1;
}

size_t run_find(const struct run *r, uint64_t start)
{
    size_t lo = 0, hi = r->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (r->items[mid]->seq < start)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void take_over(struct run *r, struct run *other)
{
    run_clear(r);
    *r = *other;
    *other = (struct run){0};
}

/* What follows r of other, which begins within r. */
static bool extend(struct run *r, struct run *other)
{
    size_t at = run_find(other, r->upto + 1), n = other->n - at;

    if (!reserve(r, n))
        return false;
    for (size_t i = at; i < other->n; i++) {
        r->items[r->n++] = stored_ref(other->items[i]);
        r->n_bytes += stored_size(other->items[i]);
    }
    if (other->whole_from > r->upto + 1)
        r->whole_from = other->whole_from;
    if (other->upto > r->upto)
        r->upto = other->upto;
    run_clear(other);
    return true;
}

bool run_join(struct run *r, struct run *other)
{
    if (!other->from)
        return true;
    if (!r->from || (other->from <= r->from && other->upto >= r->upto)) {
        take_over(r, other);
        return true;
    }
    if (run_covers(r, other->from))
        return extend(r, other);
    if (run_covers(other, r->from)) {
        struct run later = *r;

        *r = *other;
        *other = later;
        return extend(r, other);
    }
    return false;
}

void run_cut_before(struct run *r, uint64_t first)
{
    size_t n;

    if (!r->from || first <= r->from)
        return;
    if (first > r->upto + 1) {
        run_clear(r);
        return;
    }
    n = run_find(r, first);
    for (size_t i = 0; i < n; i++) {
        r->n_bytes -= stored_size(r->items[i]);
        stored_drop(r->items[i]);
    }
    if (n)
        memmove(r->items, r->items + n, (r->n - n) * sizeof *r->items);
    r->n -= n;
    r->from = first;
}
