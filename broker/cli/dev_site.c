/* The folder of `muster dev`; see dev_site.h. */
#include "cli/dev_site.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/file.h"
#include "cli/static_users.h"

#define COMMAND "dev"
#define ROOT_DIR "/var/lib/muster/dev"

/* Of no other service, and below the ports that the kernel gives to clients: a client that dials a dead server's port
 * in that range can be given the same port itself, connect to itself, and hold it. */
enum { FIRST_PORT = 17400, LAST_PORT = 31999, PORT_TRIES = 500 };

static const char *const port_names[DEV_PORTS] = {"nats", "postgres", "http", "admin"};
static const int usual_ports[DEV_PORTS] = {14222, 15432, 17422, 17423};

/* ---- the folder ---- */

/* Others may pass through, because PostgreSQL runs as another user; what is theirs to read is said file by file. */
static int make_path(const char *dir)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s", dir);

    if (n <= 0 || n >= (int)sizeof path)
        return cli_fail(CLI_USAGE, COMMAND, "--dir: a path of 1 to %d bytes was expected", PATH_MAX - 1);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        (void)mkdir(path, 0755); /* what matters is whether the last one is there */
        *p = '/';
    }
    if (mkdir(path, 0711) && errno != EEXIST)
        return cli_fail(CLI_FAILED, COMMAND, "%s: %s", path, strerror(errno));
    return CLI_DONE;
}

/* A path in pgpass, muster.yaml and a connection string: none of them can hold a control character. */
static bool path_is_plain(const char *path)
{
    for (; *path; path++)
        if ((unsigned char)*path < ' ' || *path == 0x7f)
            return false;
    return true;
}

/* Held until we end, also by kill -9; the servers do not inherit it. */
static int take_lock(struct dev_site *site)
{
    site->lock_fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (site->lock_fd < 0)
        return cli_fail(CLI_FAILED, COMMAND, "%s/lock: %s", site->dir, strerror(errno));
    if (flock(site->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "another `muster dev` runs in %s; stop it, or use another --dir", site->dir);
}

/* getpwnam's record is static and stays ours: nothing here asks for another user. */
static int find_user(struct dev_site *site)
{
    if (geteuid() != 0)
        return CLI_DONE;
    site->user = getpwnam("postgres");
    if (!site->user)
        return cli_fail(CLI_FAILED, COMMAND,
                        "PostgreSQL does not run as root and there is no user postgres: apt-get install postgresql");
    return CLI_DONE;
}

static bool may_pass(const struct stat *st, const struct passwd *user)
{
    if (st->st_uid == user->pw_uid)
        return st->st_mode & S_IXUSR;
    return st->st_mode & (st->st_gid == user->pw_gid ? S_IXGRP : S_IXOTH);
}

/* Every folder above ours must let PostgreSQL's user through: /root, for one, does not. */
static int check_way(const struct dev_site *site)
{
    char path[PATH_MAX];
    struct stat st;

    if (!site->user)
        return CLI_DONE;
    memcpy(path, site->dir, sizeof path);
    for (char *slash = strrchr(path, '/'); slash && slash != path; slash = strrchr(path, '/')) {
        *slash = '\0';
        if (stat(path, &st) == 0 && !may_pass(&st, site->user))
            return cli_fail(CLI_FAILED, COMMAND, "%s: %s is closed to user %s, as whom PostgreSQL runs; use another --dir",
                            site->dir, path, site->user->pw_name);
    }
    return CLI_DONE;
}

int dev_site_open(struct dev_site *site, const char *dir)
{
    int code;

    *site = (struct dev_site){.lock_fd = -1};
    if (!dir)
        dir = geteuid() == 0 ? ROOT_DIR : ".muster";
    code = make_path(dir);
    if (code == CLI_DONE && (!realpath(dir, site->dir) || chdir(site->dir)))
        code = cli_fail(CLI_FAILED, COMMAND, "%s: %s", dir, strerror(errno));
    if (code == CLI_DONE && !path_is_plain(site->dir))
        code = cli_fail(CLI_USAGE, COMMAND, "--dir: a path without control characters was expected");
    if (code == CLI_DONE)
        code = take_lock(site);
    if (code == CLI_DONE)
        code = find_user(site);
    return code == CLI_DONE ? check_way(site) : code;
}

void dev_site_close(struct dev_site *site)
{
    char **const programs[] = {&site->self, &site->musterd, &site->nats_server, &site->postgres, &site->initdb};

    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        free(*programs[i]);
        *programs[i] = NULL;
    }
    if (site->lock_fd >= 0)
        (void)close(site->lock_fd); /* gives the lock back */
    site->lock_fd = -1;
}

