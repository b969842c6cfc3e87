/*
 * fanout/scan.h - looks into a body without decoding the whole of it, in JSON or MessagePack.
 *
 * A change is looked at by each broker that serves watches, and most of its bytes are never needed: values are skipped and told as
 * they stand, so that what is delivered has every digit that was stored. Skipping does not check what it skips.
 *
 * Memory   Nothing is copied but strings with escapes, which go into `text`; the caller has reserved as many bytes there as the body
 *          has, so what points into it stays. Threads: none, one owner.
 */
#ifndef MUSTER_FANOUT_SCAN_H
#define MUSTER_FANOUT_SCAN_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "base/buf.h"

struct span {
    const char *s;
    size_t len;
};

static inline bool span_is(struct span a, const char *s, size_t len)
{
    return a.len == len && (len == 0 || memcmp(a.s, s, len) == 0);
}
#define SPAN_IS(a, lit) span_is((a), "" lit, sizeof(lit) - 1)

struct scan {
    const char *p, *end;
    size_t left;       /* members of a MessagePack map or array that are still to come */
    uint32_t encoding; /* MUSTER_JSON or MUSTER_MSGPACK */
    bool first;
};

enum {
    CELL_ABSENT, /* the change does not tell it, or it is not well-formed */
    CELL_NULL,
    CELL_BOOL,   /* integer: 0 or 1 */
    CELL_INT,    /* a number that is in `integer` */
    CELL_NUMBER, /* a number as digits, in text */
    CELL_FLOAT,  /* a double of MessagePack, in number */
    CELL_TEXT,
    CELL_TREE,   /* a map, an array, bytes */
};
struct cell {
    uint32_t kind;
    int64_t integer;
    double number;
    struct span text;
};

/* Begin with a body, or with a value of it. False when it is not a map. */
bool scan_map(struct scan *scan, uint32_t encoding, struct span value);
bool scan_array(struct scan *scan, uint32_t encoding, struct span value);
/* The next member; false at the end and where the bytes make no sense. */
bool scan_member(struct scan *scan, struct buf *text, struct span *ret_key, struct span *ret_value);
bool scan_element(struct scan *scan, struct span *ret_value);
/* How many there are, without moving on. */
size_t scan_count(struct scan scan);
/* What a value says. */
struct cell scan_cell(uint32_t encoding, struct span value, struct buf *text);

/* The encoding of a body: the first byte tells (INTERFACE 3). */
uint32_t scan_encoding(struct span body);

#endif
