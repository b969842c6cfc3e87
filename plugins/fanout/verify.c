/*
 * From where on what was read of a channel lacks nothing that was ever stored; see history.h. The lane.
 *
 * What a bound has taken while it was read is seen afterwards. Age and size take from the front. The bound of a subject takes out of the
 * middle, and there the oldest of that subject first.
 */
#include "fanout/history.h"

/* None of what was read is lacking where the stream lacks none at all, or where all to the end are too few for a subject to have reached its
 * bound. */
static bool is_whole(const struct channel *c, const struct muster_stream_info *now)
{
    bool none_lacks = now->n_msgs == 0 || now->n_msgs == now->last_seq - now->first_seq + 1;

    return c->reading.from >= now->first_seq && (none_lacks || (c->ended && c->reading.n < c->spec.subject_max));
}

/* Where one message of an inbox, which is one subject, is left, its bound has taken none behind it; and none before it either where the whole
 * stream has fewer behind it than the bound lets stay. If this fails it stays in doubt. */
static void on_oldest(void *arg, int code, const struct muster_msg *msg)
{
    struct channel *c = arg;
    const struct muster_stream_info *now = &c->tape->info;

    (void)code;
    if (msg && c->reading.from >= now->first_seq && now->last_seq < msg->seq + c->spec.subject_max - 1)
        c->reading.whole_from = c->reading.from;
    else if (msg)
        c->reading.whole_from = msg->seq;
    else
        channel_read_done(c, 0);
}

static int ask_oldest(struct channel *c)
{
    const struct fanout *f = c->h->f;

    return f->stream->read(f->host, c->tape->stream, c->tenant, c->spec.filter, 1, 1, on_oldest, c);
}

static void on_verified(struct waiter *waiter, int code)
{
    struct channel *c = (struct channel *)(void *)waiter;
    bool whole;

    if (!code && c->tape->info.created_wall_ns != c->created_wall_ns)
        code = MUSTER_ELINK;
    whole = !code && is_whole(c, &c->tape->info);
    c->reading.whole_from = whole ? c->reading.from : UINT64_MAX;
    if (!code && !whole && c->spec.mail) {
        int err = ask_oldest(c);

        if (!err)
            return;
        code = err == MUSTER_EAGAIN ? err : 0;
    }
    channel_read_done(c, code);
}

void channel_verify(struct channel *c)
{
    c->waiter.fn = on_verified;
    tape_look(c->tape, &c->waiter);
}
