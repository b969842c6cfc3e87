/*
 * sql/listen.h - one connection that follows the registry's channel and keeps what the broker knows of the registry fresh.
 *
 * Shape    listen_new() with the queries that together are "the state". They run in order on every connect and after
 *          notifications: at once after a rest, otherwise every 200 ms however many notifications come. One that fails (no
 *          migration yet) runs again every 5 s. listen_ask() asks something else between them.
 * Health   A ping every 5 s when there is nothing else; a question without an answer for 4.5 s ends the connection, so a link that
 *          is open at one end only is noticed within 10 s. After that, or any other loss, it comes back by itself (sql/pglink.h).
 * Threads  All on the loop's thread, callbacks too.
 */
#ifndef MUSTER_SQL_LISTEN_H
#define MUSTER_SQL_LISTEN_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

enum { LISTEN_QUERIES_MAX = 16, LISTEN_PARAMS_MAX = 8, LISTEN_ASKED_MAX = 1024 };

struct listen;
struct sql_fault; /* sql/fault.h */

/* One part of the state; fn gets all rows, or an error and no rows: then what is known stays. text is borrowed for ever. */
struct listen_query {
    const char *text;
    muster_sql_fn fn;
    void *arg;
};

struct listen_options {
    uv_loop_t *loop;
    const char *dsn, *broker_id; /* as in struct sql_options */
    const char *area;            /* who speaks in the log; lives as long as the listener */
    const struct listen_query *queries; /* copied */
    size_t n_queries; /* 1 to LISTEN_QUERIES_MAX */
    /* fault NULL: connected and the whole state has been read; otherwise the link was lost, or the first attempt failed, and again when
     * it is away for another reason. May be NULL. */
    void (*on_link)(void *arg, const struct sql_fault *fault, const char *reason);
    void *arg;
    /* A notification; false: it does not concern the state, which need not be read for it. NULL: each does. */
    bool (*on_notice)(void *arg, const char *payload);
    void *notice_arg;
};

/* MUSTER_EINVAL: the connection string cannot be parsed. Does not wait for a connection. */
int listen_new(const struct listen_options *options, struct listen **ret_listen);
/* Finish every listen_ask() that is due with MUSTER_ELINK and free. Run the loop once more, for libuv's handles. Never from within
 * a callback. Accepts NULL. */
void listen_free(struct listen *listen);

/* Ask one question with n text parameters (up to LISTEN_PARAMS_MAX). fn runs exactly once; MUSTER_ELINK when the link is away
 * or goes away. MUSTER_EAGAIN: LISTEN_ASKED_MAX are waiting; MUSTER_ELINK: not connected; fn does not run then. */
int listen_ask(struct listen *listen, const char *text, size_t n_params, const char *const *params, muster_sql_fn fn, void *arg);

#endif
