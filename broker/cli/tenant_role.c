/*
 * muster tenant role - the role of a tenant in PostgreSQL; see tenant_role.h.
 *
 * It is a member of muster_tenants, which has the grants and the policies; muster.tenant_roles says which tenant it stands for. Roles
 * belong to the cluster: one that exists and is not recorded here may have members that another database has made, and is only taken
 * when asked to.
 */
#include "cli/tenant_role.h"

#include <getopt.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "cli/login.h"

static const char command[] = "tenant";

#define PREFIX "muster_t_"
enum { ROLE_SIZE = 64, MAX_CONNECTIONS = 10000 };

struct order {
    const char *tenant, *out;
    const char *connections; /* NULL: as it is */
    bool adopt;
};

/* PostgreSQL cuts names at 63 bytes, and two tenants must not meet in what is left. */
static void name_role(const char *tenant, char out[ROLE_SIZE])
{
    char token[NAME_TOKEN_SIZE];

    if (strlen(tenant) < sizeof token && strlen(PREFIX) + strlen(tenant) < ROLE_SIZE)
        (void)snprintf(token, sizeof token, "%s", tenant);
    else
        (void)name_hash_token(tenant, strlen(tenant), token);
    (void)snprintf(out, ROLE_SIZE, PREFIX "%.*s", ROLE_SIZE - (int)sizeof PREFIX, token);
}

static int parse(int argc, char **argv, struct order *o)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, 'o'}, {"connections", required_argument, NULL, 'n'}, {"adopt", no_argument, NULL, 'a'}, {0}};
    char *end = "";
    long connections = 1;
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "role: %s came, NAME [--out FILE] [--connections N] [--adopt] was expected", argv[optind - 1]);
        if (c == 'o')
            o->out = optarg;
        else if (c == 'a')
            o->adopt = true;
        else
            connections = strtol(o->connections = optarg, &end, 10);
        if (*end || connections < 1 || connections > MAX_CONNECTIONS)
            return cli_fail(CLI_USAGE, command, "role: --connections %s came, 1 to %d was expected", optarg, MAX_CONNECTIONS);
    }
    if (argc - optind != 1)
        return cli_fail(CLI_USAGE, command, "role: %d names came, the NAME of a tenant was expected", argc - optind);
    if (o->connections && !o->out)
        return cli_fail(CLI_USAGE, command, "role: --connections came without --out: a role that nobody logs in as has none");
    o->tenant = argv[optind];
    return CLI_DONE;
}

struct found {
    bool known, exists, recorded;
};

static bool is_true(const struct sql_rows *rows, int column)
{
    return strcmp(sql_rows_get(rows, 0, column), "t") == 0;
}

/* The tenant cannot go away meanwhile. */
static int look(struct sql_admin *admin, const char *tenant, const char *role, struct found *ret_found)
{
    static const char sql[] = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $2::text),"
                              " EXISTS (SELECT FROM muster.tenant_roles r WHERE r.tenant = t.name AND r.role = $2::text)"
                              " FROM muster.tenants t WHERE t.name = $1::text FOR KEY SHARE";
    const char *const params[] = {tenant, role};
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, sql, 2, params, &rows);

    if (err)
        return database_fail(admin, command, err);
    ret_found->known = sql_rows_count(rows) == 1;
    if (ret_found->known) {
        ret_found->exists = is_true(rows, 0);
        ret_found->recorded = is_true(rows, 1);
    }
    sql_rows_free(rows);
    return CLI_DONE;
}

/* Attributes are put right each time; whether it may log in stays as it is, and so does whom it was granted to. */
static int make_role(struct sql_admin *admin, const char *tenant, const char *role, bool exists)
{
    static const char created[] = "SELECT format('CREATE ROLE %I NOLOGIN', $1::text)",
                      limited[] = "SELECT format('ALTER ROLE %I INHERIT NOSUPERUSER NOBYPASSRLS NOREPLICATION NOCREATEDB NOCREATEROLE', $1::text)",
                      granted[] = "SELECT format('GRANT muster_tenants TO %I', $1::text)",
                      connects[] = "SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1::text)";
    static const char recorded[] = "INSERT INTO muster.tenant_roles (tenant, role) VALUES ($1, $2)"
                                   " ON CONFLICT (tenant) DO UPDATE SET role = excluded.role";
    const char *const params[] = {tenant, role};
    int err = exists ? 0 : login_exec_made(admin, created, 1, &role);

    if (!err)
        err = login_exec_made(admin, limited, 1, &role);
    if (!err)
        err = login_exec_made(admin, granted, 1, &role);
    if (!err)
        err = login_exec_made(admin, connects, 1, &role);
    if (!err)
        err = sql_admin_exec(admin, recorded, 2, params, NULL);
    return err ? database_fail(admin, command, err) : login_check_reach(admin, command, role, role);
}

