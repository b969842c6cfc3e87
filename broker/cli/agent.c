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
#include <inttypes.h>
#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/name.h"
#include "cli/agent_list.h"
#include "cli/agent_rows.h"
#include "cli/database.h"
#include "cli/keydir.h"
#include "cli/static_users.h"
#include "config/config.h"

static const char command[] = "agent";

enum { AGENTS_MAX = 100000 }; /* one call; the secrets of all are in memory together */

struct minted {
    struct buf secret; /* a creds file, or a password and a line break */
    char *path;        /* where it goes; NULL: stdout */
};

struct job {
    const char *tenant, *out;
    int role;
    int64_t expires; /* seconds since 1970; 0: never */
    size_t n;
    struct agent_row *rows;     /* n */
    struct minted *minted;      /* n */
    struct jwt_revocation *old; /* n: what rotate and revoke put out of use */
    struct keydir *keys;
    struct sql_admin *admin;
};

/* ---- arguments ---- */

/* 30d and the like. False when it is none, or above ten years. */
static bool parse_expires(const char *text, int64_t *ret_seconds)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
    const int64_t max = INT64_C(3650) * 86400;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!errno && *end == units[i].unit && !end[1] && n > 0 && n <= max / units[i].seconds) {
            *ret_seconds = n * units[i].seconds;
            return true;
        }
    return false;
}

static int take_option(struct job *job, int option, const char *value)
{
    int64_t seconds;

    if (option == 'o') {
        job->out = value;
        return CLI_DONE;
    }
    if (option == 'r') {
        job->role = role_find(value);
        return job->role >= 0
                   ? CLI_DONE
                   : cli_fail(CLI_USAGE, command, "--role: %s came, one of %s was expected", value,
                              role_list());
    }
    if (!parse_expires(value, &seconds))
        return cli_fail(
            CLI_USAGE, command,
            "--expires: %s came, a time of at most 3650d such as 12h, 30d or 8w was expected",
            value);
    job->expires = clock_wall_ns() / CLOCK_S + seconds;
    return CLI_DONE;
}

/* allowed: the letters of the options that this verb takes. */
static int parse_options(struct job *job, int argc, char **argv, const char *allowed)
{
    static const struct option options[] = {{"role", required_argument, NULL, 'r'},
                                            {"expires", required_argument, NULL, 'e'},
                                            {"out", required_argument, NULL, 'o'},
                                            {0}};
    int c;

    optind = 0; /* as the first call of this process; another subcommand may have parsed before */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == ':')
            return cli_fail(CLI_USAGE, command, "%s: %s came without its value", argv[0],
                            argv[optind - 1]);
        if (c == '?' || !strchr(allowed, c))
            return cli_fail(CLI_USAGE, command,
                            "%s: %s came, which it does not take; see `muster agent --help`",
                            argv[0],
                            c == '?'   ? argv[optind - 1]
                            : c == 'r' ? "--role"
                            : c == 'e' ? "--expires"
                                       : "--out");
        int code = take_option(job, c, optarg);
        if (code != CLI_DONE)
            return code;
    }
    if (argc - optind < 2)
        return cli_fail(CLI_USAGE, command, "%s: TENANT and at least one AGENT were expected",
                        argv[0]);
    return CLI_DONE;
}

/* Checked here and not left to the database: names go into subjects, file names and configuration.
 */
static int check_name(const char *what, const char *name, size_t max)
{
    if (name_is_public(name, strlen(name)) && strlen(name) <= max)
        return CLI_DONE;
    return cli_fail(CLI_USAGE, command,
                    "%s: %s came, a name [A-Za-z0-9_-]{1,%zu} without _ in front was expected",
                    what, name, max);
}

/* Names go into job->rows; one that comes twice could only fail later, in words of the database. */
static int take_names(struct job *job, char **names, size_t n)
{
    /* An operator's alias must be a name too. */
    size_t max =
        job->role == ROLE_OPERATOR ? NAME_MAX_LEN - strlen(ROLE_ALIAS_PREFIX) : NAME_MAX_LEN;
    struct map seen = {0};
    int code = CLI_DONE;

    for (size_t i = 0; i < n && code == CLI_DONE; i++) {
        size_t len = strlen(names[i]);

        code = check_name("AGENT", names[i], max);
        if (code == CLI_DONE && map_get(&seen, names[i], len))
            code = cli_fail(CLI_USAGE, command, "AGENT: %s came twice", names[i]);
        if (code == CLI_DONE && !map_put(&seen, names[i], len, names[i]))
            code = cli_fail(CLI_FAILED, command, "out of memory");
        job->rows[i] =
            (struct agent_row){.agent = names[i], .role = job->role, .expires = job->expires};
    }
    map_done(&seen);
    return code;
}

