/*
 * A channel with its window and its readers; see history.h. The lane.
 *
 * channel_work() serves whom it can, then has the one question asked that helps the first of the others (question.c). Its answer comes back
 * here.
 */
#include <stdlib.h>
#include <string.h>

#include "fanout/history.h"

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

void channel_forget_given(struct channel *c)
{
    c->h->n_bytes -= c->given.n_bytes;
    c->given.n_bytes = 0;
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
    channel_forget_given(c);
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
        channel_forget_given(c);
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
        channel_forget_given(c);
        memset(c->places, 0, sizeof c->places);
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
    h->n_bytes += c->window.n_bytes;
}

/* Of a window that is too large the half goes, or what nobody needs who waits. */
static void keep_small(struct channel *c)
{
    struct run *r = &c->window;

    if (r->n_bytes <= (size_t)c->h->f->config->cache_bytes / 4)
        return;
    c->h->n_bytes -= r->n_bytes;
    run_cut_before(r, c->waiting ? channel_lowest(c) : r->items[r->n / 2]->seq);
    c->h->n_bytes += r->n_bytes;
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
    c->waiting_end = &c->waiting;
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
    unlink_used(c);
    link_newest(c);
    check_window(c, &w->at);
    w->next = NULL;
    *c->waiting_end = w;
    c->waiting_end = &w->next;
    channel_work(c);
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
        if (!c->waiting)
            c->waiting_end = &c->waiting;
        history_fail(w, code);
    }
    c->vain_ns = 0;
    c->working = working;
}

static void leave_if_idle(struct channel *c)
{
    if (is_idle(c) && !c->window.from)
        channel_free(c);
}

void channel_fail(struct channel *c, int code)
{
    fail_all(c, code);
    leave_if_idle(c);
}

/* ---- serving ------------------------------------------------------------------------------------------------------------ */

void channel_over(struct channel *c, int code)
{
    c->doing = DOING_NOTHING;
    if (code == MUSTER_EAGAIN && c->waiting) {
        room_await(c, true);
        return;
    }
    if (code)
        fail_all(c, code);
    c->vain_ns = 0;
    channel_work(c);
}

void channel_read_done(struct channel *c, int code)
{
    if (!code) {
        bool idle;

        c->working = true;
        idle = channel_serve(c);
        c->working = false;
        keep_reading(c);
        if (idle)
            channel_forget_given(c);
    }
    run_clear(&c->reading);
    channel_over(c, code);
}

/* 0, or why nothing is asked. */
static int ask(struct channel *c)
{
    int err = c->delayed || asks_wait(c->h->f) ? MUSTER_EAGAIN : channel_ask(c);

    if (err)
        c->doing = DOING_NOTHING;
    return err;
}

void channel_work(struct channel *c)
{
    struct history *h = c->h;
    int err = 0;

    if (c->working || c->doing || c->stalled)
        return;
    c->working = true;
    while (!channel_serve(c) && !c->doing) {
        err = ask(c);
        if (!err || err == MUSTER_EAGAIN)
            break;
        fail_all(c, err);
    }
    keep_small(c);
    if (c->spec.mail && !c->waiting)
        channel_forget_given(c); /* one has it to read */
    c->working = false;
    if (err == MUSTER_EAGAIN)
        room_await(c, !c->delayed && !asks_wait(h->f));
    else
        leave_if_idle(c);
    keep_bounds(h);
}

void channels_done(struct history *h)
{
    while (h->oldest)
        channel_free(h->oldest);
    map_done(&h->channels);
}
