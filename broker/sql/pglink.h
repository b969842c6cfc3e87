/*
 * sql/pglink.h - one connection to PostgreSQL on an event loop, which nothing waits for and which comes back by itself.
 *
 * Shape    pglink_open() starts to connect on the loop's next turn. After on_up the connection is the owner's to send on;
 *          after on_down it is gone and the next attempt is already planned, 0.1 s to 5 s later with jitter.
 * Hosts    Of several, the one at which an attempt began that failed is tried last in the next. After a connection that lasted
 *          1 s the order stays.
 * Threads  All on the loop's thread, events too.
 * Memory   pglink_close() frees at once; libuv's handles follow on the loop's next turn, so run the loop once more.
 * Blocking Only the lookup of a host name inside libpq can block: give addresses, or a resolver that is near.
 */
#ifndef MUSTER_SQL_PGLINK_H
#define MUSTER_SQL_PGLINK_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <uv.h>

struct pglink;

struct pglink_events {
    /* Connected and non-blocking. The owner may send; pglink flushes afterwards. */
    void (*on_up)(void *arg, PGconn *pg);
    /* Input has been read: take the results. True when something was sent meanwhile and wants to be flushed. */
    bool (*on_input)(void *arg, PGconn *pg);
    /* The connection was lost, or an attempt failed; reason is one line. */
    void (*on_down)(void *arg, const char *reason);
};

struct pglink_options {
    uv_loop_t *loop;
    const char *dsn;       /* copied; keepalive settings and the like in it override ours */
    const char *broker_id; /* for application_name */
    const struct pglink_events *events;
    void *arg;
};

bool pglink_dsn_parses(const char *dsn); /* any thread */
/* MUSTER_EINVAL: the connection string cannot be parsed. */
int pglink_open(const struct pglink_options *options, struct pglink **ret_link);
/* Close without any further event. Never from within an event. Accepts NULL. */
void pglink_close(struct pglink *link);
/* The connection while it is up, otherwise NULL. */
PGconn *pglink_pg(const struct pglink *link);
/* Flush what was sent and take what has come, until neither gives more. */
void pglink_pump(struct pglink *link);
/* Give the connection up, because it is out of step or does not answer; on_down runs. reason may belong to the connection. */
void pglink_lost(struct pglink *link, const char *reason);

#endif
