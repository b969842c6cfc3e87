/* The health of a plugin, by its database; see outlook.h. */
#include "common/work/outlook.h"

#include <stdio.h>
#include <string.h>

enum { NOTHING, WORKS, AWAY, OLD };

void outlook_note(struct outlook *o, const struct muster_sql_result *result)
{
    o->code = result->code;
    o->answered |= !result->code;
    (void)snprintf(o->state, sizeof o->state, "%s", result->sqlstate ? result->sqlstate : "");
}

static int look(const struct outlook *o)
{
    if (strcmp(o->state, "42883") == 0) /* no such function */
        return OLD;
    return o->code == MUSTER_ELINK ? AWAY : o->answered ? WORKS : NOTHING;
}

void outlook_tell(struct outlook *o, const struct muster_host *host, const char *what, const char *change)
{
    int found = look(o);

    if (found == o->told || found == NOTHING)
        return;
    o->told = found;
    if (found == OLD)
        host->health(host, MUSTER_HEALTH_DOWN, "schema_old", "the database has no %s as this version makes them: muster migrate", what);
    else if (found == AWAY)
        host->health(host, MUSTER_HEALTH_DEGRADED, "postgres_away", "PostgreSQL is away: %s", change);
    else
        host->health(host, MUSTER_HEALTH_OK, "ok", "at work");
}
