/*
 * doctor: publication, slot and stream of each instance of cdc: the three must fit each other.
 *
 * Codes and sentences are those of the plugin where it has them (plugins/cdc/fault.c, source.c).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/doctor.h"

/* Bytes behind the end of the log: a few seconds of a busy server. */
static const int64_t lag_limit = INT64_C(256) << 20;

/* The server has one row of it; a slot that is not there is a row of NULLs. */
static const char slot_sql[] =
    "SELECT l.slot_name IS NOT NULL, l.plugin = 'pgoutput' AND l.database = current_database(), "
    "l.active, l.wal_status,"
    " greatest(pg_current_wal_lsn() - l.confirmed_flush_lsn, 0)::bigint, pg_current_wal_lsn() - "
    "l.restart_lsn,"
    " current_setting('max_slot_wal_keep_size') = '-1',"
    " (SELECT count(*) FROM pg_replication_slots) >= "
    "current_setting('max_replication_slots')::int, l.active_pid"
    " FROM (SELECT) one LEFT JOIN pg_replication_slots l ON l.slot_name = $1";
enum {
    SLOT_THERE,
    SLOT_OURS,
    SLOT_ACTIVE,
    SLOT_WAL,
    SLOT_LAG,
    SLOT_KEPT,
    SLOT_UNLIMITED,
    SLOT_FULL,
    SLOT_PID
};

static int64_t number(const struct sql_rows *rows, int column)
{
    const char *s = sql_rows_get(rows, 0, column);

    return s ? strtoll(s, NULL, 10) : 0;
}

static const char *text(const struct sql_rows *rows, int column)
{
    const char *s = sql_rows_get(rows, 0, column);

    return s ? s : "";
}

static bool has_stream(const struct doctor *d, const struct doctor_cdc *c)
{
    return map_get(&d->streams, c->stream, strlen(c->stream)) != NULL;
}

/* Its tables are looked at elsewhere; that it is there matters for events too, whose one is empty:
 * a slot that meets log from before its publication was made never gets past it. */
static void check_publication(struct doctor *d, struct sql_admin *admin, const char *name)
{
    struct sql_rows *rows =
        doctor_query(d, admin, "SELECT FROM pg_publication WHERE pubname = $1", 1, &name);
    char what[DOCTOR_WHAT_SIZE];

    if (!rows)
        return;
    (void)snprintf(what, sizeof what, "publication %.63s", name);
    if (sql_rows_count(rows) == 0)
        doctor_say(d, DOCTOR_BROKEN, what, "publication_missing",
                   "there is no publication %s in this database: run `muster migrate`, then "
                   "`muster publish TABLE`",
                   name);
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "it is there");
    sql_rows_free(rows);
}

/* Read beside every other. Without its tables brokers do not learn of tenants and settings in the
 * order of commits. */
static void check_registry(struct doctor *d, struct sql_admin *admin)
{
    static const char name[] = "muster_registry";
    struct sql_rows *rows = doctor_query(
        d, admin,
        "SELECT p.oid IS NULL OR (SELECT count(*) FROM pg_publication_tables t WHERE t.pubname = $1"
        " AND schemaname = 'muster' AND tablename IN ('tenants', 'tables')) = 2"
        " FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = $1",
        1, (const char *const[]){name});

    if (!rows)
        return;
    if (doctor_is_true(rows, 0, 0))
        check_publication(d, admin, name);
    else
        doctor_say(d, DOCTOR_BROKEN, "publication muster_registry", "publication_incomplete",
                   "it lacks muster.tenants or muster.tables: run `muster migrate`");
    sql_rows_free(rows);
}

/* Where the stream is there too, something was published once: then a missing slot is a loss, not a
 * beginning. */
static void tell_missing(struct doctor *d, const struct doctor_cdc *c, const char *what, bool full)
{
    if (full)
        doctor_say(d, DOCTOR_BROKEN, what, "slots_exhausted",
                   "it is missing and cannot be made: raise max_replication_slots");
    else if (d->streams_known && !has_stream(d, c))
        doctor_say(d, DOCTOR_HINT, what, "slot_missing",
                   "it is not there yet: the first start of a broker makes it");
    else
        doctor_say(d, DOCTOR_BROKEN, what, "slot_missing",
                   "it is missing, and what is committed meanwhile is not captured: a running "
                   "broker makes it anew and tells the gap");
}

