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
}

/* Whether an inbox that nobody has acknowledged anything of can have lost what is older than the stream. */
static bool may_have_lost(const struct wish *w)
{
    const struct fanout *f = w->c->h->f;

    return w->acked || w->known_since_ns < f->timer->wall_now(f->host) - f->config->retention_ns;
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

/* In the window the first that is due is the right one where one stands before it, or where it is the very one. */
static bool resolve_in_window(struct wish *w)
{
    const struct run *r = &w->c->window;

    for (size_t i = r->n; i-- > 0;) {
        const struct stored *m = r->items[i];

        if (!place_is_due(w, m))
            return i + 1 < r->n ? (place_set(w, r->items[i + 1]->seq), true) : false;
        if (!w->has_since && m->count == place_first(w))
            return (place_set(w, m->seq), true);
    }
    return false;
}

static void resolve_counted(struct wish *w)
{
    bool same = w->tail && w->after_epoch == w->tail->epoch;

    if (w->has_after && !same)
        w->cut = w->tail || w->at.first_seq > 1;
    if (w->c->spec.presence && w->has_after && !w->after_seq && (!w->tail || w->after_epoch > w->tail->epoch)) {
        w->cut = false; /* the roster of a holder that has told nothing yet */
        place_set(w, w->at.last_seq + 1);
    } else if (!w->tail || (w->has_after && same && w->after_seq >= w->tail->count)) {
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

static bool serve(struct wish *w)
{
    struct channel *c = w->c;
    struct found found = {.run = &c->window};

    if (!w->resolved || lacks_tail(w))
        return false;
    if (w->start > w->at.last_seq) {
        static const struct run nothing = {0}; /* which is whole */

        found = (struct found){.run = &nothing, .ended = true};
        history_answer(w, &found);
        return true;
    }
    if (run_covers(&c->window, w->start) && is_enough(w, &found)) {
        history_answer(w, &found);
        return true;
    }
    found.run = &c->reading;
    if (!run_covers(&c->reading, w->start) || !is_enough(w, &found))
        return false;
    history_answer(w, &found);
    return true;
}

/* True: nobody waits any more. */
bool channel_serve(struct channel *c)
{
    for (struct wish **at = &c->waiting; *at;) {
        struct wish *w = *at, *next = w->next;

        try_resolve(w);
        if (serve(w))
            *at = next; /* w is gone */
        else
            at = &w->next;
    }
    return !c->waiting;
}
