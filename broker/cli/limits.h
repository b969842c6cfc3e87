/*
 * cli/limits.h - the limits of a tenant as `muster tenant limits` takes them: KEY=VALUE.
 *
 * A value is a whole number, for bytes also with KiB, MiB or GiB; an empty value or `none` takes
 * the limit away, so that the broker's configuration holds again. They are kept in
 * muster.tenants.limits as JSON numbers. The keys are those of tenant/limits.h, and the counts that
 * services declare.
 */
#ifndef MUSTER_CLI_LIMITS_H
#define MUSTER_CLI_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenant/limits.h"

struct limit {
    char name[LIMIT_NAME_SIZE];
    bool is_object; /* a count that a service declares, <service>.<name> */
    bool none; /* take it away; value is 0 then */
    int64_t value;
};

/* Parse KEY=VALUE. False: why (NUL-terminated) says the field, what came and what was expected. */
bool limit_parse(const char *text, struct limit *ret_limit, char *why, size_t why_size);

#endif
