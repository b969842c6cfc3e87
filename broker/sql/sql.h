/*
 * sql/sql.h - the SQL service of one lane: statements run on a small pool of connections, and nothing ever blocks.
 *
 * Shape    sql_new() with the lane's loop, sql_prepare() for each statement, sql_start(), then sql_exec(). What is queued
 *          during one turn of the loop is sent together at its end (before the poll), so batches form by themselves and no
 *          timer delays them.
 * Kinds    SQL_READ: alone, in a read-only transaction of its own; many are in flight. Tried again when the link is lost.
 *          SQL_WRITE: group commit. At most 100 items or 1 MiB in one transaction, sorted by (tenant, order_key). When anything in it
 *          fails, each item is run again in a transaction of its own, and only the guilty one gets the error. Of a tenant one batch
 *          is in flight, so its writes are carried out in the order they came.
 * Turns    Tenants take turns (sql/turns.h): a batch is filled with some of each that waits, and while some have a batch in flight
 *          others go by another connection. One tenant alone has whole batches.
 * Errors   0 or a negative MUSTER_E*. A result's code: MUSTER_EINVAL refused by the server (sqlstate says why); MUSTER_ETIME a
 *          lock (50 ms), the statement (10 s) or the wait for a connection took too long; MUSTER_EAGAIN the server lacks
 *          memory or disk; MUSTER_ELINK the link is away. Only a write that was sent has an unknown outcome then.
 * Memory   What sql_exec() takes is copied. A result is borrowed until its callback returns.
 * Threads  sql_new() and sql_prepare() on any one thread before sql_start(): they leave the loop alone. From then on all on the
 *          loop's thread, callbacks too. Callbacks never run inside sql_exec(), and exactly once: also in sql_free().
 */
#ifndef MUSTER_SQL_SQL_H
#define MUSTER_SQL_SQL_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <uv.h>

enum { SQL_READ = MUSTER_SQL_READ, SQL_WRITE = MUSTER_SQL_WRITE };
enum { SQL_POOL_MAX = 64, SQL_PARAMS_MAX = 256, SQL_STMTS_MAX = 1024 };

struct sql;

struct sql_options {
    uv_loop_t *loop;
    const char *dsn;       /* copied; "key=value …" or a postgresql:// URL; never logged */
    const char *broker_id; /* connections are named "muster <broker_id>" */
    const char *area;      /* who speaks in the log, e.g. "sql.tasks"; lives as long as the service */
    unsigned int pool;     /* connections, 1 to SQL_POOL_MAX; half of them take writes at one time */
    size_t max_items, max_bytes; /* of one tenant alone, that may wait to be sent; of all less than twice that; > 0 */
    int64_t wait_ns;             /* how long an item may wait to be sent; 0: 5 s */
    int64_t silence_ns; /* a link that owes an answer for longer is dead; above statement_timeout (10 s); 0: 15 s */
    /* The first connection came up (reason ""), or the last one went. May be NULL. */
    void (*on_link)(void *arg, bool up, const char *reason);
    /* sql_exec() gave MUSTER_EAGAIN to a tenant of which no more than half is left, or to one that had nothing. May be NULL. */
    void (*on_writable)(void *arg);
    /* A bound has come to four fifths, or both are below half again. Inside sql_exec(), too. May be NULL. */
    void (*on_pressure)(void *arg, bool on);
    void *arg;
};

struct sql_call {
    uint64_t stmt;
    const char *tenant;    /* app.current_tenant during the statement; NULL: '' */
    const char *order_key; /* id of what a write changes; NULL: "" */
    const struct muster_bytes *params; /* text without NUL; data NULL is SQL NULL */
    uint32_t n_params;
    muster_sql_fn fn;
    void *arg;
};

struct sql_stats {
    size_t waiting, waiting_bytes, in_flight;
    unsigned int connections;      /* that are up */
    uint64_t reads, batches;       /* sent */
    uint64_t batch_items;          /* sent in batches: over batches, the mean size */
    uint64_t retries;              /* items run again: alone after their batch failed, or on another connection */
    uint64_t refused;              /* MUSTER_EAGAIN */
    uint64_t failures;             /* callbacks with a code other than 0 */
    uint64_t reconnects;           /* connections that came up again */
};

/* MUSTER_EINVAL: the connection string cannot be parsed, or a bound is out of range. */
int sql_new(const struct sql_options *options, struct sql **ret_sql);
/* Finish every callback that is due with MUSTER_ELINK and free. Run the loop once more, for libuv's handles. Never from
 * within a callback. Accepts NULL. */
void sql_free(struct sql *sql);

/* Register a statement with $1…$n text parameters; it is prepared on each connection when first used there. The same name again
 * must mean the same statement and gives the same handle, otherwise MUSTER_EEXIST. */
int sql_prepare(struct sql *sql, const char *name, int kind, const char *text, uint64_t *ret_stmt);
/* Begin to connect, without waiting for it. The first sql_exec() does so where this was not called. */
int sql_start(struct sql *sql);
/* MUSTER_EAGAIN: a bound is reached, nothing was queued, on_writable follows. MUSTER_EINVAL: unknown statement, a NUL inside a
 * parameter, or more than max_bytes in one item. Do not call it from a uv_prepare callback. */
int sql_exec(struct sql *sql, const struct sql_call *call);
void sql_stats(const struct sql *sql, struct sql_stats *ret_stats);

#endif
