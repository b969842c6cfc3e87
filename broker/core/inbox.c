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
#include "base/clock.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/error.h"

enum {
    TURN_MESSAGES = 64,
    QUANTUM = 6144, /* a score of small messages: a turn of a slow service stays short */
    LANE_MSGS = 65536,
    TENANT_MSGS = 16384, /* ten thousand agents that come back at once, while a lane is late */
    TENANT_LATE_MSGS = LANE_MSGS / 2, /* with what nobody waits for: beats, of which one tenant may have tens of thousands a second */
    HELD_MSGS = 16384,
    RING_LOOK = 256,
    RETRY_MS = 20
};
static const size_t lane_bytes = 128u << 20, tenant_bytes = 16u << 20, held_bytes = 64u << 20;
static const int64_t retry_for_ns = 30 * CLOCK_S;

/* One tenant's messages. Made at its first message and kept; there are at most as many as tenants (TENANTS_MAX). */
struct queue {
    struct queue *next; /* in the ring of those with messages */
    struct delivery *head, **tail;
    uint32_t n_msgs;
    size_t n_bytes;
    size_t n_held, n_held_bytes; /* not in the queue any more: the plugin keeps them */
    int64_t deficit;
    bool in_ring;
    bool waits; /* its first message was given back: it rests until the timer */
};

struct inbox {
    struct inbox_options how;
    struct metric *dropped, *dropped_by_tenant, *failed;
    uv_timer_t retry; /* runs while some queue waits */
    bool paused;      /* lane only */
    bool refuses;     /* lane only: as long as it is paused, since nobody will end the pause */
    int64_t resumed_ns; /* lane only: when the last pause ended */
    pthread_mutex_t lock;  /* guards all below, and the counts of subs */
    struct queue **queues; /* by tenant index */
    size_t n_queues;
    struct queue *ring, **ring_tail;
    uint32_t n_msgs;
    size_t n_bytes;
    size_t n_held, n_held_bytes;
    _Atomic uint64_t n_dropped;
};

void sub_unref(struct sub *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    free(s->pattern);
    free(s);
}

