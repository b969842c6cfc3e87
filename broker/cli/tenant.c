/*
 * muster tenant - add, list and remove tenants, set their limits, and make their roles of PostgreSQL.
 *
 * Brokers follow muster.tenants: everything here takes effect at once and without a restart.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/name.h"
#include "child/limits.h"
#include "cli/database.h"
#include "cli/limits.h"
#include "cli/tenant_role.h"
#include "config/config.h"
#include "core/loader.h"

static const char command[] = "tenant";

static int check_name(const char *name)
{
    if (name_is_public(name, strlen(name)))
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command,
                    "NAME: %s came, a name [A-Za-z0-9_-]{1,64} without _ in front was expected",
                    name);
}

static bool is_one_of(const char *value, const char *const *values)
{
    for (; *values; values++)
        if (strcmp(value, *values) == 0)
            return true;
    return false;
}

struct add_options {
    const char *history, *encoding;
};

static int parse_add(int argc, char **argv, struct add_options *o)
{
    static const struct option options[] = {
        {"history", required_argument, NULL, 'h'}, {"encoding", required_argument, NULL, 'e'}, {0}};
    static const char *const histories[] = {"off", "r1", "r3", NULL};
    static const char *const encodings[] = {"json", "msgpack", NULL};
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == 'h')
            o->history = optarg;
        else if (c == 'e')
            o->encoding = optarg;
        else
            return cli_fail(
                CLI_USAGE, command,
                "add: %s%s; NAME [--history off|r1|r3] [--encoding json|msgpack] was expected",
                argv[optind - 1], c == ':' ? " came without its value" : " came");
    }
    if (!is_one_of(o->history, histories))
        return cli_fail(CLI_USAGE, command, "--history: %s came, off, r1 or r3 was expected",
                        o->history);
    if (!is_one_of(o->encoding, encodings))
        return cli_fail(CLI_USAGE, command, "--encoding: %s came, json or msgpack was expected",
                        o->encoding);
    if (optind == argc)
        return cli_fail(CLI_USAGE, command, "add: no NAME came");
    return CLI_DONE;
}

/* An answer that was on its way while a tenant of that name was removed came after muster.forget(). Row security lets the broker's
 * login see one tenant at a time. */
static int forget_answers(struct sql_admin *admin, const char *name)
{
    int err = sql_admin_exec(admin, "SELECT set_config('app.current_tenant', $1, true)", 1, &name, NULL);

    return err ? err : sql_admin_exec(admin, "DELETE FROM muster.requests WHERE tenant = $1", 1, &name, NULL);
}

static int insert_tenant(struct sql_admin *admin, const char *name, const struct add_options *o)
{
    const char *params[] = {name, o->history, o->encoding};
    int err = forget_answers(admin, name);

    if (!err)
        err = sql_admin_exec(
            admin, "INSERT INTO muster.tenants (name, history, encoding) VALUES ($1, $2, $3)", 3,
            params, NULL);
    if (err && strcmp(sql_admin_sqlstate(admin), "23505") == 0)
        return cli_fail(CLI_FAILED, command,
                        "the tenant %s exists already; see `muster tenant list`", name);
    return err ? database_fail(admin, command, err) : tenant_role_add(admin, name);
}

static int tenant_add(const struct cli *cli, int argc, char **argv)
{
    struct add_options o = {.history = "r1", .encoding = "json"};
    struct sql_admin *admin = NULL;
    int code = parse_add(argc, argv, &o);
    int first = optind, err;

    for (int i = first; i < argc && code == CLI_DONE; i++)
        code = check_name(argv[i]);
    if (code == CLI_DONE)
        code = database_open(cli, command, &admin);
    if (code != CLI_DONE)
        return code;
    err = sql_admin_script(admin, "BEGIN");
    code = err ? database_fail(admin, command, err) : CLI_DONE;
    for (int i = first; i < argc && code == CLI_DONE; i++)
        code = insert_tenant(admin, argv[i], &o);
    code = database_end(admin, command, code);
    for (int i = first; i < argc && code == CLI_DONE; i++)
        printf("added tenant %s (history %s, %s)\n", argv[i], o.history, o.encoding);
    sql_admin_close(admin);
    return code;
}

