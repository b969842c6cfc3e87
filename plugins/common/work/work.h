/*
 * common/work/work.h - what the plugins tasks, help and runs have in common: requests that one SQL function each carries out.
 *
 * Shape    A plugin lists its verbs, has a struct work as the first member of its instance, and calls work_create() in create(), work_start() in
 *          start(). Each request is one item in the group commit of muster.sql/1, and what the function gives is its answer: {"ok": …} or {"error": …} with, beside
 *          them, what only the plugin sees. Who does more with a request than that has a hook in its verb.
 *            ask.h       a request from its arrival to its answer
 *            storable.h  what of a body can be kept
 *            position.h  where the events of a service are, for lists
 *            sweeper.h   what every broker looks at now and then
 *            notice.h    what agents are told as `_muster`
 * Bounds   Those of the subscription and of bus->hold(). An answer that finds no room waits for work_flush().
 * Threads  The lane, without a lock.
 */
#ifndef MUSTER_COMMON_WORK_WORK_H
#define MUSTER_COMMON_WORK_WORK_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/value.h"

struct ask;

enum {
    WORK_READS = 1u << 0, /* a statement of its own: no request_id, no group commit */
    WORK_ROLE = 1u << 1,  /* the function asks for args.role */
    WORK_PAGED = 1u << 2, /* limit is 100 where none was said, and the answer ends in epoch and seq of the service's events */
};

struct work_verb {
    const char *verb;     /* "submit" */
    const char *function; /* of schema muster, without it: "task_submit"; NULL: look() has it done otherwise */
    uint32_t flags;       /* WORK_* */
    const char *key;      /* the field with the id of what is changed; NULL: what comes first is carried out first */
    /* Look at a request before it is carried out. False: it has been answered, or is another's now. May be NULL. */
    bool (*look)(struct ask *a);
    /* It is committed; ok is the answer, as JSON of len bytes that is given afterwards; more is what the outcome has beside it, an empty map where
     * there is nothing. May be NULL. */
    void (*done)(struct ask *a, const char *ok, size_t len, const struct muster_value *more);
};

enum { WORK_VERBS_MAX = 32 };

struct work {
    /* Set by the plugin. The struct is the first member of its instance. */
    const struct muster_host *host;
    const char *service;
    const struct work_verb *verbs;
    size_t n_verbs;

    /* Found by work_create(). */
    const struct muster_bus *bus;
    const struct muster_sql *sql;
    const struct muster_stream *stream;
    const struct muster_timer *timer;
    const struct muster_tenants *tenants;
    const struct muster_metrics *metrics;

    /* The rest is work's own. */
    struct work *also;                    /* another service of the plugin's; NULL */
    uint64_t stmts[WORK_VERBS_MAX], once; /* statements */
    uint64_t events;                      /* the stream EVT, for positions; 0: not attached */
    struct ask *unsent, **unsent_end;     /* answers that wait for room */
    struct ask *again, **again_end;       /* what met a lock, until the timer */
    uint64_t m_asked, m_refused, m_swept; /* metrics */
};

/* Find the services, prepare the statements, make the metrics. The first error is final; work_destroy() cleans up after it, too. */
int work_create(struct work *w);
/* Another service of the same plugin, behind the first: the service, the verbs and their number are set, the rest is w's. What is said of w holds for it
 * as well, but that it is not the first member. */
int work_also(struct work *w, struct work *other);
int work_start(struct work *w); /* subscribe to rpc.*.<service>.* */
void work_flush(struct work *w); /* in on_writable() */
void work_destroy(struct work *w);

/* For a subscription of the plugin's own: an answer to what was pushed, "rpc.B.<service>.<verb>.<ref>", carried out as a request of that verb
 * with these args (a JSON object). 0, or what the callback of the message returns. */
int work_answer(struct work *w, const struct muster_msg *msg, const char *verb, const char *args_json);

/* The word that stands for a MUSTER_ROLE_*; "none" where it is no agent. */
const char *work_role(const struct muster_msg *msg);

#endif
