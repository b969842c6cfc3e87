/* Where in a stream a position of a channel is: a binary search, one message a step; see watch.h. */
#include <stdlib.h>
#include <string.h>

#include "fanout/watch.h"

struct seek {
    struct feed *feed;
    const struct muster_tenant *tenant;
    struct channel_place want, below, above; /* the last at or before what is wanted, the first behind it; epoch 0: none seen */
    uint64_t lo, hi;                 /* the answer is in lo … hi */
    bool found;                      /* this step has seen a message */
    seek_fn fn;
    void *arg;
    char subject[];
};

static int order(struct channel_place a, struct channel_place b)
{
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

static bool is_whole(const struct seek *s)
{
    if (s->above.epoch)
        return s->above.seq == s->want.seq + 1 && (s->above.epoch == s->want.epoch || !s->want.seq);
    return order(s->below, s->want) == 0 || (!s->below.epoch && !s->want.seq);
}

static void finish(struct seek *s, int code)
{
    s->fn(s->arg, code, s->lo ? s->lo - 1 : 0, !code && is_whole(s));
    free(s);
}

static void step(struct seek *s);

static void look(struct seek *s, const struct muster_msg *msg)
{
    struct channel_place at = {message_number(msg, "Muster-Epoch"), message_number(msg, "Muster-Seq")};

    s->found = true;
    if (order(at, s->want) <= 0) {
        s->below = at;
        s->lo = msg->seq + 1;
    } else {
        s->above = at;
        s->hi = s->lo + (s->hi - s->lo) / 2;
    }
}

static void on_step(void *arg, int code, const struct muster_msg *msg)
{
    struct seek *s = arg;

    if (!code && msg) {
        look(s, msg);
        return;
    }
    if (code && code != MUSTER_ENOTFOUND) {
        finish(s, code);
        return;
    }
    if (!s->found)
        s->hi = s->lo + (s->hi - s->lo) / 2;
    step(s);
}

static void step(struct seek *s)
{
    struct fanout *f = s->feed->ws->f;
    uint64_t mid = s->lo + (s->hi - s->lo) / 2;
    int err;

    if (s->lo >= s->hi) {
        finish(s, 0);
        return;
    }
    s->found = false;
    err = f->stream->read(f->host, s->feed->stream, s->tenant, s->subject, mid, 1, on_step, s);
    if (err)
        finish(s, err);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct seek *s = arg;

    if (code) {
        finish(s, code);
        return;
    }
    s->lo = info->first_seq;
    s->hi = info->last_seq + 1;
    step(s);
}

int seek_begin(struct feed *feed, const struct muster_tenant *tenant, const char *subject, uint64_t epoch, uint64_t seq, seek_fn fn, void *arg)
{
    size_t len = strlen(subject);
    struct seek *s = calloc(1, sizeof *s + len + 1);
    int err;

    if (!s)
        return MUSTER_ENOMEM;
    s->feed = feed;
    s->tenant = tenant;
    s->want = (struct channel_place){epoch, seq};
    s->fn = fn;
    s->arg = arg;
    memcpy(s->subject, subject, len + 1);
    err = feed->ws->f->stream->info(feed->ws->f->host, feed->stream, on_info, s);
    if (err)
        free(s);
    return err;
}
