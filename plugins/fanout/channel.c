/*
 * A channel and its readers; see history.h. The lane.
 *
 * work() serves whom it can, then asks the one question that helps the first of the others: for the channel's newest message, for
 * the place where a position is (a binary search, a message a step), or for the messages from there on. Its answer comes back here.
 */
#include <stdlib.h>
#include <string.h>

#include "fanout/history.h"

static void work(struct channel *c);

/* ---- windows ------------------------------------------------------------------------------------------------------------ */

static void unlink_used(struct channel *c)
{
    struct history *h = c->h;

    *(c->newer ? &c->newer->older : &h->newest) = c->older;
    *(c->older ? &c->older->newer : &h->oldest) = c->newer;
    c->newer = c->older = NULL;
}

static void link_newest(struct channel *c)
{
    struct history *h = c->h;

    c->older = h->newest;
    *(h->newest ? &h->newest->newer : &h->oldest) = c;
    h->newest = c;
}

static void window_clear(struct channel *c)
{
    c->h->n_bytes -= c->window.n_bytes;
    run_clear(&c->window);
}

static void given_clear(struct channel *c)
{
    answer_drop(c->given.answer);
    stored_drop(c->given.first);
    stored_drop(c->given.last);
    c->given.answer = NULL;
    c->given.first = c->given.last = NULL;
}

static size_t own_size(const struct channel *c)
{
    return sizeof *c + 2 * strlen(c->key);
}

static void channel_free(struct channel *c)
{
    unlink_used(c);
    (void)map_take(&c->h->channels, c->key, strlen(c->key));
    window_clear(c);
    run_clear(&c->reading);
    given_clear(c);
    c->tape->users--;
    c->h->n_bytes -= own_size(c);
    free(c->key);
    free(c);
}

static bool is_idle(const struct channel *c)
{
    return !c->users && !c->waiting && !c->doing && !c->working;
}

/* Windows that were not used for longest go first; a channel without readers goes with its window. A few at a time: where all are in use
 * there is nothing to find. */
static void keep_bounds(struct history *h)
{
    struct channel *c = h->oldest, *newer;

    for (int i = 0; i < 64 && c && h->n_bytes > (size_t)h->f->config->cache_bytes; i++, c = newer) {
        newer = c->newer;
        if (c->waiting || c->working)
            continue;
        given_clear(c);
        window_clear(c);
        if (is_idle(c))
            channel_free(c);
    }
}

/* What the stream has cut is not told from here either. */
static void check_window(struct channel *c, const struct muster_stream_info *now)
{
    if (c->created_wall_ns != now->created_wall_ns) {
        window_clear(c);
        given_clear(c);
    }
    c->created_wall_ns = now->created_wall_ns;
    c->h->n_bytes -= c->window.n_bytes;
    run_cut_before(&c->window, now->first_seq);
    c->h->n_bytes += c->window.n_bytes;
}

/* Where the two do not touch the newer is kept, or the one that somebody waits for. */
static void keep_reading(struct channel *c)
{
    struct history *h = c->h;

    h->n_bytes -= c->window.n_bytes;
    if (!run_join(&c->window, &c->reading) && (c->waiting || c->reading.upto > c->window.upto)) {
        run_clear(&c->window);
        (void)run_join(&c->window, &c->reading);
    }
    run_clear(&c->reading);
    if (c->window.n_bytes > (size_t)h->f->config->cache_bytes / 4 && !c->waiting)
        run_cut_before(&c->window, c->window.items[c->window.n / 2]->seq);
    h->n_bytes += c->window.n_bytes;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

/* Forget the channel that nobody has used for longest. */
static bool forget_one(struct history *h)
{
    struct channel *c = h->oldest;

    while (c && !is_idle(c))
        c = c->newer;
    if (!c)
        return false;
    channel_free(c);
    return true;
}

/* A window keeps its stream: it gives way to a stream that is asked for. */
static struct tape *tape_for(struct history *h, const struct muster_tenant *tenant, const struct spec *spec)
{
    struct tape *tape;

    do
        tape = tape_of(h->f, &h->tapes, spec->stream, spec->own ? tenant : NULL);
    while (!tape && h->tapes.by_key.n >= TAPES_MAX && forget_one(h));
    return tape;
}

static struct channel *channel_new(struct history *h, const char *key, const struct muster_tenant *tenant, const struct spec *spec)
{
    struct tape *tape = tape_for(h, tenant, spec);
    struct channel *c = tape ? calloc(1, sizeof *c) : NULL;

    if (!c)
        return NULL;
    c->h = h;
    c->tenant = tenant;
    c->tape = tape;
    c->spec = *spec;
    c->key = strdup(key);
    if (!c->key || !map_put(&h->channels, key, strlen(key), c)) {
        free(c->key);
        free(c);
        return NULL;
    }
    tape->users++;
    h->n_bytes += own_size(c);
    link_newest(c);
    return c;
}

struct channel *channel_enter(struct history *h, const struct muster_tenant *tenant, const struct spec *spec)
{
    struct buf key = {0};
    struct channel *c = NULL;

    buf_printf(&key, "%s %s %s", h->f->tenants->name(tenant), spec->stream, spec->filter);
    if (!buf_failed(&key)) {
        c = map_get(&h->channels, key.data, key.len);
        if (!c)
            c = channel_new(h, key.data, tenant, spec);
    }
    buf_done(&key);
    if (c)
        c->users++;
    return c;
}

void channel_leave(struct channel *c)
{
    c->users--;
    if (is_idle(c) && !c->window.from)
        channel_free(c);
}

void channel_wait(struct channel *c, struct wish *w)
{
    struct wish **end = &c->waiting;

    unlink_used(c);
    link_newest(c);
    check_window(c, &w->at);
    while (*end)
        end = &(*end)->next;
    w->next = NULL;
    *end = w;
    work(c);
}

/* With the last reader the channel may go, but not while it works. */
static void fail_all(struct channel *c, int code)
{
    bool working = c->working;

    c->working = true;
    c->searcher = NULL;
    while (c->waiting) {
        struct wish *w = c->waiting;

        c->waiting = w->next;
        history_fail(w, code);
    }
    c->working = working;
}

/* ---- the question under way --------------------------------------------------------------------------------------------- */

static void over(struct channel *c, int code)
{
    c->doing = DOING_NOTHING;
    if (code)
        fail_all(c, code);
    work(c);
}

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
    over(c, code);
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
        c->searcher = NULL;
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
    over(c, code);
}

