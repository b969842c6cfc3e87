/*
 * wire/node.h - the inside of struct muster_value; for the files of wire/ only.
 */
#ifndef MUSTER_WIRE_NODE_H
#define MUSTER_WIRE_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/value.h"

enum {              /* what a MUSTER_FLOAT was made of */
       FORM_F64,    /* f */
       FORM_U64,    /* u: an unsigned integer above INT64_MAX */
       FORM_DIGITS, /* s, n: JSON digits, followed by a byte that no number goes on with */
};

struct muster_value {
    uint8_t type; /* MUSTER_NULL ... */
    uint8_t form; /* of FLOAT */
    uint32_t n;   /* bytes, elements or keys */
    union {
        int64_t i; /* INT, BOOL */
        uint64_t u;
        double f;
        const char *s;                    /* STR, BIN, FORM_DIGITS */
        const struct muster_value *items; /* ARRAY: n; MAP: 2 n, key before value, keys are STR */
    };
};
_Static_assert(sizeof(struct muster_value) == 16,
               "the limits of a decoded body count on 16 bytes a value");

struct block;

/* A document: the root, a copy of the body, and a chain of blocks for the nodes. */
struct doc {
    struct muster_value root; /* first: value_free() gets its address */
    struct block *blocks;     /* beyond the first memory, which follows this struct */
    char *at, *end;           /* free part of the newest memory */
    char *text;               /* the body and a NUL */
};

/* NULL: no memory. Room for n_nodes is taken at once. */
struct doc *doc_new(struct muster_bytes body, size_t n_nodes);
void doc_free(struct doc *doc);
/* Uninitialised nodes, NULL when there is no memory. */
struct muster_value *doc_nodes(struct doc *doc, size_t n);

/* Fill order[map->n] with the pair numbers in the byte order of their keys. */
void node_sort(const struct muster_value *map, uint16_t *order);
/* The second of two equal keys of the map, NULL when all differ. */
const struct muster_value *node_twice(const struct muster_value *map);
/* The value of JSON digits, as strtod() reads them. */
double node_digits(const struct muster_value *v);

/* The two readers. The limit of size and the encoding were checked. */
int json_read(struct muster_bytes body, struct doc **ret_doc, struct wire_error *err);
int msgpack_read(struct muster_bytes body, struct doc **ret_doc, struct wire_error *err);

#endif