/* clang-format off */
#define LISTED                                                                                     \
    "SELECT t.name AS tenant, t.history, t.encoding, t.limits,"                                    \
    " " DATABASE_TIME("t.created_at") " AS created_at,"                                            \
    " (SELECT count(*) FROM muster.credentials c"                                                  \
    "  WHERE c.tenant = t.name AND c.revoked_at IS NULL) AS agents"                                \
    " FROM muster.tenants t WHERE $1::text IS NULL OR t.name = $1 ORDER BY t.name"
/* clang-format on */

static void print_table(const struct sql_rows *rows)
{
    printf("%-24s %-7s %-8s %7s  %-28s %s\n", "TENANT", "HISTORY", "ENCODING", "AGENTS", "CREATED",
           "LIMITS");
    for (int i = 0; i < sql_rows_count(rows); i++)
        printf("%-24s %-7s %-8s %7s  %-28s %s\n", sql_rows_get(rows, i, 0),
               sql_rows_get(rows, i, 1), sql_rows_get(rows, i, 2), sql_rows_get(rows, i, 5),
               sql_rows_get(rows, i, 4), sql_rows_get(rows, i, 3));
}

static int tenant_list(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"tenant", required_argument, NULL, 't'}, {0}};
    static const char json_sql[] = "SELECT coalesce(json_agg(l), '[]') FROM (" LISTED ") l";
    struct sql_admin *admin = NULL;
    struct sql_rows *rows = NULL;
    const char *only = NULL;
    bool json = false;
    int c, err;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, command, "list: %s came, --json or --tenant T was expected",
                            argv[optind - 1]);
        json |= c == 'j';
        only = c == 't' ? optarg : only;
    }
    if (optind < argc)
        return cli_fail(CLI_USAGE, command, "list: %s came, no argument was expected",
                        argv[optind]);
    if (database_open(cli, command, &admin))
        return CLI_FAILED;
    err = sql_admin_exec(admin, json ? json_sql : LISTED, 1, &only, &rows);
    if (err)
        (void)database_fail(admin, command, err);
    else if (only)
        err = database_known_tenant(admin, command, only);
    if (!err && json)
        puts(sql_rows_get(rows, 0, 0));
    else if (!err)
        print_table(rows);
    sql_rows_free(rows);
    sql_admin_close(admin);
    return err ? CLI_FAILED : CLI_DONE;
}

/* What would be left in the air: agents with credentials, tables whose rows go to the tenant. */
static int check_unused(struct sql_admin *admin, const char *name, bool force)
{
    static const char sql[] =
        "SELECT (SELECT count(*) FROM muster.credentials c"
        "        WHERE c.tenant = t.name AND c.revoked_at IS NULL"
        "         AND (c.expires_at IS NULL OR c.expires_at > clock_timestamp())),"
        " (SELECT string_agg(format('%I.%I', schema_name, table_name), ', ')"
        "  FROM muster.tables b WHERE b.tenant = t.name)"
        " FROM muster.tenants t WHERE t.name = $1 FOR UPDATE";
    struct sql_rows *rows = NULL;
    const char *live, *tables;
    int code = CLI_DONE;
    int err = sql_admin_exec(admin, sql, 1, &name, &rows);

    if (err)
        return database_fail(admin, command, err);
    if (sql_rows_count(rows) == 0) {
        sql_rows_free(rows);
        return database_known_tenant(admin, command, name);
    }
    live = sql_rows_get(rows, 0, 0);
    tables = sql_rows_get(rows, 0, 1);
    if (tables)
        code = cli_fail(CLI_FAILED, command,
                        "the rows of %s go to %s; first `muster publish` with another --tenant, or "
                        "take the table out of the publication and its row out of muster.tables",
                        tables, name);
    else if (strcmp(live, "0") != 0 && !force)
        code = cli_fail(
            CLI_FAILED, command,
            "%s has %s credentials in use; first `muster agent revoke %s AGENT...`, or --force",
            name, live, name);
    else if (strcmp(live, "0") != 0)
        (void)cli_fail(
            CLI_DONE, command,
            "note: NATS lets the %s credentials of %s in until they expire; no broker answers them",
            live, name);
    sql_rows_free(rows);
    return code;
}

