/*
 * doctor: the database, as the brokers see it: with their connection string and their role.
 *
 * A superuser would see more and would be told "fine" where a broker is refused.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/doctor.h"
#include "cli/migrations.h"
#include "cli/schema.h"
#include "sql/fault.h"

enum { OLDEST_SERVER = 150000, MISSING_SHOWN = 5 };
static const int64_t clock_limit_ns = CLOCK_S;

/* ---- the connection ---- */

/* search_path as for every command of ours (cli/database.h). A lock that somebody holds must not
 * make the doctor wait for ever. */
static struct sql_admin *connect_to(struct doctor *d, const char *dsn)
{
    struct sql_admin *admin = NULL;
    struct sql_fault fault;
    int err = sql_admin_open(dsn, "doctor", &admin);

    if (!err)
        err =
            sql_admin_script(admin, "SET search_path = pg_catalog; SET statement_timeout = '10s'");
    if (!err)
        return admin;
    fault = sql_fault_of(admin ? sql_admin_sqlstate(admin) : "", sql_admin_error(admin));
    doctor_say(d, DOCTOR_BROKEN, "postgres", fault.code, "%s; %s", sql_admin_error(admin), fault.help);
    sql_admin_close(admin);
    return NULL;
}

/* ---- the server ---- */

/* As the cdc plugin says it. */
static void check_wal_level(struct doctor *d, const char *level)
{
    if (strcmp(level, "logical") != 0)
        doctor_say(d, DOCTOR_BROKEN, "postgres wal_level", "wal_level",
                   "wal_level is %s, expected logical: ALTER SYSTEM SET wal_level = logical, then "
                   "restart PostgreSQL",
                   level);
    else
        doctor_say(d, DOCTOR_OK, "postgres wal_level", NULL, "logical");
}

/* As `muster migrate` warns. In SQL_ASCII nothing is converted. */
static void check_encoding(struct doctor *d, const char *encoding)
{
    if (strcmp(encoding, "UTF8") != 0 && strcmp(encoding, "SQL_ASCII") != 0)
        doctor_say(d, DOCTOR_HINT, "postgres encoding", "encoding",
                   "%s: a single row with a character that has no UTF-8 form stops the capture for "
                   "every tenant; move to a database with ENCODING 'UTF8'",
                   encoding);
}

/* A superuser's role works, and sees every tenant's rows whatever the policies say. */
static void check_role(struct doctor *d, const struct sql_rows *rows)
{
    const char *role = sql_rows_get(rows, 0, 2);
    char what[DOCTOR_WHAT_SIZE];

    (void)snprintf(what, sizeof what, "postgres role %.63s", role);
    if (!doctor_is_true(rows, 0, 3))
        doctor_say(d, DOCTOR_BROKEN, what, "no_replication_privilege",
                   "it may not replicate: ALTER ROLE %s REPLICATION", role);
    else if (doctor_is_true(rows, 0, 4))
        doctor_say(d, DOCTOR_BROKEN, what, "broker_bypasses_rls",
                   "it passes by row level security (superuser or BYPASSRLS): let the brokers log "
                   "in as muster_broker, which `muster migrate` makes without");
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "REPLICATION, no superuser, no BYPASSRLS");
}

/* False when nothing more can be asked. */
static bool check_server(struct doctor *d, struct sql_admin *admin)
{
    static const char sql[] =
        "SELECT current_setting('server_version'), current_setting('wal_level'), current_user,"
        " rolreplication OR rolsuper, rolsuper OR rolbypassrls, pg_is_in_recovery(),"
        " getdatabaseencoding()"
        " FROM pg_roles WHERE rolname = current_user";
    struct sql_rows *rows;
    bool standby;

    if (sql_admin_server_version(admin) < OLDEST_SERVER) {
        doctor_say(d, DOCTOR_BROKEN, "postgres", "server_too_old",
                   "PostgreSQL %d: expected 15 or newer", sql_admin_server_version(admin) / 10000);
        return false;
    }
    rows = doctor_query(d, admin, sql, 0, NULL);
    if (!rows)
        return false;
    standby = doctor_is_true(rows, 0, 5);
    if (standby)
        doctor_say(d, DOCTOR_BROKEN, "postgres", "postgres_standby",
                   "PostgreSQL %s is a standby: point postgres.dsn to the primary",
                   sql_rows_get(rows, 0, 0));
    else
        doctor_say(d, DOCTOR_OK, "postgres", NULL, "PostgreSQL %s", sql_rows_get(rows, 0, 0));
    check_wal_level(d, sql_rows_get(rows, 0, 1));
    check_encoding(d, sql_rows_get(rows, 0, 6));
    check_role(d, rows);
    sql_rows_free(rows);
    return !standby;
}