/* True when the slot holds no promise any more. */
static bool is_lost(struct doctor *d, const struct doctor_cdc *c, const char *what,
                    const struct sql_rows *rows)
{
    const char *status = text(rows, SLOT_WAL);

    if (!doctor_is_true(rows, 0, SLOT_OURS))
        doctor_say(d, DOCTOR_BROKEN, what, "slot_foreign",
                   "slot %s is another's (output plugin or database): choose another `slot`",
                   c->slot);
    else if (strcmp(status, "lost") == 0)
        doctor_say(d, DOCTOR_BROKEN, what, "slot_lost",
                   "the server has given up its log: a running broker makes it anew and tells the "
                   "gap; raise max_slot_wal_keep_size");
    else if (strcmp(status, "unreserved") == 0)
        doctor_say(d, DOCTOR_BROKEN, what, "slot_unreserved",
                   "its log goes at the next checkpoint, %" PRId64
                   " bytes behind: start a broker now, or raise max_slot_wal_keep_size",
                   number(rows, SLOT_KEPT));
    else
        return false;
    return true;
}

/* An inactive slot is broken, not a hint: wherever the brokers run, none of them delivers. */
static void judge_slot(struct doctor *d, const struct doctor_cdc *c, const char *what,
                       const struct sql_rows *rows)
{
    int64_t lag = number(rows, SLOT_LAG);

    if (is_lost(d, c, what, rows))
        return;
    if (!doctor_is_true(rows, 0, SLOT_ACTIVE) && !d->nats_up)
        doctor_say(d, DOCTOR_BROKEN, what, "slot_inactive",
                   "nobody reads it, and the server keeps %" PRId64
                   " bytes of log for it: brokers read only while NATS is there for them, so mend "
                   "that first",
                   number(rows, SLOT_KEPT));
    else if (!doctor_is_true(rows, 0, SLOT_ACTIVE))
        doctor_say(d, DOCTOR_BROKEN, what, "slot_inactive",
                   "no broker reads it, and the server keeps %" PRId64
                   " bytes of log for it: start musterd, or see why it does not connect",
                   number(rows, SLOT_KEPT));
    else if (lag > lag_limit)
        doctor_say(d, DOCTOR_HINT, what, "slot_lag",
                   "its reader is %" PRId64 " bytes behind: look at the broker's log and at NATS",
                   lag);
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "read by process %s, %" PRId64 " bytes behind",
                   text(rows, SLOT_PID), lag);
    if (d->streams_known && !has_stream(d, c))
        doctor_say(d, DOCTOR_BROKEN, what, "stream_missing",
                   "stream %s is not there, into which it is published: restart the broker",
                   c->stream);
}

/* Each name of the setting is bare or in double quotes, whatever stands before and around them, and
 * is compared without regard to case. The reader calls itself "muster cdc" unless the connection
 * string says otherwise, as can be seen while it reads. */
static bool is_synchronous(struct doctor *d, struct sql_admin *admin, const char *slot)
{
    static const char sql[] =
        "SELECT current_setting('synchronous_standby_names') FROM regexp_matches("
        "current_setting('synchronous_standby_names'),"
        " '\"((?:[^\"]|\"\")*)\"|([^[:space:],()\"]+)', 'g') AS name (part)"
        " WHERE lower(coalesce(part[1], part[2])) IN ("
        "  SELECT '*' UNION SELECT 'muster cdc' UNION SELECT lower(r.application_name)"
        "  FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
        "  WHERE s.slot_name = $1)";
    struct sql_rows *rows = doctor_query(d, admin, sql, 1, &slot);
    bool is = rows && sql_rows_count(rows) > 0;

    if (is)
        doctor_say(d, DOCTOR_HINT, "postgres synchronous_standby_names", NULL,
                   "%s matches the brokers' reader (muster cdc) too, so that commits wait for what "
                   "is stored in NATS, and for ever while it is away: name the standbys one by one",
                   sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return is;
}

static void check_slot(struct doctor *d, struct sql_admin *admin, const struct doctor_cdc *c,
                       bool *unlimited)
{
    struct sql_rows *rows = doctor_query(d, admin, slot_sql, 1, &c->slot);
    char what[DOCTOR_WHAT_SIZE];

    if (!rows)
        return;
    (void)snprintf(what, sizeof what, "slot %.63s", c->slot);
    if (doctor_is_true(rows, 0, SLOT_THERE))
        judge_slot(d, c, what, rows);
    else
        tell_missing(d, c, what, doctor_is_true(rows, 0, SLOT_FULL));
    *unlimited = doctor_is_true(rows, 0, SLOT_UNLIMITED);
    sql_rows_free(rows);
}

/* The size is the server's, not the slot's: said once, after the last. */
void doctor_slots(struct doctor *d, struct sql_admin *admin)
{
    bool unlimited = false, synchronous = false;

    for (size_t i = 0; i < d->n_cdc; i++) {
        synchronous = synchronous || is_synchronous(d, admin, d->cdc[i].slot);
        check_publication(d, admin, d->cdc[i].publication);
        check_slot(d, admin, &d->cdc[i], &unlimited);
    }
    if (d->n_cdc)
        check_registry(d, admin);
    if (unlimited)
        doctor_say(d, DOCTOR_HINT, "postgres max_slot_wal_keep_size", NULL,
                   "unlimited: a slot that nobody reads fills the server's disk; set a size that "
                   "covers the longest outage");
}
