/*
 * wire/writer.h - write a body in JSON or MessagePack, value by value, into a struct buf.
 *
 * Shape    One value after another; maps as key, value, key, value ... The count is told when a
 *          list or map begins, and the writer closes it by itself after the last element.
 * Checks   Counts, keys that are strings, UTF-8, and the limits of value.h, so that what was
 *          written can be read. The first breach makes every later call a no-op; writer_finish()
 *          tells it. A key twice is not seen here.
 * Forms    A binary is bin in MessagePack and {"base64": "..."} in JSON. NaN and infinities are the
 *          strings NaN, Infinity and -Infinity in both. A fraction always has a point or an
 *          exponent in JSON, and its shortest digits.
 * Memory   The buffer is the caller's. writer_new() makes one that owns its buffer, for the ABI.
 * Threads  None: one owner.
 */
#ifndef MUSTER_WIRE_WRITER_H
#define MUSTER_WIRE_WRITER_H

#include <stdbool.h>

#include "base/buf.h"
#include "wire/value.h"

struct writer_level {
    size_t left; /* values still to come; a map counts key and value */
    bool map;
    bool begun; /* a separator is due */
};

struct muster_writer {
    struct buf *out;
    uint32_t encoding;
    uint32_t depth;
    const char *breach; /* NULL: none yet */
    bool done;          /* the top value is complete */
    struct buf own;
    struct writer_level levels[WIRE_MAX_DEPTH];
};

/* Begin a body at the end of out. encoding: MUSTER_JSON or MUSTER_MSGPACK. */
void writer_init(struct muster_writer *w, uint32_t encoding, struct buf *out);
/* On the heap, with a buffer of its own. NULL: no memory. */
struct muster_writer *writer_new(uint32_t encoding);
void writer_free(struct muster_writer *w);

void writer_map(struct muster_writer *w, size_t n_keys);
void writer_array(struct muster_writer *w, size_t n);
void writer_str(struct muster_writer *w, const char *s, size_t len);
void writer_text(struct muster_writer *w, const char *s); /* a C string */
void writer_bin(struct muster_writer *w, const void *data, size_t len);
void writer_int(struct muster_writer *w, int64_t v);
void writer_float(struct muster_writer *w, double v);
void writer_bool(struct muster_writer *w, bool v);
void writer_null(struct muster_writer *w);
/* A whole tree, from either encoding; the digits of JSON numbers are kept in JSON. */
void writer_value(struct muster_writer *w, const struct muster_value *v);

/* 0 when exactly one value was written completely; MUSTER_EINVAL with *ret_why (may be NULL)
 * otherwise, or MUSTER_ENOMEM. */
int writer_finish(const struct muster_writer *w, const char **ret_why);

/* Append the shortest JSON digits that give v again; with a point or an exponent. v is finite. */
void writer_digits(struct buf *out, double v);

#endif
