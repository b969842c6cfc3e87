/* One stream that is followed for all watches of this broker; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/watch.h"

static const int64_t retry_ns = CLOCK_S, check_ns = 5 * CLOCK_S;

static void later(struct feed *feed)
{
    feed->retry_ns = feed->ws->f->timer->now(feed->ws->f->host) + retry_ns;
}

struct feed *feed_get(struct watches *ws, const char *name, const struct muster_tenant *tenant)
{
    struct feed *feed = ws->feeds;

    while (feed && !(feed->tenant == tenant && strcmp(feed->name, name) == 0))
        feed = feed->next;
    if (feed)
        return feed;
    feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    feed->ws = ws;
    feed->tenant = tenant;
    (void)snprintf(feed->name, sizeof feed->name, "%s", name);
    feed->next = ws->feeds;
    ws->feeds = feed;
    return feed;
}

/* ---- what comes ---------------------------------------------------------------------------------------------------------------- */

static bool follows(const struct feed *feed, const struct tap *tap)
{
    return !tap->reader && !feed->catching[tap->w->shard];
}

/* Those that are apart find it out by themselves. */
static void tell_cut(struct feed *feed)
{
    for (struct tap *tap = feed->taps; tap; tap = tap->next_in_feed)
        if (follows(feed, tap))
            outlet_gap(tap->w, "retention", "", 0, 0);
}

/* Sequences of before mean nothing any more. */
static void begin_anew(struct feed *feed)
{
    struct fanout *f = feed->ws->f;

    f->host->log(f->host, MUSTER_LOG_WARN, "stream %s is gone, or was made anew: what was in it and not read is lost to its watches", feed->name);
    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        feed_drop_shard(feed, i);
    for (struct tap *tap = feed->taps; tap; tap = tap->next_in_feed) {
        reader_stop(tap->reader);
        tap->reader = NULL;
        tap->waits = false;
        tap->pos = tap->unheard = 0;
        outlet_gap(tap->w, "stream", "", 0, 0);
    }
    f->stream->close(f->host, feed->stream);
    feed->attached = feed->ready = false;
    feed->missing = feed->gone = true;
    feed->follow = feed->stream = feed->pos = 0;
    later(feed);
}

static void on_followed(void *arg, int code, const struct muster_msg *msg)
{
    struct feed *feed = arg;

    if (!code && msg) {
        dispatch_message(feed, msg, NULL);
        feed->pos = msg->seq;
    } else if (code == MUSTER_ESTALE) {
        tell_cut(feed);
    } else if (code == MUSTER_ENOTFOUND) {
        begin_anew(feed);
    }
}

/* ---- from its name to its messages --------------------------------------------------------------------------------------------- */

static void tell_ready(struct watches *ws)
{
    opens_tick(ws);
    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        load_tick(&ws->shards[i]);
}

/* What cannot be followed is as if it were not there: who waits for it is told. */
static void give_up(struct feed *feed, int code)
{
    struct fanout *f = feed->ws->f;
    bool new = !feed->missing;

    later(feed);
    if (code == MUSTER_ELINK || code == MUSTER_ETIME || code == MUSTER_EAGAIN)
        return;
    feed->missing = true;
    feed->gone = feed->gone || code == MUSTER_ENOTFOUND;
    if (code != MUSTER_ENOTFOUND && new)
        f->host->log(f->host, MUSTER_LOG_WARN, "stream %s cannot be followed (error %d); it is tried again", feed->name, code);
    if (new)
        tell_ready(feed->ws);
}

static int follow(struct feed *feed)
{
    struct fanout *f = feed->ws->f;
    int err = f->stream->follow(f->host, feed->stream, NULL, NULL, feed->pos + 1, 0, on_followed, feed, &feed->follow);

    if (!err && feed->holds)
        f->stream->hold_back(f->host, feed->follow, 1);
    return err;
}

