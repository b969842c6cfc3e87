/*
 * muster dev - a private installation for trying things out: PostgreSQL, nats-server and musterd under one folder.
 *
 * Start is a list of steps, each of which may be interrupted (Ctrl-C) or find that a server died; whatever happens, all
 * servers are stopped in reverse order. Data and ports stay for the next start. What a kill -9 of ours left behind is
 * swept first (dev_proc.h).
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/dev_ca.h"
#include "cli/dev_probe.h"
#include "cli/dev_proc.h"
#include "cli/dev_site.h"
#include "cli/file.h"
#include "sql/admin.h"

#define COMMAND "dev"
#define SETUP_LOG "log/setup.log"

enum {
    STOPPED = -1, /* a step's result: a signal asked us to end; not a failure */
    START_SECONDS = 60,
    PROBE_MS = 30,
    TAIL_BYTES = 2000,
};

struct dev {
    struct dev_site site;
    struct dev_group group;
    bool no_broker; /* the user starts one */
    char why[512]; /* what musterd last said of why it is not ready */
};

/* ---- telling what went wrong ---- */

static void print_tail(const char *log)
{
    char text[TAIL_BYTES + 1];
    FILE *file = fopen(log, "re");
    size_t len;

    if (!file)
        return;
    if (fseek(file, -TAIL_BYTES, SEEK_END))
        rewind(file); /* a short log: all of it */
    len = fread(text, 1, TAIL_BYTES, file);
    (void)fclose(file); /* was only read */
    text[len] = '\0';
    fprintf(stderr, "--- the end of %s:\n%s", log, text);
}

static int tell_death(const struct dev *dev)
{
    const struct dev_server *dead = dev->group.dead;

    if (!dead->log)
        return cli_fail(CLI_FAILED, COMMAND, "%s ended by itself; see the lines above", dead->name);
    print_tail(dead->log);
    return cli_fail(CLI_FAILED, COMMAND, "%s ended by itself; see %s/%s", dead->name, dev->site.dir, dead->log);
}

/* ---- waiting ---- */

/* The result of a step that was broken off. */
static int interrupted(const struct dev *dev, int seen)
{
    return seen == DEV_DIED ? tell_death(dev) : STOPPED;
}

/* Signals and deaths are looked at between two probes, so that Ctrl-C works in the middle of a start as well. */
static int wait_for(struct dev *dev, const char *what, bool (*is_up)(struct dev *dev))
{
    int64_t end = clock_now_ns() + START_SECONDS * CLOCK_S;

    while (!is_up(dev)) {
        int seen = dev_group_wait(&dev->group, PROBE_MS);

        if (seen != DEV_QUIET)
            return interrupted(dev, seen);
        if (clock_now_ns() > end)
            return cli_fail(CLI_FAILED, COMMAND, "%s is not up after %d s; see %s/log\n%s", what, START_SECONDS,
                            dev->site.dir, dev->why);
    }
    return CLI_DONE;
}

static int start(struct dev *dev, const struct dev_command *command)
{
    if (dev_group_start(&dev->group, command))
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "%s: %s", command->argv[0], strerror(errno));
}

/* A tool that must succeed; its output is in the log, of which a failure shows the end. */
static int run(struct dev *dev, const struct dev_command *command)
{
    int exit_code = 0;
    int seen = dev_group_run(&dev->group, command, &exit_code);

    if (seen != DEV_ENDED)
        return interrupted(dev, seen);
    if (exit_code == 0)
        return CLI_DONE;
    print_tail(command->log);
    return cli_fail(CLI_FAILED, COMMAND, "%s failed with exit code %d; see %s/%s", command->name, exit_code, dev->site.dir,
                    command->log);
}

/* A subcommand as the user would run it, in the environment that prepare() made. */
static int run_muster(struct dev *dev, char *const *args)
{
    char *argv[20] = {dev->site.self};

    for (size_t i = 0; args[i]; i++) {
        ASSERT(i + 2 < sizeof argv / sizeof *argv);
        argv[i + 1] = args[i];
    }
    return run(dev, &(struct dev_command){.name = args[0], .argv = argv, .log = SETUP_LOG, .death_signal = SIGKILL});
}