/* Half of the way there and back is all that can be known of when the server read its clock. */
static void check_clock(struct doctor *d, struct sql_admin *admin)
{
    int64_t before = clock_wall_ns(), after, there_ns, ahead_ns, apart_ns;
    struct sql_rows *rows = doctor_query(
        d, admin, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", 0, NULL);

    if (!rows)
        return;
    after = clock_wall_ns();
    there_ns = strtoll(sql_rows_get(rows, 0, 0), NULL, 10) * 1000;
    ahead_ns = there_ns - (before + (after - before) / 2);
    apart_ns = ahead_ns < 0 ? -ahead_ns : ahead_ns;
    sql_rows_free(rows);
    if (apart_ns - (after - before) / 2 > clock_limit_ns)
        doctor_say(d, DOCTOR_HINT, "clock", NULL,
                   "PostgreSQL's clock is %" PRId64
                   " ms %s this machine's: run a time service on both",
                   apart_ns / CLOCK_MS, ahead_ns > 0 ? "ahead of" : "behind");
    else
        doctor_say(d, DOCTOR_OK, "clock", NULL, "%" PRId64 " ms from PostgreSQL's",
                   apart_ns / CLOCK_MS);
}

/* ---- migrations ---- */

enum { APPLIED, PENDING, CHANGED };

/* By name: a number alone could be another file's in another version. */
static int state_of(const struct sql_rows *applied, const struct migration *m)
{
    for (int i = 0; i < sql_rows_count(applied); i++)
        if (strcmp(sql_rows_get(applied, i, 0), m->name) == 0)
            return strcmp(sql_rows_get(applied, i, 1), m->sha256) == 0 ? APPLIED : CHANGED;
    return PENDING;
}

/* What is applied and unknown here is of a newer version, which keeps this one working. */
static void judge_migrations(struct doctor *d, const struct sql_rows *applied)
{
    size_t n_pending = 0, n_changed = 0;
    const char *pending = "", *changed = "";

    for (size_t i = 0; i < n_migrations; i++) {
        int state = state_of(applied, &migrations[i]);

        if (state == PENDING && !n_pending++)
            pending = migrations[i].name;
        if (state == CHANGED && !n_changed++)
            changed = migrations[i].name;
    }
    d->schema_known = n_pending == 0;
    if (n_changed)
        doctor_say(d, DOCTOR_BROKEN, "migrations", "migration_changed",
                   "%s was applied with other contents than this program has: use the program that "
                   "applied it",
                   changed);
    if (n_pending)
        doctor_say(d, DOCTOR_BROKEN, "migrations", "migrations_pending",
                   "%zu of %zu are not applied, %s is the first: run `muster migrate`", n_pending,
                   n_migrations, pending);
    else if (!n_changed)
        doctor_say(d, DOCTOR_OK, "migrations", NULL, "all %zu are applied", n_migrations);
}

/* False when schema muster must not be read: whose DSN this is may be a superuser. */
static bool check_schema(struct doctor *d, struct sql_admin *admin)
{
    struct schema schema;

    if (schema_look(admin, &schema) != 0)
        doctor_say(d, DOCTOR_BROKEN, "postgres", "postgres_error", "a question was refused: %s",
                   sql_admin_error(admin));
    else if (*schema.foreign)
        doctor_say(d, DOCTOR_BROKEN, "schema muster", "schema_foreign",
                   "%s, muster_owner's was expected: see what it is, and drop it before `muster "
                   "migrate`",
                   schema.foreign);
    else if (!schema.there)
        doctor_say(d, DOCTOR_BROKEN, "migrations", "migrations_pending",
                   "there is no schema muster in this database: run `muster migrate`");
    else
        return true;
    return false;
}

static void check_migrations(struct doctor *d, struct sql_admin *admin)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, "SELECT name, sha256 FROM muster.migrations", 0, NULL, &rows);

    if (err)
        doctor_say(d, DOCTOR_BROKEN, "migrations", "migrations_pending",
                   "schema muster cannot be read (%s): run `muster migrate`",
                   sql_admin_error(admin));
    else
        judge_migrations(d, rows);
    sql_rows_free(rows);
}

/* ---- privileges ---- */

/* Lost in a restore, which brings PostgreSQL's own privileges back, and in pg_upgrade to a version
 * with another signature. */
static void check_emit(struct doctor *d, struct sql_admin *admin)
{
    static const char what[] = "pg_logical_emit_message";
    static const char sql[] =
        "SELECT bool_or(has_function_privilege('public', oid, 'EXECUTE')),"
        " bool_and(has_function_privilege('muster_owner', oid, 'EXECUTE')) FROM pg_proc"
        " WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace";
    struct sql_rows *rows = doctor_query(d, admin, sql, 0, NULL);

    if (!rows)
        return;
    if (doctor_is_true(rows, 0, 0))
        doctor_say(d, DOCTOR_BROKEN, what, "emit_open",
                   "every role may call it, and so forge the events of every tenant, as it is after "
                   "a restore: run `muster migrate`");
    else if (!doctor_is_true(rows, 0, 1))
        doctor_say(d, DOCTOR_BROKEN, what, "emit_closed",
                   "muster_owner may not call it, so that muster.emit() fails: run `muster "
                   "migrate`");
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "only muster_owner may call it");
    sql_rows_free(rows);
}

/* Somebody opened it by hand, or it was restored without its owners and policies. A policy for PUBLIC, or one more
 * without a condition, is nobody's of ours. */
