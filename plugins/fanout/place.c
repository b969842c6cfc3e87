/* Where a reader begins, and whether what was read is enough for it; see history.h. Asks nothing of NATS. The lane. */
#include "fanout/history.h"

/* ---- the beginning ------------------------------------------------------------------------------------------------------ */

/* The wanted beginning, of positions that are counts. */
uint64_t place_first(const struct wish *w)
{
    return w->cut ? 1 : w->after_seq + 1;
}

/* Whether the message is at the wanted beginning or behind it. */
bool place_is_due(const struct wish *w, const struct stored *m)
{
    if (w->c->spec.counted && (!w->tail || m->epoch != w->tail->epoch))
        return false;
    if (w->has_since)
        return m->wall_ns >= w->since_ns;
    return !w->c->spec.counted || m->count >= place_first(w);
}

void place_set(struct wish *w, uint64_t start)
{
    w->resolved = true;
    w->start = start;
    if (w->c->searcher == w)
        w->c->searcher = NULL;
}

/* Whether an inbox that nobody has acknowledged anything of can have lost what is older than the stream: by age, not where it is younger; by
 * the size of all inboxes. */
static bool may_have_lost(const struct wish *w)
{
    const struct fanout *f = w->c->h->f;

    return w->acked || f->config->max_bytes || w->known_since_ns < f->timer->wall_now(f->host) - f->config->retention_ns;
}

/* Positions of the stream are sequences: nothing is to be searched. */
static void resolve_stream(struct wish *w)
{
    uint64_t epoch = (uint64_t)(w->at.created_wall_ns / 1000), first = w->at.first_seq ? w->at.first_seq : 1, start = first;
    bool same = w->has_after && w->after_epoch == epoch;

    if (same)
        start = w->after_seq + 1;
    else if (w->c->spec.mail && !w->has_after)
        start = w->acked + 1;
    w->cut = w->has_after && (!same || start < first || w->after_seq > w->at.last_seq);
    if (w->c->spec.mail && !w->has_after && start < first)
        w->cut = may_have_lost(w);
    place_set(w, start < first ? first : start);
}

int64_t place_want(const struct wish *w)
{
    return w->has_since ? w->since_ns : (int64_t)place_first(w);
}

static uint64_t epoch_of(const struct wish *w)
{
    return w->c->spec.counted && w->tail ? w->tail->epoch : 0;
}

void place_keep(const struct wish *w)
{
    if (w->at.created_wall_ns == w->c->created_wall_ns) /* otherwise it was searched in a stream that is gone */
        w->c->places[w->has_since] = (struct found_place){.lo = w->start, .epoch = epoch_of(w), .want = place_want(w), .oldest = w->oldest};
}

/* What was found for another is before what w wants, and the window has all from there on. NULL: not so. */
static const struct found_place *found_before(const struct wish *w)
{
    const struct found_place *p = &w->c->places[w->has_since];
    bool fits = p->lo && p->epoch == epoch_of(w) && p->want <= place_want(w);

    return fits && p->lo >= w->c->window.from ? p : NULL;
}

