/* Passwords, and what a login may reach; see login.h. */
#include "cli/login.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>

#include "cli/file.h"

enum { PASSWORD_BYTES = 32 };

int login_exec_made(struct sql_admin *admin, const char *making, int n, const char *const *params)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, making, n, params, &rows);

    if (!err)
        err = sql_admin_exec(admin, sql_rows_get(rows, 0, 0), 0, NULL, NULL);
    sql_rows_free(rows);
    return err;
}

bool login_make_password(struct buf *out)
{
    unsigned char bytes[PASSWORD_BYTES];
    bool made = RAND_bytes(bytes, sizeof bytes) == 1;

    if (made)
        buf_put_base64url(out, bytes, sizeof bytes);
    OPENSSL_cleanse(bytes, sizeof bytes);
    return made && !buf_failed(out);
}

/* By a grant of somebody, to it, to a role it is a member of, or to all. A tenant's role is found by the name too: its record may
 * stand in another database of the cluster. */
int login_check_reach(struct sql_admin *admin, const char *command, const char *role, const char *own)
{
    static const char sql[] =
        "SELECT 'schema muster' FROM pg_namespace"
        " WHERE nspname = 'muster' AND has_schema_privilege($1::text, oid, 'USAGE, CREATE')"
        " UNION ALL SELECT 'role ' || rolname FROM pg_roles"
        " WHERE rolname <> $1::text AND pg_has_role($1::text, oid, 'MEMBER') AND rolname IS DISTINCT FROM $2::text"
        " AND (rolsuper OR rolbypassrls OR rolreplication OR starts_with(rolname, 'muster_t_') OR $2::text IS NULL AND rolname = 'muster_tenants'"
        " OR rolname IN ('muster_owner', 'muster_engine', 'muster_broker', 'muster_app', 'pg_read_all_data', 'pg_write_all_data',"
        " 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))";
    const char *const params[] = {role, own};
    struct sql_rows *rows = NULL;
    int code = CLI_DONE, err = sql_admin_exec(admin, sql, 2, params, &rows);

    if (err)
        return database_fail(admin, command, err);
    if (sql_rows_count(rows) > 0)
        code = cli_fail(CLI_FAILED, command, "role: somebody has let %s into %s, where every tenant's data is open to it; revoke that first", role,
                        sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return code;
}

static int stage(struct sql_admin *admin, const char *command, const char *file, const struct login *login)
{
    struct buf dsn = {0};
    struct file_error fault;
    int code = CLI_DONE;

    sql_admin_put_dsn(admin, login->role, login->password, &dsn);
    buf_putc(&dsn, '\n');
    if (buf_failed(&dsn))
        code = cli_fail(CLI_FAILED, command, "role: no memory");
    else if (file_stage(file, FILE_SECRET, &dsn, &fault) != 0)
        code = cli_fail(CLI_FAILED, command, "role: %s", fault.text);
    if (dsn.data)
        OPENSSL_cleanse(dsn.data, dsn.len);
    buf_done(&dsn);
    return code;
}

int login_commit(struct sql_admin *admin, const char *command, const char *file, const struct login *login)
{
    struct file_error fault;
    int code = stage(admin, command, file, login);

    if (code != CLI_DONE)
        return database_end(admin, command, code);
    code = database_end(admin, command, CLI_DONE);
    if (code != CLI_DONE)
        file_discard(file);
    else if (file_commit(file, &fault) != 0)
        code = cli_fail(CLI_FAILED, command, "role: %s; the password has changed: run the command again", fault.text);
    if (code == CLI_DONE)
        printf("%s: the connection string of %s\n", file, login->role);
    return code;
}
