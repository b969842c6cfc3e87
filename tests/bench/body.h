/*
 * bench/body.h - the bodies, subjects and headers of the bench table's inserts, made by the cheapest code that makes the same bytes as
 * the cdc plugin.
 *
 * Cheap    It knows the one table: names, types and places of the columns are constants. It trusts all it reads: no bounds, no
 *          UTF-8, no escapes, no size limit, one encoding. Text is copied with memcpy into fixed buffers. So it is a floor for what
 *          a bridge for any table must do. tests/bench/run compares the bytes of both streams.
 */
#ifndef MUSTER_BENCH_BODY_H
#define MUSTER_BENCH_BODY_H

#include <stddef.h>
#include <stdint.h>

#include "common.h"

enum { BODY_TENANTS = 16 }; /* names t0 to t15, and "marker" */

struct body {
    const char *source, *table;
    /* Of the transaction. */
    char txn[160], lsn[24];
    size_t txn_len;
    uint32_t ordinal;
    uint64_t seqs[BODY_TENANTS + 1]; /* Muster-Seq of each channel */
    /* Of the last row. */
    char subject[160], key[64], position[48], seq[24];
    char text[4096];
    size_t len;
};

/* Take a Begin. */
void body_begin(struct body *b, const uint8_t *begin);
/* Take an Insert: fills subject, key, position, seq and text. */
void body_insert(struct body *b, const uint8_t *insert);

#endif
