/*
 * cli/database.h - how subcommands reach PostgreSQL and tell what went wrong there.
 *
 * Shape    One blocking connection a command. search_path is pg_catalog alone, so that nothing a
 *          user made in a schema of his own can stand in for a function or an operator of ours:
 *          tables are named in full.
 * Errors   CLI_DONE or CLI_FAILED; whoever returns CLI_FAILED has told the reason on stderr.
 */
#ifndef MUSTER_CLI_DATABASE_H
#define MUSTER_CLI_DATABASE_H

#include "cli/cli.h"
#include "cli/schema.h"
#include "sql/admin.h"

#define DATABASE_ADMIN_DSN "MUSTER_POSTGRES_ADMIN_DSN"
/* RFC 3339 with microseconds, of a timestamptz column. */
#define DATABASE_TIME(column)                                                                      \
    "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

/* Connect with MUSTER_POSTGRES_ADMIN_DSN where it is set, else with the configuration's DSN. Fails
 * where schema muster is missing or is not ours. */
int database_open(const struct cli *cli, const char *command, struct sql_admin **ret_admin);
/* The same without that look: what is in schema muster must not be read before one. */
int database_connect(const struct cli *cli, const char *command, struct sql_admin **ret_admin);
/* Connect with MUSTER_POSTGRES_ADMIN_DSN only, without the look too. */
int database_connect_admin(const char *command, struct sql_admin **ret_admin);
/* Look at schema muster (cli/schema.h); fails where it is somebody else's, not where it is missing. */
int database_look(struct sql_admin *admin, const char *command, struct schema *ret_schema);
/* Tell when there is no such tenant, and which may be meant. CLI_DONE also where nobody can be asked. */
int database_check_tenant(const struct cli *cli, const char *command, const char *tenant);
/* The same of a database that is open, and of one that cannot be asked. */
int database_known_tenant(struct sql_admin *admin, const char *command, const char *tenant);
/* Tell the failure err of the last statement, with what to do about it. Returns CLI_FAILED. */
int database_fail(const struct sql_admin *admin, const char *command, int err);
/* Commit when code is CLI_DONE, else roll back. Returns the code that is true then. */
int database_end(struct sql_admin *admin, const char *command, int code);

#endif
