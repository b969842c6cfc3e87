/* Connections and failures of the subcommands that use PostgreSQL; see database.h. */
#include "cli/database.h"

#include <stdlib.h>

#include "config/config.h"
#include "muster/plugin.h"

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

static int open_dsn(const char *dsn, const char *source, const char *command,
                    struct sql_admin **ret_admin)
{
    struct sql_admin *admin = NULL;
    int err = sql_admin_open(dsn, command, &admin);

    if (err) {
        (void)cli_fail(CLI_FAILED, command, "%s: %s", source, sql_admin_error(admin));
        sql_admin_close(admin);
        return CLI_FAILED;
    }
    err = sql_admin_exec(admin, "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)",
                         0, NULL, NULL);
    if (err) {
        (void)database_fail(admin, command, err);
        sql_admin_close(admin);
        return CLI_FAILED;
    }
    *ret_admin = admin;
    return CLI_DONE;
}

int database_open_admin(const char *command, struct sql_admin **ret_admin)
{
    const char *dsn = getenv(DATABASE_ADMIN_DSN);

    if (!dsn || !*dsn)
        return cli_fail(CLI_FAILED, command,
                        "set " DATABASE_ADMIN_DSN " to the connection string of a superuser, "
                        "for example postgresql://postgres@127.0.0.1/muster");
    return open_dsn(dsn, DATABASE_ADMIN_DSN, command, ret_admin);
}

int database_open(const struct cli *cli, const char *command, struct sql_admin **ret_admin)
{
    const char *dsn = getenv(DATABASE_ADMIN_DSN);

    if (dsn && *dsn)
        return database_open_admin(command, ret_admin);
    dsn = cli->config->postgres.dsn;
    if (!dsn || !*dsn)
        return cli_fail(CLI_FAILED, command,
                        "no database is configured: set postgres.dsn in the configuration, "
                        "MUSTER_POSTGRES_DSN or " DATABASE_ADMIN_DSN);
    return open_dsn(dsn, "postgres.dsn", command, ret_admin);
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
