/*
 * cli/replica.h - what a table's replica identity lets the brokers see of a deleted row, and whether
 * a column's text can name a tenant; for `publish`, which refuses, and for `doctor`, which tells.
 */
#ifndef MUSTER_CLI_REPLICA_H
#define MUSTER_CLI_REPLICA_H

/* The identity of table $1 (an oid) and of every partition that stores its rows: a row each. $2 is
 * the tenant column, $3 the owner column, each may be NULL. */
extern const char identity_sql[];

/* Its columns: the relation's name; whether it has an identity, whether that holds $2 and $3 (NULL
 * where there is none; true where no column was asked for); the statement that makes it hold $2 by
 * the smallest change. */
enum { IDENTITY_NAME, IDENTITY_ANY, IDENTITY_TENANT, IDENTITY_OWNER, IDENTITY_MEND };

/* Column $2 of table $1 (an oid): a row, or none. */
extern const char column_sql[];

/* Its columns: the type; whether it is generated; whether it is padded with blanks; whether its text
 * can be the name of a tenant (the brokers compare that text as it is); the statement that mends
 * either by another type. */
enum { COLUMN_TYPE, COLUMN_GENERATED, COLUMN_PADDED, COLUMN_NAMES, COLUMN_MEND };

#endif
