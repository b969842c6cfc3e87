/*
 * cli/nats_config.c - `muster nats-config`: a folder from which nats-server runs, and the
 * credentials of the brokers.
 *
 * DIR/nats-server.conf is written anew by every run and takes local.conf in, which is the user's
 * and never touched. What identifies somebody (keys, passwords, creds) is made once and kept.
 * Running it again is therefore always safe.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/name.h"
#include "cli/cli.h"
#include "cli/fleet.h"
#include "cli/keydir.h"
#include "cli/server_tls.h"
#include "cli/static_users.h"
#include "config/config.h"

#define COMMAND "nats-config"
#define DEFAULT_LISTEN "127.0.0.1:4222"

enum {
    CREDS_MAX = 64 << 10,
    /* A body of 1,000,000 bytes and 32 KiB of headers (INTERFACE 3), and room for the headers that
       brokers add. */
    MAX_PAYLOAD = 1100000,
    LOGIN_TIMEOUT_S = 10,
};

struct static_passwords {
    char system[STATIC_PASSWORD_SIZE], callout[STATIC_PASSWORD_SIZE];
};

struct args {
    const char *dir, *listen, *http, *store;
    bool is_static, callout, no_callout;
    struct server_tls tls;
};

/* ---- arguments ---- */

static int check_args(int argc, char **argv, const struct args *a)
{
    if (optind < argc)
        return cli_fail(CLI_USAGE, COMMAND, "unexpected argument %s; expected options only",
                        argv[optind]);
    if (a->callout && a->no_callout)
        return cli_fail(CLI_USAGE, COMMAND, "--callout and --no-callout came; expected one of them");
    if (!a->dir || !*a->dir)
        return cli_fail(
            CLI_USAGE, COMMAND,
            "--dir is missing: the folder to write nats-server.conf, keys and creds into");
    return CLI_DONE;
}

static int parse_args(int argc, char **argv, struct args *a)
{
    const struct {
        const char *name;
        int has_arg;
        const char **value; /* where its argument goes, */
        bool *flag;         /* or that it came */
    } known[] = {
        {"dir", required_argument, &a->dir, NULL},
        {"listen", required_argument, &a->listen, NULL},
        {"http", required_argument, &a->http, NULL},
        {"store", required_argument, &a->store, NULL},
        {"static", no_argument, NULL, &a->is_static},
        {"callout", no_argument, NULL, &a->callout},
        {"no-callout", no_argument, NULL, &a->no_callout},
        {"tls-cert", required_argument, &a->tls.cert, NULL},
        {"tls-key", required_argument, &a->tls.key, NULL},
        {"tls-ca", required_argument, &a->tls.ca, NULL},
        {"tls-verify", no_argument, NULL, &a->tls.verify},
    };
    enum { N_KNOWN = sizeof known / sizeof *known };
    struct option options[N_KNOWN + 1] = {{0}};
    int opt;

    for (int i = 0; i < N_KNOWN; i++)
        options[i] = (struct option){known[i].name, known[i].has_arg, NULL, i};
    optind = 0; /* as the first call of this process; another subcommand may have parsed before */
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (opt >= N_KNOWN)
            return cli_fail(
                CLI_USAGE, COMMAND, "%s%s; see `muster nats-config --help`", argv[optind - 1],
                opt == ':' ? " came without its value" : " came, which it does not take");
        if (known[opt].value)
            *known[opt].value = optarg;
        else
            *known[opt].flag = true;
    }
    return check_args(argc, argv, a);
}

/* Only characters that mean nothing in the configuration language. A bare port is refused: it would
 * listen everywhere. */
static bool host_is_legal(const char *host, size_t len)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

    if (len > 2 && host[0] == '[' && host[len - 1] == ']')
        return strspn(host + 1, "0123456789abcdefABCDEF:.") == len - 2;
    return len > 0 && strspn(host, name) == len;
}

static bool address_is_legal(const char *address)
{
    const char *colon = strrchr(address, ':');
    char *end;

    if (!colon || !host_is_legal(address, (size_t)(colon - address)) || colon[1] < '0' ||
        colon[1] > '9')
        return false;
    errno = 0;
    long port = strtol(colon + 1, &end, 10);
    return !errno && !*end && port >= 1 && port <= 65535;
}

/* A line break would end a line of the settings, and a control character has no place in a path of
 * the configuration. */
static bool path_is_legal(const char *path)
{
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return false;
    return true;
}