static int begin_search(struct channel *c, struct wish *w)
{
    c->doing = DOING_SEARCH;
    c->searcher = w;
    c->first_probe = true;
    c->failed = 0;
    c->lo = w->at.first_seq ? w->at.first_seq : 1;
    c->hi = w->at.last_seq + 1;
    if (w->tail && !w->has_since && w->tail->seq - c->lo > w->tail->count - place_first(w))
        c->hi = w->tail->seq - (w->tail->count - place_first(w)); /* each of the later ones has a sequence */
    return probe(c);
}

/* Where the next read begins: with the reader that is furthest behind, or where the window that it needs more of ends. */
static uint64_t next_read(const struct channel *c)
{
    uint64_t lowest = UINT64_MAX;

    for (const struct wish *w = c->waiting; w; w = w->next)
        if (w->resolved && w->start < lowest)
            lowest = w->start;
    return run_covers(&c->window, lowest) ? c->window.upto + 1 : lowest;
}

static void read_done(struct channel *c, int code)
{
    if (!code) {
        bool idle;

        c->working = true;
        idle = channel_serve(c);
        c->working = false;
        keep_reading(c);
        if (idle)
            given_clear(c);
    }
    run_clear(&c->reading);
    over(c, code);
}

/* What a bound has taken while it was read is seen afterwards. Age and size take from the front. The bound of a subject takes out of the
 * middle: none of what was read where the stream lacks none at all, or where all to the end are too few for a subject to have reached it. */
static bool is_whole(const struct channel *c, const struct muster_stream_info *now)
{
    bool none_lacks = now->n_msgs == 0 || now->n_msgs == now->last_seq - now->first_seq + 1;

    return c->reading.from >= now->first_seq && (none_lacks || (c->ended && c->reading.n < c->spec.subject_max));
}

static void on_verified(struct waiter *waiter, int code)
{
    struct channel *c = (struct channel *)(void *)waiter;

    if (!code && c->tape->info.created_wall_ns != c->created_wall_ns)
        code = MUSTER_ELINK;
    c->reading.whole = !code && is_whole(c, &c->tape->info);
    read_done(c, code);
}

void channel_read_over(struct channel *c, int code)
{
    c->ended = code == MUSTER_ENOTFOUND && !c->full;
    if (c->ended && c->reading.upto < c->must)
        c->reading.upto = c->must;
    if (code == MUSTER_ENOTFOUND)
        code = 0;
    if (code || c->spec.counted) {
        read_done(c, code);
        return;
    }
    c->waiter.fn = on_verified;
    tape_look(c->tape, &c->waiter);
}

static int begin_read(struct channel *c)
{
    c->doing = DOING_READ;
    c->full = false;
    c->failed = 0;
    run_clear(&c->reading);
    c->reading.from = next_read(c);
    c->reading.upto = c->reading.from - 1;
    return wide_read(c);
}

static int ask_next(struct channel *c)
{
    struct wish *tailless = NULL, *lost = NULL;

    c->must = 0;
    for (struct wish *w = c->waiting; w; w = w->next) {
        if (place_needs_tail(w))
            tailless = w;
        else if (!w->resolved)
            lost = w;
        if (w->at.last_seq > c->must)
            c->must = w->at.last_seq;
    }
    if (tailless)
        return ask_last(c);
    return lost ? begin_search(c, lost) : begin_read(c);
}

static void work(struct channel *c)
{
    struct history *h = c->h;

    if (c->working || c->doing)
        return;
    c->working = true;
    while (!channel_serve(c) && !c->doing) {
        int err = ask_next(c);

        if (!err)
            break;
        c->doing = DOING_NOTHING;
        fail_all(c, err);
    }
    c->working = false;
    if (is_idle(c) && !c->window.from)
        channel_free(c);
    keep_bounds(h);
}

void channels_done(struct history *h)
{
    while (h->oldest)
        channel_free(h->oldest);
    map_done(&h->channels);
}
