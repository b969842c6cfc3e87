/*
 * How many messages a second may leave a child; see proxy.h.
 *
 * A flood costs the child little and the servers much, so its share of time (limits.cpu) does not hold it, nor would a count alone: what is
 * long counts as often as it has pieces of 4 KiB. What it asks the servers counts as well. What is over the limit waits: its
 * frame is refused, and with it all that the child says later, until there is room. Then its own publish() gives MUSTER_EAGAIN.
 * A child that was quiet may send a second's worth at once. While the lane waits for its answer to changed settings, which comes behind what
 * waits, that goes on at once and is owed.
 */
#include "child/proxy_parts.h"

/* Frames that waited go on together: a timer for each would cost more than what it saves. */
enum { PIECE = 4096 }; /* a long message costs the servers as much as many */
static const int64_t least_wait_ns = 10 * CLOCK_MS, saved_ns = CLOCK_S;

static void on_pace(void *self, int64_t now_ns)
{
    struct proxy *p = self;

    (void)now_ns;
    p->pace_waits = false;
    if (p->child)
        ward_resume(p->child);
}

/* Without memory for a timer it goes on at the next tick at the latest, which resumes too. */
static void wait_for_room(struct proxy *p, int64_t left_ns)
{
    if (p->pace_waits)
        return;
    p->metrics->add(p->host, p->m_paced, NULL, 1);
    p->pace_waits = p->timer->once(p->host, left_ns > least_wait_ns ? left_ns : least_wait_ns, on_pace, &p->pace) == 0;
}

bool pace_admits(struct ward *c)
{
    struct proxy *p = c->proxy;
    int64_t now_ns = clock_now_ns();

    if (!p->how.messages || c->is_reloading)
        return true;
    if (p->pace_ns < now_ns - saved_ns)
        p->pace_ns = now_ns - saved_ns;
    if (p->pace_ns <= now_ns)
        return true;
    wait_for_room(p, p->pace_ns - now_ns);
    return false;
}

void pace_count(struct ward *c, size_t bytes)
{
    if (c->proxy->how.messages)
        c->proxy->pace_ns += CLOCK_S / c->proxy->how.messages * (int64_t)(1 + bytes / PIECE);
}
