/*
 * The trip of a decoded body through an encoding and back; shared by the JSON and the MessagePack
 * fuzzer.
 */
#ifndef MUSTER_TESTS_WIRE_AGAIN_H
#define MUSTER_TESTS_WIRE_AGAIN_H

#include "../unit/wire_same.h"
#include "base/assert.h"
#include "wire/digest.h"

/* The digest must be the same, and the tree too where same is true. Escapes and binaries can grow
 * beyond the largest body. */
static inline void check_again(const struct muster_value *doc, uint32_t encoding, bool same)
{
    uint8_t first[DIGEST_SIZE], second[DIGEST_SIZE];
    struct buf out = encoded(doc, encoding);
    struct muster_value *again;
    struct wire_error err;

    ASSERT(!buf_failed(&out));
    if (out.len <= WIRE_MAX_BODY) {
        ASSERT(value_decode_any(encoding, bytes_of(&out), &again, &err) == 0);
        ASSERT(!same || same_tree(doc, again));
        ASSERT(digest_of(doc, first) == 0 && digest_of(again, second) == 0);
        ASSERT(memcmp(first, second, sizeof first) == 0);
        value_free(again);
    }
    buf_done(&out);
}

#endif
