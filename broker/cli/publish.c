/*
 * muster publish - add tables to the publication and keep how their rows find a tenant.
 *
 * What the brokers could not carry is refused here, before the application notices: an UPDATE of a
 * published table without replica identity fails in the application, and a DELETE carries the
 * identity's columns alone, so that a tenant column outside of it leaves nobody to send the row to.
 * All tables or none.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/name.h"
#include "cli/database.h"
#include "cli/identity.h"
#include "cli/table_name.h"

static const char command[] = "publish";

struct routing {
    const char *tenant_column; /* NULL when tenant is set */
    const char *tenant;
    const char *owner_column; /* NULL: none */
    bool subject_key;
};

struct job {
    struct sql_admin *admin;
    const struct routing *routing;
    const char *text; /* the table as it was written */
    struct table_name name;
    char oid[12];
};

static int sql_failed(const struct job *job, int err)
{
    return database_fail(job->admin, command, err);
}

static int refuse(const struct job *job, const char *reason)
{
    return cli_fail(CLI_FAILED, command, "%s: %s", job->text, reason);
}

/* What a relation is to people when it cannot be published; NULL for what can. */
static const char *unfit_kind(const char *kind, const char *persistence)
{
    if (strchr("rp", kind[0]))
        return persistence[0] == 'p'
                   ? NULL
                   : "a temporary or unlogged table came, whose changes PostgreSQL does not log";
    switch (kind[0]) {
    case 'v':
        return "a view came, a table was expected; publish the tables under it";
    case 'm':
        return "a materialized view came, a table was expected";
    case 'f':
        return "a foreign table came, whose changes happen on another server";
    default:
        return "an ordinary or partitioned table was expected";
    }
}

static int find_table(struct job *job)
{
    static const char sql[] =
        "SELECT c.oid, c.relkind, c.relpersistence FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    const char *params[] = {job->name.schema, job->name.table};
    struct sql_rows *rows = NULL;
    const char *why = NULL;
    int err;

    if (strcmp(job->name.schema, "muster") == 0 || strncmp(job->name.schema, "pg_", 3) == 0 ||
        strcmp(job->name.schema, "information_schema") == 0)
        return refuse(job, "a table of the system came, a table of your own was expected");
    err = sql_admin_exec(job->admin, sql, 2, params, &rows);
    if (err)
        return sql_failed(job, err);
    if (sql_rows_count(rows) == 0) {
        sql_rows_free(rows);
        return cli_fail(CLI_FAILED, command,
                        "%s: there is no table \"%s\" in schema \"%s\" of this database", job->text,
                        job->name.table, job->name.schema);
    }
    snprintf(job->oid, sizeof job->oid, "%s", sql_rows_get(rows, 0, 0));
    why = unfit_kind(sql_rows_get(rows, 0, 1), sql_rows_get(rows, 0, 2));
    sql_rows_free(rows);
    return why ? refuse(job, why) : CLI_DONE;
}

/* A column has to be there, and to be sent: PostgreSQL leaves generated ones out. */
static int check_column(const struct job *job, const char *option, const char *column)
{
    static const char sql[] =
        "SELECT attgenerated <> '' FROM pg_attribute"
        " WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped";
    const char *params[] = {job->oid, column};
    struct sql_rows *rows = NULL;
    int code = CLI_DONE, err;

    if (!column)
        return CLI_DONE;
    err = sql_admin_exec(job->admin, sql, 2, params, &rows);
    if (err)
        return sql_failed(job, err);
    if (sql_rows_count(rows) == 0)
        code = cli_fail(CLI_FAILED, command, "%s: %s: the table has no column \"%s\"%s", job->text,
                        option, column,
                        strcmp(option, "--owner-column")
                            ? "; --tenant T gives all its rows to one tenant"
                            : "");
    else if (strcmp(sql_rows_get(rows, 0, 0), "t") == 0)
        code = cli_fail(CLI_FAILED, command,
                        "%s: %s: the column \"%s\" is generated, and PostgreSQL does not send "
                        "generated columns",
                        job->text, option, column);
    sql_rows_free(rows);
    return code;
}

