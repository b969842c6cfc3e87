/*
 * common/work/storable.h - whether what came can be kept as jsonb and told again: PostgreSQL takes more than can come back.
 */
#ifndef MUSTER_COMMON_WORK_STORABLE_H
#define MUSTER_COMMON_WORK_STORABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/value.h"

enum {
    STORABLE_LEVELS = 27,      /* of the whole body: in a list, an event or an outcome it is some levels deeper, and 32 is the most */
    STORABLE_FIELD_SIZE = 160,
    STORABLE_WHY_SIZE = 160,
};

/* False: field says where, "payload" or "tasks[3].payload", and why what came and what was expected. A number of few bytes such as 1e-9999 is
 * thousands of digits in PostgreSQL. */
bool storable(const struct muster_value *body, char field[STORABLE_FIELD_SIZE], char why[STORABLE_WHY_SIZE]);

#endif
