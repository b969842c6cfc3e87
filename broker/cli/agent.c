/*
 * cli/agent.c - `muster agent`: who may speak in a tenant. add, rotate, revoke, list.
 *
 * The order of writing is what makes it all or nothing: secrets are made in memory, rows are
 * written in a transaction, the files are staged, the transaction commits, the files appear. A
 * creds file therefore never exists without its row; a row without its file (the disk filled up
 * between two renames) is told, and `rotate` mends it.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "cli/agent_job.h"
#include "cli/agent_list.h"
#include "cli/database.h"
#include "cli/fleet.h"
#include "config/config.h"

static const char command[] = "agent";

enum { AGENTS_MAX = 100000 }; /* one call; the secrets of all are in memory together */

/* ---- what all verbs begin with ---- */

static void job_done(struct job *job)
{
    for (size_t i = 0; job->minted && i < job->n; i++) {
        jwt_wipe(&job->minted[i].secret);
        free(job->minted[i].path);
    }
    for (size_t i = 0; job->narrowings && i < job->n; i++)
        narrowing_done(&job->narrowings[i]);
    narrowing_done(&job->given);
    free(job->narrowings);
    free(job->minted);
    free(job->rows);
    free(job->old);
    sql_admin_close(job->admin);
    keydir_close(job->keys);
}

static int open_keys(const struct cli *cli, struct job *job)
{
    struct file_error err = {"out of memory"};

    if (!cli->config->nats.keys || !*cli->config->nats.keys)
        return CLI_DONE;
    if (keydir_open(cli->config->nats.keys, &job->keys, &err))
        return cli_fail(CLI_FAILED, command, "%s", err.text);
    return CLI_DONE;
}

/* Tokens are between the brokers and the database: they need no keys, and end as their rows say. */
static int check_keys(const struct job *job)
{
    if (job->tokens)
        return CLI_DONE;
    if (!job->keys)
        return cli_fail(
            CLI_FAILED, command,
            "no keys are configured: set nats.keys or MUSTER_NATS_KEYS to the folder keys that "
            "`muster nats-config --dir DIR` made in DIR");
    if (job->keys->settings.is_static && job->expires)
        return cli_fail(CLI_USAGE, command,
                        "--expires: passwords of the static form do not end by themselves; leave "
                        "it out, or use operator mode");
    return CLI_DONE;
}

/* The limit of the tenant, which goes into the credential; brokers look at those that were made before. */
static int read_subscriptions(struct job *job)
{
    static const char sql[] = "SELECT limits->>'subscriptions' FROM muster.tenants WHERE name = $1";
    struct sql_rows *rows = NULL;
    int err = sql_admin_exec(job->admin, sql, 1, &job->tenant, &rows);
    const char *limit = !err && sql_rows_count(rows) ? sql_rows_get(rows, 0, 0) : NULL;

    job->subscriptions = limit ? strtoll(limit, NULL, 10) : 0;
    sql_rows_free(rows);
    return err ? database_fail(job->admin, command, err) : CLI_DONE;
}

/* Everything up to an open transaction. The keys' lock is taken first and held to the end: two
 * commands then write rows and revocations in the same order. */
static int job_begin(const struct cli *cli, struct job *job, int argc, char **argv,
                     const char *allowed)
{
    int code = job_parse_options(job, argc, argv, allowed);

    if (code != CLI_DONE)
        return code;
    job->tenant = argv[optind];
    job->n = (size_t)(argc - optind - 1);
    if (job->n > AGENTS_MAX)
        return cli_fail(CLI_USAGE, command, "%zu agents came, at most %d in one call were expected",
                        job->n, AGENTS_MAX);
    job->rows = calloc(job->n, sizeof *job->rows);
    job->minted = calloc(job->n, sizeof *job->minted);
    job->old = calloc(job->n, sizeof *job->old);
    job->narrowings = calloc(job->n, sizeof *job->narrowings);
    if (!job->rows || !job->minted || !job->old || !job->narrowings)
        return cli_fail(CLI_FAILED, command, "out of memory");
    code = job_check_name("TENANT", job->tenant, NAME_MAX_LEN);
    if (code == CLI_DONE)
        code = job_take_names(job, argv + optind + 1, job->n);
    if (code == CLI_DONE)
        code = open_keys(cli, job);
    if (code == CLI_DONE)
        code = database_open(cli, command, &job->admin);
    if (code != CLI_DONE)
        return code;
    int err = sql_admin_script(job->admin, "BEGIN");
    return err ? database_fail(job->admin, command, err) : read_subscriptions(job);
}

static struct agent_rows rows_of(const struct job *job)
{
    return (struct agent_rows){
        .admin = job->admin, .tenant = job->tenant, .rows = job->rows, .n = job->n};
}

/* ---- where secrets go ---- */