void delivery_unref(struct delivery *d)
{
    if (atomic_fetch_sub(&d->refs, 1) != 1)
        return;
    bus_msg_free(d->raw);
    sub_unref(d->sub);
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

/* ---- with the lock held --------------------------------------------------------------------------------------------------------- */

static void count(struct inbox *b, struct queue *q, const struct delivery *d, int by)
{
    size_t n = by > 0 ? d->n_bytes
                      : (size_t)0 - d->n_bytes; /* unsigned arithmetic wraps to the right sum */

    q->n_msgs += (uint32_t)by;
    q->n_bytes += n;
    b->n_msgs += (uint32_t)by;
    b->n_bytes += n;
    d->sub->n_msgs += (uint32_t)by;
    d->sub->n_bytes += n;
}

/* Take what *at points to out of the queue. */
static struct delivery *take(struct inbox *b, struct queue *q, struct delivery **at)
{
    struct delivery *d = *at;

    *at = d->next;
    if (!*at)
        q->tail = at;
    count(b, q, d, -1);
    return d;
}

static int64_t limit_or(const struct muster_tenant *t, int which, int64_t otherwise)
{
    int64_t v = tenants_limit(t, which);

    return v >= 0 ? v : otherwise;
}

/* The limit of its tenant that d would break; -1: none. */
static int limit_reached(const struct queue *q, const struct delivery *d)
{
    int64_t msgs = tenants_limit(d->tenant, TENANT_QUEUED_MESSAGES), bytes = tenants_limit(d->tenant, TENANT_QUEUED_BYTES);

    if (msgs >= 0 && q->n_msgs >= (uint64_t)msgs)
        return TENANT_QUEUED_MESSAGES;
    return bytes >= 0 && q->n_bytes + d->n_bytes > (size_t)bytes ? TENANT_QUEUED_BYTES : -1;
}

static const char *full_by(const struct inbox *b, const struct queue *q, const struct delivery *d)
{
    if (d->sub->n_msgs >= d->sub->max_msgs || d->sub->n_bytes + d->n_bytes > d->sub->max_bytes)
        return "subscription";
    if (q->n_msgs >= (uint64_t)limit_or(d->tenant, TENANT_QUEUED_MESSAGES, d->is_late ? TENANT_LATE_MSGS : TENANT_MSGS) ||
        q->n_bytes + d->n_bytes >
            (size_t)limit_or(d->tenant, TENANT_QUEUED_BYTES, (int64_t)tenant_bytes))
        return "tenant";
    if (b->n_msgs >= LANE_MSGS || b->n_bytes + d->n_bytes > lane_bytes)
        return "lane";
    return NULL;
}

/* Take out the oldest message of the tenant and the subscription of d; NULL when there is none. It stands at the front unless
 * the tenant's messages of other subscriptions do. */
static struct delivery *take_oldest(struct inbox *b, struct queue *q, const struct delivery *d)
{
    struct delivery **at = &q->head;

    while (*at && (*at)->sub != d->sub)
        at = &(*at)->next;
    return *at ? take(b, q, at) : NULL;
}

static void ring_add(struct inbox *b, struct queue *q)
{
    if (q->in_ring || q->waits)
        return;
    q->in_ring = true;
    q->deficit = 0;
    q->next = NULL;
    *b->ring_tail = q;
    b->ring_tail = &q->next;
}

static void ring_pop(struct inbox *b)
{
    struct queue *q = b->ring;

    b->ring = q->next;
    if (!b->ring)
        b->ring_tail = &b->ring;
    q->in_ring = false;
}

static void append(struct inbox *b, struct queue *q, struct delivery *d)
{
    d->next = NULL;
    *q->tail = d;
    q->tail = &d->next;
    count(b, q, d, 1);
    ring_add(b, q);
}

/* The oldest of the tenant that has most waiting, for one that has less: who floods keeps nobody else out. NULL: no other tenant has
 * so much. Of very many tenants with messages not all are looked at. */
static struct delivery *take_from_largest(struct inbox *b, const struct queue *q, const struct delivery *d)
{
    struct queue *largest = b->ring;
    int looked = 0;

    for (struct queue *other = b->ring; other && looked < RING_LOOK; other = other->next, looked++)
        if (other->n_msgs > largest->n_msgs)
            largest = other;
    return largest && largest != q && largest->n_msgs > q->n_msgs + 1 ? take_oldest(b, largest, d) : NULL;
}

static void chain(struct delivery *old, struct delivery **ret_old)
{
    old->next = *ret_old;
    *ret_old = old;
}

/* Make room by the policy of the subscription, then from the tenant that has most: what goes is chained to *ret_old. NULL: d has room;
 * else the bound it hit. */
static const char *make_room(struct inbox *b, struct queue *q, const struct delivery *d,
                             struct delivery **ret_old)
{
    const char *full = full_by(b, q, d);
    bool drop_old = d->sub->overflow == MUSTER_OVERFLOW_DROP_OLD && d->n_bytes <= d->sub->max_bytes;

    while (full && drop_old) {
        struct delivery *old = take_oldest(b, q, d);

        if (!old)
            break;
        chain(old, ret_old);
        full = full_by(b, q, d);
    }
    while (full && strcmp(full, "tenant") != 0 && d->n_bytes <= d->sub->max_bytes) {
        struct delivery *old = take_from_largest(b, q, d);

        if (!old)
            break;
        chain(old, ret_old);
        full = full_by(b, q, d);
    }
    return full;
}

/* The next message in fairness; NULL when nothing waits. */
static struct delivery *take_fair(struct inbox *b)
{
    while (b->ring) {
        struct queue *q = b->ring;

        if (!q->head || q->waits) { /* what it has not spent does not save up */
            ring_pop(b);
        } else if (q->deficit >= (int64_t)q->head->n_bytes) {
            q->deficit -= (int64_t)q->head->n_bytes;
            return take(b, q, &q->head);
        } else {
            q->deficit += QUANTUM;
            if (q->next) { /* to the end of the ring */
                b->ring = q->next;
                q->next = NULL;
                *b->ring_tail = q;
                b->ring_tail = &q->next;
            }
        }
    }
    return NULL;
}

/* ---- in and out ----------------------------------------------------------------------------------------------------------------- */

static void count_drop(struct inbox *b, const struct delivery *d, const char *reason)
{
    atomic_fetch_add(&b->n_dropped, 1);
    metric_add(b->dropped, reason, 1);
    metric_add(b->dropped_by_tenant, tenants_name(d->tenant), 1);
}

/* Messages that made room for a newer one. */
static void drop_chain(struct inbox *b, struct delivery *old)
{
    while (old) {
        struct delivery *next = old->next;

        count_drop(b, old, "old");
        b->how.refuse(
            old, ERROR_RESOURCE_EXHAUSTED,
            "this service has more waiting than it may, and others come first; try again");
        delivery_unref(old);
        old = next;
    }
}

int inbox_push(struct inbox *b, struct delivery *d, int *ret_limit)
{
    struct delivery *old = NULL;
    const char *full = "memory";
    bool is_late = d->is_late; /* who delivers it may be faster */
    struct queue *q;

    pthread_mutex_lock(&b->lock);
    q = queue_of(b, d->tenant->index);
    if (q)
        full = make_room(b, q, d, &old);
    if (!full)
        append(b, q, d);
    *ret_limit = full && q && strcmp(full, "tenant") == 0 ? limit_reached(q, d) : -1;
    pthread_mutex_unlock(&b->lock);
    drop_chain(b, old);
    if (full) {
        count_drop(b, d, full);
        return MUSTER_EAGAIN;
    }
    if (is_late)
        lane_wake_late(b->how.lane);
    else
        lane_wake(b->how.lane);
    return 0;
}

void inbox_retry(struct inbox *b)
{
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->n_queues; i++) {
        if (!b->queues[i] || !b->queues[i]->waits)
            continue;
        b->queues[i]->waits = false;
        ring_add(b, b->queues[i]);
    }
    pthread_mutex_unlock(&b->lock);
    lane_wake(b->how.lane);
}

