/*
 * fanout/filter.h - the filter of a watch: "col=op.value[,…]", comma is AND.
 *
 * Operators eq neq lt lte gt gte in.(a,"b,c") like ilike is.null|true|false isdistinct, each with `not.` in front or without.
 * Values and names with a comma, a bracket or an equals sign stand in double quotes, with \" and \\ inside. As in SQL a comparison with
 * NULL is neither true nor false, and neither is its `not.`; isdistinct takes NULL for a value. In like `%` stands for any text, `_` for one
 * character, `\` takes the meaning away; ilike does not tell a-z from A-Z.
 *
 * Errors   What is wrong is told in words that name the column or the place, what came and what was expected.
 * Threads  None: one owner.
 */
#ifndef MUSTER_FANOUT_FILTER_H
#define MUSTER_FANOUT_FILTER_H

#include "fanout/row.h"

enum { FILTER_MAX_BYTES = 4096, FILTER_MAX_CONDS = 32, FILTER_MAX_VALUES = 256, FILTER_MAX_PATTERN = 256, FILTER_WHY_SIZE = 480 };

/* What is known of a column of the table. */
struct filter_column {
    const char *name;
    const char *type; /* pg_type.typname, of a domain its base type's */
    uint32_t class;
    bool in_identity; /* the log has its old value */
};

enum { FILTER_EQ, FILTER_NEQ, FILTER_LT, FILTER_LTE, FILTER_GT, FILTER_GTE, FILTER_IN, FILTER_LIKE, FILTER_ILIKE, FILTER_IS, FILTER_ISDISTINCT };

struct filter_cond {
    struct span column;
    uint32_t class, op;
    bool negated;
    bool strict; /* of an owner: what cannot be told is a no */
    struct datum *values;
    size_t n_values;
};

struct filter {
    struct filter_cond *conds;
    size_t n_conds;
    struct buf text; /* what the conditions point to */
};

/* Make one; an empty text gives one that everything passes. owner, where it is not NULL, is a column that must have the value
 * owner_is besides. NULL: ret_why has the reason; "" when there is no memory. */
struct filter *filter_new(struct span text, const struct filter_column *columns, size_t n_columns, const char *owner, struct span owner_is,
                          char ret_why[FILTER_WHY_SIZE]);
void filter_free(struct filter *filter);

enum {
    FILTER_NO,
    FILTER_YES,
    FILTER_MAYBE,    /* the change does not tell the value of a column, as it was too large */
    FILTER_WITHHELD, /* the same of the owner */
};
/* Whether the row as it is (ROW_NEW) or was (ROW_OLD) passes. */
int filter_test(const struct filter *filter, struct row *row, int side);
/* The first of its columns that the replica identity lacks; NULL: none. */
const struct filter_column *filter_unidentified(const struct filter *filter, const struct filter_column *columns, size_t n_columns);

/* Whether the columns that a change lists still have the types that the filter was read for. True where it lists none. */
bool filter_fits(const struct filter *filter, struct row *row);

/* Whether a text is like a pattern of like (ilike: fold). */
bool filter_like(struct span text, struct span pattern, bool fold);

#endif
