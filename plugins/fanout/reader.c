/*
 * Reads a stream from an earlier position, page by page, until it is where the feed is; see watch.h.
 *
 * Whether it is there can be said when a page brought all there was and the feed has meanwhile passed nothing by that was the reader's. Where
 * that does not come about by itself, because too much comes, the feed is held back for the last page.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/watch.h"

enum { PAGE = 500, ROUNDS_FREE = 3 };
static const int64_t retry_ns = 500 * CLOCK_MS;

enum { IDLE, ASKS, READS };

struct reader {
    struct reader *next, **link;
    struct feed *feed;
    const struct muster_tenant *tenant;
    uint64_t pos, feed_pos; /* feed_pos: where the feed was when the round began */
    struct reader_calls calls;
    void *arg;
    uint32_t state, rounds;
    bool dead, missed, refused, holding, wants;
    int64_t retry_ns; /* 0: not */
    bool by_subject;
    char subject[];
};

struct reader *reader_new(struct feed *feed, const struct muster_tenant *tenant, const char *subject, uint64_t pos,
                          const struct reader_calls *calls, void *arg)
{
    size_t len = subject ? strlen(subject) : 0;
    struct reader *r = calloc(1, sizeof *r + len + 1);

    if (!r)
        return NULL;
    r->feed = feed;
    r->tenant = tenant;
    r->pos = pos;
    r->calls = *calls;
    r->arg = arg;
    r->by_subject = subject != NULL;
    memcpy(r->subject, subject ? subject : "", len + 1);
    r->next = feed->readers;
    r->link = &feed->readers;
    if (r->next)
        r->next->link = &r->next;
    feed->readers = r;
    return r;
}

uint64_t reader_pos(const struct reader *r)
{
    return r->pos;
}

void *reader_arg(const struct reader *r)
{
    return r->arg;
}

void reader_missed(struct reader *r)
{
    r->missed = true;
}

static void hold(struct reader *r, bool on)
{
    if (r->holding == on)
        return;
    r->holding = on;
    feed_hold(r->feed, on);
}

static void reader_free(struct reader *r)
{
    hold(r, false);
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    free(r);
}

void reader_stop(struct reader *r)
{
    if (!r)
        return;
    r->dead = true;
    hold(r, false);
    if (r->state == IDLE)
        reader_free(r);
}

static void later(struct reader *r)
{
    hold(r, false);
    r->retry_ns = r->feed->ws->f->timer->now(r->feed->ws->f->host) + retry_ns;
}

static void join(struct reader *r)
{
    void (*joined)(void *) = r->calls.joined;
    void *arg = r->arg;

    joined(arg); /* looks at reader_pos() still */
    reader_free(r);
}

static void finish_round(struct reader *r)
{
    if (r->refused) {
        hold(r, false);
        r->rounds = 0;
        if (r->wants)
            reader_go(r);
        return;
    }
    if (r->pos < r->feed_pos)
        r->pos = r->feed_pos;
    if (!r->missed) {
        join(r);
        return;
    }
    if (++r->rounds >= ROUNDS_FREE)
        hold(r, true);
    reader_go(r);
}

static void on_page(void *arg, int code, const struct muster_msg *msg)
{
    struct reader *r = arg;

    if (!code && msg) {
        if (r->dead || r->refused)
            return;
        if (r->calls.take(r->arg, msg))
            r->pos = msg->seq;
        else
            r->refused = true;
        return;
    }
    r->state = IDLE;
    if (r->dead)
        reader_free(r);
    else if (code && code != MUSTER_ENOTFOUND)
        later(r);
    else if (!code && !r->refused)
        reader_go(r);
    else
        finish_round(r);
}

static void read_page(struct reader *r)
{
    struct fanout *f = r->feed->ws->f;

    r->state = READS;
    if (f->stream->read(f->host, r->feed->stream, r->tenant, r->by_subject ? r->subject : NULL, r->pos + 1, PAGE, on_page, r) == 0)
        return;
    r->state = IDLE;
    later(r);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct reader *r = arg;

    r->state = IDLE;
    if (r->dead) {
        reader_free(r);
        return;
    }
    if (code) {
        later(r);
        return;
    }
    if (info->first_seq > r->pos + 1 && info->last_seq) {
        r->calls.cut(r->arg);
        r->pos = info->first_seq - 1;
    }
    if (info->last_seq > r->pos)
        read_page(r);
    else
        finish_round(r);
}

void reader_go(struct reader *r)
{
    struct fanout *f = r->feed->ws->f;

    r->wants = r->state != IDLE;
    if (r->wants || r->dead)
        return;
    r->retry_ns = 0;
    r->missed = r->refused = false;
    r->feed_pos = r->feed->pos;
    if (!r->feed->ready) {
        later(r);
        return;
    }
    r->state = ASKS;
    if (f->stream->info(f->host, r->feed->stream, on_info, r) == 0)
        return;
    r->state = IDLE;
    later(r);
}

void readers_tick(struct feed *feed)
{
    int64_t now = feed->ws->f->timer->now(feed->ws->f->host);

    for (struct reader *r = feed->readers, *next; r; r = next) {
        next = r->next;
        if (r->retry_ns && now >= r->retry_ns && r->state == IDLE)
            reader_go(r);
    }
}
