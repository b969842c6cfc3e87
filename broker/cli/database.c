/* Connections and failures of the subcommands that use PostgreSQL; see database.h. */
#include "cli/database.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "config/near.h"
#include "muster/plugin.h"

enum { USER_SIZE = 65 };

/* What a person can do about a failure of this kind; "" where the message speaks for itself. */
static const char *advice(int err)
{
    switch (err) {
    case MUSTER_ENOTFOUND:
        return "; has `muster migrate` been run on this database?";
    case MUSTER_EACCES:
        return "; set " DATABASE_ADMIN_DSN " to a role that may do it";
    default:
        return "";
    }
}

int database_fail(const struct sql_admin *admin, const char *command, int err)
{
    return cli_fail(CLI_FAILED, command, "%s%s", sql_admin_error(admin), advice(err));
}

/* Who runs the command, for the audit: a name, or the number where there is none. */
static const char *os_user(char out[USER_SIZE])
{
    struct passwd entry, *found = NULL;
    char text[4096];

    if (getpwuid_r(getuid(), &entry, text, sizeof text, &found) == 0 && found)
        (void)snprintf(out, USER_SIZE, "%s", found->pw_name);
    else
        (void)snprintf(out, USER_SIZE, "uid %ld", (long)getuid());
    return out;
}

static int open_dsn(const char *dsn, const char *source, const char *command,
                    struct sql_admin **ret_admin)
{
    struct sql_admin *admin = NULL;
    char user[USER_SIZE];
    const char *who = os_user(user);
    int err = sql_admin_open(dsn, command, &admin);

    if (err) {
        (void)cli_fail(CLI_FAILED, command, "%s: %s", source, sql_admin_error(admin));
        sql_admin_close(admin);
        return CLI_FAILED;
    }
    err = sql_admin_exec(admin,
                         "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false), pg_catalog.set_config('muster.by', $1, false)",
                         1, &who, NULL);
    if (err) {
        (void)database_fail(admin, command, err);
        sql_admin_close(admin);
        return CLI_FAILED;
    }
    *ret_admin = admin;
    return CLI_DONE;
}

int database_connect_admin(const char *command, struct sql_admin **ret_admin)
{
    const char *dsn = getenv(DATABASE_ADMIN_DSN);

    if (!dsn || !*dsn)
        return cli_fail(CLI_FAILED, command,
                        "set " DATABASE_ADMIN_DSN " to the connection string of a superuser, "
                        "for example postgresql://postgres@127.0.0.1/muster");
    return open_dsn(dsn, DATABASE_ADMIN_DSN, command, ret_admin);
}

int database_connect(const struct cli *cli, const char *command, struct sql_admin **ret_admin)
{
    const char *dsn = getenv(DATABASE_ADMIN_DSN);

    if (dsn && *dsn)
        return database_connect_admin(command, ret_admin);
    dsn = cli->config->postgres.dsn;
    if (!dsn || !*dsn)
        return cli_fail(CLI_FAILED, command,
                        "no database is configured: set postgres.dsn in the configuration, "
                        "MUSTER_POSTGRES_DSN or " DATABASE_ADMIN_DSN);
    return open_dsn(dsn, "postgres.dsn", command, ret_admin);
}

int database_look(struct sql_admin *admin, const char *command, struct schema *ret_schema)
{
    int err = schema_look(admin, ret_schema);

    if (err)
        return database_fail(admin, command, err);
    if (*ret_schema->foreign)
        return cli_fail(CLI_FAILED, command,
                        "%s, muster_owner's was expected, and reading it could run code of another; "
                        "see what it is, and drop it before `muster migrate`",
                        ret_schema->foreign);
    return CLI_DONE;
}

int database_open(const struct cli *cli, const char *command, struct sql_admin **ret_admin)
{
    struct sql_admin *admin = NULL;
    struct schema schema;
    int code = database_connect(cli, command, &admin);

    if (code == CLI_DONE)
        code = database_look(admin, command, &schema);
    if (code == CLI_DONE && !schema.there)
        code = cli_fail(CLI_FAILED, command,
                        "there is no schema muster in this database; first: muster migrate");
    if (code == CLI_DONE)
        *ret_admin = admin;
    else
        sql_admin_close(admin);
    return code;
}

static int judge_tenant(const struct sql_rows *rows, const char *command, const char *tenant)
{
    struct near near = near_to(tenant);
    bool found = false;

    for (int i = 0; i < sql_rows_count(rows) && !found; i++) {
        const char *name = sql_rows_get(rows, i, 0);

        found = strcmp(name, tenant) == 0;
        near_offer(&near, name, strlen(name));
    }
    if (!found && near.n && !buf_failed(&near.names))
        (void)cli_fail(CLI_FAILED, command, "there is no tenant %s; did you mean %s?", tenant, near.names.data);
    else if (!found)
        (void)cli_fail(CLI_FAILED, command, "there is no tenant %s; see `muster tenant list`", tenant);
    near_done(&near);
    return found ? CLI_DONE : CLI_FAILED;
}

static int list_tenants(struct sql_admin *admin, struct sql_rows **ret_rows)
{
    return sql_admin_exec(admin, "SELECT name FROM muster.tenants ORDER BY name", 0, NULL, ret_rows);
}

int database_known_tenant(struct sql_admin *admin, const char *command, const char *tenant)
{
    struct sql_rows *rows = NULL;
    int err = list_tenants(admin, &rows);
    int code = err ? database_fail(admin, command, err) : judge_tenant(rows, command, tenant);

    sql_rows_free(rows);
    return code;
}

/* Whoever only needs NATS must not wait long for a database, nor hear of one that is away. */
int database_check_tenant(const struct cli *cli, const char *command, const char *tenant)
{
    enum { PATIENCE_S = 2 };
    const char *dsn = cli->config->postgres.dsn;
    struct sql_admin *admin = NULL;
    struct sql_rows *rows = NULL;
    struct schema schema;
    int code = CLI_DONE, err = dsn && *dsn ? sql_admin_open_within(dsn, command, PATIENCE_S, &admin) : MUSTER_ELINK;

    if (!err)
        err = sql_admin_script(admin, "SET search_path = pg_catalog; SET statement_timeout = '2s'");
    if (!err)
        err = schema_look(admin, &schema);
    if (!err && (!schema.there || *schema.foreign))
        err = MUSTER_ENOTFOUND;
    if (!err)
        err = list_tenants(admin, &rows);
    if (!err)
        code = judge_tenant(rows, command, tenant);
    sql_rows_free(rows);
    sql_admin_close(admin);
    return code;
}

int database_end(struct sql_admin *admin, const char *command, int code)
{
    int err;

    if (code != CLI_DONE) {
        /* The reason has been told; a roll back that fails means a lost connection, which rolls
         * back as well. */
        (void)sql_admin_script(admin, "ROLLBACK");
        return code;
    }
    err = sql_admin_script(admin, "COMMIT");
    return err ? database_fail(admin, command, err) : CLI_DONE;
}
