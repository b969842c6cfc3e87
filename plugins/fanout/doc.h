/*
 * fanout/doc.h - reads of a decoded body where what is read may be missing: NULL has no members, is no text and counts 0.
 */
#ifndef MUSTER_FANOUT_DOC_H
#define MUSTER_FANOUT_DOC_H

#include "wire/value.h"

static inline const struct muster_value *doc_get(const struct muster_value *map, const char *key)
{
    return map ? value_get(map, key) : NULL;
}

static inline const char *doc_text(const struct muster_value *v, size_t *ret_len)
{
    return v ? value_str(v, ret_len) : NULL;
}

static inline int64_t doc_int(const struct muster_value *v)
{
    return v ? value_int(v) : 0;
}

static inline size_t doc_count(const struct muster_value *v)
{
    return v ? value_count(v) : 0;
}

#endif
