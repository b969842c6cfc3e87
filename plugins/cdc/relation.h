/*
 * cdc/relation.h - the tables that pgoutput has described, with all that a body copies per table and
 * column ready made.
 *
 * Shape    A cache keyed by relid. Each 'R' message replaces its entry in place, so that a struct
 *          relation * stays good until relations_done(). `version` starts at 1 and rises when the
 *          names or types of the columns change.
 * Keys     The columns of key{} are the replica identity's under DEFAULT and USING INDEX. Under FULL
 *          and NOTHING the protocol does not tell the primary key: key{} is empty until
 *          relation_set_key() names it (under FULL the whole row is the identity, and it stands in
 *          `old` anyway).
 * Memory   At most RELATIONS_MAX tables. `user` is the caller's and survives an 'R'; user_free
 *          releases it.
 * Threads  None: one owner.
 */
#ifndef MUSTER_CDC_RELATION_H
#define MUSTER_CDC_RELATION_H

#include "cdc/pgoutput.h"
#include "cdc/types.h"

enum { RELATIONS_MAX = 65536 };

/* A part of relation.text or relation.names. */
struct relation_span {
    uint32_t at, len;
};

/* The two encodings of a ready made part. */
enum { RELATION_JSON, RELATION_MSGPACK, RELATION_ENCODINGS };

struct relation_column {
    uint32_t type;
    int32_t typmod;
    bool identity; /* part of the replica identity, so that a 'K' tuple has it */
    bool key;      /* part of key{} */
    struct value_type value;
    struct relation_span name;                         /* in names */
    struct relation_span name_key[RELATION_ENCODINGS]; /* `,"name":` */
};

struct relation {
    uint32_t id;
    uint32_t version;   /* of what `columns` tells */
    uint32_t described; /* how often pgoutput has described it: identity and primary key may be others each time */
    char identity; /* d: primary key, i: an index, f: full, n: nothing */
    uint32_t n_columns, n_key;
    struct relation_column *columns;
    struct buf names;                              /* as they came, each with its NUL */
    struct buf text;                               /* the ready made parts */
    struct relation_span schema, table;            /* in names */
    struct relation_span head[RELATION_ENCODINGS]; /* `"schema":"public","table":"orders","op":` */
    struct relation_span list[RELATION_ENCODINGS]; /* of `columns`: `[{"name":"id",…},…]` */
    void *user;
};

struct relations {
    struct map by_id;
    struct relation *last; /* rows come in runs of one table */
    void (*user_free)(void *user);
};

void relations_done(struct relations *r);
/* Take an 'R' message. A key set by relation_set_key() stays while columns and identity are the
 * same; whoever lets primary keys change names it again. MUSTER_ENOMEM, MUSTER_EAGAIN at
 * RELATIONS_MAX; the cache is unchanged then. */
int relations_put(struct relations *r, const struct types *t, const struct pgoutput *msg,
                  struct relation **ret_relation);
/* NULL: pgoutput has not described it. */
struct relation *relations_get(struct relations *r, uint32_t id);
/* Read the types anew, after types_learn(). MUSTER_ENOMEM; the relation is unchanged then. */
int relation_resolve(struct relation *rel, const struct types *t);
/* Write the OIDs that types_learn() should be told, each once, at most max; their number. */
size_t relation_missing_types(const struct relation *rel, const struct types *t, uint32_t *oids,
                              size_t max);
/* Name the columns of key{} under FULL or NOTHING. MUSTER_EINVAL under another identity or for an
 * unknown column. */
int relation_set_key(struct relation *rel, const char *const *names, size_t n);
/* Index of a column, -1 when there is none. */
int relation_find_column(const struct relation *rel, const char *name);

static inline const char *relation_name(const struct relation *rel, struct relation_span span)
{
    return rel->names.data + span.at;
}

#endif