/* From where it is followed. Who was followed before goes on there; a stream that has come in the place of one that was gone is all new. */
static uint64_t begin_at(const struct feed *feed, const struct muster_stream_info *info)
{
    if (feed->gone && feed->taps)
        return 0;
    return feed->created_us && !feed->gone ? feed->pos : info->last_seq;
}

static void begin(struct feed *feed, const struct muster_stream_info *info)
{
    uint64_t created_us = (uint64_t)(info->created_wall_ns / 1000);
    bool known = feed->created_us && !feed->gone, cut;
    int err;

    if (known && created_us != feed->created_us) {
        begin_anew(feed);
        return;
    }
    feed->pos = begin_at(feed, info);
    cut = feed->pos + 1 < info->first_seq;
    if (cut)
        feed->pos = info->first_seq - 1;
    if (known ? cut : feed->missing && !feed->gone)
        tell_cut(feed);
    feed->created_us = created_us;
    feed->gone = false;
    err = follow(feed);
    feed->full = err == MUSTER_EINVAL;
    if (err) {
        give_up(feed, err);
        return;
    }
    feed->ready = true;
    feed->missing = false;
    tell_ready(feed->ws);
}

static void on_stream(void *arg, int code, const struct muster_stream_info *info)
{
    struct feed *feed = arg;

    feed->asking = false;
    if (!code)
        begin(feed, info);
    else
        give_up(feed, code);
}

void feed_ensure(struct feed *feed)
{
    struct fanout *f = feed->ws->f;
    int err;

    if (feed->ready || feed->asking)
        return;
    feed->retry_ns = 0;
    feed->asking = true;
    if (feed->attached)
        err = f->stream->info(f->host, feed->stream, on_stream, feed);
    else
        err = f->stream->attach(f->host, feed->name, feed->tenant, on_stream, feed, &feed->stream);
    if (err) {
        feed->asking = false;
        later(feed);
    } else {
        feed->attached = true;
    }
}

/* A flow that has stopped without a word is begun anew: what is stored and does not come is missing to somebody. */
static void on_checked(void *arg, int code, const struct muster_stream_info *info)
{
    struct feed *feed = arg;
    struct fanout *f = feed->ws->f;
    bool stands = !code && feed->ready && !feed->holds && info->last_seq > feed->pos && feed->pos == feed->checked_pos;

    feed->checking = false;
    feed->checked_pos = feed->pos;
    if (!stands || f->draining)
        return;
    f->host->log(f->host, MUSTER_LOG_WARN, "stream %s has %llu messages behind %llu that do not come; it is followed anew", feed->name,
                 (unsigned long long)(info->last_seq - feed->pos), (unsigned long long)feed->pos);
    f->stream->unfollow(f->host, feed->follow);
    feed->follow = 0;
    if (follow(feed) == 0)
        return;
    feed->ready = false; /* it begins again where it is */
    later(feed);
}

static void check(struct feed *feed, int64_t now_ns)
{
    struct fanout *f = feed->ws->f;

    if (!feed->ready || feed->checking || now_ns - feed->checked_ns < check_ns)
        return;
    feed->checked_ns = now_ns;
    feed->checking = f->stream->info(f->host, feed->stream, on_checked, feed) == 0;
}

static bool is_needed(const struct feed *feed)
{
    bool busy = false;

    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        busy = busy || feed->catching[i] || feed->at[i].busy;
    return busy || feed->refs || feed->readers || feed->asking || feed->checking;
}

static void feed_free(struct feed *feed)
{
    struct fanout *f = feed->ws->f;

    if (feed->follow)
        f->stream->unfollow(f->host, feed->follow);
    if (feed->attached)
        f->stream->close(f->host, feed->stream);
    free(feed);
}

