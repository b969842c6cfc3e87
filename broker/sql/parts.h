/*
 * sql/parts.h - what sql.c (bounds, dispatch), turns.c (who waits), conn.c (one pipeline) and item.c (one call) share. Private to sql/.
 *
 * An item is in exactly one place: a line of its tenant, a batch, or the answers that a connection awaits. Who takes it
 * out passes it on or finishes it; that is why each callback runs once.
 */
#ifndef MUSTER_SQL_PARTS_H
#define MUSTER_SQL_PARTS_H

#include <libpq-fe.h>

#include "base/map.h"
#include "sql/pglink.h"
#include "sql/sql.h"
#include "sql/turns.h"

enum {
    BATCH_ITEMS = 100,
    BATCH_BYTES = 1 << 20,
    READS_MAX = 64, /* in flight on one connection */
    TRIES_MAX = 3,  /* on connections that were lost, so that an item that kills its backend does not do so for ever */
    BATCHES_MAX = 8, /* in flight */
    /* Answers awaited by one connection: a batch run again item by item takes 9 each, reads 5 each. */
    OPS_MAX = 2048,
};

struct stmt {
    char *name, *text;
    int kind;
    bool keeps; /* it leaves app.current_tenant as it was */
    uint32_t id;
    PGresult *refused; /* why the server would not prepare it the last time; NULL: it would */
};

struct item {
    struct item *next;
    struct line *line; /* that it waits in, or came from; NULL: it is over */
    struct stmt *stmt;
    const char *tenant, *order_key;
    const char **values;
    uint32_t n_values, tries;
    bool replanned; /* a plan that the server had outgrown was replaced once */
    uint64_t seq;
    size_t bytes;
    int64_t deadline_ns;
    muster_sql_fn fn;
    void *arg;
    PGresult *answer; /* kept until the COMMIT is answered, or the first error */
};

/* Writes that are committed together. */
struct batch {
    struct item *items[BATCH_ITEMS];
    unsigned int n;       /* 0: none is in flight */
    int load;             /* TURNS_*, of all of them */
    unsigned int n_alone; /* of its items run again alone, those not finished */
    bool failed;
};

enum {
    OP_SETUP,   /* session settings and our own statements; an error ends the connection */
    OP_READY,   /* the sync after them */
    OP_PREPARE, /* Parse of a statement, in a segment of its own */
    OP_PRELUDE, /* BEGIN, set_config(): an error is the item's (or the batch's) */
    OP_READ,
    OP_WRITE,
    OP_COMMIT,       /* of a batch */
    OP_COMMIT_ALONE, /* of one item */
    OP_SYNC,
};

/* One answer that is awaited, in the order of sending. */
struct op {
    uint32_t kind;
    uint32_t stmt; /* of OP_PREPARE */
    struct item *item;
};

struct plan {
    bool prepared;
    uint32_t generation; /* part of the name on the server: a plan that was outgrown is not deallocated */
};

struct conn {
    struct sql *sql;
    struct pglink *link;
    PGconn *pg;   /* NULL while down */
    bool ready;   /* set up; takes work */
    bool told;    /* the server said that it ends the connection, as the answer to ops[head] */
    bool send_failed;
    bool dirty;   /* something was sent and not flushed */
    struct batch batch;
    unsigned int n_reads;
    unsigned int n_ups;
    unsigned int stride; /* items of a batch from one flush to the next; >= 1 */
    int64_t batch_ns;    /* when the batch was sent */
    int64_t progress_ns; /* of the last answer, or of the first question after a rest */
    uint32_t head, tail; /* of ops; never wrapped, the difference counts */
    struct op ops[OPS_MAX];
    struct plan plans[SQL_STMTS_MAX];
};

enum { HEALTH_UNKNOWN, HEALTH_UP, HEALTH_AWAY };

struct sql {
    struct sql_options options;
    char *dsn, *broker_id; /* as in options */
    struct stmt *stmts[SQL_STMTS_MAX];
    uint32_t n_stmts;
    struct map names; /* of stmts */
    struct turns reads, writes;
    unsigned int max_batches, n_batches[TURNS_LOADS]; /* in flight; of both loads one more than of one */
    int last_load; /* of the batch that was sent last */
    struct conn **conns; /* options.pool of them; NULL before sql_start() */
    uint64_t seq;
    struct sql_stats stats;
    bool pressed; /* as on_pressure said last */
    bool full;    /* MUSTER_EAGAIN was given since on_writable to a tenant of which nothing waits */
    bool queued;  /* the queues are worth a look: an item came, or an answer made room */
    int health;   /* HEALTH_*: what on_link has told */
    bool closing, in_callback;
    uv_prepare_t *turn; /* the end of each turn of the loop */
    uv_timer_t *tick;   /* runs while anything waits or is in flight: deadlines and dead links */
};

/* item.c */
int item_new(const struct sql_call *call, struct stmt *stmt, struct item **ret_item);
/* Take what the server answered; the first error stays. */
void item_answer(struct item *item, PGresult *answer);
bool item_failed(const struct item *item);
/* Forget the answer, to run the item again. */
void item_reset(struct item *item);
/* Run the callback, with the item's answer or with an error of ours, and free the item. */
void item_finish(struct sql *sql, struct item *item);
void item_finish_error(struct sql *sql, struct item *item, int code, const char *text);

/* conn.c */
int conn_new(struct sql *sql, struct conn **ret_conn);
/* Close; what is in flight is finished with MUSTER_ELINK. */
void conn_free(struct conn *c);
void conn_send_read(struct conn *c, struct item *item);
/* Send c->batch, which is not empty. */
void conn_send_batch(struct conn *c);
/* Flush what was sent. Answers that are there already are taken, so callbacks may run. */
void conn_flush(struct conn *c);
/* Give the connection up when it owes an answer for too long. */
void conn_check(struct conn *c, int64_t now_ns);
static inline bool conn_is_idle(const struct conn *c)
{
    return c->head == c->tail;
}

/* sql.c: put an item back where it waited, in front. */
void sql_requeue(struct sql *sql, struct item *item);
void sql_conn_up(struct sql *sql, bool again);
void sql_conn_down(struct sql *sql, bool was_ready, const char *reason);

#endif