/* For nftw, which stops at the first error and returns it. */
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path) && errno != ENOENT ? errno : 0;
}

/* Links are removed, not followed. */
int dev_site_remove(const char *path)
{
    int err = access(path, F_OK) == 0 ? nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) : 0;

    return err ? cli_fail(CLI_FAILED, COMMAND, "%s: cannot be removed: %s", path, strerror(err < 0 ? errno : err)) : CLI_DONE;
}

int dev_site_wipe(void)
{
    static const char *const names[] = {"run",       "log",    "nats",  "postgres",
                                        "dev.creds", "pgpass", "state", "env", "muster.yaml", "tls"};

    int code = CLI_DONE;

    for (size_t i = 0; i < sizeof names / sizeof *names && code == CLI_DONE; i++)
        code = dev_site_remove(names[i]);
    return code;
}

/* ---- programs ---- */

static bool keep_if_program(const char *folder, size_t len, const char *name, char **ret_path)
{
    char *path = NULL;

    if (asprintf(&path, "%.*s/%s", (int)len, folder, name) < 0)
        return false;
    if (access(path, X_OK)) {
        free(path);
        return false;
    }
    *ret_path = path;
    return true;
}

/* An empty part of PATH means the working folder, from which we start nothing. */
static bool find_on_path(const char *path, const char *name, char **ret_path)
{
    while (*path) {
        size_t len = strcspn(path, ":");

        if (len && keep_if_program(path, len, name, ret_path))
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

/* Debian keeps the server's programs off the PATH, a folder for each major version; the newest is taken. */
static bool find_postgres(const char *name, char **ret_path)
{
    char folder[64];

    for (int major = 30; major >= 15; major--) {
        snprintf(folder, sizeof folder, "/usr/lib/postgresql/%d/bin", major);
        if (keep_if_program(folder, strlen(folder), name, ret_path))
            return true;
    }
    return false;
}

/* /usr/sbin is not on every user's PATH, and Debian has nats-server there. */
static int find_server(const char *name, const char *package, char **ret_path)
{
    const char *path = getenv("PATH");

    if ((path && find_on_path(path, name, ret_path)) || find_on_path("/usr/sbin:/usr/local/sbin", name, ret_path) ||
        find_postgres(name, ret_path))
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "%s is not installed: apt-get install %s", name, package);
}

/* Of the same version as its neighbour. */
static int find_beside(const char *neighbour, const char *name, char **ret_path)
{
    size_t folder = (size_t)(strrchr(neighbour, '/') - neighbour); /* found in a folder, so there is a slash */

    if (keep_if_program(neighbour, folder, name, ret_path))
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "%s is missing beside %s", name, neighbour);
}

static int find_self(char **ret_path)
{
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);

    if (len <= 0)
        return cli_fail(CLI_FAILED, COMMAND, "/proc/self/exe: %s", strerror(errno));
    path[len] = '\0';
    *ret_path = strdup(path);
    return *ret_path ? CLI_DONE : cli_fail(CLI_FAILED, COMMAND, "out of memory");
}

/* In a build folder beside muster; installed, a server's program is in sbin. */
static int find_musterd(const char *self, char **ret_path)
{
    size_t folder = (size_t)(strrchr(self, '/') - self); /* absolute */

    if (keep_if_program(self, folder, "musterd", ret_path) || keep_if_program(self, folder, "../sbin/musterd", ret_path))
        return CLI_DONE;
    return cli_fail(CLI_FAILED, COMMAND, "musterd is neither beside %s nor in ../sbin", self);
}

int dev_site_find_programs(struct dev_site *site)
{
    int code = find_self(&site->self);

    if (code == CLI_DONE)
        code = find_musterd(site->self, &site->musterd);
    if (code == CLI_DONE)
        code = find_server("nats-server", "nats-server", &site->nats_server);
    if (code == CLI_DONE)
        code = find_server("postgres", "postgresql", &site->postgres);
    if (code == CLI_DONE)
        code = find_beside(site->postgres, "initdb", &site->initdb);
    return code;
}

