/*
 * The command line's connection to PostgreSQL; see admin.h.
 *
 * Texts of libpq are never passed on where they could carry a password: a connection string that
 * does not parse is refused in our own words, because libpq would quote it.
 */
#include "sql/admin.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "muster/plugin.h"

struct sql_admin {
    PGconn *conn; /* NULL when the connection string could not be parsed */
    char *error;  /* one line; NULL before the first failure, or when there was no memory for it */
    char sqlstate[6];
};

struct sql_rows {
    PGresult *result;
};

/* Append text without its line breaks and the blanks around them. */
static void put_line(struct buf *b, const char *text)
{
    bool gap = false;

    for (; *text; text++) {
        if (strchr(" \t\r\n", *text)) {
            gap = true;
            continue;
        }
        if (gap && b->len > 0)
            buf_putc(b, ' ');
        gap = false;
        buf_putc(b, *text);
    }
}

static int fail_with(struct sql_admin *admin, int code, const char *sqlstate, const char *text)
{
    struct buf line = {0};

    put_line(&line, text);
    free(admin->error);
    admin->error = buf_take(&line);
    snprintf(admin->sqlstate, sizeof admin->sqlstate, "%s", sqlstate);
    return code;
}

static int code_of(const struct sql_admin *admin, const char *sqlstate)
{
    static const struct {
        const char *prefix;
        int code;
    } known[] = {
        {"42501", MUSTER_EACCES},    {"28", MUSTER_EACCES},       {"42P01", MUSTER_ENOTFOUND},
        {"42883", MUSTER_ENOTFOUND}, {"3F000", MUSTER_ENOTFOUND}, {"08", MUSTER_ELINK},
        {"57P", MUSTER_ELINK},
    };

    if (PQstatus(admin->conn) != CONNECTION_OK)
        return MUSTER_ELINK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(sqlstate, known[i].prefix, strlen(known[i].prefix)) == 0)
            return known[i].code;
    return MUSTER_EINVAL;
}

/* Keep primary message, detail and hint of a failed statement. result may be NULL. */
static int fail_result(struct sql_admin *admin, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
    struct buf text = {0};
    int err;

    /* Without a primary message the failure is libpq's own, most often a lost connection. */
    buf_puts(&text, primary ? primary : PQerrorMessage(admin->conn));
    if (detail)
        buf_printf(&text, " (%s)", detail);
    if (hint)
        buf_printf(&text, ". %s", hint);
    if (!state)
        state = "";
    err =
        fail_with(admin, code_of(admin, state), state, buf_failed(&text) ? "no memory" : text.data);
    buf_done(&text);
    return err;
}

/* NOTICEs of idempotent statements are no news; what matters is asked for by the callers. */
static void drop_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

static bool dsn_parses(const char *dsn)
{
    PQconninfoOption *options = PQconninfoParse(dsn, NULL);

    PQconninfoFree(options);
    return options != NULL;
}

static int connect_to(struct sql_admin *admin, const char *dsn, const char *application, unsigned int seconds)
{
    char timeout[16];
    /* What stands before dbname yields to the connection string, what follows it does not. */
    const char *const keywords[] = {"connect_timeout", "dbname", "application_name",
                                    "client_encoding", NULL};
    const char *const values[] = {timeout, dsn, application, "UTF8", NULL};

    (void)snprintf(timeout, sizeof timeout, "%u", seconds);
    if (!dsn_parses(dsn))
        return fail_with(
            admin, MUSTER_EINVAL, "",
            "not a connection string; postgresql://user@host:5432/database was expected");
    admin->conn = PQconnectdbParams(keywords, values, 1);
    if (!admin->conn)
        return fail_with(admin, MUSTER_ENOMEM, "", "no memory for a connection");
    if (PQstatus(admin->conn) != CONNECTION_OK)
        return fail_with(admin, MUSTER_ELINK, "", PQerrorMessage(admin->conn));
    PQsetNoticeReceiver(admin->conn, drop_notice, NULL);
    return 0;
}

int sql_admin_open_within(const char *dsn, const char *name, unsigned int seconds, struct sql_admin **ret_admin)
{
    struct sql_admin *admin = calloc(1, sizeof *admin);
    struct buf application = {0};
    int err;

    if (!admin)
        return MUSTER_ENOMEM;
    *ret_admin = admin;
    buf_puts(&application, "muster");
    if (name)
        buf_printf(&application, " %s", name);
    err = buf_failed(&application) ? fail_with(admin, MUSTER_ENOMEM, "", "no memory")
                                   : connect_to(admin, dsn, application.data, seconds);
    buf_done(&application);
    return err;
}

