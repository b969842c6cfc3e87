/*
 * fanout/datum.h - values of columns that can be compared: those of a filter and those of a change.
 *
 * A type of PostgreSQL belongs to a class, which says what its text means and how two values stand to each other: numbers by size and
 * without rounding, NaN above all and equal to itself, times as points in time, text by its bytes (as collation "C").
 *
 * Memory   A datum borrows its text. Threads: none.
 */
#ifndef MUSTER_FANOUT_DATUM_H
#define MUSTER_FANOUT_DATUM_H

#include "fanout/scan.h"

enum {
    CLASS_INT,
    CLASS_FLOAT,
    CLASS_NUMERIC,
    CLASS_BOOL,
    CLASS_TEXT,
    CLASS_PADDED, /* char(n): blanks at the end mean nothing */
    CLASS_UUID,
    CLASS_TIMESTAMP,
    CLASS_TIMESTAMPTZ,
    CLASS_DATE,
    CLASS_TIME,
    CLASS_LABEL,  /* an enum: no order that we know */
    CLASS_OTHER,  /* shown as text, which can only be the same or not */
    CLASS_OPAQUE, /* json, bytea, arrays: null or not */
};

enum { DATUM_NULL, DATUM_NUMBER, DATUM_DOUBLE, DATUM_TEXT };
enum { DATUM_MAX_EXPONENT = 400 }; /* of a numeric that somebody writes */

struct datum {
    uint32_t kind, class;
    int64_t number;   /* also microseconds of times; INT64_MIN and MAX: the infinities */
    double real;
    struct span text; /* of a numeric: sign, digits, point, digits, nothing in front or behind that is zero */
};

/* The class of a type by its name and pg_type.typtype and typcategory: of a domain its base type's. */
uint32_t datum_class(const char *type, char typtype, char category);
/* What people call the values of a class: "an integer". */
const char *datum_word(uint32_t class);
/* Read what somebody wrote. False when it is no value of the class. text may be used for a canonical form. */
bool datum_parse(uint32_t class, struct span literal, struct buf *text, struct datum *ret);
/* Read what a change shows. False: nothing is known of it. */
bool datum_of_cell(uint32_t class, const struct cell *cell, struct buf *text, struct datum *ret);
/* Less than, equal to or greater than 0. Both of one class, none NULL. */
int datum_compare(const struct datum *a, const struct datum *b);
/* What two values that are equal, and no others of the class, share: for tables. Borrowed from d and from room. */
struct span datum_bytes(const struct datum *d, char room[9]);

bool datum_has_order(uint32_t class);
bool datum_is_text(uint32_t class);

#endif