static size_t first_due(const struct wish *w, const struct run *r)
{
    size_t lo = 0, hi = r->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (place_is_due(w, r->items[mid]))
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* In the window the first that is due is the right one where one stands before it, where it is the very one, or where nothing before the
 * window can be. */
static bool resolve_in_window(struct wish *w)
{
    const struct run *r = &w->c->window;
    const struct found_place *before = found_before(w);
    size_t i = first_due(w, r);

    if (i == r->n || !place_is_due(w, r->items[r->n - 1])) /* an epoch may have begun behind what is due */
        return false;
    if (!i && !before && (w->has_since || r->items[0]->count != place_first(w)))
        return false;
    w->oldest = !i && before && before->oldest;
    place_set(w, r->items[i]->seq);
    return true;
}

static bool is_older_than_wanted(const struct wish *w)
{
    return !w->tail || (w->has_since && w->tail->wall_ns < w->since_ns);
}

static void resolve_counted(struct wish *w)
{
    bool same = w->tail && w->after_epoch == w->tail->epoch;

    if (w->has_after && !same)
        w->cut = w->tail || w->after_seq || w->at.first_seq > 1; /* without a newest that of `after` is gone, too */
    if (w->c->spec.presence && w->has_after && !w->after_seq && (!w->tail || w->after_epoch > w->tail->epoch)) {
        w->cut = false; /* the roster of a holder that has told nothing yet */
        place_set(w, w->at.last_seq + 1);
    } else if (is_older_than_wanted(w) || (w->has_after && same && w->after_seq >= w->tail->count)) {
        w->cut = w->cut || (w->tail && w->has_after && w->after_seq > w->tail->count);
        place_set(w, w->at.last_seq + 1);
    } else {
        (void)resolve_in_window(w);
    }
}

/* One that came since the look is told as well. */
void place_set_tail(struct wish *w, struct stored *tail)
{
    w->tailed = true;
    w->tail = tail ? stored_ref(tail) : NULL;
    if (tail && tail->seq > w->at.last_seq)
        w->at.last_seq = tail->seq;
}

/* Nothing that is read for it tells how far the channel goes. */
static bool lacks_tail(const struct wish *w)
{
    return !w->tailed && !w->c->spec.counted && (w->has_since || w->after_seq > w->at.last_seq);
}

bool place_needs_tail(const struct wish *w)
{
    return lacks_tail(w) || (!w->tailed && (w->c->spec.counted || (w->resolved && run_covers(&w->c->window, w->start))));
}

/* The newest of the channel, where the window reaches to the end. */
static void look_for_tail(struct wish *w)
{
    const struct run *r = &w->c->window;

    if (w->tailed || !r->n || r->upto < w->at.last_seq)
        return;
    place_set_tail(w, r->items[r->n - 1]);
}

static void try_resolve(struct wish *w)
{
    look_for_tail(w);
    if (w->resolved)
        return;
    if (w->c->spec.counted) {
        if (w->tailed)
            resolve_counted(w);
    } else if (!w->has_since) {
        resolve_stream(w);
    } else if (w->tailed && is_older_than_wanted(w)) {
        place_set(w, w->at.last_seq + 1);
    } else if (w->tailed) {
        (void)resolve_in_window(w);
    }
}

/* ---- serving ------------------------------------------------------------------------------------------------------------ */

/* Enough of the run for an answer. An answer that does not reach the end needs the newest, to say how far there is to go. */
static bool is_enough(const struct wish *w, struct found *found)
{
    const struct run *r = found->run;
    int64_t now = w->c->h->f->timer->wall_now(w->c->h->f->host);
    size_t n = 0, n_bytes = 0;

    found->at = run_find(r, w->start);
    for (size_t i = found->at; i < r->n && n < w->limit && n_bytes < STORED_TEXT_MAX; i++)
        if (history_shows(w, r->items[i], now)) {
            n++;
            n_bytes += r->items[i]->size;
        }
    found->ended = r->upto >= w->at.last_seq;
    return found->ended || ((n == w->limit || n_bytes >= STORED_TEXT_MAX) && w->tailed);
}

/* What it can be answered from. */
static bool find(struct wish *w, struct found *found)
{
    static const struct run nothing = {0}; /* which is whole */
    struct channel *c = w->c;

    try_resolve(w);
    if (!w->resolved || lacks_tail(w))
        return false;
    *found = (struct found){.run = &nothing, .ended = true};
    if (w->start > w->at.last_seq)
        return true;
    found->run = &c->window;
    if (run_covers(&c->window, w->start) && is_enough(w, found))
        return true;
    found->run = &c->reading;
    return run_covers(&c->reading, w->start) && is_enough(w, found);
}

bool channel_serve(struct channel *c)
{
    struct wish **at = &c->waiting, *w;
    struct found found;

    c->delayed = false;
    while ((w = *at) && !c->delayed) {
        if (!find(w, &found)) {
            at = &w->next;
        } else if (room_is_there(c->h)) {
            *at = w->next;
            history_answer(w, &found); /* w is gone */
        } else {
            c->delayed = true;
        }
    }
    if (!*at)
        c->waiting_end = at;
    return !c->waiting;
}