static void on_retry(uv_timer_t *timer)
{
    inbox_retry(timer->data);
}

bool inbox_again(struct inbox *b, struct delivery *d)
{
    int64_t since_ns = d->msg.recv_ns > b->resumed_ns ? d->msg.recv_ns : b->resumed_ns; /* a pause is nobody's failure */
    struct queue *q;

    if (!d->is_patient && clock_now_ns() - since_ns > retry_for_ns)
        return false;
    pthread_mutex_lock(&b->lock);
    q = b->queues[d->tenant->index]; /* it came from there */
    d->next = q->head;
    q->head = d;
    if (!d->next)
        q->tail = &d->next;
    count(b, q, d, 1);
    q->waits = true;
    pthread_mutex_unlock(&b->lock);
    if (!uv_is_active((uv_handle_t *)&b->retry))
        ASSERT(uv_timer_start(&b->retry, on_retry, RETRY_MS, 0) == 0);
    return true;
}

void inbox_count_failure(struct inbox *b)
{
    metric_add(b->failed, NULL, 1);
}

/* One more of a tenant fits, when the tenant has no more then than is left for all others: so whatever one keeps, a half of what the
 * rest leaves is always free for the next. The lock is held. */
static bool may_hold(const struct inbox *b, const struct queue *q, size_t n_bytes)
{
    return q->n_held + 1 + b->n_held + 1 <= HELD_MSGS && q->n_held_bytes + n_bytes + b->n_held_bytes + n_bytes <= held_bytes;
}

/* The lock is held. */
static void count_held(struct inbox *b, struct queue *q, size_t n, size_t n_bytes)
{
    q->n_held += n;
    q->n_held_bytes += n_bytes;
    b->n_held += n;
    b->n_held_bytes += n_bytes;
}

