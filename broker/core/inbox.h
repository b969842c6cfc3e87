/*
 * core/inbox.h - the fair queue before a lane, and the messages in it. Private to core/.
 *
 * Threads  inbox_push(), inbox_hold() and inbox_release() from any thread; the rest on the lane. A delivery's references are atomic.
 * Bounds   Messages and bytes of each subscription, of each tenant and of the lane; what the plugin holds has bounds of its own.
 */
#ifndef MUSTER_CORE_INBOX_H
#define MUSTER_CORE_INBOX_H

#include <muster/plugin.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/bus.h"
#include "core/audit.h"

struct dispatch;
struct endpoint;
struct inbox;
struct instance;
struct lane;
struct metrics;

enum { DELIVERY_HEADERS = 32 };

/* One plugin's subscription. References: the dispatcher's list, the bus, and each delivery. */
struct sub {
    struct sub *next;
    atomic_int refs;
    uint64_t id;
    struct instance *in; /* gone once dead is set: ask dead first */
    struct dispatch *dispatch;
    char *pattern; /* what follows R.T. */
    uint32_t overflow, max_msgs, queue;
    size_t max_bytes;
    muster_msg_fn fn;
    bool dead;       /* unsubscribed; set on the lane under the dispatcher's lock */
    uint64_t bus_id; /* of its own NATS subscription; 0: requests come through the trie */
    /* Under the inbox's lock. */
    uint32_t n_msgs;
    size_t n_bytes;
};

/* One message on its way to a plugin's function. */
struct delivery {
    struct delivery *next;
    struct muster_msg msg;
    struct bus_msg *raw; /* owned */
    struct sub *sub;
    const struct muster_tenant *tenant;
    struct endpoint *endpoint; /* of a request to a declared verb; NULL otherwise */
    bool is_answer;            /* a request with a ref: whoever answered chose its body */
    size_t n_bytes;
    char object[AUDIT_OBJECT_SIZE]; /* what a request that writes is about, for the audit; "": not said. On the lane */
    atomic_int refs;
    atomic_bool held; /* bus->hold() was called: no answer is made when the function returns */
    bool is_late;     /* it may wait for some milliseconds: nobody waits for an answer */
    bool is_patient;  /* it may be given back for ever: it waits for a place, not for a plugin that could have failed. On the lane */
    struct muster_header headers[]; /* as many as it has; behind them the subject and its split copy */
};

void delivery_unref(struct delivery *d);
void sub_unref(struct sub *s);

struct inbox_options {
    struct lane *lane; /* where messages are delivered; the inbox goes after it */
    struct metrics *metrics;
    const char *plugin, *instance;                  /* for the metrics */
    void (*deliver)(void *arg, struct delivery *d); /* on the lane; takes d */
    void (*refuse)(struct delivery *d, int code, const char *message); /* nobody will see d: tell who waits (ERROR_*) */
    void *arg;
};

int inbox_new(const struct inbox_options *options, struct inbox **ret_inbox);
void inbox_free(struct inbox *inbox);
/* Queue d, which the inbox owns from then on. MUSTER_EAGAIN: a bound is reached and d is still the caller's; *ret_limit is the limit of its
 * tenant (TENANT_*) that it was, -1 a bound of the broker. */
int inbox_push(struct inbox *inbox, struct delivery *d, int *ret_limit);
/* The plugin wants d again later: put it back before the others of its tenant, which wait too. False: it has been tried for long
 * enough, and d is still the caller's. */
bool inbox_again(struct inbox *inbox, struct delivery *d);
/* What was given back comes again at once. On the lane. */
void inbox_retry(struct inbox *inbox);
/* Deliver nothing while it is on. On the lane. */
void inbox_pause(struct inbox *inbox, bool on);
/* The instance drains: what waits because of a pause, and what still comes, is refused. On the lane. */
void inbox_close_pause(struct inbox *inbox);
/* Count a message that the plugin's function failed on. */
void inbox_count_failure(struct inbox *inbox);
/* Count d among what the plugin holds past its callback. MUSTER_EAGAIN: that is too much already, of all or of d's tenant, which may have
 * no more than is left for the others. */
int inbox_hold(struct inbox *inbox, const struct delivery *d);
void inbox_release(struct inbox *inbox, const struct delivery *d);
/* Messages that wait; and those dropped so far, for all reasons. */
uint32_t inbox_waiting(struct inbox *inbox);
uint64_t inbox_dropped(const struct inbox *inbox);

#endif