static void job_done(struct job *job)
{
    for (size_t i = 0; job->minted && i < job->n; i++) {
        jwt_wipe(&job->minted[i].secret);
        free(job->minted[i].path);
    }
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
        return cli_fail(
            CLI_FAILED, command,
            "no keys are configured: set nats.keys or MUSTER_NATS_KEYS to the folder keys that "
            "`muster nats-config --dir DIR` made in DIR");
    if (keydir_open(cli->config->nats.keys, &job->keys, &err))
        return cli_fail(CLI_FAILED, command, "%s", err.text);
    if (job->keys->settings.is_static && job->expires)
        return cli_fail(CLI_USAGE, command,
                        "--expires: passwords of the static form do not end by themselves; leave "
                        "it out, or use operator mode");
    return CLI_DONE;
}

/* Everything up to an open transaction. The keys' lock is taken first and held to the end: two
 * commands then write rows and revocations in the same order. */
static int job_begin(const struct cli *cli, struct job *job, int argc, char **argv,
                     const char *allowed)
{
    int code = parse_options(job, argc, argv, allowed);

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
    if (!job->rows || !job->minted || !job->old)
        return cli_fail(CLI_FAILED, command, "out of memory");
    code = check_name("TENANT", job->tenant, NAME_MAX_LEN);
    if (code == CLI_DONE)
        code = take_names(job, argv + optind + 1, job->n);
    if (code == CLI_DONE)
        code = open_keys(cli, job);
    if (code == CLI_DONE)
        code = database_open(cli, command, &job->admin);
    if (code != CLI_DONE)
        return code;
    int err = sql_admin_script(job->admin, "BEGIN");
    return err ? database_fail(job->admin, command, err) : CLI_DONE;
}

static struct agent_rows rows_of(const struct job *job)
{
    return (struct agent_rows){
        .admin = job->admin, .tenant = job->tenant, .rows = job->rows, .n = job->n};
}

/* ---- where secrets go ---- */

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
            buf_printf(&path, "/%s.%s", job->rows[i].agent,
                       job->keys->settings.is_static ? "pass" : "creds");
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
    printf("%zu of %s: %s in %s\n", job->n, job->tenant,
           job->keys->settings.is_static ? "password" : "creds", job->out);
    return CLI_DONE;
}

/* ---- making secrets and putting them in force ---- */

static int mint_creds(struct job *job, size_t i)
{
    struct jwt_user user = {.name = job->rows[i].agent,
                            .tenant = job->tenant,
                            .role = job->rows[i].role,
                            .expires = job->expires};
    int err = keydir_mint(job->keys, &user, &job->minted[i].secret, job->rows[i].key);

    return err ? cli_fail(CLI_FAILED, command, "no memory, or OpenSSL could not make a key")
               : CLI_DONE;
}

static int mint_password(struct job *job, size_t i)
{
    char password[STATIC_PASSWORD_SIZE];

    if (!static_password(password))
        return cli_fail(CLI_FAILED, command, "the system has no random numbers");
    buf_printf(&job->minted[i].secret, "%s\n", password);
    OPENSSL_cleanse(password, sizeof password);
    job->rows[i].key[0] = '\0';
    return buf_failed(&job->minted[i].secret) ? cli_fail(CLI_FAILED, command, "out of memory")
                                              : CLI_DONE;
}

static int mint_all(struct job *job)
{
    int code = CLI_DONE;

    for (size_t i = 0; i < job->n && code == CLI_DONE; i++) {
        job->rows[i].expires = job->expires;
        code = (job->keys->settings.is_static ? mint_password : mint_creds)(job, i);
    }
    return code;
}

/* Write or remove the users' lines of agents.conf. */
static int edit_static_users(const struct job *job, bool remove)
{
    struct static_user *users = calloc(job->n, sizeof *users);
    struct buf path = {0};
    struct file_error err = {"out of memory"};
    int code = users ? 0 : MUSTER_ENOMEM;

    for (size_t i = 0; i < job->n && users; i++) {
        struct static_user *u = &users[i];
        const struct agent_row *row = &job->rows[i];

        *u = (struct static_user){.remove = remove,
                                  .role = row->role,
                                  .root = job->keys->settings.root,
                                  .tenant = job->tenant,
                                  .agent = row->agent};
        (void)snprintf(u->user, sizeof u->user, "%s.%s", job->tenant,
                       row->agent); /* names are bounded */
        if (!remove)
            memcpy(u->password, job->minted[i].secret.data, STATIC_PASSWORD_SIZE - 1);
    }
    keydir_beside(job->keys, "agents.conf", &path);
    if (!code)
        code =
            buf_failed(&path) ? MUSTER_ENOMEM : static_users_edit(path.data, users, job->n, &err);
    if (users)
        OPENSSL_cleanse(users, job->n * sizeof *users);
    free(users);
    buf_done(&path);
    return code ? cli_fail(CLI_FAILED, command, "%s", err.text) : CLI_DONE;
}

