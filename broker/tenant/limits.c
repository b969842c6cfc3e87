/* The table of limits; see limits.h. */
#include "tenant/limits.h"

#include <string.h>

#include "base/name.h"

enum { LIMIT_INT, LIMIT_BYTES };
#define ROW(id, name, min, max, kind, least, def, help) {#name, min, max, LIMIT_##kind == LIMIT_BYTES, help},
const struct limit_key limit_keys[TENANT_N_LIMITS] = {TENANT_LIMITS(ROW)};
#undef ROW

int limit_find(const char *name, size_t len)
{
    for (int i = 0; i < TENANT_N_LIMITS; i++)
        if (strlen(limit_keys[i].name) == len && memcmp(limit_keys[i].name, name, len) == 0)
            return i;
    return -1;
}

bool limit_is_object(const char *name, size_t len)
{
    const char *dot = memchr(name, '.', len);

    return dot && name_is_public(name, (size_t)(dot - name)) && name_is_public(dot + 1, len - (size_t)(dot - name) - 1);
}