void feeds_tick(struct watches *ws, int64_t now_ns)
{
    for (struct feed **at = &ws->feeds; *at;) {
        struct feed *feed = *at;

        if (!is_needed(feed)) {
            *at = feed->next;
            feed_free(feed);
            continue;
        }
        if (!feed->ready && feed->retry_ns && now_ns >= feed->retry_ns)
            feed_ensure(feed);
        check(feed, now_ns);
        readers_tick(feed);
        at = &feed->next;
    }
}

void feeds_done(struct watches *ws)
{
    for (struct feed *feed = ws->feeds, *next; feed; feed = next) {
        next = feed->next;
        for (uint32_t i = 0; i < WATCH_SHARDS; i++)
            feed_drop_shard(feed, i);
        for (struct reader *r = feed->readers; r; r = feed->readers)
            reader_stop(r); /* nothing is under way any more */
        free(feed);
    }
    ws->feeds = NULL;
}

void feed_hold(struct feed *feed, bool on)
{
    struct fanout *f = feed->ws->f;
    bool was = feed->holds > 0;

    feed->holds = on ? feed->holds + 1 : feed->holds - 1;
    if (feed->ready && was != (feed->holds > 0))
        f->stream->hold_back(f->host, feed->follow, feed->holds > 0);
}

/* ---- shards that come up to it ------------------------------------------------------------------------------------------------- */

struct catching {
    struct feed *feed;
    uint32_t shard;
};

static bool catch_take(void *arg, const struct muster_msg *msg)
{
    struct catching *c = arg;

    dispatch_message(c->feed, msg, c->feed->catching[c->shard]);
    return true;
}

static void catch_cut(void *arg)
{
    struct catching *c = arg;

    for (struct tap *tap = c->feed->taps; tap; tap = tap->next_in_feed)
        if (tap->w->shard == c->shard && !tap->reader)
            outlet_gap(tap->w, "retention", "", 0, 0);
}

/* What the reader has brought and the feed has not yet, must not come twice. */
static void catch_joined(void *arg)
{
    struct catching *c = arg;
    uint64_t pos = reader_pos(c->feed->catching[c->shard]);

    for (struct tap *tap = c->feed->taps; tap; tap = tap->next_in_feed)
        if (tap->w->shard == c->shard && tap->pos < pos)
            tap->pos = pos;
    c->feed->catching[c->shard] = NULL;
    free(c);
}

void feed_catch(struct feed *feed, uint32_t shard, uint64_t pos)
{
    static const struct reader_calls calls = {catch_take, catch_cut, catch_joined};
    struct catching *c = malloc(sizeof *c);

    if (c) {
        *c = (struct catching){feed, shard};
        feed->catching[shard] = reader_new(feed, NULL, NULL, pos, &calls, c);
    }
    if (c && feed->catching[shard]) {
        reader_go(feed->catching[shard]);
        return;
    }
    free(c);
    for (struct tap *tap = feed->taps; tap; tap = tap->next_in_feed)
        if (tap->w->shard == shard)
            outlet_gap(tap->w, "no_memory", "", 0, 0);
}

void feed_drop_shard(struct feed *feed, uint32_t shard)
{
    struct reader *r = feed->catching[shard];

    feed->catching[shard] = NULL;
    feed->at[shard].hash = 0;
    if (!r)
        return;
    free(reader_arg(r));
    reader_stop(r);
}

uint64_t feed_pos(const struct feed *feed, uint32_t shard)
{
    return feed->catching[shard] ? reader_pos(feed->catching[shard]) : feed->pos;
}

/* ---- taps ---------------------------------------------------------------------------------------------------------------------- */

void tap_stray(struct tap *tap)
{
    struct feed *feed = tap->feed;

    if (tap->link_astray || !tap->link_in_feed)
        return;
    tap->next_astray = feed->astray;
    tap->link_astray = &feed->astray;
    if (tap->next_astray)
        tap->next_astray->link_astray = &tap->next_astray;
    feed->astray = tap;
}

