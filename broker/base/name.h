/*
 * base/name.h - the names of INTERFACE 1: tenants, agents, services and key tokens.
 */
#ifndef MUSTER_BASE_NAME_H
#define MUSTER_BASE_NAME_H

#include <stdbool.h>
#include <stddef.h>

enum { NAME_MAX_LEN = 64 };

/* True for [A-Za-z0-9_-]{1,64}; names that begin with '_' are legal here and reserved for the broker. */
bool name_is_legal(const char *s, size_t len);
/* As name_is_legal(), and not reserved: what a user may choose. */
bool name_is_public(const char *s, size_t len);

enum { NAME_KEY_MAX = 200 };
/* True for a key of muster.kv/1: [A-Za-z0-9_./=~-]{1,200}, no dot at either end and no two together. NULL is none. */
bool name_is_key(const char *s);
/* True for what such a key may begin with, "" too. */
bool name_is_key_prefix(const char *s);

#define NAME_TOKEN_SIZE (NAME_MAX_LEN + 1)
/* Write the key token of id: the id itself where it is a legal name, otherwise '~' and the unpadded lower-case
 * base32 of the first 80 bits of its SHA-256. Returns its length. Any bytes are allowed. */
size_t name_token(const void *id, size_t len, char out[NAME_TOKEN_SIZE]);
/* The second form in any case: where a legal name is too long for its place. */
size_t name_hash_token(const void *id, size_t len, char out[NAME_TOKEN_SIZE]);

#endif