static int check_tenant(const struct job *job)
{
    const char *tenant = job->routing->tenant;
    struct sql_rows *rows = NULL;
    int code = CLI_DONE, err;

    if (!tenant)
        return CLI_DONE;
    err = sql_admin_exec(job->admin, "SELECT FROM muster.tenants WHERE name = $1::text", 1, &tenant,
                         &rows);
    if (err)
        return sql_failed(job, err);
    if (sql_rows_count(rows) == 0)
        code = cli_fail(CLI_FAILED, command,
                        "--tenant: there is no tenant %s; first: muster tenant add %s", tenant,
                        tenant);
    sql_rows_free(rows);
    return code;
}

static bool is_false(const struct sql_rows *rows, int row, int column)
{
    const char *value = sql_rows_get(rows, row, column);

    return !value || strcmp(value, "f") == 0; /* NULL: no identity to look into */
}

static int judge_identity(const struct job *job, const struct sql_rows *rows, int row)
{
    const char *name = sql_rows_get(rows, row, IDENTITY_NAME),
               *mend = sql_rows_get(rows, row, IDENTITY_MEND);

    if (is_false(rows, row, IDENTITY_ANY))
        return cli_fail(CLI_FAILED, command,
                        "%s has no replica identity, so every UPDATE and DELETE on it would fail "
                        "once it is published; first: %s",
                        name, mend);
    if (is_false(rows, row, IDENTITY_TENANT))
        return cli_fail(CLI_FAILED, command,
                        "%s: the tenant column \"%s\" is not in the replica identity, so a deleted "
                        "row names no tenant; first: %s",
                        name, job->routing->tenant_column, mend);
    if (is_false(rows, row, IDENTITY_OWNER))
        (void)cli_fail(CLI_DONE, command,
                       "note: %s: the owner column \"%s\" is not in the replica identity, so end "
                       "users do not hear of deleted rows; to mend it: "
                       "ALTER TABLE %s REPLICA IDENTITY FULL;",
                       name, job->routing->owner_column, name);
    return CLI_DONE;
}

/* Every partition's fault is told, so that one look is enough to mend them all. */
static int check_identity(const struct job *job)
{
    const char *params[] = {job->oid, job->routing->tenant_column, job->routing->owner_column};
    struct sql_rows *rows = NULL;
    int code = CLI_DONE;
    int err = sql_admin_exec(job->admin, identity_sql, 3, params, &rows);

    if (err)
        return sql_failed(job, err);
    for (int i = 0; i < sql_rows_count(rows); i++)
        if (judge_identity(job, rows, i))
            code = CLI_FAILED;
    sql_rows_free(rows);
    return code;
}

/* Run the statement that a query makes, when it makes one: what is granted already needs none. */
static int run_made(const struct job *job, const char *query)
{
    const char *oid = job->oid;
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(job->admin, query, 1, &oid, &rows);

    if (!err && sql_rows_count(rows) > 0)
        err = sql_admin_exec(job->admin, sql_rows_get(rows, 0, 0), 0, NULL, NULL);
    sql_rows_free(rows);
    return err;
}

static int keep_routing(const struct job *job)
{
    static const char sql[] =
        "INSERT INTO muster.tables"
        " (schema_name, table_name, tenant_column, tenant, owner_column, subject_key)"
        " VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (schema_name, table_name) DO UPDATE SET"
        " tenant_column = excluded.tenant_column, tenant = excluded.tenant,"
        " owner_column = excluded.owner_column, subject_key = excluded.subject_key";
    const struct routing *r = job->routing;
    const char *params[] = {job->name.schema, job->name.table, r->tenant_column,
                            r->tenant,        r->owner_column, r->subject_key ? "true" : "false"};

    return sql_admin_exec(job->admin, sql, 6, params, NULL);
}

static int add_table(const struct job *job)
{
    static const char *const steps[] = {
        "SELECT format('GRANT USAGE ON SCHEMA %I TO muster_broker', n.nspname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = $1 AND NOT has_schema_privilege('muster_broker', n.oid, 'USAGE')",
        "SELECT format('GRANT SELECT ON TABLE %s TO muster_broker', $1::oid::regclass)"
        " WHERE NOT has_table_privilege('muster_broker', $1::oid, 'SELECT')",
        "SELECT format('ALTER PUBLICATION muster ADD TABLE %s', $1::oid::regclass)"
        " WHERE NOT EXISTS (SELECT FROM pg_publication p WHERE pubname = 'muster' AND (puballtables"
        " OR EXISTS (SELECT FROM pg_publication_rel r"
        "            WHERE r.prpubid = p.oid AND r.prrelid = $1)))",
    };
    int err = keep_routing(job);

    for (size_t i = 0; !err && i < sizeof steps / sizeof *steps; i++)
        err = run_made(job, steps[i]);
    return err ? sql_failed(job, err) : CLI_DONE;
}