static int take_address(const char *value, const char *option, char out[SETTINGS_VALUE_SIZE])
{
    if (!value)
        return CLI_DONE;
    if (!address_is_legal(value) || strlen(value) >= SETTINGS_VALUE_SIZE)
        return cli_fail(CLI_USAGE, COMMAND,
                        "%s: %s is no address; expected HOST:PORT, for example 127.0.0.1:4222",
                        option, value);
    memcpy(out, value, strlen(value) + 1);
    return CLI_DONE;
}

/* Absolute, because the server reads a relative store_dir from its own working folder. */
static int take_store(const char *value, const char *dir, char out[SETTINGS_VALUE_SIZE])
{
    char cwd[PATH_MAX] = "";
    int n;

    if (!value && out[0])
        return CLI_DONE;
    if (value && *value == '/')
        n = snprintf(out, SETTINGS_VALUE_SIZE, "%s", value);
    else if (value && *value && getcwd(cwd, sizeof cwd))
        n = snprintf(out, SETTINGS_VALUE_SIZE, "%s/%s", cwd, value);
    else
        n = snprintf(out, SETTINGS_VALUE_SIZE, "%s/jetstream", dir);
    if (n < 0 || n >= SETTINGS_VALUE_SIZE || !path_is_legal(out))
        return cli_fail(CLI_USAGE, COMMAND,
                        "--store: expected a path of less than %d bytes without control characters",
                        SETTINGS_VALUE_SIZE);
    return CLI_DONE;
}

static int take_tls(const struct server_tls *given, struct settings *s)
{
    struct file_error err;
    int code = server_tls_take(given, s, &err);

    if (!code)
        return CLI_DONE;
    return cli_fail(code == MUSTER_ENOTFOUND ? CLI_USAGE : CLI_FAILED, COMMAND, "%s", err.text);
}

/* ---- settings: what an earlier run was told, changed by what this one is told ---- */

static int check_kept(const struct cli *cli, const struct args *a, const struct settings *s)
{
    if (a->is_static && !s->is_static)
        return cli_fail(
            CLI_FAILED, COMMAND,
            "--static: %s is in operator mode, and agents may have its creds; use another --dir",
            a->dir);
    if (strcmp(s->root, cli->config->broker.root) != 0)
        return cli_fail(CLI_FAILED, COMMAND,
                        "%s is made for the root token %s, the configuration says %s: set "
                        "broker.root (or MUSTER_ROOT) "
                        "to %s, or use another --dir",
                        a->dir, s->root, cli->config->broker.root, s->root);
    return CLI_DONE;
}

static int make_settings(const struct cli *cli, const struct args *a, const char *dir,
                         struct settings *s)
{
    struct buf keys = {0};
    struct file_error err;
    int code;

    file_join(&keys, dir, "keys");
    code = buf_failed(&keys) ? MUSTER_ENOMEM : settings_read(keys.data, s, &err);
    buf_done(&keys);
    if (code && code != MUSTER_ENOTFOUND)
        return cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    if (code) {
        *s = (struct settings){.is_static = a->is_static, .listen = DEFAULT_LISTEN};
        (void)snprintf(s->root, sizeof s->root, "%s",
                       cli->config->broker.root); /* a legal name fits */
    }
    s->subscriptions = cli->config->limits.subscriptions;
    s->callout = a->callout || (s->callout && !a->no_callout);
    code = code ? CLI_DONE : check_kept(cli, a, s);
    if (code == CLI_DONE)
        code = take_address(a->listen, "--listen", s->listen);
    if (a->http && !*a->http)
        s->http[0] = '\0'; /* --http "" takes a port away that an earlier run opened */
    else if (code == CLI_DONE)
        code = take_address(a->http, "--http", s->http);
    if (code == CLI_DONE)
        code = take_store(a->store, dir, s->store);
    return code == CLI_DONE ? take_tls(&a->tls, s) : code;
}

/* ---- the server's configuration ---- */

/* A server without any key among its users does not look at the key that a client names beside its
 * user and password, and then tells that text as the user in its events: an agent could connect under
 * another's name there. With one key, whose seed nobody has, it refuses such a login. */
static void put_nobody(struct buf *b)
{
    struct nkey key;

    if (nkey_generate(NKEY_USER, &key) != 0) {
        b->failed = true;
        return;
    }
    buf_printf(b, "  NOBODY: {users: [{nkey: %s}]}\n", key.text);
    nkey_wipe(&key);
}

