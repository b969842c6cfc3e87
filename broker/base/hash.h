/*
 * base/hash.h - XXH3 of bytes: for tables and for spreading tenants over lanes. Not for secrets.
 */
#ifndef MUSTER_BASE_HASH_H
#define MUSTER_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *data, size_t len);

#endif
