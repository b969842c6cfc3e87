/*
 * muster plugin role - the login of a plugin in PostgreSQL.
 *
 * It may connect and no more: what it needs of the application's tables an operator grants, under row level security like any other. Of
 * schema muster it sees nothing, and a role that somebody let into it is refused here. Its password is random, leaves this program in one
 * file that only its owner reads, and reaches the server as a verifier.
 */
#include <getopt.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "cli/cli.h"
#include "cli/database.h"
#include "cli/login.h"
#include "cli/plugin.h"

static const char command[] = "plugin";

#define PREFIX "muster_plugin_"
enum { NAME_MAX_OF_ROLE = 63 - (sizeof PREFIX - 1), DEFAULT_CONNECTIONS = 20, MAX_CONNECTIONS = 10000 };

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

/* Attributes are put right each time; grants stay as they are. */
static int make_role(struct sql_admin *admin, const char *role, const char *verifier, const char *connections)
{
    const char *const params[] = {role, verifier, connections};
    int err = login_exec_made(admin,
                        "SELECT format('%s ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOREPLICATION NOCREATEDB NOCREATEROLE '"
                        " || 'CONNECTION LIMIT %s PASSWORD %L',"
                        " CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text) THEN 'ALTER' ELSE 'CREATE' END,"
                        " $1::text, $3::int, $2::text)",
                        3, params);

    return err ? err : login_exec_made(admin, "SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1::text)", 1, params);
}

static int change(struct sql_admin *admin, const char *role, const char *password, long connections)
{
    char limit[24], *verifier = NULL;
    int err = sql_admin_verifier(admin, role, password, &verifier);

    (void)snprintf(limit, sizeof limit, "%ld", connections);
    if (!err)
        err = make_role(admin, role, verifier, limit);
    free(verifier);
    return err ? database_fail(admin, command, err) : login_check_reach(admin, command, role, NULL);
}

/* The file and the password change together, or neither. */
static int write_both(struct sql_admin *admin, const struct role_order *o, const char *role, const char *password)
{
    char file[80];

    (void)snprintf(file, sizeof file, "%s.dsn", o->name);
    return login_commit(admin, command, o->out ? o->out : file, &(struct login){role, password});
}

static int order(struct sql_admin *admin, const struct role_order *o)
{
    struct buf password = {0};
    char role[NAME_MAX_OF_ROLE + sizeof PREFIX];
    int code = CLI_DONE, err;

    (void)snprintf(role, sizeof role, PREFIX "%s", o->name);
    if (!login_make_password(&password))
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
