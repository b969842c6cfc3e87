/*
 * cli/table_name.h - [schema.]table as people write it, read by PostgreSQL's rules.
 *
 * A name without quotes is folded to lower case; in double quotes it is taken as it is, "" being
 * one quote. Without a schema it is public: the command line does not follow anybody's search_path.
 */
#ifndef MUSTER_CLI_TABLE_NAME_H
#define MUSTER_CLI_TABLE_NAME_H

enum { TABLE_NAME_PART = 64 }; /* PostgreSQL's NAMEDATALEN, with the NUL */

struct table_name {
    char schema[TABLE_NAME_PART], table[TABLE_NAME_PART];
};

/* NULL on success, else what was expected, for the error message. */
const char *table_name_parse(const char *text, struct table_name *ret_name);

#endif
