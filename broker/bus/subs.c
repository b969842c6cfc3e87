/*
 * Subscriptions: what the list says, and what the NATS library has of it; see bus.h.
 *
 * They outlive connections: each new one gets all of them again. Changes of the list are brought to the library by the link's own thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "bus/parts.h"

enum { RUN_MSGS = 256, SHORT_RUN_MSGS = 16 }; /* of a direct subscription, before lanes are woken and messages given back */
enum { MAX_PENDING_MSGS = 1 << 16, MAX_PENDING_BYTES = 64 << 20 };
static const int64_t hear_ns = 2 * CLOCK_MS; /* a read and subscription, where the link is behind */

static void unref(struct subscription *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    if (s->how.gone)
        s->how.gone(s->how.arg);
    free(s->subject);
    free(s->queue);
    free(s);
}

static int link_named(const struct bus_sub *how)
{
    return how->system ? BUS_SYSTEM : how->callout ? BUS_CALLOUT : BUS_LIVE;
}

static int link_of(const struct subscription *s)
{
    return link_named(&s->how);
}

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    struct subscription *s = arg;

    (void)nc;
    (void)sub;
    link_count_received(s->bus->sides[link_of(s)].link, 1);
    s->how.fn(s->how.arg, (struct bus_msg *)msg);
}

/* Hear some of what waits; how many it was. What the library has dropped for want of room it says once, in place of a message. */
static uint64_t hear_some(struct subscription *s, uint64_t max)
{
    uint64_t n = 0;

    while (n < max) {
        natsMsg *msg;
        natsStatus status = natsSubscription_NextMsg(&msg, s->sub, 0);

        if (status == NATS_SLOW_CONSUMER)
            continue;
        if (status != NATS_OK)
            break;
        n++;
        s->how.fn(s->how.arg, (struct bus_msg *)msg);
    }
    return n;
}

/* Where the link is behind, for a moment only: of what waits meanwhile the library keeps as much as bound() says. True: more waits. */
static bool hear(struct side *side, struct subscription *s, bool behind)
{
    int64_t until_ns = behind ? clock_now_ns() + hear_ns : INT64_MAX;
    uint64_t waiting = 0, n = 1;

    while (n && natsSubscription_QueuedMsgs(s->sub, &waiting) == NATS_OK && waiting) {
        lane_hold_wakes();
        n = hear_some(s, behind ? SHORT_RUN_MSGS : RUN_MSGS);
        lane_let_wakes();
        link_count_received(side->link, n);
        if (behind && clock_now_ns() >= until_ns)
            return waiting > n;
    }
    return false;
}

bool subs_on_read(void *arg, bool behind)
{
    struct side *side = arg;
    bool more = false;

    bus_msgs_gather(); /* until the next tick */
    for (struct subscription *s = side->direct; s; s = s->next_direct)
        more = hear(side, s, behind) || more;
    return lane_let_late_wakes(clock_now_ns()) || more;
}

static void count_detached(struct bus *b)
{
    pthread_mutex_lock(&b->lock);
    if (--b->n_attached == 0)
        pthread_cond_signal(&b->detached);
    pthread_mutex_unlock(&b->lock);
}

/* The library's last word on one of its subscriptions. */
static void on_complete(void *arg)
{
    struct subscription *s = arg;
    struct bus *b = s->bus;

    unref(s);
    count_detached(b);
}

static void on_inbox_complete(void *arg)
{
    count_detached(arg);
}

/* Our bounds rule as soon as its thread comes to a message; this one holds when it does not. What is over is dropped and counted as slow. */
static natsStatus bound(natsSubscription *sub)
{
    return natsSubscription_SetPendingLimits(sub, MAX_PENDING_MSGS, MAX_PENDING_BYTES);
}

/* The lock is held. */
static natsStatus adopt(struct bus *b, natsSubscription *sub, natsOnCompleteCB last_word, void *arg)
{
    b->n_attached++;
    ASSERT(natsSubscription_SetOnCompleteCB(sub, last_word, arg) == NATS_OK);
    return bound(sub);
}

static natsStatus subscribe_direct(natsConnection *nc, struct subscription *s)
{
    return s->queue ? natsConnection_QueueSubscribeSync(&s->sub, nc, s->subject, s->queue)
                    : natsConnection_SubscribeSync(&s->sub, nc, s->subject);
}

static natsStatus subscribe(natsConnection *nc, struct subscription *s)
{
    return s->queue ? natsConnection_QueueSubscribe(&s->sub, nc, s->subject, s->queue, on_message, s)
                    : natsConnection_Subscribe(&s->sub, nc, s->subject, on_message, s);
}

/* The lock is held. */
static natsStatus attach(natsConnection *nc, struct subscription *s)
{
    natsStatus status = s->how.direct ? subscribe_direct(nc, s) : subscribe(nc, s);

    if (status != NATS_OK) {
        log_error("bus", "cannot subscribe to %s: %s", s->subject, nats_GetLastError(NULL));
        return status;
    }
    if (s->how.direct)
        return bound(s->sub);
    atomic_fetch_add(&s->refs, 1);
    return adopt(s->bus, s->sub, on_complete, s);
}