/* The limit holds for the brokers' connections too: a user without a JWT has none of its own. */
static void put_static_accounts(struct buf *b, const struct settings *s,
                                const struct static_passwords *passwords)
{
    buf_printf(
        b,
        "\naccounts: {\n  MST: {\n    jetstream: enabled\n    limits: {max_subscriptions: %" PRId64
        "}\n"
        "    include \"agents.conf\"\n  }\n  SYS: {users: [{user: \"system\", password: "
        "\"%s\"}]}\n",
        s->subscriptions, passwords->system);
    if (s->callout)
        buf_printf(b, "  AUTH: {users: [{user: \"callout\", password: \"%s\"}]}\n", passwords->callout);
    put_nobody(b);
    buf_put_lit(b, "}\nsystem_account: SYS\n");
}

/* A burst of logins waits for the brokers' answers; the timeout is the server's for both. */
static void put_callout(struct buf *b, const struct keydir *keys)
{
    if (!keys->settings.callout)
        return;
    buf_printf(b, "authorization: {\n  timeout: %d\n", LOGIN_TIMEOUT_S);
    if (keys->settings.is_static)
        buf_printf(b,
                   "  auth_callout: {\n    issuer: %s\n    account: AUTH\n"
                   "    include \"auth_users.conf\"\n  }\n",
                   keys->callout.text);
    buf_put_lit(b, "}\n");
}

/* No listener for browsers: those of the packaged servers have known vulnerabilities, and whoever
 * looks for one greps for its word. local.conf comes last, so that what it says wins. With passwords
 * inside the file is its owner's alone. */
static int write_server_conf(const char *dir, const struct keydir *keys,
                             const struct static_passwords *passwords, struct file_error *err)
{
    const struct settings *s = &keys->settings;
    struct buf path = {0}, b = {0};
    int code;

    buf_put_lit(&b, "# Written by `muster nats-config`, anew by each run. Settings of your own "
                    "(cluster, limits) go into local.conf,\n"
                    "# which is kept.\n"
                    "listen: ");
    server_put_quoted(&b, s->listen);
    if (s->http[0]) {
        buf_put_lit(&b, "\nhttp: ");
        server_put_quoted(&b, s->http);
    }
    buf_printf(&b,
               "\nmax_payload: %d\n# A dead peer is noticed after 10 to 15 "
               "seconds.\nping_interval: \"5s\"\nping_max: 2\n"
               "jetstream: {store_dir: ",
               MAX_PAYLOAD);
    server_put_quoted(&b, s->store);
    buf_put_lit(&b, "}\n");
    server_tls_put(s, &b);
    if (s->is_static)
        put_static_accounts(&b, s, passwords);
    else
        buf_put_lit(&b, "include \"accounts.conf\"\n");
    put_callout(&b, keys);
    buf_put_lit(&b, "include \"local.conf\"\n");
    file_join(&path, dir, "nats-server.conf");
    code = buf_failed(&path)
               ? MUSTER_ENOMEM
               : file_write(path.data, s->is_static ? FILE_SECRET : FILE_PUBLIC, &b, err);
    buf_done(&path);
    jwt_wipe(&b);
    return code;
}

static int make_local_conf(const char *dir, struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code = 0;

    file_join(&path, dir, "local.conf");
    buf_put_lit(&text, "# Yours: read last by nats-server.conf, never changed by Muster. After a "
                       "change: nats-server --signal reload\n");
    if (buf_failed(&path))
        code = MUSTER_ENOMEM;
    else if (!file_exists(path.data))
        code = file_write(path.data, FILE_PUBLIC, &text, err);
    buf_done(&path);
    buf_done(&text);
    return code;
}

/* ---- credentials of brokers and system: kept when they fit the keys ---- */

/* Creds that another account signed, or that have ended, let nobody in: those are made anew. */
static bool creds_fit(const char *path, const struct nkey *account)
{
    struct buf text = {0};
    struct file_error err;
    struct nkey key = {0};
    struct jwt_claims claims;
    const char *jwt;
    size_t len;
    bool fit = file_read(path, CREDS_MAX, &text, &err) == 0 &&
               jwt_read_creds(text.data, &jwt, &len, &key) == 0 &&
               jwt_decode(jwt, len, &claims) == 0 && strcmp(claims.issuer, account->text) == 0 &&
               strcmp(claims.subject, key.text) == 0 && strcmp(claims.type, "user") == 0 &&
               (!claims.expires || claims.expires > clock_wall_ns() / CLOCK_S);

    nkey_wipe(&key);
    jwt_wipe(&text);
    return fit;
}

