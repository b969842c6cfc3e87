/*
 * fanout/row.h - one change, as cdc published it, taken apart as far as watches need it.
 *
 * Shape    row_read() finds the members of the body; the columns of `new` and `old` are listed then, their values are decoded when
 *          they are asked for, once.
 * Memory   Borrowed from the body, and from the struct, which is used for one change after another and keeps its memory.
 * Threads  None: one owner.
 */
#ifndef MUSTER_FANOUT_ROW_H
#define MUSTER_FANOUT_ROW_H

#include "fanout/datum.h"

enum { ROW_INSERT = 1, ROW_UPDATE = 2, ROW_DELETE = 4, ROW_TRUNCATE = 8, ROW_ANY = 15 };
enum { ROW_NEW, ROW_OLD, ROW_SIDES };

struct row_field {
    struct span name, value;
    struct datum datum; /* of datum.class, where read_as says that it is one */
    uint32_t read_as;   /* ROW_UNREAD, ROW_ILL (it is no value of that class), ROW_READ */
};

enum { ROW_UNREAD, ROW_ILL, ROW_READ };

struct row_side {
    struct row_field *fields;
    size_t n, cap;
    bool there; /* it is a map, not null */
};

struct row {
    struct span body, members[12]; /* by ROW_M_*; len 0: not there */
    uint32_t encoding, op;
    bool partly; /* columns were omitted, or left unchanged and unsent: one that is not told may have any value */
    struct row_side sides[ROW_SIDES];
    struct buf text;
};
enum {
    ROW_M_SCHEMA, ROW_M_TABLE, ROW_M_OP, ROW_M_LSN, ROW_M_TIME, ROW_M_XID, ROW_M_KEY, ROW_M_NEW, ROW_M_OLD, ROW_M_UNCHANGED, ROW_M_OMITTED,
    ROW_M_COLUMNS,
};

void row_done(struct row *row);
/* False: the body is no change of cdc's. */
bool row_read(struct row *row, struct span body);
/* The bit of an op's name; 0: it is none. */
uint32_t row_op(struct span name);
/* The value of a column that has values of that class. False: the change does not tell it. Where the old row was not sent, though there was one, it is as the new one: the columns of the replica identity
 * have not changed then. */
bool row_datum(struct row *row, int side, struct span column, uint32_t class, struct datum *ret);
/* The value as it stands in the body; len 0: it does not. */
struct span row_value(struct row *row, int side, struct span column);
/* Whether there was a row (ROW_OLD), or is one (ROW_NEW). */
bool row_has(const struct row *row, int side);

#endif
