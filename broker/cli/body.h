/*
 * cli/body.h - reading of decoded bodies in which anything may be missing: wire/value.h, and NULL
 * is like null.
 */
#ifndef MUSTER_CLI_BODY_H
#define MUSTER_CLI_BODY_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/value.h"

static inline bool body_is(const struct muster_value *v, int type)
{
    return v && value_type(v) == type;
}

/* NULL: not there, or no map. */
static inline const struct muster_value *body_get(const struct muster_value *map, const char *key)
{
    return body_is(map, MUSTER_MAP) ? value_get(map, key) : NULL;
}

static inline size_t body_count(const struct muster_value *v)
{
    return v ? value_count(v) : 0;
}

/* The text under key; NULL: not there, or no text. */
static inline const char *body_text(const struct muster_value *map, const char *key)
{
    const struct muster_value *v = body_get(map, key);

    return body_is(v, MUSTER_STR) ? value_str(v, NULL) : NULL;
}

static inline bool body_true(const struct muster_value *map, const char *key)
{
    const struct muster_value *v = body_get(map, key);

    return body_is(v, MUSTER_BOOL) && value_int(v) != 0;
}

#endif