static void check_walls(struct doctor *d, struct sql_admin *admin)
{
    static const char what[] = "row level security";
    static const char sql[] =
        "WITH walled AS (SELECT oid, oid::regclass::text AS name, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class"
        " WHERE relkind = 'r' AND (relnamespace = 'muster'::regnamespace"
        "  AND relname IN ('tenants', 'credentials', 'requests', 'tenant_roles', 'audit') OR relnamespace = 'public'::regnamespace"
        "  AND relname IN ('agent_runs', 'agent_sessions', 'agent_memories', 'agent_tasks', 'agent_events'))),"
        " beyond AS (SELECT rolname FROM pg_roles WHERE (rolsuper OR rolbypassrls)"
        "  AND (rolname IN ('muster_app', 'muster_engine', 'muster_tenants') OR starts_with(rolname, 'muster_t_')))"
        " SELECT (SELECT string_agg(name, ', ' ORDER BY name) FROM walled WHERE NOT forced OR EXISTS (SELECT FROM pg_policy p"
        "   WHERE p.polrelid = walled.oid AND (0 = ANY (p.polroles) OR pg_get_expr(p.polqual, p.polrelid) = 'true'"
        "    AND p.polroles <> ARRAY['muster_engine'::regrole::oid]))),"
        "  (SELECT string_agg(quote_ident(rolname), ', ' ORDER BY rolname) FROM beyond), (SELECT count(*) FROM walled)";
    struct sql_rows *rows = doctor_query(d, admin, sql, 0, NULL);

    if (!rows)
        return;
    if (sql_rows_get(rows, 0, 0))
        doctor_say(d, DOCTOR_BROKEN, what, "row_security_open",
                   "rows of every tenant are open in %s: drop the policies that are not Muster's, then run `muster migrate`",
                   sql_rows_get(rows, 0, 0));
    if (sql_rows_get(rows, 0, 1))
        doctor_say(d, DOCTOR_BROKEN, what, "row_security_bypassed", "it does not bind %s: ALTER ROLE ... NOSUPERUSER NOBYPASSRLS",
                   sql_rows_get(rows, 0, 1));
    if (!sql_rows_get(rows, 0, 0) && !sql_rows_get(rows, 0, 1))
        doctor_say(d, DOCTOR_OK, what, NULL, "forced on %s tables", sql_rows_get(rows, 0, 2));
    sql_rows_free(rows);
}

/* ---- tenants ---- */

static bool lacks_history(const struct doctor *d, const char *tenant)
{
    char name[96];

    (void)snprintf(name, sizeof name, "MSG_%s", tenant);
    return !map_get(&d->streams, name, strlen(name));
}

/* Names of a few are enough: where many are missing, all have the same reason. */
static void check_tenants(struct doctor *d, struct sql_admin *admin)
{
    struct sql_rows *rows = doctor_query(
        d, admin, "SELECT name, history <> 'off' FROM muster.tenants ORDER BY name", 0, NULL);
    struct buf missing = {0};
    int n_missing = 0;

    if (!rows)
        return;
    for (int i = 0; d->streams_known && i < sql_rows_count(rows); i++)
        if (doctor_is_true(rows, i, 1) && lacks_history(d, sql_rows_get(rows, i, 0)) &&
            n_missing++ < MISSING_SHOWN)
            buf_printf(&missing, "%sMSG_%s", n_missing > 1 ? ", " : "", sql_rows_get(rows, i, 0));
    if (sql_rows_count(rows) == 0)
        doctor_say(d, DOCTOR_HINT, "tenants", NULL, "there are none: `muster tenant add NAME`");
    else if (n_missing)
        doctor_say(d, DOCTOR_HINT, "tenants", "stream_missing",
                   "%d have no history stream (%s%s); a running broker makes it within a minute",
                   n_missing, missing.data ? missing.data : "",
                   n_missing > MISSING_SHOWN ? ", …" : "");
    else
        doctor_say(d, DOCTOR_OK, "tenants", NULL, "%d", sql_rows_count(rows));
    buf_done(&missing);
    sql_rows_free(rows);
}

/* A standby is left alone after that was said: slots, publications and tables are to be asked of
 * the primary. Tenants and tables are in our schema, which has to be whole. */
void doctor_postgres(struct doctor *d)
{
    const char *dsn = d->cli->config->postgres.dsn;
    struct sql_admin *admin;

    if (!dsn || !*dsn) {
        doctor_say(d, d->n_cdc ? DOCTOR_BROKEN : DOCTOR_HINT, "postgres", "postgres_away",
                   "no database is configured: set postgres.dsn or MUSTER_POSTGRES_DSN");
        return;
    }
    admin = connect_to(d, dsn);
    if (!admin)
        return;
    if (check_server(d, admin)) {
        check_clock(d, admin);
        doctor_connections(d, admin);
        if (check_schema(d, admin))
            check_migrations(d, admin);
        if (d->schema_known) {
            check_emit(d, admin);
            check_walls(d, admin);
            check_tenants(d, admin);
        }
        doctor_slots(d, admin);
        if (d->schema_known)
            doctor_tables(d, admin);
    }
    sql_admin_close(admin);
}
