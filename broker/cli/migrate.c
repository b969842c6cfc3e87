/*
 * muster migrate - bring a database to this program's schema: roles, schema muster, publications.
 *
 * Each file of schemas/sql/ runs in a transaction of its own together with its row in
 * muster.migrations, so that what is recorded is exactly what was done. Migrations go forward only;
 * a file that changed after it was applied is refused by name. always.sql ends every run: it puts
 * right what a dump does not carry. Runs at the same time wait for each other.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "cli/database.h"
#include "cli/migrations.h"

enum {
    OLDEST_SERVER = 150000,
    CHANGED = -1, /* a result of applied_row(): the row is there and is another */
    MISSING = -2,
};

/* Held from the first look at muster.migrations to the end of the run. Any number does. */
#define RUN_LOCK "4716820301"

static const char command[] = "migrate";

/* Told before anything is tried: an old server, a role that could not get past the first file. */
static int check_server(struct sql_admin *admin)
{
    struct sql_rows *rows = NULL;
    int err;
    bool may;

    if (sql_admin_server_version(admin) < OLDEST_SERVER)
        return cli_fail(CLI_FAILED, command, "PostgreSQL %d came, 15 or newer was expected",
                        sql_admin_server_version(admin) / 10000);
    err = sql_admin_exec(
        admin,
        "SELECT rolsuper OR rolcreaterole, current_user FROM pg_roles WHERE rolname = current_user",
        0, NULL, &rows);
    if (err)
        return database_fail(admin, command, err);
    may = sql_rows_count(rows) == 1 && strcmp(sql_rows_get(rows, 0, 0), "t") == 0;
    if (!may)
        (void)cli_fail(CLI_FAILED, command,
                       "the role %s may not create roles; set " DATABASE_ADMIN_DSN
                       " to a superuser's connection string",
                       sql_rows_count(rows) == 1 ? sql_rows_get(rows, 0, 1) : "of the connection");
    sql_rows_free(rows);
    return may ? CLI_DONE : CLI_FAILED;
}

static int take_run_lock(struct sql_admin *admin)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, "SELECT pg_try_advisory_lock(" RUN_LOCK ")", 0, NULL, &rows);

    if (!err && strcmp(sql_rows_get(rows, 0, 0), "f") == 0) {
        puts("another `muster migrate` is at work; waiting for it");
        (void)fflush(stdout); /* only a notice, and the wait can be long */
        err = sql_admin_exec(admin, "SELECT pg_advisory_lock(" RUN_LOCK ")", 0, NULL, NULL);
    }
    sql_rows_free(rows);
    return err ? database_fail(admin, command, err) : CLI_DONE;
}

/* Read what is applied: number, name, sha256, time; in a database without our schema, no rows. */
static int load_applied(struct sql_admin *admin, struct sql_rows **ret_rows)
{
    static const char none[] = "SELECT WHERE false";
    /* clang-format off */
    static const char all[] = "SELECT number, name, sha256, " DATABASE_TIME("applied_at")
                              " FROM muster.migrations ORDER BY number";
    /* clang-format on */
    struct schema schema;
    int code = database_look(admin, command, &schema), err;

    if (code != CLI_DONE)
        return code;
    err = sql_admin_exec(admin, schema.migrated ? all : none, 0, NULL, ret_rows);
    return err ? database_fail(admin, command, err) : CLI_DONE;
}

/* The row of a migration among the applied ones, CHANGED or MISSING. */
static int applied_row(const struct sql_rows *applied, const struct migration *m)
{
    for (int i = 0; i < sql_rows_count(applied); i++) {
        if (atoi(sql_rows_get(applied, i, 0)) != m->number)
            continue;
        if (strcmp(sql_rows_get(applied, i, 1), m->name) ||
            strcmp(sql_rows_get(applied, i, 2), m->sha256))
            return CHANGED;
        return i;
    }
    return MISSING;
}