static int publish_one(struct job *job)
{
    const char *expected = table_name_parse(job->text, &job->name);
    int code;

    if (expected)
        return cli_fail(CLI_USAGE, command, "TABLE: %s came, %s was expected", job->text, expected);
    code = find_table(job);
    if (code == CLI_DONE)
        code = check_column(job, "--tenant-column", job->routing->tenant_column);
    if (code == CLI_DONE)
        code = check_column(job, "--owner-column", job->routing->owner_column);
    if (code == CLI_DONE)
        code = check_identity(job);
    return code == CLI_DONE ? add_table(job) : code;
}

static void print_done(const struct routing *r, char **tables, int n)
{
    for (int i = 0; i < n; i++)
        printf("published %s: tenant %s%s%s%s%s\n", tables[i], r->tenant ? "" : "from column ",
               r->tenant ? r->tenant : r->tenant_column,
               r->owner_column ? ", owner from column " : "",
               r->owner_column ? r->owner_column : "", r->subject_key ? ", key in the subject" : "");
}

static int publish(struct sql_admin *admin, const struct routing *routing, char **tables, int n)
{
    /* A busy table must not make its writers queue up behind us for long. */
    int err = sql_admin_script(admin, "BEGIN; SET LOCAL lock_timeout = '10s'");
    struct job job = {.admin = admin, .routing = routing};
    int code;

    if (err)
        return database_fail(admin, command, err);
    code = check_tenant(&job);
    for (int i = 0; i < n && code == CLI_DONE; i++) {
        job.text = tables[i];
        code = publish_one(&job);
    }
    code = database_end(admin, command, code);
    if (code == CLI_DONE)
        print_done(routing, tables, n);
    return code;
}

static int parse_options(int argc, char **argv, struct routing *routing)
{
    static const struct option options[] = {
        {"tenant-column", required_argument, NULL, 'c'},
        {"tenant", required_argument, NULL, 't'},
        {"owner-column", required_argument, NULL, 'o'},
        {"subject-key", no_argument, NULL, 'k'},
        {0},
    };
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            routing->tenant_column = optarg;
            break;
        case 't':
            routing->tenant = optarg;
            break;
        case 'o':
            routing->owner_column = optarg;
            break;
        case 'k':
            routing->subject_key = true;
            break;
        default:
            return cli_fail(CLI_USAGE, command,
                            "%s%s; --tenant-column C, --tenant T, --owner-column C or "
                            "--subject-key was expected",
                            argv[optind - 1], c == ':' ? " came without its value" : " came");
        }
    }
    return CLI_DONE;
}

static int check_options(int n_tables, struct routing *routing)
{
    if (n_tables == 0)
        return cli_fail(CLI_USAGE, command, "no TABLE came, [schema.]table was expected");
    if (routing->tenant && routing->tenant_column)
        return cli_fail(CLI_USAGE, command,
                        "--tenant and --tenant-column came, one of them was expected");
    if (routing->tenant && !name_is_public(routing->tenant, strlen(routing->tenant)))
        return cli_fail(
            CLI_USAGE, command,
            "--tenant: %s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected",
            routing->tenant);
    if (!routing->tenant && !routing->tenant_column)
        routing->tenant_column = "tenant_id";
    return CLI_DONE;
}

int cmd_publish(const struct cli *cli, int argc, char **argv)
{
    struct routing routing = {0};
    struct sql_admin *admin = NULL;
    int code = parse_options(argc, argv, &routing);

    if (code == CLI_DONE)
        code = check_options(argc - optind, &routing);
    if (code == CLI_DONE)
        code = database_open(cli, command, &admin);
    if (code == CLI_DONE)
        code = publish(admin, &routing, argv + optind, argc - optind);
    sql_admin_close(admin);
    return code;
}