/* ---- ports ---- */

static bool port_is_free(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    bool is_free;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* As the servers do: connections of the last run that are still closing do not count. */
    is_free = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
              bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        (void)close(fd);
    return is_free;
}

/* By another program, or by one of ours with a lower number. */
static bool is_taken(const struct dev_site *site, int n, int port)
{
    for (int i = 0; i < n; i++)
        if (site->ports[i] == port)
            return true;
    return !port_is_free(port);
}

/* The wanted port, or a random one. 0: none is free. */
static int choose_port(const struct dev_site *site, int n, int wanted)
{
    for (int i = 0; is_taken(site, n, wanted); i++) {
        unsigned random = 0;

        if (i == PORT_TRIES || getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
            return 0;
        wanted = FIRST_PORT + (int)(random % (LAST_PORT - FIRST_PORT + 1));
    }
    return wanted;
}

/* A file that is missing or damaged leaves the usual ports. */
static void read_state(int ports[DEV_PORTS])
{
    FILE *file = fopen("state", "re");
    char name[16];
    int port;

    if (!file)
        return;
    while (fscanf(file, "%15s %d", name, &port) == 2)
        for (int i = 0; i < DEV_PORTS; i++)
            if (strcmp(name, port_names[i]) == 0 && port > 0 && port < 65536)
                ports[i] = port;
    (void)fclose(file); /* was only read */
}

static int write_file(const char *path, mode_t mode, struct buf *text)
{
    struct file_error err;
    int code = CLI_DONE;

    if (buf_failed(text))
        code = cli_fail(CLI_FAILED, COMMAND, "out of memory");
    else if (file_write(path, mode, text, &err))
        code = cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    buf_done(text);
    return code;
}

int dev_site_choose_ports(struct dev_site *site)
{
    int wanted[DEV_PORTS];
    struct buf text = {0};

    memcpy(wanted, usual_ports, sizeof wanted);
    read_state(wanted);
    for (int i = 0; i < DEV_PORTS; i++) {
        site->ports[i] = choose_port(site, i, wanted[i]);
        if (!site->ports[i])
            return cli_fail(CLI_FAILED, COMMAND, "no free port on 127.0.0.1 between %d and %d", FIRST_PORT, LAST_PORT);
        buf_printf(&text, "%s %d\n", port_names[i], site->ports[i]);
    }
    return write_file("state", FILE_PUBLIC, &text);
}

/* ---- passwords and configuration ---- */

/* Any port and database: the port may move between two runs. */
int dev_site_new_passwords(char ret_password[33])
{
    char broker[STATIC_PASSWORD_SIZE];
    struct buf text = {0};

    if (!static_password(ret_password) || !static_password(broker))
        return cli_fail(CLI_FAILED, COMMAND, "the system has no random bytes: %s", strerror(errno));
    buf_printf(&text, "127.0.0.1:*:*:postgres:%s\n127.0.0.1:*:*:muster_broker:%s\n", ret_password, broker);
    return write_file("pgpass", FILE_SECRET, &text);
}

int dev_site_password(const char *role, char ret_password[33])
{
    FILE *file = fopen("pgpass", "re");
    char found[65], password[33];
    bool ok = false;

    while (file && !ok && fscanf(file, "127.0.0.1:*:*:%64[^:]:%32s ", found, password) == 2)
        ok = strcmp(found, role) == 0;
    if (file)
        (void)fclose(file); /* was only read */
    if (!ok)
        return cli_fail(CLI_FAILED, COMMAND, "pgpass has no password for %s; `muster dev --reset` begins anew", role);
    memcpy(ret_password, password, sizeof password);
    return CLI_DONE;
}

/* The folder's path may hold what means something in a URI. */
static void put_folder(const struct dev_site *site, struct buf *out)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";

    for (const char *p = site->dir; *p; p++) {
        if (strchr(plain, *p))
            buf_putc(out, *p);
        else
            buf_printf(out, "%%%02X", (unsigned char)*p);
    }
}

