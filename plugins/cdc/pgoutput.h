/*
 * cdc/pgoutput.h - the wire of logical replication: frames of the copy stream, messages of pgoutput,
 * the status reply.
 *
 * Shape    pgoutput_frame() takes one CopyData message apart, pgoutput_decode() the payload of a 'w'
 *          frame (protocol 1, text format: B C O R Y I U D T M), pgoutput_status() writes the
 *          standby status update.
 * Memory   What is decoded points into the input and is valid as long as that is. struct pgoutput
 *          is reused: its cell and column arrays grow to the widest table met, at most
 *          PGOUTPUT_COLUMNS_MAX, and pgoutput_done() frees them.
 * Errors   MUSTER_EINVAL for every byte that is not as the protocol says, the cause in `reason`.
 * Threads  None: one owner.
 * Units    _us: microseconds since 2000-01-01 UTC, PostgreSQL's epoch.
 */
#ifndef MUSTER_CDC_PGOUTPUT_H
#define MUSTER_CDC_PGOUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PGOUTPUT_LSN_SIZE 18
/* Write an LSN as PostgreSQL does, 0/16B3748, with a NUL; returns its length. */
size_t pgoutput_print_lsn(uint64_t lsn, char out[PGOUTPUT_LSN_SIZE]);

enum {
    PGOUTPUT_COLUMNS_MAX = 1664, /* PostgreSQL's MaxTupleAttributeNumber */
    PGOUTPUT_NAME_MAX = 1024,    /* bytes: NAMEDATALEN is 64, a change of encoding may double it */
    PGOUTPUT_STATUS_SIZE = 34,
};

/* One column of a row: 't' (text), 'n' (NULL) or 'u' (unchanged TOAST value, not sent). */
struct pgoutput_cell {
    const char *data; /* no NUL at its end */
    uint32_t len;
    char kind;
};

struct pgoutput_tuple {
    struct pgoutput_cell *cells; /* owned by the struct pgoutput */
    uint32_t n, cap;
};

struct pgoutput_column {
    const char *name;
    uint32_t type;
    int32_t typmod;
    bool identity; /* part of the replica identity; under FULL every column is */
};

struct pgoutput_begin {
    uint64_t final_lsn;
    int64_t commit_us;
    uint32_t xid;
};
struct pgoutput_commit {
    uint64_t commit_lsn, end_lsn;
    int64_t commit_us;
};
struct pgoutput_origin {
    uint64_t commit_lsn;
    const char *name;
};
struct pgoutput_relation {
    uint32_t id;
    const char *schema, *table;
    char identity;
    uint32_t n_columns;
};
struct pgoutput_type {
    uint32_t oid;
    const char *schema, *name; /* schema "" is pg_catalog */
};
/* An insert, update or delete; old_kind is 'K' (key columns only), 'O' (whole row) or 0. */
struct pgoutput_row {
    uint32_t relation;
    char old_kind;
    bool has_new;
};
/* The ids stand in the message, big end first: pgoutput_truncated() reads one. */
struct pgoutput_truncate {
    uint32_t n;
    bool cascade, restart_identity;
    const uint8_t *ids;
};
struct pgoutput_message {
    bool transactional;
    uint64_t lsn;
    const char *prefix;
    const char *content;
    uint32_t len;
};

struct pgoutput {
    char type; /* the message's letter says which member of the union counts */
    union {
        struct pgoutput_begin begin;       /* B */
        struct pgoutput_commit commit;     /* C */
        struct pgoutput_origin origin;     /* O */
        struct pgoutput_relation relation; /* R, with columns */
        struct pgoutput_type type_name;    /* Y */
        struct pgoutput_row row;           /* I U D, with old_row and new_row */
        struct pgoutput_truncate truncate; /* T */
        struct pgoutput_message message;   /* M */
    };
    struct pgoutput_tuple old_row, new_row;
    struct pgoutput_column *columns; /* owned */
    uint32_t columns_cap;
    const char *reason; /* static text, after MUSTER_EINVAL */
};

void pgoutput_done(struct pgoutput *d);
/* Decode one message. MUSTER_EINVAL, MUSTER_ENOMEM; the message's members mean nothing then. */
int pgoutput_decode(struct pgoutput *d, const void *data, size_t len);
/* The i-th relation of a 'T' message. */
uint32_t pgoutput_truncated(const struct pgoutput *d, uint32_t i);

/* One CopyData message: 'w' carries WAL data, 'k' is a keepalive. */
struct pgoutput_frame {
    char kind;
    bool reply_now;      /* k: the server wants a status update at once */
    uint64_t start, end; /* w: not monotonic, never a position. k: end, what the server has sent */
    int64_t sent_us;
    const void *data; /* w: the payload */
    size_t len;
};

/* Take a frame apart. MUSTER_EINVAL when it is neither 'w' nor 'k' or too short. */
int pgoutput_frame(const void *data, size_t len, struct pgoutput_frame *ret_frame);

struct pgoutput_status {
    uint64_t received, flushed, applied; /* positions up to which all is received, safe, visible */
    int64_t now_us;
    bool reply_now;
};

/* Write the 'r' message that confirms positions. */
void pgoutput_status(const struct pgoutput_status *status, uint8_t out[PGOUTPUT_STATUS_SIZE]);

#endif
