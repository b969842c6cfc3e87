/*
 * core/feed.h - things that happen in the broker, told to plugins on their lanes: what stands behind watch() of muster.sys/1 and of
 * muster.roster/1.
 *
 * Shape    Each watcher has a queue before its lane. Its first call says that changes may have been missed, a gap: from there on it hears all.
 * Bounds   max_queued events a watcher. Where there are more, all that wait is given up, and a gap told in their place: what the plugin reads
 *          then is newer than any of them.
 * Threads  feed_push() and the like from any thread; a watcher is made, called and ended on its instance's lane.
 * Lock     One, over the list and the queues; never held during a callback.
 */
#ifndef MUSTER_CORE_FEED_H
#define MUSTER_CORE_FEED_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct feed;
struct instance;
struct metric;

enum { FEED_MAX_WATCHERS = 16 /* of an instance */ };

/* The beginning of what is told: a struct that feed_push() copies as bytes. */
struct feed_event {
    struct feed_event *next;
    const struct muster_tenant *tenant; /* NULL: of all, or of none */
};

union feed_fn { /* whichever the feed is for */
    muster_connection_fn connection;
    muster_roster_fn change;
};

struct feed_options {
    size_t max_queued;
    /* Call the plugin; event NULL: a gap. [lane] */
    void (*tell)(struct instance *in, union feed_fn fn, void *arg, const struct feed_event *event);
    struct metric *gaps; /* counts them */
};

int feed_new(const struct feed_options *options, struct feed **ret_feed);
void feed_free(struct feed *f); /* accepts NULL */

/* False at first: nobody is told anything. When it becomes true, and when that is said again, all are told a gap. */
void feed_hear(struct feed *f, bool hearing);
void feed_gap(struct feed *f);
/* Copy an event of n bytes for those whose lane has its tenant; without a tenant for all. */
void feed_push(struct feed *f, const struct feed_event *event, size_t n);

/* MUSTER_EAGAIN: the instance has FEED_MAX_WATCHERS. [lane] */
int feed_add(struct feed *f, struct instance *in, union feed_fn fn, void *arg, uint64_t *ret_id);
void feed_remove(struct feed *f, struct instance *in, uint64_t id); /* [lane] */
void feed_forget(struct feed *f, struct instance *in);             /* all of the instance. [lane] */
/* True when the instance's lane has the tenant. */
bool feed_is_of(const struct instance *in, const struct muster_tenant *tenant);

#endif
