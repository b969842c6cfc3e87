/*
 * doctor: whether PostgreSQL has room for what the brokers open.
 *
 * Each opens its whole pool when it starts and keeps it: what does not fit is found where a second broker
 * starts, or one comes back. A pool that is refused some works with the rest, so that nobody sees it.
 */
#include <stdlib.h>

#include "cli/doctor.h"

/* One follows the registry, one sweeps. */
enum { BROKERS_OWN = 2 };

/* The least of what is allowed: of the server, of the database and of the role. */
static const char sql[] =
    "SELECT least(s.room, nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)),"
    " CASE least(s.room, nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1))"
    "  WHEN s.room THEN 'max_connections' WHEN nullif(r.rolconnlimit, -1) THEN 'the CONNECTION LIMIT of ' || quote_ident(r.rolname)"
    "  ELSE 'the CONNECTION LIMIT of database ' || quote_ident(d.datname) END,"
    " (SELECT count(*) FROM (SELECT FROM pg_stat_activity AS a WHERE a.usename = current_user AND a.backend_type = 'client backend'"
    "   AND starts_with(a.application_name, 'muster ') GROUP BY a.application_name HAVING count(*) > 1) AS broker),"
    " (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datid IS NOT NULL AND a.usename <> current_user),"
    " s.room = least(s.room, nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1))"
    " FROM (SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    "        - coalesce(current_setting('reserved_connections', true), '0')::int AS room) AS s,"
    " pg_database AS d, pg_roles AS r WHERE d.datname = current_database() AND r.rolname = current_user";

static long number_in(const struct sql_rows *rows, int column)
{
    return strtol(sql_rows_get(rows, 0, column), NULL, 10);
}

void doctor_connections(struct doctor *d, struct sql_admin *admin)
{
    static const char what[] = "postgres connections";
    long each = d->n_connections + BROKERS_OWN, room, brokers, others;
    struct sql_rows *rows = doctor_query(d, admin, sql, 0, NULL);
    const char *limit;

    if (!rows)
        return;
    room = number_in(rows, 0);
    limit = sql_rows_get(rows, 0, 1);
    brokers = number_in(rows, 2) ? number_in(rows, 2) : 1;
    others = doctor_is_true(rows, 0, 4) ? number_in(rows, 3) : 0;
    if (brokers * each > room)
        doctor_say(d, DOCTOR_BROKEN, what, "connections_few",
                   "%ld broker%s with this configuration open%s %ld each, and %s leaves %ld: raise it, or lower postgres.pool", brokers,
                   brokers == 1 ? "" : "s", brokers == 1 ? "s" : "", each, limit, room);
    else if (brokers * each + others > room)
        doctor_say(d, DOCTOR_HINT, what, "connections_few",
                   "%ld of %ld that %s leaves are the brokers', and others have %ld: a broker that starts finds too few; raise it",
                   brokers * each, room, limit, others);
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "room for %ld broker%s with this configuration, of %ld each", (room - others) / each,
                   (room - others) / each == 1 ? "" : "s", each);
    sql_rows_free(rows);
}
