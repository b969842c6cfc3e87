/*
 * bus/parts.h - what bus.c, calls.c and subs.c share: the links with the tables of open calls and of subscriptions. For these files alone.
 *
 * Threads  bus->lock guards the tables; what is the link thread's only is said where it stands.
 */
#ifndef MUSTER_BUS_PARTS_H
#define MUSTER_BUS_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "bus/link.h"

enum { MAX_REPLY = 352 }; /* bytes of a reply subject */

struct call;

/* One reference for being in the list, one for each of the library's subscriptions whose functions may still run. */
struct subscription {
    struct subscription *next;
    uint64_t id;
    char *subject, *queue;
    struct bus_sub how;
    struct bus *bus;
    atomic_int refs;
    natsSubscription *sub; /* the link's thread only */
    struct subscription *next_direct; /* likewise */
};

struct side { /* what a link's hooks need to know */
    struct bus *bus;
    int index;
    struct link *link;
    char id[CLOCK_UUID_SIZE]; /* last token but one of the reply subjects */
    natsSubscription *inboxes[1 + BUS_N_ANSWERS]; /* link thread only */
    struct subscription *direct; /* likewise: those that it reads itself, in the order in which it does */
};

struct bus {
    struct bus_options options;
    struct side sides[BUS_N_LINKS];

    pthread_mutex_t lock; /* guards all below */
    struct call **calls;  /* by slot */
    uint32_t *free_slots;
    uint32_t n_free, n_slots;
    bool calls_starved;  /* somebody got no slot, and waits for on_writable */
    uint32_t generation; /* part of the reply subject, so that a late answer never meets a new call */
    uint32_t *generations;
    struct subscription *subs;
    struct subscription *dead; /* unsubscribed, and the link thread has not seen it yet */
    uint64_t next_sub;
    size_t n_attached; /* subscriptions of the library that have not said their last word */
    pthread_cond_t detached;
};

/* ---- calls.c ---- */

/* A message for one of the link's reply subjects; arg: the side. */
void calls_on_inbox(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg);
void calls_end_of_link(struct bus *b, int link);
void calls_end_late(struct bus *b, int link, int64_t now_ns);
/* Whether somebody got no slot, and half of them are free again; says so once. */
bool calls_relieved(struct bus *b);

/* ---- subs.c; hooks of a link, whose arg is the side ---- */

natsStatus subs_on_connected(void *arg, natsConnection *nc);
void subs_on_resync(void *arg, natsConnection *nc);
bool subs_on_read(void *arg, bool behind);
/* No thread but the caller's is there any more that subscribes. Returns when the library has said its last word on all of them. */
void subs_end(struct bus *b);

#endif