/* Before the first step: what is applied has to be what this program carries. */
static int check_unchanged(const struct sql_rows *applied)
{
    int code = CLI_DONE;

    for (size_t i = 0; i < n_migrations; i++)
        if (applied_row(applied, &migrations[i]) == CHANGED)
            code = cli_fail(
                CLI_FAILED, command,
                "%s was applied to this database with other contents than this program has; "
                "use the program that applied it, or restore the file and add a new one",
                migrations[i].name);
    return code;
}

static int record(struct sql_admin *admin, const struct migration *m)
{
    char number[12];
    const char *row[] = {number, m->name, m->sha256};

    (void)snprintf(number, sizeof number, "%d", m->number); /* it fits */
    return sql_admin_exec(
        admin, "INSERT INTO muster.migrations (number, name, sha256) VALUES ($1, $2, $3)", 3, row,
        NULL);
}

static int apply(struct sql_admin *admin, const struct migration *m)
{
    /* Behind a table's lock that is waited for, everybody waits who reads the table: the brokers too. */
    static const char begin[] = "BEGIN; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '5s'";
    int code = CLI_DONE;
    int err = sql_admin_script(admin, begin);

    if (!err)
        err = sql_admin_script(admin, m->sql);
    if (!err && m != &migration_always)
        err = record(admin, m);
    if (err)
        code = cli_fail(CLI_FAILED, command, "%s: %s; nothing of it was kept%s", m->name, sql_admin_error(admin),
                        strcmp(sql_admin_sqlstate(admin), "55P03") == 0
                            ? "; a transaction of somebody's has held a table for 5 s (a dump?): run it again when it is over"
                            : "");
    return database_end(admin, command, code);
}

/* True when a newer program was here: its always.sql knows more than ours, which would undo it. */
static bool has_newer(const struct sql_rows *applied)
{
    for (int i = 0; i < sql_rows_count(applied); i++)
        if (atoi(sql_rows_get(applied, i, 0)) > migrations[n_migrations - 1].number)
            return true;
    return false;
}

static int apply_missing(struct sql_admin *admin, const struct sql_rows *applied)
{
    size_t n = 0;

    for (size_t i = 0; i < n_migrations; i++) {
        if (applied_row(applied, &migrations[i]) != MISSING)
            continue;
        if (apply(admin, &migrations[i]))
            return CLI_FAILED;
        printf("applied %s\n", migrations[i].name);
        n++;
    }
    if (!has_newer(applied) && apply(admin, &migration_always))
        return CLI_FAILED;
    printf("%zu applied, %zu in all\n", n, n_migrations);
    return CLI_DONE;
}

/* Not an error: the schema is right either way, and the restart it takes may come later. */
static int warn_wal_level(struct sql_admin *admin)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, "SELECT current_setting('wal_level')", 0, NULL, &rows);

    if (err)
        return database_fail(admin, command, err);
    if (strcmp(sql_rows_get(rows, 0, 0), "logical") != 0)
        (void)cli_fail(CLI_DONE, command,
                       "warning: wal_level is %s, so no change can be captured; as a superuser: "
                       "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL",
                       sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return CLI_DONE;
}

/* Not an error either: a database keeps its encoding for life, and most rows will do. In SQL_ASCII
 * nothing is converted. */
static int warn_encoding(struct sql_admin *admin)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, "SELECT getdatabaseencoding()", 0, NULL, &rows);
    const char *encoding;

    if (err)
        return database_fail(admin, command, err);
    encoding = sql_rows_get(rows, 0, 0);
    if (strcmp(encoding, "UTF8") != 0 && strcmp(encoding, "SQL_ASCII") != 0)
        (void)cli_fail(CLI_DONE, command,
                       "warning: the database's encoding is %s: a single row with a character that "
                       "has no UTF-8 form stops the capture for every tenant; UTF8 was expected",
                       encoding);
    sql_rows_free(rows);
    return CLI_DONE;
}

