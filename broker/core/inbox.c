/*
 * The fair queue before a lane; see inbox.h.
 *
 * Deficit round robin (Shreedhar and Varghese, 1995): each tenant that has messages waiting stands in a ring; at its turn it gets
 * a quantum of bytes and sends what that pays for. So a tenant's share does not depend on how much it sends.
 */
#include "core/inbox.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/log.h"
#include "core/dispatch.h"
#include "core/instance.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { TURN_MESSAGES = 64, QUANTUM = 16384, LANE_MSGS = 65536, TENANT_MSGS = 8192 };
static const size_t lane_bytes = 128u << 20, tenant_bytes = 16u << 20;

/* One tenant's messages. Made at its first message and kept; there are at most as many as tenants. */
struct queue {
    struct queue *next; /* in the ring of those with messages */
    struct delivery *head, **tail;
    uint32_t n_msgs;
    size_t n_bytes;
    int64_t deficit;
    bool in_ring;
};

struct inbox {
    struct instance *in;
    struct metric *dropped;
    pthread_mutex_t lock; /* guards all below, and the counts of subs */
    struct queue **queues; /* by tenant index */
    size_t n_queues;
    struct queue *ring, **ring_tail;
    uint32_t n_msgs;
    size_t n_bytes;
    _Atomic uint64_t n_dropped;
};

void delivery_unref(struct delivery *d)
{
    if (atomic_fetch_sub(&d->refs, 1) != 1)
        return;
    bus_msg_free(d->raw);
    free(d);
}

static struct queue *queue_of(struct inbox *b, uint32_t index)
{
    if (index >= b->n_queues) {
        size_t n = index + 64;
        struct queue **more = realloc(b->queues, n * sizeof(struct queue *));

        if (!more)
            return NULL;
        for (size_t i = b->n_queues; i < n; i++)
            more[i] = NULL;
        b->queues = more;
        b->n_queues = n;
    }
    if (!b->queues[index]) {
        struct queue *q = calloc(1, sizeof *q);

        if (!q)
            return NULL;
        q->tail = &q->head;
        b->queues[index] = q;
    }
    return b->queues[index];
}

/* The lock is held. */
static struct delivery *take_first(struct inbox *b, struct queue *q)
{
    struct delivery *d = q->head;

    q->head = d->next;
    if (!q->head)
        q->tail = &q->head;
    q->n_msgs--;
    q->n_bytes -= d->n_bytes;
    b->n_msgs--;
    b->n_bytes -= d->n_bytes;
    d->sub->n_msgs--;
    d->sub->n_bytes -= d->n_bytes;
    return d;
}

static int64_t limit_or(const struct muster_tenant *t, int which, int64_t otherwise)
{
    int64_t v = tenants_limit(t, which);

    return v >= 0 ? v : otherwise;
}

static const char *full_by(const struct inbox *b, const struct queue *q, const struct delivery *d)
{
    if (d->sub->n_msgs >= d->sub->max_msgs || d->sub->n_bytes + d->n_bytes > d->sub->max_bytes)
        return "subscription";
    if (q->n_msgs >= (uint64_t)limit_or(d->tenant, TENANT_QUEUED_MESSAGES, TENANT_MSGS) ||
        q->n_bytes + d->n_bytes > (size_t)limit_or(d->tenant, TENANT_QUEUED_BYTES, (int64_t)tenant_bytes))
        return "tenant";
    if (b->n_msgs >= LANE_MSGS || b->n_bytes + d->n_bytes > lane_bytes)
        return "lane";
    return NULL;
}

/* The oldest message of the same tenant goes, when it is of the same subscription. */
static struct delivery *make_room(struct inbox *b, struct queue *q, const struct delivery *d)
{
    if (d->sub->overflow != MUSTER_OVERFLOW_DROP_OLD || !q->head || q->head->sub != d->sub)
        return NULL;
    return take_first(b, q);
}

static void append(struct inbox *b, struct queue *q, struct delivery *d)
{
    d->next = NULL;
    *q->tail = d;
    q->tail = &d->next;
    q->n_msgs++;
    q->n_bytes += d->n_bytes;
    b->n_msgs++;
    b->n_bytes += d->n_bytes;
    d->sub->n_msgs++;
    d->sub->n_bytes += d->n_bytes;
    if (q->in_ring)
        return;
    q->in_ring = true;
    q->deficit = 0;
    q->next = NULL;
    *b->ring_tail = q;
    b->ring_tail = &q->next;
}

int inbox_push(struct inbox *b, struct delivery *d)
{
    struct delivery *old = NULL;
    const char *full;
    struct queue *q;

    pthread_mutex_lock(&b->lock);
    q = queue_of(b, d->tenant->index);
    full = q ? full_by(b, q, d) : "memory";
    if (full && q)
        old = make_room(b, q, d);
    if (!full || old)
        append(b, q, d);
    pthread_mutex_unlock(&b->lock);
    if (full) {
        atomic_fetch_add(&b->n_dropped, 1);
        metric_add(b->dropped, full, 1);
    }
    if (old)
        delivery_unref(old);
    if (full && !old)
        return MUSTER_EAGAIN;
    lane_wake(b->in->lane);
    return 0;
}

/* The next message in fairness; NULL when nothing waits. */
static struct delivery *take_fair(struct inbox *b)
{
    struct delivery *d = NULL;

    pthread_mutex_lock(&b->lock);
    while (b->ring && !d) {
        struct queue *q = b->ring;

        if (q->head && q->deficit < (int64_t)q->head->n_bytes) {
            q->deficit += QUANTUM;
            if (q->next) { /* to the end of the ring */
                b->ring = q->next;
                q->next = NULL;
                *b->ring_tail = q;
                b->ring_tail = &q->next;
            }
            continue;
        }
        if (q->head) {
            q->deficit -= (int64_t)q->head->n_bytes;
            d = take_first(b, q);
        }
        if (!q->head) { /* leaves the ring; its deficit does not save up */
            b->ring = q->next;
            if (!b->ring)
                b->ring_tail = &b->ring;
            q->in_ring = false;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return d;
}

static bool turn(void *arg)
{
    struct inbox *b = arg;

    for (int i = 0; i < TURN_MESSAGES; i++) {
        struct delivery *d = take_fair(b);

        if (!d)
            return false;
        dispatch_deliver(b->in, d);
    }
    return true;
}

int inbox_new(struct instance *in, struct inbox **ret_inbox)
{
    struct metric_spec spec = {.type = MUSTER_COUNTER,
                               .name = "muster_dropped_total",
                               .help = "Messages dropped before a plugin, by the bound that was reached.",
                               .label = "reason",
                               .constants = {{"plugin", in->plugin->name}, {"instance", in->how->instance}}};
    struct inbox *b = calloc(1, sizeof *b);
    int err = b ? metrics_make(broker_metrics(in->broker), &spec, &b->dropped) : MUSTER_ENOMEM;

    if (err) {
        free(b);
        return err;
    }
    b->in = in;
    b->ring_tail = &b->ring;
    ASSERT(pthread_mutex_init(&b->lock, NULL) == 0);
    lane_on_turn(in->lane, turn, b);
    *ret_inbox = b;
    return 0;
}

void inbox_free(struct inbox *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n_queues; i++) {
        while (b->queues[i] && b->queues[i]->head)
            delivery_unref(take_first(b, b->queues[i]));
        free(b->queues[i]);
    }
    free(b->queues);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

uint64_t inbox_dropped(const struct inbox *b)
{
    return atomic_load(&b->n_dropped);
}