int inbox_hold(struct inbox *b, const struct delivery *d)
{
    int err = MUSTER_EAGAIN;
    struct queue *q;

    pthread_mutex_lock(&b->lock);
    q = queue_of(b, d->tenant->index);
    if (!q) {
        err = MUSTER_ENOMEM;
    } else if (may_hold(b, q, d->n_bytes)) {
        count_held(b, q, 1, d->n_bytes);
        err = 0;
    }
    pthread_mutex_unlock(&b->lock);
    return err;
}

void inbox_release(struct inbox *b, const struct delivery *d)
{
    pthread_mutex_lock(&b->lock);
    count_held(b, b->queues[d->tenant->index], (size_t)0 - 1, (size_t)0 - d->n_bytes); /* unsigned: wraps to the right sum */
    pthread_mutex_unlock(&b->lock);
}

static void refuse_stopped(struct inbox *b, struct delivery *d)
{
    b->how.refuse(d, ERROR_UNAVAILABLE, "this service stops; try again");
    delivery_unref(d);
}

static bool deliver_some(struct inbox *b)
{
    for (int i = 0; i < TURN_MESSAGES; i++) {
        struct delivery *d;

        if (b->paused && !b->refuses) /* the callback before may have begun it */
            return false;
        pthread_mutex_lock(&b->lock);
        d = take_fair(b);
        pthread_mutex_unlock(&b->lock);
        if (!d)
            return false;
        if (b->paused)
            refuse_stopped(b, d);
        else
            b->how.deliver(b->how.arg, d);
    }
    return true;
}

/* What was delivered is given back when it is much; who hears it may keep it longer. */
static bool turn(void *arg)
{
    bus_msgs_gather();
    return deliver_some(arg);
}

void inbox_pause(struct inbox *b, bool on)
{
    if (b->paused && !on)
        b->resumed_ns = clock_now_ns();
    b->paused = on;
    lane_wake(b->how.lane);
}

void inbox_close_pause(struct inbox *b)
{
    b->refuses = true;
    lane_wake(b->how.lane);
}

static int make_metrics(struct inbox *b)
{
    struct metric_spec dropped = {
        .type = MUSTER_COUNTER,
        .name = "muster_dropped_total",
        .help = "Messages dropped before a plugin, by the bound that was reached.",
        .label = "reason",
        .constants = {{"plugin", b->how.plugin}, {"instance", b->how.instance}}};
    struct metric_spec by_tenant = dropped, failed = dropped;
    int err = metrics_make(b->how.metrics, &dropped, &b->dropped);

    by_tenant.name = "muster_tenant_dropped_total";
    by_tenant.help = "Messages dropped before a plugin, by tenant.";
    by_tenant.label = "tenant";
    failed.name = "muster_failed_total";
    failed.help = "Messages that a plugin's function failed on.";
    failed.label = NULL;
    if (!err)
        err = metrics_make(b->how.metrics, &by_tenant, &b->dropped_by_tenant);
    return err ? err : metrics_make(b->how.metrics, &failed, &b->failed);
}

int inbox_new(const struct inbox_options *options, struct inbox **ret_inbox)
{
    struct inbox *b = calloc(1, sizeof *b);
    int err;

    if (!b)
        return MUSTER_ENOMEM;
    b->how = *options;
    err = make_metrics(b);
    if (err) {
        free(b);
        return err;
    }
    b->ring_tail = &b->ring;
    ASSERT(pthread_mutex_init(&b->lock, NULL) == 0);
    ASSERT(uv_timer_init(lane_loop(b->how.lane), &b->retry) == 0); /* lane_free() closes it */
    b->retry.data = b;
    lane_on_turn(b->how.lane, turn, b);
    *ret_inbox = b;
    return 0;
}

void inbox_free(struct inbox *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n_queues; i++) {
        struct queue *q = b->queues[i];

        while (q && q->head)
            refuse_stopped(b, take(b, q, &q->head));
        free(q);
    }
    free(b->queues);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

uint32_t inbox_waiting(struct inbox *b)
{
    uint32_t n;

    pthread_mutex_lock(&b->lock);
    n = b->n_msgs;
    pthread_mutex_unlock(&b->lock);
    return n;
}

uint64_t inbox_dropped(const struct inbox *b)
{
    return atomic_load(&b->n_dropped);
}