static int remove_tenant(struct sql_admin *admin, const char *name, bool force)
{
    /* Credentials go with the tenant. So does what Muster keeps of it: the next tenant of that name
     * gets no old answer and sees no old row. */
    static const char *const steps[] = {"SELECT muster.forget($1)",
                                        "DELETE FROM muster.tenants WHERE name = $1"};
    int err = sql_admin_script(admin, "BEGIN");
    int code = err ? database_fail(admin, command, err) : check_unused(admin, name, force);

    if (code == CLI_DONE)
        code = tenant_role_drop(admin, name);
    for (size_t i = 0; i < 2 && code == CLI_DONE; i++) {
        err = sql_admin_exec(admin, steps[i], 1, &name, NULL);
        code = err ? database_fail(admin, command, err) : CLI_DONE;
    }
    return database_end(admin, command, code);
}

static int tenant_rm(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"force", no_argument, NULL, 'f'}, {0}};
    struct sql_admin *admin = NULL;
    bool force = false;
    int code, c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?')
            return cli_fail(CLI_USAGE, command, "rm: %s came, NAME [--force] was expected",
                            argv[optind - 1]);
        force = true;
    }
    if (argc - optind != 1)
        return cli_fail(CLI_USAGE, command, "rm: %d names came, one was expected", argc - optind);
    code = database_open(cli, command, &admin);
    if (code == CLI_DONE)
        code = remove_tenant(admin, argv[optind], force);
    if (code == CLI_DONE)
        printf("removed tenant %s; its stream MSG_%s and the rows in your own tables stay\n",
               argv[optind], argv[optind]);
    sql_admin_close(admin);
    return code;
}

/* Above what stands in every credential it would hold nobody. */
static int check_subscriptions(const struct cli *cli, const struct limit *limit)
{
    int64_t most = cli->config->limits.subscriptions;

    if (strcmp(limit->name, "subscriptions") != 0 || limit->value <= most)
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command,
                    "limits: subscriptions: %lld came, at most the %lld of limits.subscriptions, which "
                    "holds for all, was expected",
                    (long long)limit->value, (long long)most);
}

static bool declares(const struct config_plugin *how, const char *name)
{
    const struct muster_plugin *plugin;
    struct child_limits limits;
    char why[LOADER_WHY_SIZE];
    bool found;

    if (loader_load(how, &plugin, why) != 0 || child_limits_init(&limits, plugin) != 0)
        return false;
    found = child_limits_find(&limits, name) >= 0;
    child_limits_done(&limits);
    return found;
}

/* A name that is misspelt would hold nothing, and nobody would notice. The brokers may have plugins
 * that this configuration does not, so it is told and no more. */
static void note_undeclared(const struct cli *cli, const struct limit *limit)
{
    if (!limit->is_object || limit->none || !cli->config->n_plugins)
        return;
    for (size_t i = 0; i < cli->config->n_plugins; i++)
        if (declares(&cli->config->plugins[i], limit->name))
            return;
    (void)cli_fail(CLI_DONE, command, "note: no plugin of this configuration counts %s", limit->name);
}

/* Write KEY=VALUE… as a JSON object of what is set and a JSON array of what is taken away. */
static int parse_limits(const struct cli *cli, int n, char **args, struct buf *set, struct buf *unset)
{
    struct limit limit;
    char why[512];

    buf_putc(set, '{');
    buf_putc(unset, '[');
    for (int i = 0; i < n; i++) {
        if (!limit_parse(args[i], &limit, why, sizeof why))
            return cli_fail(CLI_USAGE, command, "limits: %s", why);
        if (check_subscriptions(cli, &limit) != CLI_DONE)
            return CLI_USAGE;
        note_undeclared(cli, &limit);
        if (limit.none)
            buf_printf(unset, "%s\"%s\"", unset->len > 1 ? "," : "", limit.name);
        else
            buf_printf(set, "%s\"%s\":%lld", set->len > 1 ? "," : "", limit.name,
                       (long long)limit.value);
    }
    buf_putc(set, '}');
    buf_putc(unset, ']');
    if (buf_failed(set) || buf_failed(unset))
        return cli_fail(CLI_FAILED, command, "no memory");
    return CLI_DONE;
}

