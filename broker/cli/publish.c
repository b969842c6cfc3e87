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
#include "cli/replica.h"
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
    bool partitioned;
};

/* A busy table must not make its writers queue up behind us for longer. */
#define PATIENCE "10"

static int sql_failed(const struct job *job, int err)
{
    return database_fail(job->admin, command, err);
}

static int refuse(const struct job *job, const char *reason)
{
    return cli_fail(CLI_FAILED, command, "%s: %s", job->text, reason);
}

/* NULL is neither true nor false: no identity to look into. */
static bool is_true(const struct sql_rows *rows, int row, int column)
{
    const char *value = sql_rows_get(rows, row, column);

    return value && strcmp(value, "t") == 0;
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
    job->partitioned = strcmp(sql_rows_get(rows, 0, 1), "p") == 0;
    why = unfit_kind(sql_rows_get(rows, 0, 1), sql_rows_get(rows, 0, 2));
    sql_rows_free(rows);
    return why ? refuse(job, why) : CLI_DONE;
}

/* Types are looked at where the text has to be somebody's name: no tenant is called "acme    ". */
static int judge_column(const struct job *job, const char *option, const struct sql_rows *rows)
{
    const char *type = sql_rows_get(rows, 0, COLUMN_TYPE);
    bool is_tenant = strcmp(option, "--tenant-column") == 0;

    if (is_true(rows, 0, COLUMN_GENERATED))
        return cli_fail(CLI_FAILED, command,
                        "%s: %s: the column is generated, and PostgreSQL does not send generated "
                        "columns",
                        job->text, option);
    if (is_tenant && is_true(rows, 0, COLUMN_PADDED))
        return cli_fail(CLI_FAILED, command,
                        "%s: %s: the column is %s, which PostgreSQL pads with blanks, so that its "
                        "rows would go to nobody; first: %s",
                        job->text, option, type, sql_rows_get(rows, 0, COLUMN_MEND));
    if (is_tenant && !is_true(rows, 0, COLUMN_NAMES))
        return cli_fail(CLI_FAILED, command,
                        "%s: %s: the column is %s, whose values are no names of tenants; text, "
                        "varchar, name, uuid, an enum or a whole number was expected",
                        job->text, option, type);
    return CLI_DONE;
}

