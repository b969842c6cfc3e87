/*
 * core/inbox.h - the fair queue before a lane, and the messages in it. Private to core/.
 *
 * Threads  inbox_push() from any thread, under the inbox's lock; inbox_turn() on the lane. A delivery's references are atomic.
 */
#ifndef MUSTER_CORE_INBOX_H
#define MUSTER_CORE_INBOX_H

#include <muster/plugin.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/bus.h"

struct instance;
struct inbox;

enum { DELIVERY_HEADERS = 32 };

/* One plugin's subscription; owned by the dispatcher, lives as long as the instance. */
struct sub {
    struct sub *next;
    uint64_t id;
    struct instance *in;
    char *pattern; /* what follows R.T. */
    uint32_t overflow, max_msgs, queue;
    size_t max_bytes;
    muster_msg_fn fn;
    bool dead;       /* unsubscribed; set on the lane, read there */
    uint64_t bus_id; /* of its own NATS subscription; 0: requests come through the trie */
    /* Under the inbox's lock. */
    uint32_t n_msgs;
    size_t n_bytes;
};

/* One message on its way to a plugin's function. */
struct delivery {
    struct delivery *next;
    struct muster_msg msg;
    struct muster_header headers[DELIVERY_HEADERS];
    struct bus_msg *raw; /* owned */
    struct sub *sub;
    const struct muster_tenant *tenant;
    size_t n_bytes;
    atomic_int refs;
    atomic_bool held; /* bus->hold() was called: no answer is made when the function returns */
    char text[];      /* subject and its split copy */
};

void delivery_unref(struct delivery *d);

int inbox_new(struct instance *in, struct inbox **ret_inbox);
void inbox_free(struct inbox *inbox);
/* Queue d, which the inbox owns from then on. MUSTER_EAGAIN: a bound is reached and d is still the caller's. */
int inbox_push(struct inbox *inbox, struct delivery *d);
/* How many messages a tenant has waiting here are dropped so far, by all reasons; for tests and metrics. */
uint64_t inbox_dropped(const struct inbox *inbox);

#endif