int sql_admin_open(const char *dsn, const char *name, struct sql_admin **ret_admin)
{
    return sql_admin_open_within(dsn, name, 10, ret_admin);
}

void sql_admin_close(struct sql_admin *admin)
{
    if (!admin)
        return;
    PQfinish(admin->conn);
    free(admin->error);
    free(admin);
}

const char *sql_admin_error(const struct sql_admin *admin)
{
    return admin && admin->error ? admin->error : "no memory";
}

const char *sql_admin_sqlstate(const struct sql_admin *admin)
{
    return admin->sqlstate;
}

int sql_admin_server_version(const struct sql_admin *admin)
{
    return PQserverVersion(admin->conn);
}

/* Take over result: as rows, or as the reason of the failure. */
static int finish(struct sql_admin *admin, PGresult *result, struct sql_rows **ret_rows)
{
    ExecStatusType status = PQresultStatus(result);
    struct sql_rows *rows;
    int err = 0;

    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY)
        err = fail_result(admin, result);
    if (err || !ret_rows) {
        PQclear(result);
        return err;
    }
    rows = malloc(sizeof *rows);
    if (!rows) {
        PQclear(result);
        return fail_with(admin, MUSTER_ENOMEM, "", "no memory for the result");
    }
    rows->result = result;
    *ret_rows = rows;
    return 0;
}

int sql_admin_exec(struct sql_admin *admin, const char *sql, int n, const char *const *params,
                   struct sql_rows **ret_rows)
{
    return finish(admin, PQexecParams(admin->conn, sql, n, NULL, params, NULL, NULL, 0), ret_rows);
}

int sql_admin_script(struct sql_admin *admin, const char *script)
{
    return finish(admin, PQexec(admin->conn, script), NULL);
}

int sql_rows_count(const struct sql_rows *rows)
{
    return PQntuples(rows->result);
}

const char *sql_rows_get(const struct sql_rows *rows, int row, int column)
{
    if (PQgetisnull(rows->result, row, column))
        return NULL;
    return PQgetvalue(rows->result, row, column);
}

void sql_rows_free(struct sql_rows *rows)
{
    if (!rows)
        return;
    PQclear(rows->result);
    free(rows);
}

/* ---- logins of others ----------------------------------------------------------------------------------------------------------- */

int sql_admin_verifier(struct sql_admin *admin, const char *user, const char *password, char **ret_verifier)
{
    char *verifier = PQencryptPasswordConn(admin->conn, password, user, "scram-sha-256");

    if (!verifier)
        return fail_with(admin, MUSTER_EINVAL, "", PQerrorMessage(admin->conn));
    *ret_verifier = strdup(verifier);
    PQfreemem(verifier);
    return *ret_verifier ? 0 : fail_with(admin, MUSTER_ENOMEM, "", "no memory");
}

static void put_option(struct buf *out, const char *keyword, const char *value)
{
    if (!value || !*value)
        return;
    buf_printf(out, "%s%s='", out->len ? " " : "", keyword);
    for (; *value; value++) {
        if (strchr("'\\", *value))
            buf_putc(out, '\\');
        buf_putc(out, *value);
    }
    buf_putc(out, '\'');
}

/* Where the server is, and how its word is trusted; who asks is another. */
void sql_admin_put_dsn(struct sql_admin *admin, const char *user, const char *password, struct buf *out)
{
    static const char *const kept[] = {"hostaddr", "sslmode", "sslrootcert", "sslcrl", "channel_binding", "target_session_attrs"};
    PQconninfoOption *options = PQconninfo(admin->conn);

    put_option(out, "host", PQhost(admin->conn));
    put_option(out, "port", PQport(admin->conn));
    put_option(out, "dbname", PQdb(admin->conn));
    for (PQconninfoOption *o = options; o && o->keyword; o++)
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (o->val && strcmp(o->keyword, kept[i]) == 0 && (!o->compiled || strcmp(o->val, o->compiled) != 0))
                put_option(out, o->keyword, o->val);
    put_option(out, "user", user);
    put_option(out, "password", password);
    PQconninfoFree(options);
}
