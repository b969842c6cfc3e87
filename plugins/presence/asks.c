/*
 * Questions that the holder of a shard alone answers, and that come while it is taking the shard over, or reads its stream again: they wait
 * until it leads, or are told to come back. See presence.h.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "presence/presence.h"

enum { ASKS_MAX = 256 }; /* a shard; what the host holds for one instance is bounded as well */
static const int64_t patience_ns = 1500 * CLOCK_MS; /* less than a client waits */

struct kept_ask {
    struct kept_ask *next;
    const struct muster_msg *msg; /* held */
    int64_t until_ns;
};

static int refuse(const struct presence *p, const struct muster_msg *msg)
{
    return p->bus->reply_error(p->host, msg->request, "unavailable", NULL, "the roster of this tenant changes its broker; try again");
}

int asks_keep(struct tenancy *t, const struct muster_msg *msg)
{
    const struct presence *p = t->p;
    struct shard *s = t->shard;
    struct kept_ask *k;

    if (s->state == SHARD_FOLLOWS || s->state == SHARD_LEADS)
        return 0; /* another answers; or will, once the lease that ran out here is told to be lost */
    k = s->n_asks < ASKS_MAX && !p->draining ? malloc(sizeof *k) : NULL;
    if (!k || p->bus->hold(p->host, msg, &k->msg) != 0) {
        free(k);
        return refuse(p, msg);
    }
    k->next = NULL;
    k->until_ns = p->timer->now(p->host) + patience_ns;
    if (!s->asks)
        s->asks_end = &s->asks;
    *s->asks_end = k;
    s->asks_end = &k->next;
    s->n_asks++;
    return 0;
}

static const struct muster_msg *take(struct shard *s)
{
    struct kept_ask *k = s->asks;
    const struct muster_msg *msg = k->msg;

    s->asks = k->next;
    s->n_asks--;
    free(k);
    return msg;
}

/* Where there is no room for an answer the host says so. */
static void end(struct shard *s, bool answer)
{
    const struct presence *p = s->p;
    const struct muster_msg *msg = take(s);
    struct tenancy *t = answer ? tenancy_of(s->p, msg->tenant) : NULL;

    (void)(t ? verb_answer(t, msg) : refuse(p, msg));
    p->bus->drop(p->host, msg);
}

void asks_answer(struct shard *s)
{
    while (s->asks && s->state == SHARD_LEADS)
        end(s, true);
}

void asks_refuse(struct shard *s, int64_t now_ns)
{
    while (s->asks && s->asks->until_ns <= now_ns)
        end(s, false);
}

void asks_done(struct shard *s)
{
    while (s->asks)
        s->p->bus->drop(s->p->host, take(s));
}
