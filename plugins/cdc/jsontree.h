/*
 * cdc/jsontree.h - the text of a json or jsonb value: checked for JSON, transcoded for MessagePack.
 *
 * Both are strict (RFC 8259, no lone surrogates): what they refuse is sent as a string, never as a
 * broken body. No state; any thread.
 */
#ifndef MUSTER_CDC_JSONTREE_H
#define MUSTER_CDC_JSONTREE_H

#include "cdc/out.h"

/* Levels of nesting. Readers of MessagePack stop at 32: body, row and six array dimensions leave 24
 * for the tree of a column; an event's body may have them all. */
enum { JSONTREE_DEPTH_JSON = 512, JSONTREE_DEPTH_COLUMN = 24, JSONTREE_DEPTH_BODY = 32 };

/* A part of the text that was given. */
struct jsontree_span {
    const char *s;
    size_t len;
};

/* True when text, which must be UTF-8, is one JSON value that may be copied into a JSON body. */
bool jsontree_check(const char *text, size_t len);
/* Write text, which must be UTF-8, as MessagePack of at most depth levels. False when it is not JSON
 * or too deep; the caller rewinds then. A number without fraction and exponent that fits 64 bits is an integer;
 * another one is a double when it has at most 15 significant digits, which a double gives back as
 * they were; all others are strings of their digits. */
bool jsontree_pack(struct out *o, const char *text, size_t len, unsigned depth);
/* Call fn for each member of a map: the key as it stands between its quotes, the value from its first
 * byte to its last. False when text, which must be UTF-8, is not one map and nothing else; members
 * before the fault have been told then. */
bool jsontree_each(const char *text, size_t len, void (*fn)(void *arg, struct jsontree_span key, struct jsontree_span value), void *arg);
/* Append what a string says; text has its quotes. False when it is not a string. */
bool jsontree_string(const char *text, size_t len, struct buf *to);
/* True when text is a JSON number. */
bool jsontree_is_number(const char *text, size_t len);
/* Read a decimal integer of at most 64 bits. False when text is not one; "-0" is none, because its
 * sign would be lost. */
bool jsontree_integer(const char *text, size_t len, bool *ret_negative, uint64_t *ret_magnitude);
/* Read a JSON number as a double; false when it is too large or longer than any that PostgreSQL
 * writes for a float. */
bool jsontree_double(const char *text, size_t len, double *ret_value);

#endif