void dev_site_put_dsn(const struct dev_site *site, const char *role, const char *database, struct buf *out)
{
    buf_printf(out, "postgresql://%s@127.0.0.1:%d/%s?passfile=", role, site->ports[DEV_PORT_POSTGRES], database);
    put_folder(site, out);
    buf_puts(out, "/pgpass");
    if (!site->tls)
        return;
    buf_puts(out, "&sslmode=verify-full&sslrootcert=");
    put_folder(site, out);
    buf_puts(out, "/tls/ca.pem");
}

/* The server listens on the loopback address alone, and so does the broker. */
int dev_site_write_config(const struct dev_site *site)
{
    struct buf text = {0};

    buf_printf(&text,
               "# Written by `muster dev` at every start. With `muster dev --no-broker` start musterd with a copy beside it.\n"
               "broker: {http: \"127.0.0.1:%d\", admin: \"127.0.0.1:%d\"%s}\n"
               "nats:\n"
               "  urls: [\"%s://127.0.0.1:%d\"]\n"
               "%s"
               "  creds: nats/broker.creds\n"
               "  system_creds: nats/system.creds\n"
               "  keys: nats/keys\n"
               "postgres:\n"
               "  dsn: \"",
               site->ports[DEV_PORT_HTTP], site->ports[DEV_PORT_ADMIN],
               site->tls ? ", tls: {cert: tls/server.pem, key: tls/server.key}" : "", site->tls ? "tls" : "nats",
               site->ports[DEV_PORT_NATS], site->tls ? "  tls: {ca: tls/ca.pem}\n" : "");
    dev_site_put_dsn(site, "muster_broker", "muster", &text);
    buf_puts(&text, "\"\n"
                    "plugins:\n"
                    "  - name: cdc\n"
                    "    instance: main\n"
                    "    config: {publication: muster, slot: muster_main, snapshot: never, tenant_column: tenant_id}\n"
                    "  - name: cdc\n"
                    "    instance: evt\n"
                    "    config: {slot: muster_evt, messages: [muster.evt]}\n"
                    "  - {name: presence, config: {}}\n"
                    "  - {name: fanout, config: {}}\n"
                    "  - {name: runs, config: {}}\n"
                    "  - {name: tasks, config: {}}\n"
                    "  - {name: help, config: {}}\n");
    return write_file("muster.yaml", FILE_PUBLIC, &text);
}

/* In single quotes a shell takes everything as it is but the quote itself. */
static void put_export(struct buf *text, const char *name, const char *value)
{
    buf_printf(text, "export %s='", name);
    for (; *value; value++) {
        if (*value == '\'')
            buf_puts(text, "'\\''");
        else
            buf_putc(text, *value);
    }
    buf_puts(text, "'\n");
}

/* NATS_URL and NATS_CREDS are read by NATS's own tools, DATABASE_URL by many others. */
int dev_site_write_env(const struct dev_site *site)
{
    struct buf text = {0}, dsn = {0}, config = {0}, creds = {0}, ca = {0};
    char nats[40];
    int code;

    dev_site_put_dsn(site, "postgres", "muster", &dsn);
    file_join(&config, site->dir, "muster.yaml");
    file_join(&creds, site->dir, "dev.creds");
    file_join(&ca, site->dir, "tls/ca.pem");
    (void)snprintf(nats, sizeof nats, "%s://127.0.0.1:%d", site->tls ? "tls" : "nats", site->ports[DEV_PORT_NATS]);
    if (!buf_failed(&ca) && !buf_failed(&dsn) && !buf_failed(&config) && !buf_failed(&creds)) {
        buf_puts(&text, "# Written by `muster dev` at every start; for a shell: . env\n");
        put_export(&text, "MUSTER_CONFIG", config.data);
        put_export(&text, "MUSTER_NATS_URLS", nats);
        put_export(&text, "NATS_URL", nats);
        put_export(&text, "NATS_CREDS", creds.data);
        if (site->tls)
            put_export(&text, "NATS_CA", ca.data);
        put_export(&text, "MUSTER_POSTGRES_ADMIN_DSN", dsn.data);
        put_export(&text, "DATABASE_URL", dsn.data);
    } else {
        text.failed = true;
    }
    code = write_file("env", FILE_PUBLIC, &text);
    buf_done(&dsn);
    buf_done(&config);
    buf_done(&creds);
    buf_done(&ca);
    return code;
}