/* ---- SQL as the superuser ---- */

/* A connection a statement: none may hold up PostgreSQL's end, and the server is next door. */
static int connect_to(const struct dev *dev, const char *database, struct sql_admin **ret_admin)
{
    struct buf dsn = {0};
    int err;

    dev_site_put_dsn(&dev->site, "postgres", database, &dsn);
    err = buf_failed(&dsn) ? -1 : sql_admin_open(dsn.data, "dev", ret_admin);
    buf_done(&dsn);
    return err;
}

/* Run statement; ret_found: it gave a row. */
static int query(const struct dev *dev, const char *database, const char *statement, bool *ret_found)
{
    struct sql_admin *admin = NULL;
    struct sql_rows *rows = NULL;
    int code = CLI_DONE;
    int err = connect_to(dev, database, &admin);

    if (!err)
        err = sql_admin_exec(admin, statement, 0, NULL, &rows);
    if (err)
        code = cli_fail(CLI_FAILED, COMMAND, "PostgreSQL: %s", admin ? sql_admin_error(admin) : "out of memory");
    else
        *ret_found = sql_rows_count(rows) > 0;
    sql_rows_free(rows);
    sql_admin_close(admin);
    return code;
}

/* ---- the steps ---- */

static int make_folder(const char *path, mode_t mode)
{
    if (mkdir(path, mode) == 0 || errno == EEXIST)
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "%s: %s", path, strerror(errno));
}

/* postgres/ is PostgreSQL's own: initdb runs as its user and must be able to make the cluster in there. */
static int make_folders(struct dev *dev)
{
    int code = make_folder("run", 0700);

    if (code == CLI_DONE)
        code = make_folder("log", 0700);
    if (code == CLI_DONE)
        code = make_folder("postgres", 0700);
    if (code == CLI_DONE && dev->site.user && chown("postgres", dev->site.user->pw_uid, dev->site.user->pw_gid))
        code = cli_fail(CLI_FAILED, COMMAND, "%s/postgres: chown: %s", dev->site.dir, strerror(errno));
    return code;
}

/* initdb reads the superuser's password as PostgreSQL's user, who cannot read pgpass. */
static int write_initdb_password(const struct dev *dev, const char *password)
{
    const struct passwd *user = dev->site.user;
    struct buf text = {0};
    struct file_error err;
    int code = CLI_DONE;

    buf_printf(&text, "%s\n", password);
    if (file_write("postgres/password", FILE_SECRET, &text, &err))
        code = cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    else if (user && chown("postgres/password", user->pw_uid, user->pw_gid))
        code = cli_fail(CLI_FAILED, COMMAND, "postgres/password: chown: %s", strerror(errno));
    buf_done(&text);
    return code;
}

/* The cluster is made under another name and renamed, so that a half made one is never started. */
static int make_cluster(struct dev *dev)
{
    char *const argv[] = {dev->site.initdb, "-D", "postgres/new", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
                          "--auth=scram-sha-256", "--pwfile=postgres/password", NULL};
    struct dev_command command = {.name = "initdb", .argv = argv, .log = SETUP_LOG, .user = dev->site.user,
                                  .death_signal = SIGKILL};
    char password[33];
    int code;

    if (access("postgres/data", F_OK) == 0)
        return CLI_DONE;
    code = dev_site_remove("postgres/new");
    if (code == CLI_DONE)
        code = dev_site_new_passwords(password);
    if (code == CLI_DONE)
        code = write_initdb_password(dev, password);
    if (code == CLI_DONE)
        code = run(dev, &command);
    (void)unlink("postgres/password");
    if (code == CLI_DONE && rename("postgres/new", "postgres/data"))
        code = cli_fail(CLI_FAILED, COMMAND, "postgres/new: rename: %s", strerror(errno));
    return code;
}

static bool postgres_is_up(struct dev *dev)
{
    struct sql_admin *admin = NULL;
    bool up = connect_to(dev, "postgres", &admin) == 0;

    sql_admin_close(admin);
    return up;
}

