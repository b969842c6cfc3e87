/*
 * muster plugin role - the login of a plugin in PostgreSQL.
 *
 * It may connect and no more: what it needs of the application's tables an operator grants, under row level security like any other. Of
 * schema muster it sees nothing, and a role that somebody let into it is refused here. Its password is random, leaves this program in one
 * file that only its owner reads, and reaches the server as a verifier.
 */
#include <getopt.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "cli/cli.h"
#include "cli/database.h"
#include "cli/file.h"
#include "cli/plugin.h"

static const char command[] = "plugin";

#define PREFIX "muster_plugin_"
enum { NAME_MAX_OF_ROLE = 63 - (sizeof PREFIX - 1), PASSWORD_BYTES = 32, DEFAULT_CONNECTIONS = 20, MAX_CONNECTIONS = 10000 };

struct role_order {
    const char *name, *out;
    long connections;
};

static int parse(int argc, char **argv, struct role_order *o)
{
    static const struct option options[] = {{"out", required_argument, NULL, 'o'}, {"connections", required_argument, NULL, 'n'}, {0}};
    char *end = "";
    int c;

    optind = 0; /* as the first call of this process */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "role: %s came, NAME [--out FILE] [--connections N] was expected", argv[optind - 1]);
        if (c == 'o')
            o->out = optarg;
        else
            o->connections = strtol(optarg, &end, 10);
        if (*end || o->connections < 1 || o->connections > MAX_CONNECTIONS)
            return cli_fail(CLI_USAGE, command, "role: --connections %s came, 1 to %d was expected", optarg, MAX_CONNECTIONS);
    }
    if (argc - optind != 1)
        return cli_fail(CLI_USAGE, command, "role: %d names came, the NAME of a plugin was expected", argc - optind);
    o->name = argv[optind];
    if (!name_is_public(o->name, strlen(o->name)) || strlen(o->name) > NAME_MAX_OF_ROLE)
        return cli_fail(CLI_USAGE, command, "role: %s came, the name of a plugin was expected, of at most %d bytes", o->name, NAME_MAX_OF_ROLE);
    return CLI_DONE;
}

static int exec_made(struct sql_admin *admin, const char *making, int n, const char *const *params)
{
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, making, n, params, &rows);

    if (!err)
        err = sql_admin_exec(admin, sql_rows_get(rows, 0, 0), 0, NULL, NULL);
    sql_rows_free(rows);
    return err;
}

/* Attributes are put right each time; grants stay as they are. */
static int make_role(struct sql_admin *admin, const char *role, const char *verifier, const char *connections)
{
    const char *const params[] = {role, verifier, connections};
    int err = exec_made(admin,
                        "SELECT format('%s ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOREPLICATION NOCREATEDB NOCREATEROLE '"
                        " || 'CONNECTION LIMIT %s PASSWORD %L',"
                        " CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text) THEN 'ALTER' ELSE 'CREATE' END,"
                        " $1::text, $3::int, $2::text)",
                        3, params);

    return err ? err : exec_made(admin, "SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1::text)", 1, params);
}

/* By a grant of somebody, to it, to a role it is a member of, or to all. */
static int check_reach(struct sql_admin *admin, const char *role)
{
    const char *const params[] = {role};
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin,
                             "SELECT 'schema muster' FROM pg_namespace"
                             " WHERE nspname = 'muster' AND has_schema_privilege($1::text, oid, 'USAGE, CREATE')"
                             " UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname <> $1::text AND pg_has_role($1::text, oid, 'MEMBER')"
                             " AND (rolsuper OR rolbypassrls OR rolreplication"
                             " OR rolname IN ('muster_owner', 'muster_engine', 'muster_broker', 'pg_read_server_files',"
                             " 'pg_write_server_files', 'pg_execute_server_program'))",
                             1, params, &rows);
    int code = CLI_DONE;

    if (err)
        return database_fail(admin, command, err);
    if (sql_rows_count(rows) > 0)
        code = cli_fail(CLI_FAILED, command, "role: somebody has let %s into %s, where every tenant's data is open to it; revoke that first", role,
                        sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return code;
}

static bool make_password(struct buf *out)
{
    unsigned char bytes[PASSWORD_BYTES];
    bool made = RAND_bytes(bytes, sizeof bytes) == 1;

    if (made)
        buf_put_base64url(out, bytes, sizeof bytes);
    OPENSSL_cleanse(bytes, sizeof bytes);
    return made && !buf_failed(out);
}

static int change(struct sql_admin *admin, const char *role, const char *password, long connections)
{
    char limit[24], *verifier = NULL;
    int err = sql_admin_verifier(admin, role, password, &verifier);

    (void)snprintf(limit, sizeof limit, "%ld", connections);
    if (!err)
        err = make_role(admin, role, verifier, limit);
    free(verifier);
    return err ? database_fail(admin, command, err) : check_reach(admin, role);
}

/* The file and the password change together, or neither. */
static int write_both(struct sql_admin *admin, const struct role_order *o, const char *role, const char *password)
{
    struct buf dsn = {0};
    struct file_error fault;
    char file[80];
    int code = CLI_DONE;

    (void)snprintf(file, sizeof file, "%s.dsn", o->name);
    sql_admin_put_dsn(admin, role, password, &dsn);
    buf_putc(&dsn, '\n');
    if (buf_failed(&dsn))
        code = cli_fail(CLI_FAILED, command, "role: no memory");
    else if (file_stage(o->out ? o->out : file, FILE_SECRET, &dsn, &fault) != 0)
        code = cli_fail(CLI_FAILED, command, "role: %s", fault.text);
    if (dsn.data)
        OPENSSL_cleanse(dsn.data, dsn.len);
    buf_done(&dsn);
    if (code != CLI_DONE)
        return database_end(admin, command, code);
    code = database_end(admin, command, CLI_DONE);
    if (code != CLI_DONE)
        file_discard(o->out ? o->out : file);
    else if (file_commit(o->out ? o->out : file, &fault) != 0)
        code = cli_fail(CLI_FAILED, command, "role: %s; the password has changed: run the command again", fault.text);
    if (code == CLI_DONE)
        printf("%s: the connection string of %s\n", o->out ? o->out : file, role);
    return code;
}

static int order(struct sql_admin *admin, const struct role_order *o)
{
    struct buf password = {0};
    char role[NAME_MAX_OF_ROLE + sizeof PREFIX];
    int code = CLI_DONE, err;

    (void)snprintf(role, sizeof role, PREFIX "%s", o->name);
    if (!make_password(&password))
        return cli_fail(CLI_FAILED, command, "role: no random bytes for a password");
    err = sql_admin_script(admin, "BEGIN");
    code = err ? database_fail(admin, command, err) : change(admin, role, password.data, o->connections);
    code = code == CLI_DONE ? write_both(admin, o, role, password.data) : database_end(admin, command, code);
    OPENSSL_cleanse(password.data, password.len);
    buf_done(&password);
    return code;
}

int plugin_role(const struct cli *cli, int argc, char **argv)
{
    struct role_order o = {.connections = DEFAULT_CONNECTIONS};
    struct sql_admin *admin = NULL;
    int code = parse(argc, argv, &o);

    (void)cli;
    if (code == CLI_DONE)
        code = database_connect_admin(command, &admin);
    if (code == CLI_DONE)
        code = order(admin, &o);
    sql_admin_close(admin);
    return code;
}