void tap_return(struct tap *tap)
{
    if (!tap->link_astray)
        return;
    *tap->link_astray = tap->next_astray;
    if (tap->next_astray)
        tap->next_astray->link_astray = tap->link_astray;
    tap->link_astray = NULL;
}

static bool tap_take(void *arg, const struct muster_msg *msg)
{
    return dispatch_to(arg, msg);
}

static void tap_cut(void *arg)
{
    struct tap *tap = arg;

    outlet_gap(tap->w, "retention", "", 0, 0);
}

static void tap_joined(void *arg)
{
    struct tap *tap = arg;

    tap->pos = reader_pos(tap->reader);
    tap->reader = NULL;
}

bool tap_apart(struct tap *tap, uint64_t pos)
{
    static const struct reader_calls calls = {tap_take, tap_cut, tap_joined};

    tap_stray(tap);
    tap->pos = pos;
    tap->reader = reader_new(tap->feed, tap->w->tenant, tap->subject, pos, &calls, tap);
    if (!tap->reader)
        outlet_gap(tap->w, "no_memory", "", 0, 0);
    return tap->reader != NULL;
}

void tap_go(struct tap *tap)
{
    tap->waits = false;
    if (tap->reader)
        reader_go(tap->reader);
}

uint64_t tap_pos(const struct tap *tap)
{
    const struct batch *b = &tap->w->batch;
    uint64_t pos = tap->reader ? reader_pos(tap->reader) : feed_pos(tap->feed, tap->w->shard);

    if (tap->unheard && tap->unheard <= pos)
        return tap->unheard - 1;
    for (const struct note *note = b->first; note; note = note->next)
        if (note->from == tap)
            return note->seq - 1 < pos ? note->seq - 1 : pos;
    return pos;
}

static bool link_node(struct tap *tap, const char *prefix, size_t len, struct node **ret)
{
    struct node *node = node_get(tap->w->ws, tap->w->tenant, prefix, len, true);

    if (!node)
        return false;
    if (!node_add(node, tap)) {
        node_tidy(tap->w->ws, node);
        return false;
    }
    *ret = node;
    return true;
}

/* The tokens in front of the first wildcard. */
static size_t literal_len(const char *pattern)
{
    size_t n = strcspn(pattern, "*>");

    return n && pattern[n] ? n - 1 : n;
}

bool tap_link(struct tap *tap)
{
    bool linked;

    tap->entry.filter = tap->w->filter;
    linked = !tap->w->filter || link_node(tap, tap->subject, literal_len(tap->subject), &tap->node);

    for (size_t i = 0; linked && i < tap->n_patterns; i++)
        linked = link_node(tap, tap->patterns[i].text, literal_len(tap->patterns[i].text), &tap->patterns[i].node);
    tap->next_in_feed = tap->feed->taps;
    tap->link_in_feed = &tap->feed->taps;
    if (tap->next_in_feed)
        tap->next_in_feed->link_in_feed = &tap->next_in_feed;
    tap->feed->taps = tap;
    tap->feed->n_taps[tap->w->shard]++;
    if (!linked)
        tap_unlink(tap);
    return linked;
}

static void unlink_node(struct tap *tap, struct node **node)
{
    if (!*node)
        return;
    node_remove(*node, tap);
    node_tidy(tap->w->ws, *node);
    *node = NULL;
}

void tap_unlink(struct tap *tap)
{
    reader_stop(tap->reader);
    tap->reader = NULL;
    unlink_node(tap, &tap->node);
    for (size_t i = 0; i < tap->n_patterns; i++)
        unlink_node(tap, &tap->patterns[i].node);
    tap_return(tap);
    if (!tap->link_in_feed)
        return;
    tap->feed->n_taps[tap->w->shard]--;
    *tap->link_in_feed = tap->next_in_feed;
    if (tap->next_in_feed)
        tap->next_in_feed->link_in_feed = tap->link_in_feed;
    tap->link_in_feed = NULL;
}
