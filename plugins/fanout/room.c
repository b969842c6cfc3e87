/*
 * Channels that wait for room, on the connection or in the present turn of the lane; see history.h. Such a channel asks nothing, and nobody of
 * it is answered, until room_resume(), in the order in which they came to wait. The lane.
 */
#include "fanout/history.h"

enum { TURN = 256 };
static const int64_t patience_ns = 30 * CLOCK_S;

bool room_is_there(const struct history *h)
{
    return h->n_turn < TURN && !asks_wait(h->f);
}

static void on_next_turn(void *self, int64_t now_ns)
{
    struct fanout *f = self;

    (void)now_ns;
    f->history->turning = 0;
    f->history->n_turn = 0;
    room_resume(f->history);
}

void room_taken(struct history *h)
{
    if (++h->n_turn >= TURN && !h->turning && h->f->timer->once(h->f->host, 0, on_next_turn, &h->turning) != 0)
        h->n_turn = 0; /* the turn goes on */
}

static void put(struct history *h, struct channel *c)
{
    c->stalled = true;
    c->next_stalled = NULL;
    *h->stalled_end = c;
    h->stalled_end = &c->next_stalled;
}

static struct channel *take(struct history *h)
{
    struct channel *c = h->stalled;

    h->stalled = c->next_stalled;
    if (!h->stalled)
        h->stalled_end = &h->stalled;
    c->stalled = false;
    return c;
}

/* Others may be in the way of its questions for a while. */
static bool is_patient(struct channel *c, bool asks)
{
    int64_t now = c->h->f->timer->now(c->h->f->host);

    if (!asks || !c->vain_ns)
        c->vain_ns = asks ? now : 0;
    return !asks || now - c->vain_ns < patience_ns;
}

void room_await(struct channel *c, bool asks)
{
    if (is_patient(c, asks))
        put(c->h, c);
    else
        channel_fail(c, MUSTER_EAGAIN);
}

/* Each that waits now has its turn once: those that find no room again stand behind. */
void room_resume(struct history *h)
{
    struct channel *last = h->stalled, *c;

    if (!last)
        return;
    while (last->next_stalled)
        last = last->next_stalled;
    do {
        if (!room_is_there(h))
            return;
        c = take(h);
        channel_work(c);
    } while (c != last);
}

void room_end(struct history *h)
{
    while (h->stalled)
        channel_fail(take(h), MUSTER_ELINK);
}