/* No Unix socket: its path must be short and the folder's may be long. wal_level is on the command line because ALTER SYSTEM
 * by the user would win over postgresql.conf, and without logical nothing here works. */
static int start_postgres(struct dev *dev)
{
    char port[12], cert[PATH_MAX + 40], key[PATH_MAX + 40];
    char *argv[20] = {dev->site.postgres, "-D", "postgres/data", "-p", port,
                      "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                      "-c", "wal_level=logical"};
    char *const tls[] = {"-c", "ssl=on", "-c", cert, "-c", key};
    int code;

    snprintf(cert, sizeof cert, "ssl_cert_file=%s/tls/postgres.pem", dev->site.dir);
    snprintf(key, sizeof key, "ssl_key_file=%s/tls/postgres.key", dev->site.dir);
    if (dev->site.tls)
        memcpy(argv + 11, tls, sizeof tls);
    snprintf(port, sizeof port, "%d", dev->site.ports[DEV_PORT_POSTGRES]);
    code = start(dev, &(struct dev_command){.name = "postgres", .argv = argv, .log = "log/postgres.log",
                                            .user = dev->site.user, .stop_signal = SIGINT, .death_signal = SIGQUIT});
    return code == CLI_DONE ? wait_for(dev, "PostgreSQL", postgres_is_up) : code;
}

static int make_database(struct dev *dev)
{
    bool there = false;
    int code = query(dev, "postgres", "SELECT 1 FROM pg_database WHERE datname = 'muster'", &there);

    if (code == CLI_DONE && !there)
        code = query(dev, "postgres", "CREATE DATABASE muster", &there);
    return code;
}

static bool nats_is_up(struct dev *dev)
{
    return dev_probe_nats(dev->site.ports[DEV_PORT_NATS]);
}

/* nats-config runs at every start: it keeps keys and creds, and takes up a port or a folder that has changed. Server and
 * broker keep what they acknowledged also through SIGKILL, which ends a stopped process too. */
static int start_nats(struct dev *dev)
{
    char listen[32];
    char *plain[] = {"nats-config", "--dir", "nats", "--listen", listen, "--store", "nats/jetstream", "--tls-cert", "", NULL};
    char *tls[] = {"nats-config", "--dir", "nats", "--listen", listen, "--store", "nats/jetstream",
                   "--tls-cert", "tls/server.pem", "--tls-key", "tls/server.key", "--tls-ca", "tls/ca.pem", NULL};
    char *const argv[] = {dev->site.nats_server, "-c", "nats/nats-server.conf", NULL};
    int code;

    snprintf(listen, sizeof listen, "127.0.0.1:%d", dev->site.ports[DEV_PORT_NATS]);
    code = run_muster(dev, dev->site.tls ? tls : plain);
    if (code == CLI_DONE)
        code = start(dev, &(struct dev_command){.name = "nats-server", .argv = argv, .log = "log/nats.log",
                                                .stop_signal = SIGTERM, .death_signal = SIGKILL});
    return code == CLI_DONE ? wait_for(dev, "nats-server", nats_is_up) : code;
}

/* At every start, so that a newer program finds its schema. The role that migrate makes has no password yet. */
static int migrate(struct dev *dev)
{
    char *args[] = {"migrate", NULL};
    struct buf statement = {0};
    char password[33];
    bool found;
    int code = run_muster(dev, args);

    if (code == CLI_DONE)
        code = dev_site_password("muster_broker", password);
    if (code != CLI_DONE)
        return code;
    buf_printf(&statement, "ALTER ROLE muster_broker PASSWORD '%s'", password); /* base32: nothing to quote */
    if (buf_failed(&statement))
        return cli_fail(CLI_FAILED, COMMAND, "out of memory");
    code = query(dev, "muster", statement.data, &found);
    buf_done(&statement);
    return code;
}

/* Both once. A creds file that was lost is minted anew: the old one holds until it ends. */
static int add_tenant_and_agent(struct dev *dev)
{
    char *tenant[] = {"tenant", "add", "default", NULL};
    char *agent[] = {"agent", "add", "default", "dev", "--expires", "365d", "--out", "dev.creds", NULL};
    bool there = false;
    int code = query(dev, "muster", "SELECT 1 FROM muster.tenants WHERE name = 'default'", &there);

    if (code == CLI_DONE && !there)
        code = run_muster(dev, tenant);
    if (code == CLI_DONE && !file_exists("dev.creds"))
        code = run_muster(dev, agent);
    return code;
}

static bool broker_is_ready(struct dev *dev)
{
    return dev_probe_http(dev->site.ports[DEV_PORT_ADMIN], "/readyz", dev->site.tls ? "tls/ca.pem" : NULL, dev->why, sizeof dev->why);
}

/* Its log is what `muster dev` shows. */
static int start_broker(struct dev *dev)
{
    char *const argv[] = {dev->site.musterd, "-c", "muster.yaml", NULL};
    int code;

    if (dev->no_broker)
        return CLI_DONE;
    code = start(dev, &(struct dev_command){.name = "musterd", .argv = argv, .stop_signal = SIGTERM, .death_signal = SIGKILL});
    return code == CLI_DONE ? wait_for(dev, "musterd", broker_is_ready) : code;
}

/* What the user's environment says of another installation must not reach the programs of this one. */
static int prepare(struct dev *dev)
{
    static const char *const foreign[] = {"MUSTER_NATS_URLS", "MUSTER_NATS_CREDS", "MUSTER_NATS_SYSTEM_CREDS",
                                          "MUSTER_NATS_KEYS", "MUSTER_POSTGRES_DSN", "MUSTER_ROOT", "PGPASSWORD",
                                          "PGOPTIONS", "PGSERVICE", "PGSSLMODE", "PGDATA", "PGHOSTADDR", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"};
    struct buf dsn = {0};
    int err = 0;

    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        err |= unsetenv(foreign[i]);
    dev_site_put_dsn(&dev->site, "postgres", "muster", &dsn);
    if (!buf_failed(&dsn))
        err |= setenv("MUSTER_POSTGRES_ADMIN_DSN", dsn.data, 1);
    err |= setenv("MUSTER_CONFIG", "muster.yaml", 1);
    if (err || buf_failed(&dsn))
        return cli_fail(CLI_FAILED, COMMAND, "out of memory");
    buf_done(&dsn);
    err = dev_site_write_config(&dev->site);
    return err == CLI_DONE ? dev_site_write_env(&dev->site) : err;
}

static void sweep(const struct dev *dev)
{
    bool any = dev_sweep("musterd", SIGTERM);

    any |= dev_sweep("nats-server", SIGTERM);
    any |= dev_sweep("postgres", SIGQUIT);
    if (any)
        fprintf(stderr, "ended what the last run left in %s\n", dev->site.dir);
}

static int choose_ports(struct dev *dev)
{
    return dev_site_choose_ports(&dev->site);
}

static int make_certificates(struct dev *dev)
{
    return dev->site.tls ? dev_ca_make(dev->site.user) : CLI_DONE;
}

/* The order matters: the configuration names the ports, the commands need the servers, the broker needs everything. */
static int start_all(struct dev *dev)
{
    static int (*const steps[])(struct dev *) = {
        make_folders,   choose_ports,  make_certificates, prepare, make_cluster,
        start_postgres, make_database, start_nats,        migrate, add_tenant_and_agent,
        start_broker,
    };
    int code = CLI_DONE;

    for (size_t i = 0; i < sizeof steps / sizeof *steps && code == CLI_DONE; i++)
        code = steps[i](dev);
    return code;
}

/* ---- the command ---- */

/* In the same folder, because the settings name files of it. */
static void print_how_to_start(const struct dev *dev)
{
    const char *dir = dev->site.dir;

    printf("The broker, in another terminal, with the plugins that you add to my.yaml:\n"
           "  cp -n \"%s/muster.yaml\" \"%s/my.yaml\"\n"
           "  %s -c \"%s/my.yaml\"\n\n",
           dir, dir, dev->site.musterd, dir);
}

static void print_welcome(const struct dev *dev)
{
    const char *dir = dev->site.dir;
    struct buf dsn = {0};

    dev_site_put_dsn(&dev->site, "postgres", "muster", &dsn);
    printf("\n%s up.\n"
           "  NATS        %s://127.0.0.1:%d\n"
           "  creds       %s/dev.creds (agent dev of tenant default)\n"
           "  PostgreSQL  %s\n"
           "  health      %s://127.0.0.1:%d/readyz\n"
           "  settings    %s/muster.yaml, logs in %s/log\n\n",
           dev->no_broker ? "NATS and PostgreSQL are" : "Muster is", dev->site.tls ? "tls" : "nats",
           dev->site.ports[DEV_PORT_NATS], dir, dsn.data, dev->site.tls ? "https" : "http", dev->site.ports[DEV_PORT_ADMIN], dir, dir);
    if (dev->no_broker)
        print_how_to_start(dev);
    printf("Row changes, in two other terminals:\n"
           "  . \"%s/env\" && psql \"$DATABASE_URL\" -c 'CREATE TABLE orders (id serial PRIMARY KEY, item text)' &&\n"
           "    %s publish orders --tenant default && %s watch cdc --tenant default\n"
           "  . \"%s/env\" && psql \"$DATABASE_URL\" -c \"INSERT INTO orders (item) VALUES ('bolt')\"\n\n"
           "Ctrl-C stops everything; the data stays until `muster dev --reset`.\n",
           dir, dev->site.self, dev->site.self, dir);
    (void)fflush(stdout); /* who cannot be told still has a running installation */
    buf_done(&dsn);
}

static int serve(struct dev *dev)
{
    int seen;

    print_welcome(dev);
    do
        seen = dev_group_wait(&dev->group, -1);
    while (seen == DEV_QUIET);
    return interrupted(dev, seen);
}

/* The lock is held: whatever run/ names is a leftover, and the ports are ours to choose. */
static int dev_main(struct dev *dev, bool reset)
{
    int code;

    sweep(dev);
    code = reset ? dev_site_wipe() : CLI_DONE;
    if (code == CLI_DONE)
        code = dev_site_find_programs(&dev->site);
    if (code == CLI_DONE && !dev_group_open(&dev->group))
        code = cli_fail(CLI_FAILED, COMMAND, "signals: %s", strerror(errno));
    if (code == CLI_DONE)
        code = start_all(dev);
    if (code == CLI_DONE)
        code = serve(dev);
    if (code == STOPPED)
        fprintf(stderr, "stopping\n");
    dev_group_close(&dev->group);
    return code == STOPPED ? CLI_DONE : code;
}

int cmd_dev(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
                                            {"reset", no_argument, NULL, 'r'},
                                            {"no-broker", no_argument, NULL, 'n'},
                                            {"tls", no_argument, NULL, 't'},
                                            {0}};
    struct dev dev = {.group.signal_fd = -1};
    const char *dir = NULL;
    bool reset = false, tls = false;
    int c, code;

    (void)cli; /* an installation of its own: no configuration of another one counts */
    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (c == '?' || c == ':')
            return cli_fail(CLI_USAGE, COMMAND, "%s%s; [--dir DIR] [--reset] [--no-broker] [--tls] was expected", argv[optind - 1],
                            c == ':' ? " came without its value" : " came");
        if (c == 'd')
            dir = optarg;
        else if (c == 'r')
            reset = true;
        else if (c == 't')
            tls = true;
        else
            dev.no_broker = true;
    }
    if (optind < argc)
        return cli_fail(CLI_USAGE, COMMAND, "%s came, [--dir DIR] [--reset] [--no-broker] [--tls] was expected", argv[optind]);
    code = dev_site_open(&dev.site, dir);
    dev.site.tls = tls;
    if (code == CLI_DONE)
        code = dev_main(&dev, reset);
    dev_site_close(&dev.site);
    return code;
}