/* One statement changes the limits, except to a burst that limits nothing; print what holds then. */
static int change_limits(struct sql_admin *admin, const char *name, const char *set,
                         const char *unset)
{
    static const char sql[] =
        "WITH new AS ("
        "  SELECT (limits || $2::jsonb) - ARRAY(SELECT jsonb_array_elements_text($3::jsonb)) AS limits"
        "  FROM muster.tenants WHERE name = $1 FOR UPDATE),"
        " done AS ("
        "  UPDATE muster.tenants t SET limits = new.limits FROM new"
        "  WHERE t.name = $1 AND t.limits <> new.limits"
        "   AND (new.limits ? 'requests_per_s' OR NOT new.limits ? 'burst'))"
        " SELECT limits, limits ? 'burst' AND NOT limits ? 'requests_per_s' FROM new";
    const char *params[] = {name, set, unset};
    struct sql_rows *rows = NULL;
    int code = CLI_DONE;
    int err = sql_admin_exec(admin, sql, 3, params, &rows);

    if (err)
        return database_fail(admin, command, err);
    if (sql_rows_count(rows) == 0)
        code = database_known_tenant(admin, command, name);
    else if (strcmp(sql_rows_get(rows, 0, 1), "t") == 0)
        code = cli_fail(CLI_FAILED, command,
                        "limits: burst came without requests_per_s; set both, or burst=none");
    else
        puts(sql_rows_get(rows, 0, 0));
    sql_rows_free(rows);
    return code;
}

static int print_limit_keys(void)
{
    puts("muster tenant limits NAME [KEY=VALUE...]\n"
         "An empty value or none takes a limit away: the configuration of the brokers holds "
         "then.\n");
    for (size_t i = 0; i < TENANT_N_LIMITS; i++)
        printf("  %-20s %s (%" PRId64 " to %" PRId64 "%s)\n", limit_keys[i].name,
               limit_keys[i].help, limit_keys[i].min, limit_keys[i].max,
               limit_keys[i].bytes ? ", also as KiB, MiB, GiB" : "");
    puts("  <service>.<name>     Objects that a service counts, as its definition declares them.");
    return CLI_DONE;
}

/* What it prints is JSON in any case. */
static int parse_limits_options(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
    int c;

    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1)
        if (c != 'j')
            return cli_fail(CLI_USAGE, command,
                            "limits: %s came, NAME [KEY=VALUE...] [--json] was expected",
                            argv[optind - 1]);
    if (optind == argc)
        return cli_fail(CLI_USAGE, command,
                        "limits: no NAME came; NAME [KEY=VALUE...] was expected");
    return CLI_DONE;
}

static int tenant_limits(const struct cli *cli, int argc, char **argv)
{
    struct sql_admin *admin = NULL;
    struct buf set = {0}, unset = {0};
    int code, first;

    if (argc > 1 && strcmp(argv[1], "--help") == 0)
        return print_limit_keys();
    code = parse_limits_options(argc, argv);
    first = optind;
    if (code == CLI_DONE)
        code = parse_limits(cli, argc - first - 1, argv + first + 1, &set, &unset);
    if (code == CLI_DONE)
        code = database_open(cli, command, &admin);
    if (code == CLI_DONE)
        code = change_limits(admin, argv[first], set.data, unset.data);
    buf_done(&set);
    buf_done(&unset);
    sql_admin_close(admin);
    return code;
}

int cmd_tenant(const struct cli *cli, int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct cli *cli, int argc, char **argv);
    } verbs[] = {
        {"add", tenant_add}, {"list", tenant_list}, {"rm", tenant_rm}, {"limits", tenant_limits}, {"role", tenant_role}};

    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(cli, argc - 1, argv + 1);
    return cli_fail(CLI_USAGE, command, "%s came, add, list, rm, limits or role was expected",
                    argc > 1 ? argv[1] : "nothing");
}
