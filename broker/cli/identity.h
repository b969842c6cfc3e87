/*
 * cli/identity.h - what a table's replica identity lets the brokers see of a deleted row; for
 * `publish`, which refuses, and for `doctor`, which tells.
 */
#ifndef MUSTER_CLI_IDENTITY_H
#define MUSTER_CLI_IDENTITY_H

/* The identity of table $1 (an oid) and of every partition that stores its rows: a row each. $2 is
 * the tenant column, $3 the owner column, each may be NULL. */
extern const char identity_sql[];

/* Its columns: the relation's name; whether it has an identity, whether that holds $2 and $3 (NULL
 * where there is none; true where no column was asked for); the statement that makes it hold $2 by
 * the smallest change. */
enum { IDENTITY_NAME, IDENTITY_ANY, IDENTITY_TENANT, IDENTITY_OWNER, IDENTITY_MEND };

#endif
