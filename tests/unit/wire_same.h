/*
 * Comparing and transcoding decoded bodies; shared by the tests and the fuzzers of wire/.
 */
#ifndef MUSTER_TESTS_WIRE_SAME_H
#define MUSTER_TESTS_WIRE_SAME_H

#include <string.h>

#include "wire/value.h"
#include "wire/writer.h"

/* True when both trees have the same types, keys in the same order, and values. */
static inline bool same_tree(const struct muster_value *a, const struct muster_value *b)
{
    size_t n = value_count(a), a_len = 0, b_len = 0;
    const char *a_s = value_str(a, &a_len), *b_s = value_str(b, &b_len);

    if (value_type(a) != value_type(b) || n != value_count(b) || a_len != b_len ||
        value_int(a) != value_int(b) || value_float(a) < value_float(b) ||
        value_float(a) > value_float(b))
        return false;
    if (a_s && memcmp(a_s, b_s, a_len) != 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char *a_key = "", *b_key = "";
        size_t a_key_len = 0, b_key_len = 0;
        bool map = value_type(a) == MUSTER_MAP;
        const struct muster_value *x = map ? value_key(a, i, &a_key, &a_key_len) : value_at(a, i);
        const struct muster_value *y = map ? value_key(b, i, &b_key, &b_key_len) : value_at(b, i);

        if (a_key_len != b_key_len || memcmp(a_key, b_key, a_key_len) != 0 || !same_tree(x, y))
            return false;
    }
    return true;
}

/* Write the tree; the buffer is the caller's to release. */
static inline struct buf encoded(const struct muster_value *v, uint32_t encoding)
{
    struct muster_writer w;
    struct buf out = {0};

    writer_init(&w, encoding, &out);
    writer_value(&w, v);
    if (writer_finish(&w, NULL))
        out.failed = true;
    return out;
}

static inline struct muster_bytes bytes_of(const struct buf *b)
{
    return (struct muster_bytes){b->data, b->len};
}

#endif
