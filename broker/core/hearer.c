/* Hints from a bucket; see hearer.h. */
#include "core/hearer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

struct hearer {
    struct lane_item item;
    struct hearer_options how; /* its strings are in `text` */
    uint64_t sub;
    pthread_mutex_t lock; /* guards the rest */
    bool dead;            /* freed: the lane may be gone as well */
    bool queued, other;
    int refs; /* the owner, the subscription, the item */
    char text[];
};

static void unref(struct hearer *r)
{
    bool last;

    pthread_mutex_lock(&r->lock);
    last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

static void run_heard(struct lane_item *item)
{
    struct hearer *r = (struct hearer *)item;
    bool dead, other;

    pthread_mutex_lock(&r->lock);
    r->queued = false;
    other = r->other;
    r->other = false;
    dead = r->dead; /* it is freed on this lane only */
    pthread_mutex_unlock(&r->lock);
    if (!dead)
        r->how.fn(r->how.arg, other);
    unref(r);
}

static void drop_heard(struct lane_item *item)
{
    unref((struct hearer *)item);
}

static bool has(struct muster_bytes data, const char *text)
{
    return data.len && memmem(data.data, data.len, text, strlen(text));
}

static void queue(struct hearer *r, bool other)
{
    r->other = r->other || other;
    if (r->queued)
        return;
    r->queued = true;
    r->refs++;
    lane_push(r->how.lane, &r->item);
}

/* On a thread of the NATS library. */
static void on_put(void *arg, struct bus_msg *msg)
{
    struct hearer *r = arg;
    struct muster_bytes data = bus_msg_data(msg);

    pthread_mutex_lock(&r->lock);
    if (!r->dead && !has(data, r->how.mine))
        queue(r, !has(data, r->how.common));
    pthread_mutex_unlock(&r->lock);
    bus_msg_free(msg);
}

static void on_gone(void *arg)
{
    unref(arg);
}

int hearer_new(const struct hearer_options *how, struct hearer **ret_hearer)
{
    size_t mine = strlen(how->mine) + 1, common = strlen(how->common) + 1;
    struct hearer *r = calloc(1, sizeof *r + mine + common);
    struct bus_sub sub = {.subject = how->subject, .fn = on_put, .gone = on_gone, .arg = r};
    int err;

    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct hearer){.item = {.run = run_heard, .drop = drop_heard}, .how = *how, .refs = 2};
    r->how.subject = NULL;
    r->how.mine = memcpy(r->text, how->mine, mine);
    r->how.common = memcpy(r->text + mine, how->common, common);
    ASSERT(pthread_mutex_init(&r->lock, NULL) == 0);
    err = bus_subscribe(how->bus, &sub, &r->sub);
    if (err) {
        (void)pthread_mutex_destroy(&r->lock);
        free(r);
        return err;
    }
    *ret_hearer = r;
    return 0;
}

void hearer_free(struct hearer *r)
{
    pthread_mutex_lock(&r->lock);
    r->dead = true;
    pthread_mutex_unlock(&r->lock);
    bus_unsubscribe(r->how.bus, r->sub);
    unref(r);
}
