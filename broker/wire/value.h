/*
 * wire/value.h - the decoded tree of a body, the same from JSON and from MessagePack.
 *
 * Shape    A body is a map (INTERFACE 3). The tree is read-only; maps keep the order of their keys.
 *          A number without fraction and exponent that fits int64 is MUSTER_INT; every other number
 *          is MUSTER_FLOAT, and keeps what it was made of (the digits of JSON, the 64 bits of an
 *          unsigned integer), so that writing it again loses nothing.
 * Limits   1,000,000 bytes, depth 32 (the top map is 1; a binary counts as a level, because in JSON
 *          it is {"base64": ...}), 1,024 keys a map, 4,096 elements an array. All are checked
 *          before memory is taken for what they bound; a tree takes at most its body once and 16
 *          bytes a value.
 * Refused  in both: a key twice, strings that are not UTF-8 or hold U+0000, numbers beyond a
 *          double, bytes after the value. MessagePack: ext, keys that are not str, NaN and
 *          infinities (they are strings on this wire).
 * Errors   0, MUSTER_ENOMEM (err->text says so), or MUSTER_EINVAL with err naming the path, the
 *          byte, what came and what was expected.
 * Memory   One allocation for most bodies. Nodes and strings live until value_free(); the body may
 *          go right after decoding. Strings and keys end in NUL.
 * Threads  Any; a tree may be read by several at once.
 *
 * The JSON reader is ours: cJSON holds numbers as doubles (digits of ids above 2^53 are lost),
 * keeps keys that come twice, takes invalid UTF-8, control characters in strings and numbers such
 * as 01 or 1., and fixes its depth when it is compiled.
 */
#ifndef MUSTER_WIRE_VALUE_H
#define MUSTER_WIRE_VALUE_H

#include <muster/plugin.h>

#include "wire/place.h"

enum {
    WIRE_MAX_BODY = 1000000,
    WIRE_MAX_DEPTH = 32,
    WIRE_MAX_KEYS = 1024,
    WIRE_MAX_ELEMENTS = 4096
};

/* Tell the encoding by the first byte; an empty body is JSON's {}. MUSTER_EINVAL when no map can
 * begin so. */
int value_detect(struct muster_bytes body, uint32_t *ret_encoding, struct wire_error *err);
/* Decode a whole body, whose top must be a map. */
int value_decode(uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc,
                 struct wire_error *err);
/* As value_decode(), with any value at the top: for payloads that are the agents' own. An empty
 * payload is refused. */
int value_decode_any(uint32_t encoding, struct muster_bytes body, struct muster_value **ret_doc,
                     struct wire_error *err);
/* doc as decode gave it (never an inner node); NULL is accepted. */
void value_free(struct muster_value *doc);

int value_type(const struct muster_value *v);         /* MUSTER_NULL ... MUSTER_MAP */
const char *value_kind(const struct muster_value *v); /* for sentences: "a string" */
/* Elements of an array, keys of a map; 0 of others. */
size_t value_count(const struct muster_value *v);
/* NULL past the end and for what is not an array. */
const struct muster_value *value_at(const struct muster_value *array, size_t i);
/* Key and value number i of a map; NULL past the end and for what is not a map. ret_len may be
 * NULL. */
const struct muster_value *value_key(const struct muster_value *map, size_t i, const char **ret_key,
                                     size_t *ret_len);
/* NULL: not there, or not a map. */
const struct muster_value *value_get(const struct muster_value *map, const char *key);
int64_t value_int(const struct muster_value *v);  /* of INT and BOOL; 0 of others */
double value_float(const struct muster_value *v); /* of INT and FLOAT; 0 of others */
/* Bytes of STR and BIN, NULL of others. ret_len may be NULL. */
const char *value_str(const struct muster_value *v, size_t *ret_len);

#endif