static const char *suffix(const struct job *job)
{
    return job->tokens ? "token" : job->keys->settings.is_static ? "pass" : "creds";
}

static const char *kind(const struct job *job)
{
    return job->tokens ? "token" : job->keys->settings.is_static ? "password" : "creds";
}

static bool out_is_folder(const struct job *job)
{
    size_t len = strlen(job->out);

    return job->n > 1 || (len && job->out[len - 1] == '/') || file_is_folder(job->out);
}

/* Paths are made before anything is written, so that a name that is taken stops the whole command.
 */
static int plan_paths(struct job *job, bool replace)
{
    struct file_error err;

    if (!job->out)
        return job->n == 1
                   ? CLI_DONE
                   : cli_fail(CLI_USAGE, command,
                              "--out FOLDER is missing: the creds of several agents need files");
    bool folder = out_is_folder(job);
    if (folder && file_make_folder(job->out, 0700, &err))
        return cli_fail(CLI_FAILED, command, "%s", err.text);
    for (size_t i = 0; i < job->n; i++) {
        struct buf path = {0};

        buf_puts(&path, job->out);
        if (folder)
            buf_printf(&path, "/%s.%s", job->rows[i].agent, suffix(job));
        job->minted[i].path = buf_take(&path);
        if (!job->minted[i].path)
            return cli_fail(CLI_FAILED, command, "out of memory");
        if (!replace && file_exists(job->minted[i].path))
            return cli_fail(
                CLI_FAILED, command,
                "--out: %s is there already; it may be somebody's, so remove it or name another",
                job->minted[i].path);
    }
    return CLI_DONE;
}

static int stage_files(const struct job *job)
{
    struct file_error err;

    for (size_t i = 0; i < job->n && job->out; i++)
        if (file_stage(job->minted[i].path, FILE_SECRET, &job->minted[i].secret, &err))
            return cli_fail(CLI_FAILED, command, "%s; nothing was done", err.text);
    return CLI_DONE;
}

static void discard_files(const struct job *job)
{
    for (size_t i = 0; i < job->n && job->minted && job->minted[i].path; i++)
        file_discard(job->minted[i].path);
}

/* After the commit: whatever fails now leaves rows without their secrets. */
static int deliver(const struct job *job)
{
    struct file_error err;

    if (!job->out)
        return fwrite(job->minted[0].secret.data, 1, job->minted[0].secret.len, stdout) ==
                           job->minted[0].secret.len &&
                       fflush(stdout) == 0
                   ? CLI_DONE
                   : cli_fail(CLI_FAILED, command, "stdout: %s; run `muster agent rotate %s %s`",
                              strerror(errno), job->tenant, job->rows[0].agent);
    for (size_t i = 0; i < job->n; i++)
        if (file_commit(job->minted[i].path, &err)) {
            discard_files(job);
            return cli_fail(CLI_FAILED, command,
                            "%s; run `muster agent rotate` for this agent and those after it",
                            err.text);
        }
    printf("%zu of %s: %s in %s\n", job->n, job->tenant, kind(job), job->out);
    return CLI_DONE;
}

/* ---- the verbs ---- */

/* Commit, then put the secrets in force and hand them out. */
static int job_commit(struct job *job, int code)
{
    if (code == CLI_DONE)
        code = stage_files(job);
    code = database_end(job->admin, command, code);
    if (code == CLI_DONE && !job->tokens && job->keys->settings.is_static)
        code = job_edit_static_users(job, false);
    if (code == CLI_DONE && !job->tokens && job->keys->settings.is_static && job->keys->settings.callout)
        code = job_bypass_callout(job);
    if (code == CLI_DONE)
        return deliver(job);
    discard_files(job);
    return code;
}

/* A rotation must not turn creds that end into creds that never do without being told so. */
static int check_lifetimes(const struct job *job)
{
    for (size_t i = 0; i < job->n && !job->expires; i++)
        if (job->rows[i].expires)
            return cli_fail(
                CLI_USAGE, command,
                "rotate: the creds of %s end; say for how long the new ones hold with --expires",
                job->rows[i].agent);
    return CLI_DONE;
}

/* Creds whose permissions begin with another root reach no broker. Taking some away is no matter of
 * roots. */
static int check_root(const struct cli *cli, const struct job *job)
{
    const char *made_for = job->tokens ? "" : job->keys->settings.root;
    const char *root = cli->config->broker.root;

    if (job->tokens || strcmp(made_for, root) == 0)
        return CLI_DONE;
    return cli_fail(CLI_FAILED, command,
                    "%s is made for the root token %s, the configuration says %s: set broker.root "
                    "(or MUSTER_ROOT) to %s, or name other keys",
                    cli->config->nats.keys, made_for, root, made_for);
}

