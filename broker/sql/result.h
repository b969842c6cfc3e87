/*
 * sql/result.h - answers of PostgreSQL as plugins see them. Private to sql/.
 */
#ifndef MUSTER_SQL_RESULT_H
#define MUSTER_SQL_RESULT_H

#include <libpq-fe.h>
#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>

enum { SQL_ERROR_SIZE = 512 };

/* pub is what a callback gets; it points into the rest, so a result is never copied. */
struct sql_result {
    struct muster_sql_result pub;
    const PGresult *pg; /* borrowed; NULL: no rows */
    char text[SQL_ERROR_SIZE];
};

/* Show pg, which is a finished statement, good or bad. */
void result_show(struct sql_result *r, const PGresult *pg);
/* Show an error of our own. */
void result_show_error(struct sql_result *r, int code, const char *text);
bool result_is_error(const PGresult *pg);
/* SQLSTATE, "" when there is none: then libpq made the error itself. */
const char *result_sqlstate(const PGresult *pg);
/* True when the server ends the connection with this error, or libpq tells that it has ended. */
bool result_ends_link(const PGresult *pg);
/* Copy text up to size with its line breaks as blanks; never cuts a UTF-8 character. */
void result_one_line(const char *text, char *out, size_t size);

#endif