static int migrate(struct sql_admin *admin)
{
    struct sql_rows *applied = NULL;
    int code = check_server(admin);

    if (code == CLI_DONE)
        code = take_run_lock(admin);
    if (code == CLI_DONE)
        code = load_applied(admin, &applied);
    if (code == CLI_DONE)
        code = check_unchanged(applied);
    if (code == CLI_DONE)
        code = apply_missing(admin, applied);
    if (code == CLI_DONE)
        code = warn_wal_level(admin);
    if (code == CLI_DONE)
        code = warn_encoding(admin);
    sql_rows_free(applied);
    return code;
}

struct status_line {
    const char *name, *state;
    const char *applied_at; /* NULL: not applied */
};

static void put_status(struct buf *out, bool json, const struct status_line *line)
{
    if (!json) {
        buf_printf(out, "%-24s %-8s %s\n", line->name, line->state,
                   line->applied_at ? line->applied_at : "");
        return;
    }
    buf_printf(out, "%s{\"name\":\"%s\",\"state\":\"%s\"", out->len > 1 ? "," : "", line->name,
               line->state);
    if (line->applied_at)
        buf_printf(out, ",\"applied_at\":\"%s\"", line->applied_at);
    buf_putc(out, '}');
}

static struct status_line status_of(const struct sql_rows *applied, const struct migration *m)
{
    int row = applied_row(applied, m);
    struct status_line line = {.name = m->name, .state = "applied"};

    if (row == MISSING)
        line.state = "pending";
    else if (row == CHANGED)
        line.state = "changed";
    else
        line.applied_at = sql_rows_get(applied, row, 3);
    return line;
}

/* Migrations of a newer program; they keep the previous version, this one, working. */
static void put_newer(struct buf *out, bool json, const struct sql_rows *applied)
{
    int last = migrations[n_migrations - 1].number;

    for (int i = 0; i < sql_rows_count(applied); i++)
        if (atoi(sql_rows_get(applied, i, 0)) > last)
            put_status(out, json,
                       &(struct status_line){sql_rows_get(applied, i, 1), "newer",
                                             sql_rows_get(applied, i, 3)});
}

static int print_status(struct sql_admin *admin, bool json)
{
    struct sql_rows *applied = NULL;
    struct buf out = {0};
    int code = load_applied(admin, &applied);

    if (code)
        return code;
    if (json)
        buf_putc(&out, '[');
    for (size_t i = 0; i < n_migrations; i++) {
        struct status_line line = status_of(applied, &migrations[i]);

        put_status(&out, json, &line);
    }
    put_newer(&out, json, applied);
    put_status(&out, json, &(struct status_line){.name = migration_always.name, .state = "each run"});
    if (json)
        buf_puts(&out, "]\n");
    if (buf_failed(&out)) {
        code = cli_fail(CLI_FAILED, command, "no memory");
    } else {
        fputs(out.data, stdout);
        code = check_unchanged(applied);
    }
    buf_done(&out);
    sql_rows_free(applied);
    return code;
}

int cmd_migrate(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        {"status", no_argument, NULL, 's'},
        {"json", no_argument, NULL, 'j'},
        {"tenant", required_argument, NULL, 't'},
        {0},
    };
    struct sql_admin *admin = NULL;
    bool status = false, json = false, tenant = false;
    int code, c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command,
                            "%s came, --status, --json or --tenant T was expected",
                            argv[optind - 1]);
        status |= c == 's';
        json |= c == 'j';
        tenant |= c == 't'; /* the schema is the same for every tenant */
    }
    if (optind < argc)
        return cli_fail(CLI_USAGE, command, "%s came, no argument was expected", argv[optind]);
    if ((json || tenant) && !status)
        return cli_fail(CLI_USAGE, command, "%s belongs to --status", json ? "--json" : "--tenant");
    code = status ? database_connect(cli, command, &admin) : database_connect_admin(command, &admin);
    if (code == CLI_DONE)
        code = status ? print_status(admin, json) : migrate(admin);
    sql_admin_close(admin);
    return code;
}
