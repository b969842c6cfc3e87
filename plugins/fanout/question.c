/*
 * The one question of a channel that is under way: for its newest message, for the place where a position is (a binary search, a message a
 * step), or for the messages from there on; see history.h. The lane.
 */
#include <stdlib.h>
#include <string.h>

#include "fanout/history.h"

static struct stored *copy(struct channel *c, const struct muster_msg *msg)
{
    char heard[SPEC_SIZE];
    struct buf subject = {0};
    struct stored *m;

    spec_heard(&c->spec, msg->subject, heard);
    buf_printf(&subject, "%s.%s.%s", c->h->f->host->root, c->h->f->tenants->name(c->tenant), heard);
    m = buf_failed(&subject) ? NULL : stored_new(msg, subject.data, c->spec.counted);
    buf_done(&subject);
    return m;
}

int channel_take(struct channel *c, const struct muster_msg *msg)
{
    struct stored *m;

    c->full = c->full || c->reading.n_bytes > READ_BYTES_MAX;
    if (c->full)
        return 0;
    m = copy(c, msg);
    if (!m || !run_add(&c->reading, m))
        return MUSTER_ENOMEM;
    c->reading.upto = msg->seq;
    return 0;
}

/* Those who waited when it was asked: for others it is too old. */
static void set_tails(struct channel *c, struct stored *tail)
{
    for (struct wish *w = c->waiting; w; w = w->next) {
        if (w->tailed || w->at.last_seq > c->must)
            continue;
        place_set_tail(w, tail);
    }
}

static void on_last(void *arg, int code, const struct muster_msg *msg)
{
    struct channel *c = arg;
    struct stored *tail = code ? NULL : copy(c, msg);

    if (!code && !tail)
        code = MUSTER_ENOMEM;
    if (!code || code == MUSTER_ENOTFOUND) {
        set_tails(c, tail);
        code = 0;
    }
    stored_drop(tail);
    channel_over(c, code);
}

static int ask_last(struct channel *c)
{
    const struct fanout *f = c->h->f;

    c->doing = DOING_LAST;
    return f->stream->last(f->host, c->tape->stream, c->tenant, c->spec.filter, on_last, c);
}

static void on_probe(void *arg, int code, const struct muster_msg *msg);

static int probe(struct channel *c)
{
    const struct fanout *f = c->h->f;

    c->probed = c->first_probe ? c->lo : c->lo + (c->hi - c->lo) / 2;
    return f->stream->read(f->host, c->tape->stream, c->tenant, c->spec.filter, c->probed, 1, on_probe, c);
}

/* The first message from `probed` on is m; NULL: there is none. */
static void on_probed(struct channel *c, const struct stored *m)
{
    struct wish *w = c->searcher;
    bool due = !m || place_is_due(w, m);

    if (due && c->first_probe) {
        w->oldest = m != NULL;
        c->hi = c->lo;
    } else if (due) {
        c->hi = c->probed;
    } else {
        c->lo = m->seq + 1;
    }
    c->first_probe = false;
    if (c->lo >= c->hi) {
        place_set(w, c->lo);
        place_keep(w);
    }
}

/* Each read of one message calls twice: with it, and at its end. */
static void on_probe(void *arg, int code, const struct muster_msg *msg)
{
    struct channel *c = arg;
    struct stored *m = msg ? copy(c, msg) : NULL;

    if (msg && !m)
        c->failed = MUSTER_ENOMEM;
    if (c->searcher && (m || code == MUSTER_ENOTFOUND))
        on_probed(c, m);
    stored_drop(m);
    if (msg)
        return;
    code = code == MUSTER_ENOTFOUND ? c->failed : code ? code : c->failed;
    if (!code && c->searcher) {
        code = probe(c);
        if (!code)
            return;
    }
    channel_over(c, code);
}

static int go_on_searching(struct channel *c)
{
    c->doing = DOING_SEARCH;
    c->searched = true;
    c->failed = 0;
    return probe(c);
}

static int begin_search(struct channel *c, struct wish *w)
{
    c->searcher = w;
    c->first_probe = true;
    c->lo = w->at.first_seq ? w->at.first_seq : 1;
    c->hi = w->at.last_seq + 1;
    if (w->tail && !w->has_since && w->tail->seq - c->lo > w->tail->count - place_first(w))
        c->hi = w->tail->seq - (w->tail->count - place_first(w)); /* each of the later ones has a sequence */
    return go_on_searching(c);
}

uint64_t channel_lowest(const struct channel *c)
{
    uint64_t lowest = UINT64_MAX;

    for (const struct wish *w = c->waiting; w; w = w->next)
        if (w->resolved && w->start < lowest)
            lowest = w->start;
    return lowest;
}

/* Where the next read begins: with the reader that is furthest behind, or where the window that it needs more of ends. */
static uint64_t next_read(const struct channel *c)
{
    uint64_t lowest = channel_lowest(c);

    return run_covers(&c->window, lowest) ? c->window.upto + 1 : lowest;
}

void channel_read_over(struct channel *c, int code)
{
    c->ended = code == MUSTER_ENOTFOUND && !c->full;
    if (c->ended && c->reading.upto < c->must)
        c->reading.upto = c->must;
    if (code == MUSTER_ENOTFOUND)
        code = 0;
    if (code || c->spec.counted) {
        channel_read_done(c, code);
        return;
    }
    channel_verify(c);
}

static int begin_read(struct channel *c)
{
    c->doing = DOING_READ;
    c->searched = false;
    c->full = false;
    c->failed = 0;
    run_clear(&c->reading);
    c->reading.from = next_read(c);
    c->reading.upto = c->reading.from - 1;
    return wide_read(c);
}

/* Of two that do not know their place the one whose finding helps the other. */
static bool is_before(const struct wish *w, const struct wish *other)
{
    return !other || (w->has_since == other->has_since ? place_want(w) < place_want(other) : other->has_since);
}

/* After a search what it found is read: maybe that has the places of all others. */
int channel_ask(struct channel *c)
{
    struct wish *tailless = NULL, *lost = NULL, *known = NULL;

    c->must = 0;
    for (struct wish *w = c->waiting; w; w = w->next) {
        if (place_needs_tail(w))
            tailless = w;
        else if (w->resolved)
            known = w;
        else if (is_before(w, lost))
            lost = w;
        if (w->at.last_seq > c->must)
            c->must = w->at.last_seq;
    }
    if (tailless)
        return ask_last(c);
    if (c->searcher) /* it had no room to go on */
        return go_on_searching(c);
    return lost && !(known && c->searched) ? begin_search(c, lost) : begin_read(c);
}
