/*
 * cli/migrations.h - the files of schemas/sql/, compiled in by embed.cmake, in the order of their
 * numbers.
 */
#ifndef MUSTER_CLI_MIGRATIONS_H
#define MUSTER_CLI_MIGRATIONS_H

#include <stddef.h>

struct migration {
    int number;
    const char *name;   /* the file's name without .sql: "001_roles" */
    const char *sha256; /* of the file, 64 hexadecimal digits */
    const char *sql;
};

extern const struct migration migrations[];
extern const size_t n_migrations;
/* Runs behind them each time and is not recorded: number 0, no sha256. */
extern const struct migration migration_always;

#endif
