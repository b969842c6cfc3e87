/* What PostgreSQL's refusals mean; see fault.h. */
#include "sql/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum { SQLSTATE_LEN = 5 };

/* First match. A server speaks the language of its lc_messages, so its words only refine; alone they count where there is no SQLSTATE,
 * as in libpq's own errors. */
static const struct {
    const char *sqlstate; /* a prefix */
    const char *words;    /* in the text; "": any, with the SQLSTATE */
    struct sql_fault fault;
} known[] = {
    {"28", "no pg_hba.conf entry", {"authentication", "add a line for this role and database to pg_hba.conf"}},
    {"28", "no password supplied", {"authentication", "put the password into ~/.pgpass or MUSTER_POSTGRES_DSN"}},
    {"28", "role \"", {"authentication", "check the user in postgres.dsn; `muster migrate` makes the role"}},
    {"28", "password authentication failed", {"authentication", "check postgres.dsn"}},
    {"28", "", {"authentication", "check postgres.dsn and pg_hba.conf"}},
    {"3D000", "does not exist", {"database_missing", "check postgres.dsn"}},
    {"3D000", "", {"database_missing", "check postgres.dsn"}},
    {"53300", "too many clients", {"connections_exhausted", "raise max_connections"}},
    {"53300", "", {"connections_exhausted", "raise max_connections"}},
    {"3F000", "", {"migrations_pending", "run `muster migrate`"}},
    {"42P01", "", {"migrations_pending", "run `muster migrate`"}},
    {"42703", "", {"migrations_pending", "run `muster migrate`"}},
    {"42883", "", {"migrations_pending", "run `muster migrate`"}},
    {"42501", "", {"migrations_pending", "run `muster migrate`, which makes the grants"}},
    {"55000", "not currently accepting", {"postgres_away", "ALTER DATABASE … ALLOW_CONNECTIONS true"}},
    {"08", "", {"postgres_away", "start PostgreSQL, or correct postgres.dsn"}},
    {"57P", "", {"postgres_away", "wait for PostgreSQL, or start it"}},
};

/* "FATAL:  28P01: …", in which the first word is translated. Returns "" when there is none. */
static const char *state_in(const char *text)
{
    for (const char *at = strstr(text, ":  "); at; at = strstr(at + 1, ":  "))
        if (strspn(at + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == SQLSTATE_LEN && at[3 + SQLSTATE_LEN] == ':')
            return at + 3;
    return "";
}

struct sql_fault sql_fault_of(const char *sqlstate, const char *text)
{
    const char *state = *sqlstate ? sqlstate : state_in(text);

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bool fits = *state ? strncmp(state, known[i].sqlstate, strlen(known[i].sqlstate)) == 0 : *known[i].words;

        if (fits && strstr(text, known[i].words))
            return known[i].fault;
    }
    if (*state)
        return (struct sql_fault){"postgres_error", "PostgreSQL's log may say more"};
    return (struct sql_fault){"postgres_away", "start PostgreSQL, or correct postgres.dsn"};
}