static int write_creds(const char *path, const char *user, const struct nkey *account,
                       struct file_error *err)
{
    struct buf jwt = {0}, creds = {0};
    struct nkey key = {0};
    int code = nkey_generate(NKEY_USER, &key);

    if (!code)
        code = jwt_user(account, &(struct jwt_user){.name = user, .key = key.text}, &jwt);
    if (code) {
        (void)snprintf(err->text, sizeof err->text, "%s: no memory, or OpenSSL could not sign",
                       path);
    } else {
        jwt_put_creds(&creds, jwt.data, &key);
        code = file_write(path, FILE_SECRET, &creds, err);
    }
    nkey_wipe(&key);
    buf_done(&jwt);
    jwt_wipe(&creds);
    return code;
}

static int make_creds(const char *dir, const char *user, const struct nkey *account,
                      struct file_error *err)
{
    struct buf path = {0};
    int code = 0;

    buf_printf(&path, "%s/%s.creds", dir, user);
    if (buf_failed(&path))
        code = MUSTER_ENOMEM;
    else if (!creds_fit(path.data, account))
        code = write_creds(path.data, user, account, err);
    buf_done(&path);
    return code;
}

/* Everybody may have it: it says of nobody who he is, and may nothing. */
static int make_sentinel(const char *dir, const struct nkey *auth, struct file_error *err)
{
    struct buf path = {0}, jwt = {0}, creds = {0};
    struct nkey key = {0};
    int code;

    buf_printf(&path, "%s/sentinel.creds", dir);
    if (!buf_failed(&path) && creds_fit(path.data, auth)) {
        buf_done(&path);
        return 0;
    }
    code = buf_failed(&path) ? MUSTER_ENOMEM : nkey_generate(NKEY_USER, &key);
    if (!code)
        code = jwt_sentinel(auth, key.text, &jwt);
    if (!code) {
        jwt_put_creds(&creds, jwt.data, &key);
        code = file_write(path.data, FILE_PUBLIC, &creds, err);
    }
    nkey_wipe(&key);
    buf_done(&path);
    buf_done(&jwt);
    buf_done(&creds);
    return code;
}

static int make_callout_creds(const char *dir, struct keydir *keys, struct file_error *err)
{
    int code = make_creds(dir, "callout", &keys->auth, err);

    if (!code)
        code = keydir_set_callout_user(keys, err);
    return code ? code : make_sentinel(dir, &keys->auth, err);
}

static int make_operator_form(const char *dir, struct keydir *keys, struct file_error *err)
{
    int code = keys->settings.callout ? make_callout_creds(dir, keys, err) : 0;

    if (!code)
        code = keydir_write_accounts(keys, err);
    if (!code)
        code = make_creds(dir, "broker", &keys->account, err);
    if (!code)
        code = make_creds(dir, "system", &keys->system, err);
    return code ? code : write_server_conf(dir, keys, NULL, err);
}

static bool password_is_legal(const char *s)
{
    size_t len = strspn(s, "abcdefghijklmnopqrstuvwxyz234567");

    return len == STATIC_PASSWORD_SIZE - 1 && (!s[len] || (s[len] == '\n' && !s[len + 1]));
}

/* Read DIR/<user>.pass, or make it. */
static int make_password(const char *dir, const char *user, char out[STATIC_PASSWORD_SIZE],
                         struct file_error *err)
{
    struct buf path = {0}, text = {0};
    int code;

    buf_printf(&path, "%s/%s.pass", dir, user);
    code = buf_failed(&path) ? MUSTER_ENOMEM : file_read(path.data, CREDS_MAX, &text, err);
    if (code == MUSTER_ENOTFOUND) {
        code = static_password(out) ? 0 : MUSTER_EINVAL;
        buf_printf(&text, "%s\n", out);
        if (!code)
            code = file_write(path.data, FILE_SECRET, &text, err);
    }
    if (!code && !password_is_legal(text.data)) {
        (void)snprintf(err->text, sizeof err->text,
                       "%s: not a password made here; remove it and run this again", path.data);
        code = MUSTER_EINVAL;
    }
    if (!code) {
        memcpy(out, text.data, STATIC_PASSWORD_SIZE - 1);
        out[STATIC_PASSWORD_SIZE - 1] = '\0';
    }
    buf_done(&path);
    jwt_wipe(&text);
    return code;
}

/* Who has a password by now keeps it. */
static int make_bypass(const struct keydir *keys, const char *agents, struct file_error *err)
{
    static const char *const always[] = {"broker", "system", "callout"};
    struct buf path = {0};
    bool grew;

    keydir_beside(keys, "auth_users.conf", &path);
    int code = buf_failed(&path) ? MUSTER_ENOMEM
                                 : static_bypass_add(path.data, always, sizeof always / sizeof *always, agents, &grew, err);
    buf_done(&path);
    return code;
}

