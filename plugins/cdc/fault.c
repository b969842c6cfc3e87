/* What the replication link's errors mean, and what mends them. */
#include <string.h>

#include "cdc/cdc.h"

static const struct {
    const char *sqlstate; /* a prefix; "" matches all */
    const char *words;    /* in the message; "" matches all */
    struct fault fault;
} faults[] = {
    {"42704", "publication", {"publication_missing", MUSTER_HEALTH_DOWN,
      "the slot needs it as it was at that position: drop the slot and run `muster migrate`; what was not read is lost and is told"}},
    {"42704", "replication slot", {"slot_missing", MUSTER_HEALTH_DOWN, "it is made anew"}},
    {"55000", "can no longer", {"slot_lost", MUSTER_HEALTH_DOWN, "the server has given up its log; the slot is made anew"}},
    {"55000", "wal_level", {"wal_level", MUSTER_HEALTH_DOWN, "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"}},
    {"53400", "", {"slots_exhausted", MUSTER_HEALTH_DOWN, "raise max_replication_slots"}},
    {"53300", "", {"connections_exhausted", MUSTER_HEALTH_DOWN, "raise max_wal_senders or max_connections"}},
    {"42501", "", {"no_replication_privilege", MUSTER_HEALTH_DOWN, "ALTER ROLE … REPLICATION, and run `muster migrate`"}},
    {"28", "", {"authentication", MUSTER_HEALTH_DOWN, "check postgres.dsn and pg_hba.conf (a replication link needs a line for the database)"}},
    {"3D000", "", {"database_missing", MUSTER_HEALTH_DOWN, "check postgres.dsn"}},
    {"57P", "", {"postgres_away", MUSTER_HEALTH_DOWN, ""}},
    {"", "is active for PID", {"slot_active", MUSTER_HEALTH_STANDBY, ""}},
    {"", "permission denied to start WAL sender", {"no_replication_privilege", MUSTER_HEALTH_DOWN, "ALTER ROLE … REPLICATION"}},
    {"", "must be superuser or replication role", {"no_replication_privilege", MUSTER_HEALTH_DOWN, "ALTER ROLE … REPLICATION"}},
    {"", "password authentication failed", {"authentication", MUSTER_HEALTH_DOWN, "check postgres.dsn"}},
    {"", "no pg_hba.conf entry", {"authentication", MUSTER_HEALTH_DOWN, "a replication link needs a line for the database"}},
    {"", "role \"", {"authentication", MUSTER_HEALTH_DOWN, "check the user in postgres.dsn, and run `muster migrate`"}},
    {"", "does not exist", {"database_missing", MUSTER_HEALTH_DOWN, "check postgres.dsn"}},
};

struct fault fault_of(const char *sqlstate, const char *message)
{
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (strncmp(sqlstate, faults[i].sqlstate, strlen(faults[i].sqlstate)) == 0 && (*faults[i].sqlstate || !*sqlstate) &&
            strstr(message, faults[i].words))
            return faults[i].fault;
    if (*sqlstate && strncmp(sqlstate, "08", 2) != 0)
        return (struct fault){"postgres_error", MUSTER_HEALTH_DOWN, ""};
    return (struct fault){"postgres_away", MUSTER_HEALTH_DOWN, ""};
}
