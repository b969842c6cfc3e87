/*
 * cli/login.h - a role of PostgreSQL that logs in by a password nobody types: random, kept in one file that only its owner reads,
 * known to the server as a verifier.
 *
 * Errors   CLI_DONE or CLI_FAILED; whoever returns CLI_FAILED has told the reason on stderr.
 */
#ifndef MUSTER_CLI_LOGIN_H
#define MUSTER_CLI_LOGIN_H

#include "cli/database.h"

struct login {
    const char *role, *password;
};

/* Run the statement that a query makes of the parameters. 0 or a negative MUSTER_E*. */
int login_exec_made(struct sql_admin *admin, const char *making, int n, const char *const *params);
/* False without memory or random bytes. The caller wipes it. */
bool login_make_password(struct buf *out);
/* Fail where somebody has let the role into schema muster or into a role to which other tenants' rows are open. Of tenants' roles
 * only own may be reached; NULL: none. */
int login_check_reach(struct sql_admin *admin, const char *command, const char *role, const char *own);
/* Commit the transaction that has set the password, and write the connection string to file: both, or neither. */
int login_commit(struct sql_admin *admin, const char *command, const char *file, const struct login *login);

#endif
