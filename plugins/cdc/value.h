/*
 * cdc/value.h - one column's text, as PostgreSQL's output functions write it, becomes one value of a
 * body.
 *
 * Shape    value_put() never fails: text that is not what its kind promises is written as a string.
 * Settings The session that made the text runs with DateStyle ISO, TimeZone UTC, extra_float_digits
 *          3 and bytea_output hex; under others dates and bytea stay the text that came.
 * Kinds    int and float: numbers (NaN and infinities strings; a float is a double in MessagePack);
 *          bool; json: the tree, with its digits as they were; bytea: base64, binary in MessagePack;
 *          timestamps: RFC 3339, `Z` only where there is a zone, always with six digits of fraction;
 *          infinity, dates before Christ and years after 9999: the text; numeric and all others: the
 *          text. Bytes that are not UTF-8 are {"base64": ...}.
 * Threads  None: the writer's owner.
 */
#ifndef MUSTER_CDC_VALUE_H
#define MUSTER_CDC_VALUE_H

#include "cdc/out.h"

enum {
    VALUE_TEXT,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_BOOL,
    VALUE_JSON,
    VALUE_BYTEA,
    VALUE_TIMESTAMP,
    VALUE_TIMESTAMPTZ,
};

/* What a column's text is; of an array, what its elements are. */
struct value_type {
    uint8_t kind;
    bool array;
    char delim; /* between elements: ';' for box, ',' for the rest of the built-in types */
};

void value_put(struct out *o, struct value_type type, const char *text, size_t len);

#endif
