/*
 * fanout/fanout.h - what the parts of the plugin share. One plugin, three services: message, group and watch.
 *
 * Parts    Each part of the plugin is a struct fanout_part, listed in fanout.c, and keeps its state behind its own pointer in struct fanout.
 *          They are made in the order of the list and ended in the opposite one.
 *            inbox    message.send and ack: MAIL, cursors, request ids        (inbox.h)
 *            history  message.history: shared reads of every channel          (history.h)
 *            asks     requests and their answers, for all of them              (ask.h)
 *            group    group.join, leave, list                                  (group.c)
 *            cast     message.cast and receipts                                (cast.h)
 *            watch    watch.open, close, list, and what they deliver           (watch.h)
 * Threads  The lane, without a lock.
 */
#ifndef MUSTER_FANOUT_FANOUT_H
#define MUSTER_FANOUT_FANOUT_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fanout_config {
    int64_t replicas;     /* of MAIL */
    int64_t retention_ns; /* of MAIL */
    int64_t max_bytes;    /* of MAIL */
    int64_t cache_bytes;  /* of recent messages, for history */
    int64_t cast_timeout_ns, cast_max;
    int64_t watch_linger_ns;   /* how long a watch outlives its agent's presence */
    int64_t watch_interval_ns; /* of a watch that names none; 0: it gets each message by itself */
};

struct fanout {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_stream *stream;
    const struct muster_kv *kv;
    const struct muster_lease *lease;
    const struct muster_sql *sql;
    const struct muster_codec *codec;
    const struct muster_timer *timer;
    const struct muster_tenants *tenants;
    const struct muster_metrics *metrics;
    const struct muster_roster *roster;
    const struct fanout_config *config;
    int64_t watch_interval_ns; /* with what the environment says */
    bool link_up, draining, ready;
    struct asks *asks;
    /* The state of each part, NULL while it has none. */
    struct inbox *inbox;
    struct history *history;
    struct groups *groups;
    struct casts *casts;
    struct watches *watches;
};

/* What the host calls, handed to each part; any may be NULL. Returns and threads as in struct muster_plugin. */
struct fanout_part {
    int (*create)(struct fanout *f);
    int (*start)(struct fanout *f);
    void (*drain)(struct fanout *f, int64_t deadline_ns);
    void (*destroy)(struct fanout *f); /* also after a create() that failed, or was not reached */
    void (*on_link)(struct fanout *f, bool up);
    void (*on_writable)(struct fanout *f);
    void (*on_tables)(struct fanout *f);
    void (*on_config)(struct fanout *f); /* f->config is new; the one before is still there */
    void (*tick)(struct fanout *f, int64_t now_ns); /* every FANOUT_TICK_NS */
    bool (*is_ready)(struct fanout *f); /* the broker is not before all are; asked until it says so once. NULL: it is */
};

/* Say that the instance is at work, once all parts are. */
void fanout_look_ready(struct fanout *f);

#define FANOUT_TICK_NS (INT64_C(250) * 1000000)

extern const struct fanout_part watch_part;
extern const struct fanout_part group_part;

enum { FANOUT_OPTIONS_N = 8 };
extern const struct muster_option fanout_options[FANOUT_OPTIONS_N];

#endif
