/*
 * cdc/out.h - writes the parts of a body as JSON or MessagePack into a struct buf.
 *
 * Shape    One writer for both encodings: a map or array is opened, its members are written, and it
 *          is closed with their number, so that a caller need not count first. JSON takes its commas
 *          from one flag; MessagePack gets the smallest header at the close.
 * Memory   The target buffer is borrowed and set by out_to(); the two scratch buffers are owned and
 *          kept for the next use.
 * Errors   None here: a failed allocation stays in the target buffer (buf_failed()).
 * Threads  None: one owner.
 */
#ifndef MUSTER_CDC_OUT_H
#define MUSTER_CDC_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "muster/plugin.h"

struct out {
    struct buf *b;
    uint32_t encoding;  /* MUSTER_JSON or MUSTER_MSGPACK */
    bool comma;         /* JSON: a member stands before in the open map or array */
    struct buf element; /* scratch: an array element without its backslashes */
    struct buf string;  /* scratch: a JSON string without its escapes */
};

enum { OUT_MAP, OUT_ARRAY };

/* Where the writer stood; out_rewind() takes back all that was written since. */
struct out_mark {
    size_t len;
    bool comma;
};

void out_done(struct out *o);

/* Write to b from its present end on, as a first value. */
static inline void out_to(struct out *o, struct buf *b)
{
    o->b = b;
    o->comma = false;
}

static inline struct out_mark out_mark(const struct out *o)
{
    return (struct out_mark){.len = o->b->len, .comma = o->comma};
}

void out_rewind(struct out *o, struct out_mark mark);

/* Open a map or an array; the result is for out_close(), which takes the number of its members. */
size_t out_open(struct out *o, int shape);
void out_close(struct out *o, int shape, size_t at, size_t n);

/* Copy one key that stands ready in the writer's encoding, in JSON as `,"name":` (the comma is
 * dropped where none is due). */
static inline void out_key_ready(struct out *o, const char *key, size_t len)
{
    size_t skip = o->encoding == MUSTER_JSON && !o->comma;

    buf_put(o->b, key + skip, len - skip);
    o->comma = false;
}

/* Write a key; it must be UTF-8. */
void out_key(struct out *o, const char *name, size_t len);
#define OUT_KEY(o, lit) out_key((o), "" lit, sizeof(lit) - 1)

void out_null(struct out *o);
void out_bool(struct out *o, bool v);
void out_i64(struct out *o, int64_t v);
void out_u64(struct out *o, uint64_t v);
/* MessagePack only: JSON numbers go through out_verbatim(), so that no digit is lost. */
void out_f64(struct out *o, double v);
/* JSON only: copy text that is one JSON value already. */
void out_verbatim(struct out *o, const char *text, size_t len);
/* A string that is known to be UTF-8. */
void out_str(struct out *o, const char *s, size_t len);
/* A string that is known to be ASCII without anything to escape. */
void out_plain(struct out *o, const char *s, size_t len);
/* A string of any bytes: {"base64": …} when they are not UTF-8. */
void out_text(struct out *o, const char *s, size_t len);
/* A name of the database: bytes that are not UTF-8 become U+FFFD, because a name has to stay a map
 * key. */
void out_name(struct out *o, const char *s, size_t len);
/* Bytes given as pairs of hex digits: base64 in JSON, binary in MessagePack. False, and nothing
 * written, when they are not. */
bool out_hex(struct out *o, const char *hex, size_t len);

/* True when s is UTF-8 in the strict sense: no overlong form, no surrogate. */
bool out_is_utf8(const char *s, size_t len);

#endif
