/*
 * cdc/types.h - what the types of columns are: the built-in ones from a table, others from 'Y'
 * messages and pg_type.
 *
 * Shape    types_said() takes what pgoutput says of a type before the relation that uses it: schema
 *          and name, of a domain those of its base type. That settles a domain over a built-in type.
 *          Of an array of a user's type it tells the name only; types_missing() names what a look
 *          into pg_type would settle, types_learn() takes the answer.
 * Unknown  With nothing learnt a type is text, and one whose name begins with an underscore is an
 *          array of texts where its value reads as an array literal.
 * Memory   Owned by struct types, zero-initialised; at most TYPES_MAX entries.
 * Threads  None: one owner.
 */
#ifndef MUSTER_CDC_TYPES_H
#define MUSTER_CDC_TYPES_H

#include "base/buf.h"
#include "base/map.h"
#include "cdc/value.h"

enum { TYPES_MAX = 65536 };

struct types {
    struct map by_oid; /* of the struct known of types.c, owned */
};

/* One row of pg_type. Borrowed. */
struct types_row {
    uint32_t oid;
    uint32_t elem; /* typelem, where typcategory is 'A'; else 0 */
    uint32_t base; /* typbasetype: not 0 for a domain */
    char delim;    /* typdelim */
    const char *schema, *name;
};

void types_done(struct types *t);
/* Take a 'Y' message; what was learnt from pg_type stays. MUSTER_ENOMEM, MUSTER_EAGAIN at
 * TYPES_MAX. */
int types_said(struct types *t, uint32_t oid, const char *schema, const char *name);
/* Take a row of pg_type. MUSTER_ENOMEM, MUSTER_EAGAIN at TYPES_MAX. */
int types_learn(struct types *t, const struct types_row *row);
/* The type that must be looked up in pg_type before oid is settled (itself, its element or its
 * base); 0: it is settled. */
uint32_t types_missing(const struct types *t, uint32_t oid);
/* How to read a value of type oid. */
struct value_type types_value(const struct types *t, uint32_t oid);
/* Append the name for `columns`: int4, text, public.mood, of an array int4[], of a domain its base
 * type's. */
void types_put_name(const struct types *t, uint32_t oid, struct buf *b);

#endif