static int make_static_form(const char *dir, struct keydir *keys, struct file_error *err)
{
    struct static_user broker = {.user = "broker", .role = -1};
    struct static_passwords passwords = {.callout = ""};
    struct buf path = {0};
    int code = make_password(dir, "broker", broker.password, err);

    keydir_beside(keys, "agents.conf", &path);
    if (!code)
        code = buf_failed(&path) ? MUSTER_ENOMEM : static_users_edit(path.data, &broker, 1, err);
    if (!code)
        code = make_password(dir, "system", passwords.system, err);
    if (!code && keys->settings.callout)
        code = make_password(dir, "callout", passwords.callout, err);
    if (!code && keys->settings.callout)
        code = make_bypass(keys, path.data, err);
    if (!code)
        code = write_server_conf(dir, keys, &passwords, err);
    buf_done(&path);
    return code;
}

/* ---- the command ---- */

static void print_callout(const char *dir, const struct settings *s)
{
    if (!s->callout)
        return;
    if (s->is_static)
        printf("    callout_user: callout\n    callout_password_file: %s/callout.pass\n", dir);
    else
        printf("    callout_creds: %s/callout.creds\n", dir);
    printf("    callout_key_file: %s/callout.nk\n", dir);
}

static void print_next(const char *dir, const struct settings *s)
{
    printf("%s/nats-server.conf is written. Start it:\n  nats-server -c %s/nats-server.conf\n"
           "and tell the brokers in muster.yaml:\n  nats:\n    urls: [\"%s://%s\"]\n",
           dir, dir, s->tls_cert[0] ? "tls" : "nats", s->listen);
    if (s->tls_verify)
        printf("    tls: {ca: …, cert: …, key: …}  # the brokers' own certificate, of %s\n", s->tls_ca);
    else if (s->tls_ca[0])
        printf("    tls: {ca: \"%s\"}\n", s->tls_ca);
    if (s->is_static)
        printf("    user: broker\n    password_file: %s/broker.pass\n    system_user: system\n"
               "    system_password_file: %s/system.pass\n",
               dir, dir);
    else
        printf("    creds: %s/broker.creds\n    system_creds: %s/system.creds\n", dir, dir);
    print_callout(dir, s);
    printf("    keys: %s/keys\n", dir);
}

/* Of the folder that the configuration names, the servers can be reached with what stands beside it. */
static void put_in_force(const struct cli *cli, const struct keydir *keys)
{
    char configured[PATH_MAX];

    if (cli->config->nats.keys && realpath(cli->config->nats.keys, configured) && strcmp(configured, keys->path) == 0)
        (void)fleet_tell(cli, COMMAND, keys); /* it has told */
    else
        puts("A server that runs already takes it up on SIGHUP (nats-server --signal reload).");
}

static int run(const struct cli *cli, const struct args *a, const char *dir)
{
    struct settings settings = {0};
    struct keydir *keys = NULL;
    struct buf path = {0};
    struct file_error err = {"out of memory"};
    int code = make_settings(cli, a, dir, &settings);

    if (code != CLI_DONE)
        return code;
    file_join(&path, dir, "keys");
    code = buf_failed(&path) ? MUSTER_ENOMEM : keydir_create(path.data, &settings, &keys, &err);
    buf_done(&path);
    if (!code)
        code = make_local_conf(dir, &err);
    if (!code)
        code = (settings.is_static ? make_static_form : make_operator_form)(dir, keys, &err);
    if (code) {
        keydir_close(keys);
        return cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    }
    print_next(dir, &settings);
    put_in_force(cli, keys);
    keydir_close(keys);
    return CLI_DONE;
}

int cmd_nats_config(const struct cli *cli, int argc, char **argv)
{
    struct args args = {0};
    struct file_error err;
    char dir[PATH_MAX];
    int code = parse_args(argc, argv, &args);

    if (code != CLI_DONE)
        return code;
    if (!path_is_legal(args.dir))
        return cli_fail(CLI_USAGE, COMMAND, "--dir: expected a path without control characters");
    if (file_make_folder(args.dir, 0755, &err))
        return cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    if (!realpath(args.dir, dir))
        return cli_fail(CLI_FAILED, COMMAND, "%s: %s", args.dir, strerror(errno));
    return run(cli, &args, dir);
}