/* A column has to be there, to be sent, and to name somebody. */
static int check_column(const struct job *job, const char *option, const char *column)
{
    const char *params[] = {job->oid, column};
    struct sql_rows *rows = NULL;
    int code, err;

    if (!column)
        return CLI_DONE;
    err = sql_admin_exec(job->admin, column_sql, 2, params, &rows);
    if (err)
        return sql_failed(job, err);
    if (sql_rows_count(rows) == 0)
        code = cli_fail(CLI_FAILED, command, "%s: %s: the table has no column \"%s\"%s", job->text,
                        option, column,
                        strcmp(option, "--owner-column")
                            ? "; --tenant T gives all its rows to one tenant"
                            : "");
    else
        code = judge_column(job, option, rows);
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

static int judge_identity(const struct job *job, const struct sql_rows *rows, int row)
{
    const char *name = sql_rows_get(rows, row, IDENTITY_NAME),
               *mend = sql_rows_get(rows, row, IDENTITY_MEND);

    if (!is_true(rows, row, IDENTITY_ANY))
        return cli_fail(CLI_FAILED, command,
                        "%s has no replica identity, so every UPDATE and DELETE on it would fail "
                        "once it is published; first: %s",
                        name, mend);
    if (!is_true(rows, row, IDENTITY_TENANT))
        return cli_fail(CLI_FAILED, command,
                        "%s: the tenant column \"%s\" is not in the replica identity, so a deleted "
                        "row names no tenant; first: %s",
                        name, job->routing->tenant_column, mend);
    if (!is_true(rows, row, IDENTITY_OWNER))
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

/* Nothing, or the statement, where the table is not in the publication yet. */
#define UNLESS_PUBLISHED                                                                           \
    " WHERE NOT EXISTS (SELECT FROM pg_publication p WHERE pubname = 'muster' AND (puballtables"   \
    " OR EXISTS (SELECT FROM pg_publication_rel r"                                                 \
    "            WHERE r.prpubid = p.oid AND r.prrelid = $1)))"

/* A transaction that wrote to the table before it was published would be decoded as it saw the
 * publication when it began, without the table: they are waited for, and later ones wait. */
static int lock_table(const struct job *job)
{
    static const char only[] = "SELECT format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE',"
                               " $1::oid::regclass)" UNLESS_PUBLISHED;
    static const char with_partitions[] =
        "SELECT format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE',"
        " $1::oid::regclass)" UNLESS_PUBLISHED;
    int err = run_made(job, job->partitioned ? with_partitions : only);

    if (err && strcmp(sql_admin_sqlstate(job->admin), "55P03") == 0)
        return refuse(job, "transactions that write to it or change it have not ended within " PATIENCE
                           " s, and nothing was published; try again when they have "
                           "(pg_stat_activity shows them)");
    return err ? sql_failed(job, err) : CLI_DONE;
}

/* Children by inheritance stay out: each has a key and a tenant of its own or none, and a child
 * without a key would refuse UPDATEs because somebody published its parent. Who wants them says so. */
static int tell_children(const struct job *job)
{
    static const char sql[] =
        "WITH RECURSIVE children AS ("
        "  SELECT inhrelid FROM pg_inherits WHERE inhparent = $1"
        "  UNION SELECT i.inhrelid FROM pg_inherits i JOIN children c ON i.inhparent = c.inhrelid)"
        " SELECT $1::oid::regclass, string_agg(inhrelid::regclass::text, ', ' ORDER BY inhrelid)"
        " FROM children";
    const char *oid = job->oid;
    struct sql_rows *rows = NULL;
    int err = job->partitioned ? 0 : sql_admin_exec(job->admin, sql, 1, &oid, &rows);

    if (err)
        return sql_failed(job, err);
    if (rows && sql_rows_get(rows, 0, 1))
        (void)cli_fail(CLI_DONE, command,
                       "note: %s has children whose rows are not sent with its own: %s; publish "
                       "those whose rows are to be sent by their own names",
                       sql_rows_get(rows, 0, 0), sql_rows_get(rows, 0, 1));
    sql_rows_free(rows);
    return CLI_DONE;
}

static int add_table(const struct job *job)
{
    static const char *const steps[] = {
        "SELECT format('GRANT USAGE ON SCHEMA %I TO muster_broker', n.nspname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = $1 AND NOT has_schema_privilege('muster_broker', n.oid, 'USAGE')",
        "SELECT format('GRANT SELECT ON TABLE %s TO muster_broker', $1::oid::regclass)"
        " WHERE NOT has_table_privilege('muster_broker', $1::oid, 'SELECT')",
        "SELECT format('ALTER PUBLICATION muster ADD TABLE ONLY %s',"
        " $1::oid::regclass)" UNLESS_PUBLISHED,
    };
    int err = keep_routing(job);

    for (size_t i = 0; !err && i < sizeof steps / sizeof *steps; i++)
        err = run_made(job, steps[i]);
    return err ? sql_failed(job, err) : tell_children(job);
}

static int publish_one(struct job *job)
{
    int code = find_table(job);

    if (code == CLI_DONE)
        code = lock_table(job);
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

static bool is_among(const struct table_name *name, char **tables, int n)
{
    struct table_name other;

    for (int i = 0; i < n; i++)
        if (!table_name_parse(tables[i], &other) && strcmp(other.schema, name->schema) == 0 &&
            strcmp(other.table, name->table) == 0)
            return true;
    return false;
}

/* Check the names before anything is done, and leave out what was named before. */
static int take_tables(char **tables, int *n)
{
    struct table_name name;
    int n_kept = 0;

    for (int i = 0; i < *n; i++) {
        const char *expected = table_name_parse(tables[i], &name);

        if (expected)
            return cli_fail(CLI_USAGE, command, "TABLE: %s came, %s was expected", tables[i],
                            expected);
        if (!is_among(&name, tables, n_kept))
            tables[n_kept++] = tables[i];
    }
    *n = n_kept;
    return CLI_DONE;
}

static int publish(struct sql_admin *admin, const struct routing *routing, char **tables, int n)
{
    int err = sql_admin_script(admin, "BEGIN; SET LOCAL lock_timeout = '" PATIENCE "s'");
    struct job job = {.admin = admin, .routing = routing};
    int code;

    if (err)
        return database_fail(admin, command, err);
    code = check_tenant(&job);
    for (int i = 0; i < n && code == CLI_DONE; i++) {
        job.text = tables[i];
        (void)table_name_parse(job.text, &job.name); /* take_tables() has checked it */
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
    int code = parse_options(argc, argv, &routing), n = argc - optind;

    if (code == CLI_DONE)
        code = check_options(n, &routing);
    if (code == CLI_DONE)
        code = take_tables(argv + optind, &n);
    if (code == CLI_DONE)
        code = database_open(cli, command, &admin);
    if (code == CLI_DONE)
        code = publish(admin, &routing, argv + optind, n);
    sql_admin_close(admin);
    return code;
}
