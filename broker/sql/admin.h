/*
 * sql/admin.h - blocking SQL for the command line. Never used by the broker's lanes, which have sql/sql.h.
 *
 * Shape    One connection, one statement at a time, text parameters and results.
 * Errors   0 or a negative MUSTER_E*; sql_admin_error() has the reason as one line (primary message, detail, hint).
 *          MUSTER_ELINK: no connection. MUSTER_EACCES: not permitted (42501, 28xxx). MUSTER_ENOTFOUND: undefined table, function or
 *          schema (42P01, 42883, 3F000): most often `muster migrate` has not run. MUSTER_EINVAL: everything else.
 * Memory   sql_rows_free() releases a result; sql_admin_close() the connection. Both accept NULL.
 * Threads  None: one owner.
 */
#ifndef MUSTER_SQL_ADMIN_H
#define MUSTER_SQL_ADMIN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct sql_admin;
struct sql_rows;

/* Connect. application_name is set to "muster NAME" when name is given. On failure *ret_admin is still set where memory allows,
 * so that sql_admin_error() can be read; close it all the same. */
int sql_admin_open(const char *dsn, const char *name, struct sql_admin **ret_admin);
/* The same, but give up after that many seconds, at least 2; else 10. */
int sql_admin_open_within(const char *dsn, const char *name, unsigned int seconds, struct sql_admin **ret_admin);
void sql_admin_close(struct sql_admin *admin);
const char *sql_admin_error(const struct sql_admin *admin);
/* SQLSTATE of the last failure, "" when there is none. */
const char *sql_admin_sqlstate(const struct sql_admin *admin);
int sql_admin_server_version(const struct sql_admin *admin); /* 150018 */

/* Run one statement with n text parameters (NULL is SQL NULL). ret_rows may be NULL when rows do not matter. */
int sql_admin_exec(struct sql_admin *admin, const char *sql, int n, const char *const *params, struct sql_rows **ret_rows);
/* Run a script of several statements, as it is, in one implicit transaction. */
int sql_admin_script(struct sql_admin *admin, const char *script);

/* What ALTER ROLE … PASSWORD takes instead of the password itself, which logs of the server could show. free() it. */
int sql_admin_verifier(struct sql_admin *admin, const char *user, const char *password, char **ret_verifier);
/* Append the connection string of this database for another user, in libpq's keyword form. */
void sql_admin_put_dsn(struct sql_admin *admin, const char *user, const char *password, struct buf *out);

int sql_rows_count(const struct sql_rows *rows);
const char *sql_rows_get(const struct sql_rows *rows, int row, int column); /* NULL for SQL NULL; borrowed from rows */
void sql_rows_free(struct sql_rows *rows);

#endif