/* What the server has to learn is in a file of its configuration; this is the one place that tells
 * how it gets there. */
static void tell_reload(const struct job *job)
{
    fprintf(stderr, "%s is changed: reload nats-server (SIGHUP, or nats-server --signal reload)\n",
            job->keys->settings.is_static ? "agents.conf" : "accounts.conf");
}

/* Revoke the keys that were in use until now. A day is added to the time: the clock of the machine
 * that minted a JWT may be ahead of ours, and the key is never used again. */
static int revoke_old_keys(struct job *job)
{
    struct file_error err = {"out of memory"};
    size_t n = 0;

    for (size_t i = 0; i < job->n; i++)
        if (job->old[i].key[0]) {
            job->old[n] = job->old[i];
            job->old[n++].at = clock_wall_ns() / CLOCK_S + 86400;
        }
    if (keydir_revoke(job->keys, job->old, n, &err))
        return cli_fail(CLI_FAILED, command,
                        "%s; the rows are written, NATS still lets the old creds in", err.text);
    return CLI_DONE;
}

/* Before mint_all(), which overwrites key and expires of the rows. */
static void keep_old_keys(struct job *job)
{
    for (size_t i = 0; i < job->n; i++) {
        memcpy(job->old[i].key, job->rows[i].key, sizeof job->old[i].key);
        job->old[i].expires = job->rows[i].expires;
    }
}

/* ---- the verbs ---- */

/* Commit, then put the secrets in force and hand them out. */
static int job_commit(struct job *job, int code)
{
    if (code == CLI_DONE)
        code = stage_files(job);
    code = database_end(job->admin, command, code);
    if (code == CLI_DONE && job->keys->settings.is_static)
        code = edit_static_users(job, false);
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
    const char *made_for = job->keys->settings.root, *root = cli->config->broker.root;

    if (strcmp(made_for, root) == 0)
        return CLI_DONE;
    return cli_fail(CLI_FAILED, command,
                    "%s is made for the root token %s, the configuration says %s: set broker.root "
                    "(or MUSTER_ROOT) to %s, or name other keys",
                    cli->config->nats.keys, made_for, root, made_for);
}

static int run_add(const struct cli *cli, struct job *job, int argc, char **argv)
{
    int code = job_begin(cli, job, argc, argv, "reo");

    if (code != CLI_DONE)
        return code;
    struct agent_rows rows = rows_of(job);
    code = check_root(cli, job);
    if (code == CLI_DONE)
        code = plan_paths(job, false);
    if (code == CLI_DONE)
        code = mint_all(job);
    if (code == CLI_DONE)
        code = agent_rows_insert(&rows);
    code = job_commit(job, code);
    if (code == CLI_DONE && job->keys->settings.is_static)
        tell_reload(job);
    return code;
}

static int run_rotate(const struct cli *cli, struct job *job, int argc, char **argv)
{
    int code = job_begin(cli, job, argc, argv, "eo");

    if (code != CLI_DONE)
        return code;
    struct agent_rows rows = rows_of(job);
    code = check_root(cli, job);
    if (code == CLI_DONE)
        code = plan_paths(job, true);
    if (code == CLI_DONE)
        code = agent_rows_lock(&rows, true);
    if (code == CLI_DONE)
        code = check_lifetimes(job);
    if (code == CLI_DONE) {
        keep_old_keys(job);
        code = mint_all(job);
    }
    if (code == CLI_DONE)
        code = agent_rows_update(&rows);
    code = job_commit(job, code);
    if (code == CLI_DONE && !job->keys->settings.is_static)
        code = revoke_old_keys(job);
    if (code == CLI_DONE)
        tell_reload(job);
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
        keep_old_keys(job);
        code = agent_rows_revoke(&rows);
    }
    code = database_end(job->admin, command, code);
    if (code == CLI_DONE)
        code = job->keys->settings.is_static ? edit_static_users(job, true) : revoke_old_keys(job);
    if (code != CLI_DONE)
        return code;
    printf("revoked %zu of %s: brokers refuse them from now on, NATS cuts them off when it is "
           "reloaded\n",
           job->n, job->tenant);
    tell_reload(job);
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
