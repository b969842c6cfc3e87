/* Answers of PostgreSQL as plugins see them; see result.h. No state; any thread. */
#include "sql/result.h"

#include <string.h>

/* The public part is the first member of struct sql_result. */
static const char *get_value(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    const PGresult *pg = ((const struct sql_result *)result)->pg;

    if (row >= result->n_rows || column >= result->n_columns)
        return NULL;
    return PQgetisnull(pg, (int)row, (int)column) ? NULL : PQgetvalue(pg, (int)row, (int)column);
}

bool result_is_error(const PGresult *pg)
{
    ExecStatusType status = PQresultStatus(pg);

    return status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC;
}

const char *result_sqlstate(const PGresult *pg)
{
    const char *state = PQresultErrorField(pg, PG_DIAG_SQLSTATE);

    return state ? state : "";
}

/* libpq's own errors have no severity, and mean the same. */
bool result_ends_link(const PGresult *pg)
{
    const char *severity;

    if (PQresultStatus(pg) != PGRES_FATAL_ERROR)
        return false;
    severity = PQresultErrorField(pg, PG_DIAG_SEVERITY_NONLOCALIZED);
    return !severity || strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0;
}

/* Cut between two characters, not inside one. */
void result_one_line(const char *text, char *out, size_t size)
{
    size_t len = strnlen(text, size - 1);

    while (len > 0 && text[len] && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    while (len > 0 && strchr("\r\n ", text[len - 1]))
        len--;
    for (size_t i = 0; i < len; i++)
        out[i] = strchr("\r\n\t", text[i]) ? ' ' : text[i];
    out[len] = '\0';
}

/* What a SQLSTATE means to a caller; by class or whole, first match. */
static int code_of(const char *sqlstate)
{
    static const struct {
        const char *prefix;
        int code;
    } known[] = {
        {"55P03", MUSTER_ETIME}, /* lock_timeout */
        {"57014", MUSTER_ETIME}, /* statement_timeout */
        {"40", MUSTER_ETIME},    /* deadlock, serialization: a lock in other words */
        {"53", MUSTER_EAGAIN},   /* disk full, out of memory: later, not never */
        {"08", MUSTER_ELINK},
        {"57P", MUSTER_ELINK},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(sqlstate, known[i].prefix, strlen(known[i].prefix)) == 0)
            return known[i].code;
    return MUSTER_EINVAL;
}

static void show(struct sql_result *r, int code, const char *sqlstate)
{
    r->pub = (struct muster_sql_result){
        .size = sizeof r->pub,
        .code = code,
        .error = r->text,
        .sqlstate = sqlstate,
        .get = get_value,
    };
}

void result_show_error(struct sql_result *r, int code, const char *text)
{
    show(r, code, "");
    r->pg = NULL;
    result_one_line(text, r->text, sizeof r->text);
}

void result_show(struct sql_result *r, const PGresult *pg)
{
    const char *message = PQresultErrorField(pg, PG_DIAG_MESSAGE_PRIMARY);

    if (result_is_error(pg)) {
        show(r, code_of(result_sqlstate(pg)), result_sqlstate(pg));
        r->pg = NULL;
        result_one_line(message ? message : PQresStatus(PQresultStatus(pg)), r->text, sizeof r->text);
        return;
    }
    show(r, 0, "");
    r->pg = pg;
    r->text[0] = '\0';
    r->pub.n_rows = (uint32_t)PQntuples(pg);
    r->pub.n_columns = (uint32_t)PQnfields(pg);
}
