/* `muster agent list`; see agent_list.h. The database makes the JSON, so that both forms show the
 * same columns. */
#include "cli/agent_list.h"

#include <getopt.h>
#include <stdio.h>

#include "cli/database.h"

static const char command[] = "agent";

#define LISTED                                                                                     \
    "SELECT tenant, agent, role, CASE WHEN revoked_at IS NOT NULL THEN 'revoked'"                  \
    " WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'live' END AS "                     \
    "state, " DATABASE_TIME("expires_at") " AS expires_at, " DATABASE_TIME(                        \
        "created_at") " AS created_at, " DATABASE_TIME("revoked_at") " AS revoked_at,"             \
                                                                     " public_key, token_id, "      \
                                                                     "groups, tables, verbs FROM " \
                                                                     "muster.credentials WHERE "   \
                                                                     "$1::text IS NULL OR tenant " \
                                                                     "= $1 ORDER BY tenant, agent"

/* What it may of its role, as PostgreSQL writes lists; nothing where that is all. */
static void print_narrowing(const struct sql_rows *rows, int i)
{
    static const char *const names[] = {"groups", "tables", "verbs"};

    for (int k = 0; k < 3; k++) {
        const char *words = sql_rows_get(rows, i, 9 + k);

        if (words)
            printf(" %s=%s", names[k], words);
    }
    putchar('\n');
}

static void print_table(const struct sql_rows *rows)
{
    printf("%-24s %-32s %-9s %-8s %-28s %-28s %s\n", "TENANT", "AGENT", "ROLE", "STATE", "CREATED",
           "EXPIRES", "ONLY");
    for (int i = 0; i < sql_rows_count(rows); i++) {
        const char *expires = sql_rows_get(rows, i, 4);

        printf("%-24s %-32s %-9s %-8s %-28s %-28s", sql_rows_get(rows, i, 0),
               sql_rows_get(rows, i, 1), sql_rows_get(rows, i, 2), sql_rows_get(rows, i, 3),
               sql_rows_get(rows, i, 5), expires ? expires : "never");
        print_narrowing(rows, i);
    }
}

static int parse_list(int argc, char **argv, const char **ret_tenant, bool *ret_json)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"tenant", required_argument, NULL, 't'}, {0}};
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command,
                            "list: %s came, [TENANT | --tenant T] [--json] was expected",
                            argv[optind - 1]);
        if (c == 'j')
            *ret_json = true;
        else
            *ret_tenant = optarg;
    }
    if (argc - optind > (*ret_tenant ? 0 : 1))
        return cli_fail(CLI_USAGE, command, "list: %s came, at most one TENANT was expected",
                        argv[argc - 1]);
    if (optind < argc)
        *ret_tenant = argv[optind];
    return CLI_DONE;
}

int agent_list(const struct cli *cli, int argc, char **argv)
{
    static const char json_sql[] = "SELECT coalesce(json_agg(l), '[]') FROM (" LISTED ") l";
    struct sql_admin *admin = NULL;
    struct sql_rows *rows = NULL;
    const char *tenant = NULL;
    bool json = false;
    int code = parse_list(argc, argv, &tenant, &json);

    if (code == CLI_DONE)
        code = database_open(cli, command, &admin);
    if (code == CLI_DONE && tenant)
        code = database_known_tenant(admin, command, tenant);
    if (code != CLI_DONE) {
        sql_admin_close(admin);
        return code;
    }
    int err = sql_admin_exec(admin, json ? json_sql : LISTED, 1, &tenant, &rows);
    if (err)
        code = database_fail(admin, command, err);
    else if (json)
        puts(sql_rows_get(rows, 0, 0));
    else
        print_table(rows);
    sql_rows_free(rows);
    sql_admin_close(admin);
    return code;
}
