/*
 * wire/digest.h - one digest for one body, whichever encoding it came in.
 *
 * Form     SHA-256 of the canonical JSON text of the decoded tree: no blanks; the keys of each map
 *          in the byte order of their UTF-8; strings escaped as buf_put_json() does (", \ and
 *          control characters only); a binary as {"base64": "..."}. Numbers by value: 1, 1.0 and
 *          1e0 are alike, because clients cannot choose (JavaScript has one number type); a whole
 *          number from -2^63 up to 2^64 is written as an integer, -0 as 0, any other number as its
 *          shortest double digits.
 * Use      The same request_id with the same digest gets the first answer (INTERFACE 3). The form
 *          is stored for 24 hours and is compared between brokers of different versions: a change
 *          of it is a change of the contract.
 */
#ifndef MUSTER_WIRE_DIGEST_H
#define MUSTER_WIRE_DIGEST_H

#include "base/buf.h"
#include "wire/value.h"

enum { DIGEST_SIZE = 32 };

/* 0 or MUSTER_ENOMEM. */
int digest_of(const struct muster_value *v, uint8_t out[DIGEST_SIZE]);
/* Append the canonical text. */
void digest_text(const struct muster_value *v, struct buf *out);

#endif