/* Operators and plugins are let in by creds alone (muster.login/1). */
static int check_token_role(const struct job *job)
{
    if (!job->tokens || (job->role != ROLE_OPERATOR && job->role != ROLE_PLUGIN))
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command,
                    "--token: the role %s came; tokens are for agent, observer, user, human and "
                    "admin, leave --token out",
                    role_name(job->role));
}

static int run_add(const struct cli *cli, struct job *job, int argc, char **argv)
{
    int code = job_begin(cli, job, argc, argv, "reotgbv");

    if (code != CLI_DONE)
        return code;
    job->is_add = true;
    struct agent_rows rows = rows_of(job);
    code = check_token_role(job);
    if (code == CLI_DONE)
        code = check_keys(job);
    if (code == CLI_DONE)
        code = check_root(cli, job);
    if (code == CLI_DONE)
        code = plan_paths(job, false);
    if (code == CLI_DONE)
        code = job_mint(job);
    if (code == CLI_DONE)
        code = agent_rows_insert(&rows);
    if (code == CLI_DONE)
        code = narrowing_write(&rows, &job->given);
    code = job_commit(job, code);
    if (code == CLI_DONE && !job->tokens && job->keys->settings.is_static && !job->needs_restart)
        (void)fleet_tell(cli, command, job->keys); /* it has told */
    return code;
}

static size_t count_tokens(const struct job *job)
{
    size_t n = 0;

    for (size_t i = 0; i < job->n; i++)
        n += job->rows[i].token_id[0] != '\0';
    return n;
}

/* What is made anew is what there was. */
static int take_kind(struct job *job)
{
    size_t n = count_tokens(job);

    job->tokens = n == job->n;
    return !n || job->tokens
               ? CLI_DONE
               : cli_fail(CLI_USAGE, command,
                          "rotate: some of these agents have tokens and some have not; rotate "
                          "them in two calls");
}

static int run_rotate(const struct cli *cli, struct job *job, int argc, char **argv)
{
    int code = job_begin(cli, job, argc, argv, "eo");

    if (code != CLI_DONE)
        return code;
    struct agent_rows rows = rows_of(job);
    code = agent_rows_lock(&rows, true);
    if (code == CLI_DONE)
        code = narrowing_read(&rows, job->narrowings);
    if (code == CLI_DONE)
        code = take_kind(job);
    if (code == CLI_DONE)
        code = check_keys(job);
    if (code == CLI_DONE)
        code = check_root(cli, job);
    if (code == CLI_DONE)
        code = plan_paths(job, true);
    if (code == CLI_DONE)
        code = check_lifetimes(job);
    if (code == CLI_DONE) {
        job_keep_old_keys(job);
        code = job_mint(job);
    }
    if (code == CLI_DONE)
        code = agent_rows_update(&rows);
    code = job_commit(job, code);
    if (code == CLI_DONE && !job->tokens && !job->keys->settings.is_static)
        code = job_revoke_old_keys(job);
    if (code == CLI_DONE && !job->tokens && !job->needs_restart)
        (void)fleet_tell(cli, command, job->keys); /* it has told */
    return code;
}

static int run_revoke(const struct cli *cli, struct job *job, int argc, char **argv)
{
    int code = job_begin(cli, job, argc, argv, "");

    if (code != CLI_DONE)
        return code;
    struct agent_rows rows = rows_of(job);
    code = agent_rows_lock(
        &rows, false); /* revoked ones too: a second run mends a first that failed half-way */
    if (code == CLI_DONE) {
        job->tokens = count_tokens(job) == job->n;
        code = check_keys(job);
    }
    if (code == CLI_DONE) {
        job_keep_old_keys(job);
        code = agent_rows_revoke(&rows);
    }
    code = database_end(job->admin, command, code);
    if (code == CLI_DONE && !job->tokens)
        code = job->keys->settings.is_static ? job_edit_static_users(job, true) : job_revoke_old_keys(job);
    if (code != CLI_DONE)
        return code;
    printf("revoked %zu of %s: brokers refuse them from now on%s\n", job->n, job->tenant,
           !job->tokens && fleet_tell(cli, command, job->keys) ? ", NATS has cut them off" : "");
    return CLI_DONE;
}

int cmd_agent(const struct cli *cli, int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct cli *cli, struct job *job, int argc, char **argv);
    } verbs[] = {{"add", run_add}, {"rotate", run_rotate}, {"revoke", run_revoke}};
    const char *verb = argc > 1 ? argv[1] : "nothing";

    if (strcmp(verb, "list") == 0)
        return agent_list(cli, argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        struct job job = {.role = ROLE_AGENT};
        int code = verbs[i].run(cli, &job, argc - 1, argv + 1);
        job_done(&job);
        return code;
    }
    return cli_fail(CLI_USAGE, command, "%s came; add, rotate, revoke or list was expected", verb);
}