static int make_login(struct sql_admin *admin, const struct order *o, const char *role)
{
    struct buf password = {0};
    char *verifier = NULL;
    int code, err;

    if (!login_make_password(&password))
        return cli_fail(CLI_FAILED, command, "role: no random bytes for a password");
    err = sql_admin_verifier(admin, role, password.data, &verifier);
    if (!err)
        err = login_exec_made(admin,
                              "SELECT format('ALTER ROLE %I LOGIN CONNECTION LIMIT %s PASSWORD %L', $1::text, coalesce($3::int, rolconnlimit), $2::text)"
                              " FROM pg_roles WHERE rolname = $1::text",
                              3, (const char *const[]){role, verifier, o->connections});
    free(verifier);
    code = err ? database_end(admin, command, database_fail(admin, command, err))
               : login_commit(admin, command, o->out, &(struct login){role, password.data});
    OPENSSL_cleanse(password.data, password.len);
    buf_done(&password);
    return code;
}

static int order(struct sql_admin *admin, const struct order *o)
{
    struct found found = {0};
    char role[ROLE_SIZE];
    int code, err = sql_admin_script(admin, "BEGIN");

    name_role(o->tenant, role);
    code = err ? database_fail(admin, command, err) : look(admin, o->tenant, role, &found);
    if (code == CLI_DONE && !found.known)
        code = database_known_tenant(admin, command, o->tenant);
    else if (code == CLI_DONE && found.exists && !found.recorded && !o->adopt)
        code = cli_fail(CLI_FAILED, command,
                        "role: the role %s exists and is not of this database: whoever was granted it would see the rows of %s; "
                        "DROP ROLE \"%s\" first, or --adopt",
                        role, o->tenant, role);
    if (code == CLI_DONE)
        code = make_role(admin, o->tenant, role, found.exists);
    if (code == CLI_DONE && o->out)
        return make_login(admin, o, role);
    code = database_end(admin, command, code);
    if (code == CLI_DONE)
        printf("%s: sees the rows of %s; GRANT \"%s\" TO whom you like\n", role, o->tenant, role);
    return code;
}

int tenant_role(const struct cli *cli, int argc, char **argv)
{
    struct order o = {0};
    struct sql_admin *admin = NULL;
    struct schema schema;
    int code = parse(argc, argv, &o);

    (void)cli;
    if (code == CLI_DONE)
        code = database_connect_admin(command, &admin);
    if (code == CLI_DONE)
        code = database_look(admin, command, &schema);
    if (code == CLI_DONE)
        code = order(admin, &o);
    sql_admin_close(admin);
    return code;
}

/* Roles are a superuser's: who made muster_tenants is one. */
static int is_ours_to_make(struct sql_admin *admin, bool *ret_ours)
{
    static const char sql[] = "SELECT rolsuper AND to_regclass('muster.tenant_roles') IS NOT NULL FROM pg_roles WHERE rolname = current_user";
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(admin, sql, 0, NULL, &rows);

    if (err)
        return database_fail(admin, command, err);
    *ret_ours = is_true(rows, 0);
    sql_rows_free(rows);
    return CLI_DONE;
}

static int look_if_ours(struct sql_admin *admin, const char *tenant, char role[ROLE_SIZE], struct found *ret_found, bool *ret_ours)
{
    int code = is_ours_to_make(admin, ret_ours);

    name_role(tenant, role);
    return code == CLI_DONE && *ret_ours ? look(admin, tenant, role, ret_found) : code;
}

int tenant_role_add(struct sql_admin *admin, const char *tenant)
{
    struct found found = {0};
    char role[ROLE_SIZE];
    bool ours = false;
    int code = look_if_ours(admin, tenant, role, &found, &ours);

    if (code != CLI_DONE || !ours)
        return code;
    if (!found.exists)
        return make_role(admin, tenant, role, false);
    return cli_fail(CLI_DONE, command, "note: the role %s exists and is not of this database; `muster tenant role %s --adopt` takes it", role,
                    tenant);
}

/* What it owns or was granted elsewhere keeps it: that is for people to see to. */
static int drop(struct sql_admin *admin, const char *tenant, const char *role)
{
    int err = sql_admin_script(admin, "SAVEPOINT role");

    if (!err)
        err = login_exec_made(admin, "SELECT format('REVOKE CONNECT ON DATABASE %I FROM %I', current_database(), $1::text)", 1, &role);
    if (!err)
        err = login_exec_made(admin, "SELECT format('DROP ROLE %I', $1::text)", 1, &role);
    if (!err)
        return CLI_DONE;
    (void)cli_fail(CLI_DONE, command, "note: the role %s of %s stays, and sees nothing any more: %s", role, tenant, sql_admin_error(admin));
    err = sql_admin_script(admin, "ROLLBACK TO SAVEPOINT role");
    return err ? database_fail(admin, command, err) : CLI_DONE;
}

int tenant_role_drop(struct sql_admin *admin, const char *tenant)
{
    struct found found = {0};
    char role[ROLE_SIZE];
    bool ours = false;
    int code = look_if_ours(admin, tenant, role, &found, &ours);

    if (code != CLI_DONE || !found.exists || !found.recorded)
        return code;
    return drop(admin, tenant, role);
}