static void detach(struct subscription *s)
{
    natsSubscription_Destroy(s->sub);
    s->sub = NULL;
}

/* Those of a link, or of all. */
static struct subscription *take_dead(struct bus *b, int link)
{
    struct subscription *dead = NULL;

    for (struct subscription **at = &b->dead; *at;) {
        struct subscription *s = *at;

        if (link != BUS_N_LINKS && link_of(s) != link) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = dead;
        dead = s;
    }
    return dead;
}

static void drop_all(struct subscription *s)
{
    while (s) {
        struct subscription *next = s->next;

        detach(s);
        unref(s);
        s = next;
    }
}

/* The lock is held. */
static void put_direct(struct side *side, bool queued)
{
    for (struct subscription *s = side->bus->subs; s; s = s->next) {
        if (!s->how.direct || !s->sub || link_of(s) != side->index || queued != (s->queue != NULL))
            continue;
        s->next_direct = side->direct;
        side->direct = s;
    }
}

/* The lock is held. */
static void list_direct(struct side *side)
{
    side->direct = NULL;
    put_direct(side, true);
    put_direct(side, false); /* in front of them */
}

/* Bring the library's subscriptions to what the list says. */
void subs_on_resync(void *arg, natsConnection *nc)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    struct subscription *dead;

    pthread_mutex_lock(&b->lock);
    dead = take_dead(b, side->index);
    for (struct subscription *s = b->subs; s; s = s->next)
        if (!s->sub && link_of(s) == side->index)
            (void)attach(nc, s); /* was logged; the connection's end, which is near, makes it good */
    list_direct(side);
    pthread_mutex_unlock(&b->lock);
    drop_all(dead);
}

/* The lock is held. */
static natsStatus attach_inboxes(struct side *side, natsConnection *nc)
{
    const struct bus_options *options = &side->bus->options;
    int n = side->index >= BUS_SYSTEM ? 1 : 1 + BUS_N_ANSWERS; /* nobody answers a plugin there */
    char pattern[MAX_REPLY];
    natsStatus status = NATS_OK;

    for (int i = 0; status == NATS_OK && i < n; i++) {
        const char *prefix = i ? options->answers[i - 1] : "_INBOX";

        if (!prefix)
            break;
        natsSubscription_Destroy(side->inboxes[i]);
        side->inboxes[i] = NULL;
        (void)snprintf(pattern, sizeof pattern, "%s.%s.*", prefix, side->id);
        status = natsConnection_Subscribe(&side->inboxes[i], nc, pattern, calls_on_inbox, side);
        if (status == NATS_OK)
            status = adopt(side->bus, side->inboxes[i], on_inbox_complete, side->bus);
    }
    return status;
}

natsStatus subs_on_connected(void *arg, natsConnection *nc)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    natsStatus status;

    pthread_mutex_lock(&b->lock);
    status = attach_inboxes(side, nc);
    for (struct subscription *s = b->subs; s; s = s->next) {
        if (link_of(s) != side->index)
            continue;
        detach(s); /* from the connection that was */
        if (status == NATS_OK)
            status = attach(nc, s);
    }
    list_direct(side);
    pthread_mutex_unlock(&b->lock);
    return status;
}

int bus_subscribe(struct bus *b, const struct bus_sub *how, uint64_t *ret_id)
{
    int link = link_named(how);
    struct subscription *s = b->sides[link].link ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return b->sides[link].link ? MUSTER_ENOMEM : MUSTER_ELINK;
    *s = (struct subscription){
        .subject = strdup(how->subject), .queue = how->queue ? strdup(how->queue) : NULL, .how = *how, .bus = b, .refs = 1};
    if (!s->subject || (how->queue && !s->queue)) {
        free(s->subject);
        free(s);
        return MUSTER_ENOMEM;
    }
    pthread_mutex_lock(&b->lock);
    s->id = ++b->next_sub;
    s->next = b->subs;
    b->subs = s;
    *ret_id = s->id;
    pthread_mutex_unlock(&b->lock);
    link_resync(b->sides[link].link);
    return 0;
}

void bus_unsubscribe(struct bus *b, uint64_t id)
{
    struct subscription **at, *s;
    int link = BUS_LIVE;

    pthread_mutex_lock(&b->lock);
    for (at = &b->subs; *at && (*at)->id != id; at = &(*at)->next)
        ;
    s = *at;
    if (s) {
        *at = s->next;
        s->next = b->dead;
        b->dead = s;
        link = link_of(s);
    }
    pthread_mutex_unlock(&b->lock);
    link_resync(b->sides[link].link);
}

/* The library's threads stop in no order: what one of them frees late is lost to its garbage collector. So nothing is left to free. */
static void wait_for_last_words(struct bus *b)
{
    pthread_mutex_lock(&b->lock);
    while (b->n_attached)
        (void)pthread_cond_wait(&b->detached, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

void subs_end(struct bus *b)
{
    struct subscription *subs, *dead;

    pthread_mutex_lock(&b->lock);
    subs = b->subs;
    dead = take_dead(b, BUS_N_LINKS);
    b->subs = NULL;
    pthread_mutex_unlock(&b->lock);
    drop_all(subs);
    drop_all(dead);
    wait_for_last_words(b);
}
